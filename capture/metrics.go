package capture

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tributary-cdc/tributary/capture/pgoutput"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
)

// meter is what one capture counts. What can be read from its status is in gauges.
type meter struct {
	service.Family
	perTable  bool
	changes   *prometheus.CounterVec
	rows      *prometheus.CounterVec
	skipped   *prometheus.CounterVec
	latency   *service.Latency
	errors    *prometheus.CounterVec
	commits   *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	size      *prometheus.HistogramVec
	chunks    *prometheus.CounterVec
	chunkTook *prometheus.HistogramVec
	schemas   *prometheus.CounterVec
	reconnect *prometheus.CounterVec

	transactions prometheus.Counter
	bytes        prometheus.Counter
	fenced       prometheus.Counter
	sourceWAL    prometheus.Counter
	confirmedWAL prometheus.Counter

	mu     sync.Mutex
	tables map[string]*counters
}

const namespace = "tributary_capture"

// Values of labels that are known from the start.
const (
	skipPublished = "already_published"
	skipLeftOut   = "left_out"
	skipHeld      = "held"

	resultCommit = "commit"
	resultAbort  = "abort"

	chunkPublished = "published"
	chunkReread    = "reread"

	slotMissing = "missing"
)

var (
	peers        = []string{waitSource, waitKafka, waitRegistry}
	slotStatuses = []string{"reserved", "extended", "unreserved", "lost", slotMissing}
	opNames      = []string{"insert", "update", "delete", "truncate", "read"}
	schemaKinds  = []string{"column_added", "column_dropped", "column_renamed", "column_type", "key", "renamed", "other"}
)

func newMeter(source string, perTable bool) *meter {
	m := &meter{Family: service.Family{Namespace: namespace, Labels: prometheus.Labels{"source": source}}, perTable: perTable, tables: map[string]*counters{}}
	m.latency = m.Latency("heartbeat_latency_seconds",
		"From commit at the source, by its clock, until readers of the topics have it, of the oldest change or heartbeat that each progress record counts.")
	m.changes = m.Counters("changes_total", "Changes published.", "table", "op")
	m.rows = m.Counters("snapshot_rows_total", "Rows of snapshots published.", "table")
	m.skipped = service.Each(m.Counters("skipped_changes_total", "Changes that were not published.", "reason"), skipPublished, skipLeftOut, skipHeld)
	m.errors = service.Codes(m.Counters("errors_total", "Troubles, by code.", "code"))
	m.transactions = m.Counter("transactions_total", "Transactions read from the source.")
	m.bytes = m.Counter("published_bytes_total", "Bytes of keys and values committed in Kafka.")
	m.commits = service.Each(m.Counters("kafka_transactions_total", "Kafka transactions, by how they ended.", "result"), resultCommit, resultAbort)
	m.duration = m.Histogram("kafka_transaction_duration_seconds", "From the beginning of a Kafka transaction to its commit.", service.SecondsBuckets)
	m.size = m.Histogram("kafka_transaction_size_bytes", "Bytes of keys and values in a Kafka transaction.", service.BytesBuckets)
	m.chunks = service.Each(m.Counters("snapshot_chunks_total", "Chunks of snapshots, by whether they counted.", "result"), chunkPublished, chunkReread)
	m.chunkTook = m.Histogram("snapshot_chunk_duration_seconds", "Time to read a chunk of a snapshot.", service.SecondsBuckets)
	m.schemas = service.Each(m.Counters("schema_changes_total", "New versions of tables, by what is new.", "kind"), schemaKinds...)
	m.reconnect = service.Each(m.Counters("reconnects_total", "Sessions that ended and were tried again, by whom they could not reach.", "peer"), peers...)
	m.fenced = m.Counter("fenced_total", "Sessions that ended because another instance took over.")
	m.sourceWAL = m.Counter("source_wal_bytes_total", "Bytes of WAL that the source has written while this instance looked.")
	m.confirmedWAL = m.Counter("confirmed_wal_bytes_total", "Bytes of WAL that were confirmed to the source while this instance looked.")
	return m
}

// Collectors gives the metrics, to be registered.
func (c *Capture) Collectors() []prometheus.Collector {
	return append(slices.Clone(c.meter.All), c.stages.Collector(namespace, c.meter.Labels, c.waits), &gauges{c})
}

// label gives a table as metrics name it.
func (m *meter) label(table string) string {
	if m.perTable {
		return table
	}
	return ""
}

// counters are the changes of one table.
type counters struct {
	ops   [4]prometheus.Counter
	read  prometheus.Counter
	rows  prometheus.Counter
	total atomic.Uint64
}

// table makes the series of a table, so that they exist from the start.
func (m *meter) table(name string) *counters {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.tables[name]
	if c == nil {
		c = &counters{rows: m.rows.WithLabelValues(m.label(name)), read: m.changes.WithLabelValues(m.label(name), opNames[4])}
		for i := range c.ops {
			c.ops[i] = m.changes.WithLabelValues(m.label(name), opNames[i])
		}
		m.tables[name] = c
	}
	return c
}

// totals gives how many changes of each table were published.
func (m *meter) totals() map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]uint64, len(m.tables))
	for name, c := range m.tables {
		out[name] = c.total.Load()
	}
	return out
}

func (c *counters) count(kind pgoutput.Kind) {
	c.total.Add(1)
	switch kind {
	case pgoutput.KindInsert:
		c.ops[0].Inc()
	case pgoutput.KindUpdate:
		c.ops[1].Inc()
	case pgoutput.KindDelete:
		c.ops[2].Inc()
	case pgoutput.KindTruncate:
		c.ops[3].Inc()
	}
}

// snapshot counts rows that were there before.
func (c *counters) snapshot(rows int64) {
	c.read.Add(float64(rows))
	c.rows.Add(float64(rows))
}

// trouble counts one.
func (m *meter) trouble(code trouble.Code) { m.errors.WithLabelValues(string(code)).Inc() }

// peer says whom a session could not reach that ended with code.
func peer(code trouble.Code) string {
	switch {
	case strings.HasPrefix(string(code), "kafka") || code == trouble.IdentityUnreachable || code == trouble.TransactionTimeout || code == trouble.Fenced:
		return peers[1]
	case code == trouble.RegistryUnreachable || code == trouble.RegistryAuth:
		return peers[2]
	}
	return peers[0]
}

// waits gives for whom capture waits by its status, as stages name it, and since when; "" for nobody. What is tried again is waited for
// since it failed first, and the end of a pause that has none of its own since somebody asked for it, whichever session obeys it.
func (c *Capture) waits() (on string, since time.Time) {
	st := c.Status()
	switch {
	case st.State == service.StatePaused && st.Paused != nil && st.Paused.Until.IsZero():
		return waitResume, st.Paused.Since
	case st.State != service.StateWaiting || st.Trouble == nil:
		return st.on, st.WaitingSince
	case st.Trouble.Code == trouble.Internal: // nobody's
		return waitRetry, st.Trouble.Since
	case st.Trouble.Code == trouble.SlotInUse:
		return waitSlot, st.Trouble.Since
	}
	return peer(st.Trouble.Code), st.Trouble.Since
}

// schemaKind says what is new in a version of a table: of several things the first in the order of schemaKinds.
func schemaKind(before, now *schema.Relation) string {
	same := func(a, b *schema.Column) bool {
		return a.AttNum != 0 && a.AttNum == b.AttNum || (a.AttNum == 0 || b.AttNum == 0) && a.Name == b.Name
	}
	in := func(list []schema.Column, c *schema.Column) *schema.Column {
		for i := range list {
			if same(&list[i], c) {
				return &list[i]
			}
		}
		return nil
	}
	found := map[string]bool{}
	for i := range now.Columns {
		c := &now.Columns[i]
		switch was := in(before.Columns, c); {
		case was == nil:
			found["column_added"] = true
		case was.Name != c.Name:
			found["column_renamed"] = true
		case was.Type.Name != c.Type.Name:
			found["column_type"] = true
		}
	}
	found["column_dropped"] = slices.ContainsFunc(before.Columns, func(c schema.Column) bool { return in(now.Columns, &c) == nil })
	found["key"] = !slices.Equal(keyNames(before), keyNames(now))
	found["renamed"] = before.QualifiedName() != now.QualifiedName()
	for _, kind := range schemaKinds {
		if found[kind] {
			return kind
		}
	}
	return "other"
}

func keyNames(rel *schema.Relation) []string {
	names := make([]string, len(rel.Key))
	for i, k := range rel.Key {
		names[i] = rel.Columns[k].Name
	}
	return names
}

// gauges are read from the status when Prometheus asks.
type gauges struct{ c *Capture }

var (
	sourceLabel  = []string{"source"}
	sourceTable  = []string{"source", "table"}
	descInfo     = desc("info", "What is captured; always 1.", "source", "slot", "server_version", "system_id", "timeline", "era")
	descState    = desc("state", "1 for the state that the source is in.", "source", "state")
	descActive   = desc("active", "1 if this instance is the one that publishes; 0 on standby, when it has stopped, and until it has begun.", sourceLabel...)
	descLag      = desc("lag_seconds", "Age of the oldest commit that is not in Kafka; while it is not read yet, at most that.", sourceLabel...)
	descLagBytes = desc("lag_bytes", "WAL still to be published.", sourceLabel...)
	descCaughtUp = desc("caught_up_in_seconds", "Time until all is published at the present rate; infinite while it does not become less.", sourceLabel...)
	descKept     = desc("wal_retained_bytes", "WAL that the source keeps for the slot.", sourceLabel...)
	descBudget   = desc("wal_budget_bytes", "WAL that the source may keep for the slot.", sourceLabel...)
	descSafe     = desc("wal_safe_bytes", "WAL that may still be written before the server drops the slot; infinite without a limit.", sourceLabel...)
	descSlot     = desc("slot_active", "1 if somebody streams from the slot, or fetches from it by SQL.", sourceLabel...)
	descBySQL    = desc("by_sql", "1 while changes are fetched by SQL (source.catch_up), 0 while they are not.", sourceLabel...)
	descStatus   = desc("slot_status", "1 for the status of the slot, as the server tells it.", "source", "status")
	descOldest   = desc("oldest_transaction_seconds", "Age of the oldest open transaction that has written: it keeps WAL, published or not.", sourceLabel...)
	descCommit   = desc("last_commit_timestamp_seconds", "Commit time of the newest published transaction.", sourceLabel...)
	descHeld     = desc("held_tables", "Tables that are held: none of their changes is published until they are loaded anew.", sourceLabel...)
	descTables   = desc("snapshot_tables", "Tables by how far their snapshot is.", "source", "state")
	descExpected = desc("snapshot_expected_rows", "Rows that the snapshot of a table is expected to have.", sourceTable...)
	descProgress = desc("snapshot_progress_ratio", "Rows of the snapshot of a table that are published, of those expected; 1 once it is done.", sourceTable...)
	descLeft     = desc("snapshot_remaining_seconds", "Time until all rows are read at the present rate; infinite while it is not known.", sourceLabel...)
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descInfo, descState, descActive, descLag, descLagBytes, descCaughtUp, descKept, descBudget, descSafe, descSlot, descBySQL, descStatus, descOldest,
		descCommit, descHeld, descTables, descExpected, descProgress, descLeft,
	} {
		out <- d
	}
}

func (g *gauges) Collect(out chan<- prometheus.Metric) {
	st, look := g.c.Status(), g.c.budget.standing()
	var all service.Samples
	set := func(d *prometheus.Desc, value float64, labels ...string) {
		all.Add(d, prometheus.GaugeValue, value, append([]string{st.Source}, labels...)...)
	}
	// What the session has seen of itself, and of the source's slot, is not known before.
	begun, seen := !st.SeenAt.IsZero(), time.Since(st.WAL.AsOf) < max(unseenAfter, 3*g.c.config.Source.Refresh)
	timeline, era := "", ""
	if begun {
		timeline, era = strconv.FormatUint(uint64(st.Timeline), 10), strconv.Itoa(int(st.Era))
	}
	set(descInfo, 1, st.Slot, st.ServerVersion, st.SystemID, timeline, era)
	all.State(descState, service.CaptureStates, st.State, st.Source)
	set(descActive, service.Bool(g.c.active.Load()))
	set(descLag, service.Known(begun, st.LagSeconds))
	set(descLagBytes, service.Known(begun && st.counted(), float64(st.ToPublish)))
	set(descCaughtUp, service.Known(begun, until(st.ETASeconds, st.ToPublish > 0)))
	set(descKept, service.Known(seen, float64(st.WAL.RetainedBytes)))
	set(descBudget, float64(st.WAL.BudgetBytes))
	safe := math.Inf(1)
	if st.WAL.SafeBytes != nil {
		safe = float64(*st.WAL.SafeBytes)
	}
	set(descSafe, service.Known(seen, safe))
	set(descBySQL, service.Bool(st.BySQL))
	status := st.WAL.SlotStatus
	if look.missing || st.Trouble != nil && st.Trouble.Code == trouble.SlotMissing { // before the first start there is none either
		status = slotMissing
	}
	if status != "" {
		all.State(descStatus, slotStatuses, status, st.Source)
	}
	set(descSlot, service.Known(status != "", service.Bool(look.active)))
	set(descOldest, service.Known(seen, look.oldest.Seconds()))
	set(descCommit, service.Known(!st.PublishedTime.IsZero(), float64(st.PublishedTime.UnixMicro())/1e6))
	set(descHeld, service.Known(begun, float64(st.held())))
	if begun {
		g.snapshot(&all, &st)
	}
	all.Send(out)
}

func (g *gauges) snapshot(all *service.Samples, st *Status) {
	for _, one := range []struct {
		state string
		n     int
	}{
		{"waiting", st.Snapshot.TablesWaiting}, {"running", st.Snapshot.TablesReading}, {"done", st.Snapshot.TablesDone}, {"failed", st.Snapshot.TablesFailed},
	} {
		all.Add(descTables, prometheus.GaugeValue, float64(one.n), st.Source, one.state)
	}
	all.Add(descLeft, prometheus.GaugeValue, until(st.Snapshot.ETASeconds, st.Snapshot.TablesDone < st.Snapshot.Tables), st.Source)
	for i := range st.Tables {
		t := &st.Tables[i]
		expected, part := float64(t.SnapshotRows), 1.0
		switch reads := t.State == service.StateSnapshotting; {
		case reads && t.ExpectedRows != nil:
			rows := expected
			expected = max(rows, float64(*t.ExpectedRows))
			part = rows / max(expected, 1)
		case reads || t.Snapshot != nil && t.Snapshot.State == readFailed:
			expected, part = math.NaN(), math.NaN()
		}
		all.Add(descExpected, prometheus.GaugeValue, expected, st.Source, g.c.meter.label(t.Table))
		all.Least(descProgress, part, st.Source, g.c.meter.label(t.Table))
	}
}

// until gives a guess as a metric: 0 where there is nothing to wait for, infinite where it is not known.
func until(seconds *float64, waits bool) float64 {
	switch {
	case !waits:
		return 0
	case seconds == nil:
		return math.Inf(1)
	}
	return *seconds
}
