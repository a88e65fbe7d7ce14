package sink_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// TestTenantRebuild: what somebody has spoilt in the warehouse is as the topics have it again; no reader sees less than
// what stays. Nothing comes meanwhile: the sinks take notice by themselves.
func TestTenantRebuild(t *testing.T) {
	t.Parallel() // it waits most of its time
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

// TestTenantRebuildThatIsDisturbed: somebody resumes the source while the rows of a table without key are removed; and the session that removes
// them is ended, which is told of until a rebuild has come to its end.
func TestTenantRebuildThatIsDisturbed(t *testing.T) {
	t.Parallel() // it waits most of its time
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
	t.Parallel() // it waits most of its time
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

// TestRebuildAtATruncate: a partition that waits at a TRUNCATE for one that is held begins anew with the others.
func TestRebuildAtATruncate(t *testing.T) {
	t.Parallel()                    // it waits most of its time
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

// TestRebuildThatIsParked: no reload ends while something of its table is parked, so who waits for all rows is told of it
// instead of waiting on.
func TestRebuildThatIsParked(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t, rule.Table{From: "public.*", OnError: "park"})
	r, shop := w.checked("checked"), w.source("shop")
	other := w.checked("other")
	shop.snapshot(r, true)
	shop.snapshot(other, true)
	shop.tx(ins(r, 1, "fine"), ins(r, 2, "fine"), ins(other, 1, "fine"))
	w.start(w.cfg)
	w.complete(shop)
	o := w.operator()
	ends := func(spoil, mend, message, hint string) {
		t.Helper()
		w.exec(spoil)
		p := w.tenantPlan(o, "shop")
		if err := o.RebuildTenant(t.Context(), w.cfg, p, "", untold); err != nil {
			t.Fatal(err)
		}
		how, err := o.Rebuilding(t.Context(), w.cfg, p)
		if err != nil {
			t.Fatal(err)
		}
		var failed error
		w.eventually(trouble.Parked, func() any {
			_, _, _, failed = how(t.Context())
			return trouble.CodeOf(failed)
		})
		if e, ok := errors.AsType[*trouble.Error](failed); !ok || !strings.Contains(failed.Error(), message) || !strings.Contains(e.Hint, hint) {
			t.Errorf("%v, %+v", failed, e)
		}
		w.exec(mend)
		if out, err := o.Retry(t.Context(), warehouse.Selection{Source: "shop"}); err != nil || out.Applied == 0 {
			t.Fatalf("%+v, %v", out, err)
		}
		w.eventually("", func() any {
			_, _, lacks, err := how(t.Context())
			if err != nil {
				t.Error(err)
			}
			return lacks
		})
		w.rows(`SELECT id, note FROM public.checked ORDER BY 1`, "1|fine", "2|fine")
		w.rows(`SELECT id, note FROM public.other`, "1|fine")
	}
	ends(`ALTER TABLE public.checked ADD CONSTRAINT low CHECK (id < 2) NOT VALID`, `ALTER TABLE public.checked DROP CONSTRAINT low`,
		"1 row of shop/public.checked is parked", "sink parked retry shop/public.checked")
	ends(`ALTER TABLE public.checked ADD CONSTRAINT none CHECK (id < 0) NOT VALID; ALTER TABLE public.other ADD CONSTRAINT none CHECK (id < 0) NOT VALID`,
		`ALTER TABLE public.checked DROP CONSTRAINT none; ALTER TABLE public.other DROP CONSTRAINT none`,
		"3 rows of 2 tables of shop are parked", "sink parked retry shop")
}

// TestRebuildThatIsPausedAtItsEnd: all has come, and what has not is not removed while the source is paused: who waits for that is told.
func TestRebuildThatIsPausedAtItsEnd(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t, rule.Table{From: "public.*", OnError: "park"})
	r, shop := w.checked("checked"), w.source("shop")
	shop.snapshot(r, true)
	shop.tx(ins(r, 1, "fine"), ins(r, 2, "fine"))
	s := w.start(w.cfg)
	w.complete(shop)
	o := w.operator()
	p := w.tenantPlan(o, "shop")
	w.exec(`ALTER TABLE public.checked ADD CONSTRAINT low CHECK (id < 2) NOT VALID`)
	if err := o.RebuildTenant(t.Context(), w.cfg, p, "", untold); err != nil {
		t.Fatal(err)
	}
	how, err := o.Rebuilding(t.Context(), w.cfg, p)
	if err != nil {
		t.Fatal(err)
	}
	code := func() any {
		_, _, lacks, err := how(t.Context())
		return fmt.Sprint(lacks, trouble.CodeOf(err))
	}
	w.eventually("parked", code)
	if err := o.Pause(t.Context(), "shop", "", "", 0); err != nil {
		t.Fatal(err)
	}
	w.eventually("paused", func() any { return s.Status().Tables[0].State })
	w.exec(`ALTER TABLE public.checked DROP CONSTRAINT low`)
	if out := w.retry(o, "public.checked"); out.Applied != 1 {
		t.Fatalf("got %+v", out)
	}
	w.eventually("rule-conflict", code)
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "shop"}); err != nil {
		t.Fatal(err)
	}
	w.eventually("", code)
}
