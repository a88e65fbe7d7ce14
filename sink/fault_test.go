package sink_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/schema/change"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// load publishes transactions in the background: inserts into a table with a key, and as many rows into one without,
// where anything applied twice shows.
func (s *source) load(n int) (done <-chan struct{}) {
	keyed, log := relation("t", "id integer key", "v integer"), relation("log", "id integer")
	s.table(keyed, 1)
	s.table(log, 1)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for i := range n {
			events := []event{ins(keyed, i, 0), ins(log, i)}
			if i > 0 {
				events = append(events, upd(keyed, i-1, 1))
			}
			s.tx(events...)
		}
	}()
	return finished
}

func (w *world) loaded(s *source, n int) {
	w.t.Helper()
	w.complete(s)
	w.rows(`SELECT count(*), sum(v), count(DISTINCT id) FROM public.t`, fmt.Sprintf("%d|%d|%d", n, n-1, n))
	w.rows(`SELECT count(*), count(DISTINCT id) FROM public.log`, fmt.Sprintf("%d|%d", n, n))
}

func TestRestartInTheMiddle(t *testing.T) {
	w := newWorld(t)
	w.cfg.Member = "one"
	shop := w.source("shop")
	done := shop.load(300)
	for range 5 {
		s := w.start(w.cfg)
		before := len(w.query(`SELECT 1 FROM public.log`))
		w.eventually(true, func() any {
			select {
			case <-done:
				return true
			default:
				return len(w.query(`SELECT 1 FROM public.log`)) > before+20
			}
		})
		s.stop()
	}
	<-done
	w.start(w.cfg)
	w.loaded(shop, 300)
}

func TestTwoSinksShareTheWork(t *testing.T) {
	w := newWorld(t)
	a, b := w.source("a"), w.source("b")
	w.cfg.Tables[0].To = "{source}.{table}"
	r := relation("t", "id integer key", "v integer")
	a.table(r, 4)
	b.table(r, 4)
	finished := make(chan struct{}, 2)
	for _, src := range []*source{a, b} {
		go func() {
			for i := range 150 {
				src.tx(ins(r, 2*i, i), ins(r, 2*i+1, i))
			}
			finished <- struct{}{}
		}()
	}
	one := w.start(w.cfg)
	w.eventually(10, func() any { return one.Status().Partitions })
	two := w.start(w.cfg)
	w.eventually(true, func() any { return two.Status().Partitions > 0 && one.Status().Partitions > 0 })
	w.eventually(10, func() any { return one.Status().Partitions + two.Status().Partitions })
	three := w.start(w.cfg)
	w.eventually(true, func() any { return three.Status().Partitions > 0 })
	one.stop()
	w.eventually(10, func() any { return three.Status().Partitions + two.Status().Partitions })
	<-finished
	<-finished
	w.complete(a)
	w.complete(b)
	for _, schema := range []string{"a", "b"} {
		w.rows(`SELECT count(*), sum(v) FROM `+schema+`.t`, "300|22350")
	}
	w.rows(`SELECT sum(applied_rows) FROM tributary.checkpoint WHERE topic LIKE '%.public.t'`, "600")
}

// TestTruncateIsABarrier: a TRUNCATE of a topic with four partitions, shared by two sinks, removes what came before it
// in every partition and nothing that came after.
func TestTruncateIsABarrier(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v integer")
	shop.table(r, 4)
	shop.snapshot(r, true)
	one, two := w.start(w.cfg), w.start(w.cfg)
	w.eventually(5, func() any { return one.Status().Partitions + two.Status().Partitions })
	w.eventually(true, func() any { return one.Status().Partitions > 0 && two.Status().Partitions > 0 })
	for round := range 3 {
		shop.tx(many(100, func(i int) event { return ins(r, 1000*round+i, round) })...)
		shop.tx(trunc(r))
		shop.tx(many(50, func(i int) event { return ins(r, 1000*round+i, round) })...)
	}
	w.complete(shop)
	w.rows(`SELECT count(*), min(v), max(v) FROM public.t`, "50|2|2")
	// One that its partitions have passed is one again when they begin anew.
	for range 3 {
		o := w.operator()
		p := w.tenantPlan(o, "shop")
		if err := o.RebuildTenant(t.Context(), w.cfg, p, "", untold); err != nil {
			t.Fatal(err)
		}
		w.swept()
		w.complete(shop)
		w.rows(`SELECT count(*), min(v), max(v) FROM public.t`, "50|2|2")
	}
}

// group gives w's warehouse as one instance of a sink of a group has it.
func (w *world) group(name, instance string) *warehouse.Warehouse {
	return warehouse.New(warehouse.Config{DSN: func() (string, error) { return w.dsn, nil }, Group: name, Instance: instance, Log: slog.New(slog.DiscardHandler)})
}

// warehouse gives it to one of group g, with its own tables.
func (w *world) warehouse(instance string) *warehouse.Warehouse {
	w.t.Helper()
	wh := w.group("g", instance)
	if err := wh.Migrate(w.t.Context(), warehouse.LockPatience); err != nil {
		w.t.Fatal(err)
	}
	return wh
}

// TestLateOwnerIsRefused: who claims a partition takes it away from whoever had it, even in the middle of a
// transaction; a stopped one is ended.
func TestLateOwnerIsRefused(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t)
	first, second := w.warehouse("first"), w.warehouse("second")
	parts := []warehouse.Partition{{Topic: "s.public.t", TopicID: "x"}, {Topic: "s.public.t", Number: 1, TopicID: "x"}}
	claim := func(wh *warehouse.Warehouse) []warehouse.Claim {
		t.Helper()
		claims, err := wh.Claim(t.Context(), parts)
		if err != nil {
			t.Fatal(err)
		}
		return claims
	}
	advance := func(c warehouse.Claim, next int64) warehouse.Advance {
		return warehouse.Advance{Topic: c.Topic, Partition: c.Number, Epoch: c.Epoch, Expected: c.Next, Next: next}
	}
	old := claim(first)
	session := first.Session()
	defer session.Close(context.Background())
	if _, err := session.Apply(t.Context(), &warehouse.Flush{Advances: []warehouse.Advance{advance(old[0], 10), advance(old[1], 10)}}); err != nil {
		t.Fatal(err)
	}
	// Not where it was expected: refused as a whole.
	_, err := session.Apply(t.Context(), &warehouse.Flush{Advances: []warehouse.Advance{advance(old[0], 20)}})
	if !errors.Is(err, warehouse.ErrFenced) {
		t.Fatalf("got %v", err)
	}
	claims := claim(second)
	if claims[0].Next != 10 || claims[0].Epoch <= old[0].Epoch {
		t.Fatalf("claimed %+v after %+v", claims[0], old[0])
	}
	late := advance(old[0], 20)
	late.Expected = 10
	if _, err := session.Apply(t.Context(), &warehouse.Flush{Advances: []warehouse.Advance{late}}); !errors.Is(err, warehouse.ErrFenced) {
		t.Fatalf("got %v", err)
	}
	if standings, err := session.Standings(t.Context(), []warehouse.Advance{late}); err != nil || standings[0] != warehouse.Lost {
		t.Fatalf("got %v, %v", standings, err)
	}
	// A topic that was made anew.
	parts[0].TopicID = "y"
	if c := claim(second); c[0].Err == nil || c[1].Err != nil {
		t.Fatalf("claimed %+v", c)
	}
	parts[0].TopicID = "x"
	// Somebody of the group stopped in the middle of a transaction.
	stopped := w.connect(w.dsn + "&application_name=tributary%20sink%20g")
	if _, err := stopped.Exec(t.Context(), `BEGIN; UPDATE tributary.checkpoint SET applied_rows = 1`); err != nil {
		t.Fatal(err)
	}
	claim(first)
	w.rows(`SELECT sum(applied_rows) FROM tributary.checkpoint`, "0")
}

// TestLostCheckpointIsTakenUpAgain: somebody claims a running sink's partition and goes away.
func TestLostCheckpointIsTakenUpAgain(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("log", "id integer")
	shop.tx(ins(r, 1))
	w.start(w.cfg)
	w.complete(shop)
	w.exec(`UPDATE tributary.checkpoint SET owner_epoch = owner_epoch + 1`)
	shop.tx(ins(r, 2))
	w.complete(shop)
	w.rows(`SELECT id FROM public.log ORDER BY id`, "1", "2")
}

func TestBadRecordsHoldOneTable(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	good, bad := relation("good", "id integer key"), relation("bad", "id integer key")
	w.start(w.cfg)
	corrupt := func(value []byte) {
		t.Helper()
		if err := shop.client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		shop.produce(&kgo.Record{Topic: "shop.public.bad", Value: value})
		if err := shop.client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
	shop.tx(ins(bad, 1), ins(good, 1))
	id := []byte{0, 0, 0, 0, 1}
	corrupt(append(id[:4:4], 99, 1, 2))
	shop.tx(ins(bad, 2), ins(good, 2))
	w.rows(`SELECT code, topic, next_offset FROM tributary.quarantine`, "schema-unknown|shop.public.bad|2")
	w.rows(`SELECT id FROM public.good ORDER BY id`, "1", "2")
	w.rows(`SELECT id FROM public.bad`, "1")
	// Whoever sorted it out lets the table go on behind the record.
	w.exec(`UPDATE tributary.checkpoint SET next_offset = 3 WHERE topic = 'shop.public.bad'; DELETE FROM tributary.quarantine`)
	w.rows(`SELECT id FROM public.bad ORDER BY id`, "1", "2")
	// The number is one of another table, as an emptied registry gives it again.
	whole, err := shop.table(good, 1).AppendValue(nil, insertEvent(good, 3))
	if err != nil {
		t.Fatal(err)
	}
	corrupt(whole)
	w.rows(`SELECT code, message LIKE '%public.good%' FROM tributary.quarantine`, "schema-unknown|t")
	w.exec(`UPDATE tributary.checkpoint SET next_offset = next_offset + 2 WHERE topic = 'shop.public.bad'; DELETE FROM tributary.quarantine`)
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
	// A record cut off in its middle; registered schemas begin at 1.
	if whole, err = shop.table(bad, 1).AppendValue(nil, insertEvent(bad, 3)); err != nil {
		t.Fatal(err)
	}
	corrupt(whole[:len(whole)/2])
	shop.tx(ins(bad, 4), ins(good, 4))
	w.rows(`SELECT code, topic, position('offset' IN message) > 0 FROM tributary.quarantine`, "record-invalid|shop.public.bad|t")
	w.rows(`SELECT id FROM public.good ORDER BY id`, "1", "2", "4")
}

func TestWrongTargetHoldsOneTable(t *testing.T) {
	w := newWorld(t)
	w.exec(`CREATE TABLE public.bad (id integer PRIMARY KEY, note integer);
		CREATE TABLE public.checked (id integer PRIMARY KEY, note text CHECK (note <> 'poison'))`)
	shop := w.source("shop")
	good, bad, checked := relation("good", "id integer key"), relation("bad", "id integer key", "note text"), relation("checked", "id integer key", "note text")
	s := w.start(w.cfg) // before its tables are there: else the start is refused
	shop.tx()
	w.complete(shop)
	shop.tx(ins(good, 1), ins(bad, 1, "secret"), ins(checked, 1, "fine"))
	shop.tx(ins(good, 2), ins(checked, 2, "poison"))
	shop.tx(ins(good, 3), ins(checked, 3, "fine"))
	w.rows(`SELECT code, table_name FROM tributary.quarantine ORDER BY 1`, "constraint-violation|public.checked", "target-type|public.bad")
	w.rows(`SELECT id FROM public.good ORDER BY id`, "1", "2", "3")
	w.rows(`SELECT count(*) FROM tributary.quarantine WHERE message LIKE '%secret%' OR message LIKE '%poison%'`, "0")
	w.reported("needs you: 2 tables are quarantined. The other one goes on.", func() any { return s.Status().Headline }, shop)
	w.exec(`ALTER TABLE public.checked DROP CONSTRAINT checked_note_check; ALTER TABLE public.bad ALTER note TYPE text; DELETE FROM tributary.quarantine`)
	w.complete(shop)
	w.rows(`SELECT id, note FROM public.checked ORDER BY id`, "1|fine", "2|poison", "3|fine")
	w.rows(`SELECT note FROM public.bad`, "secret")
}

// TestQuarantineIsTriedAgainAfterARestart also without anybody's word.
func TestQuarantineIsTriedAgainAfterARestart(t *testing.T) {
	w := newWorld(t)
	w.exec(`CREATE TABLE public.t (id integer PRIMARY KEY, note integer)`)
	shop := w.source("shop")
	r := relation("t", "id integer key", "note text")
	s := w.start(w.cfg) // before its table is there: else the start is refused
	shop.tx()
	w.complete(shop)
	shop.tx(ins(r, 1, "x"))
	w.rows(`SELECT code FROM tributary.quarantine`, "target-type")
	s.stop()
	w.exec(`ALTER TABLE public.t ALTER note TYPE text`)
	s = w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
	// So is what a source says of itself.
	w.exec(`ALTER TABLE tributary.source ADD CONSTRAINT none CHECK (n < 3)`)
	shop.tx()
	w.rows(`SELECT topic FROM tributary.quarantine`, "shop.tributary.progress")
	s.stop()
	w.exec(`ALTER TABLE tributary.source DROP CONSTRAINT none`)
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
}

// TestTruncateOfOthersThatWentBack: the warehouse has gone back, as by a failover, behind what a TRUNCATE of several partitions waited for. The others have
// rows to write again that come before it, or partition 0 the TRUNCATE itself.
func TestTruncateOfOthersThatWentBack(t *testing.T) {
	w := newWorld(t)
	wh := w.warehouse("one")
	parts := []warehouse.Partition{{Topic: "s.public.t", TopicID: "x"}, {Topic: "s.public.t", Number: 1, TopicID: "x"}}
	claims, err := wh.Claim(t.Context(), parts)
	if err != nil {
		t.Fatal(err)
	}
	session := wh.Session()
	defer session.Close(context.Background())
	at := func(seq uint64) change.Position { return change.Position{Era: 1, CommitLSN: 7, Seq: seq} }
	next := []int64{0, 0}
	apply := func(partition int32, position, barrier, passes uint64) error {
		a := warehouse.Advance{Topic: "s.public.t", Partition: partition, Epoch: claims[partition].Epoch, Expected: next[partition], Next: next[partition] + 1, Position: at(position)}
		if barrier > 0 {
			a.Barrier = at(barrier)
		}
		if passes > 0 {
			a.Truncate, a.Partitions = at(passes), 2
		}
		_, err := session.Apply(t.Context(), &warehouse.Flush{Advances: []warehouse.Advance{a}})
		if err == nil {
			next[partition]++
		}
		return err
	}
	for _, step := range []struct {
		what                        string
		partition                   int32
		position, barrier, truncate uint64
		fenced                      bool
	}{
		{"the other is before it", 0, 10, 0, 10, true},
		{"the other comes to it", 1, 4, 10, 0, false},
		{"the other passes it too early", 1, 10, 0, 10, true},
		{"all are there", 0, 10, 0, 10, false},
		{"the other passes it", 1, 10, 0, 10, false},
		{"the other is past it", 0, 10, 0, 10, false},
		{"the next one", 0, 20, 0, 20, true},
	} {
		if err := apply(step.partition, step.position, step.barrier, step.truncate); errors.Is(err, warehouse.ErrFenced) != step.fenced || err != nil && !step.fenced {
			t.Fatalf("%s: %v", step.what, err)
		}
	}
}

// TestTruncateIsWaitedForAgain: a sink that has been let pass a TRUNCATE finds that the others are not at it any more. It waits once more.
func TestTruncateIsWaitedForAgain(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	shop.table(r, 2)
	w.start(w.cfg)
	shop.tx(many(20, func(i int) event { return ins(r, i, "old") })...)
	w.complete(shop)
	// Whoever would execute it waits, and loses its connection; meanwhile the other partition goes back.
	release := w.lock(`LOCK TABLE public.t IN SHARE MODE`)
	shop.tx(trunc(r), ins(r, 1, "new"))
	w.waiting("public", 1)
	w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tributary sink%' AND wait_event_type = 'Lock' AND datname = current_database();
		LOCK TABLE tributary.checkpoint IN ACCESS EXCLUSIVE MODE; UPDATE tributary.checkpoint SET barrier_era = 0, barrier_lsn = '0/0', barrier_seq = 0 WHERE partition = 1`)
	release()
	shop.tx(ins(relation("other", "id integer key"), 1))
	w.rows(`SELECT id FROM public.other`, "1") // by the same lane
	w.rows(`SELECT count(*), min(v) FROM public.t`, "20|old")
	w.exec(`UPDATE tributary.checkpoint c SET barrier_era = o.barrier_era, barrier_lsn = o.barrier_lsn, barrier_seq = o.barrier_seq FROM tributary.checkpoint o
		WHERE c.topic = o.topic AND c.partition = 1 AND o.partition = 0`)
	w.complete(shop)
	w.rows(`SELECT id, v FROM public.t`, "1|new")
}

// TestTruncateBesideARetry: what is parked of another partition is not applied while a TRUNCATE of all is under way, which would not see it.
func TestTruncateBesideARetry(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", OnError: "park"})
	shop, r := w.source("shop"), w.checked("checked")
	shop.table(r, 2)
	w.start(w.cfg)
	shop.tx(many(20, func(i int) event { return ins(r, i, note(i >= 10)) })...)
	w.complete(shop)
	parked := w.query(`SELECT count(*) FROM tributary.parked WHERE partition = 1`)
	if parked[0] == "0" {
		t.Fatal("nothing is parked of partition 1")
	}
	w.exec(`ALTER TABLE public.checked DROP CONSTRAINT fine`)
	o := w.operator()
	release := w.lock(`SELECT FROM public.checked FOR UPDATE`)
	shop.tx(trunc(r))
	w.waiting("public", 1)
	done := make(chan error, 1)
	one := int32(1)
	go func() {
		_, err := o.Retry(t.Context(), warehouse.Selection{Source: "shop", Table: "public.checked", Partition: &one})
		done <- err
	}()
	w.waiting("tributary.checkpoint", 1)
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.complete(shop)
	w.rows(`SELECT id FROM public.checked`)
	w.rows(`SELECT "offset" FROM tributary.parked`)
}

func TestProgressAndFences(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t"})
	shop := w.source("shop")
	r, unwanted := relation("t", "id integer key"), relation("unwanted", "id integer key")
	shop.tx(ins(r, 1), ins(unwanted, 1))
	s := w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT tributary.wait_for('shop', 'FF/0', '10 ms'), tributary.wait_for('nobody', '0/1', '10 ms')`, "f|f")
	shop.lsn += 0x100
	if err := shop.client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	shop.publish(shop.lsn, time.Now(), ins(r, 2))
	shop.progress("fence-1")
	if err := shop.client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT fences, complete_lsn, capture->>'state' FROM tributary.progress`, "{fence-1}|0/1210|streaming")
	// What is not applied holds it back.
	w.exec(`ALTER TABLE public.t ADD CONSTRAINT small CHECK (id < 3)`)
	shop.tx(ins(r, 3))
	w.rows(`SELECT code FROM tributary.quarantine`, "constraint-violation")
	w.rows(`SELECT complete_lsn, published_lsn FROM tributary.progress`, "0/1210|0/1300")
	w.exec(`ALTER TABLE public.t DROP CONSTRAINT small; DELETE FROM tributary.quarantine`)
	w.complete(shop)
	w.rows(`SELECT id FROM public.t ORDER BY id`, "1", "2", "3")
	w.eventually("0/1310", func() any {
		for _, src := range s.Status().Sources {
			return src.CompleteLSN
		}
		return ""
	})
	// A record that does not follow on: nothing is claimed before the next full one.
	shop.n += 5
	shop.lsn += 0x100
	p := &record.Progress{Source: "shop", SystemID: "1", Era: 1, N: shop.n, CommitLSN: record.LSN(shop.lsn), EndLSN: record.LSN(shop.lsn)}
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := shop.client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := shop.client.ProduceSync(t.Context(), &kgo.Record{Topic: record.ProgressTopic("shop"), Key: []byte(p.Key()), Value: b}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := shop.client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT complete_lsn, published_lsn FROM tributary.progress`, "0/1310|0/1400")
	shop.tx()
	w.complete(shop)
	shop.tx()
	w.rows(`SELECT count(*) FROM tributary.milestone`, "1")
}

// TestStoppedTransaction: a process of the group was stopped in the middle of a transaction, and never goes on. What it holds is none of the
// checkpoints: who takes its partitions over does not wait for it, and then does.
func TestStoppedTransaction(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	shop.tx(ins(r, 1))
	stopped := w.connect(w.dsn)
	for _, sql := range []string{`SET application_name = 'tributary sink warehouse'`, `BEGIN`, `SELECT pg_advisory_xact_lock(hashtext('tributary target'), hashtext('public'))`} {
		if _, err := stopped.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	w.start(w.cfg)
	w.complete(shop)
}
