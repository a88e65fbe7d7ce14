package capture

import (
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/schema/record"
)

// A key change without an unchanged TOASTed value, to a key of another partition, ended capture.
func TestKeyChangeAcrossPartitionsWithoutToast(t *testing.T) {
	each(t, func(t *testing.T, major int, kafka kafkatest.Cluster) {
		r := newRig(t, major, kafka, tables+`insert into item (id, name, big) select i, 'a', repeat('x', 4000 + i) from generate_series(1, 200) i`)
		r.config.Topics.Partitions = 4
		_, stop := r.start()
		r.fence()
		first := r.tableProgress("public.item")
		r.exec(`update item set id = id + 1000 where id <= 20`)
		// The row moves on, goes, or changes before or after it is read again.
		for i := range 30 {
			r.exec(fmt.Sprintf(`
				begin; update item set id = id + 2000 where id = 100 + %[1]d; update item set name = 'b' where id = 2100 + %[1]d; commit;
				update item set price = 1, big = repeat('y', 4000 + %[1]d) where id = 2100 + %[1]d and id %% 3 = 0;
				update item set id = id + 3000 where id = 2100 + %[1]d and id %% 2 = 0;
				delete from item where id = 5100 + %[1]d and id %% 4 = 0;
				update item set id = id - 2000 where id = 2100 + %[1]d and id %% 5 = 0`, i))
		}
		r.fence()
		r.same("public", "item")
		p := r.tableProgress("public.item")
		if !p.Done || p.Ranges != nil || p.DoneLSN <= first.DoneLSN || p.Rows < 200+20 {
			t.Errorf("progress of the table is %+v, was %+v", p, first)
		}
		must(t, stop())
	})
}

// Too many of them to be read one by one.
func TestManyKeyChangesAcrossPartitions(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables+`insert into item (id, big) select i, repeat('x', 3000 + i % 100) from generate_series(1, 3000) i`)
	r.config.Topics.Partitions, r.config.Snapshot.ChunkRows, r.config.Snapshot.Conditions = 4, 10000, true
	_, stop := r.start()
	r.fence()
	// The condition of an earlier read is none of theirs.
	r.request(SnapshotRequest{ID: "some", Tables: []string{"public.item"}, Where: "id < 10"})
	r.fence()
	r.exec(`update item set id = id + 10000`)
	r.fence()
	r.same("public", "item")
	for _, pr := range r.progresses() {
		for _, p := range pr.Tables {
			if len(p.Ranges) > maxRanges+r.config.Snapshot.Workers {
				t.Errorf("a progress record has %d ranges", len(p.Ranges))
			}
		}
	}
	must(t, stop())
}

// moveAndLock changes the keys of item. Somebody gets the table for himself as soon as that is done, and keeps capture from
// reading until unlock; what before asks for comes before the keys are changed, and cannot be read either.
func (r *rig) moveAndLock(before func()) (unlock func()) {
	r.t.Helper()
	locker, mover := r.connect(), r.connect()
	exec := func(conn *pgx.Conn, sql string) {
		r.t.Helper()
		_, err := conn.Exec(r.t.Context(), sql)
		must(r.t, err)
	}
	exec(mover, "begin")
	exec(mover, "update item set id = id + 1000")
	locked := make(chan error, 1)
	go func() {
		_, err := locker.Exec(r.t.Context(), "begin; lock table item in access exclusive mode")
		locked <- err
	}()
	eventually(r.t, "the lock is waited for", func() bool {
		var n int
		must(r.t, r.conn.QueryRow(r.t.Context(), "select count(*) from pg_locks where not granted and relation = 'item'::regclass").Scan(&n))
		return n > 0
	})
	before()
	exec(mover, "commit")
	must(r.t, <-locked)
	return func() { exec(locker, "commit") }
}

// What is to be read again is not forgotten with the capture that wanted it, also where nothing else is ever read.
func TestRowOfAKeyChangeIsReadAfterARestart(t *testing.T) {
	for _, mode := range []string{"initial", "never"} {
		t.Run(mode, func(t *testing.T) {
			r := newRig(t, 0, kafkatest.Fake(t), tables)
			r.config.Topics.Partitions, r.config.Snapshot.Mode = 4, mode
			_, stop := r.start()
			r.fence()
			r.exec(`insert into item (id, name, big) select i, 'a', repeat('x', 4000 + i) from generate_series(1, 20) i`)
			r.fence()
			unlock := r.moveAndLock(func() {})
			eventually(t, "the rows are wanted", func() bool { return len(r.tableProgress("public.item").Ranges) > 0 })
			if p := r.tableProgress("public.item"); p.Done {
				t.Errorf("it is to be read, and says that it is done: %+v", p)
			}
			must(t, stop())
			unlock()
			_, stop = r.start()
			r.fence()
			reads := r.same("public", "item").reads
			if p := r.tableProgress("public.item"); !p.Done || p.DoneLSN == 0 || p.DoneLSN > r.progress().CommitLSN {
				t.Errorf("progress of the table is %+v", p)
			}
			must(t, stop())
			// And not again, once it is done.
			_, stop = r.start()
			r.fence()
			if got := r.read("public", "item"); got.reads != reads {
				t.Errorf("%d rows are read, %d were", got.reads, reads)
			}
			must(t, stop())
		})
	}
}

// Nor is it with the read of the table that it came into, which has a condition that it need not meet.
func TestRowOfAKeyChangeOutlivesARead(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.config.Topics.Partitions, r.config.Snapshot.Conditions = 4, true
	r.exec(`insert into item (id, name, big) select i, 'a', repeat('x', 4000 + i) from generate_series(1, 20) i`)
	_, stop := r.start()
	r.fence()
	wanted := func() bool {
		return slices.ContainsFunc(r.tableProgress("public.item").Ranges, func(g record.RangeProgress) bool { return g.At != nil })
	}
	for _, c := range []struct {
		name, where string
		ends        func()
	}{
		{"the condition is wrong", "no_such_column = 1", func() {}},
		{"somebody gives it up", "false", func() {
			r.request(SnapshotRequest{Tables: []string{"public.item"}, Cancel: true})
			eventually(t, "it is given up", func() bool { return r.tableProgress("public.item").Where == "" })
		}},
		{"capture starts anew", "false", func() { must(t, stop()) }},
	} {
		unlock := r.moveAndLock(func() {
			r.request(SnapshotRequest{ID: c.name, Tables: []string{"public.item"}, Where: c.where})
		})
		eventually(t, "rows are wanted", wanted)
		c.ends()
		unlock()
		if c.name == "capture starts anew" {
			_, stop = r.start()
		}
		r.fence()
		r.same("public", "item")
		if p := r.tableProgress("public.item"); !p.Done || p.Ranges != nil {
			t.Errorf("%s: progress of the table is %+v", c.name, p)
		}
	}
	must(t, stop())
}
