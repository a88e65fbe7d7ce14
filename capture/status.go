package capture

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
)

const statusSchema = "tributary.capture.status/1"

// Status is what /status answers: JSON, to which fields are added and from which none is taken.
type Status struct {
	Schema   string `json:"schema"`
	Source   string `json:"source"`
	Instance string `json:"instance"`
	State    string `json:"state"`
	Headline string `json:"headline"` // one sentence; its subject is the source
	Slot     string `json:"slot"`
	Holder   string `json:"holder,omitempty"` // who streams from the slot, where it is not this instance
	// HolderSince is since when a standby has seen it do so.
	HolderSince time.Time `json:"holder_since,omitzero"`
	BySQL       bool      `json:"by_sql,omitempty"` // changes are fetched by SQL, as there are many, not streamed by a walsender
	SystemID    string    `json:"system_id,omitempty"`
	Timeline    uint32    `json:"timeline,omitempty"`
	Era         uint16    `json:"era,omitempty"`

	Build         service.Build `json:"build"`
	Since         time.Time     `json:"since,omitzero"` // start of the service
	ServerVersion string        `json:"server_version,omitempty"`
	SeenAt        time.Time     `json:"seen_at,omitzero"` // when the session looked at itself last; the numbers of tables are of then
	// Oldest is the oldest open transaction at the source that has written; null: none is known.
	Oldest       *OpenTransaction `json:"oldest_transaction"`
	WaitingOn    string           `json:"waiting_on,omitempty"`
	WaitingSince time.Time        `json:"waiting_since,omitzero"`
	Paused       *PauseStatus     `json:"paused"` // null: it is not

	// LagSeconds is the age of the oldest commit that is not in Kafka; while it is not read yet, at most that: the age of the newest
	// published one, or the time since all that there was was published. 0 when all is.
	LagSeconds float64 `json:"lag_seconds"`
	// ClockAheadSeconds is how far the source's clock is ahead of this host's; null: not known. Ages are told by both.
	ClockAheadSeconds *float64 `json:"clock_ahead_seconds"`

	ToPublish     int64     `json:"to_publish_bytes"`
	WAL           WAL       `json:"wal"`
	PublishedLSN  string    `json:"published_lsn"`
	ServerLSN     string    `json:"server_lsn"`
	PublishedTime time.Time `json:"published_time,omitzero"` // commit time of the newest published transaction

	ChangesPerSecond     float64  `json:"changes_per_second"`      // published, over the last minute
	ChangesPerSecondHour *float64 `json:"changes_per_second_hour"` // over the last hour; null in the first minute
	// PublishedBytesPerSecond and SourceBytesPerSecond are of WAL, over the last minute.
	PublishedBytesPerSecond float64  `json:"published_bytes_per_second"`
	SourceBytesPerSecond    float64  `json:"source_bytes_per_second"`
	Falling                 bool     `json:"falling"`     // over the last minute more was written than published
	ETASeconds              *float64 `json:"eta_seconds"` // until all is published; null: it does not become less, or is not known yet
	// LatencyP50 and LatencyP99 are from commit at the source, by its clock, until readers of the topics have it, over the last five
	// minutes; null while there are too few to tell.
	LatencyP50 *float64 `json:"latency_p50_seconds"`
	LatencyP99 *float64 `json:"latency_p99_seconds"`
	// LatencyUsual is what LatencyP50 was over the last hour; null in its first ten minutes.
	LatencyUsual *float64 `json:"latency_usual_seconds"`

	Snapshot SnapshotStatus       `json:"snapshot"`
	Tables   []TableStatus        `json:"tables"`
	Stages   []service.StageState `json:"stages"`
	Trouble  *TroubleStatus       `json:"trouble"` // why nothing is published at present
	Alarms   []TroubleStatus      `json:"alarms"`  // what is wrong while it goes on
	Needs    []service.Need       `json:"needs_you"`
	Accepted []service.Need       `json:"accepted"` // warnings that the configuration accepts
	Events   []service.Event      `json:"events"`   // the newest first

	Wanted       []string `json:"wanted_tables,omitempty"` // source.tables
	Idle         []string `json:"idle_patterns,omitempty"` // those of them that no table fits
	Publications []string `json:"publications,omitempty"`
	MemoryBytes  int64    `json:"memory_bytes,omitempty"` // that the process holds, in whole MiB
	// Configuration is what capture config show prints, secrets as ***; "" where one table is asked of, or where it would be shown to
	// somebody who is on another host and needs no token.
	Configuration string `json:"configuration,omitempty"`

	accept  []service.Accept
	brokers []string      // as configured
	on      string        // whom WaitingOn is, as stages name it
	making  *catalog.Slot // that somebody makes, where a standby tells the status, or no service does; else nil
}

// WAL is what the source keeps for us.
type WAL struct {
	RetainedBytes int64  `json:"retained_bytes"`
	BudgetBytes   int64  `json:"budget_bytes"`
	SafeBytes     *int64 `json:"safe_bytes"` // what the server still allows; null: no limit
	SlotStatus    string `json:"slot_status"`
	// Standbys are those of synchronized_standby_slots that are away: the server sends nothing without them.
	Standbys string `json:"standbys_away,omitempty"`
	// GrowthBytesPerSecond is over the last quarter of an hour; negative while less is kept.
	GrowthBytesPerSecond float64  `json:"growth_bytes_per_second"`
	FullInSeconds        *float64 `json:"full_in_seconds"` // until the budget is used up at this rate; null: it does not grow
	// AsOf is when the source said so; it is older where the source does not answer.
	AsOf time.Time `json:"as_of,omitzero"`
}

// OpenTransaction is one that has written at the source and has not ended: a new slot waits for it, and the server keeps WAL from its
// beginning on.
type OpenTransaction struct {
	PID         int       `json:"pid"` // 0: it was prepared, as GID
	Application string    `json:"application"`
	User        string    `json:"user"`
	GID         string    `json:"gid,omitempty"`
	Database    string    `json:"database,omitempty"` // of a prepared one: only there it can be ended
	Since       time.Time `json:"since,omitzero"`     // missing where it is hidden, and was first seen now
}

// openTransaction gives the oldest of blockers, nil if there is none.
func openTransaction(blockers []catalog.Blocker, at time.Time) *OpenTransaction {
	if len(blockers) == 0 {
		return nil
	}
	b := blockers[0]
	o := &OpenTransaction{PID: b.PID, Application: b.Application, User: b.User, GID: b.GID}
	if b.Age > 0 {
		o.Since = at.Add(-b.Age).UTC()
	}
	if b.PID == 0 {
		o.Database = b.Database
	}
	return o
}

func (o *OpenTransaction) blocker() *catalog.Blocker {
	return &catalog.Blocker{PID: o.PID, Application: o.Application, User: o.User, GID: o.GID, Database: o.Database}
}

// SnapshotStatus sums up what is still to be read.
type SnapshotStatus struct {
	TablesDone int   `json:"tables_done"`
	Tables     int   `json:"tables"`
	Rows       int64 `json:"rows"`
	// RowsExpected is an estimate; null while a table is read of which there is none.
	RowsExpected *int64 `json:"rows_expected"`

	TablesReading int `json:"tables_reading"`
	TablesWaiting int `json:"tables_waiting"`
	TablesFailed  int `json:"tables_failed"` // held before all of their rows were read

	RowsPerSecond float64   `json:"rows_per_second"`
	ETASeconds    *float64  `json:"eta_seconds"` // null: not known
	EndedAt       time.Time `json:"ended_at,omitzero"`
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
	// ExpectedRows is, while the rows are read, the planner's estimate; null where it has none: nobody has analyzed the table.
	ExpectedRows *int64 `json:"expected_rows"`
	// Held is why the table is held, HeldLSN the commit of its first change that is not published; nil and "" where
	// all is.
	Held *TroubleStatus `json:"held,omitempty"`

	ChangesPerSecond float64   `json:"changes_per_second"`   // over the last minute
	LastHour         []float32 `json:"last_hour"`            // changes a second, a point each minute, the newest last
	LastChange       time.Time `json:"last_change,omitzero"` // when one was published last
	Key              string    `json:"key,omitempty"`        // what tells rows apart
	Partitions       int       `json:"partitions,omitempty"` // of the topic
	SchemaID         int       `json:"schema_id,omitempty"`  // of the version that is published, in the registry
	HeldLSN          string    `json:"held_lsn,omitempty"`

	// Snapshot is of the read that is under way or has ended within a day; null: there is none.
	Snapshot *TableSnapshot `json:"snapshot"`

	States []service.Turn `json:"states,omitempty"` // the newest first; only where one table is asked of
}

// TableSnapshot is the read of the rows of one table. How many there are, and how many are expected, its table says.
type TableSnapshot struct {
	State         string   `json:"state"`             // waiting, reading, holding (the table's changes meanwhile), failed, done
	RowsPerSecond float64  `json:"rows_per_second"`   // over the last minute; of one that is done from its begin to its end
	ETASeconds    *float64 `json:"eta_seconds"`       // null: not known
	Rereads       int      `json:"chunks_read_again"` // as not all that was published before was visible to them
	// Unseen is how many of these were in a row, and are the newest ones; UnseenSince when the first was, UnseenCommitted that what the
	// newest lacked has committed, and is published. Else it is still open, as far as is known.
	Unseen          int       `json:"unseen_reads,omitempty"`
	UnseenSince     time.Time `json:"unseen_since,omitzero"`
	UnseenCommitted bool      `json:"unseen_committed,omitempty"`
	UnseenAltered   bool      `json:"unseen_altered,omitempty"` // the table has been altered, and the stream has not come to that
	By              string    `json:"asked_by,omitempty"`
	BeganAt         time.Time `json:"began_at,omitzero"`
	EndedAt         time.Time `json:"ended_at,omitzero"`
}

// States of a TableSnapshot.
const (
	readWaiting = "waiting"
	readReading = "reading"
	readHolding = "holding"
	readFailed  = "failed"
	readDone    = "done"
)

// reads says whether rows of the table are still to be read, and nothing keeps them from being so.
func (t *TableSnapshot) reads() bool { return t != nil && t.State != readFailed && t.State != readDone }

// TroubleStatus is a trouble as the status tells it.
type TroubleStatus struct {
	Code    trouble.Code `json:"code"`
	Op      string       `json:"op"`
	Subject string       `json:"subject"`
	Cause   string       `json:"cause"`
	Means   string       `json:"means"`
	Hint    string       `json:"hint"`
	Since   time.Time    `json:"since,omitzero"`
	// Tries is how often that has ended what was tried, NextTry when it is tried next; 0 and none where nothing is tried again.
	Tries   int       `json:"tries,omitempty"`
	NextTry time.Time `json:"next_try,omitzero"`
}

// Status gives the newest status. It is safe to call at any time.
func (c *Capture) Status() Status {
	return c.statusWith(func(t TableStatus) TableStatus { return t })
}

// steady gives the newest status for people who look at it again and again: what changes for a moment is not told.
func (c *Capture) steady() Status {
	now := time.Now()
	st := c.statusWith(func(t TableStatus) TableStatus { return c.vitals.table(t.Table).shown.Shown(now, t.State, 0, t) })
	c.vitals.shown.Shown(now, st.State, st.lasted(now), st.words()).put(&st)
	return st
}

// statusWith gives the newest status, whose tables are as shown gives them.
func (c *Capture) statusWith(shown func(TableStatus) TableStatus) Status {
	now := time.Now()
	st := *c.status.Load()
	st.Tables, st.Alarms = slices.Clone(st.Tables), slices.Clone(st.Alarms)
	st.Build, st.Stages = service.ThisBuild(), c.stages.Snapshot()
	names := c.config.Source.publications()
	st.Wanted, st.Publications, st.MemoryBytes, st.Configuration = c.config.Source.Tables, []string{names.Full, names.Insert}, service.Memory(), c.shown
	c.budget.tell(&st)
	st.BySQL, st.Paused = c.bySQL(), tellPause(c.pausing.holds(), c.pausing.limit.Load())
	switch look := c.budget.standing(); {
	case st.SeenAt.IsZero() || now.Sub(st.SeenAt) <= staleAfter:
	case look.missing: // what is committed is not published, however little it is
		st.LagSeconds = lateness(now, time.Time{}, st.PublishedTime, look.until).Seconds()
	case !look.at.IsZero():
		// The session does not say any more how far behind it is, which grows.
		st.ToPublish, st.ServerLSN = look.toPublish, look.server.String()
		if st.LagSeconds = 0; st.ToPublish > 0 {
			st.LagSeconds = lateness(now, time.Time{}, st.PublishedTime, look.until).Seconds()
		}
	}
	st.Oldest = c.oldest.Load()
	if holder := c.budget.standing().holder; st.Holder == "" && c.stream.Load() == nil && !strings.Contains(holder, c.instance) {
		st.Holder = holder
	}
	c.vitals.tell(&st)
	st.Falling = c.vitals.toPublish.PerSecond() > 0 && now.Sub(c.vitals.started) > service.StuckAfter
	if p50, p99, ok := c.meter.latency.Quantiles(); ok {
		a, b := p50.Seconds(), p99.Seconds()
		st.LatencyP50, st.LatencyP99 = &a, &b
	}
	if usual, ok := c.meter.latency.Usual(); ok {
		st.LatencyUsual = new(usual.Seconds())
	}
	if t := c.trouble.Load(); t != nil {
		told := tell(t)
		told.Since = time.UnixMicro(c.troubled.Load()).UTC()
		if again := c.again.Load(); again != nil {
			told.Tries, told.NextTry = again.tries, again.next
		}
		st.Trouble = &told
	}
	if lost := c.lost.Load(); lost != nil && (st.Trouble == nil || st.Trouble.Code != lost.Code) {
		st.Alarms = append(st.Alarms, tell(lost))
	}
	st.accept, st.brokers = c.config.accepted(), c.config.Kafka.Brokers
	if !c.config.HTTP.ShowsKeys() {
		st.hideKeys()
	}
	for i := range st.Tables {
		st.Tables[i] = shown(st.Tables[i])
	}
	st.judge(now, c.vitals.unmoved(now))
	return st
}

// hideKeys takes keys of rows out of what errors and events say. Tables, alarms and events must be the status's own.
func (st *Status) hideKeys() {
	hide := func(t *TroubleStatus) {
		t.Subject, t.Cause = trouble.WithoutKeys(t.Subject), trouble.WithoutKeys(t.Cause)
	}
	if st.Trouble != nil {
		hide(st.Trouble)
	}
	for i := range st.Alarms {
		hide(&st.Alarms[i])
	}
	for i := range st.Tables {
		if t := &st.Tables[i]; t.Held != nil {
			t.Held = new(*t.Held)
			hide(t.Held)
		}
	}
	for i := range st.Events {
		st.Events[i].Text = trouble.WithoutKeys(st.Events[i].Text)
	}
}

// Sentence says in one sentence how the capture does.
func (st *Status) Sentence() string { return st.Source + " " + st.Headline }

// StatusOf gives the status with those of the tables that are asked of; one alone with its states.
func (c *Capture) StatusOf(asked service.Asked) *Status {
	st := c.Status()
	if asked.Steady {
		st = c.steady()
	}
	st.Tables = slices.DeleteFunc(st.Tables, func(t TableStatus) bool { return !asked.Takes(st.Source, t.State, t.Table) })
	if !asked.All() {
		st.Configuration = ""
	}
	if asked.Table != "" && len(st.Tables) == 1 {
		st.Tables[0].States = c.vitals.table(st.Tables[0].Table).shown.Newest()
	}
	return &st
}

// staleAfter is how old what the session says of itself may be: it does so whenever the watcher has looked at the catalog.
const staleAfter = 10 * time.Second

// tell gives t as the status tells it.
func tell(t *trouble.Error) TroubleStatus {
	told := TroubleStatus{Code: t.Code, Op: t.Op, Subject: t.Subject, Means: t.Means, Hint: t.Hint}
	if t.Cause != nil {
		told.Cause = t.Cause.Error()
	}
	return told
}

// publishStatus makes the session's state visible; it is called by the session's goroutine.
func (c *Capture) publishStatus(s *session) {
	h := s.health(s.oldest, s.newest)
	st := &Status{
		Schema: statusSchema, Source: c.config.Source.Name, Instance: c.instance, State: h.State, Slot: c.config.Source.slot(),
		SystemID: s.system.ID, Timeline: s.system.Timeline, Era: s.era,
		LagSeconds: h.BehindSeconds, ToPublish: h.ToPublish,
		PublishedLSN: s.progressEnd.String(), ServerLSN: s.facts.wal.String(),
		Snapshot: snapshotOf(&h),
		Tables:   []TableStatus{}, Alarms: []TroubleStatus{}, SeenAt: time.Now().UTC(), ServerVersion: s.serverVersion, Idle: s.unfit,
	}
	if s.newest != 0 {
		st.PublishedTime = micros(s.newest).UTC()
	}
	for _, t := range s.tables {
		if t.relation() == nil {
			continue
		}
		one := TableStatus{
			LastHour: []float32{},
			Table:    t.name(), State: service.StateStreaming, Level: t.progress.Level, Reason: t.catalog.Reason, Help: t.catalog.Help,
			SnapshotRows: t.progress.Rows, ExpectedRows: new(t.progress.Rows),
		}
		if t.pub != nil {
			one.Topic, one.Partitions, one.SchemaID = t.pub.Topic(), t.pub.Partitions(), t.pub.SchemaID()
		}
		switch {
		case t.snapshot != nil && slices.Contains(s.chunks.reading, t):
			st.Snapshot.TablesReading++
		case t.snapshot != nil:
			st.Snapshot.TablesWaiting++
		case t.progress.Held != nil && !t.progress.Done:
			st.Snapshot.TablesFailed++
			one.Snapshot = &TableSnapshot{State: readFailed}
		default:
			one.Snapshot = t.read
		}
		if t.snapshot != nil {
			one.Snapshot = t.snapshot.tell(t.progress.Rows, false)
			one.State, one.ExpectedRows = service.StateSnapshotting, estimate(t.catalog.EstimatedRows)
		}
		one.Key = keyColumns(t.relation())
		one.tellHeld(t.progress.Held)
		st.Tables = append(st.Tables, one)
	}
	slices.SortFunc(st.Tables, func(a, b TableStatus) int { return cmp.Compare(a.Table, b.Table) })
	for _, t := range s.alarms {
		st.Alarms = append(st.Alarms, tell(t))
	}
	for i := range st.Tables {
		if held := st.Tables[i].Held; held != nil {
			st.Alarms = append(st.Alarms, *held)
		}
	}
	c.status.Store(st)
}

// tell gives how the read is, with so many rows published; how fast it is only once it is done.
func (snap *tableSnapshot) tell(rows int64, done bool) *TableSnapshot {
	told := &TableSnapshot{State: readWaiting, Rereads: snap.rereads, By: snap.by, BeganAt: snap.began.UTC()}
	if u := &snap.unseen; u.reads > 0 && !done {
		told.Unseen, told.UnseenSince, told.UnseenCommitted, told.UnseenAltered = u.reads, u.since.UTC(), u.committed, u.altered
	}
	switch {
	case done:
		told.State, told.EndedAt = readDone, time.Now().UTC()
		if took := told.EndedAt.Sub(told.BeganAt).Seconds(); took > 0 {
			told.RowsPerSecond = float64(rows-snap.had) / took
		}
	case snap.hold != nil:
		told.State = readHolding
	case snap.split || len(snap.windows) > 0:
		told.State = readReading
	}
	return told
}

func snapshotOf(h *record.Health) SnapshotStatus {
	st := SnapshotStatus{TablesDone: h.SnapshotDone, Tables: h.SnapshotOf, Rows: h.RowsDone, RowsExpected: &h.RowsExpected}
	if st.TablesDone < st.Tables {
		st.RowsExpected = estimate(h.RowsExpected)
	}
	return st
}

// estimate is a number of rows that may not be known.
func estimate(rows int64) *int64 {
	if rows <= 0 {
		return nil
	}
	return &rows
}

// keyColumns says what tells the rows of a table apart.
func keyColumns(rel *schema.Relation) string {
	if len(rel.Key) == 0 {
		return "none: all values"
	}
	names := make([]string, len(rel.Key))
	for i, k := range rel.Key {
		names[i] = rel.Columns[k].Name
	}
	return "(" + strings.Join(names, ", ") + ")"
}

// health is what the progress record says of this instance. oldest is the commit time of the first change that is not published, 0 for
// none that has been read, newest that of the last one that is; microseconds.
func (s *session) health(oldest, newest int64) record.Health {
	h := record.Health{
		State: service.StateUpToDate, Instance: s.instance, Version: service.ThisBuild().Version, HTTP: s.http,
		WALBudget: int64(s.config.Source.WALBudget),
	}
	blind := false
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
			blind = blind || t.catalog.EstimatedRows == 0
			h.RowsExpected += max(t.catalog.EstimatedRows, t.progress.Rows)
		}
	}
	if blind {
		h.RowsExpected = 0
	}
	if f := s.facts.slot; f != nil {
		h.WALKept, h.WALSafe, h.WALBudget = f.KeptBytes, f.SafeBytes, allowed(h.WALBudget, f.KeptBytes, f.SafeBytes)
	}
	if s.facts.wal > s.streamed {
		h.ToPublish = int64(s.facts.wal - s.streamed)
	}
	if s.passed.reach(s.streamed); s.lags() || oldest != 0 {
		h.BehindSeconds = lateness(time.Now(), micros(oldest), micros(newest), s.passed.until).Seconds()
	}
	switch {
	case s.paused() != nil:
		h.State = service.StatePaused
	case h.SnapshotDone < h.SnapshotOf:
		h.State = service.StateSnapshotting
	case h.BehindSeconds > 60:
		h.State = service.StateCatchingUp
	}
	return h
}
