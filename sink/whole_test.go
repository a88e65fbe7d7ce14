package sink_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/tracing/tracingtest"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// newWholeWorld makes one whose source "shop" becomes visible as a whole.
func newWholeWorld(t testing.TB) *world {
	return newWholeWorldOn(t, kafkatest.Fake(t), "shop", rule.Source{Name: "*"})
}

func newWholeWorldOn(t testing.TB, cluster kafkatest.Cluster, source string, others ...rule.Source) *world {
	t.Helper()
	w := newWorldOn(t, cluster)
	w.cfg.Sources = append([]rule.Source{{Name: source, Consistency: "source"}}, others...)
	return w
}

// TestTransfers: money goes to and fro between accounts in two tables, while sinks come and go. Whoever reads the
// warehouse sees the same total, at any time.
func TestTransfers(t *testing.T) {
	kafkatest.Each(t, transfers)
}

// TestDroppedColumnInOneCut: nothing of the target is altered by it, and the partitions of one transaction go from version to version one
// after the other.
func TestDroppedColumnInOneCut(t *testing.T) {
	w := newWholeWorld(t)
	shop := w.source("shop")
	before := relation("t", "id integer key", "v text", "old text")
	after := relation("t", "id integer key", "v text")
	shop.table(before, 4)
	shop.tx(many(40, func(i int) event { return ins(before, i, "a", "b") })...)
	shop.tx(many(40, func(i int) event { return upd(after, i, "c") })...)
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT count(*), min(v), max(v), min(old) FROM public.t`, "40|c|c|b")
	w.rows(`SELECT code FROM tributary.quarantine`)
}

func transfers(t *testing.T, cluster kafkatest.Cluster) {
	name := kafkatest.Name(t) // the broker is shared
	w := newWholeWorldOn(t, cluster, name)
	w.cfg.Group = name
	w.cfg.Batch.Rows = 50 // several source transactions at once, and not all
	shop := w.source(name)
	a, b := relation("a", "id integer key", "v integer"), relation("b", "id integer key", "v integer")
	shop.table(a, 1)
	shop.table(b, 4)
	const accounts, total = 20, 2 * 20 * 100
	shop.tx(append(many(accounts, func(i int) event { return ins(a, i, 100) }), many(accounts, func(i int) event { return ins(b, i, 100) })...)...)
	one := w.start(w.cfg)
	w.complete(shop)
	ctx, cancel := context.WithCancel(t.Context())
	wrong, reads := make(chan string, 1), make(chan int, 1)
	reader := w.connect(w.dsn)
	go func() {
		n := 0
		defer func() { reads <- n; close(wrong) }()
		for ; ctx.Err() == nil; n++ {
			var sum int
			if err := reader.QueryRow(context.Background(), `SELECT (SELECT sum(v) FROM public.a) + (SELECT sum(v) FROM public.b)`).Scan(&sum); err != nil {
				wrong <- err.Error()
				return
			}
			if sum != total {
				wrong <- fmt.Sprintf("read %d: the total is %d", n, sum)
				return
			}
		}
	}()
	random := rand.New(rand.NewPCG(1, 1))
	money := [2][accounts]int{}
	for i := range accounts {
		money[0][i], money[1][i] = 100, 100
	}
	for step := range 300 {
		from, to, amount := random.IntN(accounts), random.IntN(accounts), random.IntN(50)
		money[0][from] -= amount
		money[1][to] += amount
		shop.tx(upd(a, from, money[0][from]), upd(b, to, money[1][to]))
		switch step {
		case 60:
			one.stop()
		case 100:
			one = w.start(w.cfg)
		case 150:
			w.start(w.cfg)
		case 200:
			one.stop()
		case 250: // somebody takes the partitions over
			w.exec(`UPDATE tributary.checkpoint SET owner_epoch = owner_epoch + 1 WHERE topic LIKE '%.public.a'`)
		}
	}
	w.complete(shop)
	cancel()
	if n := <-reads; n < 20 {
		t.Errorf("only %d reads", n)
	}
	if problem, ok := <-wrong; ok {
		t.Error(problem)
	}
	w.rows(`SELECT string_agg(v::text, ' ' ORDER BY id) FROM public.a`, strings.Trim(fmt.Sprint(money[0]), "[]"))
	w.rows(`SELECT string_agg(v::text, ' ' ORDER BY id) FROM public.b`, strings.Trim(fmt.Sprint(money[1]), "[]"))
}

// TestWholeSource: what a cut has to cope with: more than fits into memory, a TRUNCATE of four partitions, changes of
// keys, a column that is added in the middle; and a source beside it that is written as ever. All of it is traced.
func TestWholeSource(t *testing.T) {
	traces := tracingtest.Collect(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", traces.URL)
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	w := newWholeWorld(t)
	w.cfg.Batch.Bytes = 64 << 10
	shop, other := w.source("shop"), w.source("other")
	r, wider := relation("t", "id integer key", "big text"), relation("t", "id integer key", "big text", "more text")
	log := relation("log", "id integer")
	plain := relation("plain", "id integer key")
	shop.table(r, 4)
	s := w.start(w.cfg)
	other.tx(ins(plain, 1))
	shop.tx(append(many(100, func(i int) event { return ins(r, i, "before") }), ins(log, 1))...)
	big := strings.Repeat("x", 5000)
	events := append(many(100, func(i int) event { return upd(r, i, "gone") }), trunc(r))
	events = append(events, many(200, func(i int) event { return ins(r, 1000+i, big) })...)
	for i := range 50 {
		events = append(events, move(r, []any{1000 + i}, 2000+i, big)...)
	}
	events = append(events, ins(log, 2), ins(wider, 1, "a", "b"), upd(wider, 1100, keep, "new"))
	shop.tx(events...)
	w.complete(shop)
	w.complete(other)
	w.rows(`SELECT count(*), count(*) FILTER (WHERE big = repeat('x', 5000)), min(id), max(id), count(more) FROM public.t`, "201|200|1|2049|2")
	w.rows(`SELECT id FROM public.log ORDER BY 1`, "1", "2")
	w.rows(`SELECT id FROM public.plain`, "1")

	s.stop()
	parts, flushes := map[string]string{}, map[string]string{} // by trace
	spans, _ := traces.Told()
	for _, span := range spans {
		if span.Parent != "" {
			parts[span.Trace] += span.Name + " "
		} else if rows := span.Attributes["messaging.batch.message_count"]; rows != "int_value:0" { // of progress alone
			flushes[span.Trace] = span.Name + " " + span.Attributes["tributary.source"]
		}
	}
	var told []string
	for id, what := range flushes {
		told = append(told, what+": "+parts[id])
	}
	slices.Sort(told)
	if got := strings.Join(slices.Compact(told), "; "); got != "flush : fetch fold copy apply commit ; flush shop: apply commit " {
		t.Errorf("traced is %q", got)
	}
}

// TestWholeSourceRenames: a column gets another name in the middle of a cut, and each partition has records of before and of
// afterwards.
func TestWholeSourceRenames(t *testing.T) {
	w := newWholeWorld(t)
	shop := w.source("shop")
	before, after := relation("t", "id integer key", "old text"), relation("t", "id integer key", "new text")
	shop.table(before, 4)
	w.start(w.cfg)
	shop.tx(many(40, func(i int) event { return ins(before, i, "first") })...)
	w.complete(shop)
	events := many(40, func(i int) event { return upd(before, i, "second") })
	events = append(events, many(20, func(i int) event { return upd(after, 2*i, "third") })...)
	shop.tx(events...)
	w.complete(shop)
	w.rows(`SELECT new, count(*) FROM public.t GROUP BY 1 ORDER BY 1`, "second|20", "third|20")
}

// TestWholeSourceInManyPieces: a source transaction is cut into so many pieces that what is said of them is more than is read
// ahead. Nothing can be done before the end of it, so it is read.
func TestWholeSourceInManyPieces(t *testing.T) {
	w := newWholeWorld(t)
	w.cfg.Batch.Memory, w.cfg.Batch.Rows = 4<<20, 10
	shop := w.source("shop")
	r := relation("t", "id integer key")
	shop.table(r, 4)
	w.start(w.cfg)
	shop.tx(ins(r, 1))
	w.complete(shop)
	shop.padding = strings.Repeat("x", 16<<10)
	for i := range uint64(30) {
		shop.inside = 2*i + 1
		shop.tx()
	}
	shop.inside, shop.padding = 0, ""
	shop.tx(ins(r, 2))
	w.complete(shop)
	w.rows(`SELECT id FROM public.t ORDER BY 1`, "1", "2")
}

// TestWholeSourceStops: an error of one table holds all of the source, which is what is said of it, and it goes on as a whole.
func TestWholeSourceStops(t *testing.T) {
	w := newWholeWorld(t)
	r := w.checked("checked")
	fine := relation("fine", "id integer key")
	shop := w.source("shop")
	s := w.start(w.cfg)
	shop.tx(ins(r, 1, "fine"), ins(fine, 1))
	w.complete(shop)
	shop.tx(ins(fine, 2), ins(r, 2, "poison"))
	shop.tx(ins(fine, 3))
	w.rows(`SELECT code, source, topic FROM tributary.quarantine`, "constraint-violation|shop|shop.tributary.progress")
	w.rows(`SELECT id FROM public.fine`, "1")
	w.eventually("quarantined", func() any { return s.Status().State })
	w.eventually([]string{"", "sink resume shop"}, func() any { return steps(s.Status()) })
	w.exec(`ALTER TABLE public.checked DROP CONSTRAINT fine`)
	o := w.operator()
	// Whoever names a table means what holds it.
	if out, err := o.Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.fine"}); err != nil || len(out.Quarantines) != 1 {
		t.Fatal(out, err)
	}
	w.complete(shop)
	w.rows(`SELECT id FROM public.fine ORDER BY 1`, "1", "2", "3")
	if err := o.Pause(t.Context(), "shop", "", "", time.Hour); err != nil {
		t.Fatal(err)
	}
	w.reported("paused", func() any { return s.Status().State }, shop)
	shop.tx(ins(fine, 4))
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "shop"}); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT count(*) FROM public.fine`, "4")
	w.exec(`ALTER TABLE public.checked ADD CONSTRAINT positive CHECK (id > 0)`)
	shop.tx(ins(r, -1, "fine"))
	w.rows(`SELECT code FROM tributary.quarantine`, "constraint-violation")
	s.stop()
	w.exec(`ALTER TABLE public.checked DROP CONSTRAINT positive`)
	w.start(w.cfg) // which tries again, unasked
	w.complete(shop)
	w.rows(`SELECT code FROM tributary.quarantine`)
}

// TestWholeSourceOfAnUnreadableRecord: what cannot be read holds the source also where what stands before it is no state to go to.
func TestWholeSourceOfAnUnreadableRecord(t *testing.T) {
	w := newWholeWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	shop.tx(ins(r, 1, "a"))
	shop.inside = 3
	shop.tx(ins(r, 2, "a"))
	if err := shop.client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := shop.client.ProduceSync(t.Context(), &kgo.Record{Topic: "shop.tributary.progress", Key: []byte("k"), Value: []byte("{")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := shop.client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	w.start(w.cfg)
	w.rows(`SELECT code FROM tributary.quarantine`, "record-invalid")
	w.rows(`SELECT id FROM public.t`, "1")
}

// TestWholeSourceOfWhatIsParked: a source is written as a whole from now on, of which records are parked. Later ones of their keys would be written before
// them.
func TestWholeSourceOfWhatIsParked(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", OnError: "park"})
	r := w.checked("checked")
	shop := w.source("shop")
	s := w.start(w.cfg)
	shop.tx(ins(r, 7, "poison"))
	w.complete(shop)
	w.rows(`SELECT "offset" FROM tributary.parked`, "0")
	s.stop()
	w.cfg.Sources = []rule.Source{{Name: "shop", Consistency: "source"}}
	w.start(w.cfg)
	shop.tx(upd(r, 7, "fine"))
	w.rows(`SELECT code, topic, hint LIKE 'sink parked retry shop%sink parked discard shop%sink resume shop' FROM tributary.quarantine`, "parked|shop.tributary.progress|t")
	w.rows(`SELECT count(*) FROM public.checked`, "0")
	w.exec(`ALTER TABLE public.checked DROP CONSTRAINT fine`)
	o := w.operator()
	if out := w.retry(o, "public.checked"); out.Applied != 1 {
		t.Fatalf("got %+v", out)
	}
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "shop"}); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT id, note FROM public.checked`, "7|fine")
	w.rows(`SELECT code FROM tributary.quarantine`)
}

// TestWholeSourceCatchesUp: much more lies there than is read ahead, in every partition; it is taken in many cuts.
func TestWholeSourceCatchesUp(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWholeWorld(t)
	w.cfg.Batch.Rows, w.cfg.Batch.Bytes = 50, 64<<10
	shop := w.source("shop")
	r, log := relation("t", "id integer key", "big text"), relation("log", "id integer")
	shop.table(r, 8)
	big := strings.Repeat("x", 5000)
	const steps = 60
	for step := range steps {
		shop.tx(append(many(20, func(i int) event { return ins(r, 20*step+i, big) }), ins(log, step))...)
	}
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT count(*), sum(length(big)) FROM public.t`, fmt.Sprintf("%d|%d", 20*steps, 20*steps*5000))
	w.rows(`SELECT count(*), count(DISTINCT id) FROM public.log`, fmt.Sprintf("%d|%d", steps, steps))
	w.rows(`SELECT sum(applied_rows) FROM tributary.checkpoint WHERE topic LIKE '%.public.%'`, fmt.Sprint(21*steps))
}

// TestTermOfWhatIsNotThere: of a record that is gone from a topic, by compaction or as its transaction was aborted, nobody knows who wrote it. That of
// another one in its place would have the topic end before the checkpoint.
func TestTermOfWhatIsNotThere(t *testing.T) {
	w := newWholeWorld(t)
	shop := w.source("shop")
	r, other := relation("t", "id integer key"), relation("other", "id integer key")
	shop.tx(ins(r, 1))
	if err := shop.client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	shop.produce(&kgo.Record{Topic: "shop.public.t", Value: []byte("gone")})
	if err := shop.client.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	shop.tx(ins(other, 1))
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT topic, next_offset, term > 0 FROM tributary.checkpoint WHERE topic LIKE '%.public.%' ORDER BY 1`, "shop.public.other|1|t", "shop.public.t|3|f")
}
