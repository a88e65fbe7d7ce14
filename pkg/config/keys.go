package config

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// envPrefix begins the name of every environment variable that overrides a key.
const envPrefix = "TRIBUTARY_"

func envName(path string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// shape is what stands under a key.
type shape int

const (
	scalar      shape = iota // one value
	scalarList               // a list of values
	section                  // a struct
	sectionList              // a list of structs
)

// key is one key of a configuration, read from a struct's field.
type key struct {
	name     string // last part of the path
	path     string // like source.dsn or tables[].from
	env      string // "" below a list
	doc      string
	fallback string // default
	required bool
	oneOf    []string
	shape    shape
	typ      reflect.Type // of the field; of the element for lists
	index    int          // of the field in the struct that holds it
	children []*key       // of a section or a section list
	block    []*key       // of a scalar list whose values may be written as blocks, too
}

var (
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType    = reflect.TypeFor[time.Duration]()
	secretType      = reflect.TypeFor[Secret]()
	keyForm         = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
)

// keysOf reads the keys of a struct type, and what is wrong with its tags: mistakes of ours, not of the user.
func keysOf(t reflect.Type) (keys []*key, mistakes []string) {
	w := &walker{}
	keys = w.walk(t, "", false)
	return keys, w.mistakes
}

// mustKeys is keysOf for a struct that CheckStruct has seen in a test.
func mustKeys(t reflect.Type) []*key {
	keys, mistakes := keysOf(t)
	if len(mistakes) > 0 {
		panic(fmt.Sprintf("config: %s: %s", t, strings.Join(mistakes, "; ")))
	}
	return keys
}

type walker struct{ mistakes []string }

func (w *walker) mistake(format string, args ...any) {
	w.mistakes = append(w.mistakes, fmt.Sprintf(format, args...))
}

func (w *walker) walk(t reflect.Type, prefix string, inList bool) []*key {
	var keys []*key
	for i := range t.NumField() {
		field := t.Field(i)
		tag, hasTag := field.Tag.Lookup("mapstructure")
		if !field.IsExported() || tag == "-" {
			continue
		}
		if !hasTag || !keyForm.MatchString(tag) {
			w.mistake("%s.%s: tag mapstructure:%q is not a key in snake case", t, field.Name, tag)
			continue
		}
		k := w.key(field, prefix+tag, inList)
		k.index = i
		if k.doc == "" {
			w.mistake("%s: no doc", k.path)
		}
		keys = append(keys, k)
	}
	return keys
}

func (w *walker) key(field reflect.StructField, path string, inList bool) *key {
	k := &key{
		name:     field.Tag.Get("mapstructure"),
		path:     path,
		doc:      field.Tag.Get("doc"),
		fallback: field.Tag.Get("default"),
		required: field.Tag.Get("required") == "true",
		typ:      field.Type,
	}
	_, hasDefault := field.Tag.Lookup("default")
	if oneOf := field.Tag.Get("oneof"); oneOf != "" {
		k.oneOf = strings.Split(oneOf, ",")
	}
	if !inList {
		k.env = envName(path)
	}
	if k.required && hasDefault {
		w.mistake("%s: required and with a default", path)
	}
	switch {
	case isScalar(field.Type):
		k.shape = scalar
	case field.Type.Kind() == reflect.Slice && isScalar(field.Type.Elem()):
		k.shape, k.typ = scalarList, field.Type.Elem()
		if hasKeys(k.typ) {
			k.block = w.walk(k.typ, path+"[].", true)
		}
	case field.Type.Kind() == reflect.Struct:
		k.shape, k.env = section, ""
		k.children = w.walk(field.Type, path+".", inList)
		w.override(k)
		w.refuseRequired(k)
		return k
	case field.Type.Kind() == reflect.Slice && field.Type.Elem().Kind() == reflect.Struct:
		k.shape, k.env, k.typ = sectionList, "", field.Type.Elem()
		k.children = w.walk(k.typ, path+"[].", true)
		if hasDefault {
			w.mistake("%s: a list of structs has no default", path)
		}
		w.refuseRequired(k)
		return k
	default:
		w.mistake("%s: type %s is not supported: no maps (identifiers are values, never keys), no pointers", path, field.Type)
		return k
	}
	if !hasDefault && !k.required {
		w.mistake(`%s: neither default:"…" nor required:"true"`, path)
	}
	if hasDefault {
		w.checkDefault(k)
	}
	return k
}

// refuseRequired: what a block must hold, its keys say; how many a list must hold, a Checker.
func (w *walker) refuseRequired(k *key) {
	if k.required {
		w.mistake("%s: only a value can be required", k.path)
	}
}

// override lets a section's default tag ("listen=127.0.0.1:9192;token=") replace its keys' own defaults, where two
// services share a struct.
func (w *walker) override(k *key) {
	if k.fallback == "" {
		return
	}
	for pair := range strings.SplitSeq(k.fallback, ";") {
		name, value, _ := strings.Cut(pair, "=")
		i := slices.IndexFunc(k.children, func(c *key) bool { return c.name == name && len(c.children) == 0 })
		if i < 0 {
			w.mistake("%s: default for unknown key %q", k.path, name)
			continue
		}
		k.children[i].fallback, k.children[i].required = value, false
		w.checkDefault(k.children[i])
	}
}

func (w *walker) checkDefault(k *key) {
	if k.fallback == "" && (k.shape == scalarList || k.typ.Kind() == reflect.String) {
		return
	}
	for _, text := range k.fallbackValues() {
		if err := k.check(text); err != nil {
			w.mistake("%s: default %q: %v", k.path, k.fallback, err)
		}
	}
}

// fallbackValues gives the default as one text per value.
func (k *key) fallbackValues() []string {
	if k.shape == scalarList {
		return splitList(k.fallback)
	}
	return []string{k.fallback}
}

// splitList reads a list as the environment and defaults write it: separated by commas.
func splitList(text string) []string {
	parts := []string{}
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

func isScalar(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		return true
	}
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float64, reflect.Float32,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	}
	return false
}

// hasKeys says whether a type with a text form can be written as a block as well: a struct with keys.
func hasKeys(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	for i := range t.NumField() {
		if _, ok := t.Field(i).Tag.Lookup("mapstructure"); ok {
			return true
		}
	}
	return false
}

// check says whether text is a value of the key's type. The error says what to write instead and does not repeat the value.
func (k *key) check(text string) error {
	if len(k.oneOf) > 0 && !slices.Contains(k.oneOf, text) {
		known := k.choices()
		if near := Nearest(text, k.oneOf); near != "" {
			return fmt.Errorf("not one of %s; did you mean %q?", known, near)
		}
		return fmt.Errorf("not one of %s", known)
	}
	_, err := convert(text, k.typ)
	return err
}

// choices names the values allowed; "" (leave it out) needs no mention.
func (k *key) choices() string {
	return strings.Join(slices.DeleteFunc(slices.Clone(k.oneOf), func(s string) bool { return s == "" }), ", ")
}

func convert(text string, t reflect.Type) (any, error) {
	value := reflect.New(t)
	if u, ok := value.Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return nil, err
		}
		return value.Elem().Interface(), nil
	}
	number := strings.ReplaceAll(text, "_", "")
	switch kind := t.Kind(); {
	case t == durationType:
		d, err := parseDuration(text)
		if err != nil {
			return nil, err
		}
		value.Elem().SetInt(int64(d))
	case kind == reflect.String:
		value.Elem().SetString(text)
	case kind == reflect.Bool:
		switch strings.ToLower(text) {
		case "true":
			value.Elem().SetBool(true)
		case "false":
		default:
			return nil, fmt.Errorf("not true or false")
		}
	case value.Elem().CanInt():
		n, err := strconv.ParseInt(number, 10, t.Bits())
		if err != nil {
			return nil, numberError(err, "not a whole number", t)
		}
		value.Elem().SetInt(n)
	case value.Elem().CanUint():
		n, err := strconv.ParseUint(number, 10, t.Bits())
		if err != nil {
			return nil, numberError(err, "not a whole number from 0", t)
		}
		value.Elem().SetUint(n)
	case value.Elem().CanFloat():
		n, err := strconv.ParseFloat(number, t.Bits())
		if err != nil {
			return nil, numberError(err, "not a number", t)
		}
		value.Elem().SetFloat(n)
	}
	return value.Elem().Interface(), nil
}

func numberError(err error, what string, t reflect.Type) error {
	if strings.HasSuffix(err.Error(), strconv.ErrRange.Error()) {
		return fmt.Errorf("out of range for %d bits", t.Bits())
	}
	return fmt.Errorf("%s", what)
}

// typeName is the type as the reference names it.
func (k *key) typeName() string {
	var name string
	switch kind := k.typ.Kind(); {
	case len(k.oneOf) > 0:
		name = k.choices()
	case k.typ == durationType:
		name = "duration"
	case k.typ == secretType:
		name = "secret"
	case k.typ == reflect.TypeFor[Bytes]():
		name = "size"
	case kind == reflect.Bool:
		name = "true, false"
	case kind == reflect.Float32 || kind == reflect.Float64:
		name = "number"
	case reflect.PointerTo(k.typ).Implements(textUnmarshaler), kind == reflect.String:
		name = "text"
	default:
		name = "whole number"
	}
	if k.shape == scalarList {
		return "list of " + name
	}
	return name
}

// CheckStruct fails t for every field below v (a struct or a pointer to one) that has no key, no doc, neither default
// nor required, a default that its type refuses, a type that a configuration cannot have, or an environment variable
// that another key has too. Each service runs it on its configuration in a test.
func CheckStruct(t interface {
	Helper()
	Errorf(format string, args ...any)
}, v any,
) {
	t.Helper()
	keys, mistakes := keysOf(structType(v))
	for _, m := range mistakes {
		t.Errorf("%s", m)
	}
	seen := map[string]string{}
	each(keys, func(k *key) {
		if k.env == "" {
			return
		}
		if other, clash := seen[k.env]; clash {
			t.Errorf("%s and %s are both overridden by %s", other, k.path, k.env)
		}
		seen[k.env] = k.path
	})
}

// each visits all keys that hold values, in order.
func each(keys []*key, visit func(*key)) {
	for _, k := range keys {
		if len(k.children) > 0 {
			each(k.children, visit)
			continue
		}
		visit(k)
	}
}

func structType(v any) reflect.Type {
	t := reflect.TypeOf(v)
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: %T is not a struct", v))
	}
	return t
}
