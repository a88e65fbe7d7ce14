package publish

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
)

// Former is what is known of a table from before the version that is to be published.
type Former struct {
	Name    record.Name      // as columns were for it last; of its root where it was a partition
	Columns map[string]int16 // as of CoveredColumns, of Seen
	Seen    *schema.Relation // the version that the stream had last, perhaps without the columns that are left out; nil where that is not sure
}

// Renamed refuses a table that columns are for as it was called before, or what it was a partition of, and are not as it is called now: what
// they left out would be published. So it does where one of its columns is called otherwise, or may be.
//
// is is what the catalog has under its OID, nil for nothing, and now what it is called there, of which what is to be done is told: rows of before a rename may come
// under a name that it has no more.
func (p *Publisher) Renamed(was *Former, rel, is, now *schema.Relation) error {
	bared := p.bared(was, rel)
	if len(bared) == 0 {
		if was.Name.Part { // the numbers are those of its root's
			return nil
		}
		return p.renamedColumn(was, rel, is, now)
	}
	former := was.Name.Schema + "." + was.Name.Table
	if rel.QualifiedName() != now.QualifiedName() && len(p.bared(was, now)) == 0 {
		return notCovered(now, fmt.Sprintf("nothing is to be altered in capture.yaml, where columns cover the table as it is called now; with source.on_error: stop write an entry for %s, too, and restart capture", rel.QualifiedName()),
			"rows come of when the table was called %q, of which columns has nothing", rel.QualifiedName())
	}
	hint := fmt.Sprintf("write an entry for %s in columns of capture.yaml, or take out that for %s if all of the table may be published", now.QualifiedName(), former)
	called := "as the table was called before"
	if was.Name.Part {
		hint = fmt.Sprintf("write an entry for %s in columns of capture.yaml, or \"!%[1]s\" in source.tables if it is not to be captured by itself", now.QualifiedName())
		called = "of which the table was a partition"
		if at := slices.IndexFunc(bared, func(name string) bool { return rel.Column(name) < 0 }); at >= 0 {
			return uncovered(now, hint, "columns has an entry for %q, %s, with column %q, which it has not any more: was it renamed?", former, called, bared[at])
		}
	}
	return uncovered(now, hint, "columns has an entry for %q, %s, and nothing of %q", former, called, now.QualifiedName())
}

// bared gives what would be published of a table that columns are for as it was called before, where they are not for rel. Other entries do
// where they name the same columns. A partition has all columns of its root: what it lacks was renamed when it was none any more, but for as many as there is
// an entry for under names that the root has not.
func (p *Publisher) bared(was *Former, rel *schema.Relation) (names []string) {
	var lacks []string
	for _, c := range p.covers {
		if !c.Match(was.Name.Schema, was.Name.Table) {
			continue
		}
		for _, name := range c.Columns.names() {
			switch {
			case c.Columns.Named() || rel.Column(name) >= 0:
				names = append(names, name)
			case was.Name.Part && was.Columns[columnID(name)] != 0:
				lacks = append(lacks, name)
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
		for _, name := range c.Columns.names() {
			if len(lacks) > 0 && rel.Column(name) >= 0 && was.Columns[columnID(name)] == 0 {
				lacks = lacks[1:]
			}
		}
	}
	return append(names, lacks...)
}

// renamedColumn refuses a version of which a column is not covered, and is or may be one that was.
func (p *Publisher) renamedColumn(was *Former, rel, is, now *schema.Relation) error {
	names := p.names(rel.Schema, rel.Name)
	meant := maps.Clone(names) // of others all may be published since
	maps.Copy(meant, p.names(was.Name.Schema, was.Name.Table))
	for _, former := range slices.Sorted(maps.Keys(meant)) {
		n := was.Columns[columnID(former)]
		if n == 0 {
			continue
		}
		if at := p.mayBe(was, former, n, rel, is, names); at >= 0 {
			return p.renamedTo(former, n, &rel.Columns[at], now)
		}
	}
	return nil
}

// mayBe gives the index of a column of rel that may be number n, which was called former, and that is not covered; -1 for none. Names alone do not tell: they may
// have been exchanged, and given back since. Columns are in the order of their numbers, of which none is ever given again: those that were there before and
// are there now were there all the time, and leave the others their places.
func (p *Publisher) mayBe(was *Former, former string, n int16, rel, is *schema.Relation, covered map[string]bool) int {
	hides := func(at int) bool { // it is that one, as far as names tell; a covered one that is known is itself
		name := rel.Columns[at].Name
		return covered[name] && (name == former || was.Columns[columnID(name)] == 0)
	}
	var now *schema.Column
	if is != nil {
		now = is.Numbered(n)
	}
	switch {
	case len(rel.Columns) == 0:
		return -1
	case is != nil && slices.EqualFunc(rel.Columns, is.Columns, func(a, b schema.Column) bool { return a.Name == b.Name }):
		if now == nil || covered[now.Name] {
			return -1
		}
		return rel.Column(now.Name)
	}
	from, to := 0, len(rel.Columns)-1
	placed := is != nil && was.Seen != nil
	if placed {
		if first, last := was.places(n, rel, is, covered); first <= last || now == nil { // else one of the two is not what it is taken for
			from, to = first, last
		}
	}
	if now != nil && !covered[now.Name] {
		if at := rel.Column(now.Name); from <= at && at <= to {
			return at
		}
	}
	for at := from; at <= to; at++ {
		if hides(at) {
			return -1
		}
	}
	for at := from; at <= to; at++ {
		name := rel.Columns[at].Name
		// Where it is dropped by now it may have been so then: what has a name of another column is that.
		if !covered[name] && (now != nil || !placed || was.Seen.Column(name) < 0 && is.Column(name) < 0) {
			return at
		}
	}
	return -1
}

// places gives between which indexes of rel a column of before, number n, is if it is there; is is what the catalog has.
func (was *Former) places(n int16, rel, is *schema.Relation, covered map[string]bool) (from, to int) {
	most := 0
	numbers := map[int16]bool{}
	for _, number := range was.Columns {
		numbers[number] = true
	}
	for i := range was.Seen.Columns {
		switch c := &was.Seen.Columns[i]; {
		case c.AttNum == 0:
			most++
		case !covered[c.Name]:
			numbers[c.AttNum] = true
		}
	}
	to = len(rel.Columns) - 1
	for number := range numbers {
		switch there := is.Numbered(number) != nil; {
		case number < n:
			most++
			if there {
				from++
			}
		case number > n && there:
			to--
		}
	}
	return from, min(most, to)
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

// CoveredColumns gives the numbers of the columns of a version that are not published as they are, by fingerprints of their names: who reads the progress
// need not know what there is besides. before are those of the version before, or, where rel is not whole, as what is left out of it is missing, of rel.
func (p *Publisher) CoveredColumns(before map[string]int16, rel *schema.Relation, whole bool) map[string]int16 {
	covered := map[string]int16{}
	for name := range p.names(rel.Schema, rel.Name) {
		id := columnID(name)
		n, at := before[id], rel.Column(name)
		if known := at >= 0 && rel.Columns[at].AttNum != 0; known && (whole || n == 0) {
			n = rel.Columns[at].AttNum
		} else if whole && at < 0 {
			n = 0
		}
		if n != 0 {
			covered[id] = n
		}
	}
	return covered
}

func columnID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:8])
}
