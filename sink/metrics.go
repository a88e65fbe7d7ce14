package sink

import (
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// metrics are what the sink counts. What can be read from its status is in gauges.
type metrics struct {
	rules     *rule.Set
	perTable  bool
	latency   *service.Latency
	changes   *prometheus.CounterVec
	rows      *prometheus.CounterVec
	commits   *prometheus.CounterVec
	duration  *service.Latency
	batchRows *prometheus.HistogramVec
	batchSize *prometheus.HistogramVec
	errors    *prometheus.CounterVec
	ruleErrs  *prometheus.CounterVec
	aside     *prometheus.CounterVec
	retries   *prometheus.CounterVec
	expired   *prometheus.CounterVec
	schemas   *prometheus.CounterVec
	skipped   atomic.Int64 // changes that a rule ignores or filters, of all tables

	all []prometheus.Collector
}

const namespace = "tributary_sink"

// Values of labels that are known from the start.
const (
	outcomeApplied   = "applied"
	outcomeIgnored   = "ignored"
	outcomeFiltered  = "filtered"
	outcomeDuplicate = "duplicate"
	outcomeParked    = "parked"
	outcomeExpired   = "expired"
	outcomeLeftOut   = "left_out"

	resultCommitted = "committed"
	resultFenced    = "fenced"
	resultFailed    = "failed"
	resultUnknown   = "unknown"

	effectInserted = "inserted"
	effectUpdated  = "updated"
	effectDeleted  = "deleted"
	effectClosed   = "closed"

	schemaApplied = "applied"
	schemaBlocked = "blocked"

	// anyOp is the operation of a record that was not decoded.
	anyOp = ""
)

var (
	opNames = [...]string{batch.Insert: "insert", batch.Update: "update", batch.Delete: "delete", batch.Truncate: "truncate", batch.Read: "read"}
	// retried are the reasons for which something is tried again.
	retried = []string{"warehouse", "supervision", "registry", "kafka", "group", "retention", "sweep", "target"}
)

func newMetrics(s *Sink) *metrics {
	f := service.Family{Namespace: namespace, Labels: prometheus.Labels{"group": s.cfg.Group}}
	m := &metrics{
		rules: s.rules, perTable: s.cfg.Metrics.PerTable,
		changes:   f.Counters("changes_total", "Changes by what became of them.", "source", "table", "op", "outcome"),
		rows:      f.Counters("rows_total", "Rows written to targets.", "target", "effect"),
		commits:   service.Each(f.Counters("commits_total", "Transactions in the warehouse.", "result"), resultCommitted, resultFenced, resultFailed, resultUnknown),
		duration:  f.Latency("apply_duration_seconds", "Duration of the transactions in the warehouse."),
		batchRows: f.Histogram("batch_rows", "Changes in a transaction.", service.RowsBuckets),
		batchSize: f.Histogram("batch_size_bytes", "Bytes of the records in a transaction.", service.BytesBuckets),
		errors:    service.Codes(f.Counters("errors_total", "Troubles, by code.", "code")),
		ruleErrs:  f.Counters("rule_errors_total", "Records for which an expression of a rule could not be computed.", "source", "table"),
		aside:     f.Counters("parked_rows_total", "Records that were put aside; without a code those that wait behind another.", "source", "table", "code"),
		expired:   f.Counters("expired_rows_total", "Rows that were removed since they were older than their rule's keep.", "target"),
		retries:   service.Each(f.Counters("warehouse_retries_total", "Tries that failed and were repeated, by whom they were waiting for.", "reason"), retried...),
		schemas:   service.Each(f.Counters("schema_changes_total", "Changes of targets, by whether they were made.", "outcome"), schemaApplied, schemaBlocked),
		latency: f.Latency("end_to_end_latency_seconds",
			"Time from the commit at the source to the commit in the warehouse, of the oldest change of each transaction and partition.", "source"),
	}
	m.all = append(f.All, s.stages.Collector(namespace, f.Labels, s.waits), &gauges{s: s})
	return m
}

// Collectors gives the metrics, which the sink's /metrics tells.
func (s *Sink) Collectors() []prometheus.Collector { return s.metrics.all }

// waits gives for whom the sink has been waiting longest, and since when; "" for nobody. What is tried again is waited for since it
// failed first.
func (s *Sink) waits() (on string, since time.Time) {
	var st Status
	s.tellWaiting(&st, s.consumer.Overview().Asked)
	if len(st.Waiting) == 0 {
		return "", time.Time{}
	}
	w := &st.Waiting[0]
	if on, since = w.whom(), w.Since; w.lock != "" {
		on = waitLock
	}
	return on, since
}

// label gives a table as metrics name it.
func (m *metrics) label(table string) string {
	if m.perTable {
		return table
	}
	return ""
}

// table makes the series of a topic's table, so that they are there from the start, and gives the one of its repeats.
func (m *metrics) table(topic string) (repeats prometheus.Counter) {
	source, schema, name, _ := record.ParseTopic(topic)
	table := m.label(schema + "." + name)
	if route, ok := matchTopic(m.rules, topic); ok {
		m.latency.WithLabelValues(source)
		m.ruleErrs.WithLabelValues(source, table)
		for _, op := range opNames {
			m.changes.WithLabelValues(source, table, op, outcomeApplied)
			if route.Filters() && op != opNames[batch.Truncate] {
				m.changes.WithLabelValues(source, table, op, outcomeFiltered)
			}
		}
		for _, op := range route.Ignored() {
			m.changes.WithLabelValues(source, table, op, outcomeIgnored)
		}
		m.changes.WithLabelValues(source, table, anyOp, outcomeParked)
		for _, code := range append([]trouble.Code{""}, parkableCodes...) {
			m.aside.WithLabelValues(source, table, string(code))
		}
		for _, effect := range []string{effectInserted, effectUpdated, effectDeleted} {
			m.rows.WithLabelValues(route.Target.String(), effect)
		}
		if age, _ := route.Keep(); age != "" {
			m.expired.WithLabelValues(route.Target.String())
		}
	}
	return m.changes.WithLabelValues(source, table, anyOp, outcomeDuplicate)
}

// trouble counts one, of a topic's table or, with "", of something else.
func (m *metrics) trouble(topic string, code trouble.Code) {
	m.errors.WithLabelValues(string(code)).Inc()
	source, schema, table, ok := record.ParseTopic(topic)
	switch {
	case code == trouble.SchemaChangeBlocked:
		m.schemas.WithLabelValues(schemaBlocked).Inc()
	case code == trouble.RuleError && ok:
		m.ruleErrs.WithLabelValues(source, m.label(schema+"."+table)).Inc()
	}
}

// applied counts one call of Apply.
func (m *metrics) applied(s *Sink, o *outcome, effects []warehouse.Effect, rows int, took time.Duration, err error) {
	m.duration.ObserveDuration(took)
	if err != nil {
		if !errors.Is(err, warehouse.ErrFenced) { // counted where it is found out what it means
			m.commits.WithLabelValues(resultFailed).Inc()
		}
		return
	}
	m.commits.WithLabelValues(resultCommitted).Inc()
	m.batchRows.WithLabelValues().Observe(float64(rows))
	now, size := time.Now(), 0
	for i := range o.parts {
		pt := &o.parts[i]
		size += pt.bytes
		s.table(pt.p.Topic).moved(pt.advance)
		if pt.first != 0 {
			m.latency.ObserveDuration(now.Sub(time.UnixMicro(pt.first)), sourceOf(pt.p.Topic))
		}
	}
	m.batchSize.WithLabelValues().Observe(float64(size))
	for i := range o.units {
		m.written(o.units[i].plan, o.units[i].fold.Counts(), effects[i])
	}
}

// written counts what became of the changes and rows of one unit.
func (m *metrics) written(plan *rule.Plan, counts batch.Counts, e warehouse.Effect) {
	table := m.label(plan.Schema + "." + plan.Table)
	for op, name := range opNames {
		m.skipped.Add(counts.Ignored[op] + counts.Left[op])
		for outcome, n := range map[string]int64{outcomeApplied: counts.Applied[op], outcomeIgnored: counts.Ignored[op], outcomeFiltered: counts.Left[op]} {
			if n > 0 {
				m.changes.WithLabelValues(plan.Source, table, name, outcome).Add(float64(n))
			}
		}
	}
	if e.Expired > 0 {
		m.changes.WithLabelValues(plan.Source, table, opNames[batch.Update], outcomeExpired).Add(float64(e.Expired))
	}
	if e.LeftOut > 0 {
		m.changes.WithLabelValues(plan.Source, table, opNames[batch.Update], outcomeLeftOut).Add(float64(e.LeftOut))
	}
	effects := map[string]int64{effectInserted: e.Inserted, effectUpdated: e.Updated, effectDeleted: e.Deleted}
	if plan.Mode == rule.History { // nothing is removed from it: the version that was valid ends
		effects = map[string]int64{effectInserted: e.Inserted, effectClosed: e.Updated + e.Deleted}
	}
	for effect, n := range effects {
		if n > 0 {
			m.rows.WithLabelValues(plan.Target.String(), effect).Add(float64(n))
		}
	}
}

// whole counts a cut.
func (m *metrics) whole(s *Sink, source string, w *wholeCut, took time.Duration) {
	m.duration.ObserveDuration(took)
	m.commits.WithLabelValues(resultCommitted).Inc()
	rows := int64(0)
	for k, move := range w.moved {
		rows += move.advance.Rows
		s.table(k.topic).moved(move.advance)
	}
	m.batchRows.WithLabelValues().Observe(float64(rows))
	m.batchSize.WithLabelValues().Observe(float64(w.read))
	if w.oldest != 0 {
		m.latency.ObserveDuration(time.Since(time.UnixMicro(w.oldest)), source)
	}
	for _, c := range w.counts {
		m.written(c.plan, c.counts, c.effect)
	}
}

// parked counts what a part put aside. Those that wait behind another record have no code.
func (m *metrics) parked(s *Sink, pt *part) {
	for i := range pt.aside {
		r := &pt.aside[i]
		m.aside.WithLabelValues(r.Source, m.label(r.Table), string(r.Reason.Code)).Inc()
		m.changes.WithLabelValues(r.Source, m.label(r.Table), anyOp, outcomeParked).Inc()
		if r.Behind == nil {
			m.trouble(r.Topic, r.Reason.Code)
			s.log.Error("record is parked, its table goes on", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset,
				"code", string(r.Reason.Code), "error", r.Reason.Message)
		}
	}
}

// gauges are read from the status when Prometheus asks. What is of the sink's own partitions each sink tells; what is read
// from the warehouse, and the same for all of them, tells the one that owns the progress of the source, so that nothing is
// counted twice.
type gauges struct{ s *Sink }

var (
	groupLabel   = []string{"group"}
	sourceLabels = []string{"group", "source"}
	tableLabels  = []string{"group", "source", "table"}

	descInfo       = desc("info", "Which sink; always 1.", "group", "instance_id", "server_version")
	descState      = desc("state", "1 for the state that the sink is in.", "group", "state")
	descAssigned   = desc("assigned_partitions", "Partitions of this sink.", groupLabel...)
	descRebalances = desc("rebalances_total", "Changes of the partitions of this sink.", groupLabel...)
	descBuffer     = desc("buffer_bytes", "Bytes of records held.", groupLabel...)
	descLimit      = desc("buffer_limit_bytes", "Bytes of records that may be held.", groupLabel...)
	descUp         = desc("warehouse_up", "1 if the last attempt to write or read the warehouse went well.", groupLabel...)
	descFreshness  = desc("freshness_target_seconds", "How far behind a table may be.", tableLabels...)
	descLag        = desc("lag_seconds", "Age of the oldest change known and not applied.", tableLabels...)
	descRecords    = desc("lag_records", "Records between checkpoint and end of the topic, commit markers included.", tableLabels...)
	descHeadroom   = desc("retention_headroom_seconds", "Time until Kafka deletes the oldest record that is not applied; infinite where none waits for longer than it may, or it keeps them for ever.", tableLabels...)
	descBarrier    = desc("barrier_waiting_since_timestamp_seconds", "Since when a partition of the table waits for the others at a TRUNCATE, 0 if none does.", tableLabels...)
	descQuarantine = desc("table_quarantined", "1 if a partition of the table is held by an error.", tableLabels...)
	descPaused     = desc("table_paused", "1 if somebody paused the table.", tableLabels...)
	descParked     = desc("parked_rows", "Records of the table that are put aside; without a code those that wait behind another.", "group", "source", "table", "code")
	descTables     = desc("tables", "Tables by state.", "group", "source", "state")
	descComplete   = desc("complete_timestamp_seconds", "Commit time up to which the source is complete in the warehouse.", sourceLabels...)
	descAge        = desc("complete_lag_seconds", "Age of the newest commit up to which the source is complete.", sourceLabels...)
	descCutoff     = desc("retention_cutoff_timestamp_seconds", "Before when no row of the target is kept any more, as of the last run of retention.", "group", "target")
	descMembers    = desc("group_members", "Sinks of the group that own a partition.", groupLabel...)
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descInfo, descState, descAssigned, descRebalances, descBuffer, descLimit, descUp, descFreshness, descLag, descRecords, descHeadroom, descBarrier,
		descQuarantine, descPaused, descParked, descTables, descComplete, descAge, descCutoff, descMembers,
	} {
		out <- d
	}
}

func (g *gauges) Collect(out chan<- prometheus.Metric) {
	s := g.s
	st := s.Status()
	var all service.Samples
	set := func(d *prometheus.Desc, v float64, labels ...string) {
		all.Add(d, prometheus.GaugeValue, v, append([]string{st.Group}, labels...)...)
	}
	set(descInfo, 1, st.Instance, st.Version)
	all.State(descState, service.SinkStates, st.State, st.Group)
	set(descAssigned, float64(st.Partitions))
	all.Add(descRebalances, prometheus.CounterValue, float64(st.Rebalances), st.Group)
	set(descBuffer, float64(st.BufferBytes))
	set(descLimit, float64(st.BufferLimit))
	set(descUp, service.Bool(st.WarehouseUp))
	g.own(&all, st)
	followed := map[string]bool{}
	lead := slices.IndexFunc(st.Sources, func(src SourceStatus) bool { return src.State != service.StateLeftOut }) // see leads
	for i := range st.Sources {
		src := &st.Sources[i]
		if !s.follows(src.Name) {
			continue
		}
		if followed[src.Name] = true; i == lead {
			set(descMembers, float64(st.owners()))
		}
		complete, age := math.NaN(), math.Inf(1) // nothing is known to be
		if src.CompleteAt != nil && src.AgeSeconds != nil {
			complete, age = float64(src.CompleteAt.UnixMicro())/1e6, *src.AgeSeconds
		}
		set(descComplete, complete, src.Name)
		set(descAge, age, src.Name)
		for _, state := range service.TableStates {
			set(descTables, 0, src.Name, state)
		}
	}
	s.mu.Lock()
	parked, retained := s.seen.parked, s.seen.retained
	s.mu.Unlock()
	for i := range st.Tables {
		t := &st.Tables[i]
		if !followed[t.Source] {
			continue
		}
		table := s.metrics.label(t.Table)
		set(descTables, 1, t.Source, t.State)
		all.Most(descQuarantine, service.Bool(t.Trouble != nil), st.Group, t.Source, table)
		all.Most(descPaused, service.Bool(t.PausedSince != nil), st.Group, t.Source, table)
		set(descParked, float64(parked[t.Topic][""].Records), t.Source, table, "")
		for _, code := range parkableCodes {
			set(descParked, float64(parked[t.Topic][code].Records), t.Source, table, string(code))
		}
		if t.Keep != "" { // of several feeds the one that is behind
			e, ran := retained[t.Topic]
			all.Least(descCutoff, service.Known(ran, float64(e.Cutoff.Unix())), st.Group, t.Target)
		}
	}
	all.Send(out)
}

// own gathers what is of the sink's own partitions. Those of a source that is written as a whole belong to the one that owns
// its progress.
func (g *gauges) own(all *service.Samples, st *Status) {
	s, now := g.s, time.Now()
	views := map[string][]consume.View{}
	for _, v := range s.consumer.Views() {
		views[v.Topic] = append(views[v.Topic], v)
	}
	kept := s.consumer.Overview().Retention
	barriers := map[string]time.Time{}
	s.mu.Lock()
	for p, h := range s.held {
		if since, known := barriers[p.Topic]; !h.barrier.IsZero() && (!known || h.since.Before(since)) {
			barriers[p.Topic] = h.since
		}
	}
	s.mu.Unlock()
	for i := range st.Tables {
		t := &st.Tables[i]
		of := views[t.Topic]
		if s.rules.Whole(t.Source) {
			of = views[record.ProgressTopic(t.Source)]
		}
		if len(of) == 0 {
			continue // another sink's
		}
		labels := []string{st.Group, t.Source, s.metrics.label(t.Table)}
		behind, records, since := 0.0, int64(0), 0.0
		for _, v := range of {
			records += max(v.End-v.Next, 0)
			if !v.Oldest.IsZero() {
				behind = max(behind, now.Sub(v.Oldest).Seconds())
			}
		}
		if at, waits := barriers[t.Topic]; waits {
			since = float64(at.UnixMilli()) / 1000
		}
		all.Most(descLag, behind, labels...)
		all.Add(descRecords, prometheus.GaugeValue, float64(records), labels...)
		all.Least(descFreshness, t.FreshnessSeconds, labels...)
		all.Least(descHeadroom, headroom(kept[of[0].Topic], behind, t.FreshnessSeconds), labels...)
		all.Most(descBarrier, since, labels...)
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

// leads says whether this is the sink that tells of the group: the one that follows the first source that is read.
func (s *Sink) leads(sources []warehouse.Source) bool {
	i := slices.IndexFunc(sources, func(src warehouse.Source) bool { _, named := s.rules.Source(src.Name); return named })
	return i >= 0 && s.follows(sources[i].Name)
}
