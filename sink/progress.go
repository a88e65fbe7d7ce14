package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
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
	f.s.newRounds(f.s.progressLane(), f.stage, progressPause).run(ctx, f.round)
	return nil
}

// told is what a source says, as it was read.
type told struct {
	warehouse.Following
	of   *consume.Partition
	read int   // records, markers included
	join bool  // it is taken in with those of others
	stop error // of the first that is none; those before it are taken in
}

// round applies what is ready of all sources: together, and where that fails one source after the other, so that none holds up
// another.
func (f *follower) round(ctx context.Context, batches []consume.Batch) {
	all := make([]told, len(batches))
	var together []warehouse.Following
	for i, b := range batches {
		all[i] = tell(b)
		if t := &all[i]; t.read > 0 && !f.s.consumer.Gone(b.Partition) {
			t.join = true
			together = append(together, t.Following)
		}
	}
	done := len(together) > 1 && f.follow(ctx, together) == nil
	for i := range all {
		t := &all[i]
		f.finish(ctx, t, done && t.join)
		f.s.gaveUp(t.of)
	}
}

// tell reads the records of one source.
func tell(b consume.Batch) told {
	p := b.Partition
	source, ok := record.ParseProgressTopic(p.Topic)
	t := told{of: p, Following: warehouse.Following{Source: source, Advance: warehouse.Advance{
		Topic: p.Topic, Partition: p.Number, Epoch: p.Epoch, Expected: p.Next, Next: p.Next, Term: int32(p.Term), Position: p.Position,
	}}}
	for _, r := range b.Records {
		if !r.Attrs.IsControl() && r.Value != nil {
			progress, err := record.ParseProgress(r.Value)
			if err != nil || !ok {
				t.stop = invalid(r, err)
				break
			}
			t.Records = append(t.Records, warehouse.ProgressRecord{Offset: r.Offset, Progress: progress})
			t.Rows++
		}
		t.Next, t.Term = r.Offset+1, int32(consume.TermOf(r))
		t.read++
	}
	return t
}

func (f *follower) follow(ctx context.Context, all []warehouse.Following) error {
	err := f.session.Follow(ctx, all, f.s.consumed)
	if errors.Is(err, warehouse.ErrUnknownOutcome) {
		advances := make([]warehouse.Advance, len(all))
		for i := range all {
			advances[i] = all[i].Advance
		}
		return resolve(ctx, f.session, err, advances...)
	}
	return err
}

// finish takes in what one source has said, unless that is done, and gives its partition back.
func (f *follower) finish(ctx context.Context, t *told, done bool) {
	p := t.of
	var err error
	if t.read > 0 && !done {
		err = retry.Keep(ctx, backoff, func(ctx context.Context) error {
			if f.s.consumer.Gone(p) {
				return warehouse.ErrFenced
			}
			return f.follow(ctx, []warehouse.Following{t.Following})
		}, func(err error, _ int, _ time.Duration) { f.s.retryingBy(p, "warehouse", err) })
	}
	switch {
	case err == nil:
		if t.read > 0 {
			f.s.retryingBy(p, "warehouse", nil)
			f.s.recovered(ctx, f.session, p)
		}
		if t.stop != nil {
			f.s.hold(ctx, f.session, p, t.Next, t.stop)
		}
		f.s.consumer.Finish(p, consume.Done{Records: t.read, Next: t.Next, Term: consume.Term(t.Term), Position: t.Position})
		return
	case ctx.Err() != nil:
	case errors.Is(err, warehouse.ErrFenced):
		f.s.refused(ctx, f.session, p)
	default:
		f.s.hold(ctx, f.session, p, p.Next, err)
	}
	f.s.consumer.Finish(p, consume.Nothing(p))
}

// resolve finds out whether the transaction of advances was committed whose COMMIT was not answered.
func resolve(ctx context.Context, session *warehouse.Session, unknown error, advances ...warehouse.Advance) error {
	standings, err := session.Standings(ctx, advances)
	if err != nil {
		return err
	}
	return warehouse.Resolved(standings, unknown)
}

const opFollow = "follow"

// heldByProgress begins the message of a table that is held as the progress of its source is, by no record of its own: none is put aside for it.
func heldByProgress(source string) string {
	return fmt.Sprintf("%s topic %q: ", opFollow, record.ProgressTopic(source))
}

// unfollowable is behind, by which batches wait for progress of their sources, or where one of these is held, the trouble of that: nobody would wait for
// what never comes, in a lane in which others have to wait, too. What was seen last may be of before somebody had the progress go on. It is no trouble
// with the code of that: a table that is held as its topic has got partitions is held as a whole.
func (s *Sink) unfollowable(ctx context.Context, session *warehouse.Session, batches []consume.Batch, behind error) error {
	held, err := session.Quarantines(ctx)
	if err != nil {
		return behind // and it is asked again with the next try
	}
	for i := range held {
		q := &held[i]
		source, _ := record.ParseProgressTopic(q.Topic)
		if source == "" || !slices.ContainsFunc(batches, func(b consume.Batch) bool { return sourceOf(b.Partition.Topic) == source }) {
			continue
		}
		return &trouble.Error{
			Code: trouble.UnresolvedToast, Op: opFollow, Subject: fmt.Sprintf("topic %q", q.Topic), Cause: fmt.Errorf("%s: %s", q.Code, q.Message),
			Means: "updates have come that do not carry every value, of rows that are not there; whether these still come with a snapshot only the progress of the source tells, which is held",
			Hint:  "mend what holds the progress, and have it go on; then sink resume SOURCE/TABLE",
		}
	}
	return behind
}
