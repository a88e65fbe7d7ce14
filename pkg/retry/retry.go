package retry

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is how long to wait before the next try: Min before the second one, twice as long before each later one, at
// most Max; of that a random part between the half and the whole, so that what failed together does not come back
// together. Zero values stand for 100 ms and 30 s.
type Backoff struct {
	Min, Max time.Duration
}

const (
	defaultMin = 100 * time.Millisecond
	defaultMax = 30 * time.Second
)

// Wait gives the wait after the try-th failure in a row, counted from 1.
func (b Backoff) Wait(try int) time.Duration {
	least, most := b.Min, b.Max
	if least <= 0 {
		least = defaultMin
	}
	if most <= 0 {
		most = defaultMax
	}
	wait := least
	for range try - 1 {
		if wait >= most {
			break
		}
		wait *= 2
	}
	wait = min(wait, most)
	return wait/2 + rand.N(wait/2+1)
}

// Do calls op until it succeeds, fails for good (its error is returned as it is), or ctx ends (ctx's error is returned).
// Before each wait notify, where not nil, is told of the error, the number of the failed try from 1, and how long the
// wait is: nothing is retried in silence.
func Do(ctx context.Context, backoff Backoff, op func(context.Context) error, notify func(err error, try int, wait time.Duration)) error {
	return do(ctx, backoff, Transient, op, notify)
}

// Keep is Do for whoever has been let in before: being refused is waited for too, see Waits.
func Keep(ctx context.Context, backoff Backoff, op func(context.Context) error, notify func(err error, try int, wait time.Duration)) error {
	return do(ctx, backoff, Waits, op, notify)
}

func do(ctx context.Context, backoff Backoff, waits func(error) bool, op func(context.Context) error, notify func(err error, try int, wait time.Duration)) error {
	for try := 1; ; try++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := op(ctx)
		if err == nil || !waits(err) {
			return err
		}
		if ended := ctx.Err(); ended != nil {
			return ended // the failure is the end's doing
		}
		wait := backoff.Wait(try)
		if notify != nil {
			notify(err, try, wait)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}
