package warehouse

import (
	"fmt"
	"io"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// copied is a target of three columns, one of them masked and one computed, and a fold that has rows for it: of every third one the
// second column is not sent.
func copied(tb testing.TB, mode string) (*Target, func(rows int) *batch.Result) {
	tb.Helper()
	rel := &schema.Relation{Schema: "public", Name: "t", Key: []int{0}, Columns: []schema.Column{
		{Name: "id", Type: schema.Type{OID: schema.OIDInt8, Name: "bigint"}, NotNull: true},
		{Name: "v", Type: schema.Type{OID: schema.OIDText, Name: "text"}},
		{Name: "w", Type: schema.Type{OID: schema.OIDText, Name: "text"}},
	}}
	set, err := rule.New(nil, []rule.Table{{
		From: "*.*", Mode: mode, Columns: []rule.Column{{From: "id"}, {From: "v"}, {From: "w", Mask: "hash"}},
		Set: []rule.Computed{{Column: "x", Value: "id > 5"}},
	}}, "salt")
	if err != nil {
		tb.Fatal(err)
	}
	route, _ := set.Match("s", "public", "t")
	plan, err := route.Compile(rel)
	if err != nil {
		tb.Fatal(err)
	}
	t := &Target{plan: plan, name: "t", columns: []targetColumn{
		{name: "id", typ: "bigint", written: true},
		{name: "v", typ: "text", written: true},
		{name: "w", typ: "text", written: true},
		{name: "x", typ: "boolean", written: true},
	}}
	for _, added := range plan.Added {
		t.columns = append(t.columns, targetColumn{name: added.Name, typ: "text", written: true})
	}
	for k := range kinds {
		if mode == "clone" && (k == byEnd || k == byVersion) {
			continue
		}
		t.fields[k] = t.fieldsOf(k)
	}
	fold, ids := new(batch.Fold), []byte(nil)
	value := func(text []byte) change.Value { return change.Value{State: change.Present, Text: text} }
	v, w := value([]byte("a\tb, some text")), value([]byte("secret"))
	ev := &change.Event{Op: change.Update, After: make(change.Tuple, 3), Tx: change.Transaction{CommitTime: 1}}
	return t, func(rows int) *batch.Result {
		fold.Begin(plan)
		for i := range rows {
			ids = strconv.AppendInt(ids[:0], int64(i), 10)
			ev.After[0], ev.After[1], ev.After[2] = value(ids), v, w
			if i%3 == 0 {
				ev.After[1] = change.Value{State: change.Unchanged}
			}
			if err := fold.Add(ev, false, false); err != nil {
				tb.Fatal(err)
			}
		}
		return fold.Result(false)
	}
}

// Rows on their way into a temporary table, straight into the target, or into parameters take no memory for each.
func TestCopyNoAllocations(t *testing.T) {
	const rows = 1000
	target, fold := copied(t, "clone")
	set := &fold(rows).Updates
	f, buf := pgproto3.NewFrontend(nil, io.Discard), []byte(nil)
	none := func(limit float64, what string, do func()) {
		t.Helper()
		if n := testing.AllocsPerRun(20, do); n > limit {
			t.Errorf("%s: %v allocations for %d rows, at most %v", what, n, set.Len(), limit)
		}
	}
	for _, k := range []kind{byValue, byMask, byCount} {
		none(12, fmt.Sprintf("COPY of kind %d", k), func() { buf, _ = newCopyRows(target, k, set).send(f, buf) }) // a piece and what sends it
		none(40, fmt.Sprintf("parameters of kind %d", k), func() { arraysOf(target, k, set) })
	}
	none(rows+60, "fold and COPY", func() { buf, _ = newCopyRows(target, byMask, &fold(rows).Updates).send(f, buf) }) // an expression boxes what it reads
	history, versions := copied(t, "history")
	ends := versions(rows)
	for i := range ends.Keys.Len() {
		ends.Found(i, batch.Last{There: true, Open: true})
	}
	ends.Resolve(0)
	set = &ends.Ends
	none(40, "parameters of ends", func() { arraysOf(history, byEnd, set) })
}

func BenchmarkCopy(b *testing.B) {
	target, fold := copied(b, "clone")
	set := &fold(1000).Updates
	f, buf := pgproto3.NewFrontend(nil, io.Discard), []byte(nil)
	for name, k := range map[string]kind{"values": byValue, "staged": byMask} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf, _ = newCopyRows(target, k, set).send(f, buf)
			}
		})
	}
}

func BenchmarkParameters(b *testing.B) {
	target, fold := copied(b, "clone")
	set := &fold(1000).Updates
	for b.Loop() {
		arraysOf(target, byMask, set)
	}
}
