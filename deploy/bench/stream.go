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
	// The slots are there before the changes. One source a number of partitions, and one, of one, that is fetched by SQL.
	const bySQL = 0
	partitions := []int{1}
	if b.whole {
		partitions = []int{1, 2, 4}
	}
	source := func(p int) string { return fmt.Sprintf("%s_%d", b.table, p) }
	topics := func(p int) string { return fmt.Sprintf("topics: {partitions: %d}", p) }
	for _, p := range append(partitions, bySQL) {
		if _, _, err := w.runCapture(ctx, source(p), src, 0, topics(max(p, 1)), "empty"); err != nil {
			return err
		}
	}
	for _, slot := range []string{"limit", "native"} {
		if _, err := src.Exec(ctx, `select pg_create_logical_replication_slot($1, 'pgoutput')`, slot+"_"+b.table); err != nil {
			return err
		}
	}
	if err := src.load(ctx, b); err != nil {
		return err
	}
	publication := "tributary_" + source(1)
	nowhere, who, err := drain(ctx, src, "limit_"+b.table, publication)
	if err != nil {
		return err
	}
	read := limit{float64(b.changes) / nowhere.Seconds(), who + " of the same changes to nowhere"}
	for _, p := range append(partitions, bySQL) {
		catchUp := 0
		if p == bySQL {
			catchUp = 1 << 20
		}
		m := w.meter()
		took, use, err := w.runCapture(ctx, source(p), src, catchUp, topics(max(p, 1)), "full")
		if err != nil {
			return err
		}
		switch p {
		case 1:
			r.rate(w, b.name+": WAL to topic, by the walsender", b.changes, took, read, 0.85, m.read(use, used{}))
		case bySQL:
			r.rate(w, b.name+": WAL to topic, catching up by SQL", b.changes, took, read, 1.5, m.read(use, used{}))
		}
	}
	target, err := w.create(ctx, w.warehouse, b.tables)
	if err != nil {
		return err
	}
	defer target.Close(context.WithoutCancel(ctx))
	applied, err := native(ctx, src, target, "native_"+b.table, publication)
	if err != nil {
		return err
	}
	apply := limit{float64(b.changes) / applied.Seconds(), "apply of native logical replication"}
	rows, err := src.rows(ctx, b.table)
	if err != nil {
		return err
	}
	one, err := w.sinkRow(ctx, r, sinkRun{path: b.name + ": topic to warehouse", source: source(1), table: b.table, changes: b.changes, rows: rows, limit: apply, goal: 1.3})
	if err != nil || !b.whole {
		return err
	}
	return w.variants(ctx, r, b, source, rows, apply, one)
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
	m := w.meter()
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

// variants measures what else can be made of the same changes.
func (w *world) variants(ctx context.Context, r *report, b backlog, source func(int) string, rows int64, apply limit, one float64) error {
	plain := limit{one, "the same as a clone, one partition, one sink"}
	runs := []sinkRun{
		{path: "two partitions", source: source(2), limit: apply, goal: 1.6},
		{path: "with a filter", rule: `{from: "public.*", to: "public.{table}", filter: "acct >= 0 && kind != 'none'"}`, limit: plain},
		{path: "with a computed column", rule: `{from: "public.*", to: "public.{table}", set: [{column: region, value: "'eu'"}]}`, limit: plain},
		{path: "with a masked column", rule: `{from: "public.*", to: "public.{table}", columns: [id, acct, kind, amount, {from: note, mask: hash}, created, updated]}`, limit: plain},
		{path: "as history", rule: `{from: "public.*", to: "public.{table}", mode: history}`, limit: plain},
		{path: "as log", rule: `{from: "public.*", to: "public.{table}", mode: log}`, limit: plain},
		{path: "10 ms away", away: 10 * time.Millisecond, limit: plain, goal: 0.8},
		{path: "four partitions, one sink", source: source(4), limit: plain},
		{path: "four partitions, two sinks", source: source(4), members: 2, limit: plain},
		{path: "four partitions, four sinks", source: source(4), members: 4, limit: plain},
	}
	for _, s := range runs {
		s.path, s.table, s.changes, s.rows = b.name+": topic to warehouse, "+s.path, b.table, b.changes, rows
		if s.source == "" {
			s.source = source(1)
		}
		if _, err := w.sinkRow(ctx, r, s); err != nil {
			return err
		}
	}
	return nil
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
