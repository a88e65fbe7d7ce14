package warehouse

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// guards are what of a target, or a partition of it, may change what is written without that the number of rows tells.
type guards struct {
	deletes bool // triggers or rules may keep rows: one that is to be deleted need not be there
	inserts bool // triggers may keep rows out: one that is to be inserted may be there
}

// nature looks at what a target is beside its columns, and refuses one that a crash of the warehouse would empty, or whose rows the
// role of sink does not see all of.
func nature(ctx context.Context, tx pgx.Tx, plan *rule.Plan, table string) (g guards, err error) {
	var unlogged, role string
	var hidden bool
	err = tx.QueryRow(ctx, `
		WITH part AS (SELECT $1::text::regclass::oid AS oid UNION SELECT relid::oid FROM pg_partition_tree($1::text::regclass)),
		     before AS (SELECT g.tgtype FROM pg_trigger g JOIN part ON part.oid = g.tgrelid WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & (2 | 64) <> 0),
		     policy AS (SELECT p.polpermissive AND p.polcmd = '*' AND pg_get_expr(p.polqual, p.polrelid) = 'true' AND coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true') = 'true' AS lets,
		                       p.polpermissive AS permissive FROM pg_policy p
		                 WHERE p.polrelid = $1::text::regclass AND (p.polroles = '{0}' OR EXISTS (SELECT FROM unnest(p.polroles) r WHERE pg_has_role(r, 'USAGE'))))
		SELECT EXISTS (SELECT FROM before WHERE tgtype & 8 <> 0) OR EXISTS (SELECT FROM pg_rewrite w JOIN part ON part.oid = w.ev_class WHERE w.ev_type = '4'),
		       EXISTS (SELECT FROM before WHERE tgtype & 4 <> 0),
		       row_security_active($1::text) AND (NOT coalesce((SELECT bool_or(lets) FROM policy), false) OR EXISTS (SELECT FROM policy WHERE NOT permissive)),
		       coalesce((SELECT min(c.oid::regclass::text) FROM pg_class c JOIN part USING (oid) WHERE c.relpersistence = 'u' AND c.relkind = 'r'), ''), quote_ident(current_user)`,
		table).Scan(&g.deletes, &g.inserts, &hidden, &unlogged, &role)
	refused := func(hint, cause string) error {
		return &trouble.Error{
			Code: trouble.TargetType, Op: "write to", Subject: targetName(plan), Cause: errors.New(cause),
			Means: "the table is held, all others go on; nothing is lost", Hint: hint + "\nthen sink resume SOURCE/TABLE",
		}
	}
	switch {
	case err != nil:
	case unlogged != "":
		err = refused("ALTER TABLE "+unlogged+" SET LOGGED;", "it is UNLOGGED: a crash of the warehouse empties it, and the sink's checkpoints would say that it has its rows")
	case hidden:
		err = refused("CREATE POLICY tributary ON "+table+" TO "+role+" USING (true);   where no policy is RESTRICTIVE, else ALTER ROLE "+role+" BYPASSRLS;",
			"row security policies may hide rows from the role of sink: it would not delete those that it does not see")
	}
	return g, err
}

// gone queues, where the target is guarded, that no row is left that a DELETE, which is a template, has found.
func (a *flushing) gone(i int, k kind, set *batch.Set, remove string) {
	if u := &a.f.Units[i]; u.Target.guards.deletes {
		a.set(i, k, set, still(remove), noneKept(u))
	}
}

// there queues, where the target is guarded, that no row is missing which may have been there before it was inserted.
func (a *flushing) there(i int, rows *batch.Set) {
	if u := &a.f.Units[i]; u.Target.guards.inserts {
		a.set(i, byValue, rows, u.Target.template.missing, func(n int64) error { return exactly(u, "not there after their INSERT", 0, n) })
	}
}

// still is what finds the rows that a DELETE finds.
func still(remove string) string {
	sql := strings.Replace(remove, "DELETE FROM ", "SELECT FROM ", 1)
	return strings.Replace(sql, " t USING ", " t, ", 1)
}

func noneKept(u *Unit) func(rows int64) error {
	return func(rows int64) error { return exactly(u, "there still after their DELETE", 0, rows) }
}
