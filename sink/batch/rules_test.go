package batch

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// TestRulesEqualModel: random rules on random changes, through plan and fold, leave in the target what a plain model
// says: of each row that the source has now and the filter takes, what the rule makes of it.
func TestRulesEqualModel(t *testing.T) {
	for seed := range uint64(1000) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		m := newModel(t, rnd)
		var f Fold
		for range 1 + rnd.IntN(4) { // batches
			f.Begin(m.plan)
			for range rnd.IntN(10) {
				if err := m.change(&f); err != nil {
					t.Fatalf("seed %d, %s: %v\n%s", seed, m.says, err, strings.Join(m.log, "\n"))
				}
			}
			r := f.Result(false)
			m.write(t, r)
			if got, want := m.got(), m.want(); got != want || len(r.Lost) > 0 {
				t.Fatalf("seed %d, %s\n%s\ngot  %s, %d lost\nwant %s", seed, m.says, strings.Join(m.log, "\n"), got, len(r.Lost), want)
			}
		}
	}
}

// row is one row of the source: id and part, n (may be null), note, big.
type modelRow struct {
	id, part string
	n        *int
	note     string
	big      string
}

// written is one column that a model rule writes.
type written struct {
	name string
	of   func(modelRow) string
	key  bool
}

// model is a source, a rule in two forms, and a target.
type model struct {
	rnd      *rand.Rand
	keyed    bool
	full     bool
	rows     []modelRow
	target   map[string]int // rows by their text, and how many
	plan     *rule.Plan
	columns  []written
	passes   func(modelRow) bool
	readsBig bool
	says     string
	log      []string
}

func numberText(n *int) string {
	if n == nil {
		return null
	}
	return strconv.Itoa(*n)
}

func pickOne[T any](rnd *rand.Rand, list ...T) T { return list[rnd.IntN(len(list))] }

func newModel(t *testing.T, rnd *rand.Rand) *model {
	t.Helper()
	m := &model{rnd: rnd, keyed: rnd.IntN(4) > 0, target: map[string]int{}}
	m.full = !m.keyed || rnd.IntN(2) == 0
	column := func(name, typ string, oid schema.OID) schema.Column {
		return schema.Column{Name: name, Type: schema.Type{OID: oid, Name: typ, Typmod: -1, Class: schema.ClassBase}}
	}
	rel := &schema.Relation{OID: 1, Schema: "public", Name: "t", Identity: schema.IdentityDefault, Columns: []schema.Column{
		column("note", "text", schema.OIDText), column("id", "numeric", schema.OIDNumeric), column("n", "integer", schema.OIDInt4),
		column("part", "text", schema.OIDText), column("big", "text", schema.OIDText),
	}}
	if m.keyed {
		rel.Key = []int{3, 1}
	}
	if m.full {
		rel.Identity = schema.IdentityFull
	}
	table := rule.Table{From: "*.*"}
	add := func(c rule.Column, key bool, of func(modelRow) string) {
		table.Columns = append(table.Columns, c)
		m.columns = append(m.columns, written{c.From + c.As, of, key})
	}
	add(rule.Column{From: "id", As: pickOne(rnd, "", "number"), Cast: pickOne(rnd, "", "text")}, true, func(r modelRow) string { return r.id })
	computedKey := m.keyed && rnd.IntN(3) == 0
	if !computedKey {
		add(rule.Column{From: "part"}, true, func(r modelRow) string { return r.part })
	}
	if rnd.IntN(3) > 0 {
		add(rule.Column{From: "big"}, false, func(r modelRow) string { return r.big })
	}
	switch rnd.IntN(4) {
	case 0:
		add(rule.Column{From: "note"}, false, func(r modelRow) string { return r.note })
	case 1:
		add(rule.Column{From: "note", Mask: "redact"}, false, func(modelRow) string { return "***" })
	case 2:
		add(rule.Column{From: "note", Mask: "keep_last_4"}, false, func(modelRow) string { return "****" }) // notes are short
	}
	set := func(c rule.Computed, of func(modelRow) string) {
		table.Set = append(table.Set, c)
		m.columns = append(m.columns, written{c.Column, of, c.Key})
	}
	if computedKey {
		set(rule.Computed{Column: "p", Value: "'<' + part + '>'", Key: true}, func(r modelRow) string { return "<" + r.part + ">" })
	}
	if rnd.IntN(2) == 0 {
		set(rule.Computed{Column: "twice", Value: "n == null ? null : n * 2"}, func(r modelRow) string {
			if r.n == nil {
				return null
			}
			return strconv.Itoa(2 * *r.n)
		})
	}
	if rnd.IntN(2) == 0 {
		set(rule.Computed{Column: "c", Value: "'eu'"}, func(modelRow) string { return "eu" })
	}
	if rnd.IntN(3) == 0 {
		set(rule.Computed{Column: "size", Value: "size(big)"}, func(r modelRow) string { return strconv.Itoa(len(r.big)) })
	}
	switch rnd.IntN(5) {
	case 0:
		m.passes = func(modelRow) bool { return true }
	case 1:
		table.Filter = "n != null && n > 4"
		m.passes = func(r modelRow) bool { return r.n != nil && *r.n > 4 }
	case 2:
		table.Filter = "note in ['x', 'y'] || n == null"
		m.passes = func(r modelRow) bool { return r.note == "x" || r.note == "y" || r.n == nil }
	case 3:
		table.Filter = "id >= 2.5"
		m.passes = func(r modelRow) bool { return r.id[0] >= '3' || r.id[0] == '2' && strings.HasPrefix(r.id, "2.5") }
	case 4:
		table.Filter, m.readsBig = "big.startsWith('b1')", true
		m.passes = func(r modelRow) bool { return strings.HasPrefix(r.big, "b1") }
	}
	rules, err := rule.New(nil, []rule.Table{table}, "salt")
	if err != nil {
		t.Fatal(err)
	}
	route, _ := rules.Match("s", "public", "t")
	if m.plan, err = route.Compile(rel); err != nil {
		t.Fatal(err)
	}
	m.says = fmt.Sprintf("keyed %v, full %v, %+v", m.keyed, m.full, table)
	for range rnd.IntN(5) {
		if r := m.newRow(); !m.taken(r) {
			m.rows = append(m.rows, r)
		}
	}
	for _, r := range m.rows {
		if m.passes(r) {
			m.target[m.text(r)]++
		}
	}
	return m
}

func (m *model) newRow() modelRow {
	r := modelRow{id: pickOne(m.rnd, "1", "1.0", "2", "2.50", "3"), part: pickOne(m.rnd, "a", "b")}
	m.fill(&r)
	return r
}

func (m *model) fill(r *modelRow) {
	r.n, r.note, r.big = nil, pickOne(m.rnd, "x", "y", "z", ""), fmt.Sprint("b", m.rnd.IntN(30))
	if n := m.rnd.IntN(10); n > 0 {
		r.n = &n
	}
}

// taken says whether there is a row of r's key; 1 and 1.0 are equal.
func (m *model) taken(r modelRow) bool {
	return m.keyed && slices.ContainsFunc(m.rows, func(o modelRow) bool { return o.part == r.part && canonical(o.id) == canonical(r.id) })
}

func (m *model) text(r modelRow) string {
	var out []string
	for _, c := range m.columns {
		out = append(out, c.of(r))
	}
	return strings.Join(out, "|")
}

func (m *model) want() string {
	rows := map[string]int{}
	for _, r := range m.rows {
		if m.passes(r) {
			rows[m.text(r)]++
		}
	}
	return listed(rows)
}

func (m *model) got() string { return listed(m.target) }

func listed(rows map[string]int) string {
	var out []string
	for _, text := range slices.Sorted(maps.Keys(rows)) {
		out = append(out, fmt.Sprintf("%s x%d", text, rows[text]))
	}
	return strings.Join(out, "  ")
}

// tuple gives a row as an event has it.
func (m *model) tuple(r modelRow, unchanged bool) change.Tuple {
	big := r.big
	if unchanged {
		big = same
	}
	return tuple(r.note, r.id, numberText(r.n), r.part, big)
}

// old gives the old row as the replica identity lets it be seen; with keyOnly where an event has nothing but a key.
func (m *model) old(r modelRow) change.Tuple {
	if m.full {
		return m.tuple(r, false)
	}
	return tuple(null, r.id, null, r.part, null)
}

// change makes one change at the source, and folds it.
func (m *model) change(f *Fold) error {
	r := m.newRow()
	switch op := m.rnd.IntN(12); {
	case op == 0:
		m.rows = nil
		m.log = append(m.log, "truncate")
		return f.Add(&change.Event{Op: change.Truncate}, false, false)
	case op < 4 || len(m.rows) == 0:
		if m.taken(r) {
			return nil
		}
		m.rows = append(m.rows, r)
		m.log = append(m.log, "insert "+m.text(r))
		return f.Add(&change.Event{Op: pickOne(m.rnd, change.Create, change.Create, change.Read), After: m.tuple(r, false)}, false, false)
	}
	i := m.rnd.IntN(len(m.rows))
	was := m.rows[i]
	switch op := m.rnd.IntN(8); {
	case op == 0 && m.keyed: // a chunk of a snapshot comes again
		return f.Add(&change.Event{Op: change.Read, After: m.tuple(was, false)}, false, false)
	case op < 3:
		m.rows = slices.Delete(m.rows, i, i+1)
		m.log = append(m.log, "delete "+m.text(was))
		return f.Add(&change.Event{Op: change.Delete, Before: m.old(was)}, false, false)
	}
	r.id, r.part = was.id, was.part
	unchanged := m.rnd.IntN(2) == 0
	if unchanged {
		r.big = was.big
	}
	moves := m.rnd.IntN(4) == 0
	if moves {
		r.id, r.part = pickOne(m.rnd, "1", "2", "2.50", "3"), pickOne(m.rnd, "a", "b")
		m.rows = slices.Delete(m.rows, i, i+1)
		if m.taken(r) {
			m.rows = slices.Insert(m.rows, i, was)
			return nil
		}
		m.rows = slices.Insert(m.rows, i, was)
	}
	if !m.full && (m.readsBig || !m.passes(was)) {
		unchanged = false // that such a change is refused, TestEntersWithoutItsValues shows
	}
	if m.reads("size") && !m.full {
		unchanged = false
	}
	m.rows[i] = r
	m.log = append(m.log, fmt.Sprintf("update %s to %s, unchanged %v", m.text(was), m.text(r), unchanged))
	if m.keyed && (r.id != was.id || r.part != was.part) {
		ins := &change.Event{Op: change.Create, After: m.tuple(r, unchanged)}
		del := &change.Event{Op: change.Delete, Before: m.old(was)}
		if m.full && unchanged {
			ins.After = m.tuple(r, false) // capture has the old row, and puts them together
		}
		if m.rnd.IntN(2) == 0 || unchanged {
			return f.Move(del, ins)
		}
		if err := f.Add(del, true, false); err != nil { // its halves went to two partitions
			return err
		}
		return f.Add(ins, true, false)
	}
	ev := &change.Event{Op: change.Update, After: m.tuple(r, unchanged)}
	if m.full {
		ev.Before = m.old(was)
	}
	return f.Add(ev, false, false)
}

func (m *model) reads(column string) bool {
	return slices.ContainsFunc(m.columns, func(c written) bool { return c.name == column })
}

// write executes a result on the target.
func (m *model) write(t *testing.T, r *Result) {
	t.Helper()
	if r.Truncate {
		clear(m.target)
	}
	value := func(s *Set, i, c int) string {
		v, state := s.Value(i, c)
		return text(change.Value{State: state, Text: v})
	}
	// key gives what tells a row of the target apart, of a text of m.text or of a key of a set.
	keyOf := func(parts []string) string {
		var key []string
		for i, c := range m.columns {
			if c.key {
				key = append(key, canonicalPart(parts[i]))
			}
		}
		return strings.Join(key, "|")
	}
	keyAt := func(s *Set, i int) string {
		parts := make([]string, len(m.columns))
		for k, c := range r.Plan.Key {
			parts[c] = string(s.Key(i, k))
		}
		return keyOf(parts)
	}
	find := func(key string) (string, bool) {
		for row := range m.target {
			if keyOf(strings.Split(row, "|")) == key {
				return row, true
			}
		}
		return "", false
	}
	remove := func(key string) (row string) {
		row, _ = find(key)
		delete(m.target, row)
		return row
	}
	merged := func(s *Set, i int, old string) string {
		parts, before := make([]string, len(m.columns)), strings.Split(old, "|")
		for c := range parts {
			if parts[c] = value(s, i, c); parts[c] == same {
				if old == "" {
					t.Fatalf("nothing to take column %d from", c)
				}
				parts[c] = before[c]
			}
		}
		return strings.Join(parts, "|")
	}
	for i := range r.Deletes.Len() {
		remove(keyAt(&r.Deletes, i))
	}
	var moved []string
	for i := range r.Moves.Len() {
		moved = append(moved, merged(&r.Moves, i, remove(keyAt(&r.Moves, i))))
	}
	for _, row := range moved {
		m.target[row]++
	}
	for i := range r.Updates.Len() {
		old := remove(keyAt(&r.Updates, i))
		m.target[merged(&r.Updates, i, old)]++
	}
	for i := range r.Upserts.Len() {
		row := merged(&r.Upserts, i, "")
		remove(keyOf(strings.Split(row, "|")))
		m.target[row]++
	}
	for i := range r.Removals.Len() {
		row := merged(&r.Removals, i, "")
		if m.target[row] -= r.Removals.Times(i); m.target[row] < 0 {
			t.Fatalf("removes more of %s than there are", row)
		}
		if m.target[row] == 0 {
			delete(m.target, row)
		}
	}
	for i := range r.Inserts.Len() {
		m.target[merged(&r.Inserts, i, "")]++
	}
}

func canonicalPart(s string) string {
	if s != "" && s[0] >= '0' && s[0] <= '9' {
		return canonical(s)
	}
	return s
}

// TestEntersWithoutItsValues: a row that an UPDATE takes into the filter, without the values that it does not carry, is
// not there to take them from.
func TestEntersWithoutItsValues(t *testing.T) {
	rules, err := rule.New(nil, []rule.Table{{From: "*.*", Filter: "a == 'in'"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	route, _ := rules.Match("s", "public", "t")
	plan, err := route.Compile(newPlan(t, true).Relation)
	if err != nil {
		t.Fatal(err)
	}
	is := func(want string, lost int, in ...string) {
		t.Helper()
		f := steps(t, plan, in...)
		r := f.Result(false)
		if got := parts(r); got != want || len(r.Lost) != lost {
			t.Errorf("%q: got %s, %d lost", in, got, len(r.Lost))
		}
	}
	is("del 1", 1, "u 1,out,b,c", "u 1,in,=,c")
	is("upd 1,in,=,c", 0, "u 1,in,=,c") // whether it was there, the warehouse sees
	is("up 1,in,b,c", 0, "u 1,out,=,=", "u 1,in,b,c")
	is("del 1", 0, "c 1,in,b,c", "u 1,out,=,c")
	// A snapshot of some columns does not say whether the row passes. It has not changed: where it is, it stays.
	is("upd 1,=,=,c", 0, "r 1,=,=,c")
	is("up 1,in,b,new", 0, "u 1,in,b,c", "r 1,=,=,new")
	is("del 1", 1, "u 1,out,b,c", "r 1,=,=,c")
	is("upd 1,in,=,c", 0, "r 1,in,=,c")
	is("del 1", 0, "r 1,out,=,c")
	is("", 0, "c 1,out,b,c")
	is("del 1", 0, "r 1,out,b,c")
	is("del 1", 0, "d 1")
	is("del 1", 0, "m 1 > 2,out,b,c")
	is("del 1; up 2,in,b,c", 0, "m 1 > 2,in,b,c")
	if f := steps(t, plan, "c 1,out,b,c", "u 1,out,b,c", "u 1,in,b,c"); f.Counts().Left[Insert] != 1 || f.Counts().Left[Update] != 1 || f.Counts().Applied[Update] != 1 {
		t.Errorf("counts %+v", f.Counts())
	}
}
