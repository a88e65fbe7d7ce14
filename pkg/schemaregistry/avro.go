package schemaregistry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// schema is an Avro schema as far as compatibility looks at it: without logical types, docs, orders and properties.
// Named types that are referred to are the same pointer again.
type schema struct {
	kind     string // a primitive type, or record, enum, fixed, array, map, union
	name     string // full name of record, enum, fixed
	aliases  []string
	fields   []field
	symbols  []string
	size     int
	items    *schema // of an array, values of a map
	branches []*schema

	hasDefault bool // enum
}

type field struct {
	name       string
	aliases    []string
	schema     *schema
	hasDefault bool
}

// object is the JSON object of a schema or field. Its keys are matched exactly, and those that its type does not know
// are properties which may hold anything.
type object map[string]json.RawMessage

// get decodes the value of key, if there is one.
func (o object) get(key string, into any) error {
	raw, ok := o[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%q: %w", key, err)
	}
	return nil
}

// parse reads an Avro schema (https://avro.apache.org/docs/1.12.0/specification/#schema-declaration). It refuses what
// has no meaning; it does not look into defaults.
func parse(text string) (*schema, error) {
	d := json.NewDecoder(strings.NewReader(text))
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the schema")
	}
	p := parser{names: map[string]*schema{}}
	return p.parse(raw, "", 0)
}

type parser struct{ names map[string]*schema }

const maxDepth = 500

func isPrimitive(kind string) bool {
	switch kind {
	case "null", "boolean", "int", "long", "float", "double", "bytes", "string":
		return true
	}
	return false
}

func (p *parser) parse(raw json.RawMessage, namespace string, depth int) (*schema, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("schema is nested more than %d deep", maxDepth)
	}
	raw = bytes.TrimSpace(raw)
	switch {
	case len(raw) == 0:
		return nil, errors.New("a type is missing")
	case raw[0] == '"':
		var name string
		if err := json.Unmarshal(raw, &name); err != nil {
			return nil, err
		}
		return p.named(name, namespace)
	case raw[0] == '[':
		return p.union(raw, namespace, depth)
	case raw[0] != '{':
		return nil, fmt.Errorf("%.40s is no schema", raw)
	}
	var o object
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, err
	}
	var kind string
	if err := o.get("type", &kind); err != nil {
		return p.parse(o["type"], namespace, depth+1) // {"type": {…}} with properties around it
	}
	switch kind {
	case "record", "error", "enum", "fixed":
		return p.define(kind, o, namespace, depth)
	case "array":
		return p.container(kind, o["items"], namespace, depth)
	case "map":
		return p.container(kind, o["values"], namespace, depth)
	case "":
		return nil, errors.New("a type is missing")
	}
	return p.named(kind, namespace)
}

// named gives a primitive type or one defined before.
func (p *parser) named(name, namespace string) (*schema, error) {
	if isPrimitive(name) {
		return &schema{kind: name}, nil
	}
	if s, ok := p.names[fullName(name, namespace)]; ok {
		return s, nil
	}
	return nil, fmt.Errorf("%q is no type and defined nowhere before", name)
}

func fullName(name, namespace string) string {
	if strings.Contains(name, ".") || namespace == "" {
		return name
	}
	return namespace + "." + name
}

func (p *parser) union(raw json.RawMessage, namespace string, depth int) (*schema, error) {
	var parts []json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil {
		return nil, err
	}
	s := &schema{kind: "union"}
	seen := map[string]bool{}
	for _, part := range parts {
		branch, err := p.parse(part, namespace, depth+1)
		if err != nil {
			return nil, err
		}
		id := branch.kind + " " + branch.name
		if branch.kind == "union" || seen[id] {
			return nil, fmt.Errorf("a union must not hold %s twice, nor a union", branch.kind)
		}
		seen[id] = true
		s.branches = append(s.branches, branch)
	}
	return s, nil
}

func (p *parser) container(kind string, raw json.RawMessage, namespace string, depth int) (*schema, error) {
	items, err := p.parse(raw, namespace, depth+1)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return &schema{kind: kind, items: items}, nil
}

var validName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)

func (p *parser) define(kind string, o object, namespace string, depth int) (*schema, error) {
	var name string
	var aliases []string
	if err := errors.Join(o.get("name", &name), o.get("namespace", &namespace), o.get("aliases", &aliases)); err != nil {
		return nil, err
	}
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("%q is no name for a %s", name, kind)
	}
	s := &schema{kind: kind, name: fullName(name, namespace)}
	if kind == "error" {
		s.kind = "record"
	}
	// Names inside of it belong to its namespace.
	namespace = s.name[:max(0, strings.LastIndexByte(s.name, '.'))]
	if _, twice := p.names[s.name]; twice || isPrimitive(s.name) {
		return nil, fmt.Errorf("%q is defined twice", s.name)
	}
	p.names[s.name] = s
	for _, alias := range aliases {
		s.aliases = append(s.aliases, fullName(alias, namespace))
	}
	if err := p.defineBody(s, o, namespace, depth); err != nil {
		return nil, fmt.Errorf("%s %q: %w", kind, s.name, err)
	}
	return s, nil
}

func (p *parser) defineBody(s *schema, o object, namespace string, depth int) error {
	switch s.kind {
	case "enum":
		if err := o.get("symbols", &s.symbols); err != nil {
			return err
		}
		if len(s.symbols) == 0 {
			return errors.New("no symbols")
		}
		_, s.hasDefault = o["default"]
	case "fixed":
		s.size = -1
		if err := o.get("size", &s.size); err != nil {
			return err
		}
		if s.size < 0 {
			return errors.New("no size")
		}
	case "record":
		var fields []object
		if err := o.get("fields", &fields); err != nil {
			return err
		}
		if fields == nil {
			return errors.New("no fields")
		}
		return p.defineFields(s, fields, namespace, depth)
	}
	return nil
}

func (p *parser) defineFields(record *schema, fields []object, namespace string, depth int) error {
	seen := map[string]bool{}
	for _, o := range fields {
		var f field
		if err := errors.Join(o.get("name", &f.name), o.get("aliases", &f.aliases)); err != nil {
			return fmt.Errorf("field %q: %w", f.name, err)
		}
		if !validName.MatchString(f.name) || strings.Contains(f.name, ".") || seen[f.name] {
			return fmt.Errorf("%q is no name for a field, or there twice", f.name)
		}
		seen[f.name] = true
		var err error
		if f.schema, err = p.parse(o["type"], namespace, depth+1); err != nil {
			return fmt.Errorf("field %q: %w", f.name, err)
		}
		_, f.hasDefault = o["default"]
		record.fields = append(record.fields, f)
	}
	return nil
}
