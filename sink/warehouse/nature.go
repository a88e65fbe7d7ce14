package warehouse

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// guards are what of a target, or a partition of it, may change what is written without that the number of rows tells.
type guards struct {
	deletes bool // triggers or rules may keep rows: one that is to be deleted need not be there
	inserts bool // triggers may keep rows out: one that is to be inserted may be there
}

// nature looks at what a target is beside its columns, and refuses one that a crash of the warehouse would empty, whose rows the
// role of sink does not see all of, or of which a foreign key has the warehouse change rows of a target by itself.
func (s *Session) nature(ctx context.Context, tx pgx.Tx, plan *rule.Plan, table string) (g guards, err error) {
	var unlogged, role string
	var hidden bool
	// Of a trigger of a partition, form.go does not tell that it is enabled. Each catalog is asked part by part (OFFSET 0): as a join, all of
	// pg_class was read for each of thousands of targets.
	err = tx.QueryRow(ctx, `
		WITH part AS (SELECT $1::text::regclass::oid AS oid UNION SELECT relid::oid FROM pg_partition_tree($1::text::regclass)),
		     before AS (SELECT g.tgtype FROM pg_trigger g JOIN part ON part.oid = g.tgrelid WHERE NOT g.tgisinternal AND (g.tgenabled <> 'D' OR g.tgrelid <> $1::text::regclass) AND g.tgtype & (2 | 64) <> 0),
		     policy AS (SELECT p.polpermissive AND p.polcmd = '*' AND pg_get_expr(p.polqual, p.polrelid) = 'true' AND coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true') = 'true' AS lets,
		                       p.polpermissive AS permissive FROM pg_policy p
		                 WHERE p.polrelid = $1::text::regclass AND (p.polroles = '{0}' OR EXISTS (SELECT FROM unnest(p.polroles) r WHERE pg_has_role(r, 'USAGE'))))
		SELECT EXISTS (SELECT FROM before WHERE tgtype & 8 <> 0) OR EXISTS (SELECT FROM part, LATERAL (SELECT FROM pg_rewrite w WHERE w.ev_class = part.oid AND w.ev_type = '4' OFFSET 0) w),
		       EXISTS (SELECT FROM before WHERE tgtype & 4 <> 0),
		       row_security_active($1::text) AND (NOT coalesce((SELECT bool_or(lets) FROM policy), false) OR EXISTS (SELECT FROM policy WHERE NOT permissive)),
		       coalesce((SELECT min(c.oid::regclass::text) FROM part, LATERAL (SELECT c.oid FROM pg_class c WHERE c.oid = part.oid AND c.relpersistence = 'u' AND c.relkind = 'r' OFFSET 0) c), ''), quote_ident(current_user)`,
		planned, table).Scan(&g.deletes, &g.inserts, &hidden, &unlogged, &role)
	refused := func(hint, cause string) error {
		return &trouble.Error{
			Code: trouble.TargetType, Op: "write to", Subject: targetName(plan), Cause: errors.New(cause),
			Means: "the table is held, all others go on; nothing is lost", Hint: hint + "\nthen sink resume SOURCE/TABLE",
		}
	}
	switch {
	case err != nil:
		return g, err
	case unlogged != "":
		return g, refused("ALTER TABLE "+unlogged+" SET LOGGED;", "it is UNLOGGED: a crash of the warehouse empties it, and the sink's checkpoints would say that it has its rows")
	case hidden:
		return g, refused("CREATE POLICY tributary ON "+table+" TO "+role+" USING (true);   where no policy is RESTRICTIVE, else ALTER ROLE "+role+" BYPASSRLS;",
			"row security policies may hide rows from the role of sink: it would not delete those that it does not see")
	}
	drops, cause, err := s.cascades(ctx, tx, plan.Target)
	if err == nil && drops != "" {
		err = refused(drops, cause)
	}
	return g, err
}

// cascades looks for foreign keys between a target and a target, which may be the same, by which the warehouse itself deletes or alters rows:
// from it, too, as the other may have been looked at before this one was a target. It gives the statements that drop them, "" for none, and the
// cause. A table that no topic writes is for whoever has made it, but one whose rows go with those of a target may take rows of another target along. They are
// found by their triggers, of which pg_trigger has an index; of partitions, the constraint that all of them have is the one that can be dropped.
func (s *Session) cascades(ctx context.Context, db reader, of rule.Target) (drops, cause string, err error) {
	written := `SELECT target_schema, target_table FROM tributary.feed UNION `
	if s.inspecting {
		if have, err := schemaVersion(ctx, db); err != nil {
			return "", "", err
		} else if have != Version {
			written = "" // there may be none
		}
	}
	schemas, tables := []string{of.Schema}, []string{of.Table}
	for _, t := range s.beside {
		schemas, tables = append(schemas, t.Schema), append(tables, t.Table)
	}
	tree := func(oid string) string {
		return fmt.Sprintf(`(SELECT %[1]s UNION SELECT relid::oid FROM pg_partition_tree(%[1]s) UNION SELECT relid::oid FROM pg_partition_ancestors(%[1]s))`, oid)
	}
	isTarget := func(oid string) string { return "EXISTS (SELECT FROM target WHERE oid IN " + tree(oid) + ")" }
	const deletes, updates = `k.confdeltype IN ('c', 'n', 'd')`, `k.confupdtype IN ('c', 'n', 'd')`
	// The foreign keys of a table, found by its triggers, on one side of them.
	keys := func(of, side string) string {
		return fmt.Sprintf(`pg_trigger g ON g.tgrelid = %[1]s.oid AND g.tgisinternal JOIN pg_constraint k ON k.oid = g.tgconstraint AND k.contype = 'f' AND k.%[2]s = %[1]s.oid`, of, side)
	}
	const off = `EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = k.confrelid AND g.tgconstraint = k.oid AND g.tgenabled = 'D')`
	rows, err := db.Query(ctx, `
		WITH RECURSIVE ours AS MATERIALIZED `+tree("$1::text::regclass::oid")+`,
		     target AS MATERIALIZED ( -- not looked up where ours have no foreign keys: each of thousands of targets asks
		         SELECT c.oid FROM (`+written+`SELECT * FROM unnest($2::text[], $3::text[])) w(schema, name)
		           JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
		          WHERE (SELECT count(*) > 0 FROM ours JOIN pg_trigger g ON g.tgrelid = ours.oid AND g.tgisinternal)),
		     down(oid) AS ( -- ours, and others of which rows go with those of ours
		         SELECT oid FROM ours
		         UNION
		         SELECT t.oid FROM down JOIN `+keys("down", "confrelid")+` AND k.confdeltype = 'c', LATERAL `+tree("k.conrelid")+` t(oid)
		          WHERE NOT `+isTarget("k.conrelid")+` AND NOT `+off+`),
		     up(first, deletes, oid) AS ( -- with what rows of ours go, by which key of ours
		         SELECT k.oid, `+deletes+`, t.oid FROM ours JOIN `+keys("ours", "conrelid")+` AND (`+deletes+` OR `+updates+`), LATERAL `+tree("k.confrelid")+` t(oid)
		         UNION
		         SELECT up.first, true, t.oid FROM up JOIN `+keys("up", "conrelid")+` AND k.confdeltype = 'c', LATERAL `+tree("k.confrelid")+` t(oid)
		          WHERE up.deletes AND NOT `+isTarget("k.conrelid")+` AND NOT `+off+`),
		     found(oid, conparentid) AS (
		         SELECT k.oid, k.conparentid FROM down JOIN `+keys("down", "confrelid")+` WHERE (`+deletes+` OR `+updates+` AND down.oid IN (SELECT oid FROM ours)) AND `+isTarget("k.conrelid")+`
		         UNION
		         SELECT k.oid, k.conparentid FROM up JOIN pg_constraint k ON k.oid = up.first WHERE up.oid IN (SELECT oid FROM target)
		         UNION
		         SELECT k.oid, k.conparentid FROM found JOIN pg_constraint k ON k.oid = found.conparentid)
		SELECT k.conrelid::regclass::text, quote_ident(k.conname), pg_get_constraintdef(k.oid) FROM found JOIN pg_constraint k USING (oid)
		 WHERE k.conparentid = 0 AND NOT `+off+`
		 ORDER BY 1, 2`, planned, postgres.Ident(of.Schema, of.Table), schemas, tables)
	if err != nil {
		return "", "", err
	}
	var child, name, definition string
	_, err = pgx.ForEachRow(rows, []any{&child, &name, &definition}, func() error {
		if drops == "" {
			cause = fmt.Sprintf("constraint %s of table %s, %s: the warehouse would delete or alter rows of a target that its source still has", name, child, definition)
		} else {
			drops += "\n"
		}
		drops += "ALTER TABLE " + child + " DROP CONSTRAINT " + name + ";"
		return nil
	})
	return drops, cause, err
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
