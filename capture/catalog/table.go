package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema"
)

// Level is how much of a table can be captured without harm to the application.
type Level string

// The levels.
const (
	All        Level = "all"      // INSERT, UPDATE, DELETE, TRUNCATE
	InsertOnly Level = "insert"   // INSERT and TRUNCATE: no usable replica identity
	LeftOut    Level = "left out" // not at all
)

// Table is one table as a whole: an ordinary one, or a partitioned one with all its partitions.
type Table struct {
	Relation      schema.Relation // of the columns that the stream has
	Level         Level
	Reason        string // why it is not All, for people
	Help          string // SQL that would make it All, "" if there is none
	Foreign       bool   // LeftOut, since the role may not publish it, see LeaveOut
	Partitioned   bool
	Leaves        []Leaf // of a partitioned table, as the catalog has them now
	EstimatedRows int64  // the planner's estimate; 0: it has none, as nobody has analyzed the table
	// Generated are the generated columns that the stream does not have: before PostgreSQL 18 all, from then on virtual ones.
	Generated []string
	// Computed are the attnums of columns of which the server does not keep one constant for the rows that are older:
	// they have a default that was computed for each row, an identity, or the rows have been written anew since.
	Computed []int16
	// Files is another number when the table has been written anew: the sum of the numbers of its files.
	Files int64
	// Member is another number when the table was taken out of its publication and put in again, or the publication made anew; 0:
	// that is not known. Of a table that is in both, it says nothing of the partitions. Only Ensure finds it out.
	Member uint32
	// Published is another number when its publication was altered, by whomever: what it publishes of its tables, or whose it is; 0:
	// that is not known. Only Ensure finds it out.
	Published uint32
	altered   struct{ full, insert uint32 } // what Published is made of
	// Silent are its partitions whose rows are in no WAL, unlogged and foreign ones: none of Leaves. A read of all rows has theirs.
	Silent []Leaf
	// FullLeaves says that the partitions are published each by itself for UPDATE and DELETE, see Publications.
	FullLeaves bool
}

// Leaf is one partition that holds rows.
type Leaf struct {
	OID          schema.OID
	Schema, Name string
	Identity     schema.ReplicaIdentity
	// KeyColumns are the names of the columns of its replica identity, in key order; nil for FULL and for none.
	KeyColumns []string
	Empty      bool // it is known to have had not a page since it was published; only Ensure finds out
	Unused     bool // it is Empty, and not since VACUUM has taken its pages: it has never had a row
}

// Tables lists the tables that patterns choose, and those they choose but that have no WAL to read (LeftOut, with
// the reason), by name.
func (c *Catalog) Tables(ctx context.Context, patterns Patterns) ([]*Table, error) {
	relations, err := c.relations(ctx, nil)
	if err != nil {
		return nil, err
	}
	var roots []uint32
	for _, r := range relations {
		if r.root() {
			roots = append(roots, uint32(r.oid))
		}
	}
	trees, err := c.trees(ctx, roots)
	if err != nil {
		return nil, err
	}
	leaves := leavesOf(relations, trees)
	tables := []*Table{} // none is an answer, too
	for _, r := range relations {
		if r.partition || !patterns.Match(r.schema, r.name) {
			continue
		}
		t, err := c.table(ctx, r, leaves[r.oid])
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// Table describes the one table with this OID, nil if it is gone. It asks for no other: each of thousands of tables is asked for at its
// first row.
func (c *Catalog) Table(ctx context.Context, oid schema.OID) (*Table, error) {
	trees, err := c.trees(ctx, []uint32{uint32(oid)})
	if err != nil {
		return nil, err
	}
	var tree []uint32
	for _, b := range trees {
		tree = append(tree, uint32(b.oid))
	}
	relations, err := c.relations(ctx, tree)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(relations, func(r *relation) bool { return r.oid == oid })
	if i < 0 {
		return nil, nil
	}
	var leaves []*relation
	if relations[i].root() {
		leaves = leavesOf(relations, trees)[oid]
	}
	return c.table(ctx, relations[i], leaves)
}

func (c *Catalog) table(ctx context.Context, r *relation, leaves []*relation) (*Table, error) {
	t := &Table{
		Relation:    schema.Relation{OID: r.oid, Schema: r.schema, Name: r.name, Identity: r.identity},
		Partitioned: r.kind == "p", EstimatedRows: r.tuples,
	}
	var kept []attribute
	for _, a := range r.columns {
		if a.unsent {
			t.Generated = append(t.Generated, a.name)
			continue
		}
		kept = append(kept, a)
	}
	used := make([]columnType, len(kept))
	for i, a := range kept {
		used[i] = a.typ
	}
	types, err := c.columnTypes(ctx, used)
	if err != nil {
		return nil, fmt.Errorf("describe table %q: %w", t.Relation.QualifiedName(), err)
	}
	for i, a := range kept {
		t.Relation.Columns = append(t.Relation.Columns, schema.Column{
			Name: a.name, AttNum: a.num, Type: types[i], NotNull: a.notNull, Loose: a.loose, Default: a.missing,
		})
	}
	for i := range t.Relation.Columns {
		// The value of a column that rows from before it have is kept where the rows are: with the partitions.
		c := &t.Relation.Columns[i]
		for _, l := range leaves {
			if c.Default != nil {
				break
			}
			c.Default = l.missing(c.Name)
		}
		if kept[i].defaults && c.Default == nil {
			t.Computed = append(t.Computed, c.AttNum)
		}
	}
	t.Files = r.file
	for _, l := range leaves {
		leaf := Leaf{OID: l.oid, Schema: l.schema, Name: l.name, Identity: l.identity, KeyColumns: l.names(l.identityKey())}
		if l.persistence == "u" || l.kind == "f" {
			t.Silent = append(t.Silent, leaf)
		} else {
			t.Leaves = append(t.Leaves, leaf)
		}
		t.EstimatedRows += l.tuples
		t.Files += l.file
	}
	key := r.identityKey()
	if len(key) == 0 {
		key = r.primary // FULL and NOTHING log no key, but the table still has one
	}
	for _, num := range key {
		i := slices.IndexFunc(kept, func(a attribute) bool { return a.num == num })
		if i < 0 { // a generated column in the key that the stream does not have
			t.Relation.Key = nil
			break
		}
		t.Relation.Key = append(t.Relation.Key, i)
	}
	t.judge(r)
	return t, nil
}

// judge sets Level, Reason and Help.
//
// A table whose UPDATE or DELETE is published must have a usable replica identity, or Postgres refuses the
// application's own statement. For a partitioned table each partition's own identity decides, also that of
// partitions yet to be made: one made from a root with a primary key inherits it, any other has none.
func (t *Table) judge(r *relation) {
	name := postgres.Ident(r.schema, r.name)
	switch {
	case r.kind == "f":
		t.Level, t.Reason = LeftOut, "a foreign table has no WAL to read"
		return
	case r.kind == "m":
		t.Level, t.Reason = LeftOut, "a materialized view has no WAL to read"
		return
	case r.persistence == "u":
		t.Level, t.Reason, t.Help = LeftOut, "an unlogged table has no WAL to read", "ALTER TABLE "+name+" SET LOGGED;"
		return
	case len(t.Relation.Columns) == 0: // nothing says what a target would be
		t.Level, t.Reason = LeftOut, "it has no column whose values are in the WAL"
		return
	}
	if !t.Partitioned {
		if r.identity == schema.IdentityFull || len(r.identityKey()) > 0 && len(t.Relation.Key) > 0 {
			t.Level = All
			return
		}
		wants := "FULL"
		if len(r.primary) > 0 && len(t.Relation.Key) > 0 {
			wants = "DEFAULT" // its primary key
		}
		t.Level, t.Help = InsertOnly, "ALTER TABLE "+name+" REPLICA IDENTITY "+wants+";"
		t.Reason = "it has no primary key"
		if r.identity == schema.IdentityNothing {
			t.Reason = "its replica identity is nothing"
		} else if r.identity == schema.IdentityIndex {
			t.Reason = "the index of its replica identity is gone"
		} else if len(r.primary) > 0 {
			t.Reason = "its primary key holds a generated column, which the stream does not have"
		}
		return
	}
	t.judgeRoot(r)
}

func (t *Table) judgeRoot(r *relation) {
	rootKey := r.names(r.primary)
	full, keyed := 0, 0
	var lacking []string
	for _, l := range t.Leaves {
		switch {
		case l.Identity == schema.IdentityFull:
			full++
		case len(rootKey) > 0 && slices.Equal(l.KeyColumns, rootKey):
			keyed++
		default:
			lacking = append(lacking, "ALTER TABLE "+postgres.Ident(l.Schema, l.Name)+" REPLICA IDENTITY FULL;")
		}
	}
	switch {
	case len(lacking) > 0 || len(t.Leaves) == 0 && len(rootKey) == 0:
		t.Level = InsertOnly
		t.Reason = fmt.Sprintf("%d of its %d partitions have no replica identity that fits the root", len(lacking), len(t.Leaves))
		if len(rootKey) == 0 {
			t.Reason += ", which has no primary key"
			if full == 0 {
				lacking = append(lacking, "ALTER TABLE "+postgres.Ident(r.schema, r.name)+" REPLICA IDENTITY FULL;")
			}
		}
		t.Help = strings.Join(lacking, "\n")
	case len(rootKey) > 0 && full == 0:
		t.Level = All
	default:
		// Partitions with FULL: published one by one, while the root, and with it every partition made later, is
		// published for INSERT and TRUNCATE only.
		t.Level, t.FullLeaves = All, true
		if keyed == 0 {
			t.Relation.Identity = schema.IdentityFull
		}
	}
}

// Definitions gives t.Generated as a column definition each, with their expressions: a target that has them computes the
// values itself. It locks the table for a moment, and is not for where the stream waits.
func (c *Catalog) Definitions(ctx context.Context, t *Table) ([]string, error) {
	list, err := query(ctx, c.conn, "look up generated columns of", pgx.RowTo[string], `
		select format('%I %s generated always as (%s) stored', a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid))
		  from pg_attribute a join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
		 where a.attrelid = $1 and a.attname::text = any($2) order by a.attnum`, uint32(t.Relation.OID), t.Generated)
	for i := range list {
		list[i] = oneLine(list[i])
	}
	return list, err
}

// oneLine gives SQL of the server in one line, as it is copied: a CASE has one for each WHEN. What is quoted stays as it is.
func oneLine(sql string) string {
	var b strings.Builder
	quote, gap := rune(0), false
	for _, r := range sql {
		switch {
		case quote == r:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote = r
		case quote == 0 && (r == '\n' || r == ' '):
			gap = true
			continue
		}
		if gap && !strings.HasSuffix(b.String(), "(") {
			b.WriteByte(' ')
		}
		gap = false
		b.WriteRune(r)
	}
	return b.String()
}

// TemporaryTables counts the temporary tables of all sessions. Tables does not list them: they come and go.
func (c *Catalog) TemporaryTables(ctx context.Context) (n int, err error) {
	err = c.conn.QueryRow(ctx, `select count(*) from pg_class where relpersistence = 't' and relkind in ('r', 'p')`).Scan(&n)
	if err != nil {
		return 0, Unreachable("count temporary tables", "", err)
	}
	return n, nil
}

// sizePatience is how long a partition's lock is waited for when its size is asked for.
const sizePatience = "500ms"

// findEmpty marks the partitions that are empty. Where somebody has locked one they all may have rows.
func (c *Catalog) findEmpty(ctx context.Context, tables []*Table) error {
	byOID := map[uint32]*Leaf{}
	var oids []uint32
	for _, t := range tables {
		for i := range t.Leaves {
			oid := uint32(t.Leaves[i].OID)
			byOID[oid] = &t.Leaves[i]
			oids = append(oids, oid)
		}
	}
	if len(oids) == 0 {
		return nil
	}
	type found struct {
		OID     uint32
		Counted bool
	}
	var empty []found
	err := pgx.BeginFunc(ctx, c.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local lock_timeout = '"+sizePatience+"'"); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `select oid, reltuples >= 0 from pg_class where oid = any($1::oid[]) and relkind = 'r' and pg_relation_size(oid) = 0`, oids)
		if err != nil {
			return err
		}
		empty, err = pgx.CollectRows(rows, pgx.RowToStructByPos[found])
		return err
	})
	if postgres.SQLState(err) == "55P03" {
		return nil
	} else if err != nil {
		return Unreachable("ask for the sizes of", "partitions", err)
	}
	for _, f := range empty {
		l := byOID[f.OID]
		l.Empty, l.Unused = true, !f.Counted
	}
	return nil
}

// Sizes gives the bytes on disk of the tables, with TOAST, by OID; those of a partitioned one are of its partitions. What
// somebody has locked is not waited for: then they are the planner's estimates.
func (c *Catalog) Sizes(ctx context.Context, tables []*Table) (map[schema.OID]int64, error) {
	owner := map[uint32]schema.OID{}
	var oids []uint32
	for _, t := range tables {
		for _, l := range t.Leaves {
			owner[uint32(l.OID)] = t.Relation.OID
			oids = append(oids, uint32(l.OID))
		}
		if !t.Partitioned {
			owner[uint32(t.Relation.OID)] = t.Relation.OID
			oids = append(oids, uint32(t.Relation.OID))
		}
	}
	type sized struct {
		oid   uint32
		bytes int64
	}
	ask := func(function string) (list []sized, err error) {
		err = pgx.BeginFunc(ctx, c.conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "set local lock_timeout = '"+sizePatience+"'"); err != nil {
				return err
			}
			rows, err := tx.Query(ctx, `select c.oid, coalesce(`+function+`, 0)::int8 from pg_class c where c.oid = any($1::oid[])`, oids)
			if err != nil {
				return err
			}
			list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (s sized, err error) { return s, row.Scan(&s.oid, &s.bytes) })
			return err
		})
		return list, err
	}
	list, err := ask(`pg_table_size(c.oid)`)
	if postgres.SQLState(err) == "55P03" {
		list, err = ask(`c.relpages::int8 * current_setting('block_size')::int8`)
	}
	if err != nil {
		return nil, Unreachable("ask for the sizes of", "tables", err)
	}
	sizes := map[schema.OID]int64{}
	for _, s := range list {
		sizes[owner[s.oid]] += s.bytes
	}
	return sizes, nil
}

// Owner is a role that owns tables.
type Owner struct {
	Name      string
	Superuser bool
}

// Owners lists the roles that own tables, by name.
func (c *Catalog) Owners(ctx context.Context, tables []*Table) ([]Owner, error) {
	oids := make([]uint32, len(tables))
	for i, t := range tables {
		oids[i] = uint32(t.Relation.OID)
	}
	return query(ctx, c.conn, "list owners", pgx.RowToStructByPos[Owner], `
		select rolname::text, rolsuper from pg_roles
		 where oid in (select relowner from pg_class where oid = any($1::oid[])) order by 1`, oids)
}
