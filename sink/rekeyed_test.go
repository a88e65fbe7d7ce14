package sink_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// commandsFor gives what a table is told to do about rows that are not as its rule says.
func (r *running) commandsFor(subject string) (commands []string) {
	for _, n := range r.Status().Needs {
		for _, step := range n.Do {
			if n.Code == trouble.RowsOutdated && n.Subject == subject && step.Command != "" {
				commands = append(commands, step.Command)
			}
		}
	}
	return commands
}

// readsAll publishes rows of tables that are read, and that all of them are out. It waits until what has come again is forgotten, by the last of them, whose
// rule has changed, too.
func (s *source) readsAll(tables []*schema.Relation, rows ...event) {
	s.w.t.Helper()
	for _, rel := range tables {
		s.begins(rel)
	}
	s.tx(rows...)
	for _, rel := range tables {
		s.snapshot(rel, true)
	}
	s.tx(ins(relation("other", "id integer key"), int(s.lsn)))
	s.w.complete(s)
	s.w.rows(`SELECT former FROM tributary.rule WHERE topic = '`+s.name+`.public.`+tables[len(tables)-1].Name+`'`, "[]")
}

// TestRowsUnderFormerKeys: a rule has come to give rows other keys. No read overwrites those of before: they are told of until a reload that began behind the
// change has removed them, and nobody else's.
func TestRowsUnderFormerKeys(t *testing.T) {
	t.Parallel() // it waits most of its time
	hashed := []rule.Column{{From: "id", Mask: "hash"}, {From: "v"}}
	computed := func(value string) rule.Table {
		return rule.Table{Columns: []rule.Column{{From: "v"}}, Set: []rule.Computed{{Column: "uid", Value: value, Key: true}}}
	}
	for name, c := range map[string]struct {
		was, is rule.Table
		salt    config.Secret // the new one
	}{
		"another salt":       {rule.Table{Columns: hashed}, rule.Table{Columns: hashed}, "other"},
		"another expression": {computed("'a' + id"), computed("'b' + id"), "salt"},
		"another column": {rule.Table{Columns: []rule.Column{{From: "id"}, {From: "v"}}}, rule.Table{
			Columns: []rule.Column{{From: "id"}, {From: "v"}}, Set: []rule.Computed{{Column: "uid", Value: "'b' + id", Key: true}},
		}, "salt"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []*rule.Table{&c.was, &c.is} {
				r.From, r.SID, r.Create = "public.t", "tenant", true
			}
			w := newWorld(t, c.was, rule.Table{From: "public.other"})
			w.cfg.Salt = "salt"
			shop, foreign, r, o := w.source("shop"), w.source("zoo"), relation("t", "id text key", "v text"), relation("other", "id integer key")
			s := w.start(w.cfg)
			foreign.tx(ins(r, 1, "x"))
			shop.tx(ins(r, 1, "x"), ins(r, 2, "x"), ins(r, 3, "x"), ins(o, 1))
			w.complete(shop)
			w.complete(foreign)
			s.stop()
			w.cfg.Salt, w.cfg.Tables = c.salt, []rule.Table{c.is, {From: "public.other", Create: true, Filter: "id > 0"}}
			if name == "another column" {
				w.exec(`ALTER TABLE public.t DROP CONSTRAINT t_pkey, ADD COLUMN uid text, ADD UNIQUE (tenant, id, uid)`)
			}
			s = w.start(w.cfg)
			want := []string{"capture snapshot --reload --wait --table public.t", "sink rules accept shop/public.t"}
			told := func() any { return s.commandsFor("shop/public.t") }
			w.eventually(want, told)
			shop.readsAll([]*schema.Relation{r, o}, snap(r, 1, "y"), snap(r, 2, "y"), snap(o, 1))
			w.rows(`SELECT v, count(*) FROM public.t WHERE tenant = 'shop' GROUP BY 1 ORDER BY 1`, "x|3", "y|2")
			w.rows(`SELECT jsonb_array_length(former) FROM tributary.rule WHERE topic = 'shop.public.t'`, "1")
			w.eventually(want, told)

			shop.readAnew(r)
			w.rows(`SELECT count(*) FROM tributary.reload`, "1")
			shop.readsAll([]*schema.Relation{r}, snap(r, 1, "z"), snap(r, 2, "z"))
			w.swept()
			w.rows(`SELECT tenant, v, count(*) FROM public.t GROUP BY 1, 2 ORDER BY 1, 2`, "shop|z|2", "zoo|x|1")
			w.eventually(0, func() any { return len(s.commandsFor("shop/public.t")) })
		})
	}
}

// TestRuleChangesInAReload: a reload that began before the rule gave rows other keys has noted keys of before: their rows stay behind it, and are told of.
func TestRuleChangesInAReload(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t, rule.Table{From: "public.t", Columns: []rule.Column{{From: "id", Mask: "hash"}, {From: "v"}}}, rule.Table{From: "public.other"})
	w.cfg.Salt = "salt"
	shop, r := w.source("shop"), relation("t", "id text key", "v text")
	s := w.start(w.cfg)
	shop.tx(ins(r, 1, "x"), ins(r, 2, "x"))
	shop.readAnew(r)
	shop.tx(snap(r, 1, "y"))
	w.complete(shop)
	s.stop()
	w.cfg.Salt = "other"
	s = w.start(w.cfg)
	shop.begins(r)
	shop.tx(snap(r, 1, "y"), snap(r, 2, "y"))
	shop.snapshot(r, true)
	shop.tx(ins(relation("other", "id integer key"), 1000))
	w.complete(shop)
	w.swept()
	w.rows(`SELECT count(*) FROM public.t`, "3")
	w.rows(`SELECT jsonb_array_length(former) FROM tributary.rule WHERE topic = 'shop.public.t'`, "1")
	shop.readAnew(r)
	w.rows(`SELECT count(*) FROM tributary.reload`, "1")
	shop.readsAll([]*schema.Relation{r}, snap(r, 1, "z"), snap(r, 2, "z"))
	w.swept()
	w.rows(`SELECT count(*) FROM public.t`, "2")
	w.eventually(0, func() any { return len(s.commandsFor("shop/public.t")) })
}

// TestRowsWithAFormerSID: rows with the sid that a source had before stay beside those that come again. They are told of, with what removes them, until
// somebody says that it is done.
func TestRowsWithAFormerSID(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", SID: "tenant"}, rule.Table{From: "public.other"})
	w.cfg.Sources = []rule.Source{{Name: "shop", SID: "old"}}
	shop, r, o := w.source("shop"), relation("t", "id integer key", "v text"), relation("other", "id integer key")
	s := w.start(w.cfg)
	shop.tx(ins(r, 1, "x"), ins(o, 1))
	w.complete(shop)
	s.stop()
	w.cfg.Sources[0].SID, w.cfg.Tables[1].Filter = "new", "id > 0"
	s = w.start(w.cfg)
	shop.readsAll([]*schema.Relation{r, o}, snap(r, 1, "x"), snap(o, 1))
	w.rows(`SELECT jsonb_array_length(former) FROM tributary.rule WHERE topic = 'shop.public.t'`, "1")
	remove := `DELETE FROM "public"."t" WHERE "tenant" = 'old';`
	w.eventually(true, func() any { return slices.Contains(s.commandsFor("shop/public.t"), remove) })
	w.exec(remove)
	w.rows(`SELECT tenant, id FROM public.t`, "new|1")
	w.accept("shop", "public.t")
	w.eventually(0, func() any { return len(s.commandsFor("shop/public.t")) })
}

// accept does as sink rules accept.
func (w *world) accept(source, table string) {
	w.t.Helper()
	operator := w.operator()
	_, topics, err := operator.Outdated(w.t.Context(), source, table)
	if err == nil {
		err = operator.AcceptRules(w.t.Context(), topics, source+"/"+table, "done")
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestRebuildLeaves: what a rebuild out of Kafka leaves there is told of behind it, also of the rule by which the last rows were written.
func TestRebuildLeaves(t *testing.T) {
	t.Parallel() // it waits most of its time
	columns := func(names ...string) (out []rule.Column) {
		for _, name := range names {
			out = append(out, rule.Column{From: name})
		}
		return out
	}
	hashed := []rule.Column{{From: "id", Mask: "hash"}, {From: "v"}}
	for name, c := range map[string]struct {
		was, is rule.Table
		salt    config.Secret
		left    bool   // it is told of until somebody says that it is done
		do      string // the statement that mends it
		note    bool   // which is none of the commands, as it has a condition
	}{
		"values of a column":    {rule.Table{Columns: columns("id", "v")}, rule.Table{Columns: columns("id")}, "salt", true, `UPDATE "public"."t" SET "v" = NULL;`, false},
		"keys where none go":    {rule.Table{Columns: hashed, Mode: "append"}, rule.Table{Columns: hashed, Mode: "append"}, "other", true, `DELETE FROM "public"."t";`, true},
		"keys, and no inserts":  {rule.Table{Columns: hashed}, rule.Table{Columns: hashed, Ignore: []string{"insert"}}, "other", true, "", false},
		"a filter, and keeping": {rule.Table{Mode: "append"}, rule.Table{Mode: "append", Filter: "id != '1'"}, "salt", true, "", false},
		"keys":                  {rule.Table{Columns: hashed}, rule.Table{Columns: hashed}, "other", false, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			c.was.From, c.is.From, c.is.Create = "public.t", "public.t", true
			w := newWorld(t, c.was)
			w.cfg.Salt = "salt"
			shop, r := w.source("shop"), relation("t", "id text key", "v text")
			s := w.start(w.cfg)
			shop.snapshot(r, true)
			shop.tx(ins(r, 1, "x"), ins(r, 2, "x"))
			w.complete(shop)
			s.stop()
			w.cfg.Salt, w.cfg.Tables = c.salt, []rule.Table{c.is}
			rebuild := func() {
				t.Helper()
				operator := w.operator()
				if err := operator.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(operator, "shop"), "", untold); err != nil {
					t.Fatal(err)
				}
			}
			rebuild() // while the rule of before is the one by which it is written
			s = w.start(w.cfg)
			w.complete(shop)
			w.swept()
			told := func() any {
				commands := s.commandsFor("shop/public.t")
				if len(commands) > 0 && c.note && commands[0] != "sink tenant rebuild shop" {
					t.Errorf("told first: %q", commands)
				}
				all := fmt.Sprint(s.Status().Needs)
				if c.do != "" && strings.Contains(all, c.do) && slices.Contains(commands, c.do) == c.note || !c.note && strings.Contains(all, "DELETE FROM") {
					t.Errorf("told: %s", all)
				}
				return len(commands) > 0 && strings.Contains(all, c.do)
			}
			w.eventually(c.left, told)
			if c.left {
				w.exec(c.do)
				rebuild()
				w.complete(shop)
				w.eventually(true, told)
				w.accept("shop", "public.t")
			}
			w.eventually(0, func() any { return len(s.commandsFor("shop/public.t")) })
		})
	}
}
