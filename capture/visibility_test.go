package capture

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tributary-cdc/tributary/capture/snapshot"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// own gives the rig a server of its own, with these settings.
func (r *rig) own(major int, settings map[string]string) *pgtest.Cluster {
	r.t.Helper()
	cluster := pgtest.New(r.t, pgtest.Options{Major: major, Settings: settings})
	r.dsn = cluster.DSN("postgres")
	r.config.Source.DSN = config.Secret(r.dsn)
	r.conn = r.connect()
	return cluster
}

func (r *rig) connect() *pgx.Conn {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.dsn)
	must(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// Its commit record is in the WAL, and in the topic, but the transaction waits for a standby and is visible to nobody:
// a chunk that is read now has the old row. Published behind the new one it would stand for ever.
//
// With the tag "mutant" the rule that prevents it is dropped, and the old row must come out.
func TestChunkDoesNotOvertakeInvisibleCommit(t *testing.T) {
	stale := false
	if mutated {
		t.Setenv("TRIBUTARY_MUTANT", mutantNoChunkRule)
		stale = true
	}
	for _, major := range pgtest.Majors(t) {
		r := newRig(t, major, kafkatest.Fake(t), "")
		r.own(major, map[string]string{"synchronous_standby_names": "nobody"})
		r.exec(`set synchronous_commit = local`)
		r.exec(`
			create table b (id int primary key, v text); insert into b select i, 'old' from generate_series(1, 10) i;
			create table c (k int, v text); alter table c replica identity full; insert into c values (1, 'old'), (1, 'old')`)
		c, stop := r.start()
		r.fence()
		writer := r.connect()
		written := make(chan error, 1)
		n := len(r.read("public", "b").events)
		go func() {
			_, err := writer.Exec(context.Background(), `begin; update b set v = 'new' where id = 5; delete from c where ctid = (select min(ctid) from c); commit`)
			written <- err
		}()
		eventually(t, "the invisible update is published", func() bool { return len(r.read("public", "b").events) > n })
		var v string
		must(t, r.conn.QueryRow(t.Context(), `select v from b where id = 5`).Scan(&v))
		if v != "old" {
			t.Fatalf("the update is visible (%q): the server does not wait for its standby", v)
		}
		r.request(SnapshotRequest{ID: "now", Tables: []string{"public.*"}})
		eventually(t, "the tables have been read", func() bool {
			return counterValue(t, c.meter.chunks.WithLabelValues(chunkReread)) > 3 || r.tableProgress("public.b").Asked == "now" && r.tableProgress("public.b").Done
		})
		got := r.read("public", "b")
		if last := got.events[len(got.events)-1]; strings.HasPrefix(last, "r ") != stale {
			t.Errorf("while the commit waits, the topic of b ends with %q", last)
		}
		if !stale {
			eventually(t, "it is told that chunks are read again and again", func() bool { return rereads(c, "public.b") != nil })
			if n := rereads(c, "public.b"); n.Urgent || !strings.Contains(n.Why, "synchronous standby") || len(n.Do) != 1 || !strings.HasSuffix(n.Do[0].Command, " FROM pg_stat_replication;") {
				t.Errorf("%+v", n)
			} else {
				r.exec(n.Do[0].Command)
			}
		}
		select {
		case err := <-written:
			t.Fatalf("the commit did not wait: %v", err)
		default:
		}
		// The commit may return now.
		r.exec(`alter system set synchronous_standby_names = ''`)
		r.exec(`select pg_reload_conf()`)
		if err := <-written; err != nil && !errors.As(err, new(*pgconn.PgError)) {
			t.Error(err)
		}
		r.fence()
		if stale {
			if want := r.source("public.b"); fmt.Sprint(r.read("public", "b").rows) == fmt.Sprint(want) {
				t.Error("the rule is dropped and nothing came of it: this test finds nothing")
			}
		} else {
			r.same("public", "b")
			r.same("public", "c")
			eventually(t, "it is over", func() bool { return rereads(c, "public.b") == nil })
		}
		must(t, stop())
	}
}

// A table that joins while a transaction is open is read again and again, until that is over: it is told whose it is.
func TestRereadsForAnOpenTransaction(t *testing.T) {
	if mutated {
		t.Skip("with the rule dropped every read counts")
	}
	r := newRig(t, 0, kafkatest.Fake(t), `create table a (id int primary key)`)
	c, stop := r.start()
	r.fence()
	open, err := r.connect().Begin(t.Context())
	must(t, err)
	_, err = open.Exec(t.Context(), `insert into a values (1)`)
	must(t, err)
	var pid int
	must(t, open.QueryRow(t.Context(), `select pg_backend_pid()`).Scan(&pid))
	r.exec(`create table b (id int primary key); insert into b values (1)`)
	eventually(t, "it is told that chunks are read again and again", func() bool { return rereads(c, "public.b") != nil })
	n := rereads(c, "public.b")
	if n.Code != trouble.SnapshotRereads || n.Urgent || !strings.Contains(n.Why, fmt.Sprintf("is not over: pid %d", pid)) || n.Do[0].Command != fmt.Sprintf("SELECT pg_terminate_backend(%d);", pid) {
		t.Errorf("%+v", n)
	}
	must(t, open.Commit(t.Context()))
	eventually(t, "it is over", func() bool { return rereads(c, "public.b") == nil && r.tableProgress("public.b").Done })
	r.same("public", "b")
	must(t, stop())
}

// What waits for an open transaction has somebody else ask for its end, one at a time, and less and less often.
func TestEndIsAskedForLessOften(t *testing.T) {
	c := chunks{tasks: make(chan task, 2), idle: 2}
	s := &session{chunks: c}
	waits, goes := &tableSnapshot{after: 100}, &tableSnapshot{after: 50}
	for asked := range 10 {
		for range 2 {
			if over, err := s.haveEnded(waits); over || err != nil {
				t.Fatal(over, err)
			}
		}
		if n := len(c.tasks); n != 1 {
			t.Fatalf("%d readers are asked", n)
		}
		<-c.tasks
		before := time.Now()
		s.chunks.arrived(readResult{ended: &ended{xid: 51}})
		after, want := time.Now(), min(rereadPause<<asked, time.Second)
		if due := s.chunks.ended.due; due.Sub(before) < want || due.Sub(after) > want {
			t.Errorf("answer %d is followed by a pause of %s to %s, want %s", asked, due.Sub(after), due.Sub(before), want)
		}
		s.chunks.ended.due = before
	}
	s.chunks.arrived(readResult{ended: &ended{xid: 51, at: 7}}) // what it says is good for another
	if over, err := s.haveEnded(goes); over || err != nil || goes.after != 0 || goes.from != 7 {
		t.Errorf("%t, %v, %+v", over, err, goes)
	}
	if s.chunks.idle != 3 {
		t.Errorf("%d readers are idle", s.chunks.idle)
	}
}

// A table that is altered, of which rows of before come still, is read again and again until the stream is there: it is told that it waits for that.
func TestRereadsForAnAlteration(t *testing.T) {
	s := &session{meter: newMeter("shop", false)}
	for _, keyless := range []bool{false, true} {
		snap := &tableSnapshot{}
		for range rereadsTold {
			if keyless { // whose snapshot counts before its read finds out
				s.counts(&snapshot.Visibility{}, 0, snap)
			}
			s.again(snap, fmt.Errorf("read: %w", snapshot.ErrSchemaChanged))
		}
		st := Status{Source: "shop", Tables: []TableStatus{{Table: "public.b", Snapshot: snap.tell(0, false)}}}
		if st.judge(time.Now().Add(service.WaitingAfter), 0); len(st.Needs) != 1 || st.Needs[0].Code != trouble.SnapshotRereads || st.Needs[0].Urgent || !strings.Contains(st.Needs[0].Why, "has been altered since") {
			t.Errorf("keyless %t: %+v", keyless, st.Needs)
		}
	}
}

// rereads gives what the status tells of chunks of a table that are read again and again.
func rereads(c *Capture, table string) *service.Need {
	st := c.Status()
	for i := range st.Needs {
		if n := &st.Needs[i]; n.Code == trouble.SnapshotRereads && n.Subject == table {
			return n
		}
	}
	return nil
}

// While a table without key was read again and again, because a transaction that was published before was not visible yet,
// events of others that came just when a read ended went out before the rows: a DELETE of a row that the reader of the
// topic did not have, which held the table at a sink.
func TestKeylessEventsWaitForAReadThatCounts(t *testing.T) {
	if mutated {
		t.Skip("with the rule dropped every read counts")
	}
	r := newRig(t, 0, kafkatest.Fake(t), "")
	r.own(0, map[string]string{"synchronous_standby_names": "nobody"})
	r.exec(`set synchronous_commit = local`)
	r.exec(`create table c (k int, v text); alter table c replica identity full; insert into c select i, 'old' from generate_series(1, 1000) i`)
	c, stop := r.start()
	r.fence()
	n := len(r.read("public", "c").events)
	writer := r.connect()
	written := make(chan error, 1)
	go func() {
		_, err := writer.Exec(context.Background(), `delete from c where k = 1`)
		written <- err
	}()
	eventually(t, "the invisible delete is published", func() bool { return len(r.read("public", "c").events) > n })
	r.request(SnapshotRequest{ID: "now", Tables: []string{"public.c"}})
	k := 2
	eventually(t, "the table has been read some times", func() bool {
		for range 20 {
			r.exec(fmt.Sprintf(`delete from c where k = %d`, k))
			k++
		}
		return counterValue(t, c.meter.chunks.WithLabelValues(chunkReread)) > 5 || k > 900
	})
	r.exec(`alter system set synchronous_standby_names = ''`)
	r.exec(`select pg_reload_conf()`)
	if err := <-written; err != nil && !errors.As(err, new(*pgconn.PgError)) {
		t.Error(err)
	}
	r.fence()
	got := r.same("public", "c")
	for i, ev := range got.events {
		if i > 0 && strings.HasPrefix(got.events[i-1], "t ") && !strings.HasPrefix(ev, "t ") && !strings.HasPrefix(ev, "r ") {
			t.Errorf("behind a truncate comes %q before the rows", ev)
		}
	}
	must(t, stop())
}
