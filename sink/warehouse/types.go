package warehouse

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// typeName is what format_type writes, taken apart: "numeric(5,2)[]" is numeric, 5 and 2, array.
type typeName struct {
	base  string
	mods  []int
	array bool
}

func parseType(s string) typeName {
	t := typeName{}
	s, t.array = strings.CutSuffix(s, "[]")
	open := strings.IndexByte(s, '(')
	if open < 0 {
		t.base = s
		return t
	}
	end := open + strings.IndexByte(s[open:], ')')
	if end < open {
		t.base = s
		return t
	}
	for mod := range strings.SplitSeq(s[open+1:end], ",") {
		n, err := strconv.Atoi(strings.TrimSpace(mod))
		if err != nil {
			return typeName{base: s, array: t.array} // not a number: geometry(Point,4326)
		}
		t.mods = append(t.mods, n)
	}
	t.base = s[:open] + s[end+1:] // "timestamp(3) without time zone"
	return t
}

// rank orders types of which each holds every value of those before it.
var rank = map[string][]string{
	"numbers": {"smallint", "integer", "bigint", "numeric"},
	"floats":  {"real", "double precision"},
}

// textual are the types that store text as it is.
var textual = map[string]bool{"text": true, "character varying": true}

// holds says whether a column of type to keeps every value of type from as it is, or refuses it with an error; false
// means that values would be changed without a word, or that the types have nothing to do with each other.
func holds(from, to string) bool {
	if from == to {
		return true
	}
	f, t := parseType(from), parseType(to)
	if f.array != t.array {
		return !t.array && textual[t.base]
	}
	if f.base == t.base {
		return modsHold(f, t)
	}
	if textual[t.base] {
		return true // the text of any value; a length that is exceeded is an error
	}
	if f.array {
		return false
	}
	for _, order := range rank {
		i, j := index(order, f.base), index(order, t.base)
		if i >= 0 && j > i {
			return t.base != "numeric" || len(t.mods) == 0
		}
	}
	switch {
	case t.base == "double precision":
		return f.base == "smallint" || f.base == "integer"
	case t.base == "json" || t.base == "jsonb":
		return f.base == "json" || f.base == "jsonb"
	case textual[f.base]:
		// Text that a type of the user's parses: enums, citext. A value that it does not take is an error.
		return !builtin[t.base]
	}
	return false
}

// modsHold compares modifiers. Those of numbers and times round without a word; those of text and bits refuse.
func modsHold(f, t typeName) bool {
	if len(t.mods) == 0 {
		return true
	}
	switch {
	case t.base == "numeric":
		if len(f.mods) != 2 || len(t.mods) != 2 {
			return false
		}
		return t.mods[1] >= f.mods[1] && t.mods[0]-t.mods[1] >= f.mods[0]-f.mods[1]
	case strings.HasPrefix(t.base, "time"), strings.HasPrefix(t.base, "interval"):
		return len(f.mods) == 1 && f.mods[0] <= t.mods[0] || t.mods[0] == 6
	}
	return true
}

// widens says whether a column of type old must become typ to hold its values, and can in place without changing any
// value that is there or what kind of thing it is: a number does not become text.
func widens(old, typ string) bool {
	o, t := parseType(old), parseType(typ)
	if o.base == "character varying" && len(o.mods) == 1 && !o.array && !t.array && textual[t.base] {
		return len(t.mods) == 0 || t.mods[0] > o.mods[0]
	}
	alike := o.base == t.base || textual[o.base] || !textual[t.base]
	return alike && !holds(typ, old) && holds(old, typ)
}

// builtin are the types whose input a text must not be trusted to be.
var builtin = map[string]bool{
	"smallint": true, "integer": true, "bigint": true, "numeric": true, "real": true, "double precision": true,
	"boolean": true, "date": true, "time without time zone": true, "time with time zone": true,
	"timestamp without time zone": true, "timestamp with time zone": true, "interval": true, "bytea": true,
	"uuid": true, "inet": true, "cidr": true, "macaddr": true, "money": true, "oid": true, "name": true,
	"character": true, `"char"`: true, "bit": true, "bit varying": true, "xml": true, "tsvector": true, "tsquery": true,
	"point": true, "line": true, "lseg": true, "box": true, "path": true, "polygon": true, "circle": true,
}

func index(list []string, s string) int {
	for i := range list {
		if list[i] == s {
			return i
		}
	}
	return -1
}

// fits refuses a target column whose type does not keep the source's values.
func fits(plan *rule.Plan, column, source, target string) error {
	if holds(source, target) {
		return nil
	}
	return &trouble.Error{
		Code: trouble.TargetType, Op: "write to", Subject: fmt.Sprintf("column %q of table %q", column, plan.Target.String()),
		Cause: fmt.Errorf("it is %s there and %s in table %q of source %q", target, source, plan.Schema+"."+plan.Table, plan.Source),
		Means: "values could not be stored as they are; the table is held, all others go on",
		Hint: fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s; or leave the column out with columns in tables[%d]; then sink resume SOURCE/TABLE",
			postgres.Ident(plan.Target.Schema, plan.Target.Table), postgres.Ident(column), source, plan.Rule),
	}
}

// sidFits refuses a sid column that cannot hold the source's sid.
func sidFits(plan *rule.Plan, c *catalogColumn) error {
	known, err := rule.SIDFits(plan.SID, c.base)
	switch {
	case !known:
		return fits(plan, plan.SIDColumn, "text", c.full)
	case err == nil:
		return nil
	}
	return &trouble.Error{
		Code: trouble.TargetType, Op: "write to", Subject: fmt.Sprintf("column %q of table %q", plan.SIDColumn, plan.Target.String()),
		Cause: fmt.Errorf("it is %s there, and %w (tables[%d].sid, source %q)", c.full, err, plan.Rule, plan.Source),
		Means: "the table of this source is held, all others go on",
		Hint:  rule.SIDHint(plan.Source, c.base) + "; restart the sink, then sink resume SOURCE/TABLE",
	}
}
