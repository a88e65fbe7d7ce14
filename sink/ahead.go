package sink

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/sink/consume"
)

// While the warehouse writes one flush, the next one is read, if there is much to read: of other partitions of the lane, which
// are taken for it, or else of the same ones, as if what is being written were written already. Where it turns out
// otherwise, what was read is forgotten, and read again from the records.

// leastAhead is how many records make it worth while. Fewer are written together with those that come meanwhile.
var leastAhead = 2000

// aheadStep is about how many records are read before it is looked whether the flush before is done.
const aheadStep = 4000

// ahead is what is known of the next flush before its time. The zero value: nothing.
type ahead struct {
	batches []consume.Batch
	o       *outcome                   // what was read of batches; nil: nothing yet
	own     map[*consume.Partition]int // how many records were read behind those of the flush that is being written
}

// lookAhead reads what comes after now, and goes on with what arrives until ctx ends, which is when now has been written. It
// uses all of w but the session.
func (w *worker) lookAhead(ctx context.Context, now *outcome) ahead {
	rows, bytes := w.s.cfg.Batch.Rows, int64(w.s.cfg.Batch.Bytes)
	own := w.behind(now)
	for {
		changed := w.s.consumer.Changes()
		if own.began == 0 {
			if batches := w.s.consumer.TryTake(w.lane, rows, bytes, leastAhead); batches != nil {
				return w.readTaken(ctx, batches)
			}
		}
		grown, waits := false, false
		for i := range own.parts {
			more, ok := own.read(ctx, i)
			if !ok {
				w.forget(&ahead{o: own.o})
				return ahead{}
			}
			grown, waits = grown || more, waits || !own.ended[i]
		}
		if ctx.Err() != nil || !waits {
			return own.ahead()
		}
		if !grown {
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
	}
}

// readTaken reads other partitions of the lane.
func (w *worker) readTaken(ctx context.Context, batches []consume.Batch) ahead {
	a := ahead{batches: batches, o: w.outcome()}
	for _, b := range batches {
		if w.parked[b.Partition] == nil || w.readAhead(ctx, a.o, a.o.begin(w.part(b.Partition)), w.window(b)) != nil {
			w.forget(&a)
			break
		}
	}
	return a
}

// behind is what is read of the partitions of a flush that is being written, behind it.
type behind struct {
	w     *worker
	now   *outcome
	o     *outcome
	parts []part // one for each of now; begins where that one ends
	ended []bool // no more of it is to be read
	began int    // of how many something was read
}

func (w *worker) behind(now *outcome) *behind {
	b := &behind{w: w, now: now, o: w.outcome(), parts: make([]part, len(now.parts)), ended: make([]bool, len(now.parts))}
	for i := range now.parts {
		pt := &now.parts[i]
		b.ended[i] = w.s.cfg.Batch.Age > 0 || !w.plain(pt)
		next := w.part(pt.p)
		next.base, next.committed, next.replay = pt.records, pt.committed, pt.replay
		next.advance.Expected, next.advance.Next, next.advance.Term, next.advance.Position = pt.advance.Next, pt.advance.Next, pt.advance.Term, pt.advance.Position
		b.parts[i] = next
	}
	return b
}

// read reads a few records more of partition i, and says whether there were any. ok is false where it cannot be known how they
// are to be read before what is being written is written.
func (b *behind) read(ctx context.Context, i int) (more, ok bool) {
	if b.ended[i] {
		return false, true
	}
	w, pt, have := b.w, &b.parts[i], b.parts[i].records
	least := 1
	if have == 0 {
		least = leastAhead
	}
	rows, bytes := w.s.cfg.Batch.Rows, int64(w.s.cfg.Batch.Bytes)
	records := w.s.consumer.Beyond(pt.p, b.now.parts[i].records, min(rows, have+aheadStep), bytes, have+least)
	if records == nil {
		return false, true
	}
	if len(records) <= have {
		b.ended[i] = true
		return false, true
	}
	if err := w.readAhead(ctx, b.o, pt, records); err != nil && ctx.Err() == nil {
		return false, false
	}
	pt.more = false
	if !w.plain(pt) {
		return false, false
	}
	if more = pt.records > have; !more {
		b.ended[i] = true
	} else if have == 0 {
		b.began++
	}
	return more, true
}

// ahead gives what was read.
func (b *behind) ahead() ahead {
	a := ahead{o: b.o, own: map[*consume.Partition]int{}}
	for i := range b.parts {
		if pt := &b.parts[i]; pt.records > 0 {
			a.o.parts = append(a.o.parts, *pt)
			a.own[pt.p] = pt.records
		}
	}
	if len(a.own) == 0 {
		b.w.forget(&a)
		return ahead{}
	}
	return a
}

func (w *worker) readAhead(ctx context.Context, o *outcome, pt *part, records []*kgo.Record) error {
	w.looking = true
	defer func() { w.looking = false }()
	w.decode.Busy()
	defer w.decode.Idle()
	return w.readPartition(ctx, o, pt, records)
}

// plain says whether nothing of a part changes how records behind it are to be read.
func (w *worker) plain(pt *part) bool {
	return pt.stop == nil && !pt.barrier && !pt.more && !pt.reload && !pt.cleared && len(pt.aside) == 0 && !pt.replay.on &&
		pt.p.Park == nil && !pt.p.Skip && w.probes[pt.p] == nil && len(w.parked[pt.p].Keys) == 0
}

// forget lets go of what was read ahead, not of what was taken.
func (w *worker) forget(a *ahead) {
	if a.o == nil {
		return
	}
	for i := range a.o.units {
		w.folds = append(w.folds, a.o.units[i].fold)
	}
	a.o, a.own = nil, nil
}

// stands says whether what was read ahead, of the first of batches, is what would be read now.
func (w *worker) stands(o *outcome, batches []consume.Batch) bool {
	if o == nil || len(o.parts) > len(batches) {
		return false
	}
	for i := range o.parts {
		pt := &o.parts[i]
		known := w.parked[pt.p]
		if pt.records == 0 || batches[i].Partition != pt.p || known == nil || known != pt.parked || known.N != pt.advance.ParkedN ||
			pt.p.Epoch != pt.advance.Epoch || pt.p.Next != pt.advance.Expected {
			return false
		}
	}
	for i := range o.units {
		if u := &o.units[i]; w.session.Prepared(u.plan) != u.target {
			return false
		}
	}
	return true
}
