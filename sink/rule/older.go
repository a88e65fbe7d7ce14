package rule

import (
	"errors"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// A rule names columns as they are called now. Rows that were published before a column was renamed have it under another name, and
// perhaps another column under this one. Postgres never gives the number of a column (attnum) to another one of the table, so that it
// tells which of the columns of an older version a name of the rule means.

// naming says which columns of a plan's relation the names in its rule mean.
type naming struct {
	// named has the columns of the relation in their places, by the names that the rule knows them by. Those that the relation does
	// not have yet are behind them.
	named *schema.Relation
	// typed is the same, each column with the type that it has in expressions.
	typed *schema.Relation
	// absent are the values that rows of the relation have in columns that it does not have yet: the default with which a column was
	// added, or null.
	absent []change.Value
}

// NamesColumns says whether the rule has names of columns of the source.
func (r *Route) NamesColumns() bool {
	return len(r.rule.Columns)+len(r.rule.Set) > 0 || r.rule.Filter != ""
}

// CompileOlder is Compile for a version that newest, another version of the same table, has taken the place of. Where the rule fits
// newest, its names are those of newest's columns: rel's are known by their attnum. What reads a column that rel does not have yet is
// not written, but for the filter, which sees the default or null. Where the rule does not fit newest, or newest is of another table,
// perhaps one that was dropped, it is Compile.
func (r *Route) CompileOlder(rel, newest *schema.Relation) (*Plan, error) {
	if rel.OID == 0 || rel.OID != newest.OID || rel.Equal(newest) || !Numbered(newest) {
		return r.Compile(rel)
	}
	if _, err := r.Compile(newest); err != nil {
		return r.Compile(rel) //nolint:nilerr // the rule says what it said before the table was altered; who meets the newest version is told
	}
	names := namesOf(rel, newest)
	p, err := r.compile(rel, names)
	if t, ok := errors.AsType[*trouble.Error](err); ok {
		older := *t
		older.Means = "the table is held at a record of before it was altered, to which the rule cannot be applied; nothing is lost, its records stay in Kafka"
		older.Hint = "write the rule so that it fits the table as it was, too: it had " + names.list() +
			"; or take out of it what does not fit, until the table is past such records, put it back then, and at the source: capture snapshot --reload --table " + r.Schema + "." + r.Table
		return nil, &older
	}
	return p, err
}

// unnamed begins the names of columns that no rule can mean.
const unnamed = "\x00"

// namesOf gives rel under the names of newest. A column whose attnum capture could not tell, as the catalog was ahead of the WAL, is
// none of newest's, unless it belongs to the key: all rows of such a table are read again.
func namesOf(rel, newest *schema.Relation) naming {
	named, typed := *rel, *rel
	named.Columns, typed.Columns = slices.Clone(rel.Columns), slices.Clone(rel.Columns)
	there := map[string]bool{} // names of newest that mean a column of rel
	for i := range rel.Columns {
		c := &rel.Columns[i]
		now := newest.Numbered(c.AttNum)
		if at := slices.Index(rel.Key, i); at >= 0 && c.AttNum == 0 && len(rel.Key) == len(newest.Key) {
			now = &newest.Columns[newest.Key[at]]
		}
		name := unnamed + c.Name
		switch bearer := newest.Column(c.Name); {
		case now != nil:
			name = now.Name
		case bearer < 0, rel.IsKey(i) && rel.Numbered(newest.Columns[bearer].AttNum) == nil:
			name = c.Name // of the key: that which newest has not any more tells the rows of rel apart all the same
		}
		there[name] = true
		named.Columns[i].Name, typed.Columns[i].Name = name, name
		if now != nil && readsAs(&c.Type, &now.Type) {
			typed.Columns[i].Type = now.Type
		}
	}
	names := naming{named: &named, typed: &typed}
	for i := range newest.Columns {
		c := newest.Columns[i]
		if there[c.Name] {
			continue
		}
		v := change.Value{}
		if c.Default != nil {
			v = change.Value{State: change.Present, Text: []byte(*c.Default)}
		}
		named.Columns, typed.Columns = append(named.Columns, c), append(typed.Columns, c)
		names.absent = append(names.absent, v)
	}
	return names
}

// Numbered says whether the attnum of each column is known.
func Numbered(rel *schema.Relation) bool {
	return !slices.ContainsFunc(rel.Columns, func(c schema.Column) bool { return c.AttNum == 0 })
}

// readsAs says whether expressions take texts of a column that was of type was for values of the type that it has become.
func readsAs(was, is *schema.Type) bool {
	from, to := celType(was), celType(is)
	switch {
	case from.IsExactType(to):
		return false // the same values, in the form that they had
	case from == cel.StringType && to == cel.BoolType:
		return false // there are more texts for true than expressions know
	}
	return castable(was, is) == nil
}

// lacks says whether column i, of named, is one that the plan's relation does not have yet.
func (p *Plan) lacks(i int) bool { return i >= len(p.Relation.Columns) }

// lacksAny says whether an expression reads such a column.
func (p *Plan) lacksAny(x *expression) bool {
	return slices.ContainsFunc(x.inputs, func(in input) bool { return p.lacks(in.column) })
}

// list gives the names of the columns of the relation, for people.
func (n *naming) list() string {
	had := *n.named
	had.Columns = had.Columns[:len(had.Columns)-len(n.absent)]
	return names(&had)
}

func names(rel *schema.Relation) string {
	var out []string
	for i := range rel.Columns {
		if name := rel.Columns[i].Name; !strings.HasPrefix(name, unnamed) {
			out = append(out, name)
		}
	}
	return strings.Join(out, ", ")
}
