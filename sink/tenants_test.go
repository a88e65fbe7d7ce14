package sink_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
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
	if first > 15*time.Second {
		t.Errorf("the start took %s", first)
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
				c.tx(ins(rel, 1, "c"))
				w.start(w.cfg)
				w.complete(a)
				w.complete(b)
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
