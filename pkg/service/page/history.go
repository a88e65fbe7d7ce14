package page

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// History keeps a few numbers of the last day, in memory of a fixed size: a point each ten seconds for an hour, one each
// two minutes for the day. It begins anew with the process. Safe for use by many goroutines. Make one with NewHistory.
type History struct {
	charts []Chart

	mu     sync.Mutex
	since  time.Time
	hour   ring
	day    ring
	marked time.Time // of the newest event that is a mark
}

// Chart is one picture of the last hour.
type Chart struct {
	Title string // "Behind"
	Kind  Kind
	Lines []ChartLine
}

// ChartLine is one line of a chart.
type ChartLine struct {
	Name  string
	Limit bool // it is not to be reached
}

// Kind says what the numbers of a chart are.
type Kind string

// The kinds.
const (
	Seconds Kind = "s"
	Count   Kind = ""
	Rate    Kind = "/s"
	Bytes   Kind = "B"
)

// scales are the units in which an axis tells values, each with how many of its kind it has.
var scales = map[Kind][]scale{
	Seconds: {{"s", 1}, {"min", 60}, {"h", 3600}, {"d", 86400}},
	Count:   {{"", 1}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}},
	Rate:    {{"/s", 1}, {"k/s", 1e3}, {"M/s", 1e6}},
	Bytes:   {{"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}},
}

type scale struct {
	unit string
	per  float64
}

// scale gives the greatest unit of which values up to top have two at least, else the least.
func (k Kind) scale(top float64) scale {
	of := scales[k]
	for len(of) > 1 && top >= 2*of[1].per {
		of = of[1:]
	}
	return of[0]
}

const (
	hourStep, hourPoints = 10 * time.Second, 360
	dayStep, dayPoints   = 2 * time.Minute, 720
)

// NewHistory gives an empty one, for the lines of some charts.
func NewHistory(charts ...Chart) *History {
	n := 0
	for _, c := range charts {
		n += len(c.Lines)
	}
	return &History{charts: charts, hour: newRing(hourStep, hourPoints, n), day: newRing(dayStep, dayPoints, n)}
}

// Sample takes the values of now, about once a second: those of the lines of all charts, one after the other; NaN where one
// is not known.
func (h *History) Sample(now time.Time, values ...float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since.IsZero() {
		h.since = now
	}
	h.hour.add(now, values)
	h.day.add(now, values)
}

// Mark takes what happened, the newest first, and leaves out what it was given before. Each event is told in the charts, at the
// line of its time.
func (h *History) Mark(events []service.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.marked
	for _, e := range slices.Backward(events) {
		if !e.At.After(before) {
			continue
		}
		h.marked = e.At
		h.hour.marks.add(e, h.hour.span())
		h.day.marks.add(e, h.day.span())
	}
}

// ring is the newest points. Each is the greatest value of its time: what was short is still seen.
type ring struct {
	step    time.Duration
	columns [][]float64 // each of as many points as the ring has
	times   []int64     // seconds since 1970 of the beginning of the time of each point
	next    int
	filled  int
	marks   marks
}

func newRing(step time.Duration, points, columns int) ring {
	r := ring{step: step, times: make([]int64, points), columns: make([][]float64, columns)}
	for i := range r.columns {
		r.columns[i] = make([]float64, points)
	}
	return r
}

func (r *ring) add(now time.Time, values []float64) {
	at := now.Truncate(r.step).Unix()
	last := (r.next - 1 + len(r.times)) % len(r.times)
	if r.filled > 0 && r.times[last] == at {
		for i := range r.columns {
			if v := values[i]; !math.IsNaN(v) && (math.IsNaN(r.columns[i][last]) || v > r.columns[i][last]) {
				r.columns[i][last] = v
			}
		}
		return
	}
	r.times[r.next] = at
	for i := range r.columns {
		r.columns[i][r.next] = values[i]
	}
	r.next = (r.next + 1) % len(r.times)
	r.filled = min(r.filled+1, len(r.times))
}

// span is how long the ring goes back.
func (r *ring) span() time.Duration { return r.step * time.Duration(len(r.times)) }

// window gives the points, oldest first, with a point that is not known wherever nothing was seen for a while.
func (r *ring) window() (times []int64, columns [][]float64) {
	columns = make([][]float64, len(r.columns))
	step := int64(r.step / time.Second)
	for i := range r.filled {
		at := (r.next - r.filled + i + len(r.times)) % len(r.times)
		if n := len(times); n > 0 && r.times[at]-times[n-1] > 3*step {
			times = append(times, times[n-1]+step)
			for c := range columns {
				columns[c] = append(columns[c], math.NaN())
			}
		}
		times = append(times, r.times[at])
		for c := range columns {
			columns[c] = append(columns[c], r.columns[c][at])
		}
	}
	return times, columns
}

// read gives the last hour, or the last day: since when there is any, its points, and what happened in it.
func (h *History) read(day bool) (since time.Time, times []int64, columns [][]float64, marks []Mark) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &h.hour
	if day {
		r = &h.day
	}
	times, columns = r.window()
	return h.since, times, columns, r.marks.since(times, r.step)
}
