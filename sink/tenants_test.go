package sink_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// tenants plays n captures, tenant_1 to tenant_n, over one connection. Their progress is not written.
func (w *world) tenants(n int) []*source {
	w.t.Helper()
	first := w.source("tenant_1")
	first.quiet = true
	out := []*source{first}
	for i := 2; i <= n; i++ {
		s := *first
		s.name = fmt.Sprintf("tenant_%d", i)
		s.vector, s.counts, s.encoder = map[string][]int64{}, map[string]int32{}, map[*schema.Relation]*record.Encoder{}
		out = append(out, &s)
	}
	return out
}

// TestTwoHundredTenants: one table of 200 sources in one target, told apart by an integer. The sink has no more
// connections for it, and is not slow.
func TestTwoHundredTenants(t *testing.T) {
	const n, rows = 200, 40
	w := newWorld(t, rule.Table{Source: "tenant_*", From: "public.orders", To: "sales.orders", SID: "tenant", SIDType: "integer"})
	w.cfg.Sources = []rule.Source{{Name: "tenant_*", SID: "{*}"}}
	orders := relation("orders", "id integer key", "note text")
	all := w.tenants(n)
	for _, s := range all {
		s.tx(many(rows, func(i int) event { return ins(orders, i, "first") })...)
	}
	begin := time.Now()
	w.start(w.cfg)
	w.rows(`SELECT count(*), count(DISTINCT tenant) FROM sales.orders`, fmt.Sprintf("%d|%d", n*rows, n))
	first := time.Since(begin)
	w.rows(`SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'sales.orders'::regclass AND attname = 'tenant'`, "integer")
	for _, s := range all {
		s.tx(upd(orders, 7, "second"), del(orders, 8))
	}
	begin = time.Now()
	w.rows(`SELECT count(*), count(*) FILTER (WHERE note = 'second'), count(*) FILTER (WHERE id = 8) FROM sales.orders`, fmt.Sprintf("%d|%d|0", n*(rows-1), n))
	if got := w.query(`SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tributary sink%' AND datname = current_database()`)[0]; len(got) > 1 {
		t.Errorf("%s connections of one sink", got)
	}
	t.Logf("%d tables: start and %d rows in %s, then two changes of each in %s", n, n*rows, first.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	if took := time.Since(begin); took > max(2*first, 10*time.Second) {
		t.Errorf("400 changes took %s", took)
	}
}

// TestSIDOfASourceChanges: rows are written with the new sid from then on, also once the source renames a column or gets another key; those of before stay
// as they are, and what removes them is told.
func TestSIDOfASourceChanges(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", SID: "tenant"})
	shop := w.source("shop")
	s := w.start(w.cfg)
	shop.tx(ins(relation("t", "id integer key", "v text"), 1, "x"))
	w.complete(shop)
	s.stop()
	w.cfg.Sources = []rule.Source{{Name: "shop", SID: "s2"}}
	s = w.start(w.cfg)
	shop.tx(ins(relation("t", "id integer key", "v text"), 2, "x"))
	w.complete(shop)
	shop.tx(ins(relation("t", "id integer key", "w text"), 3, "x"))
	w.complete(shop)
	w.rows(`SELECT tenant, id, w FROM public.t ORDER BY id`, "shop|1|x", "s2|2|x", "s2|3|x")
	w.rows(`SELECT sid, shape->'columns'->'2'->>'source' FROM tributary.feed ORDER BY sid`, "s2|w", "shop|v")
	shop.tx(ins(relation("t", "id integer key", "w text key"), 3, "y"))
	w.complete(shop)
	w.rows(`SELECT tenant, id, w FROM public.t ORDER BY id, w`, "shop|1|x", "s2|2|x", "s2|3|x", "s2|3|y")
	w.reported([]string{"capture snapshot --wait --table public.t", `DELETE FROM "public"."t" WHERE "tenant" = 'shop';`, "sink rules accept shop/public.t"},
		func() any { return steps(s.Status()) }, shop)
	if got := outdated(s.Status(), trouble.RowsOutdated); !strings.Contains(got, `their sid is "shop", and now "s2"`) {
		t.Error(got)
	}
	// Of rows that are another source's by now, it is not.
	other := w.source("other")
	w.cfg.Sources = append(w.cfg.Sources, rule.Source{Name: "other", SID: "shop"})
	w.exec(`DELETE FROM tributary.feed WHERE sid = 'shop'`)
	s.stop()
	s = w.start(w.cfg)
	other.tx(ins(relation("t", "id integer key", "w text key"), 9, "z"))
	w.complete(other)
	w.reported([]string{"capture snapshot --wait --table public.t", "sink rules accept shop/public.t"}, func() any { return steps(s.Status()) }, shop, other)
}

// TestTenantVerbsOfAnotherSID: a rebuild leaves the rows alone that a source wrote with the sid that it had before, and a removal removes them, of a target with
// a key and of one without.
func TestTenantVerbsOfAnotherSID(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	r, log := relation("t", "id integer key", "v text"), relation("log", "v text")
	a, b := w.source("a"), w.source("b")
	s := w.start(w.cfg)
	a.snapshot(r, true)
	a.snapshot(log, true)
	for _, src := range []*source{a, b} {
		src.tx(ins(r, 1, "x"), ins(log, "x"))
		w.complete(src)
	}
	s.stop()
	w.cfg.Sources = []rule.Source{{Name: "a", SID: "a2"}, {Name: "b"}}
	w.start(w.cfg)
	a.tx(ins(r, 2, "y"), ins(log, "y"))
	w.complete(a)
	const all = `SELECT tenant, id::text, v FROM public.t UNION ALL SELECT tenant, 'log', v FROM public.log ORDER BY 1, 2, 3`
	w.rows(all, "a|1|x", "a|log|x", "a2|2|y", "a2|log|y", "b|1|x", "b|log|x")
	w.exec(`UPDATE public.t SET v = 'spoilt'; INSERT INTO public.log VALUES ('a2', 'spoilt')`)
	o := w.operator()
	if err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "a"), "", untold); err != nil {
		t.Fatal(err)
	}
	w.rows(all, "a|1|spoilt", "a|log|x", "a2|1|x", "a2|2|y", "a2|log|x", "a2|log|y", "b|1|spoilt", "b|log|x")
	w.swept()
	if n, err := o.RemoveTenant(t.Context(), w.tenantPlan(o, "a"), "", untold); n != 6 || err != nil {
		t.Errorf("%d rows are removed: %v", n, err)
	}
	w.rows(all, "b|1|spoilt", "b|log|x")
	w.rows(`SELECT topic FROM tributary.feed ORDER BY 1`, "b.public.log", "b.public.t")
}

// TestSIDTypes: the column is of the rule's type where the target is created, and of its own where it is there; a
// source whose sid is not of it is refused, and the others go on.
func TestSIDTypes(t *testing.T) {
	t.Parallel() // it waits most of its time
	const one, two = "0b51cbd6-93d5-4b8e-8f0b-6f2f0a2f1c11", "0b51cbd6-93d5-4b8e-8f0b-6f2f0a2f1c12"
	for _, typ := range []string{"smallint", "integer", "bigint", "uuid", "text", "citext"} {
		for _, exists := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s exists %v", typ, exists), func(t *testing.T) {
				r := rule.Table{From: "public.t", SID: "tenant", SIDType: typ}
				w := newWorld(t, r)
				if exists || typ == "citext" {
					w.cfg.Tables[0].SIDType = "text"
					if typ == "citext" {
						w.exec(`CREATE EXTENSION citext`)
					}
					w.exec(fmt.Sprintf(`CREATE TABLE public.t (tenant %s, id integer, v text, PRIMARY KEY (tenant, id))`, typ))
				}
				sids := []string{"1", "2"}
				if typ == "uuid" {
					sids = []string{one, two}
				}
				w.cfg.Sources = []rule.Source{{Name: "a", SID: sids[0]}, {Name: "b", SID: sids[1]}, {Name: "c", SID: "01x"}}
				rel := relation("t", "id integer key", "v text")
				a, b, c := w.source("a"), w.source("b"), w.source("c")
				a.tx(ins(rel, 1, "a"), ins(rel, 2, "a"))
				b.tx(ins(rel, 1, "b"), ins(rel, 2, "b"))
				w.start(w.cfg)
				w.complete(a)
				w.complete(b)
				c.tx(ins(rel, 1, "c")) // a tenant more: at the first start it would be refused
				a.tx(append(move(rel, []any{1}, 3, keep), trunc(rel), ins(rel, 9, "a9"))...)
				b.tx(append(move(rel, []any{1}, 3, keep), upd(rel, 2, "b2"))...)
				w.complete(a)
				w.complete(b)
				w.rows(`SELECT tenant, id, v FROM public.t WHERE v <> 'c' ORDER BY tenant, id`, sids[0]+"|9|a9", sids[1]+"|2|b2", sids[1]+"|3|b")
				if strings.HasSuffix(typ, "text") {
					w.complete(c)
					return
				}
				w.rows(`SELECT source, message LIKE '%the sid "01x" is not%', hint LIKE '%sources: [{name: "c", sid: "%' FROM tributary.quarantine`, "c|t|t")
			})
		}
	}
}

// tenantPlan looks a tenant up, as a verb does.
func (w *world) tenantPlan(o *sink.Operator, name string) *sink.TenantPlan {
	w.t.Helper()
	p, err := o.Tenant(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func untold(string, int64) {}

// TestTenantsDoNotDisturbEachOther: an older application's table lacks a column, one tenant is down from the beginning,
// one comes late, one has a table that cannot be written, one stops in the middle.
func TestTenantsDoNotDisturbEachOther(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.orders", To: "sales.orders", SID: "tenant"})
	w.cfg.Sources = []rule.Source{{Name: "tenant_*", SID: "{*}"}}
	newer := relation("orders", "id integer key", "note text", "channel text")
	older := relation("orders", "id integer key", "note text", "legacy integer")
	a, b, odd, down := w.source("tenant_a"), w.source("tenant_b"), w.source("tenant_odd"), w.source("tenant_down")
	down.table(newer, 1) // its topics are there, and nothing is in them
	a.tx(ins(newer, 1, "a1", "web"))
	b.tx(ins(older, 1, "b1", 7))
	s := w.start(w.cfg)
	w.complete(a)
	w.complete(b)
	odd.tx(ins(relation("orders", "id text key", "note text"), "x", "another type"))
	all := `SELECT tenant, id, note, channel, legacy FROM sales.orders ORDER BY 1, 2`
	w.rows(all, "a|1|a1|web|∅", "b|1|b1|∅|7")
	w.rows(`SELECT source, code FROM tributary.quarantine`, "tenant_odd|target-type")
	// A new one, while another one's capture has stopped in the middle of nowhere.
	late := w.source("tenant_late")
	late.tx(ins(newer, 1, "late1", "app"))
	w.complete(late)
	a.tx(upd(newer, 1, keep, "phone"), ins(newer, 2, "a2", nil))
	b.tx(upd(older, 1, "b1 again", keep))
	w.complete(a)
	w.complete(b)
	// The older application is upgraded.
	upgraded := relation("orders", "id integer key", "note text", "legacy integer", "channel text")
	b.tx(upd(upgraded, 1, keep, keep, "web"))
	w.complete(b)
	w.rows(all, "a|1|a1|phone|∅", "a|2|a2|∅|∅", "b|1|b1 again|web|7", "late|1|late1|app|∅")
	states := map[string]string{}
	for _, table := range s.Status().Tables {
		states[table.Source] = table.State
	}
	if fmt.Sprint(states) != "map[tenant_a:up_to_date tenant_b:up_to_date tenant_down:up_to_date tenant_late:up_to_date tenant_odd:quarantined]" {
		t.Errorf("got %v", states)
	}
}

// TestTenantPause: two sinks hold all tables of one source where they are, also over a restart; the other goes on.
func TestTenantPause(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	one, two := relation("one", "id integer key"), relation("two", "id integer key")
	a, b := w.source("a"), w.source("b")
	a.table(one, 3)
	a.tx(ins(one, 1), ins(two, 1))
	b.tx(ins(one, 1), ins(two, 1))
	first, second := w.start(w.cfg), w.start(w.cfg)
	w.complete(a)
	w.complete(b)
	o := w.operator()
	if err := o.Pause(t.Context(), "a", "", "upgrade", 0); err != nil {
		t.Fatal(err)
	}
	paused := func() any { // of the tables of a, as each sink sees them
		n := 0
		for _, s := range []*running{first, second} {
			for _, table := range s.Status().Tables {
				if table.Source == "a" && table.State == service.StatePaused && table.PausedReason == "upgrade" {
					n++
				}
			}
		}
		return n
	}
	w.eventually(4, paused)
	a.tx(many(50, func(i int) event { return ins(one, 100+i) })...)
	b.tx(ins(one, 2), ins(two, 2))
	w.complete(b)
	waiting := func() any { // what has come meanwhile is counted, though nobody fetches it
		told := 0
		for _, s := range []*running{first, second} { // whichever has the partitions
			for _, table := range s.status().Tables {
				if table.Source == "a" && table.Records != nil && *table.Records >= 50 && *table.BehindSeconds > 0 {
					told++
				}
			}
		}
		return told == 2
	}
	w.eventually(true, waiting)
	first.stop()
	first = w.start(w.cfg)
	w.eventually(4, paused)
	w.eventually(true, waiting)
	b.tx(ins(one, 3), ins(two, 3))
	w.complete(b)
	w.rows(`SELECT (SELECT count(*) FROM public.one WHERE tenant = 'a'), (SELECT count(*) FROM public.two WHERE tenant = 'a')`, "1|1")
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "a"}); err != nil {
		t.Fatal(err)
	}
	w.complete(a)
	w.rows(`SELECT count(*) FROM public.one WHERE tenant = 'a'`, "51")
}

// TestTenantRemove: while two sinks write, its capture goes on, and after a restart. Then it is brought back.
func TestTenantRemove(t *testing.T) {
	for _, consistency := range []string{"table", "source"} {
		t.Run(consistency, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.own", To: "own.{source}"}, rule.Table{From: "public.*", SID: "tenant"})
			w.cfg.Sources = []rule.Source{{Name: "a", Consistency: consistency}, {Name: "b"}, {Name: "nobody"}}
			w.cfg.Batch.Rows = 50
			r, own := relation("t", "id integer key", "v text"), relation("own", "id integer key")
			a, b := w.source("a"), w.source("b")
			a.table(r, 3)
			a.tx(append(many(500, func(i int) event { return ins(r, i, "a") }), ins(own, 1))...)
			b.tx(append(many(500, func(i int) event { return ins(r, i, "b") }), ins(own, 1))...)
			first := w.start(w.cfg)
			w.start(w.cfg)
			w.complete(a)
			w.complete(b)
			a.tx(many(500, func(i int) event { return upd(r, i, "under way") })...)
			o := w.operator()
			removed, err := o.RemoveTenant(t.Context(), w.tenantPlan(o, "a"), "contract ended", untold)
			if err != nil || removed != 501 {
				t.Fatalf("removed %d: %v", removed, err)
			}
			a.tx(ins(r, 1000, "after"))
			b.tx(upd(r, 1, "goes on"))
			w.complete(b)
			gone := func() {
				t.Helper()
				w.rows(`SELECT tenant, count(*) FROM public.t GROUP BY 1`, "b|500")
				w.rows(`SELECT count(*) FROM own.a`, "0")
				w.rows(`SELECT count(*) FROM own.b`, "1")
				w.rows(`SELECT DISTINCT split_part(topic, '.', 1) FROM tributary.feed`, "b")
				w.rows(`SELECT source FROM tributary.source`, "b")
			}
			gone()
			w.eventually(true, func() any {
				for _, table := range first.Status().Tables {
					if table.Source == "a" {
						return table.State
					}
				}
				return len(first.Status().Unmatched) == 0
			})
			first.stop()
			first = w.start(w.cfg)
			b.tx(upd(r, 2, "goes on"))
			w.complete(b)
			gone()
			tenants, err := o.Tenants(t.Context(), w.cfg)
			if err != nil || len(tenants) != 2 || tenants[0].State != sink.StateRemoved || tenants[0].Reason != "contract ended" || tenants[1].Tables != 2 {
				t.Fatalf("got %+v, %v", tenants, err)
			}
			if err := o.Pause(t.Context(), "a", "", "", 0); err == nil || !strings.Contains(err.Error(), "it is removed") {
				t.Errorf("a pause of what is removed: %v", err)
			}
			if err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "a"), "", untold); err == nil || !strings.Contains(err.Error(), "it is removed") {
				t.Errorf("a rebuild of what is removed: %v", err)
			}
			missing, err := o.Until(t.Context(), w.cfg, "caught-up", "") // not for the removed one
			if err != nil {
				t.Fatal(err)
			}
			w.eventually("", func() any { return missing(nil) })
			for _, c := range []struct {
				plan sink.TenantPlan
				want string
			}{
				{sink.TenantPlan{Source: "nobody"}, "no topic of it is shown by Kafka"},
				{sink.TenantPlan{Source: "nobody", Topics: []string{"nobody.elsewhere.t"}}, "no rule writes a table of it"},
				{sink.TenantPlan{Source: "nowhere"}, "sources does not name it"},
			} {
				if _, err := o.Rebuilding(t.Context(), w.cfg, &c.plan); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("a wait for a tenant without topics: %v, want %q", err, c.want)
				}
			}
			if err := o.Pause(t.Context(), "", "", "", 0); err != nil {
				t.Fatal(err)
			}
			if _, err := o.Resume(t.Context(), warehouse.Going{Source: "a"}); err != nil {
				t.Fatal(err)
			}
			how, err := o.Rebuilding(t.Context(), w.cfg, &sink.TenantPlan{Source: "a"}) // what --wait waits for
			if err != nil {
				t.Fatal(err)
			}
			if _, _, _, err := how(t.Context()); err == nil || !strings.Contains(err.Error(), "it is paused since") {
				t.Errorf("a wait for what is paused: %v", err)
			}
			if _, err := o.Resume(t.Context(), warehouse.Going{}); err != nil {
				t.Fatal(err)
			}
			w.eventually("", func() any {
				done, of, lacks, err := how(t.Context())
				if err != nil || of == 0 || lacks == "" && done < of {
					t.Fatalf("%d of %d, %q: %v", done, of, lacks, err)
				}
				return lacks
			})
			w.rows(`SELECT tenant, count(*), count(*) FILTER (WHERE v = 'under way') FROM public.t GROUP BY 1 ORDER BY 1`, "a|501|500", "b|500|0")
			w.rows(`SELECT count(*) FROM own.a`, "1")
		})
	}
}

// TestTenantRemovalThatFails: what was begun is not brought back with the rows that are left, however it has ended.
func TestTenantRemovalThatFails(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	a := w.source("a")
	gone, kept := relation("gone", "id integer key"), relation("kept", "id integer key")
	w.start(w.cfg)
	a.tx(ins(gone, 1), ins(kept, 1))
	w.complete(a)
	w.exec(`CREATE TABLE public.child (tenant text, id integer, FOREIGN KEY (tenant, id) REFERENCES public.kept (tenant, id)); INSERT INTO public.child VALUES ('a', 1)`)
	o := w.operator()
	if n, err := o.RemoveTenant(t.Context(), w.tenantPlan(o, "a"), "", untold); n != 1 || err == nil || !strings.Contains(err.Error(), "1 row removed so far; the tenant is not read any more") {
		t.Fatalf("%d rows are removed: %v", n, err)
	}
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "a"}); trouble.CodeOf(err) != trouble.RuleConflict || !strings.Contains(err.Error(), "not come to its end") {
		t.Errorf("brought back: %v", err)
	}
	w.exec(`DROP TABLE public.child`)
	// What is refused behind the mark has changed something: the tenant is not read any more.
	p := w.tenantPlan(o, "a")
	w.exec(`INSERT INTO tributary.feed (grp, target_schema, target_table, sid, topic) SELECT 'other', target_schema, target_table, sid, topic FROM tributary.feed WHERE topic = 'a.public.kept'`)
	_, err := o.RemoveTenant(t.Context(), p, "", untold)
	if e, ok := errors.AsType[*trouble.Error](err); !ok || e.Means != "" || !strings.Contains(err.Error(), "0 rows removed so far; the tenant is not read any more") {
		t.Errorf("refused: %+v", err)
	}
	w.exec(`DELETE FROM tributary.feed WHERE grp = 'other'`)
	if _, err := o.RemoveTenant(t.Context(), w.tenantPlan(o, "a"), "", untold); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "a"}); err != nil {
		t.Fatal(err)
	}
	w.complete(a)
	w.rows(`SELECT 'gone', id FROM public.gone UNION ALL SELECT 'kept', id FROM public.kept ORDER BY 1`, "gone|1", "kept|1")
}

// TestTenantRemovalAndLateTables: a table that comes while somebody is asked whether they mean it is removed with the others. What a
// sink that was late has noted of a table after the end keeps nobody from bringing the tenant back.
func TestTenantRemovalAndLateTables(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	a := w.source("a")
	first, late := relation("first", "id integer key"), relation("late", "id integer key")
	w.start(w.cfg)
	a.tx(ins(first, 1))
	w.complete(a)
	o := w.operator()
	asked := w.tenantPlan(o, "a")
	a.tx(ins(late, 1))
	w.complete(a)
	if n, err := o.RemoveTenant(t.Context(), asked, "", untold); n != 2 || err != nil {
		t.Fatalf("%d rows are removed: %v", n, err)
	}
	w.rows(`SELECT count(*) FROM public.late`, "0")
	w.exec(`INSERT INTO tributary.feed VALUES ('warehouse', 'public', 'late', 'a', 'a.public.late')`)
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "a"}); err != nil {
		t.Fatal(err)
	}
	w.complete(a)
	w.rows(`SELECT 'first', id FROM public.first UNION ALL SELECT 'late', id FROM public.late ORDER BY 1`, "first|1", "late|1")
}

// TestTenantRemovalAndTargetsLookedAt: rows of a table that is looked at for the first time behind the mark, and written before the checkpoints are taken away,
// are removed with the others.
func TestTenantRemovalAndTargetsLookedAt(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	a := w.source("a")
	first, late := relation("first", "id integer key"), relation("late", "id integer key")
	a.table(late, 1)
	w.start(w.cfg)
	a.tx(ins(first, 1))
	w.complete(a)
	w.rows(`SELECT count(*) FROM tributary.checkpoint WHERE topic = 'a.public.late'`, "1")
	o := w.operator()
	p := w.tenantPlan(o, "a")
	look := w.lock(`SELECT pg_advisory_xact_lock(hashtext('tributary target'), hashtext('public'))`)
	a.tx(ins(late, 1))
	w.waiting("pg_advisory_xact_lock", 1)
	take := w.lock(`SELECT FROM tributary.checkpoint WHERE topic = 'a.public.first' FOR UPDATE`)
	done := make(chan error, 1)
	go func() {
		n, err := o.RemoveTenant(t.Context(), p, "", untold)
		if err == nil && n != 2 {
			err = fmt.Errorf("%d rows are removed", n)
		}
		done <- err
	}()
	w.waiting("FROM tributary.checkpoint", 1)
	look()
	w.rows(`SELECT count(*) FROM public.late`, "1")
	take()
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.rows(`SELECT count(*) FROM public.late`, "0")
	w.rows(`SELECT count(*) FROM tributary.feed`, "0")
}

// TestClaimOfATopicNotKnown: a source is brought back in the moment in which a sink does not read its topics any more, and claims one without its id; whoever
// claims it next does not take it for another topic.
func TestClaimOfATopicNotKnown(t *testing.T) {
	w := newWorld(t)
	a := w.source("a")
	s := w.start(w.cfg)
	a.tx()
	w.complete(a)
	s.stop()
	other := warehouse.New(warehouse.Config{DSN: func() (string, error) { return w.dsn, nil }, Group: "warehouse", Instance: "other", Log: slog.New(slog.DiscardHandler)})
	for _, c := range []struct {
		id   string
		want trouble.Code
	}{{"", ""}, {"one", ""}, {"", ""}, {"one", ""}, {"two", trouble.TopicRecreated}} {
		claims, err := other.Claim(t.Context(), []warehouse.Partition{{Topic: "a.public.t", TopicID: c.id}})
		if err != nil || trouble.CodeOf(claims[0].Err) != c.want {
			t.Errorf("claimed with the id %q: %+v, %v", c.id, claims, err)
		}
	}
	w.rows(`SELECT topic_id FROM tributary.checkpoint WHERE topic = 'a.public.t'`, "one")
}

// TestTenantVerbsAreRefused: where it is not certain what they would do.
func TestTenantVerbsAreRefused(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	r := relation("t", "id integer key")
	a := w.source("a")
	a.tx(ins(r, 1), ins(r, 2))
	s := w.start(w.cfg)
	w.complete(a)
	o := w.operator()
	fails := func(o *sink.Operator, source, want string) {
		t.Helper()
		if _, err := o.Tenant(t.Context(), source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	fails(o, "nobody", "the group has written nothing of nobody")
	deleteRecords(t, a, "a.public.t", 1)
	if err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "a"), "", untold); err == nil || !strings.Contains(err.Error(), "begins at offset 1") {
		t.Errorf("got %v", err)
	}
	w.cfg.Tables = []rule.Table{{From: "public.*", Create: true}}
	fails(w.operator(), "a", `no rule says any more which column of table "public.t" holds the sid "a"`)
	_, err := w.operator().Tenant(t.Context(), "a")
	if e, ok := errors.AsType[*trouble.Error](err); !ok || !strings.Contains(e.Hint, `WHERE grp = 'warehouse' AND topic = 'a.public.t' AND target_schema = 'public' AND target_table = 't' AND sid = 'a';`) {
		t.Errorf("got %+v", e)
	}
	s.stop()
	w.exec(`INSERT INTO tributary.feed VALUES ('other', 'public', 't', 'a', 'a.public.t')`)
	fails(o, "a", "topic a.public.t of group other writes the same rows")
	w.rows(`SELECT count(*) FROM public.t`, "2")
}
