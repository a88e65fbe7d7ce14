package postgres

import (
	"net"
	"time"
)

// patient makes the reads of a busy stream fewer. A walsender sends each message by itself. A reader that waits for it is woken
// for each, which costs the server as much as the message, and the reader a system call for some 150 bytes. So where little was
// there to be read again and again within moments, a read waits a moment first and takes all that has come meanwhile. A
// stream that does less than that is not held up.
type patient struct {
	net.Conn
	sleep func(time.Duration)

	drained int       // reads in turn that have left nothing
	began   time.Time // of them
	busy    bool      // so many of them came within moments
	empty   bool      // the read before has left nothing
}

const (
	manyDrained = 64
	// drainedWithin is what makes as many of them busy: 16,000 messages a second.
	drainedWithin = 4 * time.Millisecond
	// moment is less than how long a change takes anyway. The runtime makes a millisecond of it where nothing else is to be done.
	moment = 200 * time.Microsecond
	// worthWhile is what must have come in a moment, or the stream is not busy any more.
	worthWhile = 4 << 10
)

func (c *patient) Read(p []byte) (int, error) {
	waits := c.busy && c.empty
	if waits {
		c.sleep(moment)
	}
	n, err := c.Conn.Read(p)
	if c.empty = n < len(p); !c.empty {
		return n, err
	}
	if waits {
		c.busy = n >= worthWhile
		c.drained = 0
		return n, err
	}
	switch c.drained++; {
	case c.drained == 1:
		c.began = time.Now()
	case c.drained >= manyDrained:
		c.busy = time.Since(c.began) < drainedWithin
		c.drained = 0
	}
	return n, err
}
