package sink_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// ago is a time as a source writes it.
func ago(days int) string {
	return time.Now().AddDate(0, 0, -days).UTC().Format("2006-01-02 15:04:05+00")
}

// TestRetention: rows that are too old go, in small transactions, of the sources whose rule says so and of no other; two
// sinks do it once. The source deletes and truncates, and the warehouse keeps.
func TestRetention(t *testing.T) {
	w := newWorld(t,
		rule.Table{Source: "a", From: "public.tx", To: "fin.tx", SID: "tenant", Mode: "append", Keep: "90 days", By: "at"},
		rule.Table{From: "public.tx", To: "fin.tx", SID: "tenant"},
		rule.Table{Source: "a", From: "public.day", Keep: "90 days", By: "day", Mode: "append"})
	w.cfg.Retention = sink.Retention{Every: time.Second, Rate: 1_000_000}
	tx, day := relation("tx", "id integer key", "at timestamp with time zone", "note text"), relation("day", "id integer key", "day date")
	a, b := w.source("a"), w.source("b")
	const old, fresh = 3000, 500
	age := func(i int) string {
		if i < old {
			return ago(91 + i%100)
		}
		return ago(i % 89)
	}
	one := w.start(w.cfg)
	w.start(w.cfg)
	a.tx(many(old+fresh, func(i int) event { return ins(tx, i, age(i), "a") })...)
	a.tx(ins(day, 1, ago(100)[:10]), ins(day, 2, ago(1)[:10]), ins(day, 3, nil))
	b.tx(many(200, func(i int) event { return ins(tx, i, ago(200), "b") })...)
	w.complete(a)
	w.complete(b)
	counts := `SELECT tenant, count(*) FROM fin.tx GROUP BY 1 ORDER BY 1`
	w.rows(counts, fmt.Sprintf("a|%d", fresh), "b|200")
	w.rows(`SELECT id FROM public.day ORDER BY 1`, "2", "3")
	// The source deletes after a week and begins anew.
	a.tx(append(many(100, func(i int) event { return del(tx, old+i) }), trunc(tx))...)
	w.complete(a)
	w.rows(counts, fmt.Sprintf("a|%d", fresh), "b|200")
	// Late updates of rows that have gone: a whole one writes the row, which goes again; one without all values is left out.
	w.rows(`SELECT removed_ever FROM tributary.retention WHERE topic = 'a.public.tx'`, fmt.Sprint(old)) // by both sinks once
	a.tx(upd(tx, 1, ago(95), "whole"), upd(tx, 2, ago(95), keep), upd(tx, old+1, ago(1), keep))
	w.complete(a)
	w.rows(`SELECT removed_ever FROM tributary.retention WHERE topic = 'a.public.tx'`, fmt.Sprint(old+1))
	w.rows(counts, fmt.Sprintf("a|%d", fresh), "b|200")
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
	w.eventually("90 days 3001", func() any {
		for _, table := range one.Status().Tables {
			if table.Source == "a" && table.Table == "public.tx" {
				return fmt.Sprint(table.Keep, " ", table.Expired)
			}
		}
		return ""
	})
	// A run that a clock has noted which was ahead is not waited for.
	w.exec(`UPDATE tributary.retention SET ran_at = now() + interval '1 year'`)
	w.rows(`SELECT bool_and(ran_at < now() + interval '1 day') FROM tributary.retention`, "t")
}

// TestRetentionOfSinksWhoseClocksDiffer: a sink whose clock is behind that of another one leaves to it what it has done lately; what was noted by one that was
// far ahead it does not.
func TestRetentionOfSinksWhoseClocksDiffer(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.tx", Keep: "90 days", By: "at"})
	w.cfg.Retention = sink.Retention{Every: 10 * time.Minute, Rate: 1_000_000}
	a := w.source("a")
	s := w.start(w.cfg)
	a.tx(ins(txRelation, 1, ago(1), "x"))
	w.complete(a)
	s.stop()
	round := s.Retainer()
	for ahead, again := range map[string]bool{"-11 minutes": true, "-9 minutes": false, "15 minutes": false, "23 hours": false, "25 hours": true} {
		w.exec(`INSERT INTO tributary.retention (grp, topic, target_schema, target_table, ran_at, cutoff, removed, removed_ever) SELECT grp, topic, target_schema, target_table, now(), now(), 0, 0
			FROM tributary.feed ON CONFLICT DO NOTHING; UPDATE tributary.retention SET ran_at = now() + '` + ahead + `', removed = 77`)
		if err := round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.query(`SELECT removed = 0 FROM tributary.retention`); (got[0] == "t") != again {
			t.Errorf("noted %s from now: it has run again: %s", ahead, got[0])
		}
	}
}

// TestRetentionIsTriedSoon: a warehouse that was away when old rows were looked for is asked again soon. With the next look alone, a
// sink was said to wait for the warehouse for minutes after it was back.
func TestRetentionIsTriedSoon(t *testing.T) {
	t.Parallel() // it waits most of its time
	w := newWorld(t, rule.Table{From: "public.tx", To: "fin.tx", Mode: "append", Keep: "90 days", By: "at"})
	cluster := pgtest.New(t, pgtest.Options{})
	if err := cluster.CreateDatabase(t.Context(), "dwh"); err != nil {
		t.Fatal(err)
	}
	w.dsn = cluster.DSN("dwh")
	w.cfg.Warehouse.DSN = config.Secret(w.dsn)
	w.conn = w.connect(w.dsn)
	w.cfg.Retention = sink.Retention{Every: 16 * time.Second, Rate: 1000} // seven looks take longer than is waited for here
	shop := w.source("shop")
	s := w.start(w.cfg)
	shop.tx(ins(relation("tx", "id integer key", "at timestamp with time zone"), 1, ago(1)))
	w.complete(shop)
	if err := cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	w.eventually(true, func() any {
		return slices.ContainsFunc(s.Status().Waiting, func(wait sink.Waiting) bool { return wait.For == "retention" && wait.Tries >= 7 })
	})
	if err := cluster.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.eventually(0, func() any { return len(s.Status().Waiting) })
}

// TestRetentionOfModes: a history loses versions that ended long ago, never those that are valid; a log old changes.
func TestRetentionOfModes(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.story", Mode: "history", Keep: "90 days", History: rule.HistoryColumns{To: "till", End: "9999-01-01"}},
		rule.Table{From: "public.changes", Mode: "log", Keep: "90 days"})
	w.cfg.Retention = sink.Retention{Every: 100 * time.Millisecond, Rate: 1_000_000}
	story, changes := relation("story", "id integer key", "v text"), relation("changes", "id integer key", "v text")
	a := w.source("a")
	w.start(w.cfg)
	if err := a.client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for i, days := range []int{300, 200, 100, 10} {
		a.lsn += 0x100
		v := fmt.Sprint(days)
		events := []event{upd(story, 1, v), ins(changes, i, v)}
		if i == 0 {
			events = []event{ins(story, 1, v), ins(story, 2, v), ins(changes, i, v)}
		}
		a.publish(a.lsn, time.Now().AddDate(0, 0, -days), events...)
	}
	a.progress()
	if err := a.client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	w.complete(a)
	w.rows(`SELECT id, v FROM public.story ORDER BY 1, valid_from`, "1|100", "1|10", "2|300")
	w.rows(`SELECT v FROM public.changes`, "10")
}

// TestRetentionWaitsForNobody: neither for a row that somebody has locked, nor for long for a table.
// One that is at it keeps others away.
func TestRetentionWaitsForNobody(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.tx"})
	tx := relation("tx", "id integer key", "at timestamp with time zone")
	a := w.source("a")
	w.exec(`CREATE TABLE public.tx (id integer PRIMARY KEY, at timestamptz)`)
	s := w.start(w.cfg)
	a.tx(many(100, func(i int) event { return ins(tx, i, ago(40)) })...)
	w.complete(a)
	s.stop()
	w.cfg.Tables[0].Keep, w.cfg.Tables[0].By = "30 days", "at"
	o := w.operator()
	var planned int64
	if err := o.RetentionPlan(t.Context(), func(_ warehouse.Keep, e warehouse.Expired) { planned += e.Removed }, noPartition(t)); err != nil || planned != 100 {
		t.Fatalf("planned %d: %v", planned, err)
	}
	other := w.connect(w.dsn)
	for _, sql := range []string{`BEGIN`, `UPDATE public.tx SET at = at WHERE id = 7`} {
		if _, err := other.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	removed := int64(0)
	run := func() error {
		return o.RunRetention(t.Context(), 1_000_000, func(_ warehouse.Keep, n int64) { removed += n }, noPartition(t))
	}
	if err := run(); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT id FROM public.tx`, "7")

	// A table that somebody alters is left for the next time.
	if _, err := other.Exec(t.Context(), `LOCK TABLE public.tx IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), "lock timeout") {
		t.Errorf("got %v", err)
	}
	if _, err := other.Exec(t.Context(), `ROLLBACK; SELECT pg_advisory_lock(hashtext('tributary retention'), hashtext('warehouse'))`); err != nil {
		t.Fatal(err)
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("got %v", err)
	}
	if _, err := other.Exec(t.Context(), `SELECT pg_advisory_unlock_all()`); err != nil {
		t.Fatal(err)
	}
	if err := run(); err != nil {
		t.Error(err)
	}
	w.rows(`SELECT count(*) FROM public.tx`, "0")
	w.exec(`ALTER TABLE public.tx ALTER at TYPE text`)
	if err := run(); err == nil || !strings.Contains(err.Error(), `column "at", by which keep goes, is text`) {
		t.Errorf("got %v", err)
	}
}

// noPartition refuses to be told of a partition.
func noPartition(t *testing.T) func(warehouse.TablePartition) {
	return func(p warehouse.TablePartition) { t.Errorf("partition %s %s", p.Name, p.Deed) }
}

// TestRetentionIsStopped: who is told to stop in the middle of retention leaves its lock behind for nobody, not even for the moment in which the
// server ends the session.
func TestRetentionIsStopped(t *testing.T) {
	w := newWorld(t)
	session := w.warehouse("one").Session()
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		ours, err := session.Retain(ctx, func() error {
			cancel()
			return ctx.Err()
		})
		if !ours || !errors.Is(err, context.Canceled) {
			t.Fatal(ours, err)
		}
		if held := w.query(`SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`); held[0] != "0" {
			t.Fatal("the lock is held still")
		}
	}
}
