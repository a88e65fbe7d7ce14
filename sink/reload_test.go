package sink_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// readAnew publishes the record that begins a reload.
func (s *source) readAnew(rel *schema.Relation) {
	s.w.t.Helper()
	s.snapshot(rel, false)
	s.tx(event{op: change.Truncate, rel: rel, reload: true})
}

// snapshot has the progress records from now on say how far the reading of a table is.
func (s *source) snapshot(rel *schema.Relation, done bool) {
	for i := range s.tables {
		if s.tables[i].Table == rel.Name {
			s.tables[i].Done = done
			return
		}
	}
	s.tables = append(s.tables, record.TableProgress{Schema: rel.Schema, Table: rel.Name, Done: done, Level: "all"})
}

// swept waits until no reload is open.
func (w *world) swept() {
	w.t.Helper()
	w.rows(`SELECT topic FROM tributary.reload`)
	w.rows(`SELECT relname FROM pg_class WHERE relname LIKE 'seen\_%'`)
}

// watch reads a number all the time, until the end is called, which fails the test if it ever was below least.
func (w *world) watch(least int, sql string) (end func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	conn := w.connect(w.dsn)
	type result struct {
		reads, lowest int
		err           error
	}
	results := make(chan result, 1)
	go func() {
		r := result{lowest: 1 << 30}
		for ; ctx.Err() == nil && r.err == nil; r.reads++ {
			var n int
			r.err = conn.QueryRow(context.Background(), sql).Scan(&n)
			r.lowest = min(r.lowest, n)
		}
		results <- r
	}()
	return func() {
		w.t.Helper()
		cancel()
		if r := <-results; r.err != nil || r.reads < 10 || r.lowest < least {
			w.t.Errorf("%d reads, the least was %d rows, want %d: %v", r.reads, r.lowest, least, r.err)
		}
	}
}

// TestReloadsWaitForNobody: whoever looks at the tables that are read anew, as every sink does all the time, does not wait for one of them with others in his
// hands.
func TestReloadsWaitForNobody(t *testing.T) {
	w := newWorld(t)
	shop, r, other := w.source("shop"), relation("t", "id integer key", "v text"), relation("other", "id integer key")
	w.start(w.cfg)
	shop.tx(ins(r, 1, "x"), ins(r, 2, "x"), ins(other, 1))
	w.complete(shop)
	shop.readAnew(r)
	shop.readAnew(other)
	w.rows(`SELECT count(*) FROM tributary.reload`, "2")
	release := w.lock(`SELECT FROM tributary.reload WHERE topic = 'shop.public.t' FOR UPDATE`)
	shop.snapshot(r, true)
	shop.snapshot(other, true)
	shop.tx(snap(r, 1, "y"), snap(other, 1))
	w.rows(`SELECT topic FROM tributary.reload`, "shop.public.t") // the other one ends
	ctx, cancel := context.WithTimeout(t.Context(), pgtest.Patience/3)
	defer cancel()
	session := w.group("warehouse", "other").Session()
	defer session.Close(context.Background())
	if _, err := session.Reloads(ctx); err != nil {
		t.Error(err)
	}
	release()
	w.swept()
	w.rows(`SELECT id, v FROM public.t`, "1|y")
}

// TestReload: a table of four partitions, written by two sinks, is read anew while it changes. No reader ever sees less
// than what stays, and in the end it is what the source says.
func TestReload(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t, rule.Table{From: "public.t", To: "public.t", SID: "tenant"})
	w.cfg.Batch.Rows = 100
	shop, other := w.source("shop"), w.source("other")
	r := relation("t", "id integer key", "v text")
	shop.table(r, 4)
	foreign := relation("t", "id integer key", "v text")
	other.table(foreign, 1)
	one, two := w.start(w.cfg), w.start(w.cfg)
	w.eventually(true, func() any {
		a, b := one.Status().Partitions, two.Status().Partitions
		return a+b == 7 && a > 0 && b > 0
	})
	const rows, stay = 2000, 1500
	shop.snapshot(r, true)
	shop.tx(many(rows, func(i int) event { return ins(r, i, "old") })...)
	other.tx(many(10, func(i int) event { return ins(foreign, i, "other") })...)
	w.complete(shop)
	w.complete(other)

	end := w.watch(stay-3, `SELECT count(*) FROM public.t WHERE tenant = 'shop'`) // three are deleted and moved below
	chunk := func(from, to int, v string) {
		shop.tx(many(to-from, func(i int) event { return snap(r, from+i, v) })...)
	}
	shop.readAnew(r) // 1500 to 1999 are gone at the source, and nobody has said so
	chunk(0, 500, "new")
	shop.readAnew(r) // once more from the beginning
	chunk(0, 300, "newer")
	shop.tx(upd(r, 0, "changed"), del(r, 1), ins(r, 5000, "inserted"), upd(r, 1000, keep), ins(r, 1999, "again"))
	shop.tx(move(r, []any{2, nil}, 6000, "moved")...)
	shop.tx(move(r, []any{1001, nil}, 6001, keep)...)
	one.stop()
	chunk(300, 1000, "newer")
	one = w.start(w.cfg)
	chunk(1002, 1500, "newer")
	chunk(1000, 1001, "newer")
	chunk(6001, 6002, "newer")
	shop.snapshot(r, true)
	shop.tx(ins(r, 7000, "late"))
	shop.tx(del(r, 3))
	w.complete(shop)
	w.swept()
	end()
	w.rows(`SELECT count(*) FROM public.t WHERE tenant = 'shop'`, fmt.Sprint(stay-1-1-1-1+5))
	w.rows(`SELECT id, v FROM public.t WHERE tenant = 'shop' AND (v <> 'newer' OR id > 1499) ORDER BY id`,
		"0|changed", "1999|again", "5000|inserted", "6000|moved", "6001|newer", "7000|late")
	w.rows(`SELECT count(*) FROM public.t WHERE tenant = 'other'`, "10")
	w.rows(`SELECT count(*) FROM public.t WHERE tenant = 'shop' AND id IN (1, 2, 3, 1001)`, "0")

	rebuilt := w.cfg
	rebuilt.Group = "rebuilt"
	rebuilt.Tables = []rule.Table{{From: "public.t", To: "rebuilt.t", SID: "tenant", Create: true}}
	w.start(rebuilt)
	w.rows(`SELECT tributary.wait_for('shop', '`+change.LSN(shop.last.EndLSN).String()+`', '30 s', 'rebuilt')`, "t")
	w.swept()
	w.rows(`(TABLE public.t EXCEPT TABLE rebuilt.t) UNION ALL (TABLE rebuilt.t EXCEPT TABLE public.t)`)
}

// TestReloadTakesNothingBack: a source that does nothing is read anew at the commit that it is complete at. While what is gone is
// still to be removed, it is as complete as it was.
func TestReloadTakesNothingBack(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	shop.snapshot(r, true)
	shop.tx(ins(r, 1, "stays"), ins(r, 2, "goes"))
	w.start(w.cfg)
	w.complete(shop)
	complete := w.query(`SELECT complete_lsn FROM tributary.progress`)
	together := func(done bool, events ...event) {
		t.Helper()
		shop.snapshot(r, done)
		shop.tables[0].DoneLSN = record.LSN(shop.lsn)
		if err := shop.client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		shop.publish(shop.lsn, shop.now(), events...)
		shop.progress()
		if err := shop.client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
	together(false, event{op: change.Truncate, rel: r, reload: true}, snap(r, 1, "new"))
	w.rows(`SELECT v FROM public.t ORDER BY id`, "new", "goes")
	lock := w.connect(w.dsn)
	tx, err := lock.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `LOCK TABLE public.t IN SHARE MODE`); err != nil {
		t.Fatal(err)
	}
	together(true)
	w.rows(`SELECT n, tables->'shop.public.t'->>'done' FROM tributary.source`, "3|true")
	if got := w.query(`SELECT count(*), min(complete_lsn::text) FROM tributary.progress, tributary.reload`); got[0] != "1|"+complete[0] {
		t.Errorf("complete up to %v while the reload ends, it was %v", got, complete)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.swept()
	w.complete(shop)
	w.rows(`SELECT v FROM public.t`, "new")
}

// TestReloadOfOneBatch: what came before the mark has not come again, even if it comes in the same batch; and rows few
// enough for one statement are noted as those are that are copied.
func TestReloadOfOneBatch(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t)
	w.cfg.Batch.Age = 500 * time.Millisecond
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	shop.tx(ins(r, 1, "a"), ins(r, 2, "a"), ins(r, 3, "a"))
	shop.readAnew(r)
	shop.tx(snap(r, 2, "b"))
	shop.snapshot(r, true)
	shop.tx(ins(r, 4, "b"))
	s := w.start(w.cfg)
	w.complete(shop)
	w.swept()
	w.rows(`SELECT id, v FROM public.t ORDER BY id`, "2|b", "4|b")
	// A TRUNCATE of the source's own in the middle of a reload is what it ever was.
	shop.readAnew(r)
	shop.tx(snap(r, 2, "c"), snap(r, 4, "c"))
	w.rows(`SELECT topic FROM tributary.reload`, "shop.public.t")
	open := func(st *sink.Status) any { return fmt.Sprint(st.Tables[0].State, " ", st.Tables[0].ReloadSince != nil) }
	w.eventually("snapshotting true", func() any { return open(s.Status()) })
	if st, err := w.operator().Status(t.Context(), w.cfg); err != nil || open(st) != "snapshotting true" { // no sink is asked
		t.Errorf("the warehouse says %+v, %v", st, err)
	}
	shop.tx(trunc(r))
	shop.tx(ins(r, 9, "d"))
	shop.snapshot(r, true)
	shop.tx()
	w.complete(shop)
	w.swept()
	w.rows(`SELECT id, v FROM public.t ORDER BY id`, "9|d")
}

// TestReloadKeepsWhatRulesKeep: a target whose rule ignores deletes loses nothing. Nor does one that ignores the rows of the reading themselves, or the
// update that comes instead of a row of it, which was changed meanwhile.
func TestReloadKeepsWhatRulesKeep(t *testing.T) {
	for ignored, want := range map[string][]string{"delete": {"1|a", "2|b", "3|b"}, "update": {"1|a", "2|b", "3|b"}, "insert": {"1|c", "2|a"}} {
		t.Run(ignored, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.t", To: "public.t", Ignore: []string{ignored}}, rule.Table{From: "*.*", To: "{schema}.{table}"})
			shop := w.source("shop")
			r, bag := relation("t", "id integer key", "v text"), relation("bag", "v text")
			w.start(w.cfg)
			first := ins
			if ignored == "insert" {
				first = upd
			}
			shop.tx(first(r, 1, "a"), first(r, 2, "a"), ins(bag, "x"), ins(bag, "x"))
			shop.snapshot(bag, false)
			shop.readAnew(r)
			shop.tx(snap(r, 2, "b"), event{op: change.Truncate, rel: bag, reload: true})
			if ignored != "delete" {
				shop.tx(upd(r, 1, "c")) // the row itself does not come
			}
			shop.tx(snap(bag, "x"))
			shop.snapshot(r, true)
			shop.snapshot(bag, true)
			shop.tx(ins(r, 3, "b"))
			w.complete(shop)
			w.swept()
			w.rows(`SELECT id, v FROM public.t ORDER BY id`, want...)
			w.rows(`SELECT v FROM public.bag`, "x")
		})
	}
}

// TestReloadOfWhatIsParked: a row whose record of the reading was put aside is not gone at the source.
func TestReloadOfWhatIsParked(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", OnError: "park"})
	r, after := w.checked("checked"), relation("later", "id integer key")
	shop := w.source("shop")
	w.start(w.cfg)
	shop.tx(ins(r, 1, "goes"), ins(r, 7, "stays"), ins(after, 1))
	shop.readAnew(r)
	shop.readAnew(after)
	shop.tx(snap(r, 7, "poison"))
	shop.snapshot(r, true)
	shop.tx()
	w.rows(`SELECT key IS NOT NULL FROM tributary.parked`, "t")
	w.rows(`SELECT vector IS NOT NULL FROM tributary.reload ORDER BY topic`, "t", "f")
	shop.snapshot(after, true)
	shop.tx(ins(after, 2))
	w.rows(`SELECT topic FROM tributary.reload`, "shop.public.checked") // that of the other one has ended, which was due behind
	w.rows(`SELECT id, note FROM public.checked ORDER BY id`, "1|goes", "7|stays")
	w.exec(`ALTER TABLE public.checked DROP CONSTRAINT fine`)
	if out := w.retry(w.operator(), "public.checked"); out.Applied != 1 {
		t.Fatalf("got %+v", out)
	}
	w.swept()
	w.rows(`SELECT id, note FROM public.checked`, "7|poison")
}

// TestReloadWhole: a source that is written as a whole.
func TestReloadWhole(t *testing.T) {
	w := newWholeWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	shop.table(r, 4)
	w.start(w.cfg)
	shop.snapshot(r, true)
	shop.tx(many(1000, func(i int) event { return ins(r, i, "old") })...)
	w.complete(shop)
	end := w.watch(800, `SELECT count(*) FROM public.t`)
	for range 2 {
		shop.readAnew(r)
		for from := 0; from < 800; from += 200 {
			shop.tx(many(200, func(i int) event { return snap(r, from+i, "new") })...)
		}
	}
	shop.tx(ins(r, 2000, "inserted"))
	w.rows(`SELECT count(*) FROM public.t`, "1001")
	shop.snapshot(r, true)
	shop.tx(upd(r, 0, "changed"))
	w.complete(shop)
	w.rows(`SELECT v, count(*) FROM public.t GROUP BY 1 ORDER BY 1`, "changed|1", "inserted|1", "new|799")
	w.swept()
	end()
}

// TestReloadOfRowsThatStay: a trigger keeps the rows from being deleted that are gone at the source, then a foreign key. The reload does not end before
// they are, and nothing is told of a table that is held.
func TestReloadOfRowsThatStay(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t)
	shop, r := w.source("shop"), relation("t", "id integer key")
	s := w.start(w.cfg)
	shop.tx(ins(r, 1), ins(r, 2))
	w.complete(shop)
	w.exec(`CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER audit BEFORE DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.audit()`)
	shop.readAnew(r)
	shop.snapshot(r, true)
	shop.tx(snap(r, 1))
	s.reads("/", "1 rows were there still after their DELETE")
	w.rows(`SELECT topic FROM tributary.reload`, "shop.public.t")
	w.exec(`CREATE TABLE public.refers (id integer REFERENCES public.t (id)); INSERT INTO public.refers VALUES (2); DROP TRIGGER audit ON public.t`)
	s.reads("/", "refers_id_fkey", "rows that are gone at the source stay; all else goes on", "remove what refers to them, or drop the constraint")
	if _, page := s.get("/"); strings.Contains(page, "SOURCE/TABLE") {
		t.Errorf("it tells of a table that is held:\n%s", page)
	}
	w.exec(`DROP TABLE public.refers`)
	w.swept()
	w.rows(`SELECT id FROM public.t`, "1")
}

// TestReloadGivenUp: the key of a target is altered while its table is read anew. What is gone at the source stays, and that is told until a reload
// has ended: rows that only come again remove nothing.
func TestReloadGivenUp(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t)
	shop, r := w.source("shop"), relation("t", "id integer key")
	s := w.start(w.cfg)
	shop.snapshot(r, true)
	shop.tx(ins(r, 1), ins(r, 2), ins(r, 3))
	w.complete(shop)
	shop.readAnew(r)
	shop.tx(snap(r, 1))
	w.rows(`SELECT count(*) FROM tributary.reload`, "1")
	w.exec(`ALTER TABLE public.t ALTER COLUMN id TYPE bigint`)
	shop.tx(snap(r, 2))
	shop.snapshot(r, true)
	shop.tx()
	w.complete(shop)
	w.swept()
	const told = "read anew: rows that are gone at the source may be there still"
	tells := func() any {
		for _, n := range s.Status().Needs {
			if n.Code == trouble.RowsOutdated && strings.Contains(n.Why, told) {
				return n.Do[0].Command
			}
		}
		return ""
	}
	w.rows(`SELECT id FROM public.t ORDER BY 1`, "1", "2", "3")
	w.eventually("capture snapshot --reload --wait --table public.t", tells)
	w.exec(`UPDATE tributary.rule SET former = former || '[{"lost": "mark", "until": "2026-01-01T00:00:00Z", "era": 1, "lsn": "0/0"}]' WHERE topic = 'shop.public.t'`)
	shop.begins(r)
	shop.tx(snap(r, 1), snap(r, 2))
	shop.snapshot(r, true)
	shop.tx(ins(r, 4))
	w.complete(shop)
	w.rows(`SELECT count(*) FROM tributary.rule WHERE former @> '[{"lost": "mark"}]'`, "0")
	if kept := w.query(`SELECT count(*) FROM tributary.rule WHERE former @> '[{"reload": true}]'`); kept[0] != "1" {
		t.Error("it is forgotten, though nothing was removed")
	}
	shop.begins(r)
	shop.readAnew(r)
	shop.tx(snap(r, 1), snap(r, 4))
	shop.snapshot(r, true)
	shop.tx()
	w.complete(shop)
	w.swept()
	w.rows(`SELECT id FROM public.t ORDER BY 1`, "1", "4")
	w.eventually("", tells)
	w.rows(`SELECT former FROM tributary.rule WHERE topic = 'shop.public.t'`, "[]")
}
