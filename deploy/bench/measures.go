package main

import (
	"context"
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

	if err := src.fence(ctx, "before"); err != nil {
		return err
	}
	m := w.meter()
	took, use, err := w.runCapture(ctx, "snap", src, 0, "", "read")
	if err != nil {
		return err
	}
	r.rate(w, "snapshot: source to topic", rows, took, limit{float64(rows) / out.Seconds(), "COPY TO STDOUT, four connections"}, 0.5, m.read(use, used{}))

	dst, err := w.create(ctx, w.warehouse)
	if err != nil {
		return err
	}
	defer dst.Close(context.WithoutCancel(ctx))
	m = w.meter()
	took, use, err = w.runSink(ctx, w.sink("snap", dst, "snap", rule), dst, "snap", "read")
	if err != nil {
		return err
	}
	r.rate(w, "snapshot: topic to warehouse", rows, took, limit{float64(rows) / in.Seconds(), "COPY FROM STDIN, one connection, with the primary key"}, 0.6, m.read(used{}, use))

	both, err := w.create(ctx, w.warehouse)
	if err != nil {
		return err
	}
	defer both.Close(context.WithoutCancel(ctx))
	m = w.meter()
	began := time.Now()
	sink, err := w.start(ctx, w.programs.Sink, w.sink("snap_both", both, "snap_both", rule))
	if err != nil {
		return err
	}
	_, use, err = w.runCapture(ctx, "snap_both", src, 0, "", "both")
	if err == nil {
		err = both.applied(ctx, "snap_both", "both", 1)
	}
	took = time.Since(began)
	sinkUse, stopErr := sink.stop()
	if err != nil || stopErr != nil {
		return fmt.Errorf("end to end: %w", firstOf(err, stopErr))
	}
	r.rate(w, "snapshot: end to end", rows, took, limit{float64(rows) / pipe.Seconds(), "COPY out into COPY in"}, 0, m.read(use, sinkUse))
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

// runCapture runs a capture of d until all that is there is in the topics, and a fence behind it. See capture for catchUp.
func (w *world) runCapture(ctx context.Context, source string, d *database, catchUp int, more, fence string) (time.Duration, used, error) {
	began := time.Now()
	p, err := w.start(ctx, w.programs.Capture, w.capture(source, d, catchUp, more))
	if err != nil {
		return 0, used{}, err
	}
	// The fence is written once the slot is there, so that it is behind its beginning.
	err = d.captured(ctx, source)
	if err == nil {
		err = d.fence(ctx, fence)
	}
	if err == nil {
		err = w.published(ctx, source, fence)
	}
	took := time.Since(began)
	use, stopErr := p.stop()
	return took, use, firstOf(err, stopErr)
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
		all = append(all, p)
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
