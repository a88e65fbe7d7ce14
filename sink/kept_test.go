package sink_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// TestRowsThatStay: what a trigger of a target keeps, or a partition of it that cannot be emptied, is told of, and what is known of the
// tenant stays until it is gone.
func TestRowsThatStay(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	a, b := w.source("a"), w.source("b")
	r := relation("t", "id integer key", "v text")
	for _, s := range []*source{a, b} {
		s.tx(many(300, func(i int) event { return ins(r, i, "x") })...)
	}
	w.start(w.cfg)
	w.complete(a)
	w.complete(b)
	w.exec(`CREATE FUNCTION public.hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF OLD.id % 100 = 0 THEN RETURN NULL; END IF; RETURN OLD; END';
		CREATE TRIGGER hold BEFORE DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.hold()`)
	o := w.operator()
	removed, err := o.RemoveTenant(t.Context(), w.tenantPlan(o, "a"), "", untold)
	if err == nil || removed != 297 || !strings.Contains(err.Error(), "3 rows were there still after their DELETE") {
		t.Fatalf("%d rows, %v", removed, err)
	}
	w.rows(`SELECT count(*) FROM tributary.feed WHERE topic LIKE 'a.%'`, "1")
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "a"}); err == nil {
		t.Error("it was brought back behind rows that are gone")
	}
	w.exec(`DROP TRIGGER hold ON public.t`)
	if removed, err = o.RemoveTenant(t.Context(), w.tenantPlan(o, "a"), "", untold); err != nil || removed != 3 {
		t.Fatalf("%d rows, %v", removed, err)
	}
	w.rows(`SELECT tenant, count(*) FROM public.t GROUP BY 1`, "b|300")
}

// TestRowsOfTablesThatInherit: rows of a tenant are removed in tables that inherit from the target, and none of others which stand at the same place in
// another of these tables.
func TestRowsOfTablesThatInherit(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	a, b := w.source("a"), w.source("b")
	r := relation("t", "id integer key", "v text")
	b.tx(many(50, func(i int) event { return ins(r, i, "x") })...)
	w.start(w.cfg)
	w.complete(b)
	a.tx(ins(r, 1, "x"))
	w.complete(a)
	w.exec(`CREATE TABLE public.t_old () INHERITS (public.t); INSERT INTO public.t_old SELECT 'a', i, 'x' FROM generate_series(100, 120) i`)
	o := w.operator()
	if removed, err := o.RemoveTenant(t.Context(), w.tenantPlan(o, "a"), "", untold); err != nil || removed != 22 {
		t.Errorf("%d rows, %v", removed, err)
	}
	w.rows(`SELECT tenant, count(*) FROM public.t GROUP BY 1`, "b|50")
}

// TestRowsOfForeignTables: rows of a tenant are removed in a foreign table that is a partition of the target; one that does not let them be is named, and so
// it is where the target is written.
func TestRowsOfForeignTables(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	w.exec(`CREATE EXTENSION postgres_fdw; CREATE SCHEMA far; CREATE TABLE far.t (tenant text, id integer, v text);
		INSERT INTO far.t SELECT tenant, 1000 + i, 'x' FROM unnest('{a,b}'::text[]) tenant, generate_series(1, 20) i;
		CREATE TABLE public.t (tenant text, id integer, v text) PARTITION BY RANGE (id); CREATE TABLE public.t_rest PARTITION OF public.t DEFAULT; CREATE INDEX ON public.t_rest (tenant, id)`)
	at, err := pgx.ParseConfig(w.dsn)
	if err != nil {
		t.Fatal(err)
	}
	w.exec(fmt.Sprintf(`CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host %s, port '%d', dbname %s, updatable 'true');
		CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (user %s, password %s);
		CREATE FOREIGN TABLE public.t_far PARTITION OF public.t FOR VALUES FROM (1000) TO (2000) SERVER far OPTIONS (schema_name 'far', table_name 't')`,
		postgres.Literal(at.Host), at.Port, postgres.Literal(at.Database), postgres.Literal(at.User), postgres.Literal(at.Password)))
	a, b := w.source("a"), w.source("b")
	r := relation("t", "id integer key", "v text")
	for _, s := range []*source{a, b} {
		s.tx(many(30, func(i int) event { return ins(r, i, "x") })...)
	}
	w.start(w.cfg)
	w.complete(a)
	w.complete(b)
	w.exec(`ALTER SERVER far OPTIONS (SET updatable 'false')`)
	o := w.operator()
	removed, err := o.RemoveTenant(t.Context(), w.tenantPlan(o, "a"), "", untold)
	hint := `ALTER TABLE "public"."t" DETACH PARTITION "public"."t_far";`
	if e, ok := errors.AsType[*trouble.Error](err); !ok || removed != 30 || !strings.Contains(e.Hint, hint) || !strings.Contains(err.Error(), "20 rows of it are in the foreign table") {
		t.Fatalf("%d rows, %v", removed, err)
	}
	w.exec(`ALTER SERVER far OPTIONS (SET updatable 'true')`)
	if removed, err = o.RemoveTenant(t.Context(), w.tenantPlan(o, "a"), "", untold); err != nil || removed != 20 {
		t.Fatalf("%d rows, %v", removed, err)
	}
	w.rows(`SELECT tenant, count(*) FROM public.t GROUP BY 1`, "b|50")
	w.exec(`ALTER SERVER far OPTIONS (SET updatable 'false')`)
	b.tx(del(r, 1))
	w.rows(`SELECT code, message LIKE '%foreign table "t_far" does not allow deletes%', hint LIKE '%DETACH PARTITION%' FROM tributary.quarantine`, "target-type|t|t")
	w.exec(`ALTER TABLE public.t DETACH PARTITION public.t_far; DELETE FROM tributary.quarantine`)
	w.rows(`SELECT tenant, count(*) FROM public.t GROUP BY 1`, "b|29")
}

// TestRowsThatMove: rows of a tenant that go to another partition while it is removed are removed there: as retention makes one of what the
// default partition has.
func TestRowsThatMove(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	w.exec(`CREATE TABLE public.t (tenant text, id integer, v text, PRIMARY KEY (tenant, id)) PARTITION BY RANGE (id);
		CREATE TABLE public.t_0 PARTITION OF public.t FOR VALUES FROM (0) TO (100); CREATE TABLE public.t_rest PARTITION OF public.t DEFAULT`)
	a := w.source("a")
	r := relation("t", "id integer key", "v text")
	a.tx(many(300, func(i int) event { return ins(r, i, "x") })...)
	w.start(w.cfg)
	w.complete(a)
	o, told := w.operator(), 0
	removed, err := o.RemoveTenant(t.Context(), w.tenantPlan(o, "a"), "", func(string, int64) {
		if told++; told == 1 {
			w.exec(`BEGIN; CREATE TABLE public.t_1 (LIKE public.t INCLUDING ALL); WITH moved AS (DELETE FROM public.t_rest WHERE id < 200 RETURNING *) INSERT INTO public.t_1 SELECT * FROM moved;
				ALTER TABLE public.t ATTACH PARTITION public.t_1 FOR VALUES FROM (100) TO (200); COMMIT`)
		}
	})
	if err != nil || removed != 300 {
		t.Errorf("%d rows, %v", removed, err)
	}
	w.rows(`SELECT count(*) FROM public.t`, "0")
}

// TestRetentionTellsWhatStays: rows that are too old and that a trigger keeps do not go unsaid, and do not keep others.
func TestRetentionTellsWhatStays(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", Keep: "30 days", By: "at"})
	shop := w.source("shop")
	w.start(w.cfg)
	shop.tx(many(2500, func(i int) event { return ins(txRelation, i, ago(100), "v") })...)
	w.complete(shop)
	w.exec(`CREATE FUNCTION public.hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF OLD.id < 500 THEN RETURN NULL; END IF; RETURN OLD; END';
		CREATE TRIGGER hold BEFORE DELETE ON public.tx FOR EACH ROW EXECUTE FUNCTION public.hold()`)
	o := w.operator()
	err := o.RunRetention(t.Context(), 1_000_000, func(warehouse.Keep, int64) {}, func(warehouse.TablePartition) {})
	if err == nil || !strings.Contains(err.Error(), "500 rows were there still after their DELETE") {
		t.Errorf("got %v", err)
	}
	w.rows(`SELECT count(*), max(id) FROM public.tx`, "500|499")
}

// TestRetentionOfWhatIsKept: what something of a target keeps, a trigger or a foreign key, keeps retention from no other target. What is
// removed is noted, also of those; each of them is looked through once in retention.every, and told of all the time.
func TestRetentionOfWhatIsKept(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*"})
	shop := w.source("shop")
	s := w.start(w.cfg)
	names := []string{"cascading", "free", "held", "referred"}
	for _, name := range names {
		r := relation(name, "id integer key", "at timestamp with time zone")
		shop.tx(many(1500, func(i int) event { return ins(r, i, ago(100)) })...)
	}
	shop.tx(ins(relation("child", "id integer key"), 3))
	w.complete(shop)
	s.stop()
	w.exec(`CREATE FUNCTION public.hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF OLD.id < 5 THEN RETURN NULL; END IF; RETURN OLD; END';
		CREATE TRIGGER hold BEFORE DELETE ON public.held FOR EACH ROW EXECUTE FUNCTION public.hold();
		CREATE TABLE public.refers (id integer REFERENCES public.referred (id)); INSERT INTO public.refers VALUES (1400);
		ALTER TABLE public.child ADD CONSTRAINT of_cascading FOREIGN KEY (id) REFERENCES public.cascading (id) ON DELETE CASCADE`)
	w.cfg.Tables = []rule.Table{{From: "public.child", Create: true}, {From: "public.*", Create: true, Keep: "30 days", By: "at"}}
	w.cfg.Retention = sink.Retention{Every: time.Hour, Rate: 1_000_000}
	all := []string{`table "public.held": 5 rows were there still after their DELETE`, "refers_id_fkey", "constraint of_cascading of table public.child"}
	told := func(err error, want ...string) {
		t.Helper()
		said := fmt.Sprint(err)
		for _, part := range all {
			if strings.Contains(said, part) != slices.Contains(want, part) {
				t.Errorf("want %q of\n%s", want, said)
			}
		}
	}
	noted := func(want ...string) {
		t.Helper()
		w.rows(`SELECT topic, removed, removed_ever, cutoff > now() - interval '31 days' FROM tributary.retention ORDER BY 1`, want...)
	}
	s = w.start(w.cfg)
	noted("shop.public.cascading|0|0|f", "shop.public.free|1500|1500|t", "shop.public.held|1495|1495|f", "shop.public.referred|1000|1000|f")
	left := `SELECT (SELECT count(*) FROM public.cascading), (SELECT count(*) FROM public.child), (SELECT count(*) FROM public.held), (SELECT count(*) FROM public.referred)`
	w.eventually(true, func() any {
		return slices.ContainsFunc(s.Status().Waiting, func(wait sink.Waiting) bool { return wait.For == "retention" })
	})
	s.stop()
	round := s.Retainer()
	again := func() { w.exec(`UPDATE tributary.retention SET ran_at = ran_at - interval '2 hours'`) }
	again()
	told(round(t.Context()), all...)
	w.exec(`DROP TRIGGER hold ON public.held`)
	told(round(t.Context()), all...)
	w.rows(left, "1500|1|5|500")
	again()
	told(round(t.Context()), all[1:]...)
	noted("shop.public.cascading|0|0|f", "shop.public.free|0|1500|t", "shop.public.held|5|1500|t", "shop.public.referred|0|1000|f")

	// Who runs it by hand is told the same, and what was removed.
	w.exec(`DROP TABLE public.refers`)
	d := did{}
	err := w.operator().RunRetention(t.Context(), 1_000_000, d.rows, d.partition)
	told(err, all[2])
	d.want(t, nil, "shop.public.referred 500")
	w.rows(left, "1500|1|0|0")
}

// TestVerbThatWakesUp: a removal that was stopped, done again by somebody else, and whose tenant was brought back, removes nothing any more.
func TestVerbThatWakesUp(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	a := w.source("a")
	r, log := relation("t", "id integer key", "v text"), relation("log", "v text")
	a.tx(append(many(50, func(i int) event { return ins(r, i, "x") }), many(20, func(int) event { return ins(log, "x") })...)...)
	w.start(w.cfg)
	w.complete(a)
	all := func() {
		t.Helper()
		w.complete(a)
		w.rows(`SELECT (SELECT count(*) FROM public.t), (SELECT count(*) FROM public.log)`, "50|20")
	}
	for _, at := range []int{1, 2} { // in the middle, and before the end
		first, told := w.operator(), 0
		_, err := first.RemoveTenant(t.Context(), w.tenantPlan(first, "a"), "", func(string, int64) {
			if told++; told != at {
				return
			}
			second := w.operator()
			if _, err := second.RemoveTenant(t.Context(), w.tenantPlan(second, "a"), "", untold); err != nil {
				t.Error(err)
			}
			if _, err := second.Resume(t.Context(), warehouse.Going{Source: "a"}); err != nil {
				t.Error(err)
			}
			all()
		})
		if err == nil || !strings.Contains(err.Error(), "resumed meanwhile") || !strings.Contains(err.Error(), "removed so far") || strings.Contains(err.Error(), "again to") {
			t.Errorf("at %d: %v", at, err)
		}
		time.Sleep(2 * time.Second)
		all()
	}
	// A rebuild that was done again removes what has come, and has it come once more.
	first, told := w.operator(), 0
	err := first.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(first, "a"), "", func(string, int64) {
		if told++; told > 1 {
			return
		}
		second := w.operator()
		if err := second.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(second, "a"), "", untold); err != nil {
			t.Error(err)
		}
		all()
	})
	if err != nil {
		t.Error(err)
	}
	all()
}

// TestRebuildIsNotComplete: from the beginning of a rebuild on, progress says that what comes again is not here, and that it is once it has come,
// also where the source writes nothing any more.
func TestRebuildIsNotComplete(t *testing.T) {
	for _, consistency := range []string{"table", "source"} {
		t.Run(consistency, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.story", Mode: "history"}, rule.Table{From: "public.*"})
			w.cfg.Sources = []rule.Source{{Name: "shop", Consistency: consistency}}
			shop := w.source("shop")
			r, log, story := relation("t", "id integer key", "v text"), relation("log", "v text"), relation("story", "id integer key", "v text")
			for i := range 20 {
				shop.tx(ins(r, i, "x"), ins(log, "x"), ins(story, i, "x"))
			}
			s := w.start(w.cfg)
			w.complete(shop)
			shop.tx() // which is complete at once
			w.complete(shop)
			s.stop()
			o := w.operator()
			if err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "shop"), "", untold); err != nil {
				t.Fatal(err)
			}
			w.rows(`SELECT (SELECT count(*) FROM public.story), complete_lsn, complete_ts, lag FROM tributary.progress`, "0|∅|∅|∅")
			w.start(w.cfg)
			w.complete(shop)
			w.rows(`SELECT (SELECT count(*) FROM public.t), (SELECT count(*) FROM public.log), (SELECT count(*) FROM public.story)`, "20|20|20")
		})
	}
}

// TestBroughtBackWithoutACapture: a source that is written as a whole is there again by what its topics hold, though its capture writes nothing any more.
func TestBroughtBackWithoutACapture(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*"})
	w.cfg.Sources = []rule.Source{{Name: "shop", Consistency: "source"}}
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	shop.table(r, 2)
	for i := range 20 {
		shop.tx(ins(r, i, "x"))
	}
	w.start(w.cfg)
	w.complete(shop)
	o := w.operator()
	if _, err := o.RemoveTenant(t.Context(), w.tenantPlan(o, "shop"), "", untold); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "shop"}); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT count(*) FROM public.t`, "20")
}
