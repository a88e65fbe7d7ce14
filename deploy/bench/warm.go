package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
)

// warmUp starts Apache Kafka anew and gives it to do what it will have to do, for a moment that does not count: many small
// transactions, then large ones. One that has just started compiles its code while it answers, and its heap has still to
// grow; one that has carried the streams of another measure has a heap full of them, and collects while it answers.
func (w *world) warmUp(ctx context.Context) error {
	kafka, ok := w.kafka.(*kafkatest.RealCluster)
	if !ok {
		return nil
	}
	if err := kafka.Restart(ctx); err != nil {
		return err
	}
	w.databases++
	source := fmt.Sprintf("warm_up_%d", w.databases)
	src, err := w.create(ctx, w.source, latTable)
	if err != nil {
		return err
	}
	dst, err := w.create(ctx, w.warehouse)
	if err != nil {
		return errors.Join(err, src.leave(ctx))
	}
	running, err := w.startBoth(ctx, source, src, dst, "")
	if err != nil {
		return errors.Join(err, src.leave(ctx), dst.Close(ctx))
	}
	half := time.Duration(float64(5*time.Second) * min(1, w.scale))
	_, err = steady(ctx, []*database{src}, pace{2000, 1}, half)
	for n, until := 0, time.Now().Add(half); err == nil && time.Now().Before(until); n++ {
		for _, sql := range []string{`update lat set v = v + 1`, `insert into lat select 1000000 + i, 1, md5(i::text) from generate_series(1, 200000) i`, `delete from lat where id > 1000000`} {
			err = firstOf(err, src.exec(ctx, sql))
		}
		fence := fmt.Sprintf("again_%d", n)
		err = firstOf(err, src.fence(ctx, fence), dst.applied(ctx, source, fence, 1))
	}
	_, _, stopErr := running.stop()
	return errors.Join(err, stopErr, src.leave(context.WithoutCancel(ctx)), dst.Close(context.WithoutCancel(ctx)))
}
