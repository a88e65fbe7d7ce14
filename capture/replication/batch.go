package replication

import (
	"encoding/binary"
	"time"

	"github.com/tributary-cdc/tributary/schema/change"
)

// Item is one message of the stream.
type Item struct {
	// Data is a pgoutput message, nil for a keepalive. It aliases the batch.
	Data []byte
	// WALEnd is set for a keepalive: everything that the server decoded up to here has been sent before it.
	WALEnd change.LSN
	// Asked says of a keepalive that the server wants to know what is durable: it has not heard of us for long, or shuts down.
	Asked bool
}

// Batch is a run of messages in the order of the stream. It is valid until the next call of Stream.Take.
type Batch struct {
	Items []Item
	Since time.Time // when the first of them arrived that is no keepalive; zero: there is none
	buf   []byte
	ends  []int // of each item in buf, negative for a keepalive
	used  int   // bytes of buf that were used of late
}

// reset empties b. What one huge message or a burst has needed goes when those after it are small; Items with it, which
// refer to it.
func (b *Batch) reset() {
	b.used = max(len(b.buf), b.used-(b.used+7)/8)
	if cap(b.buf) > max(4*b.used, leastBatch) {
		b.buf, b.ends, b.Items = nil, nil, nil
	}
	b.buf, b.ends, b.Items, b.Since = b.buf[:0], b.ends[:0], b.Items[:0], time.Time{}
}

func (b *Batch) empty() bool { return len(b.ends) == 0 }

// takes says whether there is room for n bytes more. There is for any message alone.
func (b *Batch) takes(n int) bool { return len(b.buf) == 0 || len(b.buf)+n <= maxPending }

// add adds a message, and says whether it is the first of which anybody is to know.
func (b *Batch) add(message []byte) (first bool) {
	b.buf = append(b.buf, message...)
	b.ends = append(b.ends, len(b.buf))
	if first = b.Since.IsZero(); first {
		b.Since = time.Now()
	}
	return first
}

// keepaliveItem is the length of a keepalive in buf: the position, and whether it is asked.
const keepaliveItem = 8 + 1

// addKeepalive adds a keepalive. The newest stands for those right before it, so that they take no room.
func (b *Batch) addKeepalive(position change.LSN, asked bool) {
	if n := len(b.ends); n == 0 || b.ends[n-1] >= 0 {
		b.buf = append(b.buf, make([]byte, keepaliveItem)...)
		b.ends = append(b.ends, -len(b.buf))
	}
	item := b.buf[len(b.buf)-keepaliveItem:]
	binary.BigEndian.PutUint64(item, uint64(position))
	if asked {
		item[8] = 1
	}
}

// index makes Items out of buf and ends.
func (b *Batch) index() {
	start := 0
	for _, end := range b.ends {
		if end < 0 {
			end = -end
			b.Items = append(b.Items, Item{WALEnd: change.LSN(binary.BigEndian.Uint64(b.buf[start:])), Asked: b.buf[start+8] != 0})
		} else {
			b.Items = append(b.Items, Item{Data: b.buf[start:end:end]})
		}
		start = end
	}
}
