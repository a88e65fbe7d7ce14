package nemesis

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

// dieWithParent lets a child go when this process goes, however it ends, and keeps it from a Ctrl-C at the terminal.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// peakMemory gives the most memory, in bytes, that a process has had resident since it was started.
func peakMemory(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	var kib int64
	if _, err := fmt.Sscan(string(rest), &kib); err != nil {
		return 0, fmt.Errorf("read VmHWM of process %d: %w", pid, err)
	}
	return kib << 10, nil
}
