package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// facts is what the watcher has seen.
type facts struct {
	at     time.Time // when the source was asked
	slot   *catalog.Slot
	wal    change.LSN           // the server's flushed WAL end
	rows   map[schema.OID]int64 // the planner's estimates, which change when tables are analyzed
	tables []*catalog.Table     // nil when nothing has changed since the last facts that had them
	asOf   change.LSN           // the catalog was read before this
	after  uint32               // transactions up to this id may have written to tables before they were published
	// unpublished is why the publications are not as they should be, see refusedPatience; nil: they are, as far as is known.
	unpublished *trouble.Error
}

// look is what the source was seen to be.
type look struct {
	began time.Time // when it was asked
	*catalog.Look
}

// watcher looks at the source's catalog whenever something has changed in it: it brings new tables and changed replica identities
// into the publications, tells the session of them, writes heartbeats, and reports the WAL that is kept.
type watcher struct {
	config   *Config
	log      *slog.Logger
	patterns catalog.Patterns
	looks    <-chan look // at the source, see Capture.watchBudget
	instead  func(ctx context.Context, cat *catalog.Catalog) (*catalog.Look, error)
	out      chan facts
	known    string
	captured map[schema.OID]bool  // what the session has been told of
	version  string               // of the catalog that all is done about; "": of none
	rows     map[schema.OID]int64 // as of version
	slots    int                  // of the server that somebody streams from
	refused  time.Time            // since when each look found that the publications could not be changed; zero: the last one did not
}

// crowd is how many slots a server has before heartbeats are written more seldom, so that it is never more for all of them together:
// each wakes the walsenders of all, and their readers.
const crowd = 20

// beatAfter gives when the next heartbeat is due.
func (w *watcher) beatAfter() time.Duration {
	return w.config.Source.Heartbeat * time.Duration(max(w.slots, crowd)) / crowd
}

// lookPatience is how many times source.refresh a look is waited for. Then the watcher looks itself, and tells why it cannot.
const lookPatience = 3

// refusedPatience is how long the publications may not be changed before that is told: mostly a lock of an ordinary transaction is in the way, and
// goes. No right comes by itself, and where one publishes less, changes are missing.
const refusedPatience = time.Minute

func (w *watcher) run(ctx context.Context, dsn, application string) error {
	cat, err := catalog.Open(ctx, dsn, application)
	if err != nil {
		return err
	}
	defer cat.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	beat := time.NewTimer(w.beatAfter())
	defer beat.Stop()
	if w.config.Source.Heartbeat == 0 {
		beat.Stop()
	}
	began := time.Now()
	late := time.NewTimer(0) // who asks for the status right after the start is told of the source, too
	defer late.Stop()
	for {
		var l *catalog.Look
		var at time.Time
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			beat.Reset(w.beatAfter())
			if err := cat.EmitMessage(ctx, fmt.Sprintf(`{"heartbeat": %d}`, time.Now().UnixMicro())); err != nil {
				return err
			}
			continue
		case seen := <-w.looks:
			if seen.began.Before(began) {
				continue // the slot may be another one since
			}
			at, l = seen.began, seen.Look
		case <-late.C:
			at = time.Now()
			if l, err = w.instead(ctx, cat); err != nil {
				return err
			}
		}
		if l.Slot != nil {
			w.slots = l.Slot.Neighbours
		}
		late.Reset(lookPatience * w.config.Source.Refresh)
		f, err := w.learn(ctx, cat, look{at, l})
		if err != nil {
			return err
		}
		w.tell(f)
	}
}

// tell hands f to the session without waiting: facts that it has not taken yet are replaced, but their tables are
// not lost.
func (w *watcher) tell(f facts) {
	select {
	case old := <-w.out:
		if f.tables == nil {
			f.tables, f.after, f.asOf = old.tables, old.after, old.asOf
		}
	default:
	}
	w.out <- f // there is room: only this goroutine sends
}

// learn makes facts of a look. Where that says that the catalog is another one since, it is read.
func (w *watcher) learn(ctx context.Context, cat *catalog.Catalog, l look) (facts, error) {
	f := facts{at: l.began, slot: l.Slot, wal: l.WAL, rows: w.rows}
	if l.Version == w.version {
		return f, nil
	}
	tables, err := cat.Tables(ctx, w.patterns)
	if err != nil {
		return f, err
	}
	if _, err := cat.LeaveOut(ctx, w.config.Source.publications(), tables); err != nil {
		return f, err
	}
	f.rows = make(map[schema.OID]int64, len(tables))
	for _, t := range tables {
		f.rows[t.Relation.OID] = t.EstimatedRows
	}
	w.rows = f.rows
	late, err := cat.Ensure(ctx, w.config.Source.publications(), tables, w.captured)
	if w.version = l.Version; err == nil && late == nil {
		w.refused = time.Time{}
	} else {
		w.version = "" // also where it is as before: what was refused may be gone
		refused := err
		if f.unpublished, err = w.refuse(ctx, cat, cmp.Or(refused, late)); err != nil || refused != nil {
			return f, err
		}
	}
	now := fingerprint(tables)
	if now == w.known {
		return f, nil
	}
	if f.after, err = cat.NewestTransaction(ctx); err != nil {
		return f, err
	}
	if f.asOf, err = cat.WALPosition(ctx); err != nil {
		return f, err
	}
	f.tables, w.known, w.captured = tables, now, captured(tables)
	return f, nil
}

// notChangedYet is what the log says of publications that are not as they should be.
const notChangedYet = "publications are not changed yet, trying again"

// refuse notes that the publications could not be changed as they should. It gives what is to be told of it, nil for nothing yet, or the error by
// which there is no going on.
func (w *watcher) refuse(ctx context.Context, cat *catalog.Catalog, err error) (tell *trouble.Error, _ error) {
	t, ok := errors.AsType[*trouble.Error](err)
	if !ok || t.Code == trouble.SourceUnreachable {
		return nil, err
	}
	w.log.Warn(notChangedYet, service.Err(err))
	if w.refused.IsZero() {
		w.refused = time.Now()
	}
	less, err := cat.LackingPublications(ctx, w.config.Source.publications())
	if len(less) > 0 || t.Code == trouble.SourceRights || time.Since(w.refused) >= refusedPatience {
		return t, err
	}
	return nil, err
}

// captured gives those of tables that are not left out.
func captured(tables []*catalog.Table) map[schema.OID]bool {
	all := map[schema.OID]bool{}
	for _, t := range tables {
		if t.Level != catalog.LeftOut {
			all[t.Relation.OID] = true
		}
	}
	return all
}

// fingerprint is equal for lists of tables that are published alike and have the same columns.
func fingerprint(tables []*catalog.Table) string {
	var b strings.Builder
	for _, t := range tables {
		fmt.Fprintf(&b, "%d %q %q %s %t %d %d %v", t.Relation.OID, t.Relation.Schema, t.Relation.Name, t.Level, t.FullLeaves, t.Member, t.Published, t.Relation.Key)
		fmt.Fprint(&b, oids(t.Leaves), oids(t.Silent))
		for i := range t.Relation.Columns {
			c := &t.Relation.Columns[i]
			fmt.Fprintf(&b, " %d %q %q %t", c.AttNum, c.Name, c.Type.Name, c.NotNull)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// learn takes the watcher's facts.
func (s *session) learn(ctx context.Context, f facts) error {
	s.tellUnpublished(s.facts.unpublished, f.unpublished)
	s.facts = f
	s.passed.see(f.at, f.wal)
	for oid, t := range s.tables {
		if rows, known := f.rows[oid]; known && t.catalog != nil {
			t.catalog.EstimatedRows = rows
		}
	}
	s.publishStatus(s)
	if f.slot != nil && f.slot.WALStatus == "lost" {
		return &trouble.Error{
			Code: trouble.SlotLost, Op: "read WAL from", Subject: fmt.Sprintf("slot %q", f.slot.Name),
			Cause: errors.New("the server dropped the WAL that the slot needed (wal_status is lost)"),
			Means: "changes since are missing in the topics", Hint: "capture run --on-gap=resnapshot",
		}
	}
	if f.tables == nil {
		return s.lookForMissed(ctx)
	}
	there := map[schema.OID]bool{}
	for _, known := range f.tables {
		oid := known.Relation.OID
		there[oid] = true
		t := s.tables[oid]
		switch {
		case t == nil || t.catalog == nil || t.progress.Table == "" && known.Level != catalog.LeftOut: // rows of it may have come before
			if known.Level != catalog.LeftOut { // which tellLeftOut tells
				s.log.Info("new table", "table", known.Relation.QualifiedName())
			}
			if err := s.adopt(ctx, known, record.TableProgress{}, false, f.after, f.asOf); err != nil {
				return err
			}
		case t.progress.Level != levelOf(known) && known.Level != catalog.LeftOut:
			s.log.Info("table is captured otherwise from now on", "table", known.Relation.QualifiedName(), "was", t.progress.Level, "is", levelOf(known))
			was := t.progress
			if t.snapshot != nil { // under way under the old level: it begins again
				s.abandon(t)
				was.Done, was.Rows, was.Ranges = false, 0, nil
			}
			if err := s.adopt(ctx, known, was, known.Level == catalog.All || was.Done || was.Held != nil, f.after, f.asOf); err != nil {
				return err
			}
		default:
			t.catalog = known
			s.partitions(t, f.after, f.asOf)
			s.remember(t, f.after, f.asOf)
			s.foresee(t, known, f.asOf)
		}
	}
	s.tellLeftOut(f.tables)
	for oid, t := range s.tables {
		if t.catalog != nil && !there[oid] {
			s.lose(t, f.asOf)
		}
		if t.lost && change.LSN(s.gone[oid].By) <= s.streamed { // also where it is forgotten, as no row of it can come any more
			delete(s.tables, oid)
		}
	}
	for _, t := range s.tables {
		if t.pub != nil {
			s.succeed(t, t.catalog)
		}
	}
	return s.forget(ctx)
}

// tellUnpublished makes visible why the publications are not as they should be, as long as they are not: as the facts before said it, and those now.
func (s *session) tellUnpublished(was, is *trouble.Error) {
	if was != nil && (is == nil || was.Code != is.Code || was.Subject != is.Subject) {
		s.alarms.clear(was.Code, was.Subject)
	}
	if is != nil {
		s.raise(is)
	}
}

// abandon gives up reading t; what its readers still bring is dropped.
func (s *session) abandon(t *table) {
	s.chunks.queue, s.chunks.reading = without(s.chunks.queue, t), without(s.chunks.reading, t)
	if t.snapshot != nil && t.snapshot.hold != nil {
		close(t.snapshot.hold.abandoned)
	}
	s.readable(t)
	t.snapshot = nil
}
