//go:build !mutant

package capture

// mutant says whether a defect is to be made on purpose: never, but in a build with the tag "mutant", by which tests
// prove that they would find it.
func mutant(string) bool { return false }
