package batch

import (
	"fmt"
	"testing"

	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// A flush like the one before it takes no memory for its events: only a little for its result, however many they are.
func TestAllocations(t *testing.T) {
	of := func(i int, more ...*change.Event) []*change.Event {
		key := fmt.Sprint(i % 200)
		return append([]*change.Event{
			{Op: change.Create, After: tuple(key, "some text", "more text", null)},
			{Op: change.Update, After: tuple(key, "other text", same, "c")},
		}, more...)
	}
	keyed := func(i int) []*change.Event {
		if i%3 != 0 {
			return of(i)
		}
		return of(i, &change.Event{Op: change.Delete, Before: tuple(fmt.Sprint(i%200), null, null, null)})
	}
	keyless := func(i int) []*change.Event {
		row, other := tuple(fmt.Sprint(i), "a", "b", null), tuple(fmt.Sprint(i), "z", same, null)
		return []*change.Event{{Op: change.Create, After: row}, {Op: change.Update, Before: row, After: other}, {Op: change.Delete, Before: row}}
	}
	history, log := rule.Table{From: "*.*", Mode: "history"}, rule.Table{From: "*.*", Mode: "log"}
	for _, kernel := range []struct {
		name   string
		plan   *rule.Plan
		events func(int) []*change.Event
	}{
		{"clone", newPlan(t, true), keyed},
		{"append", newPlan(t, false), keyless},
		{"history", planOf(t, true, history), keyed},
		{"log", planOf(t, true, log), keyed},
		{"log without a key", planOf(t, false, log), keyless},
	} {
		var f Fold
		var events []*change.Event
		for i := range 500 {
			events = append(events, kernel.events(i)...)
		}
		for i, ev := range events {
			ev.Tx = change.Transaction{CommitTime: 1714564800000001 + int64(i), CommitLSN: change.LSN(i)}
			ev.Position = change.Position{Era: 1, CommitLSN: ev.Tx.CommitLSN, Seq: uint64(i)}
		}
		flush := func() {
			f.Begin(kernel.plan)
			for _, ev := range events {
				if err := f.Add(ev, false, false); err != nil {
					t.Fatal(err)
				}
			}
			if r := f.Result(false); kernel.plan.Mode == rule.History {
				resolve(r)
			}
		}
		for range 3 {
			flush()
		}
		const limit = 40
		if n := testing.AllocsPerRun(20, flush); n > limit {
			t.Errorf("%s: %v allocations for a flush of %d events, at most %d", kernel.name, n, len(events), limit)
		}
	}
}

// resolve finds a version of each key in the target.
func resolve(r *Result) {
	for i := range r.Keys.Len() {
		r.Found(i, Last{There: true, Open: true, At: 1})
	}
	r.Resolve(0)
}

func BenchmarkFold(b *testing.B) { benchmark(b, newPlan(b, true), func(*Result) {}) }

func BenchmarkFoldWithoutKey(b *testing.B) { benchmark(b, newPlan(b, false), func(*Result) {}) }

func benchmark(b *testing.B, plan *rule.Plan, finish func(*Result)) {
	b.Helper()
	var f Fold
	var events []*change.Event
	for i := range 10_000 {
		events = append(events, &change.Event{Op: change.Create, After: tuple(fmt.Sprint(i%5000), "some text", "more text", null), Tx: change.Transaction{CommitTime: 1714564800000001 + int64(i)}})
	}
	b.ReportAllocs()
	for b.Loop() {
		f.Begin(plan)
		for _, ev := range events {
			if err := f.Add(ev, false, false); err != nil {
				b.Fatal(err)
			}
		}
		finish(f.Result(false))
	}
	b.ReportMetric(float64(len(events)*b.N)/b.Elapsed().Seconds(), "events/s")
}
