package sink_test

import (
	"fmt"
	"testing"

	"github.com/tributary-cdc/tributary/sink/rule"
)

// TestSourceThatWaitsKeepsNoOtherWaiting: a person has locked what one source is written to, and others that are written as a whole, too, go on meanwhile.
func TestSourceThatWaitsKeepsNoOtherWaiting(t *testing.T) {
	w := newWorld(t)
	w.cfg.Sources = []rule.Source{{Name: "*", Consistency: "source"}}
	a, b := w.source("a"), w.source("b")
	ra, rb := relation("ta", "id integer key"), relation("tb", "id integer key")
	s := w.start(w.cfg)
	a.tx(ins(ra, 0))
	b.tx(ins(rb, 0))
	w.complete(a)
	w.complete(b)
	person := w.connect(w.dsn)
	if _, err := person.Exec(t.Context(), `BEGIN; LOCK TABLE public.ta`); err != nil {
		t.Fatal(err)
	}
	a.tx(ins(ra, 1))
	w.waiting("", 1)
	for i := range 3 {
		b.tx(ins(rb, i+1))
		w.complete(b)
	}
	w.rows(`SELECT id FROM public.tb ORDER BY 1`, "0", "1", "2", "3")
	w.eventually("lock-wait true", func() any {
		st := s.Status()
		if len(st.Waiting) == 0 {
			return ""
		}
		return fmt.Sprint(st.Waiting[0].Code, " ", st.WarehouseUp)
	})
	w.eventually(1, func() any { return len(s.Status().Locks) })
	if _, err := person.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	w.complete(a)
	w.rows(`SELECT id FROM public.ta ORDER BY 1`, "0", "1")
	w.rows(`SELECT code FROM tributary.quarantine`)
	w.eventually(0, func() any { return len(s.Status().Waiting) })
}
