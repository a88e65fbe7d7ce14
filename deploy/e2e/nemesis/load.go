package nemesis

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// load writes to the source over several connections, at random. What becomes of a transaction does not matter to it:
// the ledger has it or has it not, together with what it did.
type load struct {
	dsn        string
	seed       uint64
	rows       int
	pace       time.Duration
	large      int // rows of a large transaction; 0 for none
	largeEvery time.Duration
	nextLarge  atomic.Int64 // when the next one may come, in nanoseconds of the clock
	committed  atomic.Int64
	rolledBack atomic.Int64
	failed     func(error) // told of errors that are neither a conflict nor a lost connection
	made       names       // tables
	attached   names       // regions of table parted
}

// transaction is one to be run.
type transaction struct {
	steps  []string
	commit bool
	then   func() // when it is known to be committed; may be nil
}

const (
	workers = 4
	// usualPace is how often each worker begins a transaction, if it gets on so fast.
	usualPace = 15 * time.Millisecond
	// hot is how many keys of each table get half of the changes.
	hot = 40
)

// run works until ctx ends. round makes the choices of each round its own.
func (l *load) run(ctx context.Context, round int) {
	var all sync.WaitGroup
	for n := range workers {
		w := &worker{load: l, number: n, rand: rand.New(rand.NewPCG(l.seed, uint64(round*workers+n)))} //nolint:gosec // it is to be repeatable
		all.Go(func() { w.run(ctx) })
	}
	all.Wait()
}

// worker is one connection of the load.
type worker struct {
	*load
	number int
	rand   *rand.Rand
	conn   *pgx.Conn
}

func (w *worker) run(ctx context.Context) {
	defer w.disconnect()
	tick := time.NewTicker(cmp.Or(w.pace, usualPace))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if w.conn == nil {
			conn, err := pgx.Connect(ctx, w.dsn)
			if err != nil {
				wait(ctx, 200*time.Millisecond) // the server is down: that is one of the faults
				continue
			}
			w.conn = conn
		}
		tx := w.transaction()
		if err := w.do(ctx, tx); err != nil || !tx.commit {
			w.rolledBack.Add(1)
			continue
		}
		w.committed.Add(1)
		if tx.then != nil {
			tx.then()
		}
	}
}

func (w *worker) disconnect() {
	if w.conn != nil {
		_ = w.conn.Close(context.Background())
		w.conn = nil
	}
}

// do runs a transaction. At the end of the load it is not broken off, but it does not wait for ever either: a server
// that is told to wait for a standby answers a COMMIT when that is over.
func (w *worker) do(ctx context.Context, tx transaction) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	end := "ROLLBACK"
	if tx.commit {
		end = "COMMIT"
	}
	var err error
	for _, sql := range append([]string{"BEGIN"}, append(tx.steps, end)...) {
		if _, err = w.conn.Exec(bounded, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			break
		}
		if sql == pause {
			wait(ctx, time.Duration(w.rand.IntN(600))*time.Millisecond)
		}
	}
	if err == nil {
		return nil
	}
	if w.conn.IsClosed() {
		w.disconnect()
		return err
	}
	switch postgres.SQLState(err) {
	case "23505", "40P01", "40001": // a key that is taken, a deadlock
	case "42703", "42701", "0A000": // the columns have changed meanwhile
	case "57P01", "57P02", "57P03": // the server goes down
	default:
		w.failed(err)
	}
	if _, err := w.conn.Exec(bounded, "ROLLBACK"); err != nil {
		w.disconnect()
	}
	return err
}

// pause is a statement behind which the worker waits for a while with its transaction open.
const pause = "SELECT"

// transaction chooses the statements of a transaction, and whether it is to be committed.
func (w *worker) transaction() transaction {
	kept := func(steps ...string) transaction { return transaction{steps: steps, commit: true} }
	switch n := w.rand.IntN(1000); {
	case n < 100:
		return kept(w.transfer()...)
	case n < 600:
		return kept(w.some(1 + w.rand.IntN(2))...)
	case n < 760:
		return kept(w.some(3 + w.rand.IntN(5))...)
	case n < 830: // a part of it is undone
		steps := append(w.some(2), "SAVEPOINT s")
		steps = append(append(steps, w.some(2)...), "ROLLBACK TO s")
		return kept(append(steps, w.some(1)...)...)
	case n < 870: // a part of it is a transaction of its own, and kept
		steps := append([]string{"SAVEPOINT s"}, w.some(2)...)
		return kept(append(append(steps, "RELEASE s"), w.some(1)...)...)
	case n < 920:
		return transaction{steps: w.some(3)}
	case n < 965: // open for a while
		return kept(append(append(w.some(2), pause), w.some(1)...)...)
	case n < 970:
		tx := w.schemaChange()
		tx.steps, tx.commit = append(tx.steps, w.some(w.rand.IntN(3))...), w.rand.IntN(5) > 0
		return tx
	case n < 985:
		return kept(w.truncate())
	case n < 990:
		return kept(append([]string{w.truncate()}, w.some(3)...)...)
	case n < 995:
		return transaction{steps: []string{w.truncate()}}
	case w.large > 0 && w.largeDue():
		return transaction{steps: w.largeOne(), commit: w.rand.IntN(5) > 0}
	}
	return kept(w.some(2)...)
}

// largeDue says whether a large transaction may come now, and if so counts it as come.
func (l *load) largeDue() bool {
	next, now := l.nextLarge.Load(), time.Now().UnixNano()
	return next <= now && l.nextLarge.CompareAndSwap(next, now+int64(l.largeEvery))
}

// some gives statements on n tables.
func (w *worker) some(n int) (steps []string) {
	for range n {
		steps = append(steps, w.statement()...)
	}
	return steps
}

func (w *worker) truncate() string {
	sets := []string{"coded", "pair", "bag", "pair, coded", "bag, coded, pair", "bag, pair", "plain", "plain, bag", "parted", "parted, whole"}
	return "TRUNCATE " + sets[w.rand.IntN(len(sets))]
}

// largeOne fills a range of keys, changes it, or empties it. Ranges are the workers' own: else they would wait for
// each other most of the time.
func (w *worker) largeOne() []string {
	first := 1_000_000 * (w.number + 1)
	last := first + w.large - 1
	switch w.rand.IntN(3) {
	case 0:
		return []string{fmt.Sprintf(`DELETE FROM plain WHERE id BETWEEN %d AND %d`, first, last)}
	case 1:
		return []string{fmt.Sprintf(`UPDATE plain SET n = n + 1 WHERE id BETWEEN %d AND %d`, first, last)}
	}
	return []string{fmt.Sprintf(`INSERT INTO plain (id, n, t) SELECT i, 0, 'large ' || i FROM generate_series(%d, %d) i ON CONFLICT (id) DO NOTHING`, first, last)}
}

// id gives a key: half of the time one of a few that are fought over.
func (w *worker) id() int {
	if w.rand.IntN(2) == 0 {
		return 1 + w.rand.IntN(hot)
	}
	return 1 + w.rand.IntN(w.rows+w.rows/10)
}

// toast is a text too large for its row, another one each time.
func (w *worker) toast() string {
	return fmt.Sprintf(`repeat(md5('%d'), %d)`, w.rand.Uint32(), 75+w.rand.IntN(60))
}
