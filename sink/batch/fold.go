// Package batch folds the events of one table, in their order, into the least that makes the target what it would be
// after each event had been applied by itself: at most one row to delete, move, update or upsert per key. That is more
// than "the last one wins": a TOASTed value that an UPDATE did not touch is not in the event and must survive, from an
// earlier event of the batch or in the target; and a row whose key changes keeps what its event does not carry.
//
// It owns the memory of what it folds (texts are copied, so that records can be let go) and knows nothing of SQL;
// package warehouse executes a Result. Events are those of the Debezium envelope as package record decodes them.
package batch

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// Fold is the batch of one table under one plan. It is not safe for concurrent use. All slices of a Result alias its
// memory, which Begin reuses.
type Fold struct {
	plan     *rule.Plan
	width    int // cells of a row: the columns of the plan, and those that its mode adds
	truncate bool
	reload   bool
	counts   Counts
	lost     []Partial // of rows that are known to be gone

	arena []byte
	rows  []cell // len(plan.Columns) cells a row
	keys  []cell // len(plan.Key) cells a key, as the events spell them
	index map[uint64]int32
	seed  maphash.Seed
	slots []slot
	state []state
	bags  []bag // instead of slots and state where the plan has no key

	story   story  // instead of state, in mode history
	entries []item // instead of all these, in mode log

	scratch []byte

	change, second rule.Change

	lately int // bytes that batches have needed lately
}

// cell is a value in the arena. The two upper bits of size hold its change.State.
type cell struct{ off, size uint32 }

const (
	stateShift = 30
	sizeMask   = 1<<stateShift - 1
)

// slot is one key that an event of the batch mentioned. What the target held under it when the batch began is called
// its original.
type slot struct {
	canonical cell  // equal keys have equal canonical bytes
	next      int32 // slot with the same hash, -1 for none
	key       int32 // index into keys: as first mentioned
	occupant  int32 // index into state: what is under the key now; vacant for nothing
	carried   bool  // set by Result: the original lives on in a state that is written as what becomes of it
}

const vacant = -1

// state is a row as it is now. A partial one lacks values, which the original of its origin has.
type state struct {
	row     int32
	partial bool
	origin  int32   // slot whose original the row was when the batch began, none if it was not there; a partial one has one
	last    Partial // update
	created bool    // began as an insert or snapshot row in this batch
}

// bag counts equal rows of a table without a key.
type bag struct {
	canonical        cell
	next             int32
	row              int32
	inserts, deletes int32
}

// Counts says what became of the events, by operation. A change of a key counts as one update.
type Counts struct {
	Applied [numOps]int64
	Ignored [numOps]int64 // by the rule
	Left    [numOps]int64 // out of the target by the filter; an update that leaves it deletes the row
}

// Indexes into Counts.
const (
	Insert = iota
	Update
	Delete
	Truncate
	Read
	numOps
)

// Begin empties the fold and makes it ready for events under plan.
func (f *Fold) Begin(plan *rule.Plan) {
	if f.index == nil {
		f.seed = maphash.MakeSeed()
		f.index = map[uint64]int32{}
	}
	f.plan, f.width = plan, len(plan.Columns)+len(plan.Added)
	f.arena = f.arena[:0]
	f.truncate, f.reload, f.counts, f.lost = false, false, Counts{}, f.lost[:0]
	f.forget()
}

// forget drops all rows.
func (f *Fold) forget() {
	f.rows, f.keys = f.rows[:0], f.keys[:0]
	f.slots, f.state, f.bags = f.slots[:0], f.state[:0], f.bags[:0]
	f.story.forget()
	f.entries = f.entries[:0]
	clear(f.index)
}

// Release lets go of memory that was of no use lately. Folds take turns: else each would keep what the largest batch that ever
// came its way has needed.
func (f *Fold) Release() {
	f.lately = max(f.size(), f.lately-f.lately/8)
	capacity := cap(f.arena) + 8*(cap(f.rows)+cap(f.keys)) + 48*(cap(f.slots)+cap(f.state)+cap(f.bags)+cap(f.story.steps)+cap(f.entries))
	if capacity > 4*f.lately+fewestKept {
		*f = Fold{lately: f.lately}
	}
}

const fewestKept = 256 << 10

// size estimates the memory held, in bytes.
func (f *Fold) size() int {
	return len(f.arena) + 8*(len(f.rows)+len(f.keys)) + 48*(len(f.slots)+len(f.state)+len(f.bags)+len(f.story.steps)+len(f.entries))
}

// Empty says whether the result would change nothing.
func (f *Fold) Empty() bool {
	return !f.truncate && !f.reload && len(f.slots) == 0 && len(f.bags) == 0 && len(f.entries) == 0
}

// Counts gives what became of the events since Begin.
func (f *Fold) Counts() Counts { return f.counts }

// Add folds one event. keyChange says that it is one half of a change of a key whose other half went to another
// partition: it counts as an update and is ignored only where updates are. reload says that a Truncate is not the
// source's, but precedes a reading anew: of a table with a key it must be the first event of the fold, since what came
// before has not come again. Errors are those of rule.Plan.Map, or wrap rule.ErrEvent.
func (f *Fold) Add(ev *change.Event, keyChange, reload bool) error {
	op, ignored := Insert, rule.Inserts
	switch ev.Op {
	case change.Create:
	case change.Read:
		op = Read
	case change.Update:
		op, ignored = Update, rule.Updates
	case change.Delete:
		op, ignored = Delete, rule.Deletes
	case change.Truncate:
		op, ignored = Truncate, 0
		if !f.plan.Voids(reload) {
			ignored = f.plan.Ignore
		}
		if f.plan.Mode == rule.Log {
			ignored = rule.Truncates
		}
	default:
		return fmt.Errorf("%w: %s", rule.ErrEvent, ev.Op)
	}
	if keyChange {
		ignored = rule.Updates
	}
	if f.plan.Ignore&ignored != 0 {
		f.counts.Ignored[op]++
		return nil
	}
	if ev.Op == change.Truncate {
		f.counts.Applied[op]++
		switch {
		case f.plan.Mode == rule.Log:
			f.enterTruncate(ev, reload)
			return nil
		case reload && len(f.plan.Key) > 0:
			f.reload = true
			return nil
		case f.plan.Mode == rule.History:
			f.story.truncate(ev)
			f.truncate = true
			return nil
		}
		f.forget()
		f.arena = f.arena[:0]
		f.truncate = true
		return nil
	}
	c := &f.change
	if err := f.plan.Map(ev, c); err != nil {
		return err
	}
	f.count(op, c)
	switch {
	case f.plan.Mode == rule.Log:
		return f.enter(c)
	case f.plan.Mode == rule.History:
		return f.tell(c, keyChange)
	case len(f.plan.Key) == 0:
		return f.addKeyless(c)
	}
	if ev.Op == change.Delete {
		return f.remove(c.Before, "old row")
	}
	if err := f.check(c.After, "new row"); err != nil {
		return err
	}
	if !c.Is {
		if ev.Op == change.Create {
			return nil // there is none in the target either
		}
		return f.remove(c.After, "new row")
	}
	known := len(f.slots)
	s := f.slot(c.After)
	f.overlay(s, s, int(s) == known, c)
	return nil
}

func (f *Fold) count(op int, c *rule.Change) {
	if c.After != nil && !c.Is || c.After == nil && c.Was == rule.Out {
		f.counts.Left[op]++
	} else {
		f.counts.Applied[op]++
	}
}

// remove folds that there is no row under the key of row.
func (f *Fold) remove(row change.Tuple, what string) error {
	if err := f.check(row, what); err != nil {
		return err
	}
	f.slots[f.slot(row)].occupant = vacant
	return nil
}

// Move folds a change of a key that came as both its halves: the delete of the old key and the insert of the new row.
func (f *Fold) Move(del, ins *change.Event) error {
	if f.plan.Ignore&rule.Updates != 0 {
		f.counts.Ignored[Update]++
		return nil
	}
	old, c := &f.change, &f.second
	if err := f.plan.Map(del, old); err != nil {
		return err
	}
	if err := f.plan.Map(ins, c); err != nil {
		return err
	}
	f.count(Update, c)
	if f.plan.Mode == rule.Log {
		if err := f.enter(old); err != nil {
			return err
		}
		return f.enter(c)
	}
	if len(f.plan.Key) == 0 {
		return fmt.Errorf("%w: a key changes in a table without one", rule.ErrEvent)
	}
	if err := f.check(old.Before, "old row"); err != nil {
		return err
	}
	if err := f.check(c.After, "new row"); err != nil {
		return err
	}
	if f.plan.Mode == rule.History {
		f.tellMove(old, c)
		return nil
	}
	if !c.Is {
		return f.remove(old.Before, "old row")
	}
	known := len(f.slots)
	from := f.slot(old.Before)
	unknown := int(from) == known
	to := f.slot(c.After)
	f.overlay(from, to, unknown, c)
	return nil
}

// overlay puts the new row of c over what is in slot from, and the outcome into slot to. unknown says that the batch
// had not mentioned from before: its original is there, as far as anyone knows.
func (f *Fold) overlay(from, to int32, unknown bool, c *rule.Change) {
	base := f.slots[from].occupant
	f.slots[from].occupant = vacant
	complete := !slices.ContainsFunc(c.After, func(v change.Value) bool { return v.State == change.Unchanged })
	created := c.Event.Op != change.Update && from == to
	last := Partial{c.Event.Tx.CommitLSN, c.Event.Op != change.Read}
	switch {
	case complete:
		switch {
		case base != vacant:
			f.write(f.state[base].row, c.After)
		case unknown:
			base = f.newState(c.After, from)
		default:
			base = f.newState(c.After, none)
		}
		st := &f.state[base]
		st.partial, st.created = false, st.created || created
	case base != vacant:
		f.write(f.state[base].row, c.After)
		st := &f.state[base]
		st.partial = st.partial && f.lacks(st.row)
		last.Changed = last.Changed || st.last.Changed
		st.last = last
	case unknown:
		base = f.newState(c.After, from)
		st := &f.state[base]
		st.partial, st.last = true, last
	default:
		// The row is gone, so the values that the event does not carry are nowhere.
		f.lost = append(f.lost, last)
		return
	}
	f.slots[to].occupant = base
}

func (f *Fold) check(row change.Tuple, what string) error {
	if row == nil {
		return fmt.Errorf("%w: there is no %s", rule.ErrEvent, what)
	}
	for _, k := range f.plan.Key {
		if row[k].State != change.Present {
			return fmt.Errorf("%w: no value for key column %q", rule.ErrEvent, f.plan.Columns[k].Name)
		}
	}
	return nil
}

// slot finds the slot of row's key, or makes one at the end of f.slots. The row has passed check.
func (f *Fold) slot(row change.Tuple) int32 {
	f.scratch = f.scratch[:0]
	for _, k := range f.plan.Key {
		v := &row[k]
		start := len(f.scratch)
		f.scratch = append(f.scratch, 0, 0, 0, 0)
		f.scratch = f.plan.Column(k).Type.AppendCanonical(f.scratch, v.Text)
		putSize(f.scratch[start:], len(f.scratch)-start-4)
	}
	hash := maphash.Bytes(f.seed, f.scratch)
	first, ok := f.index[hash]
	if !ok {
		first = -1
	}
	for s := first; s >= 0; s = f.slots[s].next {
		if bytes.Equal(f.text(f.slots[s].canonical), f.scratch) {
			return s
		}
	}
	s := int32(len(f.slots))
	f.slots = append(f.slots, slot{
		canonical: f.keep(f.scratch, change.Present),
		next:      first,
		key:       int32(len(f.keys) / len(f.plan.Key)),
		occupant:  vacant,
	})
	for _, k := range f.plan.Key {
		f.keys = append(f.keys, f.keep(row[k].Text, change.Present))
	}
	f.index[hash] = s
	return s
}

// putSize makes the parts of a key self-delimiting: ("a","bc") is not ("ab","c").
func putSize(b []byte, n int) {
	b[0], b[1], b[2], b[3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
}

func (f *Fold) newState(row change.Tuple, origin int32) int32 {
	f.state = append(f.state, state{row: f.newRow(row), origin: origin})
	return int32(len(f.state) - 1)
}

// newRow keeps a row, and gives its place in rows. What the mode adds to it is null yet.
func (f *Fold) newRow(row change.Tuple) int32 {
	at := int32(len(f.rows) / max(f.width, 1))
	for i := range row {
		f.rows = append(f.rows, f.keep(row[i].Text, row[i].State))
	}
	for len(f.rows) < int(at+1)*f.width {
		f.rows = append(f.rows, cell{})
	}
	return at
}

// write puts the values that tuple has over those of a row.
func (f *Fold) write(row int32, tuple change.Tuple) {
	cells := f.row(row)
	for i := range tuple {
		if tuple[i].State != change.Unchanged {
			cells[i] = f.keep(tuple[i].Text, tuple[i].State)
		}
	}
}

func (f *Fold) lacks(row int32) bool {
	return slices.ContainsFunc(f.row(row), func(c cell) bool { return c.state() == change.Unchanged })
}

func (f *Fold) row(row int32) []cell {
	width := int32(f.width)
	return f.rows[row*width : (row+1)*width]
}

func (f *Fold) keep(text []byte, st change.State) cell {
	if st != change.Present {
		return cell{size: uint32(st) << stateShift}
	}
	off := len(f.arena)
	f.arena = append(f.arena, text...)
	return cell{off: uint32(off), size: uint32(len(text)) | uint32(st)<<stateShift}
}

func (c cell) state() change.State { return change.State(c.size >> stateShift) }

func (f *Fold) text(c cell) []byte {
	end := c.off + c.size&sizeMask
	return f.arena[c.off:end:end]
}
