package postgres

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// messages is a stream whose messages come one by one: a read gets one, or after a sleep all that have come meanwhile.
type messages struct {
	net.Conn
	each    []byte
	waiting int // that are there
	reads   int
	every   time.Duration // how long a read waits for one, if none is there
}

func (m *messages) Read(p []byte) (int, error) {
	m.reads++
	if m.waiting == 0 {
		time.Sleep(m.every)
		m.waiting = 1
	}
	n := 0
	for m.waiting > 0 && n+len(m.each) <= len(p) {
		n += copy(p[n:], m.each)
		m.waiting--
	}
	return n, nil
}

func (m *messages) over(t *testing.T, sleep func(time.Duration), total int) {
	t.Helper()
	c := &patient{Conn: m, sleep: sleep}
	got := make([]byte, total*len(m.each))
	for at := 0; at < len(got); {
		n, err := c.Read(got[at:min(at+8192, len(got))])
		if err != nil {
			t.Fatal(err)
		}
		at += n
	}
	if !bytes.Equal(got, bytes.Repeat(m.each, total)) {
		t.Error("what was read is not what came")
	}
}

// A busy stream is read many messages at once; one that does little is never held up.
func TestPatient(t *testing.T) {
	const total = 20_000
	busy := &messages{each: bytes.Repeat([]byte("x"), 128)}
	busy.over(t, func(time.Duration) { busy.waiting += 200 }, total)
	if busy.reads > total/10 {
		t.Errorf("%d reads of a busy stream of %d messages", busy.reads, total)
	}
	slow := &messages{each: []byte("a message"), every: 100 * time.Microsecond}
	slow.over(t, func(time.Duration) { t.Error("a stream that does little was held up") }, 500)
	// It is noticed at once that a stream does less.
	naps := 0
	less := &messages{each: bytes.Repeat([]byte("x"), 128)}
	less.over(t, func(time.Duration) { naps++; less.waiting++ }, 1000)
	if naps > 1000/manyDrained {
		t.Errorf("held up %d times", naps)
	}
	if _, err := io.ReadFull(&patient{Conn: ended{}}, make([]byte, 1)); err != io.EOF {
		t.Errorf("the end is %v", err)
	}
}

type ended struct{ net.Conn }

func (ended) Read([]byte) (int, error) { return 0, io.EOF }
