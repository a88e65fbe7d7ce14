package sink

import (
	"bytes"
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// Records that Debezium's own connector wrote (record.NewDebeziumDecoder) have no position beside the value, and those of
// one change can share one; their headers name keys in a form that tells no record; and a connector that was killed
// writes again what it had written.

// replay is a connector writing again what it had written: it began at an event before the last one.
type replay struct {
	on   bool
	seen uint64 // events at the position of the last one that have come again
	next int64  // offset up to which this is known
}

// repeated says whether the partition has had an event of Debezium's before: one that stands before the last in the order
// of the WAL, or, behind such ones, at its place.
//
// The position alone would not do. A source that was restored, or moved to another server, may begin with LSNs below those
// of the old one, and everything it writes would be dropped until it has passed them. So what was committed later than
// anything here is no repeat. Rows of a snapshot are never dropped: they are what such a source begins with, and with
// them the position goes back to before all changes.
//
// Nor would it do to drop what stands at the last one's place: rows of one multi-insert share it. How many of them there
// were is counted in the position, and so many are repeats.
func (pt *part) repeated(ev *change.Event) bool {
	last, ties := place(pt.advance.Position)
	if ev.Op == change.Read || ev.Position.IsZero() || last.Era != 0 || ev.Tx.CommitTime > pt.committed {
		return false
	}
	switch ev.Position.Compare(last) {
	case -1:
		pt.replay = replay{on: true}
		return true
	case 0:
		if pt.replay.on && pt.replay.seen < ties {
			pt.replay.seen++
			return true
		}
	}
	pt.replay = replay{}
	return false
}

// next gives the position of the partition behind an event of Debezium's: that of the event, and how many there were of it.
func (pt *part) next(ev *change.Event) change.Position {
	p := ev.Position
	if p.IsZero() {
		return p
	}
	if last, ties := place(pt.advance.Position); last == p {
		p.Seq += min(ties, record.DebeziumTies-2)
	}
	p.Seq++
	return p
}

// place takes apart what next gives.
func place(p change.Position) (place change.Position, ties uint64) {
	ties = p.Seq % record.DebeziumTies
	p.Seq -= ties
	return p, ties
}

// keyed gives decoder and plan for a record without key of a table that may have one, such as a TRUNCATE: the newest that
// the registry knows of.
func (vs *versions) keyed(ctx context.Context, r *kgo.Record) (*versionPlan, error) {
	id, err := vs.registry.Latest(ctx, r.Topic+"-key")
	if errors.Is(err, registry.ErrUnknownSchema) {
		return vs.version(ctx, r)
	}
	if err != nil {
		return nil, schemaTrouble(where(r), err)
	}
	keyed := *r
	keyed.Key = record.AppendFrame(nil, id)
	return vs.version(ctx, &keyed)
}

// debeziumMove folds a change of a key: the delete r, which has been decoded, and the insert of the new row behind it, a
// tombstone between them. It gives how many records that were; 0 if there is no second half to be had: the delete is one of
// its own then, and the insert, wherever it is, too. That is enough for rows that are complete; what was not sent of a row
// (unchanged TOAST) is found only if both halves are together, and missed with an error otherwise.
//
// wait says that the second half is still to come: a topic of one partition has it behind the first.
func (w *worker) debeziumMove(pt *part, r *kgo.Record, u *unit, v *versionPlan, h headers, records *[]*kgo.Record) (n int, wait bool, err error) {
	next, n := w.other(pt, records)
	if next == nil {
		return 0, pt.p.Count == 1 && n == 0, nil
	}
	second, err := headersOf(next)
	if err != nil || !second.half || second.known || !bytes.HasPrefix(next.Value, r.Value[:record.FrameSize]) {
		return 0, false, nil //nolint:nilerr // the next record is read by itself, and then it is an error
	}
	if _, parked := w.isParked(pt, identity(next.Key)); parked {
		return 0, false, nil
	}
	if w.arena2, err = v.decoder.Decode(next.Value, &w.second, w.arena2[:0]); err != nil {
		return 0, false, nil //nolint:nilerr // as above
	}
	if w.second.Op != change.Create || w.second.Position != w.event.Position {
		return 0, false, nil
	}
	del, ins := w.event, w.second
	h.place(&del, r)
	second.place(&ins, next)
	if err := u.fold.Move(&del, &ins); err != nil {
		return 0, false, invalid(r, err)
	}
	pt.take(&w.event, h)
	second.position = pt.next(&w.second)
	pt.take(&w.second, second)
	return n, false, nil
}
