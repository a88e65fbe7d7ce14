package sink_test

import (
	"slices"
	"testing"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// with gives a version of a relation in which a column is added; its rows of before have a default, "" for none.
func with(rel *schema.Relation, name string, attnum int16, fill string) *schema.Relation {
	v := *rel
	v.Columns = append(slices.Clone(rel.Columns), schema.Column{Name: name, AttNum: attnum, Type: schema.Type{OID: schema.OIDInt4, Typmod: -1, Name: "integer", Class: schema.ClassBase}})
	if fill != "" {
		v.Columns[len(rel.Columns)].Default = &fill
	}
	return &v
}

// The default with which one source adds a column is that of its own rows: others lack the column, or add it with another one.
func TestDefaultsOfTenants(t *testing.T) {
	t.Parallel() // it waits most of its time
	for _, mode := range []string{"clone", "history"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.*", SID: "tenant", Mode: mode})
			r := relation("t", "id integer key", "v text")
			a, b, c := w.source("a"), w.source("b"), w.source("c")
			for _, s := range []*source{a, b, c} {
				s.table(r, 3)
			}
			for _, s := range []*source{a, b} {
				s.snapshot(r, true)
			}
			const rowsEach = 900
			rows := func(s *source) { s.tx(many(rowsEach, func(i int) event { return ins(r, i, s.name) })...) }
			rows(a)
			running := w.start(w.cfg)
			w.complete(a)
			added := with(r, "n", 3, "7")
			a.table(added, 3)
			a.tx(ins(added, 1000, "new", 1), upd(added, 0, "a", 2))
			w.complete(a)
			rows(b)
			rows(c)
			w.complete(b)
			w.complete(c)
			valid := map[string]string{"clone": "true", "history": "valid_to = 'infinity'"}[mode]
			counts := `SELECT tenant, n, count(*) FROM public.t WHERE ` + valid + ` GROUP BY 1, 2 ORDER BY 1, 2`
			w.rows(counts, "a|1|1", "a|2|1", "a|7|899", "b|∅|900", "c|∅|900")

			other := with(r, "n", 3, "9")
			b.table(other, 3)
			b.tx(upd(other, 0, "b", 3))
			w.complete(b)
			c.tx(ins(r, 1000, "c"))
			w.complete(c)
			want := []string{"a|1|1", "a|2|1", "a|7|899", "b|3|1", "b|9|899", "c|∅|901"}
			w.rows(counts, want...)

			// From the topics it is the same: rows of the version before are new in the target, and the column is there.
			w.exec(`DELETE FROM public.t WHERE tenant = 'b'`)
			o := w.operator()
			if err := o.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(o, "b"), "", untold); err != nil {
				t.Fatal(err)
			}
			w.rows(counts, want...)
			running.stop()
		})
	}
}
