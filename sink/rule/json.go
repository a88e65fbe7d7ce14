package rule

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// decodeJSON gives the value of a JSON text. Of an object only those members are decoded that are asked for.
func decodeJSON(text []byte) ref.Val {
	text = trimSpace(text)
	switch {
	case !json.Valid(text):
		return types.NewErr("JSON cannot be read")
	case !plainNumbers(text): // of which one may be out of range, whoever asks for it
		return decodeAll(text)
	}
	return jsonValue(text)
}

// decodeAll is decodeJSON at once.
func decodeAll(text []byte) ref.Val {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return types.NewErr("JSON cannot be read")
	}
	v, ok := jsonNumbers(v)
	if !ok {
		return types.NewErr("JSON holds a number out of range for double; write text(column)")
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

// jsonNumbers makes int64 of whole numbers, which double would round, and float64 of all others.
func jsonNumbers(v any) (any, bool) {
	all := true
	switch v := v.(type) {
	case json.Number:
		return jsonNumber(v.String())
	case []any:
		for i := range v {
			var ok bool
			v[i], ok = jsonNumbers(v[i])
			all = all && ok
		}
	case map[string]any:
		for k := range v {
			var ok bool
			v[k], ok = jsonNumbers(v[k])
			all = all && ok
		}
	}
	return v, all
}

func jsonNumber(text string) (ref.Val, bool) {
	whole := true
	for i := range len(text) {
		whole = whole && text[i] <= '9' && text[i] != '.'
	}
	if whole {
		if v, err := strconv.ParseInt(text, 10, 64); err == nil {
			return types.Int(v), true
		}
	}
	v, err := strconv.ParseFloat(text, 64)
	return types.Double(v), err == nil
}

// longestNumber is how many digits a number has that surely is in range.
const longestNumber = 300

// plainNumbers says whether no number in a text is long or has an exponent.
func plainNumbers(text []byte) bool {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			i += stringEnd(text[i:]) - 1
		case c == '-', c >= '0' && c <= '9':
			from := i
			for i+1 < len(text) && (text[i+1] >= '0' && text[i+1] <= '9' || text[i+1] == '.') {
				i++
			}
			if i-from > longestNumber || i+1 < len(text) && text[i+1]|0x20 == 'e' {
				return false
			}
		}
	}
	return true
}

// jsonValue gives the value of a text that is one, without space around it, and has plain numbers.
func jsonValue(text []byte) ref.Val {
	switch text[0] {
	case '{':
		return &object{text: text}
	case '[':
		return decodeAll(text)
	case '"':
		return types.String(jsonString(text))
	case 't':
		return types.True
	case 'f':
		return types.False
	case 'n':
		return types.NullValue
	}
	v, _ := jsonNumber(alias(text))
	return v
}

// jsonString takes a string out of its quotes.
func jsonString(text []byte) string {
	if bytes.IndexByte(text, '\\') < 0 {
		return alias(text[1 : len(text)-1])
	}
	var s string
	_ = json.Unmarshal(text, &s) // it is valid
	return s
}

func trimSpace(text []byte) []byte {
	for len(text) > 0 && isSpace(text[0]) {
		text = text[1:]
	}
	for len(text) > 0 && isSpace(text[len(text)-1]) {
		text = text[:len(text)-1]
	}
	return text
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// stringEnd gives where the string ends with which text begins.
func stringEnd(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

// valueEnd gives where the value ends with which text begins.
func valueEnd(text []byte) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i += stringEnd(text[i:]) - 1
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return i // of what a number or a word is in
			}
			if depth == 0 {
				return i + 1
			}
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return len(text)
}

// object is a JSON object. Its text is a part of the row, and lives as long.
type object struct {
	text  []byte
	whole traits.Mapper // all of it, once that is needed
}

// Find looks for one member. Of those with the same name the last counts.
func (o *object) Find(key ref.Val) (found ref.Val, ok bool) {
	name, is := key.(types.String)
	if !is {
		return o.all().Find(key)
	}
	var value []byte
	for rest := trimSpace(o.text[1 : len(o.text)-1]); len(rest) > 0; {
		end := stringEnd(rest)
		hit := jsonString(rest[:end]) == string(name)
		rest = trimSpace(rest[end:])[1:] // of the colon
		rest = trimSpace(rest)
		end = valueEnd(rest)
		if hit {
			value = rest[:end]
		}
		if rest = trimSpace(rest[end:]); len(rest) > 0 {
			rest = trimSpace(rest[1:]) // of the comma
		}
	}
	if value == nil {
		return nil, false
	}
	return jsonValue(value), true
}

// Get implements traits.Indexer.
func (o *object) Get(key ref.Val) ref.Val {
	if v, ok := o.Find(key); ok {
		return v
	}
	return o.all().Get(key) // says that there is none
}

// Contains implements traits.Container.
func (o *object) Contains(key ref.Val) ref.Val {
	if v, ok := o.Find(key); ok {
		return types.Bool(!types.IsUnknownOrError(v))
	}
	return o.all().Contains(key)
}

// all decodes the rest. Nothing can be wrong with it: decodeJSON has looked.
func (o *object) all() traits.Mapper {
	if o.whole == nil {
		o.whole = decodeAll(o.text).(traits.Mapper)
	}
	return o.whole
}

// ConvertToNative implements ref.Val.
func (o *object) ConvertToNative(to reflect.Type) (any, error) { return o.all().ConvertToNative(to) }

// ConvertToType implements ref.Val.
func (o *object) ConvertToType(to ref.Type) ref.Val { return o.all().ConvertToType(to) }

// Equal implements ref.Val.
func (o *object) Equal(other ref.Val) ref.Val { return o.all().Equal(other) }

// Type implements ref.Val.
func (o *object) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (o *object) Value() any { return o.all().Value() }

// Iterator implements traits.Iterable.
func (o *object) Iterator() traits.Iterator { return o.all().Iterator() }

// Size implements traits.Sizer.
func (o *object) Size() ref.Val { return o.all().Size() }
