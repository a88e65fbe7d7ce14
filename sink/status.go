package sink

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

const statusSchema = "tributary.sink.status/1"

// Status is what /status shows. Times are UTC, durations seconds, sizes bytes. Fields are added, never renamed or removed.
type Status struct {
	Schema      string        `json:"schema"`
	Group       string        `json:"group"`
	Instance    string        `json:"instance"`
	Build       service.Build `json:"build"`
	Since       time.Time     `json:"since"`
	State       string        `json:"state"`
	Step        string        `json:"step,omitempty"` // of the start
	Headline    string        `json:"headline"`
	WarehouseUp bool          `json:"warehouse_up"`
	Version     string        `json:"server_version,omitempty"` // of the warehouse
	Partitions  int           `json:"partitions"`
	Rebalances  int64         `json:"rebalances"`
	// RebalancedAt is when this sink got its partitions, or lost some, last; within a second.
	RebalancedAt *time.Time     `json:"rebalanced_at,omitempty"`
	BufferBytes  int64          `json:"buffer_bytes"`
	BufferLimit  int64          `json:"buffer_limit_bytes"`
	RowsPerSec   float64        `json:"rows_per_second"` // changes applied by this sink, last minute
	LatencyP50   *float64       `json:"latency_p50_seconds"`
	LatencyP99   *float64       `json:"latency_p99_seconds"`
	Waiting      []Waiting      `json:"waiting"`
	Sources      []SourceStatus `json:"sources"`
	Tables       []TableStatus  `json:"tables"`
	Unmatched    []string       `json:"unmatched_topics"` // no rule wants them
	// UnmatchedHint says what is to be done about them, by the rules that this sink runs with; "" where there are none.
	UnmatchedHint string               `json:"unmatched_hint,omitempty"`
	Stages        []service.StageState `json:"stages"`

	Needs            []service.Need  `json:"needs_you"`
	Accepted         []service.Need  `json:"accepted"` // warnings that the configuration accepts
	Events           []service.Event `json:"events"`   // of this sink, the newest first
	Members          []Member        `json:"members"`  // sinks of the group
	Locks            []Lock          `json:"locks"`    // that the group has been waiting for for some seconds
	FreshnessSeconds float64         `json:"freshness_seconds"`
	RowsPerSecHour   *float64        `json:"rows_per_second_hour"` // by this sink, over the last hour; null in the first minute
	SkippedPerSec    float64         `json:"skipped_per_second"`   // of the changes applied in the last minute, those that rules ignore or filter
	ApplyP99         *float64        `json:"apply_p99_seconds"`    // of the transactions in the warehouse in the last five minutes; null below 20
	// RowsPerSecGroup is what all sinks apply, last minute; null where that is not known.
	RowsPerSecGroup *float64 `json:"group_rows_per_second"`

	MemoryBytes int64 `json:"memory_bytes,omitempty"` // that the process of this sink holds, in whole MiB
	// Configuration is what sink config show prints of this sink, secrets as ***; "" where tables or sources are asked of, or where it
	// would be shown to somebody who is on another host and needs no token.
	Configuration string `json:"configuration,omitempty"`

	accept     []service.Accept
	wants      []string   // tables that rules are of
	unfollowed []*Trouble // of progress topics, see unfollowedOf
}

// Lock is one in the warehouse that somebody else holds.
type Lock struct {
	Table       string     `json:"table,omitempty"`
	Since       time.Time  `json:"since"`
	Here        bool       `json:"here"` // what this sink writes waits for it; else something else of the group
	PID         int32      `json:"pid"`  // 0: of a prepared transaction
	Application string     `json:"application"`
	User        string     `json:"user"`
	State       string     `json:"state,omitempty"` // of the session, like began_at and statement: absent where the role may not see it
	Began       *time.Time `json:"began_at,omitempty"`
	Statement   string     `json:"statement,omitempty"` // the first word of its newest one

	lane int // of this sink, where one waits for it
}

// Waiting is something that is tried again and again.
type Waiting struct {
	For   string    `json:"for"`
	Since time.Time `json:"since"`
	Tries int       `json:"tries"`
	Code  string    `json:"code"`
	Error string    `json:"error"`

	hint   string
	effect string // of the error, in words
	lock   string // that is waited for; "": it is something else
}

// SourceStatus is one source, from tributary.progress.
type SourceStatus struct {
	Name        string     `json:"name"`
	State       string     `json:"state"`
	CompleteLSN string     `json:"complete_lsn,omitempty"`
	CompleteAt  *time.Time `json:"complete_at,omitempty"` // commit time at the source
	// CompleteUntil is CompleteAt, or up to when capture has seen no other commit. AgeSeconds is the time since.
	CompleteUntil *time.Time    `json:"complete_until,omitempty"`
	AgeSeconds    *float64      `json:"age_seconds"`
	Fences        []string      `json:"fences"`
	Tables        int           `json:"tables"`
	Capture       record.Health `json:"capture"`
	ReportedAt    time.Time     `json:"reported_at"`
	// SilentSeconds is how long capture, which reports every few seconds, has said nothing; 0 below 15 s.
	SilentSeconds float64 `json:"silent_seconds,omitempty"`
	Held          int     `json:"held_tables,omitempty"` // that capture does not publish
	RowsPerSec    float64 `json:"rows_per_second"`       // of its tables of which it is known
	// Reason says of one that is left out why nothing of it is read.
	Reason string `json:"reason,omitempty"`
}

// value is that of a number, 0 for one that is not known.
func value[T int64 | float64](number *T) (v T) {
	if number != nil {
		v = *number
	}
	return v
}

// Status gives the state of the sink. It is safe to call at any time.
func (s *Sink) Status() *Status {
	return s.statusWith(func(t TableStatus) TableStatus { return t })
}

// steady gives the state of the sink for people who look at it again and again: what changes for a moment is not told.
func (s *Sink) steady() *Status {
	now := time.Now()
	st := s.statusWith(func(t TableStatus) TableStatus { return s.table(t.Topic).shown.Shown(now, t.State, t.lasted(), t) })
	s.vitals.shown.Shown(now, st.State, st.lasted(), st.words()).put(st)
	return st
}

// lasted gives the same of the group's.
func (st *Status) lasted() time.Duration {
	long := len(st.Waiting) > 0 || slices.ContainsFunc(st.Tables, func(t TableStatus) bool { return t.lasted() > 0 })
	switch {
	case st.State == service.StateWaiting && long:
		return service.WaitingAfter
	case st.State == service.StateSilent:
		return service.SilentAfter
	}
	return 0
}

// waitBarrier is what a table waits for without having done so for long.
const waitBarrier = "the other partitions of a TRUNCATE"

// statusWith gives the state of the sink whose tables are as shown gives them.
func (s *Sink) statusWith(shown func(TableStatus) TableStatus) *Status {
	overview := s.consumer.Overview()
	views := s.consumer.Views()
	st := &Status{
		Schema: statusSchema, Group: s.cfg.Group, Instance: s.instance, Build: service.ThisBuild(), Since: s.started.UTC(),
		Partitions: len(views), Rebalances: overview.Rebalances, BufferBytes: overview.Bytes, BufferLimit: overview.Limit,
		Sources: []SourceStatus{}, Tables: []TableStatus{}, Unmatched: []string{}, Stages: s.stages.Snapshot(),
		Events: s.vitals.events.Newest(), Members: []Member{}, FreshnessSeconds: s.cfg.Freshness.Seconds(),
		accept: s.cfg.accepted(), wants: s.cfg.wants(), MemoryBytes: service.Memory(), Configuration: s.shown,
	}
	s.tellVitals(st)
	s.tellWaiting(st, overview.Asked)
	s.mu.Lock()
	seen, present := s.seen, s.told
	st.Step, st.Version = s.step, seen.version
	st.Locks = s.tellLocks()
	troubles := s.tellTroubles()
	s.mu.Unlock()
	st.WarehouseUp = st.WarehouseUp && st.Step != stepConnecting
	sources := slices.Clone(seen.sources)
	for i := range sources {
		if src := &sources[i]; src.Lag != nil { // as of the look; it may be the warehouse that does not answer
			src.Lag = new(*src.Lag + max(time.Since(seen.at), 0))
		}
	}
	if members, ok := s.outlook.sinks(present); ok {
		st.Members = members
	} else if seen.members != nil {
		st.Members = present.crew(seen.members)
	}
	waits := len(st.Waiting) > 0 && time.Since(st.Waiting[0].Since) >= service.WaitingAfter

	byTopic := map[string][]consume.View{}
	for _, v := range views {
		byTopic[v.Topic] = append(byTopic[v.Topic], v)
	}
	snapshots := map[string]warehouse.TableProgress{}
	late := lateness(sources)
	for _, src := range sources {
		for topic, t := range src.Tables {
			snapshots[topic] = t
			if h := t.Held; h != nil && troubles[topic] == nil {
				troubles[topic] = &Trouble{Code: h.Code, Message: heldByCapture + h.Message, Hint: h.Hint, Topic: topic, Since: time.UnixMicro(h.Since).UTC()}
			}
		}
	}
	if !s.cfg.HTTP.ShowsKeys() {
		st.hideKeys(troubles)
	}
	st.unfollowed = unfollowedOf(s.rules, troubles)
	topics := slices.Clone(overview.Topics)
	for _, topic := range overview.Unrouted {
		if s.consumed(topic) {
			topics = append(topics, topic) // of a source that is written as a whole
		}
	}
	slices.Sort(topics)
	for _, topic := range topics {
		if t, ok := s.tableStatus(topic, byTopic[topic], troubleOf(s.rules, troubles, topic), snapshots[topic], overview.Claiming[leading(s.rules, topic)], st); ok {
			if t.BehindSeconds == nil && t.State == service.StateUpToDate && late(t.Source).Seconds() > t.FreshnessSeconds {
				t.State = service.StateCatchingUp // as far as the source's progress tells; its member knows better
			}
			t.endangered(overview.Retention[topic])
			t.captured(sources)
			t = shown(t)
			st.Tables = append(st.Tables, t)
		}
	}
	for _, topic := range overview.Unrouted {
		if source, schema, table, ok := record.ParseTopic(topic); ok && !s.consumed(topic) && !s.rules.Skipped(source, schema, table) && !s.removed(source) {
			st.Unmatched = append(st.Unmatched, topic)
		}
	}
	st.UnmatchedHint = unmatched(s.rules, st.Unmatched)
	st.RowsPerSecGroup = st.groupRate()
	st.addSources(sources, s.rules)
	for i := range st.Sources {
		// Only what was read when its progress had been applied up to its end, and still is, says that capture is silent.
		src := &st.Sources[i]
		if views := byTopic[record.ProgressTopic(src.Name)]; len(views) > 0 && atEnd(&views[0]) && seen.heard[views[0].Topic] {
			src.hush(seen.at)
		}
	}
	st.tell(len(overview.Topics) > 0, overview.Ready, waits)
	return st
}

// tellLocks gives the locks that the group waits for. s.mu is held.
func (s *Sink) tellLocks() []Lock {
	all := []Lock{}
	for _, l := range s.locks {
		one := Lock{Table: l.Table, Since: l.Since.UTC(), PID: l.PID, Application: l.Application, User: l.User, State: l.State, Began: utc(l.Began), Statement: l.Statement}
		for lane, session := range s.writers {
			if session.PID() == l.Waiter {
				one.Here, one.lane = true, lane
			}
		}
		all = append(all, one)
	}
	return all
}

// tellTroubles gives what holds partitions, by topic: what the warehouse knows, and what this sink could not write there yet. s.mu is held.
func (s *Sink) tellTroubles() map[string]*Trouble {
	all := map[string]*Trouble{}
	for _, q := range s.seen.troubles {
		all[q.Topic] = &Trouble{q.Code, q.Message, q.Hint, q.Topic, q.Partition, q.Next, q.Since.UTC()}
	}
	for p, h := range s.held {
		if t := all[p.Topic]; t == nil && h.barrier.IsZero() && !h.fenced && !h.paused && !h.moved {
			all[p.Topic] = &Trouble{Code: string(trouble.CodeOf(h.err)), Message: h.err.Error(), Topic: p.Topic, Partition: p.Number, Offset: h.next, Since: h.since.UTC()}
		}
	}
	return all
}

// groupRate sums up what all tables have; nil where that is not known of one.
func (st *Status) groupRate() *float64 {
	sum := 0.0
	for i := range st.Tables {
		rate := st.Tables[i].RowsPerSec
		if rate == nil {
			return nil
		}
		sum += *rate
	}
	return &sum
}

// tellWaiting notes what is tried again and again, the longest first, and whether the warehouse is there. asked is since when Kafka owes
// an answer.
func (s *Sink) tellWaiting(st *Status, asked time.Time) {
	st.Waiting, st.WarehouseUp = []Waiting{}, true
	s.mu.Lock()
	for at, w := range s.waiting {
		one := w.tell(at.what)
		st.Waiting = append(st.Waiting, one)
		if (at.what == "warehouse" || at.what == "supervision") && one.lock == "" {
			st.WarehouseUp = false
		}
	}
	s.mu.Unlock()
	st.owed(asked, s.cfg.Kafka.Brokers)
	slices.SortFunc(st.Waiting, func(a, b Waiting) int { return a.Since.Compare(b.Since) })
	told := map[string]bool{} // of several that wait for the same the first has waited longest
	st.Waiting = slices.DeleteFunc(st.Waiting, func(w Waiting) bool {
		again := told[w.For]
		told[w.For] = true
		return again
	})
}

// owed notes that Kafka, of which brokers are configured, has not answered since asked, which is so before the first try has failed.
func (st *Status) owed(asked time.Time, brokers []string) {
	if asked.IsZero() || time.Since(asked) < service.WaitingAfter {
		return
	}
	for i := range st.Waiting {
		if w := &st.Waiting[i]; w.For == "kafka" {
			w.Since = asked.UTC()
			return
		}
	}
	st.Waiting = append(st.Waiting, Waiting{
		For: "kafka", Since: asked.UTC(), Tries: 1, Code: string(trouble.KafkaUnreachable), Error: "no broker has answered yet; kafka.brokers: " + strings.Join(brokers, ", "),
	})
}

// hideKeys takes keys of rows out of what errors and events say.
func (st *Status) hideKeys(troubles map[string]*Trouble) {
	for _, t := range troubles {
		t.Message = trouble.WithoutKeys(t.Message)
	}
	for i := range st.Waiting {
		st.Waiting[i].Error = trouble.WithoutKeys(st.Waiting[i].Error)
	}
	for i := range st.Events {
		st.Events[i].Text = trouble.WithoutKeys(st.Events[i].Text)
	}
}

// Sentence says in one sentence how the group does.
func (st *Status) Sentence() string { return st.Group + " " + st.Headline }

// StatusOf gives the status with those of the tables and sources that are asked of; one table alone with its states and its plan.
func (s *Sink) StatusOf(asked service.Asked) *Status {
	s.outlook.watch()
	st := s.Status()
	if asked.Steady {
		st = s.steady()
	}
	if !asked.All() {
		st.Configuration = ""
	}
	st.Tables = slices.DeleteFunc(st.Tables, func(t TableStatus) bool { return !asked.Takes(t.Source, t.State, t.name(), t.Table) })
	st.Sources = slices.DeleteFunc(st.Sources, func(src SourceStatus) bool { return asked.Source != "" && asked.Source != src.Name })
	st.Locks = slices.DeleteFunc(st.Locks, func(l Lock) bool {
		return !asked.All() && !slices.ContainsFunc(st.Tables, func(t TableStatus) bool { return l.Table == t.Target || t.WaitingOn == l.whose() })
	})
	if asked.Table != "" && len(st.Tables) == 1 {
		s.detail(&st.Tables[0])
	}
	return st
}

// lateness gives how far behind the warehouse is with a source, as far as its progress tells; for ever where that does not.
func lateness(sources []warehouse.Source) func(source string) time.Duration {
	known := map[string]time.Duration{}
	for _, src := range sources {
		if known[src.Name] = math.MaxInt64; src.Lag != nil {
			known[src.Name] = *src.Lag
		}
	}
	return func(source string) time.Duration { return known[source] }
}

// atEnd says whether a partition is applied up to its end, as far as that is known.
func atEnd(v *consume.View) bool { return v.Held == nil && v.End >= 0 && v.Next >= v.End }

// until gives up to when the warehouse has all of the source; nil where that is not known.
func (src *SourceStatus) until() *time.Time {
	if src.CompleteUntil == nil {
		return src.CompleteAt // told by a sink of before
	}
	return src.CompleteUntil
}

// hush notes when capture has said nothing for too long.
func (src *SourceStatus) hush(lookedAt time.Time) {
	if silent := lookedAt.Sub(src.ReportedAt); silent >= service.SilentAfter && !lookedAt.IsZero() {
		src.SilentSeconds = silent.Seconds()
		src.State = service.WorseState(src.State, service.StateSilent)
	}
}

// tried gives for whom the sink waits for long enough to be told, and has nothing of: the one it has waited for longest, or
// that of kafka; "" for nobody.
func (st *Status) tried(kafka bool) string {
	for i := range st.Waiting {
		if w := &st.Waiting[i]; time.Since(w.Since) >= service.WaitingAfter && (!kafka || trouble.Code(w.Code) == trouble.KafkaUnreachable) {
			return w.whom()
		}
	}
	return ""
}

// waitOf gives what a table that does not move waits for: a stage that says so, or a lock that one of its lanes waits for; since when, too.
func (st *Status) waitOf(lanes []int) (on string, since time.Time) {
	for i := range st.Stages {
		if stage := &st.Stages[i]; stage.WaitingOn != "" && stage.WaitingOn != waitMemory && (on == "" || stage.Since.Before(since)) {
			on, since = stage.WaitingOn, stage.Since
		}
	}
	for i := range st.Locks {
		if l := &st.Locks[i]; l.Here && slices.Contains(lanes, l.lane) {
			return l.whose(), l.Since // the more exact word: who waits at a lock says nothing else
		}
	}
	return on, since
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	return new(t.UTC())
}

// notNamed is why a source is left out.
const notNamed = "sources does not name it"

// addSources adds the sources behind the tables, from whose states theirs comes. Of one that is not read any more stays up to where it
// was complete, but nothing that goes on with the time.
func (st *Status) addSources(sources []warehouse.Source, rules *rule.Set) {
	for _, src := range sources {
		out := SourceStatus{
			Name: src.Name, State: service.StateUpToDate, CompleteLSN: src.CompleteLSN, CompleteAt: src.CompleteAt, CompleteUntil: utc(src.Until), Fences: src.Fences,
			Capture: src.Capture, ReportedAt: src.ReportedAt.UTC(), Held: src.Capture.Held,
		}
		if src.Lag != nil {
			age := service.Seconds(*src.Lag)
			out.AgeSeconds = &age
		}
		for i := range st.Tables {
			if st.Tables[i].Source == src.Name {
				out.Tables++
				out.RowsPerSec += value(st.Tables[i].RowsPerSec)
				out.State = service.WorseState(out.State, st.Tables[i].State)
			}
		}
		if slices.ContainsFunc(st.unfollowed, func(t *Trouble) bool { return t.Topic == record.ProgressTopic(src.Name) }) {
			out.State = service.WorseState(out.State, service.StateQuarantined)
		}
		if _, named := rules.Source(src.Name); !named {
			out.State, out.Reason, out.CompleteUntil, out.AgeSeconds = service.StateLeftOut, notNamed, nil, nil
		}
		st.Sources = append(st.Sources, out)
	}
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
	s.server.Lacks(missing...)
	s.mu.Lock()
	var fresh []string
	for _, topic := range st.Unmatched {
		if !s.unlisted[topic] {
			s.unlisted[topic] = true
			fresh = append(fresh, topic)
		}
	}
	s.mu.Unlock()
	named, elsewhere := byNamed(s.rules, fresh)
	if len(named) > 0 {
		s.log.Warn("topics match no rule and are not written", "topics", len(named), "first", named[0], "hint", unmatched(s.rules, named))
	}
	if len(elsewhere) > 0 {
		s.log.Info("topics are of no source that sources names, and are not written", "topics", len(elsewhere), "first", elsewhere[0])
	}
}
