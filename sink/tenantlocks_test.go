package sink_test

import (
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/sink/rule"
)

// free says that nobody has rows locked that a query finds.
func (w *world) free(sql string) {
	w.t.Helper()
	if _, err := w.conn.Exec(w.t.Context(), sql+` FOR UPDATE NOWAIT`); err != nil {
		w.t.Errorf("%s: %v", sql, err)
	}
}

const (
	itsCheckpoints = `SELECT FROM tributary.checkpoint WHERE topic LIKE 'a.public.%'`
	itsRules       = `SELECT FROM tributary.rule WHERE topic LIKE 'a.public.%'`
	lockTarget     = `LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE`
)

// TestRebuildLooksBeforeItLocks: a rebuild looks whether all rows of a table without key are gone before it has the checkpoints, for which a sink that starts
// waits, and then ends whoever has them.
func TestRebuildLooksBeforeItLocks(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	a, r := w.source("a"), relation("t", "v text")
	s := w.start(w.cfg)
	a.tx(many(100, func(i int) event { return ins(r, i) })...)
	w.complete(a)
	s.stop()
	o, release := w.operator(), make(chan func(), 1)
	done := make(chan error, 1)
	p := w.tenantPlan(o, "a")
	go func() {
		done <- o.RebuildTenant(t.Context(), w.cfg, p, "", func(string, int64) { release <- w.lock(lockTarget) })
	}()
	unlock := <-release
	w.waiting("public%.%t", 1)
	w.free(itsCheckpoints)
	unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.rows(`SELECT count(*) FROM public.t`, "0")
	w.start(w.cfg)
	w.complete(a)
	w.rows(`SELECT count(*), count(DISTINCT v) FROM public.t`, "100|100")
}

// TestRebuildLocksTargetsBeforeRules: whoever makes a target fit has it locked, and then wants the rules of its topic.
func TestRebuildLocksTargetsBeforeRules(t *testing.T) {
	for name, columns := range map[string][]string{"with a key": {"id integer key"}, "without a key": {"v text"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
			a, r := w.source("a"), relation("t", columns...)
			s := w.start(w.cfg)
			a.snapshot(r, true)
			a.tx(many(10_100, func(i int) event { return ins(r, i) })...)
			w.complete(a)
			s.stop()
			o, other := w.operator(), w.operator()
			var unlock func()
			locked := make(chan bool)
			lock := func() { unlock = w.lock(lockTarget); close(locked) }
			if len(r.Key) > 0 {
				lock()
			}
			done := make(chan error, 1)
			p := w.tenantPlan(o, "a")
			go func() {
				done <- o.RebuildTenant(t.Context(), w.cfg, p, "", func(string, int64) {
					if unlock == nil { // and nobody knows any more that rows are removed
						if err := other.AcceptRules(t.Context(), []string{"a.public.t"}, "a/public.t", ""); err != nil {
							t.Error(err)
						}
						lock()
					}
				})
			}()
			<-locked
			w.waiting("public%.%t", 1)
			w.free(itsRules)
			unlock()
			if err := <-done; err != nil {
				t.Error(err)
			}
			w.start(w.cfg)
			w.complete(a)
			w.rows(`SELECT count(*) FROM public.t`, "10100")
		})
	}
}

// TestRebuildOfWhatComesBack: rows that a trigger has brought back while they were removed are told of, and nothing is rebuilt beside them.
func TestRebuildOfWhatComesBack(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	a, r := w.source("a"), relation("t", "v text")
	w.start(w.cfg)
	a.tx(many(10, func(i int) event { return ins(r, i) })...)
	w.complete(a)
	w.exec(`CREATE FUNCTION public.back() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.t VALUES (OLD.*); RETURN OLD; END';
		CREATE TRIGGER back BEFORE DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.back()`)
	o := w.operator()
	if err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "a"), "", untold); err == nil || !strings.Contains(err.Error(), "10 rows were there still after their DELETE") || !strings.Contains(err.Error(), "it stays paused") {
		t.Errorf("got %v", err)
	}
	w.exec(`DROP TRIGGER back ON public.t`)
	if err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "a"), "", untold); err != nil {
		t.Error(err)
	}
	w.complete(a)
	w.rows(`SELECT count(*), count(DISTINCT v) FROM public.t`, "10|10")
	w.rows(`SELECT count(*) FROM tributary.control`, "0")
}
