package sink

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// vitals is what is known of a sink by looking at it once a second: how fast things move, and whether they do.
type vitals struct {
	events  service.Events
	history *page.History
	applied service.Pace // changes, of all tables
	skipped service.Pace // of these, those that rules ignore or filter

	shown service.Steady[words]

	rebalances int64 // as of the last look
	rebalanced atomic.Pointer[time.Time]
}

func newVitals() *vitals { return &vitals{history: page.NewHistory(charts...)} }

// charts are those of the page. The values of their lines come from sample, in this order.
var charts = []page.Chart{
	{Title: "Worst behind", Kind: page.Seconds, Lines: []page.ChartLine{{Name: "behind"}, {Name: "freshness", Limit: true}}},
	{Title: "Changes applied", Kind: page.Rate, Lines: []page.ChartLine{{Name: "applied"}, {Name: "ignored or filtered"}}},
	{Title: "Records waiting", Kind: page.Count, Lines: []page.ChartLine{{Name: "waiting"}}},
	{Title: "Latency", Kind: page.Seconds, Lines: []page.ChartLine{{Name: "p50"}, {Name: "p99"}, {Name: "p99 of applying"}}},
}

// watchVitals samples until ctx ends. It asks nobody: it goes on while the warehouse is away.
func (s *Sink) watchVitals(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		s.sample(time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Sink) sample(now time.Time) {
	s.stages.Sample(now)
	views := map[string][]consume.View{}
	for _, v := range s.consumer.Views() {
		views[v.Topic] = append(views[v.Topic], v)
	}
	s.mu.Lock()
	tables := make(map[string]*tableStats, len(s.tables))
	for topic, t := range s.tables {
		tables[topic] = t
	}
	s.mu.Unlock()
	applied, own := int64(0), map[string]extent{} // by topic
	for topic, t := range tables {
		at := s.outlook.stand(topic, views[topic])
		applied += t.sample(now, &at.all)
		own[topic] = at.own
	}
	s.vitals.applied.Sample(now, float64(applied))
	s.vitals.skipped.Sample(now, float64(s.metrics.skipped.Load()))

	st := s.Status()
	if st.Rebalances != s.vitals.rebalances {
		s.vitals.rebalances = st.Rebalances
		s.vitals.rebalanced.Store(new(now.UTC()))
	}
	// Whether or not somebody looks at the others: what this sink writes.
	records, partitions, late := int64(0), 0, 0.0
	behind, fresh := 0.0, st.FreshnessSeconds
	for i := range st.Tables {
		t := &st.Tables[i]
		s.table(t.Topic).shown.See(now, t.State, t.lasted(), *t)
		at := own[t.Topic]
		records, partitions = records+at.records, partitions+at.partitions
		if seconds := at.behind(now).Seconds(); t.FreshnessSeconds > 0 && seconds/t.FreshnessSeconds > late {
			behind, fresh, late = seconds, t.FreshnessSeconds, seconds/t.FreshnessSeconds
		}
	}
	s.vitals.shown.See(now, st.State, st.lasted(), st.words())
	waiting := float64(records)
	if partitions == 0 && len(st.Tables) > 0 {
		behind, waiting = math.NaN(), math.NaN()
	}
	skipped := math.NaN() // where no rule leaves out anything
	if s.metrics.skipped.Load() > 0 {
		skipped = st.SkippedPerSec
	}
	s.vitals.history.Sample(now, behind, fresh, s.vitals.applied.PerSecond(), skipped, waiting, known(st.LatencyP50), known(st.LatencyP99), known(st.ApplyP99))
	s.vitals.history.Mark(st.Events)
}

// tellVitals puts into st how fast it goes.
func (s *Sink) tellVitals(st *Status) {
	st.RebalancedAt = s.vitals.rebalanced.Load()
	st.RowsPerSec, st.RowsPerSecHour, st.SkippedPerSec = s.vitals.applied.PerSecond(), s.vitals.applied.HourMean(), s.vitals.skipped.PerSecond()
	if p50, p99, ok := s.Latency(); ok {
		st.LatencyP50, st.LatencyP99 = new(p50.Seconds()), new(p99.Seconds())
	}
	if _, p99, ok := s.metrics.duration.Quantiles(); ok {
		st.ApplyP99 = new(p99.Seconds())
	}
}

// known is a number for a chart.
func known(number *float64) float64 {
	if number == nil {
		return math.NaN()
	}
	return *number
}

// tableStats is what is counted of one topic.
type tableStats struct {
	mu         sync.Mutex
	changes    int64 // applied since the start
	duplicates int64
	repeats    prometheus.Counter // of duplicates
	lastCommit int64              // commit time of the last change applied, microseconds

	applied service.Pace // changes
	waiting service.Pace // records
	behind  service.Line // seconds
	next    service.Pace
	knownAt time.Time // since when records wait; zero: none does
	covers  int       // partitions of which waiting, behind and next are

	shown  service.Steady[TableStatus]
	plan   atomic.Pointer[rule.Plan]        // by which it is written; nil as long as nothing of it was read
	target atomic.Pointer[warehouse.Target] // likewise
}

// table gives the counts of a topic.
func (s *Sink) table(topic string) *tableStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[topic]
	if t == nil {
		t = &tableStats{repeats: s.metrics.table(topic)}
		s.tables[topic] = t
	}
	return t
}

// writes notes by which plan the table is written, and what into.
func (t *tableStats) writes(plan *rule.Plan, target *warehouse.Target) {
	t.plan.Store(plan)
	t.target.Store(target)
}

func (t *tableStats) duplicate() {
	t.mu.Lock()
	t.duplicates++
	t.mu.Unlock()
	t.repeats.Inc()
}

func (t *tableStats) moved(a warehouse.Advance) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changes += a.Rows
	if a.CommitTime != 0 {
		t.lastCommit = a.CommitTime
	}
}

// sample takes what is known now, and gives the changes applied.
func (t *tableStats) sample(now time.Time, at *extent) int64 {
	t.mu.Lock()
	changes := t.changes
	if t.covers != at.partitions { // what is known of more, or fewer, has not moved because of that
		t.covers, t.knownAt = at.partitions, time.Time{}
		t.waiting.Restart()
		t.next.Restart()
	}
	switch {
	case at.records == 0:
		t.knownAt = time.Time{}
	case t.knownAt.IsZero():
		t.knownAt = now
	}
	t.mu.Unlock()
	t.applied.Sample(now, float64(changes))
	t.behind.Sample(now, seconds(at.behind(now), at.partitions > 0))
	if at.partitions > 0 {
		t.waiting.Sample(now, float64(at.records))
		t.next.Sample(now, float64(at.next))
	}
	return changes
}

// unmoved gives the longest time for which nothing of a table has moved, though something of it waits.
func (s *Sink) unmoved(now time.Time) (longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tables {
		longest = max(longest, t.unmoved(now))
	}
	return longest
}

// unmoved gives for how long nothing of what waits was applied, 0 while nothing waits.
func (t *tableStats) unmoved(now time.Time) time.Duration {
	t.mu.Lock()
	since := t.knownAt
	t.mu.Unlock()
	if since.IsZero() {
		return 0
	}
	if moved := t.next.Moved(); moved.After(since) {
		since = moved
	}
	return now.Sub(since)
}
