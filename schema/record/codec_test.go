package record

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

var testSource = Source{Name: "shop", Database: "shopdb", Version: "0.1.0", SystemID: "7300000000000000001", Timeline: 3}

// builtin gives a built-in type by its name in pg_type, with "[]" behind it for an array of it.
func builtin(t testing.TB, name string) schema.Type {
	t.Helper()
	oids := map[string]schema.OID{
		"bool": 16, "bytea": 17, "int8": 20, "int2": 21, "int2vector": 22, "int4": 23, "text": 25, "oid": 26, "json": 114,
		"xml": 142, "point": 600, "box": 603, "float4": 700, "float8": 701, "money": 790, "bpchar": 1042, "date": 1082,
		"time": 1083, "timestamp": 1114, "timestamptz": 1184, "interval": 1186, "timetz": 1266, "numeric": 1700,
		"uuid": 2950, "tsvector": 3614, "jsonb": 3802,
	}
	base, array := strings.CutSuffix(name, "[]")
	oid, ok := oids[base]
	if !ok {
		t.Fatalf("type %q is not known to the test", name)
	}
	typ := schema.Type{OID: oid, Typmod: -1, Name: base, Class: schema.ClassBase}
	if array {
		elem := typ
		typ = schema.Type{OID: oid + 5000, Typmod: -1, Name: name, Class: schema.ClassBase, Elem: &elem}
	}
	return typ
}

// relationOf makes a table whose columns are given as "name type"; the first keys of them are the key.
func relationOf(t testing.TB, keys int, columns ...string) *schema.Relation {
	t.Helper()
	rel := &schema.Relation{OID: 16385, Schema: "public", Name: "orders", Identity: schema.IdentityDefault}
	for i, c := range columns {
		name, typ, _ := strings.Cut(c, " ")
		rel.Columns = append(rel.Columns, schema.Column{Name: name, AttNum: int16(i + 1), Type: builtin(t, typ), NotNull: i < keys})
		if i < keys {
			rel.Key = append(rel.Key, i)
		}
	}
	return rel
}

type codec struct {
	*Encoder
	*Decoder
}

func newCodec(t testing.TB, rel *schema.Relation) codec {
	t.Helper()
	e, err := NewEncoder(testSource, rel)
	if err != nil {
		t.Fatal(err)
	}
	e.SetIDs(7, 8)
	d, err := NewDecoder(e.ValueSchema())
	if err != nil {
		t.Fatalf("%v\n%s", err, e.ValueSchema())
	}
	return codec{e, d}
}

// tuple makes a row of texts: nil is null, unchangedText a value that was not sent.
func tuple(texts ...any) change.Tuple {
	var t change.Tuple
	for _, x := range texts {
		switch x := x.(type) {
		case nil:
			t = append(t, change.Value{})
		case change.State:
			t = append(t, change.Value{State: x})
		case string:
			t = append(t, change.Value{State: change.Present, Text: []byte(x)})
		}
	}
	return t
}

func sameTuple(a, b change.Tuple) bool {
	if (a == nil) != (b == nil) || len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].State != b[i].State || !bytes.Equal(a[i].Text, b[i].Text) {
			return false
		}
	}
	return true
}

func sameEvent(a, b *change.Event) bool {
	return a.Op == b.Op && a.Position == b.Position && a.Tx == b.Tx && a.TableOrdinal == b.TableOrdinal &&
		sameTuple(a.Before, b.Before) && sameTuple(a.After, b.After)
}

// streamed gives an event as it comes from the stream.
func streamed(op change.Op, before, after change.Tuple) *change.Event {
	lsn := change.LSN(0x16_B374D848)
	return &change.Event{
		Op:       op,
		Position: change.Position{Era: 2, CommitLSN: lsn, Seq: 14},
		Tx:       change.Transaction{XID: 4_000_000_000, CommitLSN: lsn, CommitTime: 1_710_074_096_789_012},
		Before:   before, After: after, TableOrdinal: 5,
	}
}

// The texts come from a real Postgres. Each must come back byte for byte, as an ordinary column and in the key.
func TestCanonicalTexts(t *testing.T) {
	file, err := os.Open("testdata/canonical.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unescape := strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\t`, "\t", `\r`, "\r") // COPY's
	codecs := map[string]codec{}
	lines := bufio.NewScanner(file)
	n := 0
	for ; lines.Scan(); n++ {
		typ, text, _ := strings.Cut(lines.Text(), "\t")
		text = unescape.Replace(text)
		c, ok := codecs[typ]
		if !ok {
			c = newCodec(t, relationOf(t, 1, "k "+typ, "v "+typ))
			codecs[typ] = c
		}
		ev := streamed(change.Update, tuple(text, text), tuple(text, text))
		value, err := c.AppendValue(nil, ev)
		if err != nil {
			t.Fatalf("%s %q: %v", typ, text, err)
		}
		var got change.Event
		if _, err := c.Decode(value, &got, nil); err != nil {
			t.Fatalf("%s %q: %v", typ, text, err)
		}
		if !sameEvent(&got, ev) {
			t.Errorf("%s %q came back as %q, in the key as %q", typ, text, got.After[1].Text, got.After[0].Text)
		}
		if _, err := c.AppendKey(nil, ev.After); err != nil {
			t.Errorf("%s %q as a key: %v", typ, text, err)
		}
	}
	if lines.Err() != nil || n < 1000 {
		t.Fatalf("%d texts, %v", n, lines.Err())
	}
}

// Native where the type can hold the value, exact where it cannot: others must see null rather than a lie, and a
// value rather than null.
func TestWhatIsExact(t *testing.T) {
	f := func(typ, text string, native bool) {
		t.Helper()
		c := newCodec(t, relationOf(t, 0, "v "+typ))
		_, _, ok := c.columnForm(0).appendNative(nil, []byte(text), nil)
		if ok != native {
			t.Fatalf("%s %q: native is %v, want %v", typ, text, ok, native)
		}
		ev := streamed(change.Create, nil, tuple(text))
		value, err := c.AppendValue(nil, ev)
		if err != nil {
			t.Fatal(err)
		}
		if has := bytes.Contains(value, append(appendString(nil, "v"), appendString(nil, text)...)); has == native {
			t.Fatalf("%s %q: in exact is %v, want %v", typ, text, has, !native)
		}
		var got change.Event
		if _, err := c.Decode(value, &got, nil); err != nil || !sameEvent(&got, ev) {
			t.Fatalf("%s %q: %v, %+v", typ, text, err, got)
		}
	}
	f("bool", "t", true)
	f("bool", "true", false)
	f("int2", "-32768", true)
	f("int2", "32768", false)
	f("int4", "2147483648", false)
	f("int8", "-9223372036854775808", true)
	f("int8", "-9223372036854775809", false)
	f("int8", "9223372036854775808", false)
	f("int8", "99999999999999999999", false)
	f("int8", "-0", false)
	f("int8", "007", false)
	f("int8", "", false)
	f("oid", "4294967295", true)
	f("float8", "1e+23", false) // Postgres does not write it so
	f("float8", "9.999999999999999e+22", true)
	f("float8", "-0", true)
	f("float8", "NaN", true)
	f("float8", "nan", false)
	f("float8", "1_0", false)
	f("float8", "1e400", false)
	f("float4", "0.00024414062", true)
	f("float4", "0.00024414063", false)
	f("bytea", `\x00ff`, true)
	f("bytea", `\x00FF`, false)
	f("bytea", `\x00f`, false)
	f("bytea", `\000`, false)
	f("date", "infinity", false)
	f("date", "0044-03-15 BC", true)
	f("date", "5874897-12-31", true)
	f("date", "2023-02-29", false)
	f("date", "2024-13-01", false)
	f("date", "02024-01-01", false)
	f("date", "0000-01-01", false)
	f("time", "24:00:00", false)
	f("time", "12:34:56.5", true)
	f("time", "12:34:56.50", false)
	f("time", "12:34:56.", false)
	f("time", "12:34:60", false)
	f("timestamp", "294247-01-09 00:00:00", true)
	f("timestamp", "294276-12-31 23:59:59.999999", false)
	f("timestamp", "-infinity", false)
	f("timestamptz", "2024-03-10 12:34:56.789012+00", true)
	f("timestamptz", "2024-03-10 12:34:56.789012+05:30", false)
	f("timestamptz", "10000-01-01 00:00:00+00", false)
	f("timestamptz", "0044-03-15 00:00:00+00 BC", false)
	f("numeric", "NaN", true)
	f("int4[]", "{1,NULL,3}", true)
	f("int4[]", "{}", true)
	f("int4[]", "[2:3]={1,2}", false)
	f("int4[]", "{{1},{2}}", false)
	f("int4[]", "{1,}", false)
	f("int4[]", "{,1}", false)
	f("int4[]", "{1,x}", false)
	f("date[]", "{2024-01-01,infinity}", false)
	f("text[]", `{"",a,"a b","NULL","\"\\",NULL}`, true)
	f("text[]", `{"a"}`, false) // Postgres does not quote it
	f("text[]", `{null}`, false)
	f("text[]", `{"a b}`, false)
	f("text[]", `{"a b"x}`, false)
	f("text[]", `{"\a b"}`, false)
	f("text[]", `{a\b}`, false)
	f("box[]", "{(1,1),(0,0);(2,2),(1,1)}", true)
}

func (c codec) columnForm(i int) *form { return &c.Encoder.columns[i].form }

func TestEvents(t *testing.T) {
	rel := relationOf(t, 2, "id int8", "day date", "note text", "at timestamp", "body text")
	rel.Key = []int{1, 0}
	c := newCodec(t, rel)
	var got change.Event
	var arena []byte
	f := func(ev *change.Event) {
		t.Helper()
		value, err := c.AppendValue([]byte("before"), ev)
		if err != nil {
			t.Fatal(err)
		}
		value = value[len("before"):]
		if id, _, err := ParseFrame(value); id != 8 || err != nil {
			t.Fatalf("schema id %d, %v", id, err)
		}
		arena, err = c.Decode(value, &got, arena[:0])
		if err != nil {
			t.Fatal(err)
		}
		if !sameEvent(&got, ev) {
			t.Fatalf("got  %+v\nwant %+v", &got, ev)
		}
		again, err := c.AppendValue(nil, &got)
		if err != nil || !bytes.Equal(again, value) {
			t.Fatalf("written again: %x, %v\nwant %x", again, err, value)
		}
		// A decoded event does not keep what the one before it had.
		var fresh change.Event
		if _, err := c.Decode(value, &fresh, nil); err != nil || !sameEvent(&fresh, ev) {
			t.Fatalf("into a new event: %+v, %v", fresh, err)
		}
	}
	row := tuple("1", "2024-03-10", "a", "2024-03-10 01:02:03", "")
	f(streamed(change.Create, nil, row))
	f(streamed(change.Update, nil, tuple("1", "infinity", nil, "infinity", change.Unchanged)))
	f(streamed(change.Update, row, tuple("1", "2024-03-10", change.Unchanged, nil, change.Unchanged)))
	// Old and new row may hold different exact texts in one column.
	f(streamed(change.Update, tuple("1", "2024-03-10", nil, "infinity", nil), tuple("1", "2024-03-10", nil, "-infinity", nil)))
	f(streamed(change.Update, tuple("1", "2024-03-10", nil, "infinity", nil), tuple("1", "2024-03-10", nil, nil, nil)))
	f(streamed(change.Delete, tuple("1", "2024-03-10", nil, nil, nil), nil))
	f(streamed(change.Delete, tuple("1", "2024-03-10", "a", "-infinity", "b"), nil))
	f(streamed(change.Truncate, nil, nil))

	ev := streamed(change.Create, nil, row)
	ev.Tx.Origin = "other"
	f(ev)
	ev.Tx.CommitTime = -1 // before 1970; a source's clock may say anything
	f(ev)
	ev.Position.Seq++
	ev.TableOrdinal++
	f(ev)
	ev.Position.Era = 65535
	f(ev)

	snapshot := &change.Event{
		Op: change.Read, After: row,
		Position: change.Position{Era: 1, CommitLSN: 5, Seq: change.SnapshotSeq + 9},
		Tx:       change.Transaction{CommitLSN: 5, CommitTime: 1_700_000_000_000_000},
	}
	f(snapshot)
	f(ev)
}

func TestKey(t *testing.T) {
	rel := relationOf(t, 3, "a numeric", "b bpchar", "c float8", "d text")
	rel.Key = []int{1, 0, 2}
	c := newCodec(t, rel)
	f := func(a, b, x any, want string) {
		t.Helper()
		key, err := c.AppendKey([]byte("x"), tuple(a, b, x, nil))
		if err != nil || string(key) != want {
			t.Fatalf("key is %q, %v; want %q", key, err, want)
		}
	}
	f("1", "ab", "0", "x\x00\x00\x00\x00\x07\x04ab\x021\x00\x00\x00\x00\x00\x00\x00\x00")
	// Equal values give equal keys, however they are spelled.
	f("1.000", "ab   ", "-0", "x\x00\x00\x00\x00\x07\x04ab\x021\x00\x00\x00\x00\x00\x00\x00\x00")

	refuse := func(row change.Tuple) {
		t.Helper()
		if got, err := c.AppendKey([]byte("x"), row); !errors.Is(err, ErrEvent) || string(got) != "x" {
			t.Fatalf("%q, %v; want ErrEvent and nothing appended", got, err)
		}
	}
	refuse(tuple(nil, "ab", "0", nil))
	refuse(tuple(change.Unchanged, "ab", "0", nil))
	refuse(tuple("1", "ab", "secret", nil))
	refuse(tuple("1"))

	keyless := newCodec(t, relationOf(t, 0, "a text"))
	if keyless.KeySchema() != "" {
		t.Fatalf("a relation without a key has the key schema %s", keyless.KeySchema())
	}
	if _, err := keyless.AppendKey(nil, tuple("a")); !errors.Is(err, ErrEvent) {
		t.Fatalf("key of a relation without one: %v", err)
	}
}

func TestEncoderRefuses(t *testing.T) {
	c := newCodec(t, relationOf(t, 1, "id int8", "note text"))
	row := tuple("1", "secret")
	f := func(ev *change.Event) {
		t.Helper()
		got, err := c.AppendValue([]byte("x"), ev)
		if !errors.Is(err, ErrEvent) || string(got) != "x" {
			t.Fatalf("%q, %v; want ErrEvent and nothing appended", got, err)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Fatalf("the error tells a value: %v", err)
		}
	}
	f(streamed(change.Create, nil, nil))
	f(streamed(change.Create, nil, tuple("1")))
	f(streamed(change.Create, nil, tuple(nil, "secret")))
	f(streamed(change.Create, nil, tuple("secret", "secret")))
	f(streamed(change.Update, tuple("1", change.Unchanged), row))
	f(streamed(change.Update, nil, tuple(change.Unchanged, "secret")))
	f(streamed(change.Update, tuple("1", "a", "b"), row))
	f(streamed(change.Delete, nil, nil))
	f(streamed(change.Delete, row, row))
	f(streamed(change.Truncate, row, nil))
	f(streamed('x', row, row))

	if _, err := NewEncoder(testSource, &schema.Relation{Schema: "public", Name: strings.Repeat("n", 300)}); !errors.Is(err, ErrTopicName) {
		t.Fatalf("relation that can have no topic: %v", err)
	}
}

func TestRelationInSchema(t *testing.T) {
	rating := schema.Type{OID: 16400, Typmod: -1, Name: "public.mpaa_rating", Class: schema.ClassEnum}
	money := schema.Type{
		OID: 16410, Typmod: -1, Name: `public."Dollars"`, Class: schema.ClassDomain,
		Base: &schema.Type{OID: schema.OIDNumeric, Typmod: 655366, Name: "numeric(10,2)", Class: schema.ClassBase},
	}
	empty, odd := "", "a\"b\\ü'"
	rel := &schema.Relation{
		OID: 4_000_000_000, Schema: "sales.eu", Name: "Größe \"x\"", Identity: schema.IdentityFull,
		Columns: []schema.Column{
			{Name: "id", AttNum: 1, Type: builtin(t, "int8"), NotNull: true},
			{Name: "Tenant id", AttNum: 3, Type: builtin(t, "timestamptz"), NotNull: true},
			{Name: "rating", AttNum: 4, Type: rating, Default: &odd},
			{Name: "ratings", Type: schema.Type{OID: 16401, Typmod: -1, Name: "public.mpaa_rating[]", Class: schema.ClassBase, Elem: &rating}},
			{Name: "price", AttNum: 6, Type: money, Default: &empty},
			{Name: "1 total", AttNum: 7, Type: builtin(t, "timestamp[]"), Generated: "price * 2 < 3"},
		},
		Key: []int{1, 0},
	}
	c := newCodec(t, rel)
	if got := c.Relation(); !got.Equal(rel) || !reflect.DeepEqual(got, rel) {
		t.Fatalf("got  %+v\nwant %+v", got, rel)
	}
	if want := `shop.sales_x002E_eu.Gr_x00F6__x00DF_e_x0020__x0022_x_x0022_`; c.Topic() != want {
		t.Fatalf("topic is %q, want %q", c.Topic(), want)
	}
	ev := streamed(change.Create, nil, tuple("1", "infinity", "PG-13", `{G,"PG-13"}`, "1.50", `{"2024-01-01 00:00:00"}`))
	value, err := c.AppendValue(nil, ev)
	if err != nil {
		t.Fatal(err)
	}
	var got change.Event
	if _, err := c.Decode(value, &got, nil); err != nil || !sameEvent(&got, ev) {
		t.Fatalf("%+v, %v", got, err)
	}
}
