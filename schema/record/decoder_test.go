package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/schema/change"
)

func TestDecodeCutShort(t *testing.T) {
	c := newCodec(t, allTypes(t))
	row := exactRow()
	row[18] = change.Value{State: change.Unchanged}
	value, err := c.AppendValue(nil, streamed(change.Update, plainRow(), row))
	if err != nil {
		t.Fatal(err)
	}
	var ev change.Event
	for n := range value {
		if _, err := c.Decode(value[:n:n], &ev, nil); !errors.Is(err, ErrValue) && !errors.Is(err, ErrFrame) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(value), err)
		}
	}
	if _, err := c.Decode(append(value, 0), &ev, nil); !errors.Is(err, ErrValue) {
		t.Fatalf("with a byte behind its end: %v", err)
	}
	if _, err := c.Decode(value, &ev, nil); err != nil {
		t.Fatalf("after errors: %v", err)
	}
}

// Each byte of a value, changed, gives an event or an error: no panic, no memory by what a length says.
func TestDecodeDamaged(t *testing.T) {
	c := newCodec(t, allTypes(t))
	value, err := c.AppendValue(nil, streamed(change.Update, plainRow(), exactRow()))
	if err != nil {
		t.Fatal(err)
	}
	var ev change.Event
	var arena []byte
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n := 0
	for i := range value {
		for _, b := range []byte{0, 1, 2, 3, 0x7f, 0x80, 0xff, value[i] + 1, value[i] - 1, value[i] ^ 0x80} {
			bad := bytes.Clone(value)
			bad[i] = b
			arena, err = c.Decode(bad, &ev, arena[:0])
			if err != nil && strings.Contains(err.Error(), "a0eebc99") {
				t.Fatalf("the error tells a value: %v", err)
			}
			n++
		}
	}
	runtime.ReadMemStats(&after)
	if perDecode := (after.TotalAlloc - before.TotalAlloc) / uint64(n); perDecode > 16<<10 {
		t.Fatalf("%d bytes allocated per damaged value of %d bytes", perDecode, len(value))
	}
}

func TestDecodeRefuses(t *testing.T) {
	c := newCodec(t, relationOf(t, 1, "id int8", "s text", "d date"))
	value, err := c.AppendValue(nil, streamed(change.Update, nil, tuple("1", change.Unchanged, "infinity")))
	if err != nil {
		t.Fatal(err)
	}
	f := func(old, new string) {
		t.Helper()
		bad := bytes.Replace(value, []byte(old), []byte(new), 1)
		if bytes.Equal(bad, value) {
			t.Fatalf("%q is not in the value", old)
		}
		var ev change.Event
		if _, err := c.Decode(bad, &ev, nil); !errors.Is(err, ErrValue) {
			t.Fatalf("%q for %q: %v", new, old, err)
		}
	}
	f("\x02u", "\x02x")                         // an operation that there is not
	f("\x02\x02\x02s\x00", "\x02\x02\x02z\x00") // unchanged, but no column
	f("\x02\x02\x02s\x00", "\x02\x02\x04id\x00")
	f("\x02\x02\x02d\x10", "\x02\x02\x02q\x10")                 // exact, but no column
	f("\x02\x02\x02d\x10", "\x02\x02\x02s\x10")                 // both exact and unchanged
	f("\x02\x02\x02d\x10", "\x02\x02\x10before.d\x10")          // exact, but there is no old row
	f("\x02\x02\x02s\x00", "\x02\x04\x02s\x02s\x00")            // twice
	f("\x02\x02\x02s\x00", "\x02\xfe\xff\xff\xff\x0f\x02s\x00") // more items than bytes
}

// A later version may add fields to the envelope and its source: this one passes over them.
func TestDecodeLaterVersion(t *testing.T) {
	c := newCodec(t, relationOf(t, 1, "id int8", "s text"))
	var envelope map[string]any
	if err := json.Unmarshal([]byte(c.ValueSchema()), &envelope); err != nil {
		t.Fatal(err)
	}
	add := func(record map[string]any, at int, field string) {
		var f any
		if err := json.Unmarshal([]byte(field), &f); err != nil {
			t.Fatal(err)
		}
		fields := record["fields"].([]any)
		record["fields"] = append(append(append([]any{}, fields[:at]...), f), fields[at:]...)
	}
	source := envelope["fields"].([]any)[3].(map[string]any)["type"].(map[string]any)
	add(source, 19, `{"name":"ts_ns","type":["null","long"]}`)
	add(source, 0, `{"name":"kind","type":{"type":"enum","name":"Kind","symbols":["a","b"]}}`)
	add(envelope, 9, `{"name":"more","type":{"type":"record","name":"More","fields":[
		{"name":"a","type":{"type":"array","items":["null","double","string","bytes"]}},
		{"name":"m","type":{"type":"map","values":"boolean"}},
		{"name":"f","type":{"type":"fixed","name":"F","size":3}},
		{"name":"x","type":"float"},{"name":"n","type":"null"},{"name":"i","type":"int"}]}}`)
	text, err := json.Marshal(envelope)
	if err != nil {
		t.Fatal(err)
	}

	ev := streamed(change.Update, nil, tuple("1", change.Unchanged))
	value, err := c.AppendValue(nil, ev)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := newOracle().Unmarshal(parse(t, c.ValueSchema()), value[FrameSize:], &v); err != nil {
		t.Fatal(err)
	}
	v["source"].(map[string]any)["ts_ns"] = map[string]any{"long": int64(5)}
	v["source"].(map[string]any)["kind"] = "b"
	v["more"] = map[string]any{
		"a": []any{map[string]any{"double": 1.5}, nil, map[string]any{"string": "ü"}, map[string]any{"bytes": []byte{1}}},
		"m": map[string]any{"k": true}, "f": [3]byte{1, 2, 3}, "x": float32(1), "n": nil, "i": 1 << 20,
	}
	body, err := newOracle().Marshal(parse(t, string(text)), v)
	if err != nil {
		t.Fatal(err)
	}
	later, err := NewDecoder(string(text))
	if err != nil {
		t.Fatal(err)
	}
	framed := append(AppendFrame(nil, 9), body...)
	var got change.Event
	if _, err := later.Decode(framed, &got, nil); err != nil || !sameEvent(&got, ev) {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range framed {
		if _, err := later.Decode(framed[:n:n], &got, nil); err == nil {
			t.Fatalf("cut to %d of %d bytes: no error", n, len(framed))
		}
	}
}

func TestNewDecoderRefuses(t *testing.T) {
	good := newCodec(t, relationOf(t, 2, "id int8", "k text", "s text", "a int4[]")).ValueSchema()
	f := func(text string) {
		t.Helper()
		if text == good {
			t.Fatal("the schema is as it was")
		}
		if d, err := NewDecoder(text); !errors.Is(err, ErrSchema) {
			t.Fatalf("%v, %v; want ErrSchema for\n%s", d, err, text)
		}
	}
	replace := func(old, new string) {
		t.Helper()
		f(strings.Replace(good, old, new, 1))
	}
	f("")
	f("{")
	f(`"string"`)
	f(`{"type":"record","name":"R","fields":[]}`)
	replace(`"name":"before"`, `"name":"old"`)
	replace(`"name":"after"`, `"name":"new"`)
	replace(`"name":"op","type":"string"`, `"name":"op","type":"int"`)
	replace(`"name":"seq","type":"long"`, `"name":"seq","type":"int"`)
	replace(`"name":"commit_lsn"`, `"name":"commit"`)
	replace(`"name":"data_collection_order"`, `"name":"order"`)
	replace(`"type":"map","values":"string"`, `"type":"map","values":"long"`)
	replace(`"pg.table":"orders"`, `"pg.table":5`)
	replace(`"pg.table":"orders",`, ``)
	replace(`"pg.identity":"d"`, `"pg.identity":""`)
	replace(`"pg.name":"s",`, ``)
	replace(`"pg.key":2`, `"pg.key":3`)
	replace(`"pg.typmod":-1`, `"pg.typmod":"x"`)
	replace(`"type":["null","string"],"default":null,"pg.name":"s"`, `"type":["null","null2"],"default":null,"pg.name":"s"`)
	replace(`"type":["null","string"],"default":null,"pg.name":"s"`, `"type":["null","string","int"],"default":null,"pg.name":"s"`)
	replace(`"items":["null","int"]`, `"items":"int"`)
	replace(`"items":["null","int"]`, `"items":["null",{"type":"array","items":["null","int"]}]`)
	replace(`{"name":"ts_us"`, `{"name":"deep","type":{"type":"record","name":"Deep","fields":[{"name":"d","type":["null","Deep"]}]}},{"name":"ts_us"`)
}

// Any bytes, under any schema that compiles, give an event or an error.
func FuzzDecode(f *testing.F) {
	c := newCodec(f, allTypes(f))
	for _, ev := range []*change.Event{
		streamed(change.Create, nil, plainRow()), streamed(change.Update, plainRow(), exactRow()), streamed(change.Truncate, nil, nil),
	} {
		value, err := c.AppendValue(nil, ev)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(value)
	}
	var ev change.Event
	f.Fuzz(func(t *testing.T, value []byte) {
		if _, err := c.Decode(value, &ev, nil); err != nil {
			return
		}
		// What was read can be written, and reads the same again. The bytes may differ: numbers and blocks can
		// be written in several ways, and a snapshot row has no place for its ordinal.
		again, err := c.AppendValue(nil, &ev)
		if errors.Is(err, ErrEvent) {
			return // an operation with rows that it does not have, or a key that is not of its type
		}
		if err != nil {
			t.Fatal(err)
		}
		if ev.Tx.XID == 0 {
			ev.TableOrdinal = 0
		}
		var back change.Event
		if _, err := c.Decode(again, &back, nil); err != nil || !sameEvent(&back, &ev) {
			t.Fatalf("%x\nreads as %+v\nwritten and read again %+v, %v", value, ev, back, err)
		}
	})
}

// Whatever the text, in a column of whatever form, it comes back.
func FuzzRoundTrip(f *testing.F) {
	columns := []string{
		"id int8", "b bool", "i2 int2", "i4 int4", "o oid", "f4 float4", "f8 float8", "by bytea", "d date", "ti time", "ts timestamp",
		"tz timestamptz", "n numeric", "s text", "a int4[]", "as text[]", "ad date[]", "ab bytea[]", "az timestamptz[]", "bx box[]",
		"abo bool[]", "af float8[]",
	}
	c := newCodec(f, relationOf(f, 1, columns...))
	for _, seed := range []string{
		"", "t", "-32768", "1e+20", "NaN", `\x00ff`, "2024-03-10", "0044-03-15 BC", "12:34:56.789", "2024-03-10 12:34:56.7",
		"2024-03-10 12:34:56.7+00", "infinity", "{1,NULL,3}", `{"a b","\"\\","",NULL}`, "{2024-03-10}", `{"\\x00"}`,
		`{"2024-03-10 12:34:56+00"}`, "{(1,1),(0,0);(2,2),(1,1)}", "{t,f}", "{1.5,NaN}", "[2:3]={1,2}", "{{1}}",
	} {
		f.Add([]byte(seed), int64(1))
	}
	var got change.Event
	var arena []byte
	f.Fuzz(func(t *testing.T, text []byte, id int64) {
		row := make(change.Tuple, len(columns))
		row[0] = tuple("9")[0]
		for i := 1; i < len(row); i++ {
			row[i] = change.Value{State: change.Present, Text: text}
		}
		ev := streamed(change.Update, row, row)
		ev.Tx.CommitTime = id
		value, err := c.AppendValue(nil, ev)
		if err != nil {
			t.Fatal(err)
		}
		arena, err = c.Decode(value, &got, arena[:0])
		if err != nil || !sameEvent(&got, ev) {
			t.Fatalf("%q came back as %+v, %v", text, got, err)
		}
	})
}
