package batch

import (
	"bytes"
	"slices"

	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// Result is what a fold comes to. Its parts must be applied in the order of the fields; within a part the order does
// not matter. It is valid until the fold's next Add, Move or Begin.
type Result struct {
	Plan     *rule.Plan
	Reload   bool // first begin a reading anew
	Truncate bool // then remove all rows of the source

	// For a plan with a key: no key is in more than one of Moves (as new key), Updates and Upserts.
	Deletes Set // Key: rows to remove, if they are there; but for those of Spared
	// Key: what Moves and Updates find, where the fold cannot tell whether keys of other texts are equal (schema.Type.ByteEqual): the
	// row that leaves "1 day" for "24:00:00" is under both.
	Spared Set
	// Key: row to take away; Value: what it becomes under its new key. All are taken away before any is put back. The first Carried are
	// whole rows: what of them is not there to be taken away is written all the same.
	Moves   Set
	Carried int
	Updates Set // Value: what to overwrite; values that are Unchanged stay. The row must be there
	Upserts Set // Value: whole rows; those that the events say are new come first

	// For a plan without a key.
	Removals Set // Value, Times: rows of which so many are removed
	Inserts  Set // Value: rows, equal ones repeated

	// Lost are updates whose row is gone and whose values are not complete: they can only be left out.
	Lost []Partial

	Inserted int // how many of Upserts are new

	// For a plan with mode history there are Keys, and what Resolve makes of them and of what the target has: Ends, Copies,
	// Inserts, Noted and Lost. For a log there are Inserts alone.
	Keys        Set   // Key: the keys that changed
	Changes     int   // how many there are of them
	TruncatedAt int64 // commit time of the TRUNCATE, microseconds
	Ends        Set   // Key, Base: versions that are valid in the target; Value: when they cease to be, in the added columns
	Copies      Set   // Value: new versions; values that are Unchanged are those of the version that Key and Base name
	Noted       Set   // Value: a row of each key of which one has come
}

// Partial is what came last of a row without all of its values.
type Partial struct {
	LSN change.LSN // of its commit
	// Changed says that the source changed the row, in whatever of it came without all of its values. Else some columns of it were read, which bring no row.
	Changed bool
}

// Set is a list of rows or keys.
type Set struct {
	f     *Fold
	items []item
}

type item struct {
	key, row int32
	partial  Partial
	times    int32
	step     int32
	base     int64
}

// Len gives the number of items.
func (s *Set) Len() int { return len(s.items) }

// Key gives the text of column k of the plan's key, of item i.
func (s *Set) Key(i, k int) []byte {
	return s.f.text(s.f.keys[int(s.items[i].key)*len(s.f.plan.Key)+k])
}

// Value gives column c of the plan, of item i; text is nil unless it is Present.
func (s *Set) Value(i, c int) (text []byte, st change.State) {
	v := s.f.rows[int(s.items[i].row)*s.f.width+c]
	if st = v.state(); st != change.Present {
		return nil, st
	}
	return s.f.text(v), st
}

// AppendBase appends since when the version is valid that item i refers to, as Postgres reads it.
func (s *Set) AppendBase(b []byte, i int) []byte { return AppendTime(b, s.items[i].base) }

// Slice gives items i to j of the set.
func (s *Set) Slice(i, j int) Set { return Set{f: s.f, items: s.items[i:j]} }

// Pick gives those items of the set, as a set.
func (s *Set) Pick(items []int) Set {
	out := Set{f: s.f, items: make([]item, len(items))}
	for n, i := range items {
		out.items[n] = s.items[i]
	}
	return out
}

// Times gives how many rows item i of Removals stands for.
func (s *Set) Times(i int) int { return int(s.items[i].times) }

// Partial is of the updates that left values of item i unchanged.
func (s *Set) Partial(i int) Partial { return s.items[i].partial }

// Result gives what the events since Begin come to. With carry, rows of the target have values that no event carries: they go with the row where its
// key changes, and go where it is deleted, though another one takes its key in the same batch.
func (f *Fold) Result(carry bool) *Result {
	r := &Result{Plan: f.plan, Reload: f.reload, Truncate: f.truncate, Lost: f.lost}
	for _, set := range []*Set{&r.Deletes, &r.Spared, &r.Moves, &r.Updates, &r.Upserts, &r.Removals, &r.Inserts, &r.Keys, &r.Ends, &r.Copies, &r.Noted} {
		set.f = f
	}
	switch f.plan.Mode {
	case rule.History:
		f.beginStory(r)
		return r
	case rule.Log:
		r.Inserts.items = f.entries
		return r
	}
	for i := range f.bags {
		b := &f.bags[i]
		if b.deletes > 0 {
			r.Removals.items = append(r.Removals.items, item{row: b.row, times: b.deletes})
		}
		for range b.inserts {
			r.Inserts.items = append(r.Inserts.items, item{row: b.row})
		}
	}
	for i := range f.slots {
		f.slots[i].carried = false
	}
	for i := range f.slots {
		if o := f.slots[i].occupant; o != vacant && (f.state[o].partial || carry && f.state[o].origin != none) {
			f.slots[f.state[o].origin].carried = true
		}
	}
	var rest, whole []item // of Upserts, of Moves
	for i := range f.slots {
		s := &f.slots[i]
		here := item{key: s.key}
		if s.occupant == vacant {
			if !s.carried {
				r.Deletes.items = append(r.Deletes.items, here)
			}
			continue
		}
		st := &f.state[s.occupant]
		it := item{row: st.row, partial: st.last, key: s.key}
		respelled := !f.spelledAs(s.key, st.row)
		stays := int(st.origin) == i && !respelled
		switch {
		case !st.partial && (!carry || stays || st.origin == none):
			if st.created {
				r.Upserts.items = append(r.Upserts.items, it)
			} else {
				rest = append(rest, it)
			}
			// An equal key in another spelling (1.0, 1.00) is another key where the target's column is text.
			if (respelled || carry && !stays) && !s.carried {
				r.Deletes.items = append(r.Deletes.items, here)
			}
		case stays:
			r.Updates.items = append(r.Updates.items, it)
		default:
			it.key = f.slots[st.origin].key
			if st.partial {
				r.Moves.items = append(r.Moves.items, it)
			} else {
				whole = append(whole, it)
			}
			if !s.carried {
				r.Deletes.items = append(r.Deletes.items, here)
			}
		}
	}
	if r.Carried = len(whole); r.Carried > 0 {
		r.Moves.items = append(whole, r.Moves.items...)
	}
	if len(r.Deletes.items) > 0 && !f.plan.Relation.ByteEqualKey() {
		r.Spared.items = slices.Concat(r.Moves.items, r.Updates.items)
	}
	r.Inserted = len(r.Upserts.items)
	r.Upserts.items = append(r.Upserts.items, rest...)
	return r
}

// spelledAs says whether the row's key columns have the very texts of the key.
func (f *Fold) spelledAs(key, row int32) bool {
	cells := f.row(row)
	for k, c := range f.plan.Key {
		if !bytes.Equal(f.text(f.keys[int(key)*len(f.plan.Key)+k]), f.text(cells[c])) {
			return false
		}
	}
	return true
}
