package capture

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
)

// vitals is what is known of a capture by looking at it from outside once a second: how fast things move, and whether they
// do. It holds also while the session's goroutine stands still, which is just when it matters. Its size is bounded by the
// number of tables.
type vitals struct {
	started time.Time
	events  service.Events
	history *page.History

	changes   service.Pace // published
	rows      service.Pace // of snapshots, published
	confirmed service.Pace // LSN up to which all is published
	server    service.Pace // LSN of the server's WAL end
	toPublish service.Pace // bytes
	shown     service.Steady[words]

	mu       sync.Mutex
	tables   map[string]*tableVitals
	knownAt  time.Time // since when there is something to be published; zero: there is nothing
	snapshot time.Time // when the last one ended
	reading  bool
	had      int64 // rows of snapshots, when last sampled
}

type tableVitals struct {
	changes service.Pace // published
	shown   service.Steady[TableStatus]
	rows    *service.Pace // of the read that is under way; nil: there is none
	read    TableSnapshot // that one, or the last; zero: there was none
}

// keptRead is how long a read that has ended is told of.
const keptRead = 24 * time.Hour

// follow takes how the read of t's rows is, which has t.Snapshot of its session; a session that is new knows of none before.
func (v *tableVitals) follow(now time.Time, t *TableStatus) {
	switch s := t.Snapshot; {
	case s.reads():
		if v.rows == nil || !s.BeganAt.Equal(v.read.BeganAt) {
			v.rows = &service.Pace{}
		}
		v.rows.Sample(now, float64(t.SnapshotRows))
		v.read = *s
	default:
		if v.rows = nil; s != nil {
			v.read = *s
		}
	}
}

// tellRead puts what is known of the read of t's rows into t.
func (v *tableVitals) tellRead(t *TableStatus) {
	if t.Snapshot == nil && v.read.State == readDone {
		t.Snapshot = &v.read
	}
	if t.Snapshot == nil {
		return
	}
	told := *t.Snapshot
	t.Snapshot = &told
	if told.reads() && v.rows != nil && told.BeganAt.Equal(v.read.BeganAt) {
		told.RowsPerSecond = max(v.rows.PerSecond(), 0)
		if told.RowsPerSecond > 0 && t.ExpectedRows != nil && *t.ExpectedRows > t.SnapshotRows {
			told.ETASeconds = new(float64(*t.ExpectedRows-t.SnapshotRows) / told.RowsPerSecond)
		}
	}
	if !told.EndedAt.IsZero() && time.Since(told.EndedAt) > keptRead {
		t.Snapshot = nil
	}
}

func newVitals() *vitals {
	return &vitals{started: time.Now(), tables: map[string]*tableVitals{}, history: page.NewHistory(charts...)}
}

// table gives what is known of a table.
func (v *vitals) table(name string) *tableVitals {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.tables[name]
	if t == nil {
		t = &tableVitals{}
		v.tables[name] = t
	}
	return t
}

// charts are those of the page. The values of their lines come from sample, in this order.
var charts = []page.Chart{
	{Title: "Behind", Kind: page.Seconds, Lines: []page.ChartLine{{Name: "behind"}}},
	{Title: "Changes", Kind: page.Rate, Lines: []page.ChartLine{{Name: "changes"}, {Name: "snapshot rows"}}},
	{Title: "WAL kept", Kind: page.Bytes, Lines: []page.ChartLine{{Name: "kept"}, {Name: "budget", Limit: true}, {Name: "server's limit", Limit: true}}},
	{Title: "Latency", Kind: page.Seconds, Lines: []page.ChartLine{{Name: "p50"}, {Name: "p99"}}},
}

// watchVitals samples until ctx ends.
func (c *Capture) watchVitals(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		c.sample(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (c *Capture) sample(now time.Time) {
	v := c.vitals
	c.stages.Sample(now)
	changes := uint64(0)
	for name, total := range c.meter.totals() {
		changes += total
		v.table(name).changes.Sample(now, float64(total))
	}
	v.changes.Sample(now, float64(changes))
	base := c.status.Load()
	v.mu.Lock()
	if base.Snapshot.Rows < v.had { // a table is read again, from its first row on
		v.rows.Restart()
	}
	v.had = base.Snapshot.Rows
	v.mu.Unlock()
	v.rows.Sample(now, float64(base.Snapshot.Rows))
	look := c.budget.standing()
	if !look.at.IsZero() {
		v.confirmed.Sample(now, float64(look.confirmed))
		v.server.Sample(now, float64(look.server))
		v.toPublish.Sample(now, float64(look.toPublish))
	}
	v.mu.Lock()
	switch {
	case look.toPublish <= 0:
		v.knownAt = time.Time{}
	case v.knownAt.IsZero():
		v.knownAt = now
	}
	reading := base.Snapshot.TablesDone < base.Snapshot.Tables
	if v.reading && !reading {
		v.snapshot = now
	}
	v.reading = reading
	v.mu.Unlock()
	st := c.Status()
	v.shown.See(now, st.State, st.lasted(now), st.words())
	for i := range st.Tables {
		known := v.table(st.Tables[i].Table)
		known.shown.See(now, st.Tables[i].State, 0, st.Tables[i])
		v.mu.Lock()
		known.follow(now, &st.Tables[i])
		v.mu.Unlock()
	}
	p50, p99 := math.NaN(), math.NaN()
	if st.LatencyP50 != nil && st.LatencyP99 != nil {
		p50, p99 = *st.LatencyP50, *st.LatencyP99
	}
	behind, rows := math.NaN(), math.NaN() // nobody has looked yet; no snapshot runs
	if st.looked() {
		behind = st.LagSeconds
	}
	if reading {
		rows = st.Snapshot.RowsPerSecond
	}
	kept, limit := st.WAL.chart()
	v.history.Sample(now, behind, st.ChangesPerSecond, rows, kept, float64(st.WAL.BudgetBytes), limit, p50, p99)
	v.history.Mark(st.Events)
}

// chart gives what is kept, and at how much the server gives the slot up; NaN for what is not known, or is without limit.
func (w *WAL) chart() (kept, limit float64) {
	kept, limit = math.NaN(), math.NaN()
	if !w.AsOf.IsZero() {
		kept = float64(w.RetainedBytes)
		if w.SafeBytes != nil {
			limit = float64(w.RetainedBytes + *w.SafeBytes)
		}
	}
	return kept, limit
}

// unmoved gives for how long nothing of what is known was published, 0 while there is nothing.
func (v *vitals) unmoved(now time.Time) time.Duration {
	v.mu.Lock()
	since := v.knownAt
	v.mu.Unlock()
	if since.IsZero() {
		return 0
	}
	for _, p := range []*service.Pace{&v.changes, &v.rows, &v.confirmed} {
		if moved := p.Moved(); moved.After(since) {
			since = moved
		}
	}
	return now.Sub(since)
}

// tell puts what is known into st.
func (v *vitals) tell(st *Status) {
	st.Since = v.started.UTC()
	st.Events = v.events.Newest()
	st.ChangesPerSecond = v.changes.PerSecond()
	st.PublishedBytesPerSecond = max(v.confirmed.PerSecond(), 0)
	st.SourceBytesPerSecond = max(v.server.PerSecond(), 0)
	if left, ok := v.toPublish.UntilZero(); ok {
		seconds := left.Seconds()
		st.ETASeconds = &seconds
	}
	st.ChangesPerSecondHour = v.changes.HourMean()
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.snapshot.IsZero() {
		st.Snapshot.EndedAt = v.snapshot.UTC()
	}
	if s := &st.Snapshot; s.TablesDone < s.Tables {
		s.RowsPerSecond = max(v.rows.PerSecond(), 0)
		if s.RowsPerSecond > 0 && s.RowsExpected != nil && *s.RowsExpected > s.Rows {
			s.ETASeconds = new(float64(*s.RowsExpected-s.Rows) / s.RowsPerSecond)
		}
	}
	for i := range st.Tables {
		t := &st.Tables[i]
		if known := v.tables[t.Table]; known != nil {
			t.ChangesPerSecond, t.LastHour = known.changes.PerSecond(), known.changes.Hour()
			if moved := known.changes.Moved(); !moved.IsZero() {
				t.LastChange = moved.UTC()
			}
			known.tellRead(t)
		}
	}
}
