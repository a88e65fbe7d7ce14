package capture

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tributary-cdc/tributary/capture/pgoutput"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// meter is the metrics of one capture.
type meter struct {
	registry          []prometheus.Collector
	changes           *prometheus.CounterVec
	rows              *prometheus.CounterVec
	heldChanges       *prometheus.CounterVec
	held              prometheus.Gauge
	latency           *service.Latency
	errors            *prometheus.CounterVec
	transactions      prometheus.Counter
	kafkaTransactions prometheus.Counter
	skipped           prometheus.Counter
	rereads           prometheus.Counter
	schemaChanges     prometheus.Counter
	reconnects        prometheus.Counter
	confirmed         prometheus.Gauge
	lastCommit        prometheus.Gauge
	lagBytes          prometheus.Gauge
	lagSeconds        prometheus.Gauge
	walRetained       prometheus.Gauge
	walBudget         prometheus.Gauge
	walAlarm          prometheus.Gauge
	walSecondsLeft    prometheus.Gauge

	mu     sync.Mutex
	tables map[string]*counters
}

const namespace = "tributary_capture_"

func newMeter(source string) *meter {
	labels := prometheus.Labels{"source": source}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: namespace + name, Help: help, ConstLabels: labels})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: namespace + name, Help: help, ConstLabels: labels})
	}
	vector := func(name, help string, names ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + name, Help: help, ConstLabels: labels}, names)
	}
	m := &meter{
		tables:      map[string]*counters{},
		changes:     vector("changes_total", "Changes published.", "table", "op"),
		rows:        vector("snapshot_rows_total", "Rows of snapshots published.", "table"),
		heldChanges: vector("held_changes_total", "Changes that were not published because their table is held.", "table"),
		held:        gauge("held_tables", "Tables that are held: none of their changes is published until they are loaded anew."),
		latency: service.NewLatency(prometheus.HistogramOpts{
			Name: namespace + "latency_seconds", ConstLabels: labels,
			Help: "From commit at the source, by its clock, to commit in Kafka, of the oldest change in each Kafka transaction.",
		}),
		errors:            vector("errors_total", "Troubles, by code.", "code"),
		transactions:      counter("transactions_total", "Transactions read from the source."),
		kafkaTransactions: counter("kafka_transactions_total", "Kafka transactions committed."),
		skipped:           counter("skipped_changes_total", "Changes that the topics already held."),
		rereads:           counter("snapshot_rereads_total", "Chunks read again."),
		schemaChanges:     counter("schema_changes_total", "New versions of tables."),
		reconnects:        counter("reconnects_total", "Sessions that ended and were tried again."),
		confirmed:         gauge("confirmed_wal_bytes", "Confirmed LSN as a number of bytes."),
		lastCommit:        gauge("last_commit_timestamp_seconds", "Commit time of the newest published transaction."),
		lagBytes:          gauge("lag_bytes", "WAL still to be published."),
		lagSeconds:        gauge("lag_seconds", "How far the newest published commit is behind while more is known."),
		walRetained:       gauge("wal_retained_bytes", "WAL that the source keeps for the slot."),
		walBudget:         gauge("wal_budget_bytes", "WAL that the source may keep for the slot."),
		walAlarm:          gauge("wal_budget_alarm", "0: less than half of the budget is used; 1: half of it; 2: four fifths."),
		walSecondsLeft:    gauge("wal_budget_left_seconds", "Time until the budget is used up at the present growth; infinite while it does not grow."),
	}
	m.registry = []prometheus.Collector{
		m.changes, m.rows, m.heldChanges, m.held, m.latency, m.errors, m.transactions, m.kafkaTransactions, m.skipped, m.rereads, m.schemaChanges, m.reconnects,
		m.confirmed, m.lastCommit, m.lagBytes, m.lagSeconds, m.walRetained, m.walBudget,
		m.walAlarm, m.walSecondsLeft,
	}
	return m
}

// Collectors gives the metrics, to be registered.
func (c *Capture) Collectors() []prometheus.Collector {
	return append(slices.Clone(c.meter.registry), c.stages.Collector("tributary_capture", prometheus.Labels{"source": c.config.Source.Name}))
}

// counters are the changes of one table.
type counters struct {
	ops   [4]prometheus.Counter
	total atomic.Uint64
}

// table makes the series of a table, so that they exist from the start.
func (m *meter) table(name string) *counters {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.tables[name]
	if c == nil {
		c = &counters{}
		for i, op := range []string{"insert", "update", "delete", "truncate"} {
			c.ops[i] = m.changes.WithLabelValues(name, op)
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

func (m *meter) read(table string, rows int64) { m.rows.WithLabelValues(table).Add(float64(rows)) }

// published takes what the last commit says.
func (m *meter) published(pr *record.Progress) {
	m.confirmed.Set(float64(change.LSN(pr.EndLSN)))
	m.lastCommit.Set(float64(pr.CommitTime) / 1e6)
	m.lagBytes.Set(float64(pr.Health.ToPublish))
	m.lagSeconds.Set(pr.Health.BehindSeconds)
	m.held.Set(float64(pr.Health.Held))
}
