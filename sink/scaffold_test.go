package sink_test

import (
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink"
)

// TestScaffold: what it writes is a configuration that is taken, by which everything is written.
func TestScaffold(t *testing.T) {
	w := newWorld(t)
	a, b := w.source("tenant_a"), w.source("tenant_b")
	orders, odd := relation("orders", "id integer key", "note text"), relation(`odd "name.*`, "v text")
	a.tx(ins(orders, 1, "a"), ins(odd, "x"))
	b.tx(ins(orders, 1, "b"))
	w.source("other").tx(ins(orders, 1, "other"))
	var out strings.Builder
	if err := sink.Scaffold(t.Context(), w.cfg, "tenant_*", &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# A first configuration: 2 tables of 2 sources.", "# id integer (key), note text\n", `{from: "public.orders", to: "{schema}.{table}", sid: source} # 2 sources`,
		"# no key: ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	// With the warehouse asked it is the same, and check finds nothing wrong with it.
	draft := sink.Draft{DSN: "env:WAREHOUSE_DSN", Sources: "tenant_*"}
	if err := draft.Ask(t.Context(), w.cfg, w.dsn, true); err != nil {
		t.Fatal(err)
	}
	var file, findings strings.Builder
	draft.Write(w.cfg, &file)
	t.Setenv("WAREHOUSE_DSN", w.dsn)
	var drafted sink.Config
	if err := config.Decode("sink.yaml", []byte(file.String()), &drafted); err != nil {
		t.Fatalf("%v\n%s", err, file.String())
	}
	if err := sink.Check(t.Context(), drafted, terminal.NewCheck("sink", &findings)); err != nil {
		t.Errorf("%v\n%s\n%s", err, file.String(), findings.String())
	}
	for _, part := range []string{"the warehouse is PostgreSQL ", `warehouse: {dsn: "env:WAREHOUSE_DSN"} # postgres://`, `- {from: "public.orders"`} {
		if !strings.Contains(file.String(), part) || strings.Contains(file.String(), w.dsn) {
			t.Errorf("no %q, or the connection string, in:\n%s", part, file.String())
		}
	}
	if sql := draft.Roles()[sink.RoleWriter]; draft.Tables() != 2 || !strings.Contains(sql, "GRANT CONNECT, CREATE, TEMPORARY ON DATABASE ") {
		t.Errorf("%d tables, %s", draft.Tables(), sql)
	}
	var cfg sink.Config
	if err := config.Decode("sink.yaml", []byte(out.String()), &cfg); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	cfg.HTTP, cfg.Refresh, cfg.Session = w.cfg.HTTP, w.cfg.Refresh, w.cfg.Session
	w.start(cfg)
	w.complete(a)
	w.complete(b)
	w.rows(`SELECT source, id, note FROM public.orders ORDER BY 1`, "tenant_a|1|a", "tenant_b|1|b")
	w.rows(`SELECT source, v FROM public."odd ""name.*"`, "tenant_a|x")
	if err := sink.Scaffold(t.Context(), w.cfg, "nobody", &out); err == nil || !strings.Contains(err.Error(), `no topic of a source "nobody"`) {
		t.Errorf("got %v", err)
	}
}
