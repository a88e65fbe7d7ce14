package sink_test

import (
	"flag"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC // what is printed for people is in local time
	// As many at a time as there are processors leave these idle: tests that are marked so wait most of their time.
	if err := flag.Set("test.parallel", "6"); err != nil { // the command line may have another one
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func TestRowsArrive(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	orders := relation("orders", "id integer key", "note text", "amount numeric")
	shop.tx(ins(orders, 1, "one", "1.50"), ins(orders, 2, nil, "2"))
	w.start(w.cfg)
	w.rows(`SELECT * FROM public.orders ORDER BY id`, "1|one|1.50", "2|∅|2")
	shop.tx(upd(orders, 1, "uno", "1.5"), del(orders, 2), ins(orders, 3, "", nil))
	w.rows(`SELECT * FROM public.orders ORDER BY id`, "1|uno|1.5", "3||∅")
	w.complete(shop)
}
