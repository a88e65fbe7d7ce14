package sink_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// checked makes a table that refuses a note.
func (w *world) checked(name string) *schema.Relation {
	w.t.Helper()
	w.exec(`CREATE TABLE public.` + name + ` (id integer PRIMARY KEY, note text CONSTRAINT fine CHECK (note <> 'poison'))`)
	return relation(name, "id integer key", "note text")
}

func (w *world) operator() *sink.Operator {
	w.t.Helper()
	o, err := sink.NewOperator(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { o.Close(w.t.Context()) })
	return o
}

// retry retries all that is parked of a table of "shop".
func (w *world) retry(o *sink.Operator, table string) sink.Retried {
	w.t.Helper()
	out, err := o.Retry(w.t.Context(), warehouse.Selection{Source: "shop", Table: table})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// reads waits until a page says all of these words; it never says the key of a row.
func (r *running) reads(path string, words ...string) {
	r.t.Helper()
	deadline := time.Now().Add(pgtest.Patience)
	for {
		_, text := r.get(path)
		missing := slices.DeleteFunc(slices.Clone(words), func(word string) bool { return strings.Contains(text, word) })
		switch {
		case strings.Contains(text, "(id) = ("):
			r.t.Fatalf("%s shows a key:\n%s", path, text)
		case len(missing) == 0:
			http.DefaultClient.CloseIdleConnections()
			return
		case time.Now().After(deadline):
			r.t.Fatalf("%s does not say %q:\n%s", path, missing, text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func note(poison bool) string {
	if poison {
		return "poison"
	}
	return "fine"
}

// TestPoisonIsHeldExactly: in one batch, what is before the record that cannot be written is written.
func TestPoisonIsHeldExactly(t *testing.T) {
	t.Parallel() // it waits most of its time
	for _, n := range []int{1, 2, 500} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := newWorld(t)
			r := w.checked("checked")
			other := relation("other", "id integer key")
			shop := w.source("shop")
			at := n * 2 / 3
			shop.tx(append(many(n, func(i int) event { return ins(r, i, note(i == at)) }), ins(other, 1))...)
			s := w.start(w.cfg)
			w.rows(`SELECT code, next_offset, message LIKE '%offset `+fmt.Sprintf("%d, key (id) = (%d)", at, at)+`%', message LIKE '%poison%' FROM tributary.quarantine`,
				fmt.Sprintf("constraint-violation|%d|t|f", at))
			w.rows(`SELECT count(*) FROM public.checked`, fmt.Sprint(at))
			w.rows(`SELECT id FROM public.other`, "1")
			if n == 1 {
				words := []string{"quarantined", "violates check constraint &#34;fine&#34;", "offset 0, key (id): ", "sink resume shop/public.checked --park", "constraint-violation: runbook"}
				s.reads("/", append(words, "warehouse needs you: 1 table is quarantined. The other one goes on.")...)
				s.reads("/table/shop/public.checked", append(words, "shop/public.checked is quarantined: constraint-violation")...)
			}
			w.exec(`ALTER TABLE public.checked DROP CONSTRAINT fine`)
			if _, err := w.operator().Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.checked"}); err != nil {
				t.Fatal(err)
			}
			w.complete(shop)
			w.rows(`SELECT count(*) FROM public.checked`, fmt.Sprint(n))
			w.rows(`SELECT verb, subject, outcome FROM tributary.operation`, "resume|shop/public.checked|0 pauses ended, 1 partition to be tried again")
		})
	}
}

// TestPark: what cannot be written goes aside with all that follows of its key; the rest goes on.
func TestPark(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", OnError: "park"})
	r := w.checked("checked")
	shop := w.source("shop")
	shop.tx(many(300, func(i int) event { return ins(r, i, note(i%100 == 50)) })...)
	s := w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT count(*) FROM public.checked`, "297")
	w.rows(`SELECT "offset", source, table_name, code, behind FROM tributary.parked ORDER BY 1`,
		"50|shop|public.checked|constraint-violation|∅", "150|shop|public.checked|constraint-violation|∅", "250|shop|public.checked|constraint-violation|∅")
	// Later changes of the same keys wait behind, also those that could be written.
	shop.tx(upd(r, 50, "mended"), upd(r, 51, "changed"), del(r, 150, nil), ins(r, 150, "again"))
	w.complete(shop)
	w.rows(`SELECT note FROM public.checked WHERE id IN (50, 51, 150)`, "changed")
	w.rows(`SELECT behind, message FROM tributary.parked WHERE behind IS NOT NULL ORDER BY "offset"`,
		"50|waits behind offset 50, which is parked", "150|waits behind offset 150, which is parked", "150|waits behind offset 150, which is parked")
	w.rows(`SELECT count(*) FROM tributary.parked WHERE message LIKE '%poison%'`, "0")
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
	w.reported("needs you: 6 rows are parked. All tables go on.", func() any { return s.Status().Headline }, shop)
	s.reads("/", "3 rows of shop/public.checked are parked: constraint-violation", "3 more of the same keys wait behind", "sink parked discard shop/public.checked")

	// Two keys are whole again by what follows; the third stays.
	o := w.operator()
	out := w.retry(o, "public.checked")
	if out.Applied != 5 || len(out.Failed) != 1 || !slices.Equal(out.Failed[0].Offsets, []int64{250}) {
		t.Fatalf("got %+v", out)
	}
	w.rows(`SELECT id, note FROM public.checked WHERE id IN (50, 150, 250) ORDER BY 1`, "50|mended", "150|again")
	// The running sink takes notice: what was parked is free, what still is not.
	shop.tx(upd(r, 50, "free"), upd(r, 250, "behind"))
	w.complete(shop)
	w.rows(`SELECT id, note FROM public.checked WHERE id IN (50, 250)`, "50|free")
	shown, err := o.Parked(t.Context(), warehouse.Selection{Code: "constraint-violation"}, 10)
	if err != nil || len(shown) != 1 {
		t.Fatalf("got %+v, %v", shown, err)
	}
	record, err := o.Show(t.Context(), &shown[0], true)
	if err != nil || record.Op != "insert" || record.Key != ", key (id) = (250)" || *record.Columns[1].Value != "poison" {
		t.Fatalf("got %+v, %v", record, err)
	}
	offset := int64(250)
	if n, err := o.Discard(t.Context(), warehouse.Selection{Source: "shop", Table: "public.checked", Offset: &offset}, "not needed"); err != nil || n != 1 {
		t.Fatalf("discarded %d, %v", n, err)
	}
	if out := w.retry(o, "public.checked"); out.Applied != 1 || len(out.Failed) > 0 {
		t.Fatalf("got %+v", out)
	}
	w.rows(`SELECT note FROM public.checked WHERE id = 250`, "behind")
	w.rows(`SELECT count(*) FROM tributary.parked`, "0")
	w.rows(`SELECT verb, count(*) FROM tributary.operation GROUP BY 1 ORDER BY 1`, "parked discard|1", "parked retry|3")
}

// TestParkedRetryEqualsAll: random changes, of keys too, with records in between that cannot be written, in four
// partitions and small batches, with restarts. Once the reason is gone, a retry makes of the target what it would be.
func TestParkedRetryEqualsAll(t *testing.T) {
	t.Parallel() // it waits most of its time
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.*", OnError: "park"})
			w.cfg.Batch.Rows = 40
			w.cfg.Member = "one"
			r := w.checked("checked")
			shop := w.source("shop")
			partitions := int32(1)
			if seed%2 == 1 {
				partitions = 4
			}
			shop.table(r, partitions)
			random := rand.New(rand.NewPCG(seed, 0))
			model := map[int]string{}
			value := func() string {
				if random.IntN(8) == 0 {
					return "poison"
				}
				return fmt.Sprint("v", random.IntN(1000))
			}
			s := w.start(w.cfg)
			for step := range 30 {
				var events []event
				for range 1 + random.IntN(20) {
					id := random.IntN(40)
					v := value()
					_, there := model[id]
					switch {
					case !there:
						events = append(events, ins(r, id, v))
						model[id] = v
					case random.IntN(5) == 0:
						events = append(events, del(r, id, nil))
						delete(model, id)
					case random.IntN(4) == 0:
						to := random.IntN(40)
						if _, taken := model[to]; taken {
							continue
						}
						events = append(events, move(r, []any{id, nil}, to, v)...)
						delete(model, id)
						model[to] = v
					default:
						events = append(events, upd(r, id, v))
						model[id] = v
					}
				}
				shop.tx(events...)
				switch {
				case step == 20 && seed > 1:
					shop.tx(trunc(r))
					clear(model)
				case step%10 == 9:
					s.stop()
					s = w.start(w.cfg)
				case step == 15:
					w.complete(shop)
					w.retry(w.operator(), "public.checked") // most of it fails
				}
			}
			w.complete(shop)
			w.rows(`SELECT count(*) > 0 FROM tributary.parked WHERE behind IS NULL`, "t")
			w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
			w.exec(`ALTER TABLE public.checked DROP CONSTRAINT fine`)
			if out := w.retry(w.operator(), "public.checked"); len(out.Failed) > 0 {
				t.Fatalf("got %+v: %v", out, out.Failed[0].Err)
			}
			want := []string{}
			for id, v := range model {
				want = append(want, fmt.Sprintf("%02d|%s", id, v))
			}
			slices.Sort(want)
			w.rows(`SELECT to_char(id, 'FM00'), note FROM public.checked ORDER BY id`, want...)
		})
	}
}

// TestTruncateClearsParked: of all partitions, and not what came after it.
func TestTruncateClearsParked(t *testing.T) {
	for _, partitions := range []int32{1, 4} {
		t.Run(fmt.Sprint(partitions), func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.*", OnError: "park"})
			r := w.checked("checked")
			shop := w.source("shop")
			shop.table(r, partitions)
			shop.tx(many(20, func(i int) event { return ins(r, i, "poison") })...)
			one := w.start(w.cfg)
			w.complete(shop)
			w.rows(`SELECT count(*) FROM tributary.parked`, "20")
			if partitions > 1 {
				w.start(w.cfg)
				w.eventually(true, func() any { return one.Status().Partitions < 5 })
			}
			shop.tx(append(many(20, func(i int) event { return upd(r, i, "behind") }), trunc(r), ins(r, 1, "poison"), ins(r, 2, "fine"), upd(r, 1, "poison"))...)
			w.complete(shop)
			w.rows(`SELECT id, note FROM public.checked ORDER BY 1`, "2|fine")
			w.rows(`SELECT count(*), count(behind) FROM tributary.parked`, "2|1")
			shop.tx(many(20, func(i int) event { return upd(r, i, "new") })...)
			w.complete(shop)
			w.rows(`SELECT count(*) FROM public.checked`, "19")
			w.rows(`SELECT count(*), count(behind) FROM tributary.parked`, "3|2")
		})
	}
}

// TestResumePark: a table that stops goes on behind the record when somebody says so; one without key cannot.
func TestResumePark(t *testing.T) {
	w := newWorld(t)
	r := w.checked("checked")
	w.exec(`CREATE TABLE public.log (id integer CHECK (id <> 2));
		CREATE TABLE public.parent (id integer PRIMARY KEY);
		CREATE TABLE public.child (id integer PRIMARY KEY REFERENCES public.parent);
		INSERT INTO public.parent VALUES (1)`)
	log, child := relation("log", "id integer"), relation("child", "id integer key")
	shop := w.source("shop")
	shop.tx(ins(r, 1, "fine"), ins(r, 2, "poison"), ins(r, 3, "fine"), ins(log, 1), ins(log, 2), ins(log, 3))
	shop.key = []byte(`{"id": 0}`) // as another converter would write it
	shop.tx(ins(child, 1), ins(child, 2))
	shop.key = nil
	w.start(w.cfg)
	w.rows(`SELECT table_name, next_offset FROM tributary.quarantine ORDER BY 1`, "public.checked|1", "public.child|1", "public.log|1")
	shop.tx(upd(r, 2, "mended"))
	attempt := w.query(`SELECT attempt FROM tributary.quarantine WHERE table_name = 'public.log'`)
	o := w.operator()
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "shop", Remedy: warehouse.Park}); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT id FROM public.checked ORDER BY 1`, "1", "3")
	w.rows(`SELECT "offset", code, behind FROM tributary.parked ORDER BY 1`, "1|constraint-violation|∅", "4||1")
	w.eventually(true, func() any {
		now := w.query(`SELECT attempt FROM tributary.quarantine WHERE table_name = 'public.log'`)
		return len(w.query(`SELECT FROM tributary.quarantine`)) == 2 && now[0] != attempt[0]
	})
	w.rows(`SELECT code, table_name, message LIKE '%it has no key%', message LIKE '%its key is none that can be read%', park FROM tributary.quarantine ORDER BY 2`,
		"constraint-violation|public.child|f|t|f", "constraint-violation|public.log|t|f|f")
	w.rows(`SELECT id FROM public.log`, "1")
	// The table goes on stopping: only that record was put aside.
	shop.tx(ins(r, 4, "poison"))
	w.rows(`SELECT table_name FROM tributary.quarantine ORDER BY 1`, "public.checked", "public.child", "public.log")
}

// TestDamagedRecordIsParked: it has a key, so that what follows can be told to be behind it.
func TestDamagedRecordIsParked(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", OnError: "park"})
	r := relation("t", "id integer key", "note text")
	shop := w.source("shop")
	shop.tx(ins(r, 1, "a"))
	shop.damage = true
	shop.tx(ins(r, 2, "damaged"))
	shop.damage = false
	shop.tx(ins(r, 3, "c"), upd(r, 2, "behind"))
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT id FROM public.t ORDER BY 1`, "1", "3")
	w.rows(`SELECT code, behind IS NULL FROM tributary.parked ORDER BY "offset"`, "record-invalid|t", "|f")
	if out := w.retry(w.operator(), "public.t"); len(out.Failed) != 1 || !strings.Contains(out.Failed[0].Err.Error(), "offset") {
		t.Fatalf("got %+v", out)
	}
}

// TestResumeSkip: the record that the table is held at is passed over, and only that.
func TestResumeSkip(t *testing.T) {
	w := newWorld(t)
	r := w.checked("checked")
	shop := w.source("shop")
	shop.tx(ins(r, 1, "fine"), ins(r, 2, "poison"), ins(r, 3, "fine"))
	shop.tx(ins(r, 4, "poison"), upd(r, 2, "mended"))
	w.start(w.cfg)
	w.rows(`SELECT next_offset FROM tributary.quarantine`, "1")
	o := w.operator()
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.checked", Remedy: warehouse.Skip, Offset: 1}); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT next_offset, skip FROM tributary.quarantine`, "4|f")
	w.rows(`SELECT id FROM public.checked ORDER BY 1`, "1", "3")
	if done, err := o.Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.checked", Remedy: warehouse.Skip, Offset: 1}); err != nil || len(done.Quarantines) > 0 {
		t.Fatalf("where it is not held any more: %+v, %v", done, err)
	}
	if _, err := o.Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.checked", Remedy: warehouse.Skip, Offset: 4, Reason: "a test"}); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT id FROM public.checked ORDER BY 1`, "1", "2", "3")
	w.rows(`SELECT count(*) FROM tributary.parked`, "0")
	w.rows(`SELECT verb, reason, before->'quarantines'->0->>'Topic' FROM tributary.operation ORDER BY at`,
		"resume --skip 1|∅|shop.public.checked", "resume --skip 4|a test|shop.public.checked")
}

// TestResumeSkipOfATruncate: a TRUNCATE of several partitions that cannot be executed is passed over for all of them.
func TestResumeSkipOfATruncate(t *testing.T) {
	w := newWorld(t)
	shop, r := w.source("shop"), w.checked("checked")
	shop.table(r, 2)
	w.start(w.cfg)
	shop.tx(many(20, func(i int) event { return ins(r, i, "fine") })...)
	w.complete(shop)
	w.exec(`CREATE TABLE public.refers (id integer REFERENCES public.checked (id)); INSERT INTO public.refers VALUES (1)`)
	shop.tx(trunc(r)) // nothing comes behind it
	w.rows(`SELECT code, partition FROM tributary.quarantine`, "constraint-violation|0")
	var at int64
	if err := w.conn.QueryRow(t.Context(), `SELECT next_offset FROM tributary.quarantine`).Scan(&at); err != nil {
		t.Fatal(err)
	}
	if _, err := w.operator().Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.checked", Remedy: warehouse.Skip, Offset: at}); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT count(*) FROM public.checked`, "20")
}

// TestAttemptOfBeforeAMend: an attempt that was under way while somebody mended the target and said so holds the table no more.
func TestAttemptOfBeforeAMend(t *testing.T) {
	w := newWorld(t)
	session := w.warehouse("one").Session()
	defer session.Close(context.Background())
	q := warehouse.Quarantine{Topic: "shop.public.t", Source: "shop", Table: "public.t", Next: 7, Code: "constraint-violation", Message: "m"}
	hold := func(attempt int64, claimed warehouse.Remedy) {
		t.Helper()
		q.Attempt, q.Remedy = attempt, claimed
		if err := session.Hold(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	resume := func(remedy warehouse.Remedy) {
		t.Helper()
		if _, err := session.Resume(t.Context(), warehouse.Going{Source: "shop", Table: "public.t", Remedy: remedy, Offset: q.Next}); err != nil {
			t.Fatal(err)
		}
	}
	attempt := func() int64 {
		t.Helper()
		all, err := session.Quarantines(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatalf("%d quarantines, %v", len(all), err)
		}
		return all[0].Attempt
	}
	hold(0, warehouse.TryAgain)
	hold(attempt(), warehouse.TryAgain) // tried again, in vain
	claimed := attempt()
	resume(warehouse.TryAgain)
	hold(claimed, warehouse.TryAgain)
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
	hold(0, warehouse.TryAgain) // it is tried again, and not mended after all

	claimed = attempt()
	resume(warehouse.Park)
	hold(claimed, warehouse.TryAgain)
	w.rows(`SELECT park, skip FROM tributary.quarantine`, "t|f")
	hold(attempt(), warehouse.Park) // it cannot be parked
	w.rows(`SELECT park, skip FROM tributary.quarantine`, "f|f")
	claimed = attempt()
	resume(warehouse.Skip)
	q.Next = 8 // elsewhere: that is not what was to be skipped
	hold(claimed, warehouse.TryAgain)
	w.rows(`SELECT park, skip, next_offset FROM tributary.quarantine`, "f|f|8")
}
