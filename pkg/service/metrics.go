package service

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Buckets of classic histograms, all base units.
var (
	SecondsBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 300}
	BytesBuckets   = prometheus.ExponentialBuckets(4<<10, 4, 9) // to 256 MiB
	RowsBuckets    = prometheus.ExponentialBuckets(1, 10, 7)    // to a million
)

// Family makes the metrics of one service, whose names begin alike and which all bear the same labels.
type Family struct {
	Namespace string
	Labels    prometheus.Labels
	All       []prometheus.Collector // that were made
}

func (f *Family) opts(name, help string) prometheus.Opts {
	return prometheus.Opts{Namespace: f.Namespace, Name: name, Help: help, ConstLabels: f.Labels}
}

// Counter makes a counter.
func (f *Family) Counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts(f.opts(name, help)))
	f.All = append(f.All, c)
	return c
}

// Counters makes counters by further labels.
func (f *Family) Counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts(f.opts(name, help)), labels)
	f.All = append(f.All, c)
	return c
}

// Histogram makes a histogram.
func (f *Family) Histogram(name, help string, buckets []float64) *prometheus.HistogramVec {
	h := newHistogram(prometheus.HistogramOpts{Namespace: f.Namespace, Name: name, Help: help, ConstLabels: f.Labels, Buckets: buckets})
	f.All = append(f.All, h)
	return h
}

// Latency makes histograms of how long something takes, by further labels.
func (f *Family) Latency(name, help string, labels ...string) *Latency {
	l := newLatency(prometheus.HistogramOpts{Namespace: f.Namespace, Name: name, Help: help, ConstLabels: f.Labels}, labels...)
	f.All = append(f.All, l)
	return l
}

// Each makes the series of each value of a counter's one label, so that they are there from the start.
func Each(v *prometheus.CounterVec, values ...string) *prometheus.CounterVec {
	for _, value := range values {
		v.WithLabelValues(value)
	}
	return v
}

// newHistogram gives a vector of histograms that are classic, with the buckets of opts, and native: Prometheus takes which
// one it is configured for. Without labels its one series is there from the start.
func newHistogram(opts prometheus.HistogramOpts, labels ...string) *prometheus.HistogramVec {
	opts.NativeHistogramBucketFactor, opts.NativeHistogramMaxBucketNumber = 1.1, 160
	v := prometheus.NewHistogramVec(opts, labels)
	if len(labels) == 0 {
		v.WithLabelValues()
	}
	return v
}

// Codes gives a counter of troubles a series for each code, from the start: no series is not the same as no trouble.
func Codes(v *prometheus.CounterVec) *prometheus.CounterVec {
	for _, code := range trouble.Codes() {
		v.WithLabelValues(string(code))
	}
	return v
}

// Samples gathers what a collector gives at one moment. Values that come under the same labels become one, which is how the
// tables of a source are told as one where there are too many of them. A gauge that is not known, not a number, has no series, and
// makes unknown what it would be a part of: 0 would say that all is well. The zero value is ready.
type Samples struct {
	list map[*prometheus.Desc]map[string]*sample
}

type sample struct {
	kind   prometheus.ValueType
	value  float64
	labels []string
}

// Add gives a value that is added to others of the same labels.
func (s *Samples) Add(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
	s.put(d, kind, value, func(a, b float64) float64 { return a + b }, labels)
}

// Most gives a gauge of which the greatest counts among those of the same labels.
func (s *Samples) Most(d *prometheus.Desc, value float64, labels ...string) {
	s.put(d, prometheus.GaugeValue, value, func(a, b float64) float64 { return max(a, b) }, labels)
}

// Least gives one of which the smallest counts.
func (s *Samples) Least(d *prometheus.Desc, value float64, labels ...string) {
	s.put(d, prometheus.GaugeValue, value, func(a, b float64) float64 { return min(a, b) }, labels)
}

// State gives one series for each state that a thing may be in, 1 for the one that it is in, with the state as last label.
func (s *Samples) State(d *prometheus.Desc, states []string, now string, labels ...string) {
	for _, state := range states {
		value := 0.0
		if state == now {
			value = 1
		}
		s.Add(d, prometheus.GaugeValue, value, append(slices.Clone(labels), state)...)
	}
}

func (s *Samples) put(d *prometheus.Desc, kind prometheus.ValueType, value float64, merge func(a, b float64) float64, labels []string) {
	if s.list == nil {
		s.list = map[*prometheus.Desc]map[string]*sample{}
	}
	of := s.list[d]
	if of == nil {
		of = map[string]*sample{}
		s.list[d] = of
	}
	key := strings.Join(labels, "\xff") // no byte of a label, which is UTF-8
	if known := of[key]; known != nil {
		known.value = merge(known.value, value)
		return
	}
	of[key] = &sample{kind, value, labels}
}

// Send hands over what was gathered.
func (s *Samples) Send(out chan<- prometheus.Metric) {
	for d, of := range s.list {
		for one := range maps.Values(of) {
			if math.IsNaN(one.value) {
				continue
			}
			out <- prometheus.MustNewConstMetric(d, one.kind, one.value, one.labels...)
		}
	}
}

// Known gives value where it is known, and else what Samples has no series of.
func Known(known bool, value float64) float64 {
	if !known {
		return math.NaN()
	}
	return value
}

// Bool gives 1 for true.
func Bool(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
