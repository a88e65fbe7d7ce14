package warehouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// shape is what a target was last made to fit, for one topic: the columns of the source by their attnum, which stays
// what it is when a column is renamed.
type shape struct {
	At      change.Position        `json:"at"` // of the first record of this version
	Columns map[string]shapeColumn `json:"columns"`
	Key     []string               `json:"key"` // columns of the target, the sid column with them
	// Constants are columns of the target that have the same value in every row; nil where the version that wrote this did not say.
	Constants []string `json:"constants"`
	// Table is the oid of the target; "" where the version that wrote this did not say. See noteTable.
	Table string `json:"table,omitempty"`
	// OID is that of the table at the source; 0 where the version that wrote this, or who wrote the topic, did not say.
	OID schema.OID `json:"oid,omitempty"`
	// Newest is the highest attnum of that table by then, whatever the rule writes of it; 0 where the version that wrote this did not say.
	Newest int16 `json:"newest,omitempty"`
	// Unnumbered are columns of the source of which no attnum was known; their rows are read again.
	Unnumbered []string `json:"unnumbered,omitempty"`
	// Unmet are columns of versions before, any of which may be one of Unnumbered; nil where there are none of those.
	Unmet map[string]shapeColumn `json:"unmet,omitempty"`
	// Left are columns of the target that rows of the topic have been written with, and are not any more.
	Left []string `json:"left,omitempty"`
}

// allColumns gives the columns of the version, and those of versions before that may be of it.
func (s *shape) allColumns() map[string]shapeColumn {
	all := map[string]shapeColumn{}
	maps.Copy(all, s.Unmet)
	maps.Copy(all, s.Columns)
	return all
}

// knows says whether the attnums of the shape are those of a table at the source: they say nothing of another one, as when somebody has dropped the table
// and made it anew, or has loaded a dump into another server. Columns have the same names then, if anything.
func (s *shape) knows(oid schema.OID) bool { return s.OID == 0 || oid == 0 || s.OID == oid }

type shapeColumn struct {
	Source  string  `json:"source"` // name at the source
	Target  string  `json:"target"`
	Default *string `json:"default,omitempty"` // what rows have that were written before the source had the column
}

// renames gives what columns are called now that had other names. It is not sure where it cannot be told by a name whether it is one of before
// or one of now, as that of columns that have changed theirs with each other.
func (s *shape) renames(now *shape) (list []rule.Rename, sure bool) {
	sure = true
	if !s.knows(now.OID) {
		return nil, sure
	}
	former, is := map[string]bool{}, map[string]bool{}
	for _, c := range s.Columns {
		former[c.Source] = true
	}
	for _, c := range now.Columns {
		is[c.Source] = true
	}
	for number, c := range now.Columns {
		was, known := s.Columns[number]
		if known && was.Source != c.Source {
			sure = sure && !former[c.Source] && !is[was.Source]
			list = append(list, rule.Rename{From: was.Source, To: c.Source, FromTarget: was.Target, ToTarget: c.Target})
		}
	}
	return list, sure
}

// newest is a position behind all others.
var newest = change.Position{Era: math.MaxUint16, CommitLSN: math.MaxUint64, Seq: 1<<48 - 1}

// evolution makes a target that is there fit a plan.
type evolution struct {
	s     *Session
	tx    pgx.Tx
	plan  *rule.Plan
	feed  *feed // nil where nothing was ever written
	table string
	// names are the columns of the target that the plan's are written to. They are the plan's own names, but where the
	// source has renamed a column since: a record of before is written to where its column is now.
	names []string
	older bool // the target was made to fit a later version
	moves bool // columns have other names, in the open transaction, than before
	// passed are the columns of the plan that are not written: see passOver.
	passed map[int]bool

	// What is to be noted at the end: see lockRules.
	losses []loss
	moved  []feedOf // feeds that knew another table by the target's name
}

// run does what the new version needs: columns that the source has renamed are renamed, those that it has added are
// added, types are widened, the primary key follows the source's key, and what may be null at the source may be null
// here. In this order, since each needs those before it.
func (e *evolution) run(ctx context.Context, have catalogColumns, at change.Position) error {
	if e.plan.SIDColumn != "" && have.column(e.plan.SIDColumn) == nil {
		return e.blocked(fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s, fill it, and add it to the key", e.table, postgres.Ident(e.plan.SIDColumn), e.plan.SIDType),
			"which source the rows already there belong to cannot be known; the table is not written",
			"it has no column %q for the sid", e.plan.SIDColumn)
	}
	if e.feed != nil && e.feed.shape != nil {
		e.older = at.Compare(e.feed.shape.At) < 0
		if err := e.rename(ctx, have); err != nil {
			return err
		}
		e.passOver(have)
	}
	for _, step := range []func(context.Context, catalogColumns) error{e.columns, e.added, e.rekey, e.nullable} {
		have, err := readColumns(ctx, e.tx, e.plan.Target)
		if err == nil {
			err = step(ctx, have)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// alter runs a statement that the plan needs because of reason, or says that it would be needed.
func (e *evolution) alter(ctx context.Context, sql string, reason string, args ...any) error {
	if !e.plan.Create {
		return e.blocked(sql+"; then sink resume SOURCE/TABLE; or say create: true in the rule",
			"the table is held before the first change that needs it; nothing is lost", reason, args...)
	}
	return e.s.alter(ctx, e.tx, e.plan, sql)
}

func (e *evolution) blocked(hint, means, cause string, args ...any) error {
	return &trouble.Error{
		Code: trouble.SchemaChangeBlocked, Op: "write to", Subject: targetName(e.plan),
		Cause: fmt.Errorf(cause, args...), Means: means, Hint: hint,
	}
}

// was gives a column of the source as it was when the target was made to fit last; false where there was none.
func (e *evolution) was(src *schema.Column) (c shapeColumn, known bool) {
	switch {
	case e.feed == nil || e.feed.shape == nil || src.AttNum == 0:
		return c, false
	case e.feed.shape.knows(e.plan.Relation.OID):
		c, known = e.feed.shape.Columns[fmt.Sprint(src.AttNum)]
		return c, known
	}
	for _, c = range e.feed.shape.Columns {
		if c.Source == src.Name {
			return c, true
		}
	}
	return shapeColumn{}, false
}

// another says whether the table at the source is another one than that which the target was made to fit last: all its rows come.
func (e *evolution) another() bool {
	return e.feed != nil && e.feed.shape != nil && !e.feed.shape.knows(e.plan.Relation.OID)
}

// renamed is a column that has another name at the source than when the target was made to fit last.
type renamed struct{ from, to string }

// rename brings the columns along that the source has renamed.
func (e *evolution) rename(ctx context.Context, have catalogColumns) error {
	var list []renamed
	for i := range e.plan.Columns {
		src := e.plan.Column(i)
		was, known := e.was(src)
		// A name that only the rule has changed is no rename: what is asked for is another column.
		if !known || was.Source == src.Name || was.Target == e.names[i] || have.column(was.Target) == nil {
			continue
		}
		if e.older {
			e.names[i] = was.Target
		} else {
			list = append(list, renamed{was.Target, e.names[i]})
		}
	}
	if len(list) == 0 {
		return nil
	}
	e.moves = true
	leaves := func(name string) bool {
		return slices.ContainsFunc(list, func(r renamed) bool { return r.from == name })
	}
	for _, r := range list {
		if !e.feed.sole || have.column(r.to) != nil && !leaves(r.to) {
			return e.copyColumns(ctx, have, list)
		}
	}
	// By a name in between where the new one is still there: two columns may have changed theirs with each other.
	between := func(i int) string { return fmt.Sprintf("tributary_rename_%d", i) }
	for i, r := range list {
		to := r.to
		if have.column(to) != nil {
			to = between(i)
		}
		if err := e.renameColumn(ctx, r, r.from, to); err != nil {
			return err
		}
	}
	for i, r := range list {
		if have.column(r.to) == nil {
			continue
		}
		if err := e.renameColumn(ctx, r, between(i), r.to); err != nil {
			return err
		}
	}
	return nil
}

// renameColumn does one step of r.
func (e *evolution) renameColumn(ctx context.Context, r renamed, from, to string) error {
	if err := e.dropView(ctx); err != nil {
		return err
	}
	return e.alter(ctx, fmt.Sprintf("ALTER TABLE %s RENAME COLUMN %s TO %s", e.table, postgres.Ident(from), postgres.Ident(to)),
		"column %q is called %q at the source now", r.from, r.to)
}

// copyColumns does for the rows of one source what a rename would do for all, where other sources still write the column
// under its old name, or where the new name is taken by what a column was that the source has dropped.
func (e *evolution) copyColumns(ctx context.Context, have catalogColumns, list []renamed) error {
	if err := e.stopWriters(ctx); err != nil {
		return err
	}
	var sets []string
	for _, r := range list {
		if have.column(r.to) == nil {
			if err := e.alter(ctx, fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s", e.table, postgres.Ident(r.to), have.column(r.from).full),
				"it has no column %q", r.to); err != nil {
				return err
			}
		}
		sets = append(sets, postgres.Ident(r.to)+" = "+postgres.Ident(r.from))
		if from := have.column(r.from); !slices.Contains(e.names, r.from) && !from.notNull {
			sets = append(sets, postgres.Ident(r.from)+" = NULL")
		}
	}
	sql := fmt.Sprintf("UPDATE %s SET %s", e.table, strings.Join(sets, ", ")) + e.own()
	return e.alter(ctx, sql, "columns have other names at the source now")
}

// columns adds what is missing and widens what has become too narrow.
func (e *evolution) columns(ctx context.Context, have catalogColumns) error {
	for i, name := range e.names {
		src := e.plan.Column(i)
		typ := sourceType(ctx, e.tx, e.plan, i)
		old := have.column(name)
		if e.passed[i] {
			continue
		}
		if old == nil {
			sql := fmt.Sprintf("ALTER TABLE %s ADD COLUMN IF NOT EXISTS %s %s", e.table, postgres.Ident(name), typ)
			alone := e.plan.SIDColumn == "" || e.plan.Create && e.feed != nil && e.feed.sole
			if src.Default != nil && e.plan.Mode != rule.Log && alone && !e.another() {
				// What the rows had that are already here: the source never sends them again.
				sql += " DEFAULT " + postgres.Literal(*src.Default)
			}
			if err := e.alter(ctx, sql, "it has no column %q", name); err != nil {
				return err
			}
			if !e.another() {
				if err := e.fill(ctx, i, alone); err != nil {
					return err
				}
			}
			if e.had(src, name) {
				e.lose(goneAndBack(fmt.Sprintf("column %q", name)), e.feed.topic)
			}
			continue
		}
		// A type without a name could be any whose values are text here.
		if !e.older && !old.generated && src.Type.Name != "" && widens(old.full, typ) {
			if err := e.dropView(ctx); err != nil {
				return err
			}
			if err := e.alter(ctx, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s", e.table, postgres.Ident(name), typ),
				"column %q is %s and has become %s at the source", name, old.full, typ); err != nil {
				return err
			}
			old.full = typ
		}
		var err error
		switch {
		case e.took(i):
			err = e.refill(ctx, i, have)
		case e.fixes(i):
			err = e.unfilled(ctx, i, old)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// passOver finds the columns of a version of before that the source has dropped since, where what they were called in the target is a column
// of another number by now: the rows that come have not its values. A log has what each row had under the name.
func (e *evolution) passOver(have catalogColumns) {
	if !e.older || e.another() {
		return
	}
	e.passed = map[int]bool{}
	for i, name := range e.names {
		src := e.plan.Column(i)
		if _, known := e.was(src); known || src.AttNum == 0 || slices.Contains(e.plan.Key, i) || have.column(name) == nil {
			continue
		}
		double := slices.Index(e.names, name) != i || slices.Contains(e.names[i+1:], name)
		// A column that another name of the source went into is one that the rule has come to write since: these rows have its values.
		e.passed[i] = double || e.plan.Mode != rule.Log && e.writes(func(c shapeColumn) bool { return c.Target == name && c.Source == src.Name })
	}
}

// writes says whether the source has such a column, by what the target was last made to fit.
func (e *evolution) writes(such func(shapeColumn) bool) bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(e.feed.shape.Columns)), such)
}

// had says whether the target had the column when it was made to fit last: somebody has dropped it since.
func (e *evolution) had(src *schema.Column, name string) bool {
	was, known := e.was(src)
	return known && !e.older && was.Target == name
}

// keyColumns are the columns of the target that tell its rows apart for this plan.
func (e *evolution) keyColumns() []string { return e.plan.KeyNames(e.names) }

func sameColumns(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// rekey lets the primary key follow the source's, if it was the source's before.
func (e *evolution) rekey(ctx context.Context, _ catalogColumns) error {
	want := e.keyColumns()
	if e.feed == nil || e.feed.shape == nil || e.older || sameColumns(want, e.formerKey()) {
		return nil
	}
	var name string
	var columns []string
	err := e.tx.QueryRow(ctx, `
		SELECT c.conname::text, ARRAY(SELECT a.attname::text FROM unnest(c.conkey) k JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k)
		  FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
		 WHERE n.nspname = $1 AND r.relname = $2 AND c.contype = 'p'`, e.plan.Target.Schema, e.plan.Target.Table).Scan(&name, &columns)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if sameColumns(columns, want) || !sameColumns(columns, e.formerKey()) {
		return nil // somebody has done it; or it is a key of their own
	}
	var steps []string
	if name != "" {
		steps = append(steps, "DROP CONSTRAINT "+postgres.Ident(name))
	}
	if len(want) > 0 {
		names := quoted(want)
		// Rows of before have null in a column that was added with values of their own (serial): until they have come again, behind a
		// reload, which then removes the others. A primary key could not be.
		var lack bool
		if err := e.tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+e.table+" WHERE "+strings.Join(names, " IS NULL OR ")+" IS NULL)").Scan(&lack); err != nil {
			return err
		}
		kind := "PRIMARY KEY"
		if lack {
			kind = "UNIQUE"
		}
		steps = append(steps, "ADD "+kind+" ("+strings.Join(names, ", ")+")")
	}
	sql := "ALTER TABLE " + e.table + " " + strings.Join(steps, ", ")
	if !e.feed.sole {
		return e.blocked("when all its sources have the new key: "+sql+"; then sink resume SOURCE/TABLE",
			"the table is held before the first change that needs it; nothing is lost",
			"the key at the source has become (%s), and other sources write the table by the one before", strings.Join(want, ", "))
	}
	return e.alter(ctx, sql, "the key at the source has become (%s)", strings.Join(want, ", "))
}

// formerKey gives the columns that the key had, under the names that they have now.
func (e *evolution) formerKey() []string {
	now := map[string]string{}
	for i := range e.plan.Columns {
		if was, known := e.was(e.plan.Column(i)); known {
			now[was.Target] = e.names[i]
		}
	}
	var key []string
	for _, name := range e.feed.shape.Key {
		if n, ok := now[name]; ok {
			name = n
		}
		key = append(key, name)
	}
	return key
}

// nullable drops NOT NULL where the source may send null, or nothing.
func (e *evolution) nullable(ctx context.Context, have catalogColumns) error {
	drop := func(column, reason string) error {
		return e.alter(ctx, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s DROP NOT NULL", e.table, postgres.Ident(column)), reason, column)
	}
	written := map[string]bool{e.plan.SIDColumn: true}
	for _, added := range e.plan.Added {
		written[added.Name] = true
	}
	for i, name := range e.names {
		if e.passed[i] {
			continue
		}
		written[name] = true
		if c := have.column(name); c.notNull && !c.hasDefault && !c.primary && (!e.plan.Column(i).NotNull || e.plan.Mode == rule.Log) && !slices.Contains(e.plan.Key, i) {
			if err := drop(name, "column %q may be null at the source, and must not here"); err != nil {
				return err
			}
		}
	}
	for i := range have {
		c := &have[i]
		if written[c.name] || !c.notNull || c.hasDefault || c.generated {
			continue
		}
		if c.primary {
			return e.blocked("write the column with columns or sid, give it a default, or give the table another key",
				"rows could not be inserted; the table is not written, nothing is lost",
				"column %q belongs to its primary key, and no rule writes it", c.name)
		}
		if err := drop(c.name, "column %q must not be null, and no rule writes it"); err != nil {
			return err
		}
	}
	return nil
}
