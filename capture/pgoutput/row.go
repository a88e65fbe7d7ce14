package pgoutput

import (
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// What stands before a tuple.
const (
	tupleKey = 'K' // the columns of the old key
	tupleOld = 'O' // the whole old row
	tupleNew = 'N'
)

// What stands before a column.
const (
	columnNull      = 'n'
	columnUnchanged = 'u'
	columnText      = 't'
	columnBinary    = 'b'
)

const faultBinary = "a column is in binary form; the stream must be read with binary 'false'"

func (d *Decoder) row(c *cursor, kind Kind) {
	d.Row = Row{OID: schema.OID(c.uint32())}
	mark := c.byte()
	if kind != KindInsert && (mark == tupleKey || mark == tupleOld) {
		d.Row.OldIsKey = mark == tupleKey
		d.old = tuple(c, d.old)
		d.Row.Old = d.old
		if kind == KindDelete {
			return
		}
		mark = c.byte()
	}
	if kind == KindDelete || mark != tupleNew {
		c.fail("a tuple is of a kind that does not belong here")
		return
	}
	d.new = tuple(c, d.new)
	d.Row.New = d.new
}

// tuple reads a tuple into the memory of t.
func tuple(c *cursor, t change.Tuple) change.Tuple {
	t = t[:0]
	n := int(c.uint16())
	if n > c.rest() { // each column takes at least its mark
		c.fail("a tuple has room for fewer columns than it says")
		return t
	}
	if cap(t) < n {
		t = make(change.Tuple, 0, n)
	}
	for range n {
		switch c.byte() {
		case columnText:
			// A length above 2³¹ is no length that Postgres sends; take refuses it, negative or too long.
			t = append(t, change.Value{State: change.Present, Text: c.take(int(int32(c.uint32())))})
		case columnNull:
			t = append(t, change.Value{})
		case columnUnchanged:
			t = append(t, change.Value{State: change.Unchanged})
		case columnBinary:
			c.fail(faultBinary)
			return t
		default:
			c.fail("a column is marked as nothing that is known")
			return t
		}
	}
	return t
}
