package sink

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// The states of a table, a source and the sink itself: the words of every page, metric and log line.
const (
	StateLeftOut      = "left_out"
	StateStopped      = "stopped"
	StateQuarantined  = "quarantined"
	StatePaused       = "paused"
	StateStarting     = "starting"
	StateWaiting      = "waiting"
	StateBehind       = "falling_behind"
	StateCatchingUp   = "catching_up"
	StateSnapshotting = "snapshotting"
	StateUpToDate     = "up_to_date"
)

// severity orders states, worst first.
var severity = []string{
	StateStopped, StateQuarantined, StatePaused, StateStarting, StateWaiting, StateBehind, StateCatchingUp, StateSnapshotting, StateUpToDate, StateLeftOut,
}

const statusSchema = "tributary.sink.status/1"

// Status is what /status shows. Times are UTC, durations seconds, sizes bytes. Fields are added, never renamed or removed.
type Status struct {
	Schema      string               `json:"schema"`
	Group       string               `json:"group"`
	Instance    string               `json:"instance"`
	Build       service.Build        `json:"build"`
	Since       time.Time            `json:"since"`
	State       string               `json:"state"`
	Step        string               `json:"step,omitempty"` // of the start
	Headline    string               `json:"headline"`
	WarehouseUp bool                 `json:"warehouse_up"`
	Partitions  int                  `json:"partitions"`
	Rebalances  int64                `json:"rebalances"`
	BufferBytes int64                `json:"buffer_bytes"`
	BufferLimit int64                `json:"buffer_limit_bytes"`
	RowsPerSec  float64              `json:"rows_per_second"` // changes applied, last minute
	LatencyP50  *float64             `json:"latency_p50_seconds"`
	LatencyP99  *float64             `json:"latency_p99_seconds"`
	Waiting     []Waiting            `json:"waiting"`
	Sources     []SourceStatus       `json:"sources"`
	Tables      []TableStatus        `json:"tables"`
	Unmatched   []string             `json:"unmatched_topics"` // no rule wants them
	Stages      []service.StageState `json:"stages"`
}

// Waiting is something that is tried again and again.
type Waiting struct {
	For   string    `json:"for"`
	Since time.Time `json:"since"`
	Tries int       `json:"tries"`
	Code  string    `json:"code"`
	Error string    `json:"error"`
}

// SourceStatus is one source, from tributary.progress.
type SourceStatus struct {
	Name        string        `json:"name"`
	State       string        `json:"state"`
	CompleteLSN string        `json:"complete_lsn,omitempty"`
	CompleteAt  *time.Time    `json:"complete_at,omitempty"` // commit time at the source
	AgeSeconds  *float64      `json:"age_seconds"`
	Fences      []string      `json:"fences"`
	Tables      int           `json:"tables"`
	Capture     record.Health `json:"capture"`
	ReportedAt  time.Time     `json:"reported_at"`
}

// TableStatus is one table of one source.
type TableStatus struct {
	Source        string     `json:"source"`
	Table         string     `json:"table"` // schema.table at the source
	Target        string     `json:"target"`
	State         string     `json:"state"`
	BehindSeconds float64    `json:"behind_seconds"`
	Records       int64      `json:"records_waiting"` // commit markers included
	RowsPerSec    float64    `json:"rows_per_second"`
	Applied       int64      `json:"changes_applied"` // by this sink, since its start
	Duplicates    int64      `json:"duplicates"`
	LastCommit    *time.Time `json:"last_commit,omitempty"` // at the source, of the last change applied
	Position      string     `json:"position,omitempty"`
	Partitions    int        `json:"partitions"` // of this sink; 0: the table is another member's
	Parked        int64      `json:"parked"`     // records put aside
	PausedSince   *time.Time `json:"paused_since,omitempty"`
	PausedReason  string     `json:"paused_reason,omitempty"`
	Trouble       *Trouble   `json:"trouble,omitempty"`
	WaitingOn     string     `json:"waiting_on,omitempty"`
	Keep          string     `json:"keep,omitempty"`       // rows that are older are removed
	Expired       int64      `json:"expired,omitempty"`    // rows removed so, by all sinks
	ExpiredAt     *time.Time `json:"expired_at,omitempty"` // end of the last run
}

// Trouble is an error that holds a table.
type Trouble struct {
	Code      string    `json:"code"`
	Message   string    `json:"message"`
	Hint      string    `json:"hint"`
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	Since     time.Time `json:"since"`
}

// waitingAfter is how long something must be waited for to count as waiting.
const waitingAfter = 5 * time.Second

// Status gives the state of the sink. It is safe to call at any time.
func (s *Sink) Status() *Status {
	overview := s.consumer.Overview()
	views := s.consumer.Views()
	st := &Status{
		Schema: statusSchema, Group: s.cfg.Group, Instance: s.instance, Build: service.ThisBuild(), Since: s.started.UTC(),
		WarehouseUp: true, Partitions: len(views), Rebalances: overview.Rebalances, BufferBytes: overview.Bytes, BufferLimit: overview.Limit,
		Waiting: []Waiting{}, Sources: []SourceStatus{}, Tables: []TableStatus{}, Unmatched: []string{}, Stages: s.stages.Snapshot(),
	}
	if p50, p99, ok := s.Latency(); ok {
		a, b := p50.Seconds(), p99.Seconds()
		st.LatencyP50, st.LatencyP99 = &a, &b
	}
	s.mu.Lock()
	st.Step = s.step
	waits := false
	for what, w := range s.waiting {
		st.Waiting = append(st.Waiting, Waiting{what, w.since.UTC(), w.tries, string(trouble.CodeOf(w.err)), w.err.Error()})
		waits = waits || time.Since(w.since) >= waitingAfter
		if what == "warehouse" || what == "supervision" {
			st.WarehouseUp = false
		}
	}
	st.WarehouseUp = st.WarehouseUp && st.Step != "connecting to the warehouse"
	sources := slices.Clone(s.sources)
	troubles := map[string]*Trouble{}
	for _, q := range s.troubles {
		troubles[q.Topic] = &Trouble{q.Code, q.Message, q.Hint, q.Topic, q.Partition, q.Next, q.Since.UTC()}
	}
	for p, h := range s.held {
		if t := troubles[p.Topic]; t == nil && h.barrier.IsZero() && !h.fenced && !h.paused && !h.moved {
			troubles[p.Topic] = &Trouble{Code: string(trouble.CodeOf(h.err)), Message: h.err.Error(), Topic: p.Topic, Partition: p.Number, Offset: h.next, Since: h.since.UTC()}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(st.Waiting, func(a, b Waiting) int { return a.Since.Compare(b.Since) })

	snapshots := map[string]bool{}
	late := map[string]bool{}
	for _, src := range sources {
		late[src.Name] = src.Lag == nil || *src.Lag > s.cfg.Freshness
		for topic, t := range src.Tables {
			snapshots[topic] = !t.Done && t.Level != "left out"
			if h := t.Held; h != nil && troubles[topic] == nil {
				troubles[topic] = &Trouble{Code: h.Code, Message: "held by capture: " + h.Message, Hint: h.Hint, Topic: topic, Since: time.UnixMicro(h.Since).UTC()}
			}
		}
	}
	topics := slices.Clone(overview.Topics)
	for _, topic := range overview.Unrouted {
		if s.consumed(topic) {
			topics = append(topics, topic) // of a source that is written as a whole
		}
	}
	slices.Sort(topics)
	for _, topic := range topics {
		if t, ok := s.tableStatus(topic, views, troubleOf(s.rules, troubles, topic), snapshots[topic], waits); ok {
			if t.Partitions == 0 && t.State == StateUpToDate && late[t.Source] {
				t.State = StateCatchingUp // as far as the source's progress tells; its member knows better
			}
			st.Tables = append(st.Tables, t)
			st.RowsPerSec += t.RowsPerSec
		}
	}
	for _, topic := range overview.Unrouted {
		if source, schema, table, ok := record.ParseTopic(topic); ok && !s.consumed(topic) && !s.rules.Skipped(source, schema, table) && !s.removed(source) {
			st.Unmatched = append(st.Unmatched, topic)
		}
	}
	st.addSources(sources)
	s.summarise(st, overview, waits)
	return st
}

// addSources adds the sources behind the tables, from whose states theirs comes.
func (st *Status) addSources(sources []warehouse.Source) {
	for _, src := range sources {
		out := SourceStatus{
			Name: src.Name, State: StateUpToDate, CompleteLSN: src.CompleteLSN, CompleteAt: src.CompleteAt, Fences: src.Fences,
			Capture: src.Capture, ReportedAt: src.ReportedAt.UTC(),
		}
		if src.Lag != nil {
			age := src.Lag.Seconds()
			out.AgeSeconds = &age
		}
		for i := range st.Tables {
			if st.Tables[i].Source == src.Name {
				out.Tables++
				out.State = worst(out.State, st.Tables[i].State)
			}
		}
		st.Sources = append(st.Sources, out)
	}
}

// troubleOf gives the trouble of a topic's table: its own, or that of its source if that is written as a whole.
func troubleOf(rules *rule.Set, troubles map[string]*Trouble, topic string) *Trouble {
	if source, _, _, ok := record.ParseTopic(topic); ok && rules.Whole(source) {
		topic = record.ProgressTopic(source)
	}
	return troubles[topic]
}

// troubleState is the state of a table that an error holds.
func troubleState(t *Trouble) string {
	switch trouble.Code(t.Code) {
	case trouble.TopicRecreated, trouble.TopicTruncated, trouble.TopicPartitionsChanged:
		return StateStopped
	}
	return StateQuarantined
}

// pausedBy notes the pause that holds the table, if one does.
func (t *TableStatus) pausedBy(pauses []warehouse.Pause) bool {
	for i := range pauses {
		if p := &pauses[i]; p.Covers(t.Source, t.Table) {
			since := p.Since.UTC()
			t.PausedSince, t.PausedReason = &since, p.Reason
			return true
		}
	}
	return false
}

// expired notes what retention has done.
func (t *TableStatus) expired(route *rule.Route, retained map[string]warehouse.Expired) {
	age, _ := route.Keep()
	if t.Keep = string(age); t.Keep == "" {
		return
	}
	topic, _ := record.Topic(route.Source, route.Schema, route.Table)
	if e, ok := retained[topic]; ok {
		at := e.RanAt.UTC()
		t.Expired, t.ExpiredAt = e.Ever, &at
	}
}

func (s *Sink) tableStatus(topic string, views []consume.View, t *Trouble, snapshot, waits bool) (TableStatus, bool) {
	route, ok := s.match(topic)
	if !ok {
		return TableStatus{}, false
	}
	out := TableStatus{
		Source: route.Source, Table: route.Schema + "." + route.Table, Target: route.Target.String(), State: StateUpToDate, Trouble: t,
	}
	s.mu.Lock()
	out.Parked = s.parked[topic]
	out.expired(route, s.retained)
	paused := out.pausedBy(s.pauses)
	s.mu.Unlock()
	stats := s.table(topic)
	stats.mu.Lock()
	out.Applied, out.Duplicates = stats.changes, stats.duplicates
	if stats.lastCommit != 0 {
		at := time.UnixMicro(stats.lastCommit).UTC()
		out.LastCommit = &at
	}
	stats.mu.Unlock()
	out.RowsPerSec = stats.rate()
	barrier := false
	var newest change.Position
	for _, v := range views {
		if v.Topic != topic {
			continue
		}
		out.Partitions++
		out.Records += max(v.End-v.Next, 0)
		if !v.Oldest.IsZero() {
			out.BehindSeconds = max(out.BehindSeconds, time.Since(v.Oldest).Seconds())
		}
		if v.Position.Compare(newest) > 0 {
			newest = v.Position
		}
		barrier = barrier || errors.Is(v.Held, errBarrier)
	}
	if !newest.IsZero() {
		out.Position = newest.String()
	}
	switch {
	case t != nil:
		out.State = troubleState(t)
	case paused:
		out.State = StatePaused
	case barrier:
		out.State, out.WaitingOn = StateWaiting, "the other partitions of a TRUNCATE"
	case waits && out.Records > 0:
		out.State = StateWaiting
	case out.BehindSeconds > s.cfg.Freshness.Seconds() && out.RowsPerSec == 0:
		out.State = StateBehind
	case out.BehindSeconds > s.cfg.Freshness.Seconds():
		out.State = StateCatchingUp
	case snapshot:
		out.State = StateSnapshotting
	}
	return out, true
}

func worst(a, b string) string {
	if slices.Index(severity, a) < slices.Index(severity, b) {
		return a
	}
	return b
}

// summarise gives the group's state as far as its tables tell, and the sentence that says it. It gives false if nothing
// needs anybody.
func (st *Status) summarise() bool {
	st.State = StateUpToDate
	bad, parked := 0, int64(0)
	for i := range st.Tables {
		parked += st.Tables[i].Parked
		st.State = worst(st.State, st.Tables[i].State)
		if state := st.Tables[i].State; state == StateQuarantined || state == StateStopped {
			bad++
		}
	}
	if bad > 0 || parked > 0 {
		st.Headline = needsYou(bad, len(st.Tables), parked)
		return true
	}
	st.Headline = "healthy: " + st.State
	return false
}

// summarise gives the sink's own state, and the sentence that says it.
func (s *Sink) summarise(st *Status, overview consume.Overview, waits bool) {
	if st.summarise() {
		return
	}
	switch {
	case st.Step != "" && !waits && len(overview.Topics) > 0:
		st.State, st.Headline = StateStarting, "starting: "+st.Step
	case waits:
		st.State = StateWaiting
		st.Headline = fmt.Sprintf("waiting for %s since %s: %s", st.Waiting[0].For, st.Waiting[0].Since.Format(time.RFC3339), st.Waiting[0].Error)
	case overview.Ready && len(overview.Topics) == 0:
		st.State = StateWaiting
		st.Headline = "waiting for topics: none matches the rules"
	}
}

// needsYou is the sentence about quarantined tables and parked records.
func needsYou(bad, tables int, parked int64) string {
	var what []string
	switch {
	case bad == 1:
		what = append(what, "1 table is quarantined")
	case bad > 1:
		what = append(what, fmt.Sprintf("%d tables are quarantined", bad))
	}
	switch {
	case parked == 1:
		what = append(what, "1 row is parked")
	case parked > 1:
		what = append(what, service.FormatCount(parked)+" rows are parked")
	}
	rest := "All tables go on."
	if bad > 0 {
		rest = fmt.Sprintf("The other %d go on.", tables-bad)
	}
	return fmt.Sprintf("needs you: %s. %s", strings.Join(what, ", "), rest)
}

// notice says what /readyz lacks, and logs once of topics that no rule wants.
func (s *Sink) notice() {
	st := s.Status()
	var missing []string
	if !st.WarehouseUp {
		missing = append(missing, "the warehouse")
	}
	if st.Step != "" {
		missing = append(missing, st.Step)
	}
	s.server.Ready(missing...)
	s.mu.Lock()
	var fresh []string
	for _, topic := range st.Unmatched {
		if !s.unlisted[topic] {
			s.unlisted[topic] = true
			fresh = append(fresh, topic)
		}
	}
	s.mu.Unlock()
	if len(fresh) > 0 {
		s.log.Warn("topics match no rule and are not written", "topics", len(fresh), "first", fresh[0], "hint", "say skip: true if that is meant")
	}
}
