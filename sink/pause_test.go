package sink_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

func TestPause(t *testing.T) {
	w := newWorld(t)
	a, b := relation("a", "id integer key"), relation("b", "id integer key")
	shop := w.source("shop")
	shop.tx(ins(a, 1), ins(b, 1))
	one := w.start(w.cfg)
	w.complete(shop)
	o := w.operator()
	if err := o.Pause(t.Context(), "shop", "public.a", "index build", 0); err != nil {
		t.Fatal(err)
	}
	state := func(s *sink.Sink) any {
		for _, table := range s.Status().Tables {
			if table.Table == "public.a" {
				return table.State + " " + table.PausedReason
			}
		}
		return ""
	}
	w.eventually("paused index build", func() any { return state(one.Sink) })
	shop.tx(ins(a, 2), ins(b, 2))
	w.rows(`SELECT id FROM public.b ORDER BY 1`, "1", "2")
	// A restart keeps it, and how long what waits has been waiting.
	one.stop()
	began := time.Now()
	two := w.start(w.cfg)
	w.eventually(true, func() any {
		for _, table := range two.Status().Tables {
			if table.Table == "public.a" && table.BehindSeconds != nil {
				return *table.BehindSeconds > time.Since(began).Seconds() && *table.Records > 0
			}
		}
		return "no table"
	})
	shop.tx(ins(a, 3), ins(b, 3))
	w.rows(`SELECT id FROM public.b ORDER BY 1`, "1", "2", "3")
	w.eventually("paused index build", func() any { return state(two.Sink) })
	w.rows(`SELECT id FROM public.a`, "1")
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.a"}); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT id FROM public.a ORDER BY 1`, "1", "2", "3")
	// One that ends by itself, of everything.
	if err := o.Pause(t.Context(), "", "", "", 1); err != nil {
		t.Fatal(err)
	}
	shop.tx(ins(a, 4))
	w.complete(shop)
	w.rows(`SELECT verb, subject FROM tributary.operation ORDER BY at`, "pause|shop/public.a", "resume|shop/public.a", "pause|everything")
	st, err := o.Status(t.Context(), w.cfg)
	if err != nil || len(st.Tables) != 2 || !strings.HasPrefix(st.Headline, "is healthy: ") {
		t.Fatalf("got %+v, %v", st, err)
	}
}

// TestWait: it ends when what is in Kafka is applied, and says what is not.
func TestWait(t *testing.T) {
	w := newWorld(t)
	w.cfg.Sources = []rule.Source{{Name: "whole", Consistency: "source"}, {Name: "*"}}
	r := w.checked("checked")
	shop, whole := w.source("shop"), w.source("whole")
	shop.table(r, 2)
	shop.tx(many(100, func(i int) event { return ins(r, i, "fine") })...)
	whole.tx(ins(relation("other", "id integer key"), 1))
	o := w.operator()
	missing := func() func() any {
		m, err := o.Until(t.Context(), w.cfg, "caught-up", "")
		if err != nil {
			t.Fatal(err)
		}
		return func() any { return m(nil) }
	}
	s := w.start(w.cfg)
	w.eventually(true, func() any { return s.Status().Partitions > 0 })
	w.eventually("", missing())
	if got := w.query(`SELECT (SELECT count(*) FROM public.checked), (SELECT count(*) FROM public.other)`); got[0] != "100|1" {
		t.Errorf("got %s", got)
	}
	shop.tx(ins(r, 1000, "poison"))
	lacks := missing()
	w.eventually(true, func() any {
		return strings.HasPrefix(lacks().(string), `1 of 4 partitions are behind: topic "shop.public.checked"`)
	})
}

// TestBarrierWaits: a TRUNCATE that one of two partitions does not come to, as it is held before, is told of, with which it is and why, until
// both have passed it.
func TestBarrierWaits(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t)
	r := w.checked("t")
	shop := w.source("shop")
	shop.table(r, 2)
	shop.tx(ins(r, 1, "poison"))
	shop.tx(trunc(r))
	one, two, o := w.start(w.cfg), w.start(w.cfg), w.operator()
	told := func() (needs []service.Need) { // by both, of which one has come there, and by who asks the warehouse
		asked, err := o.Status(t.Context(), w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range []*sink.Status{one.StatusOf(service.Asked{}), two.StatusOf(service.Asked{}), asked} {
			for _, n := range st.Needs {
				if n.Code == trouble.BarrierWaiting {
					n.Since = time.Time{} // each saw it come there
					needs = append(needs, n)
				}
			}
		}
		return needs
	}
	w.eventually(true, func() any {
		a, b := one.Status().Partitions, two.Status().Partitions
		return a > 0 && b > 0 && len(told()) == 3
	})
	needs, held := told(), w.query(`SELECT partition FROM tributary.quarantine`)[0]
	n := needs[0]
	for i := range needs {
		if !reflect.DeepEqual(needs[i], n) {
			t.Errorf("one says\n%+v\nanother\n%+v", n, needs[i])
		}
	}
	there := map[string]string{"0": "1", "1": "0"}[held]
	if n.Urgent || n.Subject != "shop/public.t" || !strings.HasSuffix(n.What, ": of 2 partitions "+there+" is there") || len(n.Do) != 1 || n.Do[0].Command != "sink resume shop/public.t" ||
		n.Do[0].Note != "partition "+held+" is held by constraint-violation: mend that first" {
		t.Errorf("partition %s is held: %+v", held, n)
	}
	w.exec(`ALTER TABLE public.t DROP CONSTRAINT fine`)
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.t"}); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.eventually(0, func() any { return len(told()) })
}
