package replication

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema/change"
)

const source = `
create table a (id int primary key, name text, big text);
create table b (id int, note text); alter table b replica identity full;
create table unpublished (id int);
create publication p for table a, b`

// load is what has to come alike over both ways, in transactions of all kinds.
var load = []string{
	`insert into a select i, 'row ' || i, repeat(md5(i::text), 100) from generate_series(1, 300) i`,
	`begin; insert into b select i, 'n' from generate_series(1, 50) i; update a set name = 'x' where id < 20; delete from b where id < 10; commit`,
	`insert into unpublished select generate_series(1, 2000)`,
	`update a set id = id + 1000 where id > 290`,
	`begin; insert into a values (5000, 'never'); rollback`,
	`select pg_logical_emit_message(true, 'app', 'with a transaction')`,
	`select pg_logical_emit_message(false, 'app', 'without one')`,
	`begin; savepoint s; insert into b values (-1, 'gone'); rollback to s; insert into b values (-2, 'stays'); commit`,
	`alter table a add column more int default 7`,
	`begin; update a set more = id where id <= 5; alter table a rename name to title; update a set title = 'renamed' where id <= 5; commit`,
	`truncate a, b`,
	`insert into a select i, 'huge', 'v', i from generate_series(1, 20000) i`,
	`begin; delete from a where id % 2 = 0; update a set big = repeat('y', 20) where id < 200; commit`,
}

// bench is a database with two slots that stand at the same place.
type bench struct {
	t    *testing.T
	dsn  string
	conn *pgx.Conn

	mu  sync.Mutex
	log bytes.Buffer
}

func newBench(t *testing.T, major int) *bench {
	t.Helper()
	b := &bench{t: t, dsn: pgtest.Database(t, pgtest.Shared(t, major))}
	var err error
	b.conn, err = pgx.Connect(t.Context(), b.dsn)
	must(t, err)
	t.Cleanup(func() { _ = b.conn.Close(context.Background()) })
	b.exec(source)
	for _, way := range []string{"sql", "walsender"} {
		b.exec(fmt.Sprintf(`select pg_create_logical_replication_slot('%s', 'pgoutput')`, b.slot(way)))
		t.Cleanup(func() {
			conn, err := pgx.Connect(context.Background(), b.dsn)
			must(t, err)
			defer conn.Close(context.Background())
			for deadline := time.Now().Add(pgtest.Patience); ; {
				_, err := conn.Exec(context.Background(), fmt.Sprintf(`select pg_drop_replication_slot('%s')`, b.slot(way)))
				if err == nil || time.Now().After(deadline) {
					must(t, err)
					return
				}
			}
		})
	}
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bench) slot(way string) string {
	_, name, _ := strings.Cut(strings.TrimPrefix(b.dsn, "postgres://"), "/")
	name, _, _ = strings.Cut(name, "?")
	return name + "_" + way
}

func (b *bench) exec(sql string) {
	b.t.Helper()
	_, err := b.conn.Exec(b.t.Context(), sql)
	must(b.t, err)
}

func (b *bench) confirmed(way string) change.LSN {
	b.t.Helper()
	var text string
	must(b.t, b.conn.QueryRow(b.t.Context(), `select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1`, b.slot(way)).Scan(&text))
	lsn, err := change.ParseLSN(text)
	must(b.t, err)
	return lsn
}

func (b *bench) start(way string) *Stream {
	b.t.Helper()
	conn, err := Open(b.t.Context(), b.dsn, "test", nil)
	must(b.t, err)
	s, err := conn.Start(b.t.Context(), Reading{
		Slot: b.slot(way), Publications: []string{"p"}, Confirmed: b.confirmed(way), Backlog: way == "sql",
		Log: slog.New(slog.NewTextHandler(b, nil)),
	})
	must(b.t, err)
	b.t.Cleanup(func() { _ = s.Close() })
	return s
}

// Write is for the log.
func (b *bench) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(line)
}

// said gives what was logged.
func (b *bench) said() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

// read takes messages up to the one that says end, confirms each transaction when it is whole, and gives the messages.
// Those of relations are told with the rows that need them: by SQL they come once a call.
func (b *bench) read(s *Stream, way, end string, each func()) []string {
	b.t.Helper()
	var out []string
	relations := map[string]string{}
	inTx, durable := false, change.LSN(0)
	deadline := time.After(pgtest.Patience)
	for {
		batch, err := s.Take()
		for _, item := range batch.Items {
			if item.Data == nil {
				if !inTx {
					durable = max(durable, item.WALEnd)
				}
				continue
			}
			switch m := string(item.Data); m[0] {
			case 'R':
				relations[m[1:5]] = m
				continue
			case 'Y':
				continue
			case 'I', 'U', 'D':
				out = append(out, relations[m[1:5]]+m)
				continue
			case 'B':
				inTx = true
			case 'C':
				inTx = false
				durable = max(durable, change.LSN(binary.BigEndian.Uint64(item.Data[10:])))
			case 'M':
				if strings.HasSuffix(m, end) {
					return out
				}
			}
			out = append(out, string(item.Data))
		}
		if len(batch.Items) > 0 {
			if at := b.confirmed(way); at > max(durable, s.Confirmed()) {
				b.t.Fatalf("the slot stands at %s, durable is %s", at, durable)
			}
			s.Confirm(durable)
			each()
			continue
		}
		must(b.t, err)
		select {
		case <-s.Ready():
		case <-time.After(100 * time.Millisecond): // keepalives wake nobody
		case <-deadline:
			b.t.Fatalf("the stream stands still after %d messages, catching up %t: %s", len(out), s.CatchingUp(), b.said())
		}
	}
}

// The messages of SQL are those of the walsender, also where the one hands over to the other while the source writes.
func TestBacklogIsTheWalsendersStream(t *testing.T) {
	shorter(t, &leastCall, 400)
	shorter(t, &mostMessage, 1<<20)
	for _, major := range pgtest.Majors(t) {
		b := newBench(t, major)
		for _, sql := range load {
			b.exec(sql)
		}
		began := b.confirmed("sql")
		s := b.start("sql")
		copies := 0
		if !s.CatchingUp() {
			t.Fatalf("%d: the backlog is not fetched by SQL: %s", major, b.said())
		}
		more := 0
		each := func() {
			if more++; more <= 20 {
				b.exec(fmt.Sprintf(`insert into a select %d * 1000 + i from generate_series(50000, 50100) i`, more))
			}
		}
		got := b.read(s, "sql", "end-1", func() {
			each()
			copies = max(copies, b.copies())
			if !s.CatchingUp() {
				b.exec(`select pg_logical_emit_message(true, 'app', 'end-1')`)
				each = func() {}
			}
		})
		if b.confirmed("sql") < began {
			t.Errorf("%d: the slot has gone back", major)
		}
		if copies != 2 {
			t.Errorf("%d: there were %d copies of the slot at most, two take turns: %s", major, copies, b.said())
		}
		must(t, s.Close())
		want := b.read(b.start("walsender"), "walsender", "end-1", func() {})
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || got[i] != want[i] {
				t.Fatalf("%d: message %d of %d by SQL, of %d by the walsender, differs: %.80q and %.80q", major, i, len(got), len(want), at(got, i), at(want, i))
			}
		}
	}
}

// copies counts the temporary slots.
func (b *bench) copies() (n int) {
	b.t.Helper()
	must(b.t, b.conn.QueryRow(b.t.Context(), `select count(*) from pg_replication_slots where temporary and database = current_database()`).Scan(&n))
	return n
}

// Where there is no slot for a second copy, or what was fetched ahead was not taken for long, one reader does it alone.
func TestBacklogOfOneReader(t *testing.T) {
	shorter(t, &leastCall, 400)
	shorter(t, &mostMessage, 1<<20)
	b := newBench(t, 0)
	fill := func(end string) {
		t.Helper()
		for range 10 {
			b.exec(`insert into b select i, 'n' from generate_series(1, 500) i`)
		}
		b.exec(fmt.Sprintf(`select pg_logical_emit_message(true, 'app', '%s')`, end))
	}
	alone := func(end, why string) {
		t.Helper()
		b.handedOver(5000, end, "")
		if !strings.Contains(b.said(), "each call waits for the one before it") || !strings.Contains(b.said(), why) {
			t.Errorf("it is not said why one does it alone: %s", b.said())
		}
	}
	fill("end-1")
	patience := drainPatience
	drainPatience = time.Nanosecond
	alone("end-1", "was not taken")
	drainPatience = patience

	b = newBench(t, 0)
	fill("end-2")
	release := b.fillSlots(1)
	defer release()
	alone("end-2", "max_replication_slots")
}

// fillSlots leaves so many slots of the server free.
func (b *bench) fillSlots(free int) (release func()) {
	b.t.Helper()
	b.exec(fmt.Sprintf(`select pg_create_physical_replication_slot('filler_' || i) from generate_series(1, current_setting('max_replication_slots')::int - %d - (select count(*)::int from pg_replication_slots)) i`, free))
	return func() {
		b.exec(`select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like 'filler%'`)
	}
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

func shorter[T any](t *testing.T, what *T, value T) {
	was := *what
	*what = value
	t.Cleanup(func() { *what = was })
}

// handedOver reads up to the end, and fails unless that is so many messages, of which the walsender has sent the last, and the log
// says why; "": nothing says that SQL has not reached its end.
func (b *bench) handedOver(least int, end, why string) {
	b.t.Helper()
	before := len(b.said())
	s := b.start("sql")
	caughtUp := s.CatchingUp()
	if got := b.read(s, "sql", end, func() {}); len(got) < least || !caughtUp {
		b.t.Errorf("%d messages, fetched by SQL first %t: %s", len(got), caughtUp, b.said())
	}
	must(b.t, s.Close())
	if got := b.said()[before:]; strings.Contains(got, "goes on instead of SQL") != (why != "") || !strings.Contains(got, why) {
		b.t.Errorf("it is not said why: %s", got)
	}
}

// Where a call may not have the temporary file that it needs, the walsender goes on, in the same stream: neither what the server's
// administrator allows is passed nor, where our role may set it, what we allow.
func TestBacklogWithoutTemporaryFile(t *testing.T) {
	b := newBench(t, 0)
	database := strings.TrimSuffix(b.slot(""), "_")
	b.exec(fmt.Sprintf(`alter database %s set work_mem = '64kB'`, database))
	fill := func(end string) {
		t.Helper()
		b.exec(`truncate a`)
		b.exec(load[0])
		b.exec(fmt.Sprintf(`select pg_logical_emit_message(true, 'app', '%s')`, end))
	}
	fill("end-1")
	shorter(t, &mostTemporary, "256kB")
	b.handedOver(300, "end-1", "temp_file_limit")

	shorter(t, &mostTemporary, "1GB")
	b.exec(fmt.Sprintf(`alter database %s set temp_file_limit = '256kB'`, database))
	fill("end-2")
	b.handedOver(300, "end-2", "temp_file_limit")
}

// A role that may not set the limit fetches all the same, and leaves no error in the server's log; one that was granted it sets it.
func TestBacklogOfAPlainRole(t *testing.T) {
	shorter(t, &mostTemporary, "256kB")
	for _, major := range slices.Compact(append([]int{14}, pgtest.Majors(t)...)) {
		b := newBench(t, major)
		database := strings.TrimSuffix(b.slot(""), "_")
		role := database + "_plain"
		b.exec(fmt.Sprintf(`alter database %s set work_mem = '64kB'`, database))
		b.exec(fmt.Sprintf(`create role %s login replication password 'p'; grant connect on database %s to %[1]s`, role, database))
		t.Cleanup(func() {
			_, err := b.conn.Exec(context.Background(), fmt.Sprintf(`drop owned by %s; drop role %[1]s`, role))
			must(t, err)
		})
		dsn, err := url.Parse(b.dsn)
		must(t, err)
		dsn.User = url.UserPassword(role, "p")
		shorter(t, &b.dsn, dsn.String())
		log := pgtest.Shared(t, major).Log()
		before, err := os.ReadFile(log)
		must(t, err)
		for _, why := range []string{"", "temp_file_limit"} {
			if why != "" {
				if major < 15 {
					continue
				}
				b.exec(fmt.Sprintf(`grant set on parameter temp_file_limit to %s`, role))
			}
			b.exec(`truncate a`)
			b.exec(load[0])
			b.exec(fmt.Sprintf(`select pg_logical_emit_message(true, 'app', 'end%s')`, why))
			b.handedOver(300, "end"+why, why)
		}
		after, err := os.ReadFile(log)
		must(t, err)
		if said := string(after[len(before):]); strings.Contains(said, "permission denied") {
			t.Errorf("%d: its log has: %s", major, said)
		}
	}
}

// That no slot is free is told by where the server says so, as other limits have the same code.
func TestSlotsHint(t *testing.T) {
	b := newBench(t, 0)
	b.exec(`set work_mem = '64kB'; set temp_file_limit = '64kB'`)
	_, limit := b.conn.Exec(t.Context(), `select count(*) from (select i from generate_series(1, 100000) i order by i desc offset 1) s`)
	defer b.fillSlots(0)()
	_, slots := b.conn.Exec(t.Context(), `select pg_create_physical_replication_slot('one_more')`)
	for hinted, err := range map[bool]error{false: limit, true: slots} {
		if postgres.SQLState(err) != "53400" || (slotsHint(err) != "") != hinted {
			t.Errorf("%v: hint %q", err, slotsHint(err))
		}
	}
}

// Where each call would read much WAL again, or one does not come to its first row, the walsender goes on, in the same stream.
func TestBacklogIsLeftToTheWalsender(t *testing.T) {
	b := newBench(t, 0)
	fill := func(end string) {
		t.Helper()
		b.exec(load[1])
		b.exec(fmt.Sprintf(`select pg_logical_emit_message(true, 'app', '%s')`, end))
	}
	fill("end-1")
	was := mostReread
	mostReread = 0
	b.handedOver(50, "end-1", "read much WAL again")
	mostReread = was

	shorter(t, &callPatience, 100*time.Millisecond)
	fill("end-2")
	lock, err := b.conn.Begin(t.Context()) // pgoutput waits for it at the first row
	must(t, err)
	_, err = lock.Exec(t.Context(), `lock table pg_publication in access exclusive mode`)
	must(t, err)
	s := b.start("sql")
	for deadline := time.Now().Add(pgtest.Patience); s.CatchingUp(); b.confirmed("sql") {
		if time.Now().After(deadline) {
			t.Fatalf("a call that gives nothing is not cancelled: %s", b.said())
		}
	}
	must(t, lock.Rollback(t.Context()))
	if got := b.read(s, "sql", "end-2", func() {}); len(got) < 50 || !strings.Contains(b.said(), "canceling statement") {
		t.Errorf("%d messages: %s", len(got), b.said())
	}
}

// A call whose messages nobody takes is given up: its snapshot keeps VACUUM at the source from its work. And a reader
// whose replication connection is gone has no right to go on.
func TestBacklogIsGivenUp(t *testing.T) {
	b := newBench(t, 0)
	b.exec(`insert into a select i, 'huge', repeat(i::text, 100) from generate_series(1, 60000) i`)
	ends := func(why string) {
		t.Helper()
		s := b.start("sql")
		if why == "replication connection" {
			b.exec(`select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`)
		}
		select {
		case <-s.received:
		case <-time.After(pgtest.Patience):
			t.Fatalf("the stream stands still, catching up %t: %s", s.CatchingUp(), b.said())
		}
		if s.err == nil || !strings.Contains(s.err.Error(), why) || !s.CatchingUp() {
			t.Errorf("the stream ends with %v", s.err)
		}
		var holders int
		for deadline := time.Now().Add(pgtest.Patience); ; {
			must(t, b.conn.QueryRow(t.Context(), `select (select count(*) from pg_stat_activity where application_name = 'test' and backend_xmin is not null and datname = current_database())
				+ (select count(*) from pg_replication_slots where temporary)`).Scan(&holders))
			if holders == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the snapshot or the copy of the slot is still held")
			}
		}
		_ = s.Close()
	}
	before := b.confirmed("sql")
	ends("replication connection")
	shorter(t, &drainPatience, 500*time.Millisecond)
	ends("VACUUM")
	if at := b.confirmed("sql"); at != before {
		t.Errorf("the slot has gone from %s to %s", before, at)
	}
}

// While SQL is still at it, the slot is advanced to what is durable, and the source gives up WAL.
func TestBacklogReleasesWAL(t *testing.T) {
	shorter(t, &advanceWAL, 1)
	shorter(t, &advanceAfter, time.Hour)
	for _, major := range pgtest.Majors(t) {
		b := newBench(t, major)
		for range 8 {
			b.exec(`insert into b select i, repeat(i::text, 100) from generate_series(1, 10000) i`)
			b.exec(`checkpoint`)
		}
		b.exec(`select pg_logical_emit_message(true, 'app', 'end')`)
		restart := func() (lsn string) {
			must(t, b.conn.QueryRow(t.Context(), `select restart_lsn::text from pg_replication_slots where slot_name = $1`, b.slot("sql")).Scan(&lsn))
			return lsn
		}
		began, released := restart(), false
		s := b.start("sql")
		got := b.read(s, "sql", "end", func() {
			// What is not taken yet is more than is read ahead, so that SQL is not at its end.
			at := b.confirmed("sql")
			for deadline := time.Now().Add(pgtest.Patience); s.CatchingUp() && s.Confirmed() > at && !released && time.Now().Before(deadline); {
				s.reportNow()
				if b.confirmed("sql") > at {
					released = restart() != began
					break
				}
			}
		})
		if !released || len(got) != 8*(10000+2)+1 {
			t.Errorf("%d: WAL released %t, %d messages: %s", major, released, len(got), b.said())
		}
	}
}

// Of large rows the walsender sends more a second: it goes on after two calls in turn that have met them, in the same stream. One
// large transaction among small rows does not make it.
func TestBacklogOfLargeRows(t *testing.T) {
	shorter(t, &leastCall, 400) // less than each transaction: each is a call
	b := newBench(t, 0)
	b.exec(load[0])
	b.exec(`insert into b select i, 'n' from generate_series(1, 1000) i`)
	b.exec(`update a set name = 'y', big = big || 'z'`)
	b.exec(`insert into b select i, 'n' from generate_series(1, 1000) i`)
	b.exec(`select pg_logical_emit_message(true, 'app', 'end-1')`)
	b.handedOver(2600, "end-1", "")
	b = newBench(t, 0)
	b.exec(load[0])
	b.exec(`update a set name = 'y', big = big || 'z'`)
	b.exec(`update a set name = 'z', big = big || 'z'`)
	b.exec(`insert into b select i, 'n' from generate_series(1, 1000) i`)
	b.exec(`select pg_logical_emit_message(true, 'app', 'end-2')`)
	b.handedOver(1900, "end-2", "large rows")
}

// A server without a slot for the copy leaves everything to the walsender.
func TestBacklogWithoutFreeSlot(t *testing.T) {
	b := newBench(t, 0)
	b.exec(load[0])
	b.exec(`select pg_logical_emit_message(true, 'app', 'end')`)
	defer b.fillSlots(0)()
	s := b.start("sql")
	if got := b.read(s, "sql", "end", func() {}); len(got) < 300 || s.CatchingUp() {
		t.Errorf("%d messages, catching up %t", len(got), s.CatchingUp())
	}
	if got := b.said(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "max_replication_slots") {
		t.Errorf("what is said: %s", got)
	}
}

// What standbys must have first is not fetched before they do: the copy has no failover, for which the server would wait.
func TestBacklogWaitsForStandbys(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		if major < 17 {
			continue
		}
		b := newBench(t, major)
		b.exec(`select pg_create_physical_replication_slot('behind', true)`)
		b.exec(`alter system set synchronized_standby_slots = ' "behind"'`)
		b.exec(`select pg_reload_conf()`)
		defer func() {
			b.exec(`alter system reset synchronized_standby_slots`)
			b.exec(`select pg_reload_conf()`)
			b.exec(`select pg_drop_replication_slot('behind')`)
		}()
		b.exec(fmt.Sprintf(`select pg_drop_replication_slot('%s')`, b.slot("sql")))
		b.exec(fmt.Sprintf(`select pg_create_logical_replication_slot('%s', 'pgoutput', false, false, true)`, b.slot("sql")))
		b.exec(load[0])
		s := b.start("sql")
		for deadline := time.Now().Add(pgtest.Patience); s.CatchingUp() && time.Now().Before(deadline); {
			b.confirmed("sql")
		}
		batch, err := s.Take()
		must(t, err)
		for _, item := range batch.Items {
			if item.Data != nil {
				t.Fatalf("%d: %q comes before the standby has it", major, item.Data)
			}
		}
		_ = s.Close()
	}
}
