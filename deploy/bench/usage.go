package main

import (
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

// costs are the CPU times of a measure, by who took them.
type costs struct {
	capture, sink             used
	broker, source, warehouse time.Duration
}

// cores gives how many cores were busy with it for a time.
func (c costs) cores(took time.Duration) float64 {
	return (c.capture.cpu + c.sink.cpu + c.broker + c.source + c.warehouse).Seconds() / took.Seconds()
}

// meter measures what the servers take from a moment on.
type meter struct {
	w     *world
	began costs
}

func (w *world) meter() *meter { return &meter{w, w.servers()} }

func (w *world) servers() costs {
	c := costs{source: treeCPU(w.source.PID()), warehouse: treeCPU(w.warehouse.PID())}
	if kafka, ok := w.kafka.(*kafkatest.RealCluster); ok {
		c.broker = treeCPU(kafka.PID())
	} else {
		c.broker = ownCPU()
	}
	return c
}

// read gives what the servers have taken since, beside the programs given.
func (m *meter) read(capture, sink used) costs {
	now := m.w.servers()
	return costs{
		capture: capture, sink: sink,
		broker: now.broker - m.began.broker, source: now.source - m.began.source, warehouse: now.warehouse - m.began.warehouse,
	}
}

// ownCPU is what this process has taken: with the embedded broker, nearly all of it is the broker's.
func ownCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
