package nemesis

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// MemoryOptions says how the memory of the services is to be measured. Seed, Dir, Broker, Registry, Programs and Log of
// Options are as for Run; the rest of it is not used.
type MemoryOptions struct {
	Options
	Outage time.Duration // how long the warehouse refuses everything
	Rate   int           // changes a second at the source meanwhile
	Rows   int           // of the one large transaction
}

// Footprint is the most memory that the services had in one situation.
type Footprint struct {
	Situation     string
	Changes       int64
	Took          time.Duration // until the last change was made
	CaughtUp      time.Duration // from then until all was in the warehouse
	Capture, Sink int64         // bytes resident at the peak
}

// String is a row of the table in docs/guarantees.md.
func (f Footprint) String() string {
	return fmt.Sprintf("| %s: %s changes in %.0f s, in the warehouse %.0f s later | %d MiB | %d MiB |",
		f.Situation, thousands(f.Changes), f.Took.Seconds(), f.CaughtUp.Seconds(), f.Capture>>20, f.Sink>>20)
}

const (
	rowsPerTransaction = 100
	memoryWriters      = 4
	// catchUp is how long the services may take for what has gathered.
	catchUp = 15 * time.Minute
)

// Memory measures the memory of one capture and one sink, as they are configured by default, while the warehouse is out of
// reach and during a large transaction. Each situation has processes of its own.
func Memory(ctx context.Context, o MemoryOptions) (found []Footprint, err error) {
	o.Patience = catchUp
	m := newMachine(o.Options)
	m.targets = targets[:1]
	m.report = Report{Exits: map[string]int{}}
	defer func() {
		err = errors.Join(err, m.tearDown(ctx))
		for _, f := range m.report.Findings {
			err = errors.Join(err, errors.New(f))
		}
	}()
	quick := map[string]string{"max_wal_size": "4GB"}
	if err := m.startServers(ctx, quick, quick); err != nil {
		return nil, err
	}
	if err := m.sourceExec(ctx, `CREATE TABLE item (id bigint PRIMARY KEY, n int, price numeric(10, 2), name text, at timestamptz DEFAULT now())`); err != nil {
		return nil, err
	}
	brokers := strings.Join(m.Broker.Addrs(), ", ")
	capture := fmt.Sprintf("source: {name: %s, dsn: %q, tables: [\"public.*\"]}\nkafka: {brokers: [%s]}\nregistry: {url: %q}\nhttp: {listen: \"127.0.0.1:0\"}\n",
		sourceName, through(m.source, m.sourceNet, ofCapture), brokers, m.Registry)
	sink := fmt.Sprintf("group: %s\nwarehouse: {dsn: %q}\nkafka: {brokers: [%s]}\nregistry: {url: %q}\nhttp: {listen: \"127.0.0.1:0\"}\ntables: [{from: \"public.*\", to: \"dwh.{table}\"}]\n",
		m.targets[0].group, through(m.warehouse, m.warehouseNet, ofSink), brokers, m.Registry)
	if err := m.prepare(map[string]string{"capture": capture, "sink": sink}, "capture-a", "sink-a"); err != nil {
		return nil, err
	}
	outage := fmt.Sprintf("warehouse out of reach for %.1f minutes, %s changes/s in transactions of %d", o.Outage.Minutes(), thousands(int64(o.Rate)), rowsPerTransaction)
	for _, s := range []struct {
		name string
		do   func(context.Context) (int64, error)
	}{
		{outage, func(ctx context.Context) (int64, error) { return m.outage(ctx, o.Outage, o.Rate) }},
		{fmt.Sprintf("one transaction of %s rows", thousands(int64(o.Rows))), func(ctx context.Context) (int64, error) {
			return int64(o.Rows), m.sourceExec(ctx, insertItems(-int64(o.Rows), -1))
		}},
	} {
		f, err := m.footprint(ctx, s.name, s.do)
		if err != nil {
			return found, fmt.Errorf("%s: %w", s.name, err)
		}
		m.tell("%s", f)
		found = append(found, f)
	}
	return found, nil
}

// footprint starts the services, does something to them, waits until they are done with it, and stops them.
func (m *machine) footprint(ctx context.Context, situation string, do func(context.Context) (int64, error)) (Footprint, error) {
	f := Footprint{Situation: situation}
	for _, s := range m.services {
		s.start()
		defer s.stop()
	}
	if err := m.checker.fence(ctx, "before"); err != nil {
		return f, err
	}
	watching, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	var watched error
	watcher.Go(func() { watched = m.watchMemory(watching, &f) })
	begun := time.Now()
	changes, err := do(ctx)
	f.Changes, f.Took = changes, time.Since(begun)
	if err == nil {
		done := time.Now()
		err = m.checker.fence(ctx, "after")
		f.CaughtUp = time.Since(done)
	}
	stop()
	watcher.Wait()
	return f, errors.Join(err, watched)
}

// watchMemory looks at both processes until ctx ends.
func (m *machine) watchMemory(ctx context.Context, f *Footprint) error {
	for {
		for name, most := range map[string]*int64{"capture-a": &f.Capture, "sink-a": &f.Sink} {
			s := m.services[name]
			s.mu.Lock()
			pid := s.pid
			s.mu.Unlock()
			bytes, err := peakMemory(pid)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it has ended, which is a finding
			} else if err != nil {
				return err
			}
			*most = max(*most, bytes)
		}
		if ctx.Err() != nil {
			return nil
		}
		wait(ctx, 200*time.Millisecond)
	}
}

// outage keeps the warehouse out of reach for a time, while the source goes on at rate, and gives how many changes it
// has made. Half of them are of rows that are new.
func (m *machine) outage(ctx context.Context, lasts time.Duration, rate int) (int64, error) {
	m.warehouseNet.set(refuse)
	defer m.warehouseNet.set(pass)
	ctx, cancel := context.WithTimeout(ctx, lasts)
	defer cancel()
	var transactions atomic.Int64
	begun := time.Now()
	var writers sync.WaitGroup
	errs := make([]error, memoryWriters)
	for w := range memoryWriters {
		writers.Go(func() {
			conn, err := pgx.Connect(ctx, as(m.source, owner))
			if err != nil {
				errs[w] = err
				return
			}
			defer conn.Close(context.WithoutCancel(ctx))
			for ctx.Err() == nil {
				n := transactions.Add(1)
				// The n-th transaction is due when as many as the rate asks for have been made before.
				wait(ctx, time.Until(begun.Add(time.Duration(n)*rowsPerTransaction*time.Second/time.Duration(rate))))
				first := n / 2 * rowsPerTransaction
				sql := insertItems(first, first+rowsPerTransaction-1)
				if n%2 == 1 {
					sql = fmt.Sprintf(`UPDATE item SET n = n + 1 WHERE id BETWEEN %d AND %d`, first-50*rowsPerTransaction, first-49*rowsPerTransaction-1)
				}
				if _, err := conn.Exec(context.WithoutCancel(ctx), sql); err != nil {
					errs[w] = err
					return
				}
			}
		})
	}
	writers.Wait()
	err := errors.Join(slices.Clip(errs)...)
	if ctx.Err() == nil && err == nil {
		err = errors.New("the load ended early")
	}
	return transactions.Load() * rowsPerTransaction, err
}

func insertItems(first, last int64) string {
	return fmt.Sprintf(`INSERT INTO item (id, n, price, name) SELECT i, i %% 100, i %% 10000 / 100.0, 'item ' || i || ' of a shop that sells many of them' FROM generate_series(%d, %d) i`, first, last)
}

func (m *machine) sourceExec(ctx context.Context, sql string) error {
	return execute(ctx, as(m.source, owner), sql)
}
