package sink_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// of is the world's configuration for another group, which reads other sources.
func (w *world) of(group string, sources ...rule.Source) sink.Config {
	cfg := w.cfg
	cfg.Group, cfg.Sources = group, sources
	cfg.Tables = slices.Clone(w.cfg.Tables)
	return cfg
}

// checked is what sink check says.
func checked(t *testing.T, cfg sink.Config) string {
	t.Helper()
	var b strings.Builder
	told := terminal.NewCheck("sink", &b)
	if err := sink.Check(t.Context(), cfg, told); (err == nil) != told.Found().Ready {
		t.Fatal(err)
	}
	return b.String()
}

const heldGroups = `SELECT grp, topic, code FROM tributary.quarantine ORDER BY 1, 2`

// TestGroupsOfOneTarget: a table that one group writes is held by another one, also while the first is stopped, until somebody says
// that it is not to write it any more; then the first is held.
func TestGroupsOfOneTarget(t *testing.T) {
	w := newWorld(t)
	a, b, r := w.source("a"), w.source("b"), relation("t", "id integer key", "note text")
	one, two := w.of("one", rule.Source{Name: "a"}), w.of("two", rule.Source{Name: "b"})
	a.tx(ins(r, 1, "a"))
	b.tx(ins(r, 1, "b"), ins(relation("own", "id integer key"), 1))
	first := w.start(one)
	w.complete(a)
	for _, running := range []bool{true, false} {
		if !running {
			first.stop()
		}
		if text := checked(t, two); !strings.Contains(text, `group "one" writes table "public.t", too, from topic "a.public.t", and none has a sid`) ||
			!strings.Contains(text, `DELETE FROM tributary.feed WHERE grp = 'one' AND topic = 'a.public.t' AND target_schema = 'public' AND target_table = 't' AND sid = '';`) || !strings.Contains(text, "1 failure") {
			t.Errorf("running: %v, check says\n%s", running, text)
		}
		second := w.start(two)
		w.rows(heldGroups, "two|b.public.t|rule-conflict")
		w.rows(`SELECT id FROM public.own`, "1")
		w.rows(`SELECT note FROM public.t`, "a")
		second.stop()
	}
	w.exec(`DELETE FROM tributary.feed WHERE grp = 'one' AND topic = 'a.public.t'; DELETE FROM tributary.quarantine`)
	w.start(two)
	w.complete(b)
	w.rows(`SELECT note FROM public.t`, "b")
	a.tx(upd(r, 1, "c"))
	w.start(one)
	w.rows(heldGroups, "one|a.public.t|rule-conflict")
	w.rows(`SELECT note FROM public.t`, "b")
}

// TestGroupsSideBySide: groups that never write the same row let each other be.
func TestGroupsSideBySide(t *testing.T) {
	a, b, both := rule.Source{Name: "a"}, rule.Source{Name: "b"}, rule.Source{Name: "*"}
	for name, c := range map[string]struct {
		one, two           rule.Source
		tableOne, tableTwo rule.Table
		query              string
		want               []string
	}{
		"sids":    {a, b, rule.Table{From: "public.t", SID: "sid"}, rule.Table{From: "public.t", SID: "sid"}, `SELECT sid, note FROM public.t ORDER BY 1`, []string{"a|a", "b|b"}},
		"targets": {a, b, rule.Table{From: "public.t", To: "x.{table}"}, rule.Table{From: "public.t", To: "y.{table}"}, `SELECT x.t.note, y.t.note FROM x.t, y.t`, []string{"a|b"}},
		"tables":  {a, a, rule.Table{From: "public.t"}, rule.Table{From: "public.u"}, `SELECT t.note, u.note FROM public.t, public.u`, []string{"a|u"}},
		"copy":    {both, both, rule.Table{From: "public.t", To: "old.t", SID: "sid"}, rule.Table{From: "public.t", To: "new.t", SID: "sid"}, `SELECT n.note FROM old.t o JOIN new.t n USING (sid, id) ORDER BY 1`, []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			sa, sb, r := w.source("a"), w.source("b"), relation("t", "id integer key", "note text")
			one, two := w.of("one", c.one), w.of("two", c.two)
			c.tableOne.Create, c.tableTwo.Create = true, true
			one.Tables, two.Tables = []rule.Table{c.tableOne}, []rule.Table{c.tableTwo}
			sa.tx(ins(r, 1, "a"), ins(relation("u", "id integer key", "note text"), 1, "u"))
			sb.tx(ins(r, 1, "b"))
			first := w.start(one)
			w.start(two)
			w.rows(c.query, c.want...)
			first.stop()
			w.start(one)
			sa.tx(upd(r, 1, "z"))
			w.complete(sa)
			w.rows(heldGroups)
			if text := checked(t, two); strings.Contains(text, "FAIL") {
				t.Error(text)
			}
		})
	}
}

// TestGroupsStartTogether: of two groups that find a target at the same moment, whatever isolation the database has by default, one
// writes it.
func TestGroupsStartTogether(t *testing.T) {
	for range 5 {
		w := newWorld(t)
		w.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''repeatable read''', current_database()); END $$`)
		a, b, r := w.source("a"), w.source("b"), relation("t", "id integer key", "note text")
		w.start(w.of("one", rule.Source{Name: "a"}))
		w.start(w.of("two", rule.Source{Name: "b"}))
		a.tx()
		b.tx()
		w.complete(a)
		w.complete(b)
		a.tx(ins(r, 1, "a"))
		b.tx(ins(r, 1, "b"))
		w.rows(`SELECT count(*), count(DISTINCT grp) FROM (SELECT grp FROM tributary.quarantine WHERE code = 'rule-conflict' UNION ALL SELECT grp FROM tributary.feed) x`, "2|2")
		w.rows(`SELECT note || '.public.t' = (SELECT topic FROM tributary.feed) FROM public.t`, "t")
	}
}

// TestGroupThatHadTheTarget: what an older version let two groups have goes on, unless both live.
func TestGroupThatHadTheTarget(t *testing.T) {
	w := newWorld(t)
	a, r := w.source("a"), relation("t", "id integer key", "note text")
	a.tx(ins(r, 1, "a"))
	one, two := w.of("one", rule.Source{Name: "a"}), w.of("two", rule.Source{Name: "a"})
	first := w.start(one)
	w.complete(a)
	w.rows(`SELECT count(*) FROM tributary.member WHERE grp = 'one'`, "1")
	w.exec(`INSERT INTO tributary.feed SELECT 'two', target_schema, target_table, sid, topic FROM tributary.feed`)
	w.start(two)
	w.rows(heldGroups, "two|a.public.t|rule-conflict")
	first.stop() // it says that it ends
	w.cfg = two
	if _, err := w.operator().Resume(t.Context(), warehouse.Going{Source: "a", Table: "public.t"}); err != nil {
		t.Fatal(err)
	}
	a.tx(upd(r, 1, "b"))
	w.rows(`SELECT note FROM public.t`, "b")
	w.rows(heldGroups)
}

// TestFeedOfTopicReadAgain: a topic that a person has taken the feed of, and then the checkpoint, does not write its old rows over those of the topic that
// was noted in its place, though the sink knows its target from before.
func TestFeedOfTopicReadAgain(t *testing.T) {
	w := newWorld(t)
	a, r := w.source("a"), relation("t", "id integer key", "note text")
	a.tx(ins(r, 1, "a"))
	w.start(w.cfg)
	w.complete(a)
	w.exec(`DELETE FROM tributary.feed WHERE topic = 'a.public.t'`)
	b := w.source("b")
	b.tx(ins(r, 1, "b"))
	w.complete(b)
	w.rows(`SELECT note FROM public.t`, "b")
	w.exec(`DELETE FROM tributary.checkpoint WHERE topic = 'a.public.t'`)
	w.rows(heldGroups, "warehouse|a.public.t|rule-conflict")
	w.rows(`SELECT note FROM public.t`, "b")
}
