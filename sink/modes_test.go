package sink_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// second has the commits of a source happen at 12:00:n of one day.
func (s *source) second(n int) {
	s.now = func() time.Time { return time.Date(2024, 5, 1, 12, 0, n, 0, time.UTC) }
}

// versions lists a history, its times as seconds behind 12:00:00; the beginning is 0.
const versions = `SELECT id, note, big,
	CASE WHEN isfinite(valid_from) THEN round(extract(epoch FROM valid_from - '2024-05-01 12:00:00+00'), 6)::float8 ELSE 0 END,
	CASE WHEN isfinite(valid_to) THEN round(extract(epoch FROM valid_to - '2024-05-01 12:00:00+00'), 6)::float8 END, deleted
	FROM %s ORDER BY id, valid_from`

const changes = `SELECT change_op, id, note, big, change_before, change_unchanged FROM %s ORDER BY change_lsn, change_seq`

// modes are what becomes of the same changes: what each makes of them is asked for twice, before and after a TRUNCATE, and
// once more after the table was read anew.
var modes = []struct {
	name, key, ask string
	want           [3]func(b int) []string // of the rows whose ids begin at b
}{
	{"clone", "id", `SELECT id, note, big FROM %s ORDER BY id`, [3]func(b int) []string{
		lines("1|a3|A", "3|c2|C2", "5|e|D"),
		lines("9|n|N"),
		lines("10|x|X"),
	}},
	{"append", "id", `SELECT id, note, big FROM %s ORDER BY id`, [3]func(b int) []string{
		lines("1|a3|A", "2|b2|B2", "3|c2|C2", "5|e|D"),
		lines("1|a3|A", "2|b2|B2", "3|c2|C2", "5|e|D", "9|n|N"),
		lines("1|a3|A", "2|b2|B2", "3|c2|C2", "5|e|D", "9|n|N", "10|x|X"),
	}},
	{"history", "id, valid_from", versions, [3]func(b int) []string{
		lines("1|a|A|0|2|f", "1|a2|A|2|6|f", "1|a3|A|6|∅|f", "2|b|B|0|2|f", "2|b2|B2|2|7|t", "3|c|C|0|3|t", "3|c2|C2|4|∅|f", "4|d|D|1|5|f", "5|e|D|5|∅|f"),
		lines("1|a|A|0|2|f", "1|a2|A|2|6|f", "1|a3|A|6|8|t", "2|b|B|0|2|f", "2|b2|B2|2|7|t", "3|c|C|0|3|t", "3|c2|C2|4|8|t", "4|d|D|1|5|f", "5|e|D|5|8|t", "9|n|N|9|∅|f"),
		lines("1|a|A|0|2|f", "1|a2|A|2|6|f", "1|a3|A|6|8|t", "2|b|B|0|2|f", "2|b2|B2|2|7|t", "3|c|C|0|3|t", "3|c2|C2|4|8|t", "4|d|D|1|5|f", "5|e|D|5|8|t", "9|n|N|9|10|t", "10|x|X|0|∅|f"),
	}},
	{"log", "change_era, change_lsn, change_seq", changes, [3]func(b int) []string{
		lines("c #4|d|D|∅|∅", "r #1|a|A|∅|∅", "r #2|b|B|∅|∅", "r #3|c|C|∅|∅", "u #1|a2|∅|∅|{big}", "u #2|b2|B2|∅|∅", `d #3|∅|∅|{"id": "#3"}|∅`, "c #3|c2|C2|∅|∅",
			`d #4|∅|∅|{"id": "#4"}|∅`, "c #5|e|∅|∅|{big}", "r #2|b2|B2|∅|∅", "r #1|a3|A|∅|∅", `d #2|∅|∅|{"id": "#2"}|∅`),
		lines("t", "c #9|n|N|∅|∅"),
		lines("s", "r #10|x|X|∅|∅"),
	}},
}

func lines(list ...string) func(b int) []string {
	return func(b int) []string {
		var out []string
		for _, line := range list {
			id, rest, ok := strings.Cut(line, "|")
			switch {
			case line == "t" || line == "s":
				line += "|∅|∅|∅|∅|∅"
			case strings.Contains(line, "#"):
				line = strings.Replace(line, " #", "|#", 1)
				parts := strings.Split(line, "#")
				for i := 1; i < len(parts); i++ {
					digits := len(parts[i]) - len(strings.TrimLeft(parts[i], "0123456789"))
					var n int
					_, _ = fmt.Sscan(parts[i][:digits], &n)
					parts[i] = fmt.Sprint(b+n) + parts[i][digits:]
				}
				line = strings.Join(parts, "")
			case ok:
				var n int
				_, _ = fmt.Sscan(id, &n)
				line = fmt.Sprint(b+n) + "|" + rest
			}
			out = append(out, line)
		}
		return out
	}
}

// targets are kinds of tables that users bring. {t} is the table, {mode} the columns that its mode adds, {key} its key.
var targets = map[string]string{
	"created": ``,
	"bare":    `CREATE TABLE {t} (id integer, note text, big text{mode})`,
	"order":   `CREATE TABLE {t} (big text, id bigint, note varchar(50){mode}, PRIMARY KEY ({key}))`,
	"indexed": `CREATE TABLE {t} (id integer, note text, big text{mode}); CREATE INDEX ON {t} (id)`,
	"extra":   `CREATE TABLE {t} (id integer, note text, big text{mode}, mine text NOT NULL DEFAULT 'mine', n bigserial, PRIMARY KEY ({key}))`,
	"parted": `CREATE TABLE {t} (id integer, note text, big text{mode}) PARTITION BY HASH (id);
		CREATE TABLE {t}_0 PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE {t}_1 PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 1)`,
	"generated": `CREATE TABLE {t} (twice bigint GENERATED ALWAYS AS (id * 2) STORED, id integer, note text, big text{mode}, PRIMARY KEY ({key}))`,
	"triggered": `CREATE TABLE {t} (id integer, note text, big text{mode}, by_trigger text, PRIMARY KEY ({key}));
		CREATE TRIGGER before BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION public.stamp();
		CREATE TRIGGER after AFTER INSERT OR UPDATE OR DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION public.audit()`,
}

// TestModes runs every kind of change through every mode, into every kind of target: as few rows, and as so many that they
// come by COPY.
func TestModes(t *testing.T) {
	t.Parallel() // it waits most of its time
	every := []string{"created", "bare", "order", "indexed", "extra", "parted", "generated", "triggered"}
	t.Run("few", func(t *testing.T) { testModes(t, 1, every, false) })
	t.Run("many", func(t *testing.T) { testModes(t, 210, []string{"created", "bare"}, false) })
	t.Run("whole", func(t *testing.T) { testModes(t, 2, []string{"created", "indexed"}, true) })
}

func testModes(t *testing.T, n int, kinds []string, whole bool) {
	var rules []rule.Table
	for _, m := range modes {
		rules = append(rules, rule.Table{From: "public." + m.name + "_*", To: "{schema}.{table}", Mode: m.name})
	}
	w := newWorld(t, rules...)
	if whole {
		w.cfg.Sources = []rule.Source{{Name: "*", Consistency: "source"}}
	}
	w.exec(`CREATE TABLE public.audited (op text);
		CREATE FUNCTION public.stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.by_trigger := 'stamped'; RETURN new; END $$;
		CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.audited VALUES (tg_op); RETURN NULL; END $$`)
	shop := w.source("shop")
	var rels []*schema.Relation
	for _, m := range modes {
		added := map[string]string{
			"history": ", valid_from timestamptz, valid_to timestamptz, deleted boolean",
			"log":     ", change_op text, change_era integer, change_lsn pg_lsn, change_seq bigint, change_time timestamptz, change_before jsonb, change_unchanged text[]",
		}[m.name]
		for _, kind := range kinds {
			name := m.name + "_" + kind
			w.exec(strings.NewReplacer("{t}", "public."+name, "{mode}", added, "{key}", m.key).Replace(targets[kind]))
			rels = append(rels, relation(name, "id integer key", "note text", "big text"))
		}
	}
	// tx commits the same for all tables and rows, one source transaction a step.
	tx := func(second int, events func(r *schema.Relation, b int) []event) {
		t.Helper()
		shop.second(second)
		var all []event
		for _, r := range rels {
			for i := range n {
				all = append(all, events(r, 100*i)...)
			}
		}
		shop.tx(all...)
	}
	one := func(e func(r *schema.Relation, b int) event) func(*schema.Relation, int) []event {
		return func(r *schema.Relation, b int) []event { return []event{e(r, b)} }
	}
	check := func(stage int) {
		t.Helper()
		w.complete(shop)
		for _, m := range modes {
			for _, kind := range kinds {
				var want []string
				for s := range 3 {
					if s != stage && m.name != "log" || s > stage {
						continue
					}
					for i := range n {
						want = append(want, m.want[s](100*i)...)
					}
				}
				got := w.query(fmt.Sprintf(m.ask, "public."+m.name+"_"+kind))
				if m.name == "log" && n > 1 {
					got, want = sorted(got), sorted(want)
					want = slices.CompactFunc(want, func(a, b string) bool { return a == b && (a[0] == 't' || a[0] == 's') })
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s into %s, stage %d:\ngot  %s\nwant %s", m.name, kind, stage, strings.Join(got, "  "), strings.Join(want, "  "))
				}
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	tx(1, one(func(r *schema.Relation, b int) event { return ins(r, b+4, "d", "D") }))
	tx(1, func(r *schema.Relation, b int) []event {
		return []event{snap(r, b+1, "a", "A"), snap(r, b+2, "b", "B"), snap(r, b+3, "c", "C")}
	})
	w.start(w.cfg)
	tx(2, func(r *schema.Relation, b int) []event {
		return []event{upd(r, b+1, "a2", keep), upd(r, b+2, "b2", "B2")}
	})
	tx(3, one(func(r *schema.Relation, b int) event { return del(r, b+3) }))
	again := one(func(r *schema.Relation, b int) event { return ins(r, b+3, "c2", "C2") })
	tx(4, again)
	w.complete(shop)
	tx(5, func(r *schema.Relation, b int) []event { return move(r, []any{b + 4}, b+5, "e", keep) })
	w.complete(shop)
	tx(6, func(r *schema.Relation, b int) []event {
		return []event{snap(r, b+2, "b2", "B2"), snap(r, b+1, "a3", "A")}
	})
	if !whole {
		// Another session sends what was sent before.
		shop.quiet = true
		shop.lsn -= 0x300
		tx(4, again)
		shop.lsn += 0x200
		shop.quiet = false
	}
	tx(7, one(func(r *schema.Relation, b int) event { return del(r, b+2) }))
	check(0)
	shop.second(8)
	var truncates []event
	for _, r := range rels {
		truncates = append(truncates, trunc(r))
	}
	shop.tx(truncates...)
	tx(9, one(func(r *schema.Relation, b int) event { return ins(r, b+9, "n", "N") }))
	check(1)
	shop.second(10)
	shop.tables = nil
	for i, r := range rels {
		shop.tables = append(shop.tables, record.TableProgress{Schema: "public", Table: r.Name, Level: "all"})
		truncates[i].reload = true
	}
	shop.tx(truncates...)
	tx(11, one(func(r *schema.Relation, b int) event { return snap(r, b+10, "x", "X") }))
	for i := range shop.tables {
		shop.tables[i].Done = true
	}
	shop.tx()
	w.complete(shop)
	w.swept()
	check(2)
	// Another group makes the same of the same topics, though its batches end elsewhere.
	rebuilt := w.cfg
	rebuilt.Group, rebuilt.Tables = "rebuilt", slices.Clone(w.cfg.Tables)
	for i := range rebuilt.Tables {
		rebuilt.Tables[i].To = "again.{table}"
	}
	w.start(rebuilt)
	for _, m := range modes {
		w.rows(fmt.Sprintf(m.ask, "again."+m.name+"_created"), w.query(fmt.Sprintf(m.ask, "public."+m.name+"_created"))...)
	}
	for _, m := range modes {
		if slices.Contains(kinds, "extra") {
			w.rows(fmt.Sprintf(`SELECT DISTINCT mine FROM public.%s_extra`, m.name), "mine")
			w.rows(fmt.Sprintf(`SELECT bool_and(twice = id * 2) FROM public.%s_generated`, m.name), "t")
			w.rows(fmt.Sprintf(`SELECT DISTINCT by_trigger FROM public.%s_triggered`, m.name), "stamped")
		}
	}
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}
