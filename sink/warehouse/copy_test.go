package warehouse

import (
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// copied is a target of two columns, and a set of rows for it: of every third one the second column is not sent.
func copied(tb testing.TB, rows int) (*Target, *batch.Set) {
	tb.Helper()
	rel := &schema.Relation{Schema: "public", Name: "t", Key: []int{0}, Columns: []schema.Column{
		{Name: "id", Type: schema.Type{OID: schema.OIDInt8, Name: "bigint"}, NotNull: true},
		{Name: "v", Type: schema.Type{OID: schema.OIDText, Name: "text"}},
	}}
	set, err := rule.New(nil, []rule.Table{{From: "*.*"}}, "")
	if err != nil {
		tb.Fatal(err)
	}
	route, _ := set.Match("s", "public", "t")
	plan, err := route.Compile(rel)
	if err != nil {
		tb.Fatal(err)
	}
	t := &Target{plan: plan, name: "t", columns: []targetColumn{{name: "id", typ: "bigint", written: true}, {name: "v", typ: "text", written: true}}}
	for _, k := range []kind{byValue, byMask, byCount} {
		t.fields[k] = t.fieldsOf(k)
	}
	fold := new(batch.Fold)
	fold.Begin(plan)
	for i := range rows {
		v := change.Value{State: change.Present, Text: []byte("a\tb, some text")}
		if i%3 == 0 {
			v = change.Value{State: change.Unchanged}
		}
		ev := &change.Event{Op: change.Update, After: change.Tuple{{State: change.Present, Text: fmt.Append(nil, i)}, v}}
		if err := fold.Add(ev, false, false); err != nil {
			tb.Fatal(err)
		}
	}
	return t, &fold.Result().Updates
}

// Rows into a temporary table, or straight into the target, take no memory for each.
func TestCopyNoAllocations(t *testing.T) {
	const rows = 1000
	target, set := copied(t, rows)
	f, buf := pgproto3.NewFrontend(nil, io.Discard), []byte(nil)
	for _, k := range []kind{byValue, byMask, byCount} {
		n := testing.AllocsPerRun(20, func() {
			buf, _ = newCopyRows(target, k, set).send(f, buf)
		})
		if n > 12 { // a piece and what sends it
			t.Errorf("%v allocations for %d rows of kind %d", n, set.Len(), k)
		}
	}
}

func BenchmarkCopy(b *testing.B) {
	target, set := copied(b, 1000)
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
