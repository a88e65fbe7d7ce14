package snapshot

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Visibility is what pg_current_snapshot() gives: which transactions a read has seen.
type Visibility struct {
	xmin uint64   // all below are finished
	xmax uint64   // none from here on had begun
	xip  []uint64 // between the two, those that were running; ascending
}

// parseVisibility reads the text of a pg_snapshot: "xmin:xmax:xip,xip".
func parseVisibility(text string) (Visibility, error) {
	fail := fmt.Errorf("parse snapshot %q: want xmin:xmax:xip,…", text)
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return Visibility{}, fail
	}
	var v Visibility
	var err1, err2 error
	v.xmin, err1 = strconv.ParseUint(parts[0], 10, 64)
	v.xmax, err2 = strconv.ParseUint(parts[1], 10, 64)
	if err1 != nil || err2 != nil {
		return Visibility{}, fail
	}
	if parts[2] != "" {
		for one := range strings.SplitSeq(parts[2], ",") {
			xid, err := strconv.ParseUint(one, 10, 64)
			if err != nil {
				return Visibility{}, fail
			}
			v.xip = append(v.xip, xid)
		}
	}
	slices.Sort(v.xip)
	return v, nil
}

// Sees says whether the read saw the committed transaction xid. The WAL has only the low half of it; the high half
// is that which brings it next to the snapshot, since no transaction is 2³¹ others away.
func (v *Visibility) Sees(xid uint32) bool {
	full := v.widen(xid)
	if full < v.xmin {
		return true
	}
	if full >= v.xmax {
		return false
	}
	_, running := slices.BinarySearch(v.xip, full)
	return !running
}

// Finished says whether every transaction with an id up to and including xid had ended when the snapshot was taken.
func (v *Visibility) Finished(xid uint32) bool { return v.widen(xid) < v.xmin }

func (v *Visibility) widen(xid uint32) uint64 {
	return v.xmax + uint64(int64(int32(xid-uint32(v.xmax)))) //nolint:gosec // the wrap-around is meant
}
