package warehouse

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// took says whether the source has added column i of the plan since the target was made to fit last, in a target that had one of that name:
// another source's, what the source has dropped, or what somebody has made. Where other sources write the target, so it is where the rule has come to write
// a column that none of the topic's rows was written with.
func (e *evolution) took(i int) bool {
	src := e.plan.Column(i)
	if e.feed == nil || e.feed.shape == nil || e.older || src.AttNum == 0 || e.another() || slices.Contains(e.feed.shape.Unnumbered, src.Name) {
		return false
	}
	_, known := e.was(src)
	if n := e.feed.shape.Newest; n != 0 && src.AttNum <= n {
		return !known && e.plan.SIDColumn != "" && !e.wrote(e.names[i])
	}
	return !known
}

// wrote says whether rows of the topic were ever written with this column of the target.
func (e *evolution) wrote(name string) bool {
	return e.writes(func(c shapeColumn) bool { return c.Target == name }) || slices.Contains(e.feed.shape.Left, name)
}

// fixes says whether the rule has come to give a column of the plan the same value in every row since the target was made to fit last.
func (e *evolution) fixes(i int) bool {
	return e.feed != nil && e.feed.shape != nil && e.feed.shape.Constants != nil && !e.older && e.plan.Mode != rule.Log && e.plan.Constant(i) &&
		!slices.Contains(e.feed.shape.Constants, e.names[i])
}

// unfilled has rows of the source get such a value in a column that was there already, where others write the target: whoever came first has
// added the column, and filled it for itself alone, or a sink that ran on by the rule before has written rows since. Of a target of one source,
// where somebody has made the column, it tells.
func (e *evolution) unfilled(ctx context.Context, i int, column *catalogColumn) error {
	value := "NULL"
	d := e.plan.Column(i).Default
	if d != nil {
		value = postgres.Literal(*d) + "::" + column.full + "::text"
	}
	other := fmt.Sprintf("%s::text IS DISTINCT FROM %s", postgres.Ident(e.names[i]), value)
	if d != nil && e.plan.SIDColumn != "" && !e.feed.sole {
		if some, err := e.some(ctx, other); err != nil || !some {
			return err
		}
		return e.fill(ctx, i, false, other)
	}
	if e.s.inspecting {
		return nil // what is lost is told once it is
	}
	sql := e.exists(other)
	if there, known := e.s.answers[sql]; !known {
		return &question{sql: sql}
	} else if !there.yes {
		return nil
	}
	e.lose(fmt.Sprintf("column %q was there before the rule gave it its value: they do not have it", e.names[i]), e.feed.topic)
	return nil
}

// question is what has to be known of the rows of a target before it is made to fit. Its answer may take as long as the target is large: others
// of its schema would wait meanwhile.
type question struct{ sql, applied string }

// answer is that to a question, and what was applied of the topic when it was put.
type answer struct {
	yes     bool
	applied string
}

// some says whether there are rows of the source for which all conditions hold, and that are to be changed: their statement reads the whole target under locks
// to find none, else. That there are none counts as long as nothing of the topic is applied: another sink may write such rows by the version before.
func (e *evolution) some(ctx context.Context, where ...string) (bool, error) {
	sql := e.exists(where...)
	there, known := e.s.answers[sql]
	if e.s.inspecting || e.moves || known && there.yes {
		return true, nil
	}
	if known {
		if err := e.stopWriters(ctx); err != nil {
			return false, err
		}
	}
	applied, err := e.s.applied(ctx, e.tx, []Feed{{Topic: e.feed.topic}})
	if err == nil && !known {
		err = &question{sql, applied}
	}
	return applied != there.applied, err
}

func (q *question) Error() string { return "it is not known yet: " + q.sql }

// refill gives the rows of the source what they have there in a column that it has added, where the target has one of that name already: the default, or null
// in place of what another column of the source was, which is dropped. What that one was stays in versions of a history that have ended. Without a
// default, what somebody has put there, and no column of the source, stays until rows change.
func (e *evolution) refill(ctx context.Context, i int, have catalogColumns) error {
	src, column := e.plan.Column(i), have.column(e.names[i])
	wrote := e.wrote(column.name)
	switch typ := sourceType(ctx, e.tx, e.plan, i); {
	case e.plan.Mode == rule.Log, column.generated, column.primary, src.Default == nil && !wrote:
		return nil
	case src.Type.Name != "" && !holds(typ, column.full): // that is told; it is filled when it fits
		return nil
	case src.Default == nil && src.NotNull: // the rows come: they have values of their own
		return nil
	}
	value, lacks := "NULL", " IS NOT NULL"
	if src.Default != nil {
		value = postgres.Literal(*src.Default)
		lacks = "::text IS DISTINCT FROM " + value + "::" + column.full + "::text"
	}
	where := []string{postgres.Ident(column.name) + lacks}
	if e.plan.Mode == rule.History && wrote {
		if to := e.plan.Added[rule.AddedTo].Name; have.column(to) != nil { // else all rows are, see added
			where = append(where, postgres.Ident(to)+" = "+postgres.Literal(e.plan.Bounds.End))
		}
	}
	if some, err := e.some(ctx, where...); err != nil || !some {
		return err
	}
	if src.Default == nil && column.notNull {
		if err := e.alter(ctx, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s DROP NOT NULL", e.table, postgres.Ident(e.names[i])),
			"column %q may be null at the source, and must not here", e.names[i]); err != nil {
			return err
		}
	}
	return e.set(ctx, i, value, where...)
}

// fill gives the rows of the source the default of a column that it has added: that is theirs, and of no row that comes later, so that the column itself
// keeps none. done says that the rows have it already, by that of the column. only is a condition more, for those that may have it.
func (e *evolution) fill(ctx context.Context, i int, done bool, only ...string) error {
	src := e.plan.Column(i)
	switch {
	case src.Default == nil || e.plan.Mode == rule.Log:
		return nil
	case done:
		return e.alter(ctx, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s DROP DEFAULT", e.table, postgres.Ident(e.names[i])), "column %q has a default that is of rows of before alone", e.names[i])
	}
	return e.set(ctx, i, postgres.Literal(*src.Default), only...)
}

// set gives rows of the source a value in column i, in SQL: those for which all conditions hold.
func (e *evolution) set(ctx context.Context, i int, value string, where ...string) error {
	sql := fmt.Sprintf("UPDATE %s SET %s = %s", e.table, postgres.Ident(e.names[i]), value) + e.own(where...)
	if e.s.inspecting {
		e.s.changes = append(e.s.changes, sql)
		return nil
	}
	if err := e.stopWriters(ctx); err != nil {
		return err
	}
	// Whatever create says: these are rows.
	e.s.w.cfg.Log.Info("rows of before get what they have in an added column at the source", "table", e.plan.Target.String(), "statement", sql)
	e.s.w.forgetTarget(e.plan.Target)
	_, err := e.tx.Exec(ctx, sql)
	return err
}

// exists asks whether there are rows of the source for which all conditions hold.
func (e *evolution) exists(where ...string) string {
	return "SELECT EXISTS (SELECT FROM " + e.table + e.own(where...) + ")"
}

// own is the end of a statement that is for rows of the source: those for which all conditions hold.
func (e *evolution) own(where ...string) string {
	if e.plan.SIDColumn != "" {
		where = append(where, fmt.Sprintf("%s = %s", postgres.Ident(e.plan.SIDColumn), postgres.Literal(e.plan.SID)))
	}
	if len(where) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(where, " AND ")
}

// constant is a column that a version of before has not, and what its rows have in it.
type constant struct{ name, literal, text string }

// constants are those that a new row of a version of before is written with: the column has no default of its own.
func (e *evolution) constants(have catalogColumns) (out []constant) {
	if !e.older || e.another() {
		return nil
	}
	is := e.plan.Meaning()
	columns := e.feed.shape.allColumns()
	for _, number := range slices.Sorted(maps.Keys(columns)) {
		was := columns[number]
		if _, writes := is.Columns[was.Target]; !writes && !is.All { // the rule has come to leave it out
			continue
		}
		c := have.column(was.Target)
		if was.Default == nil || c == nil || c.generated || e.fills(was.Target) || e.adds(was.Target) {
			continue
		}
		out = append(out, constant{postgres.Ident(was.Target), postgres.Literal(*was.Default) + "::" + c.full, *was.Default})
	}
	return out
}

// fills says whether rows are written with this column of the target, by the plan.
func (e *evolution) fills(name string) bool {
	for i := range e.names {
		if e.names[i] == name && !e.passed[i] {
			return true
		}
	}
	return false
}

// adds says whether it is the rule that gives rows this column of the target, beside those of the source.
func (e *evolution) adds(name string) bool {
	return name == e.plan.SIDColumn || slices.ContainsFunc(e.plan.Added, func(a rule.Added) bool { return a.Name == name })
}

// stopWriters has others wait who write the target, until the end of the transaction. A row that another sink writes at this moment by the
// version before, under its names, would be passed over by what changes all rows of a source.
func (e *evolution) stopWriters(ctx context.Context) error {
	_, err := e.tx.Exec(ctx, "LOCK TABLE "+e.table+" IN SHARE ROW EXCLUSIVE MODE")
	return err
}
