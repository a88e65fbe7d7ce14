package sink_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// rules has the world's sinks run with the rules of a file.
func (w *world) rules(lines ...string) {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "sink.yaml")
	text := "warehouse: {dsn: x}\nkafka: {brokers: [\"x:1\"]}\nregistry: {url: http://x}\ntables:\n  - " + strings.Join(lines, "\n  - ") + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	var cfg sink.Config
	if err := config.Load(file, &cfg); err != nil {
		w.t.Fatal(err)
	}
	w.cfg.Tables = cfg.Tables
}

// refused runs a sink that does not start, and gives what it says.
func (w *world) refused() string {
	w.t.Helper()
	s, err := sink.New(w.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), pgtest.Patience)
	defer cancel()
	if err = s.Run(ctx); err == nil {
		w.t.Fatal("the sink starts")
	}
	if trouble.CodeOf(err) != trouble.Config { // exit code 2
		w.t.Errorf("code %s", trouble.CodeOf(err))
	}
	var text bytes.Buffer
	terminal.Print(&text, "sink", err)
	return strings.Join(strings.Fields(text.String()), " ")
}

// TestStartRefuses: the first start with rules that do not fit their tables tells all faults, and writes nothing.
func TestStartRefuses(t *testing.T) {
	w := newWorld(t)
	shop, old := w.source("shop"), w.source("old")
	orders, items, notes := relation("orders", "id integer key", "amount numeric"), relation("items", "id integer key", "b text"), relation("notes", "id integer key")
	shop.tx(ins(orders, 1, "2"), ins(items, 1, "x"), ins(notes, 1))
	old.tx(ins(orders, 1, "2"))
	w.rules(`{from: public.orders, sid: tenant, columns: [id, amont]}`, `{from: public.items, filter: "b > 5"}`, `{from: "public.*", sid: tenant}`)
	got := w.refused()
	for _, want := range []string{
		"error: start with rules that do not fit their tables: 2 faults",
		`tables[0].columns[1] (sink.yaml:5:54): the table has no column "amont" in old.public.orders and shop.public.orders -> mend columns of the rule; there are id, amount`,
		"tables[1].filter (sink.yaml:6:26): at character 3: > does not take string and int; write int(x), double(x) or string(x) to convert one in shop.public.items -> mend the expression",
		"means nothing was read or written",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	w.rows(`SELECT topic FROM tributary.checkpoint`)
	w.rows(`SELECT to_regclass('public.orders'), to_regclass('public.notes')`, "∅|∅")

	w.rules(`{from: public.orders, sid: tenant, columns: [id, amount]}`, `{from: public.items, skip: true}`, `{from: "public.*", sid: tenant}`)
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT tenant, id, amount FROM public.orders ORDER BY 1`, "old|1|2", "shop|1|2")
}

// TestStartRefusesTargets: likewise where a target is not what its rule needs; nothing is done to any, and once they are
// mended the sink starts.
func TestStartRefusesTargets(t *testing.T) {
	w := newWorld(t)
	w.exec(`CREATE TABLE public.wrong (id integer PRIMARY KEY, note integer); CREATE TABLE public.generated (x integer, id integer GENERATED ALWAYS AS (x + 1) STORED);
		CREATE TABLE public.nosid (id integer PRIMARY KEY); CREATE TABLE public.frozen (id integer PRIMARY KEY); CREATE TABLE public.whole (id integer PRIMARY KEY, at date)`)
	shop, two := w.source("shop"), w.source("two")
	wrong := relation("wrong", "id integer key", "note text")
	shop.tx(ins(wrong, 1, "x"), ins(relation("generated", "id integer key"), 1), ins(relation("nosid", "id integer key"), 1), ins(relation("frozen", "id integer key", "note text"), 1, "x"),
		ins(relation("gone", "id integer key"), 1), ins(relation("whole", "id integer key", "at date"), 1, nil), ins(relation("fine", "id integer key"), 1))
	two.tx(ins(wrong, 1, "x"))
	w.rules(`{from: public.wrong, sid: tenant}`, `{from: public.generated}`, `{from: public.nosid, sid: tenant}`, `{from: public.frozen, create: false}`, `{from: public.gone, create: false}`,
		`{from: public.whole, keep: 90 days, by: at, drop: 1 day}`, `{from: "public.*"}`)
	w.exec(`ALTER TABLE public.wrong ADD tenant text`)
	got := w.refused()
	for _, want := range []string{
		"error: start with rules that do not fit their tables: 6 faults",
		`tables[0] (sink.yaml:5:5): write to column "note" of table "public.wrong": `,
		"in shop.public.wrong and two.public.wrong ->",
		`tables[1] (sink.yaml:6:5): write to table "public.generated": key column "id" is generated there in shop.public.generated -> make it an ordinary column, or write to another table`,
		`tables[2] (sink.yaml:7:5): write to table "public.nosid": it has no column "tenant" for the sid in shop.public.nosid -> ALTER TABLE "public"."nosid" ADD COLUMN "tenant" text, fill it, and add it to the key`,
		`tables[3] (sink.yaml:8:5): write to table "public.frozen": it has no column "note" in shop.public.frozen -> ALTER TABLE "public"."frozen" ADD COLUMN IF NOT EXISTS "note" text; or say create: true in the rule`,
		`tables[4] (sink.yaml:9:5): write to table "public.gone": it does not exist, and the rule says create: false`,
		`tables[5] (sink.yaml:10:5): drop old partitions of table "public.whole": it is not partitioned by ranges of column "at" alone`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	w.rows(`SELECT to_regclass('public.fine'), count(*) FROM tributary.feed`, "∅|0")
	w.exec(`DROP TABLE public.wrong, public.generated, public.nosid; ALTER TABLE public.frozen ADD note text; CREATE TABLE public.gone (id integer PRIMARY KEY)`)
	w.rules(`{from: public.wrong, sid: tenant}`, `{from: public.generated}`, `{from: public.nosid, sid: tenant}`, `{from: public.frozen, create: false}`, `{from: public.gone, create: false}`,
		`{from: public.whole, keep: 90 days, by: at}`, `{from: "public.*"}`)
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT count(*) FROM public.frozen, public.gone, public.fine, public.nosid`, "1")
}

// TestRestartIsNotRefused: what changes at a source, or comes new, keeps no pipeline down that ran; a new rule is looked at.
func TestRestartIsNotRefused(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	orders, items := relation("orders", "id integer key", "note text"), relation("items", "id integer key")
	shop.tx(ins(orders, 1, "x"), ins(items, 1))
	proven := []string{`{from: public.orders, sid: tenant, columns: [id, note]}`, `{from: public.items, sid: tenant}`}
	w.rules(proven...)
	s := w.start(w.cfg)
	w.complete(shop)
	s.stop()

	// A column of the rule is gone; and a tenant comes that never had it, with a table for which a rule has waited.
	shop.tx(ins(relation("orders", "id integer key"), 2), ins(items, 2))
	late := w.source("late")
	late.tx(ins(relation("orders", "id integer key"), 1), ins(items, 1), ins(relation("audit", "id integer key"), 1))
	w.rules(append(proven, `{from: public.audit, sid: tenant, columns: [id, who]}`)...)
	s = w.start(w.cfg)
	w.rows(`SELECT tenant, id FROM public.items ORDER BY 1, 2`, "late|1", "shop|1", "shop|2")
	w.rows(`SELECT topic, code FROM tributary.quarantine ORDER BY 1`, "late.public.audit|rule-conflict", "late.public.orders|rule-conflict", "shop.public.orders|rule-conflict")
	s.stop()

	// A rule that is new to a source that is read.
	shop.tx(ins(relation("log", "id integer key"), 1))
	w.rules(append(proven, `{from: public.log, columns: [id, line]}`)...)
	if got := w.refused(); !strings.Contains(got, `1 fault cause tables[2].columns[1] (sink.yaml:7:38): the table has no column "line" in shop.public.log`) {
		t.Errorf("got:\n%s", got)
	}
}

// TestStartWithoutRegistry: where registry or broker is away, a start waits for them; a table that its rule does not fit is
// then held at its first record.
func TestStartWithoutRegistry(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.orders", Columns: []rule.Column{{From: "id"}, {From: "amont"}}})
	shop := w.source("shop")
	shop.tx(ins(relation("orders", "id integer key", "amount numeric"), 1, "2"))
	var back atomic.Bool
	away := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !back.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		http.Redirect(rw, r, w.registry+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(away.Close)
	w.cfg.Registry.URL = away.URL
	s := w.start(w.cfg)
	waits := func(what string) func() any {
		return func() any {
			for _, wait := range s.Status().Waiting {
				if wait.For == what {
					return true
				}
			}
			return false
		}
	}
	w.eventually(true, waits("registry"))
	back.Store(true)
	w.rows(`SELECT topic, code FROM tributary.quarantine`, "shop.public.orders|rule-conflict")
	s.stop()

	w.cfg.Kafka.Brokers, w.cfg.Group = []string{"127.0.0.1:1"}, "without_broker"
	s = w.start(w.cfg)
	w.eventually(true, waits("kafka"))
}
