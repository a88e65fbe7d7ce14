package pgoutput

import "github.com/tributary-cdc/tributary/schema/change"

// flagTransactional marks a message that belongs to a transaction.
const flagTransactional = 1

func (d *Decoder) logical(c *cursor) {
	d.Logical = Logical{
		Transactional: c.byte()&flagTransactional != 0,
		LSN:           change.LSN(c.uint64()),
		Prefix:        c.text(),
		Content:       c.take(int(int32(c.uint32()))),
	}
}
