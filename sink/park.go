package sink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// probe narrows a failure down to one record. The front of the queue is applied in windows: half of what failed, half of
// that if it fails too, and so on; what goes well is committed. A window of one step that fails is the record. Behind it
// windows begin at one record and double, since where one record cannot be applied others are likely to be near.
type probe struct {
	limit int   // records of the next window
	bad   int   // so many at the front fail together; 0: not known
	park  error // the first record is to be put aside for this
}

// version is that of versions; what it finds at the registry shows that one can be waited for no more.
func (w *worker) version(ctx context.Context, r *kgo.Record) (*versionPlan, error) {
	known := len(w.plans)
	v, err := w.versions.version(ctx, r)
	if err == nil && len(w.plans) > known {
		w.s.retryingBy(w, "registry", nil)
	}
	return v, err
}

// window gives the records of a batch that are to be tried now.
func (w *worker) window(b consume.Batch) []*kgo.Record {
	if pr := w.probes[b.Partition]; pr != nil && pr.limit < len(b.Records) {
		return b.Records[:pr.limit:pr.limit]
	}
	return b.Records
}

// narrow deals with a batch of one partition that failed because of its rows. It gives true where the rest of it is to
// be tried again; otherwise the partition has been held before the record, and given back.
func (w *worker) narrow(ctx context.Context, b consume.Batch, pt *part, err error) bool {
	p := b.Partition
	pr := w.probes[p]
	if pr == nil {
		pr = &probe{}
		w.probes[p] = pr
	}
	if pt.steps > 1 {
		pr.bad, pr.limit = pt.records, max(1, pt.records/2)
		return true
	}
	r := b.Records[0]
	err = w.pinpoint(ctx, r, err)
	if pr.park == nil && w.mayPark(ctx, r, err) {
		pr.park, pr.bad, pr.limit = err, 0, 1
		return true
	}
	delete(w.probes, p)
	w.s.hold(ctx, w.session, p, p.Next, err)
	w.s.consumer.Finish(p, consume.Nothing(p))
	return false
}

// passed notes that a part was applied.
func (w *worker) passed(pt *part) {
	if pr := w.probes[pt.p]; pr != nil && pt.records > 0 {
		pr.park = nil
		if pr.bad > pt.records {
			pr.bad -= pt.records
			pr.limit = max(1, pr.bad/2)
		} else {
			pr.bad = 0
			pr.limit *= 2
		}
		if pr.limit > w.s.cfg.Batch.Rows {
			delete(w.probes, pt.p)
		}
	}
	if pt.reload {
		w.forgetParked(pt.p.Topic)
		w.s.log.Info("table is read anew; rows that do not come again are removed at the end", "topic", pt.p.Topic)
	}
	if !pt.advance.Parks {
		return
	}
	known := w.parked[pt.p]
	if known == nil {
		return // looked up again
	}
	known.N++
	if pt.cleared {
		known.Keys = map[string]int64{}
	}
	maps.Copy(known.Keys, pt.keys)
	w.s.metrics.parked(w.s, pt)
}

// pinpoint adds to an error which record it is about: its place and its key, no other value.
func (w *worker) pinpoint(ctx context.Context, r *kgo.Record, err error) error {
	t, ok := errors.AsType[*trouble.Error](err)
	if !ok {
		t = &trouble.Error{Code: trouble.Internal, Op: "apply", Cause: err}
	}
	pinned := *t
	pinned.Subject = strings.TrimPrefix(t.Subject+", "+where(r), ", ")
	if v, err := w.version(ctx, r); err == nil {
		if w.arena2, err = v.decoder.Decode(r.Value, &w.second, w.arena2[:0]); err == nil {
			pinned.Subject += keyText(v, &w.second)
		}
	}
	return &pinned
}

// keyText names a row for people by its key, "" if it has none.
func keyText(v *versionPlan, ev *change.Event) string {
	row := ev.After
	if row == nil {
		row = ev.Before
	}
	rel := v.plan.Relation
	if row == nil || len(rel.Key) == 0 {
		return ""
	}
	var names, values []string
	for _, k := range rel.Key {
		text := string(row[k].Text)
		if v.plan.Masked(k) {
			text = "***"
		}
		names, values = append(names, rel.Columns[k].Name), append(values, text)
	}
	return trouble.Key(names, values)
}

// printable replaces what could paint a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, s)
}

// parkableCodes are the troubles of a single record. All others are of the table, or of the warehouse.
var parkableCodes = []trouble.Code{trouble.ConstraintViolation, trouble.ValueOutOfRange, trouble.UnresolvedToast, trouble.RecordInvalid, trouble.RuleError}

func parkable(err error) bool { return slices.Contains(parkableCodes, trouble.CodeOf(err)) }

// mayPark says whether a record is to be put aside for an error: the rule says so, the error is the record's own, and
// there is a key by which the records behind it can be told.
func (w *worker) mayPark(ctx context.Context, r *kgo.Record, err error) bool {
	route, ok := w.s.match(r.Topic)
	return ok && route.Parks() && parkable(err) && w.untold(ctx, r) == nil
}

// untold says why later records of a row cannot be told by the key of this one; nil where they can. Keys whose texts differ
// may be equal: a row is put aside and deleted as "1 day" and comes again as "24:00:00", and the retry would remove it.
func (w *worker) untold(ctx context.Context, r *kgo.Record) error {
	if identity(r.Key) == nil {
		return keyless(r.Key)
	}
	if v, err := w.version(ctx, r); err == nil && !v.plan.Relation.ByteEqualKey() {
		return errors.New("its key has a type whose equal values are spelled in several ways: later changes of its row could not be kept behind it")
	}
	return nil
}

// keyless says why records of one row cannot be told by their keys.
func keyless(key []byte) error {
	if len(key) == 0 {
		return errors.New("it has no key: later changes of its row could not be kept behind it")
	}
	_, _, err := record.ParseFrame(key)
	if err == nil {
		err = errors.New("nothing behind its schema's id")
	}
	return fmt.Errorf("its key is none that can be read, and later changes of its row could not be kept behind it: %w", err)
}

// identity is what framed keys of one row have in common: all but the id of the key's schema. nil for none.
func identity(key []byte) []byte {
	if len(key) == 0 {
		return nil // most records name no other key, and an error that nobody reads costs more than the record
	}
	if _, body, err := record.ParseFrame(key); err == nil && len(body) > 0 {
		return body
	}
	return nil
}

// loadParked makes sure that it is known what is parked of the partitions.
func (w *worker) loadParked(ctx context.Context, batches []consume.Batch) error {
	var missing []*consume.Partition
	var parts []warehouse.Partition
	for _, b := range batches {
		if p := b.Partition; w.parked[p] == nil {
			missing = append(missing, p)
			parts = append(parts, warehouse.Partition{Topic: p.Topic, Number: p.Number})
		}
	}
	if len(missing) == 0 {
		return nil
	}
	for p := range w.parked {
		if w.s.consumer.Gone(p) {
			delete(w.parked, p)
			delete(w.probes, p)
			delete(w.replays, p)
		}
	}
	parked, err := w.session.Parked(ctx, parts)
	if err != nil {
		return err
	}
	for i, p := range missing {
		w.parked[p] = &parked[i]
	}
	return nil
}

// forgetParked has what is known of the partitions of a topic looked up again.
func (w *worker) forgetParked(topic string) {
	maps.DeleteFunc(w.parked, func(p *consume.Partition, _ *warehouse.Parked) bool { return p.Topic == topic })
}

// aside puts a record aside if one of its key has been before, or if it is the one that somebody wants put aside. Both
// halves of a change of a key go where one of their keys is parked: the row they move is behind it.
func (w *worker) aside(ctx context.Context, pt *part, r *kgo.Record, h headers) (bool, error) {
	first := !pt.met
	pt.met = true
	for _, key := range [][]byte{r.Key, h.newKey, h.oldKey} {
		if offset, parked := w.isParked(pt, identity(key)); parked {
			behind := offset // kept on: as offset itself it would take memory for each record that is not parked
			reason := &warehouse.Reason{Message: fmt.Sprintf("waits behind offset %d, which is parked", behind)}
			w.setAside(pt, r, h, reason, &behind)
			return true, nil
		}
	}
	var why error
	if pr := w.probes[pt.p]; pr != nil {
		why = pr.park
	}
	if why == nil {
		why = pt.p.Park
	}
	if !first || why == nil {
		return false, nil
	}
	if err := w.untold(ctx, r); err != nil {
		return false, &trouble.Error{
			Code: reasonOf(why).Code, Op: "park", Subject: where(r), Cause: err,
			Means: "the table is held before it, all others go on", Hint: "mend the target or the rule; then sink resume SOURCE/TABLE",
		}
	}
	w.setAside(pt, r, h, reasonOf(why), nil)
	return true, nil
}

// putAside puts the record aside that ended a part, if the rule wants it.
func (w *worker) putAside(ctx context.Context, pt *part, r *kgo.Record, err error) bool {
	if !w.mayPark(ctx, r, err) {
		return false
	}
	h, _ := headersOf(r) // they may be what is wrong with it
	w.setAside(pt, r, h, reasonOf(err), nil)
	return true
}

func reasonOf(err error) *warehouse.Reason {
	if reason, ok := errors.AsType[*warehouse.Reason](err); ok {
		return reason
	}
	return &warehouse.Reason{Code: trouble.CodeOf(err), Message: err.Error()}
}

// isParked says behind which offset records of a key wait.
func (w *worker) isParked(pt *part, id []byte) (offset int64, ok bool) {
	if id == nil {
		return 0, false
	}
	if offset, ok = pt.keys[string(id)]; !ok && !pt.cleared {
		offset, ok = w.parked[pt.p].Keys[string(id)]
	}
	return offset, ok
}

func (w *worker) setAside(pt *part, r *kgo.Record, h headers, reason *warehouse.Reason, behind *int64) {
	parked := warehouse.ParkedRecord{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value,
		Headers: map[string][]byte{}, Identity: identity(r.Key), Reason: *reason, Behind: behind,
	}
	if source, schema, table, ok := record.ParseTopic(r.Topic); ok {
		parked.Source, parked.Table = source, schema+"."+table
	}
	for i := range r.Headers {
		parked.Headers[r.Headers[i].Key] = r.Headers[i].Value
	}
	switch {
	case h.newKey != nil:
		parked.Linked = identity(h.newKey)
	case h.oldKey != nil:
		parked.Linked = identity(h.oldKey)
	}
	pt.aside = append(pt.aside, parked)
	if _, known := w.isParked(pt, parked.Identity); !known {
		if pt.keys == nil {
			pt.keys = map[string]int64{}
		}
		pt.keys[string(parked.Identity)] = r.Offset
	}
	if h.known {
		pt.advance.Position = h.position
	}
}
