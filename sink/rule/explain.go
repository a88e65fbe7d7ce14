package rule

import (
	"fmt"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/mask"
	"github.com/tributary-cdc/tributary/schema"
)

// Step is what a plan does for one column, for people.
type Step struct {
	From, FromType string // at the source; "" for none
	To, ToType     string // in the target; "" for none
	How            string
}

// Steps lists the columns of a plan: those of the source in their order, then those that are computed or added.
func (p *Plan) Steps() (steps []Step) {
	rel := p.Relation
	for i := range rel.Columns {
		s := Step{From: rel.Columns[i].Name, FromType: rel.Columns[i].Type.Name}
		if rel.IsKey(i) {
			s.FromType += ", key"
		}
		taken := false
		for n := range p.Columns {
			c := &p.Columns[n]
			if c.source != i || c.at != "" {
				continue
			}
			taken = true
			one := s
			one.To, one.ToType, one.How = c.Name, p.madeAs(n), c.how(&rel.Columns[i])
			steps = append(steps, one)
		}
		if !taken {
			s.How = "not chosen by columns"
			if len(p.rule.Columns) == 0 {
				s.How = "replaced by set"
			}
			steps = append(steps, s)
		}
	}
	if p.SIDColumn != "" {
		steps = append(steps, Step{To: p.SIDColumn, ToType: p.SIDType, How: quoted(p.SID)})
	}
	for n := range p.Columns {
		if c := &p.Columns[n]; c.at != "" {
			how := "set: " + p.rule.Set[p.set(c.at)].Value
			if c.key {
				how += ", key"
			}
			steps = append(steps, Step{To: c.Name, ToType: p.madeAs(n), How: how})
		}
	}
	for _, a := range p.Added {
		steps = append(steps, Step{To: a.Name, ToType: a.Type, How: "mode " + p.Mode.String()})
	}
	return steps
}

// madeAs gives the type that column n has in a target that is made: a type of the source's own only where the warehouse has it, too.
func (p *Plan) madeAs(n int) string {
	t := &p.Column(n).Type
	if t.OID >= schema.FirstUserOID {
		return t.Name + ", else " + t.Portable()
	}
	return t.Name
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// how says what becomes of the values of a column.
func (c *PlanColumn) how(from *schema.Column) string {
	var parts []string
	if c.Name != from.Name {
		parts = append(parts, "renamed")
	}
	switch {
	case c.mask == mask.Hash:
		parts = append(parts, "mask: hash, salted")
	case c.mask != mask.None:
		parts = append(parts, "mask: "+string(c.mask))
	case c.column.Type.Name != from.Type.Name:
		parts = append(parts, fmt.Sprintf("cast %s to %s", from.Type.Name, c.column.Type.Name))
	}
	if len(parts) == 0 {
		return "as is"
	}
	return strings.Join(parts, ", ")
}

// Meanings says what each kind of change does to the target, as pairs of a kind and a sentence.
func (p *Plan) Meanings() (out [][2]string) {
	var keys []string
	if p.SIDColumn != "" {
		keys = append(keys, p.SIDColumn)
	}
	for _, k := range p.Key {
		keys = append(keys, p.Columns[k].Name)
	}
	row := "the row of (" + strings.Join(keys, ", ") + ")"
	if len(p.Key) == 0 {
		row = "one row that equals the old one in all columns"
	}
	passes := ""
	if p.filter != nil {
		passes = " if it passes the filter"
	}
	say := func(kind string, ignored Ops, text string) {
		if p.Ignore&ignored != 0 {
			text = "nothing (ignore)"
		}
		out = append(out, [2]string{kind, text})
	}
	whose := "all rows"
	if p.SIDColumn != "" {
		whose = fmt.Sprintf("all rows with %s = %s", p.SIDColumn, quoted(p.SID))
	}
	switch p.Mode {
	case Log:
		say("INSERT", Inserts, "a row is added, with what happened, where and when"+passes)
		say("UPDATE", Updates, "the same; a row that leaves the filter is logged as deleted")
		say("DELETE", Deletes, "the same, with the old row as far as it was sent")
		say("TRUNCATE", Truncates, "one row says so")
	case History:
		say("INSERT", Inserts, "a version is added, valid from the commit on"+passes)
		say("UPDATE", Updates, "the open version of ("+strings.Join(keys, ", ")+") is closed, the next one opened at the same instant"+passes)
		say("DELETE", Deletes, "the open version is closed as deleted")
		say("TRUNCATE", Truncates, "the open versions are closed: "+whose)
	default:
		say("INSERT", Inserts, row0(p, row, "written")+passes)
		leaves := ""
		if p.filter != nil {
			leaves = "; after which it does not pass: deleted; after which it does: inserted if it was not there"
		}
		say("UPDATE", Updates, row+" is written; large values (TOAST) that were not sent stay"+leaves)
		say("key change", Updates, row+" of the old key moves to the new key"+passes)
		say("DELETE", Deletes, row+" is deleted")
		say("TRUNCATE", Truncates, whose+" are deleted")
	}
	say("snapshot", Inserts, "as INSERT; a row that is there is overwritten"+map[bool]string{true: ", one that does not pass is deleted", false: ""}[p.filter != nil])
	return out
}

func row0(p *Plan, row, verb string) string {
	if len(p.Key) == 0 {
		return "a row is added"
	}
	return row + " is " + verb
}

// Filter gives the rule's filter, "" for none.
func (p *Plan) Filter() string { return p.rule.Filter }

// Where names the rule as the file has it.
func (p *Plan) Where() string { return p.rule.where(p.Rule, "") }

// Warnings says what of the rule will fail on some rows: large columns that an UPDATE may not send, and columns that may
// be null in an expression that never asks.
func (p *Plan) Warnings() (out []string) {
	if p.Ignore&(Inserts|Updates) == Updates && len(p.Key) > 0 && p.Mode != Log {
		out = append(out, "ignore: [update] leaves out rows, too, that are changed while their table is read: of these nothing else comes; read it while nobody changes it")
	}
	for _, x := range p.expressions() {
		for _, in := range x.inputs {
			c := &p.typed.Columns[in.column]
			if !p.whole && large(&c.Type) && !p.Relation.IsKey(in.column) && (x == p.filter || len(x.inputs) > 1) {
				out = append(out, fmt.Sprintf("%q reads %s, which an UPDATE does not send if it is large and not touched: then the rule has no result; ALTER TABLE %s REPLICA IDENTITY FULL; at the source avoids it",
					x.source, display(in.name), p.Relation.QualifiedName()))
			}
			name := display(in.name)
			if !c.NotNull && !strings.Contains(x.source, "null") && !strings.Contains(x.source, "coalesce") && !strings.Contains(x.source, name+" ==") && !strings.Contains(x.source, name+" in ") {
				write := name + " == null ? null : …"
				if x == p.filter {
					write = name + " != null && …"
				}
				out = append(out, fmt.Sprintf("%q reads %s, which may be null: then the rule may have no result; write %s", x.source, name, write))
			}
		}
	}
	return out
}

// large says whether values of a type can be stored apart from their row (TOAST), numeric apart: few are.
func large(t *schema.Type) bool {
	t = plain(t)
	switch t.Kind() {
	case schema.KindText:
		switch t.OID {
		case schema.OIDNumeric, schema.OIDUUID, schema.OIDMoney, schema.OIDInterval, schema.OIDTimeTZ, schema.OIDChar, schema.OIDName:
			return false
		}
		return t.Class != schema.ClassEnum
	case schema.KindBytes, schema.KindArray:
		return true
	}
	return false
}
