package sink_test

import (
	"fmt"
	"testing"

	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// spellings give value i of a type, in one spelling and in another.
var spellings = map[string]func(i, how int) string{
	"interval": func(i, how int) string {
		return []string{fmt.Sprintf("%d days", i+2), fmt.Sprintf("%d:00:00", 24*(i+2))}[how]
	},
	"jsonb":    func(i, how int) string { return fmt.Sprintf("{\"a\": %d.%0*d}", i, 1+how, 0) },
	"numrange": func(i, how int) string { return fmt.Sprintf("[%d.%0*d,%d.5)", i, 1+how, 0, i) },
	"numeric":  func(i, how int) string { return fmt.Sprintf("%d.%0*d", i, 1+how, 0) },
}

// TestKeysSpelledAnew: a key changes to another spelling of the same value, and the UPDATE does not send a large value; or a row is
// read anew and spells its key otherwise than the target does. For the fold they are two keys, for the target one.
func TestKeysSpelledAnew(t *testing.T) {
	for typ, spell := range spellings {
		t.Run(typ, func(t *testing.T) {
			sizes(t, func(t *testing.T, n int) {
				w := newWorld(t)
				shop := w.source("shop")
				r := relation("t", "k "+typ+" key", "small integer", "big text")
				w.start(w.cfg)
				all := func(of func(i int) []event) {
					t.Helper()
					var events []event
					for i := range n {
						events = append(events, of(i)...)
					}
					shop.tx(events...)
					w.complete(shop)
				}
				// has waits until all rows have a small value and their keys a spelling.
				has := func(small, how int) {
					t.Helper()
					want := make([]string, n)
					for i := range want {
						want[i] = fmt.Sprintf("%s|%d|big%d", spell(i, how), small, i)
					}
					w.rows(`SELECT k, small, big FROM public.t ORDER BY substr(big, 4)::integer`, want...)
				}
				key := func(i, how int) []any { return []any{spell(i, how)} }
				all(func(i int) []event { return []event{ins(r, spell(i, 0), 1, fmt.Sprint("big", i))} })
				has(1, 0)
				if n == 3 { // what may keep rows is looked after
					w.exec(`CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
						CREATE TRIGGER audit BEFORE DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.audit()`)
				}
				all(func(i int) []event { return move(r, key(i, 0), spell(i, 1), 2, keep) })
				has(2, 1)
				all(func(i int) []event {
					return append(move(r, key(i, 1), spell(i, 0), 3, keep), move(r, key(i, 0), spell(i, 1), 4, keep)...)
				})
				has(4, 1)
				all(func(i int) []event { // each to the key of the next, in another spelling, by one in between
					if i > 0 {
						return nil
					}
					events := move(r, key(n-1, 1), spell(n, 0), 5, keep)
					for j := n - 2; j >= 0; j-- {
						events = append(events, move(r, key(j, 1), spell(j+1, 0), 5, keep)...)
					}
					return append(events, move(r, key(n, 0), spell(0, 0), 5, keep)...)
				})
				w.rows(`SELECT small, count(*), count(DISTINCT big) FROM public.t GROUP BY 1`, fmt.Sprintf("5|%d|%d", n, n))
				all(func(i int) []event { return []event{snap(r, spell(i, 1), 6, fmt.Sprint("big", i))} })
				has(6, 1)
				all(func(i int) []event {
					return []event{del(r, key(i, 1)...), ins(r, spell(i, 0), 7, fmt.Sprint("big", i))}
				})
				has(7, 0)
				w.rows(`SELECT code FROM tributary.quarantine`)
			})
		})
	}
}

// TestParkedSpellings: a row is put aside and deleted, and comes again under another spelling of its key; or its key changes its
// spelling while it is aside. The retry undoes nothing of what came later. Where the spellings of a key cannot be told to be one
// row's, nothing is put aside.
func TestParkedSpellings(t *testing.T) {
	t.Parallel() // it waits most of its time
	for typ, spell := range spellings {
		t.Run(typ, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.*", OnError: "park"})
			w.exec(`CREATE TABLE public.t (k ` + typ + ` PRIMARY KEY, note text CHECK (note <> 'poison'))`)
			shop := w.source("shop")
			r := relation("t", "k "+typ+" key", "note text")
			w.start(w.cfg)
			key := func(i, how int) []any { return []any{spell(i, how)} }
			shop.tx(ins(r, spell(2, 0), "fine"), ins(r, spell(0, 0), "poison"), ins(r, spell(1, 0), "poison"))
			if typ == "numeric" {
				w.complete(shop)
			} else {
				held := `SELECT code, next_offset, message LIKE '%spelled in several ways%' FROM tributary.quarantine`
				w.rows(held, "constraint-violation|1|f")
				if _, err := w.operator().Resume(t.Context(), warehouse.Going{Source: "shop", Remedy: warehouse.Park}); err != nil {
					t.Fatal(err)
				}
				w.rows(held, "constraint-violation|1|t")
			}
			shop.tx(del(r, key(0, 0)...))
			shop.tx(ins(r, spell(0, 1), "new"), upd(r, spell(2, 0), "finer"))
			shop.tx(append(move(r, key(1, 0), spell(1, 1), keep), upd(r, spell(1, 1), "mended"))...)
			if typ == "numeric" {
				w.complete(shop)
				w.rows(`SELECT note FROM public.t`, "finer")
				w.rows(`SELECT count(*) FROM tributary.parked`, "7")
			}
			w.exec(`ALTER TABLE public.t DROP CONSTRAINT t_note_check; DELETE FROM tributary.quarantine`)
			if out := w.retry(w.operator(), "public.t"); len(out.Failed) > 0 {
				t.Errorf("got %+v", out)
			}
			w.rows(`SELECT k, note FROM public.t ORDER BY k`, spell(0, 1)+"|new", spell(1, 1)+"|mended", spell(2, 0)+"|finer")
			w.rows(`SELECT count(*) FROM tributary.parked`, "0")
		})
	}
}
