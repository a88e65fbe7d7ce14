package sink_test

import (
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// TestConstantOfAColumnThatWasThere: a rule comes to give a column that the target has already the same value in all rows. Those that are there are told of;
// of a target that several sources write, they get it, as whoever comes first has added the column for its own rows alone.
func TestConstantOfAColumnThatWasThere(t *testing.T) {
	for name, c := range map[string]struct {
		sid, before, want string
		rows              []string
	}{
		"made by hand":                 {"", `ALTER TABLE public.t ADD COLUMN region text`, `column "region" was there before the rule gave it its value`, []string{"shop|∅", "shop|eu"}},
		"made by hand, and filled":     {"", `ALTER TABLE public.t ADD COLUMN region text; UPDATE public.t SET region = 'eu'`, "", []string{"shop|eu", "shop|eu"}},
		"not there":                    {"", "", "", []string{"shop|eu", "shop|eu"}},
		"not there, of two sources":    {"tenant", "", "", []string{"other|eu", "other|eu", "shop|eu", "shop|eu"}},
		"made by hand, of two sources": {"tenant", `ALTER TABLE public.t ADD COLUMN region text`, "", []string{"other|eu", "other|eu", "shop|eu", "shop|eu"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.t", SID: c.sid})
			r := relation("t", "id integer key", "v text")
			sources := []*source{w.source("shop")}
			if c.sid != "" {
				sources = append(sources, w.source("other"))
			}
			tx := func(id int) {
				for _, s := range sources {
					s.tx(ins(r, id, "x"))
				}
				for _, s := range sources {
					w.complete(s)
				}
			}
			s := w.start(w.cfg)
			tx(1)
			s.stop()
			if c.before != "" {
				w.exec(c.before)
			}
			w.cfg.Tables[0].Set = []rule.Computed{{Column: "region", Value: "'eu'"}}
			s = w.start(w.cfg)
			tx(2)
			select1 := `SELECT 'shop', region FROM public.t ORDER BY id`
			if c.sid != "" {
				select1 = `SELECT tenant, region FROM public.t ORDER BY tenant, id`
			}
			w.rows(select1, c.rows...)
			w.eventually(true, func() any {
				got := outdated(s.Status(), trouble.RowsOutdated)
				if c.want == "" && got == "" || c.want != "" && strings.Contains(got, c.want) {
					return true
				}
				return got
			})
			s.stop()
			s = w.start(w.cfg) // what was told is told still, and nothing else
			tx(3)
			w.rows(`SELECT count(*) FROM tributary.rule, jsonb_array_elements(former) f WHERE f ? 'lost'`, map[bool]string{true: "0", false: "1"}[c.want == ""])
		})
	}
}

// TestColumnAndRuleRenamed: a column that is renamed at the source, and in the rule with it, is the same; one that is another is told of.
func TestColumnAndRuleRenamed(t *testing.T) {
	for name, c := range map[string]struct {
		was, is []rule.Column
		want    string
	}{
		"kept under its name": {[]rule.Column{{From: "id"}, {From: "name"}}, []rule.Column{{From: "id"}, {From: "full_name", As: "name"}}, ""},
		"follows":             {[]rule.Column{{From: "id"}, {From: "name"}}, []rule.Column{{From: "id"}, {From: "full_name"}}, ""},
		"masked":              {[]rule.Column{{From: "id"}, {From: "name", Mask: "redact"}}, []rule.Column{{From: "id"}, {From: "full_name", As: "name", Mask: "redact"}}, ""},
		"masked from now on":  {[]rule.Column{{From: "id"}, {From: "name"}}, []rule.Column{{From: "id"}, {From: "full_name", As: "name", Mask: "redact"}}, "column name was filled otherwise"},
		"another":             {[]rule.Column{{From: "id"}, {From: "name"}}, []rule.Column{{From: "id"}, {From: "other", As: "name"}}, "column name was filled otherwise"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.t", Columns: c.was})
			shop := w.source("shop")
			older, newer := relation("t", "id integer key", "name text", "other text"), relation("t", "id integer key", "full_name text", "other text")
			shop.table(older, 2)
			s := w.start(w.cfg)
			shop.tx(ins(older, 1, "Ann", "o"), ins(older, 2, "Ben", "o"), ins(older, 3, "Cid", "o"))
			w.complete(shop)
			shop.tx(ins(newer, 4, "Dan", "o"), ins(newer, 5, "Eva", "o"), ins(newer, 6, "Fay", "o"))
			w.rows(`SELECT DISTINCT code FROM tributary.quarantine`, "rule-conflict")
			s.stop()
			w.exec(`DELETE FROM tributary.quarantine`)
			w.cfg.Tables[0].Columns = c.is
			s = w.start(w.cfg)
			w.complete(shop)
			w.eventually(true, func() any {
				got := outdated(s.Status(), trouble.RowsOutdated)
				if c.want == "" && got == "" || c.want != "" && strings.Contains(got, c.want) {
					return true
				}
				return got
			})
			w.rows(`SELECT count(*) FROM public.t`, "6")
		})
	}
}
