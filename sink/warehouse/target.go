package warehouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// Target is a table of the warehouse as one plan writes it. It is immutable but for noCopy.
type Target struct {
	plan    *rule.Plan
	name    string         // quoted
	columns []targetColumn // one for each of the plan's, then what the mode adds
	names   []string       // of columns, as they are
	sid     *targetColumn  // nil without a sid column
	extra   []string       // quoted names of columns that no rule writes
	fixed   []constant     // of these, those that a new row is written with
	unique  bool           // a unique index covers exactly the key, so that ON CONFLICT can be used
	indexed bool           // an index begins with the key, so that its rows are found one by one

	guards guards

	oid, attnums, form string // of the table and of all columns that are written: see formOf
	mapping            string // see mapped
	triggers           string // see partTriggers

	fields   [kinds][]field
	stage    string // columns of the temporary table for this shape
	template templates
	history  historyTemplates

	before change.Position // zero, or where the version begins that the target was made to fit when this one was one of before: see Suits

	fed    bool // tributary.feed says who writes it
	noCopy int  // flushes to come that must not try COPY; guarded by the Warehouse
}

type targetColumn struct {
	name    string // quoted
	typ     string // without modifier, domains looked through: what staged values have
	full    string // with modifier: what the column has
	equal   string // operator
	written bool   // false for generated columns, and those that are another column's by now
}

// Index says by which index rows of the target are found.
func (t *Target) Index() string {
	switch {
	case t.plan.Mode == rule.Log:
		return "none is needed: rows are only added"
	case t.unique:
		return "a unique one on exactly the key"
	case t.indexed:
		return "one that begins with the key"
	}
	return "none: each UPDATE and DELETE reads the whole table"
}

// Carries says whether rows have values in columns that no rule writes: they go along when a key changes.
func (t *Target) Carries() bool { return len(t.extra) > 0 }

// Prepare looks up the target of a plan, and creates or changes it where the rule says so; at is the position of the
// record that wants it, zero where that is not known. The target is remembered until something turns out to have changed. Errors are trouble: target-missing, target-type, schema-change-blocked,
// rule-conflict, warehouse-rights, or a reason to try again (package retry knows which).
func (s *Session) Prepare(ctx context.Context, plan *rule.Plan, topic string, at change.Position) (*Target, error) {
	t := s.Prepared(plan)
	if t != nil && t.Suits(at) {
		return t, nil
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	s.answers = map[string]answer{}
	s.w.mu.Lock()
	again := s.w.again
	s.w.mu.Unlock()
	t, err := s.prepare(ctx, plan, topic, at)
	for {
		q, asks := errors.AsType[*question](err)
		if !asks {
			break
		}
		var db reader = s.conn
		if s.cut != nil {
			db = s.cut
		}
		var yes bool
		if err = db.QueryRow(ctx, q.sql).Scan(&yes); err == nil {
			s.answers[q.sql] = answer{yes, q.applied}
			t, err = s.prepare(ctx, plan, topic, at)
		}
	}
	if err != nil {
		return nil, s.broken("prepare target", targetName(plan), err)
	}
	s.w.mu.Lock()
	if s.w.again == again && t.fed { // else it would be written like this when its source, which was removed, is brought back
		s.w.targets[plan] = t
	}
	s.w.mu.Unlock()
	return t, nil
}

// prepare does so in one transaction. It fails with a question if that has to be answered before.
func (s *Session) prepare(ctx context.Context, plan *rule.Plan, topic string, at change.Position) (t *Target, err error) {
	var tx pgx.Tx
	if s.cut != nil {
		tx, err = s.cut.Begin(ctx) // a savepoint
	} else {
		tx, err = s.conn.Begin(ctx)
	}
	if err != nil {
		return nil, err
	}
	found := len(s.later)
	defer func() {
		_ = tx.Rollback(context.WithoutCancel(ctx))
		if err != nil {
			s.later = s.later[:found]
		}
	}()
	// Sinks that see a new table or column at the same time take turns.
	_, err = tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('tributary target'), hashtext($1))`, plan.Target.Schema)
	var f *feed
	if err == nil {
		f, err = s.feed(ctx, tx, plan, topic)
	}
	if err == nil {
		t, err = s.shape(ctx, tx, plan, f, at)
	}
	if err == nil {
		t.fed = f.noted
		err = s.mapped(ctx, tx, t, topic)
	}
	if err == nil {
		err = tx.Commit(ctx)
	}
	return t, err
}

// Suits says whether a record at a position may be written as the target is known. A version may come again, and is one plan, whether it is one of before or the
// newest:
//
//	partition 1: ADD COLUMN c is taken in
//	partition 0: is behind: a row of the version without c is new, and gets what rows of before have in c
//	both:        DROP COLUMN c. What comes has the version of before, and its new rows have no c
func (t *Target) Suits(at change.Position) bool {
	return t.before == change.Position{} || at.Compare(t.before) < 0
}

// Prepared gives what Prepare has given before, nil if it has not. It does not use the connection.
func (s *Session) Prepared(plan *rule.Plan) *Target {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.w.targets[plan]
}

func targetName(plan *rule.Plan) string { return fmt.Sprintf("table %q", plan.Target.String()) }

// shape makes the target fit the plan and describes it. f is nil where nothing was ever written.
func (s *Session) shape(ctx context.Context, tx pgx.Tx, plan *rule.Plan, f *feed, at change.Position) (*Target, error) {
	e := &evolution{s: s, tx: tx, plan: plan, feed: f, table: postgres.Ident(plan.Target.Schema, plan.Target.Table)}
	for i := range plan.Columns {
		e.names = append(e.names, plan.Columns[i].Name)
	}
	have, err := readColumns(ctx, tx, plan.Target)
	if err != nil {
		return nil, err
	}
	created := len(have) == 0
	switch {
	case !created:
		if err = e.run(ctx, have, at); err == nil {
			s.aheadOfRows(ctx, tx, plan)
		}
	case plan.Create:
		err = s.create(ctx, tx, plan)
	default:
		err = &trouble.Error{
			Code: trouble.TargetMissing, Op: "write to", Subject: targetName(plan),
			Cause: fmt.Errorf("it does not exist, and the rule says create: false"),
			Means: "the table is not written; nothing is lost",
			Hint:  "create it, or say create: true",
		}
	}
	if err == nil {
		have, err = readColumns(ctx, tx, plan.Target)
	}
	if err == nil {
		err = e.views(ctx, have)
	}
	if err == nil {
		err = e.sameTable(ctx, have, created)
	}
	if err != nil {
		return nil, err
	}
	t := &Target{plan: plan, name: e.table, names: e.names, fixed: e.constants(have)}
	if e.older {
		t.before = e.feed.shape.At
	}
	var key []string
	used := map[string]bool{}
	if plan.SIDColumn != "" {
		c := have.column(plan.SIDColumn)
		if err := sidFits(plan, c); err != nil {
			return nil, err
		}
		t.sid = c.target()
		used[plan.SIDColumn] = true
		key = append(key, plan.SIDColumn)
	}
	for i, name := range e.names {
		c := have.column(name)
		tc := c.target()
		tc.written = tc.written && !e.passed[i]
		used[name] = used[name] || !e.passed[i]
		if tc.written && plan.Column(i).Type.Name != "" {
			if err := fits(plan, name, sourceType(ctx, tx, plan, i), c.full); err != nil {
				return nil, err
			}
		}
		t.columns = append(t.columns, *tc)
	}
	for _, k := range plan.Key {
		key = append(key, e.names[k])
		if !t.columns[k].written {
			return nil, &trouble.Error{
				Code: trouble.TargetType, Op: "write to", Subject: targetName(plan),
				Cause: fmt.Errorf("key column %q is generated there", e.names[k]),
				Means: "rows could not be found again; the table is not written, nothing is lost",
				Hint:  "make it an ordinary column, or write to another table",
			}
		}
	}
	for _, added := range plan.Added {
		c := have.column(added.Name)
		used[added.Name] = true
		if err := fitsAdded(plan, added, c); err != nil {
			return nil, err
		}
		t.columns = append(t.columns, *c.target())
	}
	t.formOf(have, used)
	if t.guards, err = s.nature(ctx, tx, plan, e.table); err != nil {
		return nil, err
	}
	for i := range have {
		if c := &have[i]; !used[c.name] && !c.generated {
			t.extra = append(t.extra, postgres.Ident(c.name))
		}
	}
	if len(plan.Key) > 0 {
		slices.Sort(key)
		if t.unique, t.indexed, err = hasIndex(ctx, tx, plan.Target, key); err != nil {
			return nil, err
		}
	}
	if err := e.remember(ctx, at, have.table()); err != nil {
		return nil, err
	}
	t.compile()
	return t, nil
}

// catalogColumn is what the warehouse's catalog says of a column.
type catalogColumn struct {
	name       string
	full, base string // format_type with and without modifier; base looks through domains
	notNull    bool
	hasDefault bool
	generated  bool
	primary    bool   // belongs to the primary key
	equalIn    string // schema of the type's = operator, "" for none

	table, tableForm, triggers, attnum, form string // see Target.formOf
}

type catalogColumns []catalogColumn

// table is the oid of the table that has them, "" for none.
func (cc catalogColumns) table() string {
	if len(cc) == 0 {
		return ""
	}
	return cc[0].table
}

func (cc catalogColumns) column(name string) *catalogColumn {
	for i := range cc {
		if cc[i].name == name {
			return &cc[i]
		}
	}
	return nil
}

func (c *catalogColumn) target() *targetColumn {
	t := &targetColumn{name: postgres.Ident(c.name), typ: c.base, full: c.full, equal: "=", written: !c.generated}
	if c.equalIn != "" && c.equalIn != "pg_catalog" {
		// Types of extensions have their operators outside of the pinned search_path.
		t.equal = "OPERATOR(" + postgres.Ident(c.equalIn) + ".=)"
	}
	return t
}

// reader is a connection or a transaction.
type reader interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// planned has a statement about the catalog be planned once for a connection: for each of thousands of targets, that takes longer than
// the statement does.
const planned = pgx.QueryExecModeCacheStatement

// readColumns gives none where the table does not exist.
func readColumns(ctx context.Context, db reader, target rule.Target) (catalogColumns, error) {
	rows, err := db.Query(ctx, `
		SELECT a.attname::text, format_type(a.atttypid, a.atttypmod),
		       format_type((WITH RECURSIVE base(typ, depth) AS ( -- of a domain, from type to type
		                         SELECT a.atttypid, 0
		                         UNION ALL
		                         SELECT t.typbasetype, b.depth + 1 FROM base b JOIN pg_type t ON t.oid = b.typ WHERE t.typtype = 'd')
		                    SELECT b.typ FROM base b ORDER BY b.depth DESC LIMIT 1), -1),
		       a.attnotnull, a.atthasdef OR a.attidentity <> '', a.attgenerated <> '',
		       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey)),
		       coalesce((SELECT n.nspname::text FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace
		                  WHERE o.oprname = '=' AND o.oprleft = a.atttypid AND o.oprright = a.atttypid LIMIT 1), ''),
		       c.oid::text, `+tableForm+`, `+partTriggers+`, a.attnum::text, `+columnForm+`
		  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		 WHERE n.nspname = $1 AND c.relname = $2 AND a.attname IS NOT NULL
		 ORDER BY a.attnum`, planned, target.Schema, target.Table)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (c catalogColumn, err error) {
		err = row.Scan(&c.name, &c.full, &c.base, &c.notNull, &c.hasDefault, &c.generated, &c.primary, &c.equalIn, &c.table, &c.tableForm, &c.triggers, &c.attnum, &c.form)
		return c, err
	})
}

// hasIndex says whether INSERT … ON CONFLICT can infer an index from exactly the columns, and whether there is one that
// begins with them, in any order. key is sorted.
func hasIndex(ctx context.Context, tx pgx.Tx, target rule.Target, key []string) (unique, leading bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT coalesce(bool_or(i.indisunique AND i.indimmediate AND i.indnkeyatts = cardinality($3::text[])), false), count(*) > 0
		  FROM pg_index i
		  JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		  JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
		 WHERE n.nspname = $1 AND c.relname = $2 AND m.amname = 'btree'
		   AND i.indisvalid AND i.indpred IS NULL
		   AND NOT EXISTS (SELECT FROM generate_series(0, i.indnkeyatts - 1) AS k JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[k]
		                    WHERE i.indcollation[k] <> a.attcollation)
		   AND i.indexprs IS NULL AND i.indnkeyatts >= cardinality($3::text[])
		   AND $3::text[] = (SELECT array_agg(a.attname::text ORDER BY a.attname COLLATE "C")
		         FROM generate_series(0, cardinality($3::text[]) - 1) AS k
		         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[k])`,
		planned, target.Schema, target.Table, key).Scan(&unique, &leading)
	return unique, leading, err
}

// create makes the table: the sid column first, the key as primary key, NOT NULL for the key only, so that dropping a
// NOT NULL at the source needs nothing here.
func (s *Session) create(ctx context.Context, tx pgx.Tx, plan *rule.Plan) error {
	var exists bool
	if err := tx.QueryRow(ctx, `SELECT to_regnamespace($1) IS NOT NULL`, postgres.Ident(plan.Target.Schema)).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		if _, err := tx.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+postgres.Ident(plan.Target.Schema)); err != nil {
			return err
		}
	}
	var lines []string
	if plan.SIDColumn != "" {
		lines = append(lines, postgres.Ident(plan.SIDColumn)+" "+plan.SIDType+" NOT NULL")
	}
	for i, c := range plan.Columns {
		lines = append(lines, postgres.Ident(c.Name)+" "+sourceType(ctx, tx, plan, i))
	}
	for _, added := range plan.Added {
		lines = append(lines, addedColumn(plan, added))
	}
	key := plan.KeyNames(columnNames(plan))
	unit, by := plan.Partition()
	// A primary key of a partitioned table has the column in it by which it is partitioned.
	primary := key != nil && (unit == "" || slices.Contains(key, by))
	if primary {
		lines = append(lines, "PRIMARY KEY ("+strings.Join(quoted(key), ", ")+")")
	}
	table := postgres.Ident(plan.Target.Schema, plan.Target.Table)
	if unit == "" {
		return s.alter(ctx, tx, plan, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (%s)", table, strings.Join(lines, ", ")))
	}
	if !plan.Writes(by) {
		return &trouble.Error{
			Code: trouble.RuleConflict, Op: "create", Subject: targetName(plan),
			Cause: fmt.Errorf("no column that the rule writes is called %q, by which it would be partitioned", by),
			Means: "the table is not written; nothing is lost", Hint: "name a column of the target with by, or create the table by hand",
		}
	}
	statements := []string{
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (%s) PARTITION BY RANGE (%s)", table, strings.Join(lines, ", "), postgres.Ident(by)),
		fmt.Sprintf("CREATE TABLE %s PARTITION OF %s DEFAULT", postgres.Ident(plan.Target.Schema, suffixed(plan.Target.Table, defaultSuffix)), table),
	}
	if key != nil && !primary {
		statements = append(statements, fmt.Sprintf("CREATE INDEX ON %s (%s)", table, strings.Join(quoted(key), ", ")))
	}
	for _, sql := range statements {
		if err := s.alter(ctx, tx, plan, sql); err != nil {
			return err
		}
	}
	if s.inspecting {
		return nil // Inspect says which
	}
	return s.ahead(ctx, tx, plan)
}

// alter runs a statement that changes a target, and says so.
func (s *Session) alter(ctx context.Context, tx pgx.Tx, plan *rule.Plan, sql string) error {
	if s.inspecting {
		s.changes = append(s.changes, sql)
	} else {
		s.w.cfg.Log.Info("changing target", "table", plan.Target.String(), "statement", sql)
	}
	_, err := tx.Exec(ctx, sql)
	if !s.inspecting {
		s.w.forgetTarget(plan.Target)
		if err == nil && s.w.cfg.Altered != nil {
			s.w.cfg.Altered()
		}
	}
	return err
}

// sourceType gives the type that column i of the plan has, or would get, in the warehouse: the source's own where the
// warehouse has a type of that name, else one that every Postgres has and that holds all values.
func sourceType(ctx context.Context, tx pgx.Tx, plan *rule.Plan, i int) string {
	t := &plan.Column(i).Type
	if portable := t.Portable(); portable == t.Name || t.Name == "" {
		return portable
	}
	var exists bool
	// In a savepoint: to_regtype may fail on a name rather than give NULL.
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT to_regtype($1) IS NOT NULL`, t.Name).Scan(&exists)
	})
	if err == nil && exists {
		return t.Name
	}
	return t.Portable()
}
