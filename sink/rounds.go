package sink

import (
	"context"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink/consume"
)

// rounds deals with what is ready in a lane of which each partition is of another source. One that has to wait keeps no other waiting: it stays taken,
// and is tried again with a later round.
type rounds struct {
	s     *Sink
	lane  int
	stage *service.Stage
	pause time.Duration // behind each round
	waits map[*consume.Partition]*again
}

// again is what is to be tried again.
type again struct {
	consume.Batch
	what  string // for which it waits
	tries int
	at    time.Time // when it is
}

func (s *Sink) newRounds(lane int, stage *service.Stage, pause time.Duration) *rounds {
	return &rounds{s: s, lane: lane, stage: stage, pause: pause, waits: map[*consume.Partition]*again{}}
}

// run has apply deal with what is ready until ctx ends. apply gives back what it has taken, but for what it has wait.
func (r *rounds) run(ctx context.Context, apply func(context.Context, []consume.Batch)) {
	for ctx.Err() == nil {
		batches := r.take(ctx)
		if len(batches) == 0 {
			continue
		}
		r.stage.Busy()
		apply(ctx, batches)
		r.stage.Idle()
		select {
		case <-ctx.Done():
		case <-time.After(r.pause):
		}
	}
	for p := range r.waits {
		r.s.consumer.Finish(p, consume.Nothing(p))
	}
}

// take waits for what there is to do: what has come, and what is to be tried again by now.
func (r *rounds) take(ctx context.Context) []consume.Batch {
	var next time.Time
	for _, w := range r.waits {
		if next.IsZero() || w.at.Before(next) {
			next = w.at
		}
	}
	rows, bytes := r.s.cfg.Batch.Rows, int64(r.s.cfg.Batch.Bytes)
	batches := r.s.consumer.TryTake(r.lane, rows, bytes, 1) // also where something was to be tried again before now
	if len(batches) == 0 {
		if !next.IsZero() {
			var cancel func()
			ctx, cancel = context.WithDeadline(ctx, next)
			defer cancel()
		}
		batches = r.s.consumer.Take(ctx, r.lane, rows, bytes)
	}
	for _, w := range r.waits {
		if !time.Now().Before(w.at) {
			batches = append(batches, w.Batch)
		}
	}
	return batches
}

// wait has a batch tried again later, and says what for. Many wait for the same, as the warehouse is away: it is said as of one.
func (r *rounds) wait(b consume.Batch, what string, err error) {
	w := r.waits[b.Partition]
	if w == nil {
		w = &again{Batch: b}
		r.waits[b.Partition] = w
	}
	was := w.what
	w.what = what
	w.tries++
	w.at = time.Now().Add(backoff.Wait(w.tries))
	r.s.retryingBy(r, what, err)
	r.over(was, true)
}

// over notes that nobody waits for what any more, where that is so, and says so if it went well.
func (r *rounds) over(what string, well bool) {
	for _, w := range r.waits {
		if w.what == what {
			return
		}
	}
	switch {
	case what == "":
	case well:
		r.s.retryingBy(r, what, nil)
	default:
		r.s.gaveUpOn(r, what)
	}
}

// finish gives a partition back: it waits for nothing any more.
func (r *rounds) finish(p *consume.Partition, d consume.Done) {
	r.s.consumer.Finish(p, d)
	if w := r.waits[p]; w != nil {
		delete(r.waits, p)
		r.over(w.what, d.Records > 0) // else it is held now, or somebody else's
	}
}
