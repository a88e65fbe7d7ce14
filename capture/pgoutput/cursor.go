package pgoutput

import (
	"bytes"
	"encoding/binary"
)

// cursor reads a message from front to back. It never reads past the end: the first read that would, or that
// meets something invalid, leaves a fault behind and empties the cursor, so that the error need be looked at
// once, at the end.
type cursor struct {
	data  []byte
	pos   int
	fault string // what is wrong, at pos; "" for nothing
}

func (c *cursor) fail(fault string) {
	if c.fault == "" {
		c.fault = fault
	}
}

// take gives the next n bytes, nil after a fault.
func (c *cursor) take(n int) []byte {
	if c.fault != "" || n < 0 || n > len(c.data)-c.pos {
		c.fail("the message ends too early")
		return nil
	}
	b := c.data[c.pos : c.pos+n : c.pos+n]
	c.pos += n
	return b
}

func (c *cursor) rest() int { return len(c.data) - c.pos }

func (c *cursor) byte() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if b := c.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// text gives the bytes up to the next zero byte, and passes that.
func (c *cursor) text() []byte {
	if c.fault != "" {
		return nil
	}
	n := bytes.IndexByte(c.data[c.pos:], 0)
	if n < 0 {
		c.fail("a text has no end")
		return nil
	}
	b := c.take(n)
	c.pos++
	return b
}
