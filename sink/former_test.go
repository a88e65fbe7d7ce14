package sink_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// begins has the progress say that all rows of a table are read, from here on.
func (s *source) begins(rel *schema.Relation, columns ...string) {
	s.w.t.Helper()
	s.snapshot(rel, false)
	for i := range s.tables {
		if s.tables[i].Table == rel.Name {
			s.tables[i].BegunEra, s.tables[i].BegunLSN, s.tables[i].BegunColumns = s.era, record.LSN(s.lsn+1), columns
		}
	}
	s.tx(ins(relation("other", "id integer key"), int(s.lsn))) // what asks for it is a commit
}

// outdated gives what is told of rows that are not as their rule says: by whoever gives a status.
func outdated(st *sink.Status, code trouble.Code) (why string) {
	for _, n := range st.Needs {
		if n.Code == code {
			why += n.Why + " | "
		}
	}
	return why
}

// TestRowsOutdated: a rule that is changed says so of the rows that are there, until all of them have come again, whichever sink is
// asked, or none.
func TestRowsOutdated(t *testing.T) {
	t.Parallel() // it waits most of its time
	for _, consistency := range []string{"table", "source"} {
		t.Run(consistency, func(t *testing.T) { testRowsOutdated(t, consistency, trouble.RowsOutdated) })
	}
}

func testRowsOutdated(t *testing.T, consistency string, code trouble.Code) {
	w := newWorld(t)
	w.cfg.Sources = []rule.Source{{Name: "shop", Consistency: consistency}}
	shop, r := w.source("shop"), relation("t", "id integer key", "v text", "n integer")
	shop.table(r, 2)
	as := func(to string, columns ...string) []rule.Table {
		var list []rule.Column
		for _, c := range columns {
			list = append(list, rule.Column{From: c})
		}
		return []rule.Table{{From: "public.t", To: to, Columns: list, Create: true}, {From: "public.other", To: "public.other", Create: true}}
	}
	var s *running
	with := func(tables []rule.Table) {
		t.Helper()
		if s != nil {
			s.stop()
		}
		w.cfg.Tables = tables
		s = w.start(w.cfg)
		w.complete(shop)
	}
	told := func(want ...string) {
		t.Helper()
		w.eventually(true, func() any {
			got := outdated(s.Status(), code)
			if len(want) == 0 {
				return got == ""
			}
			for _, text := range want {
				if !strings.Contains(got, text) {
					return got
				}
			}
			return true
		})
		operator := w.operator()
		st, err := operator.Status(t.Context(), w.cfg)
		if err != nil || outdated(st, code) != outdated(s.Status(), code) {
			t.Errorf("without a sink: %q, %v", outdated(st, code), err)
		}
	}
	read := func(rows ...event) {
		shop.tx(rows...)
		shop.snapshot(r, true)
		shop.tx(ins(relation("other", "id integer key"), int(shop.lsn)))
		w.complete(shop)
	}

	shop.snapshot(r, true)
	shop.tx(many(10, func(i int) event { return ins(r, i, "a", i) })...)
	with(as("public.t", "id"))
	told()
	with(as("public.t", "id", "v")) // nobody writes: it is told all the same
	told("they have no values of column v")
	w.eventually(true, func() any { return s.warned() })
	with(as("public.t", "id")) // nothing was written meanwhile
	told()
	with(as("public.t", "id", "v"))
	shop.tx(upd(r, 1, "b", 1))
	w.complete(shop)
	with(as("public.t", "id"))
	told("they still have values of column v")

	with(as("public.t", "id", "v"))
	told("they have no values of column v")
	shop.snapshot(r, false) // some rows are read, or some columns
	read(snap(r, 2, "a", 2))
	told("they have no values of column v")
	shop.begins(r, "n")
	read(snap(r, 2, keep, 2))
	told("they have no values of column v")
	shop.begins(r, "n", "v")
	read(snap(r, 2, "b", 2))
	told()
	w.rows(`SELECT former FROM tributary.rule WHERE former <> '[]'`)

	with(as("public.t2", "id", "v"))
	told("they are in public.t, and not in public.t2")
	operator := w.operator()
	names, topics, err := operator.Outdated(t.Context(), "shop", "public.t")
	if err != nil || !slices.Equal(names, []string{"shop/public.t"}) {
		t.Fatal(names, err)
	}
	if err := operator.AcceptRules(t.Context(), topics, "shop/public.t", "meant so"); err != nil {
		t.Fatal(err)
	}
	told()
	w.rows(`SELECT verb, subject, reason, before->0->'former'->0->'rule' IS NOT NULL FROM tributary.operation`, "rules accept|shop/public.t|meant so|t")

	shop.tx(ins(r, 100, "x", 1))
	w.complete(shop)
	s.stop()
	w.exec(`ALTER TABLE public.t2 DROP COLUMN v`)
	shop.tx(ins(r, 101, "x", 1))
	with(w.cfg.Tables)
	told(`column "v" was gone, and was made anew`)
	s.stop()
	w.exec(`DROP TABLE public.t2`)
	shop.tx(ins(r, 102, "x", 1))
	with(w.cfg.Tables)
	told(`column "v" was gone`, `table "public.t2" was gone, and was made anew`)
	shop.begins(r)
	read(many(5, func(i int) event { return snap(r, i, "c", i) })...)
	told()

	s.stop()
	w.exec(`DROP TABLE public.t2`) // and is made from nothing: all rows come again
	if err := operator.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(operator, "shop"), "", untold); err != nil {
		t.Fatal(err)
	}
	with(w.cfg.Tables)
	w.rows(`SELECT count(*) FROM public.t2`, "13")
	told()
}

// TestRowsOutdatedThatStay: what a history, or a target without deletes, keeps does not come again with a read of all rows.
func TestRowsOutdatedThatStay(t *testing.T) {
	t.Parallel() // it waits most of its time
	plain, masked := []rule.Column{{From: "id"}, {From: "v"}}, []rule.Column{{From: "id"}, {From: "v", Mask: "redact"}}
	for name, rules := range map[string][2]rule.Table{
		"history":        {{Mode: "history"}, {Mode: "history", Columns: masked}},
		"append":         {{Mode: "append", Columns: plain}, {Mode: "append", Columns: masked}},
		"append no more": {{Mode: "append"}, {}},
		"no inserts":     {{Ignore: []string{"insert"}, Columns: plain}, {Ignore: []string{"insert"}, Columns: masked}},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range rules {
				rules[i].From, rules[i].Create = "public.t", true
			}
			other := rule.Table{From: "public.other", Create: true} // which tells when it is looked at again
			w := newWorld(t, rules[0], other)
			shop, r, o := w.source("shop"), relation("t", "id integer key", "v text"), relation("other", "id integer key")
			s := w.start(w.cfg)
			shop.snapshot(r, true)
			shop.tx(ins(r, 1, "secret"), ins(r, 2, "secret"), upd(r, 2, "secret"), del(r, 1), ins(o, 1))
			w.complete(shop)
			s.stop()
			other.Filter = "id > 0"
			w.cfg.Tables = []rule.Table{rules[1], other}
			s = w.start(w.cfg)
			told := func() bool { return outdated(s.Status(), trouble.RowsOutdated) != "" }
			w.eventually(true, func() any { return told() })
			shop.begins(r)
			shop.begins(o)
			shop.tx(snap(r, 2, "secret"), snap(o, 1))
			shop.snapshot(r, true)
			shop.snapshot(o, true)
			shop.tx(ins(o, int(shop.lsn)))
			w.complete(shop)
			w.rows(`SELECT former FROM tributary.rule WHERE topic = 'shop.public.other'`, "[]")
			w.rows(`SELECT count(*) > 0 FROM public.t WHERE v = 'secret'`, "t")
			w.eventually([]string{"shop/public.t", "sink tenant rebuild shop"}, func() any {
				var got []string
				for _, n := range s.Status().Needs {
					if n.Code == trouble.RowsOutdated {
						got = append(got, n.Subject, n.Do[0].Command)
					}
				}
				return got
			})
			operator := w.operator()
			if err := operator.RebuildTenant(t.Context(), w.cfg, w.tenantPlan(operator, "shop"), "", untold); err != nil {
				t.Fatal(err)
			}
			w.eventually(false, func() any { return told() })
		})
	}
}

// TestRowsKeepWhatIsNotWritten: a rule that leaves columns out says, also when all rows have come again, that their values are there still, and how they go.
func TestRowsKeepWhatIsNotWritten(t *testing.T) {
	t.Parallel() // it waits most of its time
	for name, was := range map[string][]rule.Column{"of all": nil, "of some": {{From: "id"}, {From: "note"}, {From: "mail"}}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rule.Table{From: "public.t", SID: "tenant", Create: true, Columns: was}, rule.Table{From: "public.other", Create: true})
			shop, r, o := w.source("shop"), relation("t", "id integer key", "note text", "mail text"), relation("other", "id integer key")
			s := w.start(w.cfg)
			shop.snapshot(r, true)
			shop.tx(ins(r, 1, "n", "ann@example.com"), ins(r, 2, "n", "ben@example.com"), ins(o, 1))
			w.complete(shop)
			s.stop()
			w.cfg.Tables[0].Columns = []rule.Column{{From: "id"}, {From: "note"}}
			w.cfg.Tables[1].Filter = "id > 0" // which tells when it is looked at again
			s = w.start(w.cfg)
			told := func() (got []string) {
				for _, n := range s.Status().Needs {
					for _, step := range n.Do {
						if n.Code == trouble.RowsOutdated && n.Subject == "shop/public.t" {
							got = append(got, step.Command)
						}
					}
				}
				return got
			}
			clear := map[string]string{"of all": "", "of some": `UPDATE "public"."t" SET "mail" = NULL WHERE "tenant" = 'shop';`}[name]
			want := []string{clear, "sink rules accept shop/public.t"}
			w.eventually(want, func() any { return told() })
			shop.begins(r)
			shop.begins(o)
			shop.tx(snap(r, 1, "n", "ann@example.com"), snap(r, 2, "n", "ben@example.com"), snap(o, 1))
			shop.snapshot(r, true)
			shop.snapshot(o, true)
			shop.tx(ins(o, int(shop.lsn)))
			w.complete(shop)
			w.rows(`SELECT former FROM tributary.rule WHERE topic = 'shop.public.other'`, "[]")
			w.rows(`SELECT jsonb_array_length(former) FROM tributary.rule WHERE topic = 'shop.public.t'`, "1") // which are forgotten at once
			w.rows(`SELECT mail IS NULL FROM public.t`, "f", "f")
			w.eventually(want, func() any { return told() })
			if clear != "" {
				w.exec(clear)
				w.rows(`SELECT mail IS NULL FROM public.t`, "t", "t")
			}
			operator := w.operator()
			_, topics, err := operator.Outdated(t.Context(), "shop", "public.t")
			if err == nil {
				err = operator.AcceptRules(t.Context(), topics, "shop/public.t", "cleared")
			}
			if err != nil {
				t.Fatal(err)
			}
			w.eventually(0, func() any { return len(told()) })
		})
	}
}

// TestRowsOutdatedAreCheckedBefore: what a new configuration would make of rows that are there is told before it is used.
func TestRowsOutdatedAreCheckedBefore(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", To: "public.{table}", Create: true})
	shop := w.source("shop")
	for _, name := range []string{"a", "b", "c", "d"} {
		shop.tx(ins(relation(name, "id integer key", "v text"), 1, "x"))
	}
	s := w.start(w.cfg)
	w.complete(shop)
	s.stop()
	check := func() string {
		var out strings.Builder
		if err := sink.Check(t.Context(), w.cfg, terminal.NewCheck("sink", &out)); err != nil {
			t.Error(err)
		}
		return out.String()
	}
	if text := check(); strings.Contains(text, "another rule") {
		t.Errorf("of the same: %s", text)
	}
	w.cfg.Tables[0].Filter = "id > 1"
	if text := check(); !strings.Contains(text, "shop/public.a, shop/public.b, shop/public.c and shop/public.d: tables[0] was another rule") || !strings.Contains(text, "there was no filter, and now there is: id > 1") {
		t.Errorf("of a filter: %s", text)
	}
}

// TestRulesAreNotedInTurn: a sink that takes a partition over under another rule does not undo what one that still writes notes at this moment:
// that rows were lost, as somebody has dropped a column.
func TestRulesAreNotedInTurn(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	w.start(w.cfg)
	shop.tx(ins(r, 1, "x"))
	w.complete(shop)
	release := w.lock(`SELECT FROM tributary.rule WHERE topic = 'shop.public.t' FOR UPDATE`)
	w.exec(`ALTER TABLE public.t DROP COLUMN v`)
	shop.tx(ins(r, 2, "y"))
	w.waiting("tributary.rule", 1)
	done := make(chan error, 1)
	go func() { done <- w.takeRule(t.Context(), "shop.public.t", 0) }()
	w.waiting("tributary.rule", 2)
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT count(*) FILTER (WHERE f ? 'lost'), count(*) FILTER (WHERE f ? 'rule') FROM tributary.rule, jsonb_array_elements(former) f`, "1|1")
}

// lock holds what a statement locks, until release is called.
func (w *world) lock(sql string) (release func()) {
	w.t.Helper()
	gate := w.connect(w.dsn)
	for _, sql := range []string{`BEGIN`, sql} {
		if _, err := gate.Exec(w.t.Context(), sql); err != nil {
			w.t.Fatal(err)
		}
	}
	return func() {
		w.t.Helper()
		if _, err := gate.Exec(w.t.Context(), `COMMIT`); err != nil {
			w.t.Fatal(err)
		}
	}
}

// waiting waits until so many statements with a text wait for locks.
func (w *world) waiting(text string, n int) {
	w.t.Helper()
	w.rows(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%`+text+`%'`, fmt.Sprint(n))
}

// takeRule does as a sink that takes a partition over under another rule.
func (w *world) takeRule(ctx context.Context, topic string, partition int32) error {
	other := w.group("warehouse", "other").Session()
	defer other.Close(context.WithoutCancel(ctx))
	at := warehouse.Place{Topic: topic, Partition: partition}
	var epoch int64
	if err := w.connect(w.dsn).QueryRow(ctx, `SELECT owner_epoch FROM tributary.checkpoint WHERE topic = $1 AND partition = $2`, topic, partition).Scan(&epoch); err != nil {
		return err
	}
	_, err := other.TakeRules(ctx, []warehouse.Taken{{Ruled: warehouse.Ruled{Place: at, Rule: otherRule}, By: at, Epoch: epoch}})
	return err
}

const otherRule = `{"target":"public.t","mode":"log"}`

// TestRulesOfALateOwner: a sink that was stopped behind its claim, and goes on when another one writes by another rule, notes none; nor is it told that one
// has changed.
func TestRulesOfALateOwner(t *testing.T) {
	for _, consistency := range []string{"table", "source"} {
		t.Run(consistency, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.Sources = []rule.Source{{Name: "shop", Consistency: consistency}}
			shop, r := w.source("shop"), relation("t", "id integer key", "v text")
			s := w.start(w.cfg)
			shop.tx(ins(r, 1, "x"))
			w.complete(shop)
			s.stop()
			// What makes all of it ours: of a source that is written as a whole its progress.
			owner := map[string]string{"table": "shop.public.t", "source": "shop.tributary.progress"}[consistency]
			late := func() warehouse.Taken {
				t.Helper()
				var is warehouse.Taken
				is.Place, is.By, is.Rule = warehouse.Place{Topic: "shop.public.t"}, warehouse.Place{Topic: owner}, otherRule
				if err := w.conn.QueryRow(t.Context(), `UPDATE tributary.checkpoint SET owner_epoch = owner_epoch + 1 WHERE topic = $1 RETURNING owner_epoch`, owner).Scan(&is.Epoch); err != nil {
					t.Fatal(err)
				}
				return is
			}()
			w.cfg.Tables[0].Filter = "id > 0"
			w.start(w.cfg)
			shop.tx(ins(r, 2, "x"))
			w.complete(shop)
			const rules = `SELECT rule, rows, former FROM tributary.rule`
			before := w.query(rules)
			session := w.group("warehouse", "late").Session()
			defer session.Close(context.Background())
			changed, err := session.TakeRules(t.Context(), []warehouse.Taken{late})
			if err != nil || len(changed) > 0 {
				t.Errorf("changed %q: %v", changed, err)
			}
			w.rows(rules, before...)
		})
	}
}

// TestRulesAreNotedBehindTheClaimBefore: whoever claims a partition while one before notes its rule waits for it, and finds what it has noted.
func TestRulesAreNotedBehindTheClaimBefore(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	s := w.start(w.cfg)
	shop.tx(ins(relation("t", "id integer key", "v text"), 1, "x"))
	w.complete(shop)
	s.stop()
	release := w.lock(`SELECT FROM tributary.rule WHERE topic = 'shop.public.t' FOR UPDATE`)
	done := make(chan error, 1)
	go func() { done <- w.takeRule(t.Context(), "shop.public.t", 0) }()
	w.waiting("tributary.rule", 1)
	claimed := make(chan error, 1)
	go func() {
		_, err := w.group("warehouse", "next").Claim(t.Context(), []warehouse.Partition{{Topic: "shop.public.t"}})
		claimed <- err
	}()
	w.waiting("tributary.checkpoint c", 1)
	release()
	if err := errors.Join(<-done, <-claimed); err != nil {
		t.Error(err)
	}
	w.rows(`SELECT rule FROM tributary.rule WHERE topic = 'shop.public.t'`, otherRule)
}

// TestRulesAreLockedBeforeFeeds: a sink that notes that a target is another one, and one that takes a partition over under another rule, do not
// wait for each other.
func TestRulesAreLockedBeforeFeeds(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	shop.table(r, 2)
	w.start(w.cfg)
	shop.tx(many(10, func(i int) event { return ins(r, i, "x") })...)
	w.complete(shop)
	release := w.lock(`SELECT FROM tributary.rule WHERE topic = 'shop.public.t' AND partition = 0 FOR UPDATE`)
	w.exec(`DROP TABLE public.t`)
	shop.tx(ins(r, 100, "y"))
	w.waiting("tributary.rule", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := w.takeRule(ctx, "shop.public.t", 1); err != nil {
		t.Error(err)
	}
	release()
	w.complete(shop)
	w.rows(`SELECT partition, f->>'lost' FROM tributary.rule, jsonb_array_elements(former) f WHERE f ? 'lost' ORDER BY 1`,
		`0|table "public.t" was gone, and was made anew: it has what was written since`, `1|table "public.t" was gone, and was made anew: it has what was written since`)
}

// TestFeedsAreLockedLast: a sink that waits to look at a target, as somebody has locked a partition of a table whose rows go with those of it, holds up
// nobody who takes partitions over under another rule.
func TestFeedsAreLockedLast(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	w.start(w.cfg)
	shop.tx(ins(r, 1, "x"))
	w.complete(shop)
	w.exec(`CREATE TABLE public.other (p integer REFERENCES public.t (id) ON DELETE CASCADE) PARTITION BY LIST (p); CREATE TABLE public.other_1 PARTITION OF public.other DEFAULT`)
	shop.tx(ins(r, 2, "x"))
	w.complete(shop)
	release := w.lock(`LOCK TABLE public.other_1 IN ACCESS EXCLUSIVE MODE`)
	w.exec(`CREATE UNIQUE INDEX ON public.t (id)`)
	shop.tx(ins(r, 3, "x"))
	w.waiting("pg_partition_tree", 1)
	w.exec(`SELECT FROM tributary.feed WHERE topic = 'shop.public.t' FOR UPDATE NOWAIT`)
	release()
	w.complete(shop)
	w.rows(`SELECT count(*) FROM public.t`, "3")
}

// TestACutHoldsUpNoOtherSource: a source that is written as a whole finds, in a transaction that may take long, that the rows of others are gone. Nobody who
// takes over their partitions meanwhile waits for its end; and nobody who looks at what has come again waits for what it notes of itself.
func TestACutHoldsUpNoOtherSource(t *testing.T) {
	w := newWholeWorld(t)
	w.cfg.Tables = []rule.Table{{From: "public.t", SID: "tenant", Create: true}, {From: "public.u", Create: true}}
	shop, other := w.source("shop"), w.source("other")
	r, u := relation("t", "id integer key", "v text"), relation("u", "id integer key")
	s := w.start(w.cfg)
	shop.tx(ins(r, 1, "x"), ins(u, 1))
	other.tx(ins(r, 1, "x"))
	w.complete(shop)
	w.complete(other)
	s.stop()
	w.exec(`DROP TABLE public.t`)
	shop.tx(ins(r, 2, "x"), ins(u, 2))
	release := w.lock(`LOCK TABLE public.u IN ACCESS EXCLUSIVE MODE`)
	w.start(w.cfg)
	w.waiting(`"public"."u"`, 1)
	for _, table := range []string{"rule", "feed"} {
		w.exec(`SELECT FROM tributary.` + table + ` WHERE topic = 'other.public.t' FOR UPDATE NOWAIT`)
	}
	release()
	w.complete(shop)
	w.rows(`SELECT topic, f->>'lost' LIKE 'table "public.t" was gone%' FROM tributary.rule, jsonb_array_elements(former) f ORDER BY 1`, "other.public.t|t", "shop.public.t|t")
	w.rows(`SELECT DISTINCT shape->>'table' = 'public.t'::regclass::oid::text FROM tributary.feed WHERE target_table = 't'`, "t")
}

// TestRulesThatAreLockedAreForgottenLater: whoever looks at which rows have come again, as every sink does between all else that it sees to, waits for nobody.
func TestRulesThatAreLockedAreForgottenLater(t *testing.T) {
	w := newWorld(t)
	shop, r := w.source("shop"), relation("t", "id integer key", "v text")
	w.start(w.cfg)
	shop.tx(ins(r, 1, "x"))
	w.complete(shop)
	w.exec(`UPDATE tributary.rule SET former = '[{"lost": "x", "until": "2026-01-01T00:00:00Z", "era": 0, "lsn": "0/0"}]'`)
	release := w.lock(`SELECT FROM tributary.rule FOR UPDATE`)
	shop.begins(r)
	shop.tx(snap(r, 1, "x"))
	shop.snapshot(r, true)
	shop.tx(ins(relation("other", "id integer key"), 1000))
	w.complete(shop)
	ctx, cancel := context.WithTimeout(t.Context(), pgtest.Patience/3)
	defer cancel()
	session := w.group("warehouse", "other").Session()
	defer session.Close(context.Background())
	if err := session.ForgetFormers(ctx); err != nil {
		t.Error(err)
	}
	w.rows(`SELECT count(*) FROM tributary.rule WHERE former <> '[]'`, "1")
	release()
	w.rows(`SELECT count(*) FROM tributary.rule WHERE former <> '[]'`, "0")
}
