package batch

import (
	"bytes"
	"slices"

	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/mutant"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// A history has one row for each committed change of a row: a version, valid from the time of the commit until the next
// change of the same key. No two versions of a key overlap, and none is valid for no time at all, whatever the source's
// clock did: each is valid from the time of its commit, or from a microsecond after the version before began, whichever is
// later; a row that comes again after it was deleted, from the time of its commit or from when it was deleted. So the versions
// of a key follow from its changes and their order alone, and where a batch ends makes no difference: what is needed of the
// time before is in the target, in the last version of the key.
//
// Therefore the fold only keeps the changes, in their order. The one who writes them asks the target for the last version
// of each key (Result.Keys) and, where a row of a snapshot meets a version that is valid still, whether both are equal
// (Compared); Resolve then goes through the changes one by one.

// story is what a fold knows of a history.
type story struct {
	steps     []step
	lives     []life // of each slot
	truncated int64  // commit time of the first TRUNCATE, microseconds
	closed    []item // versions of the target that end
}

// step is one change.
type step struct {
	op    change.Op // Truncate; Delete, also of a row that leaves the filter; all others bring a row
	moved bool      // half of a change of a key
	made  bool      // it has become a version
	slot  int32
	from  int32 // slot that the row leaves; slot if it stays
	row   int32
	base  int32 // slot whose original has the values that are missing in row
	at    int64 // commit time, microseconds
	lsn   change.LSN
	equal cell // of Compared
}

// life is what is known of a key while the steps are gone through.
type life struct {
	Last
	original int64 // when the version began that was valid when the batch began
	current  int32 // step that made the version that is valid now; none for the original
	row      int32 // the last that has come, to note the key by; none
}

const none = -1

// Last is the newest version of a key in the target.
type Last struct {
	There bool
	Open  bool  // it is valid still
	At    int64 // from when it is valid, or, if it is not any more, until when; microseconds, rule.Ever for -infinity
	Noted bool  // by a reload that is open: a row of the key has come since it began
}

func (s *story) forget() {
	s.steps, s.lives, s.closed = s.steps[:0], s.lives[:0], s.closed[:0]
}

func (s *story) truncate(ev *change.Event) {
	if !slices.ContainsFunc(s.steps, func(st step) bool { return st.op == change.Truncate }) {
		s.truncated = ev.Tx.CommitTime
	}
	s.steps = append(s.steps, step{op: change.Truncate, at: ev.Tx.CommitTime})
}

// tell keeps a change for a history.
func (f *Fold) tell(c *rule.Change, keyChange bool) error {
	ev := c.Event
	row, what := c.After, "new row"
	if ev.Op == change.Delete {
		row, what = c.Before, "old row"
	}
	if err := f.check(row, what); err != nil {
		return err
	}
	st := step{op: ev.Op, moved: keyChange, at: ev.Tx.CommitTime, lsn: ev.Tx.CommitLSN}
	if ev.Op != change.Delete && !c.Is {
		if ev.Op == change.Create {
			return nil // there is none in the target either
		}
		st.op = change.Delete
	}
	st.slot = f.slot(row)
	st.from = st.slot
	if st.op != change.Delete {
		st.row = f.newRow(row)
	}
	f.story.steps = append(f.story.steps, st)
	return nil
}

// tellMove keeps a change of a key for a history. Both rows have passed check.
func (f *Fold) tellMove(old, c *rule.Change) {
	ev := c.Event
	st := step{op: change.Update, slot: f.slot(old.Before), at: ev.Tx.CommitTime, lsn: ev.Tx.CommitLSN}
	st.from = st.slot
	if c.Is {
		st.slot, st.row = f.slot(c.After), f.newRow(c.After)
	} else {
		st.op = change.Delete
	}
	f.story.steps = append(f.story.steps, st)
}

// beginStory prepares for Resolve.
func (f *Fold) beginStory(r *Result) {
	s := &f.story
	s.lives, s.closed, f.lost = s.lives[:0], s.closed[:0], f.lost[:0]
	r.Lost = nil
	for i := range s.steps {
		s.steps[i].made, s.steps[i].equal = false, cell{}
	}
	for i := range f.slots {
		s.lives = append(s.lives, life{current: none, row: none})
		r.Keys.items = append(r.Keys.items, item{key: f.slots[i].key})
	}
	r.TruncatedAt, r.Changes = s.truncated, len(s.steps)
}

// Found says what the target has under key i of Keys. Of a key that it has nothing of, nothing is said.
func (r *Result) Found(i int, last Last) {
	l := &r.Keys.f.story.lives[i]
	l.Last, l.original = last, last.At
}

// Comparable gives the rows of snapshots whose key has a version in the target that is valid still; to be asked when
// everything is Found. Key and Base name that version, Value is the row. Compared takes the answers.
func (r *Result) Comparable() Set {
	f := r.Keys.f
	out := Set{f: f}
	for i := range f.story.steps {
		st := &f.story.steps[i]
		if st.op != change.Read {
			continue
		}
		if l := &f.story.lives[st.slot]; l.Open {
			out.items = append(out.items, item{key: f.slots[st.slot].key, row: st.row, base: l.original, step: int32(i)})
		}
	}
	return out
}

// Compared says in which columns item i of what Comparable gave has the value of the version: a 1 for each column of the
// plan in which it has. It is copied.
func (r *Result) Compared(set *Set, i int, equal []byte) {
	f := r.Keys.f
	f.story.steps[set.items[i].step].equal = f.keep(equal, change.Present)
}

// Resolve goes through the changes and fills in Ends, Copies, Inserts, Noted and Lost. reload is the commit time of the
// record that began the reload that is open, in microseconds; 0 if none is.
func (r *Result) Resolve(reload int64) {
	f := r.Keys.f
	s := &f.story
	for i := range s.steps {
		st := &s.steps[i]
		switch st.op {
		case change.Truncate:
			for slot := range s.lives {
				f.end(int32(slot), st.at, true)
			}
		case change.Delete:
			f.end(st.slot, st.at, !st.moved)
		default:
			f.version(int32(i), reload)
		}
	}
	for i := range s.steps {
		st := &s.steps[i]
		if !st.made || mutant.On(mutant.LastVersionOnly) && s.lives[st.slot].current != int32(i) {
			continue
		}
		it := item{row: st.row}
		if f.lacks(st.row) {
			it.key, it.base = f.slots[st.base].key, s.lives[st.base].original
			r.Copies.items = append(r.Copies.items, it)
		} else {
			r.Inserts.items = append(r.Inserts.items, it)
		}
	}
	for slot := range s.lives {
		if l := &s.lives[slot]; l.row != none {
			r.Noted.items = append(r.Noted.items, item{row: l.row})
		}
	}
	r.Ends.items = append(r.Ends.items, s.closed...)
	r.Lost = f.lost
}

// version makes a version of step i, if it is one.
func (f *Fold) version(i int32, reload int64) {
	s := &f.story
	st := &s.steps[i]
	l := &s.lives[st.slot]
	if f.lacks(st.row) && !f.complete(st) {
		f.lost = append(f.lost, Partial{st.lsn, st.op != change.Read})
		return
	}
	l.row = st.row
	if st.op == change.Read && l.Open && f.same(st, l) && !mutant.On(mutant.SnapshotRowAsVersion) {
		l.Noted = true
		return
	}
	if st.from != st.slot {
		f.end(st.from, st.at, false)
	}
	// A row that is inserted while its table is read anew, where the target has one of which nothing has come since: that
	// one was deleted, and nobody has said when. It is gone since the reading began, as if it had been swept.
	if reload != 0 && l.Open && l.current == none && !l.Noted && (st.op == change.Create || st.from != st.slot) {
		f.end(st.slot, reload, true)
	}
	var at int64
	switch {
	case l.Open:
		at = max(st.at, l.At+1)
		f.end(st.slot, at, false)
	case l.There:
		at = max(st.at, l.At)
	case st.op == change.Read, f.plan.Bounds.FromBeginning && st.from == st.slot && !st.moved:
		at = f.plan.Bounds.BeginsAt
	default:
		at = st.at
	}
	l.There, l.Open, l.At, l.current, l.Noted = true, true, at, i, true
	st.made = true
	f.setTime(st.row, rule.AddedFrom, at)
	f.set(st.row, rule.AddedTo, f.plan.Bounds.End)
	f.set(st.row, rule.AddedDeleted, "f")
}

// complete fills in what a row lacks, as far as that is in the batch; the rest has the original of st.base. It gives
// false where the row that it changes is not there.
func (f *Fold) complete(st *step) bool {
	from := &f.story.lives[st.from]
	if !from.Open {
		return false
	}
	st.base = st.from
	if from.current == none {
		return true
	}
	before := &f.story.steps[from.current]
	st.base = before.base
	have, row := f.row(before.row), f.row(st.row)
	for c := range f.plan.Columns {
		if row[c].state() == change.Unchanged {
			row[c] = have[c]
		}
	}
	return true
}

// same says whether a row of a snapshot is the version of its key that is valid, as far as it has been sent: a read may be of some columns.
// Where that version has values of another row of the target, whose key it had, they are not asked for, and taken for the same.
func (f *Fold) same(st *step, l *life) bool {
	row := f.row(st.row)
	asked := st.equal.state() == change.Present
	equal := func(c int) bool { return !asked || row[c].state() == change.Unchanged || f.text(st.equal)[c] == '1' }
	if l.current == none {
		for c := range f.plan.Columns {
			if !equal(c) {
				return false
			}
		}
		return true
	}
	current := &f.story.steps[l.current]
	have := f.row(current.row)
	for c := range f.plan.Columns {
		switch {
		case have[c].state() == change.Unchanged:
			if current.base == st.slot && !equal(c) {
				return false
			}
		case have[c].state() != row[c].state(), !bytes.Equal(f.text(have[c]), f.text(row[c])):
			return false
		}
	}
	return true
}

// end ends the version of a key that is valid, if there is one.
func (f *Fold) end(slot int32, at int64, deleted bool) {
	s := &f.story
	l := &s.lives[slot]
	if !l.Open {
		return
	}
	at = max(at, l.At+1)
	l.Open, l.At = false, at
	var row int32
	if l.current != none {
		row = s.steps[l.current].row
	} else {
		row = f.newRow(nil)
		s.closed = append(s.closed, item{key: f.slots[slot].key, row: row, base: l.original})
	}
	f.setTime(row, rule.AddedTo, at)
	f.set(row, rule.AddedDeleted, "f")
	if deleted {
		f.set(row, rule.AddedDeleted, "t")
	}
}

// set gives a row a value of an added column.
func (f *Fold) set(row int32, added int, text string) {
	off := len(f.arena)
	f.arena = append(f.arena, text...)
	f.row(row)[len(f.plan.Columns)+added] = f.kept(off)
}

func (f *Fold) setTime(row int32, added int, micros int64) {
	if added == rule.AddedFrom && micros == f.plan.Bounds.BeginsAt {
		f.set(row, added, f.plan.Bounds.Beginning)
		return
	}
	off := len(f.arena)
	f.arena = AppendTime(f.arena, micros)
	f.row(row)[len(f.plan.Columns)+added] = f.kept(off)
}

// kept is the cell of what the arena holds from off on.
func (f *Fold) kept(off int) cell {
	return cell{off: uint32(off), size: uint32(len(f.arena)-off) | uint32(change.Present)<<stateShift}
}
