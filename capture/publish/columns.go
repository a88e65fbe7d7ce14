package publish

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/mask"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// Columns is one entry of the configuration's "columns": what of a table is not published, or not as it is.
type Columns struct {
	Table   string   `mapstructure:"table" required:"true" doc:"Tables as schema.table, with * and ? as wildcards. A table that is named without them must have all the columns."`
	Exclude []string `mapstructure:"exclude" default:"" doc:"Columns that are not published: topics and schemas do not have them. Not of the key."`
	Mask    []Mask   `mapstructure:"mask" doc:"Columns whose values are masked before they leave capture. Not of the key."`
}

// Mask says how one column is masked.
type Mask struct {
	Column string `mapstructure:"column" required:"true" doc:"Name of the column."`
	As     string `mapstructure:"as" required:"true" oneof:"hash,redact,null,keep_last_4" doc:"hash (HMAC-SHA-256 under salt, equal values stay equal), redact (***), null, keep_last_4."`
}

// Check finds columns that are named twice.
func (c Columns) Check() []config.Fault {
	var faults []config.Fault
	seen := map[string]bool{}
	for i, name := range c.Exclude {
		if seen[name] {
			faults = append(faults, config.Fault{Path: fmt.Sprintf("exclude[%d]", i), Value: name, Message: "is named twice; leave one out"})
		}
		seen[name] = true
	}
	for i, m := range c.Mask {
		if seen[m.Column] {
			faults = append(faults, config.Fault{Path: fmt.Sprintf("mask[%d].column", i), Value: m.Column, Message: "is excluded or masked already; leave one out"})
		}
		seen[m.Column] = true
	}
	if len(seen) == 0 {
		faults = append(faults, config.Fault{Message: "says nothing; write exclude or mask"})
	}
	return faults
}

// Hashes says whether a column is masked by a hash, for which there has to be a salt.
func (c Columns) Hashes() bool {
	return slices.ContainsFunc(c.Mask, func(m Mask) bool { return m.As == string(mask.Hash) })
}

// Cover is the configuration's "columns", with what tells which tables an entry is for.
type Cover struct {
	Columns Columns
	Match   func(schema, table string) bool
}

// cover is what of one version of a relation is published: kept are indexes into its columns.
type cover struct {
	published *schema.Relation
	hidden    []int // not published, or masked by null
	kept      []int
	masks     []mask.Kind // of the kept
	types     []*schema.Type
	masker    *mask.Masker

	before, after change.Tuple // memory
	arena         []byte
	canonical     []byte
}

// Named says whether the entry is for one table alone.
func (c Columns) Named() bool { return !strings.ContainsAny(c.Table, "*?[") }

// Covers says whether columns have anything for a table of this name.
func (p *Publisher) Covers(name record.Name) bool {
	return slices.ContainsFunc(p.covers, func(c Cover) bool { return c.Match(name.Schema, name.Table) })
}

// CheckCovers says whether columns fit a relation.
func CheckCovers(covers []Cover, rel *schema.Relation) error {
	_, err := newCover(covers, nil, rel)
	return err
}

// newCover gives nil where all of rel is published as it is. It refuses what would publish more than is meant, or what
// would take rows their key.
func newCover(covers []Cover, salt []byte, rel *schema.Relation) (*cover, error) {
	masks := map[int]mask.Kind{}
	excluded := map[int]bool{}
	for _, c := range covers {
		if !c.Match(rel.Schema, rel.Name) {
			continue
		}
		for _, name := range c.Columns.names() {
			i := rel.Column(name)
			switch {
			case i < 0 && !c.Columns.Named():
				continue
			case i < 0:
				return nil, uncovered(rel, "mend columns in capture.yaml", "columns names %q, and the table has no such column; was it renamed?", name)
			case rel.IsKey(i):
				return nil, uncovered(rel, "leave it out of columns in capture.yaml, and mask it in the sink's rule", "column %q belongs to the key: without its values rows cannot be told apart", name)
			}
			if slices.Contains(c.Columns.Exclude, name) {
				excluded[i] = true
			}
		}
		for _, m := range c.Columns.Mask {
			if i := rel.Column(m.Column); i >= 0 {
				masks[i] = mask.Kind(m.As)
			}
		}
	}
	if len(masks)+len(excluded) == 0 {
		return nil, nil
	}
	published := *rel
	published.Columns, published.Key = nil, nil
	c := &cover{published: &published, masker: mask.New(salt)}
	for i := range rel.Columns {
		if excluded[i] || masks[i] == mask.Null {
			c.hidden = append(c.hidden, i)
		}
		if excluded[i] {
			continue
		}
		column := rel.Columns[i]
		if kind := masks[i]; kind != mask.None {
			c.coverColumn(&column, kind)
		}
		published.Columns = append(published.Columns, column)
		c.kept, c.masks, c.types = append(c.kept, i), append(c.masks, masks[i]), append(c.types, &rel.Columns[i].Type)
	}
	for _, k := range rel.Key {
		published.Key = append(published.Key, slices.Index(c.kept, k))
	}
	return c, nil
}

func uncovered(rel *schema.Relation, hint, format string, args ...any) error {
	return notCovered(rel, hint+"; then restart capture, and capture snapshot --table "+rel.QualifiedName(), format, args...)
}

func notCovered(rel *schema.Relation, hint, format string, args ...any) error {
	return &OneTable{&trouble.Error{
		Code: trouble.Config, Op: "apply columns to", Subject: fmt.Sprintf("table %q", rel.QualifiedName()), Cause: fmt.Errorf(format, args...),
		Means: "nothing of the table is published, so that nothing is that must not be", Hint: hint,
	}}
}

// names gives those of the columns that the entry is for.
func (c Columns) names() []string {
	names := slices.Clone(c.Exclude)
	for _, m := range c.Mask {
		names = append(names, m.Column)
	}
	return names
}

// coverColumn makes the description of a column that of its masked values.
func (c *cover) coverColumn(column *schema.Column, kind mask.Kind) {
	typ := column.Type
	if kind == mask.Null {
		column.NotNull = false
	} else {
		column.Type = schema.Type{OID: schema.OIDText, Typmod: -1, Name: "text", Class: schema.ClassBase}
	}
	if column.Default == nil {
		return
	}
	masked, ok := c.masker.Append(nil, kind, typ.AppendCanonical(nil, []byte(*column.Default)))
	text := string(masked)
	column.Default = &text
	if !ok {
		column.Default = nil
	}
}

// event gives what is published of ev. It is valid until the next call but one for another tuple of the same event.
func (c *cover) event(ev *change.Event) change.Event {
	out := *ev
	c.arena = c.arena[:0]
	if ev.Before != nil {
		c.before = c.tuple(c.before[:0], ev.Before)
		out.Before = c.before
	}
	if ev.After != nil {
		c.after = c.tuple(c.after[:0], ev.After)
		out.After = c.after
	}
	return out
}

func (c *cover) tuple(dst, row change.Tuple) change.Tuple {
	for n, i := range c.kept {
		v := row[i]
		if c.masks[n] != mask.None && v.State == change.Present {
			c.canonical = c.types[n].AppendCanonical(c.canonical[:0], v.Text)
			start := len(c.arena)
			var ok bool
			if c.arena, ok = c.masker.Append(c.arena, c.masks[n], c.canonical); ok {
				v.Text = c.arena[start:len(c.arena):len(c.arena)]
			} else {
				v = change.Value{}
			}
		}
		dst = append(dst, v)
	}
	return dst
}
