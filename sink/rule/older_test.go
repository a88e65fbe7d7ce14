package rule

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// versionOf makes one version of public.t of columns like "1 id int4, 2 name text=x": attnum, name, type, the default with which it
// was added. The first is the key.
func versionOf(oid schema.OID, columns string) *schema.Relation {
	rel := &schema.Relation{OID: oid, Schema: "public", Name: "t", Key: []int{0}}
	for text := range strings.SplitSeq(columns, ", ") {
		var c schema.Column
		var typ string
		if _, err := fmt.Sscan(text, &c.AttNum, &c.Name, &typ); err != nil {
			panic(err)
		}
		typ, constant, found := strings.Cut(typ, "=")
		if found {
			c.Default = &constant
		}
		c.Type = map[string]schema.Type{
			"int4":    {OID: schema.OIDInt4, Typmod: -1, Name: "integer"},
			"int8":    {OID: schema.OIDInt8, Typmod: -1, Name: "bigint"},
			"text":    {OID: schema.OIDText, Typmod: -1, Name: "text"},
			"bool":    {OID: schema.OIDBool, Typmod: -1, Name: "boolean"},
			"numeric": {OID: schema.OIDNumeric, Typmod: -1, Name: "numeric"},
		}[typ]
		rel.Columns = append(rel.Columns, c)
	}
	return rel
}

// TestOlderVersions: what a rule that fits the newest version of a table makes of a row of an older one.
func TestOlderVersions(t *testing.T) {
	for _, c := range []struct {
		name, was, is string
		rule          Table
		row           string // of the older version
		want          string // the columns of the target; or an error
	}{
		{
			"renamed", "1 id int4, 2 name text", "1 id int4, 2 full_name text",
			Table{Columns: columns("id, full_name as name")},
			"7 Ann", "id=7 name=Ann",
		},
		{
			"renamed, in a filter", "1 id int4, 2 name text", "1 id int4, 2 full_name text",
			Table{Columns: columns("id"), Filter: "full_name == 'Bob'"},
			"7 Ann", "out",
		},
		{
			"renamed, in an expression", "1 id int4, 2 name text", "1 id int4, 2 full_name text",
			Table{Columns: columns("id"), Set: []Computed{{Column: "x", Value: "upper(full_name) + text(id)"}}},
			"7 Ann", "id=7 x=ANN7",
		},
		{
			"renamed, masked", "1 id int4, 2 name text", "1 id int4, 2 full_name text",
			Table{Columns: []Column{{From: "id"}, {From: "full_name", Mask: "redact"}}},
			"7 Ann", "id=7 full_name=***",
		},
		{
			"renamed, replaced by set", "1 id int4, 2 name text", "1 id int4, 2 full_name text",
			Table{Set: []Computed{{Column: "full_name", Value: "'x'"}}},
			"7 Ann", "id=7 full_name=x",
		},
		{
			"another is computed under its name", "1 id int4, 2 secret text", "1 id int4, 3 secret text",
			Table{Set: []Computed{{Column: "secret", Value: "upper(secret)"}}},
			"7 Ann", "id=7",
		},
		{
			"swapped", "1 id int4, 2 a text, 3 b text", "1 id int4, 2 b text, 3 a text",
			Table{Columns: []Column{{From: "id"}, {From: "a", Mask: "redact"}, {From: "b"}}},
			"7 open secret", "id=7 a=*** b=open",
		},
		{
			"swapped, in a filter", "1 id int4, 2 a text, 3 b text", "1 id int4, 2 b text, 3 a text",
			Table{Columns: columns("id"), Filter: "a == 'open'"},
			"7 open secret", "out",
		},
		{
			"dropped, and another of its name added", "1 id int4, 2 a text", "1 id int4, 3 a text",
			Table{Columns: columns("id, a as x")},
			"7 old", "id=7",
		},
		{
			"dropped, and another of its name with a default", "1 id int4, 2 a text", "1 id int4, 3 a text=new",
			Table{Columns: columns("id"), Filter: "a == 'new'"},
			"7 old", "id=7",
		},
		{
			"of another table of the name", "1 id int4, 2 a text", "other",
			Table{Columns: columns("id, a as x")},
			"7 old", "id=7 x=old",
		},
		{
			"of another table of the name, which has not the column", "1 id int4, 2 b text", "other",
			Table{Columns: columns("id, a as x")},
			"7 old", `the table has no column "a"; mend columns`,
		},
		{
			"the rule is not of the newest version", "1 id int4, 2 name text, 3 b text", "1 id int4, 2 full_name text, 3 name text",
			Table{Columns: columns("id, name as x, b as y")},
			"7 Ann B", "id=7 x=Ann y=B",
		},
		{
			"the rule is of neither", "1 id int4, 2 name text", "1 id int4, 2 full_name text",
			Table{Columns: columns("id, surname")},
			"7 Ann", `the table has no column "surname"; mend columns of the rule; there are id, name`,
		},
		{
			"added later", "1 id int4", "1 id int4, 2 a text, 3 b int4",
			Table{Columns: columns("id, a"), Set: []Computed{{Column: "x", Value: "b"}, {Column: "y", Value: "b + id"}, {Column: "z", Value: "id + 1"}}},
			"7", "id=7 z=8",
		},
		{
			"added later, in a filter", "1 id int4", "1 id int4, 2 gone text",
			Table{Columns: columns("id"), Filter: "gone == null"},
			"7", "id=7",
		},
		{
			"added later with a default, in a filter", "1 id int4", "1 id int4, 2 active bool=f",
			Table{Columns: columns("id"), Filter: "active == true"},
			"7", "out",
		},
		{
			"added later, in a filter that takes no null", "1 id int4", "1 id int4, 2 n int4",
			Table{Columns: columns("id"), Filter: "n > 5"},
			"7", "n is null, and there is no result for that; write n == null",
		},
		{
			"added later, in a filter that takes no null: what to do", "1 id int4", "1 id int4, 2 n int4",
			Table{Columns: columns("id"), Filter: "n > 5"},
			"7", "the row is of before column n was added",
		},
		{
			"wider", "1 id int4, 2 n int4", "1 id int8, 2 n numeric",
			Table{Columns: columns("id"), Filter: "n > 4.5", Set: []Computed{{Column: "x", Value: "n * 2"}}},
			"7 5", "id=7 x=10",
		},
		{
			"became text", "1 id int4, 2 n int4", "1 id int4, 2 n text",
			Table{Columns: columns("id"), Set: []Computed{{Column: "x", Value: "n.startsWith('5') ? 'five' : n"}}},
			"7 5", "id=7 x=five",
		},
		{
			"became another type", "1 id int4, 2 n bool", "1 id int4, 2 n int4",
			Table{Columns: columns("id"), Filter: "n + 1 > 1"},
			"7 t", "write the rule so that it fits the table as it was, too: it had id, n; or take out of it",
		},
		{
			"a number that was text", "1 id int4, 2 n text", "1 id int4, 2 n int4",
			Table{Columns: columns("id"), Filter: "n > 5"},
			"7 6", "id=7",
		},
		{
			"the key was renamed", "1 id int4, 2 a text", "1 uid int4, 2 id text",
			Table{Columns: columns("uid, id as x")},
			"7 A", "uid=7 x=A",
		},
		{
			"another key column of the name", "1 id int4, 2 a text", "3 id int4, 2 a text",
			Table{Columns: columns("id, a")},
			"7 A", "id=7 a=A",
		},
		{
			"the key has another name, and is not written", "1 code int4, 2 a text", "3 id int4, 2 a text",
			Table{Columns: columns("id, a")},
			"7 A", "it had code, a; or take out of it what does not fit",
		},
		{
			"which column it was is not known", "1 id int4, 0 a text, 0 b text", "1 id int4, 2 x text, 3 b text",
			Table{Columns: columns("id, x, b")},
			"7 A B", "id=7",
		},
		{
			"which column the key was is not known", "0 id int4, 0 a text, 3 b text", "1 uid int4, 2 id text, 3 b text",
			Table{Columns: columns("uid, id as x, b")},
			"7 A B", "uid=7 b=B",
		},
		{
			"which column it is is not known", "1 id int4, 2 a text, 3 b text", "1 id int4, 0 x text, 0 b text, 2 y text",
			Table{Columns: columns("id, x, b, y")},
			"7 A B", "the table has no column \"x\"",
		},
		{"no names", "1 id int4, 2 name text", "1 id int4, 2 full_name text", Table{}, "7 Ann", "id=7 name=Ann"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rel, now := versionOf(5, c.was), versionOf(6, "1 id int4, 9 a text")
			if c.is != "other" {
				now = versionOf(5, c.is)
			}
			c.rule.From = "public.t"
			set, err := New(nil, []Table{c.rule}, "salt")
			if err != nil {
				t.Fatal(err)
			}
			route, _ := set.Match("shop", "public", "t")
			var got string
			if p, err := route.CompileOlder(rel, now); err != nil {
				got = said(err)
			} else {
				values := strings.Fields(c.row)
				tuple := make(change.Tuple, len(values))
				for i := range values {
					tuple[i] = change.Value{State: change.Present, Text: []byte(values[i])}
				}
				var ch Change
				switch err := p.Map(&change.Event{Op: change.Create, After: tuple}, &ch); {
				case err != nil:
					got = said(err)
				case !ch.Is:
					got = "out"
				default:
					var out []string
					for i := range p.Columns {
						out = append(out, p.Columns[i].Name+"="+string(ch.After[i].Text))
					}
					got = strings.Join(out, " ")
				}
				if reads := p.Reads(); len(reads) > len(rel.Columns) {
					t.Errorf("reads %v of %d columns", reads, len(rel.Columns))
				}
			}
			if got != c.want && (!strings.Contains(c.want, " ") || strings.HasPrefix(c.want, "id=") || !strings.Contains(got, c.want)) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// columns reads the short form.
func columns(list string) (out []Column) {
	for text := range strings.SplitSeq(list, ", ") {
		var c Column
		if err := c.UnmarshalText([]byte(text)); err != nil {
			panic(err)
		}
		out = append(out, c)
	}
	return out
}

// said gives all that a trouble says.
func said(err error) string {
	if t, ok := errors.AsType[*trouble.Error](err); ok {
		return t.Cause.Error() + "; " + t.Hint
	}
	return err.Error()
}
