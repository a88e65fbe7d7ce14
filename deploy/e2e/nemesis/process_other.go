//go:build !linux

package nemesis

import (
	"errors"
	"syscall"
)

// dieWithParent cannot do so here: a killed run leaves its services behind.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func peakMemory(int) (int64, error) {
	return 0, errors.New("how much memory a process had is known on Linux only")
}
