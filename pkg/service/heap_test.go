package service

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestPaceHeap(t *testing.T) {
	for live, want := range map[uint64]int{0: 800, 4 << 20: 800, 32 << 20: 200, 48 << 20: 100, 72 << 20: 50, 1 << 30: 50} {
		if got := percentFor(live); got != want {
			t.Errorf("%d MiB live: %d %%, want %d", live>>20, got, want)
		}
	}
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	stop := PaceHeap()
	percent := func() int {
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		return now
	}
	if got := percent(); got != mostPercent {
		t.Errorf("at first %d %%", got)
	}
	live := make([]byte, 200<<20)
	deadline := time.Now().Add(time.Minute)
	for percent() != fewestPercent {
		if time.Now().After(deadline) {
			t.Fatalf("200 MiB are live, and it is still %d %%", percent())
		}
		runtime.GC()
	}
	runtime.KeepAlive(live)
	stop()
	runtime.GC()
	if got := percent(); got != 100 {
		t.Errorf("afterwards %d %%", got)
	}
}
