package main

import (
	"context"
	"os"
	"syscall"
	"time"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
)

// used is what processes took.
type used struct {
	cpu  time.Duration
	peak int64   // bytes resident at the peak, of the largest of them
	on   []share // what one of them spent its time on
}

func (u used) and(other used) used {
	if u.on == nil {
		u.on = other.on
	}
	return used{u.cpu + other.cpu, max(u.peak, other.peak), u.on}
}

// usedBy gives what a process took that has ended. peak is what residentPeak gave of it.
func usedBy(state *os.ProcessState, peak int64) used {
	u := used{cpu: state.UserTime() + state.SystemTime(), peak: peak}
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok && peak == 0 {
		u.peak = usage.Maxrss
	}
	return u
}

// costs are what a measure took, by who took it, and how long it was looked at.
type costs struct {
	capture, sink, broker, source, warehouse used

	lasted time.Duration
}

// cores gives how many cores were busy with it for a time.
func (c costs) cores(took time.Duration) float64 {
	return (c.capture.cpu + c.sink.cpu + c.broker.cpu + c.source.cpu + c.warehouse.cpu).Seconds() / took.Seconds()
}

// meter measures what the servers take from a moment on.
type meter struct {
	w      *world
	at     time.Time
	began  costs
	stop   chan struct{}
	peaked chan costs // the memory, once it was stopped
}

// meter begins one. It looks at the memory until it is read or ctx ends.
func (w *world) meter(ctx context.Context) *meter {
	m := &meter{w, time.Now(), w.servers(), make(chan struct{}), make(chan costs, 1)}
	go func() {
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		var most costs
		for looking := true; looking; {
			now := w.servers()
			most.broker.peak = max(most.broker.peak, now.broker.peak)
			most.source.peak = max(most.source.peak, now.source.peak)
			most.warehouse.peak = max(most.warehouse.peak, now.warehouse.peak)
			select {
			case <-ctx.Done():
				looking = false
			case <-m.stop:
				looking = false
			case <-tick.C:
			}
		}
		m.peaked <- most
	}()
	return m
}

// servers gives what they have taken, and what memory they have now.
func (w *world) servers() costs {
	of := func(pid int) used { return used{cpu: treeCPU(pid), peak: treeMemory(pid)} }
	c := costs{source: of(w.source.PID()), warehouse: of(w.warehouse.PID())}
	if kafka, ok := w.kafka.(*kafkatest.RealCluster); ok {
		c.broker = of(kafka.PID())
	} else {
		c.broker.cpu = ownCPU() // its memory is that of this process
	}
	return c
}

// read gives what the servers have taken since, beside the programs given.
func (m *meter) read(capture, sink used) costs {
	now, lasted := m.w.servers(), time.Since(m.at)
	close(m.stop)
	c := <-m.peaked
	c.lasted = lasted
	c.capture, c.sink = capture, sink
	c.broker.cpu = now.broker.cpu - m.began.broker.cpu
	c.source.cpu = now.source.cpu - m.began.source.cpu
	c.warehouse.cpu = now.warehouse.cpu - m.began.warehouse.cpu
	return c
}

// ownCPU is what this process has taken: with the embedded broker, nearly all of it is the broker's.
func ownCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
