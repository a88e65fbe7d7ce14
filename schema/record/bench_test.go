package record

import (
	"math/big"
	"testing"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// twentyColumns is an ordinary wide table: keys, numbers, texts, times.
func twentyColumns(t testing.TB) (*schema.Relation, change.Tuple) {
	rel := relationOf(t, 1, "id int8", "a int4", "b int4", "c int2", "d bool", "e float8", "f numeric", "g numeric", "h text", "i text",
		"j text", "k text", "l timestamp", "m timestamptz", "n date", "o uuid", "p jsonb", "q text", "r int8", "s int4[]")
	row := tuple("123456789", "42", "-7", "3", "t", "3.25", "1234.50", "0.00", "Alice Example", "alice@example.com",
		"12 Example Street", "shipped", "2024-03-10 12:34:56.789012", "2024-03-10 12:34:56.789012+00", "2024-03-10",
		"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", `{"a": 1, "b": [1, 2]}`, nil, "9999999999", "{1,2,3}")
	return rel, row
}

func TestNoAllocations(t *testing.T) {
	rel, row := twentyColumns(t)
	c := newCodec(t, rel)
	odd := append(change.Tuple{}, row...)
	odd[14] = tuple("infinity")[0]
	odd[9] = change.Value{State: change.Unchanged}
	events := []*change.Event{
		streamed(change.Create, nil, row), streamed(change.Update, row, odd), streamed(change.Update, nil, odd),
	}
	deleted := streamed(change.Delete, row, nil)

	var dst []byte
	var ev change.Event
	var arena []byte
	encode := func(e *change.Event) {
		var err error
		if dst, err = c.AppendKey(dst[:0], row); err != nil {
			t.Fatal(err)
		}
		if dst, err = c.AppendValue(dst[:0], e); err != nil {
			t.Fatal(err)
		}
	}
	decode := func() {
		var err error
		if arena, err = c.Decode(dst, &ev, arena[:0]); err != nil {
			t.Fatal(err)
		}
	}
	encode(events[1])
	decode() // both rows have memory from here on
	for i, e := range events {
		// Each encode is of another transaction than the one before it.
		if n := testing.AllocsPerRun(100, func() { e.Tx.XID++; encode(e) }); n != 0 {
			t.Errorf("event %d: %v allocations per encode", i, n)
		}
	}
	encode(events[1])
	if n := testing.AllocsPerRun(100, decode); n != 0 {
		t.Errorf("%v allocations per decode", n)
	}
	// One row's memory serves events that have only the old and only the new one in turn.
	ev = change.Event{}
	var values [2][]byte
	for i, e := range []*change.Event{events[0], deleted} {
		var err error
		if values[i], err = c.AppendValue(nil, e); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		for _, v := range values {
			var err error
			if arena, err = c.Decode(v, &ev, arena[:0]); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations for an insert and a delete", n)
	}
}

// What Debezium wrote is decoded without memory, too, in each of its forms; a number of more than eight bytes is an exception.
func TestDebeziumNoAllocations(t *testing.T) {
	c := newDebeziumCodec(t, debeziumSchema(t))
	value := debeziumRow(c)
	var ev change.Event
	var arena []byte
	decode := func() {
		var err error
		if arena, err = c.Decode(value, &ev, arena[:0]); err != nil {
			t.Fatal(err)
		}
	}
	decode()
	if n := testing.AllocsPerRun(100, decode); n != 0 {
		t.Errorf("%v allocations per decode", n)
	}
}

// debeziumRow is a value of Debezium's with a column of each form.
func debeziumRow(c *debeziumCodec) []byte {
	return c.value("u", `["100","108"]`, "false", 108, map[string]any{
		"boolean": some("boolean", true), "smallint": some("int", -32768), "integer": some("int", 7), "bigint": some("long", int64(-9)),
		"double": some("double", -1e-300), "decimal": some("bytes.decimal", big.NewRat(-123456789125, 1000)),
		"numeric": some("io.debezium.data.VariableScaleDecimal", map[string]any{"scale": 2, "value": []byte{1}}),
		"text":    some("string", "a"), "bytea": some("bytes", []byte{0, 255}), "date": some("int", 19782), "time": some("long", int64(86399999999)),
		"timestamp": some("long", int64(-100000)), "timestamptz": some("string", "2024-02-29T12:34:56.789000Z"), "timetz": some("string", "04:05:06.789Z"),
		"uuid": some("string", "x"), "json": some("string", "{}"), "int_array": some("array", []any{some("int", 1), nil}),
		"text_array": some("array", []any{some("string", "b c")}),
	})
}

func BenchmarkDecodeDebezium(b *testing.B) {
	c := newDebeziumCodec(b, debeziumSchema(b))
	value := debeziumRow(c)
	var ev change.Event
	var arena []byte
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if arena, err = c.Decode(value, &ev, arena[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	rel, row := twentyColumns(b)
	c := newCodec(b, rel)
	ev := streamed(change.Create, nil, row)
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if dst, err = c.AppendKey(dst[:0], row); err != nil {
			b.Fatal(err)
		}
		if dst, err = c.AppendValue(dst, ev); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(dst)))
}

func BenchmarkDecode(b *testing.B) {
	rel, row := twentyColumns(b)
	c := newCodec(b, rel)
	value, err := c.AppendValue(nil, streamed(change.Create, nil, row))
	if err != nil {
		b.Fatal(err)
	}
	var ev change.Event
	var arena []byte
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	for b.Loop() {
		if arena, err = c.Decode(value, &ev, arena[:0]); err != nil {
			b.Fatal(err)
		}
	}
}
