package capture

import (
	"context"
	"fmt"
	"slices"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// DDL is not in the stream. A Relation message says that a table has other columns from its place on, but only when a
// row follows, and nothing is ever sent of what DDL does to rows that are there: ADD COLUMN … DEFAULT random() and
// ALTER COLUMN … TYPE … USING write the whole table anew without a single event. Where that may have been, the table is
// read again.
//
// A table's version in the stream (seen) is told from the one that the catalog has, which may be ahead. The version
// is in the progress, in the Kafka transaction of the events around it:
//
//	session 1: meets the new version, decides to read the table again, publishes an event, dies before the read
//	session 2: begins behind the event, and meets no other version than the one that the catalog has
//
// What session 1 decided is in the progress with the version that it met.

// alteration is a table as the catalog had it at some place of the stream.
type alteration struct {
	known *catalog.Table
	asOf  change.LSN // the catalog was read before this
}

// foresee has the table compared with what the catalog has of it, once the stream is there: not before, as on the way it may have
// another version that it has not any more. Where rows tell of it before, nothing is left to do then. Without it, an alteration
// after which nobody writes would never be noticed.
func (s *session) foresee(t *table, known *catalog.Table, asOf change.LSN) {
	if t.pub == nil && !t.missed || t.seen == nil {
		return
	}
	if t.altered == nil {
		s.altered = append(s.altered, t)
	}
	t.altered = &alteration{known, asOf}
}

// alterations is called between two transactions: it takes up the alterations that the stream has come past.
func (s *session) alterations(ctx context.Context) error {
	for _, t := range slices.Clone(s.altered) {
		if s.streamed < t.altered.asOf {
			continue
		}
		known, stale := t.altered.known, t.seenAt > t.altered.asOf
		t.altered = nil
		s.altered = without(s.altered, t)
		if stale || t.progress.Held != nil || s.tables[known.Relation.OID] != t {
			continue
		}
		if t.seen.Equal(&known.Relation) && !t.missed {
			s.cover(t, &known.Relation, true)
			t.ahead = false
			continue
		}
		// It is altered again, perhaps, and the stream has told: then the watcher tells, too.
		if fresh, err := s.askTable(ctx, known.Relation.OID); err != nil {
			return err
		} else if fresh == nil || !fresh.Relation.Equal(&known.Relation) {
			continue
		}
		if err := s.setAside(ctx, t, s.setCatalog(ctx, t, known)); err != nil {
			return err
		}
		if t.progress.Held == nil {
			s.comeBack(t)
			s.follow(t, t.pub.Relation)
		}
	}
	return nil
}

// reach notes that the stream is at the version of t that is published.
func (t *table) reach() {
	t.seen, t.progress.SchemaID, t.progress.Schemas, t.progress.Files = t.pub.Relation, t.pub.SchemaID(), t.pub.Schemas(), t.catalog.Files
}

// follow notes that the stream is at version now of t, which is set, and has the table read again where its rows may hold
// what was never sent.
func (s *session) follow(t *table, now *schema.Relation) {
	s.cover(t, now, true)
	t.ahead = false
	before, files := t.seen, t.progress.Files
	if before == nil || before.Equal(now) || t.catalog == nil { // of one that is gone no rows are left to be read
		t.seen = now
		return
	}
	t.reach()
	s.called(t, now)
	s.changed[t.catalog.Relation.OID] = true
	moved := before.Schema != now.Schema || before.Name != now.Name
	reason, reload := "it has another name, and with it another topic", moved
	if !moved {
		reason, reload = reread(before, now, t.catalog, files != 0 && files != t.catalog.Files, t.pub.Partitions())
	}
	switch {
	case reason == "":
		return
	case s.config.Snapshot.Mode == "never":
		s.log.Warn("rows that are there may hold what was never sent, and are not read again: snapshot.mode is never",
			"table", now.QualifiedName(), "reason", reason, "hint", "capture snapshot --table "+now.QualifiedName())
		return
	}
	s.log.Info("table was altered: its rows are read again", "table", now.QualifiedName(), "reason", reason)
	s.request(t, &SnapshotRequest{own: true, Reload: reload})
}

// called has the progress of t go by the name that it has now.
func (s *session) called(t *table, now *schema.Relation) {
	s.fewer = s.fewer || t.progress.Schema != now.Schema || t.progress.Table != now.Name
	t.progress.Schema, t.progress.Table = now.Schema, now.Name
}

// miss notes that rows of t are left out, as it has a name that is not captured: it is read anew when it comes back, also in another
// session.
func (s *session) miss(t *table) {
	s.abandon(t)
	if t.catalog == nil {
		return
	}
	t.missed = true
	if s.config.Snapshot.Mode != "never" {
		t.progress.Done, t.progress.Reload, t.progress.Rows, t.progress.Ranges = false, true, 0, nil
		t.progress.Where, t.progress.Needed, t.progress.Columns, t.progress.Whole = "", "", nil, false // of the read before
		s.changed[t.catalog.Relation.OID] = true
	}
}

// comeBack is called where t has a captured name, for what was missed under another.
func (s *session) comeBack(t *table) {
	if t.missed {
		t.missed = false
		s.makeUp(t, "it had a name that is not captured for a while")
	}
}

// lookForMissed looks whether tables that have left the captured names have come back between two looks at the catalog, in which they
// are as they were.
func (s *session) lookForMissed(ctx context.Context) error {
	for oid, t := range s.tables {
		if !t.missed || t.altered != nil {
			continue
		}
		known, err := s.askTable(ctx, oid)
		if err != nil {
			return err
		}
		if known == nil || !s.patterns.Match(known.Relation.Schema, known.Relation.Name) {
			continue
		}
		asOf, err := s.askPosition(ctx)
		if err != nil {
			return err
		}
		s.foresee(t, known, asOf)
	}
	return nil
}

// makeUp has t, whose topic lacks events or has those of another table, loaded anew.
func (s *session) makeUp(t *table, reason string) {
	if s.config.Snapshot.Mode == "never" {
		s.log.Warn("topic and table differ, and the table is not read again: snapshot.mode is never",
			"table", t.name(), "reason", reason, "hint", "capture snapshot --reload --table "+t.name())
		return
	}
	s.log.Warn("topic and table differ: the table is loaded anew", "table", t.name(), "reason", reason)
	s.request(t, &SnapshotRequest{own: true, Reload: true})
}

// An earlier table of a name may have events to come when the later one is known already:
//
//	while capture is away: INSERT of row 5 into t, which was empty; DROP TABLE t; CREATE TABLE t, with another key
//	session: adopts the later t, whose topic holds nothing yet, and reads it
//	stream:  row 5 of the earlier one, published behind the rows of the later one
//
// No event tells that row 5 is gone: so the later one is read behind a reload, once the stream is where the catalog has it.

// succeed notes which table has by now the name under which t is published; known is what the catalog has of t.
func (s *session) succeed(t *table, known *catalog.Table) {
	t.later = nil
	if rel := t.pub.Relation; known == nil || known.Relation.Schema != rel.Schema || known.Relation.Name != rel.Name {
		t.later = s.named(rel)
	}
}

// named gives the table that has rel's name in the catalog, if it is another one than rel; nil for none.
func (s *session) named(rel *schema.Relation) *table {
	for oid, t := range s.tables {
		if oid != rel.OID && t.catalog != nil && t.catalog.Relation.Schema == rel.Schema && t.catalog.Relation.Name == rel.Name {
			return t
		}
	}
	return nil
}

// overtaken is called for an event of a table whose name t.later has by now. Of a later table that is held, or not captured at present,
// nothing is read; whoever lets it go on may do so before the last event has come:
//
//	later:   is held
//	stream:  row 5 of the earlier one; somebody's request, by which the later one goes on behind a reload; row 6 of the earlier one
func (s *session) overtaken(ctx context.Context, t *table) error {
	later := t.later
	switch {
	case later.catalog == nil: // gone as well
		t.later = nil
		return nil
	case later.pub == nil || later.progress.Held != nil,
		later.snapshot != nil && later.progress.Reload && s.streamed < later.snapshot.from:
		return nil
	}
	from, err := s.askPosition(ctx)
	if err != nil {
		return err
	}
	s.makeUp(later, "an earlier table of its name had changes to come")
	if later.snapshot == nil { // nor is it: see snapshot.mode
		t.later = nil
		return nil
	}
	later.snapshot.from = from
	return nil
}

// remember notes t's place in its publication. Where it is another one, of the same level, or the publication is another, somebody else has
// taken the table out, or had it published in part: changes are missing. Transactions up to after may have written to it before it was put in
// again. That the publication is as it should be says nothing of what it was:
//
//	somebody: ALTER PUBLICATION SET (publish = 'insert'); UPDATE; ALTER PUBLICATION SET (publish = 'insert, update, delete, truncate')
//	stream:   has no UPDATE
//
// Nor can it be told that he has set what was set already, or has given it another owner: who does that may have done the other before.
//
// Where the table itself goes to the other publication, by its level or as its partitions are published one by one from now on, its place says
// nothing; that the one where it was has been altered does.
//
// The read waits until the stream has come to where the catalog was read: before that the table may still have what was left of it.
func (s *session) remember(t *table, after uint32, asOf change.LSN) {
	p, is := &t.progress, t.catalog
	if p.Member == is.Member && p.Published == is.Published && p.Parts == is.FullLeaves || is.Member == 0 {
		return
	}
	member := p.Member == is.Member || p.Parts != is.FullLeaves
	same := p.Member == 0 || member && !alteredSince(p, is)
	p.Member, p.Published, p.Parts = is.Member, is.Published, is.FullLeaves
	s.changed[is.Relation.OID] = true
	if same || p.Held != nil || t.pub == nil {
		return
	}
	reason := "somebody has changed what its publication has of it"
	if member {
		reason = "the publication was altered"
	}
	s.makeUp(t, reason)
	if t.snapshot != nil {
		t.snapshot.after, t.snapshot.from = after, asOf
	}
}

// alteredSince says whether the publication that had a table, as its progress says, was altered. Where capture was older that is not known.
func alteredSince(was *record.TableProgress, is *catalog.Table) bool {
	return was.Published != 0 && was.Published != is.PublishedAs(catalog.Level(was.Level), was.Parts)
}

// reread says why rows of a table that went from one version to the next may hold what was never sent, "" if they cannot.
// rewritten says that the server has written the table anew in between. reload says that the rows have to come behind
// a truncate: their order to what was published before cannot be told otherwise.
func reread(before, now *schema.Relation, known *catalog.Table, rewritten bool, partitions int) (reason string, reload bool) {
	was := map[int16]*schema.Column{}
	for i := range before.Columns {
		was[before.Columns[i].AttNum] = &before.Columns[i]
	}
	for i := range now.Columns {
		c := &now.Columns[i]
		old := was[c.AttNum]
		var why string
		switch {
		case c.AttNum == 0:
			why = fmt.Sprintf("it cannot be told which of its former columns %q is, if any", c.Name)
		case old == nil && before.Column(c.Name) >= 0:
			why = fmt.Sprintf("column %q is another one than that of the same name before", c.Name)
		case old == nil && c.Default == nil && (rewritten || c.NotNull || slices.Contains(known.Computed, c.AttNum)):
			why = fmt.Sprintf("column %q was added with values that were computed row by row", c.Name)
		case old != nil && (!sameText(&old.Type, &c.Type) || rewritten && old.Type.Name != c.Type.Name): // USING makes other values also of a type that holds the old ones
			why = fmt.Sprintf("column %q was %s and is %s", c.Name, old.Type.Name, c.Type.Name)
		case old == nil && now.IsKey(i): // the rows have one constant
			why = fmt.Sprintf("column %q was added, and belongs to the key", c.Name)
		default:
			continue
		}
		if reason == "" {
			reason = why
		}
		reload = reload || now.IsKey(i) // rows may have other keys: nothing tells that those before are gone
	}
	if partitions > 1 && !sameKey(before, now) {
		return "it has another key, and rows are in other partitions", true
	}
	return reason, reload
}

// sameText says whether the change of a type leaves the text of every value as it was, and is one that the server makes
// without writing the table anew.
func sameText(old, fresh *schema.Type) bool {
	if old.Name == fresh.Name {
		return true
	}
	text := func(t *schema.Type) bool { return t.OID == schema.OIDText || t.OID == schema.OIDVarchar }
	const header, scaleMask = 4, 0x7ff
	switch {
	case text(old) && text(fresh):
		return fresh.Typmod < 0 || old.Typmod >= 0 && fresh.Typmod >= old.Typmod
	case old.OID == schema.OIDNumeric && fresh.OID == schema.OIDNumeric && old.Typmod >= 0:
		return fresh.Typmod < 0 || fresh.Typmod >= old.Typmod && (fresh.Typmod-header)&scaleMask == (old.Typmod-header)&scaleMask
	}
	return false
}

// sameKey compares keys by the columns that they are of.
func sameKey(a, b *schema.Relation) bool { return slices.Equal(keyNumbers(a), keyNumbers(b)) }

// keyNumbers gives the numbers of the columns of the key, in its order.
func keyNumbers(rel *schema.Relation) (list []int16) {
	for _, k := range rel.Key {
		list = append(list, rel.Columns[k].AttNum)
	}
	return list
}

// askTable asks the catalog for a table. Until it answers it is the source that is waited for: that takes long where somebody has locked it.
func (s *session) askTable(ctx context.Context, oid schema.OID) (*catalog.Table, error) {
	defer s.stage.Hand(s.others.read, waitSource)()
	return s.catalog.Table(ctx, oid)
}

// askSince does so, and says whether the transaction under way was visible before: then the catalog shows what it has done to the table. That it is older
// than all that run would be too much to ask: one that somebody has forgotten runs for days.
func (s *session) askSince(ctx context.Context, oid schema.OID) (known *catalog.Table, visible bool, err error) {
	defer s.stage.Hand(s.others.read, waitSource)()
	if visible, err = s.catalog.Ended(ctx, s.tx.XID); err != nil {
		return nil, false, err
	}
	known, err = s.catalog.Table(ctx, oid)
	return known, visible, err
}

// askPosition does so for where the WAL ends.
func (s *session) askPosition(ctx context.Context) (change.LSN, error) {
	defer s.stage.Hand(s.others.read, waitSource)()
	return s.catalog.WALPosition(ctx)
}
