package service

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Latency keeps what was observed in the last five minutes, for quantiles on the page, and histograms of everything,
// for Prometheus; it is their collector. Safe for use by many goroutines. Family makes one.
type Latency struct {
	*prometheus.HistogramVec

	mu   sync.Mutex
	ring [latencyCapacity]observation
	next int // where the next one goes
	held int

	medians minutes // of Quantiles, one a minute
	noted   time.Time
}

type observation struct {
	at   time.Time
	took time.Duration
}

// latencyWindow is how far back Quantiles looks.
const latencyWindow = 5 * time.Minute

const (
	// latencyCapacity bounds the memory: 13 observations a second fill the window, with more it is shorter.
	latencyCapacity = 4096
	// latencyLeast is how many observations quantiles need to mean anything.
	latencyLeast = 20
	// usualLeast is how many minutes must be known before one can tell what is usual.
	usualLeast = 10
)

// newLatency gives an empty one, of histograms named by opts with these labels.
func newLatency(opts prometheus.HistogramOpts, labels ...string) *Latency {
	opts.Buckets = SecondsBuckets
	return &Latency{HistogramVec: newHistogram(opts, labels...)}
}

// ObserveDuration counts one; below zero (clocks differ) counts as zero.
func (l *Latency) ObserveDuration(took time.Duration, labels ...string) {
	took = max(took, 0)
	l.WithLabelValues(labels...).Observe(took.Seconds())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring[l.next] = observation{time.Now(), took}
	l.next = (l.next + 1) % latencyCapacity
	l.held = min(l.held+1, latencyCapacity)
}

// Quantiles gives the median and the 99th percentile of the window. ok is false with fewer than 20 observations: then
// there is nothing to show.
func (l *Latency) Quantiles() (p50, p99 time.Duration, ok bool) {
	l.mu.Lock()
	since := time.Now().Add(-latencyWindow)
	took := make([]time.Duration, 0, l.held)
	for i := range l.held {
		if o := l.ring[i]; o.at.After(since) {
			took = append(took, o.took)
		}
	}
	l.mu.Unlock()
	if len(took) < latencyLeast {
		return 0, 0, false
	}
	slices.Sort(took)
	// The smallest observation that at least this share does not exceed.
	at := func(percent int) time.Duration { return took[(len(took)*percent+99)/100-1] }
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.noted) >= time.Minute {
		l.noted = now
		l.medians.push(float32(at(50).Seconds()))
	}
	return at(50), at(99), true
}

// Usual gives the median of what Quantiles gave as such over the last hour, if it was asked all the time. ok is false where that is
// too little to tell.
func (l *Latency) Usual() (p50 time.Duration, ok bool) {
	l.mu.Lock()
	all := l.medians.all()
	l.mu.Unlock()
	if len(all) < usualLeast {
		return 0, false
	}
	slices.Sort(all)
	return time.Duration(float64(all[(len(all)-1)/2]) * float64(time.Second)), true
}
