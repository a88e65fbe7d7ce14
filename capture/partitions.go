package capture

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// partitions notices which partitions have come and gone. Rows that come with an attached one are in no event: they are
// read. Rows that go with one that is detached or dropped are gone without an event, too; but many do that so as to keep
// them downstream, and so it is only told. A partition that has just been made and written to is read as well: its rows
// come a second time, which changes nothing.
//
// Where partitions are published one by one, the root's place in the other publication has a new one published for INSERT alone, until capture
// has seen it:
//
//	stream:  row 5, inserted into it
//	source:  row 5 is deleted, of which no event tells; capture has the partition published
//	read:    has no row 5
//
// So the table is then read behind a reload, which stands behind all that may have come so: the catalog was read before asOf, and transactions
// up to after may have written to the partition before it was published. It is called before remember, which notes how they are published.
func (s *session) partitions(t *table, after uint32, asOf change.LSN) {
	now, silent := oids(t.catalog.Leaves), oids(t.catalog.Silent)
	was, wereSilent := t.progress.Leaves, t.progress.Silent
	for _, oid := range t.told {
		if !slices.Contains(now, oid) && !slices.Contains(silent, oid) {
			now = append(now, oid)
		}
	}
	slices.Sort(now)
	t.told = nil
	if slices.Equal(was, now) && slices.Equal(wereSilent, silent) {
		return
	}
	left := func(oid uint32) bool { return slices.Contains(now, oid) || slices.Contains(silent, oid) }
	gone := slices.DeleteFunc(slices.Concat(was, wereSilent), left)
	for _, oid := range gone {
		s.wasPartition(oid, t, asOf)
	}
	t.progress.Leaves, t.progress.Silent = now, silent
	s.changed[t.catalog.Relation.OID] = true
	if t.progress.Held != nil || t.pub == nil {
		return
	}
	apart := t.progress.Parts || t.catalog.FullLeaves
	var come, names []string
	mute := false // a partition of which no event told
	for _, l := range t.catalog.Leaves {
		again := slices.Contains(wereSilent, uint32(l.OID))
		mute = mute || again
		if !slices.Contains(was, uint32(l.OID)) && (again || !l.Unused && (apart || !l.Empty)) {
			come, names = append(come, fmt.Sprint(uint32(l.OID))), append(names, l.Schema+"."+l.Name)
		}
	}
	switch {
	case len(come) == 0:
	case s.config.Snapshot.Mode == "never":
		s.log.Warn("partitions were attached, and their rows are not read: snapshot.mode is never",
			"table", t.name(), "partitions", names, "hint", "capture snapshot --reload --table "+t.name())
	case mute:
		s.log.Info("partitions have WAL now, and had none before: the table is loaded anew", "table", t.name(), "partitions", names)
		s.request(t, &SnapshotRequest{own: true, Reload: true})
		t.snapshot.after, t.snapshot.from = after, asOf
	case apart:
		s.log.Info("partitions were attached that are published one by one: the table is loaded anew", "table", t.name(), "partitions", names)
		s.request(t, &SnapshotRequest{own: true, Reload: true})
		t.snapshot.after, t.snapshot.from = after, asOf
	default:
		s.log.Info("partitions were attached: their rows are read", "table", t.name(), "partitions", names)
		s.request(t, &SnapshotRequest{own: true, Where: inPartitions(come...)})
	}
	if len(silent) > 0 && !slices.Equal(wereSilent, silent) {
		s.tellSilent(t.catalog)
	}
	if len(gone) > 0 {
		s.log.Warn("partitions were detached or dropped: their rows stay downstream", "table", t.name(), "partitions", len(gone),
			"hint", "if they are to go: capture snapshot --table "+t.name()+" --reload")
	}
}

// partition is called for a row of t before which the Relation message of leaf came last: that of the partition which it is in, where it is in one.
// Of one that was attached since somebody looked, the watcher would tell too late: an UPDATE that does not carry every value, of a row of before,
// would stand in the topic of a table all of whose rows are said to be there. What else there is to do is left to the watcher where partitions are
// published one by one, as he has them published first, where one has had no WAL, and where the row's transaction itself has attached it and is
// not visible yet: then the rows are read, no more.
//
// The catalog is asked once of each partition for all that the stream has up to there: of one that is dropped since, thousands of Relation
// messages may come. Rows without key carry every value, or none of them would be captured.
func (s *session) partition(ctx context.Context, t *table, leaf schema.OID) error {
	if t.catalog == nil || !t.catalog.Partitioned || leaf == t.catalog.Relation.OID || t.progress.Level != string(catalog.All) || len(t.pub.Relation.Key) == 0 ||
		slices.Contains(t.progress.Leaves, uint32(leaf)) || s.tx.CommitLSN <= t.asked[leaf] {
		return nil
	}
	known, visible, err := s.askSince(ctx, t.catalog.Relation.OID)
	if err != nil || known == nil {
		return err
	}
	at, err := s.askPosition(ctx)
	if err != nil {
		return err
	}
	if maps.DeleteFunc(t.asked, func(_ schema.OID, at change.LSN) bool { return at < s.tx.CommitLSN }); t.asked == nil {
		t.asked = map[schema.OID]change.LSN{}
	}
	t.asked[leaf] = at
	there := slices.Contains(oids(known.Leaves), uint32(leaf))
	switch apart := t.progress.Parts || known.FullLeaves || t.catalog.FullLeaves; {
	case !there && visible: // it is gone since: whoever wrote to it saw it attached
	case there && !apart && known.Level == catalog.All && slices.Equal(oids(known.Silent), t.progress.Silent):
		t.catalog.Leaves, t.catalog.Silent = known.Leaves, known.Silent
		s.partitions(t, 0, 0)
		t.told = slices.Clone(t.progress.Leaves)
	case s.config.Snapshot.Mode != "never": // else the watcher tells
		s.request(t, &SnapshotRequest{own: true, Where: inPartitions(fmt.Sprint(leaf))})
	}
	return nil
}

// inPartitions is the condition of the rows of some partitions.
func inPartitions(oids ...string) string { return "tableoid in (" + strings.Join(oids, ", ") + ")" }

// tellSilent says of which partitions nothing comes but with a read.
func (s *session) tellSilent(t *catalog.Table) {
	for _, l := range t.Silent {
		s.log.Warn("a partition has no WAL: what is written to it does not arrive", "table", t.Relation.QualifiedName(),
			"partition", l.Schema+"."+l.Name, "hint", "ALTER TABLE "+postgres.Ident(l.Schema, l.Name)+" SET LOGGED, if it is not a foreign table")
	}
}

// oids gives those of leaves, in order.
func oids(leaves []catalog.Leaf) (list []uint32) {
	for _, l := range leaves {
		list = append(list, uint32(l.OID))
	}
	slices.Sort(list)
	return list
}
