package capture

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// signal is what a logical message with our prefix asks for or says.
type signal struct {
	Fence     string           `json:"fence,omitempty"`     // to be reported as reached
	Heartbeat int64            `json:"heartbeat,omitempty"` // when it was written, microseconds since 1970, by the source's clock
	Snapshot  *SnapshotRequest `json:"snapshot,omitempty"`
}

// SnapshotRequest asks, in the source's WAL, that tables be read again while the stream goes on:
//
//	SELECT pg_logical_emit_message(true, 'tributary', '{"snapshot": {"tables": ["public.orders"]}}');
type SnapshotRequest struct {
	// ID is told in the progress of the tables; "" where nobody wants to know.
	ID string `json:"id,omitempty"`
	// By is who asks, for the status.
	By     string   `json:"by,omitempty"`
	Tables []string `json:"tables"`          // patterns, as in source.tables
	Where  string   `json:"where,omitempty"` // a condition in SQL; "" reads all rows
	// Columns are read besides the key, and no others: for one that readers of the topic have not taken before. Rows that a
	// reader has not got are left out by it. Empty reads all.
	Columns []string `json:"columns,omitempty"`
	// Reload publishes a truncate first, so that rows that are gone at the source go downstream too. A table without key
	// is always read so.
	Reload bool `json:"reload,omitempty"`
	// Rate is how many rows a second are read of each table at most; 0: as many as it can. A table without key is read at once.
	Rate int64 `json:"rate,omitempty"`
	// Cancel asks for the contrary: that reads which were asked for be given up. The first read of a table, one that has voided it
	// before, and what capture has asked for itself go on, since rows are missing downstream without them.
	Cancel bool `json:"cancel,omitempty"`

	own bool // capture itself asks: readers of the topic lack what is to be read
}

// check finds what is wrong with a request whoever wrote it.
func (q *SnapshotRequest) check(conditions bool) (catalog.Patterns, error) {
	patterns, err := catalog.ParsePatterns(q.Tables)
	switch {
	case err != nil:
		return patterns, err
	case len(q.Tables) == 0:
		return patterns, errors.New("it names no tables")
	case q.Cancel && (q.Where != "" || q.Reload || len(q.Columns) > 0 || q.Rate != 0):
		return patterns, errors.New("what is given up has no condition, no columns, no rate and no reload")
	case q.Rate < 0:
		return patterns, errors.New("a rate is a number of rows a second, from 1 on")
	case q.Where != "" && q.Reload:
		return patterns, errors.New("a reload voids the whole table, a condition would bring back a part of it")
	case len(q.Columns) > 0 && q.Reload:
		return patterns, errors.New("a reload voids whole rows, some columns would bring back a part of them")
	case q.Where != "" && !conditions:
		return patterns, errors.New("conditions are not allowed: snapshot.conditions is false")
	}
	return patterns, nil
}

// message takes a logical message. Only transactional ones count: the others come outside the order of commits.
func (s *session) message() error {
	m := &s.decode.Logical
	if !m.Transactional || string(m.Prefix) != catalog.MessagePrefix {
		return nil
	}
	var sig signal
	if err := json.Unmarshal(m.Content, &sig); err != nil {
		s.log.Warn("a message in the WAL is passed over: it is not what capture understands", "lsn", m.LSN.String(), "error", err.Error())
		return nil
	}
	if sig.Fence != "" {
		s.fences = append(s.fences, sig.Fence)
	}
	if sig.Heartbeat != 0 {
		s.published() // it takes as long as a change would
	}
	if sig.Snapshot != nil {
		s.requests = append(s.requests, *sig.Snapshot) // at the end of the transaction: its rows are still to come
	}
	return nil
}

// takeRequests begins the reads that the transaction which has just ended asks for. Whatever is wrong with a request
// is its author's fault, and never stops the stream.
func (s *session) takeRequests(ctx context.Context) error {
	if end := (change.Position{Era: s.era, CommitLSN: s.tx.CommitLSN, Seq: change.SnapshotSeq - 1}); end.Compare(s.reached) <= 0 {
		s.requests = s.requests[:0] // it comes again: what it asked for is in the progress
	}
	for i := range s.requests {
		q := &s.requests[i]
		patterns, err := q.check(s.config.Snapshot.Conditions)
		if err != nil {
			s.refuse(q, err)
			continue
		}
		var tables []*table
		for _, t := range s.tables {
			if rel := t.relation(); rel != nil && patterns.Match(rel.Schema, rel.Name) {
				tables = append(tables, t)
			}
		}
		if len(tables) == 0 {
			s.refuse(q, fmt.Errorf("no captured table matches %q", q.Tables))
			continue
		}
		slices.SortFunc(tables, func(a, b *table) int {
			return cmp.Compare(a.name(), b.name())
		})
		for _, t := range tables {
			if q.Cancel {
				s.cancel(t)
				continue
			}
			if t.progress.Held != nil {
				if err := s.takeBack(ctx, t, q); err != nil {
					return err
				}
			}
			if t.progress.Held != nil {
				continue
			}
			if err := q.fits(t.pub.Relation); err != nil {
				s.refuse(q, err)
				continue
			}
			s.request(t, q)
		}
	}
	s.requests = s.requests[:0]
	return nil
}

// cancel gives up what is read of t without need.
func (s *session) cancel(t *table) {
	if t.snapshot == nil || !t.progress.Whole && t.progress.Needed == "" {
		return
	}
	s.log.Info("the read of a table is given up, as somebody wants it", "table", t.name(), "rows", t.progress.Rows)
	s.breakOff(t)
}

// breakOff ends the read of t but for what readers of the topic lack without it: that begins anew, and single rows whose new place in the
// topic only a read can give are read still.
func (s *session) breakOff(t *table) {
	s.noteRanges(t)
	p, left, after, from := &t.progress, singles(t.progress.Ranges), t.snapshot.after, t.snapshot.from
	s.abandon(t)
	if p.Needed != "" {
		p.Rows = 0
		if len(left) > 0 {
			left = append(left, record.RangeProgress{})
		}
	}
	p.Done, p.Whole, p.Ranges = p.Needed == "" && len(left) == 0, false, left
	p.Where, p.Needed, p.Columns, p.Rate, p.GivenUp = p.Needed, "", nil, 0, true
	p.BegunEra, p.BegunLSN, p.BegunColumns = 0, 0, nil // not all rows have come
	s.changed[t.pub.Relation.OID] = true
	if !p.Done {
		s.want(t, after, false)
		t.snapshot.from = from
	}
}

// fits says what of the request is not there in rel.
func (q *SnapshotRequest) fits(rel *schema.Relation) error {
	for _, name := range q.Columns {
		if !slices.ContainsFunc(rel.Columns, func(c schema.Column) bool { return c.Name == name }) {
			return fmt.Errorf("table %q has no column %q", rel.QualifiedName(), name)
		}
	}
	return nil
}

// request begins to read t again. A read that is under way begins anew, and what it was to bring is brought still.
func (s *session) request(t *table, q *SnapshotRequest) {
	keyless := len(t.pub.Relation.Key) == 0
	where, columns, rate, reload, after, from := q.Where, q.Columns, q.Rate, q.Reload || keyless, uint32(0), change.LSN(0)
	if keyless {
		where, columns, rate = "", nil, 0 // its rows cannot be told apart: all or none, and its stream waits for them
	}
	lacks, needed := q.own || reload, where // what readers of the topic have not without it
	switch before := &t.progress; {
	case t.snapshot != nil:
		single, was := t.snapshot.single(), before.Where
		if len(columns) == 0 || len(before.Columns) == 0 || single {
			columns = nil
		} else {
			columns = slices.Concat(columns, before.Columns)
		}
		after, from = t.snapshot.after, t.snapshot.from
		reload = reload || before.Reload
		if single { // such a row need not fit any condition
			was = ""
		}
		if single || !before.Whole {
			lacked := was
			if !single && before.Needed != "" {
				lacked = before.Needed
			}
			if lacks {
				lacked = either(lacked, needed)
			}
			lacks, needed = true, lacked
		}
		where = either(was, where)
		s.abandon(t)
	case !before.Done: // it lacks all, and is not read at present: see miss
		where, columns, reload, lacks, needed = "", nil, reload || before.Reload, true, ""
	}
	if !lacks || needed == where {
		needed = ""
	}
	s.log.Info("table is read again", "table", t.pub.Relation.QualifiedName(), "request", q.ID, "where", where, "columns", columns, "rate", rate, "reload", reload)
	t.progress.Done = true // what was read before does not count
	t.progress.Asked, t.progress.Where, t.progress.Columns = q.ID, where, columns
	t.progress.Whole, t.progress.Needed = !lacks, needed
	s.want(t, after, reload)
	t.snapshot.by, t.snapshot.from = q.By, from
	t.progress.Rate, t.progress.GivenUp = rate, false
	s.alarms.clear(trouble.SnapshotFailed, subject(t.name()))
}

// either gives the condition that rows of one or the other fit; "" is that of all.
func either(one, other string) string {
	switch {
	case one == "" || other == "":
		return ""
	case one == other:
		return one
	}
	return "(" + one + "\n) or (" + other + "\n)"
}

func (s *session) refuse(q *SnapshotRequest, err error) {
	s.raise(&trouble.Error{
		Code: trouble.SnapshotFailed, Op: "take a request for a snapshot of", Subject: fmt.Sprintf("tables %q", q.Tables), Cause: err,
		Means: "nothing is read; the stream goes on", Hint: "ask again: capture snapshot --table schema.table",
	})
}

// giveUp ends a read that the condition of somebody makes impossible, see breakOff.
func (s *session) giveUp(t *table, err error) {
	s.breakOff(t)
	s.raise(&trouble.Error{
		Code: trouble.SnapshotFailed, Op: "read the rows of", Subject: subject(t.name()), Cause: err,
		Means: "the read that was asked for is given up; the stream goes on", Hint: "ask again with another condition",
	})
}

// subject gives a table as troubles name it.
func subject(table string) string { return fmt.Sprintf("table %q", table) }

// raise makes something visible that is wrong and stops nothing.
func (s *session) raise(t *trouble.Error) {
	s.statusDue = true
	if s.alarms.set(t) {
		s.told(t)
	}
}

// told has log and metrics tell of what stops nothing.
func (s *session) told(t *trouble.Error) {
	s.meter.trouble(t.Code)
	s.log.Warn("something is wrong", service.Err(t))
}

// alarms are the troubles that stop nothing, but for tables that are held, at most one for each code and subject. The zero alarms is empty.
type alarms []*trouble.Error

// maxAlarms bounds what a flood of bad requests can leave behind: the oldest go.
const maxAlarms = 20

// set adds t, or puts it in the place of the one with its code and subject; new says that there was none.
func (a *alarms) set(t *trouble.Error) (fresh bool) {
	had := len(*a)
	a.clear(t.Code, t.Subject)
	fresh = len(*a) == had
	*a = append(*a, t)
	if n := len(*a); n > maxAlarms {
		*a = slices.Delete(*a, 0, n-maxAlarms)
	}
	return fresh
}

func (a *alarms) clear(code trouble.Code, subject string) {
	*a = slices.DeleteFunc(*a, func(t *trouble.Error) bool { return t.Code == code && t.Subject == subject })
}
