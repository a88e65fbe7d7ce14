package capture

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/pgoutput"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// relation keeps a Relation message for when a row needs it. Postgres sends it again after every invalidation
// (ANALYZE, CREATE INDEX …), nearly always with the same content, and for partitions of which no row ever comes.
func (s *session) relation(data []byte) {
	s.related = s.decode.Relation.OID
	t := s.tables[s.decode.Relation.OID]
	if t == nil {
		t = &table{}
		if s.gone[s.decode.Relation.OID].Held {
			t.progress.Held = &record.Held{}
		}
		s.tables[s.decode.Relation.OID] = t
	}
	t.schema = ""
	if t.pub != nil && bytes.Equal(t.message, data) {
		t.pending = nil
		return
	}
	t.pending = bytes.Clone(data)
}

// publish has an event of the table with this OID published by do, if it is captured and not held.
func (s *session) publish(ctx context.Context, oid schema.OID, do func(*table) error) error {
	t, leaf := s.tables[oid], s.related
	s.related = 0
	if t == nil {
		return &trouble.Error{
			Code: trouble.StreamBroken, Op: "decode", Subject: fmt.Sprintf("a row of the transaction that commits at %s", s.tx.CommitLSN),
			Cause: fmt.Errorf("no Relation message came for OID %d", oid), Means: "nothing after it is published; the source keeps its WAL",
			Hint: trouble.Report("capture"),
		}
	}
	if t.progress.Held != nil {
		if s.isNew() { // else it was counted by who read it first
			s.meter.skipped.WithLabelValues(skipHeld).Inc()
		}
		return nil
	}
	if t.pending != nil {
		if err := s.resolve(ctx, t); err != nil {
			return s.setAside(ctx, t, err)
		}
	}
	if t.pub == nil {
		s.meter.skipped.WithLabelValues(skipLeftOut).Inc()
		return nil
	}
	if leaf != 0 {
		if err := s.partition(ctx, t, leaf); err != nil {
			return err
		}
	}
	if t.txAt != s.tx.CommitLSN {
		t.txAt, t.txOrdinal = s.tx.CommitLSN, 0
	}
	t.txOrdinal++
	if t.later != nil && s.isNew() {
		if err := s.overtaken(ctx, t); err != nil {
			return err
		}
	}
	return s.setAside(ctx, t, do(t))
}

// resolve takes up a pending Relation message.
func (s *session) resolve(ctx context.Context, t *table) error {
	var d pgoutput.Decoder
	if _, err := d.Decode(t.pending); err != nil {
		return fmt.Errorf("decode a kept Relation message: %w", err)
	}
	if t.schema != "" {
		d.Relation.Namespace = []byte(t.schema)
	}
	known, err := s.askTable(ctx, d.Relation.OID)
	is := known
	if is == nil && err == nil {
		is, err = s.knownLast(ctx, t, d.Relation.OID)
	}
	var rel *schema.Relation
	if err == nil {
		done := s.stage.Hand(s.others.read, waitSource)
		rel, err = s.catalog.Resolve(ctx, &d.Relation, is, t.seen)
		done()
	}
	if err != nil {
		return err
	}
	if !s.patterns.Match(rel.Schema, rel.Name) {
		s.miss(t) // it has been renamed to what is not captured; the watcher takes it out, if it stays so
		t.pub, t.message, t.pending = nil, t.pending, nil
		t.seenAt = s.tx.CommitLSN
		return nil
	}
	shown := known != nil && s.patterns.Match(known.Relation.Schema, known.Relation.Name) // else only the stream has it, for a while
	now := rel
	var there *schema.Relation
	if known != nil {
		there = &known.Relation
	}
	if shown {
		if t.catalog != nil {
			t.catalog = known // whose name is told where it is held
		}
		if now, err = s.calledNow(ctx, rel, known); err != nil {
			return err
		}
	}
	if t.pub == nil || !t.pub.Relation.Equal(rel) {
		if err := s.setRelation(ctx, t, rel, there, now); err != nil {
			return err
		}
	}
	if shown {
		t.catalog = known
	}
	t.message, t.pending = t.pending, nil
	t.seenAt = s.tx.CommitLSN
	s.succeed(t, known)
	s.comeBack(t)
	s.follow(t, rel)
	return nil
}

// calledNow gives the version of a table by whose name it is to be told of: that of the catalog, which is ahead of the stream by all that was renamed since;
// or the stream's, where that is ahead, as the transaction that has renamed the table is not visible yet. Of another one no row comes before it is.
func (s *session) calledNow(ctx context.Context, rel *schema.Relation, known *catalog.Table) (*schema.Relation, error) {
	if known.Relation.QualifiedName() == rel.QualifiedName() && !slices.ContainsFunc(rel.Columns, func(c schema.Column) bool {
		is := known.Relation.Numbered(c.AttNum)
		return is != nil && is.Name != c.Name
	}) {
		return &known.Relation, nil
	}
	known, visible, err := s.askSince(ctx, rel.OID)
	if err != nil || known == nil || !visible {
		return rel, err
	}
	return &known.Relation, nil
}

// setRelation makes rel the version of t that is published from here on. is is what the catalog has, nil for nothing, and now the version by whose name it is told of.
func (s *session) setRelation(ctx context.Context, t *table, rel, is, now *schema.Relation) error {
	was := publish.Former{Name: t.published(), Columns: t.progress.CoveredColumns}
	if !t.ahead {
		was.Seen = t.seen
	}
	if was.Name.Table == "" {
		was.Name, was.Columns = s.former(rel.OID)
	}
	if was.Name.Table != "" {
		if err := s.pub.Renamed(&was, rel, is, now); err != nil {
			// The name goes with what is held, which another session, or a request, lets go on only by columns that cover it.
			t.progress.Covered, t.progress.CoveredColumns, t.pub = &was.Name, was.Columns, nil
			if t.catalog != nil {
				s.called(t, now)
			}
			return err
		}
	}
	done := s.stage.Hand(s.others.registry, waitRegistry)
	pub, err := s.pub.Table(ctx, rel)
	done()
	if err != nil {
		return err
	}
	t.progress.Covered = nil
	if t.progress.CoveredColumns = was.Columns; was.Name.Part {
		t.progress.CoveredColumns = nil // they are of the root
	}
	if t.pub != nil {
		s.log.Info("table has a new version", "table", rel.QualifiedName(), "lsn", s.tx.CommitLSN.String())
		s.meter.schemas.WithLabelValues(schemaKind(t.pub.Relation, rel)).Inc()
	}
	t.pub = pub
	t.counters = s.meter.table(rel.QualifiedName())
	return nil
}

// setCatalog makes what the catalog has of t the version that is published, until a row comes. The stream may be behind the
// catalog or ahead of it: a row that comes without a Relation message of its own has the form that the last one said. But its
// schema may have another name since, of which servers before 16 send nothing.
func (s *session) setCatalog(ctx context.Context, t *table, known *catalog.Table) error {
	t.catalog = known
	rel := known.Relation
	if t.pending == nil && t.message != nil {
		t.pending, t.schema = t.message, known.Relation.Schema
	}
	t.message = nil
	return s.setRelation(ctx, t, &rel, &rel, &rel)
}

// event gives an event of the current transaction with its position.
func (s *session) event(op change.Op, t *table) change.Event {
	return change.Event{
		Op: op, Tx: s.tx, TableOrdinal: t.txOrdinal,
		Position: s.position(),
	}
}

func (s *session) position() change.Position {
	return change.Position{Era: s.era, CommitLSN: s.tx.CommitLSN, Seq: s.ordinal * 2}
}

// isNew says whether the current event is behind the progress that the session began with, which has what earlier ones led to.
func (s *session) isNew() bool { return s.position().Compare(s.reached) > 0 }

// row publishes an Insert, Update or Delete.
func (s *session) row(ctx context.Context, kind pgoutput.Kind) error {
	return s.publish(ctx, s.decode.Row.OID, func(t *table) error { return s.rowOf(ctx, t, kind) })
}

func (s *session) rowOf(ctx context.Context, t *table, kind pgoutput.Kind) (err error) {
	row := &s.decode.Row
	rel := t.pub.Relation
	if width := len(rel.Columns); row.New != nil && len(row.New) != width || row.Old != nil && len(row.Old) != width {
		return fmt.Errorf("decode a row of table %q at %s: it has not the %d columns of its Relation message", rel.QualifiedName(), s.tx.CommitLSN, width)
	}
	complete(rel, row)
	if kind != pgoutput.KindInsert && len(rel.Key) == 0 && (row.Old == nil || row.OldIsKey) {
		s.meter.skipped.WithLabelValues(skipLeftOut).Inc()
		if t.catalog != nil && t.lacked != s.tx.CommitLSN && s.isNew() {
			t.lacked = s.tx.CommitLSN // once for all of its rows, of which there may be millions: no read begins before it ends
			s.makeUp(t, "a row of a partition came without all of its old values, as the partition has not REPLICA IDENTITY FULL: which it was nobody can tell")
		}
		return nil
	}
	if t.snapshot != nil {
		drop, err := s.meet(ctx, t, row)
		if err != nil || drop {
			return err
		}
	}
	var did bool
	switch {
	case kind == pgoutput.KindInsert:
		ev := s.event(change.Create, t)
		ev.After = row.New
		did, err = s.pub.Publish(ctx, t.pub, &ev)
	case kind == pgoutput.KindDelete:
		ev := s.event(change.Delete, t)
		ev.Before = row.Old
		did, err = s.pub.Publish(ctx, t.pub, &ev)
	case keyChanged(rel, row):
		old, fresh := s.event(change.Delete, t), s.event(change.Create, t)
		fresh.Position.Seq++
		old.Before, fresh.After = row.Old, row.New
		var whole bool
		did, whole, err = s.pub.PublishMove(ctx, t.pub, &old, &fresh)
		if err == nil && !whole && t.catalog != nil && fresh.Position.Compare(s.reached) > 0 { // else it is gone, or read already, or its progress has it
			s.readAgain(t, row.New)
		}
	default:
		ev := s.event(change.Update, t)
		ev.After = row.New
		if !row.OldIsKey {
			ev.Before = row.Old
		}
		did, err = s.pub.Publish(ctx, t.pub, &ev)
	}
	if did {
		t.counters.count(kind)
		s.published()
	} else if err == nil {
		s.meter.skipped.WithLabelValues(skipPublished).Inc()
	}
	return err
}

// complete fills what the new row lacks from the old one: a TOASTed value under REPLICA IDENTITY FULL, a TOASTed
// key column under any identity.
func complete(rel *schema.Relation, row *pgoutput.Row) {
	if row.Old == nil || row.New == nil {
		return
	}
	for i := range row.New {
		if row.New[i].State == change.Unchanged && (!row.OldIsKey || rel.IsKey(i)) {
			row.New[i] = row.Old[i]
		}
	}
}

// keyChanged compares the keys by their values: an old tuple alone is not a key change.
func keyChanged(rel *schema.Relation, row *pgoutput.Row) bool {
	if row.Old == nil {
		return false
	}
	for _, k := range rel.Key {
		if !bytes.Equal(row.Old[k].Text, row.New[k].Text) {
			return true
		}
	}
	return false
}

// truncate publishes a Truncate of one or several tables.
func (s *session) truncate(ctx context.Context) error {
	s.related = 0 // it may be of another of them
	for _, oid := range slices.Clone(s.decode.Truncate.OIDs) {
		if err := s.publish(ctx, oid, func(t *table) error { return s.truncateOf(ctx, t) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) truncateOf(ctx context.Context, t *table) error {
	if t.snapshot != nil {
		if drop, err := s.meet(ctx, t, nil); err != nil || drop {
			return err
		}
	}
	ev := s.event(change.Truncate, t)
	did, err := s.pub.Publish(ctx, t.pub, &ev)
	if did {
		t.counters.count(pgoutput.KindTruncate)
		s.published()
	}
	return err
}

// levelOf gives the word for the progress record.
func levelOf(t *catalog.Table) string { return string(t.Level) }

// newProgress is the progress of a table of which nothing was read yet.
func newProgress(t *catalog.Table) record.TableProgress {
	return record.TableProgress{
		OID: uint32(t.Relation.OID), Schema: t.Relation.Schema, Table: t.Relation.Name, Level: levelOf(t), Leaves: oids(t.Leaves), Silent: oids(t.Silent), Member: t.Member, Published: t.Published, Parts: t.FullLeaves,
	}
}
