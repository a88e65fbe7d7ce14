package record

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

var update = flag.Bool("update", false, "write the golden files anew")

// allTypes is a table with a column of each form.
func allTypes(t testing.TB) *schema.Relation {
	return relationOf(t, 2,
		"id int8", "day date", "b bool", "i2 int2", "i4 int4", "o oid", "f4 float4", "f8 float8", "by bytea", "d date",
		"ti time", "ts timestamp", "tz timestamptz", "u uuid", "j jsonb", "x xml", "v tsvector", "n numeric", "s text",
		"a int4[]", "as text[]", "ad date[]")
}

// plainRow has a native value in every column of allTypes.
func plainRow() change.Tuple {
	return tuple("-5", "2024-03-10", "t", "-2", "3", "4294967295", "1.5", "-0.25", `\x00ff`, "1969-12-31",
		"01:02:03.000004", "2024-03-10 12:34:56.789012", "2024-03-10 12:34:56.7+00", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
		`{"a": 1}`, "<a/>", "'x':1", "1.50", "", "{1,NULL,-3}", `{"a b",c}`, "{}")
}

// exactRow has a value that is not native wherever a type of allTypes has one.
func exactRow() change.Tuple {
	return tuple("7", "infinity", nil, nil, nil, nil, nil, nil, nil, "-infinity",
		"24:00:00", "infinity", "0044-03-15 00:00:00+00 BC", nil,
		nil, nil, nil, "NaN", nil, "{{1},{2}}", "[0:0]={a}", "{infinity}")
}

// newOracle gives a codec without hamba's limit of 1 MiB on a text. It is for one schema: hamba remembers how to
// write a record by its name, so that it would write a second one of that name as if it were the first.
func newOracle() avro.API { return avro.Config{MaxByteSliceSize: -1}.Freeze() }

func parse(t testing.TB, text string) avro.Schema {
	t.Helper()
	s, err := avro.ParseWithCache(text, "", &avro.SchemaCache{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What we write must read, for somebody else's codec, as the values that Debezium's readers expect; and what that
// writes of them must read as the event for us.
func TestAgainstOracle(t *testing.T) {
	c := newCodec(t, allTypes(t))
	before, after := plainRow(), exactRow()
	after[18] = change.Value{State: change.Unchanged}
	ev := streamed(change.Update, before, after)
	ev.Tx.Origin = "elsewhere"
	value, err := c.AppendValue(nil, ev)
	if err != nil {
		t.Fatal(err)
	}
	s, api := parse(t, c.ValueSchema()), newOracle()
	var got map[string]any
	if err := api.Unmarshal(s, value[FrameSize:], &got); err != nil {
		t.Fatal(err)
	}
	some := func(typ string, v any) map[string]any { return map[string]any{typ: v} } // hamba's form of a union
	ns := "shop.public.orders"
	want := map[string]any{
		"before": some(ns+".Value", map[string]any{
			"id": int64(-5), "day": "2024-03-10", "b": true, "i2": -2, "i4": 3,
			"o": int64(4294967295), "f4": float32(1.5), "f8": -0.25,
			"by": []byte{0, 0xff}, "d": -1, "ti": int64(3723000004),
			"ts": int64(1710074096789012), "tz": "2024-03-10T12:34:56.7Z",
			"u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "j": `{"a": 1}`, "x": "<a/>",
			"v": "'x':1", "n": "1.50", "s": "",
			"a":  some("array", []any{1, nil, -3}),
			"as": some("array", []any{"a b", "c"}), "ad": some("array", []any{}),
		}),
		"after": some(ns+".Value", map[string]any{
			"id": int64(7), "day": "infinity", "b": nil, "i2": nil, "i4": nil, "o": nil, "f4": nil, "f8": nil, "by": nil, "d": nil,
			"ti": nil, "ts": nil, "tz": nil, "u": nil, "j": nil, "x": nil, "v": nil, "n": "NaN", "s": nil, "a": nil,
			"as": nil, "ad": nil,
		}),
		"op": "u",
		"source": map[string]any{
			"version": "0.1.0", "connector": "postgresql", "name": "shop", "db": "shopdb", "schema": "public", "table": "orders",
			"system_id": "7300000000000000001", "timeline": int64(3), "sequence": nil, "xmin": nil,
			"ts_ms": int64(1710074096789), "snapshot": "false", "txId": int64(4000000000),
			"lsn": int64(0x16_B374D848), "commit_lsn": int64(0x16_B374D848), "commit_ts_us": int64(1710074096789012),
			"era": 2, "origin": "elsewhere", "seq": int64(14),
		},
		"ts_ms": int64(1710074096789), "ts_us": int64(1710074096789012),
		"transaction": some("event.block", map[string]any{
			"id": "4000000000:97500059720", "total_order": int64(14), "data_collection_order": int64(5),
		}),
		"unchanged": some("array", []any{"s"}),
		"exact": some("map", map[string]any{
			"d": "-infinity", "ti": "24:00:00", "ts": "infinity", "tz": "0044-03-15 00:00:00+00 BC",
			"a": "{{1},{2}}", "as": "[0:0]={a}", "ad": "{infinity}",
		}),
	}
	for name := range want {
		if !sameJSON(t, got[name], want[name]) {
			t.Errorf("%s is\n%v, want\n%v", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("the envelope has %d fields, want %d", len(got), len(want))
	}

	theirs, err := api.Marshal(s, got)
	if err != nil {
		t.Fatal(err)
	}
	var back change.Event
	if _, err := c.Decode(append(AppendFrame(nil, 1), theirs...), &back, nil); err != nil || !sameEvent(&back, ev) {
		t.Fatalf("the oracle's bytes read as %+v, %v", back, err)
	}
}

// Where there is no array or map, which may be cut into blocks in several ways, the bytes must be the same.
func TestSameBytesAsOracle(t *testing.T) {
	c := newCodec(t, relationOf(t, 1, "id int8", "b bool", "f float8", "by bytea", "s text", "d date"))
	s, api := parse(t, c.ValueSchema()), newOracle()
	for _, ev := range []*change.Event{
		streamed(change.Create, nil, tuple("1", "f", "NaN", `\x`, "ü", "2024-01-01")),
		streamed(change.Delete, tuple("-99999999999", nil, nil, nil, nil, nil), nil),
		streamed(change.Truncate, nil, nil),
		{Op: change.Read, Position: change.Position{Seq: change.SnapshotSeq}, After: tuple("1", nil, nil, nil, nil, nil)},
	} {
		value, err := c.AppendValue(nil, ev)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := api.Unmarshal(s, value[FrameSize:], &v); err != nil {
			t.Fatal(err)
		}
		theirs, err := api.Marshal(s, v)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(theirs, value[FrameSize:]) {
			t.Errorf("%s: we write\n%x, the oracle\n%x", ev.Op, value[FrameSize:], theirs)
		}
	}

	row := plainRow()
	all := newCodec(t, allTypes(t))
	key, err := all.AppendKey(nil, row)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := newOracle().Marshal(parse(t, all.KeySchema()), map[string]any{"id": int64(-5), "day": "2024-03-10"})
	if err != nil || !bytes.Equal(theirs, key[FrameSize:]) {
		t.Errorf("key: we write %x, the oracle %x, %v", key[FrameSize:], theirs, err)
	}
}

func sameJSON(t *testing.T, a, b any) bool {
	t.Helper()
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	var v, w any
	if err := errors.Join(json.Unmarshal(x, &v), json.Unmarshal(y, &w)); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(v, w)
}

// The bytes of topics that exist must be read for ever: a change here needs a reader of both forms.
func TestGolden(t *testing.T) {
	c := newCodec(t, allTypes(t))
	golden(t, "all_types.key.avsc", indent(t, c.KeySchema()))
	golden(t, "all_types.value.avsc", indent(t, c.ValueSchema()))
	unchanged := exactRow()
	unchanged[18] = change.Value{State: change.Unchanged}
	var out strings.Builder
	for _, x := range []struct {
		name string
		ev   *change.Event
	}{
		{"create", streamed(change.Create, nil, plainRow())},
		{"update", streamed(change.Update, plainRow(), unchanged)},
		{"delete", streamed(change.Delete, exactRow(), nil)},
		{"truncate", streamed(change.Truncate, nil, nil)},
		{"read", &change.Event{
			Op: change.Read, After: plainRow(), Position: change.Position{Era: 1, CommitLSN: 0x1000, Seq: change.SnapshotSeq},
			Tx: change.Transaction{CommitLSN: 0x1000, CommitTime: 1_700_000_000_000_000},
		}},
	} {
		value, err := c.AppendValue(nil, x.ev)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "# %s at %s\n", x.name, x.ev.Position)
		if row := x.ev.After; row != nil {
			key, err := c.AppendKey(nil, row)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "key\n%s", hex.Dump(key))
		}
		fmt.Fprintf(&out, "value\n%s\n", hex.Dump(value))
	}
	golden(t, "all_types.records.txt", out.String())
}

func indent(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
		t.Fatal(err)
	}
	return b.String() + "\n"
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs from what is written now (go test -update writes it anew):\n%s", path, got)
	}
}
