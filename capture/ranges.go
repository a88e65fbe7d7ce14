package capture

import (
	"cmp"
	"slices"

	"github.com/tributary-cdc/tributary/capture/snapshot"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// What is left of the read of a table are ranges of its key, and single keys: in memory, and in the progress.

// noteRanges writes down what is left, ranges under way included, for the progress record. A table that is not split yet is
// read from its start after a crash, and needs none, but for single rows: its condition and columns are not for them.
func (s *session) noteRanges(t *table) {
	t.progress.Ranges = nil
	left := t.snapshot.left()
	if !t.snapshot.split && len(left) > 0 {
		left = append(left, snapshot.Range{})
	}
	for _, r := range left {
		t.progress.Ranges = append(t.progress.Ranges, record.RangeProgress{At: r.At, After: r.After, Up: r.Up})
	}
	t.progress.RangesKey = t.snapshot.key
}

// left gives what is still to be read, ranges under way included.
func (snap *tableSnapshot) left() []snapshot.Range {
	var left []snapshot.Range
	for _, w := range snap.windows {
		if !w.split {
			left = append(left, w.rng)
		}
	}
	return append(left, snap.ranges...)
}

// single says whether a row is still to be read by its key alone.
func (snap *tableSnapshot) single() bool {
	return slices.ContainsFunc(snap.left(), func(r snapshot.Range) bool { return r.At != nil })
}

// singles gives those of ranges that are single keys.
func singles(ranges []record.RangeProgress) []record.RangeProgress {
	return slices.DeleteFunc(slices.Clone(ranges), func(r record.RangeProgress) bool { return r.At == nil })
}

// readAgain has the row that has row's key read by itself. A table that has been read is being read again until then,
// which its progress says: to a reader of the topic, an UPDATE of that row without all values is not yet one of a row
// that it should have.
func (s *session) readAgain(t *table, row change.Tuple) {
	at := snapshot.Range{At: snapshot.KeyTexts(t.pub.Relation, row)}
	if t.snapshot == nil {
		t.snapshot = &tableSnapshot{split: true, key: keyNumbers(t.pub.Relation)}
		t.progress.Done = false
		s.chunks.queue = append(s.chunks.queue, t)
	}
	snap := t.snapshot
	if s.rekey(t) || snap.forRows {
		return
	}
	if !slices.ContainsFunc(snap.ranges, func(r snapshot.Range) bool { return slices.Equal(r.At, at.At) }) {
		snap.ranges = append(snap.ranges, at)
	}
	if len(snap.ranges) > maxRanges {
		s.readWhole(t, "rows of key changes")
		return
	}
	s.noteRanges(t)
	s.changed[t.pub.Relation.OID] = true
}

// maxRanges bounds the ranges of one table, all of which stand in its progress: rather than more rows by themselves all of
// them are read.
const maxRanges = 1000

// readWhole has all rows of t read instead of the ranges that are left, for a reason.
func (s *session) readWhole(t *table, reason string) {
	snap := t.snapshot
	snap.ranges, snap.windows, snap.split, snap.forRows = []snapshot.Range{{}}, nil, true, true
	t.progress.Whole, t.progress.Needed, t.progress.Where, t.progress.Columns = false, "", "", nil
	t.progress.Asked = cmp.Or(t.progress.Asked, reason) // so that it is read after a restart also where nothing else is
	s.noteRanges(t)
	s.changed[t.pub.Relation.OID] = true
}

// rekey has all rows of t read where ranges are by another key than the one that t has by now: rows stand elsewhere in its order.
// They may have been read by what the catalog had of t before the stream came there, or before a restart.
func (s *session) rekey(t *table) bool {
	key := keyNumbers(t.pub.Relation)
	if slices.Equal(t.snapshot.key, key) {
		return false
	}
	t.snapshot.key = key
	s.log.Info("table has another key: all of its rows are read, from the start", "table", t.name(), "rows", t.progress.Rows)
	s.readWhole(t, "another key")
	return true
}
