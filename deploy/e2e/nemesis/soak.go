package nemesis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// SoakOptions says how long the pipeline is to run, and under what. Dir, Broker, Registry, Programs, Commit, Env, Patience,
// Seed and Log of Options are as for Run; the rest of it is not used.
type SoakOptions struct {
	Options
	Lasts   time.Duration
	Rate    int       // changes a second, without those of large transactions
	Records io.Writer // gets every sample, event and the report, a line of JSON each
}

// What a soak does is spread over its time, so that a short one is a long one in small. In its first and last quarter the
// services are restarted, one at each beat; in the half between they live on, and that is the life that shows what grows.
// Only the second member of the group comes and goes all the time, and the group with consistency: source is never
// restarted.
type soakPlan struct {
	beat, sample                      time.Duration
	large, snapshot, schema           time.Duration // from one to the next
	restartsUntil, restartsAgainAfter time.Duration
	largeRows                         int
}

const mostLargeRows = 50_000

func planSoak(lasts time.Duration, rate int) soakPlan {
	p := soakPlan{
		beat: min(max(lasts/60, 5*time.Second), 3*time.Minute), sample: min(max(lasts/240, time.Second), 10*time.Second),
		large: lasts / 12, snapshot: lasts / 10, schema: lasts / 8, restartsUntil: lasts / 4, restartsAgainAfter: lasts * 3 / 4,
	}
	p.largeRows = min(mostLargeRows, rate*int(p.large/time.Second))
	return p
}

// Soak runs the services under a modest load for a long time, and judges whether what they take stays flat. What is wrong
// with the pipeline is in the report.
func Soak(ctx context.Context, o SoakOptions) (report *SoakReport, err error) {
	m := newMachine(o.Options)
	m.targets = targets[:2]
	m.report = Report{Exits: map[string]int{}}
	s := &soak{machine: m, lasts: o.Lasts, rate: o.Rate, plan: planSoak(o.Lasts, o.Rate), records: json.NewEncoder(o.Records)}
	s.result = SoakReport{Commit: o.Commit, Broker: "kfake", Rate: o.Rate, LargeRows: s.plan.largeRows, Restarts: map[string]int{}}
	if _, real := o.Broker.(*kafkatest.RealCluster); real {
		s.result.Broker = "kafka"
	}
	err = s.run(ctx)
	err = errors.Join(err, m.tearDown(context.WithoutCancel(ctx)))
	s.result.Rows, s.result.Findings = m.report.Rows, append(s.result.Findings, m.report.Findings...)
	return &s.result, errors.Join(err, s.records.Encode(soakLine{Report: &s.result}))
}

type soak struct {
	*machine
	lasts   time.Duration
	rate    int
	plan    soakPlan
	begun   time.Time
	series  series
	records *json.Encoder // by one goroutine
	events  chan string

	result  SoakReport
	changes atomic.Int64
	commits atomic.Int64
	orders  atomic.Int64
}

func (s *soak) run(ctx context.Context) error {
	if err := s.start(ctx); err != nil {
		return err
	}
	s.begun, s.events = time.Now(), make(chan string, 100)
	sampling, stopSampling := context.WithCancel(ctx)
	var samplers sync.WaitGroup
	samplers.Go(func() { s.sample(sampling) }) // of what must hold at any moment
	samplers.Go(func() { s.takeSamples(sampling) })
	defer samplers.Wait()
	defer stopSampling()

	loading, end := context.WithTimeout(ctx, s.lasts)
	defer end()
	var working sync.WaitGroup
	errs := make([]error, soakWriters+3)
	for n := range soakWriters {
		working.Go(func() { errs[n] = s.write(loading, rand.New(rand.NewPCG(s.Seed, uint64(n)))) }) //nolint:gosec // it is to be repeatable
	}
	working.Go(func() { s.disturb(loading) })
	for i, every := range []struct {
		d  time.Duration
		do func(ctx context.Context, n int) error
	}{{s.plan.large, s.largeTransaction}, {s.plan.snapshot, s.askForSnapshot}, {s.plan.schema, s.changeSchema}} {
		working.Go(func() { errs[soakWriters+i] = repeatedly(loading, every.d, every.do) })
	}
	working.Wait()
	s.result.Seconds = time.Since(s.begun).Seconds()
	s.result.Changes, s.result.Transactions = s.changes.Load(), s.commits.Load()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	if err := s.compare(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	stopSampling()
	samplers.Wait()
	s.result.Verdicts = s.series.judge()
	return nil
}

// start starts servers and services as they are configured by default, but for sessions that are short.
func (s *soak) start(ctx context.Context) error {
	if err := s.startServers(ctx, nil, nil); err != nil {
		return err
	}
	if err := s.sourceExec(ctx, soakSQL); err != nil {
		return err
	}
	brokers := strings.Join(s.Broker.Addrs(), ", ")
	common := fmt.Sprintf("kafka: {brokers: [%s]}\nregistry: {url: %q}\nhttp: {listen: \"127.0.0.1:0\"}\n", brokers, s.Registry)
	sink := func(t target, consistency string) string {
		return common + fmt.Sprintf("group: %s\nwarehouse: {dsn: %q}\nsession: %s\ntables: [{from: \"public.*\", to: \"%s.{table}\"}]\nsources: [{name: %s, consistency: %s}]\n",
			t.group, through(s.warehouse, s.warehouseNet, ofSink), sinkSession, t.schema, sourceName, consistency)
	}
	err := s.prepare(map[string]string{
		"capture": common + fmt.Sprintf("source: {name: %s, dsn: %q, tables: [\"public.*\"], wal_budget: %d}\n", sourceName, through(s.source, s.sourceNet, ofCapture), walBudget),
		"sink":    sink(s.targets[0], "table"), "whole": sink(s.targets[1], "source"),
	}, "capture-a", "sink-a", "sink-b", "whole-a")
	if err != nil {
		return err
	}
	for _, name := range []string{"capture-a", "sink-a", "whole-a"} {
		s.services[name].start()
	}
	return s.checker.awaitSlot(ctx)
}

// compare waits until everything has arrived, and compares it row for row.
func (s *soak) compare(ctx context.Context) error {
	s.services["sink-b"].stop()
	stopped := time.Now()
	if err := s.checker.fence(ctx, "end"); err != nil {
		if !errors.Is(err, errBroken) {
			s.dump()
			s.find("the warehouse did not become complete: %v", err)
		}
		return nil
	}
	s.result.CaughtUp = time.Since(stopped).Seconds()
	now, err := s.checker.tables(ctx)
	if err != nil {
		return err
	}
	if err := s.checker.rows(ctx, now); err != nil {
		return fmt.Errorf("compare rows: %w", err)
	}
	var lag float64
	err = poll(ctx, s.Patience, func(ctx context.Context) (bool, error) {
		var err error
		lag, err = s.kafkaLag(ctx)
		return err == nil && lag == 0, nil
	})
	if err != nil {
		s.find("everything is in the warehouse, and Kafka still says that %.0f records are waiting", lag)
	}
	return nil
}

// event notes what was done, for the records, and for whoever watches.
func (s *soak) event(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.tell("%s", text)
	s.events <- text
}

// disturb restarts services, and lets the second member of the group come and go.
func (s *soak) disturb(ctx context.Context) {
	n := 0
	_ = repeatedly(ctx, s.plan.beat, func(_ context.Context, beat int) error {
		guest := s.services["sink-b"]
		switch beat % 4 {
		case 0:
			guest.start()
			s.result.Restarts["second sink"]++
			s.event("sink-b comes")
		case 1:
			if beat%8 == 1 {
				guest.kill()
			}
			guest.stop()
			s.event("sink-b has gone")
		}
		if at := time.Since(s.begun); at > s.plan.restartsUntil && at < s.plan.restartsAgainAfter {
			return nil
		}
		name := []string{"capture-a", "sink-a"}[n%2]
		if n/2%2 == 0 {
			s.services[name].restart()
			s.result.Restarts["SIGTERM "+name]++
			s.event("%s is asked to end", name)
		} else {
			s.services[name].kill()
			s.result.Restarts["SIGKILL "+name]++
			s.event("%s is killed", name)
		}
		n++
		return nil
	})
}

// repeatedly calls do at each multiple of d until ctx ends or do fails, and tells it how often it was called before.
func repeatedly(ctx context.Context, d time.Duration, do func(ctx context.Context, n int) error) error {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := do(context.WithoutCancel(ctx), n); err != nil {
			return err
		}
	}
}

const (
	soakWriters = 3
	// keptOrders is how many orders there are: with each one that comes, the oldest goes. Nothing of the world grows, so that
	// whatever does is ours.
	keptOrders = 5000
	customers  = 500
	docs       = 300
)

// soakSQL makes the tables. The first orders are already there.
var soakSQL = fmt.Sprintf(`
CREATE TABLE customer (id int PRIMARY KEY, name text NOT NULL, orders int NOT NULL DEFAULT 0, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL, state text NOT NULL DEFAULT 'placed', total numeric(10, 2));
CREATE TABLE line (orders bigint, line int, article text NOT NULL, amount numeric(10, 2), PRIMARY KEY (orders, line));
CREATE TABLE event (orders bigint, what text);
CREATE TABLE doc (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, body text);
CREATE TABLE bulk (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, t text);
ALTER TABLE event REPLICA IDENTITY FULL;
CREATE INDEX ON event (orders);
ALTER TABLE doc ALTER body SET STORAGE EXTERNAL;
INSERT INTO customer (id, name) SELECT i, 'customer ' || i FROM generate_series(1, %d) i;
INSERT INTO doc (id, body) SELECT i, repeat(md5(i::text), 100) FROM generate_series(1, %d) i;
INSERT INTO orders (id, customer, total) SELECT 1 - i, 1 + i %% 500, i FROM generate_series(1, %[3]d) i;
INSERT INTO line SELECT 1 - i, l, 'article ' || i %% 97, i FROM generate_series(1, %[3]d) i, generate_series(1, 2) l;
INSERT INTO event SELECT 1 - i, 'placed' FROM generate_series(1, %[3]d) i;`, customers, docs, keptOrders)

// write is one connection of the load: transactions over several tables, some of them rolled back, paced to its share of
// the rate.
func (s *soak) write(ctx context.Context, random *rand.Rand) error {
	whole := context.WithoutCancel(ctx)
	conn, err := pgx.Connect(whole, as(s.source, owner))
	if err != nil {
		return err
	}
	defer conn.Close(whole)
	began, made := time.Now(), int64(0)
	for {
		due := began.Add(time.Duration(made) * time.Second * soakWriters / time.Duration(s.rate))
		if late := time.Since(due); late > 5*time.Second {
			began = began.Add(late) // the machine was busy with something else: that is not made up for
		}
		wait(ctx, time.Until(due))
		if ctx.Err() != nil {
			return nil
		}
		commit := random.IntN(20) > 0
		n, err := s.transact(whole, conn, s.steps(random), commit)
		if err != nil && postgres.SQLState(err) != "40P01" {
			return err
		}
		made += n
	}
}

// steps gives the statements of a transaction.
func (s *soak) steps(random *rand.Rand) []string {
	order := s.orders.Add(1)
	oldest, some := order-keptOrders, order-random.Int64N(keptOrders/2)
	doc := fmt.Sprintf(`UPDATE doc SET n = n + 1 WHERE id = %d`, 1+random.IntN(docs))
	if random.IntN(4) == 0 {
		doc = fmt.Sprintf(`UPDATE doc SET n = n + 1, body = repeat(md5('%d'), %d) WHERE id = %d`, order, 80+random.IntN(40), 1+random.IntN(docs))
	}
	return []string{
		fmt.Sprintf(`INSERT INTO orders (id, customer, total) VALUES (%d, %d, %d.%02d)`, order, 1+random.IntN(customers), random.IntN(1000), random.IntN(100)),
		fmt.Sprintf(`INSERT INTO line SELECT %d, l, 'article ' || l, l FROM generate_series(1, 2) l`, order),
		fmt.Sprintf(`INSERT INTO event VALUES (%d, 'placed')`, order),
		fmt.Sprintf(`UPDATE orders SET state = 'paid' WHERE id = %d`, some),
		fmt.Sprintf(`UPDATE customer SET orders = orders + 1, at = now() WHERE id = %d`, 1+random.IntN(customers)),
		doc,
		fmt.Sprintf(`DELETE FROM line WHERE orders = %d`, oldest),
		fmt.Sprintf(`DELETE FROM event WHERE orders = %d`, oldest),
		fmt.Sprintf(`DELETE FROM orders WHERE id = %d`, oldest),
	}
}

// transact runs a transaction, and gives how many rows it has changed.
func (s *soak) transact(ctx context.Context, conn *pgx.Conn, steps []string, commit bool) (int64, error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 0, err
	}
	n := int64(0)
	for _, sql := range steps {
		tag, err := tx.Exec(ctx, sql)
		if err != nil {
			return n, errors.Join(err, tx.Rollback(ctx))
		}
		n += tag.RowsAffected()
	}
	if !commit {
		return n, tx.Rollback(ctx)
	}
	if err := tx.Commit(ctx); err != nil {
		return n, err
	}
	s.changes.Add(n)
	s.commits.Add(1)
	return n, nil
}

// once runs a transaction on a connection of its own.
func (s *soak) once(ctx context.Context, steps ...string) error {
	conn, err := pgx.Connect(ctx, as(s.source, owner))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = s.transact(ctx, conn, steps, true)
	return err
}

// largeTransaction fills a table, changes all of it, and empties it, one after the other.
func (s *soak) largeTransaction(ctx context.Context, n int) error {
	s.event("a transaction of %d rows", s.plan.largeRows)
	s.result.Large++
	return s.once(ctx, []string{
		fmt.Sprintf(`INSERT INTO bulk (id, n, t) SELECT i, 0, 'row ' || i FROM generate_series(1, %d) i`, s.plan.largeRows),
		`UPDATE bulk SET n = n + 1`,
		`DELETE FROM bulk`,
	}[n%3])
}

// askForSnapshot lets tables be read again; every other time they are voided first.
func (s *soak) askForSnapshot(ctx context.Context, n int) error {
	table := []string{"orders", "line", "doc", "event"}[n%4]
	s.event("table %s is read again", table)
	s.result.Snapshots++
	return s.once(ctx, fmt.Sprintf(`SELECT pg_logical_emit_message(true, 'tributary', '{"snapshot": {"id": "soak-%d", "tables": ["public.%s"], "reload": %t}}')`,
		n, table, n%2 == 1))
}

// changeSchema adds a column, and takes it away again.
func (s *soak) changeSchema(ctx context.Context, n int) error {
	s.event("a column comes or goes")
	s.result.SchemaChanges++
	alter := fmt.Sprintf(`ALTER TABLE customer ADD COLUMN x_%d int DEFAULT 7`, n/2)
	if n%2 == 1 {
		alter = fmt.Sprintf(`ALTER TABLE customer DROP COLUMN x_%d`, n/2)
	}
	return s.once(ctx, alter, `UPDATE customer SET at = now() WHERE id = 1`)
}
