package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
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
	return kilobytes(b, "VmHWM")
}

// treeMemory gives the memory that a process and its descendants have resident: what each has for itself, and once what they
// share. What cannot be read counts as nothing.
func treeMemory(pid int) int64 {
	own, shared := memory(pid)
	return own + shared
}

func memory(pid int) (own, shared int64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	own, shared = kilobytes(b, "RssAnon"), kilobytes(b, "RssShmem")
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, child := range strings.Fields(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			o, s := memory(n)
			own, shared = own+o, max(shared, s)
		}
	}
	return own, shared
}

// kilobytes gives a size that a status file has, in bytes.
func kilobytes(status []byte, name string) int64 {
	_, rest, _ := bytes.Cut(status, []byte("\n"+name+":"))
	value, _, _ := bytes.Cut(rest, []byte(" kB"))
	n, _ := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
	return n << 10
}

// hardware names the processor and the memory.
func hardware() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	_, rest, _ := bytes.Cut(info, []byte("model name"))
	model, _, _ := bytes.Cut(rest, []byte("\n"))
	memory, _ := os.ReadFile("/proc/meminfo")
	return fmt.Sprintf("%d CPUs (%s), %d GiB", runtime.NumCPU(), bytes.Trim(model, "\t :"), (kilobytes(append([]byte("\n"), memory...), "MemTotal")+1<<29)>>30)
}
