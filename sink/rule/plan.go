package rule

import (
	"fmt"
	"slices"

	"github.com/tributary-cdc/tributary/pkg/mask"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
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

	naming
	filter *expression // nil for none
	same   bool        // the columns are those of the relation, in their order and as they are
	whole  bool        // old rows are whole
}

// PlanColumn is one column that is written. Its value is a constant, or computed, or that of one column of the source,
// which may be masked.
type PlanColumn struct {
	Name string // in the target

	source   int // index into Relation.Columns, -1 for none
	column   *schema.Column
	key      bool
	mask     mask.Kind
	computed *expression
	natural  schema.Type   // of the result of computed
	at       string        // where the configuration says so, for a computed one: set[0]
	constant *change.Value // what a computed one is for every row
}

// Column says what column i of the plan holds: its name and number at the source, if it is a column there, and the type,
// default and nullability of the values that Map gives.
func (p *Plan) Column(i int) *schema.Column { return p.Columns[i].column }

// Constant says whether column i of the plan has the same value in every row: its default.
func (p *Plan) Constant(i int) bool { return p.Columns[i].constant != nil }

// Reads gives the columns of the relation that the plan needs, as indexes.
func (p *Plan) Reads() []int {
	var reads []int
	add := func(i int) {
		if i >= 0 && !p.lacks(i) && !slices.Contains(reads, i) {
			reads = append(reads, i)
		}
	}
	for i := range p.Columns {
		add(p.Columns[i].source)
	}
	for _, x := range p.expressions() {
		for i := range x.inputs {
			add(x.inputs[i].column)
		}
	}
	return reads
}

// Writes says whether the target has a column of that name whose values the rule gives.
func (p *Plan) Writes(column string) bool {
	return slices.ContainsFunc(p.Columns, func(c PlanColumn) bool { return c.Name == column }) ||
		slices.ContainsFunc(p.Added, func(a Added) bool { return a.Name == column })
}

// Masked says whether the rule masks a column of the relation, so that nobody is shown its values.
func (p *Plan) Masked(column int) bool {
	return slices.ContainsFunc(p.Columns, func(c PlanColumn) bool { return c.source == column && c.mask != mask.None })
}

// Filters says whether rows that have come may be left out by their values, so that an UPDATE may bring one that is not there.
func (p *Plan) Filters() bool { return p.filter != nil }

func (p *Plan) expressions() (out []*expression) {
	if p.filter != nil {
		out = append(out, p.filter)
	}
	for i := range p.Columns {
		if x := p.Columns[i].computed; x != nil {
			out = append(out, x)
		}
	}
	return out
}

// Voids says whether a TRUNCATE empties the target. One that stands before a reading anew (reload) makes room for rows
// that come again: with a key, the others are removed when all have come, unless the rule keeps them. Without a key they
// would be there twice, which no rule wants.
func (p *Plan) Voids(reload bool) bool {
	switch {
	case p.Mode == Log:
		return false // it is one more change
	case !reload:
		return p.Ignore&Truncates == 0
	case len(p.Key) == 0:
		return true
	}
	return !p.Keeps()
}

// Refuse is the trouble of a rule that writes a column whose values cannot be read as they were, for the cause given.
func (r *Route) Refuse(cause error, column string) error {
	return &trouble.Error{
		Code: trouble.RuleConflict, Op: "apply rule",
		Subject: fmt.Sprintf("%s to column %q of table %q of source %q", r.rule.where(r.Rule, ""), column, r.Schema+"."+r.Table, r.Source),
		Cause:   cause,
		Means:   "the table is not written; nothing is lost, its records stay in Kafka",
		Hint:    "write it without the column: name the others in columns of the rule; then sink resume SOURCE/TABLE",
	}
}
