package batch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// version is a row of a history, as a model of the target has it.
type version struct {
	row      []string
	from, to int64 // to is open for one that is valid still
	deleted  bool
}

const open = int64(1) << 62

// past is a history: the versions of each key, in their order, and the keys that a reload has noted.
type past struct {
	versions map[string][]version
	noted    map[string]bool // nil where no reload is open
	reload   int64
}

func (p *past) String() string {
	var lines []string
	for _, list := range p.versions {
		for _, v := range list {
			lines = append(lines, fmt.Sprintf("%s [%d %d) %v", strings.Join(v.row, ","), v.from, v.to, v.deleted))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// valid gives the version of a key that is valid, nil for none.
func (p *past) valid(id string) *version {
	if list := p.versions[id]; len(list) > 0 && list[len(list)-1].to == open {
		return &list[len(list)-1]
	}
	return nil
}

func (p *past) end(id string, at int64, deleted bool) {
	if v := p.valid(id); v != nil {
		v.to, v.deleted = max(at, v.from+1), deleted
	}
}

// put adds a version.
func (p *past) put(id string, row []string, at int64, op change.Op) {
	if p.noted != nil {
		p.noted[id] = true
	}
	v := p.valid(id)
	switch {
	case v != nil && op == change.Read && slices.Equal(v.row, row):
		return
	case v != nil:
		at = max(at, v.from+1)
		p.end(id, at, false)
	case len(p.versions[id]) > 0:
		at = max(at, p.versions[id][len(p.versions[id])-1].to)
	case op == change.Read:
		at = rule.Ever
	}
	p.versions[id] = append(p.versions[id], version{row, at, open, false})
}

// one applies one event, or one change of a key, by itself.
func (p *past) one(ev, ins *change.Event, reload bool) (lost bool) {
	at := ev.Tx.CommitTime
	switch {
	case ins != nil:
		from, to := canonical(text(ev.Before[0])), canonical(text(ins.After[0]))
		v := p.valid(from)
		if v == nil && partial(ins.After) {
			return true
		}
		var old []string
		if v != nil {
			old = v.row
		}
		row := overlay(old, ins.After)[:4]
		if from != to {
			p.end(from, at, false)
			p.gone(to)
		}
		p.put(to, row, at, change.Update)
	case ev.Op == change.Delete:
		p.end(canonical(text(ev.Before[0])), at, true)
	case ev.Op == change.Truncate && reload:
		p.noted, p.reload = map[string]bool{}, at
	case ev.Op == change.Truncate:
		for id := range p.versions {
			p.end(id, at, true)
		}
	default:
		id := canonical(text(ev.After[0]))
		v := p.valid(id)
		if v == nil && partial(ev.After) {
			return true
		}
		var old []string
		if v != nil {
			old = v.row
		}
		row := overlay(old, ev.After)[:4]
		if ev.Op == change.Create {
			p.gone(id)
		}
		p.put(id, row, at, ev.Op)
	}
	return false
}

// gone ends the version of a key of which nothing has come since a reload began, and that is inserted now.
func (p *past) gone(id string) {
	if p.noted != nil && !p.noted[id] {
		p.end(id, p.reload, true)
	}
}

// sweep ends a reload.
func (p *past) sweep() {
	for id := range p.versions {
		p.gone(id)
	}
	p.noted = nil
}

// apply executes a result as the warehouse does.
func (p *past) apply(t *testing.T, r *Result) (lost int) {
	t.Helper()
	if r.Reload {
		p.noted, p.reload = map[string]bool{}, r.TruncatedAt
	}
	id := func(s *Set, i int) string { return canonical(string(s.Key(i, 0))) }
	changed := map[string]bool{}
	for i := range r.Keys.Len() {
		list := p.versions[id(&r.Keys, i)]
		changed[id(&r.Keys, i)] = true
		if len(list) == 0 {
			continue
		}
		last := list[len(list)-1]
		found := Last{There: true, Open: last.to == open, At: last.to, Noted: p.noted[id(&r.Keys, i)]}
		if found.Open {
			found.At = last.from
		}
		r.Found(i, found)
	}
	rowOf := func(s *Set, i int) []string {
		out := make([]string, 4)
		for c := range out {
			v, state := s.Value(i, c)
			out[c] = text(change.Value{State: state, Text: v})
		}
		return out
	}
	again := r.Comparable()
	for i := range again.Len() {
		var mask []byte
		for c, value := range rowOf(&again, i) {
			mask = append(mask, "01"[b2i(value == p.valid(id(&again, i)).row[c])])
		}
		r.Compared(&again, i, mask)
	}
	reload := int64(0)
	if p.noted != nil {
		reload = p.reload
	}
	r.Resolve(reload)
	for i := range r.Noted.Len() {
		if p.noted != nil {
			v, _ := r.Noted.Value(i, 0)
			p.noted[canonical(string(v))] = true
		}
	}
	if r.Truncate {
		for key := range p.versions {
			if !changed[key] {
				p.end(key, r.TruncatedAt, true)
			}
		}
	}
	added := func(s *Set, i, c int) string {
		v, state := s.Value(i, 4+c)
		if state != change.Present {
			t.Fatalf("no value for added column %d", c)
		}
		return string(v)
	}
	time := func(s *Set, i, c int) int64 {
		if v := added(s, i, c); v == "infinity" {
			return open
		}
		return micros(t, added(s, i, c))
	}
	for i := range r.Ends.Len() {
		v := p.valid(id(&r.Ends, i))
		if v == nil || string(r.Ends.AppendBase(nil, i)) != string(AppendTime(nil, v.from)) {
			t.Fatalf("ends a version of %s that is not valid", id(&r.Ends, i))
		}
	}
	type made struct {
		id string
		version
	}
	var add []made
	take := func(s *Set) {
		for i := range s.Len() {
			row := rowOf(s, i)
			if slices.Contains(row, same) {
				if s != &r.Copies {
					t.Fatal("a version lacks values")
				}
				var found bool
				for _, v := range p.versions[id(s, i)] {
					if string(s.AppendBase(nil, i)) == string(AppendTime(nil, v.from)) {
						found = true
						for c := range row {
							if row[c] == same {
								row[c] = v.row[c]
							}
						}
					}
				}
				if !found {
					t.Fatal("a version lacks the one that it has values of")
				}
			}
			add = append(add, made{canonical(row[0]), version{row, time(s, i, rule.AddedFrom), time(s, i, rule.AddedTo), added(s, i, rule.AddedDeleted) == "t"}})
		}
	}
	take(&r.Copies)
	take(&r.Inserts)
	for i := range r.Ends.Len() {
		v := p.valid(id(&r.Ends, i))
		v.to, v.deleted = time(&r.Ends, i, rule.AddedTo), added(&r.Ends, i, rule.AddedDeleted) == "t"
	}
	for _, m := range add {
		p.versions[m.id] = append(p.versions[m.id], m.version)
	}
	for key, list := range p.versions {
		slices.SortFunc(list, func(a, b version) int { return b2i(a.from > b.from) - b2i(a.from < b.from) })
		for i := range list {
			if list[i].from >= list[i].to || i > 0 && list[i-1].to > list[i].from {
				t.Fatalf("versions of %s overlap, or one is never valid:\n%s", key, p)
			}
		}
	}
	return len(r.Lost)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// micros reads what AppendTime writes near 1970.
func micros(t *testing.T, s string) int64 {
	t.Helper()
	if s == "-infinity" {
		return rule.Ever
	}
	var sec, us int64
	if _, err := fmt.Sscanf(s, "1970-01-01 00:00:%d.%d+00", &sec, &us); err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return sec*1_000_000 + us
}

// TestStoryEqualsOneByOne: wherever batches end, a history is what each change by itself would have made of it: with a
// source's clock that stands still and goes back, with changes of keys, with a table that is read anew after some of its
// changes were missed, and with the end of that coming sooner or later.
func TestStoryEqualsOneByOne(t *testing.T) {
	for _, first := range []string{"commit", "beginning"} {
		plan := planOf(t, true, rule.Table{From: "*.*", Mode: "history", History: rule.HistoryColumns{First: first}})
		for seed := range uint64(1500) {
			storyEqualsOneByOne(t, plan, seed, first == "commit")
		}
	}
}

func storyEqualsOneByOne(t *testing.T, plan *rule.Plan, seed uint64, atCommit bool) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 3))
	ids := []string{"1", "2", "3", "4.5", "4.50"}[:2+rnd.IntN(4)]
	value := func() string { return fmt.Sprint("v", rnd.IntN(3)) }
	want, got := &past{versions: map[string][]version{}}, &past{versions: map[string][]version{}}
	source := table{}
	var f Fold
	f.Begin(plan)
	var log []string
	clock, lost := int64(1000), [2]int{}
	sweepDue := false
	flush := func() {
		r := f.Result(false)
		if r.Reload {
			r.TruncatedAt = want.reload
		}
		lost[1] += got.apply(t, r)
		f.Begin(plan)
		if sweepDue && rnd.IntN(2) == 0 {
			got.sweep()
			sweepDue = false
		}
		log = append(log, "|")
	}
	event := func(ev, ins *change.Event, reload bool) {
		clock += []int64{0, 1, 2, 100, -50}[rnd.IntN(5)]
		ev.Tx.CommitTime = clock
		if ins != nil {
			ins.Tx.CommitTime = clock
		}
		log = append(log, fmt.Sprintf("%d %s", clock, describe(ev, ins)))
		if reload {
			flush()
			if got.noted != nil && sweepDue {
				got.sweep()
				sweepDue = false
			}
		}
		if !atCommit && ins == nil && ev.After != nil && len(want.versions[canonical(text(ev.After[0]))]) == 0 {
			// A first version is valid from the beginning, as that of a snapshot's row.
			lost[0] += b2i(want.one(&change.Event{Op: change.Read, After: ev.After, Tx: ev.Tx}, nil, false))
		} else {
			lost[0] += b2i(want.one(ev, ins, reload))
		}
		var err error
		if ins != nil {
			err = f.Move(ev, ins)
		} else {
			err = f.Add(ev, false, reload)
		}
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if rnd.IntN(4) == 0 {
			flush()
		}
	}
	readAnew := func() {
		event(&change.Event{Op: change.Truncate}, nil, true)
		var rows [][]string
		for _, row := range source {
			rows = append(rows, row[:4])
		}
		slices.SortFunc(rows, slices.Compare)
		for _, row := range rows {
			event(&change.Event{Op: change.Read, After: tuple(row...)}, nil, false)
		}
		want.sweep()
		sweepDue = true
	}
	for range 2 + rnd.IntN(14) {
		id := ids[rnd.IntN(len(ids))]
		row := tuple(id, value(), []string{value(), null, same}[rnd.IntN(3)], []string{value(), same}[rnd.IntN(2)])
		whole := tuple(id, value(), value(), null)
		old, there := source[canonical(id)]
		ev, ins := &change.Event{}, (*change.Event)(nil)
		switch op := rnd.IntN(14); {
		case op == 0 && sweepDue:
			continue // rows that are gone would be so since the TRUNCATE
		case op == 0:
			ev.Op = change.Truncate
		case op == 1:
			readAnew()
			continue
		case op == 2: // missed
			delete(source, canonical(id))
			readAnew()
			continue
		case !there && op < 10:
			ev.Op, ev.After = change.Create, whole
			// A row that nobody has announced; not while one would be taken for a part of the reading that is over.
			if !sweepDue && rnd.IntN(2) == 0 {
				ev.Op = change.Read
			}
		case !there:
			continue
		case op < 6:
			ev.Op, ev.After = change.Update, row
			ev.After[0].Text = []byte(old[0])
		case op < 8:
			ev.Op, ev.Before = change.Delete, key(old[0])
		case op < 10:
			sent := slices.Clone(old[:4])
			if rnd.IntN(2) == 0 { // a read of some columns
				sent[2], sent[3] = same, []string{old[3], same}[rnd.IntN(2)]
			}
			ev.Op, ev.After = change.Read, tuple(sent...)
		default:
			to := ids[rnd.IntN(len(ids))]
			if _, taken := source[canonical(to)]; taken && canonical(to) != canonical(id) || to == old[0] {
				continue
			}
			ev.Op, ev.Before = change.Delete, key(old[0])
			row[0].Text = []byte(to)
			ins = &change.Event{Op: change.Create, After: row}
		}
		source.one(ev, ins)
		event(ev, ins, false)
	}
	flush()
	if sweepDue {
		got.sweep()
	}
	if got.String() != want.String() || lost[0] != lost[1] {
		t.Fatalf("seed %d: by %s\ngot  %s\n%d lost\nwant %s\n%d lost", seed, strings.Join(log, "; "), got, lost[1], want, lost[0])
	}
}

func TestStoryIgnores(t *testing.T) {
	changes := func(want int, plan *rule.Plan, in ...string) {
		t.Helper()
		if r := steps(t, plan, in...).Result(false); r.Changes != want {
			t.Errorf("%q: %d changes, want %d", in, r.Changes, want)
		}
	}
	plan := func(ignore ...string) *rule.Plan {
		return planOf(t, true, rule.Table{From: "*.*", Mode: "history", Ignore: ignore})
	}
	changes(4, plan(), "c 1,a,b,c", "u 1,a,b,d", "d 1", "t")
	changes(2, plan("delete", "truncate"), "c 1,a,b,c", "u 1,a,b,d", "d 1", "t")
	changes(2, plan("update"), "c 1,a,b,c", "u 1,a,b,d", "d 1", "m 1 > 2,a,b,c")
	changes(2, plan("insert"), "c 1,a,b,c", "r 1,a,b,c", "u 1,a,b,d", "d 1")
}

func TestAppendTime(t *testing.T) {
	is := func(micros int64, want string) {
		t.Helper()
		if got := string(AppendTime(nil, micros)); got != want {
			t.Errorf("%d is written %s, want %s", micros, got, want)
		}
	}
	is(0, "1970-01-01 00:00:00.000000+00")
	is(1714564800000001, "2024-05-01 12:00:00.000001+00")
	is(rule.Ever, "-infinity")
	is(-62135596800000000, "0001-01-01 00:00:00.000000+00")
	is(-62135596800000001, "0001-12-31 23:59:59.999999+00 BC")
	is(253402300800000000, "10000-01-01 00:00:00.000000+00")
}

func BenchmarkStory(b *testing.B) {
	plan := planOf(b, true, rule.Table{From: "*.*", Mode: "history"})
	benchmark(b, plan, resolve)
}
