//go:build mutant

package mutant

import "os"

// On says whether a defect is the one that the environment names.
func On(d Defect) bool { return os.Getenv("TRIBUTARY_MUTANT") == string(d) }
