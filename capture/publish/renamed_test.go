package publish

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
)

// TestRenamedColumnIsFound: of versions of a table between one that is known and one that the catalog has, a column that is covered by its name is found under
// whatever name it comes, with names exchanged and given back; unless columns were dropped meanwhile, when it may be taken for another. Where nothing is renamed, and it
// is not dropped, none is taken for it.
func TestRenamedColumnIsFound(t *testing.T) {
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // a test's
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's
	p := &Publisher{covers: []Cover{{Columns: Columns{Table: "*.*", Exclude: []string{"p", "q"}}, Match: func(string, string) bool { return true }}}}
	found := 0
	for range 20000 {
		renames := r.IntN(2) == 0
		names := []string{"a", "b", "c"}[:1+r.IntN(3)]
		names = slices.Insert(slices.Clone(names), r.IntN(len(names)+1), "p")
		if r.IntN(2) == 0 {
			names = slices.Insert(names, r.IntN(len(names)+1), "q")
		}
		rel := &schema.Relation{Schema: "public", Name: "t"}
		last := int16(0)
		add := func(name string) {
			last += 1 + int16(r.IntN(2)) //nolint:gosec // it is 1 or 2
			rel.Columns = append(rel.Columns, schema.Column{Name: name, AttNum: last})
		}
		for _, name := range names {
			add(name)
		}
		versions := []*schema.Relation{rel}
		for range 1 + r.IntN(6) {
			next := *rel
			next.Columns = slices.Clone(rel.Columns)
			rel = &next
			i, k, free := r.IntN(len(rel.Columns)), r.IntN(len(rel.Columns)), fmt.Sprint("n", r.IntN(3))
			if rel.Column(free) >= 0 {
				continue
			}
			switch {
			case r.IntN(3) == 0:
				add(free)
			case renames && r.IntN(2) == 0:
				rel.Columns[i].Name, rel.Columns[k].Name = rel.Columns[k].Name, rel.Columns[i].Name
			case renames:
				rel.Columns[i].Name = free
			case rel.Columns[i].Name != "p" && rel.Columns[i].Name != "q":
				rel.Columns = slices.Delete(rel.Columns, i, i+1)
			}
			versions = append(versions, rel)
		}
		at := r.IntN(len(versions))
		is := versions[at+r.IntN(len(versions)-at)]
		was := &Former{Name: record.Name{Schema: "public", Table: "t"}, Columns: p.CoveredColumns(nil, versions[0], true), Seen: versions[0]}
		if r.IntN(2) == 0 { // as the registry has it
			published := *versions[0]
			published.Columns = slices.DeleteFunc(slices.Clone(published.Columns), func(c schema.Column) bool { return c.Name == "p" || c.Name == "q" })
			was.Seen = &published
		}
		came := *versions[at] // without numbers, which the stream has not
		came.Columns = slices.Clone(came.Columns)
		for i := range came.Columns {
			came.Columns[i].AttNum = 0
		}
		bare := false
		for _, n := range was.Columns {
			if c := versions[at].Numbered(n); c != nil {
				bare = bare || c.Name != "p" && c.Name != "q"
			}
		}
		err := p.Renamed(was, &came, is, is)
		switch {
		case bare && err == nil:
			t.Fatalf("of %s, %s came, and %s is there: nothing is found", show(versions[0]), show(versions[at]), show(is))
		case !renames && err != nil:
			t.Fatalf("of %s, %s came, and %s is there: %v", show(versions[0]), show(versions[at]), show(is), err)
		case err != nil:
			found++
		}
	}
	if found == 0 {
		t.Error("nothing was to be found")
	}
}

func show(rel *schema.Relation) (text string) {
	for i := range rel.Columns {
		text += fmt.Sprintf(" %s%d", rel.Columns[i].Name, rel.Columns[i].AttNum)
	}
	return text
}
