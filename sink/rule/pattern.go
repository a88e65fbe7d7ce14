package rule

import (
	"errors"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// part is one half of a "from": a name, or a pattern where it was not quoted.
type part struct {
	text    string
	literal bool
}

func (p part) match(name string) bool {
	if p.literal {
		return p.text == name
	}
	return config.Fits(p.text, name)
}

var errPattern = errors.New(`not schema.table; write public.orders, "public.*", or a name with a dot in double quotes`)

// splitPattern takes schema.table apart. A part in double quotes is a name as it is, "" standing for one quote.
func splitPattern(s string) (schema, table part, err error) {
	schema, rest, err := cutPart(s)
	if err != nil || !strings.HasPrefix(rest, ".") {
		return part{}, part{}, errPattern
	}
	table, rest, err = cutPart(rest[1:])
	if err != nil || rest != "" {
		return part{}, part{}, errPattern
	}
	return schema, table, nil
}

func cutPart(s string) (p part, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexByte(s, '.')
		if end < 0 {
			end = len(s)
		}
		if end == 0 || strings.Contains(s[:end], `"`) {
			return part{}, "", errPattern
		}
		return part{text: s[:end]}, s[end:], nil
	}
	var name strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] != '"':
			name.WriteByte(s[i])
		case strings.HasPrefix(s[i:], `""`):
			name.WriteByte('"')
			i++
		default:
			return part{text: name.String(), literal: true}, s[i+1:], nil
		}
	}
	return part{}, "", errPattern
}

// splitTemplate takes a "to" apart. The parts may hold {source}, {schema} and {table}, whose values are put in later,
// so that a dot in one of them does not count.
func splitTemplate(s string) (schema, table string, err error) {
	first, second, err := splitPattern(s)
	if err != nil {
		return "", "", errors.New("not schema.table; write sales.orders, or {source}.{table}")
	}
	for _, p := range []part{first, second} {
		rest := strings.NewReplacer("{source}", "", "{schema}", "", "{table}", "").Replace(p.text)
		if strings.ContainsAny(rest, "{}") && !p.literal {
			return "", "", errors.New("unknown name in braces; there are {source}, {schema} and {table}")
		}
		if strings.ContainsAny(rest, "*?") && !p.literal {
			return "", "", errors.New("a target has no pattern; write {schema}.{table} for the names at the source")
		}
	}
	return first.text, second.text, nil
}

// Pattern gives the "from" that matches exactly one table.
func Pattern(schema, table string) string {
	quote := func(name string) string {
		if strings.ContainsAny(name, `.*?\"{}`) {
			return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
		}
		return name
	}
	return quote(schema) + "." + quote(table)
}
