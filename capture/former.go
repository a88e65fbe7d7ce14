package capture

import (
	"context"
	"maps"
	"slices"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// What columns of capture.yaml leave out of a table by its name must not leave capture because the table has another name. Whoever gives it one
// may do so in two steps, of which capture sees the first alone; and what was a partition may become a table by itself:
//
//	source:  public.customer, of which columns leave something out, gets a name that is not captured
//	capture: takes it for gone; restarts, or not
//	source:  it gets the name public.client, which is captured
//
// So the former name is in the progress: with the table while it is captured, and with those that are gone as long as the source has it. And so are
// the numbers of the columns: what is renamed is the same column, and an entry with wildcards has no other way to miss it, as not each of its tables
// has all of its columns.

// published gives what t was called when it was published last, as far as that is known, or may have been.
func (t *table) published() record.Name {
	switch {
	case t.progress.Covered != nil:
		return *t.progress.Covered
	case t.pub != nil:
		return record.Name{Schema: t.pub.Relation.Schema, Table: t.pub.Relation.Name}
	case t.seen != nil:
		return record.Name{Schema: t.seen.Schema, Table: t.seen.Name}
	}
	return record.Name{Schema: t.progress.Schema, Table: t.progress.Table}
}

// covered gives a name by which columns leave something out; nil where they do not.
func (s *session) covered(name record.Name) *record.Name {
	if name.Table == "" || !s.pub.Covers(name) {
		return nil
	}
	return &name
}

// former gives what a table was called as which it was published before the session knew it, or of whose partitions it was one, and what of columns
// was for that; the zero Name where that is not known.
func (s *session) former(oid schema.OID) (name record.Name, columns map[string]int16) {
	if g := s.gone[oid]; g.Covered != nil {
		return *g.Covered, g.CoveredColumns
	}
	for _, t := range s.tables {
		if p := &t.progress; slices.Contains(p.Leaves, uint32(oid)) || slices.Contains(p.Silent, uint32(oid)) {
			return partOf(t.published()), p.CoveredColumns
		}
	}
	return record.Name{}, nil
}

// formerOfLeaves gives what is known of a table by its partitions: they were partitions of another one, with it between them.
func (s *session) formerOfLeaves(t *catalog.Table) (name record.Name, columns map[string]int16) {
	for _, leaf := range slices.Concat(t.Leaves, t.Silent) {
		if g := s.gone[leaf.OID]; g.Covered != nil {
			return *g.Covered, g.CoveredColumns
		}
	}
	return record.Name{}, nil
}

func partOf(root record.Name) record.Name {
	root.Part = true
	return root
}

// wasCalled notes the former name, and what of columns it is for, of a table that is not captured at present: it has been so since a position, before which rows of it may
// come.
func (s *session) wasCalled(oid schema.OID, name record.Name, columns map[string]int16, asOf change.LSN) {
	if t := s.tables[oid]; t != nil && t.catalog != nil { // it is
		return
	}
	if covered := s.covered(name); covered != nil {
		g := s.gone[oid]
		g.OID, g.Covered, g.CoveredColumns, g.By = uint32(oid), covered, columns, max(g.By, record.LSN(asOf))
		s.gone[oid], s.fewer = g, true
	}
}

// forget drops the former names of tables that the source does not have any more, once the stream is past where they were gone: until then rows of them
// may come.
func (s *session) forget(ctx context.Context) error {
	var named []schema.OID
	for oid, g := range s.gone {
		if g.Covered != nil && change.LSN(g.By) <= s.streamed {
			named = append(named, oid)
		}
	}
	if len(named) == 0 {
		return nil
	}
	defer s.stage.Hand(s.others.read, waitSource)()
	there, err := s.catalog.There(ctx, named)
	if err != nil {
		return err
	}
	for _, oid := range named {
		if g := s.gone[oid]; !there[oid] {
			g.Covered, g.CoveredColumns = nil, nil
			s.gone[oid], s.fewer = g, true
		}
	}
	return nil
}

// recall takes over what the progress says of tables that are gone, and of which tables those were partitions that are captured by themselves since.
func (s *session) recall(pr *record.Progress, newEra bool, before map[uint32]record.TableProgress, tables []*catalog.Table, asOf change.LSN) {
	if pr == nil || newEra && pr.SystemID != s.system.ID { // its numbers are of other tables
		return
	}
	for _, g := range pr.Gone {
		if newEra { // no row of before comes
			g = record.GoneTable{OID: g.OID, Covered: g.Covered, CoveredColumns: g.CoveredColumns}
		}
		if _, back := before[g.OID]; !back {
			s.gone[schema.OID(g.OID)] = g
		}
	}
	root := map[uint32]*record.TableProgress{}
	for _, was := range before {
		for _, leaf := range slices.Concat(was.Leaves, was.Silent) {
			root[leaf] = &was
		}
	}
	roots := map[uint32]*catalog.Table{}
	for _, t := range tables {
		roots[uint32(t.Relation.OID)] = t
		for _, leaf := range slices.Concat(oids(t.Leaves), oids(t.Silent)) {
			if was := root[leaf]; was != nil && was.OID == uint32(t.Relation.OID) { // it is one still
				delete(root, leaf)
			}
		}
	}
	for leaf, was := range root { // also one that is dropped
		s.wasPartition(leaf, &table{progress: *was, catalog: roots[was.OID]}, asOf)
	}
}

// wasPartition notes of which table one was a partition, and what columns is for of those that the root has still: what it has dropped, it has dropped of all.
func (s *session) wasPartition(leaf uint32, root *table, asOf change.LSN) {
	columns := maps.Clone(root.progress.CoveredColumns)
	if root.catalog != nil {
		maps.DeleteFunc(columns, func(_ string, n int16) bool { return root.catalog.Relation.Numbered(n) == nil })
	}
	s.wasCalled(schema.OID(leaf), partOf(root.published()), columns, asOf)
}

// cover notes the numbers of the columns of t that are left out or masked: rel is the version that the stream is at, whole or without what is left out.
func (s *session) cover(t *table, rel *schema.Relation, whole bool) {
	if is := s.pub.CoveredColumns(t.progress.CoveredColumns, rel, whole); !maps.Equal(is, t.progress.CoveredColumns) {
		t.progress.CoveredColumns, s.changed[rel.OID] = is, true
	}
}

// coverKnown does so by what the catalog has, which may be ahead of the stream: of columns that were left out or masked before, under whatever name. Others may have come since.
func (s *session) coverKnown(t *table) {
	known := *t.seen
	known.Columns = slices.DeleteFunc(slices.Clone(known.Columns), func(c schema.Column) bool {
		return !slices.Contains(slices.Collect(maps.Values(t.progress.CoveredColumns)), c.AttNum)
	})
	s.cover(t, &known, false)
}
