package record

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// ErrValue is wrapped by the errors of Decoder.Decode: the bytes are not a value of the schema.
var ErrValue = errors.New("malformed value")

// Decoder reads values written with one schema. One goroutine at a time.
type Decoder struct {
	relation *schema.Relation
	of       string // namespace of the record of the row
	envelope []step
	source   []step
	block    []step // transaction
	columns  []valueColumn
	names    map[string]place // in exact; those of the new row in unchanged too
	origin   string           // the last one seen: one string for all events that have it

	reader reader // of the value being read: here, as readers of forms are called through a pointer, and it would escape

	debezium bool
	refused  []error // why a column cannot be read; nil where all can
}

// place is a column of the old or the new row.
type place struct {
	column int
	before bool
}

// valueColumn is one field of the row.
type valueColumn struct {
	form
	null        int    // branch of the union that is null, or notNull
	placeholder []byte // text that stands for Unchanged; nil for none
	refused     bool   // passed over
}

// step is one field of a record: a role that the decoder knows, or none, to be passed over.
type step struct {
	role role
	node *node
	null int // of Debezium's: branch of the union around node that is null, or notNull
}

type role uint8

const (
	roleNone role = iota
	roleBefore
	roleAfter
	roleOp
	roleSource
	roleTransaction
	roleUnchanged
	roleExact
	roleTxID
	roleCommitLSN
	roleCommitTime
	roleEra
	roleOrigin
	roleSeq
	roleTableOrdinal
	roleLSN
	roleSequence
	roleSnapshot
	roleMillis
	roleMicros
)

// Relation gives the relation as capture saw it when it wrote with this schema. It is shared: do not write to it.
func (d *Decoder) Relation() *schema.Relation { return d.relation }

// Of says whether the schema is one of a table of a source. It is never of a topic of Debezium's.
func (d *Decoder) Of(source, schema, table string) bool {
	return d.of == avroNamespace(source, schema, table)
}

// Decode fills ev, every field, from a framed value of the Decoder's schema; which schema it is, the frame says
// (ParseFrame) and the caller has looked up. Tx.CommitLSN is that of the Position; a snapshot row has no
// TableOrdinal.
//
// The texts of ev alias value or the returned arena, which is arena with bytes appended; they hold as long as
// neither is written over. The tuples of ev are reused where they have room. After an error, which wraps ErrFrame
// or ErrValue and holds no values, ev is not to be used.
func (d *Decoder) Decode(value []byte, ev *change.Event, arena []byte) ([]byte, error) {
	_, body, err := ParseFrame(value)
	if err != nil {
		return arena, fmt.Errorf("decode value of relation %q: %w", d.relation.QualifiedName(), err)
	}
	r := &d.reader
	*r = reader{data: body}
	before, after := ev.Before, ev.After
	*ev = change.Event{}
	for i := range d.envelope {
		s := &d.envelope[i]
		switch s.role {
		case roleBefore:
			// Many events have only one row, sometimes the old one and sometimes the new one: the memory of
			// one serves both.
			if cap(before) < len(d.columns) {
				before, after = after, before
			}
			if ev.Before, arena = d.row(r, before, arena); ev.Before == nil && cap(after) < len(d.columns) {
				after = before
			}
		case roleAfter:
			ev.After, arena = d.row(r, after, arena)
		case roleOp:
			ev.Op = op(r)
		case roleSource:
			if d.debezium {
				d.readDebeziumSource(r, ev)
			} else {
				d.readSource(r, ev)
			}
		case roleTransaction:
			if r.some() {
				for j := range d.block {
					if t := &d.block[j]; t.role == roleTableOrdinal {
						ev.TableOrdinal = uint64(r.long())
					} else {
						t.node.skip(r)
					}
				}
			}
		case roleUnchanged:
			d.readUnchanged(r, ev)
		case roleExact:
			d.readExact(r, ev)
		default:
			if !d.debezium || r.present(s.null) {
				s.node.skip(r)
			}
		}
	}
	if d.debezium {
		settleUnchanged(ev)
	}
	if r.fault == "" && r.pos != len(r.data) {
		r.fail("there are bytes behind its end")
	}
	if r.fault != "" {
		return arena, fmt.Errorf("decode value of relation %q: %w: near byte %d of %d: %s",
			d.relation.QualifiedName(), ErrValue, r.pos+FrameSize, len(value), r.fault)
	}
	return arena, nil
}

func op(r *reader) change.Op {
	b := r.bytes()
	if len(b) != 1 {
		r.fail("the operation is unknown")
		return 0
	}
	switch o := change.Op(b[0]); o {
	case change.Create, change.Update, change.Delete, change.Truncate, change.Read:
		return o
	}
	r.fail("the operation is unknown")
	return 0
}

func (d *Decoder) row(r *reader, memory change.Tuple, arena []byte) (change.Tuple, []byte) {
	if !r.some() {
		return nil, arena
	}
	t := memory[:0]
	if cap(t) < len(d.columns) || t == nil {
		t = make(change.Tuple, 0, len(d.columns))
	}
	for i := range d.columns {
		c := &d.columns[i]
		if !r.present(c.null) {
			t = append(t, change.Value{})
			continue
		}
		v := change.Value{State: change.Present}
		v.Text, arena = c.text(r, arena)
		switch {
		case c.refused:
			v = change.Value{}
		case c.placeholder != nil && bytes.Equal(v.Text, c.placeholder):
			v.State = change.Unchanged
		}
		t = append(t, v)
	}
	return t, arena
}

func (d *Decoder) readSource(r *reader, ev *change.Event) {
	for i := range d.source {
		s := &d.source[i]
		switch s.role {
		case roleTxID:
			if r.some() {
				xid := r.long()
				if xid != int64(uint32(xid)) {
					r.fail("a transaction id has more than 32 bits")
				}
				ev.Tx.XID = uint32(xid)
			}
		case roleCommitLSN:
			ev.Position.CommitLSN = change.LSN(r.long())
			ev.Tx.CommitLSN = ev.Position.CommitLSN
		case roleCommitTime:
			ev.Tx.CommitTime = r.long()
		case roleEra:
			era := r.int()
			if era != int32(uint16(era)) {
				r.fail("an era has more than 16 bits")
			}
			ev.Position.Era = uint16(era)
		case roleOrigin:
			if r.some() {
				if b := r.bytes(); string(b) != d.origin {
					d.origin = string(b)
				}
				ev.Tx.Origin = d.origin
			}
		case roleSeq:
			ev.Position.Seq = uint64(r.long())
		default:
			s.node.skip(r)
		}
	}
}

const faultPlace = "it names a column that has a value or that the row does not have"

func (d *Decoder) readUnchanged(r *reader, ev *change.Event) {
	if !r.some() {
		return
	}
	for n := r.block(); n > 0; n = r.block() {
		for range n {
			if v := d.value(r, ev); v != nil {
				v.State = change.Unchanged
			}
		}
	}
}

func (d *Decoder) readExact(r *reader, ev *change.Event) {
	if !r.some() {
		return
	}
	for n := r.block(); n > 0; n = r.block() {
		for range n {
			if v := d.value(r, ev); v != nil {
				v.State, v.Text = change.Present, r.bytes()
			}
		}
	}
}

// value reads a name and gives the value it means, which must be null so far. nil after a fault.
func (d *Decoder) value(r *reader, ev *change.Event) *change.Value {
	name := r.bytes()
	p, known := d.names[string(name)]
	row := ev.After
	if p.before {
		row = ev.Before
	}
	if !known || p.column >= len(row) || row[p.column].State != change.Null {
		r.fail(faultPlace)
		return nil
	}
	return &row[p.column]
}
