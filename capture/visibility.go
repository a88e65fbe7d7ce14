package capture

import (
	"slices"
	"time"

	"github.com/tributary-cdc/tributary/capture/snapshot"
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

// unseen are reads in a row that did not count, as a transaction that they must have seen was not visible to them.
type unseen struct {
	reads     int
	since     time.Time
	committed bool // the newest lacked one whose commit is published: it is not visible before a standby has it, say
}

// counts says whether a read under seen may be published (rule 3), and notes in a row how many may not.
func (s *session) counts(seen *snapshot.Visibility, opened uint64, snap *tableSnapshot) bool {
	if mutant(mutantNoChunkRule) {
		return true
	}
	sees := s.recent.seenBy(seen, opened)
	if sees && (!s.chunks.any || seen.Finished(s.chunks.finished)) && (snap.after == 0 || seen.Finished(snap.after)) {
		snap.unseen = unseen{}
		return true
	}
	if snap.unseen.reads == 0 {
		snap.unseen.since = time.Now()
	}
	snap.unseen.reads, snap.unseen.committed = snap.unseen.reads+1, !sees
	return false
}
