package pgoutput

import "github.com/tributary-cdc/tributary/schema"

// Options of a Truncate message.
const (
	truncateCascade         = 1
	truncateRestartIdentity = 2
)

func (d *Decoder) truncate(c *cursor) {
	t := &d.Truncate
	n := c.uint32()
	options := c.byte()
	t.Cascade = options&truncateCascade != 0
	t.RestartIdentity = options&truncateRestartIdentity != 0
	t.OIDs = t.OIDs[:0]
	if uint64(n) > uint64(c.rest())/4 {
		c.fail("it has room for fewer relations than it says")
		return
	}
	for range n {
		t.OIDs = append(t.OIDs, schema.OID(c.uint32()))
	}
}
