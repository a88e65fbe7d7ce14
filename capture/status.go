package capture

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tributary-cdc/tributary/capture/pgoutput"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

const statusSchema = "tributary.capture.status/1"

// Status is what /status answers: JSON, to which fields are added and from which none is taken.
type Status struct {
	Schema   string `json:"schema"`
	Source   string `json:"source"`
	Instance string `json:"instance"`
	State    string `json:"state"`
	Slot     string `json:"slot"`
	Holder   string `json:"holder,omitempty"` // who streams from the slot, where it is not this instance
	SystemID string `json:"system_id,omitempty"`
	Timeline uint32 `json:"timeline,omitempty"`
	Era      uint16 `json:"era,omitempty"`

	LagSeconds    float64   `json:"lag_seconds"` // age of the newest published commit while more is known; 0 when all is published
	ToPublish     int64     `json:"to_publish_bytes"`
	WAL           WAL       `json:"wal"`
	PublishedLSN  string    `json:"published_lsn"`
	ServerLSN     string    `json:"server_lsn"`
	PublishedTime time.Time `json:"published_time,omitzero"` // commit time of the newest published transaction

	ChangesPerSecond float64 `json:"changes_per_second"` // published, over the last minute
	// LatencyP50 and LatencyP99 are from commit at the source, by its clock, to commit in Kafka, over the last five
	// minutes; null while there are too few to tell.
	LatencyP50 *float64 `json:"latency_p50_seconds"`
	LatencyP99 *float64 `json:"latency_p99_seconds"`

	Snapshot SnapshotStatus       `json:"snapshot"`
	Tables   []TableStatus        `json:"tables"`
	Stages   []service.StageState `json:"stages"`
	Trouble  *TroubleStatus       `json:"trouble"` // why nothing is published at present
	Alarms   []TroubleStatus      `json:"alarms"`  // what is wrong while it goes on
}

// WAL is what the source keeps for us.
type WAL struct {
	RetainedBytes int64  `json:"retained_bytes"`
	BudgetBytes   int64  `json:"budget_bytes"`
	SafeBytes     *int64 `json:"safe_bytes"` // what the server still allows; null: no limit
	SlotStatus    string `json:"slot_status"`
	// GrowthBytesPerSecond is over the last ten minutes; negative while less is kept.
	GrowthBytesPerSecond float64  `json:"growth_bytes_per_second"`
	FullInSeconds        *float64 `json:"full_in_seconds"` // until the budget is used up at this rate; null: it does not grow
}

// SnapshotStatus sums up what is still to be read.
type SnapshotStatus struct {
	TablesDone   int   `json:"tables_done"`
	Tables       int   `json:"tables"`
	Rows         int64 `json:"rows"`
	RowsExpected int64 `json:"rows_expected"` // estimate
}

// TableStatus is one table.
type TableStatus struct {
	Table        string `json:"table"`
	State        string `json:"state"` // streaming, snapshotting, held
	Level        string `json:"level"`
	Reason       string `json:"reason,omitempty"`
	Help         string `json:"help,omitempty"`
	Topic        string `json:"topic,omitempty"`
	SnapshotRows int64  `json:"snapshot_rows"`
	ExpectedRows int64  `json:"expected_rows"`
	// Held is why the table is held, HeldLSN the commit of its first change that is not published; nil and "" where
	// all is.
	Held    *TroubleStatus `json:"held,omitempty"`
	HeldLSN string         `json:"held_lsn,omitempty"`
}

// TroubleStatus is a trouble as the status tells it.
type TroubleStatus struct {
	Code    trouble.Code `json:"code"`
	Op      string       `json:"op"`
	Subject string       `json:"subject"`
	Cause   string       `json:"cause"`
	Means   string       `json:"means"`
	Hint    string       `json:"hint"`
}

// Status gives the newest status.
func (c *Capture) Status() Status {
	st := *c.status.Load()
	st.Stages = c.stages.Snapshot()
	c.budget.tell(&st)
	if p50, p99, ok := c.meter.latency.Quantiles(); ok {
		a, b := p50.Seconds(), p99.Seconds()
		st.LatencyP50, st.LatencyP99 = &a, &b
	}
	if t := c.trouble.Load(); t != nil {
		told := tell(t)
		st.Trouble = &told
		if st.State != "stopped" {
			st.State = "waiting"
		}
	}
	return st
}

// tell gives t as the status tells it.
func tell(t *trouble.Error) TroubleStatus {
	told := TroubleStatus{Code: t.Code, Op: t.Op, Subject: t.Subject, Means: t.Means, Hint: t.Hint}
	if t.Cause != nil {
		told.Cause = t.Cause.Error()
	}
	return told
}

func (c *Capture) stopped(error) *Status {
	st := *c.status.Load()
	st.State = "stopped"
	return &st
}

// publishStatus makes the session's state visible; it is called by the session's goroutine.
func (c *Capture) publishStatus(s *session) {
	h := s.health()
	st := &Status{
		Schema: statusSchema, Source: c.config.Source.Name, Instance: c.instance, State: h.State, Slot: c.config.Source.slot(),
		SystemID: s.system.ID, Timeline: s.system.Timeline, Era: s.era,
		LagSeconds: h.BehindSeconds, ToPublish: h.ToPublish, ChangesPerSecond: s.pace.rate(time.Now()),
		PublishedLSN: s.progressEnd.String(), ServerLSN: s.facts.wal.String(),
		Snapshot: SnapshotStatus{h.SnapshotDone, h.SnapshotOf, h.RowsDone, h.RowsExpected},
		Tables:   []TableStatus{}, Alarms: []TroubleStatus{},
	}
	for _, t := range s.alarms {
		st.Alarms = append(st.Alarms, tell(t))
	}
	if s.commitTime != 0 {
		st.PublishedTime = time.UnixMicro(s.commitTime).UTC()
	}
	for _, t := range s.tables {
		if t.relation() == nil {
			continue
		}
		one := TableStatus{
			Table: t.name(), State: "streaming", Level: t.progress.Level, Reason: t.catalog.Reason, Help: t.catalog.Help,
			SnapshotRows: t.progress.Rows, ExpectedRows: max(t.catalog.EstimatedRows, t.progress.Rows),
		}
		if t.pub != nil {
			one.Topic = t.pub.Topic()
		}
		if t.snapshot != nil {
			one.State = "snapshotting"
		}
		one.tellHeld(t.progress.Held)
		st.Tables = append(st.Tables, one)
	}
	slices.SortFunc(st.Tables, func(a, b TableStatus) int { return cmp.Compare(a.Table, b.Table) })
	c.status.Store(st)
}

// health is what the progress record says of this instance.
func (s *session) health() record.Health {
	h := record.Health{
		State: "up_to_date", Instance: s.instance, Version: service.ThisBuild().Version, HTTP: s.http,
		WALBudget: int64(s.config.Source.WALBudget),
	}
	for _, t := range s.tables {
		if t.relation() == nil {
			continue
		}
		if t.progress.Held != nil {
			h.Held++
			continue
		}
		h.SnapshotOf++
		h.RowsDone += t.progress.Rows
		if t.snapshot == nil {
			h.SnapshotDone++
			h.RowsExpected += t.progress.Rows
		} else {
			h.RowsExpected += max(t.catalog.EstimatedRows, t.progress.Rows)
		}
	}
	if f := s.facts.slot; f != nil {
		h.WALKept, h.WALSafe = f.KeptBytes, f.SafeBytes
	}
	if s.facts.wal > s.streamed {
		h.ToPublish = int64(s.facts.wal - s.streamed)
		if age := time.Since(time.UnixMicro(s.commitTime)); s.commitTime != 0 && age > 0 {
			h.BehindSeconds = age.Seconds()
		}
	}
	switch {
	case h.SnapshotDone < h.SnapshotOf:
		h.State = "snapshotting"
	case h.BehindSeconds > 60:
		h.State = "catching_up"
	}
	return h
}

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

// counters are the changes of one table by operation: insert, update, delete, truncate.
type counters [4]prometheus.Counter

// table makes the series of a table, so that they exist from the start.
func (m *meter) table(name string) *counters {
	c := &counters{}
	for i, op := range []string{"insert", "update", "delete", "truncate"} {
		c[i] = m.changes.WithLabelValues(name, op)
	}
	return c
}

func (c *counters) count(kind pgoutput.Kind) {
	switch kind {
	case pgoutput.KindInsert:
		c[0].Inc()
	case pgoutput.KindUpdate:
		c[1].Inc()
	case pgoutput.KindDelete:
		c[2].Inc()
	case pgoutput.KindTruncate:
		c[3].Inc()
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
