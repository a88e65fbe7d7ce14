package service

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stages are the stages of one pipeline: from them comes "time goes" and "waiting for whom since when". The zero value
// is ready. Safe for use by many goroutines.
type Stages struct {
	mu    sync.Mutex
	kinds []*kind // in the order in which their names were first added
}

// kind is what is known of the stages of one name.
type kind struct {
	name     string
	waitsFor []string // everything one of them ever waited for, or may
	workers  []*Stage
	pace     Pace // of the busy time
}

// Stage is one goroutine's place in a pipeline. It is busy (has something to do and does it), idle (has nothing to do),
// or waits for somebody by name in the middle of its work. Changes cost a clock read and an uncontended lock: report
// them once a batch, not once a row. Methods are called by the stage's own goroutine.
type Stage struct {
	mu        sync.Mutex    // the clock is read behind it: what is busy never seems to shrink
	busy      time.Duration // until busySince
	busySince time.Time     // zero: not busy
	turned    time.Time     // when it last said anything
	waits     []wait        // innermost last
	waited    []string      // everything it ever waited for
}

type wait struct {
	on    string
	since time.Time
}

// StageState is what a stage does at one moment.
type StageState struct {
	Name      string    `json:"name"`
	Workers   int       `json:"workers"`              // goroutines with this name
	Busy      float64   `json:"busy_seconds"`         // since the start, of all workers together, waiting not counted
	BusyShare float64   `json:"busy_share"`           // of the last minute, of one worker: 0 to 1
	WaitingOn string    `json:"waiting_on,omitempty"` // "" if no worker waits; else what the longest waiting one waits for
	Since     time.Time `json:"since,omitzero"`       // of WaitingOn
}

// Stage adds a goroutine to the pipeline; several with one name are workers of one stage. waitsFor names in advance what
// it may wait for, so that these series exist from the start. The names come from a fixed list (they become labels):
// "kafka", never "broker 3".
func (s *Stages) Stage(name string, waitsFor ...string) *Stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.kinds, func(k *kind) bool { return k.name == name })
	if i < 0 {
		i = len(s.kinds)
		s.kinds = append(s.kinds, &kind{name: name})
	}
	k := s.kinds[i]
	k.knows(waitsFor)
	st := &Stage{}
	k.workers = append(k.workers, st)
	return st
}

func (k *kind) knows(waitsFor []string) {
	for _, on := range waitsFor {
		if !slices.Contains(k.waitsFor, on) {
			k.waitsFor = append(k.waitsFor, on)
		}
	}
}

// Busy says that work begins, or, where it has begun, that it gets on.
func (st *Stage) Busy() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.turned = time.Now()
	if st.busySince.IsZero() && len(st.waits) == 0 {
		st.busySince = st.turned
	}
}

// Idle says that there is nothing to do; nothing changes if there was nothing.
func (st *Stage) Idle() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.stop(time.Now())
}

// Wait says that the work waits for somebody (see Stages.Stage for the names) until done is called; time in between is
// not busy. After it the stage is busy again if it was. Waits may be nested; done is called once, innermost first.
func (st *Stage) Wait(on string) (done func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	now := time.Now()
	wasBusy := !st.busySince.IsZero()
	st.stop(now)
	st.waits = append(st.waits, wait{on, now})
	if !slices.Contains(st.waited, on) {
		st.waited = append(st.waited, on)
	}
	return func() {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.waits = st.waits[:len(st.waits)-1]
		if wasBusy {
			st.turned = time.Now()
			st.busySince = st.turned
		}
	}
}

// Hand is Wait for what another stage does meanwhile: to is busy with it until done is called.
func (st *Stage) Hand(to *Stage, on string) (done func()) {
	back := st.Wait(on)
	to.Busy()
	return func() {
		to.Idle()
		back()
	}
}

func (st *Stage) stop(now time.Time) {
	if !st.busySince.IsZero() {
		st.busy += now.Sub(st.busySince)
		st.busySince = time.Time{}
	}
}

func (st *Stage) busyUntil(now time.Time) time.Duration {
	if st.busySince.IsZero() {
		return st.busy
	}
	return st.busy + now.Sub(st.busySince)
}

// Snapshot gives the state of each stage, in the order in which their names were first added. The slice is the caller's.
func (s *Stages) Snapshot() []StageState {
	states, _ := s.read()
	return states
}

// Limit gives the stage that most of the last minute went into; ok is false where none was busy. It is the limit where that
// was most of it.
func Limit(stages []StageState) (most StageState, limit, ok bool) {
	for i := range stages {
		if stages[i].BusyShare > most.BusyShare {
			most = stages[i]
		}
	}
	return most, most.BusyShare >= limitShare, most.BusyShare >= 0.005
}

// TimeGoes says which share of the last minute each stage was busy, and which is the limit; ok is false where none was.
func TimeGoes(stages []StageState) (text string, ok bool) {
	most, limit, ok := Limit(stages)
	var parts []string
	for i := range stages {
		part := fmt.Sprintf("%s %.0f %%", stages[i].Name, 100*stages[i].BusyShare)
		if limit && stages[i].Name == most.Name {
			part += " <- limit"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "  "), ok
}

// limitShare is from where on the busiest stage is called the limit.
const limitShare = 0.6

// Sample is to be called about once a second: from it comes the share of the last minute that a stage was busy.
func (s *Stages) Sample(now time.Time) {
	states, _ := s.read()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, state := range states { // kinds are only ever added
		s.kinds[i].pace.Sample(now, state.Busy)
	}
}

// read also gives since when each thing is waited for, zero for those that nobody waits for now.
func (s *Stages) read() (states []StageState, waiting map[string]time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting = map[string]time.Time{}
	for _, k := range s.kinds {
		state := StageState{Name: k.name, Workers: len(k.workers)}
		var busy time.Duration
		for _, st := range k.workers {
			st.mu.Lock()
			busy += st.busyUntil(time.Now())
			k.knows(st.waited)
			if n := len(st.waits); n > 0 {
				w := st.waits[n-1]
				if state.WaitingOn == "" || w.since.Before(state.Since) {
					state.WaitingOn, state.Since = w.on, w.since
				}
				if earliest := waiting[w.on]; earliest.IsZero() || w.since.Before(earliest) {
					waiting[w.on] = w.since
				}
			}
			st.mu.Unlock()
		}
		state.Busy = busy.Seconds()
		state.BusyShare = min(k.pace.PerSecond()/float64(max(len(k.workers), 1)), 1)
		states = append(states, state)
		for _, on := range k.waitsFor {
			if _, known := waiting[on]; !known {
				waiting[on] = time.Time{} // the series exists from the start
			}
		}
	}
	return states, waiting
}

// Collector gives the metrics <namespace>_stage_busy_seconds_total{stage} and
// <namespace>_waiting_since_timestamp_seconds{on} (0: nobody waits for it), with labels added to each. known, which may be nil, gives
// who is waited for as the whole service knows it, "" for nobody: a stage that tries again waits anew each time.
func (s *Stages) Collector(namespace string, labels prometheus.Labels, known func() (on string, since time.Time)) prometheus.Collector {
	return &stagesCollector{
		stages: s, known: known,
		busy: prometheus.NewDesc(namespace+"_stage_busy_seconds_total",
			"Time that a stage was busy. While one waits for another, it is the other that is.", []string{"stage"}, labels),
		waiting: prometheus.NewDesc(namespace+"_waiting_since_timestamp_seconds",
			"Since when this is waited for, 0 while it is not.", []string{"on"}, labels),
	}
}

type stagesCollector struct {
	stages        *Stages
	known         func() (on string, since time.Time)
	busy, waiting *prometheus.Desc
}

func (c *stagesCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.busy
	out <- c.waiting
}

func (c *stagesCollector) Collect(out chan<- prometheus.Metric) {
	states, waiting := c.stages.read()
	for _, state := range states {
		out <- prometheus.MustNewConstMetric(c.busy, prometheus.CounterValue, state.Busy, state.Name)
	}
	if c.known != nil {
		if on, since := c.known(); on != "" && (waiting[on].IsZero() || since.Before(waiting[on])) {
			waiting[on] = since
		}
	}
	for on, since := range waiting {
		value := 0.0
		if !since.IsZero() {
			value = float64(since.UnixMilli()) / 1000
		}
		out <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, value, on)
	}
}
