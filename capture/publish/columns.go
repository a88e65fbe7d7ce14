package publish

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
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

// Renamed refuses a table that columns are for as it was called before, or what it was a partition of, and are not as it is called now: what
// they left out would be published.
// So it does where one of its columns is that; columns are as of CoveredColumns, so that those that were added since are others.
// now is what it is called in the catalog, and what is to be done is told of: rows of before a rename may come under a name that it has no more.
func (p *Publisher) Renamed(was record.Name, columns map[string][]int16, rel, now *schema.Relation) error {
	bared := p.bared(was, columns, rel)
	if len(bared) == 0 {
		if was.Part { // the numbers are those of its root's
			return nil
		}
		return p.renamedColumn(was, columns, rel, now)
	}
	former := was.Schema + "." + was.Table
	if rel.QualifiedName() != now.QualifiedName() && len(p.bared(was, columns, now)) == 0 {
		return notCovered(now, fmt.Sprintf("nothing is to be altered in capture.yaml, where columns cover the table as it is called now; with source.on_error: stop write an entry for %s, too, and restart capture", rel.QualifiedName()),
			"rows come of when the table was called %q, of which columns has nothing", rel.QualifiedName())
	}
	hint := fmt.Sprintf("write an entry for %s in columns of capture.yaml, or take out that for %s if all of the table may be published", now.QualifiedName(), former)
	called := "as the table was called before"
	if was.Part {
		hint = fmt.Sprintf("write an entry for %s in columns of capture.yaml, or \"!%[1]s\" in source.tables if it is not to be captured by itself", now.QualifiedName())
		called = "of which the table was a partition"
		if at := slices.IndexFunc(bared, func(name string) bool { return rel.Column(name) < 0 }); at >= 0 {
			return uncovered(now, hint, "columns has an entry for %q, %s, with column %q, which it has not any more: was it renamed?", former, called, bared[at])
		}
	}
	return uncovered(now, hint, "columns has an entry for %q, %s, and nothing of %q", former, called, now.QualifiedName())
}

// bared gives what would be published of a table that columns are for as it was called before, where they are not for rel. Other entries do
// where they name the same columns. A partition has all columns of its root: what it lacks was renamed, when it was none any more.
func (p *Publisher) bared(was record.Name, columns map[string][]int16, rel *schema.Relation) (names []string) {
	for _, c := range p.covers {
		if !c.Match(was.Schema, was.Table) {
			continue
		}
		for _, name := range c.Columns.names() {
			if c.Columns.Named() || rel.Column(name) >= 0 || was.Part && len(columns[columnID(name)]) > 0 {
				names = append(names, name)
			}
		}
	}
	for _, c := range p.covers {
		if !c.Match(rel.Schema, rel.Name) {
			continue
		}
		if c.Columns.Named() {
			return nil
		}
		names = slices.DeleteFunc(names, func(name string) bool { return rel.Column(name) >= 0 && slices.Contains(c.Columns.names(), name) })
	}
	return names
}

func (p *Publisher) renamedColumn(was record.Name, columns map[string][]int16, rel, now *schema.Relation) error {
	names := p.names(rel.Schema, rel.Name)
	meant := maps.Clone(names) // of others all may be published since
	maps.Copy(meant, p.names(was.Schema, was.Table))
	for _, former := range slices.Sorted(maps.Keys(meant)) {
		for _, n := range columns[columnID(former)] {
			for i := range rel.Columns {
				if c := &rel.Columns[i]; c.Name != former && !names[c.Name] && mayBe(rel, i, n, names) {
					return p.renamedTo(former, n, c, now)
				}
			}
		}
	}
	return nil
}

// mayBe says whether column i of rel may be that of number n. Where its own is not known, those around it leave it some, as columns are in the order of their
// numbers; but for those that are of the names that are covered, of which another column may have been for a while.
func mayBe(rel *schema.Relation, i int, n int16, covered map[string]bool) bool {
	if is := rel.Columns[i].AttNum; is != 0 {
		return is == n
	}
	for k := range rel.Columns {
		other, apart := &rel.Columns[k], int16(i-k)
		switch {
		case other.AttNum == 0 || covered[other.Name]:
		case apart > 0 && n < other.AttNum+apart, apart < 0 && n > other.AttNum+apart:
			return false
		}
	}
	return n > int16(i)
}

// renamedTo is the trouble of column n, which was called former and covered, and may be c of the rows that come, of which columns has nothing.
func (p *Publisher) renamedTo(former string, n int16, c *schema.Column, now *schema.Relation) error {
	is, covered := now.Numbered(n), p.names(now.Schema, now.Name)
	if is == nil || covered[is.Name] { // rows of before, for which nothing can be written where the names are exchanged
		hint := "nothing is to be altered in capture.yaml, where columns cover the column as it is called now; with source.on_error: stop write hold, and restart capture"
		if c.AttNum == 0 {
			return notCovered(now, hint, "rows come of when it had other names, and it cannot be told whether %q of theirs is the column that columns has an entry for as %q", c.Name, former)
		}
		return notCovered(now, hint, "rows come of when column %q was called %q, of which columns has nothing", former, c.Name)
	}
	names := fmt.Sprintf("%q", is.Name)
	if c.Name != is.Name && !covered[c.Name] {
		names += fmt.Sprintf(" and %q", c.Name) // rows of before, with another name in between
	}
	place := "beside"
	if slices.ContainsFunc(p.covers, func(c Cover) bool {
		return c.Columns.Named() && c.Match(now.Schema, now.Name) && slices.Contains(c.Columns.names(), former)
	}) {
		place = "in place of"
	}
	return uncovered(now, fmt.Sprintf("write %s %s %q in an entry of columns in capture.yaml that is for %s, or take %[3]q out of its entries if the column may be published of all their tables", names, place, former, now.QualifiedName()),
		"columns has an entry for column %q, as it was called before, and nothing of %q", former, is.Name)
}

// names gives the columns that a table of this name would not be published with as they are.
func (p *Publisher) names(schemaName, table string) map[string]bool {
	names := map[string]bool{}
	for _, c := range p.covers {
		if c.Match(schemaName, table) {
			for _, name := range c.Columns.names() {
				names[name] = true
			}
		}
	}
	return names
}

// CoveredColumns gives the numbers of the columns of rel that are not published as they are, by fingerprints of their names: who reads the progress
// need not know what there is besides. Those of before that are gone, which rows may come of, stay.
func (p *Publisher) CoveredColumns(before map[string][]int16, rel *schema.Relation) map[string][]int16 {
	covered := map[string][]int16{}
	for name := range p.names(rel.Schema, rel.Name) {
		id := columnID(name)
		var numbers []int16
		if at := rel.Column(name); at >= 0 && rel.Columns[at].AttNum != 0 {
			numbers = append(numbers, rel.Columns[at].AttNum)
		}
		for _, n := range before[id] {
			if rel.Numbered(n) == nil {
				numbers = append(numbers, n)
			}
		}
		if len(numbers) > 0 {
			covered[id] = numbers
		}
	}
	return covered
}

func columnID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:8])
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
