package capture

import (
	"fmt"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
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
	r.config.Topics.Partitions, r.config.Snapshot.ChunkRows = 4, 10000
	_, stop := r.start()
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
			// Somebody gets the table for himself as soon as the keys are changed, and keeps capture from reading.
			locker := r.connect()
			mover := r.connect()
			for _, sql := range []string{"begin", "update item set id = id + 1000"} {
				_, err := mover.Exec(t.Context(), sql)
				must(t, err)
			}
			locked := make(chan error, 1)
			go func() {
				_, err := locker.Exec(t.Context(), "begin; lock table item in access exclusive mode")
				locked <- err
			}()
			eventually(t, "the lock is waited for", func() bool {
				var n int
				must(t, r.conn.QueryRow(t.Context(), "select count(*) from pg_locks where not granted and relation = 'item'::regclass").Scan(&n))
				return n > 0
			})
			_, err := mover.Exec(t.Context(), "commit")
			must(t, err)
			must(t, <-locked)
			eventually(t, "the rows are wanted", func() bool { return len(r.tableProgress("public.item").Ranges) > 0 })
			if p := r.tableProgress("public.item"); p.Done {
				t.Errorf("it is to be read, and says that it is done: %+v", p)
			}
			must(t, stop())
			_, err = locker.Exec(t.Context(), "commit")
			must(t, err)
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
