package rule

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// wide is a table with a column of every type that expressions know.
var wide = func() *schema.Relation {
	rel := &schema.Relation{OID: 1, Schema: "public", Name: "t", Identity: schema.IdentityDefault, Key: []int{0}}
	for _, column := range []struct{ name, typ string }{
		{"id", "bigint"},
		{"name", "text"},
		{"amount", "numeric(10,2)"},
		{"ratio", "double precision"},
		{"active", "boolean"},
		{"at", "timestamptz"},
		{"plain", "timestamp"},
		{"day", "date"},
		{"clock", "time"},
		{"tags", "text[]"},
		{"nums", "int[]"},
		{"doc", "jsonb"},
		{"raw", "bytea"},
		{"uid", "uuid"},
		{"small", "smallint"},
		{"order id", "int"},
		{"type", "text"},
		{"span", "interval"},
		{"note", "text"},
		{"prices", "numeric[]"},
	} {
		rel.Columns = append(rel.Columns, schema.Column{Name: column.name, AttNum: int16(len(rel.Columns) + 1), Type: mustType(column.typ)})
	}
	rel.Columns[0].NotNull = true
	return rel
}()

var wideRow = map[string]string{
	"id": "7", "name": "Ann", "amount": "19.90", "ratio": "0.5", "active": "t", "at": "2024-03-10 12:34:56.789+00",
	"plain": "2024-03-10 12:00:00", "day": "2024-03-10", "clock": "04:05:06", "tags": `{a,"b c",NULL}`, "nums": "{3,1,2}",
	"doc": `{"a": 5, "b": {"c": "x"}, "big": 9007199254740993, "list": [1, 2.5], "none": null}`, "raw": `\xdead`,
	"uid": "0f3b8a52-1c2e-4b6e-9d0a-2c9d5f0e7a11", "small": "-3", "order id": "9", "type": "gold", "span": "1 day", "prices": "{1.10,2}",
}

func row(rel *schema.Relation, values map[string]string) change.Tuple {
	t := make(change.Tuple, len(rel.Columns))
	for i := range rel.Columns {
		if v, ok := values[rel.Columns[i].Name]; ok {
			t[i] = change.Value{State: change.Present, Text: []byte(v)}
		}
	}
	return t
}

// planOf compiles a rule for a relation.
func planOf(t testing.TB, rel *schema.Relation, table Table) (*Plan, error) {
	t.Helper()
	table.From = "public.t"
	set, err := New(nil, []Table{table}, "salt")
	if err != nil {
		t.Fatal(err)
	}
	r, _ := set.Match("shop", "public", "t")
	return r.Compile(rel)
}

// computed gives the text and the type of an expression for wideRow.
func computed(t *testing.T, expr string) (text, typ string, err error) {
	t.Helper()
	p, err := planOf(t, wide, Table{Columns: []Column{{From: "id"}}, Set: []Computed{{Column: "x", Value: expr}}})
	if err != nil {
		return "", "", err
	}
	var c Change
	if err := p.Map(&change.Event{Op: change.Create, After: row(wide, wideRow)}, &c); err != nil {
		return "", "", err
	}
	if v := c.After[1]; v.State == change.Present {
		return string(v.Text), p.Column(1).Type.Name, nil
	}
	return "null", p.Column(1).Type.Name, nil
}

func TestExpressions(t *testing.T) {
	is := func(expr, want, wantType string) {
		t.Helper()
		got, typ, err := computed(t, expr)
		if err != nil || got != want || typ != wantType {
			t.Errorf("%s: got %s %s, %v; want %s %s", expr, typ, got, err, wantType, want)
		}
	}
	is("id + 1", "8", "bigint")
	is("small * 2", "-6", "bigint")
	is("ratio * 3.0", "1.5", "double precision")
	is("lower(name) + '!'", "ann!", "text")
	is("name", "Ann", "text") // a column as it is
	is("amount", "19.90", "numeric(10,2)")
	is("'eu'", "eu", "text")
	is("tributary.source + '.' + tributary.table", "shop.t", "text")
	is("!active", "f", "boolean")
	is("type == 'gold'", "t", "boolean") // a name that CEL has too
	is("col('order id') + 1", "10", "bigint")
	is("text(uid).substring(0, 4)", "0f3b", "text")
	is("text(amount) + '/' + text(span)", "19.90/1 day", "text")
	is("raw == b'\\xde\\xad' ? 'same' : 'other'", "same", "text")
	is("string(amount) + string(id)", "19.907", "text")
	is("clock < '05:00:00'", "t", "boolean")

	// numeric is exact.
	is("amount * 3", "59.70", "numeric")
	is("amount + 0.1", "20.00", "numeric")
	is("-amount - 1", "-20.90", "numeric")
	is("amount == 19.9", "t", "boolean")
	is("amount > 19.89 && amount < 19.91 && amount >= 19.900 && amount != 20", "t", "boolean")
	is("amount in [1, 19.9]", "t", "boolean")
	is("int(amount)", "19", "bigint")
	is("double(amount) / 2.0", "9.95", "double precision")
	is("numeric('0.1') + numeric(0.2)", "0.3", "numeric")
	is("numeric('99999999999999999999') * 10", "999999999999999999990", "numeric")
	is("id > 5 ? amount : 0", "19.90", "numeric")

	// Times.
	is("at", "2024-03-10 12:34:56.789+00", "timestamp with time zone")
	is("at + duration('1h')", "2024-03-10 13:34:56.789+00", "timestamp with time zone")
	is("date(at)", "2024-03-10 00:00:00+00", "timestamp with time zone")
	is("day == date('2024-03-10')", "t", "boolean")
	is("plain >= timestamp('2024-03-10T12:00:00Z')", "t", "boolean")
	is("at.getFullYear()", "2024", "bigint")
	is("at - plain", "2096.789000 seconds", "interval")

	// Arrays and JSON.
	is("'b c' in tags", "t", "boolean")
	is("size(nums)", "3", "bigint")
	is("nums.map(n, n * 2)", "{6,2,4}", "bigint[]")
	is("nums.exists(n, n > 2)", "t", "boolean")
	is("tags", `{a,"b c",NULL}`, "text[]")
	is("tags + ['d\"e']", `{a,"b c",NULL,"d\"e"}`, "text[]")
	is("prices[0] == numeric('1.1')", "t", "boolean")
	is("doc.a > 4", "t", "boolean")
	is("string(doc.b.c)", "x", "text")
	is("doc.big", "9007199254740993", "jsonb")
	is("doc.b", `{"c":"x"}`, "jsonb")
	is("has(doc.z) ? string(doc.z) : 'none'", "none", "text")
	is("doc.list[1] == 2.5", "t", "boolean")
	is("{'name': name, 'amount': amount}", `{"amount":19.90,"name":"Ann"}`, "jsonb")

	// Null.
	is("note == null", "t", "boolean")
	is("note != null", "f", "boolean")
	is("id == null || tags == null || amount == null", "f", "boolean")
	is("note == null ? null : note + '!'", "null", "text")
	is("name == null ? null : id", "7", "bigint")
	is("coalesce(note, 'none')", "none", "text")
	is("note == 'x'", "f", "boolean")
	is("note != 'x'", "t", "boolean")
	is("note != null && note.size() > 3", "f", "boolean")
	is("doc.none == null", "t", "boolean")
	is("null", "null", "jsonb")
}

func TestExpressionFaults(t *testing.T) {
	refused := func(expr string, want ...string) {
		t.Helper()
		_, _, err := computed(t, expr)
		code := trouble.CodeOf(err)
		if err == nil || code != trouble.RuleConflict && code != trouble.RuleError {
			t.Errorf("%s: got %v", expr, err)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: got %v, want %q in it", expr, err, w)
			}
		}
		for _, value := range []string{"Ann", "gold"} {
			if strings.Contains(err.Error(), value) {
				t.Errorf("%s: the error holds a value: %v", expr, err)
			}
		}
	}
	refused("amont > 5", "at character 1", `no column or function "amont"`, "id, name, amount")
	refused("name > 5", "at character 6", "> does not take string and int", "int(x)")
	refused("amount / 2", "double(a) / double(b)")
	refused("amount > name", "cannot be compared or computed with a numeric")
	refused("at > '2024-01-01'", "date(")
	refused("id > 5.5 ? 1 : 'x'", "two sides of ? :")
	refused("text(1)", "text takes a column")
	refused("col('x')", `no column "x"`)
	refused("ratio == 5", "double(x)")
	refused("note + 'x'", "note is null", "coalesce(note, …)", "at character 6")
	refused("note.startsWith('x')", "note is null")
	refused("id / (id - 7)", "division by zero")
	refused("nums[5]", "shorter than the index")
	refused("doc.z", "has(x.key)")
	refused("doc.b > 5", "JSON")
	refused("int(name)", "not one that the function takes")
	refused("nums.map(a, nums.map(b, nums.map(c, nums.map(d, nums.map(e, nums.map(f, nums.map(g, nums.map(h, nums.map(i, nums.map(j, nums.map(k, nums.map(l, nums.map(m, nums.map(n, n))))))))))))))", "steps")
}

// TestUnchangedInputs: what an UPDATE did not send is not made up.
func TestUnchangedInputs(t *testing.T) {
	for _, full := range []bool{false, true} {
		rel := *wide
		if full {
			rel.Identity = schema.IdentityFull
		}
		p, err := planOf(t, &rel, Table{
			Columns: []Column{{From: "id"}, {From: "note"}, {From: "name", Mask: "hash"}},
			Set:     []Computed{{Column: "x", Value: "note + '!'"}, {Column: "y", Value: "note + name"}, {Column: "z", Value: "id > 5 ? 'big' : note"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		after, old := row(wide, wideRow), row(wide, wideRow)
		note := rel.Column("note")
		old[note] = change.Value{State: change.Present, Text: []byte("n")}
		after[note].State, after[rel.Column("name")].State = change.Unchanged, change.Unchanged
		ev := &change.Event{Op: change.Update, After: after}
		if full {
			ev.Before = old
		}
		var c Change
		if err := p.Map(ev, &c); err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"id", "note", "name", "x", "y", "z"} {
			want := change.Present
			if !full && name != "id" && name != "z" {
				want = change.Unchanged
			}
			if c.After[i].State != want {
				t.Errorf("full %v, %s: state %d", full, name, c.After[i].State)
			}
		}
		if full && string(c.After[4].Text) != "nAnn" {
			t.Errorf("got %s", c.After[4].Text)
		}
		after[rel.Column("name")] = old[rel.Column("name")]
		if err := p.Map(ev, &c); !full && (trouble.CodeOf(err) != trouble.RuleError || !strings.Contains(err.Error(), "does not carry note")) || full && err != nil {
			t.Errorf("full %v: got %v", full, err)
		}
	}
}

// What a rule does with a row takes no memory; an expression takes what boxes the values that it compares and makes, and no more.
func TestAllocations(t *testing.T) {
	masked := func(kind string) Table {
		return Table{Columns: []Column{{From: "id"}, {From: "name", Mask: kind}, {From: "note", Mask: kind}, {From: "amount", As: "price", Mask: kind}}}
	}
	set := func(expr string) Table {
		return Table{Columns: []Column{{From: "id"}}, Set: []Computed{{Column: "x", Value: expr}}}
	}
	for _, want := range []struct {
		table Table
		limit float64
	}{
		{Table{}, 0},
		{Table{Columns: []Column{{From: "id"}, {From: "name", As: "who"}}}, 0},
		{Table{SID: "sid"}, 0},
		{Table{Filter: "id > 5"}, 0},
		{Table{Filter: "amount > 0"}, 2},
		{Table{Filter: "amount != null && amount > 0"}, 3},
		{Table{Filter: "type == 'gold' && active"}, 1},
		{Table{Filter: "type in ['silver', 'gold']"}, 1},
		{Table{Filter: "name.startsWith('A')"}, 1},
		{Table{Filter: "at >= timestamp('2024-01-01T00:00:00Z')"}, 1},
		{Table{Mode: "history"}, 0},
		{Table{Mode: "log", Columns: []Column{{From: "id"}, {From: "note"}}}, 0},
		{masked("hash"), 0},
		{masked("redact"), 0},
		{masked("null"), 0},
		{masked("keep_last_4"), 0},
		{set("'eu'"), 0},
		{set("name"), 0},
		{set("tributary.source + '.' + tributary.table"), 0},
		{set("id > 5"), 0},
		{set("id + 1000"), 1},
		{set("ratio * 3.0"), 2},
		{set("amount * 3"), 15},
		{set("lower(name) + '!'"), 5},
		{set("id > 5 ? name : 'none'"), 1},
		{set("text(uid)"), 1},
		{Table{Columns: []Column{{From: "id"}, {From: "name", Mask: "hash"}}, Set: []Computed{{Column: "x", Value: "active"}}, Filter: "id > 5"}, 0},
	} {
		p, err := planOf(t, wide, want.table)
		if err != nil {
			t.Fatal(err)
		}
		ev := &change.Event{Op: change.Update, Before: row(wide, wideRow), After: row(wide, wideRow)}
		var c Change
		do := func() {
			if err := p.Map(ev, &c); err != nil {
				t.Fatal(err)
			}
		}
		do()
		if n := testing.AllocsPerRun(100, do); n > want.limit {
			t.Errorf("%v allocations a row with filter %q, sid %q, columns %v and set %v, at most %v", n, want.table.Filter, want.table.SID, want.table.Columns, want.table.Set, want.limit)
		}
	}
}

// BenchmarkFilter gives the time and the memory that a filter takes for one row; ns-cpu/op is the processor's time, for
// a machine that does something else as well.
func BenchmarkFilter(b *testing.B) {
	for _, filter := range []string{
		"", "id > 5", "amount > 0", "amount != null && amount > 0", "type == 'gold' && active", "type in ['silver', 'gold']",
		"name.startsWith('A')", "at >= timestamp('2024-01-01T00:00:00Z')", "doc.a > 4", "nums.exists(n, n > 2)",
	} {
		b.Run(filter, func(b *testing.B) {
			p, err := planOf(b, wide, Table{Filter: filter})
			if err != nil {
				b.Fatal(err)
			}
			ev := &change.Event{Op: change.Create, After: row(wide, wideRow)}
			var c Change
			b.ReportAllocs()
			begin := cpu()
			for b.Loop() {
				if err := p.Map(ev, &c); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpu()-begin)/float64(b.N), "ns-cpu/op")
		})
	}
}

func cpu() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprint(err))
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
