package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// takeUp makes the session's tables out of the catalog and of what the progress says of each.
func (s *session) takeUp(ctx context.Context, pr *record.Progress, tables []*catalog.Table, asOf change.LSN) error {
	before := map[uint32]record.TableProgress{}
	if pr != nil {
		for _, t := range pr.Tables {
			before[t.OID] = t
		}
	}
	newEra := pr != nil && pr.Era != s.era
	s.recall(pr, newEra, before, tables, asOf)
	for _, known := range tables {
		was, isKnown := before[uint32(known.Relation.OID)]
		if newEra && pr.SystemID != s.system.ID { // its numbers are of other tables
			was = record.TableProgress{}
		}
		if err := s.adopt(ctx, known, was, isKnown && !newEra, s.joined, asOf); err != nil {
			return err
		}
	}
	for oid, was := range before {
		t := s.tables[schema.OID(oid)]
		s.fewer = s.fewer || t == nil || t.progress.Schema != was.Schema || t.progress.Table != was.Table
		switch called := (&table{progress: was}).published(); {
		case t != nil:
		case !newEra:
			s.part(schema.OID(oid), was, called, asOf)
		case pr.SystemID == s.system.ID:
			s.wasCalled(schema.OID(oid), called, was.CoveredColumns, asOf)
		}
	}
	s.tellLeftOut(tables)
	return s.forget(ctx)
}

// tellLeftOut makes visible which of tables are not captured, that there are none, and which patterns none fits: a name that is wrong would be
// missed only when its rows are.
func (s *session) tellLeftOut(tables []*catalog.Table) {
	idle := s.patterns.Idle(tables)
	for _, pattern := range idle {
		if !slices.Contains(s.unfit, pattern) {
			s.log.Warn("no table fits a pattern of source.tables", "pattern", pattern, "hint", "capture check says which name is near; a table that is made later is taken up by itself")
		}
	}
	s.unfit = idle
	if idle := s.config.idleColumns(tables); len(idle) > 0 {
		s.raise(idleColumns(idle))
	} else {
		s.alarms.clear(trouble.Config, "columns")
	}
	told := s.leftOut
	s.leftOut = map[string]*catalog.Table{}
	none := !slices.ContainsFunc(tables, func(t *catalog.Table) bool { return t.Level != catalog.LeftOut })
	if s.alarms.clear(trouble.Config, "source.tables"); none {
		s.raise(&trouble.Error{
			Code: trouble.Config, Op: "capture", Subject: "source.tables", Cause: fmt.Errorf("no table fits %s", strings.Join(s.config.Source.Tables, ", ")),
			Means: "nothing is captured", Hint: "mend source.tables (capture check says which tables there are), or make the table: it is taken up by itself",
		})
	}
	for _, t := range tables {
		name := t.Relation.QualifiedName()
		if t.Level != catalog.LeftOut {
			continue
		}
		s.leftOut[name] = t
		if !t.Foreign {
			if was := told[name]; was == nil || was.Reason != t.Reason {
				s.log.Warn("table is left out", "table", name, "reason", t.Reason)
			}
			continue
		}
		s.raise(&trouble.Error{
			Code: trouble.SourceRights, Op: "publish", Subject: subject(name), Cause: errors.New(t.Reason),
			Means: "none of its rows is captured; all other tables are", Hint: t.Help + "\n\"!" + name + "\" in source.tables     if it is not to be captured",
		})
	}
	for name, was := range told {
		if is := s.leftOut[name]; was.Foreign && (is == nil || !is.Foreign) {
			s.alarms.clear(trouble.SourceRights, subject(name))
		}
	}
}

// idleColumns tells of tables that columns names for nothing: a name that is wrong would have what must not leave published, with no word.
func idleColumns(names []string) *trouble.Error {
	return &trouble.Error{
		Code: trouble.Config, Op: "apply", Subject: "columns", Cause: fmt.Errorf("no table is called %s", strings.Join(names, ", ")),
		Means: "where a table has another name, what they leave out or mask is published of it",
		Hint:  "mend columns in capture.yaml, restart capture, and capture snapshot --reload the tables that are meant. Take an entry out only if its table was dropped: of one that has another name everything would be published",
	}
}

// adopt makes known a captured table. was is its progress if isKnown. Its topic may hold rows of an earlier life, which a
// snapshot must void: of a table of its name that was dropped, renamed or moved to where it was not captured, however long
// ago. The catalog was read before asOf.
func (s *session) adopt(ctx context.Context, known *catalog.Table, was record.TableProgress, isKnown bool, after uint32, asOf change.LSN) error {
	if known.Level == catalog.LeftOut { // which tellLeftOut tells
		return nil
	}
	if known.Level == catalog.InsertOnly {
		level := slog.LevelWarn
		if service.Accepts(s.config.accepted(), trouble.TableWithoutIdentity, known.Relation.QualifiedName()) {
			level = slog.LevelInfo
		}
		s.log.Log(ctx, level, "only INSERT and TRUNCATE of this table are captured; its UPDATE and DELETE go on working, but do not arrive",
			"table", known.Relation.QualifiedName(), "reason", known.Reason, "code", trouble.TableWithoutIdentity, "hint", known.Help)
	}
	s.tellSilent(known)
	t := s.tables[known.Relation.OID]
	if t == nil {
		t = &table{}
		s.tables[known.Relation.OID] = t
	}
	t.catalog, t.lost = known, false
	former, columns := cmp.Or(t.published(), (&table{progress: was}).published()), t.progress.CoveredColumns
	if columns == nil {
		columns = was.CoveredColumns
	}
	if former.Table == "" {
		former, columns = s.former(known.Relation.OID)
	}
	if former.Table == "" {
		former, columns = s.formerOfLeaves(known)
	}
	delete(s.gone, known.Relation.OID)
	if isKnown && (was.Schema != known.Relation.Schema || was.Table != known.Relation.Name) {
		isKnown = s.renamed(known, &was)
	}
	if !isKnown {
		was = record.TableProgress{}
	}
	fresh := newProgress(known)
	// Events are missing: those that were not captured at the level before, or what somebody had left out of its publication.
	lacks := isKnown && was.Level != fresh.Level && (was.Level == string(catalog.InsertOnly) || known.Member != 0 && alteredSince(&was, known))
	if was.Level != fresh.Level {
		was.Member, was.Published, was.Parts = fresh.Member, fresh.Published, fresh.Parts
	}
	if former.Table != "" && former != (record.Name{Schema: fresh.Schema, Table: fresh.Table}) {
		fresh.Covered = &former
	}
	if was.Covered == nil { // where it stays held
		was.Covered = fresh.Covered
	}
	was.Schema, was.Table, was.Level = fresh.Schema, fresh.Table, fresh.Level
	fresh.CoveredColumns, was.CoveredColumns = columns, columns
	if t.progress = fresh; isKnown {
		t.progress = was
	}
	if t.progress.Held != nil {
		s.changed[known.Relation.OID] = true
		s.tellHeld(t)
		return nil
	}
	if err := s.setCatalog(ctx, t, known); err != nil {
		return s.setAside(ctx, t, err)
	}
	fresh.Covered, was.Covered = nil, nil
	fresh.CoveredColumns, was.CoveredColumns = t.progress.CoveredColumns, t.progress.CoveredColumns
	t.progress = fresh
	if err := s.beginVersion(ctx, t, was); err != nil {
		return err
	}
	was.SchemaID, was.Schemas, was.Files, was.CoveredColumns = t.progress.SchemaID, t.progress.Schemas, t.progress.Files, t.progress.CoveredColumns
	switch {
	case isKnown && s.config.Snapshot.Mode != "never" && s.pub.Lost(t.pub):
		s.log.Warn("a topic was deleted and made anew: its table is read again", "table", t.name(), "topic", t.pub.Topic())
		t.progress.Asked = was.Asked // whose rows come with it
		s.want(t, after, true)
	case isKnown && was.Done && !lacks:
		t.progress = was
	case s.config.Snapshot.Mode == "never" && was.Asked == "":
		t.progress.Done = true
		s.changed[known.Relation.OID] = true
		if single := singles(was.Ranges); isKnown && len(single) > 0 {
			t.progress.Done, t.progress.Ranges, t.progress.RangesKey = false, single, was.RangesKey
			s.want(t, after, false)
		}
	case isKnown && !lacks:
		t.progress = was
		s.want(t, after, was.Reload || len(known.Relation.Key) == 0)
	default:
		s.want(t, after, lacks || s.pub.Holds(t.pub))
	}
	if t.snapshot != nil && t.progress.Reload {
		t.snapshot.from = asOf
	}
	s.partitions(t, after, asOf)
	s.remember(t, after, asOf)
	s.foresee(t, known, asOf)
	return nil
}

// renamed tells that known has another name than its progress, was, says, and whether that holds all the same: where nothing is read by itself, what
// a held table misses only somebody's reload makes up for.
func (s *session) renamed(known *catalog.Table, was *record.TableProgress) (holds bool) {
	args := []any{"table", known.Relation.QualifiedName(), "was", was.Schema + "." + was.Table}
	switch {
	case s.config.Snapshot.Mode != "never":
		s.log.Info("table was renamed: it is read anew, into a topic of its new name", args...)
	case was.Held != nil:
		return true
	default:
		s.log.Warn("table was renamed: what is there is not read into the topic of its new name, as snapshot.mode is never",
			append(args, "hint", "capture snapshot --table "+known.Relation.QualifiedName())...)
	}
	return false
}
