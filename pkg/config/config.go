// Package config reads the configuration of a service: YAML into a struct, strictly, every fault at once with its place
// in the file. It owns the values that configurations share (secrets, sizes, durations), the blocks that services share
// (TLS, registry, HTTP, log) and what is derived from the structs (reference, effective configuration). What the keys of
// a service are and mean is the service's business.
//
// A field is described by its tags:
//
//	mapstructure:"wal_budget"   the key, in snake case
//	default:"50GiB"             the default, as it would be written; lists separated by commas
//	required:"true"             instead of a default
//	oneof:"text,json"           the values allowed
//	doc:"…"                     its meaning, for the reference
//
// Field types are strings, numbers, booleans, time.Duration, Secret, Bytes, any encoding.TextUnmarshaler, lists of
// these, structs and lists of structs. A list's element that is a TextUnmarshaler and a struct with tags can be written
// either way. A section's default tag ("listen=127.0.0.1:9192") replaces the defaults of its
// keys. There are no maps: viper folds the case of keys and splits them at dots, so an identifier is always a value.
// Each key outside a list can be overridden by TRIBUTARY_ and its path in capitals (TRIBUTARY_SOURCE_DSN).
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// Checker is a struct of a configuration that knows what no tag can say. Check is called on every struct that has no
// fault of its own, list elements included, after all values are set. The paths it gives begin below the struct.
type Checker interface {
	Check() []Fault
}

// Placed is a struct of a configuration, or an element of a list, that wants to say later where in the file it is wrong.
// Place is called before Check. place gives "sink.yaml:31:5" for a key below the struct, or the nearest around it; ""
// where nothing of it is in a file.
type Placed interface {
	Place(place func(path string) string)
}

// Load reads file into out, a pointer to a struct: defaults, over them the file, over it the environment. Every field is
// set. With file "" there are only defaults and environment. The error is a *Faults and holds all that is wrong; out is
// then not to be used.
func Load(file string, out any) error { return LoadSaid(file, nil, out) }

// LoadSaid is Load where values of keys were said in another way ("log.level": "debug"): these win over the environment.
func LoadSaid(file string, said map[string]string, out any) error {
	content, err := read(file)
	if err != nil {
		return err
	}
	_, err = decode(file, content, over(said), out)
	return err
}

// over looks up what was said of a key before the environment.
func over(said map[string]string) func(name string) (string, bool) {
	named := map[string]string{}
	for path, value := range said {
		named[envName(path)] = value
	}
	return func(name string) (string, bool) {
		if value, ok := named[name]; ok {
			return value, true
		}
		return os.LookupEnv(name)
	}
}

// LoadText is Load with what a file that is not written yet would hold.
func LoadText(content []byte, out any) error {
	_, err := decode("", content, os.LookupEnv, out)
	return err
}

// read gives the content of file, none without a file.
func read(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		cause := err
		if path, ok := errors.AsType[*fs.PathError](err); ok {
			cause = path.Err
		}
		return nil, &Faults{File: file, Absent: errors.Is(err, fs.ErrNotExist), List: []Fault{{Message: "cannot be read: " + cause.Error()}}}
	}
	return content, nil
}

// Decode reads YAML into out as Load does, without looking at the environment. name stands for the file in faults.
func Decode(name string, content []byte, out any) error {
	_, err := decode(name, content, func(string) (string, bool) { return "", false }, out)
	return err
}

func decode(name string, content []byte, lookupEnv func(string) (string, bool), out any) (*document, error) {
	keys := mustKeys(structType(out))
	doc := readDocument(content, keys)
	doc.name = name
	layers := viper.New()
	each(keys, func(k *key) {
		if k.env == "" {
			return
		}
		if !k.required {
			layers.SetDefault(k.path, k.fallback)
		}
		text, set := lookupEnv(k.env)
		if !set || text == "" {
			if k.required && !doc.unread && !doc.has(k.path) && !doc.faulty(k.path) {
				doc.missing(k, k.path)
			}
			return
		}
		if doc.env(k, text) {
			layers.Set(k.path, text)
		}
	})
	if err := layers.MergeConfigMap(doc.values); err != nil {
		panic("config: merge a map: " + err.Error()) // viper has no reason to refuse one
	}
	err := layers.UnmarshalExact(out, viper.DecodeHook(mapstructure.DecodeHookFuncType(fromText)),
		func(c *mapstructure.DecoderConfig) { c.ZeroFields = true; c.WeaklyTypedInput = false })
	if err != nil {
		panic("config: decode checked values: " + err.Error()) // every value has been converted once already
	}
	doc.check(reflect.ValueOf(out).Elem(), keys, "")
	if len(doc.faults) > 0 {
		return nil, &Faults{File: name, List: sorted(doc.faults)}
	}
	return doc, nil
}

// fromText turns the texts that defaults, file and environment give into the field's type.
func fromText(from, to reflect.Type, data any) (any, error) {
	if from.Kind() != reflect.String {
		return data, nil
	}
	text := reflect.ValueOf(data).String()
	switch {
	case isScalar(to):
		if text == "" && to.Kind() != reflect.String {
			return reflect.Zero(to).Interface(), nil
		}
		return convert(text, to)
	case to.Kind() == reflect.Slice:
		return splitList(text), nil
	}
	return data, nil
}

// check asks every Checker below v that has no fault yet.
func (d *document) check(v reflect.Value, keys []*key, path string) {
	for _, k := range keys {
		field := v.Field(k.index)
		switch k.shape {
		case section:
			d.check(field, k.children, join(path, k.name))
		case sectionList:
			for i := range field.Len() {
				d.check(field.Index(i), k.children, join(path, k.name)+"["+strconv.Itoa(i)+"]")
			}
		}
	}
	if placed, ok := v.Addr().Interface().(Placed); ok {
		placed.Place(func(below string) string {
			line, column := d.place(strings.TrimSuffix(join(path, below), "."))
			if line == 0 {
				return ""
			}
			return fmt.Sprintf("%s:%d:%d", filepath.Base(d.name), line, column)
		})
	}
	checker, ok := v.Addr().Interface().(Checker)
	if !ok || d.faulty(path) {
		return
	}
	for _, fault := range checker.Check() {
		switch {
		case path == "":
		case fault.Path == "":
			fault.Path = path
		case strings.HasPrefix(fault.Path, "["):
			fault.Path = path + fault.Path
		default:
			fault.Path = path + "." + fault.Path
		}
		if fault.Line == 0 {
			fault.Line, fault.Column = d.place(fault.Path)
		}
		d.faults = append(d.faults, fault)
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
