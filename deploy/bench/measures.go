package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// measure is one step of a run; it adds the rows that it measures to the report.
type measure struct {
	name string
	run  func(ctx context.Context, w *world, r *report) error
}

// measures are all there is, in the order in which they run. Each has databases, sources and groups of its own.
var measures = []measure{
	{"snapshot", measureSnapshot},
	{"stream", func(ctx context.Context, w *world, r *report) error { return measureStream(ctx, w, r, events(w)) }},
	{"wide rows", func(ctx context.Context, w *world, r *report) error { return measureStream(ctx, w, r, wide(w)) }},
	{"large rows", func(ctx context.Context, w *world, r *report) error { return measureStream(ctx, w, r, large(w)) }},
	{"hot row", func(ctx context.Context, w *world, r *report) error { return measureStream(ctx, w, r, hot(w)) }},
	{"latency", measureLatency},
	{"tenants", measureTenants},
}

// measureSnapshot measures rows that are already there: pgbench's accounts.
func measureSnapshot(ctx context.Context, w *world, r *report) error {
	rows := w.n(2_000_000)
	const table = `create table accounts (aid integer primary key, bid integer, abalance integer, filler character(84))`
	src, err := w.create(ctx, w.source, table,
		fmt.Sprintf(`insert into accounts select i, i %% 20, 0, '' from generate_series(1, %d) i`, rows), `vacuum analyze accounts`, `checkpoint`)
	if err != nil {
		return err
	}
	defer src.leave(context.WithoutCancel(ctx)) //nolint:errcheck // the server goes with the world
	const workers = 4                           // as many connections as capture has by default
	out, err := copyOut(ctx, src, "accounts", workers)
	if err != nil {
		return err
	}
	in, pipe, err := copyIn(ctx, w, src, "accounts", table)
	if err != nil {
		return err
	}
	rule := `{from: "public.*", to: "public.{table}"}`

	m := w.meter(ctx)
	capture, took, err := w.startCapture(ctx, "snap", src, 0, "", "read")
	if err != nil {
		return err
	}
	// Behind all rows: who has it has them. The first one was written while they were read.
	err = firstOf(src.fence(ctx, "all"), w.published(ctx, "snap", "all"))
	use, stopErr := capture.stop()
	if err = firstOf(err, stopErr); err != nil {
		return err
	}
	r.rate(w, "snapshot: source to topic", rows, took, limit{float64(rows) / out.Seconds(), "COPY TO STDOUT, four connections"}, 0.5, m.read(use, used{}))

	dst, err := w.create(ctx, w.warehouse)
	if err != nil {
		return err
	}
	defer dst.Close(context.WithoutCancel(ctx))
	m = w.meter(ctx)
	took, use, err = w.runSink(ctx, w.sink("snap", dst, "snap", rule), dst, "snap", "all")
	if err != nil {
		return err
	}
	cost := m.read(used{}, use)
	if err := dst.holds(ctx, "accounts", int64(rows)); err != nil {
		return err
	}
	r.rate(w, "snapshot: topic to warehouse", rows, took, limit{float64(rows) / in.Seconds(), "COPY FROM STDIN, one connection, with the primary key"}, 0.6, cost)

	both, err := w.create(ctx, w.warehouse)
	if err != nil {
		return err
	}
	defer both.Close(context.WithoutCancel(ctx))
	m = w.meter(ctx)
	began := time.Now()
	sink, err := w.start(ctx, w.programs.Sink, w.sink("snap_both", both, "snap_both", rule))
	if err != nil {
		return err
	}
	sink.profile()
	capture, _, err = w.startCapture(ctx, "snap_both", src, 0, "", "read_both")
	if err != nil {
		return err
	}
	err = firstOf(src.fence(ctx, "all_both"), both.applied(ctx, "snap_both", "all_both", 1))
	took = time.Since(began)
	use, stopErr = capture.stop()
	sinkUse, sinkErr := sink.stop()
	cost = m.read(use, sinkUse)
	if err = firstOf(err, stopErr, sinkErr, both.holds(ctx, "accounts", int64(rows))); err != nil {
		return fmt.Errorf("end to end: %w", err)
	}
	r.rate(w, "snapshot: end to end", rows, took, limit{float64(rows) / pipe.Seconds(), "COPY out into COPY in"}, 0, cost)
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// startCapture starts a capture of d and waits until all that is there is in the topics, and a fence behind what is committed;
// took says how long that was. See capture for catchUp.
func (w *world) startCapture(ctx context.Context, source string, d *database, catchUp int, more, fence string) (p *program, took time.Duration, err error) {
	began := time.Now()
	if p, err = w.start(ctx, w.programs.Capture, w.capture(source, d, catchUp, more)); err != nil {
		return nil, 0, err
	}
	p.profile()
	// The fence is written once the slot is there, so that it is behind its beginning.
	err = d.captured(ctx, source)
	if err == nil {
		err = d.fence(ctx, fence)
	}
	if err == nil {
		err = w.published(ctx, source, fence)
	}
	if err != nil {
		_, stopErr := p.stop()
		return nil, 0, errors.Join(err, stopErr)
	}
	return p, time.Since(began), nil
}

// runCapture is startCapture that ends it, too.
func (w *world) runCapture(ctx context.Context, source string, d *database, catchUp int, more, fence string) (time.Duration, used, error) {
	p, took, err := w.startCapture(ctx, source, d, catchUp, more, fence)
	if err != nil {
		return 0, used{}, err
	}
	use, err := p.stop()
	return took, use, err
}

// rows counts the rows of a table.
func (d *database) rows(ctx context.Context, table string) (n int64, err error) {
	err = d.QueryRow(ctx, "select count(*) from public."+table).Scan(&n)
	return n, err
}

// holds refuses a table that has not so many rows.
func (d *database) holds(ctx context.Context, table string, want int64) error {
	got, err := d.rows(ctx, table)
	if err == nil && got != want {
		err = fmt.Errorf("%d rows of %s are in the warehouse, %d at the source", got, table, want)
	}
	return err
}

// runSink runs a sink until it has applied all that is in front of a fence.
func (w *world) runSink(ctx context.Context, yaml string, d *database, group, fence string) (time.Duration, used, error) {
	took, use, err := w.runSinks(ctx, yaml, d, group, fence, 1)
	return took, use, err
}

func (w *world) runSinks(ctx context.Context, yaml string, d *database, group, fence string, n int) (time.Duration, used, error) {
	began := time.Now()
	var all []*program
	var err error
	for range n {
		p, startErr := w.start(ctx, w.programs.Sink, yaml)
		if startErr != nil {
			err = startErr
			break
		}
		if all = append(all, p); len(all) == 1 {
			p.profile()
		}
	}
	if err == nil {
		err = d.applied(ctx, group, fence, 1)
	}
	took := time.Since(began)
	var use used
	for _, p := range all {
		one, stopErr := p.stop()
		use, err = use.and(one), firstOf(err, stopErr)
	}
	return took, use, err
}
