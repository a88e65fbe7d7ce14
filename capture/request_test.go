package capture

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
)

func (r *rig) request(q SnapshotRequest) {
	r.t.Helper()
	text, err := json.Marshal(map[string]any{"snapshot": q})
	must(r.t, err)
	_, err = r.conn.Exec(r.t.Context(), `select pg_logical_emit_message(true, 'tributary', $1)`, string(text))
	must(r.t, err)
}

// tableProgress gives what the topic says of a table by now.
func (r *rig) tableProgress(name string) record.TableProgress {
	r.t.Helper()
	var found record.TableProgress
	for _, pr := range r.progresses() {
		for _, t := range pr.Tables {
			if t.Schema+"."+t.Table == name {
				found = t
			}
		}
	}
	return found
}

func TestSnapshotIsAskedForInTheWAL(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		r := newRig(t, major, kafkatest.Fake(t), tables)
		r.config.Snapshot.Conditions = true
		r.exec(`insert into item select i, 'item ' || i, 1, '{}', now(), repeat('x', 3000) from generate_series(1, 1000) i;
			insert into full_bag select i % 10, 'same' from generate_series(1, 300) i; insert into pair values (1, 'a', 'b')`)
		c, stop := r.start()
		r.fence()
		before := r.same("public", "item")
		reads := func(table string) int { return r.same("public", table).reads }

		// All rows again, while they change.
		r.request(SnapshotRequest{ID: "one", Tables: []string{"public.*_bag", "public.item"}})
		for i := range 30 {
			r.exec(fmt.Sprintf(`update item set name = 'new %[1]d' where id %% 30 = %[1]d; delete from full_bag where ctid = (select min(ctid) from full_bag);
				insert into full_bag values (%[1]d, 'n'); update item set id = id + 5000 where id = %[1]d`, i))
		}
		r.fence()
		if got := reads("item") - before.reads; got < 900 || got > 1100 {
			t.Errorf("%d rows were read again, want about 1,000", got)
		}
		reads("full_bag")
		if got := r.tableProgress("public.item"); !got.Done || got.Asked != "one" || got.Where != "" {
			t.Errorf("progress of item: %+v", got)
		}
		if got := r.tableProgress("public.pair"); got.Asked != "" {
			t.Errorf("pair was not asked for: %+v", got)
		}
		first, all := r.tableProgress("public.pair"), r.tableProgress("public.item")
		if first.BegunEra != 1 || all.BegunEra != 1 || all.BegunLSN <= first.BegunLSN || all.BegunLSN > all.DoneLSN {
			t.Errorf("reads began at %d/%v and %d/%v, the second was done at %v", first.BegunEra, first.BegunLSN, all.BegunEra, all.BegunLSN, all.DoneLSN)
		}

		// A part of them.
		n := reads("item")
		r.request(SnapshotRequest{ID: "two", Tables: []string{"public.item"}, Where: "id between 101 and 200 -- a comment"})
		r.fence()
		if got := reads("item") - n; got != 100 {
			t.Errorf("%d rows were read by condition, want 100", got)
		}
		if p := r.tableProgress("public.item"); p.BegunLSN != all.BegunLSN {
			t.Errorf("a part of the rows counts as all: it began at %v, the one before at %v", p.BegunLSN, all.BegunLSN)
		}

		// Behind a truncate: what a reader of the topic has too much goes.
		n = len(r.read("public", "item").events)
		r.request(SnapshotRequest{Tables: []string{"public.item"}, Reload: true})
		r.fence()
		if got := r.same("public", "item").events[n:]; !strings.HasPrefix(got[0], "t ") || len(got) != 1+1000 {
			t.Errorf("a reload is %d events, first %q; want a truncate and 1,000 rows", len(got), got[0])
		}

		// What is wrong with a request is said, and stops nothing.
		for _, bad := range []SnapshotRequest{
			{Tables: []string{"public.nowhere"}},
			{Tables: []string{"item"}},
			{},
			{Tables: []string{"public.item"}, Where: "id = 1", Reload: true},
			{Tables: []string{"public.item"}, Where: "no_such_column = 1"},
			{Tables: []string{"public.item"}, Where: "1 / (id - id) = 1"},
			{Tables: []string{"public.item"}, Where: "true) or (true"},
			{Tables: []string{"public.item"}, Where: "true limit 1"},
			{Tables: []string{"public.item"}, Where: "id = $1"},
			{Tables: []string{"public.item"}, Where: "true /*"},
		} {
			n = len(r.read("public", "item").events)
			r.request(bad)
			r.fence()
			eventually(t, fmt.Sprintf("the status says what is wrong with %+v", bad), func() bool {
				for _, a := range c.Status().Alarms {
					if a.Code == trouble.SnapshotFailed && (strings.Contains(a.Subject, fmt.Sprintf("%q", bad.Tables)) || len(bad.Tables) == 1 && strings.Contains(a.Subject, bad.Tables[0])) {
						return true
					}
				}
				return false
			})
			if got := r.same("public", "item"); len(got.events) != n {
				t.Errorf("%+v: %d rows were read", bad, len(got.events)-n)
			}
			r.request(SnapshotRequest{Tables: []string{"public.item"}, Where: "false"})
			r.fence()
		}
		must(t, stop())
	}
}

// TestSnapshotIsGivenUp: a read that was asked for can be; a first one, and a reload, cannot.
func TestSnapshotIsGivenUp(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.exec(`insert into item (id) select generate_series(1, 500); insert into pair values (1, 'a', 'b')`)
	c, stop := r.start()
	r.fence()
	before := r.same("public", "item").reads
	other := r.connect()
	lock := func() { // readers wait
		_, err := other.Exec(t.Context(), `begin; lock table item in access exclusive mode`)
		must(t, err)
	}
	done := func() bool { return r.tableProgress("public.item").Done }
	var out strings.Builder
	cancel := SnapshotRequest{Tables: []string{"public.item"}, Cancel: true}
	must(t, r.verbs().PlanSnapshot(t.Context(), cancel, &out))
	must(t, r.verbs().PlanSnapshot(t.Context(), SnapshotRequest{Tables: []string{"public.pair"}, Reload: true}, &out))
	lock()
	r.request(SnapshotRequest{ID: "again", Tables: []string{"public.item"}})
	eventually(t, "it is read again", func() bool { return !done() })
	item := []*catalog.Table{{Relation: schema.Relation{OID: schema.OID(r.tableProgress("public.item").OID), Schema: "public", Name: "item"}}}
	shown, waited := make(lines, 100), make(chan error, 1)
	go func() {
		waited <- r.verbs().awaitSnapshot(t.Context(), &SnapshotRequest{ID: "again"}, item, math.MaxUint64, &terminal.Output{Out: io.Discard, Err: shown})
	}()
	shown.await(t, "snapshot public.item   ", waited) // how far it is
	must(t, r.verbs().RequestSnapshot(t.Context(), cancel, false, terminal.To(&out)))
	eventually(t, "it is given up", done)
	if err := <-waited; trouble.CodeOf(err) != trouble.SnapshotFailed || !strings.Contains(err.Error(), "cancelled") {
		t.Errorf("who waits for it is told %v", err)
	}
	_, err := other.Exec(t.Context(), `commit`)
	must(t, err)
	r.exec(`update item set name = 'x' where id < 100`)
	r.fence()
	if got := r.same("public", "item").reads; got != before {
		t.Errorf("%d rows were read again", got-before)
	}

	lock()
	r.request(SnapshotRequest{ID: "reload", Tables: []string{"public.item"}, Reload: true})
	eventually(t, "it is loaded anew", func() bool { return !done() })
	r.request(cancel)
	r.request(SnapshotRequest{ID: "later", Tables: []string{"public.pair"}})
	eventually(t, "what came behind is taken", func() bool { return r.tableProgress("public.pair").Asked == "later" })
	if done() {
		t.Error("a reload was given up")
	}
	_, err = other.Exec(t.Context(), `commit`)
	must(t, err)
	r.fence()
	if got := r.same("public", "item").reads; got != before+500 {
		t.Errorf("%d rows were read again, want 500", got-before)
	}

	// A read that may take its time does; and one that comes later takes its place, which who waits is told.
	began := time.Now()
	r.request(SnapshotRequest{ID: "slow", Tables: []string{"public.item"}, Rate: 400})
	go func() {
		waited <- r.verbs().awaitSnapshot(t.Context(), &SnapshotRequest{ID: "slow"}, item, math.MaxUint64, terminal.To(io.Discard))
	}()
	must(t, <-waited)
	if took := time.Since(began); took < time.Second || r.same("public", "item").reads != before+1000 {
		t.Errorf("500 rows at 400 a second took %s", took)
	}
	r.request(SnapshotRequest{ID: "slower", Tables: []string{"public.item"}, Rate: 1})
	eventually(t, "it is read slowly", func() bool { p := r.tableProgress("public.item"); return p.Asked == "slower" && p.Rows >= 3 })
	slower := make(lines, 100)
	go func() {
		waited <- r.verbs().awaitSnapshot(t.Context(), &SnapshotRequest{ID: "slower"}, item, math.MaxUint64, &terminal.Output{Out: io.Discard, Err: slower})
	}()
	slower.await(t, "snapshot public.item   ", waited)
	r.exec(`analyze item`)
	eventually(t, "the estimate is refreshed", func() bool { // it was 0 when the capture began
		at := slices.IndexFunc(c.Status().Tables, func(one TableStatus) bool { return one.Table == "public.item" })
		of := c.Status().Tables[at].ExpectedRows
		return of != nil && *of == 500
	})
	r.request(SnapshotRequest{ID: "quick", Tables: []string{"public.item"}})
	r.fence()
	if err := <-waited; err == nil || !strings.Contains(err.Error(), "a later request") {
		t.Errorf("who waits for the slow one is told %v", err)
	}
	must(t, stop())
	for _, part := range []string{"public.item: if it is read again at present, that is given up", "public.pair: a truncate is published", "asked to give up what is read again of 1 table: public.item"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("no %q in\n%s", part, out.String())
		}
	}
}

// TestRowsThatDoNotCome: who waits for a read is told of each that will not come to its end.
func TestRowsThatDoNotCome(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table dropped (id int primary key); create table early (id int primary key); create table kept (id int primary key);
		insert into dropped select generate_series(1, 500); insert into kept select generate_series(1, 500)`)
	c, stop := r.start()
	r.fence()
	verbs := r.verbs()
	verbs.config.Snapshot.Conditions = true // which that of the capture which runs is not
	wait := func(q SnapshotRequest) (says func(text string), ended func(cause string)) {
		said, done := make(lines, 100), make(chan error, 1)
		go func() { done <- verbs.RequestSnapshot(t.Context(), q, true, &terminal.Output{Out: said, Err: said}) }()
		says = func(text string) {
			t.Helper()
			said.await(t, text, done)
		}
		return says, func(cause string) {
			t.Helper()
			if err := <-done; trouble.CodeOf(err) != trouble.SnapshotFailed || !strings.Contains(err.Error(), cause) {
				t.Errorf("who waits for %s is told %v, want %s", q.Tables, err, cause)
			}
		}
	}
	says, ended := wait(SnapshotRequest{Tables: []string{"public.dropped"}, Rate: 1})
	says("snapshot public.dropped")
	r.exec(`drop table dropped`)
	ended("it is not captured any more")

	says, ended = wait(SnapshotRequest{Tables: []string{"public.kept"}, Rate: 1})
	says("snapshot public.kept")
	publication := r.config.Source.publications().Full
	r.exec(`alter publication ` + publication + ` drop table kept; alter publication ` + publication + ` add table kept`)
	ended("by itself")

	_, ended = wait(SnapshotRequest{Tables: []string{"public.kept"}, Where: "id = 1"})
	ended("has not taken the request")

	must(t, verbs.Pause(t.Context(), PauseRequest{}))
	standsStill(t, c)
	says, ended = wait(SnapshotRequest{Tables: []string{"public.early"}})
	says("asked for")
	r.exec(`drop table early`)
	must(t, verbs.Resume(t.Context()))
	ended("it is not captured any more")
	must(t, stop())
}

// lines has each line that is written to it.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// await waits until whoever writes the lines, and has not ended, has written text.
func (l lines) await(t *testing.T, text string, ended <-chan error) {
	t.Helper()
	for {
		select {
		case line := <-l:
			if strings.Contains(line, text) {
				return
			}
		case err := <-ended:
			t.Fatalf("it ended before it said %q: %v", text, err)
		}
	}
}

func TestConditionsOfRequestsAreOffByDefault(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables+`insert into item (id) values (1)`)
	r.config.Source.Refresh = time.Hour // what the status tells does not wait for it
	c, stop := r.start()
	r.fence()
	eventually(t, "the status knows the source and that all is read", func() bool {
		st := c.Status()
		return st.ServerLSN != "0/0" && st.Snapshot.TablesDone == 6
	})
	n := len(r.read("public", "item").events)
	r.request(SnapshotRequest{Tables: []string{"public.item"}, Where: "id = 1"})
	r.fence()
	eventually(t, "the refusal is told", func() bool {
		a := c.Status().Alarms
		return len(a) == 1 && strings.Contains(a[0].Cause, "snapshot.conditions")
	})
	if got := r.read("public", "item"); len(got.events) != n {
		t.Error("the condition was used")
	}
	must(t, stop())
}

// A restart goes on where the read that was asked for stood, and does not read the first snapshot's rows for it.
func TestAskedSnapshotIsResumed(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.exec(`insert into item select i, 'item ' || i from generate_series(1, 3000) i; insert into full_bag select i % 10, 'same' from generate_series(1, 300) i`)
	r.config.Snapshot.Workers, r.config.Snapshot.ChunkRows = 1, 10
	_, stop := r.start()
	r.fence()
	before := r.same("public", "item").reads
	r.request(SnapshotRequest{ID: "again", Tables: []string{"public.item", "public.full_bag"}, Reload: true})
	rounds := 0
	for ; !r.tableProgress("public.item").Done || rounds == 0; rounds++ {
		must(t, stop())
		r.exec(`delete from item where id in (select min(id) from item); update item set name = 'later' where id % 100 = 7; delete from full_bag where ctid = (select min(ctid) from full_bag)`)
		if r.config.Snapshot.Mode = "never"; rounds%2 == 0 { // says nothing of reads that were asked for
			r.config.Snapshot.Mode = "initial"
		}
		was := r.tableProgress("public.item")
		_, stop = r.start()
		eventually(t, "it gets on", func() bool {
			p := r.tableProgress("public.item")
			return p.Asked == "again" && (p.Done || p.Rows >= 200 && was.Asked == "" || p.Rows >= was.Rows+200)
		})
	}
	r.fence()
	got := r.same("public", "item")
	if n := got.reads - before; n < 3000-rounds || n > 3000 {
		t.Errorf("%d rows were read again in %d rounds, want each of 3,000 once", n, rounds)
	}
	r.same("public", "full_bag")
	if p := r.tableProgress("public.full_bag"); p.Asked != "again" {
		t.Errorf("full_bag: %+v", p)
	}
	if rounds < 2 {
		t.Errorf("it was over after %d rounds", rounds)
	}
	must(t, stop())
}

// A reader that wants one more column gets that, and no row is read whole for it.
func TestColumnsAreAskedFor(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		r := newRig(t, major, kafkatest.Fake(t), tables)
		r.exec(`insert into item (id, name, price, big) select i, 'name ' || i, i, repeat('x', 3000) from generate_series(1, 500) i`)
		_, stop := r.start()
		r.fence()
		before := len(r.read("public", "item").events)
		r.request(SnapshotRequest{ID: "some", Tables: []string{"public.item"}, Columns: []string{"name", "tags"}})
		for i := range 20 {
			r.exec(fmt.Sprintf(`update item set name = 'late' where id %% 20 = %[1]d; update item set id = id + 1000 where id = %[1]d; delete from item where id = 100 + %[1]d`, i))
		}
		r.fence()
		got := r.same("public", "item")
		some := 0
		for _, e := range got.events[before:] {
			if !strings.HasPrefix(e, "r ") || strings.Contains(e, "xxx") { // the row of a key change is read whole
				continue
			}
			values := strings.Split(e, ",")
			if len(values) != 6 || !strings.Contains(values[1], "name") && !strings.Contains(values[1], "late") || values[3] != "NULL" || values[5] != "UNCHANGED" {
				t.Fatalf("event %s", e)
			}
			if values[2] == "UNCHANGED" { // else it is brought up to an UPDATE that the read did not see
				some++
			}
		}
		if some < 300 {
			t.Errorf("%d rows", some)
		}
		if p := r.tableProgress("public.item"); p.Asked != "some" || !p.Done || len(p.Columns) != 2 {
			t.Errorf("progress of the table is %+v", p)
		} else if p.BegunLSN == 0 || !slices.Equal(p.BegunColumns, p.Columns) {
			t.Errorf("a read of columns %q began at %v, of %q", p.Columns, p.BegunLSN, p.BegunColumns)
		}
		for _, wrong := range []SnapshotRequest{
			{Tables: []string{"public.item"}, Columns: []string{"nothing"}},
			{Tables: []string{"public.item"}, Columns: []string{"name"}, Reload: true},
		} {
			count := len(r.read("public", "item").events)
			r.request(wrong)
			r.fence()
			if n := len(r.read("public", "item").events); n != count {
				t.Errorf("%+v is taken", wrong)
			}
		}
		must(t, stop())
	}
}
