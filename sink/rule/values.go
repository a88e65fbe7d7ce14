package rule

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
)

// celType gives the type that values of a column have in expressions. Types without one of their own are strings there:
// what Postgres writes for them.
func celType(t *schema.Type) *cel.Type {
	switch t.Kind() {
	case schema.KindBool:
		return cel.BoolType
	case schema.KindInt16, schema.KindInt32, schema.KindInt64:
		return cel.IntType
	case schema.KindFloat32, schema.KindFloat64:
		return cel.DoubleType
	case schema.KindBytes:
		return cel.BytesType
	case schema.KindDate, schema.KindTimestamp, schema.KindTimestampTZ:
		return cel.TimestampType
	case schema.KindArray:
		return cel.ListType(celType(t.Element()))
	}
	switch plain(t).OID {
	case schema.OIDNumeric:
		return numericType
	case schema.OIDJSON, schema.OIDJSONB:
		return cel.DynType
	}
	return cel.StringType
}

func plain(t *schema.Type) *schema.Type {
	for t.Base != nil {
		t = t.Base
	}
	return t
}

// decoder gives what makes a value of a type's text. The value may alias the text. It gives an error where the text is
// one that expressions have no value for: infinity as a time, an array of two dimensions.
func decoder(t *schema.Type) func(text []byte) ref.Val {
	switch t.Kind() {
	case schema.KindBool:
		return func(text []byte) ref.Val { return types.Bool(len(text) > 0 && text[0] == 't') }
	case schema.KindInt16, schema.KindInt32, schema.KindInt64:
		return decodeInt
	case schema.KindFloat32:
		return decodeFloat(32)
	case schema.KindFloat64:
		return decodeFloat(64)
	case schema.KindBytes:
		return decodeBytes
	case schema.KindDate:
		return func(text []byte) ref.Val {
			days, ok := record.ParseDate(text)
			return timeValue(int64(days)*secondsPerDay, 0, ok)
		}
	case schema.KindTimestamp, schema.KindTimestampTZ:
		return func(text []byte) ref.Val {
			micros, ok := record.ParseTimestamp(bytes.TrimSuffix(text, []byte("+00")))
			return timeValue(micros/1e6, micros%1e6, ok)
		}
	case schema.KindArray:
		element := decoder(t.Element())
		aliases := true // the value holds the text, which is the next one's afterwards
		switch t.Element().Kind() {
		case schema.KindBool, schema.KindInt16, schema.KindInt32, schema.KindInt64, schema.KindFloat32, schema.KindFloat64, schema.KindDate, schema.KindTimestamp, schema.KindTimestampTZ:
			aliases = false
		}
		return func(text []byte) ref.Val {
			list := make([]ref.Val, 0, bytes.Count(text, []byte(","))+1)
			ok := record.Elements(text, func(e []byte) {
				switch {
				case e == nil:
					list = append(list, types.NullValue)
				case aliases:
					list = append(list, element(bytes.Clone(e)))
				default:
					list = append(list, element(e))
				}
			})
			if !ok {
				return types.NewErr("an array has more than one dimension, or does not count from 1; write text(column)")
			}
			for _, v := range list {
				if types.IsError(v) {
					return v
				}
			}
			return types.NewRefValList(types.DefaultTypeAdapter, list)
		}
	}
	switch plain(t).OID {
	case schema.OIDNumeric:
		return func(text []byte) ref.Val { return numeric(alias(text)) }
	case schema.OIDJSON, schema.OIDJSONB:
		return decodeJSON
	}
	return decodeString
}

// alias makes a string of a text that outlives it: the row, which lives until the expression has been evaluated.
func alias(text []byte) string { return unsafe.String(unsafe.SliceData(text), len(text)) }

func decodeString(text []byte) ref.Val { return types.String(alias(text)) }

func decodeInt(text []byte) ref.Val {
	v, err := strconv.ParseInt(alias(text), 10, 64)
	if err != nil {
		return types.NewErr("a whole number is out of range for int")
	}
	return types.Int(v)
}

func decodeFloat(bits int) func(text []byte) ref.Val {
	return func(text []byte) ref.Val {
		v, err := strconv.ParseFloat(alias(text), bits)
		if err != nil {
			return types.NewErr("a number is out of range for double")
		}
		return types.Double(v)
	}
}

func decodeBytes(text []byte) ref.Val {
	digits, ok := bytes.CutPrefix(text, []byte(`\x`))
	v := make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(v, digits); !ok || err != nil {
		return types.NewErr("bytes are not in hexadecimal form")
	}
	return types.Bytes(v)
}

const secondsPerDay = 86400

// The times that CEL knows: the years 1 to 9999.
const minTime, maxTime = -62135596800, 253402300799

func timeValue(seconds, micros int64, ok bool) ref.Val {
	if !ok || seconds < minTime || seconds > maxTime {
		return types.NewErr("a time is infinite, or not in the years 1 to 9999; write text(column)")
	}
	return types.Timestamp{Time: time.Unix(seconds, micros*1000).UTC()}
}

// resultType gives the type that values of an expression's type get in the warehouse.
func resultType(t *cel.Type) (schema.Type, bool) {
	switch t.Kind() {
	case types.BoolKind:
		return mustType("boolean"), true
	case types.IntKind:
		return mustType("bigint"), true
	case types.UintKind:
		return mustType("numeric"), true
	case types.DoubleKind:
		return mustType("double precision"), true
	case types.StringKind:
		return mustType("text"), true
	case types.BytesKind:
		return mustType("bytea"), true
	case types.TimestampKind:
		return mustType("timestamptz"), true
	case types.DurationKind:
		return mustType("interval"), true
	case types.DynKind, types.MapKind:
		return mustType("jsonb"), true
	case types.OpaqueKind:
		return mustType("numeric"), t.TypeName() == numericType.TypeName()
	case types.ListKind:
		element, ok := resultType(t.Parameters()[0])
		if !ok {
			return schema.Type{}, false
		}
		switch element.Name {
		case "jsonb", "bytea":
			return mustType("jsonb"), true
		}
		if element.Elem != nil {
			return mustType("jsonb"), true // an array of two dimensions would have to be a rectangle
		}
		return mustType(element.Name + "[]"), true
	}
	return schema.Type{}, false
}

var (
	errZero  = errors.New("text holds a zero byte, which Postgres does not take")
	errUTF8  = errors.New("text is not UTF-8")
	errValue = errors.New("the result is not of the type that the expression has")
)

// appendValue appends the text of a value of the type t: the one that resultType gave, or text for any value of JSON. It must not be null.
func appendValue(dst []byte, v ref.Val, t *schema.Type) ([]byte, error) {
	if t.Elem != nil {
		list, ok := v.(traits.Lister)
		if !ok {
			return dst, errValue
		}
		dst = append(dst, '{')
		var memory []byte
		for i := range int64(list.Size().(types.Int)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			e := list.Get(types.Int(i))
			if e == types.NullValue {
				dst = append(dst, "NULL"...)
				continue
			}
			var err error
			if memory, err = appendValue(memory[:0], e, t.Elem); err != nil {
				return dst, err
			}
			dst = record.AppendElement(dst, memory)
		}
		return append(dst, '}'), nil
	}
	if t.Name == "jsonb" {
		return appendJSON(dst, v)
	}
	switch v := v.(type) {
	case traits.Mapper, traits.Lister:
		return appendJSON(dst, v)
	case types.Bool:
		if t.Name == "text" {
			return strconv.AppendBool(dst, bool(v)), nil
		}
		if v {
			return append(dst, 't'), nil
		}
		return append(dst, 'f'), nil
	case types.Int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case types.Uint:
		return strconv.AppendUint(dst, uint64(v), 10), nil
	case types.Double:
		return record.AppendFloat(dst, float64(v), 64), nil
	case numeric:
		return append(dst, v...), nil
	case types.String:
		switch {
		case strings.IndexByte(string(v), 0) >= 0:
			return dst, errZero
		case !utf8.ValidString(string(v)):
			return dst, errUTF8
		}
		return append(dst, v...), nil
	case types.Bytes:
		return hex.AppendEncode(append(dst, `\x`...), v), nil
	case types.Timestamp:
		return append(record.AppendTimestamp(dst, v.UnixMicro()), "+00"...), nil
	case types.Duration:
		return appendInterval(dst, v.Duration), nil
	}
	return dst, errValue
}

func appendInterval(dst []byte, d time.Duration) []byte {
	micros := d.Microseconds()
	if micros < 0 {
		dst, micros = append(dst, '-'), -micros
	}
	dst = strconv.AppendInt(dst, micros/1e6, 10)
	if micros %= 1e6; micros != 0 {
		dst = append(dst, '.')
		for unit := int64(1e5); unit > 0; unit /= 10 {
			dst = append(dst, byte('0'+micros/unit%10))
		}
	}
	return append(dst, " seconds"...)
}

// appendJSON appends a value as JSON: times as in string(x), bytes in base64, the keys of objects in order.
func appendJSON(dst []byte, v ref.Val) ([]byte, error) {
	switch v := v.(type) {
	case types.Null:
		return append(dst, "null"...), nil
	case types.Bool:
		return strconv.AppendBool(dst, bool(v)), nil
	case types.Int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case types.Uint:
		return strconv.AppendUint(dst, uint64(v), 10), nil
	case types.Double:
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return dst, errors.New("JSON has no NaN and no Infinity")
		}
		return strconv.AppendFloat(dst, float64(v), 'g', -1, 64), nil
	case numeric:
		if v.special() != 0 {
			return dst, errors.New("JSON has no NaN and no Infinity")
		}
		return append(dst, v...), nil
	case types.String:
		if !utf8.ValidString(string(v)) {
			return dst, errUTF8
		}
		quoted, err := json.Marshal(string(v))
		return append(dst, quoted...), err
	case types.Bytes:
		return append(base64.StdEncoding.AppendEncode(append(dst, '"'), v), '"'), nil
	case types.Timestamp, types.Duration:
		return appendJSON(dst, v.ConvertToType(types.StringType))
	case traits.Mapper:
		return appendObject(dst, v)
	case traits.Lister:
		dst = append(dst, '[')
		var err error
		for i := range int64(v.Size().(types.Int)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendJSON(dst, v.Get(types.Int(i))); err != nil {
				return dst, err
			}
		}
		return append(dst, ']'), nil
	}
	return dst, errValue
}

func appendObject(dst []byte, m traits.Mapper) ([]byte, error) {
	var keys []string
	for it := m.Iterator(); it.HasNext() == types.True; {
		key, ok := it.Next().(types.String)
		if !ok {
			return dst, errors.New("the keys of JSON are strings")
		}
		keys = append(keys, string(key))
	}
	slices.Sort(keys)
	dst = append(dst, '{')
	for i, key := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendJSON(dst, types.String(key)); err != nil {
			return dst, err
		}
		dst = append(dst, ':')
		if dst, err = appendJSON(dst, m.Get(types.String(key))); err != nil {
			return dst, err
		}
	}
	return append(dst, '}'), nil
}
