package capture

import (
	"slices"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/snapshot"
	"github.com/tributary-cdc/tributary/schema/change"
)

// recent remembers the transactions that were streamed lately.
type recent struct {
	xids    []uint32
	dropped uint64 // forgotten before xids[0]
}

const maxRecent = 1 << 16

func (r *recent) add(xid uint32) { r.xids = append(r.xids, xid) }

func (r *recent) count() uint64 { return r.dropped + uint64(len(r.xids)) }

// forget drops the older half when there are too many and gives the greatest id among them.
func (r *recent) forget() (greatest uint32, any bool) {
	if len(r.xids) < maxRecent {
		return 0, false
	}
	half := len(r.xids) / 2
	for i, xid := range r.xids[:half] {
		if i == 0 || int32(xid-greatest) > 0 {
			greatest = xid
		}
	}
	r.xids = slices.Delete(r.xids, 0, half)
	r.dropped += uint64(half)
	return greatest, true
}

// seenBy says whether seen covers all transactions that were streamed before the count-th.
func (r *recent) seenBy(seen *snapshot.Visibility, count uint64) bool {
	for i, xid := range r.xids {
		if r.dropped+uint64(i) >= count {
			break
		}
		if !seen.Sees(xid) {
			return false
		}
	}
	return true
}

// mustFinish raises the id below which everything must have ended.
func (c *chunks) mustFinish(xid uint32) {
	if xid != 0 && (!c.any || int32(xid-c.finished) > 0) {
		c.finished, c.any = xid, true
	}
}

// haveEnded says whether the stream is behind all that may have written to a table before it was published as it is. Only then may the truncate of
// its reload stand:
//
//	application: BEGIN; INSERT of row 11; a DELETE of it, which is not published
//	capture:     publishes the table whole, and writes the truncate
//	application: COMMIT
//	stream:      has row 11, behind the truncate, and not that it is gone
func (s *session) haveEnded(snap *tableSnapshot) (bool, error) {
	if snap.after == 0 {
		return true, nil
	}
	o := &s.chunks.ended
	switch {
	case o.err != nil:
		return false, catalog.Unreachable("ask the running transactions of", "source", o.err)
	case o.at == 0 || int32(snap.after-o.xid) >= 0: //nolint:gosec // the wrap-around is meant
		s.chunks.ask()
		snap.notBefore = time.Now().Add(rereadPause)
		snap.waits(false)
		return false, nil
	}
	o.asked = 0
	snap.after, snap.from, snap.unseen = 0, max(snap.from, o.at), unseen{}
	return s.streamed >= snap.from, nil
}

// ended is what the source has said of its transactions: all before xid have ended, and at is behind their ends; 0 where nothing is known yet.
type ended struct {
	xid uint32
	at  change.LSN
	err error
	// asks: a reader is at it. It was asked so many times since anybody could go on by what it said, and is not again before due.
	asks  bool
	asked int
	due   time.Time
}

// ask has an idle reader ask what has ended: the stream does not wait for the answer.
func (c *chunks) ask() {
	if o := &c.ended; !o.asks && !time.Now().Before(o.due) {
		o.asks = true
		c.idle--
		c.tasks <- task{ended: true, known: o.xid} // as many places as readers
	}
}

// answered takes what a reader was told. It counts for each table that waits, also where the one that asked waits on.
func (o *ended) answered(is ended, err error) {
	if o.err = err; err == nil && is.at != 0 {
		o.xid, o.at = is.xid, is.at
	}
	o.asks, o.asked, o.due = false, o.asked+1, time.Now().Add(unseenPause(o.asked))
}

// unseenPause is how long to wait behind so many looks in a row for transactions that are not over, or not visible: some take a moment, others hours.
func unseenPause(looks int) time.Duration { return min(rereadPause<<min(looks, 10), time.Second) }

// unseen are reads in a row that did not count, as a transaction that they must have seen was not visible to them.
type unseen struct {
	reads     int
	since     time.Time
	committed bool // the newest lacked one whose commit is published: it is not visible before a standby has it, say
	altered   bool // the newest found the table altered, and the stream has not come to that
}

// counts says whether a read under seen may be published (rule 3), and notes in a row how many may not.
func (s *session) counts(seen *snapshot.Visibility, opened uint64, snap *tableSnapshot) bool {
	if mutant(mutantNoChunkRule) {
		return true
	}
	sees := s.recent.seenBy(seen, opened)
	if sees && (!s.chunks.any || seen.Finished(s.chunks.finished)) && (snap.after == 0 || seen.Finished(snap.after)) {
		if !snap.unseen.altered { // of which a read may find out behind that
			snap.unseen = unseen{}
		}
		return true
	}
	snap.waits(!sees)
	return false
}

// waits notes one more read that does not count; committed says that what it must have seen has committed.
func (snap *tableSnapshot) waits(committed bool) {
	if snap.unseen.reads == 0 {
		snap.unseen.since = time.Now()
	}
	snap.unseen.reads, snap.unseen.committed, snap.unseen.altered = snap.unseen.reads+1, committed, false
}
