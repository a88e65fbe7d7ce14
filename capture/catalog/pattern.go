package catalog

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// Patterns chooses tables: a list of "schema.table" patterns (* and ?), tried in order; one that begins with "!"
// leaves out; the last that fits decides; nothing fits: left out. A half that holds a dot is written in double
// quotes.
type Patterns struct {
	list []pattern
}

type pattern struct {
	text          string
	exclude       bool
	schema, table string
}

// ParsePatterns reads the configuration's list.
func ParsePatterns(list []string) (Patterns, error) {
	var p Patterns
	for _, text := range list {
		one := pattern{text: text}
		rest, exclude := strings.CutPrefix(text, "!")
		one.exclude = exclude
		var both bool
		if one.schema, rest, both = cutName(rest); both {
			one.table, rest, _ = cutName(rest)
		}
		if one.table == "" || rest != "" {
			return Patterns{}, fmt.Errorf("table pattern %q: write schema.table, with * and ? as wildcards and double quotes around a half with a dot", text)
		}
		p.list = append(p.list, one)
	}
	return p, nil
}

// cutName takes one half from s, up to a dot or the end; ok says that a dot followed.
func cutName(s string) (name, rest string, ok bool) {
	if quotedName, isQuoted := strings.CutPrefix(s, `"`); isQuoted {
		end := strings.Index(quotedName, `"`)
		if end < 0 {
			return "", s, false
		}
		name, rest = quotedName[:end], quotedName[end+1:]
		rest, ok = strings.CutPrefix(rest, ".")
		return name, rest, ok
	}
	return strings.Cut(s, ".")
}

// Match says whether the table is chosen.
func (p Patterns) Match(schema, table string) bool {
	chosen := false
	for _, one := range p.list {
		if config.Fits(one.schema, schema) && config.Fits(one.table, table) {
			chosen = !one.exclude
		}
	}
	return chosen
}

// Idle gives those that choose tables and that none of these fits, as they were written.
func (p Patterns) Idle(tables []*Table) (idle []string) {
	for _, one := range p.list {
		if !one.exclude && !slices.ContainsFunc(tables, func(t *Table) bool {
			return config.Fits(one.schema, t.Relation.Schema) && config.Fits(one.table, t.Relation.Name)
		}) {
			idle = append(idle, one.text)
		}
	}
	return idle
}

// Exact gives a half of a pattern that matches this name. Where it cannot be written, a ? stands for any character.
func Exact(name string) string {
	half := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `"`, `?`).Replace(name)
	if strings.HasPrefix(half, "!") {
		half = `\` + half
	}
	if strings.Contains(half, ".") {
		half = `"` + half + `"`
	}
	return half
}
