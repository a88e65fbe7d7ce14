package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// hostile are names that want quoting, of which none may be taken for another: with dots, quotes, dollars, line breaks, in
// mixed case, reserved, of other scripts, as long as can be, like an escape of ours.
var hostile = []string{
	"a.b", "a", "A", "a_b", `qu"ote`, `'`, "$", "$1", "select", "user", "Ünï", "ünï", "中文", "line\nfeed", "tab\t", `back\slash`, "%s", "{table}", "*", "a b", " ", "_x2E_", "a_x2E_b", "xmin_", "-", "a/b", "{source}",
	"é" + strings.Repeat("X", 61), // 63 bytes
}

// TestNames takes hostile names of a database, a source, schemas, tables, columns and types from end to end.
func TestNames(t *testing.T) {
	kafka := kafkatest.Fake(t)
	registry := kafkatest.Registry(t)
	cluster, warehouses := pgtest.New(t, pgtest.Options{}), pgtest.Shared(t, 0)
	database := fmt.Sprintf("Da\"ta.b$se 'ü' %% {0} %s", strings.Repeat("x", 20))
	must(t, cluster.CreateDatabase(t.Context(), database))
	s := newSource(t, "plain", cluster.DSN(database), kafka, registry)
	s.name = `Sh.op-1 $Ä "q"`
	s.config.Source.Name, s.config.Source.Tables = s.name, []string{"*.*"}
	warehouse, wide := pgtest.Database(t, warehouses), pgtest.Database(t, warehouses)
	dwh, other := connect(t, warehouse), connect(t, wide)

	// Every name is a schema's, a table's, a column's, the key's among them; and "a"."b.c" is not "a.b"."c".
	type table struct{ schema, name string }
	var tables []table
	for _, name := range hostile {
		tables = append(tables, table{name, name}, table{"public", name})
	}
	tables = append(tables, table{"a", "b.c"}, table{"a.b", "c"}, table{"A", "B"}, table{"a", "B"})
	schemas := map[string]bool{"public": true}
	var columns []string
	for _, name := range hostile {
		columns = append(columns, postgres.Ident(name)+" text")
	}
	exec(t, s.conn, `create type "My Mood.x" as enum ('so "so"', 'Ü')`)
	for i, one := range tables {
		if !schemas[one.schema] {
			schemas[one.schema] = true
			exec(t, s.conn, `create schema `+postgres.Ident(one.schema))
		}
		exec(t, s.conn, fmt.Sprintf(`create table %s (%s, m "My Mood.x", primary key (%s))`, postgres.Ident(one.schema, one.name), strings.Join(columns, ", "), postgres.Ident(hostile[i%len(hostile)])))
		exec(t, s.conn, fmt.Sprintf(`insert into %s (%s, %s) values ($1, 'one'), ($1 || '2', 'two')`, postgres.Ident(one.schema, one.name), postgres.Ident(hostile[i%len(hostile)]), postgres.Ident(hostile[(i+1)%len(hostile)])), fmt.Sprint(one))
	}
	s.startCapture(t)
	startGroup(t, kafka, registry, warehouse, "same", `{from: "*.*", to: "{schema}.{table}"}`)
	startGroup(t, kafka, registry, wide, "wide", `{from: "public.*", to: "{source}.{table}", source: "Sh.op*", sid: "si.d"}, {from: "*.*", skip: true}`)
	fence(t, dwh, "same", []*source{s}, "read")
	for i, one := range tables {
		key, value := postgres.Ident(hostile[i%len(hostile)]), postgres.Ident(hostile[(i+1)%len(hostile)])
		for _, sql := range []string{
			`insert into %[1]s (%[2]s, %[3]s, m) values ('three', 'x', 'so "so"')`, `update %[1]s set %[3]s = 'changed' where %[3]s = 'two'`, `delete from %[1]s where %[3]s = 'one'`,
			`update %[1]s set %[2]s = 'moved' where %[2]s = 'three'`,
		} {
			exec(t, s.conn, fmt.Sprintf(sql, postgres.Ident(one.schema, one.name), key, value))
		}
	}
	exec(t, s.conn, `alter table public."select" rename "user" to "User ""2"""`)
	exec(t, s.conn, `alter table public."select" add "new $1" int default 7`)
	exec(t, s.conn, `insert into public."select" ("User ""2""", `+postgres.Ident(hostile[(1+2*8)%len(hostile)])+`) values ('renamed', 'k')`)
	for group, conn := range map[string]*pgx.Conn{"same": dwh, "wide": other} {
		fence(t, conn, group, []*source{s}, "changed "+group)
		for _, held := range textsOf(t, conn, `select table_name || ': ' || message from tributary.quarantine`) {
			t.Errorf("quarantined: %s", held)
		}
	}
	for _, one := range tables {
		columns := textsOf(t, s.conn, fmt.Sprintf(`select quote_ident(attname) from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum`,
			postgres.Literal(postgres.Ident(one.schema, one.name))))
		sql := "select r from (select concat_ws(' | ', " + strings.ReplaceAll(strings.Join(columns, ", "), "%", "%%") + `) as r from %s) p order by r collate "C"`
		want := texts(t, s.dsn, fmt.Sprintf(sql, postgres.Ident(one.schema, one.name)))
		differ(t, fmt.Sprintf("%q", one), want, textsOf(t, dwh, fmt.Sprintf(sql, postgres.Ident(one.schema, one.name))))
		if one.schema == "public" {
			differ(t, fmt.Sprintf("%q of the source's schema", one), want, textsOf(t, other, fmt.Sprintf(sql, postgres.Ident(s.name, one.name))))
		}
	}
	if got := textsOf(t, other, `select distinct "si.d" from `+postgres.Ident(s.name, "select")); len(got) != 1 || got[0] != s.name {
		t.Errorf("the sid is %q", got)
	}
}
