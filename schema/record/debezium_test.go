package record

import (
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// debeziumSchema is what Debezium 3.6 registered for a table with a column of each type, and three columns more.
func debeziumSchema(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("testdata/debezium.avsc")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const debeziumKey = `{"type":"record","name":"Key","namespace":"shop.public.types","fields":[{"name":"id","type":"int"}]}`

// debeziumCodec writes as Debezium does, by hamba.
type debeziumCodec struct {
	testing.TB
	*Decoder
	schema avro.Schema
	api    avro.API
}

func newDebeziumCodec(t testing.TB, valueSchema string) *debeziumCodec {
	t.Helper()
	d, err := NewDebeziumDecoder(valueSchema, debeziumKey)
	if err != nil {
		t.Fatal(err)
	}
	return &debeziumCodec{t, d, parse(t, valueSchema), newOracle()}
}

// value gives a framed value whose new row has the values given, null otherwise.
func (c *debeziumCodec) value(op, sequence, snapshot string, lsn int64, row map[string]any) []byte {
	c.Helper()
	full := map[string]any{"id": 1, "n": 5}
	for _, column := range c.Relation().Columns {
		if v, ok := row[column.Name]; ok {
			full[column.Name] = v
		} else if full[column.Name] == nil {
			full[column.Name] = nil
		}
	}
	source := map[string]any{
		"version": "3.6.0.Final", "connector": "postgresql", "name": "shop", "ts_ms": int64(1500), "db": "d", "schema": "public", "table": "types",
		"snapshot": map[string]any{"string": snapshot}, "sequence": map[string]any{"string": sequence},
		"ts_us": map[string]any{"long": int64(1500001)}, "ts_ns": nil, "txId": map[string]any{"long": int64(1<<32 + 7)},
		"lsn": map[string]any{"long": lsn}, "xmin": nil, "origin": nil, "origin_lsn": nil,
	}
	body, err := c.api.Marshal(c.schema, map[string]any{
		"before": nil, "after": map[string]any{"shop.public.types.Value": full}, "source": source, "transaction": nil, "op": op,
		"ts_ms": nil, "ts_us": nil, "ts_ns": nil,
	})
	if err != nil {
		c.Fatal(err)
	}
	return append(AppendFrame(nil, 1), body...)
}

func (c *debeziumCodec) decode(value []byte) *change.Event {
	c.Helper()
	var ev change.Event
	if _, err := c.Decode(value, &ev, nil); err != nil {
		c.Fatal(err)
	}
	return &ev
}

func some(avroType string, v any) map[string]any { return map[string]any{avroType: v} }

// One value in the form that Debezium gives it, and the text that Postgres has for it.
func TestDebeziumValues(t *testing.T) {
	c := newDebeziumCodec(t, debeziumSchema(t))
	f := func(column, typ string, v any, want string) {
		t.Helper()
		i := c.Relation().Column(column)
		if got := c.Relation().Columns[i].Type.Name; got != typ {
			t.Errorf("column %q is %q, want %q", column, got, typ)
		}
		value := c.value("c", `["100","108"]`, "false", 108, map[string]any{column: v})
		if got := c.decode(value).After[i]; got.State != change.Present || string(got.Text) != want {
			t.Errorf("column %q: %v %q, want %q", column, got.State, got.Text, want)
		}
		for n := range value {
			var ev change.Event
			if _, err := c.Decode(value[:n], &ev, nil); err == nil {
				t.Fatalf("column %q: %d of %d bytes are read as a whole", column, n, len(value))
			}
		}
	}
	decimal := func(unscaled string, scale int) *big.Rat {
		v, _ := new(big.Int).SetString(unscaled, 10)
		return new(big.Rat).SetFrac(v, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil))
	}
	scaled := func(scale int, unscaled ...byte) any {
		return some("io.debezium.data.VariableScaleDecimal", map[string]any{"scale": scale, "value": unscaled})
	}
	f("boolean", "boolean", some("boolean", true), "t")
	f("smallint", "smallint", some("int", -32768), "-32768")
	f("integer", "integer", some("int", 7), "7")
	f("bigint", "bigint", some("long", int64(-9)), "-9")
	f("real", "real", some("float", float32(1.5)), "1.5")
	f("double", "double precision", some("double", -1e-300), "-1e-300")
	f("decimal", "numeric(12,3)", some("bytes.decimal", decimal("-123456789125", 3)), "-123456789.125")
	f("decimal", "numeric(12,3)", some("bytes.decimal", decimal("-1", 3)), "-0.001")
	f("decimal", "numeric(12,3)", some("bytes.decimal", decimal("0", 3)), "0.000")
	f("numeric", "numeric", scaled(0, 0), "0")
	f("numeric", "numeric", scaled(2, 1), "0.01")
	f("numeric", "numeric", scaled(-2, 0xff), "-100")
	f("numeric", "numeric", scaled(-2, 0), "0")
	f("numeric", "numeric", scaled(1, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "922337203685477580.7")
	f("numeric", "numeric", scaled(1, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "-922337203685477580.9")
	f("text", "", some("string", "a"), "a")
	f("bytea", "bytea", some("bytes", []byte{0, 255}), `\x00ff`)
	f("date", "date", some("int", 19782), "2024-02-29")
	f("date", "date", some("int", infiniteDate), "infinity")
	f("date", "date", some("int", negativeInfiniteDate), "-infinity")
	f("time", "time without time zone", some("long", int64(86399999999)), "23:59:59.999999")
	f("time", "time without time zone", some("long", int64(86400000000)), "24:00:00")
	f("timestamp", "timestamp without time zone", some("long", int64(-100000)), "1969-12-31 23:59:59.9")
	f("timestamp", "timestamp without time zone", some("long", int64(-63517824000000000)), "0044-03-15 00:00:00 BC")
	f("timestamp", "timestamp without time zone", some("long", int64(9223372036825200000)), "infinity")
	f("timestamp", "timestamp without time zone", some("long", int64(-9223372036832400000)), "-infinity")
	f("timestamp3", "timestamp without time zone", some("long", int64(-100)), "1969-12-31 23:59:59.9")
	f("timestamp3", "timestamp without time zone", some("long", int64(9223372036825200)), "infinity")
	f("timestamptz", "timestamp with time zone", some("string", "2024-02-29T12:34:56.789000Z"), "2024-02-29 12:34:56.789+00")
	f("timestamptz", "timestamp with time zone", some("string", "2024-02-29T12:34:56.000000Z"), "2024-02-29 12:34:56+00")
	f("timestamptz", "timestamp with time zone", some("string", "2024-02-29T12:34Z"), "2024-02-29 12:34:00+00")
	f("timestamptz", "timestamp with time zone", some("string", "-0043-03-15T00:00:00.000000Z"), "0044-03-15 00:00:00+00 BC")
	f("timestamptz", "timestamp with time zone", some("string", "0000-03-15T00:00:00Z"), "0001-03-15 00:00:00+00 BC")
	f("timestamptz", "timestamp with time zone", some("string", "+12024-03-15T00:00:00Z"), "12024-03-15 00:00:00+00")
	f("timestamptz", "timestamp with time zone", some("string", "-infinity"), "-infinity")
	f("timetz", "time with time zone", some("string", "04:05:06.789Z"), "04:05:06.789+00")
	f("uuid", "uuid", some("string", "x"), "x")
	f("json", "json", some("string", "{}"), "{}")
	f("enum", "", some("string", "sad"), "sad")
	f("int_array", "integer[]", some("array", []any{some("int", 1), nil}), "{1,NULL}")
	f("text_array", "", some("array", []any{some("string", "b c"), some("string", "NULL")}), `{"b c","NULL"}`)
	f("n", "integer", 6, "6")
	f("m", "integer", some("int", 6), "6")
}

// What Debezium wrote in a form that does not hold the value is refused by column: the table can be read without it.
func TestDebeziumRefuses(t *testing.T) {
	c := newDebeziumCodec(t, debeziumSchema(t))
	var refused []string
	for i, column := range c.Relation().Columns {
		if err := c.Refused(i); err != nil {
			refused = append(refused, column.Name)
			if !strings.Contains(err.Error(), "io.debezium.") {
				t.Errorf("column %q: %v does not name its form", column.Name, err)
			}
		}
	}
	if got := fmt.Sprint(refused); got != "[interval bit varbit point]" {
		t.Errorf("refused are %s", got)
	}
	ev := c.decode(c.value("c", `["100","108"]`, "false", 108, map[string]any{
		"interval": some("long", int64(1)), "bit": some("bytes", []byte{1}),
		"point": some("io.debezium.data.geometry.Point", map[string]any{"x": 1.0, "y": 2.0, "wkb": nil, "srid": nil}), "text": some("string", "a"),
	}))
	if v := ev.After[c.Relation().Column("bit")]; v.State != change.Null {
		t.Errorf("a refused value is %v", v)
	}
	if v := ev.After[c.Relation().Column("text")]; string(v.Text) != "a" {
		t.Errorf("behind refused values: %q", v.Text)
	}
	for _, column := range []string{"timestamptz", "timetz"} {
		var ev change.Event
		for _, text := range []string{"", "Z", "2024-02-29", "2024-02-29T12:34:56+01:00", "2024-2-29T12:34:56Z", "24-02-29T12:34:56Z", "T", "--T-Z", "04:05Zx"} {
			if _, err := c.Decode(c.value("c", `[null,"1"]`, "false", 1, map[string]any{column: some("string", text)}), &ev, nil); !errors.Is(err, ErrValue) {
				t.Errorf("%s %q: %v, want ErrValue", column, text, err)
			}
		}
	}
	f := func(schema, want string) {
		t.Helper()
		if _, err := NewDebeziumDecoder(schema, debeziumKey); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	f(`{"type":"record","name":"Value","fields":[{"name":"id","type":"int"}]}`, "ExtractNewRecordState")
	f(strings.ReplaceAll(debeziumSchema(t), `"name": "id"`, `"name": "other"`), `no field "id"`)
	if _, err := NewDecoder(debeziumSchema(t)); !errors.Is(err, ErrDebezium) || !errors.Is(err, ErrSchema) {
		t.Errorf("NewDecoder: %v", err)
	}
	own := newCodec(t, allTypes(t))
	if own.Debezium() || own.Refused(0) != nil {
		t.Error("our own schema is taken for one of Debezium's")
	}
}

func TestDebeziumEvent(t *testing.T) {
	c := newDebeziumCodec(t, debeziumSchema(t))
	if rel := c.Relation(); rel.QualifiedName() != "public.types" || len(rel.Key) != 1 || rel.Key[0] != 0 || !rel.Columns[0].NotNull || rel.Columns[1].NotNull {
		t.Errorf("relation: %+v", rel)
	}
	f := func(sequence, snapshot string, want change.Position) {
		t.Helper()
		ev := c.decode(c.value("u", sequence, snapshot, 108, nil))
		if ev.Position != want || ev.Op != change.Update || ev.Tx.CommitTime != 1500001 || ev.Tx.CommitLSN != 108 || ev.Tx.XID != 7 {
			t.Errorf("%s %s: %+v, want %v", sequence, snapshot, ev, want)
		}
	}
	f(`["100","108"]`, "false", DebeziumPosition(100, 108))
	f(`[null,"108"]`, "false", DebeziumPosition(108, 108))
	f(`[null,"108"]`, "first_in_data_collection", debeziumSnapshot)
	f(`["100","108"]`, "incremental", change.Position{})
	f(`nonsense`, "false", change.Position{})

	older := strings.NewReplacer(`{"name": "sequence", "type": ["null", "string"], "default": null}, `, "", `{"name": "ts_us", "type": ["null", "long"], "default": null}, `, "").
		Replace(strings.ReplaceAll(debeziumSchema(t), "\n", ""))
	if ev := newDebeziumCodec(t, older).decode(newDebeziumCodec(t, older).value("u", "", "false", 108, nil)); !ev.Position.IsZero() || ev.Tx.CommitTime != 1500000 {
		t.Errorf("of an older version: %+v", ev)
	}
}

// The order of what is read from one server.
func TestDebeziumPosition(t *testing.T) {
	ordered := []change.Position{
		debeziumSnapshot,            // a row of the snapshot
		DebeziumPosition(640, 640),  // of the first transaction, begun before the snapshot
		DebeziumPosition(800, 640),  // written before it, committed after it
		DebeziumPosition(800, 808),  // of the same transaction
		DebeziumPosition(1600, 648), // of one that ran beside it, and committed later
		DebeziumPosition(1600, 1600),
		{Era: 1}, // ours
	}
	for i, p := range ordered[1:] {
		if ordered[i].Compare(p) >= 0 || p.Snapshot() || p.Seq%DebeziumTies != 0 {
			t.Errorf("%v is not before %v", ordered[i], p)
		}
	}
	if p := DebeziumPosition(1<<41, 1); !p.IsZero() {
		t.Errorf("too far from the commit: %v", p)
	}
}

// The placeholder is a fact in what an UPDATE made of a row, and text elsewhere.
func TestDebeziumUnchanged(t *testing.T) {
	c := newDebeziumCodec(t, debeziumSchema(t))
	var longs []any
	for _, b := range []byte(placeholder) {
		longs = append(longs, some("long", int64(b)))
	}
	row := map[string]any{
		"text": some("string", placeholder), "json": some("string", placeholder), "bytea": some("bytes", []byte(placeholder)),
		"text_array": some("array", []any{some("string", placeholder)}), "long_array": some("array", longs),
	}
	f := func(op string, want change.State) {
		t.Helper()
		ev := c.decode(c.value(op, `["100","108"]`, "false", 108, row))
		for name := range row {
			if got := ev.After[c.Relation().Column(name)]; got.State != want {
				t.Errorf("%s in %q: state %d, want %d", op, name, got.State, want)
			}
		}
	}
	f("u", change.Unchanged)
	f("c", change.Unchanged) // the second half of a change of the key
	f("r", change.Present)
}

func FuzzDecodeDebezium(f *testing.F) {
	c := newDebeziumCodec(f, debeziumSchema(f))
	f.Add(c.value("u", `["100","108"]`, "false", 108, map[string]any{
		"text": some("string", placeholder), "timestamptz": some("string", "2024-02-29T12:34:56.789000Z"),
		"numeric":    some("io.debezium.data.VariableScaleDecimal", map[string]any{"scale": 2, "value": []byte{1}}),
		"text_array": some("array", []any{some("string", "a")}),
	}))
	var ev change.Event
	f.Fuzz(func(t *testing.T, value []byte) {
		if _, err := c.Decode(value, &ev, nil); err == nil && ev.Op != change.Truncate {
			for i := range ev.After {
				if ev.After[i].State == change.Present && c.Relation().Columns[i].Type.OID == schema.OIDNumeric && len(ev.After[i].Text) == 0 {
					t.Error("a number without digits")
				}
			}
		}
	})
}
