package sink

import (
	"context"
	"errors"
	"time"

	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// follower applies the progress topics: from them the warehouse knows up to which commit a source is complete.
type follower struct {
	s       *Sink
	session *warehouse.Session
	stage   *service.Stage
}

func newFollower(s *Sink) *follower {
	return &follower{s: s, session: s.writer(s.progressLane()), stage: s.stages.Stage("progress", waitWarehouse)}
}

// progressPause is the least time between two transactions of the follower: captures write a record with each of
// theirs, and only the newest counts.
const progressPause = 50 * time.Millisecond

func (f *follower) run(ctx context.Context) error {
	defer f.session.Close(context.WithoutCancel(ctx))
	f.s.eachPartition(ctx, f.s.progressLane(), f.stage, progressPause, f.partition)
	return nil
}

// eachPartition has apply deal with what is ready in a lane, one partition after the other, until ctx ends. Each round is
// followed by a pause.
func (s *Sink) eachPartition(ctx context.Context, lane int, stage *service.Stage, pause time.Duration, apply func(context.Context, consume.Batch)) {
	for {
		batches := s.consumer.Take(ctx, lane, s.cfg.Batch.Rows, int64(s.cfg.Batch.Bytes))
		if batches == nil {
			return
		}
		stage.Busy()
		for _, b := range batches {
			apply(ctx, b)
			s.gaveUp(b.Partition)
		}
		stage.Idle()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// partition applies the records of one source.
func (f *follower) partition(ctx context.Context, b consume.Batch) {
	p := b.Partition
	source, ok := record.ParseProgressTopic(p.Topic)
	adv := warehouse.Advance{
		Topic: p.Topic, Partition: p.Number, Epoch: p.Epoch, Expected: p.Next, Next: p.Next, Position: p.Position,
	}
	var records []warehouse.ProgressRecord
	var stop error
	read := 0
	for _, r := range b.Records {
		if !r.Attrs.IsControl() && r.Value != nil {
			progress, err := record.ParseProgress(r.Value)
			if err != nil || !ok {
				stop = invalid(r, err)
				break
			}
			records = append(records, warehouse.ProgressRecord{Offset: r.Offset, Progress: progress})
			adv.Rows++
		}
		adv.Next = r.Offset + 1
		read++
	}
	var err error
	if read > 0 {
		err = retry.Keep(ctx, backoff, func(ctx context.Context) error {
			if f.s.consumer.Gone(p) {
				return warehouse.ErrFenced
			}
			err := f.session.Follow(ctx, adv, source, records, f.s.consumed)
			if errors.Is(err, warehouse.ErrUnknownOutcome) {
				return resolve(ctx, f.session, adv, err)
			}
			return err
		}, func(err error, _ int, _ time.Duration) { f.s.retryingBy(p, "warehouse", err) })
	}
	switch {
	case err == nil:
		if read > 0 {
			f.s.retryingBy(p, "warehouse", nil)
		}
		if stop != nil {
			f.s.hold(ctx, f.session, p, adv.Next, stop)
		}
		f.s.consumer.Finish(p, consume.Done{Records: read, Next: adv.Next, Position: adv.Position})
		return
	case ctx.Err() != nil:
	case errors.Is(err, warehouse.ErrFenced):
		f.s.refused(ctx, f.session, p)
	default:
		f.s.hold(ctx, f.session, p, p.Next, err)
	}
	f.s.consumer.Finish(p, consume.Nothing(p))
}

// resolve finds out whether the transaction of one advance was committed whose COMMIT was not answered.
func resolve(ctx context.Context, session *warehouse.Session, adv warehouse.Advance, unknown error) error {
	standings, err := session.Standings(ctx, []warehouse.Advance{adv})
	if err != nil {
		return err
	}
	return warehouse.Resolved(standings, unknown)
}
