package config

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
)

// Schema gives the JSON Schema (draft 2020-12) of the file that v (a struct or a pointer to one) is read from, for
// editors: it completes keys and values, and says what they mean. What it refuses Load refuses too. Load knows more: a
// key outside a list is never required here, as the environment may have it, and what Checkers find no schema can say.
func Schema(v any, title string) []byte {
	root := append(object{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"title", title},
	}, blockSchema(mustKeys(structType(v)))...)
	out, err := json.Marshal(root)
	if err != nil {
		panic("config: marshal a schema: " + err.Error()) // built here, of texts and numbers
	}
	var b bytes.Buffer
	if err := json.Indent(&b, out, "", "  "); err != nil {
		panic("config: indent a schema: " + err.Error())
	}
	return append(b.Bytes(), '\n')
}

// object is a JSON object whose members keep their order, that of the reference.
type object []member

type member struct {
	name  string
	value any
}

func (o object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendQuote(b, m.name), ':')
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		b = append(b, value...)
	}
	return append(b, '}'), nil
}

// Names of types as JSON Schema has them. Any value that YAML reads as a number or as a word of its own is a text, too.
const (
	nullName, listName, blockName = "null", "array", "object"
)

var textNames = []string{"string", "number", "boolean"}

func types(names ...string) member { return member{"type", names} }

// blockSchema is what holds for a value where it is a block.
func blockSchema(keys []*key) object {
	properties, required := object{}, []string{}
	for _, k := range keys {
		properties = append(properties, member{k.name, k.schema()})
		if k.required && k.env == "" {
			required = append(required, k.name)
		}
	}
	out := object{types(blockName, nullName), {"properties", properties}, {"additionalProperties", false}}
	if len(required) > 0 {
		out = append(out, member{"required", required})
	}
	return out
}

// set replaces a member's value.
func (o object) set(m member) object {
	for i := range o {
		if o[i].name == m.name {
			o[i] = m
			return o
		}
	}
	return append(object{m}, o...)
}

func (k *key) schema() object {
	out := object{{"description", k.meaning()}}
	switch k.shape {
	case section:
		return append(out, blockSchema(k.children)...)
	case sectionList:
		return append(out, types(listName, nullName), member{"items", blockSchema(k.children).set(types(blockName))})
	case scalarList:
		items := k.scalarSchema(false)
		if k.block != nil {
			items = blockSchema(k.block).set(types(append([]string{blockName}, textNames...)...))
		}
		out = append(out, types(append([]string{listName, nullName}, textNames...)...), member{"items", items})
		if !k.required {
			out = append(out, member{"default", splitList(k.fallback)})
		}
		return out
	}
	out = append(out, k.scalarSchema(!k.required || k.env != "")...)
	if !k.required {
		out = append(out, member{"default", k.typed(k.fallback)})
	}
	return out
}

// meaning is doc, and what else the key can be set by.
func (k *key) meaning() string {
	if k.env == "" {
		return k.doc
	}
	return k.doc + " (" + k.env + ")"
}

// Forms of values that are written as texts, as convert reads them.
const (
	durationPattern = `^([0-9]+\s*(d|days?)|[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+))$`
	sizePattern     = `^\s*[0-9]+(\.[0-9]+)?\s*([kKmMgGtT][iI]?[bB]|[bB])?\s*$`
	wholePattern    = `^[-+]?[0-9_]+$`
	numberPattern   = `^[-+]?[0-9_.]+([eE][-+]?[0-9]+)?$`
	boolPattern     = `^([tT][rR][uU][eE]|[fF][aA][lL][sS][eE])$`
)

// scalarSchema is what holds for one value; a key without a value is a key not given.
func (k *key) scalarSchema(orNull bool) object {
	names := func(names ...string) member {
		if orNull {
			names = append(names, nullName)
		}
		return types(names...)
	}
	written := func(pattern string, others ...string) object {
		return object{names(append([]string{"string"}, others...)...), {"pattern", pattern}}
	}
	switch kind := k.typ.Kind(); {
	case len(k.oneOf) > 0:
		values := make([]any, 0, len(k.oneOf)+1)
		for _, value := range k.oneOf {
			values = append(values, value)
		}
		if orNull {
			values = append(values, nil)
		}
		return object{{"enum", values}}
	case k.typ == durationType:
		return append(written(durationPattern, "integer"), member{"minimum", 0}, member{"maximum", 0}) // only 0 has no unit
	case k.typ == reflect.TypeFor[Bytes]():
		return append(written(sizePattern, "number"), member{"minimum", 0})
	case reflect.PointerTo(k.typ).Implements(textUnmarshaler), kind == reflect.String:
		return object{names(textNames...)}
	case kind == reflect.Bool:
		return written(boolPattern, "boolean")
	case kind == reflect.Float32 || kind == reflect.Float64:
		return written(numberPattern, "number")
	}
	return written(wholePattern, "integer")
}

// typed gives a default as JSON has it.
func (k *key) typed(text string) any {
	if kind := k.typ.Kind(); kind != reflect.String && k.typ != durationType && !reflect.PointerTo(k.typ).Implements(textUnmarshaler) {
		if value, err := convert(text, k.typ); err == nil {
			return value
		}
	}
	return text
}
