package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/mutant"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// read decodes and folds the records of batches, unless that was done ahead. An error means that it could not be done now, or not
// for a whole table; what is wrong with a record only ends its partition's part before it.
func (w *worker) read(ctx context.Context, batches []consume.Batch, read ahead) (*outcome, error) {
	o := w.outcome()
	if err := w.loadParked(ctx, batches); err != nil {
		w.forget(&read)
		return o, err
	}
	if w.stands(read.o, batches) {
		o = read.o
	} else {
		w.forget(&read)
	}
	for _, b := range batches[len(o.parts):] {
		if err := w.readPartition(ctx, o, o.begin(w.part(b.Partition)), w.window(b)); err != nil {
			return o, err
		}
	}
	return o, nil
}

// outcome begins one.
func (w *worker) outcome() *outcome {
	o := &outcome{}
	if w.s.tracer != nil {
		o.began = time.Now()
	}
	return o
}

// part begins one for a partition where it stands.
func (w *worker) part(p *consume.Partition) part {
	known, again := w.parked[p], w.replays[p]
	if again.next != p.Next { // its checkpoint was moved
		again = replay{}
	}
	return part{p: p, unit: -1, parked: known, advance: warehouse.Advance{
		Topic: p.Topic, Partition: p.Number, Epoch: p.Epoch, Expected: p.Next, Next: p.Next, Term: int32(p.Term), Position: p.Position,
		ParkedN: known.N,
	}, committed: p.CommitTime, replay: again}
}

// begin adds a part.
func (o *outcome) begin(pt part) *part {
	o.parts = append(o.parts, pt)
	return &o.parts[len(o.parts)-1]
}

// readPartition takes in records: those of the part that were read before, and more.
func (w *worker) readPartition(ctx context.Context, o *outcome, pt *part, records []*kgo.Record) error {
	if w.s.tracer != nil {
		defer func() { o.folded = time.Now() }()
	}
	// What other adds to records, to look for the second half of a key's change, is not the window's unless it is that half.
	for window := len(records); pt.records < window; {
		n, err := w.readRecord(ctx, o, pt, &records)
		if n == 0 && pt.stop != nil && w.putAside(ctx, pt, records[pt.records], pt.stop) {
			n, pt.stop = 1, nil
		}
		if err != nil || n == 0 {
			return err
		}
		pt.steps++
		for range n {
			r := records[pt.records]
			pt.advance.Next, pt.advance.Term = r.Offset+1, int32(consume.TermOf(r))
			pt.bytes += len(r.Key) + len(r.Value)
			pt.records++
		}
	}
	return nil
}

// readRecord takes in the next record, or two for a change of a key, and gives how many; 0 ends the part here.
func (w *worker) readRecord(ctx context.Context, o *outcome, pt *part, records *[]*kgo.Record) (int, error) {
	r := (*records)[pt.records]
	if r.Attrs.IsControl() || r.Value == nil {
		return 1, nil // a commit marker; a tombstone, which only repeats a delete
	}
	if pt.p.Skip && !pt.met {
		pt.met = true
		if h, err := headersOf(r); err == nil && h.known && h.position.Compare(pt.advance.Position) > 0 {
			pt.advance.Position = h.position // where it is a TRUNCATE, the other partitions wait for it
		}
		w.s.log.Warn("record is passed over, as somebody asked", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset)
		return 1, nil
	}
	h, err := headersOf(r)
	if err != nil {
		return pt.end(invalid(r, err))
	}
	if h.known && h.position.Compare(pt.advance.Position) <= 0 {
		w.s.table(r.Topic).duplicate()
		return 1, nil
	}
	if aside, err := w.aside(ctx, pt, r, h); err != nil {
		return pt.end(err)
	} else if aside {
		return 1, nil
	}
	v, err := w.version(ctx, r)
	if err != nil {
		return pt.fail(ctx, err)
	}
	w.arena, err = v.decoder.Decode(r.Value, &w.event, w.arena[:0])
	if err != nil {
		return pt.end(invalid(r, err))
	}
	ev := &w.event
	if v.decoder.Debezium() {
		if pt.repeated(ev) {
			w.s.table(r.Topic).duplicate()
			return 1, nil
		}
		h.position = pt.next(ev)
		if ev.Op == change.Truncate && r.Key == nil {
			if v, err = w.keyed(ctx, r); err != nil {
				return pt.fail(ctx, err)
			}
		}
	}
	if ev.Op == change.Truncate && pt.p.Count > 1 {
		if !h.known {
			return pt.end(invalid(r, errors.New("a TRUNCATE of several partitions without a position: where it stands in the others cannot be told")))
		}
		if stop := pt.atBarrier(h.position); stop {
			return 0, nil
		}
		if pt.p.Number != 0 {
			pt.take(ev, h) // partition 0 has done it, and counted the change of what is parked here
			return 1, nil
		}
	}
	u, ok, err := w.unit(ctx, o, pt, r.Topic, v, h.position)
	if err != nil {
		return pt.fail(ctx, err)
	}
	if !ok {
		return 0, nil // another plan: the next flush
	}
	if ev.Op == change.Delete && (h.newKey != nil || h.half) {
		both := w.move
		if h.half {
			both = w.debeziumMove
		}
		n, wait, err := both(pt, r, u, v, h, records)
		if err != nil {
			return pt.end(err)
		}
		if wait {
			pt.more = true
		}
		if wait || n > 0 {
			return n, nil
		}
	}
	if u.begins(ev, h) {
		if !u.fold.Empty() {
			return 0, nil // what came before has not come again: the next flush
		}
		u.mark = warehouse.Mark{Partition: r.Partition, Offset: r.Offset, At: ev.Tx.CommitTime}
		pt.reload = true
	}
	h.place(ev, r)
	if err := u.fold.Add(ev, h.newKey != nil || h.oldKey != nil || h.half, h.reload); err != nil {
		return pt.end(invalid(r, err))
	}
	if ev.Op == change.Truncate && u.plan.Voids(h.reload) {
		pt.aside, pt.keys, pt.cleared = nil, nil, true // rows that are gone, or come again, need no retry
	}
	pt.take(ev, h)
	return 1, nil
}

// move takes in both halves of a change of a key, w.event being the first, and gives how many records these are: 0 where the second is in
// another partition, or is still to come, for which to wait.
func (w *worker) move(pt *part, r *kgo.Record, u *unit, v *versionPlan, h headers, records *[]*kgo.Record) (n int, wait bool, err error) {
	next, n := w.other(pt, records)
	if next == nil {
		return 0, n == 0 && record.Partition(h.newKey, pt.p.Count) == pt.p.Number, nil
	}
	second, err := headersOf(next)
	if err != nil || second.oldKey == nil || !second.known || !follows(h.position, second.position) {
		return 0, false, nil // whatever is wrong with that record, it is told when it is read itself
	}
	if !bytes.HasPrefix(next.Value, r.Value[:record.FrameSize]) {
		return 0, false, invalid(next, errors.New("the halves of a change of a key have different schemas"))
	}
	if w.arena2, err = v.decoder.Decode(next.Value, &w.second, w.arena2[:0]); err != nil {
		return 0, false, invalid(next, err)
	}
	if err := u.fold.Move(&w.event, &w.second); err != nil {
		return 0, false, invalid(r, err)
	}
	pt.take(&w.event, h)
	pt.take(&w.second, second)
	return n, false, nil
}

// begins says whether an event begins a reload.
func (u *unit) begins(ev *change.Event, h headers) bool {
	return ev.Op == change.Truncate && h.reload && len(u.plan.Key) > 0 && u.plan.Voids(true)
}

// follows says whether q is the second half of the key change whose first half is at p.
func follows(p, q change.Position) bool {
	return q.Era == p.Era && q.CommitLSN == p.CommitLSN && q.Seq == p.Seq+1
}

// other gives the next record with a value behind the one being read, and how many records there are up to and with
// it; n is 0 if none has arrived.
func (w *worker) other(pt *part, records *[]*kgo.Record) (next *kgo.Record, n int) {
	for i := pt.records + 1; ; i++ {
		if i == len(*records) {
			more := w.s.consumer.More(pt.p, pt.base+i, 1)
			if more == nil {
				return nil, 0
			}
			*records = append((*records)[:i:i], more...)
		}
		if r := (*records)[i]; !r.Attrs.IsControl() && r.Value != nil {
			return r, i + 1 - pt.records
		}
	}
}

// end ends the part before a record that err forbids to take in.
func (pt *part) end(err error) (int, error) {
	pt.stop = err
	return 0, nil
}

// fail ends the part before a record by err, unless that is over when it is tried again.
func (pt *part) fail(ctx context.Context, err error) (int, error) {
	if ctx.Err() != nil || retry.Waits(err) {
		return 0, err
	}
	return pt.end(err)
}

// take moves the part's position past an event.
func (pt *part) take(ev *change.Event, h headers) {
	if h.known || !h.position.IsZero() {
		pt.advance.Position = h.position
	}
	pt.advance.Rows++
	if h.trace != nil {
		pt.traces = append(pt.traces, h.trace)
	}
	if ev.Tx.CommitTime != 0 {
		pt.advance.CommitTime = ev.Tx.CommitTime
		pt.committed = max(pt.committed, ev.Tx.CommitTime)
		if pt.first == 0 && ev.Op != change.Read {
			pt.first = ev.Tx.CommitTime
		}
	}
}

// atBarrier says whether the part must end at a TRUNCATE until the other partitions are there.
func (pt *part) atBarrier(at change.Position) bool {
	if mutant.On(mutant.TruncateWithoutBarrier) {
		return false
	}
	if pt.p.Pass.Compare(at) >= 0 {
		pt.advance.Truncate, pt.advance.Partitions = at, pt.p.Count
		return false
	}
	pt.barrier = true
	pt.advance.Barrier = at
	return true
}

// unit gives the unit for a topic's version, of which the record at a position is; false if the part has begun with another one.
func (w *worker) unit(ctx context.Context, o *outcome, pt *part, topic string, v *versionPlan, at change.Position) (*unit, bool, error) {
	if pt.unit >= 0 {
		u := &o.units[pt.unit]
		return u, u.plan == v.plan && u.target.Suits(at), nil
	}
	for i := range o.units {
		if o.units[i].topic == topic && o.units[i].plan == v.plan {
			if !o.units[i].target.Suits(at) {
				return nil, false, nil
			}
			pt.unit = i
			return &o.units[i], true, nil
		}
	}
	if known := w.session.Prepared(v.plan); w.looking && (known == nil || !known.Suits(at)) {
		return nil, false, nil // the session is in use
	}
	target, err := w.session.Prepare(ctx, v.plan, topic, at)
	if err != nil {
		return nil, false, err
	}
	fold := &batch.Fold{}
	if n := len(w.folds); n > 0 {
		fold, w.folds = w.folds[n-1], w.folds[:n-1]
	}
	fold.Begin(v.plan)
	w.s.table(topic).writes(v.plan, target)
	o.units = append(o.units, unit{topic: topic, plan: v.plan, target: target, fold: fold})
	pt.unit = len(o.units) - 1
	return &o.units[pt.unit], true, nil
}

// headers are what a record says beside its value.
type headers struct {
	position       change.Position
	known          bool // there is a position: the record is of a capture of ours
	newKey, oldKey []byte
	trace          []byte
	half           bool // of a change of a key, in a record that is not ours: the other key cannot be told
	reload         bool
}

func headersOf(r *kgo.Record) (h headers, err error) {
	for i := range r.Headers {
		switch v := r.Headers[i].Value; r.Headers[i].Key {
		case record.HeaderPosition:
			if h.position, err = change.ParsePosition(v); err != nil {
				return h, err
			}
			h.known = true
		case record.HeaderNewKey:
			h.newKey = v
		case record.HeaderOldKey:
			h.oldKey = v
		case record.HeaderReload:
			h.reload = true
		case record.HeaderTrace:
			h.trace = v
		}
	}
	if !h.known && (h.newKey != nil || h.oldKey != nil) {
		h.half, h.newKey, h.oldKey = true, nil, nil
	}
	return h, nil
}

// place gives an event of a record that is not ours a position that no other event of its topic has.
func (h *headers) place(ev *change.Event, r *kgo.Record) {
	const offsetBits = 36
	if !h.known {
		ev.Position = change.Position{CommitLSN: ev.Position.CommitLSN, Seq: uint64(r.Partition)<<offsetBits | uint64(r.Offset)}
	}
}

// where names a record for people.
func where(r *kgo.Record) string {
	return fmt.Sprintf("topic %q partition %d offset %d", r.Topic, r.Partition, r.Offset)
}

func invalid(r *kgo.Record, err error) error {
	if t, ok := errors.AsType[*trouble.Error](err); ok { // of its rule
		pinned := *t
		pinned.Subject = strings.TrimPrefix(t.Subject+", "+where(r), ", ")
		return &pinned
	}
	return &trouble.Error{
		Code: trouble.RecordInvalid, Op: "decode", Subject: where(r), Cause: err,
		Means: "the record was damaged, or is not of a capture; its table is held before it, all others go on",
		Hint:  "look at who else writes the topic; to try again: sink resume SOURCE/TABLE; to put the record aside: sink resume SOURCE/TABLE --park",
	}
}

// schemaTrouble is the trouble of a schema, of a record or of a topic, that cannot be had.
func schemaTrouble(subject string, err error) error {
	const op = "look up the schema of"
	if errors.Is(err, registry.ErrUnknownSchema) || errors.Is(err, registry.ErrInvalidSchema) {
		return &trouble.Error{
			Code: trouble.SchemaUnknown, Op: op, Subject: subject, Cause: err,
			Means: "without the schema the record cannot be read; its table is held before it, all others go on",
			Hint:  "point registry.url to the registry that capture uses, or restore its schemas; then sink resume SOURCE/TABLE",
		}
	}
	return registry.Trouble(op, subject, err)
}

// ofRegistry says whether it is the registry that keeps something from going on.
func ofRegistry(err error) bool {
	code := trouble.CodeOf(err)
	return code == trouble.RegistryUnreachable || code == trouble.RegistryAuth
}
