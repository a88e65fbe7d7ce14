package sink_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// numbered gives a version of a relation whose columns have these numbers, of a table with an oid of its own.
func numbered(rel *schema.Relation, oid schema.OID, attnums ...int16) *schema.Relation {
	v := *rel
	v.OID, v.Columns = oid, append([]schema.Column(nil), rel.Columns...)
	for i, n := range attnums {
		v.Columns[i].AttNum = n
	}
	return &v
}

// TestColumnsOfAnotherTable: a table is another one than before, dropped and made anew, or from a dump that was loaded into another
// server, and its columns have numbers that others had in the former one. They are known by their names: nothing of the target is written before rows
// come, and what a history or a log has of the past stays.
func TestColumnsOfAnotherTable(t *testing.T) {
	t.Parallel() // it waits most of its time
	tables := map[string][2]*schema.Relation{
		// As of pg_dump: there was a second column, and a dump does not know of it.
		"dumped": {
			numbered(relation("t", "id integer key", "status text", "city text"), 1000, 1, 3, 4),
			numbered(relation("t", "id integer key", "status text", "city text"), 2000, 1, 2, 3),
		},
		"of other types": {
			numbered(relation("t", "id integer key", "status text", "city integer"), 1000, 1, 3, 4),
			numbered(relation("t", "id integer key", "status text", "city integer"), 2000, 1, 2, 3),
		},
		"with fewer columns": {
			relation("t", "id integer key", "status text", "city text"),
			numbered(relation("t", "id integer key", "city text"), 2000, 1, 2),
		},
	}
	for name, rel := range tables {
		for _, mode := range []string{"clone", "append", "history", "log"} {
			for _, sid := range []string{"", "tenant"} {
				t.Run(fmt.Sprint(name, " ", mode, " ", sid), func(t *testing.T) {
					w := newWorld(t, rule.Table{From: "public.t", Mode: mode, SID: sid})
					shop := w.source("shop")
					old, anew := rel[0], rel[1]
					row := func(r *schema.Relation, id int, status string, city int) []any {
						if len(r.Columns) == 2 {
							return []any{id, city}
						}
						return []any{id, status, city}
					}
					former := map[string]string{"clone": "id < 7", "append": "id < 7", "history": "id < 7", "log": "id < 7 AND change_op <> 'r'"}[mode]
					former = `SELECT id, status, city FROM public.t WHERE ` + former + ` ORDER BY 1, 2, 3`
					shop.snapshot(old, true)
					shop.tx(ins(old, row(old, 1, "open", 10)...), ins(old, row(old, 2, "open", 20)...))
					shop.tx(upd(old, row(old, 1, "paid", 10)...), del(old, row(old, 2, "open", 20)...))
					w.start(w.cfg)
					w.complete(shop)
					was := w.query(former)
					shop.readAnew(anew)
					w.complete(shop)
					w.rows(former, was...)
					shop.tx(snap(anew, row(anew, 1, "paid", 10)...), snap(anew, row(anew, 7, "new", 70)...))
					shop.snapshot(anew, true)
					shop.tx(ins(anew, row(anew, 8, "new", 80)...))
					w.complete(shop)
					w.rows(`SELECT code FROM tributary.quarantine`)
					w.rows(former, was...)
					w.rows(`SELECT id, city FROM public.t WHERE id >= 7 ORDER BY id`, "7|70", "8|80")
				})
			}
		}
	}
}

// keysIn gives two numbers that go to a partition as keys.
func keysIn(t *testing.T, s *source, rel *schema.Relation, partition int32) (keys []int) {
	return append(keys, keyIn(t, s, rel, partition, 0), keyIn(t, s, rel, partition, 1000))
}

// TestColumnThatIsAnotherByNow: the source drops a column, writes, and adds another one of that name. The target's has what the new one has in all rows: in those
// that have not changed since, in those that nothing but a partition behind it brings, and in a warehouse that is made from the topics. What the former one was
// stays in the past of a history and in a log.
func TestColumnThatIsAnotherByNow(t *testing.T) {
	t.Parallel() // it waits most of its time
	for _, mode := range []string{"clone", "append", "history", "log"} {
		for _, sid := range []string{"", "tenant"} {
			for _, value := range []string{"", "5"} {
				t.Run(fmt.Sprint(mode, " ", sid, " ", value), func(t *testing.T) {
					w := newWorld(t, rule.Table{From: "public.t", Mode: mode, SID: sid})
					shop := w.source("shop")
					v1 := numbered(relation("t", "id integer key", "c integer", "a text"), 1000, 1, 2, 3)
					v2 := numbered(relation("t", "id integer key", "a text"), 1000, 1, 3)
					v3 := with(v2, "c", 4, value)
					shop.table(v1, 3)
					first, second, third := keysIn(t, shop, v1, 0), keysIn(t, shop, v1, 1), keysIn(t, shop, v1, 2)
					w.start(w.cfg)
					shop.tx(ins(v1, first[0], 10, "x"), ins(v1, second[0], 20, "x"), ins(v1, third[0], 30, "x"))
					shop.tx(upd(v1, first[0], 11, "y"))
					w.complete(shop)
					shop.tx(upd(v2, first[0], "z"), ins(v2, first[1], "w"))
					w.complete(shop)
					behind := shop.lsn
					shop.lsn += 0x10000
					shop.tx(upd(v3, second[0], "y", 99))
					w.complete(shop)
					// A partition that is behind has rows of the version before yet, and of the one before that.
					shop.lsn = behind
					shop.tx(upd(v1, third[0], 31, "y"), ins(v2, third[1], "w"))
					shop.lsn += 0x20000
					shop.tx(upd(v3, second[0], "y", 98))
					w.complete(shop)
					is := value
					if value == "" {
						is = "∅"
					}
					want := map[string][]string{
						"history": {is + "|w", is + "|w", is + "|x", is + "|x", is + "|y", is + "|z", "10|x", "11|y", "98|y", "99|y"},
						"log":     {"10|x", "11|y", "20|x", "30|x", "31|y", "98|y", "99|y", "∅|w", "∅|w", "∅|z"},
					}[mode]
					if want == nil {
						want = []string{is + "|w", is + "|w", is + "|y", is + "|z", "98|y"}
					}
					slices.Sort(want)
					w.rows(`SELECT coalesce(c::text, '∅') COLLATE "C", a FROM public.t ORDER BY 1, 2`, want...)
					rebuilt := w.cfg
					rebuilt.Group = "rebuilt"
					rebuilt.Tables = []rule.Table{{From: "public.t", To: "rebuilt.t", Mode: mode, SID: sid, Create: true}}
					w.start(rebuilt)
					now := map[string]string{"history": " WHERE valid_to = 'infinity'"}[mode]
					w.rows(`SELECT tributary.wait_for('shop', '`+change.LSN(shop.last.EndLSN).String()+`', '30 s', 'rebuilt')`, "t")
					w.rows(`(SELECT id, c, a FROM public.t` + now + ` EXCEPT ALL SELECT id, c, a FROM rebuilt.t` + now + `) UNION ALL (SELECT id, c, a FROM rebuilt.t` + now + ` EXCEPT ALL SELECT id, c, a FROM public.t` + now + `)`)
				})
			}
		}
	}
}

// TestFirstVersionThatIsMet: a partition has rows of a version before that by which the target was made, without a column that was added with a default. They get it, also
// where nothing is known meanwhile of which columns are which, as the catalog was ahead of a version; and a row without the column gets none once the source has dropped it.
func TestFirstVersionThatIsMet(t *testing.T) {
	for _, mode := range []string{"clone", "history"} {
		for _, sid := range []string{"", "tenant"} {
			for _, unnumbered := range []bool{false, true} {
				t.Run(fmt.Sprint(mode, " ", sid, " ", unnumbered), func(t *testing.T) {
					w := newWorld(t, rule.Table{From: "public.t", Mode: mode, SID: sid})
					shop := w.source("shop")
					v1 := relation("t", "id integer key", "a text")
					v2 := with(v1, "c", 3, "5")
					shop.table(v1, 3)
					first, third := keysIn(t, shop, v1, 0), keysIn(t, shop, v1, 2)
					w.start(w.cfg)
					behind := shop.lsn
					shop.lsn += 0x10000
					shop.tx(ins(v2, first[0], "x", 1))
					w.complete(shop)
					if unnumbered {
						shop.tx(upd(numbered(v2, v2.OID, 0, 0, 0), first[0], "x", 1))
						w.complete(shop)
						shop.tx(upd(numbered(with(v2, "e", 0, ""), v2.OID, 0, 0, 0), first[0], "x", 1, 4))
						w.complete(shop)
					}
					shop.lsn = behind
					shop.tx(ins(v1, third[0], "x"))
					shop.lsn += 0x20000
					w.complete(shop)
					shop.tx(upd(v2, first[0], "y", 2))
					w.complete(shop)
					rows := `SELECT c, a FROM public.t` + map[string]string{"history": ` WHERE valid_to = 'infinity'`}[mode] + ` ORDER BY 1, 2`
					w.rows(rows, "2|y", "5|x")
					shop.tx(ins(with(v1, "d", 4, ""), first[1], "z", 3))
					w.complete(shop)
					w.rows(rows, "2|y", "5|x", "∅|z")
				})
			}
		}
	}
}

// TestDefaultOfADroppedColumn: the default with which a column was added is of the rows of then: once the source has dropped the column, new ones have none.
func TestDefaultOfADroppedColumn(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t"})
	shop := w.source("shop")
	v1 := relation("t", "id integer key", "a text")
	w.start(w.cfg)
	shop.tx(ins(v1, 1, "x"))
	w.complete(shop)
	shop.tx(ins(with(v1, "c", 3, "5"), 2, "x", 6))
	w.complete(shop)
	shop.tx(ins(relation("t", "id integer key", "a text"), 3, "x"))
	w.complete(shop)
	w.rows(`SELECT id, c FROM public.t ORDER BY 1`, "1|5", "2|6", "3|∅")
}

// TestDefaultOfAColumnLeftOut: a rule has come to leave out a column that the source has added with a default. A record of before the column is written without.
func TestDefaultOfAColumnLeftOut(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", Columns: []rule.Column{{From: "id"}, {From: "a"}, {From: "c"}}})
	shop := w.source("shop")
	older := relation("t", "id integer key", "a text")
	newer := with(older, "c", 3, "5")
	shop.table(older, 3)
	first, third := keysIn(t, shop, older, 0), keysIn(t, shop, older, 2)
	s := w.start(w.cfg)
	behind := shop.lsn
	shop.lsn += 0x10000
	shop.tx(ins(newer, first[0], "a1", 1))
	w.complete(shop)
	s.stop()
	w.cfg.Tables = []rule.Table{{From: "public.t", Columns: []rule.Column{{From: "id"}, {From: "a"}}}}
	w.start(w.cfg)
	shop.lsn = behind
	shop.tx(ins(older, third[0], "a3"))
	shop.lsn += 0x20000
	w.complete(shop)
	w.rows(`SELECT a, c FROM public.t ORDER BY a`, "a1|1", "a3|∅")
}

// TestRuleThatTakesAnotherColumn: a rule has come to fill a column of the target from another one of the source. A record of a version of before has
// that one, too.
func TestRuleThatTakesAnotherColumn(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", Columns: []rule.Column{{From: "id"}, {From: "a", As: "x"}}})
	shop := w.source("shop")
	v1 := relation("t", "id integer key", "a text", "b text")
	v2 := with(v1, "c", 4, "")
	shop.table(v1, 3)
	first, third := keysIn(t, shop, v1, 0), keysIn(t, shop, v1, 2)
	s := w.start(w.cfg)
	behind := shop.lsn
	shop.lsn += 0x10000
	shop.tx(ins(v2, first[0], "a1", "b1", 1))
	w.complete(shop)
	s.stop()
	cfg := w.cfg
	cfg.Tables = []rule.Table{{From: "public.t", Columns: []rule.Column{{From: "id"}, {From: "b", As: "x"}}}}
	w.start(cfg)
	shop.lsn = behind
	shop.tx(ins(v1, third[0], "a3", "b3"))
	shop.lsn += 0x20000
	shop.tx(ins(v2, first[1], "a2", "b2", 2))
	w.complete(shop)
	w.rows(`SELECT x FROM public.t ORDER BY x`, "a1", "b2", "b3")
}

// TestVersionThatComesAgain: a column comes and goes while a partition is behind. What that partition has is new then as rows of the version before, and has the default; what
// comes of that version after the column has gone has none.
func TestVersionThatComesAgain(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	v1 := numbered(relation("t", "id integer key", "a text"), 1000, 1, 2)
	v2 := with(v1, "c", 3, "5")
	shop.table(v1, 2)
	first, second := keysIn(t, shop, v1, 0), keysIn(t, shop, v1, 1)
	w.start(w.cfg)
	shop.tx(ins(v1, first[0], "x"), ins(v1, second[0], "x"))
	w.complete(shop)
	behind := shop.lsn
	shop.lsn += 0x10000
	shop.tx(upd(v2, second[0], "y", 9))
	w.complete(shop)
	shop.lsn = behind
	shop.tx(ins(v1, first[1], "w"))
	shop.lsn += 0x20000
	shop.tx(upd(v2, second[0], "y", 8))
	w.complete(shop)
	shop.tx(ins(v1, keyIn(t, shop, v1, 0, 2000), "new"), ins(v1, second[1], "new"))
	w.complete(shop)
	w.rows(`SELECT a, c FROM public.t ORDER BY a`, "new|∅", "new|∅", "w|5", "x|5", "y|8")
}
