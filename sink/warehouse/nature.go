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

// nature looks at what a target is beside its columns, and refuses one that a crash of the warehouse would empty. guarded
// says that it, or a partition, has triggers or rules that may keep rows from being deleted. Nothing would tell of that: a
// row that is to be deleted need not be there.
func nature(ctx context.Context, tx pgx.Tx, plan *rule.Plan, table string) (guarded bool, err error) {
	var unlogged string
	err = tx.QueryRow(ctx, `
		WITH part AS (SELECT $1::text::regclass::oid AS oid UNION SELECT relid::oid FROM pg_partition_tree($1::text::regclass))
		SELECT EXISTS (SELECT FROM pg_trigger g JOIN part ON part.oid = g.tgrelid
		                WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 8 <> 0 AND g.tgtype & (2 | 64) <> 0)
		    OR EXISTS (SELECT FROM pg_rewrite w JOIN part ON part.oid = w.ev_class WHERE w.ev_type = '4'),
		       coalesce((SELECT min(c.oid::regclass::text) FROM pg_class c JOIN part USING (oid) WHERE c.relpersistence = 'u' AND c.relkind = 'r'), '')`,
		table).Scan(&guarded, &unlogged)
	if err != nil || unlogged == "" {
		return guarded, err
	}
	return false, &trouble.Error{
		Code: trouble.TargetType, Op: "write to", Subject: targetName(plan),
		Cause: errors.New("it is UNLOGGED: a crash of the warehouse empties it, and the sink's checkpoints would say that it has its rows"),
		Means: "the table is held, all others go on; nothing is lost",
		Hint:  "ALTER TABLE " + unlogged + " SET LOGGED; then sink resume SOURCE/TABLE",
	}
}

// gone queues, where the target is guarded, that no row is left that a DELETE, which is a template, has found.
func (a *flushing) gone(i int, k kind, set *batch.Set, remove string) {
	if u := &a.f.Units[i]; u.Target.guarded {
		a.set(i, k, set, still(remove), noneKept(u))
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
