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

// TestLogEqualsOneByOne: a log has every change, in order, whatever the key is.
func TestLogEqualsOneByOne(t *testing.T) {
	is := func(plan *rule.Plan, want []string, in ...string) {
		t.Helper()
		r := steps(t, plan, in...).Result(false)
		var got []string
		for i := range r.Inserts.Len() {
			var row []string
			for c := range 4 + 7 {
				if c > 4 && c < 4+rule.AddedBefore {
					continue // positions and times
				}
				v, state := r.Inserts.Value(i, c)
				row = append(row, text(change.Value{State: state, Text: v}))
			}
			got = append(got, strings.Join(row, ","))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q:\ngot  %q\nwant %q", in, got, want)
		}
	}
	log := planOf(t, true, rule.Table{From: "*.*", Mode: "log"})
	is(log, []string{
		"1,a,b,∅,c,∅,∅", "1,a,∅,∅,u,∅,{\"b\",\"c\"}", `1,∅,∅,∅,d,{"id":"1"},∅`, "2,\"\\,\n,∅,c,∅,{\"c\"}", "1,a,b,c,r,∅,∅", "∅,∅,∅,∅,t,∅,∅",
	}, "c 1,a,b,∅", "u 1,a,=,=", "m 1 > 2,\"\\,\n,=", "r 1,a,b,c", "t")
	is(planOf(t, false, rule.Table{From: "*.*", Mode: "log"}), []string{`1,a,x,∅,u,{"id":"1","a":"\u000a\"\\"},∅`}, "U 1,\n\"\\,∅,∅ > 1,a,x,∅")
	is(planOf(t, true, rule.Table{From: "*.*", Mode: "log", Ignore: []string{"delete"}}), []string{"∅,∅,∅,∅,t,∅,∅"}, "d 1", "t")
	is(planOf(t, true, rule.Table{From: "*.*", Mode: "log", Ignore: []string{"update", "truncate"}}), []string{`1,∅,∅,∅,d,{"id":"1"},∅`}, "d 1", "t", "u 1,a,b,c", "m 1 > 2,a,b,c")
}

// TestLogOfManyEqualsOneByOne: whatever comes, and wherever batches end, a log is what each change says by itself.
func TestLogOfManyEqualsOneByOne(t *testing.T) {
	for seed := range uint64(600) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		table := rule.Table{From: "*.*", Mode: "log"}
		for _, op := range []string{"insert", "update", "delete", "truncate"} {
			if rnd.IntN(6) == 0 {
				table.Ignore = append(table.Ignore, op)
			}
		}
		if rnd.IntN(2) == 0 {
			table.Filter = "a != 'out'"
		}
		logOfMany(t, rnd, seed, rnd.IntN(2) == 0, table)
	}
}

func logOfMany(t *testing.T, rnd *rand.Rand, seed uint64, keyed bool, table rule.Table) {
	t.Helper()
	plan := planOf(t, keyed, table)
	var f Fold
	f.Begin(plan)
	var want, got, in []string
	flush := func() {
		r := f.Result(false)
		for i := range r.Inserts.Len() {
			var row []string
			for c := range 4 + 7 {
				v, state := r.Inserts.Value(i, c)
				row = append(row, text(change.Value{State: state, Text: v}))
			}
			got = append(got, strings.Join(row, " "))
		}
		f.Begin(plan)
	}
	// says notes what a change says: op, row, whether the rows pass, in words of the manual alone.
	says := func(ev *change.Event, op string, row, before []string) {
		var old, unchanged []string
		for i, name := range []string{"id", "a", "b", "c"} {
			if before != nil && before[i] != null {
				old = append(old, fmt.Sprintf("%q:%q", name, before[i]))
			}
			if row[i] == same {
				row[i], unchanged = null, append(unchanged, fmt.Sprintf("%q", name))
			}
		}
		list := func(items []string) string {
			if items == nil {
				return null
			}
			return "{" + strings.Join(items, ",") + "}"
		}
		want = append(want, strings.Join(append(row, op, fmt.Sprint(ev.Position.Era), strings.ToLower(ev.Position.CommitLSN.String()), fmt.Sprint(ev.Position.Seq),
			string(AppendTime(nil, ev.Tx.CommitTime)), list(old), list(unchanged)), " "))
	}
	out := func(row []string) bool { return table.Filter != "" && row != nil && row[1] == "out" }
	ignored := func(op string) bool { return slices.Contains(table.Ignore, op) }
	some := func() []string {
		row := []string{fmt.Sprint(rnd.IntN(4)), []string{"in", "out"}[rnd.IntN(2)], []string{"x", null}[rnd.IntN(2)], []string{"y", null, same}[rnd.IntN(3)]}
		if !keyed && row[3] == same {
			row[3] = "z" // FULL sends all
		}
		return row
	}
	whole := func() []string {
		row := some()
		if row[3] == same {
			row[3] = null
		}
		return row
	}
	oldOf := func(id string) []string {
		if keyed {
			return []string{id, null, null, null}
		}
		return whole()
	}
	for n := range 1 + rnd.IntN(40) {
		ev := &change.Event{Position: change.Position{Era: 1, CommitLSN: change.LSN(1<<33 + n), Seq: uint64(2 * n)}, Tx: change.Transaction{CommitTime: int64(1_000_000 + rnd.IntN(1000))}}
		var ins *change.Event
		reload := false
		switch kind := rnd.IntN(7); {
		case kind < 2:
			row := whole()
			ev.Op, ev.After = []change.Op{change.Create, change.Read}[kind], tuple(row...)
			if !ignored("insert") && !out(row) {
				says(ev, string(rune(ev.Op)), row, nil)
			}
		case kind == 2:
			row := some()
			var old []string
			ev.Op, ev.After = change.Update, tuple(row...)
			if !keyed {
				old = whole()
				ev.Before = tuple(old...)
			}
			switch gone := []string{null, null, null, null}; {
			case ignored("update"):
			case !out(row) && old != nil && out(old): // the log does not know the row before
				says(ev, "u", row, nil)
			case !out(row):
				says(ev, "u", row, old)
			case old == nil: // nobody knows whether it passed before
				gone[0] = row[0]
				says(ev, "d", gone, old)
			case !out(old):
				says(ev, "d", gone, old)
			}
		case kind == 3:
			old := oldOf(fmt.Sprint(rnd.IntN(4)))
			ev.Op, ev.Before = change.Delete, tuple(old...)
			if !ignored("delete") && !out(old) {
				says(ev, "d", slices.Clone(old), old)
			}
		case kind < 6:
			ev.Op, reload = change.Truncate, kind == 5
			if !ignored("truncate") {
				says(ev, map[bool]string{true: "s", false: "t"}[reload], []string{null, null, null, null}, nil)
			}
		case keyed: // a key changes
			old, row := oldOf("1"), some()
			row[0], row[1] = "2", "in"
			second := *ev
			ev.Op, ev.Before = change.Delete, tuple(old...)
			ins = &second
			ins.Op, ins.After = change.Create, tuple(row...)
			ins.Position.Seq++
			if !ignored("update") {
				says(ev, "d", slices.Clone(old), old)
				says(ins, "c", row, nil)
			}
		default:
			continue
		}
		in = append(in, describe(ev, ins))
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
			in = append(in, "|")
		}
	}
	flush()
	if !slices.Equal(got, want) {
		t.Fatalf("seed %d, ignore %q, filter %q, keyed %v: %q\ngot  %q\nwant %q", seed, table.Ignore, table.Filter, keyed, in, got, want)
	}
}

func BenchmarkLog(b *testing.B) {
	benchmark(b, planOf(b, true, rule.Table{From: "*.*", Mode: "log"}), func(*Result) {})
}
