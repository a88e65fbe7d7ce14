package warehouse

import (
	"context"
	"fmt"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

func columnNames(plan *rule.Plan) []string {
	out := make([]string, len(plan.Columns))
	for i := range plan.Columns {
		out[i] = plan.Columns[i].Name
	}
	return out
}

// addedColumn declares a column of the mode.
func addedColumn(plan *rule.Plan, added rule.Added) string {
	line := postgres.Ident(added.Name) + " " + added.Type
	if plan.Mode == rule.History || added.Name == plan.Added[rule.AddedOp].Name {
		line += " NOT NULL"
	}
	return line
}

// added adds the columns of the mode to a target that lacks them. Rows that a clone has left there become the first
// versions of a history, valid from its beginning; to a log they say nothing.
func (e *evolution) added(ctx context.Context, have catalogColumns) error {
	var missing []string
	for i, a := range e.plan.Added {
		if have.column(a.Name) != nil {
			continue
		}
		line := "ADD COLUMN " + addedColumn(e.plan, a)
		if e.plan.Mode == rule.History {
			bounds := e.plan.Bounds
			line += " DEFAULT " + []string{postgres.Literal(bounds.Beginning), postgres.Literal(bounds.End), "false"}[i]
		}
		missing = append(missing, line)
	}
	if missing == nil {
		return nil
	}
	if e.plan.Mode == rule.Log {
		var rows bool
		if err := e.tx.QueryRow(ctx, fmt.Sprintf("SELECT EXISTS (SELECT FROM %s)", e.table)).Scan(&rows); err != nil {
			return err
		}
		if rows {
			return e.blocked("write the log to another table: to in the rule", "the table is not written; nothing is lost",
				"it has rows, and lacks the columns of mode log")
		}
	}
	return e.alter(ctx, "ALTER TABLE "+e.table+" "+strings.Join(missing, ", "), "it lacks the columns of mode %s", e.plan.Mode)
}

// fitsAdded refuses a column of the target that does not keep what the mode writes.
func fitsAdded(plan *rule.Plan, added rule.Added, c *catalogColumn) error {
	if c.generated {
		return &trouble.Error{
			Code: trouble.TargetType, Op: "write to", Subject: fmt.Sprintf("column %q of table %q", added.Name, plan.Target.String()),
			Cause: fmt.Errorf("it is generated there, and a column of mode %s", plan.Mode),
			Means: "the table is not written; nothing is lost",
			Hint:  "make it an ordinary column, or give the mode's another name in the rule",
		}
	}
	if plan.Mode == rule.History && c.full == "timestamp without time zone" && strings.HasPrefix(added.Type, "timestamp") {
		return nil // UTC
	}
	return fits(plan, added.Name, added.Type, c.full)
}

// viewNames are what a history gets beside its target: the view of the current rows, and the function for those of a time.
func viewNames(target rule.Target) (view, function string) {
	return postgres.Ident(target.Schema, target.Table+rule.CurrentSuffix), postgres.Ident(target.Schema, target.Table+rule.AsOfSuffix)
}

// dropView makes room for a change of a column that the view would forbid. With it goes what was granted on the view.
func (e *evolution) dropView(ctx context.Context) error {
	if !e.plan.Views() {
		return nil
	}
	view, _ := viewNames(e.plan.Target)
	var exists bool
	if err := e.tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, view).Scan(&exists); err != nil || !exists {
		return err
	}
	return e.s.alter(ctx, e.tx, e.plan, "DROP VIEW "+view)
}

// views creates what is missing of the view and the function, has the view show columns that it lacks, and both go by the columns and the end that the rule has
// now. What somebody has put in their place stays.
func (e *evolution) views(ctx context.Context, have catalogColumns) error {
	if !e.plan.Views() {
		return nil
	}
	view, function := viewNames(e.plan.Target)
	shown, err := readColumns(ctx, e.tx, rule.Target{Schema: e.plan.Target.Schema, Table: e.plan.Target.Table + rule.CurrentSuffix})
	if err != nil {
		return err
	}
	until := have.column(e.plan.Added[rule.AddedTo].Name)
	from, to := postgres.Ident(e.plan.Added[rule.AddedFrom].Name), postgres.Ident(until.name)
	at := "$1"
	if have.column(e.plan.Added[rule.AddedFrom].Name).full == "timestamp without time zone" {
		at = "$1 AT TIME ZONE 'UTC'"
	}
	// As the server writes it down.
	var old bool
	if err := e.tx.QueryRow(ctx, fmt.Sprintf(`SELECT coalesce((SELECT d ~ ' WHERE \(?\S+ = ''[^'']*''::timestamp with(out)? time zone\)?;?$' AND strpos(d, quote_ident($2) || ' = ' || quote_literal(%s::%s::text) || '::') = 0
		FROM pg_get_viewdef(to_regclass($1)) d), false)`, postgres.Literal(e.plan.Bounds.End), until.base), view, until.name).Scan(&old); err != nil {
		return err
	}
	if old || len(shown) != len(have) {
		if err := e.s.alter(ctx, e.tx, e.plan, fmt.Sprintf("CREATE OR REPLACE VIEW %s AS SELECT * FROM %s WHERE %s = %s",
			view, e.table, to, postgres.Literal(e.plan.Bounds.End))); err != nil {
			return err
		}
	}
	// Empty where there is none; prosrc is, where the body is SQL of the standard. One of ours that belongs to another role by now is not left as it was: it holds the table.
	var is string
	err = e.tx.QueryRow(ctx, `SELECT coalesce((SELECT '=' || prosrc FROM pg_proc WHERE oid = to_regprocedure($1)), '')`, function+"(timestamptz)").Scan(&is)
	ours := "SELECT * FROM " + e.table + " WHERE "
	body := ours + fmt.Sprintf("%s <= %s AND %s < %s", from, at, at, to)
	if err != nil || is == "="+body || is != "" && !strings.HasPrefix(is, "="+ours) {
		return err
	}
	return e.s.alter(ctx, e.tx, e.plan, fmt.Sprintf("CREATE OR REPLACE FUNCTION %s(timestamptz) RETURNS SETOF %s LANGUAGE sql STABLE AS %s", function, e.table, postgres.Literal(body)))
}
