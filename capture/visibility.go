package capture

import (
	"slices"

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

// counts says whether a read under seen may be published (rule 3).
func (s *session) counts(seen *snapshot.Visibility, opened uint64, snap *tableSnapshot) bool {
	if mutant(mutantNoChunkRule) {
		return true
	}
	if s.chunks.any && !seen.Finished(s.chunks.finished) {
		return false
	}
	if snap.after != 0 && !seen.Finished(snap.after) {
		return false
	}
	return s.recent.seenBy(seen, opened)
}
