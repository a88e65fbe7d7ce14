package sink_test

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
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
		"# A first configuration: 2 tables of 2 sources.", "# id integer (key), note text\n", `{from: "public.orders", to: "copy.{table}", sid: source} # 2 sources`,
		"# no key: ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	// With the warehouse asked it is the same, and one who has the role of docs/security.md and nothing else finds nothing
	// wrong with it. A target that is there is taken where it is.
	draft := sink.Draft{DSN: "env:WAREHOUSE_DSN", Sources: "tenant_*"}
	if err := draft.Ask(t.Context(), w.cfg, w.dsn, true); err != nil {
		t.Fatal(err)
	}
	role, dsn := w.role(draft.Roles()[sink.RoleWriter])
	w.cfg.Warehouse.DSN = config.Secret(dsn)
	w.exec(`CREATE TABLE public."odd ""name.*" (source text, v text); GRANT ALL ON public."odd ""name.*" TO ` + role)
	if err := draft.Ask(t.Context(), w.cfg, dsn, true); err != nil {
		t.Fatal(err)
	}
	var file, findings strings.Builder
	draft.Write(w.cfg, &file)
	t.Setenv("WAREHOUSE_DSN", dsn)
	var cfg sink.Config
	if err := config.Decode("sink.yaml", []byte(file.String()), &cfg); err != nil {
		t.Fatalf("%v\n%s", err, file.String())
	}
	if err := sink.Check(t.Context(), cfg, terminal.NewCheck("sink", &findings)); err != nil {
		t.Errorf("%v\n%s\n%s", err, file.String(), findings.String())
	}
	for _, part := range []string{
		"the warehouse is PostgreSQL ", `warehouse: {dsn: "env:WAREHOUSE_DSN"} # postgres://`, `- {from: "public.orders", to: "copy.{table}"`,
		"# the target is there, with about 0 rows", `to: "{schema}.{table}"`,
	} {
		if !strings.Contains(file.String(), part) || strings.Contains(file.String(), dsn) {
			t.Errorf("no %q, or the connection string, in:\n%s", part, file.String())
		}
	}
	if draft.Tables() != 2 {
		t.Errorf("%d tables", draft.Tables())
	}
	refused := cfg
	refused.Tables = []rule.Table{{From: "public.orders", To: "public.orders", SID: "source", Create: true}}
	findings.Reset()
	_ = sink.Check(t.Context(), refused, terminal.NewCheck("sink", &findings))
	if want := `GRANT USAGE, CREATE ON SCHEMA "public" TO "` + role + `";`; !strings.Contains(findings.String(), want) {
		t.Errorf("a target in public: no %s in\n%s", want, findings.String())
	}
	cfg.HTTP, cfg.Refresh, cfg.Session = w.cfg.HTTP, w.cfg.Refresh, w.cfg.Session
	w.start(cfg)
	w.complete(a)
	w.complete(b)
	w.rows(`SELECT source, id, note FROM copy.orders ORDER BY 1`, "tenant_a|1|a", "tenant_b|1|b")
	w.rows(`SELECT source, v FROM public."odd ""name.*"`, "tenant_a|x")
	// Of one source the schema is called as that is.
	out.Reset()
	if err := sink.Scaffold(t.Context(), w.cfg, "other", &out); err != nil || !strings.Contains(out.String(), `{from: "public.orders", to: "{source}.{table}"}`) {
		t.Errorf("%v\n%s", err, out.String())
	}
	if err := sink.Scaffold(t.Context(), w.cfg, "nobody", &out); err == nil || !strings.Contains(err.Error(), `no topic of a source "nobody"`) {
		t.Errorf("got %v", err)
	}
}

// role makes the role of docs/security.md, under a name that no other test has, and gives the connection string with which it logs in.
func (w *world) role(sql string) (name, dsn string) {
	w.t.Helper()
	u, err := url.Parse(w.dsn)
	if err != nil {
		w.t.Fatal(err)
	}
	name = "sink_" + strings.TrimPrefix(u.Path, "/")
	w.exec(strings.ReplaceAll(sql, "tributary_sink", name))
	w.t.Cleanup(func() {
		if _, err := w.conn.Exec(context.Background(), "DROP OWNED BY "+name+" CASCADE; DROP ROLE "+name); err != nil {
			w.t.Error(err)
		}
	})
	u.User = url.UserPassword(name, "change me")
	return name, u.String()
}
