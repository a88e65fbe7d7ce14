//go:build mutant

package capture

import "os"

// mutant makes the defect that the environment names.
func mutant(name string) bool { return os.Getenv("TRIBUTARY_MUTANT") == name }
