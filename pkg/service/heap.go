package service

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// The heap that garbage collections are paced to. With Go's default a service whose live heap is small, as ours mostly are,
// collects dozens of times a second under load, and each time its pools of buffers are emptied.
const (
	heapGoal      = 96 << 20
	fewestPercent = 50 // of the live heap: what is large grows less than by default, what is small more
	mostPercent   = 800
)

// PaceHeap lets the heap grow to heapGoal before it is collected, and beyond that by half of what is live, until stop is called. Where GOGC or
// GOMEMLIMIT is set, it does nothing.
func PaceHeap() (stop func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	p := &pacer{sample: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
	p.percent = debug.SetGCPercent(mostPercent)
	before := p.percent
	p.arm()
	return func() {
		p.over.Store(true)
		debug.SetGCPercent(before)
	}
}

// Memory gives the bytes that the process holds of the system, in whole MiB, so that it does not change each second.
func Memory() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(sample)
	return int64((sample[0].Value.Uint64() - sample[1].Value.Uint64()) &^ (1<<20 - 1)) //nolint:gosec // no process has as much
}

type pacer struct {
	sample  []metrics.Sample
	percent int
	over    atomic.Bool
}

// arm has pace called after the next collection.
func (p *pacer) arm() { runtime.AddCleanup(new([16]byte), (*pacer).pace, p) }

func (p *pacer) pace() {
	if p.over.Load() {
		return
	}
	metrics.Read(p.sample)
	percent := percentFor(p.sample[0].Value.Uint64())
	if d := percent - p.percent; d > p.percent/8 || d < -p.percent/8 { // setting it stops the world for a moment
		p.percent = percent
		debug.SetGCPercent(percent)
	}
	p.arm()
}

func percentFor(live uint64) int {
	if live >= heapGoal {
		return fewestPercent
	}
	return min(max(int((heapGoal-live)*100/max(live, 1)), fewestPercent), mostPercent)
}
