package rule

import (
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
)

func newSet(t *testing.T, sources []Source, tables ...Table) *Set {
	t.Helper()
	s, err := New(sources, tables, "salt")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMatch(t *testing.T) {
	s := newSet(t, []Source{{Name: "shop_eu", SID: "eu"}, {Name: "shop_*"}, {Name: "crm"}},
		Table{From: "audit.*", Skip: true},
		Table{From: "public.orders", To: "sales.orders", SID: "tenant"},
		Table{From: `public."odd.name"`, To: `odd."{table}"`},
		Table{Source: "crm", From: "p?blic.c*", To: "{source}.{schema}_{table}"},
		Table{From: "public.*"},
	)
	is := func(source, schema, table, target, sid string, rule int) {
		t.Helper()
		r, ok := s.Match(source, schema, table)
		if !ok {
			t.Errorf("%s %s.%s: no match", source, schema, table)
			return
		}
		if r.Target.String() != target || r.SID != sid || r.Rule != rule {
			t.Errorf("%s %s.%s: got %s, sid %q, rule %d", source, schema, table, r.Target, r.SID, r.Rule)
		}
	}
	not := func(source, schema, table string, skipped bool) {
		t.Helper()
		if r, ok := s.Match(source, schema, table); ok {
			t.Errorf("%s %s.%s: matches rule %d", source, schema, table, r.Rule)
		}
		if got := s.Skipped(source, schema, table); got != skipped {
			t.Errorf("%s %s.%s: skipped: %v", source, schema, table, got)
		}
	}
	is("shop_eu", "public", "orders", "sales.orders", "eu", 1)
	is("shop_us", "public", "orders", "sales.orders", "shop_us", 1)
	is("shop_us", "public", "items", "public.items", "shop_us", 4)
	is("crm", "public", "customer", "crm.public_customer", "crm", 3)
	is("shop_eu", "public", "customer", "public.customer", "eu", 4)
	is("crm", "public", "odd.name", "odd.odd.name", "crm", 2)
	is("crm", "public", "a{source}b", "public.a{source}b", "crm", 4) // what is put in is not looked at again
	not("shop_eu", "audit", "log", true)
	not("shop_eu", "private", "x", false)
	not("other", "public", "orders", false)
	// The parts of a name are never taken apart at another dot.
	not("crm", "public.odd", "name", false)
}

func TestColumnText(t *testing.T) {
	is := func(text, from, as string) {
		t.Helper()
		var c Column
		if err := c.UnmarshalText([]byte(text)); err != nil || c.From != from || c.As != as {
			t.Errorf("%s: got %+v, %v", text, c, err)
			return
		}
		var again Column
		back, err := c.MarshalText()
		if err == nil {
			err = again.UnmarshalText(back)
		}
		if err != nil || again != c {
			t.Errorf("%s: written as %s, read back as %+v, %v", text, back, again, err)
		}
	}
	is("id", "id", "id")
	is("mail as email", "mail", "email")
	is(`mail as "e mail"`, "mail", "e mail")
	is(`"a as b"`, "a as b", "a as b")
	is(`"a as b" as c`, "a as b", "c")
	is(`x as "a as b"`, "x", "a as b")
	var c Column
	if err := c.UnmarshalText(nil); err == nil {
		t.Error("nothing is a column")
	}
}

func TestCheck(t *testing.T) {
	faults := func(table Table, want ...string) {
		t.Helper()
		var got []string
		for _, f := range table.Check() {
			got = append(got, f.Path+": "+f.Message)
		}
		if len(got) != len(want) {
			t.Errorf("%+v: got %q, want %q", table, got, want)
			return
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("%+v: got %q, want %q", table, got[i], want[i])
			}
		}
	}
	faults(Table{From: "a.b"})
	faults(Table{From: "a"}, "from: not schema.table")
	faults(Table{From: "a.b.c"}, "from: not schema.table")
	faults(Table{From: `a."b`}, "from: not schema.table")
	faults(Table{From: "a.b", To: "x.{tabel}"}, "to: unknown name in braces")
	faults(Table{From: "a.b", To: "x.*"}, "to: a target has no pattern")
	faults(Table{From: "a.b", Mode: "history"})
	faults(Table{From: "a.b", Mode: "history", History: HistoryColumns{From: "x", To: "x"}}, "mode: two of its columns are called")
	faults(Table{From: "a.b", Mode: "history", History: HistoryColumns{Beginning: "1900"}}, "history.beginning: not a time; write 1900-01-01")
	faults(Table{From: "a.b", Mode: "history", History: HistoryColumns{Beginning: "infinity"}}, "history.beginning: not a time")
	faults(Table{From: "a.b", Mode: "history", History: HistoryColumns{End: "later"}}, "history.end: not a time")
	faults(Table{From: "a.b", Mode: "history", History: HistoryColumns{Beginning: "1900-01-01", End: "1900-01-01 00:00:00"}}, "history.end: is not after")
	faults(Table{From: "a.b", History: HistoryColumns{Views: true}}, "history.views: has no effect without mode: history")
	faults(Table{From: "a.b", Mode: "log", SID: "change_op"}, "sid: is the name of a column of mode log")
	faults(Table{From: "a.b", Mode: "history", Columns: []Column{{From: "deleted"}}}, "columns[0]: is the name of a column of mode history")
	faults(Table{From: "a.b", Mode: "clown"}, "mode: not a mode")
	faults(Table{From: "a.b", Ignore: []string{"insert", "drop"}}, "ignore[1]: not an operation")
	faults(Table{From: "a.b", SID: "x", Columns: []Column{{From: "x", As: "x"}}}, "columns[0]: is the name of the sid column")
	faults(Table{From: "a.b", Columns: []Column{{From: "x", As: "y"}, {From: "y", As: "y"}}}, "columns[1]: two columns")
	faults(Table{From: "a.b", Skip: true, SID: "x"}, "skip: the other keys")
	faults(Table{From: "a.b", Keep: "90 days", By: "at"})
	faults(Table{From: "a.b", Keep: "ninety days", By: "at"}, "keep: not an age; write 90 days")
	faults(Table{From: "a.b", Keep: "90 days", Mode: "history"})
	faults(Table{From: "a.b", Keep: "90 days", Mode: "log"})
	faults(Table{From: "a.b", Keep: "90 days", Mode: "history", By: "at"}, "by: a history forgets versions")
	faults(Table{From: "a.b", Keep: "90 days"}, "keep: by which column of the target?")
	faults(Table{From: "a.b", By: "at"}, "by: has no effect without keep")
	faults(Table{From: "a.b", Drop: "1 day"}, "drop: has no effect without keep")
	faults(Table{From: "a.b", Keep: "90 days", By: "at", Drop: "soon"}, "drop: not an age; write 90 days")
	for _, bad := range []Source{{Name: "a*", SID: "x"}, {Name: "a", SID: "{*}"}} {
		if len(bad.Check()) != 1 {
			t.Errorf("%+v is not refused", bad)
		}
	}
	for _, good := range []Source{{Name: "a", SID: "x"}, {Name: "a*", SID: "{*}"}} {
		if len(good.Check()) != 0 {
			t.Errorf("%+v is refused", good)
		}
	}
}

func TestSIDs(t *testing.T) {
	for _, c := range []struct{ pattern, sid, source, want string }{
		{"a", "", "a", "a"},
		{"a", "x", "a", "x"},
		{"tenant_*", "{*}", "tenant_17", "17"},
		{"t?_*_eu", "e{*}", "t1_17_eu", "e17"},
		{"*_eu", "{*}", "a_eu_eu", "a_eu"},
	} {
		r := newSet(t, []Source{{Name: c.pattern, SID: c.sid}}, Table{From: "a.b", SID: "sid"})
		if got, ok := r.Source(c.source); got != c.want || !ok {
			t.Errorf("%+v: got %q", c, got)
		}
	}
	clash := func(want string, sources []Source, tables ...Table) {
		t.Helper()
		got := CheckSIDs(sources, tables)
		if len(got) > 1 || (want == "") != (len(got) == 0) || len(got) == 1 && got[0].Path+": "+got[0].Message != want {
			t.Errorf("got %v, want %q", got, want)
		}
	}
	two := []Source{{Name: "a", SID: "x"}, {Name: "b", SID: "x"}}
	clash(`sources[1].sid: is also the sid of "a" in sources[0], and tables[0] writes both into one target; give one of them another`, two, Table{From: "*.*", To: "s.t"})
	clash("", two, Table{From: "*.*", To: "{source}.t"})
	clash("", two, Table{Source: "a", From: "*.*", To: "s.t"})
	clash("", two, Table{Source: "a", From: "a.*", To: "x.t"}, Table{From: "*.*", To: "s.t"})
	clash("", two)
	clash(`sources[1].sid: is also the sid of "x" in sources[0], and tables[0] writes both into one target; give one of them another`,
		[]Source{{Name: "x"}, {Name: "y", SID: "x"}}, Table{From: "*.*", To: "s.t", SID: "sid"})
	clash("", []Source{{Name: "a*"}, {Name: "a", SID: "x"}, {Name: "b", SID: "x"}}, Table{From: "*.*", To: "s.t"}) // a is a
	clash(`sources[0].sid: the sid "x" is not a number of type integer, in its plain form, as tables[0] wants it`,
		two[:1], Table{From: "*.*", SID: "tenant", SIDType: "integer"})
	for typ, sids := range map[string][]string{
		"smallint": {"32767", "-1", "!32768", "!01", "!+1", "!"},
		"bigint":   {"9223372036854775807", "!9223372036854775808"},
		"uuid":     {"0b51cbd6-93d5-4b8e-8f0b-6f2f0a2f1c11", "!0B51CBD6-93d5-4b8e-8f0b-6f2f0a2f1c11", "!0b51cbd693d54b8e8f0b6f2f0a2f1c11"},
		"text":     {"", "x"},
	} {
		for _, sid := range sids {
			text, bad := strings.CutPrefix(sid, "!")
			if known, err := SIDFits(text, typ); !known || bad != (err != nil) {
				t.Errorf("%s %q: %v, %v", typ, text, known, err)
			}
		}
	}
	if known, _ := SIDFits("1", "money"); known {
		t.Error("a sid of type money")
	}
}

func TestCompile(t *testing.T) {
	rel := &schema.Relation{Schema: "public", Name: "t", Key: []int{2, 0}, Columns: []schema.Column{
		{Name: "a", NotNull: true}, {Name: "b"}, {Name: "c", NotNull: true},
	}}
	compile := func(table Table) (*Plan, error) {
		t.Helper()
		table.From = "public.t"
		r, _ := newSet(t, nil, table).Match("s", "public", "t")
		return r.Compile(rel)
	}
	p, err := compile(Table{Columns: []Column{{From: "c", As: "z"}, {From: "b", As: "b"}, {From: "a", As: "x"}}, Mode: "append", SID: "sid"})
	if err != nil {
		t.Fatal(err)
	}
	if p.Key[0] != 0 || p.Key[1] != 2 || p.Column(0).Name != "c" || p.Ignore != Deletes|Truncates {
		t.Errorf("got %+v", p)
	}
	refused := func(want string, table Table) {
		t.Helper()
		_, err := compile(table)
		if trouble.CodeOf(err) != trouble.RuleConflict || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
	}
	refused(`column "a" belongs to the key and is not written`, Table{Columns: []Column{{From: "c", As: "c"}}})
	refused(`no column "d"`, Table{Columns: []Column{{From: "d", As: "d"}}})
	refused(`has the name of the sid column`, Table{SID: "b"})
	refused(`the sid "s" is not a UUID`, Table{SID: "sid", SIDType: "uuid"})
	refused("has 64 bytes", Table{To: "x." + strings.Repeat("y", 64)})
	for _, own := range []string{"tributary", "pg_catalog", "pg_temp", "information_schema"} {
		refused(`schema "`+own+`" of the warehouse is not for targets`, Table{To: own + ".checkpoint"})
	}
}
