package record

import (
	"encoding/hex"
	"math"
	"strconv"

	"github.com/tributary-cdc/tributary/schema"
)

// form is how the values of one column travel.
type form struct {
	kind schema.Kind
	name string // connect.name of the Avro type, "" for none
	// read appends the text of a value in a form that we do not write; nil for our own.
	read func(r *reader, arena []byte) []byte
	// Arrays only.
	elem  *form
	delim byte // what parts the elements in the array's text
}

// Names by which Debezium's Connect schemas tell what an Avro type means.
const (
	nameDate      = "io.debezium.time.Date"
	nameTime      = "io.debezium.time.MicroTime"
	nameTimestamp = "io.debezium.time.MicroTimestamp"
	nameZoned     = "io.debezium.time.ZonedTimestamp"
	nameUUID      = "io.debezium.data.Uuid"
	nameJSON      = "io.debezium.data.Json"
	nameXML       = "io.debezium.data.Xml"
	nameTSVector  = "io.debezium.data.Tsvector"
)

// formOf gives the form of a column of type t. A key column is not nullable, so it cannot fall back on the
// exact texts of the envelope: where the native form does not hold every value of the type it travels as text.
func formOf(t *schema.Type, key bool) form {
	f := form{kind: t.Kind()}
	if key {
		switch f.kind {
		case schema.KindDate, schema.KindTime, schema.KindTimestamp, schema.KindTimestampTZ, schema.KindArray:
			return form{kind: schema.KindText}
		}
	}
	for t.Base != nil {
		t = t.Base
	}
	switch f.kind {
	case schema.KindDate:
		f.name = nameDate
	case schema.KindTime:
		f.name = nameTime
	case schema.KindTimestamp:
		f.name = nameTimestamp
	case schema.KindTimestampTZ:
		f.name = nameZoned
	case schema.KindArray:
		elem := formOf(t.Elem, false)
		f.elem, f.delim = &elem, delimiter(t)
	case schema.KindText:
		switch t.OID {
		case schema.OIDUUID:
			f.name = nameUUID
		case schema.OIDJSON, schema.OIDJSONB:
			f.name = nameJSON
		case schema.OIDXML:
			f.name = nameXML
		case schema.OIDTSVector:
			f.name = nameTSVector
		}
	}
	return f
}

// delimiter gives what parts the elements of t in its text (pg_type.typdelim). Of the built-in types only box has
// one of its own.
func delimiter(t *schema.Type) byte {
	elem := t.Element()
	for elem != nil && elem.Base != nil {
		elem = elem.Base
	}
	if elem != nil && elem.OID == schema.OIDBox {
		return ';'
	}
	return ','
}

// appendNative appends the Avro bytes of text in the form f. ok is false, and dst as it was, where the form does
// not hold the value so that appendText gives back text, byte for byte. scratch is memory for the elements of
// arrays; it is given back, perhaps grown.
func (f *form) appendNative(dst, text, scratch []byte) (out, scratchOut []byte, ok bool) {
	switch f.kind {
	case schema.KindText:
		return appendBytes(dst, text), scratch, true
	case schema.KindBool:
		if len(text) != 1 || text[0] != 't' && text[0] != 'f' {
			return dst, scratch, false
		}
		if text[0] == 't' {
			return append(dst, 1), scratch, true
		}
		return append(dst, 0), scratch, true
	case schema.KindInt16, schema.KindInt32, schema.KindInt64:
		v, ok := parseInt(text)
		if !ok || f.kind == schema.KindInt16 && v != int64(int16(v)) || f.kind == schema.KindInt32 && v != int64(int32(v)) {
			return dst, scratch, false
		}
		return appendLong(dst, v), scratch, true
	case schema.KindFloat32:
		v, ok := parseFloat(text, 32)
		if !ok {
			return dst, scratch, false
		}
		return appendFixed32(dst, math.Float32bits(float32(v))), scratch, true
	case schema.KindFloat64:
		v, ok := parseFloat(text, 64)
		if !ok {
			return dst, scratch, false
		}
		return appendFixed64(dst, math.Float64bits(v)), scratch, true
	case schema.KindBytes:
		out, ok = appendHexBytes(dst, text)
		return out, scratch, ok
	case schema.KindDate:
		v, ok := parseDate(text)
		if !ok {
			return dst, scratch, false
		}
		return appendLong(dst, int64(v)), scratch, true
	case schema.KindTime:
		v, ok := parseTime(text)
		if !ok {
			return dst, scratch, false
		}
		return appendLong(dst, v), scratch, true
	case schema.KindTimestamp:
		v, ok := parseTimestamp(text)
		if !ok {
			return dst, scratch, false
		}
		return appendLong(dst, v), scratch, true
	case schema.KindTimestampTZ:
		out, ok = appendZoned(dst, text)
		return out, scratch, ok
	case schema.KindArray:
		return f.appendArray(dst, text, scratch)
	}
	return dst, scratch, false
}

// text reads a value of form f and gives its Postgres text, which aliases what r reads or the end of arena.
// Faults are left in r.
func (f *form) text(r *reader, arena []byte) (text, arenaOut []byte) {
	start := len(arena)
	if f.read != nil {
		arena = f.read(r, arena)
		return arena[start:len(arena):len(arena)], arena
	}
	switch f.kind {
	case schema.KindText:
		return r.bytes(), arena
	case schema.KindBool:
		switch r.byte() {
		case 0:
			return textFalse, arena
		case 1:
			return textTrue, arena
		}
		r.fail("a boolean is neither 0 nor 1")
		return nil, arena
	case schema.KindInt16, schema.KindInt32:
		arena = strconv.AppendInt(arena, int64(r.int()), 10)
	case schema.KindInt64:
		arena = strconv.AppendInt(arena, r.long(), 10)
	case schema.KindFloat32:
		arena = appendFloatText(arena, float64(math.Float32frombits(r.fixed32())), 32)
	case schema.KindFloat64:
		arena = appendFloatText(arena, math.Float64frombits(r.fixed64()), 64)
	case schema.KindBytes:
		arena = append(arena, '\\', 'x')
		arena = hex.AppendEncode(arena, r.bytes())
	case schema.KindDate:
		arena = appendDateText(arena, int64(r.int()))
	case schema.KindTime:
		v := r.long()
		if v < 0 || v >= dayMicros {
			r.fail("a time is not within a day")
			return nil, arena
		}
		arena = appendTimeText(arena, v)
	case schema.KindTimestamp:
		arena = appendTimestampText(arena, r.long())
	case schema.KindTimestampTZ:
		b := r.bytes()
		if r.fault == "" && !isZoned(b) {
			r.fail("a timestamp with time zone is not spelled as one")
			return nil, arena
		}
		arena = appendZonedText(arena, b)
	case schema.KindArray:
		arena = f.appendArrayText(r, arena)
	}
	return arena[start:len(arena):len(arena)], arena
}

var textTrue, textFalse = []byte("t"), []byte("f")

// parseInt reads an integer as Postgres writes it: no sign but "-", no leading zeros.
func parseInt(b []byte) (int64, bool) {
	digits := b
	negative := len(b) > 0 && b[0] == '-'
	if negative {
		digits = b[1:]
	}
	if len(digits) == 0 || len(digits) > 19 || digits[0] == '0' && len(b) > 1 {
		return 0, false
	}
	var v uint64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + uint64(c-'0') // 19 digits fit
	}
	if negative {
		if v > 1<<63 {
			return 0, false
		}
		return -int64(v), true
	}
	return int64(v), v < 1<<63
}

// appendHexBytes appends the bytes that text spells in Postgres' hex format.
func appendHexBytes(dst, text []byte) ([]byte, bool) {
	if len(text) < 2 || text[0] != '\\' || text[1] != 'x' || len(text)%2 != 0 {
		return dst, false
	}
	text = text[2:]
	start := len(dst)
	dst = appendLong(dst, int64(len(text)/2))
	for i := 0; i < len(text); i += 2 {
		hi, lo := hexDigits[text[i]], hexDigits[text[i+1]]
		if hi|lo > 0xf {
			return dst[:start], false
		}
		dst = append(dst, hi<<4|lo)
	}
	return dst, true
}

// hexDigits holds the value of each lower-case hexadecimal digit, 0xff for every other byte.
var hexDigits = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range "0123456789abcdef" {
		t[c] = byte(i)
	}
	return t
}()
