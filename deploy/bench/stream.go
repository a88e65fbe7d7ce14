package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tributary-cdc/tributary/pkg/postgres"
)

//go:embed load.sql
var genChanges string

// backlog is changes that are all committed before anything reads them.
type backlog struct {
	name    string
	table   string // name of the only table
	tables  string // CREATE TABLE, the same at the source and for native replication
	prepare string // more that the load needs at the source
	loads   []string
	changes int
	whole   bool // with every variant of the sink
}

// of gives a backlog of changes of its table with a key, id, n in each of four sessions beside each other.
// values are those of a new row without its key, and set what an update does: see load.sql.
func (b backlog) of(n int, values, set string) backlog {
	const sessions = 4
	b.changes = sessions * n
	b.prepare += strings.NewReplacer("{table}", b.table, "{values}", values, "{set}", set).Replace(genChanges)
	for i := range sessions {
		b.loads = append(b.loads, fmt.Sprintf("call gen_changes(%d, %d)", i, n))
	}
	return b
}

// events is the load that the figures of other tools were measured with.
func events(w *world) backlog {
	return backlog{
		name: "stream", table: "events", whole: true,
		tables: `create table events (id bigint primary key, acct integer not null, kind text not null, amount numeric(12,2) not null, note text, created timestamptz not null, updated timestamptz)`,
	}.of(w.n(250_000), `c % 100000, 'ins', (c % 100000) / 100.0, 'note for change number ' || c || ' padding ' || md5(c::text), clock_timestamp(), null`,
		`amount = amount + 1.25, kind = 'upd', updated = clock_timestamp()`)
}

// wide has twenty columns of the usual types.
func wide(w *world) backlog {
	columns, values := []string{"id bigint primary key"}, []string{}
	for i := range 19 {
		kind := []struct{ typ, value string }{
			{"integer", "c % 1000"}, {"text", "'value ' || c"}, {"numeric(12,2)", "c / 100.0"}, {"timestamptz", "now()"}, {"boolean", "c % 2 = 0"},
		}[i%5]
		columns = append(columns, fmt.Sprintf("c%d %s", i, kind.typ))
		values = append(values, kind.value)
	}
	return backlog{name: "stream of rows with 20 columns", table: "wide", tables: "create table wide (" + strings.Join(columns, ", ") + ")"}.
		of(w.n(100_000), strings.Join(values, ", "), `c0 = c0 + 1, c1 = 'changed'`)
}

// large has rows of 2 KB.
func large(w *world) backlog {
	return backlog{
		name: "stream of rows of 2 KB", table: "large", tables: `create table large (id bigint primary key, n integer, body text)`,
		prepare: `alter table large alter body set storage plain;`,
	}.of(w.n(100_000), `0, repeat(md5(c::text), 62)`, `n = large.n + 1`)
}

// hot changes one row again and again, in transactions of ten.
func hot(w *world) backlog {
	n := w.n(1_000_000)
	return backlog{
		name: "stream of changes of one row", table: "hot", changes: n + 1,
		tables:  `create table hot (id bigint primary key, n integer, note text)`,
		prepare: `create procedure heat(n int) language plpgsql as $$ begin insert into hot values (1, 0, 'the row that everybody changes'); for i in 1..n loop update hot set n = hot.n + 1 where id = 1; if i % 10 = 0 then commit; end if; end loop; end $$`,
		loads:   []string{fmt.Sprintf(`call heat(%d)`, n)},
	}
}

// measureStream measures a backlog of changes.
func measureStream(ctx context.Context, w *world, r *report, b backlog) error {
	src, err := w.create(ctx, w.source, b.tables)
	if err != nil {
		return err
	}
	defer src.leave(context.WithoutCancel(ctx)) //nolint:errcheck // the server goes with the world
	if b.prepare != "" {
		if err := src.exec(ctx, b.prepare); err != nil {
			return err
		}
	}
	// What has a goal is measured several times, and its limit each time beside it. The slots are there before the changes: of
	// sources with one partition, of as many that are fetched by SQL, and of one with two and one with four.
	rounds := 1
	if b.whole {
		rounds = 3
	}
	source := func(kind string, round int) string { return fmt.Sprintf("%s_%s_%d", b.table, kind, round) }
	type stream struct {
		source, row string
		goal        float64
		partitions  int
		catchUp     int
	}
	var all []stream
	for n := range rounds {
		all = append(all,
			stream{source("one", n), "WAL to topic, by the walsender", 0.85, 1, 0},
			stream{source("sql", n), "WAL to topic, catching up by SQL", 1.5, 1, 1 << 20})
	}
	if b.whole {
		all = append(all, stream{source: source("two", 0), partitions: 2}, stream{source: source("four", 0), partitions: 4})
	}
	topics := func(n int) string { return fmt.Sprintf("topics: {partitions: %d}", n) }
	for _, s := range all {
		if _, _, err := w.runCapture(ctx, s.source, src, 0, topics(s.partitions), "empty"); err != nil {
			return err
		}
	}
	slot := func(kind string, round int) string { return fmt.Sprintf("%s_%s_%d", kind, b.table, round) }
	for n := range rounds {
		for _, kind := range []string{"limit", "native"} {
			if _, err := src.Exec(ctx, `select pg_create_logical_replication_slot($1, 'pgoutput')`, slot(kind, n)); err != nil {
				return err
			}
		}
	}
	if err := src.load(ctx, b); err != nil {
		return err
	}
	publication := "tributary_" + source("one", 0)
	var read limit
	for n, s := range all {
		if s.row != "" && s.catchUp == 0 {
			nowhere, who, err := drain(ctx, src, slot("limit", n/2), publication)
			if err != nil {
				return err
			}
			read = limit{float64(b.changes) / nowhere.Seconds(), who + " of the same changes to nowhere"}
		}
		m := w.meter(ctx)
		took, use, err := w.runCapture(ctx, s.source, src, s.catchUp, topics(s.partitions), "full")
		if err != nil {
			return err
		}
		if cost := m.read(use, used{}); s.row != "" {
			r.rate(w, b.name+": "+s.row, b.changes, took, read, s.goal, cost)
		}
	}
	rows, err := src.rows(ctx, b.table)
	if err != nil {
		return err
	}
	run := func(path, source string, l limit, goal float64) sinkRun {
		return sinkRun{path: b.name + ": topic to warehouse" + path, source: source, table: b.table, changes: b.changes, rows: rows, limit: l, goal: goal}
	}
	for n := range rounds {
		target, err := w.create(ctx, w.warehouse, b.tables)
		if err != nil {
			return err
		}
		applied, err := native(ctx, src, target, slot("native", n), publication)
		if err = firstOf(err, target.Close(context.WithoutCancel(ctx))); err != nil {
			return err
		}
		apply := limit{float64(b.changes) / applied.Seconds(), "apply of native logical replication"}
		one, err := w.sinkRow(ctx, r, run("", source("one", 0), apply, 1.3))
		if err != nil {
			return err
		}
		if !b.whole {
			return nil
		}
		plain := limit{one, "the same as a clone, one partition, one sink"}
		away := run(", 10 ms away", source("one", 0), plain, 0.8)
		away.away = 10 * time.Millisecond
		variants := []sinkRun{run(", two partitions", source("two", 0), apply, 1.6), away}
		if n == rounds-1 {
			for _, v := range []struct{ path, rule string }{
				{"with a filter", `filter: "acct >= 0 && kind != 'none'"`},
				{"with a computed column", `set: [{column: region, value: "'eu'"}]`},
				{"with a masked column", `columns: [id, acct, kind, amount, {from: note, mask: hash}, created, updated]`},
				{"as history", `mode: history`},
				{"as log", `mode: log`},
			} {
				s := run(", "+v.path, source("one", 0), plain, 0)
				s.rule = fmt.Sprintf(`{from: "public.*", to: "public.{table}", %s}`, v.rule)
				variants = append(variants, s)
			}
			for _, v := range []struct {
				members int
				name    string
			}{{1, "one sink"}, {2, "two sinks"}, {4, "four sinks"}} {
				s := run(", four partitions, "+v.name, source("four", 0), plain, 0)
				s.members = v.members
				variants = append(variants, s)
			}
		}
		for _, s := range variants {
			if _, err := w.sinkRow(ctx, r, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// sinkRun is one measure of sinks that write a backlog into an empty database.
type sinkRun struct {
	path, source string
	table        string
	changes      int
	rows         int64  // that there are in the end, unless versions are kept
	rule         string // "" for a clone
	members      int    // sinks; 0 is one
	away         time.Duration
	limit        limit
	goal         float64
}

func (w *world) sinkRow(ctx context.Context, r *report, s sinkRun) (rate float64, err error) {
	dst, err := w.create(ctx, w.warehouse)
	if err != nil {
		return 0, err
	}
	defer dst.Close(context.WithoutCancel(ctx))
	if s.rule == "" {
		s.rule = `{from: "public.*", to: "public.{table}"}`
	}
	to := *dst
	if s.away > 0 {
		p, err := newDistance(net.JoinHostPort("127.0.0.1", strconv.Itoa(w.warehouse.Port())), s.away)
		if err != nil {
			return 0, err
		}
		defer p.close()
		to.dsn = strings.Replace(dst.dsn, net.JoinHostPort("127.0.0.1", strconv.Itoa(w.warehouse.Port())), p.addr(), 1)
	}
	m := w.meter(ctx)
	took, use, err := w.runSinks(ctx, w.sink(dst.name, &to, s.source, s.rule), dst, dst.name, "full", max(1, s.members))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.path, err)
	}
	cost := m.read(used{}, use)
	if !strings.Contains(s.rule, "mode:") {
		if err := dst.holds(ctx, s.table, s.rows); err != nil {
			return 0, fmt.Errorf("%s: %w", s.path, err)
		}
	}
	r.rate(w, s.path, s.changes, took, s.limit, s.goal, cost)
	return float64(s.changes) / took.Seconds(), nil
}

// load runs the statements of a backlog, each in a session of its own.
func (d *database) load(ctx context.Context, b backlog) error {
	var all sync.WaitGroup
	errs := make([]error, len(b.loads))
	for i, sql := range b.loads {
		all.Go(func() {
			conn, err := postgres.Connect(ctx, d.dsn, "load")
			if err == nil {
				session := database{name: d.name, Conn: conn}
				err = errors.Join(session.exec(ctx, "set search_path = public"), session.exec(ctx, sql))
				_ = conn.Close(context.WithoutCancel(ctx))
			}
			errs[i] = err
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
