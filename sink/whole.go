package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// whole writes the sources whose transactions become visible as a whole. Whoever owns the progress partition of such a
// source writes all of it: each progress record says up to which offsets the topics make up a state of the source, and
// everything up to there is written in one transaction of the warehouse (a warehouse.Cut). The data topics are read
// outside of the group; their checkpoints fence an owner before, as everywhere.
type whole struct {
	s       *Sink
	session *warehouse.Session
	rounds  *rounds
	*versions
	reader *consume.Reader
	parts  map[string]map[partKey]*wholePart // by source
	left   map[string]consume.Start          // by source: where its progress was left
}

type partKey struct {
	topic  string
	number int32
}

// wholePart is a claimed partition of a data topic.
type wholePart struct {
	consume.Start
	count int32
}

func newWhole(s *Sink) *whole {
	return &whole{
		s: s, session: s.writer(s.wholeLane()), rounds: s.newRounds(s.wholeLane(), s.stages.Stage("apply whole", waitWarehouse), 0),
		versions: newVersions(s.registry, s.rules, s.latest), parts: map[string]map[partKey]*wholePart{}, left: map[string]consume.Start{},
	}
}

func (g *whole) run(ctx context.Context) error {
	defer g.session.Close(context.WithoutCancel(ctx))
	reader, err := consume.NewReader(g.s.cfg.Kafka, int64(g.s.cfg.Batch.Bytes), g.s.log)
	if err != nil {
		return err
	}
	defer reader.Close()
	g.reader = reader
	g.rounds.run(ctx, func(ctx context.Context, batches []consume.Batch) {
		for _, b := range batches {
			g.partition(ctx, b)
		}
	})
	return nil
}

// partition goes to a later state of the source of a progress partition.
func (g *whole) partition(ctx context.Context, b consume.Batch) {
	p := b.Partition
	source, _ := record.ParseProgressTopic(p.Topic)
	// Claimed again: so were its tables, perhaps, or somebody has moved their checkpoints. Nothing of them may come that finds it out:
	//
	//	somebody: removes the source, and brings it back
	//	sink:     reads the progress anew, from its beginning, and has its tables at the end still
	if left, known := g.left[source]; known && (left.Epoch != p.Epoch || left.Next != p.Next) {
		delete(g.parts, source)
	}
	var records []warehouse.ProgressRecord
	var ends []int // of records: how many of the batch are passed with it
	var stop error
	for i, r := range b.Records {
		if !r.Attrs.IsControl() && r.Value != nil {
			progress, err := record.ParseProgress(r.Value)
			if err != nil {
				stop = invalid(r, err)
				break
			}
			records, ends = append(records, warehouse.ProgressRecord{Offset: r.Offset, Progress: progress}), append(ends, i+1)
		} else if len(ends) > 0 {
			ends[len(ends)-1] = i + 1
		}
	}
	done := consume.Nothing(p)
	switch {
	case len(records) > 0:
		n, err := 0, warehouse.ErrFenced
		if !g.s.consumer.Gone(p) {
			n, err = g.cut(ctx, p, source, b.Records, records, ends)
		}
		switch {
		case err == nil && n > 0:
			g.s.recovered(ctx, g.session, p)
			done = consume.Done{Records: n, Next: b.Records[n-1].Offset + 1, Term: consume.TermOf(b.Records[n-1]), Position: p.Position}
		case err == nil && stop != nil:
			g.s.hold(ctx, g.session, p, p.Next, stop)
		case err == nil:
			done.WantMore = true // the rest of a source transaction is on the way
		case ctx.Err() != nil:
		case retry.Waits(err), errors.Is(err, warehouse.ErrTargetUnsteady):
			g.rounds.wait(b, waitedFor(err), err)
			return
		case errors.Is(err, warehouse.ErrFenced):
			delete(g.parts, source)
			g.s.refused(ctx, g.session, p)
		default:
			delete(g.parts, source)
			g.s.hold(ctx, g.session, p, p.Next, err)
		}
	case stop == nil: // commit markers
		done.WantMore = true
	}
	if stop != nil && done.Records == 0 && len(records) == 0 {
		g.s.hold(ctx, g.session, p, p.Next, stop)
	}
	g.left[source] = consume.Start{Epoch: p.Epoch, Next: done.Next}
	g.rounds.finish(p, done)
}

// others says whether there is another source that is written as a whole here, which a lock must not keep waiting.
func (g *whole) others() bool {
	sources := 0
	for _, view := range g.s.consumer.Views() {
		if view.Lane == g.s.wholeLane() {
			sources++
		}
	}
	return sources > 1
}

// waitedFor says who is to blame for an error that is waited out.
func waitedFor(err error) string {
	switch {
	case errors.Is(err, warehouse.ErrTargetUnsteady):
		return "target"
	case ofRegistry(err):
		return "registry"
	case strings.HasPrefix(string(trouble.CodeOf(err)), "kafka"):
		return "kafka"
	}
	return "warehouse"
}

// cut applies everything up to one of the progress records, and gives how many records of the batch are passed; 0 if
// there is none to go to yet.
func (g *whole) cut(ctx context.Context, p *consume.Partition, source string, all []*kgo.Record, records []warehouse.ProgressRecord, ends []int) (int, error) {
	parts := g.parts[source]
	n, vector, err := g.session.NextCut(ctx, source, records, int64(g.s.cfg.Batch.Rows), func(vector map[string][]int64) (size int64) {
		for topic, offsets := range vector {
			for i, to := range offsets {
				if part := parts[partKey{topic, int32(i)}]; part != nil && g.s.consumed(topic) {
					size += max(to-part.Next, 0)
				} else if g.s.consumed(topic) {
					size += max(to, 0)
				}
			}
		}
		return size
	})
	if err != nil || n == 0 {
		return 0, err
	}
	if parts, err = g.claim(ctx, p, source, vector); err != nil {
		return 0, err
	}
	read := ends[n-1]
	progress := warehouse.Advance{
		Topic: p.Topic, Partition: p.Number, Epoch: p.Epoch, Expected: p.Next, Next: all[read-1].Offset + 1, Term: int32(consume.TermOf(all[read-1])),
		Position: p.Position, Rows: int64(n),
	}
	w := &wholeCut{g: g, parts: parts, moved: map[partKey]*wholeMove{}}
	for k, part := range parts {
		offsets := vector[k.topic]
		if int(k.number) >= len(offsets) || offsets[k.number] <= part.Next {
			continue
		}
		w.ranges = append(w.ranges, consume.Range{Topic: k.topic, Partition: k.number, From: part.Next, To: offsets[k.number]})
	}
	slices.SortFunc(w.ranges, func(a, b consume.Range) int {
		if c := strings.Compare(a.Topic, b.Topic); c != 0 {
			return c
		}
		return int(a.Partition) - int(b.Partition)
	})
	// A transaction that has begun is finished even when the sink is told to stop, within limits.
	applying, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(stopPatience, cancel) })()
	begin := time.Now()
	for changed := 0; ; changed++ { // Rollback has what was known of the targets forgotten
		err = w.apply(applying, progress, source, records[:n])
		if changed == mostChanges || !errors.Is(err, warehouse.ErrTargetChanged) {
			break
		}
	}
	if unit, ok := errors.AsType[*warehouse.UnitError](err); ok {
		err = unit.Err
	}
	if errors.Is(err, warehouse.ErrUnknownOutcome) {
		err = resolve(applying, g.session, err, progress) // all of it is one transaction
	}
	g.s.tracedWhole(source, w, begin, err)
	if err != nil {
		return 0, err
	}
	for k, m := range w.moved {
		parts[k].Next, parts[k].Term, parts[k].Position = m.advance.Next, consume.Term(m.advance.Term), m.advance.Position
	}
	g.s.metrics.whole(g.s, source, w, time.Since(begin))
	return read, nil
}

// claim takes over the partitions of the vector that are not ours yet.
func (g *whole) claim(ctx context.Context, p *consume.Partition, source string, vector map[string][]int64) (map[partKey]*wholePart, error) {
	parts := g.parts[source]
	if parts == nil {
		parts = map[partKey]*wholePart{}
	}
	var topics []string
	for topic, offsets := range vector {
		if part := parts[partKey{topic, 0}]; part != nil && len(offsets) > int(part.count) {
			return nil, &trouble.Error{
				Code: trouble.TopicPartitionsChanged, Op: "go on with", Subject: fmt.Sprintf("topic %q", topic),
				Cause: fmt.Errorf("it had %d partitions and has %d", part.count, len(offsets)),
				Means: "keys would change their partition and rows their order; its source is held, since its tables are written as a whole",
			}
		}
		if g.s.consumed(topic) && slices.ContainsFunc(offsets, func(o int64) bool { return o > 0 }) && parts[partKey{topic, 0}] == nil {
			topics = append(topics, topic)
		}
	}
	if len(topics) == 0 {
		return parts, nil
	}
	slices.Sort(topics)
	ids, counts, err := g.reader.Topics(ctx, topics...)
	if err != nil {
		return nil, err
	}
	var requests []consume.Request
	for _, topic := range topics {
		if counts[topic] == 0 {
			return nil, &trouble.Error{
				Code: trouble.TopicRecreated, Op: "read", Subject: fmt.Sprintf("topic %q", topic), Cause: errors.New("it does not exist"),
				Means: "the topic was deleted; its source is held, since its tables are written as a whole",
			}
		}
		for number := range counts[topic] {
			requests = append(requests, consume.Request{Topic: topic, Number: number, TopicID: ids[topic]})
		}
	}
	starts, err := g.s.claimTables(ctx, p, requests)
	if err != nil {
		return nil, err
	}
	for _, start := range starts {
		if start.Err != nil {
			return nil, start.Err
		}
	}
	if err := g.unparked(ctx, source, requests); err != nil {
		return nil, err
	}
	for i, start := range starts {
		parts[partKey{requests[i].Topic, requests[i].Number}] = &wholePart{Start: start, count: counts[requests[i].Topic]}
	}
	g.parts[source] = parts
	return parts, nil
}

// unparked refuses partitions of which something is parked, as the source was not written as a whole before. Nobody parks of one that is, nor looks what is:
//
//	sink:   writes a newer row of a key of which something is parked
//	person: retries that, which puts the old row over the newer one
func (g *whole) unparked(ctx context.Context, source string, requests []consume.Request) error {
	parts := make([]warehouse.Partition, len(requests))
	for i, r := range requests {
		parts[i] = warehouse.Partition{Topic: r.Topic, Number: r.Number}
	}
	parked, err := g.session.Parked(ctx, parts)
	if err != nil {
		return err
	}
	for i := range parked {
		if len(parked[i].Keys) == 0 {
			continue
		}
		_, schema, table, _ := record.ParseTopic(parts[i].Topic)
		name := service.Quote(source + "/" + schema + "." + table)
		return &trouble.Error{
			Code: trouble.Parked, Op: "write as a whole", Subject: fmt.Sprintf("source %q", source), Cause: fmt.Errorf("records of topic %q are parked", parts[i].Topic),
			Means: "later changes of their rows must wait for them, which those of a source that is written as a whole do not; it is held before them",
			Hint:  fmt.Sprintf("sink parked retry %s, when they can be written, or sink parked discard %s; then sink resume %s", name, name, service.Quote(source)),
		}
	}
	return nil
}

// wholeCut is one cut under way.
type wholeCut struct {
	g      *whole
	parts  map[partKey]*wholePart
	ranges []consume.Range
	moved  map[partKey]*wholeMove
	cut    *warehouse.Cut
	units  []unit
	bytes  int64
	read   int64 // bytes in all
	oldest int64 // commit time of the oldest change, microseconds; 0 for none
	counts []wholeCount
	traces [][]byte  // of what has traces, see record.HeaderTrace
	wrote  time.Time // when all was written but the checkpoints

	event, second change.Event
	arena, arena2 []byte
}

// wholeCount is what one piece did, for metrics.
type wholeCount struct {
	plan   *rule.Plan
	counts batch.Counts
	effect warehouse.Effect
}

// wholeMove is how far one partition has come in the cut.
type wholeMove struct {
	advance warehouse.Advance
	barrier change.Position // the TRUNCATE that it waits at
	pass    change.Position // the TRUNCATE that has been done
}

func (w *wholeCut) apply(ctx context.Context, progress warehouse.Advance, source string, records []warehouse.ProgressRecord) error {
	var locks, advances []warehouse.Advance
	w.units, w.counts, w.bytes, w.read, w.traces = nil, nil, 0, 0, nil
	for _, r := range w.ranges {
		k := partKey{r.Topic, r.Partition}
		part := w.parts[k]
		w.moved[k] = &wholeMove{advance: warehouse.Advance{
			Topic: k.topic, Partition: k.number, Epoch: part.Epoch, Expected: part.Next, Next: part.Next, Term: int32(part.Term), Position: part.Position,
			ParkedN: -1, // nothing is parked of such a source, and the cut looks up which of its tables are read anew
		}}
		locks = append(locks, w.moved[k].advance)
	}
	var err error
	if w.cut, err = w.g.session.BeginCut(ctx, locks, progress, source, records, w.g.s.consumed, w.g.others()); err != nil {
		return err
	}
	if len(w.ranges) > 0 {
		err = w.g.reader.Read(ctx, w.ranges, func(topic string, number int32, records []*kgo.Record) (int, error) {
			k := partKey{topic, number}
			n, err := w.take(ctx, k, records)
			if n > 0 {
				a := &w.moved[k].advance
				a.Next, a.Term = records[n-1].Offset+1, int32(consume.TermOf(records[n-1]))
			}
			return n, err
		})
		if err == nil {
			err = w.write(ctx)
		}
		if err != nil {
			w.cut.Rollback(ctx)
			return err
		}
	}
	w.wrote = time.Now()
	for _, r := range w.ranges {
		a := &w.moved[partKey{r.Topic, r.Partition}].advance
		if a.Next != r.To { // the record before is gone, by compaction: who wrote it is not known
			a.Next, a.Term = r.To, 0
		}
		advances = append(advances, *a)
	}
	return w.cut.Commit(ctx, advances)
}

// take folds records of one partition. It stops at a TRUNCATE until the other partitions have come to it, and before the
// first half of a change of a key whose second half is not there yet.
func (w *wholeCut) take(ctx context.Context, k partKey, records []*kgo.Record) (int, error) {
	m, part := w.moved[k], w.parts[k]
	for i := 0; i < len(records); i++ {
		r := records[i]
		if r.Attrs.IsControl() || r.Value == nil {
			continue
		}
		h, err := headersOf(r)
		if err != nil {
			return 0, invalid(r, err)
		}
		if h.known && h.position.Compare(m.advance.Position) <= 0 {
			w.g.s.table(r.Topic).duplicate()
			continue
		}
		if h.trace != nil {
			w.traces = append(w.traces, bytes.Clone(h.trace)) // not all that was fetched with it
		}
		v, err := w.g.version(ctx, r)
		if err != nil {
			return 0, err
		}
		if w.arena, err = v.decoder.Decode(r.Value, &w.event, w.arena[:0]); err != nil {
			return 0, invalid(r, err)
		}
		ev := &w.event
		if ev.Op == change.Truncate && part.count > 1 {
			passed, wait, err := w.meet(k, part.count, h)
			switch {
			case err != nil:
				return 0, invalid(r, err)
			case wait:
				return i, nil
			case passed:
				m.took(ev, h)
				continue
			}
		}
		if w.bytes >= int64(w.g.s.cfg.Batch.Bytes) {
			if err := w.write(ctx); err != nil {
				return 0, err
			}
		}
		u, err := w.unit(ctx, r.Topic, v, h.position)
		if err != nil {
			return 0, err
		}
		w.bytes += int64(len(r.Value))
		w.read += int64(len(r.Key) + len(r.Value))
		if h.newKey != nil && record.Partition(h.newKey, part.count) == k.number {
			j, err := w.move(m, u, v, h, records, i)
			switch {
			case err != nil:
				return 0, err
			case j == len(records):
				return i, nil // its other half is on the way
			case j > i:
				i = j
				continue
			}
		}
		if u.begins(ev, h) {
			if !u.fold.Empty() { // what came before has not come again
				if err := w.write(ctx); err != nil {
					return 0, err
				}
				if u, err = w.unit(ctx, r.Topic, v, h.position); err != nil {
					return 0, err
				}
			}
			u.mark = warehouse.Mark{Partition: r.Partition, Offset: r.Offset, At: ev.Tx.CommitTime}
		}
		if err := u.fold.Add(ev, h.newKey != nil || h.oldKey != nil, h.reload); err != nil {
			return 0, invalid(r, err)
		}
		if t := ev.Tx.CommitTime; t != 0 && ev.Op != change.Read && (w.oldest == 0 || t < w.oldest) {
			w.oldest = t
		}
		m.took(ev, h)
	}
	return len(records), nil
}

// meet says what a partition does at a TRUNCATE that all of the topic have: wait for the others, or leave it out, as the first that has met
// them all has taken it in for all. Else it is that one.
func (w *wholeCut) meet(k partKey, count int32, h headers) (passed, wait bool, err error) {
	m := w.moved[k]
	if m.pass.Compare(h.position) >= 0 {
		return true, false, nil
	}
	if !h.known {
		return false, false, errors.New("a TRUNCATE of several partitions without a position: where it stands in the others cannot be told")
	}
	m.barrier = h.position
	if !w.allAt(k.topic, count, h.position) {
		return false, true, nil
	}
	for other, om := range w.moved {
		if other.topic == k.topic {
			om.pass = h.position // they skip theirs
		}
	}
	return false, false, nil
}

// move folds both halves of a change of a key, the first being records[i], and gives where the second is: i where what follows is none,
// len(records) where it is still to come.
func (w *wholeCut) move(m *wholeMove, u *unit, v *versionPlan, h headers, records []*kgo.Record, i int) (int, error) {
	j := i + 1
	for j < len(records) && (records[j].Attrs.IsControl() || records[j].Value == nil) {
		j++
	}
	if j == len(records) {
		return j, nil
	}
	second, err := headersOf(records[j])
	if err != nil || second.oldKey == nil || !second.known || !follows(h.position, second.position) {
		return i, nil // whatever is wrong with that record, it is told when it is read itself
	}
	if w.arena2, err = v.decoder.Decode(records[j].Value, &w.second, w.arena2[:0]); err != nil {
		return i, invalid(records[j], err)
	}
	if err := u.fold.Move(&w.event, &w.second); err != nil {
		return i, invalid(records[i], err)
	}
	m.took(&w.event, h)
	m.took(&w.second, second)
	return j, nil
}

// allAt says whether every partition of a topic has come to a TRUNCATE, or is past it.
func (w *wholeCut) allAt(topic string, count int32, at change.Position) bool {
	for number := range count {
		k := partKey{topic, number}
		m := w.moved[k]
		switch {
		case m != nil && m.barrier.Compare(at) >= 0:
		case m == nil && w.parts[k] != nil && w.parts[k].Position.Compare(at) >= 0:
		default:
			return false
		}
	}
	return true
}

func (m *wholeMove) took(ev *change.Event, h headers) {
	if h.known {
		m.advance.Position = h.position
	}
	m.advance.Rows++
	if ev.Tx.CommitTime != 0 {
		m.advance.CommitTime = ev.Tx.CommitTime
	}
}

// unit gives the unit for a version of a topic, until the next call. Another version of the same topic is written before.
func (w *wholeCut) unit(ctx context.Context, topic string, v *versionPlan, at change.Position) (*unit, error) {
	for i := range w.units {
		if w.units[i].topic == topic {
			if w.units[i].plan == v.plan && w.units[i].target.Suits(at) {
				return &w.units[i], nil
			}
			if err := w.write(ctx); err != nil {
				return nil, err
			}
			break
		}
	}
	target, err := w.g.session.Prepare(ctx, v.plan, topic, at)
	if err != nil {
		return nil, err
	}
	f := &batch.Fold{}
	f.Begin(v.plan)
	w.g.s.table(topic).writes(v.plan, target)
	w.units = append(w.units, unit{topic: topic, plan: v.plan, target: target, fold: f})
	return &w.units[len(w.units)-1], nil
}

// write writes what is folded into the open transaction.
func (w *wholeCut) write(ctx context.Context) error {
	if len(w.units) == 0 {
		return nil
	}
	var units []warehouse.Unit
	for i := range w.units {
		units = append(units, w.units[i].unit(w.cut.Replays(w.units[i].topic)))
	}
	effects, err := w.cut.Write(ctx, units)
	if err != nil {
		return err
	}
	for i := range w.units {
		w.counts = append(w.counts, wholeCount{w.units[i].plan, w.units[i].fold.Counts(), effects[i]})
	}
	w.units, w.bytes = nil, 0
	return nil
}
