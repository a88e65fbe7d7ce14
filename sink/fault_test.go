package sink_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink"
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

// warehouse gives w's as one instance of a sink has it.
func (w *world) warehouse(instance string) *warehouse.Warehouse {
	w.t.Helper()
	wh := warehouse.New(warehouse.Config{
		DSN: func() (string, error) { return w.dsn, nil }, Group: "g", Instance: instance, Log: slog.New(slog.DiscardHandler),
	})
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
	w.eventually("needs you: 2 tables are quarantined. The other one goes on.", func() any { return s.Status().Headline })
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
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
}

// A warehouse that takes no writes for a while, as in a failover, is waited for.
func TestWarehouseReadOnly(t *testing.T) {
	w := newWorld(t)
	shop, item := w.source("shop"), relation("item", "id integer key")
	s := w.start(w.cfg)
	shop.tx(ins(item, 1))
	w.complete(shop)
	database := w.query(`SELECT quote_ident(current_database())`)[0]
	set := func(how string) {
		w.exec(`ALTER DATABASE ` + database + how)
		w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	}
	set(" SET default_transaction_read_only = on")
	shop.tx(ins(item, 2))
	w.eventually(true, func() any {
		return slices.ContainsFunc(s.Status().Waiting, func(wait sink.Waiting) bool { return wait.Code == string(trouble.WarehouseReadOnly) })
	})
	set(" RESET default_transaction_read_only")
	w.complete(shop)
	w.rows(`SELECT id FROM public.item ORDER BY id`, "1", "2")
}

func TestWarehouseAway(t *testing.T) {
	w := newWorld(t)
	cluster := pgtest.New(t, pgtest.Options{})
	if err := cluster.CreateDatabase(t.Context(), "dwh"); err != nil {
		t.Fatal(err)
	}
	w.dsn = cluster.DSN("dwh")
	w.cfg.Warehouse.DSN = config.Secret(w.dsn)
	if err := cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	shop := w.source("shop")
	done := shop.load(200)
	s := w.start(w.cfg)
	w.eventually(false, func() any { return s.Status().WarehouseUp })
	w.eventually(true, func() any {
		for _, wait := range s.Status().Waiting {
			if wait.For == "warehouse" && wait.Tries > 1 && wait.Code == "warehouse-unreachable" {
				return true
			}
		}
		return false
	})
	for range 2 {
		if err := cluster.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.conn = w.connect(w.dsn)
		w.eventually(true, func() any { return s.Status().WarehouseUp })
		w.eventually(true, func() any { return len(w.query(`SELECT 1 FROM public.log`)) > 10 })
		if err := cluster.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	if err := cluster.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.conn = w.connect(w.dsn)
	w.loaded(shop, 200)
}

// TestFullForOneTable: on a full disk there is room for progress, and for what goes into the pages of another table. That such things
// are written does not make the sink forget how long it has waited with the one that is not.
func TestFullForOneTable(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r, log := relation("t", "id integer key", "v integer"), relation("log", "id integer")
	shop.table(r, 1)
	shop.table(log, 1)
	s := w.start(w.cfg)
	shop.tx(ins(r, 1, 1), ins(log, 1))
	w.complete(shop)
	w.exec(`CREATE FUNCTION public.no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$`)
	w.exec(`CREATE TRIGGER no_room BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.no_room()`)
	waits := func() (since time.Time) {
		for _, wait := range s.Status().Waiting {
			if wait.For == "warehouse" && wait.Code == "warehouse-full" {
				since = wait.Since
			}
		}
		return since
	}
	shop.tx(ins(r, 2, 2))
	w.eventually(false, func() any { return waits().IsZero() })
	since := waits()
	for i := range 3 {
		shop.tx(ins(log, 2+i))
		w.eventually(change.LSN(shop.last.CommitLSN), func() any { return w.query(`SELECT published_lsn FROM tributary.progress`)[0] })
	}
	w.eventually(true, func() any { return waits().Equal(since) }) // a try may just be under way
	w.exec(`DROP TRIGGER no_room ON public.t`)
	w.complete(shop)
	w.eventually(0, func() any { return len(s.Status().Waiting) })
}

// TestWarehouseGoesBack: a warehouse that has crashed, or a standby in its place, has not all that was confirmed. Nothing is
// written any more that would find it out.
func TestWarehouseGoesBack(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r, log := relation("t", "id integer key", "v integer"), relation("log", "id integer")
	shop.table(r, 2)
	shop.table(log, 1)
	s := w.start(w.cfg)
	shop.tx(ins(r, 1, 1), ins(r, 2, 1), ins(r, 3, 1), ins(log, 1))
	w.complete(shop)
	tables := []string{"tributary.checkpoint", "tributary.source", "tributary.milestone", "tributary.fence", "public.t", "public.log"}
	back := "BEGIN;"
	for i, name := range tables {
		w.exec(fmt.Sprintf("CREATE TABLE public.before_%d AS SELECT * FROM %s", i, name))
		back += fmt.Sprintf("DELETE FROM %s; INSERT INTO %[1]s SELECT * FROM public.before_%d;", name, i)
	}
	shop.tx(upd(r, 1, 2), del(r, 2), ins(r, 4, 2), ins(log, 2))
	w.complete(shop)
	goBack := func() {
		w.exec(back + "COMMIT")
		w.rows(`SELECT id, v FROM public.t ORDER BY id`, "1|1", "2|1", "3|1")
		w.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tributary sink%' AND datname = current_database()`)
	}
	goBack()
	w.complete(shop)
	w.rows(`SELECT id, v FROM public.t ORDER BY id`, "1|2", "3|1", "4|2")
	w.rows(`SELECT id FROM public.log ORDER BY id`, "1", "2")
	goBack() // now whoever has something to write finds it out, too
	shop.tx(upd(r, 3, 3))
	w.complete(shop)
	w.rows(`SELECT id, v FROM public.t ORDER BY id`, "1|2", "3|3", "4|2")
	if _, page := s.get("/metrics"); !strings.Contains(page, `tributary_sink_errors_total{code="checkpoint-fenced",group="warehouse"} 0`) {
		t.Error("it says that another sink has its partitions")
	}
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
}

func TestKafkaAway(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	<-shop.load(50)
	if err := w.kafka.Stop(); err != nil {
		t.Fatal(err)
	}
	s := w.start(w.cfg)
	w.eventually(true, func() any {
		for _, wait := range s.Status().Waiting {
			if wait.For == "kafka" && wait.Code == "kafka-unreachable" {
				return true
			}
		}
		return false
	})
	if err := w.kafka.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.loaded(shop, 50)
}

// TestMemoryIsBounded: with the warehouse locked, records pile up to the limit and no further, and the status names who has
// the lock, as far as the sink's role may see it.
func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t)
	w.cfg.Batch.Memory = 4 << 20
	w.cfg.Batch.Bytes = 1 << 20
	database := w.conn.Config().Database
	role := postgres.Ident("sink of " + database)
	for _, sql := range []string{`CREATE ROLE ` + role + ` LOGIN`, `GRANT CREATE, TEMPORARY ON DATABASE ` + postgres.Ident(database) + ` TO ` + role, `GRANT USAGE, CREATE ON SCHEMA public TO ` + role} {
		if _, err := w.conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	as, err := url.Parse(w.dsn)
	if err != nil {
		t.Fatal(err)
	}
	as.User = url.User("sink of " + database)
	w.cfg.Warehouse.DSN = config.Secret(as.String())
	shop := w.source("shop")
	r := relation("t", "id integer key", "big text")
	big := strings.Repeat("x", 10_000)
	shop.tx(ins(r, 0, big))
	s := w.start(w.cfg)
	w.complete(shop)
	lock := w.connect(w.dsn)
	for _, sql := range []string{`SET application_name = 'a person'; BEGIN`, `LOCK TABLE public.t`} {
		if _, err := lock.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		shop.tx(many(100, func(j int) event { return ins(r, 1+100*i+j, big) })...)
	}
	w.eventually(true, func() any { return s.Status().BufferBytes > 1<<20 })
	most := int64(0)
	for range 50 {
		most = max(most, s.Status().BufferBytes)
		time.Sleep(10 * time.Millisecond)
	}
	if limit := int64(w.cfg.Batch.Memory); most > limit {
		t.Errorf("%d bytes held", most)
	}
	holder := fmt.Sprintf("a lock held by pid %d (a person)", lock.PgConn().PID())
	w.eventually("waiting "+holder, func() any { st := s.Status(); return st.Tables[0].State + " " + st.Tables[0].WaitingOn })
	why := func() string {
		st := s.Status()
		i := slices.IndexFunc(st.Needs, func(n service.Need) bool { return n.Code == trouble.LockWait })
		if i < 0 || st.Needs[i].Subject != "public.t" || !strings.HasPrefix(st.Headline, "is waiting for "+holder+": 1 of 1 table") {
			t.Fatalf("%q, %+v", st.Headline, st.Needs)
		}
		return st.Needs[i].Why
	}
	if got := why(); !strings.HasSuffix(got, " is only shown to a role with pg_read_all_stats") {
		t.Error(got)
	}
	if _, err := w.conn.Exec(t.Context(), `GRANT pg_read_all_stats TO `+role); err != nil {
		t.Fatal(err)
	}
	w.eventually(true, func() any {
		return strings.Contains(why(), "is idle in transaction, its newest statement is LOCK; its transaction began ")
	})
	if _, err := lock.Exec(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT count(*) FROM public.t`, "2001")
}

// TestMemoryWhileTheWarehouseIsAway: records keep coming, of several tables; what is held stays within the limit, and
// when the warehouse is back all of it is fetched and written.
func TestMemoryWhileTheWarehouseIsAway(t *testing.T) {
	w := newWorld(t)
	w.cfg.Batch.Memory = 4 << 20
	w.cfg.Batch.Bytes = 1 << 20
	cluster := pgtest.New(t, pgtest.Options{})
	if err := cluster.CreateDatabase(t.Context(), "dwh"); err != nil {
		t.Fatal(err)
	}
	w.dsn = cluster.DSN("dwh")
	w.cfg.Warehouse.DSN = config.Secret(w.dsn)
	w.conn = w.connect(w.dsn)
	shop := w.source("shop")
	var tables []*schema.Relation
	for i := range 6 {
		tables = append(tables, relation(fmt.Sprint("t", i), "id integer key", "big text"))
		shop.tx(ins(tables[i], 0, "first"))
	}
	s := w.start(w.cfg)
	w.complete(shop)
	if err := cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	const rows = 4000
	most, full := int64(0), 0
	for i := 1; i <= rows; i += 100 {
		// Small ones and large ones, so that the size of the next is no good guess.
		big := strings.Repeat("x", []int{10, 1000, 20_000}[i/100%3])
		shop.tx(many(100, func(j int) event { return ins(tables[(i+j)%6], i+j, big) })...)
		held := s.Status().BufferBytes
		most = max(most, held)
		if held > 3<<20 {
			full++
		}
	}
	if limit := int64(w.cfg.Batch.Memory); most > limit || full == 0 {
		t.Errorf("%d bytes held at most, limit %d; full %d times", most, limit, full)
	}
	if st := s.Status(); st.WarehouseUp || len(st.Waiting) == 0 {
		t.Errorf("got %+v", st)
	}
	if err := cluster.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.conn = w.connect(w.dsn)
	w.complete(shop)
	w.rows(`SELECT (SELECT count(*) FROM public.t0) + (SELECT count(*) FROM public.t1) + (SELECT count(*) FROM public.t2)
		+ (SELECT count(*) FROM public.t3) + (SELECT count(*) FROM public.t4) + (SELECT count(*) FROM public.t5)`, fmt.Sprint(rows+6))
}

// What must wait for a progress record filled the memory, and the record was not fetched for lack of room.
func TestMemoryFullOfWhatWaitsForProgress(t *testing.T) {
	w := newWorld(t)
	w.cfg.Batch.Memory = 4 << 20
	w.cfg.Batch.Bytes = 1 << 20
	shop := w.source("shop")
	r := relation("t", "id integer key", "note text", "big text")
	shop.table(r, 8)
	shop.tables = []record.TableProgress{{Schema: "public", Table: "t", Level: "all"}}
	shop.tx(ins(r, 0, "a", "BIG"))
	s := w.start(w.cfg)
	w.complete(shop)
	shop.quiet = true
	const unread, rows = 64, 600
	shop.tx(many(unread, func(i int) event { return upd(r, 1000+i, "b", keep) })...) // their rows are still to be read
	shop.tx(many(rows, func(i int) event { return ins(r, 10_000+i, "c", strings.Repeat("x", 20_000)) })...)
	w.eventually(true, func() any { return s.Status().BufferBytes > 5<<19 })
	shop.quiet = false
	shop.tx(ins(r, 1, "a", "BIG"))
	w.complete(shop)
	w.rows(`SELECT count(*), count(*) FILTER (WHERE note = 'c') FROM public.t`, fmt.Sprintf("%d|%d", 2+rows, rows))
}

func TestTopicTruncated(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r, other := relation("t", "id integer key"), relation("other", "id integer key")
	shop.tx(many(10, func(i int) event { return ins(r, i) })...)
	deleteRecords(t, shop, "shop.public.t", 5)
	shop.tx(ins(other, 1))
	w.start(w.cfg)
	w.rows(`SELECT code, topic, message LIKE '%the first offset that is left is 5', hint LIKE '%next_offset in tributary.checkpoint to 5,%' FROM tributary.quarantine`, "topic-truncated|shop.public.t|t|t")
	w.rows(`SELECT id FROM public.other`, "1")
	w.rows(`SELECT to_regclass('public.t')`, "∅")
}

// TestHalvesOfAKeyChangeApart: the halves come in two fetches; they must still be one move.
func TestHalvesOfAKeyChangeApart(t *testing.T) {
	w := newWorld(t)
	w.cfg.Batch.Rows = 1
	shop := w.source("shop")
	r := relation("t", "id integer key", "big text")
	shop.tx(ins(r, 1, "BIG"))
	var moves []event
	for i := range 30 {
		moves = append(moves, move(r, []any{i + 1}, i+2, keep)...)
	}
	shop.tx(moves...)
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT * FROM public.t`, "31|BIG")
}

// TestKeyChangeAcrossPartitions: the halves go to two partitions and are independent, the row whole.
func TestKeyChangeAcrossPartitions(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", Mode: "append"})
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	shop.table(r, 4)
	shop.tx(many(20, func(i int) event { return ins(r, i, "a") })...)
	var moves []event
	for i := range 20 {
		moves = append(moves, move(r, []any{i}, i+100, "b")...)
	}
	shop.tx(moves...)
	w.start(w.cfg)
	w.complete(shop)
	w.rows(`SELECT count(*), min(id), string_agg(DISTINCT v, ',') FROM public.t`, "20|100|b")
}

// TestBehindAsCapture: a warehouse that has all there is in Kafka is behind its source as capture is, be it that this is paused or that
// it catches up.
func TestBehindAsCapture(t *testing.T) {
	w := newWorld(t)
	shop, r := w.source("shop"), relation("t", "id integer key")
	shop.tx(ins(r, 1))
	s := w.start(w.cfg)
	w.complete(shop)
	age := func() any {
		for _, src := range s.Status().Sources {
			if src.AgeSeconds != nil {
				if until := time.Since(*src.CompleteUntil).Seconds(); math.Abs(until-*src.AgeSeconds) > 1 {
					t.Errorf("complete until %s, %f s ago", src.CompleteUntil, *src.AgeSeconds)
				}
				return int(*src.AgeSeconds) / 60
			}
		}
		return "unknown"
	}
	w.eventually(0, age)
	shop.behind = 10*time.Minute + time.Second
	shop.tx(ins(r, 2))
	w.complete(shop)
	w.rows(`SELECT lag > '10 min' AND lag < '11 min', complete_ts > now() - interval '1 min' FROM tributary.progress`, "t|t") // it has the commit of now
	w.eventually(10, age)
	shop.behind = 0
	shop.tx(ins(r, 3))
	w.eventually(0, age)
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

func TestOffsetsForLagTools(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	shop.tx(ins(r, 1))
	shop.tx(ins(r, 2))
	w.start(w.cfg)
	w.complete(shop)
	// Two records and two commit markers.
	w.eventually(int64(4), func() any { return committedOffset(t, shop, "warehouse", "shop.public.t") })
	w.rows(`SELECT next_offset, applied_rows FROM tributary.checkpoint WHERE topic = 'shop.public.t'`, "4|2")
}

func TestHTTP(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	shop.tx(many(30, func(i int) event { return ins(r, i) })...)
	s := w.start(w.cfg)
	w.complete(shop)
	get := s.get
	w.eventually(200, func() any { code, _ := get("/readyz"); return code })
	_, body := get("/status")
	var st sink.Status
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		t.Fatal(err)
	}
	if st.Schema != "tributary.sink.status/1" || len(st.Tables) != 1 || st.Tables[0].Applied != 30 || st.Tables[0].State != service.StateUpToDate {
		t.Errorf("status: %s", body)
	}
	st = sink.Status{}
	if _, body := get("/status?table=shop/public.*&state=up_to_date"); json.Unmarshal([]byte(body), &st) != nil || len(st.Tables) != 1 || !strings.Contains(st.Tables[0].Plan, "the row of (id) is written") {
		t.Errorf("status of the table: %s", body)
	}
	if _, body := get("/status?table=shop/public.t&state=paused"); !strings.Contains(body, `"tables": []`) {
		t.Errorf("status of paused tables: %s", body)
	}
	if code, body := get("/table/shop/public.t"); code != 200 || !strings.Contains(body, "shop/public.t is up to date.") || !strings.Contains(body, "the row of (id) is written") || !strings.Contains(body, "a unique one on exactly the key") {
		t.Errorf("page of the table: %d, %s", code, body)
	}
	if code, body := get("/table/shop%2Fpublic.r"); code != 404 || !strings.Contains(body, `<a href="/table/shop%2Fpublic.t">shop/public.t</a>`) {
		t.Errorf("page of no table: %d, %s", code, body)
	}
	wants := []string{
		`tributary_sink_changes_total{group="warehouse",op="insert",outcome="applied",source="shop",table="public.t"} 30`,
		`tributary_sink_assigned_partitions{group="warehouse"} 2`,
		`tributary_sink_warehouse_up{group="warehouse"} 1`,
		`tributary_sink_lag_records{group="warehouse",source="shop",table="public.t"} 0`,
		`tributary_sink_commits_total{group="warehouse",result="fenced"} 0`,
		`tributary_sink_end_to_end_latency_seconds_count{group="warehouse",source="shop"} 1`,
		`tributary_sink_freshness_target_seconds{group="warehouse",source="shop",table="public.t"} 60`,
		`tributary_sink_tables{group="warehouse",source="shop",state="up_to_date"} 1`,
		`tributary_sink_table_quarantined{group="warehouse",source="shop",table="public.t"} 0`,
		`tributary_sink_parked_rows{code="",group="warehouse",source="shop",table="public.t"} 0`,
		`tributary_sink_group_members{group="warehouse"} 1`,
	}
	// Some are of the warehouse, which is asked now and then.
	w.eventually("", func() any {
		_, body := get("/metrics")
		for _, want := range wants {
			if !strings.Contains(body, want+"\n") {
				return "metrics lack " + want
			}
		}
		return ""
	})
	// What comes now, without values: these are not configured.
	changes, err := http.Get("http://" + s.Addr() + "/changes?table=shop/public.t") //nolint:bodyclose // further down
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		in := bufio.NewScanner(changes.Body)
		for in.Scan() && len(lines) < cap(lines) {
			lines <- in.Text()
		}
	}()
	next := 30
	w.eventually(true, func() any {
		shop.tx(ins(r, next))
		next++
		select {
		case line := <-lines:
			return strings.HasSuffix(line, "  insert  id  written")
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	changes.Body.Close()
	http.DefaultClient.CloseIdleConnections()
}

func TestCheck(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", To: "sales.t"}, rule.Table{From: "public.bad"})
	shop, two := w.source("shop"), w.source("two")
	shop.tx(ins(relation("t", "id integer key", "note text"), 1, "x"), ins(relation("bad", "id integer key", "note text"), 1, "x"), ins(relation("odd", "id integer key"), 1))
	check := func() (int, string) {
		t.Helper()
		var b strings.Builder
		told := terminal.NewCheck("sink", &b)
		if err := sink.Check(t.Context(), w.cfg, told); (err == nil) != told.Found().Ready {
			t.Fatal(err)
		}
		return told.Found().Failures, b.String()
	}
	want := func(failures int, lines ...string) {
		t.Helper()
		got, text := check()
		if got != failures {
			t.Errorf("%d failures, want %d", got, failures)
		}
		for _, line := range lines {
			if !strings.Contains(text, line) {
				t.Errorf("no %q in:\n%s", line, text)
			}
		}
	}
	want(0, "ok    version        PostgreSQL", fmt.Sprintf("will be created with version %d", warehouse.Version), "unmatched      1 topic matches no rule: shop.public.odd",
		`will run: CREATE TABLE IF NOT EXISTS "sales"."t"`, "Nothing was changed.")
	w.rows(`SELECT to_regnamespace('tributary'), to_regnamespace('sales')`, "∅|∅")
	w.exec(`CREATE TABLE public.bad (id integer, note integer)`)
	want(1, `FAIL  target         write to column "note" of table "public.bad"`)
	w.exec(`ALTER TABLE public.bad ALTER note TYPE text`)
	want(0, `CREATE UNIQUE INDEX CONCURRENTLY ON "public"."bad" ("id");`)
	two.tx(ins(relation("t", "id integer key", "note text"), 1, "x"))
	want(1, "FAIL  sid            shop.public.t and two.public.t write sales.t")
	tables := w.cfg.Tables
	w.cfg.Tables = []rule.Table{{Source: "shop", From: "public.t", To: "sales.t", SID: "tenant", Create: true}, {From: "public.t", To: "sales.t", Create: true}, {From: "public.nothing", To: "sales.n"}}
	want(1, "FAIL  sid            sales.t is written with a sid by one rule and without by another", "warn  tables[2]      public.nothing: no topic", "docs/runbooks/no-topics.md")
	w.cfg.Tables = []rule.Table{{From: "public.odf", To: "sales.odd"}}
	if _, text := check(); !strings.Contains(text, "public.odf: no topic; did you mean public.odd?") || strings.Contains(text, "kafka-acls") {
		t.Errorf("of a rule that no topic matches, where there are others:\n%s", text)
	}
	w.cfg.Sources = []rule.Source{{Name: "shop"}}
	if _, text := check(); !strings.Contains(text, "note  unmatched      1 topic is of no source that sources names: two.public.t\n") || !strings.Contains(text, "warn  unmatched      ") || strings.Count(text, "two.public.t") != 1 {
		t.Errorf("of topics of a source that is not named:\n%s", text)
	}
	w.cfg.Sources = nil
	// Twenty tenants, of which three differ, and an index that retention wants.
	for i := range 4 {
		w.source(fmt.Sprintf("tenant_%d", i)).tx(ins(relation("orders", "id integer key", "note text", "channel text"), 1, "x", "y"))
	}
	for _, name := range []string{"tenant_older", "tenant_old"} {
		w.source(name).tx(ins(relation("orders", "id integer key", "note integer"), 1, 1))
	}
	w.source("tenant_new").tx(ins(relation("orders", "id integer key", "note text", "channel text", "extra date"), 1, "x", "y", nil))
	w.cfg.Tables = []rule.Table{{From: "public.orders", To: "sales.orders", SID: "tenant", Create: true, Keep: "90 days", By: "extra"}}
	want(0, "ok    sid            sales.orders is written by 7 sources, each with a sid of its own", "warn  drift          sales.orders: 3 of 7 sources differ",
		"-> tenant_new has extra besides\n", "-> tenant_old and tenant_older lack channel; have note integer instead of text\n",
		`CREATE INDEX CONCURRENTLY ON "sales"."orders" ("extra");`, "docs/runbooks/missing-index.md")
	// Partitions that are dropped, or made, of what is not partitioned so; and made of what will be created.
	w.exec(`CREATE TABLE public.bad2 (id integer, extra date)`)
	w.cfg.Tables[0] = rule.Table{Source: "tenant_new", From: "public.orders", To: "public.bad2", Create: true, Keep: "90 days", By: "extra", Drop: "1 day"}
	want(1, `FAIL  retention      drop old partitions of table "public.bad2": it is not partitioned by ranges of column "extra" alone`, "-> leave drop out of the rule: then rows are removed one by one; or make")
	w.cfg.Tables[0].Drop, w.cfg.Tables[0].Partition = "", "month"
	want(1, `FAIL  retention      make partitions of table "public.bad2": it is not partitioned by ranges of column "extra" alone`, `-> make it anew with PARTITION BY RANGE ("extra")`)
	w.cfg.Tables[0].To = "sales.{table}"
	made := months("sales.orders", time.Now().AddDate(0, 0, -90), time.Now().AddDate(0, 3, 0))
	want(0, `"extra" date) PARTITION BY RANGE ("extra")`, `note  target         sales.orders: will make `+fmt.Sprint(len(made))+` partitions, `+made[0]+" to "+made[len(made)-1],
		`CREATE INDEX ON "sales"."orders" ("extra");`)
	w.cfg.Tables = tables
	w.cfg.Registry.URL = "http://127.0.0.1:1"
	want(3, "reach http://127.0.0.1:1")
	w.cfg.Warehouse.DSN = "postgres://nobody:secret@127.0.0.1:1/x"
	_, text := check()
	if !strings.Contains(text, "FAIL  connection     connect to warehouse postgres://nobody@127.0.0.1:1/x") || strings.Contains(text, "secret") {
		t.Errorf("got:\n%s", text)
	}
}

// TestCheckRules: what check says of rules that do not fit their tables, and of those that will fail on some rows.
func TestCheckRules(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.column", Columns: []rule.Column{{From: "id"}, {From: "amont"}}}, rule.Table{From: "public.type", Filter: "note > 5"},
		rule.Table{From: "public.large", Filter: "note.startsWith('a') || note == null"}, rule.Table{From: "public.null", Filter: "amount > 5"},
		rule.Table{From: "public.good", Filter: "note != null && note == 'x'"})
	shop := w.source("shop")
	full := relation("good", "id integer key", "note text")
	full.Identity = schema.IdentityFull
	shop.tx(ins(relation("column", "id integer key", "amount numeric"), 1, 1), ins(relation("type", "id integer key", "note text"), 1, "x"),
		ins(relation("large", "id integer key", "note text"), 1, "x"), ins(relation("null", "id integer key", "amount integer"), 1, 1), ins(full, 1, "x"))
	shop.topic("shop.public.good2", 1)
	w.cfg.Tables = append(w.cfg.Tables, rule.Table{From: "public.good2", Create: true})
	var b strings.Builder
	told := terminal.NewCheck("sink", &b)
	if err := sink.Check(t.Context(), w.cfg, told); err == nil || told.Found().Ready {
		t.Error("it is ready")
	}
	text := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		`FAIL rule apply rule tables[0].columns[1] to table "public.column" of source "shop": the table has no column "amont" -> mend columns of the rule; there are id, amount`,
		`FAIL rule apply rule tables[1].filter to table "public.type" of source "shop": at character 6: > does not take string and int; write int(x), double(x) or string(x) to convert one -> mend the expression`,
		`warn rule "note.startsWith('a') || note == null" reads note, which an UPDATE does not send if it is large and not touched: then the rule has no result; ALTER TABLE public.large REPLICA IDENTITY FULL; at the source avoids it`,
		`warn rule "amount > 5" reads amount, which may be null: then the rule may have no result; write amount != null && …`,
		"ok schemas the rules fit 3 of 6 tables",
		"warn schemas the registry knows no schema of 1 topic: shop.public.good2 ->",
		"2 failures, 3 warnings,",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
	if failures := told.Found().Failures; failures != 2 {
		t.Errorf("%d failures", failures)
	}
}

func TestConfig(t *testing.T) {
	config.CheckStruct(t, sink.Config{})
	load := func(text string) (sink.Config, error) {
		file := filepath.Join(t.TempDir(), "sink.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var cfg sink.Config
		return cfg, config.Load(file, &cfg)
	}
	cfg, err := load(`
group: warehouse
warehouse: {dsn: "postgres://sink@dwh/dwh", connections: 4}
kafka: {brokers: [localhost:9092]}
registry: {url: http://localhost:8081}
batch: {rows: 100000, bytes: 64MiB, age: 1s}
sources: [{name: "tenant_*"}, {name: shop_eu, sid: eu}]
tables:
  - {from: public.orders, to: sales.orders, sid: tenant, ignore: [delete, truncate]}
  - {from: public.customer, to: crm.customer, mode: append, columns: [id, mail as email, {from: name}, {from: street, as: address}]}
  - {from: "public.*", to: "{source}.{table}"}
`)
	if err != nil {
		t.Fatal(err)
	}
	columns := []rule.Column{{From: "id", As: "id"}, {From: "mail", As: "email"}, {From: "name"}, {From: "street", As: "address"}}
	if !cfg.Tables[2].Create || !slices.Equal(cfg.Tables[1].Columns, columns) || cfg.HTTP.Listen != "127.0.0.1:9192" {
		t.Errorf("got %+v", cfg)
	}
	defaults := sink.Default()
	cfg, err = load("warehouse: {dsn: x}\nkafka: {brokers: [\"localhost:1\"]}\nregistry: {url: http://x}\ntables: [{from: \"*.*\"}]\n")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Warehouse.DSN, cfg.Kafka.Brokers, cfg.Registry.URL, cfg.Tables = "", nil, "", nil
	cfg.Sources = nil
	cfg.HTTP.Hosts = nil
	if fmt.Sprintf("%+v", cfg) != fmt.Sprintf("%+v", defaults) {
		t.Errorf("Default differs from the defaults of the tags:\n%+v\n%+v", defaults, cfg)
	}
	_, err = load(`
warehouse: {dsn: x, connections: 0}
kafka: {brokers: [localhost]}
registry: {url: http://x}
tables:
  - {from: public.a, mode: history, mod: 1}
  - {from: nodot, to: "{shema}.x"}
  - {from: a.b, ignore: [drop]}
  - {from: "a.b", sid: id, columns: [id, other as id]}
  - {from: "a.b", columns: [{from: x, ass: y}, {as: y}, [z]]}
`)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`did you mean "mode"`, "not schema.table", "not one of insert", "unknown name in braces", "name of the sid column", "between 1 and",
		"tables[4].columns[0].ass", "tables[4].columns[1].from", "tables[4].columns[2]", "must be one value",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}

// TestTopicMadeAnew: what the new topic holds does not follow on what was applied.
func TestTopicMadeAnew(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r, other := relation("t", "id integer key"), relation("other", "id integer key")
	shop.tx(ins(r, 1), ins(r, 2))
	w.start(w.cfg)
	w.complete(shop)
	deleteTopic(t, shop, "shop.public.t")
	lsn, n := shop.lsn, shop.n
	shop = w.source("shop") // the client before sticks to the topic before
	shop.lsn, shop.n = lsn, n
	shop.tx(ins(r, 7), ins(r, 8), ins(r, 9), ins(r, 10), ins(other, 1))
	w.rows(`SELECT code FROM tributary.quarantine`, "topic-recreated")
	w.rows(`SELECT id FROM public.other`, "1")
	// Letting it go on without a decision about the checkpoint changes nothing.
	attempt := w.query(`SELECT attempt FROM tributary.quarantine`)
	w.exec(`DELETE FROM tributary.quarantine`)
	w.eventually(true, func() any {
		now := w.query(`SELECT attempt FROM tributary.quarantine`)
		return len(now) == 1 && now[0] != attempt[0]
	})
	w.rows(`SELECT id FROM public.t ORDER BY id`, "1", "2")
	w.exec(`DELETE FROM tributary.checkpoint WHERE topic = 'shop.public.t'; DELETE FROM tributary.quarantine`)
	w.rows(`SELECT id FROM public.t ORDER BY id`, "1", "2", "7", "8", "9", "10")
}

func TestPartitionsAdded(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	shop.tx(ins(r, 1))
	w.start(w.cfg)
	w.complete(shop)
	if _, err := kadm.NewClient(shop.client).CreatePartitions(t.Context(), 2, "shop.public.t"); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT DISTINCT code FROM tributary.quarantine`, "topic-partitions-changed")
}

// TestRegistryAway: only what needs a new schema waits.
func TestRegistryAway(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	away := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "down", http.StatusServiceUnavailable)
	}))
	defer away.Close()
	shop.tx(ins(r, 1))
	w.cfg.Registry.URL = away.URL
	s := w.start(w.cfg)
	w.eventually(true, func() any {
		for _, wait := range s.Status().Waiting {
			if wait.For == "registry" && wait.Tries > 1 && wait.Code == "registry-unreachable" {
				return true
			}
		}
		return false
	})
	s.stop()
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
	w.cfg.Registry.URL = w.registry
	w.start(w.cfg)
	w.complete(shop)
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
