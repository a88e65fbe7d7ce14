package publish

import (
	"context"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// direct sends records without a transaction: readers see each as soon as the brokers have it.
//
// It sends in rounds, one after the other: what is added while one is on its way makes up the next. That is what keeps a
// partition without holes. The client goes on after a record that it could not write, and would write those that come
// behind it in the same partition; but of a round it gives up all of a partition, and after a round with a failure there
// is no other.
type direct struct {
	client *kgo.Client
	limit  int                      // bytes of a round, unless a record is larger: then it is alone
	done   func(*kgo.Record, error) // told the outcome of each record
	failed func() error
	stop   context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond // of what follows
	next    []*kgo.Record
	bytes   int  // of next
	wanted  bool // next is to be sent
	sending bool
	closed  bool
}

const (
	roundBytes = 8 << 20
	kickBytes  = 256 << 10 // from here on the end of the source transaction is not waited for
)

// newDirect begins to send. opts are those of a client that has no transactional id.
func newDirect(opts []kgo.Opt, limit int, done func(*kgo.Record, error), failed func() error) (*direct, error) {
	client, err := kgo.NewClient(append(slices.Clone(opts), kgo.ManualFlushing(), kgo.ProducerLinger(0))...)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	d := &direct{client: client, limit: min(roundBytes, limit), done: done, failed: failed, stop: stop}
	d.changed = sync.NewCond(&d.mu)
	d.work.Go(func() { d.run(ctx) })
	return d, nil
}

// add takes a record, which is sent after those before it, at the latest with the next send.
func (d *direct) add(r *kgo.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = append(d.next, r)
	if d.bytes += size(r); d.bytes >= kickBytes {
		d.kick()
	}
}

// size bounds what a record takes.
func size(r *kgo.Record) int {
	n := len(r.Key) + len(r.Value) + recordOverhead
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// send sends what was added, and does not wait for it.
func (d *direct) send() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kick()
}

func (d *direct) kick() {
	if len(d.next) > 0 && !d.wanted {
		d.wanted = true
		d.changed.Broadcast()
	}
}

// flush waits until the outcome of all that was added is known.
func (d *direct) flush(ctx context.Context) error {
	defer context.AfterFunc(ctx, d.wake)()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kick()
	for (len(d.next) > 0 || d.sending) && !d.closed && ctx.Err() == nil && d.failed() == nil {
		d.changed.Wait()
	}
	if err := d.failed(); err != nil {
		return err
	}
	if d.closed {
		return kgo.ErrClientClosed
	}
	return ctx.Err()
}

func (d *direct) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed.Broadcast()
}

func (d *direct) run(ctx context.Context) {
	for round := d.take(); round != nil; round = d.take() {
		for _, r := range round {
			d.client.Produce(ctx, r, d.done)
		}
		if d.client.Flush(ctx) != nil {
			return // it is being closed
		}
	}
}

// take ends a round and waits for the next; nil if there is none any more.
func (d *direct) take() []*kgo.Record {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sending = false
	d.changed.Broadcast()
	for !d.wanted && !d.closed {
		d.changed.Wait()
	}
	if d.closed || d.failed() != nil {
		return nil
	}
	n, bytes := 0, 0
	for n < len(d.next) && n < maxBufferedRecords {
		if bytes += size(d.next[n]); bytes > d.limit && n > 0 {
			bytes -= size(d.next[n])
			break
		}
		n++
	}
	round := slices.Clone(d.next[:n])
	rest := copy(d.next, d.next[n:])
	clear(d.next[rest:])
	d.next, d.bytes = d.next[:rest], d.bytes-bytes
	d.wanted, d.sending = rest > 0, true
	return round
}

// close ends what is under way. What was not sent is not.
func (d *direct) close() {
	d.mu.Lock()
	d.closed = true
	d.changed.Broadcast()
	d.mu.Unlock()
	d.stop()
	d.client.Close()
	d.work.Wait()
}
