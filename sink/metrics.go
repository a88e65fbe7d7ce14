package sink

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// metrics are what Prometheus is told. All names begin with tributary_sink_.
type metrics struct {
	latency   *service.Latency
	changes   *prometheus.CounterVec
	rows      *prometheus.CounterVec
	commits   *prometheus.CounterVec
	duration  prometheus.Histogram
	batchRows prometheus.Histogram
	errors    *prometheus.CounterVec
	aside     *prometheus.CounterVec
	retries   *prometheus.CounterVec
	expired   *prometheus.CounterVec
}

const namespace = "tributary_sink"

var opNames = [...]string{batch.Insert: "insert", batch.Update: "update", batch.Delete: "delete", batch.Truncate: "truncate", batch.Read: "read"}

func newMetrics(s *Sink) *metrics {
	group := prometheus.Labels{"group": s.cfg.Group}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help, ConstLabels: group}, labels)
	}
	m := &metrics{
		latency: service.NewLatency(prometheus.HistogramOpts{
			Namespace: namespace, Name: "end_to_end_latency_seconds",
			Help: "Time from the commit at the source to the commit in the warehouse, of the oldest change of each transaction and partition.", ConstLabels: group,
		}),
		changes: counter("changes_total", "Changes by what became of them.", "source", "table", "op", "outcome"),
		rows:    counter("rows_total", "Rows written to targets.", "target", "effect"),
		commits: counter("commits_total", "Transactions in the warehouse.", "result"),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "apply_duration_seconds",
			Help: "Duration of the transactions in the warehouse.", ConstLabels: group,
			Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 300},
		}),
		batchRows: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "batch_rows",
			Help: "Changes in a transaction.", ConstLabels: group, Buckets: []float64{1, 10, 100, 1e3, 1e4, 1e5, 1e6},
		}),
		errors:  counter("errors_total", "Errors by their code.", "code"),
		aside:   counter("parked_rows_total", "Records that were put aside.", "source", "table", "code"),
		expired: counter("expired_rows_total", "Rows that were removed since they were older than their rule's keep.", "target"),
		retries: counter("retries_total", "Tries that failed and were repeated.", "reason"),
	}
	for _, result := range []string{"committed", "fenced", "failed", "unknown"} {
		m.commits.WithLabelValues(result)
	}
	s.server.Registry().MustRegister(m.latency, m.changes, m.rows, m.commits, m.duration, m.batchRows, m.errors, m.aside, m.retries, m.expired,
		s.stages.Collector(namespace, group), &gauges{s: s})
	return m
}

// applied counts one call of Apply.
func (m *metrics) applied(s *Sink, o *outcome, effects []warehouse.Effect, rows int, took time.Duration, err error) {
	m.duration.Observe(took.Seconds())
	if err != nil {
		if !errors.Is(err, warehouse.ErrFenced) { // counted where it is found out what it means
			m.commits.WithLabelValues("failed").Inc()
		}
		return
	}
	m.commits.WithLabelValues("committed").Inc()
	m.batchRows.Observe(float64(rows))
	now := time.Now()
	for i := range o.parts {
		pt := &o.parts[i]
		s.table(pt.p.Topic).moved(pt.advance)
		if pt.first != 0 {
			m.latency.ObserveDuration(now.Sub(time.UnixMicro(pt.first)))
		}
	}
	for i := range o.units {
		m.written(o.units[i].plan, o.units[i].fold.Counts(), effects[i])
	}
}

// written counts what became of the changes and rows of one unit.
func (m *metrics) written(plan *rule.Plan, counts batch.Counts, e warehouse.Effect) {
	table := plan.Schema + "." + plan.Table
	for op, name := range opNames {
		for outcome, n := range map[string]int64{"applied": counts.Applied[op], "ignored": counts.Ignored[op], "filtered": counts.Left[op]} {
			if n > 0 {
				m.changes.WithLabelValues(plan.Source, table, name, outcome).Add(float64(n))
			}
		}
	}
	if e.Expired > 0 {
		m.changes.WithLabelValues(plan.Source, table, "update", "expired").Add(float64(e.Expired))
	}
	if e.LeftOut > 0 {
		m.changes.WithLabelValues(plan.Source, table, "update", "left_out").Add(float64(e.LeftOut))
	}
	for effect, n := range map[string]int64{"inserted": e.Inserted, "updated": e.Updated, "deleted": e.Deleted} {
		if n > 0 {
			m.rows.WithLabelValues(plan.Target.String(), effect).Add(float64(n))
		}
	}
}

// whole counts a cut.
func (m *metrics) whole(s *Sink, w *wholeCut, took time.Duration) {
	m.duration.Observe(took.Seconds())
	m.commits.WithLabelValues("committed").Inc()
	rows := int64(0)
	for k, move := range w.moved {
		rows += move.advance.Rows
		s.table(k.topic).moved(move.advance)
	}
	m.batchRows.Observe(float64(rows))
	if w.oldest != 0 {
		m.latency.ObserveDuration(time.Since(time.UnixMicro(w.oldest)))
	}
	for _, c := range w.counts {
		m.written(c.plan, c.counts, c.effect)
	}
}

// parked counts what a part put aside. Those that wait behind another record have no code.
func (m *metrics) parked(s *Sink, pt *part) {
	for i := range pt.aside {
		r := &pt.aside[i]
		m.aside.WithLabelValues(r.Source, r.Table, string(r.Reason.Code)).Inc()
		if r.Behind == nil {
			m.errors.WithLabelValues(string(r.Reason.Code)).Inc()
			s.log.Error("record is parked, its table goes on", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset,
				"code", string(r.Reason.Code), "error", r.Reason.Message)
		}
	}
}

// gauges are read when Prometheus asks.
type gauges struct{ s *Sink }

var (
	groupLabel  = []string{"group"}
	tableLabels = []string{"group", "source", "table"}

	descAssigned   = prometheus.NewDesc(namespace+"_assigned_partitions", "Partitions of this sink.", groupLabel, nil)
	descRebalances = prometheus.NewDesc(namespace+"_rebalances_total", "Changes of the partitions of this sink.", groupLabel, nil)
	descBuffer     = prometheus.NewDesc(namespace+"_buffer_bytes", "Bytes of records held.", groupLabel, nil)
	descLimit      = prometheus.NewDesc(namespace+"_buffer_limit_bytes", "Bytes of records that may be held.", groupLabel, nil)
	descUp         = prometheus.NewDesc(namespace+"_warehouse_up", "1 if the last attempt to write or read the warehouse went well.", groupLabel, nil)
	descFreshness  = prometheus.NewDesc(namespace+"_freshness_target_seconds", "How far behind a table may be.", groupLabel, nil)
	descLag        = prometheus.NewDesc(namespace+"_lag_seconds", "Age of the oldest change known and not applied.", tableLabels, nil)
	descRecords    = prometheus.NewDesc(namespace+"_lag_records", "Records between checkpoint and end of the topic, commit markers included.", tableLabels, nil)
	descQuarantine = prometheus.NewDesc(namespace+"_table_quarantined", "1 if a partition of the table is held by an error.", tableLabels, nil)
	descPaused     = prometheus.NewDesc(namespace+"_table_paused", "1 if somebody paused the table.", tableLabels, nil)
	descParked     = prometheus.NewDesc(namespace+"_parked_rows", "Records of the table that are put aside.", tableLabels, nil)
	descComplete   = prometheus.NewDesc(namespace+"_complete_lag_seconds", "Age of the newest commit up to which the source is complete.", []string{"group", "source"}, nil)
)

func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descAssigned, descRebalances, descBuffer, descLimit, descUp, descFreshness, descLag, descRecords, descQuarantine, descPaused, descParked, descComplete} {
		out <- d
	}
}

func (g *gauges) Collect(out chan<- prometheus.Metric) {
	s := g.s
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, append([]string{s.cfg.Group}, labels...)...)
	}
	st := s.Status()
	send(descAssigned, prometheus.GaugeValue, float64(st.Partitions))
	send(descRebalances, prometheus.CounterValue, float64(st.Rebalances))
	send(descBuffer, prometheus.GaugeValue, float64(st.BufferBytes))
	send(descLimit, prometheus.GaugeValue, float64(st.BufferLimit))
	send(descUp, prometheus.GaugeValue, float64(boolNumber(st.WarehouseUp)))
	send(descFreshness, prometheus.GaugeValue, s.cfg.Freshness.Seconds())
	for _, t := range st.Tables {
		if t.Partitions == 0 {
			continue // another sink's
		}
		send(descLag, prometheus.GaugeValue, t.BehindSeconds, t.Source, t.Table)
		send(descRecords, prometheus.GaugeValue, float64(t.Records), t.Source, t.Table)
		send(descQuarantine, prometheus.GaugeValue, float64(boolNumber(t.State == StateQuarantined)), t.Source, t.Table)
		send(descPaused, prometheus.GaugeValue, float64(boolNumber(t.State == StatePaused)), t.Source, t.Table)
		send(descParked, prometheus.GaugeValue, float64(t.Parked), t.Source, t.Table)
	}
	for _, src := range st.Sources {
		if src.AgeSeconds != nil && s.follows(src.Name) {
			send(descComplete, prometheus.GaugeValue, *src.AgeSeconds, src.Name)
		}
	}
}

// follows says whether this sink applies the progress of the source.
func (s *Sink) follows(source string) bool {
	topic := record.ProgressTopic(source)
	for _, v := range s.consumer.Views() {
		if v.Topic == topic {
			return true
		}
	}
	return false
}

func boolNumber(b bool) int {
	if b {
		return 1
	}
	return 0
}
