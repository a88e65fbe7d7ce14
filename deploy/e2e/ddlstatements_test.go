package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// altering is a source that is altered at random, and what is known of it.
type altering struct {
	*rand.Rand
	t        *testing.T
	s        *source
	dwh      *pgx.Conn
	conns    []*pgx.Conn // of the application
	at       int         // of these: in which the statement runs
	major    int
	said     []string        // what was done, and what came of it
	unwitted map[string]bool // schema.table of which something is known not to be noticed: docs/schema-changes.md
	serial   int
	history  bool // the warehouse keeps histories, of which those that are valid are compared; so tables have a key, and keep it
}

func (a *altering) conn() *pgx.Conn { return a.conns[a.at] }

// do runs a statement. One that fails is as good as any other: its transaction is rolled back.
func (a *altering) do(sql string, args ...any) bool {
	if len(args) > 0 {
		sql = fmt.Sprintf(sql, args...)
	}
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Minute)
	defer cancel()
	_, err := a.conn().PgConn().Exec(ctx, sql).ReadAll()
	result := "ok"
	if err != nil {
		result = err.Error()
		if !errors.As(err, new(*pgconn.PgError)) {
			a.t.Fatalf("%s: %v", sql, err)
		}
		if a.conn().PgConn().TxStatus() != 'I' {
			_, err := a.conn().PgConn().Exec(ctx, "rollback").ReadAll()
			must(a.t, err)
		}
	}
	a.say("%d  %s  -- %s", a.at, sql, result)
	return err == nil
}

func (a *altering) say(format string, args ...any) {
	a.said = append(a.said, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

// list gives the texts of a query, in the connection in which the next statement runs.
func (a *altering) list(sql string) []string { return textsOf(a.t, a.conn(), sql) }

func (a *altering) one(of []string) string {
	if len(of) == 0 {
		return ""
	}
	return of[a.IntN(len(of))]
}

const ownSchemas = `('public', 'other', 'other2', 'away')`

func (a *altering) tables(kinds string) []string {
	return a.list(`select oid::regclass::text from pg_class where relkind in (` + kinds + `) and not relispartition and relnamespace::regnamespace::text in ` + ownSchemas + ` order by 1`)
}

func (a *altering) table() string { return a.one(a.tables(`'r', 'p'`)) }

// columns gives the columns of a table, those of the key only if key, which are given in their own query.
func (a *altering) columns(table string) []string {
	return a.list(`select quote_ident(attname) || ' ' || format_type(atttypid, atttypmod) from pg_attribute where attrelid = '` + table + `'::regclass and attnum > 0 and not attisdropped and attname not in ('id') order by attnum`)
}

var typePool = []string{"integer", "bigint", "smallint", "text", "character varying(30)", "character varying(60)", "numeric(12,2)", "numeric(14,2)", "numeric", "boolean", "timestamp with time zone", "mood", "integer[]", "jsonb", "double precision"}

// value gives an expression of a type; i is a number in it.
func (a *altering) value(typ, i string) string {
	if a.IntN(8) == 0 {
		return "null"
	}
	n := a.IntN(100)
	switch {
	case typ == "boolean":
		return fmt.Sprintf("(%s + %d) %% 2 = 0", i, n)
	case strings.HasPrefix(typ, "timestamp"):
		return fmt.Sprintf("'2026-01-01'::timestamptz + (%s + %d) * interval '1 hour'", i, n)
	case typ == "mood":
		return "(enum_range(null::mood))[1 + (" + i + ") % 2]"
	case typ == "integer[]":
		return fmt.Sprintf("array[%s, null, %d]", i, n)
	case typ == "jsonb":
		return fmt.Sprintf(`jsonb_build_object('a', %s, 'b', %d)`, i, n)
	case typ == "text" && a.IntN(3) == 0:
		return fmt.Sprintf("(select string_agg(md5((%s + g)::text), '') from generate_series(%d, %d) g)", i, n, n+150)
	case typ == "text", strings.HasPrefix(typ, "character"):
		return fmt.Sprintf("'v' || (%s + %d)", i, n)
	}
	return fmt.Sprintf("((%s + %d) %% 1000)::%s", i, n, typ)
}

func (a *altering) constant(typ string) string {
	switch {
	case typ == "boolean":
		return "true"
	case strings.HasPrefix(typ, "timestamp"):
		return "'2026-02-03 04:05:06+00'"
	case typ == "mood":
		return "'ok'"
	case typ == "integer[]":
		return "'{7,NULL}'"
	case typ == "jsonb":
		return `'{"d": 1}'`
	}
	return fmt.Sprintf("'%d'", a.IntN(90))
}

// fresh gives a name of a column, perhaps one that is, or was, there.
func (a *altering) fresh() string { return "c" + strconv.Itoa(a.IntN(9)) }

func (a *altering) typ() string { return typePool[a.IntN(len(typePool))] }

// create gives the statement that makes a table.
func (a *altering) create(name string) string {
	key := []string{"id int primary key", "id bigint primary key", "id int", "id int not null, k int default 1 not null, primary key (id, k)"}[a.IntN(4)]
	if a.history && !strings.HasSuffix(key, "t primary key") {
		key = "id int primary key"
	}
	sql := "create table " + name + " (" + key
	for i := range a.IntN(5) {
		sql += fmt.Sprintf(", c%d %s", i, a.typ())
	}
	sql += ")"
	if a.IntN(3) == 0 {
		sql += fmt.Sprintf("; alter table %s replica identity full", name)
	}
	return sql
}

func (a *altering) createPartitioned(name string) string {
	a.serial++
	full := ""
	key := "id int primary key"
	if a.IntN(3) == 0 && !a.history {
		key = "id int not null"
		full = fmt.Sprintf("; alter table %[1]s replica identity full; alter table q%[2]d_0 replica identity full; alter table q%[2]d_1 replica identity full", name, a.serial)
	}
	return fmt.Sprintf(`create table %[1]s (%[3]s, c0 text, c1 int) partition by range (id); create table q%[2]d_0 partition of %[1]s for values from (0) to (50);
		create table q%[2]d_1 partition of %[1]s for values from (50) to (100)`, name, a.serial, key) + full
}

func (a *altering) name() string {
	return a.one([]string{"", "", "", "other."}) + "t" + strconv.Itoa(a.IntN(7))
}

func (a *altering) insert(table string, rows int) {
	names, values := []string{"id"}, []string{"g"}
	for _, c := range a.columns(table) {
		name, typ, _ := strings.Cut(c, " ")
		if a.IntN(5) > 0 {
			names, values = append(names, name), append(values, a.value(typ, "g"))
		}
	}
	from := a.IntN(90)
	if a.do("insert into %s (%s) select %s from generate_series(%d, %d) g on conflict do nothing", table, strings.Join(names, ", "), strings.Join(values, ", "), from, from+rows) {
		return
	}
	a.do("insert into %s (id) select g from generate_series(%d, %d) g on conflict do nothing", table, from, from+rows)
}

func (a *altering) where() string {
	return a.one([]string{fmt.Sprintf("id = %d", a.IntN(100)), fmt.Sprintf("id %% 7 = %d", a.IntN(7)), fmt.Sprintf("id between %d and 100", a.IntN(100)), fmt.Sprintf("id = (select min(id) from only_table where id >= %d)", a.IntN(80))})
}

// change does something to rows.
func (a *altering) change(table string) {
	where := strings.ReplaceAll(a.where(), "only_table", table)
	switch n := a.IntN(20); {
	case n < 7:
		a.insert(table, a.IntN(12))
	case n < 13:
		c := a.one(a.columns(table))
		if c == "" {
			return
		}
		name, typ, _ := strings.Cut(c, " ")
		a.do("update %s set %s = %s where %s", table, name, a.value(typ, "id"), where)
	case n < 15:
		a.do("update %s set id = id + %d where %s", table, 1+a.IntN(40), where)
	case n < 19:
		a.do("delete from %s where %s", table, where)
	default:
		a.do("truncate %s", table)
	}
}

// alter does something to a table.
func (a *altering) alter(table string) {
	c := a.one(a.columns(table))
	name, was, _ := strings.Cut(c, " ")
	typ := a.typ()
	what := a.IntN(40)
	if a.history && what >= 24 && what <= 27 {
		return
	}
	switch what {
	case 0, 1:
		a.do("alter table %s add %s %s", table, a.fresh(), typ)
	case 2, 3:
		a.do("alter table %s add %s %s default %s", table, a.fresh(), typ, a.constant(typ))
	case 4:
		a.do("alter table %s add %s %s not null default %s", table, a.fresh(), typ, a.constant(typ))
	case 5:
		a.do("alter table %s add %s %s", table, a.fresh(), a.one([]string{"float8 default random()", "timestamptz default clock_timestamp()", "serial", "bigint generated always as identity", "int generated by default as identity"}))
	case 6:
		a.do("alter table %s add %s int generated always as (id + 1) stored", table, a.fresh())
	case 7, 8, 9:
		a.do("alter table %s drop %s", table, cmp.Or(name, "c0"))
	case 10:
		a.do("begin; alter table %[1]s drop %[2]s; alter table %[1]s add %[2]s %[3]s; commit", table, cmp.Or(name, "c0"), a.one([]string{typ, cmp.Or(was, "text")}))
	case 11, 12, 13:
		a.do("alter table %s rename %s to %s", table, cmp.Or(name, "c0"), a.fresh())
	case 14:
		other, _, _ := strings.Cut(a.one(a.columns(table)), " ")
		a.do("begin; alter table %[1]s rename %[2]s to swap_; alter table %[1]s rename %[3]s to %[2]s; alter table %[1]s rename swap_ to %[3]s; commit", table, cmp.Or(name, "c0"), cmp.Or(other, "c1"))
	case 15, 16, 17:
		if typ == was {
			return
		}
		using := fmt.Sprintf("case when length(%s::text) > 1 then null else null end::%s", name, typ)
		switch {
		case typ == "text" || strings.HasPrefix(typ, "character"):
			using = fmt.Sprintf("left('u' || %s::text, 25)", name)
		case slices.Contains([]string{"integer", "bigint", "smallint", "numeric", "numeric(12,2)", "numeric(14,2)", "double precision"}, typ):
			using = fmt.Sprintf("(hashtext(%s::text) %% 1000)::%s", name, typ)
		}
		a.do("alter table %[1]s alter %[2]s drop default, alter %[2]s type %[3]s using %[4]s", table, name, typ, using)
	case 18, 19:
		a.do("alter table %s alter %s type %s", table, name, typ)
	case 20:
		a.do("alter table %s alter %s set default %s", table, name, a.constant(was))
	case 21:
		a.do("alter table %s alter %s %s not null", table, name, a.one([]string{"set", "drop"}))
	case 22, 23:
		a.do("alter table %s replica identity %s", table, a.one([]string{"full", "default", "full", "default", "nothing"}))
	case 24:
		a.do("alter table %s drop constraint if exists %s", table, a.one(a.list(`select quote_ident(conname) from pg_constraint where contype = 'p' and conrelid = '`+table+`'::regclass`)))
	case 25:
		a.do("alter table %s add primary key (%s)", table, a.one([]string{"id", "id", "id, " + cmp.Or(name, "id")}))
	case 26:
		a.serial++
		a.do("begin; alter table %[1]s alter %[2]s set not null; create unique index u%[3]d on %[1]s (%[2]s); alter table %[1]s replica identity using index u%[3]d; commit", table, cmp.Or(name, "id"), a.serial)
	case 27:
		a.do("drop index if exists %s", cmp.Or(a.one(a.list(`select indexrelid::regclass::text from pg_index where not indisprimary and indisunique and indrelid = '`+table+`'::regclass`)), "none"))
	case 28, 29:
		a.rename(table)
	case 30:
		a.swap(table)
	case 31, 32:
		a.anew(table)
	case 33:
		a.do("alter table %s set schema %s", table, a.one([]string{"public", "public", "other", "away"}))
	case 34:
		a.do("vacuum full %s", table)
	case 35:
		a.do("alter table %s alter %s set storage external", table, cmp.Or(name, "c0"))
	case 36:
		if a.major >= 18 {
			a.do("alter table %s alter %s drop expression if exists", table, cmp.Or(name, "c0"))
		}
	case 37:
		a.do("drop table %s", table)
	case 38:
		a.do("create type mood2 as enum ('x')")
		a.do("alter type mood add value if not exists 'm%d'", a.IntN(20))
	case 39:
		a.publication(table)
	}
}

func (a *altering) rename(table string) {
	_, name, found := strings.Cut(a.name(), ".")
	if !found {
		name = "t" + strconv.Itoa(a.IntN(7))
	}
	if a.do("alter table %s rename to %s", table, name) && a.IntN(2) == 0 {
		if a.IntN(2) == 0 {
			a.rest()
		}
		a.do("%s", a.create(table))
	}
}

func (a *altering) swap(table string) {
	other := a.table()
	schema, bare, found := strings.Cut(table, ".")
	if !found {
		bare = schema
	}
	otherSchema, otherBare, found := strings.Cut(other, ".")
	if !found {
		otherBare = otherSchema
	}
	prefix := strings.TrimSuffix(table, bare)
	if other == table || strings.TrimSuffix(other, otherBare) != prefix {
		return
	}
	a.do("begin; alter table %[1]s rename to swap_; alter table %[2]s rename to %[3]s; alter table %[4]sswap_ rename to %[5]s; commit", table, other, bare, prefix, otherBare)
}

// anew drops a table and makes another of its name.
func (a *altering) anew(table string) {
	create := a.create(table)
	if a.IntN(4) == 0 {
		create = a.createPartitioned(table)
	}
	switch a.IntN(3) {
	case 0:
		a.do("begin; drop table %s; %s; commit", table, create)
	case 1:
		a.do("drop table %s", table)
		a.do("%s", create)
	case 2:
		a.change(table)
		a.do("drop table %s", table)
		a.rest()
		a.do("%s", create)
	}
	a.insert(table, 10)
}

// publication alters capture's publications, as somebody else may.
func (a *altering) publication(table string) {
	name := "tributary_" + a.s.name
	switch a.IntN(5) {
	case 0:
		a.do("alter publication %s drop table only %s", name, table)
	case 1:
		a.do("begin; alter publication %[1]s drop table only %[2]s; alter publication %[1]s add table only %[2]s; commit", name, table)
	case 2:
		a.do("begin; alter publication %[1]s drop table only %[2]s; alter publication %[1]s add table only %[2]s where (id > 20); commit", name, table)
	case 3:
		a.do("alter publication %s set (publish = 'insert')", name)
	case 4:
		a.do("alter publication %s_insert drop table only %s", name, table)
	}
}

func (a *altering) partitions(root string) []string {
	return a.list(`select inhrelid::regclass::text from pg_inherits where inhparent = '` + root + `'::regclass order by 1`)
}

func (a *altering) partition() {
	root := a.one(a.tables(`'p'`))
	if root == "" {
		a.do("%s", a.createPartitioned(a.name()))
		return
	}
	part := a.one(a.partitions(root))
	a.serial++
	loose := a.one(a.list(`select oid::regclass::text from pg_class where relkind = 'r' and not relispartition and relname ~ '^q' order by 1`))
	low := a.IntN(20) * 50
	switch n := a.IntN(10); {
	case n < 3:
		a.do("create table q%d partition of %s for values from (%d) to (%d)", a.serial, root, low, low+50)
	case n < 5:
		a.do("begin; create table q%[1]d (like %[2]s including all); insert into q%[1]d (id) select generate_series(%[3]d, %[3]d + 5); commit", a.serial, root, low)
		a.do("alter table %s attach partition q%d for values from (%d) to (%d)", root, a.serial, low, low+50)
	case n < 6 && part != "":
		if a.do("alter table %s detach partition %s", root, part) {
			a.unwitted[root] = true
		}
	case n < 8 && loose != "":
		a.do("alter table %[1]s attach partition %[2]s for values from (%[3]d) to (%[4]d)", root, loose, low, low+50)
	case n < 9 && part != "":
		if a.do("%s table %s", a.one([]string{"drop", "truncate"}), part) {
			a.unwitted[root] = true
		}
	case part != "":
		a.do("alter table %s replica identity %s", part, a.one([]string{"full", "default"}))
	}
}
