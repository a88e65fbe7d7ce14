package e2e

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// alteration is a table's life: how it begins, and what is done to it while it is captured. Each statement is a
// transaction of its own but for those between begin and commit. T is the table's name.
type alteration struct {
	name  string
	begin []string
	then  []string
	// mend is what a person has to do in the warehouse when the table is quarantined, "" for nothing; hint is the part of
	// it that the hint has, all of it if "".
	mend, hint string
	// table is the table's name afterwards, "" if it keeps it.
	table string
	min   int // first major version that can do it; 0 for all
}

var alterations = []alteration{
	{
		name:  "add_null",
		begin: []string{`create table T (id int primary key, a text)`, `insert into T select i, 'a' || i from generate_series(1, 20) i`},
		then:  []string{`alter table T add c text`, `insert into T values (21, 'x', 'c')`, `update T set c = 'y' where id = 3`, `update T set a = 'z' where id = 4`},
	},
	{
		name:  "add_constant",
		begin: []string{`create table T (id int primary key, a text)`, `insert into T select i, 'a' || i from generate_series(1, 20) i`},
		then:  []string{`alter table T add c int not null default 7`, `insert into T values (21, 'x', 8)`, `update T set a = 'z' where id = 4`},
	},
	{
		name:  "add_constant_vacuumed",
		begin: []string{`create table T (id int primary key, a text)`, `insert into T select i, 'a' || i from generate_series(1, 20) i`},
		then:  []string{`alter table T add c int not null default 7`, `vacuum full T`, `insert into T values (21, 'x', 8)`, `update T set a = 'z' where id = 4`},
	},
	{
		name:  "add_volatile",
		begin: []string{`create table T (id int primary key, a text)`, `insert into T select i, 'a' || i from generate_series(1, 20) i`},
		then:  []string{`alter table T add c float8 default random()`, `insert into T values (21, 'x', 8)`, `update T set a = 'z' where id = 4`},
	},
	{
		name:  "add_volatile_quiet",
		begin: []string{`create table T (id int primary key, a text)`, `insert into T select i, 'a' || i from generate_series(1, 20) i`},
		then:  []string{`alter table T add c float8 default random()`},
	},
	{
		name:  "add_serial",
		begin: []string{`create table T (id int primary key, a text)`, `insert into T select i, 'a' || i from generate_series(1, 20) i`},
		then:  []string{`alter table T add c serial`, `alter table T add d int generated always as identity`, `insert into T values (21, 'x')`},
	},
	{
		name:  "drop",
		begin: []string{`create table T (id int primary key, a text not null, b int not null)`, `insert into T select i, 'a' || i, i from generate_series(1, 20) i`},
		then:  []string{`alter table T drop b`, `insert into T values (21, 'x')`, `update T set a = 'z' where id = 4`},
	},
	{
		name:  "drop_and_add",
		begin: []string{`create table T (id int primary key, a text, b int)`, `insert into T select i, 'a' || i, i from generate_series(1, 20) i`},
		then:  []string{`alter table T drop b`, `alter table T add b int`, `insert into T values (21, 'x', 1)`, `update T set a = 'z' where id = 4`},
	},
	{
		name:  "drop_write_add",
		begin: []string{`create table T (id int primary key, c text, d int, a text)`, `insert into T select i, 'c' || i, i, 'a' || i from generate_series(1, 20) i`},
		then: []string{
			`alter table T drop c, drop d`, `update T set a = 'z' where id = 4`, `insert into T values (21, 'x')`, `alter table T add c text, add d int not null default 5`,
			`insert into T values (22, 'x', 'new', 1)`, `update T set c = 'y', d = 2 where id = 5`, `delete from T where id = 6`,
		},
	},
	{
		name:  "drop_write_add_another_type",
		begin: []string{`create table T (id int primary key, c text, a text)`, `insert into T select i, 'c' || i, 'a' || i from generate_series(1, 20) i`},
		then:  []string{`alter table T drop c`, `update T set a = 'z' where id = 4`, `alter table T add c varchar(20) default 'x'`, `insert into T values (22, 'x', 'new')`},
	},
	{
		name:  "rename",
		begin: []string{`create table T (id int primary key, a text, b int)`, `insert into T select i, 'a' || i, i from generate_series(1, 20) i`},
		then:  []string{`update T set a = 'before' where id = 2`, `alter table T rename a to c`, `insert into T values (21, 'x', 1)`, `update T set b = 0 where id = 4`, `update T set c = 'after' where id = 5`},
	},
	{
		name:  "rename_twice",
		begin: []string{`create table T (id int primary key, a text, b int)`, `insert into T select i, 'a' || i, i from generate_series(1, 20) i`},
		then:  []string{`alter table T rename a to c`, `insert into T values (21, 'x', 1)`, `alter table T rename c to d`, `insert into T values (22, 'x', 1)`, `update T set b = 0 where id = 4`},
	},
	{
		name:  "swap_names",
		begin: []string{`create table T (id int primary key, a text, b text)`, `insert into T select i, 'a' || i, 'b' || i from generate_series(1, 20) i`},
		then:  []string{`begin; alter table T rename a to c; alter table T rename b to a; alter table T rename c to b; commit`, `insert into T values (21, 'x', 'y')`, `update T set a = 'z' where id = 4`},
	},
	{
		name:  "widen",
		begin: []string{`create table T (id int primary key, a varchar(5), b numeric(5,2), c int2, d real)`, `insert into T select i, 'a' || i, i, i, i from generate_series(1, 20) i`},
		then:  []string{`alter table T alter a type text, alter b type numeric(20,2), alter c type int8, alter d type float8, alter id type int8`, `insert into T values (5000000000, 'longer than five', 123456789.01, 3000000000, 1e300)`, `update T set a = 'z' where id = 4`},
	},
	{
		name:  "rescale",
		begin: []string{`create table T (id int primary key, b numeric(10,4))`, `insert into T select i, i + 0.1234 from generate_series(1, 20) i`},
		then:  []string{`alter table T alter b type numeric(10,2)`, `insert into T values (21, 1.5)`, `update T set b = 2.25 where id = 4`},
		mend:  `ALTER TABLE "public"."rescale" ALTER COLUMN "b" TYPE numeric(10,2)`,
	},
	{
		name:  "retype",
		begin: []string{`create table T (id int primary key, a int)`, `insert into T select i, i from generate_series(1, 20) i`},
		then:  []string{`alter table T alter a type text using 'n' || a`, `insert into T values (21, 'x')`, `update T set a = 'z' where id = 4`},
		mend:  `ALTER TABLE "public"."retype" ALTER COLUMN "a" TYPE text`,
	},
	{
		name:  "retype_key",
		begin: []string{`create table T (id int primary key, a int)`, `insert into T select i, i from generate_series(1, 20) i`},
		then:  []string{`alter table T alter id type int8 using id + 1000`, `insert into T values (3, 3)`, `update T set a = 0 where id = 1004`},
	},
	{
		name:  "retype_using",
		begin: []string{`create table T (id int primary key, a varchar(10))`, `insert into T select i, 'a' || i from generate_series(1, 20) i`},
		then:  []string{`alter table T alter a type text using upper(a)`, `update T set a = 'z' where id = 4`},
	},
	{
		name:  "not_null",
		begin: []string{`create table T (id int primary key, a text not null, b text)`, `insert into T select i, 'a' || i, 'b' from generate_series(1, 20) i`},
		then:  []string{`alter table T alter a drop not null`, `alter table T alter b set not null`, `insert into T values (21, null, 'b')`},
	},
	{
		name:  "enum",
		begin: []string{`create type mood as enum ('sad', 'ok')`, `create table T (id int primary key, a mood, b mood[])`, `insert into T values (1, 'sad', '{ok}')`},
		then:  []string{`alter type mood add value 'happy' before 'ok'`, `insert into T values (2, 'happy', '{happy,sad}')`},
		mend:  `ALTER TYPE public.mood ADD VALUE IF NOT EXISTS 'happy'`, hint: `ALTER TYPE public.mood ADD VALUE`,
	},
	{
		name:  "key",
		begin: []string{`create table T (id int primary key, a int not null, b text)`, `insert into T select i, i * 10, 'b' from generate_series(1, 20) i`},
		then:  []string{`begin; alter table T drop constraint T_pkey; alter table T add primary key (a); commit`, `insert into T values (1, 11, 'same id')`, `update T set b = 'z' where a = 20`, `update T set a = 31 where a = 30`, `delete from T where a = 40`},
	},
	{
		name:  "key_wider",
		begin: []string{`create table T (id int primary key, a int not null, b text)`, `insert into T select i, i * 10, 'b' from generate_series(1, 20) i`},
		then:  []string{`begin; alter table T drop constraint T_pkey; alter table T add primary key (id, a); commit`, `insert into T values (1, 11, 'same id')`, `update T set b = 'z' where a = 20`, `delete from T where a = 40`},
	},
	{
		name:  "key_added",
		begin: []string{`create table T (id int primary key, a int)`, `insert into T select i, i * 10 from generate_series(1, 20) i`},
		then:  []string{`begin; alter table T add b serial; alter table T drop constraint T_pkey; alter table T add primary key (b); commit`, `update T set a = 7 where id = 3`, `insert into T values (1, 11)`, `delete from T where id = 4`},
	},
	{
		name:  "key_dropped",
		begin: []string{`create table T (id int primary key, a int)`, `insert into T select i, i * 10 from generate_series(1, 20) i`},
		then:  []string{`begin; alter table T drop constraint T_pkey; alter table T replica identity full; commit`, `insert into T values (1, 10), (2, 0)`, `update T set a = 7 where a = 20`, `delete from T where a = 40`},
	},
	{
		name:  "key_made",
		begin: []string{`create table T (id int not null, a int)`, `alter table T replica identity full`, `insert into T select i, i * 10 from generate_series(1, 20) i`},
		then:  []string{`begin; alter table T add primary key (id); alter table T replica identity default; commit`, `insert into T values (21, 10)`, `update T set a = 7 where a = 20`, `delete from T where a = 40`},
	},
	{
		name:  "rename_table",
		begin: []string{`create table T (id int primary key, a text)`, `insert into T select i, 'a' || i from generate_series(1, 20) i`},
		then:  []string{`update T set a = 'before' where id = 2`, `alter table T rename to renamed`, `insert into renamed values (21, 'x')`, `update renamed set a = 'z' where id = 4`},
		table: "renamed",
	},
	{
		name:  "made_anew",
		begin: []string{`create table T (id int primary key, a text)`, `insert into T select i, 'a' || i from generate_series(1, 20) i`},
		then:  []string{`begin; drop table T ; create table T (id int primary key, b int); insert into T values (1, 2), (30, 40); commit`, `insert into T values (31, 41)`},
	},
	{
		name:  "made_anew_without_what_was_dropped",
		begin: []string{`create table T (id int primary key, gone text, status text, city int)`, `insert into T select i, 'g', 'open', i from generate_series(1, 20) i`},
		then: []string{
			`alter table T drop gone`, `update T set status = 'paid' where id = 4`,
			`begin; drop table T ; create table T (id int primary key, status text, city int); insert into T select i, 'new', i from generate_series(10, 30) i; commit`, `insert into T values (31, 'late', 31)`,
		},
	},
	{
		name:  "in_one_transaction",
		begin: []string{`create table T (id int primary key, a text, b int)`, `insert into T select i, 'a' || i, i from generate_series(1, 20) i`},
		then: []string{`begin; insert into T values (21, 'one', 1); alter table T add c text default 'cc'; insert into T values (22, 'two', 2, 'c'); update T set c = 'new' where id = 1;
			alter table T drop b; delete from T where id = 2; alter table T rename a to d; update T set d = 'renamed' where id = 3; alter table T alter c type varchar(50); insert into T values (23, 'three', 'c3'); commit`, `update T set d = 'after' where id = 5`},
	},
	{
		name:  "rolled_back",
		begin: []string{`create table T (id int primary key, a text)`, `insert into T select i, 'a' || i from generate_series(1, 20) i`},
		then:  []string{`begin; alter table T add c int default 5; insert into T values (21, 'x', 1); rollback`, `insert into T values (22, 'y')`, `begin; savepoint s; alter table T rename a to q; update T set q = 'gone' where id = 1; rollback to s; update T set a = 'stays' where id = 2; commit`},
	},
	{
		name:  "toast",
		begin: []string{`create table T (id int primary key, a text, b int)`, `alter table T alter a set storage external`, `insert into T select i, repeat('0123456789', 1000), i from generate_series(1, 5) i`},
		then:  []string{`alter table T add c int`, `update T set b = 9, c = 1`, `alter table T rename a to d`, `update T set b = 10 where id = 1`, `update T set id = 100 where id = 2`},
	},
	{
		name:  "identity",
		begin: []string{`create table T (id int primary key, a text not null, b int)`, `create unique index T_a on T (a)`, `insert into T select i, 'a' || i, i from generate_series(1, 20) i`},
		then:  []string{`alter table T replica identity full`, `update T set b = 0 where id = 1`, `alter table T replica identity using index T_a`, `update T set b = 0 where id = 2`, `update T set a = 'new' where id = 3`, `alter table T replica identity default`, `update T set b = 0 where id = 4`, `delete from T where id = 5`},
	},
	{
		name: "generated", min: 18,
		begin: []string{`create table T (id int primary key, n int, twice int generated always as (n * 2) stored)`, `insert into T select i, i from generate_series(1, 20) i`},
		then:  []string{`update T set n = 100 where id = 1`, `alter table T add late int generated always as (n + 1) stored`, `insert into T values (21, 5)`, `alter table T alter twice drop expression`, `update T set twice = 7 where id = 2`},
	},
	{
		name: "partitions",
		begin: []string{
			`create table T (id int, at date, a text, primary key (id, at)) partition by range (at)`, `create table T_1 partition of T for values from ('2020-01-01') to ('2021-01-01')`,
			`create table T_2 partition of T for values from ('2021-01-01') to ('2022-01-01')`, `insert into T select i, '2020-06-01'::date + i * 20, 'a' from generate_series(1, 20) i`,
		},
		then: []string{
			`create table T_3 partition of T for values from ('2022-01-01') to ('2023-01-01')`, `insert into T values (21, '2022-05-05', 'x')`, `update T set at = '2022-06-06' where id = 3`,
			`alter table T add c int default 3`, `update T set a = 'y' where id = 4`, `alter table T rename a to d`, `insert into T values (22, '2020-02-02', 'z', 4)`,
		},
	},
	{
		name: "attach",
		begin: []string{
			`create table T (id int primary key, a text) partition by range (id)`, `create table T_1 partition of T for values from (0) to (100)`,
			`insert into T select i, 'a' || i from generate_series(1, 20) i`,
		},
		then: []string{
			`create table T_2 (id int primary key, a text)`, `insert into T_2 select i, 'b' || i from generate_series(100, 120) i`,
			`alter table T attach partition T_2 for values from (100) to (200)`, `insert into T values (150, 'c')`, `update T set a = 'd' where id = 101`,
		},
	},
	{
		name:  "attach_first",
		begin: []string{`create table T (id int primary key, a text) partition by range (id)`},
		then: []string{
			`create table T_1 (id int primary key, a text)`, `insert into T_1 select i, 'b' || i from generate_series(1, 20) i`,
			`alter table T attach partition T_1 for values from (0) to (100)`, `insert into T values (50, 'c')`, `update T set a = 'd' where id = 1`,
		},
	},
	{
		name: "partitions_full",
		begin: []string{
			`create table T (id int primary key, a text) partition by range (id)`, `create table T_1 partition of T for values from (0) to (100)`,
			`alter table T_1 replica identity full`, `insert into T select i, 'a' || i from generate_series(1, 20) i`,
		},
		then: []string{
			`create table T_2 partition of T for values from (100) to (200)`, `insert into T select i, 'b' || i from generate_series(100, 120) i`,
			`delete from T where id in (101, 102)`, `update T set id = 130 where id = 103`, `update T set id = 99 where id = 104`, `update T set a = 'c' where id = 105`,
		},
	},
}

func TestAlteredTables(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		for _, c := range []struct {
			name  string
			later bool // the source is altered while no capture runs
		}{{"while it runs", false}, {"while it is away", true}} {
			t.Run(fmt.Sprintf("pg%d/%s", major, c.name), func(t *testing.T) { alterTables(t, kafkatest.Fake(t), kafkatest.Registry(t), major, c.later) })
		}
	}
	t.Run("on Kafka 3 with Apicurio", func(t *testing.T) {
		alterTables(t, kafkatest.Older(t), kafkatest.Apicurio(t), pgtest.DefaultMajor, false)
	})
}

func alterTables(t *testing.T, kafka kafkatest.Cluster, registry string, major int, later bool) {
	alterations := slices.DeleteFunc(slices.Clone(alterations), func(a alteration) bool { return major < a.min })
	cluster := pgtest.Shared(t, major)
	dsn, warehouse := pgtest.Database(t, cluster), pgtest.Database(t, cluster)
	owner, role := leastSource(t, dsn, fmt.Sprintf("owner_%d_%t", major, later))
	s := newSource(t, fmt.Sprintf("alter%d%t", major, later), owner, kafka, registry)
	s.config.Source.DSN = config.Secret(role)
	t.Cleanup(func() { dropSlot(t, dsn, "tributary_"+s.name) })
	dwh, writer := connect(t, warehouse), leastWarehouse(t, warehouse, true)
	for i := range alterations {
		alterations[i].run(t, s.conn, alterations[i].begin)
	}
	exec(t, dwh, `create type mood as enum ('sad', 'ok')`)
	start := func(group string) {
		startGroup(t, kafka, registry, writer, group, fmt.Sprintf(`{from: "public.*", to: "%s.{table}"}`, group))
	}
	start("public")
	stop := s.startCapture(t)
	fence(t, dwh, "public", []*source{s}, "begun")
	if later {
		stop()
	}
	for i := range alterations {
		alterations[i].run(t, s.conn, alterations[i].then)
	}
	if later {
		s.startCapture(t)
	}
	// What is altered is noticed within source.refresh; only then can a fence behind it be waited for.
	exec(t, s.conn, `create table noticed (id int primary key)`)
	exec(t, s.conn, `insert into noticed values (1)`)
	eventually(t, "what was altered is noticed", func() bool {
		return scalar[bool](t, dwh, `select to_regclass('public.noticed') is not null`)
	})
	s.mendAll(t, dwh, "public", alterations)
	fence(t, dwh, "public", []*source{s}, "altered")
	s.compareAll(t, dwh, "public", alterations)
	start("rebuilt")
	s.mendAll(t, dwh, "rebuilt", alterations)
	fence(t, dwh, "rebuilt", []*source{s}, "altered")
	s.compareAll(t, dwh, "rebuilt", alterations)
}

func (a *alteration) run(t *testing.T, conn *pgx.Conn, statements []string) {
	t.Helper()
	for _, sql := range statements {
		sql = strings.NewReplacer(" T_", " "+a.name+"_", " T ", " "+a.name+" ").Replace(sql + " ")
		if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v\n%s", a.name, err, sql)
		}
	}
}

// mendAll does what quarantined tables ask for, for those of which we expect it.
func (s *source) mendAll(t *testing.T, dwh *pgx.Conn, schema string, alterations []alteration) {
	t.Helper()
	for _, a := range alterations {
		if a.mend == "" || a.name == "enum" && schema != "public" { // the type is the same one
			continue
		}
		sql := strings.ReplaceAll(a.mend, `"public"`, `"`+schema+`"`)
		eventually(t, a.name+" is quarantined", func() bool {
			return scalar[bool](t, dwh, `select exists (select from tributary.quarantine where grp = $1 and table_name = 'public.' || $2)`, schema, a.name)
		})
		hint := scalar[string](t, dwh, `select hint from tributary.quarantine where grp = $1 and table_name = 'public.' || $2`, schema, a.name)
		if want := cmp.Or(a.hint, sql); !strings.Contains(hint, want) {
			t.Errorf("%s: the hint is %q, want in it: %s", a.name, hint, want)
		}
		held := scalar[int64](t, dwh, `select next_offset from tributary.quarantine where grp = $1 and table_name = 'public.' || $2`, schema, a.name)
		exec(t, dwh, sql)
		// Not once: an attempt that was under way before the statement fails after it.
		eventually(t, a.name+" goes on", func() bool {
			exec(t, dwh, `delete from tributary.quarantine where grp = $1 and table_name = 'public.' || $2`, schema, a.name)
			return scalar[bool](t, dwh, `select next_offset > $3 from tributary.checkpoint where grp = $1 and topic = $2`, schema, s.name+".public."+a.name, held)
		})
	}
}

func (s *source) compareAll(t *testing.T, dwh *pgx.Conn, schema string, alterations []alteration) {
	t.Helper()
	for _, held := range textsOf(t, dwh, `select table_name || ': ' || message || ' -- ' || hint from tributary.quarantine where grp = '`+schema+`'`) {
		t.Errorf("quarantined: %s", held)
	}
	for _, a := range alterations {
		table := a.name
		if a.table != "" {
			table = a.table
		}
		columns := textsOf(t, s.conn, `select attname::text from pg_attribute where attrelid = 'public.`+table+`'::regclass and attnum > 0 and not attisdropped order by attnum`)
		var list []string
		for _, c := range columns {
			list = append(list, fmt.Sprintf("case when num_nulls(%s) = 1 then '<null>' else left(format('%%s', %[1]s), 50) end", postgres.Ident(c)))
		}
		sql := "select r from (select concat_ws(' | ', " + strings.Join(list, ", ") + ") as r from SCHEMA." + table + `) q order by r collate "C"`
		want := texts(t, s.dsn, strings.Replace(sql, "SCHEMA", "public", 1))
		rows, err := dwh.Query(t.Context(), strings.Replace(sql, "SCHEMA", schema, 1))
		var got []string
		if err == nil {
			got, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		if err != nil {
			t.Errorf("%s: %v", a.name, err)
			continue
		}
		differ(t, a.name+" in "+schema, want, got)
	}
}

// dropSlot drops a slot once its walsender has ended.
func dropSlot(t *testing.T, dsn, slot string) {
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(context.Background())
	eventually(t, "slot "+slot+" is dropped", func() bool {
		_, err := conn.Exec(context.Background(), `select pg_drop_replication_slot($1)`, slot)
		return err == nil
	})
}
