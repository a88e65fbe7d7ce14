package sink_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
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

// TestConstantWhileOthersRunOn: sinks are started anew one after the other, with a rule that gives a column the same value in all rows. Those that one has
// written by the rule before, after the others were given the value, get it when its partitions are taken over.
func TestConstantWhileOthersRunOn(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", SID: "tenant"})
	r := relation("t", "id integer key", "v text")
	shop, other := w.source("shop"), w.source("other")
	shop.table(r, 8) // of which each of two sinks has some
	id := 0
	tx := func() {
		t.Helper()
		shop.tx(many(40, func(i int) event { return ins(r, id+i, "x") })...)
		id += 40
		w.complete(shop)
	}
	other.tx(ins(r, 1, "x"))
	old := w.start(w.cfg)
	tx()
	w.complete(other)
	next := w.cfg
	next.Tables = slices.Clone(next.Tables)
	next.Tables[0].Set = []rule.Computed{{Column: "region", Value: "'eu'"}}
	w.start(next)
	w.rows(`SELECT count(DISTINCT rule) FROM tributary.rule WHERE topic = 'shop.public.t'`, "2")
	tx() // somewhere in between the others get it
	tx()
	lack := `SELECT count(*) > 0 FROM public.t WHERE tenant = 'shop' AND region IS NULL`
	w.rows(lack, "t")
	old.stop()
	w.rows(`SELECT count(DISTINCT rule) FROM tributary.rule WHERE topic = 'shop.public.t'`, "1")
	tx()
	w.rows(lack, "f")
}

// TestConstantIsLookedAtAgain: rows that another sink has written without a column's value get it also where the target is just being looked at, by who
// knows nothing of them, when their partition is taken over.
func TestConstantIsLookedAtAgain(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", SID: "tenant"})
	w.cfg.Warehouse.Connections = 1 // both partitions are written by one worker, which knows the target already
	r := relation("t", "id integer key", "v text")
	shop, other := w.source("shop"), w.source("other")
	shop.table(r, 2)
	other.tx(ins(r, 1, "x"))
	id := 0
	tx := func() {
		t.Helper()
		shop.tx(many(10, func(i int) event { return ins(r, id+i, "x") })...)
		id += 10
	}
	tx()
	s := w.start(w.cfg)
	w.complete(shop)
	w.complete(other)
	before := w.query(`SELECT rule FROM tributary.rule WHERE topic = 'shop.public.t' AND partition = 1`)[0]
	s.stop()
	w.cfg.Tables[0].Set = []rule.Computed{{Column: "region", Value: "'eu'"}}
	w.start(w.cfg)
	tx()
	w.complete(shop)
	const constants = `SELECT shape->'constants' FROM tributary.feed WHERE topic = 'shop.public.t'`
	w.rows(constants, `["region"]`)
	// As a sink leaves it that has written some rows by the rule before.
	w.exec(`UPDATE tributary.rule SET rule = '` + before + `', rows = 0 WHERE topic = 'shop.public.t' AND partition = 1; UPDATE public.t SET region = NULL WHERE tenant = 'shop' AND id < 3`)
	release := w.lock(`SELECT FROM tributary.feed WHERE topic = 'shop.public.t' FOR UPDATE`)
	w.exec(`UPDATE tributary.checkpoint SET owner_epoch = owner_epoch + 1, owner = NULL WHERE topic = 'shop.public.t' AND partition = 1`)
	w.waiting("tributary.feed", 1)
	w.exec(`CREATE UNIQUE INDEX ON public.t (tenant, id)`)
	tx()
	w.waiting("tributary.feed", 2)
	release()
	w.complete(shop)
	tx()
	w.complete(shop)
	w.rows(`SELECT id FROM public.t WHERE tenant = 'shop' AND region IS NULL`)
	w.rows(constants, `["region"]`)
}

// TestTargetsAreReadOutOfTheLock: while a target is read to know whether its rows have the value of a column, nobody else of its schema waits.
func TestTargetsAreReadOutOfTheLock(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t"})
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	s := w.start(w.cfg)
	shop.tx(ins(r, 1, "x"))
	w.complete(shop)
	s.stop()
	w.exec(`ALTER TABLE public.t ADD COLUMN region text; UPDATE public.t SET region = 'eu'`)
	gate := w.connect(w.dsn)
	if _, err := gate.Exec(t.Context(), `BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	w.cfg.Tables[0].Set = []rule.Computed{{Column: "region", Value: "'eu'"}}
	w.start(w.cfg)
	shop.tx(ins(r, 2, "x"))
	const reads = ` FROM pg_stat_activity a WHERE a.datname = current_database() AND a.wait_event_type = 'Lock' AND a.query LIKE 'SELECT EXISTS (SELECT FROM "public"."t"%'`
	w.rows(`SELECT count(*)`+reads, "1")
	if got := w.query(`SELECT count(*) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.pid IN (SELECT a.pid` + reads + `)`); got[0] != "0" {
		t.Error("others wait for it")
	}
	if _, err := gate.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT DISTINCT region FROM public.t`, "eu")
}

// TestTargetsAreReadOutOfTheLockForAnAddedColumn: so it is where the source adds a column that the target has already; rows that lack its default get it.
func TestTargetsAreReadOutOfTheLockForAnAddedColumn(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t"})
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	w.start(w.cfg)
	shop.tx(ins(r, 1, "x"))
	w.complete(shop)
	w.exec(`ALTER TABLE public.t ADD COLUMN rate text DEFAULT '7'`)
	release := w.lock(`LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE`)
	newer := with(r, "rate", 3, "7")
	shop.tx(ins(newer, 2, "x", 8))
	const reads = ` FROM pg_stat_activity a WHERE a.datname = current_database() AND a.wait_event_type = 'Lock' AND a.query LIKE 'SELECT EXISTS (SELECT FROM "public"."t"%'`
	w.rows(`SELECT count(*)`+reads, "1")
	if got := w.query(`SELECT count(*) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.pid IN (SELECT a.pid` + reads + `)`); got[0] != "0" {
		t.Error("others wait for it")
	}
	release()
	w.complete(shop)
	w.rows(`SELECT id, rate FROM public.t ORDER BY 1`, "1|7", "2|8")
	w.exec(`ALTER TABLE public.t ADD COLUMN tax text`)
	shop.tx(ins(with(newer, "tax", 4, "3"), 3, "x", 9, 19))
	w.complete(shop)
	w.rows(`SELECT id, tax FROM public.t ORDER BY 1`, "1|3", "2|3", "3|19")
}

// TestColumnAndRuleRenamed: a column that is renamed at the source, and in the rule with it, is the same; one that is another is told of.
func TestColumnAndRuleRenamed(t *testing.T) {
	t.Parallel() // it waits most of its time
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
			if c.want != "" {
				w.eventually(true, func() any { return s.warned() })
			} else if s.warned() {
				t.Error("the log tells of rows that are as the rule says")
			}
		})
	}
}

// TestColumnsThatChangeNames: two columns change their names with each other, and the rule follows: rows are as they were.
func TestColumnsThatChangeNames(t *testing.T) {
	as := func(x, y string) []rule.Column {
		return []rule.Column{{From: "id"}, {From: x, As: "x"}, {From: y, As: "y"}}
	}
	for name, c := range map[string]struct {
		is   []rule.Column
		told string
	}{
		"follows":            {as("b", "a"), "0"},
		"is as it was":       {as("a", "b"), "0"},
		"has another column": {append(as("b", "a"), rule.Column{From: "c"}), "1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.t", Columns: as("a", "b")})
			shop := w.source("shop")
			older, newer := relation("t", "id integer key", "a text", "b text", "c text"), relation("t", "id integer key", "b text", "a text", "c text")
			s := w.start(w.cfg)
			shop.tx(ins(older, 1, "first", "second", "third"))
			w.complete(shop)
			s.stop()
			w.cfg.Tables[0].Columns = c.is
			shop.tx(ins(newer, 2, "first", "second", "third"))
			w.start(w.cfg)
			w.complete(shop)
			w.rows(`SELECT count(DISTINCT (x, y)) FROM public.t`, "1")
			w.rows(`SELECT count(*) FROM tributary.rule, jsonb_array_elements(former)`, c.told)
		})
	}
}

// TestChangedRuleIsToldBehindTheClaim: the log does not tell of rows of another rule while Kafka is still asked for what was applied of them.
func TestChangedRuleIsToldBehindTheClaim(t *testing.T) {
	t.Parallel() // it waits most of its time
	cluster := kafkatest.Fake(t)
	w := newWorldOn(t, cluster, rule.Table{From: "public.t", Columns: []rule.Column{{From: "id"}, {From: "name"}}})
	shop := w.source("shop")
	s := w.start(w.cfg)
	shop.tx(ins(relation("t", "id integer key", "name text"), 1, "Ann"))
	w.complete(shop)
	s.stop()
	cluster.Kfake().ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.Kfake().SleepControl(func() { <-time.After(3 * time.Second) }) // some looks, and less than a sink waits for it
		return nil, nil, false
	})
	shop.tx(ins(relation("t", "id integer key", "full_name text"), 2, "Ben"))
	w.cfg.Tables[0].Columns[1].From = "full_name"
	s = w.start(w.cfg)
	w.complete(shop)
	w.eventually("", func() any { return outdated(s.Status(), trouble.RowsOutdated) })
	if s.warned() {
		t.Error("the log tells of rows that are as the rule says")
	}
}

// warned says whether the log has told of rows that are not as their rule says.
func (r *running) warned() bool {
	return slices.ContainsFunc(r.Status().Events, func(e service.Event) bool { return strings.Contains(e.Text, "the rule has changed") })
}

// TestTargetReplaced: somebody puts another table in the place of a target. Each source whose rows are not in it is told of, also one that has not
// changed since, once; a table into which the rows were copied, and a copy of the warehouse, say nothing.
func TestTargetReplaced(t *testing.T) {
	t.Parallel() // it waits most of its time
	const (
		swap = `BEGIN; ALTER TABLE public.t RENAME TO t_before; CREATE TABLE public.t (LIKE public.t_before INCLUDING ALL);`
		was  = `|table "public.t" was replaced by another one: it has what was written since`
		gone = `|table "public.t" was gone, and was made anew: it has what was written since`
	)
	for name, c := range map[string]struct {
		without bool // a sid, and with one source
		change  string
		want    []string
	}{
		"empty":                        {false, swap + `COMMIT`, []string{"a" + was, "b" + was}},
		"empty, of one source":         {true, swap + `COMMIT`, []string{"a" + was}},
		"with rows":                    {false, swap + `INSERT INTO public.t SELECT * FROM public.t_before; COMMIT`, nil},
		"with rows, of one source":     {true, swap + `INSERT INTO public.t SELECT * FROM public.t_before; COMMIT`, nil},
		"with rows of one of both":     {false, swap + `INSERT INTO public.t SELECT * FROM public.t_before WHERE tenant = 'b'; COMMIT`, []string{"a" + was}},
		"dropped":                      {false, `DROP TABLE public.t`, []string{"a" + gone, "b" + gone}},
		"dropped, of a version before": {false, `UPDATE tributary.feed SET shape = shape - 'table' - 'own'; DROP TABLE public.t`, []string{"a" + gone, "b" + gone}},
		"of a version before":          {false, `UPDATE tributary.feed SET shape = shape - 'table' - 'own';` + swap + `COMMIT`, nil},
		"another schema, and back":     {false, `CREATE SCHEMA other; ALTER TABLE public.t SET SCHEMA other; ALTER TABLE other.t SET SCHEMA public`, nil},
		"one that a rule wrote before": {
			false, `INSERT INTO tributary.feed SELECT grp, target_schema, 't2', sid, topic, shape FROM tributary.feed WHERE sid = 'b';` + swap + `COMMIT`, []string{"a" + was},
		},
		"a copy of the warehouse": {false, swap + `CREATE TABLE tributary.copy (LIKE tributary.feed INCLUDING ALL); INSERT INTO tributary.copy SELECT * FROM tributary.feed;
			DROP TABLE tributary.feed; ALTER TABLE tributary.copy RENAME TO feed; COMMIT`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			rules := rule.Table{From: "public.t", SID: "tenant"}
			if c.without {
				rules.SID = ""
			}
			w := newWorld(t, rules)
			r := relation("t", "id integer key", "v text")
			a := w.source("a")
			s := w.start(w.cfg)
			a.tx(ins(r, 1, "x"))
			w.complete(a)
			if !c.without {
				b := w.source("b")
				b.tx(ins(r, 1, "x"))
				w.complete(b)
			}
			w.exec(c.change)
			a.tx(ins(r, 2, "x"))
			w.complete(a)
			const told = `SELECT split_part(topic, '.', 1), f->>'lost' FROM tributary.rule, jsonb_array_elements(former) f WHERE f ? 'lost' ORDER BY 1`
			w.rows(told, c.want...)
			w.rows(`SELECT count(*) FROM tributary.feed WHERE target_table = 't' AND shape->>'table' = 'public.t'::regclass::oid::text AND shape->>'own' = 'tributary.feed'::regclass::oid::text AND topic ^@ 'a.'`, "1")
			w.eventually(len(c.want) > 0, func() any { return outdated(s.Status(), trouble.RowsOutdated) != "" })
			s.stop()
			s = w.start(w.cfg) // what was told is told still, and nothing else
			a.tx(ins(r, 3, "x"))
			w.complete(a)
			w.rows(told, c.want...)
		})
	}
}

// TestTargetOfADump: in a warehouse that was made anew out of a dump each table is another one, and nothing is told, also not of a source without
// rows. A table that is put in the place of one of them is told of as before; but not of who had no rows before, either.
func TestTargetOfADump(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", SID: "tenant"})
	r := relation("t", "id integer key", "v text")
	a, b := w.source("a"), w.source("b")
	a.tx(ins(r, 1, "x"))
	b.tx(ins(r, 1, "x"))
	b.tx(del(r, 1))
	s := w.start(w.cfg)
	w.complete(a)
	w.complete(b)
	s.stop()
	const (
		told = `SELECT split_part(topic, '.', 1), f->>'lost' FROM tributary.rule, jsonb_array_elements(former) f WHERE f ? 'lost' ORDER BY 1`
		oids = `SELECT shape->>'table', shape->>'own' FROM tributary.feed WHERE topic ^@ 'a.'`
	)
	before := w.query(oids)
	w.downgrade(warehouse.Version) // its own tables, with the rows that they had
	w.exec(`CREATE TABLE public.copy (LIKE public.t INCLUDING ALL); INSERT INTO public.copy SELECT * FROM public.t; DROP TABLE public.t; ALTER TABLE public.copy RENAME TO t`)
	s = w.start(w.cfg)
	a.tx(ins(r, 2, "x"))
	b.tx(ins(r, 3, "x"))
	b.tx(del(r, 3))
	w.complete(a)
	w.complete(b)
	w.rows(told)
	w.rows(`SELECT shape->>'table' = 'public.t'::regclass::oid::text, shape->>'own' = 'tributary.feed'::regclass::oid::text FROM tributary.feed`, "t|t", "t|t")
	if now := w.query(oids); now[0] == before[0] {
		t.Fatalf("the tables are the same: %s", now)
	}
	w.exec(`BEGIN; ALTER TABLE public.t RENAME TO t_before; CREATE TABLE public.t (LIKE public.t_before INCLUDING ALL); COMMIT`)
	b.tx(ins(r, 4, "x"))
	b.tx(del(r, 4))
	w.complete(b)
	w.rows(told, `a|table "public.t" was replaced by another one: it has what was written since`)
	s.stop()
}

// TestRowsThatCameIntoTheFilter: a row that its filter left out comes into it while the table is read, by an UPDATE without its large value. Whether the
// row itself is still to come nobody can tell: it is not lost in silence, nor is anything held.
func TestRowsThatCameIntoTheFilter(t *testing.T) {
	t.Parallel() // it waits most of its time
	for name, with := range map[string]func(w *world){
		"clone":   func(*world) {},
		"append":  func(w *world) { w.cfg.Tables[0].Mode = "append" },
		"history": func(w *world) { w.cfg.Tables[0].Mode = "history" },
		"source":  func(w *world) { w.cfg.Sources = []rule.Source{{Name: "shop", Consistency: "source"}} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.t", Filter: "status != 'draft'"}, rule.Table{From: "public.*"})
			with(w)
			shop, r, all := w.source("shop"), relation("t", "id integer key", "status text", "big text"), relation("all", "id integer key", "status text", "big text")
			s := w.start(w.cfg)
			read := func(rows ...event) {
				t.Helper()
				shop.tx(rows...)
				shop.snapshot(r, true)
				shop.snapshot(all, true)
				shop.tx(ins(relation("other", "id integer key"), int(shop.lsn)))
				w.complete(shop)
			}
			const noted = `SELECT count(*) FROM tributary.rule WHERE former <> '[]'`
			shop.begins(all)
			shop.begins(r)
			shop.tx(snap(r, 1, "open", "BIG"), snap(r, 7, "draft", "BIG"), snap(r, 9, "open", "BIG"))
			shop.tx(upd(r, 9, "draft", keep), upd(all, 1, "open", keep)) // this one is still to come, and passes
			w.complete(shop)
			w.rows(noted, "0")
			shop.tx(upd(r, 7, "open", keep), upd(r, 9, "open", keep))
			w.complete(shop)
			w.rows(noted, "1")
			shop.tx(upd(r, 7, "open", keep)) // it is the same that is told
			w.complete(shop)
			read()
			w.rows(`SELECT topic, jsonb_array_length(former) FROM tributary.rule WHERE former <> '[]'`, "shop.public.t|1")
			w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
			told := func() any {
				for _, n := range s.Status().Needs {
					if n.Code == trouble.RowsOutdated && strings.Contains(n.Why, "may be missing") {
						return n.Subject + ": " + n.Do[0].Command
					}
				}
				return ""
			}
			w.eventually("shop/public.t: capture snapshot --wait --table public.t", told)
			shop.begins(r, "big")
			read(snap(r, 1, keep, "new"), snap(r, 7, keep, "new"))
			w.rows(noted, "1")
			shop.begins(r)
			read(snap(r, 1, "open", "new"), snap(r, 7, "open", "new"), snap(r, 9, "open", "new"))
			w.rows(`SELECT DISTINCT id FROM public.t ORDER BY 1`, "1", "7", "9")
			w.eventually("", told)
			w.rows(noted, "0")
			shop.begins(r, "big") // of a row that is left out
			read(snap(r, 1, keep, "newer"), snap(r, 8, keep, "newer"))
			w.rows(noted, "0")
		})
	}
}
