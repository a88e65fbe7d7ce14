package sink

import (
	"context"
	"errors"
	"time"

	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// worker applies one lane over one connection: it takes what is ready, reads it into folds, and has the warehouse
// write all of it in one transaction.
type worker struct {
	s       *Sink
	lane    int
	session *warehouse.Session
	decode  *service.Stage
	apply   *service.Stage
	commit  *service.Stage
	*versions
	folds   []*batch.Fold // for reuse
	parked  map[*consume.Partition]*warehouse.Parked
	probes  map[*consume.Partition]*probe
	replays map[*consume.Partition]replay // those that are on
	next    ahead
	looking bool // what is read is read ahead

	event, second change.Event
	arena         []byte
	arena2        []byte
}

func newWorker(s *Sink, lane int) *worker {
	return &worker{
		s: s, lane: lane, session: s.writer(lane),
		decode:   s.stages.Stage("decode and fold", waitRegistry),
		apply:    s.stages.Stage("apply", waitWarehouse, waitProgress),
		commit:   s.stages.Stage("commit"),
		versions: newVersions(s.registry, s.rules, s.latest),
		parked:   map[*consume.Partition]*warehouse.Parked{},
		probes:   map[*consume.Partition]*probe{},
		replays:  map[*consume.Partition]replay{},
	}
}

// stopPatience is how long a flush may go on after the sink was told to stop.
const stopPatience = 10 * time.Second

func (w *worker) run(ctx context.Context) error {
	defer w.session.Close(context.WithoutCancel(ctx))
	for {
		next := w.next
		w.next = ahead{}
		rows, bytes := w.s.cfg.Batch.Rows, int64(w.s.cfg.Batch.Bytes)
		if len(next.batches) == 0 {
			next.batches = w.s.consumer.Take(ctx, w.lane, rows, bytes)
		} else { // whoever else has something does not wait for the end of a backlog
			next.batches = append(next.batches, w.s.consumer.TryTake(w.lane, rows, bytes, 1)...)
		}
		if ctx.Err() != nil {
			w.giveBack(next.batches)
			return nil
		}
		w.flush(ctx, next.batches, next)
		w.s.gaveUp(w)
	}
}

// part is what one flush does for one partition.
type part struct {
	p         *consume.Partition
	parked    *warehouse.Parked // as known when it was read
	base      int               // records of the queue before the first one
	records   int               // read, counted from the front of the queue
	bytes     int               // of these
	steps     int               // in which they were read: what makes one step cannot be applied apart
	advance   warehouse.Advance
	unit      int // index into the flush's units, -1 for none
	more      bool
	replay    replay   // of a connector of Debezium's
	committed int64    // newest commit time so far, those before the flush included; microseconds, 0 for none
	stop      error    // why the partition cannot go on behind what was read
	barrier   bool     // it waits at a TRUNCATE
	first     int64    // commit time of the oldest change, microseconds; 0 for none
	traces    [][]byte // of what has traces, see record.HeaderTrace

	met     bool // a record with a change in it has been read
	aside   []warehouse.ParkedRecord
	keys    map[string]int64 // identities of aside, like those of warehouse.Parked
	cleared bool             // by a TRUNCATE: what was parked before counts no more
	reload  bool             // it has begun one
}

// unit is the rows of one topic under one plan.
type unit struct {
	topic  string
	plan   *rule.Plan
	target *warehouse.Target
	fold   *batch.Fold
	mark   warehouse.Mark // of the reload that the fold begins
}

// unit is what is written. Of changes that come once more, the rows that they lead to have the values of others already, and none of those on the way there has any.
func (u *unit) unit(replays bool) warehouse.Unit {
	return warehouse.Unit{Topic: u.topic, Result: u.fold.Result(u.target.Carries() && !replays), Target: u.target, Mark: u.mark}
}

// outcome is what became of a flush.
type outcome struct {
	parts []part
	units []unit

	began, folded time.Time // when it was read, if that is traced
}

// mostChanges is how many times in a row a target may turn out to have changed before somebody hears of it.
const mostChanges = 3

// flush writes what it can of batches, of which something may have been read ahead, and gives all their partitions back.
func (w *worker) flush(ctx context.Context, batches []consume.Batch, read ahead) {
	// Whatever fails is tried again from the records: nothing read is kept over a failure.
	changed := 0
	begin := time.Now()
	var altered time.Time // since when the target is altered all the time
	for try := 1; len(batches) > 0; try++ {
		o, err := w.attempt(ctx, batches, read, time.Since(begin) > progressPatience)
		read = ahead{}
		if err == nil {
			w.finish(ctx, o)
			return
		}
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, warehouse.ErrProgressBehind) && time.Since(begin) > progressPatience {
			err = w.s.unfollowable(ctx, w.session, batches, err)
		}
		if !errors.Is(err, warehouse.ErrTargetUnsteady) {
			altered = time.Time{}
		} else if altered.IsZero() {
			altered = time.Now()
		}
		unit, isUnit := errors.AsType[*warehouse.UnitError](err)
		switch {
		case errors.Is(err, warehouse.ErrFenced):
			if batches = w.fenced(ctx, batches, o); batches == nil {
				return
			}
		case errors.Is(err, warehouse.ErrTargetChanged) && changed < mostChanges:
			changed++
			clear(w.plans) // a Target belongs to a plan: new plans are prepared anew
		case !altered.IsZero() && len(topicsOf(batches)) == 1: // those of other lanes do not wait for it
			if time.Since(altered) >= alteredPatience {
				batches = w.quarantine(ctx, batches, batches[0].Partition.Topic, alteredTooLong(err))
				break
			}
			changed++
			clear(w.plans)
			w.pause(ctx, err, changed-mostChanges)
		case errors.Is(err, warehouse.ErrProgressBehind), retry.Waits(err):
			w.pause(ctx, err, try)
		case isUnit && len(batches) > 1:
			// The rest goes on; the partitions of this table go one by one, to find the record.
			topic := o.units[unit.Unit].topic
			for _, b := range only(batches, topic) {
				w.flush(ctx, []consume.Batch{b}, ahead{})
			}
			batches = without(batches, topic)
		case isUnit:
			if !w.narrow(ctx, batches[0], &o.parts[0], unit.Err) {
				return
			}
		case len(topicsOf(batches)) > 1:
			// Which table is to blame shows when each goes by itself.
			for _, topic := range topicsOf(batches) {
				w.flush(ctx, only(batches, topic), ahead{})
			}
			return
		default:
			batches = w.quarantine(ctx, batches, batches[0].Partition.Topic, err)
		}
		if ctx.Err() != nil || w.abandoned(batches) {
			break
		}
	}
	w.giveBack(batches)
}

func (w *worker) giveBack(batches []consume.Batch) {
	for _, b := range batches {
		w.s.consumer.Finish(b.Partition, consume.Nothing(b.Partition))
	}
}

// pause waits before the next try, and says for whom.
func (w *worker) pause(ctx context.Context, err error, try int) {
	on := waitWarehouse
	switch {
	case errors.Is(err, warehouse.ErrProgressBehind):
		on, try = waitProgress, 1 // it comes within moments: no growing waits, and nothing to tell
	case errors.Is(err, warehouse.ErrTargetUnsteady):
		w.s.retryingBy(w, "target", err)
	case ofRegistry(err):
		on = waitRegistry
		w.s.retryingBy(w, "registry", err)
	default:
		w.s.retryingBy(w, "warehouse", err)
	}
	done := w.apply.Wait(on)
	defer done()
	timer := time.NewTimer(backoff.Wait(try))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// abandoned says whether a rebalance took one of the partitions: the flush would be refused.
func (w *worker) abandoned(batches []consume.Batch) bool {
	for _, b := range batches {
		if w.s.consumer.Gone(b.Partition) {
			return true
		}
	}
	return false
}

func topicsOf(batches []consume.Batch) []string {
	var topics []string
	seen := map[string]bool{}
	for _, b := range batches {
		if !seen[b.Partition.Topic] {
			seen[b.Partition.Topic] = true
			topics = append(topics, b.Partition.Topic)
		}
	}
	return topics
}

func only(batches []consume.Batch, topic string) (out []consume.Batch) {
	for _, b := range batches {
		if b.Partition.Topic == topic {
			out = append(out, b)
		}
	}
	return out
}

func without(batches []consume.Batch, topic string) (out []consume.Batch) {
	for _, b := range batches {
		if b.Partition.Topic != topic {
			out = append(out, b)
		}
	}
	return out
}

// quarantine holds the partitions of a topic that made the flush fail, and gives the rest.
func (w *worker) quarantine(ctx context.Context, batches []consume.Batch, topic string, err error) []consume.Batch {
	for _, b := range only(batches, topic) {
		w.s.hold(ctx, w.session, b.Partition, b.Partition.Next, err)
		w.s.consumer.Finish(b.Partition, consume.Nothing(b.Partition))
	}
	return without(batches, topic)
}

// fenced finds out which partitions belong to somebody else, gives those up, and returns the rest; nil if everything
// has been dealt with.
func (w *worker) fenced(ctx context.Context, batches []consume.Batch, o *outcome) []consume.Batch {
	var advances []warehouse.Advance
	for i := range o.parts {
		advances = append(advances, o.parts[i].advance)
	}
	standings, err := w.session.Standings(ctx, advances)
	if err != nil {
		return batches // it comes up again with the next try
	}
	var rest []consume.Batch
	for i, b := range batches {
		p := b.Partition
		delete(w.parked, p) // if nobody took the partition, what is parked of it has changed
		switch standings[i] {
		case warehouse.Behind:
			p.Pass = change.Position{} // where others are not at a TRUNCATE any more, it is waited for once more
			rest = append(rest, b)
			continue
		case warehouse.Back:
			delete(w.probes, p) // its next records are others
			w.s.wentBack(p)
		default:
			delete(w.probes, p)
			w.s.metrics.commits.WithLabelValues("fenced").Inc()
			w.s.lost(p)
		}
		w.s.consumer.Finish(p, consume.Nothing(p))
	}
	return rest
}

// alteredPatience is for how long a target may be altered all the time before its table is held: the rest of its lane waits meanwhile. Tests lower it.
var alteredPatience = 5 * time.Minute

// alteredTooLong is unsteady, of a table that is not tried again by itself any more.
func alteredTooLong(unsteady error) error {
	t, ok := errors.AsType[*trouble.Error](unsteady)
	if !ok {
		return unsteady
	}
	held := *t
	held.Means = "it was altered each time that it was to be written, for so long that the tables behind it do not wait for it any more; nothing of it was written, and nothing is lost"
	held.Hint = "wait until nobody alters it any more; then sink resume SOURCE/TABLE"
	return &held
}

// progressPatience is how long the first progress record of a source is waited for where it decides something.
const progressPatience = 10 * time.Second

// attempt reads batches and applies them, and looks ahead meanwhile. The outcome is there even with an error.
func (w *worker) attempt(ctx context.Context, batches []consume.Batch, read ahead, impatient bool) (*outcome, error) {
	w.decode.Busy()
	o, err := w.read(ctx, batches, read)
	w.decode.Idle()
	if err != nil {
		return o, err
	}
	f := &warehouse.Flush{Impatient: impatient, Reloads: map[string]*warehouse.Reload{}}
	for i := range o.parts {
		p := o.parts[i].p
		if r := w.parked[p].Reload; r != nil {
			f.Reloads[p.Topic] = r
		}
		if a := &o.parts[i].advance; a.Next != a.Expected || o.parts[i].barrier {
			a.Parks = len(o.parts[i].aside) > 0 || o.parts[i].cleared
			f.Advances = append(f.Advances, *a)
		}
	}
	if len(f.Advances) == 0 {
		return o, nil
	}
	rows := 0
	for i := range o.units {
		f.Units = append(f.Units, o.units[i].unit(f.Reloads[o.units[i].topic].Replays()))
	}
	for i := range o.parts {
		rows += int(o.parts[i].advance.Rows)
		f.Parked = append(f.Parked, o.parts[i].aside...)
	}
	// A transaction that has begun is finished even when the sink is told to stop, within limits.
	applying, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(stopPatience, cancel) })
	defer stop()
	looked := make(chan ahead, 1)
	looking, enough := context.WithCancel(ctx)
	defer enough()
	if len(w.next.batches) == 0 && rows >= leastAhead {
		go func() { looked <- w.lookAhead(looking, o) }()
	} else {
		looked <- w.next
	}
	w.apply.Busy()
	f.Committing = func() { w.apply.Idle(); w.commit.Busy() }
	begin := time.Now()
	timing := &warehouse.Timing{}
	if w.s.tracer != nil {
		f.Timing = timing
	}
	effects, err := w.session.Apply(applying, f)
	if errors.Is(err, warehouse.ErrUnknownOutcome) {
		effects, err = w.resolve(applying, f, err)
	}
	w.apply.Idle()
	w.commit.Idle()
	enough()
	if w.next = <-looked; err != nil {
		w.forget(&w.next)
	}
	w.s.metrics.applied(w.s, o, effects, rows, time.Since(begin), err)
	w.s.traced(batches, o, timing, rows, err)
	if err == nil {
		w.s.retryingBy(w, "warehouse", nil)
	}
	return o, err
}

// resolve finds out whether a transaction was committed whose COMMIT was not answered.
func (w *worker) resolve(ctx context.Context, f *warehouse.Flush, unknown error) ([]warehouse.Effect, error) {
	var standings []warehouse.Standing
	err := retry.Keep(ctx, backoff, func(ctx context.Context) (err error) {
		standings, err = w.session.Standings(ctx, f.Advances)
		return err
	}, func(err error, _ int, _ time.Duration) { w.s.retryingBy(w, "warehouse", err) })
	if err != nil {
		return nil, err
	}
	if err := warehouse.Resolved(standings, unknown); err != nil {
		return nil, err
	}
	w.s.metrics.commits.WithLabelValues("unknown").Inc()
	return make([]warehouse.Effect, len(f.Units)), nil
}

// finish gives the partitions of a flush that went well back, and holds those that cannot go on.
func (w *worker) finish(ctx context.Context, o *outcome) {
	ctx = context.WithoutCancel(ctx)
	for i := range o.parts {
		pt := &o.parts[i]
		p := pt.p
		if pt.records > 0 {
			w.s.recovered(ctx, w.session, p)
		}
		w.passed(pt)
		if delete(w.replays, p); pt.replay.on {
			pt.replay.next = pt.advance.Next
			w.replays[p] = pt.replay
		}
		if pt.barrier {
			w.s.holdAtBarrier(p, pt.advance.Barrier)
		} else if pt.stop != nil {
			w.s.hold(ctx, w.session, p, pt.advance.Next, pt.stop)
		}
		keep := w.next.own[p]
		b, kept := w.s.consumer.Finish(p, consume.Done{
			Records: pt.records, Next: pt.advance.Next, Term: consume.Term(pt.advance.Term), Position: pt.advance.Position, CommitTime: pt.committed, WantMore: pt.more, Keep: keep,
		})
		if kept {
			w.next.batches = append(w.next.batches, b)
		} else if keep > 0 {
			w.forget(&w.next)
		}
	}
	w.next.own = nil
	for i := range o.units {
		o.units[i].fold.Release()
		w.folds = append(w.folds, o.units[i].fold)
	}
}
