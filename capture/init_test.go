package capture

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

// TestDraft: what init writes is a configuration that is taken, with which every table is found, whatever its name, and
// that check finds nothing wrong with.
func TestDraft(t *testing.T) {
	hostile := [][2]string{
		{"public", `"; DROP TABLE item; --`},
		{"public", "new\nline: [x]"},
		{`!we.ird*[a-z]? "x\`, "t"},
		{"# no: comment", "ünï 'code' {{ x }}"},
		{"public", "esc\x1b[31m"},
	}
	var ddl strings.Builder
	ddl.WriteString(tables + "create unlogged table basket (id int primary key, mail text); create table customer (id int primary key, mail text, \"password\n2\" text);")
	for _, name := range hostile {
		if name[0] != "public" {
			fmt.Fprintf(&ddl, "create schema %s;", postgres.Ident(name[0]))
		}
		fmt.Fprintf(&ddl, "create table %s (id int primary key);", postgres.Ident(name[0], name[1]))
	}
	ddl.WriteString("insert into item select i, 'a' from generate_series(1, 3000) i; analyze item")
	r := newRig(t, 0, kafkatest.Fake(t), ddl.String())
	d := Draft{Name: r.config.Source.Name, DSN: "env:SOURCE_DSN", Brokers: r.config.Kafka.Brokers, Registry: r.config.Registry.URL}
	must(t, d.Ask(t.Context(), r.dsn))
	var file strings.Builder
	d.Write(&file)
	for _, part := range []string{
		", at least 3,000 rows.", "~3,000  public.item  key (id)\n", "not analyzed  public.bag\n", "only INSERT and TRUNCATE arrive: ", `-> ALTER TABLE "public"."bag" REPLICA IDENTITY FULL;`,
		`-> ALTER TABLE "public"."nothing" REPLICA IDENTITY DEFAULT;`,
		"public.part  key (id, at), 2 partitions\n", "#   public.basket: ", `public.new\nline: [x]  key (id)`, `public.esc\x1b[31m`,
		`#  - {table: "public.customer", mask: [{column: "mail", as: hash}]}`, `column: "password\n2"`, `dsn: "env:SOURCE_DSN" # postgres://`,
	} {
		if !strings.Contains(file.String(), part) {
			t.Errorf("no %q in:\n%s", part, file.String())
		}
	}
	for _, bad := range []string{r.dsn, "\x1b"} {
		if strings.Contains(file.String(), bad) {
			t.Errorf("%q is in:\n%s", bad, file.String())
		}
	}
	t.Setenv("SOURCE_DSN", r.dsn)
	for name, text := range map[string]string{
		"as it is": file.String(), "with its suggestions": strings.NewReplacer("\n#columns:", "\nsalt: s\ncolumns:", "\n#  - {", "\n  - {").Replace(file.String()),
	} {
		var cfg Config
		if err := config.Decode("capture.yaml", []byte(text), &cfg); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		patterns, err := catalog.ParsePatterns(cfg.Source.Tables)
		must(t, err)
		for _, table := range hostile {
			if !patterns.Match(table[0], table[1]) {
				t.Errorf("%s: %q is not chosen by %q", name, table, cfg.Source.Tables)
			}
		}
		c, err := New(cfg, Options{}, r.verbs().log)
		must(t, err)
		var out strings.Builder
		if err := c.Check(t.Context(), terminal.NewCheck("capture", &out)); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
	}

	// The SQL for roles is run by TestRolesOfSecurityPage; here it is with any names.
	roles := d.Roles()
	for _, name := range hostile {
		if name[0] != "public" && !strings.Contains(roles[RoleReader], "GRANT USAGE ON SCHEMA "+postgres.Ident(name[0])+" ") {
			t.Errorf("schema %q is missing in:\n%s", name[0], roles[RoleReader])
		}
	}
	if !strings.Contains(roles[RoleMember], "GRANT CONNECT, CREATE ON DATABASE ") || !strings.Contains(roles[RoleMember], "-- Tables belong to superusers (") {
		t.Errorf("the role that keeps its publications:\n%s", roles[RoleMember])
	}
	tx, err := r.conn.Begin(t.Context())
	must(t, err)
	defer tx.Rollback(t.Context()) //nolint:errcheck // it was only tried
	if _, err := tx.Exec(t.Context(), roles[RoleReader]); err != nil {
		t.Errorf("%v in:\n%s", err, roles[RoleReader])
	}
}
