package rule

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/tributary-cdc/tributary/pkg/mask"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// maxIdentifier is NAMEDATALEN - 1: Postgres cuts longer names without a word, so that two become one.
const maxIdentifier = 63

// Misfit is what is wrong with a rule for a table: the cause of the trouble that Compile gives.
type Misfit struct {
	At    string // in the rule, as the file has it where that is known: "tables[0].filter (sink.yaml:6:5)"
	Hint  string // what to do
	Cause error
}

func (m *Misfit) Error() string { return m.Cause.Error() }

// Unwrap gives the cause.
func (m *Misfit) Unwrap() error { return m.Cause }

func refuse(at, hint, format string, args ...any) error {
	return &Misfit{at, hint, fmt.Errorf(format, args...)}
}

// Compile applies the route to one version of its relation. Its errors are trouble with the code rule-conflict: a
// column that the relation does not have, a key column that is not written, two columns with one name, a name too
// long for Postgres, an expression or a type that does not fit the columns. Their cause is a *Misfit.
func (r *Route) Compile(rel *schema.Relation) (*Plan, error) {
	return r.compile(rel, naming{named: rel, typed: rel})
}

func (r *Route) compile(rel *schema.Relation, names naming) (*Plan, error) {
	p := &Plan{
		Route: r, Relation: rel, naming: names, Ignore: r.rule.ignore, Create: r.rule.Create,
		Mode: modeByName[r.rule.Mode], Added: r.rule.added(), Bounds: r.rule.bounds(),
		whole: rel.Identity == schema.IdentityFull || len(rel.Key) == 0,
	}
	for _, step := range []func() error{p.checkSID, p.takeColumns, p.compute, p.compileFilter, p.compileKey, p.checkMode, p.checkPartition, p.checkNames} {
		err := step()
		if err == nil {
			continue
		}
		misfit, ok := errors.AsType[*Misfit](err)
		if !ok {
			misfit = &Misfit{Cause: err}
		}
		misfit.At = r.rule.where(r.Rule, misfit.At)
		return nil, &trouble.Error{
			Code: trouble.RuleConflict, Op: "apply rule",
			Subject: misfit.At + fmt.Sprintf(" to table %q of source %q", r.Schema+"."+r.Table, r.Source),
			Cause:   misfit,
			Means:   "the table is not written; nothing is lost, its records stay in Kafka",
			Hint:    misfit.Hint,
		}
	}
	p.same = p.filter == nil && len(p.Columns) == len(rel.Columns)
	for i := range p.Columns {
		c := &p.Columns[i]
		p.same = p.same && c.source == i && c.mask == mask.None
	}
	return p, nil
}

func (p *Plan) checkSID() error {
	if p.SIDColumn == "" {
		return nil
	}
	if _, err := SIDFits(p.SID, p.SIDType); err != nil {
		return &Misfit{"sid", SIDHint(p.Source, p.SIDType), err}
	}
	return nil
}

// takeColumns takes the columns of the source that the rule names, or all that no computed one replaces.
func (p *Plan) takeColumns() error {
	rel, t := p.Relation, p.rule.Table
	if len(t.Columns) == 0 {
		for i := range rel.Columns {
			own, name := rel.Columns[i].Name, p.named.Columns[i].Name
			if !slices.ContainsFunc(t.Set, func(s Computed) bool { return s.Column == own || s.Column == name }) {
				p.Columns = append(p.Columns, PlanColumn{Name: rel.Columns[i].Name, source: i, column: &rel.Columns[i]})
			}
		}
	}
	for n, c := range t.Columns {
		at := fmt.Sprintf("columns[%d]", n)
		i := p.named.Column(c.From)
		if i < 0 {
			return refuse(at, "mend columns of the rule; there are "+names(p.named), "the table has no column %q", c.From)
		}
		if p.lacks(i) {
			continue
		}
		pc := PlanColumn{Name: c.into(), source: i, column: &p.named.Columns[i]}
		switch kind := mask.Kind(c.Mask); {
		case kind != mask.None:
			pc.mask = kind
			if kind != mask.Null {
				pc.retype(mustType("text"))
			}
			pc.changed().NotNull = kind != mask.Null && pc.column.NotNull
			if d := pc.column.Default; d != nil {
				masked, ok := mask.New(p.salt).Append(nil, kind, rel.Columns[i].Type.AppendCanonical(nil, []byte(*d)))
				text := string(masked)
				pc.column.Default = &text
				if !ok {
					pc.column.Default = nil
				}
			}
		case c.Cast != "":
			typ, err := typeByName(c.Cast)
			if err == nil {
				err = castable(&rel.Columns[i].Type, &typ)
			}
			if err != nil {
				return refuse(at+".cast", "name another type, or leave cast out", "column %q: %w", c.From, err)
			}
			pc.retype(typ)
		}
		p.Columns = append(p.Columns, pc)
	}
	return nil
}

// changed gives the description of the column, to be changed.
func (c *PlanColumn) changed() *schema.Column {
	own := *c.column
	c.column = &own
	return c.column
}

func (c *PlanColumn) retype(t schema.Type) { c.changed().Type = t }

// compute compiles the computed columns.
func (p *Plan) compute() error {
	for n, set := range p.rule.Set {
		at := fmt.Sprintf("set[%d]", n)
		x, err := p.compileExpression(set.Value)
		if err != nil {
			return &Misfit{at + ".value", "mend the expression; see docs/rules.md", err}
		}
		if p.lacksAny(x) {
			continue
		}
		c := PlanColumn{Name: set.Column, source: -1, computed: x, at: at}
		if i := x.alias(); i >= 0 { // nothing is computed
			c.source, c.column, c.computed = i, &p.named.Columns[i], nil
			c.changed().AttNum = 0 // another column may be that column of the source
		} else {
			typ, ok := resultType(x.typ)
			if !ok {
				return refuse(at+".value", "convert it: string(x), int(x), double(x)", "no column can hold a value of type %s", x.typ)
			}
			c.column = &schema.Column{Name: set.Column, Type: typ}
		}
		c.natural = c.column.Type
		if set.Type != "" {
			typ, err := typeByName(set.Type)
			if err == nil && c.computed != nil && x.typ.Kind() == types.DynKind && classOf(&typ) == textClass {
				c.natural = mustType("text") // a string of JSON without its quotes, as of ->>
			}
			if err == nil {
				err = castable(&c.natural, &typ)
			}
			if err != nil {
				return &Misfit{at + ".type", "name another type, or leave type out", err}
			}
			c.retype(typ)
		}
		if len(x.inputs) == 0 {
			var s scope
			v, err := s.text(x, &c.natural, nil)
			if err != nil {
				return &Misfit{at + ".value", "mend the expression; see docs/rules.md", err}
			}
			c.constant, c.column.NotNull = &v, v.State == change.Present
			if v.State == change.Present {
				text := string(v.Text)
				c.column.Default = &text // what rows have that were written before the rule said so
			}
		}
		p.Columns = append(p.Columns, c)
	}
	return nil
}

// constants are names that expressions know beside columns.
func (r *Route) constants() map[string]string {
	return map[string]string{"tributary.source": r.Source, "tributary.schema": r.Schema, "tributary.table": r.Table, "tributary.sid": r.SID}
}

func (p *Plan) compileExpression(source string) (*expression, error) {
	x, err := compileExpression(p.typed, p.constants(), source)
	if err == nil {
		x.absent = p.absent
	}
	return x, err
}

func (p *Plan) compileFilter() (err error) {
	if p.rule.Filter == "" {
		return nil
	}
	if p.filter, err = p.compileExpression(p.rule.Filter); err != nil {
		return &Misfit{"filter", "mend the expression; see docs/rules.md", err}
	}
	if p.filter.typ != cel.BoolType {
		return refuse("filter", "compare it with something: "+p.rule.Filter+" == …", "a filter is true or false, and this is of type %s", p.filter.typ)
	}
	return nil
}

// compileKey finds the columns by which rows are told apart: those of the source's key, or what is computed of them.
func (p *Plan) compileKey() error {
	rel := p.Relation
	covered := map[int]bool{} // columns of the source's key that a computed key column reads
	for i := range p.Columns {
		c := &p.Columns[i]
		if c.at == "" || !p.rule.Set[p.set(c.at)].Key {
			continue
		}
		var reads []int
		if c.computed != nil {
			for _, in := range c.computed.inputs {
				reads = append(reads, in.column)
			}
		} else {
			reads = []int{c.source}
		}
		for _, k := range reads {
			if !rel.IsKey(k) {
				return refuse(c.at, "compute it of "+keyNames(rel)+" alone, or leave key out",
					"column %q belongs to the key and is computed of %q, which does not: a change of it would make another row", c.Name, rel.Columns[k].Name)
			}
			covered[k] = true
		}
		if !c.column.Type.ByteEqual() || c.column.Type.Elem != nil {
			return refuse(c.at, "convert it: string(x)", "column %q belongs to the key, and equal values of type %s can be spelled in several ways", c.Name, c.column.Type.Name)
		}
		if len(rel.Key) == 0 {
			return refuse(c.at, "leave key out", "the table has no key")
		}
		c.key = true
	}
	for _, k := range rel.Key {
		at := slices.IndexFunc(p.Columns, func(c PlanColumn) bool { return c.source == k && c.at == "" })
		if at < 0 {
			if covered[k] || p.Mode == Log {
				continue
			}
			return refuse("", fmt.Sprintf("add %q to columns, or to set with key: true", rel.Columns[k].Name),
				"column %q belongs to the key and is not written", rel.Columns[k].Name)
		}
		c := &p.Columns[at]
		if p.Mode == Log { // which has no key; but of an old row it has the source's
			c.key = true
			continue
		}
		switch from := &rel.Columns[k].Type; {
		case c.mask != mask.None && (c.mask != mask.Hash || !from.ByteEqual()):
			return refuse("", "write mask: hash for it, or no mask", "column %q belongs to the key, whose values %s does not tell apart", c.Name, c.mask)
		case c.mask == mask.None && c.column != &p.named.Columns[k] && c.column != &rel.Columns[k] && !keepsKey(from, &c.column.Type):
			return refuse("", "cast it to text, or leave cast out", "column %q belongs to the key: different values of type %s may be equal as %s", c.Name, from.Name, c.column.Type.Name)
		}
		c.key = true
		p.Key = append(p.Key, at)
	}
	for i := range p.Columns {
		if p.Columns[i].key && p.Mode != Log && !slices.Contains(p.Key, i) {
			p.Key = append(p.Key, i)
		}
	}
	return nil
}

func (p *Plan) checkMode() error {
	if hint, cause := p.refusal(); cause != "" {
		return &Misfit{"mode", hint, errors.New(cause)}
	}
	return nil
}

// checkPartition refuses partitions by what is no time. A column that no rule writes may be in the target all the same.
func (p *Plan) checkPartition() error {
	unit, by := p.Partition()
	at := slices.IndexFunc(p.Columns, func(c PlanColumn) bool { return c.Name == by })
	if unit == "" || at < 0 {
		return nil
	}
	if t := &p.Column(at).Type; t.Name != "" && classOf(t) != timeClass {
		return refuse("partition", "name a column that is a timestamp or a date with by", "column %q, by which it goes, is %s", by, t.Name)
	}
	return nil
}

// set gives the index that "set[3]" names.
func (p *Plan) set(at string) (n int) {
	_, _ = fmt.Sscanf(at, "set[%d]", &n)
	return n
}

func (p *Plan) checkNames() error {
	seen := map[string]bool{}
	for i := range p.Columns {
		name := p.Columns[i].Name
		if seen[name] {
			return refuse("", "give one of them another name with as", "two columns are written to %q", name)
		}
		if name == p.SIDColumn {
			return refuse("", "choose another name for sid, or write the column under another name with as",
				"column %q has the name of the sid column", name)
		}
		seen[name] = true
	}
	// Whoever may make a schema at a source could otherwise write checkpoints.
	if name := p.Target.Schema; name == "tributary" || name == "information_schema" || strings.HasPrefix(name, "pg_") {
		return refuse("to", "write to a schema of another name, or leave the table out with skip", "schema %q of the warehouse is not for targets", name)
	}
	for _, name := range append([]string{p.Target.Schema, p.Target.Table, p.SIDColumn}, columnNames(p.Columns)...) {
		if len(name) > maxIdentifier {
			return refuse("", "choose a shorter name in the rule", "the name %q has %d bytes, Postgres takes %d", name, len(name), maxIdentifier)
		}
	}
	return nil
}

// where names a place in a rule: as the file has it where that is known.
func (c *compiled) where(rule int, at string) string {
	path := strings.TrimSuffix(fmt.Sprintf("tables[%d].%s", rule, at), ".")
	if c.place == nil {
		return path
	}
	if place := c.place(at); place != "" {
		return path + " (" + place + ")"
	}
	return path
}

func columnNames(columns []PlanColumn) []string {
	out := make([]string, len(columns))
	for i := range columns {
		out[i] = columns[i].Name
	}
	return out
}

func keyNames(rel *schema.Relation) string {
	var out []string
	for _, k := range rel.Key {
		out = append(out, rel.Columns[k].Name)
	}
	return strings.Join(out, ", ")
}
