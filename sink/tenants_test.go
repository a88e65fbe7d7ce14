package sink_test

import (
	"errors"
	"fmt"
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
	if took := time.Since(begin); took > max(first, 5*time.Second) {
		t.Errorf("400 changes took %s", took)
	}
}

// TestSIDTypes: the column is of the rule's type where the target is created, and of its own where it is there; a
// source whose sid is not of it is refused, and the others go on.
func TestSIDTypes(t *testing.T) {
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
			w.cfg.Sources = []rule.Source{{Name: "a", Consistency: consistency}, {Name: "b"}}
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
			if _, err := o.Resume(t.Context(), warehouse.Going{Source: "a"}); err != nil {
				t.Fatal(err)
			}
			how, err := o.Rebuilding(t.Context(), w.cfg, &sink.TenantPlan{Source: "a"}) // what --wait waits for
			if err != nil {
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

// TestTenantRebuild: what somebody has spoilt in the warehouse is as the topics have it again; no reader sees less than
// what stays. Nothing comes meanwhile: the sinks take notice by themselves.
func TestTenantRebuild(t *testing.T) {
	for _, consistency := range []string{"table", "source"} {
		t.Run(consistency, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.kept", Mode: "append", SID: "tenant"}, rule.Table{From: "public.story", Mode: "history", SID: "tenant"},
				rule.Table{From: "public.changes", Mode: "log", SID: "tenant"}, rule.Table{From: "public.*", SID: "tenant"})
			w.cfg.Sources = []rule.Source{{Name: "a", Consistency: consistency}, {Name: "b"}}
			w.cfg.Batch.Rows = 100
			r, log, kept := relation("t", "id integer key", "v text"), relation("log", "v text"), relation("kept", "id integer key")
			a, b := w.source("a"), w.source("b")
			a.table(r, 3)
			story, changes := relation("story", "id integer key", "v text"), relation("changes", "id integer key", "v text")
			for _, rel := range []*schema.Relation{r, log, kept, story, changes} {
				a.snapshot(rel, true)
			}
			a.tx(append(many(900, func(i int) event { return ins(r, i, "a") }), ins(log, "x"), ins(log, "x"), ins(kept, 1), del(kept, 1),
				ins(story, 1, "x"), upd(story, 1, "y"), ins(changes, 1, "x"), upd(changes, 1, "y"))...)
			a.tx(append(many(100, func(i int) event { return upd(r, i, "again") }), del(r, 899))...)
			b.tx(append(many(900, func(i int) event { return ins(r, i, "b") }), ins(log, "b"))...)
			w.start(w.cfg)
			w.start(w.cfg)
			w.complete(a)
			w.complete(b)
			versions := `SELECT tenant, id, v, valid_from, valid_to, deleted FROM public.story ORDER BY valid_from`
			before := w.query(versions)
			w.exec(`DELETE FROM public.story; UPDATE public.changes SET v = 'spoilt'`)
			w.exec(`UPDATE public.t SET v = 'spoilt' WHERE id % 2 = 0; INSERT INTO public.t VALUES ('a', 5000, 'invented'); INSERT INTO public.log VALUES ('a', 'invented')`)
			w.exec(`DELETE FROM public.t WHERE tenant = 'a' AND id = 10`)
			end := w.watch(898, `SELECT count(*) FROM public.t WHERE tenant = 'a'`)
			o := w.operator()
			if err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "a"), "spoilt", untold); err != nil {
				t.Fatal(err)
			}
			p := w.tenantPlan(o, "a")
			how, err := o.Rebuilding(t.Context(), w.cfg, p)
			if err != nil {
				t.Fatal(err)
			}
			if consistency == "source" {
				a.tx(upd(r, 1, "again")) // it goes from state to state
			}
			w.rows(`SELECT count(*), count(*) FILTER (WHERE v = 'again'), count(*) FILTER (WHERE v = 'a') FROM public.t WHERE tenant = 'a'`, "899|100|799")
			w.eventually("", func() any {
				done, of, lacks, err := how(t.Context())
				if err != nil || lacks == "" && done < of {
					t.Errorf("%d of %d offsets, %v", done, of, err)
				}
				return lacks
			})
			w.rows(`SELECT count(*) FROM tributary.reload`, "0")
			w.swept()
			w.complete(a)
			end()
			w.exec(`INSERT INTO tributary.quarantine (grp, topic, partition, next_offset, source, table_name, code, message, hint, instance)
				VALUES ('warehouse', 'a.public.t', 0, 7, 'a', 'public.t', 'internal', 'cannot be', '', 'x')`)
			if _, _, _, err := how(t.Context()); trouble.CodeOf(err) != trouble.Internal {
				t.Errorf("a table that is held: %v", err)
			}
			w.rows(`SELECT count(*), count(*) FILTER (WHERE v = 'spoilt') FROM public.t WHERE tenant = 'b'`, "900|450")
			w.rows(`SELECT tenant, v FROM public.log ORDER BY 1, 2`, "a|x", "a|x", "b|b")
			w.rows(`SELECT tenant, id FROM public.kept`, "a|1")
			w.rows(versions, before...)
			w.rows(`SELECT change_op, v FROM public.changes ORDER BY change_seq`, "c|x", "u|y")
			w.rows(`SELECT verb FROM tributary.operation WHERE verb = 'tenant rebuild'`, "tenant rebuild")
		})
	}
}

// TestRebuildOfDropped: a projection that was dropped comes from nothing, and a target that nothing tells rows apart in is named.
func TestRebuildOfDropped(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*"})
	r, other := relation("t", "id integer key", "v text"), relation("other", "id integer key")
	a := w.source("a")
	a.table(r, 1)
	a.snapshot(r, true)
	a.snapshot(other, true)
	a.tx(ins(r, 1, "x"), ins(r, 2, "y"), upd(r, 1, "z"), ins(other, 1))
	w.start(w.cfg)
	w.complete(a)
	o := w.operator()
	w.exec(`ALTER TABLE public.other RENAME id TO number`)
	err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "a"), "", untold)
	if trouble.CodeOf(err) != trouble.TargetMissing || !strings.Contains(err.Error(), `table "public.other"`) {
		t.Fatalf("without a column of its key: %v", err)
	}
	w.exec(`DROP TABLE public.t, public.other`)
	if err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "a"), "", untold); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT to_regclass('public.t') IS NOT NULL AND to_regclass('public.other') IS NOT NULL`, "t")
	w.rows(`SELECT id, v FROM public.t ORDER BY id`, "1|z", "2|y")
	w.rows(`SELECT id FROM public.other`, "1")
	w.swept()
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

// TestTenantRebuildThatIsDisturbed: somebody resumes the source while the rows of a table without key are removed; and the session that removes
// them is ended, which is told of until a rebuild has come to its end.
func TestTenantRebuildThatIsDisturbed(t *testing.T) {
	for _, ended := range []bool{false, true} {
		t.Run(fmt.Sprint("ended ", ended), func(t *testing.T) {
			w := newWorld(t)
			a, r := w.source("a"), relation("t", "v text")
			s := w.start(w.cfg)
			a.tx(many(100, func(i int) event { return ins(r, i) })...)
			w.complete(a)
			o, other := w.operator(), w.operator()
			resume := func() {
				t.Helper()
				if _, err := other.Resume(t.Context(), warehouse.Going{Source: "a"}); err != nil {
					t.Fatal(err)
				}
				a.tx(ins(r, a.lsn))
				w.complete(a)
			}
			once := true
			err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "a"), "", func(string, int64) {
				switch {
				case !once:
				case ended:
					w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tributary sink%' AND datname = current_database()`)
				default:
					resume()
				}
				once = false
			})
			want := "101|101"
			if (err != nil) != ended {
				t.Fatal(err)
			}
			told := func() any {
				return strings.Contains(outdated(s.Status(), trouble.RowsOutdated), "were removed by a rebuild")
			}
			if ended {
				resume()
				w.eventually(true, told)
				if err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "a"), "", untold); err != nil {
					t.Fatal(err)
				}
			}
			w.rows(`SELECT count(*), count(DISTINCT v) FROM public.t`, want)
			w.eventually(false, told)
		})
	}
}

// TestTenantRebuildThatIsOvertaken: a rebuild that was stopped for long, and goes on, brings no tenant back that somebody has removed meanwhile, and
// ends no pause of somebody's.
func TestTenantRebuildThatIsOvertaken(t *testing.T) {
	w := newWorld(t)
	a, r := w.source("a"), relation("t", "v text")
	w.start(w.cfg)
	a.tx(many(100, func(i int) event { return ins(r, i) })...)
	w.complete(a)
	o, other := w.operator(), w.operator()
	meanwhile := func(do func() error) (err error) {
		t.Helper()
		once := true
		return o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "a"), "", func(string, int64) {
			if once {
				if err := do(); err != nil {
					t.Error(err)
				}
			}
			once = false
		})
	}
	if err := meanwhile(func() error { return other.Pause(t.Context(), "a", "", "a person", 0) }); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT reason FROM tributary.control`, "a person")
	if _, err := other.Resume(t.Context(), warehouse.Going{Source: "a"}); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT count(*) FROM public.t`, "100")
	err := meanwhile(func() error {
		_, err := other.RemoveTenant(t.Context(), w.tenantPlan(other, "a"), "", untold)
		return err
	})
	if trouble.CodeOf(err) != trouble.RuleConflict || !strings.Contains(err.Error(), "removed meanwhile") {
		t.Errorf("a rebuild of what was removed meanwhile: %v", err)
	}
	w.rows(`SELECT removed FROM tributary.control`, "t")
	w.rows(`SELECT count(*) FROM public.t`, "0")
}

// TestRebuildOfWhatNoRuleWrites: rows that would not come again stay, and nobody waits for them.
func TestRebuildOfWhatNoRuleWrites(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*"})
	a := w.source("a")
	r, log, moved := relation("t", "id integer key", "v text"), relation("log", "v text"), relation("moved", "id integer key")
	for _, rel := range []*schema.Relation{r, log, moved} {
		a.snapshot(rel, true)
	}
	a.tx(ins(r, 1, "x"), ins(log, "x"), ins(moved, 1))
	first := w.start(w.cfg)
	w.complete(a)
	first.stop()
	w.cfg.Tables = []rule.Table{{From: "public.t"}, {From: "public.moved", To: "public.elsewhere", Create: true}, {From: "public.*", Skip: true}}
	w.start(w.cfg)
	a.tx(ins(r, 2, "y"), ins(moved, 2))
	w.rows(`SELECT id FROM public.elsewhere ORDER BY 1`, "2")
	w.complete(a)
	w.exec(`UPDATE public.t SET v = 'spoilt'`)
	o := w.operator()
	p := w.tenantPlan(o, "a")
	if err := o.RebuildTenant(t.Context(), w.cfg, p, "", untold); err != nil {
		t.Fatal(err)
	}
	how, err := o.Rebuilding(t.Context(), w.cfg, p)
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("", func() any {
		_, _, lacks, err := how(t.Context())
		if err != nil {
			t.Error(err)
		}
		return lacks
	})
	w.swept()
	w.rows(`SELECT id, v FROM public.t ORDER BY 1`, "1|x", "2|y")
	w.rows(`SELECT v FROM public.log`, "x")
	w.rows(`SELECT id FROM public.moved ORDER BY 1`, "1")
	w.rows(`SELECT id FROM public.elsewhere ORDER BY 1`, "1", "2")
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
	s.stop()
	w.exec(`INSERT INTO tributary.feed VALUES ('other', 'public', 't', 'a', 'a.public.t')`)
	fails(o, "a", "topic a.public.t of group other writes the same rows")
	w.rows(`SELECT count(*) FROM public.t`, "2")
}

// TestRebuildAtATruncate: a partition that waits at a TRUNCATE for one that is held begins anew with the others.
func TestRebuildAtATruncate(t *testing.T) {
	for id := 100; id < 103; id++ { // in one partition or the other
		t.Run(fmt.Sprint(id), func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
			a := w.source("a")
			r := relation("t", "id integer key", "v text")
			a.table(r, 2)
			a.snapshot(r, true)
			w.start(w.cfg)
			a.tx(many(20, func(i int) event { return ins(r, i, "a") })...)
			w.complete(a)
			w.exec(`ALTER TABLE public.t ADD CONSTRAINT good CHECK (v <> 'bad')`)
			a.tx(ins(r, id, "bad"))
			a.tx(trunc(r))
			a.tx(many(10, func(i int) event { return ins(r, i, "b") })...)
			w.rows(`SELECT count(*) FROM tributary.quarantine`, "1")
			w.rows(`SELECT count(*) FROM tributary.checkpoint WHERE barrier_lsn > lsn`, "1")
			w.exec(`ALTER TABLE public.t DROP CONSTRAINT good`)
			o := w.operator()
			if err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "a"), "", untold); err != nil {
				t.Fatal(err)
			}
			w.complete(a)
			w.rows(`SELECT count(*), min(v) FROM public.t`, "10|b")
		})
	}
}
