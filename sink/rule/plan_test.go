package rule

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// show writes a tuple down.
func show(t change.Tuple) string {
	out := make([]string, len(t))
	for i, v := range t {
		switch v.State {
		case change.Null:
			out[i] = "∅"
		case change.Unchanged:
			out[i] = "="
		default:
			out[i] = string(v.Text)
		}
	}
	return strings.Join(out, ",")
}

func TestColumnsOfAPlan(t *testing.T) {
	def := "x"
	rel := &schema.Relation{Schema: "public", Name: "t", Identity: schema.IdentityDefault, Key: []int{0}, Columns: []schema.Column{
		{Name: "id", AttNum: 1, Type: mustType("bigint"), NotNull: true},
		{Name: "mail", AttNum: 2, Type: mustType("text"), Default: &def},
		{Name: "card", AttNum: 3, Type: mustType("text"), NotNull: true},
		{Name: "at", AttNum: 4, Type: mustType("timestamptz")},
	}}
	p, err := planOf(t, rel, Table{
		Columns: []Column{
			{From: "id", Cast: "text"},
			{From: "mail", As: "email", Mask: "hash"},
			{From: "mail", As: "gone", Mask: "null"},
			{From: "card", Mask: "keep_last_4"},
			{From: "at", As: "day", Cast: "date"},
		},
		Set: []Computed{{Column: "region", Value: "'eu'"}, {Column: "n", Value: "id * 2", Type: "numeric(12,2)"}, {Column: "again", Value: "mail"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	types := ""
	for i := range p.Columns {
		types += p.Columns[i].Name + " " + p.Column(i).Type.Name + ", "
	}
	if want := "id text, email text, gone text, card text, day date, region text, n numeric(12,2), again text, "; types != want {
		t.Errorf("got  %s\nwant %s", types, want)
	}
	if d := p.Column(1).Default; d == nil || len(*d) != 64 || p.Column(2).Default != nil || *p.Column(5).Default != "eu" || *p.Column(7).Default != "x" {
		t.Error("defaults")
	}
	values := map[string]string{"id": "7", "mail": "a@b.c", "card": "4111111111111234", "at": "2024-03-10 12:00:00+00"}
	var c Change
	if err := p.Map(&change.Event{Op: change.Create, After: row(rel, values)}, &c); err != nil {
		t.Fatal(err)
	}
	hash := string(c.After[1].Text)
	if got := show(c.After); len(hash) != 64 || got != "7,"+hash+",∅,****1234,2024-03-10 12:00:00+00,eu,14,a@b.c" || !c.Is {
		t.Errorf("got %s", got)
	}
	// A delete has the key alone: nothing is computed of what is not there.
	if err := p.Map(&change.Event{Op: change.Delete, Before: row(rel, map[string]string{"id": "7"})}, &c); err != nil || show(c.Before) != "7,∅,∅,∅,∅,∅,∅,∅" || c.Was != In {
		t.Errorf("got %s, %v", show(c.Before), err)
	}
	if err := p.Map(&change.Event{Op: change.Create, After: change.Tuple{}}, &c); err == nil {
		t.Error("a row without columns is taken")
	}
	if got := p.Reads(); len(got) != 4 {
		t.Errorf("reads %v", got)
	}
}

// TestMembersAsText: a member of JSON as text is what ->> gives.
func TestMembersAsText(t *testing.T) {
	rel := &schema.Relation{Schema: "public", Name: "t", Identity: schema.IdentityDefault, Key: []int{0}, Columns: []schema.Column{
		{Name: "id", AttNum: 1, Type: mustType("bigint"), NotNull: true}, {Name: "doc", AttNum: 2, Type: mustType("jsonb")},
	}}
	table := Table{}
	for _, m := range []string{"s", "n", "f", "yes", "none", "o", "l", "o.s", "l[0]"} {
		table.Set = append(table.Set, Computed{Column: "m" + strconv.Itoa(len(table.Set)), Value: "doc." + m, Type: "text"})
	}
	table.Set = append(table.Set, Computed{Column: "v", Value: "doc.s", Type: "varchar(40)"}, Computed{Column: "j", Value: "doc.s"}, Computed{Column: "all", Value: "doc", Type: "text"})
	p, err := planOf(t, rel, table)
	if err != nil {
		t.Fatal(err)
	}
	doc := `{"s": "it's \"a\"", "n": 5, "f": 0.5, "yes": true, "none": null, "o": {"s": "in"}, "l": ["a", 1]}`
	var c Change
	if err := p.Map(&change.Event{Op: change.Create, After: row(rel, map[string]string{"id": "7", "doc": doc})}, &c); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for i := range p.Columns {
		got[p.Columns[i].Name] = show(c.After[i : i+1])
	}
	for name, want := range map[string]string{
		"m0": `it's "a"`, "m1": "5", "m2": "0.5", "m3": "true", "m4": "∅", "m5": `{"s":"in"}`, "m6": `["a",1]`, "m7": "in", "m8": "a",
		"v": `it's "a"`, "j": `"it's \"a\""`, "all": doc,
	} {
		if got[name] != want {
			t.Errorf("%s is %s, want %s", name, got[name], want)
		}
	}
}

func TestKeys(t *testing.T) {
	rel := &schema.Relation{Schema: "public", Name: "t", Identity: schema.IdentityDefault, Key: []int{0, 1}, Columns: []schema.Column{
		{Name: "shop", Type: mustType("text"), NotNull: true}, {Name: "id", Type: mustType("numeric"), NotNull: true}, {Name: "a", Type: mustType("text")},
	}}
	key := func(want string, table Table) {
		t.Helper()
		p, err := planOf(t, rel, table)
		if err != nil {
			t.Error(err)
			return
		}
		var c Change
		if err := p.Map(&change.Event{Op: change.Delete, Before: row(rel, map[string]string{"shop": "eu", "id": "1.50"})}, &c); err != nil {
			t.Error(err)
			return
		}
		var got []string
		for _, k := range p.Key {
			got = append(got, p.Columns[k].Name+"="+string(c.Before[k].Text))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	refused := func(want string, table Table) {
		t.Helper()
		if _, err := planOf(t, rel, table); trouble.CodeOf(err) != trouble.RuleConflict || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	key("shop=eu id=1.50", Table{})
	key("shop=eu number=1.50", Table{Columns: []Column{{From: "a"}, {From: "id", As: "number", Cast: "text"}, {From: "shop"}}})
	key("k=eu/1.50", Table{Columns: []Column{{From: "a"}}, Set: []Computed{{Column: "k", Value: "shop + '/' + string(id)", Key: true}}})
	key("shop=eu id=3.00", Table{Set: []Computed{{Column: "id", Value: "id * 2", Key: true}}})
	// Equal values in two spellings have one hash.
	p, err := planOf(t, rel, Table{Columns: []Column{{From: "shop"}, {From: "id", Mask: "hash"}}})
	if err != nil {
		t.Fatal(err)
	}
	var one, two Change
	for c, id := range map[*Change]string{&one: "1.50", &two: "1.5"} {
		if err := p.Map(&change.Event{Op: change.Delete, Before: row(rel, map[string]string{"shop": "eu", "id": id})}, c); err != nil {
			t.Fatal(err)
		}
	}
	if show(one.Before) != show(two.Before) || len(one.Before[1].Text) != 64 {
		t.Errorf("got %s and %s", show(one.Before), show(two.Before))
	}
	refused(`"id" belongs to the key and is not written`, Table{Columns: []Column{{From: "shop"}}})
	refused(`"id" belongs to the key and is not written`, Table{Set: []Computed{{Column: "id", Value: "'x'"}}})
	refused(`computed of "a"`, Table{Columns: []Column{{From: "shop"}, {From: "id"}}, Set: []Computed{{Column: "k", Value: "shop + a", Key: true}}})
	refused("does not tell apart", Table{Columns: []Column{{From: "shop", Mask: "redact"}, {From: "id"}}})
	refused("different values of type numeric may be equal as double", Table{Columns: []Column{{From: "shop"}, {From: "id", Cast: "float8"}}})
	refused("can be spelled in several ways", Table{Columns: []Column{{From: "shop"}, {From: "id"}}, Set: []Computed{{Column: "k", Value: "{'x': id}", Key: true}}})
}

func TestCasts(t *testing.T) {
	cast := func(from, to, want string) {
		t.Helper()
		f, err1 := typeByName(from)
		to2, err2 := typeByName(to)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		err := castable(&f, &to2)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s to %s: got %v, want %q", from, to, err, want)
		}
	}
	cast("int", "text", "")
	cast("text", "uuid", "")
	cast("int4", "numeric(10,2)", "")
	cast("timestamptz", "date", "")
	cast("json", "jsonb", "")
	cast("int[]", "bigint[]", "")
	cast("int[]", "text", "")
	cast("interval", "interval", "")
	cast("numeric", "int", "int(column)")
	cast("int", "bool", "column != 0")
	cast("date", "int", "cast it to text")
	cast("int", "int[]", "is no array")
	cast("int[]", "int", "cast it to text")
	for _, name := range []string{"varchar(20)", "numeric( 12 , 2 )", "TIMESTAMP with time zone", "double precision []"} {
		if _, err := typeByName(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "geometry", "int(4)", "text; DROP TABLE x", "numeric(1,2,3)", "public.mood", "int[][]"} {
		if got, err := typeByName(name); err == nil {
			t.Errorf("%s is taken for %s", name, got.Name)
		}
	}
}

// TestFilterOfAPlan: an old row is looked at only where it is whole.
func TestFilterOfAPlan(t *testing.T) {
	rel := &schema.Relation{Schema: "public", Name: "t", Identity: schema.IdentityDefault, Key: []int{0}, Columns: []schema.Column{
		{Name: "id", Type: mustType("bigint"), NotNull: true}, {Name: "a", Type: mustType("bigint")}, {Name: "b", Type: mustType("boolean")},
	}}
	is := func(identity schema.ReplicaIdentity, before, after string, was Match, passes bool) {
		t.Helper()
		r := *rel
		r.Identity = identity
		p, err := planOf(t, &r, Table{Filter: "a > 5"})
		if err != nil {
			t.Fatal(err)
		}
		ev := &change.Event{Op: change.Update}
		if before != "" {
			ev.Before = row(rel, map[string]string{"id": "1", "a": before})
		}
		if after != "" {
			ev.After = row(rel, map[string]string{"id": "1", "a": after})
		}
		var c Change
		if err := p.Map(ev, &c); err != nil || c.Was != was || c.Is != passes {
			t.Errorf("%s -> %s: was %d, is %v, %v", before, after, c.Was, c.Is, err)
		}
	}
	is(schema.IdentityDefault, "", "6", Unknown, true)
	is(schema.IdentityDefault, "", "5", Unknown, false)
	is(schema.IdentityDefault, "9", "", Unknown, false)
	is(schema.IdentityFull, "9", "5", In, false)
	is(schema.IdentityFull, "4", "6", Out, true)
	if _, err := planOf(t, rel, Table{Filter: "a"}); err == nil || !strings.Contains(err.Error(), "a filter is true or false, and this is of type int") {
		t.Errorf("got %v", err)
	}
	p, err := planOf(t, rel, Table{Filter: "b"})
	if err != nil {
		t.Fatal(err)
	}
	var c Change
	if err := p.Map(&change.Event{Op: change.Create, After: row(rel, map[string]string{"id": "1"})}, &c); trouble.CodeOf(err) != trouble.RuleError || !strings.Contains(err.Error(), "(b) == true") {
		t.Errorf("got %v", err)
	}
}

// TestWarningsOfNull: what is advised about a column that may be null fits what the expression is for.
func TestWarningsOfNull(t *testing.T) {
	rel := &schema.Relation{Schema: "public", Name: "orders", Identity: schema.IdentityFull, Key: []int{0}, Columns: []schema.Column{
		{Name: "id", AttNum: 1, NotNull: true, Type: schema.Type{OID: schema.OIDInt4, Typmod: -1, Name: "integer"}},
		{Name: "cents", AttNum: 2, Type: schema.Type{OID: schema.OIDInt4, Typmod: -1, Name: "integer"}},
	}}
	set, err := New(nil, []Table{{From: "public.orders", Filter: "cents > 5", Set: []Computed{{Column: "euros", Value: "cents / 100"}}}}, "")
	if err != nil {
		t.Fatal(err)
	}
	r, _ := set.Match("shop", "public", "orders")
	p, err := r.Compile(rel)
	if err != nil {
		t.Fatal(err)
	}
	got := p.Warnings()
	want := []string{
		`"cents > 5" reads cents, which may be null: then the rule may have no result; write cents != null && …`,
		`"cents / 100" reads cents, which may be null: then the rule may have no result; write cents == null ? null : …`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestWarningsOfUpdates: rows that are changed while they are read come as updates only.
func TestWarningsOfUpdates(t *testing.T) {
	rel := &schema.Relation{Schema: "public", Name: "t", Key: []int{0}, Columns: []schema.Column{{Name: "id", AttNum: 1, NotNull: true, Type: schema.Type{OID: schema.OIDInt4, Typmod: -1, Name: "integer"}}}}
	for _, c := range []struct {
		table Table
		told  int
	}{{Table{Ignore: []string{"update"}}, 1}, {Table{Ignore: []string{"delete"}}, 0}, {Table{Ignore: []string{"insert", "update"}}, 0}, {Table{Mode: "log", Ignore: []string{"update"}}, 0}} {
		p, err := planOf(t, rel, c.table)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Warnings(); len(got) != c.told {
			t.Errorf("%+v: %q", c.table, got)
		}
	}
}
