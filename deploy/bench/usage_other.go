//go:build !linux

package main

import "time"

// treeCPU is known on Linux only.
func treeCPU(int) time.Duration { return 0 }

// residentPeak is known on Linux only.
func residentPeak(int) int64 { return 0 }
