package capture

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

func kadmEnds(ctx context.Context, client *kgo.Client, topic string) (map[int32]int64, error) {
	list, err := kadm.NewClient(client).ListCommittedOffsets(ctx, topic)
	ends := map[int32]int64{}
	list.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends, err
}

// each runs test on every broker and every Postgres that are configured.
func each(t *testing.T, test func(t *testing.T, major int, kafka kafkatest.Cluster)) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprintf("pg%d", major), func(t *testing.T) {
			kafkatest.Each(t, func(t *testing.T, kafka kafkatest.Cluster) { test(t, major, kafka) })
		})
	}
}

const tables = `
create table item (id bigint primary key, name text, price numeric(10,2), tags text[], at timestamptz default now(), big text);
alter table item alter big set storage external;
create table pair (a int, b text, c text, primary key (b, a) include (c));
create table bag (k int, v text);
create table full_bag (k int, v text);
alter table full_bag replica identity full;
create table nothing (id int primary key, v text);
alter table nothing replica identity nothing;
create table part (id int, at date, v text, primary key (id, at)) partition by range (at);
create table part_1 partition of part for values from ('2024-01-01') to ('2025-01-01');
create table part_2 (v text, at date not null, id int not null);
alter table part attach partition part_2 for values from ('2025-01-01') to ('2026-01-01');
`

func TestSnapshotAndStream(t *testing.T) {
	each(t, func(t *testing.T, major int, kafka kafkatest.Cluster) {
		r := newRig(t, major, kafka, tables)
		r.exec(`insert into item select i, 'item ' || i, i / 3.0, array['a', i::text], now(), repeat('x', 3000 + i) from generate_series(1, 1050) i`)
		r.exec(`insert into pair select i, chr(65 + i % 26), 'c' from generate_series(1, 500) i`)
		r.exec(`insert into bag select i % 10, 'same' from generate_series(1, 5000) i`)
		r.exec(`insert into full_bag select i % 10, 'same' from generate_series(1, 3000) i`)
		r.exec(`insert into nothing select i, 'v' from generate_series(1, 100) i`)
		r.exec(`insert into part select i, '2024-06-01'::date + i, 'v' || i from generate_series(1, 400) i`)
		_, stop := r.start()
		// While the snapshot runs.
		for i := range 50 {
			r.exec(fmt.Sprintf(`
				update item set price = price + 1 where id %% 50 = %[1]d;
				update item set big = 'small' where id = %[1]d;
				delete from item where id = 1000 + %[1]d;
				insert into item (id, name) values (2000 + %[1]d, 'new');
				insert into bag values (%[1]d, 'new');
				delete from full_bag where ctid in (select ctid from full_bag where k = 3 limit 2);
				update full_bag set v = 'other' where ctid = (select ctid from full_bag where k = 4 and v = 'same' limit 1);
				update part set at = at + 200 where id = %[1]d`, i))
		}
		r.fence()
		// The application's statements on every table go on working.
		r.exec(`update bag set v = 'u' where k = 1; delete from bag where k = 2`)
		r.exec(`update nothing set v = 'u' where id = 1; delete from nothing where id = 2; insert into nothing values (1000, 'n')`)
		r.exec(`update item set id = id + 10000 where id between 500 and 520`)
		r.exec(`begin; insert into item (id, name) values (9001, 'a'); savepoint s; insert into item (id) values (9002); rollback to s; update item set name = 'b' where id = 9001; commit`)
		r.exec(`truncate pair; insert into pair values (1, 'x', 'y')`)
		r.fence()
		for _, name := range []string{"item", "pair", "full_bag", "part"} {
			r.same("public", name)
		}
		if got := r.read("public", "bag"); len(got.rows) != 5050 {
			t.Errorf("bag: %d rows, want the 5,000 at the start and 50 inserted", len(got.rows))
		}
		if got := r.read("public", "nothing"); len(got.rows) != 101 {
			t.Errorf("nothing: %d rows, want 100 and the one inserted", len(got.rows))
		}
		must(t, stop())
	})
}

// Several readers, and still one order: who writes the rows into a table with an index on the key appends to it.
func TestSnapshotKeepsTheOrderOfTheKey(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables+`insert into nothing select i, 'v' from generate_series(1, 6000) i;
		alter table nothing replica identity default; analyze nothing`)
	r.config.Snapshot.Workers, r.config.Snapshot.ChunkRows = 4, 200
	_, stop := r.start()
	r.fence()
	back, last := 0, 0
	for _, e := range r.read("public", "nothing").events {
		var id int
		_, err := fmt.Sscanf(e, `r - | "%d"`, &id)
		must(t, err)
		if id < last {
			back++
		}
		last = id
	}
	if back > 3 { // a chunk may have to be read again
		t.Errorf("the rows go back %d times, want none", back)
	}
	must(t, stop())
}

func TestRestartPublishesNothingTwice(t *testing.T) {
	each(t, func(t *testing.T, major int, kafka kafkatest.Cluster) {
		r := newRig(t, major, kafka, tables)
		r.exec(`insert into item select i, 'item ' || i from generate_series(1, 1000) i`)
		for round := range 4 {
			_, stop := r.start()
			r.exec(fmt.Sprintf(`update item set name = 'round %d' where id <= 100; insert into full_bag values (%[1]d, 'r')`, round))
			if round > 0 {
				r.fence()
			}
			must(t, stop())
			r.exec(fmt.Sprintf(`update item set name = 'down %d' where id <= 50`, round))
		}
		_, stop := r.start()
		r.fence()
		got := r.same("public", "item")
		if got.reads < 1000-100 || got.reads > 1000 {
			t.Errorf("%d rows of the snapshot, want each of 1,000 at most once", got.reads)
		}
		updates := 0
		for _, e := range got.events {
			if strings.HasPrefix(e, "u ") {
				updates++
			}
		}
		if want := 4*100 + 4*50; updates > want {
			t.Errorf("%d updates in the topic, at most %d were made", updates, want)
		}
		r.same("public", "full_bag")
		must(t, stop())
	})
}

func TestIdentityRaisedWhileRunning(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		r := newRig(t, major, kafkatest.Fake(t), tables+`
			create table leafy (id int, at date) partition by range (at);
			create table leafy_1 partition of leafy for values from ('2024-01-01') to ('2025-01-01');
			create table leafy_2 partition of leafy default;`)
		r.exec(`insert into bag select i, 'v' from generate_series(1, 100) i; insert into nothing select i, 'v' from generate_series(1, 100) i;
			insert into leafy select i, '2024-12-01'::date + i from generate_series(1, 100) i`)
		c, stop := r.start()
		r.fence()
		r.exec(`delete from bag where k <= 10; delete from nothing where id <= 10; update leafy set id = id + 1000 where id <= 10`)
		r.exec(`alter table bag replica identity full; alter table nothing replica identity full;
			alter table leafy replica identity full; alter table leafy_1 replica identity full; alter table leafy_2 replica identity full`)
		waitLevel(t, c, "public.bag", "public.nothing", "public.leafy")
		r.exec(`delete from bag where k <= 20; update nothing set v = 'u' where id <= 20; delete from nothing where id = 30; delete from leafy where id <= 20`)
		r.fence()
		r.same("public", "bag")
		r.same("public", "nothing")
		r.same("public", "leafy")
		// A partition made now has no identity: the application's statements must work all the same.
		r.exec(`create table leafy_3 partition of leafy for values from ('2030-01-01') to ('2031-01-01');
			insert into leafy values (5000, '2030-06-01'); update leafy set id = 5001 where id = 5000; delete from leafy where id = 5001`)
		must(t, stop())
	}
}

func waitLevel(t *testing.T, c *Capture, names ...string) {
	t.Helper()
	eventually(t, "tables are captured whole", func() bool {
		raised := 0
		for _, one := range c.Status().Tables {
			for _, name := range names {
				if one.Table == name && one.Level == "all" && one.State == "streaming" {
					raised++
				}
			}
		}
		return raised == len(names)
	})
}
