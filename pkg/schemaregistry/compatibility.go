package schemaregistry

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// level is a compatibility level by Confluent's name.
// https://docs.confluent.io/platform/current/schema-registry/fundamentals/schema-evolution.html
type level string

// none is the level of a new registry. Confluent's default is BACKWARD; a change of a column's type in Postgres is
// often none, and those who write our records check themselves what their readers can follow.
const none level = "NONE"

var levels = []level{none, "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"}

func (l level) valid() bool { return slices.Contains(levels, l) }

func (l level) transitive() bool { return strings.HasSuffix(string(l), "_TRANSITIVE") }

// check says what at this level speaks against next after earlier; nothing if they are compatible.
func (l level) check(next, earlier *schema) []string {
	var c comparison
	direction := strings.TrimSuffix(string(l), "_TRANSITIVE")
	if direction == "BACKWARD" || direction == "FULL" {
		c.read(next, earlier, "")
	}
	if direction == "FORWARD" || direction == "FULL" {
		c.read(earlier, next, "")
	}
	return c.faults
}

// comparison applies Avro's rules of schema resolution
// (https://avro.apache.org/docs/1.12.0/specification/#schema-resolution), to all types at once instead of to a value.
// Logical types do not take part in it.
type comparison struct {
	faults []string
	seen   map[[2]*schema]bool // pairs of records compared or being compared: they may hold themselves
}

func (c *comparison) fail(path, format string, args ...any) {
	if path == "" {
		path = "/"
	}
	c.faults = append(c.faults, path+": "+fmt.Sprintf(format, args...))
}

// read notes why reader cannot read what writer wrote.
func (c *comparison) read(reader, writer *schema, path string) {
	switch {
	case writer.kind == "union":
		for i, branch := range writer.branches {
			c.read(reader, branch, fmt.Sprintf("%s/%d", path, i))
		}
	case reader.kind == "union":
		for _, branch := range reader.branches {
			// A comparison of its own: the faults of one branch do not count if another one matches. It knows what is
			// being compared above, so that it ends.
			try := comparison{seen: maps.Clone(c.seen)}
			if try.read(branch, writer, path); len(try.faults) == 0 {
				return
			}
		}
		c.fail(path, "no branch of the reader's union reads %s", writer.kind)
	case reader.kind == writer.kind:
		c.readSame(reader, writer, path)
	case !slices.Contains(promotions[writer.kind], reader.kind):
		c.fail(path, "%s cannot be read as %s", writer.kind, reader.kind)
	}
}

// promotions: from the writer's type to the reader's.
var promotions = map[string][]string{
	"int":    {"long", "float", "double"},
	"long":   {"float", "double"},
	"float":  {"double"},
	"string": {"bytes"},
	"bytes":  {"string"},
}

func (c *comparison) readSame(reader, writer *schema, path string) {
	switch reader.kind {
	case "array", "map":
		c.read(reader.items, writer.items, path+"/items")
	case "fixed":
		if c.sameName(reader, writer, path) && reader.size != writer.size {
			c.fail(path, "fixed of %d bytes cannot be read as one of %d", writer.size, reader.size)
		}
	case "enum":
		if !c.sameName(reader, writer, path) || reader.hasDefault {
			return
		}
		for _, symbol := range writer.symbols {
			if !slices.Contains(reader.symbols, symbol) {
				c.fail(path, "symbol %q is missing and the enum has no default", symbol)
			}
		}
	case "record":
		if c.sameName(reader, writer, path) {
			c.readRecord(reader, writer, path)
		}
	}
}

// sameName compares without namespace, as the specification says for schemas, or by the reader's aliases.
func (c *comparison) sameName(reader, writer *schema, path string) bool {
	if lastPart(reader.name) == lastPart(writer.name) || slices.Contains(reader.aliases, writer.name) {
		return true
	}
	c.fail(path, "%s %q cannot be read as %q", writer.kind, writer.name, reader.name)
	return false
}

func lastPart(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

func (c *comparison) readRecord(reader, writer *schema, path string) {
	pair := [2]*schema{reader, writer}
	if c.seen[pair] {
		return
	}
	if c.seen == nil {
		c.seen = map[[2]*schema]bool{}
	}
	c.seen[pair] = true
	for _, f := range reader.fields {
		i := slices.IndexFunc(writer.fields, func(w field) bool { return w.name == f.name })
		if i < 0 {
			i = slices.IndexFunc(writer.fields, func(w field) bool { return slices.Contains(f.aliases, w.name) })
		}
		switch {
		case i >= 0:
			c.read(f.schema, writer.fields[i].schema, path+"/"+f.name)
		case !f.hasDefault:
			c.fail(path+"/"+f.name, "the field is missing in the writer's schema and has no default")
		}
	}
}
