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

// ahead is what is known of the next flush before its time. The zero value: nothing.
type ahead struct {
	batches []consume.Batch
	o       *outcome                   // what was read of batches; nil: nothing yet
	own     map[*consume.Partition]int // how many records were read behind those of the flush that is being written
}

// lookAhead reads what comes after now. It uses all of w but the session.
func (w *worker) lookAhead(ctx context.Context, now *outcome) ahead {
	rows, bytes := w.s.cfg.Batch.Rows, int64(w.s.cfg.Batch.Bytes)
	if batches := w.s.consumer.TryTake(w.lane, rows, bytes, leastAhead); batches != nil {
		a := ahead{batches: batches, o: w.outcome()}
		for _, b := range batches {
			if w.parked[b.Partition] == nil || w.readAhead(ctx, a.o, w.part(b.Partition), w.window(b)) != nil {
				w.forget(&a)
				break
			}
		}
		return a
	}
	a := ahead{o: w.outcome(), own: map[*consume.Partition]int{}}
	for i := range now.parts {
		pt := &now.parts[i]
		if w.s.cfg.Batch.Age > 0 || !w.plain(pt) {
			continue
		}
		records := w.s.consumer.Beyond(pt.p, pt.records, rows, bytes, leastAhead)
		if records == nil {
			continue
		}
		next := w.part(pt.p)
		next.base, next.committed = pt.records, pt.committed
		next.advance.Expected, next.advance.Next, next.advance.Position = pt.advance.Next, pt.advance.Next, pt.advance.Position
		if err := w.readAhead(ctx, a.o, next, records); err != nil {
			w.forget(&a)
			return ahead{}
		}
		read := &a.o.parts[len(a.o.parts)-1]
		if read.more = false; read.records == 0 || !w.plain(read) {
			w.forget(&a)
			return ahead{}
		}
		a.own[pt.p] = read.records
	}
	if len(a.own) == 0 {
		return ahead{}
	}
	return a
}

func (w *worker) readAhead(ctx context.Context, o *outcome, pt part, records []*kgo.Record) error {
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
