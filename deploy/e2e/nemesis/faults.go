package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// blow is one fault as it comes.
type blow struct {
	m    *machine
	rand *rand.Rand
	// ctx ends when everything is to be healed; what a blow has done it undoes itself, whatever comes.
	ctx context.Context
	// whole is the run's context, for what must be done also then.
	whole context.Context
}

// during waits for a time between least and most, or until the healing.
func (b *blow) during(least, most time.Duration) {
	wait(b.ctx, least+time.Duration(b.rand.Int64N(int64(most-least))))
}

// fault is one kind of fault. Two that have one target in common do not come at the same time.
type fault struct {
	kind    string
	weight  int
	targets []string
	strike  func(b *blow) error
}

func faults() []fault {
	var all []fault
	for _, s := range []struct{ name, kind string }{{"capture-a", "capture"}, {"sink-a", "sink"}, {"sink-b", "sink"}, {"whole-a", "whole sink"}, {"kept-a", "kept sink"}} {
		name, kind := s.name, s.kind
		one := func(f fault) {
			f.targets = append(f.targets, name)
			all = append(all, f)
		}
		one(fault{kind: "kill " + kind, weight: 3, strike: func(b *blow) error {
			b.m.services[name].kill()
			return nil
		}})
		one(fault{kind: "terminate " + kind, weight: 2, strike: func(b *blow) error {
			b.m.services[name].restart()
			b.during(time.Second, 2*time.Second)
			return nil
		}})
		one(fault{kind: "stop " + kind + " for a moment", weight: 2, strike: func(b *blow) error {
			b.m.services[name].pause()
			b.during(100*time.Millisecond, 2*time.Second)
			b.m.services[name].resume()
			return nil
		}})
	}
	return append(all,
		fault{"capture is a zombie", 3, []string{"capture-a", "capture-b"}, func(b *blow) error { return b.zombie("capture-a", "capture-b", senderLimit) }},
		fault{"whole sink is a zombie", 3, []string{"whole-a", "whole-b"}, func(b *blow) error { return b.zombie("whole-a", "whole-b", sinkSession) }},
		fault{"second whole sink", 2, []string{"whole-b"}, func(b *blow) error { return b.guest("whole-b", 5*time.Second) }},
		fault{"kept sink is a zombie", 2, []string{"kept-a", "kept-b"}, func(b *blow) error { return b.zombie("kept-a", "kept-b", sinkSession) }},
		fault{"second kept sink", 2, []string{"kept-b"}, func(b *blow) error { return b.guest("kept-b", 5*time.Second) }},
		fault{"second capture", 2, []string{"capture-b"}, func(b *blow) error { return b.guest("capture-b", 4*time.Second) }},
		fault{"sink is a zombie", 3, []string{"sink-b"}, func(b *blow) error {
			b.m.services["sink-b"].pause()
			b.during(sinkSession+time.Second, sinkSession+4*time.Second)
			b.m.services["sink-b"].resume()
			return nil
		}},
		fault{"third sink", 3, []string{"sink-c"}, func(b *blow) error { return b.guest("sink-c", 5*time.Second) }},
		fault{"kill broker", 2, []string{"broker"}, func(b *blow) error { return b.restartBroker(b.m.Broker.Kill) }},
		fault{"restart broker", 1, []string{"broker"}, func(b *blow) error { return b.restartBroker(b.m.Broker.Stop) }},
		fault{"cut broker", 2, []string{"broker"}, (*blow).cutBroker},
		fault{"slow broker", 1, []string{"broker"}, (*blow).slowBroker},
		fault{"kill source", 2, []string{"source"}, func(b *blow) error { return b.restartServer(b.m.source, b.m.source.Kill) }},
		fault{"restart source", 1, []string{"source"}, func(b *blow) error { return b.restartServer(b.m.source, b.m.source.Stop) }},
		fault{"kill warehouse", 2, []string{"warehouse"}, func(b *blow) error { return b.restartServer(b.m.warehouse, b.m.warehouse.Kill) }},
		fault{"restart warehouse", 1, []string{"warehouse"}, func(b *blow) error { return b.restartServer(b.m.warehouse, b.m.warehouse.Stop) }},
		fault{"cut source", 2, []string{"source-net"}, func(b *blow) error { b.m.sourceNet.cut(); return nil }},
		fault{"cut warehouse", 2, []string{"warehouse-net"}, func(b *blow) error { b.m.warehouseNet.cut(); return nil }},
		fault{"source out of reach", 1, []string{"source-net"}, func(b *blow) error { return b.network(b.m.sourceNet, refuse, hold) }},
		fault{"warehouse out of reach", 1, []string{"warehouse-net"}, func(b *blow) error { return b.network(b.m.warehouseNet, refuse, hold) }},
		fault{"slow source", 1, []string{"source-net"}, func(b *blow) error { return b.network(b.m.sourceNet, slow) }},
		fault{"slow warehouse", 1, []string{"warehouse-net"}, func(b *blow) error { return b.network(b.m.warehouseNet, slow) }},
		fault{"lost commit", 3, []string{"warehouse-net"}, func(b *blow) error { return b.network(b.m.warehouseNet, loseCommit, loseAnswer) }},
		fault{"walsender ended", 2, []string{"source"}, func(b *blow) error {
			return b.sql(b.m.source, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL`)
		}},
		fault{"sink backends ended", 2, []string{"warehouse"}, func(b *blow) error {
			return b.sql(b.m.warehouse, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tributary sink%'`)
		}},
		fault{"warehouse tables locked", 1, []string{"warehouse"}, (*blow).lockTables},
		fault{"warehouse deadlock", 2, []string{"warehouse"}, (*blow).deadlock},
		fault{"warehouse connections taken", 1, []string{"warehouse"}, (*blow).takeConnections},
		fault{"late visibility", 3, []string{"source"}, (*blow).lateVisibility},
		fault{"snapshot asked for", 4, nil, (*blow).snapshot},
	)
}

// mostPause is the longest time from one fault to the next; a quarter of it is the shortest.
const mostPause = 2 * time.Second

// strike lets faults come until ctx ends, and returns when each has undone what it did.
func (m *machine) strike(ctx context.Context, random *rand.Rand) error {
	var kinds []fault
	weights := 0
	for _, f := range faults() {
		if m.Faults == nil || slices.Contains(m.Faults, f.kind) {
			kinds = append(kinds, f)
			weights += f.weight
		}
	}
	if len(kinds) == 0 {
		return fmt.Errorf("none of %q is a kind of fault", m.Faults)
	}
	whole := context.WithoutCancel(ctx)
	var blows sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for wait(ctx, time.Second); ctx.Err() == nil && !m.broken(); wait(ctx, mostPause/4+time.Duration(random.Int64N(int64(mostPause*3/4)))) {
		f := choose(kinds, weights, random)
		b := &blow{m: m, rand: rand.New(rand.NewPCG(random.Uint64(), 0)), ctx: ctx, whole: whole} //nolint:gosec // it is to be repeatable
		if !m.take(f) {
			continue
		}
		m.tell("fault: %s", f.kind)
		blows.Go(func() {
			err := f.strike(b)
			m.give(f)
			if err != nil {
				mu.Lock()
				failed = errors.Join(failed, fmt.Errorf("fault %q: %w", f.kind, err))
				mu.Unlock()
			}
		})
	}
	m.tell("healing")
	blows.Wait()
	return failed
}

func choose(kinds []fault, weights int, random *rand.Rand) *fault {
	n := random.IntN(weights)
	for i := range kinds {
		if n -= kinds[i].weight; n < 0 {
			return &kinds[i]
		}
	}
	panic("weights are wrong")
}

func (m *machine) take(f *fault) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range f.targets {
		if m.busy[t] {
			return false
		}
	}
	for _, t := range f.targets {
		m.busy[t] = true
	}
	m.report.Faults[f.kind]++
	return true
}

func (m *machine) give(f *fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range f.targets {
		delete(m.busy, t)
	}
}

// zombie stops a service while another takes its place, which it can after limit, and lets it wake up beside it.
func (b *blow) zombie(name, successor string, limit time.Duration) error {
	a, other := b.m.services[name], b.m.services[successor]
	a.pause()
	other.start()
	b.during(limit+time.Second, limit+4*time.Second)
	a.resume()
	b.during(time.Second, 3*time.Second)
	other.stop()
	return nil
}

// guest lets one more service run for at most that long; sometimes it is killed and up again before it ends.
func (b *blow) guest(name string, most time.Duration) error {
	other := b.m.services[name]
	other.start()
	b.during(time.Second, most)
	if b.rand.IntN(2) == 0 {
		other.kill()
	}
	other.stop()
	return nil
}

func (b *blow) restartBroker(end func() error) error {
	err := end()
	b.during(100*time.Millisecond, 2*time.Second)
	return errors.Join(err, b.m.Broker.Restart(b.whole))
}

// cutBroker breaks the connections to the broker, or holds it up where it cannot do so.
func (b *blow) cutBroker() error {
	switch broker := b.m.Broker.(type) {
	case interface{ Cut() }:
		broker.Cut()
	case interface {
		Pause() error
		Resume() error
	}:
		err := broker.Pause()
		b.during(500*time.Millisecond, 4*time.Second)
		return errors.Join(err, broker.Resume())
	}
	return nil
}

// slowBroker lets the broker work for short moments only, or cuts its connections again and again where it cannot be
// stopped.
func (b *blow) slowBroker() error {
	for range 5 + b.rand.IntN(20) {
		switch broker := b.m.Broker.(type) {
		case interface{ Cut() }:
			broker.Cut()
		case interface {
			Pause() error
			Resume() error
		}:
			err := broker.Pause()
			b.during(50*time.Millisecond, 150*time.Millisecond)
			if err = errors.Join(err, broker.Resume()); err != nil {
				return err
			}
		}
		b.during(20*time.Millisecond, 100*time.Millisecond)
	}
	return nil
}

func (b *blow) restartServer(c *pgtest.Cluster, end func() error) error {
	err := end()
	b.during(100*time.Millisecond, 2*time.Second)
	return errors.Join(err, c.Restart(b.whole))
}

// network puts a proxy into one of the modes for a while. What it has held up goes on, or is cut.
func (b *blow) network(p *proxy, modes ...mode) error {
	p.set(modes[b.rand.IntN(len(modes))])
	b.during(500*time.Millisecond, 4*time.Second)
	p.set(pass)
	if b.rand.IntN(2) == 0 {
		p.cut()
	}
	return nil
}

// sql runs a statement at a server. That the server is just down, or goes down, is no error.
func (b *blow) sql(c *pgtest.Cluster, sql string) error {
	return b.with(c, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		return err
	})
}

func (b *blow) with(c *pgtest.Cluster, do func(ctx context.Context, conn *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(b.whole, 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.DSN("postgres"))
	if err != nil {
		b.m.tell("fault passed over: %v", err)
		return nil
	}
	defer conn.Close(b.whole)
	err = do(ctx, conn)
	if errors.Is(err, context.DeadlineExceeded) {
		b.m.tell("fault passed over: %v", err) // somebody who is stopped holds what it waits for; its locks go with the connection
		return nil
	}
	return err
}

// lockTables keeps the sinks waiting for a table, as somebody's ALTER TABLE would.
func (b *blow) lockTables() error {
	return b.locked(", tributary.checkpoint", func(ctx context.Context, conn *pgx.Conn) error {
		b.during(500*time.Millisecond, 3*time.Second)
		_, err := conn.Exec(ctx, "ROLLBACK")
		return err
	})
}

// deadlock takes what a sink needs in the order opposite to the sink's: first a table, then the checkpoints.
func (b *blow) deadlock() error {
	return b.locked("", func(ctx context.Context, conn *pgx.Conn) error {
		b.during(300*time.Millisecond, time.Second) // a sink has moved its checkpoints meanwhile, and waits for the table
		_, err := conn.Exec(ctx, "SELECT FROM tributary.checkpoint FOR UPDATE; ROLLBACK", pgx.QueryExecModeSimpleProtocol)
		if postgres.SQLState(err) == "40P01" {
			return nil // it is us whom the server has chosen
		}
		return err
	})
}

// locked does something in a transaction that has locked one target, and others beside it.
func (b *blow) locked(others string, do func(ctx context.Context, conn *pgx.Conn) error) error {
	return b.with(b.m.warehouse, func(ctx context.Context, conn *pgx.Conn) error {
		t := tables[b.rand.IntN(len(tables))].name
		schema := b.m.targets[b.rand.IntN(len(b.m.targets))].schema
		if _, err := conn.Exec(ctx, fmt.Sprintf("BEGIN; LOCK TABLE %s.%s%s", schema, t, others), pgx.QueryExecModeSimpleProtocol); err != nil {
			b.m.tell("fault passed over: %v", err) // not made yet, a deadlock
			return nil
		}
		return do(ctx, conn)
	})
}

// takeConnections takes all connections that are left.
func (b *blow) takeConnections() error {
	var taken []*pgx.Conn
	defer func() {
		for _, conn := range taken {
			conn.Close(b.whole)
		}
	}()
	ctx, cancel := context.WithTimeout(b.whole, 20*time.Second)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, b.m.warehouse.DSN("postgres"))
		if err != nil {
			break // there are no more
		}
		taken = append(taken, conn)
	}
	b.m.warehouseNet.cut() // those who had one need another
	b.during(500*time.Millisecond, 3*time.Second)
	return nil
}

// lateVisibility lets COMMITs wait for a standby that does not exist: they are in the WAL and streamed, while no
// snapshot sees them yet.
func (b *blow) lateVisibility() error {
	set := func(to string) error {
		return b.with(b.m.source, func(ctx context.Context, conn *pgx.Conn) error {
			// Two statements: ALTER SYSTEM must not run in the transaction of a simple query with several.
			if _, err := conn.Exec(ctx, "ALTER SYSTEM SET synchronous_standby_names = '"+to+"'"); err != nil {
				return err
			}
			_, err := conn.Exec(ctx, "SELECT pg_reload_conf()")
			return err
		})
	}
	if err := b.snapshot(); err != nil {
		return err
	}
	err := set("nobody")
	b.during(300*time.Millisecond, 1500*time.Millisecond)
	return errors.Join(err, set(""))
}

// snapshot asks for a table to be read again, sometimes with a truncate first.
func (b *blow) snapshot() error {
	t := tables[b.rand.IntN(len(tables))].name
	sql := fmt.Sprintf(`SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'tributary', '{"snapshot": {"id": "x", "tables": ["public.%s"], "reload": %t}}')`,
		t, b.rand.IntN(4) == 0)
	if err := b.sql(b.m.source, sql); err != nil {
		b.m.tell("fault passed over: %v", err) // the server goes down just now
	}
	return nil
}
