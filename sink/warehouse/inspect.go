package warehouse

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// Facts is what a person wants to know of the warehouse before the sink runs.
type Facts struct {
	Address     string // without password
	Database    string
	Version     string // "17.5"
	Number      int    // 170005
	Standby     bool
	Role        string
	Creates     bool // the role may create schemas
	Own         int  // version of schema tributary, 0 for none
	OwnUsable   bool // the role may write the own tables, if there are any
	Connections int  // in use
	Limit       int  // max_connections
}

// Facts asks for them.
func (s *Session) Facts(ctx context.Context) (f Facts, err error) {
	dsn, err := s.w.cfg.DSN()
	if err != nil {
		return f, s.broken("read", "warehouse.dsn", err)
	}
	f.Address = postgres.Redact(dsn)
	if err := s.open(ctx); err != nil {
		return f, err
	}
	// Of the sessions of others backend_type is not shown to a role that may not see their statistics; these are.
	err = s.conn.QueryRow(ctx, `
		SELECT current_database()::text, split_part(current_setting('server_version'), ' ', 1), current_setting('server_version_num')::int, pg_is_in_recovery(),
		       current_user::text, has_database_privilege(current_database(), 'CREATE'),
		       coalesce(has_table_privilege(to_regclass('tributary.checkpoint')::oid, 'INSERT, UPDATE'), true),
		       (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL AND pid NOT IN (SELECT pid FROM pg_stat_replication))::int, current_setting('max_connections')::int`).
		Scan(&f.Database, &f.Version, &f.Number, &f.Standby, &f.Role, &f.Creates, &f.OwnUsable, &f.Connections, &f.Limit)
	if err == nil {
		f.Own, err = schemaVersion(ctx, s.conn)
	}
	if err != nil {
		return f, s.broken("look at", f.Address, err)
	}
	return f, nil
}

// Inspection is what Inspect found.
type Inspection struct {
	Changes []string // statements that the sink would run on the target
	// Index is the statement that would create the index that is missing; "" if there is one, or the table has no key.
	Index string
	// ByIndex is that of the index by which retention would find old rows; "" if there is one, nothing is removed, or whole partitions
	// go, of which sinks make enough: few rows are then removed one by one.
	ByIndex string
	// Ahead are the partitions that would be made.
	Ahead []TablePartition
	// Unfit is why no partition of the target would be made or dropped, though the rule says so; nil if there is no reason.
	Unfit error
	// Statements are those that write batches of changes; pg_temp.batch stands for the rows of a batch.
	Statements []string
	Rows       int64 // as the statistics have it, -1 if unknown
	Missing    bool  // the target is not there yet
}

// Inspect does what Prepare would do for a plan, and rolls it back. beside are targets of other plans, of which nothing may have been
// written yet.
func (s *Session) Inspect(ctx context.Context, plan *rule.Plan, beside ...rule.Target) (in Inspection, err error) {
	if err := s.open(ctx); err != nil {
		return in, err
	}
	tx, err := s.conn.Begin(ctx)
	if err != nil {
		return in, s.broken("look at", targetName(plan), err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	s.inspecting, s.changes, s.beside = true, nil, beside
	defer func() { s.inspecting, s.beside = false, nil }()
	in.Rows = -1
	var target *Target
	// Not to stand in anybody's way for long.
	if _, err = tx.Exec(ctx, `SET LOCAL lock_timeout = '2s'`); err == nil {
		err = tx.QueryRow(ctx, `SELECT coalesce(max(c.reltuples::bigint), -1), count(*) = 0 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = $1 AND c.relname = $2`, plan.Target.Schema, plan.Target.Table).Scan(&in.Rows, &in.Missing)
	}
	if err == nil {
		target, err = s.inspectShape(ctx, tx, plan)
	}
	if err != nil {
		return in, s.broken("look at", targetName(plan), err)
	}
	in.Changes = s.changes
	in.Statements = target.statements()
	if in.Ahead, in.Unfit, err = s.partitions(ctx, tx, plan); err != nil {
		return in, s.broken("look at", targetName(plan), err)
	}
	var concurrently string // Postgres refuses it for a partitioned table
	err = tx.QueryRow(ctx, `SELECT CASE relkind WHEN 'p' THEN '' ELSE ' CONCURRENTLY' END FROM pg_class WHERE oid = $1::text::regclass`, target.name).Scan(&concurrently)
	if err != nil {
		return in, s.broken("look at", targetName(plan), err)
	}
	unit, partitionBy := plan.Partition()
	if age, by := plan.Keep(); age != "" && (unit == "" || plan.Drop() == "") {
		var found bool
		if err := tx.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
			         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
			         LEFT JOIN pg_attribute b ON b.attrelid = c.oid AND b.attnum = i.indkey[1]
			        WHERE n.nspname = $1 AND c.relname = $2 AND i.indisvalid AND (a.attname = $3 OR a.attname = $4 AND b.attname = $3))`,
			plan.Target.Schema, plan.Target.Table, by, plan.SIDColumn).Scan(&found); err != nil {
			return in, s.broken("look at", targetName(plan), err)
		}
		if !found {
			in.ByIndex = fmt.Sprintf("CREATE INDEX%s ON %s (%s);", concurrently, target.name, postgres.Ident(by))
		}
	}
	if len(plan.Key) > 0 && plan.Mode != rule.Log && !target.indexed {
		var key []string
		if target.sid != nil {
			key = append(key, target.sid.name)
		}
		for _, k := range plan.Key {
			key = append(key, target.columns[k].name)
		}
		kind := "UNIQUE INDEX"
		if plan.Mode == rule.History || unit != "" && !slices.Contains(plan.KeyNames(target.names), partitionBy) {
			kind = "INDEX" // a key has many versions; and a unique index of a partitioned table has its column in it
		}
		in.Index = fmt.Sprintf("CREATE %s%s ON %s (%s);", kind, concurrently, target.name, strings.Join(key, ", "))
	}
	return in, nil
}

// statements gives the templates that this target has, for people.
func (t *Target) statements() (out []string) {
	tpl := &t.template
	for _, sql := range []string{tpl.truncate, tpl.remove, tpl.move, tpl.update, tpl.clear, tpl.overwrite, tpl.upsert, tpl.insert, tpl.takeOut} {
		if sql != "" {
			out = append(out, strings.ReplaceAll(sql, source, "pg_temp.batch"))
		}
	}
	return out
}

// inspectShape is shape, as if the plan's version were the newest.
func (s *Session) inspectShape(ctx context.Context, tx pgx.Tx, plan *rule.Plan) (*Target, error) {
	var f *feed
	have, err := schemaVersion(ctx, tx)
	if err == nil && have == Version { // else it is to be made yet
		if f, err = s.readFeed(ctx, tx, plan); err == nil {
			err = s.refuseOthers(ctx, tx, plan, f == nil)
		}
	}
	if err != nil {
		return nil, err
	}
	return s.shape(ctx, tx, plan, f, newest)
}

// There is what the warehouse has where a table would be written.
type There struct {
	Rows  *int64 // of the table, as the planner guesses them; nil: it is not there
	Write bool   // the role may write it, or, where it is not there, make it
}

// There looks whether a table is there, and what the role may do.
func (s *Session) There(ctx context.Context, schema, table string) (t There, err error) {
	if err := s.open(ctx); err != nil {
		return t, err
	}
	err = s.conn.QueryRow(ctx, `
		SELECT CASE WHEN c.oid IS NOT NULL THEN greatest(c.reltuples, 0)::int8 END,
		       CASE WHEN c.oid IS NOT NULL THEN (SELECT bool_and(has_table_privilege(c.oid, p)) FROM unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) p)
		            WHEN n.oid IS NOT NULL THEN has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE')
		            ELSE has_database_privilege(current_database(), 'CREATE') END
		  FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = $1 LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = $2 AND c.relkind IN ('r', 'p')`,
		schema, table).Scan(&t.Rows, &t.Write)
	if err != nil {
		return t, s.broken("look at", "table "+postgres.Ident(schema, table), err)
	}
	return t, nil
}
