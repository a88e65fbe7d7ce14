package rule

import (
	"fmt"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
)

// Ops is a set of operations.
type Ops uint8

// The operations that a rule can ignore. A change of a key is an update.
const (
	Inserts Ops = 1 << iota // snapshot rows too
	Updates
	Deletes
	Truncates
)

var opsByName = map[string]Ops{insertOp: Inserts, updateOp: Updates, deleteOp: Deletes, truncateOp: Truncates}

// Plan is a rule applied to one version of a relation: everything that folding and writing its rows needs. It is
// immutable and safe for concurrent use.
type Plan struct {
	*Route
	Relation *schema.Relation
	Columns  []PlanColumn // without the sid column
	// Key holds indexes into Columns, in the order of the source's key; the key of the target is the sid column, if
	// there is one, and these. Empty: rows are told apart by all their values.
	Key    []int
	Ignore Ops
	Create bool
	Mode   Mode
	Added  []Added // what the mode adds to the columns of the target
	Bounds Bounds  // of mode history

	same bool // the columns are those of the relation, in their order
}

// PlanColumn is one column that is written.
type PlanColumn struct {
	Name   string // in the target
	Source int    // index into Relation.Columns
	column *schema.Column
}

// Column says what column i of the plan holds: its name and number at the source, if it is a column there, and the type,
// default and nullability of the values that Map gives.
func (p *Plan) Column(i int) *schema.Column { return p.Columns[i].column }

// Voids says whether a TRUNCATE empties the target. One that stands before a reading anew (reload) makes room for rows
// that come again: with a key, the others are removed when all have come, which a rule that ignores either way of
// removing rows does not want; without a key they would be there twice, which no rule wants.
func (p *Plan) Voids(reload bool) bool {
	switch {
	case p.Mode == Log:
		return false // it is one more change
	case !reload:
		return p.Ignore&Truncates == 0
	case len(p.Key) == 0:
		return true
	}
	return p.Ignore&(Truncates|Deletes) == 0
}

// maxIdentifier is NAMEDATALEN - 1: Postgres cuts longer names without a word, so that two become one.
const maxIdentifier = 63

// Compile applies the route to one version of its relation. Its errors are trouble with the code rule-conflict: a
// column that the relation does not have, a key column that is not written, two columns with one name, a name too
// long for Postgres.
func (r *Route) Compile(rel *schema.Relation) (*Plan, error) {
	refuse := func(hint, format string, args ...any) (*Plan, error) {
		return nil, &trouble.Error{
			Code: trouble.RuleConflict, Op: "apply rule",
			Subject: fmt.Sprintf("tables[%d] to table %q of source %q", r.Rule, r.Schema+"."+r.Table, r.Source),
			Cause:   fmt.Errorf(format, args...),
			Means:   "the table is not written; nothing is lost, its records stay in Kafka",
			Hint:    hint,
		}
	}
	if r.SIDColumn != "" {
		if _, err := SIDFits(r.SID, r.SIDType); err != nil {
			return refuse(SIDHint(r.Source, r.SIDType), "%w", err)
		}
	}
	p := &Plan{Route: r, Relation: rel, Ignore: r.rule.ignore, Create: r.rule.Create, Mode: modeByName[r.rule.Mode], Added: r.rule.added(), Bounds: r.rule.bounds()}
	if len(r.rule.Columns) == 0 {
		for i := range rel.Columns {
			p.Columns = append(p.Columns, PlanColumn{rel.Columns[i].Name, i, &rel.Columns[i]})
		}
	}
	for _, c := range r.rule.Columns {
		i := rel.Column(c.From)
		if i < 0 {
			return refuse("mend columns of the rule; there are "+names(rel), "the table has no column %q", c.From)
		}
		p.Columns = append(p.Columns, PlanColumn{c.into(), i, &rel.Columns[i]})
	}
	p.same = len(p.Columns) == len(rel.Columns)
	for i := range p.Columns {
		p.same = p.same && p.Columns[i].Source == i
	}
	at := map[string]int{}
	for i, c := range p.Columns {
		if _, twice := at[c.Name]; twice {
			return refuse("give one of them another name with as", "two columns are written to %q", c.Name)
		}
		if c.Name == r.SIDColumn {
			return refuse("choose another name for sid, or write the column under another name with as",
				"column %q has the name of the sid column", c.Name)
		}
		at[c.Name] = i
	}
	for _, k := range r.keyOf(rel) {
		i := -1
		for j := range p.Columns {
			if p.Columns[j].Source == k {
				i = j
			}
		}
		if i < 0 {
			return refuse(fmt.Sprintf("add %q to columns", rel.Columns[k].Name),
				"column %q belongs to the key and is not written", rel.Columns[k].Name)
		}
		p.Key = append(p.Key, i)
	}
	if hint, cause := p.refusal(); cause != "" {
		return refuse(hint, "%s", cause)
	}
	for _, name := range append([]string{r.Target.Schema, r.Target.Table, r.SIDColumn}, columnNames(p.Columns)...) {
		if len(name) > maxIdentifier {
			return refuse("choose a shorter name in the rule", "the name %q has %d bytes, Postgres takes %d", name, len(name), maxIdentifier)
		}
	}
	return p, nil
}

// Refuse is the trouble of a rule that writes a column whose values cannot be read as they were, for the cause given.
func (r *Route) Refuse(cause error, column string) error {
	return &trouble.Error{
		Code: trouble.RuleConflict, Op: "apply rule",
		Subject: fmt.Sprintf("tables[%d] to column %q of table %q of source %q", r.Rule, column, r.Schema+"."+r.Table, r.Source),
		Cause:   cause,
		Means:   "the table is not written; nothing is lost, its records stay in Kafka",
		Hint:    "write it without the column: name the others in columns of the rule; then sink resume SOURCE/TABLE",
	}
}

func columnNames(columns []PlanColumn) []string {
	out := make([]string, len(columns))
	for i := range columns {
		out[i] = columns[i].Name
	}
	return out
}

func names(rel *schema.Relation) string {
	out := make([]string, len(rel.Columns))
	for i := range rel.Columns {
		out[i] = rel.Columns[i].Name
	}
	return strings.Join(out, ", ")
}
