package batch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// newPlan makes a plan of a table (id numeric, a, b, c text), with id as key or without one.
func newPlan(t testing.TB, keyed bool, ignore ...string) *rule.Plan {
	t.Helper()
	return planOf(t, keyed, rule.Table{From: "*.*", Ignore: ignore})
}

func planOf(t testing.TB, keyed bool, table rule.Table) *rule.Plan {
	t.Helper()
	rel := &schema.Relation{Schema: "public", Name: "t", Columns: []schema.Column{
		{Name: "id", Type: schema.Type{OID: schema.OIDNumeric, Name: "numeric"}, NotNull: true},
		{Name: "a", Type: schema.Type{OID: schema.OIDText, Name: "text"}},
		{Name: "b", Type: schema.Type{OID: schema.OIDText, Name: "text"}},
		{Name: "c", Type: schema.Type{OID: schema.OIDText, Name: "text"}},
	}}
	if keyed {
		rel.Key = []int{0}
	}
	set, err := rule.New(nil, []rule.Table{table}, "")
	if err != nil {
		t.Fatal(err)
	}
	route, _ := set.Match("s", "public", "t")
	plan, err := route.Compile(rel)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

const (
	null = "∅"
	same = "=" // unchanged
)

func tuple(values ...string) change.Tuple {
	out := make(change.Tuple, len(values))
	for i, v := range values {
		switch v {
		case null:
		case same:
			out[i].State = change.Unchanged
		default:
			out[i] = change.Value{State: change.Present, Text: []byte(v)}
		}
	}
	return out
}

func key(id string) change.Tuple { return tuple(id, null, null, null) }

func text(v change.Value) string {
	switch v.State {
	case change.Null:
		return null
	case change.Unchanged:
		return same
	}
	return string(v.Text)
}

// table is a model of the target: rows by key, in the spelling in which the key was written. The last value of a row is one that no event carries.
type table map[string][]string

func canonical(id string) string {
	t := schema.Type{OID: schema.OIDNumeric}
	return string(t.AppendCanonical(nil, []byte(id)))
}

func (m table) String() string {
	var lines []string
	for _, row := range m {
		lines = append(lines, strings.Join(row, ","))
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

// overlay puts row over old, whose values replace the unchanged ones.
func overlay(old []string, row change.Tuple) []string {
	out := make([]string, len(row)+1)
	copy(out, old)
	for i := range row {
		if row[i].State != change.Unchanged {
			out[i] = text(row[i])
		}
	}
	return out
}

func partial(row change.Tuple) bool {
	return slices.ContainsFunc(row, func(v change.Value) bool { return v.State == change.Unchanged })
}

// one applies one event, or one key change, as a database would by itself.
func (m table) one(ev *change.Event, ins *change.Event) (lost bool) {
	switch {
	case ins != nil:
		from, to := canonical(text(ev.Before[0])), canonical(text(ins.After[0]))
		old, ok := m[from]
		delete(m, from)
		if !ok && partial(ins.After) {
			return true
		}
		m[to] = overlay(old, ins.After)
	case ev.Op == change.Delete:
		delete(m, canonical(text(ev.Before[0])))
	case ev.Op == change.Truncate:
		clear(m)
	default:
		id := canonical(text(ev.After[0]))
		old, ok := m[id]
		if !ok && partial(ev.After) {
			return true
		}
		m[id] = overlay(old, ev.After)
	}
	return false
}

// apply executes a result in the order that it asks for, and checks what it promises.
func (m table) apply(t *testing.T, r *Result) (lost int) {
	t.Helper()
	lost = len(r.Lost)
	if r.Truncate {
		clear(m)
	}
	for i := range r.Deletes.Len() {
		// The target may tell spellings of a key apart, so a delete must name the one that is there, if any is.
		delete(m, canonical(string(r.Deletes.Key(i, 0))))
	}
	row := func(s *Set, i int, old []string) []string {
		out := make([]string, 5)
		copy(out, old)
		for c := range out[:4] {
			if v, state := s.Value(i, c); state != change.Unchanged {
				out[c] = text(change.Value{State: state, Text: v})
			} else if old == nil {
				t.Fatalf("nothing to take column %d from", c)
			}
		}
		return out
	}
	var moved [][]string
	for i := range r.Moves.Len() {
		from := canonical(string(r.Moves.Key(i, 0)))
		old, ok := m[from]
		if !ok && i >= r.Carried {
			lost++
			continue
		}
		delete(m, from)
		moved = append(moved, row(&r.Moves, i, old))
	}
	for _, row := range moved {
		id := canonical(row[0])
		if _, there := m[id]; there {
			t.Fatalf("move onto the row %q", id)
		}
		m[id] = row
	}
	for i := range r.Updates.Len() {
		v, _ := r.Updates.Value(i, 0)
		id := canonical(string(v))
		if _, ok := m[id]; !ok {
			lost++
			continue
		}
		m[id] = row(&r.Updates, i, m[id])
	}
	seen := map[string]bool{}
	for i := range r.Upserts.Len() {
		out := row(&r.Upserts, i, nil)
		id := canonical(out[0])
		if seen[id] {
			t.Fatalf("two upserts of %q", id)
		}
		seen[id] = true
		if old, there := m[id]; there {
			out[4] = old[4]
		}
		m[id] = out
	}
	return lost
}

// TestFoldEqualsOneByOne: a fold does to a table what its events do one by one, for all sequences of events that a
// source can send: an update only of a row that is there, an insert only where there is none. Where it is asked to, also to what somebody has written into rows.
func TestFoldEqualsOneByOne(t *testing.T) {
	for _, carry := range []bool{false, true} {
		t.Run(fmt.Sprint(carry), func(t *testing.T) { foldEqualsOneByOne(t, carry) })
	}
}

func foldEqualsOneByOne(t *testing.T, carry bool) {
	plan := newPlan(t, true)
	var f Fold
	for seed := range uint64(4000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		ids := []string{"1", "1.0", "2", "3", "4.50", "4.5"}[:3+rnd.IntN(4)]
		value := func() string { return fmt.Sprint("v", rnd.IntN(50)) }
		begin := table{}
		for _, id := range ids {
			if rnd.IntN(2) == 0 {
				begin[canonical(id)] = []string{id, value(), value(), null, ""}
				if carry {
					begin[canonical(id)][4] = "of " + id
				}
			}
		}
		want, got := table{}, table{}
		for id, row := range begin {
			want[id], got[id] = row, row
		}
		f.Begin(plan)
		var log []string
		for range 1 + rnd.IntN(12) {
			id := ids[rnd.IntN(len(ids))]
			row := tuple(id, value(), []string{value(), null, same}[rnd.IntN(3)], []string{value(), same}[rnd.IntN(2)])
			whole := tuple(id, value(), value(), null)
			_, there := want[canonical(id)]
			ev, ins := &change.Event{}, (*change.Event)(nil)
			switch op := rnd.IntN(12); {
			case op == 0:
				ev.Op = change.Truncate
			case !there && op < 9:
				ev.Op, ev.After = []change.Op{change.Create, change.Read}[rnd.IntN(2)], whole
			case !there:
				continue
			case op < 5:
				ev.Op, ev.After = change.Update, row
				// The key keeps its spelling: another one would be a change of the key.
				ev.After[0].Text = []byte(want[canonical(id)][0])
			case op < 7:
				ev.Op, ev.Before = change.Delete, key(want[canonical(id)][0])
			case op == 7:
				ev.Op, ev.After = change.Read, whole
			default:
				to := ids[rnd.IntN(len(ids))]
				if _, taken := want[canonical(to)]; taken && canonical(to) != canonical(id) {
					continue
				}
				ev.Op, ev.Before = change.Delete, key(want[canonical(id)][0])
				row[0].Text = []byte(to)
				ins = &change.Event{Op: change.Create, After: row}
			}
			log = append(log, describe(ev, ins))
			want.one(ev, ins)
			var err error
			if ins != nil {
				err = f.Move(ev, ins)
			} else {
				err = f.Add(ev, false, false)
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if lost := got.apply(t, f.Result(carry)); got.String() != want.String() || lost > 0 {
			t.Fatalf("seed %d: from %s\nby %s\ngot  %s, %d lost\nwant %s", seed, begin, strings.Join(log, "; "), got, lost, want)
		}
	}
}

func describe(ev, ins *change.Event) string {
	row := func(t change.Tuple) string {
		var out []string
		for _, v := range t {
			out = append(out, text(v))
		}
		return strings.Join(out, ",")
	}
	s := fmt.Sprintf("%c %s%s", ev.Op, row(ev.Before), row(ev.After))
	if ins != nil {
		s += " -> " + row(ins.After)
	}
	return s
}

// steps folds events: "c 1,a,b,c", "u …", "r …", "d 1", "t", "m 1 > 2,a,b,c".
func steps(t *testing.T, plan *rule.Plan, steps ...string) *Fold {
	t.Helper()
	f := &Fold{}
	f.Begin(plan)
	for _, s := range steps {
		op, rest, _ := strings.Cut(s, " ")
		row := tuple(strings.Split(rest, ",")...)
		var err error
		switch op {
		case "t":
			err = f.Add(&change.Event{Op: change.Truncate}, false, false)
		case "d":
			if len(row) == 1 {
				row = key(rest)
			}
			err = f.Add(&change.Event{Op: change.Delete, Before: row}, false, false)
		case "m":
			from, to, _ := strings.Cut(rest, " > ")
			err = f.Move(&change.Event{Op: change.Delete, Before: key(from)}, &change.Event{Op: change.Create, After: tuple(strings.Split(to, ",")...)})
		case "U": // keyless update: old > new
			from, to, _ := strings.Cut(rest, " > ")
			err = f.Add(&change.Event{Op: change.Update, Before: tuple(strings.Split(from, ",")...), After: tuple(strings.Split(to, ",")...)}, false, false)
		default:
			err = f.Add(&change.Event{Op: change.Op(op[0]), After: row}, false, false)
		}
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	return f
}

// parts writes a result down: "del 1; upd 1,a,=,=; up …".
func parts(r *Result) string {
	var out []string
	if r.Truncate {
		out = append(out, "truncate")
	}
	list := func(name string, s *Set, withKey, withRow bool) {
		var lines []string
		for i := range s.Len() {
			line := name
			if withKey {
				line += " " + string(s.Key(i, 0))
			}
			if withRow {
				var row []string
				for c := range 4 {
					v, state := s.Value(i, c)
					row = append(row, text(change.Value{State: state, Text: v}))
				}
				line += " " + strings.Join(row, ",")
			}
			if name == "out" {
				line += fmt.Sprintf(" x%d", s.Times(i))
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		out = append(out, lines...)
	}
	list("del", &r.Deletes, true, false)
	list("move", &r.Moves, true, true)
	list("upd", &r.Updates, false, true)
	list("up", &r.Upserts, false, true)
	list("out", &r.Removals, false, true)
	list("in", &r.Inserts, false, true)
	return strings.Join(out, "; ")
}

func TestFold(t *testing.T) {
	keyed, keyless := newPlan(t, true), newPlan(t, false)
	is := func(plan *rule.Plan, want string, in ...string) {
		t.Helper()
		if got := parts(steps(t, plan, in...).Result(false)); got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", in, got, want)
		}
	}
	// An insert and an update without the TOASTed value: the value is the insert's.
	is(keyed, "up 1,b,big,∅", "c 1,a,big,∅", "u 1,b,=,∅")
	// Updates with different columns left out.
	is(keyed, "up 1,c,y,z", "u 1,a,=,z", "u 1,c,y,=") // together they are the whole row
	is(keyed, "upd 1,c,=,=", "u 1,a,=,=", "u 1,c,=,=")
	is(keyed, "up 1,c,y,z", "u 1,a,=,z", "u 1,c,y,=", "u 1,c,y,z")
	is(keyed, "del 1", "c 1,a,b,c", "d 1")
	is(keyed, "up 1,x,y,z", "d 1", "c 1,x,y,z")
	is(keyed, "truncate; up 2,x,y,z", "c 1,a,b,c", "t", "c 2,x,y,z")
	// A key that changes takes along what the event does not carry.
	is(keyed, "del 2; move 1 2,a,=,=", "m 1 > 2,a,=,=")
	is(keyed, "del 1; up 2,a,b,c", "m 1 > 2,a,b,c")
	is(keyed, "del 1; up 2,x,b,c", "c 1,a,b,c", "m 1 > 2,x,=,=")
	// A swap through a third key.
	is(keyed, "del 3; move 1 2,a,=,=; move 2 1,b,=,=", "m 1 > 3,a,=,=", "m 2 > 1,b,=,=", "m 3 > 2,a,=,=")
	// A chain onto a key that another row leaves.
	is(keyed, "del 1010; move 10 1010,a,=,=; move 11 10,b,=,=", "m 10 > 1010,a,=,=", "m 11 > 10,b,=,=")
	// There and back again.
	is(keyed, "del 2; upd 1,b,=,=", "m 1 > 2,a,=,=", "m 2 > 1,b,=,=")
	// Equal keys in two spellings.
	is(keyed, "del 1.0; up 1.00,x,b,c", "c 1.0,a,b,c", "u 1.00,x,b,c")
	is(keyed, "move 1.0 1.00,x,=,=", "m 1.0 > 1.00,x,=,=")

	is(keyless, "in 1,a,b,c; in 1,a,b,c", "c 1,a,b,c", "c 1,a,b,c")
	is(keyless, "in 1,a,b,c", "c 1,a,b,c", "c 1,a,b,c", "d 1,a,b,c")
	is(keyless, "out 1,a,∅,c x2", "d 1,a,∅,c", "d 1,a,∅,c")
	is(keyless, "out 1,a,b,c x1; in 1,a,b,c", "d 1,a,b,c", "c 1,a,b,c")
	is(keyless, "out 1,a,b,c x1; in 1,x,b,c", "U 1,a,b,c > 1,x,b,c")
	is(keyless, "out 1,a,b,c x1; in 1,x,b,c", "U 1,a,b,c > 1,x,=,c")
	is(keyless, "truncate; in 1,,∅,c", "c 1,a,b,c", "t", "c 1,,∅,c")

	is(newPlan(t, true, "delete", "truncate"), "up 1,a,b,c", "c 1,a,b,c", "d 1", "t")
	is(newPlan(t, true, "delete"), "del 1; up 2,a,b,c", "m 1 > 2,a,b,c")
	is(newPlan(t, true, "update"), "", "u 1,a,b,c", "m 1 > 2,a,b,c")
	is(newPlan(t, true, "insert"), "upd 1,a,=,c", "c 1,a,b,c", "r 1,a,b,c", "u 1,a,=,c")
}

func TestLost(t *testing.T) {
	f := steps(t, newPlan(t, true), "d 1", "u 1,a,=,c")
	if r := f.Result(false); len(r.Lost) != 1 || parts(r) != "del 1" {
		t.Errorf("got %s and %d lost", parts(r), len(r.Lost))
	}
}

func TestReload(t *testing.T) {
	is := func(reload, truncate bool, plan *rule.Plan) {
		t.Helper()
		f := &Fold{}
		f.Begin(plan)
		if err := f.Add(&change.Event{Op: change.Truncate}, false, true); err != nil {
			t.Fatal(err)
		}
		if r := f.Result(false); r.Reload != reload || r.Truncate != truncate || f.Empty() == (reload || truncate) {
			t.Errorf("reload %v, truncate %v", r.Reload, r.Truncate)
		}
	}
	is(true, false, newPlan(t, true))
	is(false, false, newPlan(t, true, "truncate"))
	is(false, false, newPlan(t, true, "delete"))
	is(false, true, newPlan(t, false, "truncate"))
}

func TestIncompleteEvents(t *testing.T) {
	refused := func(keyed bool, ev *change.Event) {
		t.Helper()
		f := &Fold{}
		f.Begin(newPlan(t, keyed))
		if err := f.Add(ev, false, false); err == nil {
			t.Errorf("%s is taken", describe(ev, nil))
		}
	}
	refused(true, &change.Event{Op: change.Delete})
	refused(true, &change.Event{Op: change.Create})
	refused(true, &change.Event{Op: change.Update, After: tuple(same, "a", "b", "c")})
	refused(true, &change.Event{Op: change.Create, After: tuple(null, "a", "b", "c")})
	refused(true, &change.Event{Op: change.Create, After: tuple("1")})
	refused(true, &change.Event{Op: 'x'})
	refused(false, &change.Event{Op: change.Update, After: tuple("1", "a", "b", "c")})
	refused(false, &change.Event{Op: change.Create, After: tuple("1", "a", same, "c")})
}

// TestKeylessEqualsOneByOne: the multiset of rows is the same, and each delete is executed or cancels an insert.
func TestKeylessEqualsOneByOne(t *testing.T) {
	plan := newPlan(t, false)
	var f Fold
	for seed := range uint64(1000) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		row := func() []string {
			return []string{fmt.Sprint(rnd.IntN(2)), []string{"", "x", null}[rnd.IntN(3)], "b", null}
		}
		want, got := map[string]int{}, map[string]int{}
		for range rnd.IntN(6) {
			r := strings.Join(row(), ",")
			want[r]++
			got[r]++
		}
		f.Begin(plan)
		for range rnd.IntN(15) {
			r := row()
			name := strings.Join(r, ",")
			ev := &change.Event{Op: change.Create, After: tuple(r...)}
			if want[name] > 0 && rnd.IntN(2) == 0 {
				ev = &change.Event{Op: change.Delete, Before: tuple(r...)}
				want[name]--
			} else {
				want[name]++
			}
			if err := f.Add(ev, false, false); err != nil {
				t.Fatal(err)
			}
		}
		r := f.Result(false)
		name := func(s *Set, i int) string {
			var out []string
			for c := range 4 {
				v, state := s.Value(i, c)
				out = append(out, text(change.Value{State: state, Text: v}))
			}
			return strings.Join(out, ",")
		}
		for i := range r.Removals.Len() {
			n := name(&r.Removals, i)
			if got[n] -= r.Removals.Times(i); got[n] < 0 {
				t.Fatalf("seed %d: removes more %q than there are", seed, n)
			}
		}
		for i := range r.Inserts.Len() {
			got[name(&r.Inserts, i)]++
		}
		for n := range want {
			if want[n] != got[n] {
				t.Fatalf("seed %d: %d rows %q, want %d", seed, got[n], n, want[n])
			}
		}
	}
}

// TestRelease: what one large batch has needed is let go of when those behind it are small, and kept while they are large.
func TestRelease(t *testing.T) {
	plan := newPlan(t, true)
	var f Fold
	batch := func(n int) {
		f.Begin(plan)
		for i := range n {
			if err := f.Add(&change.Event{Op: change.Create, After: tuple(fmt.Sprint(i), "a", "b", "c")}, false, false); err != nil {
				t.Fatal(err)
			}
		}
		f.Release()
	}
	batch(50_000)
	large := cap(f.arena)
	batch(40_000)
	if cap(f.arena) < large {
		t.Errorf("%d bytes are left of %d, and are still needed", cap(f.arena), large)
	}
	for range 40 {
		batch(10)
	}
	if cap(f.arena) > large/10 {
		t.Errorf("%d bytes are kept of %d", cap(f.arena), large)
	}
}
