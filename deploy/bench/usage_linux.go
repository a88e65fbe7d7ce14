package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticks is USER_HZ: Linux tells times in hundredths of a second on every architecture that Go runs on.
const ticks = 100

// treeCPU gives the CPU time that a process and its descendants have taken, those that have ended and were waited for
// included. What cannot be read counts as nothing: processes come and go.
func treeCPU(pid int) time.Duration {
	own, ended := statCPU(pid)
	return own + ended + childrenCPU(pid)
}

func childrenCPU(pid int) (sum time.Duration) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, child := range strings.Fields(string(b)) {
		if n, err := strconv.Atoi(child); err == nil {
			sum += treeCPU(n)
		}
	}
	return sum
}

// statCPU gives the times of a process and of its children that it has waited for.
func statCPU(pid int) (own, ended time.Duration) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // the name may hold anything
	if len(fields) < 15 {
		return 0, 0
	}
	at := func(i int) time.Duration {
		n, _ := strconv.ParseInt(string(fields[i]), 10, 64)
		return time.Duration(n) * time.Second / ticks
	}
	return at(11) + at(12), at(13) + at(14)
}

// residentPeak gives the most memory that a process has had resident, 0 if it is gone. What the kernel counts for wait(2)
// would not do: that begins with what was resident of this process when it started the other.
func residentPeak(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := bytes.Cut(b, []byte("\nVmHWM:"))
	value, _, _ := bytes.Cut(rest, []byte(" kB"))
	n, _ := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
	return n << 10
}
