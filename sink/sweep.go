package sink

import (
	"context"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// sweeper ends the reloads of which all rows have come: who owns partition 0 of a topic removes the rows of its target
// that have not. A source that is written as a whole does so itself, in the transaction that brings the last row.
type sweeper struct {
	s       *Sink
	session *warehouse.Session // connected only while it sweeps
	stage   *service.Stage
}

func newSweeper(s *Sink) *sweeper {
	return &sweeper{s: s, session: s.warehouse.Session(), stage: s.stages.Stage("sweep", waitWarehouse)}
}

func (w *sweeper) run(ctx context.Context) error {
	defer w.session.Close(context.WithoutCancel(ctx))
	tick := time.NewTicker(lookEvery / 4)
	defer tick.Stop()
	done := map[int64]bool{} // ids; what the supervisor has read may be older
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var failed error
		for _, due := range w.due(done) {
			if err := w.sweep(ctx, due); err != nil {
				failed = err
				continue
			}
			done[due.ID] = true
		}
		if failed == nil {
			failures = 0
			w.s.retrying("sweep", nil)
			continue
		}
		failures++
		if ctx.Err() != nil {
			return nil
		}
		// An error that waiting does not mend, such as a foreign key, is waited for, too: /status says what it is, and
		// the rows that are gone at the source stay meanwhile.
		w.s.retrying("sweep", failed)
		select {
		case <-ctx.Done():
		case <-time.After(backoff.Wait(failures)):
		}
	}
}

// due gives the reloads that are ours to end. It drops from done what is known to be over.
func (w *sweeper) due(done map[int64]bool) (out []warehouse.OpenReload) {
	w.s.mu.Lock()
	open := w.s.seen.reloads
	w.s.mu.Unlock()
	if len(open) == 0 {
		clear(done)
		return nil
	}
	ours := map[string]bool{}
	for _, view := range w.s.consumer.Views() {
		if view.Number == 0 {
			ours[view.Topic] = true
		}
	}
	listed := map[int64]bool{}
	for _, r := range open {
		listed[r.ID] = true
		if r.Due && !done[r.ID] && ours[r.Topic] && !w.s.pausedTopic(r.Topic) {
			out = append(out, r)
		}
	}
	for id := range done {
		if !listed[id] {
			delete(done, id)
		}
	}
	return out
}

// sweep ends one reload.
func (w *sweeper) sweep(ctx context.Context, due warehouse.OpenReload) error {
	w.stage.Busy()
	defer w.stage.Idle()
	removed, err := w.session.Sweep(ctx, due)
	if err == nil {
		w.s.log.Info("table has been read anew", "topic", due.Topic, "removed_rows", removed, "took", time.Since(due.Since).Round(time.Second))
	}
	return err
}
