//go:build !mutant

package capture

const mutated = false
