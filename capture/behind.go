package capture

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/schema/change"
)

// A source that writes faster than a walsender sends has what gathers fetched by SQL, too: the session ends between two
// transactions, as with a restart, and the next one begins far behind. Within a transaction it does not end: the next one would have
// a huge one sent from its start again.

// errBehind is the end of a session whose walsender has fallen behind.
var errBehind = errors.New("the walsender has fallen behind")

// behindFor is how long there must have been source.catch_up before a walsender, of which it has not passed in that time what was
// there when it began.
var behindFor = time.Minute

// walsenderFor is how long the walsender alone is used after a session has begun with SQL or has failed at it: whatever made it
// fail, the session that begins anew must get past it, and what SQL leaves to the walsender it would leave to it again.
const walsenderFor = 10 * time.Minute

// behind knows when SQL was last used, and whether the walsender is too slow. Its methods are safe for concurrent use.
type behind struct {
	mu            sync.Mutex
	began, failed time.Time           // when a session began with SQL, and failed at it
	stream        *replication.Stream // that was looked at last, of a walsender
	since         time.Time           // when there was enough before it first
	end           change.LSN          // of the WAL then

	late atomic.Pointer[replication.Stream] // the one that is too slow; nil: none
}

// may says whether SQL may be used by a session that begins now.
func (b *behind) may() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Since(b.failed) > walsenderFor
}

func (b *behind) begins() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.began = time.Now()
}

func (b *behind) fails() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = time.Now()
}

// observe takes a look at the slot from which a walsender streams; nil where none does that SQL could take the place of.
func (b *behind) observe(now time.Time, stream *replication.Stream, slot *catalog.Slot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if stream == nil || now.Sub(b.began) <= walsenderFor {
		b.stream = nil
		b.late.Store(nil)
		return
	}
	if stream != b.stream || slot.ConfirmedFlushLSN >= b.end {
		b.stream, b.since, b.end = stream, now, slot.ConfirmedFlushLSN+change.LSN(slot.ToPublishBytes) //nolint:gosec // it is not negative
	}
	if now.Sub(b.since) < behindFor {
		stream = nil
	}
	b.late.Store(stream)
}

// tooSlow says whether the walsender of a stream has fallen behind.
func (b *behind) tooSlow(stream *replication.Stream) bool { return b.late.Load() == stream }

// catchesUp says whether what is before slot is worth to be fetched by SQL.
func (c *Capture) catchesUp(slot *catalog.Slot) bool {
	least := int64(c.config.Source.CatchUp)
	if c.config.Publish.direct() {
		return false // between calls the slot is free, and an older instance may still be sent something: see session.settled
	}
	return least > 0 && slot.ToPublishBytes >= least && c.behind.may()
}

// fallsBehind takes a look at the slot, nil if it is not there. What holds the stream up on purpose is not the walsender's fault; and
// where a call would read much WAL again, the walsender of a new session would, too.
func (c *Capture) fallsBehind(slot *catalog.Slot) {
	stream := c.stream.Load()
	if slot == nil || stream == nil || stream.CatchingUp() || c.pausing.holds() != nil || !c.catchesUp(slot) ||
		slot.KeptBytes-slot.ToPublishBytes > replication.MostReread {
		stream = nil
	}
	c.behind.observe(time.Now(), stream, slot)
}
