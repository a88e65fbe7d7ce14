package sink_test

import (
	"fmt"
	"testing"

	"github.com/tributary-cdc/tributary/schema"
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
