package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// pace is a steady load: rows a second, in transactions of so many.
type pace struct{ rows, perTransaction int }

// lags are the loads under which latency is measured. delivery is capture's, "" for its default.
var lags = []struct {
	pace
	delivery, goal string
}{
	{pace{500, 1}, "", "p50 < 12 ms, p99 < 30 ms"},
	{pace{500, 1}, "at-least-once", "p50 < 7 ms, p99 < 15 ms"},
	{pace{5000, 10}, "", ""},
}

const latTable = `create table lat (id bigint primary key, v integer not null, note text not null)`

// measureLatency measures the time from the commit at the source until the row is visible in the warehouse, by both
// servers' commit timestamps, which are of one clock here.
func measureLatency(ctx context.Context, w *world, r *report) error {
	if err := nativeLatency(ctx, w, r); err != nil {
		return err
	}
	for n, p := range lags {
		src, err := w.create(ctx, w.source, latTable)
		if err != nil {
			return err
		}
		dst, err := w.create(ctx, w.warehouse)
		if err != nil {
			return err
		}
		source, more, name := fmt.Sprintf("lat_%d", n), "", ""
		if p.delivery != "" {
			more, name = fmt.Sprintf("publish: {delivery: %s}", p.delivery), ", "+p.delivery
		}
		m := w.meter(ctx)
		running, err := w.startBoth(ctx, source, src, dst, more)
		if err != nil {
			return err
		}
		last := time.Duration(w.n(40)) * time.Second
		rows, err := steady(ctx, []*database{src}, p.pace, warm+last)
		if err == nil {
			err = src.fence(ctx, "end")
		}
		if err == nil {
			err = dst.applied(ctx, source, "end", 1)
		}
		capture, sink, stopErr := running.stop()
		if err := firstOf(err, stopErr); err != nil {
			return err
		}
		took := m.read(capture, sink)
		found, err := latencies(ctx, src, dst, committed, "", settled(rows, last))
		if err != nil {
			return err
		}
		r.times(w, fmt.Sprintf("latency at %d changes/s, transactions of %d%s", p.rows, p.perTransaction, name), found, p.goal, took)
		if err := errors.Join(src.leave(ctx), dst.Close(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// warm is how long a load runs before its latency counts.
const warm = 10 * time.Second

// settled gives the first of the rows that count, of those that a steady load wrote that lasted warm and last.
func settled(rows int, last time.Duration) int64 {
	return int64(float64(rows) * float64(warm) / float64(warm+last))
}

// nativeLatency measures the same with native logical replication, in which there is no broker: what the servers and their
// disk take. Its commits bear the source's timestamps, so the target notes when a row came, a moment before.
func nativeLatency(ctx context.Context, w *world, r *report) error {
	src, err := w.create(ctx, w.source, latTable, `create publication lat for table lat`)
	if err != nil {
		return err
	}
	dst, err := w.create(ctx, w.warehouse, latTable, `alter table lat add came timestamptz default clock_timestamp()`,
		fmt.Sprintf(`create subscription lat connection %s publication lat`, postgres.Literal(src.dsn)))
	if err != nil {
		return errors.Join(err, src.leave(ctx))
	}
	m := w.meter(ctx)
	p, last := lags[0].pace, time.Duration(w.n(40))*time.Second
	rows, err := steady(ctx, []*database{src}, p, warm+last)
	if err == nil {
		err = poll(ctx, func() (bool, error) {
			n, err := dst.rows(ctx, "lat")
			return n >= int64(rows), err
		})
	}
	took := m.read(used{}, used{})
	var found []time.Duration
	if err == nil {
		found, err = latencies(ctx, src, dst, "came", "", settled(rows, last))
	}
	if err == nil {
		r.times(w, fmt.Sprintf("latency at %d changes/s of native logical replication", p.rows), found, "", took)
	}
	return errors.Join(err, dst.exec(context.WithoutCancel(ctx), `drop subscription lat`), src.leave(ctx), dst.Close(ctx))
}

// both is a capture and a sink at work.
type both struct{ capture, sink *program }

func (b *both) stop() (capture, sink used, err error) {
	capture, err = b.capture.stop()
	sink, sinkErr := b.sink.stop()
	return capture, sink, firstOf(err, sinkErr)
}

// startBoth starts a pipeline and waits until it flows. more is added to capture's configuration.
func (w *world) startBoth(ctx context.Context, source string, src, dst *database, more string) (*both, error) {
	capture, err := w.start(ctx, w.programs.Capture, w.capture(source, src, 0, more))
	if err != nil {
		return nil, err
	}
	sink, err := w.start(ctx, w.programs.Sink, w.usualSink(source, dst, source, `{from: "public.*", to: "public.{table}"}`))
	if err != nil {
		return nil, err
	}
	b := &both{capture, sink}
	capture.profile()
	sink.profile()
	err = src.captured(ctx, source)
	if err == nil {
		err = src.fence(ctx, "flows")
	}
	if err == nil {
		err = dst.applied(ctx, source, "flows", 1)
	}
	if err != nil {
		_, _, _ = b.stop()
	}
	return b, err
}

// steady writes rows into the table lat of each database at a pace for all of them together, and gives how many it wrote
// into each.
func steady(ctx context.Context, into []*database, p pace, lasts time.Duration) (int, error) {
	const writers = 4
	total := int(float64(p.rows) * lasts.Seconds() / float64(p.perTransaction)) // transactions
	each := time.Duration(float64(time.Second) * float64(p.perTransaction) / float64(p.rows))
	began := time.Now()
	var all sync.WaitGroup
	errs := make([]error, writers)
	for n := range writers {
		all.Go(func() {
			conns := map[*database]*pgx.Conn{}
			defer func() {
				for _, c := range conns {
					_ = c.Close(context.WithoutCancel(ctx))
				}
			}()
			for i := n; i < total && errs[n] == nil && ctx.Err() == nil; i += writers {
				d := into[i%len(into)]
				if conns[d] == nil {
					if conns[d], errs[n] = postgres.Connect(ctx, d.dsn, "load"); errs[n] != nil {
						return
					}
				}
				time.Sleep(time.Until(began.Add(time.Duration(i) * each)))
				first := i / len(into) * p.perTransaction
				_, errs[n] = conns[d].Exec(ctx, `insert into public.lat select i, 1, 'latency probe row with a little text' from generate_series($1::bigint, $2) i`,
					first, first+p.perTransaction-1)
			}
		})
	}
	all.Wait()
	return total / len(into) * p.perTransaction, errors.Join(append(errs, ctx.Err())...)
}

// committed is when a row was.
const committed = "pg_xact_commit_timestamp(xmin)"

// latencies gives, in order, how long each row of lat from an id on was on its way, until came; of one tenant, if there are several.
func latencies(ctx context.Context, src, dst *database, came, tenant string, from int64) ([]time.Duration, error) {
	read := func(d *database, at, where string, args ...any) (map[int64]time.Time, error) {
		rows, err := d.Query(ctx, `select id, `+at+` from public.lat where id >= $1`+where, append([]any{from}, args...)...)
		if err != nil {
			return nil, err
		}
		all := map[int64]time.Time{}
		var id int64
		var t time.Time
		_, err = pgx.ForEachRow(rows, []any{&id, &t}, func() error { all[id] = t; return nil })
		return all, err
	}
	left, err := read(src, committed, "")
	if err != nil {
		return nil, err
	}
	var arrived map[int64]time.Time
	if tenant == "" {
		arrived, err = read(dst, came, "")
	} else {
		arrived, err = read(dst, came, " and tenant = $2", tenant)
	}
	if err != nil {
		return nil, err
	}
	if len(left) != len(arrived) || len(left) == 0 {
		return nil, fmt.Errorf("%d rows at the source, %d in the warehouse", len(left), len(arrived))
	}
	var found []time.Duration
	for id, at := range left {
		found = append(found, arrived[id].Sub(at))
	}
	slices.Sort(found)
	return found, nil
}
