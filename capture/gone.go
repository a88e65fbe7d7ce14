package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// lose takes t, which the catalog had not any more as of a position, for what the stream alone knows. Up to there it may have rows of
// it, before which no other Relation message comes.
func (s *session) lose(t *table, asOf change.LSN) {
	s.log.Warn("table is gone at the source", "table", t.catalog.Relation.QualifiedName())
	s.abandon(t)
	s.altered = without(s.altered, t)
	was := t.published() // it may come back
	t.altered, t.missed, t.seen, t.read = nil, false, nil, nil
	for _, leaf := range slices.Concat(t.progress.Leaves, t.progress.Silent) {
		s.wasPartition(leaf, t, asOf)
	}
	s.part(t.catalog.Relation.OID, t.progress, was, asOf)
	t.progress = record.TableProgress{Held: t.progress.Held, Covered: &was, CoveredColumns: t.progress.CoveredColumns}
	t.catalog, t.lost = nil, true
	s.fewer = true
}

// part keeps what is to be known of a table that is gone for its last rows, also in sessions to come. A Relation message does not say what
// the key is under REPLICA IDENTITY FULL, and never its order, by which a row has its partition:
//
//	key (b, a): a row is in partition 3
//	capture is away: the row is deleted, DROP TABLE
//	capture: by the message alone the key is (a, b), and its DELETE is in partition 0, where a sink may come to it first
func (s *session) part(oid schema.OID, was record.TableProgress, called record.Name, asOf change.LSN) {
	g := record.GoneTable{OID: uint32(oid), SchemaID: was.SchemaID, By: record.LSN(asOf), Held: was.Held != nil, Covered: s.covered(called)}
	if g.Covered != nil {
		g.CoveredColumns = was.CoveredColumns
	}
	s.gone[oid] = g
}

// partHeld has the sessions to come leave out, too, what is left out of t from here on, which the catalog does not have. Of one that was
// made while nobody looked, and dropped since, no progress has said anything.
func (s *session) partHeld(ctx context.Context, t *table) error {
	for oid, one := range s.tables {
		if one != t {
			continue
		}
		g, parted := s.gone[oid]
		if !parted {
			at, err := s.askPosition(ctx)
			if err != nil {
				return err
			}
			g = record.GoneTable{OID: uint32(oid), By: record.LSN(at)}
		}
		g.Held = true
		s.gone[oid], s.fewer = g, true
	}
	return nil
}

// parted gives those of which rows may come behind a position, or that may come back under another name, and forgets the others.
func (s *session) parted(behind change.LSN) (all []record.GoneTable) {
	for oid, g := range s.gone {
		if change.LSN(g.By) <= behind {
			g = record.GoneTable{OID: g.OID, By: g.By, Covered: g.Covered, CoveredColumns: g.CoveredColumns}
			s.gone[oid] = g
			if g.Covered == nil {
				delete(s.gone, oid)
				continue
			}
		}
		all = append(all, g)
	}
	return all
}

// knownLast gives what was known last of a table that the catalog does not have any more; nil where nothing is.
func (s *session) knownLast(ctx context.Context, t *table, oid schema.OID) (*catalog.Table, error) {
	g := s.gone[oid]
	switch {
	case t.catalog != nil:
		return t.catalog, nil
	case t.pub != nil:
		return &catalog.Table{Relation: *t.pub.Relation}, nil
	case g.SchemaID == 0:
		return nil, nil //nolint:nilnil // as Catalog.Table
	}
	rel, err := s.version(ctx, g.SchemaID, oid)
	switch {
	case errors.Is(err, registry.ErrUnknownSchema), errors.Is(err, errOtherTable): // its number was given again
		return nil, nil //nolint:nilnil,nilerr // as above
	case err != nil:
		return nil, registry.Trouble("look up the last version of", fmt.Sprintf("a table that is gone, OID %d", oid), err)
	}
	return &catalog.Table{Relation: *rel}, nil
}
