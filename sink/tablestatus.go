package sink

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// TableStatus is one table of one source.
type TableStatus struct {
	Source string `json:"source"`
	Table  string `json:"table"` // schema.table at the source
	Target string `json:"target"`
	State  string `json:"state"`
	// BehindSeconds, Records and RowsPerSec are of all sinks, and null where nobody who was asked knows them. Unknown says why that is.
	BehindSeconds *float64 `json:"behind_seconds"`
	Unknown       string   `json:"unknown,omitempty"`
	// FreshnessSeconds is how far behind it may be and still count as up to date.
	FreshnessSeconds float64    `json:"freshness_seconds"`
	Records          *int64     `json:"records_waiting"` // commit markers included
	RowsPerSec       *float64   `json:"rows_per_second"`
	Applied          int64      `json:"changes_applied"` // by this sink, since its start
	Duplicates       int64      `json:"duplicates"`
	LastCommit       *time.Time `json:"last_commit,omitempty"` // at the source, of the last change applied
	Position         string     `json:"position,omitempty"`
	Partitions       int        `json:"partitions"` // of this sink; 0: the table is another member's
	Parked           int64      `json:"parked"`     // records put aside
	ParkedBy         []ParkedBy `json:"parked_by,omitempty"`
	PausedSince      *time.Time `json:"paused_since,omitempty"`
	PausedReason     string     `json:"paused_reason,omitempty"`
	Trouble          *Trouble   `json:"trouble,omitempty"`
	Barrier          *Barrier   `json:"barrier,omitempty"` // where one of its partitions waits at a TRUNCATE
	WaitingOn        string     `json:"waiting_on,omitempty"`
	Keep             string     `json:"keep,omitempty"`        // rows that are older are removed
	Expired          int64      `json:"expired,omitempty"`     // rows removed so, by all sinks
	ExpiredAt        *time.Time `json:"expired_at,omitempty"`  // end of the last run
	ETASeconds       *float64   `json:"eta_seconds,omitempty"` // until nothing waits; absent: it does not become less, or is not known yet
	// HeadroomSeconds is until Kafka deletes the oldest record that is not applied; absent: it keeps that for ever, how long is not known, or
	// none waits for longer than it may.
	HeadroomSeconds *float64 `json:"retention_headroom_seconds,omitempty"`
	// LastHour is seconds behind, the most that this sink saw in each minute, the newest last; null where it saw nothing.
	LastHour     service.Points `json:"last_hour"`
	Snapshot     bool           `json:"snapshot,omitempty"` // rows that were there before are still to come
	SnapshotRows int64          `json:"snapshot_rows,omitempty"`
	// ReloadSince is when all rows began to come again; until the end of that, rows that are gone at the source are still there.
	// ReloadDue says that all have come and those are being removed.
	ReloadSince *time.Time `json:"reload_since,omitempty"`
	ReloadDue   bool       `json:"reload_due,omitempty"`
	Rule        string     `json:"rule,omitempty"` // by which it is written: "tables[1]"
	// Gone says that its source captures it no more, as it was dropped or renamed there, or is left out: nothing will come.
	Gone bool `json:"gone,omitempty"`
	// InsertsOnly says that only INSERT and TRUNCATE of it are captured: rows that are updated or deleted at the source stay as they are.
	InsertsOnly bool `json:"inserts_only,omitempty"`
	// Former tells of rows that are not as the rule says; absent where all are.
	Former []FormerRule `json:"former_rules,omitempty"`

	// States, the newest first, Plan, what its rule does, and Index, by which its rows are found, are there only where one table
	// is asked of.
	States []service.Turn `json:"states,omitempty"`
	Plan   string         `json:"plan,omitempty"`
	Index  string         `json:"index,omitempty"`

	Mode  string `json:"mode,omitempty"`
	Topic string `json:"topic,omitempty"`

	sid string // of its source, in the column of that; "" without one
}

// ParkedBy is how many records are put aside for one reason.
type ParkedBy struct {
	Code    string    `json:"code"` // "" of those that wait behind another one of their key
	Records int64     `json:"records"`
	Oldest  time.Time `json:"oldest"` // when the first was put aside
	Newest  time.Time `json:"newest"`
}

// aside notes what is put aside of the table.
func (t *TableStatus) aside(counts map[trouble.Code]warehouse.ParkedCount) {
	for _, code := range slices.Sorted(maps.Keys(counts)) {
		n := counts[code]
		t.Parked += n.Records
		t.ParkedBy = append(t.ParkedBy, ParkedBy{string(code), n.Records, n.Oldest.UTC(), n.Newest.UTC()})
	}
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

// stops says whether what is wrong does not go away by mending the target or the rule.
func (t *Trouble) stops() bool {
	if t == nil {
		return false
	}
	switch trouble.Code(t.Code) {
	case trouble.TopicRecreated, trouble.TopicTruncated, trouble.TopicPartitionsChanged:
		return true
	}
	return false
}

// troubleOf gives the trouble of a topic's table: its own, or that of its source if that is written as a whole.
func troubleOf(rules *rule.Set, troubles map[string]*Trouble, topic string) *Trouble {
	return troubles[leading(rules, topic)]
}

// leading gives the topic by whose partitions a sink has those of a topic: itself, or the progress of a source that is written as a whole.
func leading(rules *rule.Set, topic string) string {
	if source, _, _, ok := record.ParseTopic(topic); ok && rules.Whole(source) {
		return record.ProgressTopic(source)
	}
	return topic
}

// lasted gives for how long what makes the table's state has lasted when it is one.
func (t *TableStatus) lasted() time.Duration {
	if t.State == service.StateWaiting && t.WaitingOn != waitBarrier {
		return service.WaitingAfter
	}
	return 0
}

func (s *Sink) tableStatus(topic string, views []consume.View, t *Trouble, rows warehouse.TableProgress, claiming bool, st *Status) (TableStatus, bool) {
	route, ok := s.match(topic)
	if !ok {
		return TableStatus{}, false
	}
	out := TableStatus{
		Source: route.Source, Table: route.Schema + "." + route.Table, Target: route.Target.String(), Trouble: t, Mode: route.Mode(), Topic: topic, Rule: fmt.Sprintf("tables[%d]", route.Rule),
		FreshnessSeconds: route.Freshness(s.cfg.Freshness).Seconds(),
		SnapshotRows:     rows.Rows, Snapshot: rows.Level != "" && !rows.Done && rows.Level != "left out",
	}
	now := time.Now()
	s.mu.Lock()
	out.aside(s.seen.parked[topic])
	out.expired(route, s.seen.retained)
	paused := out.pausedBy(s.seen.pauses)
	out.reloads(topic, s.seen.reloads)
	out.Barrier = s.barrierOf(topic)
	out.Former, out.sid = formerRules(route, s.seen.formers[topic]), route.SIDThere()
	s.mu.Unlock()
	stats := s.table(topic)
	stats.mu.Lock()
	out.Applied, out.Duplicates = stats.changes, stats.duplicates
	if stats.lastCommit != 0 {
		at := time.UnixMicro(stats.lastCommit).UTC()
		out.LastCommit = &at
	}
	stats.mu.Unlock()
	at := s.outlook.stand(topic, views)
	if commit := utc(at.lastCommit); commit != nil && (out.LastCommit == nil || commit.After(*out.LastCommit)) {
		out.LastCommit = commit
	}
	rate := stats.applied.PerSecond() + value(at.rate)
	out.LastHour = stats.behind.Hour()
	if left, ok := stats.waiting.UntilZero(); ok {
		seconds := left.Seconds()
		out.ETASeconds = &seconds
	}
	f := service.Facts{
		Paused: paused, Freshness: route.Freshness(s.cfg.Freshness), Snapshot: out.Snapshot, Behind: at.all.behind(now), Known: at.all.records > 0,
	}
	f.Stopped, f.Quarantined = t.stops(), t != nil
	barrier := at.barred
	var lanes []int
	if s.rules.Whole(route.Source) {
		lanes = append(lanes, s.wholeLane())
	}
	for _, v := range views {
		lanes = append(lanes, v.Lane)
		barrier = barrier || errors.Is(v.Held, errBarrier)
	}
	if out.Partitions = at.own.partitions; out.Partitions > 0 { // else whoever writes it knows what it waits for
		f.Unmoved = stats.unmoved(now)
	}
	// What waits for its turn for a moment, as after a start, does not fall behind.
	still := rate == 0 && (out.Partitions == 0 || f.Unmoved >= service.WaitingAfter)
	f.Falling = (at.rate != nil || len(views) > 0) && (still || stats.waiting.PerSecond() > 0)
	if !at.position.IsZero() {
		out.Position = at.position.String()
	}
	if out.Unknown = at.lost; out.Unknown == "" {
		out.BehindSeconds, out.Records = new(service.Seconds(f.Behind)), &at.all.records
	}
	if at.rate != nil {
		out.RowsPerSec = &rate
	}
	on, since := st.waitOf(lanes)
	switch {
	case barrier:
		f.Barred, out.WaitingOn = true, waitBarrier
	case (claiming || f.Known && out.Partitions > 0) && st.tried(false) != "":
		f.Barred, out.WaitingOn = true, st.tried(false)
	case out.Partitions == 0 && st.tried(true) != "": // which may be why it is nobody's
		f.Barred, out.WaitingOn = true, st.tried(true)
	case on != "" && f.Unmoved >= service.WaitingAfter:
		f.Waits, out.WaitingOn = min(now.Sub(since), f.Unmoved), on
	}
	if out.State = f.State(); out.State != service.StateWaiting {
		out.WaitingOn = ""
	}
	return out, true
}

// captured notes what the source, as far as its progress says, captures of the table, or whether it does no more. What is new has come in of
// late, and may stand in a record that is still to come.
func (t *TableStatus) captured(sources []warehouse.Source) {
	for i := range sources {
		src := &sources[i]
		if src.Name != t.Source {
			continue
		}
		is, captured := src.Tables[t.Topic]
		t.InsertsOnly = is.Level == "insert"
		if len(src.Tables) > 0 && t.LastCommit != nil && src.CompleteAt != nil {
			t.Gone = !captured && src.CompleteAt.Sub(*t.LastCommit) > goneAfter
		}
	}
}

// goneAfter is how old the newest change of a table is at least that counts as gone.
const goneAfter = time.Minute

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

// reloads notes whether the table is read anew.
func (t *TableStatus) reloads(topic string, open []warehouse.OpenReload) {
	for i := range open {
		if r := &open[i]; r.Topic == topic {
			t.ReloadSince, t.ReloadDue, t.Snapshot = new(r.Since.UTC()), r.Due, true
		}
	}
}

// detail tells of a table what is told of no more than one.
func (s *Sink) detail(t *TableStatus) {
	known := s.table(t.Topic)
	t.States = known.shown.Newest()
	if plan := known.plan.Load(); plan != nil {
		var b strings.Builder
		_ = explainPlan(terminal.To(&b), plan) // a text can be written
		t.Plan = b.String()
	}
	if target := known.target.Load(); target != nil {
		t.Index = target.Index()
	}
}
