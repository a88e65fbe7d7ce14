//go:build !mutant

package mutant

// On says whether a defect is to be made: never.
func On(Defect) bool { return false }
