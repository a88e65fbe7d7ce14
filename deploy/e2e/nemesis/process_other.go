//go:build !linux

package nemesis

import "syscall"

// dieWithParent cannot do so here: a killed run leaves its services behind.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
