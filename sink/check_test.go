package sink_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

func TestCheck(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", To: "sales.t"}, rule.Table{From: "public.bad"})
	shop, two := w.source("shop"), w.source("two")
	shop.tx(ins(relation("t", "id integer key", "note text"), 1, "x"), ins(relation("bad", "id integer key", "note text"), 1, "x"), ins(relation("odd", "id integer key"), 1))
	sql := false
	check := func() (int, string) {
		t.Helper()
		var b strings.Builder
		told := terminal.NewCheck("sink", &b)
		told.SQL = sql
		if err := sink.Check(t.Context(), w.cfg, told); (err == nil) != told.Found().Ready {
			t.Fatal(err)
		}
		return told.Found().Failures, b.String()
	}
	want := func(failures int, lines ...string) {
		t.Helper()
		got, text := check()
		if got != failures {
			t.Errorf("%d failures, want %d", got, failures)
		}
		for _, line := range lines {
			if !strings.Contains(text, line) {
				t.Errorf("no %q in:\n%s", line, text)
			}
		}
	}
	want(0, "ok    version        PostgreSQL", fmt.Sprintf("will be created with version %d", warehouse.Version), "unmatched      1 topic matches no rule: shop.public.odd",
		"note  target         sales.t will be made\n", "note  target         public.bad will be made\n",
		"note  targets        the sink does so itself, before it writes to them\n", "-> sink check --sql", "Nothing was changed.")
	if _, text := check(); strings.Contains(text, "CREATE TABLE") {
		t.Errorf("statements nobody has asked for:\n%s", text)
	}
	sql = true
	want(0, "note  target         sales.t will be made\n        CREATE TABLE IF NOT EXISTS \"sales\".\"t\" (\"id\" integer")
	w.rows(`SELECT to_regnamespace('tributary'), to_regnamespace('sales')`, "∅|∅")
	w.exec(`CREATE TABLE public.bad (id integer, note integer)`)
	want(1, `FAIL  target         write to column "note" of table "public.bad"`)
	w.exec(`ALTER TABLE public.bad ALTER note TYPE text`)
	want(0, `CREATE UNIQUE INDEX CONCURRENTLY ON "public"."bad" ("id");`, "ok    targets        1 target as the rules want it\n")
	w.exec(`CREATE SCHEMA sales; CREATE TABLE sales.t (id integer PRIMARY KEY, note text);
		ALTER TABLE public.bad ADD CONSTRAINT of_t FOREIGN KEY (id) REFERENCES sales.t ON DELETE CASCADE`)
	want(2, "constraint of_t of table public.bad, FOREIGN KEY (id) REFERENCES sales.t(id) ON DELETE CASCADE", "ALTER TABLE public.bad DROP CONSTRAINT of_t;")
	w.exec(`ALTER TABLE public.bad DROP CONSTRAINT of_t; DROP SCHEMA sales CASCADE`)
	two.tx(ins(relation("t", "id integer key", "note text"), 1, "x"))
	want(1, "FAIL  sid            shop.public.t and two.public.t write sales.t")
	tables := w.cfg.Tables
	w.cfg.Tables = []rule.Table{{Source: "shop", From: "public.t", To: "sales.t", SID: "tenant", Create: true}, {From: "public.t", To: "sales.t", Create: true}, {From: "public.nothing", To: "sales.n"}}
	want(1, "FAIL  sid            sales.t is written with a sid by one rule and without by another", "warn  tables[2]      public.nothing: no topic", "docs/runbooks/no-topics.md")
	w.cfg.Tables = []rule.Table{{From: "public.odf", To: "sales.odd"}}
	if _, text := check(); !strings.Contains(text, "public.odf: no topic; did you mean public.odd?") || strings.Contains(text, "kafka-acls") {
		t.Errorf("of a rule that no topic matches, where there are others:\n%s", text)
	}
	w.cfg.Sources = []rule.Source{{Name: "shop"}}
	if _, text := check(); !strings.Contains(text, "note  unmatched      1 topic is of no source that sources names: two.public.t\n") || !strings.Contains(text, "warn  unmatched      ") || strings.Count(text, "two.public.t") != 1 {
		t.Errorf("of topics of a source that is not named:\n%s", text)
	}
	w.cfg.Sources = nil
	// Twenty tenants, of which three differ, and an index that retention wants.
	for i := range 4 {
		w.source(fmt.Sprintf("tenant_%d", i)).tx(ins(relation("orders", "id integer key", "note text", "channel text"), 1, "x", "y"))
	}
	for _, name := range []string{"tenant_older", "tenant_old"} {
		w.source(name).tx(ins(relation("orders", "id integer key", "note integer"), 1, 1))
	}
	w.source("tenant_new").tx(ins(relation("orders", "id integer key", "note text", "channel text", "extra date"), 1, "x", "y", nil))
	w.cfg.Tables = []rule.Table{{From: "public.orders", To: "sales.orders", SID: "tenant", Create: true, Keep: "90 days", By: "extra"}}
	want(0, "ok    sid            sales.orders is written by 7 sources, each with a sid of its own", "warn  drift          sales.orders: 3 of 7 sources differ",
		"-> tenant_new has extra besides\n", "-> tenant_old and tenant_older lack channel; have note integer instead of text\n",
		`CREATE INDEX CONCURRENTLY ON "sales"."orders" ("extra");`, "docs/runbooks/missing-index.md")
	// Partitions that are dropped, or made, of what is not partitioned so; and made of what will be created.
	w.exec(`CREATE TABLE public.bad2 (id integer, extra date)`)
	w.cfg.Tables[0] = rule.Table{Source: "tenant_new", From: "public.orders", To: "public.bad2", Create: true, Keep: "90 days", By: "extra", Drop: "1 day"}
	want(1, `FAIL  retention      drop old partitions of table "public.bad2": it is not partitioned by ranges of column "extra" alone`, "-> leave drop out of the rule: then rows are removed one by one; or make")
	w.cfg.Tables[0].Drop, w.cfg.Tables[0].Partition = "", "month"
	want(1, `FAIL  retention      make partitions of table "public.bad2": it is not partitioned by ranges of column "extra" alone`, `-> make it anew with PARTITION BY RANGE ("extra")`)
	w.cfg.Tables[0].To = "sales.{table}"
	made := months("sales.orders", time.Now(), 90)
	want(0, `"extra" date) PARTITION BY RANGE ("extra")`, `note  target         sales.orders will be made, and get `+fmt.Sprint(len(made))+` partitions, `+made[0]+" to "+made[len(made)-1],
		`CREATE INDEX ON "sales"."orders" ("extra");`)
	w.cfg.Tables[0].Drop = "1 day" // whole partitions go, without a look for old rows
	if _, text := check(); !strings.Contains(text, "and get "+fmt.Sprint(len(made))+" partitions") || strings.Contains(text, "by which old rows are found") {
		t.Errorf("of partitions that are dropped whole:\n%s", text)
	}
	w.cfg.Tables = tables
	w.cfg.Registry.URL = "http://127.0.0.1:1"
	want(3, "reach http://127.0.0.1:1")
	w.cfg.Warehouse.DSN = "postgres://nobody:secret@127.0.0.1:1/x"
	_, text := check()
	if !strings.Contains(text, "FAIL  connection     connect to warehouse postgres://nobody@127.0.0.1:1/x") || strings.Contains(text, "secret") {
		t.Errorf("got:\n%s", text)
	}
}

// TestCheckRules: what check says of rules that do not fit their tables, and of those that will fail on some rows.
func TestCheckRules(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.column", Columns: []rule.Column{{From: "id"}, {From: "amont"}}}, rule.Table{From: "public.type", Filter: "note > 5"},
		rule.Table{From: "public.large", Filter: "note.startsWith('a') || note == null"}, rule.Table{From: "public.null", Filter: "amount > 5"},
		rule.Table{From: "public.good", Filter: "note != null && note == 'x'"})
	shop := w.source("shop")
	full := relation("good", "id integer key", "note text")
	full.Identity = schema.IdentityFull
	shop.tx(ins(relation("column", "id integer key", "amount numeric"), 1, 1), ins(relation("type", "id integer key", "note text"), 1, "x"),
		ins(relation("large", "id integer key", "note text"), 1, "x"), ins(relation("null", "id integer key", "amount integer"), 1, 1), ins(full, 1, "x"))
	shop.topic("shop.public.good2", 1)
	w.cfg.Tables = append(w.cfg.Tables, rule.Table{From: "public.good2", Create: true})
	var b strings.Builder
	told := terminal.NewCheck("sink", &b)
	if err := sink.Check(t.Context(), w.cfg, told); err == nil || told.Found().Ready {
		t.Error("it is ready")
	}
	text := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		`FAIL rule apply rule tables[0].columns[1] to table "public.column" of source "shop": the table has no column "amont" -> mend columns of the rule; there are id, amount`,
		`FAIL rule apply rule tables[1].filter to table "public.type" of source "shop": at character 6: > does not take string and int; write int(x), double(x) or string(x) to convert one -> mend the expression`,
		`warn rule "note.startsWith('a') || note == null" reads note, which an UPDATE does not send if it is large and not touched: then the rule has no result; ALTER TABLE public.large REPLICA IDENTITY FULL; at the source avoids it`,
		`warn rule "amount > 5" reads amount, which may be null: then the rule may have no result; write amount != null && …`,
		"ok schemas the rules fit 3 of 6 tables",
		"warn schemas the registry knows no schema of 1 topic: shop.public.good2 ->",
		"2 failures, 3 warnings,",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
	if failures := told.Found().Failures; failures != 2 {
		t.Errorf("%d failures", failures)
	}
}

func TestConfig(t *testing.T) {
	config.CheckStruct(t, sink.Config{})
	load := func(text string) (sink.Config, error) {
		file := filepath.Join(t.TempDir(), "sink.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var cfg sink.Config
		return cfg, config.Load(file, &cfg)
	}
	cfg, err := load(`
group: warehouse
warehouse: {dsn: "postgres://sink@dwh/dwh", connections: 4}
kafka: {brokers: [localhost:9092]}
registry: {url: http://localhost:8081}
batch: {rows: 100000, bytes: 64MiB, age: 1s}
sources: [{name: "tenant_*"}, {name: shop_eu, sid: eu}]
tables:
  - {from: public.orders, to: sales.orders, sid: tenant, ignore: [delete, truncate]}
  - {from: public.customer, to: crm.customer, mode: append, columns: [id, mail as email, {from: name}, {from: street, as: address}]}
  - {from: "public.*", to: "{source}.{table}"}
`)
	if err != nil {
		t.Fatal(err)
	}
	columns := []rule.Column{{From: "id", As: "id"}, {From: "mail", As: "email"}, {From: "name"}, {From: "street", As: "address"}}
	if !cfg.Tables[2].Create || !slices.Equal(cfg.Tables[1].Columns, columns) || cfg.HTTP.Listen != "127.0.0.1:9192" {
		t.Errorf("got %+v", cfg)
	}
	defaults := sink.Default()
	cfg, err = load("warehouse: {dsn: x}\nkafka: {brokers: [\"localhost:1\"]}\nregistry: {url: http://x}\ntables: [{from: \"*.*\"}]\n")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Warehouse.DSN, cfg.Kafka.Brokers, cfg.Registry.URL, cfg.Tables = "", nil, "", nil
	cfg.Sources = nil
	cfg.HTTP.Hosts = nil
	if fmt.Sprintf("%+v", cfg) != fmt.Sprintf("%+v", defaults) {
		t.Errorf("Default differs from the defaults of the tags:\n%+v\n%+v", defaults, cfg)
	}
	_, err = load(`
warehouse: {dsn: x, connections: 0}
kafka: {brokers: [localhost]}
registry: {url: http://x}
tables:
  - {from: public.a, mode: history, mod: 1}
  - {from: nodot, to: "{shema}.x"}
  - {from: a.b, ignore: [drop]}
  - {from: "a.b", sid: id, columns: [id, other as id]}
  - {from: "a.b", columns: [{from: x, ass: y}, {as: y}, [z]]}
`)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`did you mean "mode"`, "not schema.table", "not one of insert", "unknown name in braces", "name of the sid column", "between 1 and",
		"tables[4].columns[0].ass", "tables[4].columns[1].from", "tables[4].columns[2]", "must be one value",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}
