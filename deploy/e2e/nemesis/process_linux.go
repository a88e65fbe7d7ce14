package nemesis

import "syscall"

// dieWithParent lets a child go when this process goes, however it ends, and keeps it from a Ctrl-C at the terminal.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}
