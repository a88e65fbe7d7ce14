package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// measureTenants measures many small sources, each with a capture of its own, and one sink for all of them: what they cost
// while nothing happens, and how late changes are when all of them write.
func measureTenants(ctx context.Context, w *world, r *report) error {
	const tables = 4 // and lat
	n := w.n(200)
	more := []string{`insert into lat values (-1, 0, 'so that its topic is there')`}
	for i := range tables {
		more = append(more, fmt.Sprintf(`create table t%d (id bigint primary key, name text); insert into t%[1]d select i, 'row ' || i from generate_series(1, 20) i`, i))
	}
	dst, err := w.create(ctx, w.warehouse)
	if err != nil {
		return err
	}
	defer dst.Close(context.WithoutCancel(ctx))
	var sources []*database
	var captures []*program
	stop := func() (use used, most int64, err error) {
		for _, p := range captures {
			one, stopErr := p.stop()
			use, most, err = use.and(one), max(most, one.peak), firstOf(err, stopErr)
		}
		captures = nil
		return use, most, err
	}
	defer func() {
		_, _, _ = stop()
		for _, d := range sources {
			_ = d.leave(context.WithoutCancel(ctx))
		}
	}()
	sink, err := w.start(ctx, w.programs.Sink, w.usualSink("tenants", dst, "tenant_*", `{from: "public.*", to: "public.{table}", sid: tenant}`))
	if err != nil {
		return err
	}
	for i := range n {
		d, err := w.create(ctx, w.source, append([]string{latTable}, more...)...)
		if err != nil {
			return err
		}
		sources = append(sources, d)
		p, err := w.start(ctx, w.programs.Capture, w.capture(fmt.Sprintf("tenant_%d", i), d, 0, ""))
		if err != nil {
			return err
		}
		captures = append(captures, p)
		if err := d.captured(ctx, fmt.Sprintf("tenant_%d", i)); err != nil { // all at once would keep each other from starting
			return err
		}
	}
	fence := func(id string) error {
		for _, d := range sources {
			if err := d.fence(ctx, id); err != nil {
				return err
			}
		}
		return dst.applied(ctx, "tenants", id, n)
	}
	if err := fence("ready"); err != nil {
		return err
	}
	name := fmt.Sprintf("%d tenants of %d tables", n, tables+1)
	select { // one that has just had something to do is livelier
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(15 * time.Second):
	}
	m, capturesBefore, sinkBefore := w.meter(ctx), running(captures...), running(sink)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(idleFor):
	}
	servers, ofCaptures, ofSink := m.read(used{}, used{}), running(captures...)-capturesBefore, running(sink)-sinkBefore
	r.text(w, name+", idle", fmt.Sprintf("%.2f cores", cores(ofCaptures+ofSink)),
		fmt.Sprintf("captures %.2f, sink %.2f; broker %.2f, source %.2f, warehouse %.2f cores", cores(ofCaptures), cores(ofSink),
			cores(servers.broker.cpu), cores(servers.source.cpu), cores(servers.warehouse.cpu)))

	m = w.meter(ctx)
	lasts := time.Duration(w.n(40)) * time.Second
	// A change of another tenant is a Kafka transaction of its own, and wakes the walsenders of all.
	load := pace{max(1, n/20), 1}
	rows, err := steady(ctx, sources, load, warm+lasts)
	if err != nil {
		return err
	}
	from := settled(rows, lasts) // the topics are made meanwhile
	if err := fence("end"); err != nil {
		return err
	}
	var all []time.Duration
	for i, d := range sources {
		found, err := latencies(ctx, d, dst, committed, fmt.Sprintf("tenant_%d", i), from)
		if err != nil {
			return err
		}
		all = append(all, found...)
	}
	slices.Sort(all)
	sinkUse, err := sink.stop()
	if err != nil {
		return err
	}
	capture, most, err := stop()
	if err != nil {
		return err
	}
	capture.peak = most
	r.times(w, fmt.Sprintf("%s, %d changes/s over all of them", name, load.rows), all, "", m.read(capture, sinkUse))
	return nil
}

// idleFor is how long tenants are watched while nothing happens.
const idleFor = time.Minute

// cores gives how many were busy all that time.
func cores(cpu time.Duration) float64 { return cpu.Seconds() / idleFor.Seconds() }

// running gives the CPU time that programs have taken so far.
func running(programs ...*program) (sum time.Duration) {
	for _, p := range programs {
		sum += treeCPU(p.cmd.Process.Pid)
	}
	return sum
}
