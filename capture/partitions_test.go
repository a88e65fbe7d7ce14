package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

// arrives waits until topic and source hold the same rows of a table.
func (r *rig) arrives(table string) topicRead {
	r.t.Helper()
	var got topicRead
	eventually(r.t, "the topic of "+table+" has the rows of the source", func() bool {
		got = r.read("public", table)
		return slices.Equal(got.rows, r.source("public."+table))
	})
	return got
}

// leaves waits until capture has noticed that a table has n partitions that hold rows.
func (r *rig) leaves(table string, n int) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%s has %d partitions", table, n), func() bool {
		p := r.tableProgress("public." + table)
		return p.OID != 0 && len(p.Leaves) == n
	})
}

// A partition that is attached comes with rows of which no event tells: also the first one that its table has.
func TestFirstPartitionIsRead(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table late (id int primary key, a text) partition by range (id);
		create table again (like late including all) partition by range (id); create table away (like late including all) partition by range (id);
		create table deep (like late including all) partition by range (id); create table made (like late including all) partition by range (id);
		create table again_0 partition of again for values from (0) to (10); insert into again values (1, 'before')`)
	attach := func(root string) {
		r.exec(fmt.Sprintf(`create table %[1]s_1 (id int primary key, a text); insert into %[1]s_1 select i, 'a' || i from generate_series(10, 19) i;
			alter table %[1]s attach partition %[1]s_1 for values from (10) to (20)`, root))
	}
	_, stop := r.start()
	r.fence()
	r.exec(`delete from again; alter table again detach partition again_0`)
	r.leaves("again", 0)
	for _, root := range []string{"late", "again"} {
		attach(root)
		r.exec(`update ` + root + ` set a = 'new' where id = 12; delete from ` + root + ` where id = 13; insert into ` + root + ` values (13, 'came')`)
		r.arrives(root)
	}
	r.exec(`create table made_1 partition of made for values from (10) to (20)`)
	r.leaves("made", 1)
	must(t, stop())
	attach("away")
	r.exec(`create table deep_0 (like late including all) partition by range (id)`)
	r.exec(`create table deep_1 (like late including all); insert into deep_1 select i, 'a' || i from generate_series(10, 19) i;
		alter table deep_0 attach partition deep_1 for values from (10) to (20); alter table deep attach partition deep_0 for values from (0) to (100)`)
	r.exec(`create table made_2 partition of made for values from (20) to (30)`)
	_, stop = r.start()
	r.arrives("away")
	r.arrives("deep")
	r.leaves("made", 2)
	r.exec(`insert into made values (10, 'a'), (20, 'b')`)
	r.fence()
	if got := r.same("public", "made"); got.reads != 0 {
		t.Errorf("%d rows of partitions that were made empty were read", got.reads)
	}
	must(t, stop())
}

// TestNeededRowsAreNotGivenUp: what capture reads since readers of the topic lack it comes, whatever somebody asks for besides and gives up, or asks
// for with a condition that fails; also where another capture goes on with it.
func TestNeededRowsAreNotGivenUp(t *testing.T) {
	cases := []struct {
		table          string
		before, behind []SnapshotRequest // the attached partition
		given          bool
		reads          int
	}{
		{table: "cancelled", behind: []SnapshotRequest{{Cancel: true}}, reads: 10},
		{table: "all_cancelled", behind: []SnapshotRequest{{ID: "all"}, {Cancel: true}}, given: true, reads: 10},
		{table: "part_cancelled", before: []SnapshotRequest{{ID: "part", Where: "id < 5", Rate: 1}}, behind: []SnapshotRequest{{Cancel: true}}, given: true, reads: 10},
		{table: "columns_cancelled", before: []SnapshotRequest{{ID: "columns", Columns: []string{"a"}, Rate: 1}}, behind: []SnapshotRequest{{Cancel: true}}, given: true, reads: 10},
		{table: "impossible", behind: []SnapshotRequest{{ID: "wrong", Where: "1 / (id - id) = 1"}}, given: true, reads: 10},
		{table: "impossible_before", before: []SnapshotRequest{{ID: "wrong", Where: "1 / (id - id) = 1"}}, given: true, reads: 10},
		{table: "possible", behind: []SnapshotRequest{{ID: "more", Where: "id < 5"}}, reads: 15},
		{table: "twice", behind: []SnapshotRequest{{ID: "some", Where: "id < 3"}, {ID: "more", Where: "id < 5"}}, reads: 15},
		{table: "loaded", behind: []SnapshotRequest{{Reload: true}, {Where: "id < 5"}, {Cancel: true}}, reads: 20},
	}
	for _, restart := range []bool{false, true} {
		r := newRig(t, 0, kafkatest.Fake(t), `create table mark (id int primary key)`)
		r.config.Snapshot.Conditions, r.config.Snapshot.Workers = true, 4
		for _, c := range cases {
			r.exec(fmt.Sprintf(`create table %[1]s (id int primary key, a text) partition by range (id); create table %[1]s_0 partition of %[1]s for values from (0) to (10);
				insert into %[1]s select i, 'old' from generate_series(0, 9) i`, c.table))
		}
		_, stop := r.start()
		r.fence()
		other, marks := r.connect(), 0
		_, err := other.Exec(t.Context(), `begin`)
		must(t, err)
		for _, c := range cases {
			_, err = other.Exec(t.Context(), `lock table `+c.table+`_0 in access exclusive mode`) // readers wait
			must(t, err)
			ask := func(list []SnapshotRequest) {
				for _, q := range list {
					q.Tables = []string{"public." + c.table}
					r.request(q)
				}
				marks++
				id := fmt.Sprint(marks)
				r.request(SnapshotRequest{ID: id, Tables: []string{"public.mark"}})
				eventually(t, "the requests are taken", func() bool { return r.tableProgress("public.mark").Asked == id })
			}
			ask(c.before)
			r.exec(fmt.Sprintf(`create table %[1]s_1 (id int primary key, a text); insert into %[1]s_1 select i, 'new' from generate_series(10, 19) i;
				alter table %[1]s attach partition %[1]s_1 for values from (10) to (20)`, c.table))
			r.leaves(c.table, 2)
			ask(c.behind)
		}
		if restart {
			must(t, stop())
			_, stop = r.start()
		}
		_, err = other.Exec(t.Context(), `rollback`)
		must(t, err)
		r.fence()
		for _, c := range cases {
			if got := r.same("public", c.table); got.reads != 10+c.reads {
				t.Errorf("%s, restart %t: %d rows were read, want %d", c.table, restart, got.reads-10, c.reads)
			}
			if p := r.tableProgress("public." + c.table); p.GivenUp != c.given || p.Whole || p.Needed != "" {
				t.Errorf("%s, restart %t: progress %+v, given up: %t", c.table, restart, p, c.given)
			}
		}
		must(t, stop())
	}
}

// Where partitions are published one by one, what is deleted in a new one before capture has seen it is in no event: its row, of which one was,
// goes all the same.
func TestDeletedBeforePartitionIsPublished(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table root (id int primary key, a text) partition by range (id); create table root_0 partition of root for values from (0) to (10);
		alter table root_0 replica identity full; insert into root select i, 'old' from generate_series(0, 9) i`)
	r.config.Source.Refresh = time.Second
	_, stop := r.start()
	r.fence()
	reads := r.same("public", "root").reads
	r.exec(`create table root_1 partition of root for values from (10) to (20)`)
	r.leaves("root", 2)
	r.exec(`insert into root values (10, 'a'), (11, 'b'); delete from root where id = 11`)
	r.fence()
	if got := r.same("public", "root"); got.reads != reads {
		t.Errorf("%d rows were read for a partition that was made empty", got.reads-reads)
	}
	made := func(name string, from int, change string) {
		r.exec(fmt.Sprintf(`create table %[1]s partition of root for values from (%[2]d) to (%[2]d + 10)`, name, from))
		r.exec(fmt.Sprintf(`insert into root select i, 'a' from generate_series(%d, %[1]d + 9) i`, from))
		r.exec(change)
	}
	made("root_2", 20, `update root set a = 'b' where id = 20; delete from root where id in (21, 22); update root set id = 22 where id = 29`)
	r.leaves("root", 3)
	r.fence()
	r.same("public", "root")
	must(t, stop())

	made("root_3", 30, `delete from root where id in (30, 31); update root set id = 32 - 2 where id = 32`)
	_, stop = r.start()
	r.leaves("root", 4)
	r.fence()
	r.same("public", "root")
	must(t, stop())

	// All its rows are gone, and VACUUM has taken its pages. Of the last one partitions are published with the root, when capture comes.
	made("root_4", 40, `delete from root where id >= 40`)
	r.exec(`vacuum root_4`)
	_, stop = r.start()
	r.leaves("root", 5)
	r.fence()
	r.same("public", "root")
	must(t, stop())
	made("root_5", 50, `delete from root where id = 51; alter table root_0 replica identity default`)
	_, stop = r.start()
	r.leaves("root", 6)
	r.fence()
	r.same("public", "root")
	must(t, stop())
}

// A table that is altered while the rows of an attached partition are read has them read to their end.
func TestAlteredWhilePartitionIsRead(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table root (id int primary key, a text, b text) partition by range (id)`)
	r.config.Snapshot.ChunkRows, r.config.Snapshot.Workers = 10, 1
	_, stop := r.start()
	r.fence()
	r.exec(`create table one (id int primary key, a text, b text); insert into one select i, 'a', 'b' from generate_series(1, 3000) i; alter table root attach partition one for values from (0) to (9999)`)
	eventually(t, "it is read", func() bool { p := r.tableProgress("public.root"); return !p.Done && p.Rows > 0 })
	r.exec(`alter table root drop column b`)
	r.fence()
	if got := r.read("public", "root"); len(got.rows) != 3000 {
		t.Errorf("%d rows, want 3000", len(got.rows))
	}
	must(t, stop())
}

// Of an unlogged partition nothing is in the WAL, and the server lets one be made so of a table that is published: it keeps no other table,
// nor another partition, from being captured, and has its rows loaded anew once it has WAL.
func TestUnloggedPartition(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table root (id int primary key, a text) partition by range (id); create table apart (like root including all) partition by range (id);
		create table root_0 partition of root for values from (0) to (10); create table root_1 partition of root for values from (10) to (20);
		create table apart_0 partition of apart for values from (0) to (10); create unlogged table apart_1 partition of apart for values from (10) to (20);
		alter table apart_0 replica identity full; alter table apart_1 replica identity full; insert into root select i, 'old' from generate_series(0, 19) i`)
	_, stop := r.start()
	r.fence()
	r.exec(`insert into apart values (1, 'logged'), (2, 'gone'); delete from apart where id = 2`)
	r.arrives("apart")
	silent := func(table string, n int) {
		eventually(t, fmt.Sprintf("%d partitions of %s are unlogged", n, table), func() bool { return len(r.tableProgress("public."+table).Silent) == n })
	}
	silent("apart", 1)
	for _, away := range []bool{false, true} {
		r.exec(`alter table root_1 set unlogged`)
		silent("root", 1)
		if away {
			must(t, stop())
		}
		r.exec(`insert into root select i, 'new' from generate_series(0, 19) i on conflict (id) do update set a = excluded.a; delete from root where id in (1, 11)`)
		if !away {
			r.exec(`insert into apart values (11, 'none'); alter table apart_1 set logged`)
		}
		r.exec(`alter table root_1 set logged`)
		if away {
			_, stop = r.start()
		}
		silent("root", 0)
		silent("apart", 0)
		r.arrives("root")
		r.arrives("apart")
		r.exec(`delete from apart where id = 11; insert into root values (1, 'again'), (11, 'again')`)
		r.arrives("root")
		r.arrives("apart")
	}
	must(t, stop())
}

// A row of a partition that was attached a moment ago tells of it, long before somebody looks at the catalog: in the progress that is committed
// with it the table's rows are not all there.
func TestRowTellsOfItsPartition(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		r := newRig(t, major, kafkatest.Fake(t), `create table root (id int primary key, a text, b int) partition by range (id); create table root_0 partition of root for values from (0) to (10)`)
		r.config.Source.Refresh = time.Hour
		_, stop := r.start()
		r.fence()
		r.exec(`insert into root values (1, 'a', 1)`)
		r.exec(`create table one (id int primary key, a text, b int); alter table one alter a set storage external; insert into one select i, repeat('x', 3000), i from generate_series(10, 19) i;
			alter table root attach partition one for values from (10) to (20)`)
		r.exec(`update root set b = 0 where id = 10; update root set id = 2 where id = 11`)
		r.exec(`create table two partition of root for values from (20) to (30)`)
		r.exec(`insert into root select i, 'new', i from generate_series(20, 29) i`)
		r.fence()
		r.same("public", "root")
		r.leaves("root", 3)
		for _, pr := range r.progresses() {
			for _, p := range pr.Tables {
				if p.Table == "root" && len(p.Leaves) > 1 {
					if p.Done && p.Rows == 0 {
						t.Errorf("progress at %v says that all rows are there: %+v", pr.CommitLSN, p)
					}
				}
			}
		}
		must(t, stop())
	}
}

// So it does in the transaction that attaches it, which nobody sees yet, and where partitions are published one by one.
func TestRowTellsOfItsPartitionUnseen(t *testing.T) {
	if mutated {
		t.Skip("with the rule dropped every read counts")
	}
	for _, major := range pgtest.Majors(t) {
		r := newRig(t, major, kafkatest.Fake(t), "")
		r.own(major, map[string]string{"synchronous_standby_names": "nobody"})
		r.exec(`set synchronous_commit = local`)
		for _, root := range []string{"whole", "apart"} {
			r.exec(fmt.Sprintf(`create table %[1]s (id int primary key, a text, b int) partition by range (id); create table %[1]s_0 partition of %[1]s for values from (0) to (10); insert into %[1]s values (1, 'a', 1);
				create table %[1]s_1 (id int primary key, a text, b int); alter table %[1]s_1 alter a set storage external; insert into %[1]s_1 select i, repeat('x', 3000), i from generate_series(10, 19) i`, root))
		}
		r.exec(`alter table apart_0 replica identity full`)
		r.config.Source.Refresh = time.Hour
		_, stop := r.start()
		r.fence()
		writer := r.connect()
		written := make(chan error, 1)
		go func() {
			_, err := writer.Exec(context.Background(), `begin; alter table whole attach partition whole_1 for values from (10) to (20); alter table apart attach partition apart_1 for values from (10) to (20);
				update whole set b = 0 where id = 10; update apart set b = 0 where id = 10; commit`)
			written <- err
		}()
		for _, root := range []string{"whole", "apart"} {
			eventually(t, "the invisible update is published", func() bool {
				return slices.ContainsFunc(r.read("public", root).events, func(ev string) bool { return strings.HasPrefix(ev, "u ") })
			})
			if p := r.tableProgress("public." + root); p.Done {
				t.Errorf("progress says that all rows of %s are there: %+v", root, p)
			}
		}
		r.exec(`alter system set synchronous_standby_names = ''`)
		r.exec(`select pg_reload_conf()`)
		if err := <-written; err != nil && !errors.As(err, new(*pgconn.PgError)) {
			t.Error(err)
		}
		r.fence()
		r.same("public", "whole")
		r.same("public", "apart")
		must(t, stop())
	}
}

// Of a partition that is dropped since, however often the stream brings what it looked like, the catalog is asked once.
func TestDroppedPartitionIsAskedForOnce(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), "")
	r.own(0, nil)
	r.exec(`create table root (id int primary key) partition by range (id); create table root_0 partition of root for values from (0) to (1000)`)
	r.config.Source.Refresh, r.config.Source.Heartbeat = time.Hour, 0
	_, stop := r.start()
	r.fence()
	must(t, stop())
	const times = 100
	for i := range times {
		r.exec(fmt.Sprintf(`alter table root_0 set (fillfactor = %d); insert into root values (%[1]d)`, 10+i%90))
		r.exec(fmt.Sprintf(`delete from root where id = %d`, 10+i%90))
	}
	r.exec(`drop table root_0`)
	statements := func() (n int) {
		eventually(t, "no connection is open that may not have counted", func() bool {
			var open int
			must(t, r.conn.QueryRow(t.Context(), `select count(*) from pg_stat_activity where application_name like 'tributary%'`).Scan(&open))
			return open == 0
		})
		must(t, r.conn.QueryRow(t.Context(), `select xact_commit from pg_stat_database where datname = current_database()`).Scan(&n))
		return n
	}
	before := statements()
	_, stop = r.start()
	r.fence()
	must(t, stop())
	if n := statements() - before; n > 3*times {
		t.Errorf("%d statements at the source for %d Relation messages of one partition", n, times)
	}
}

// Nor may the truncate of such a reload come before a transaction has ended that wrote to the partition before it was published.
func TestOpenTransactionBesideAReload(t *testing.T) {
	for _, away := range []bool{true, false} {
		r := newRig(t, 0, kafkatest.Fake(t), `create table root (id int primary key, a text) partition by range (id); create table root_0 partition of root for values from (0) to (10);
			alter table root_0 replica identity full; insert into root select i, 'old' from generate_series(0, 9) i`)
		r.config.Source.Refresh = 500 * time.Millisecond
		c, stop := r.start()
		r.fence()
		if away {
			must(t, stop())
		}
		open := r.connect()
		r.exec(`create table root_1 partition of root for values from (10) to (20)`)
		_, err := open.Exec(t.Context(), `begin; insert into root values (10, 'stays'), (11, 'goes'); delete from root where id = 11`)
		must(t, err)
		if away {
			c, stop = r.start()
		}
		r.leaves("root", 2)
		eventually(t, "the read waits", func() bool {
			return slices.ContainsFunc(c.Status().Tables, func(t TableStatus) bool { return t.Snapshot != nil && t.Snapshot.Unseen > 5 })
		})
		if n := len(r.read("public", "root").rows); n != 10 {
			t.Errorf("away %t: %d rows before the transaction has ended, want 10", away, n)
		}
		_, err = open.Exec(t.Context(), `commit`)
		must(t, err)
		r.fence()
		r.same("public", "root")
		must(t, stop())
	}
}

// Of two tables that wait like this the one that was asked for first kept the other from hearing that what it waited for was over.
func TestOpenTransactionBesideTwoReloads(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), "")
	for _, root := range []string{"one", "two"} {
		r.exec(fmt.Sprintf(`create table %[1]s (id int primary key, a text) partition by range (id); create table %[1]s_0 partition of %[1]s for values from (0) to (10);
			alter table %[1]s_0 replica identity full; insert into %[1]s select i, 'old' from generate_series(0, 9) i`, root))
	}
	c, stop := r.start()
	r.fence()
	waits := func(root string) {
		t.Helper()
		eventually(t, "the read of "+root+" waits", func() bool {
			return slices.ContainsFunc(c.Status().Tables, func(t TableStatus) bool {
				return t.Table == "public."+root && t.Snapshot != nil && t.Snapshot.Unseen > 2
			})
		})
	}
	open := func(root string) (commit func()) {
		t.Helper()
		r.exec(fmt.Sprintf(`create table %[1]s_1 partition of %[1]s for values from (10) to (20)`, root))
		conn := r.connect()
		_, err := conn.Exec(t.Context(), fmt.Sprintf(`begin; insert into %s values (10, 'stays'), (11, 'goes'); delete from %[1]s where id = 11`, root))
		must(t, err)
		r.leaves(root, 2)
		waits(root)
		return func() {
			t.Helper()
			_, err := conn.Exec(t.Context(), `commit`)
			must(t, err)
		}
	}
	first := open("one")
	second := open("two")
	r.request(SnapshotRequest{ID: "behind the other", Tables: []string{"public.one"}})
	eventually(t, "it is taken", func() bool { return r.tableProgress("public.one").Asked == "behind the other" })
	first()
	eventually(t, "the table is read whose transaction is over", func() bool { return r.tableProgress("public.one").Done })
	r.same("public", "one")
	if r.tableProgress("public.two").Done {
		t.Error("the other was read before its transaction was over")
	}
	second()
	r.fence()
	r.same("public", "two")
	must(t, stop())
}
