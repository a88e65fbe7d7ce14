// Package record turns events into Kafka records and back: topic, key, headers, value, Avro schemas; and it holds
// the record by which capture tells its progress. FORMAT.md describes the bytes. It opens no connection: schemas
// get their ids from package registry.
//
// Values are Debezium's envelope in Avro (https://avro.apache.org/docs/1.12.0/specification/,
// https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-data-types). The codec is
// our own, compiled once per relation; hamba/avro reads schemas, and is the oracle of the tests.
package record

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// Source is what all records of one capture session share.
type Source struct {
	Name     string // the source's name, first part of its topics
	Database string
	Version  string // of Tributary
	SystemID string // of the Postgres cluster
	Timeline uint32
}

// ErrEvent is wrapped by the errors of an Encoder's Append methods: the event is not one of the relation. No
// value that Postgres sends is a reason for it, except one that would be null or unknown in a key.
var ErrEvent = errors.New("event does not fit its relation")

// Encoder writes the events of one version of one relation. It keeps memory for the next event, and it allocates
// nothing once that is large enough. One goroutine at a time.
type Encoder struct {
	rel                *schema.Relation
	topic              string
	key, value         string // schemas
	columns            []column
	keyHead, valueHead []byte // frames
	constant           []byte // the fields of source that never change

	// What the last event's transaction had in common, and the bytes for it: the fields of source that it
	// decides, and ts_ms, ts_us and the head of transaction behind source.
	common   common
	head     []byte
	tail     []byte
	exact    []exactText
	scratch  []byte
	spelling []byte
}

type column struct {
	form
	key     bool
	respell bool   // the key takes the canonical spelling
	after   string // name in exact and unchanged for a value of the new row
	before  string // name in exact for one of the old row
	typ     *schema.Type
}

// common is everything but Seq and TableOrdinal that an envelope says outside of its rows.
type common struct {
	set  bool
	read bool
	era  uint16
	lsn  change.LSN
	tx   change.Transaction
}

type exactText struct {
	name string
	text []byte
}

// NewEncoder compiles the plan for rel, which must not change any more. It fails, with ErrTopicName, where the
// relation can have no topic.
func NewEncoder(src Source, rel *schema.Relation) (*Encoder, error) {
	topic, err := Topic(src.Name, rel.Schema, rel.Name)
	if err != nil {
		return nil, err
	}
	namespace := avroNamespace(src.Name, rel.Schema, rel.Name)
	e := &Encoder{rel: rel, topic: topic}
	if len(rel.Key) > 0 {
		if e.key, err = keySchemaText(namespace, rel); err != nil {
			return nil, err
		}
	}
	if e.value, err = valueSchemaText(namespace, rel); err != nil {
		return nil, err
	}
	e.columns = make([]column, len(rel.Columns))
	for i := range rel.Columns {
		t := &rel.Columns[i].Type
		name := avroName(rel.Columns[i].Name)
		e.columns[i] = column{
			form: formOf(t, rel.IsKey(i)), key: rel.IsKey(i), respell: t.Respelled(),
			after: name, before: beforePrefix + name, typ: t,
		}
	}
	e.constant = appendString(e.constant, src.Version)
	e.constant = appendString(e.constant, "postgresql")
	e.constant = appendString(e.constant, src.Name)
	e.constant = appendString(e.constant, src.Database)
	e.constant = appendString(e.constant, rel.Schema)
	e.constant = appendString(e.constant, rel.Name)
	e.constant = appendString(e.constant, src.SystemID)
	e.constant = appendLong(e.constant, int64(src.Timeline))
	e.constant = append(e.constant, branchNull, branchNull) // sequence, xmin
	e.SetIDs(0, 0)
	return e, nil
}

// beforePrefix stands before the name of a column in exact where the value is of the old row. No Avro name holds
// a dot.
const beforePrefix = "before."

// Topic gives the name of the relation's topic.
func (e *Encoder) Topic() string { return e.topic }

// KeySchema gives the Avro schema of the keys, to be registered under Topic + "-key"; "" when the relation has no
// key.
func (e *Encoder) KeySchema() string { return e.key }

// ValueSchema gives the Avro schema of the values, to be registered under Topic + "-value".
func (e *Encoder) ValueSchema() string { return e.value }

// SetIDs sets the ids that the registry gave to the schemas. Until then they are 0.
func (e *Encoder) SetIDs(key, value int) {
	e.keyHead = AppendFrame(e.keyHead[:0], key)
	e.valueHead = AppendFrame(e.valueHead[:0], value)
}

// AppendKey appends the framed key of row, each column in the spelling that all equal values share
// (schema.Type.AppendCanonical). It fails, with ErrEvent, where the relation has no key or a column of it is not
// Present.
func (e *Encoder) AppendKey(dst []byte, row change.Tuple) ([]byte, error) {
	if len(e.rel.Key) == 0 {
		return dst, e.fail("key", "the relation has none")
	}
	if len(row) != len(e.columns) {
		return dst, e.failColumns(len(row))
	}
	start := len(dst)
	dst = append(dst, e.keyHead...)
	for _, i := range e.rel.Key {
		c := &e.columns[i]
		if row[i].State != change.Present {
			return dst[:start], e.failColumn(i, "it is part of the key and has no value")
		}
		text := row[i].Text
		if c.respell {
			e.spelling = c.typ.AppendCanonical(e.spelling[:0], text)
			text = e.spelling
		}
		var ok bool
		if dst, e.scratch, ok = c.appendNative(dst, text, e.scratch); !ok {
			return dst[:start], e.failColumn(i, "it is part of the key and its text is not that of its type")
		}
	}
	return dst, nil
}

// AppendValue appends the framed envelope of ev. Of ev.Tx it writes all but CommitLSN, which is that of the
// Position. An error wraps ErrEvent and holds no values; dst is then given back as it was.
func (e *Encoder) AppendValue(dst []byte, ev *change.Event) ([]byte, error) {
	if err := e.check(ev); err != nil {
		return dst, err
	}
	start := len(dst)
	dst = append(dst, e.valueHead...)
	e.exact = e.exact[:0]
	var err error
	if dst, _, err = e.appendRow(dst, ev.Before, true); err != nil {
		return dst[:start], err
	}
	var unchanged int
	if dst, unchanged, err = e.appendRow(dst, ev.After, false); err != nil {
		return dst[:start], err
	}
	dst = append(dst, 1<<1, byte(ev.Op)) // a string of one byte

	if now := (common{true, ev.Op == change.Read, ev.Position.Era, ev.Position.CommitLSN, ev.Tx}); now != e.common {
		e.common = now
		e.compileCommon()
	}
	dst = append(dst, e.constant...)
	dst = append(dst, e.head...)
	dst = appendLong(dst, int64(ev.Position.Seq))
	dst = append(dst, e.tail...)
	if ev.Tx.XID != 0 {
		dst = appendLong(dst, int64(ev.Position.Seq))
		dst = appendLong(dst, int64(ev.TableOrdinal))
	}

	if unchanged == 0 {
		dst = append(dst, branchNull)
	} else {
		dst = append(dst, branchSome)
		dst = appendLong(dst, int64(unchanged))
		for i := range ev.After {
			if ev.After[i].State == change.Unchanged {
				dst = appendString(dst, e.columns[i].after)
			}
		}
		dst = append(dst, 0)
	}
	if len(e.exact) == 0 {
		return append(dst, branchNull), nil
	}
	dst = append(dst, branchSome)
	dst = appendLong(dst, int64(len(e.exact)))
	for i := range e.exact {
		dst = appendString(dst, e.exact[i].name)
		dst = appendBytes(dst, e.exact[i].text)
		e.exact[i].text = nil // it is the caller's memory
	}
	return append(dst, 0), nil
}

// check says whether ev has the rows that its operation has.
func (e *Encoder) check(ev *change.Event) error {
	switch ev.Op {
	case change.Create, change.Read, change.Update:
		if ev.After == nil {
			return e.fail(ev.Op.String(), "the new row is missing")
		}
	case change.Delete:
		if ev.Before == nil || ev.After != nil {
			return e.fail(ev.Op.String(), "it must have an old row and no new one")
		}
	case change.Truncate:
		if ev.Before != nil || ev.After != nil {
			return e.fail(ev.Op.String(), "it must have no rows")
		}
	default:
		return e.fail("event", ev.Op.String())
	}
	if n := len(ev.Before); ev.Before != nil && n != len(e.columns) {
		return e.failColumns(n)
	}
	if n := len(ev.After); ev.After != nil && n != len(e.columns) {
		return e.failColumns(n)
	}
	return nil
}

// appendRow appends the union ["null", Value] and counts the unchanged columns.
func (e *Encoder) appendRow(dst []byte, row change.Tuple, before bool) (_ []byte, unchanged int, _ error) {
	if row == nil {
		return append(dst, branchNull), 0, nil
	}
	dst = append(dst, branchSome)
	for i := range row {
		v, c := &row[i], &e.columns[i]
		switch {
		case c.key:
			if v.State != change.Present {
				return dst, 0, e.failColumn(i, "it is part of the key and has no value")
			}
			var ok bool
			if dst, e.scratch, ok = c.appendNative(dst, v.Text, e.scratch); !ok {
				return dst, 0, e.failColumn(i, "it is part of the key and its text is not that of its type")
			}
		case v.State == change.Present:
			var ok bool
			dst = append(dst, branchSome)
			if dst, e.scratch, ok = c.appendNative(dst, v.Text, e.scratch); !ok {
				dst[len(dst)-1] = branchNull
				name := c.after
				if before {
					name = c.before
				}
				e.exact = append(e.exact, exactText{name, v.Text})
			}
		case v.State == change.Null:
			dst = append(dst, branchNull)
		default:
			if before {
				return dst, 0, e.failColumn(i, "a value of the old row cannot be unchanged")
			}
			unchanged++
			dst = append(dst, branchNull)
		}
	}
	return dst, unchanged, nil
}

func (e *Encoder) compileCommon() {
	c := &e.common
	millis := floorDiv(c.tx.CommitTime, 1000)
	b := appendLong(e.head[:0], millis)
	b = append(b, 0) // the first branch of snapshot is the string
	b = appendString(b, strconv.FormatBool(c.read))
	if c.tx.XID == 0 {
		b = append(b, branchNull)
	} else {
		b = append(b, branchSome)
		b = appendLong(b, int64(c.tx.XID))
	}
	b = append(b, branchSome)
	b = appendLong(b, int64(c.lsn)) // lsn
	b = appendLong(b, int64(c.lsn)) // commit_lsn
	b = appendLong(b, c.tx.CommitTime)
	b = appendLong(b, int64(c.era))
	if c.tx.Origin == "" {
		b = append(b, branchNull)
	} else {
		b = append(b, branchSome)
		b = appendString(b, c.tx.Origin)
	}
	e.head = b

	b = append(e.tail[:0], branchSome)
	b = appendLong(b, millis)
	b = append(b, branchSome)
	b = appendLong(b, c.tx.CommitTime)
	if c.tx.XID == 0 {
		b = append(b, branchNull)
	} else {
		id := strconv.AppendUint(e.scratch[:0], uint64(c.tx.XID), 10)
		id = append(id, ':')
		id = strconv.AppendUint(id, uint64(c.lsn), 10)
		b = append(b, branchSome)
		b = appendBytes(b, id)
		e.scratch = id
	}
	e.tail = b
}

func (e *Encoder) fail(what, why string) error {
	return fmt.Errorf("encode %s of relation %q: %w: %s", what, e.rel.QualifiedName(), ErrEvent, why)
}

func (e *Encoder) failColumn(i int, why string) error {
	return e.fail(fmt.Sprintf("column %q", e.rel.Columns[i].Name), why)
}

func (e *Encoder) failColumns(n int) error {
	return e.fail("row", fmt.Sprintf("it has %d columns, the relation %d", n, len(e.columns)))
}
