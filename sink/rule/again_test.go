package rule

import (
	"reflect"
	"slices"
	"testing"
)

// TestKept: values of columns that are not written any more stay, whatever comes again.
func TestKept(t *testing.T) {
	all := Meaning{Target: "public.t", Mode: "clone", All: true}
	of := func(columns map[string]Written) Meaning {
		return Meaning{Target: "public.t", Mode: "clone", Columns: columns}
	}
	id, note := Written{From: "id"}, Written{From: "note"}
	computed := all
	computed.Columns = map[string]Written{"region": {Value: "lower(note)"}, "note": {From: "note", Mask: "redact"}}
	elsewhere := of(map[string]Written{"id": id})
	elsewhere.Target = "public.t2"
	for name, c := range map[string]struct {
		was, now Meaning
		want     Kept
	}{
		"the same":          {all, all, Kept{}},
		"all to some":       {all, of(map[string]Written{"id": id}), Kept{Others: true}},
		"one less":          {of(map[string]Written{"id": id, "note": note}), of(map[string]Written{"id": id}), Kept{Columns: []string{"note"}}},
		"one for another":   {of(map[string]Written{"id": id, "note": note}), of(map[string]Written{"id": id, "v": {From: "v"}}), Kept{Columns: []string{"note"}, More: true}},
		"one more":          {of(map[string]Written{"id": id}), of(map[string]Written{"id": id, "note": note}), Kept{More: true}},
		"computed to all":   {computed, all, Kept{More: true}}, // the source may have a column of that name
		"to another target": {all, elsewhere, Kept{More: true}},
	} {
		if got := c.was.Kept(c.now); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestEnough: which reads have everything come again that a rule wrote, with a target whose key is id.
func TestEnough(t *testing.T) {
	with := func(change func(m *Meaning)) Meaning {
		m := Meaning{Target: "public.t", Mode: "clone", SIDColumn: "tenant", SID: "a", Salt: "s", Columns: map[string]Written{"id": {From: "id", Mask: "hash"}, "v": {From: "v"}}}
		change(&m)
		return m
	}
	column := func(name string, is Written) func(m *Meaning) { return func(m *Meaning) { m.Columns[name] = is } }
	nothing, mail := func(*Meaning) {}, column("mail", Written{From: "mail"})
	ignores := func(ops ...string) func(m *Meaning) { return func(m *Meaning) { m.Ignore = ops } }
	computed := column("id", Written{Value: "tributary.sid + id"})
	for name, c := range map[string]struct {
		was, is                     Meaning
		some, all, reload, outlives bool // of what is written: a read of mail, of all, a reload; and whether something is there still behind all of the topic
	}{
		"filled otherwise":             {with(column("v", Written{From: "w"})), with(nothing), false, true, true, false},
		"a column more":                {with(nothing), with(mail), true, true, true, false},
		"a column less":                {with(mail), with(nothing), false, false, false, true},
		"another salt":                 {with(func(m *Meaning) { m.Salt = "other" }), with(nothing), false, false, true, false},
		"no mask":                      {with(nothing), with(column("id", Written{From: "id"})), false, false, true, false},
		"all, and the same key":        {with(func(m *Meaning) { m.All, m.Columns = true, nil }), with(func(m *Meaning) { m.Columns = map[string]Written{"id": {From: "id"}}; m.All = true }), false, true, true, false},
		"another sid":                  {with(func(m *Meaning) { m.SID = "b" }), with(nothing), false, false, false, true},
		"another sid, in the key":      {with(func(m *Meaning) { computed(m); m.SIDColumn, m.SID = "", "b" }), with(func(m *Meaning) { computed(m); m.SIDColumn = "" }), false, false, true, false},
		"another target":               {with(func(m *Meaning) { m.Target, m.Salt = "public.t2", "other" }), with(nothing), false, true, true, false},
		"a filter":                     {with(nothing), with(func(m *Meaning) { m.Filter = "id > 1" }), false, true, true, false},
		"a filter, and keeping":        {with(ignores("delete")), with(func(m *Meaning) { m.Filter = "id > 1"; m.Ignore = []string{"delete"} }), false, false, false, true},
		"filled otherwise, no deletes": {with(func(m *Meaning) { ignores("delete")(m); m.Columns["v"] = Written{From: "w"} }), with(ignores("delete")), false, false, false, false},
		"filled otherwise, no inserts": {with(func(m *Meaning) { ignores("insert")(m); m.Columns["v"] = Written{From: "w"} }), with(ignores("insert")), false, false, false, false},
		"filled otherwise, no updates": {with(func(m *Meaning) { ignores("update")(m); m.Columns["v"] = Written{From: "w"} }), with(ignores("update")), false, true, true, false},
		"another salt, no updates":     {with(func(m *Meaning) { ignores("update")(m); m.Salt = "other" }), with(ignores("update")), false, false, true, true},
	} {
		key := []string{"id", "tenant"}
		enough := func(swept bool, columns ...string) bool {
			return Residue{c.was.Text(), c.is.Text(), key, swept}.Enough(columns)
		}
		got := []bool{enough(false, "mail"), enough(false), enough(true), c.was.Outlives(c.is, key)}
		if want := []bool{c.some, c.all, c.reload, c.outlives}; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
