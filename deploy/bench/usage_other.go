//go:build !linux

package main

import (
	"fmt"
	"runtime"
	"time"
)

// treeCPU is known on Linux only.
func treeCPU(int) time.Duration { return 0 }

// residentPeak is known on Linux only.
func residentPeak(int) int64 { return 0 }

// treeMemory is known on Linux only.
func treeMemory(int) int64 { return 0 }

func hardware() string { return fmt.Sprintf("%d CPUs", runtime.NumCPU()) }
