package rule

import (
	"slices"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// TestMeaning: what is told of rows that were written under another rule, and that nothing is where they are as they should be.
func TestMeaning(t *testing.T) {
	meaning := func(salt string, table Table) Meaning {
		t.Helper()
		table.From = "public.*"
		set, err := New([]Source{{Name: "shop", SID: "s1"}}, []Table{table}, config.Secret(salt))
		if err != nil {
			t.Fatal(err)
		}
		r, ok := set.Match("shop", "public", "orders")
		if !ok {
			t.Fatal("no rule")
		}
		m, err := ParseMeaning(r.Meaning().Text())
		if err != nil || m.Text() != r.Meaning().Text() {
			t.Fatalf("%v: %s, %s", err, m.Text(), r.Meaning().Text())
		}
		return m
	}
	id, note := Column{From: "id"}, Column{From: "note"}
	for name, c := range map[string]struct {
		was, is Table
		want    []string
	}{
		"nothing": {Table{}, Table{Mode: "clone", To: "public.orders"}, nil},
		"when, by whom, for how long": {
			Table{Columns: []Column{id}}, Table{Columns: []Column{id}, Freshness: 5, OnError: "park", Keep: "90 days", By: "at", Create: true}, nil,
		},
		"target":              {Table{To: "sales.ledger"}, Table{To: "sales.orders"}, []string{"they are in sales.ledger, and not in sales.orders"}},
		"column added":        {Table{Columns: []Column{id}}, Table{Columns: []Column{id, note}}, []string{"they have no values of column note"}},
		"column left out":     {Table{Columns: []Column{id, note}}, Table{Columns: []Column{id}}, []string{"they still have values of column note, which is not written any more"}},
		"column renamed":      {Table{Columns: []Column{note}}, Table{Columns: []Column{{From: "note", As: "remark"}}}, []string{"no values of column remark", "still have values of column note"}},
		"column cast":         {Table{Columns: []Column{note}}, Table{Columns: []Column{{From: "note", Cast: "text"}}}, []string{"column note was filled otherwise"}},
		"all columns":         {Table{Columns: []Column{id}}, Table{}, []string{"no values of the columns that columns left out"}},
		"some columns":        {Table{}, Table{Columns: []Column{id}}, []string{"still have values of the columns that columns leaves out"}},
		"constant":            {Table{}, Table{Set: []Computed{{Column: "region", Value: "'eu' + tributary.sid"}}}, nil},
		"computed":            {Table{}, Table{Set: []Computed{{Column: "gross", Value: "total * 2"}}}, []string{"column gross was filled otherwise, or not at all"}},
		"computed of col()":   {Table{}, Table{Set: []Computed{{Column: "gross", Value: "col('a b')"}}}, []string{"column gross was"}},
		"computed otherwise":  {Table{Set: []Computed{{Column: "g", Value: "a"}}}, Table{Set: []Computed{{Column: "g", Value: "b"}}}, []string{"column g was filled otherwise"}},
		"filter":              {Table{}, Table{Filter: "a > 1"}, []string{"there was no filter, and now there is: a > 1"}},
		"filter gone":         {Table{Filter: "a > 1"}, Table{}, []string{"the filter left rows out, and there is none now: a > 1"}},
		"another filter":      {Table{Filter: "a > 1"}, Table{Filter: "a > 2"}, []string{"the filter was a > 1, and is a > 2"}},
		"sid":                 {Table{}, Table{SID: "tenant"}, []string{"they have no sid"}},
		"sid elsewhere":       {Table{SID: "a"}, Table{SID: "b"}, []string{`their sid is in column "a"`}},
		"ignored no more":     {Table{Ignore: []string{"delete", "update"}}, Table{Ignore: []string{"update"}}, []string{"delete was ignored"}},
		"ignored from now on": {Table{}, Table{Ignore: []string{"delete"}}, nil},
		"append from now on":  {Table{}, Table{Mode: "append"}, nil},
		"append no more":      {Table{Mode: "append"}, Table{}, []string{"delete, truncate was ignored"}},
		"columns of a log":    {Table{Mode: "log"}, Table{Mode: "log", Log: LogColumns{Op: "op"}}, []string{"mode log had columns change_op,"}},
		"end of a history":    {Table{Mode: "history"}, Table{Mode: "history", History: HistoryColumns{End: "9999-12-31"}}, []string{"have the end infinity, and not 9999-12-31"}},
		"first of a history":  {Table{Mode: "history"}, Table{Mode: "history", History: HistoryColumns{First: "beginning"}}, []string{"first: commit, and now by -infinity and beginning"}},
		"defaults, written":   {Table{Mode: "history"}, Table{Mode: "history", History: HistoryColumns{From: "valid_from", End: "infinity", First: "commit", Views: true}}, nil},
		"mode":                {Table{}, Table{Mode: "history", To: "h.orders"}, []string{"they are in public.orders", "written with mode clone, which is history now"}},
	} {
		got := meaning("", c.was).Since(meaning("", c.is))
		if !slices.EqualFunc(got, c.want, strings.Contains) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	reads := Table{Set: []Computed{{Column: "x", Value: "tributary.sid + id"}}}
	other := meaning("", reads)
	if other.SID = "s2"; !slices.Equal(other.Since(meaning("", reads)), []string{`their sid, which expressions read, is "s2", and now "s1"`}) {
		t.Errorf("%q", other.Since(meaning("", reads)))
	}
	if got := meaning("", reads).Since(meaning("", Table{Set: []Computed{{Column: "x", Value: "id"}}})); len(got) != 1 {
		t.Errorf("%q", got)
	}
	was, is := meaning("", Table{Columns: []Column{id}}), meaning("", Table{Columns: []Column{id, {From: "note", As: "remark"}}})
	if columns, only := was.Lacks(is); !only || !slices.Equal(columns, []string{"note"}) {
		t.Error(columns, only)
	}
	if columns, only := is.Lacks(was); only {
		t.Error(columns)
	}
	is = meaning("", Table{Columns: []Column{id, note}, Filter: "id > 1"})
	if columns, only := was.Lacks(is); only {
		t.Error(columns)
	}
	// What is computed is right with its inputs, whether it is new or otherwise.
	was, is = meaning("", Table{Set: []Computed{{Column: "n", Value: "total"}}}), meaning("", Table{Set: []Computed{{Column: "n", Value: "total * 2"}, {Column: "city", Value: "doc.city + col('a b')"}}})
	if columns, only := was.Lacks(is); !only || !slices.Equal(slices.Sorted(slices.Values(columns)), []string{"a b", "doc", "total"}) {
		t.Error(columns, only)
	}
	was, is = meaning("", Table{Set: []Computed{{Column: "n", Value: "'a'"}}}), meaning("", Table{Set: []Computed{{Column: "n", Value: "'b'"}}})
	if columns, only := was.Lacks(is); only {
		t.Error(columns)
	}
	hashed := Table{Columns: []Column{id, {From: "mail", Mask: "hash"}}}
	if got := meaning("first-salt", hashed).Since(meaning("other-salt", hashed)); !slices.Equal(got, []string{"they were hashed under another salt"}) {
		t.Errorf("%q", got)
	}
	if text := meaning("first-salt", hashed).Text(); strings.Contains(text, "first-salt") {
		t.Error("the salt is told: " + text)
	}
}
