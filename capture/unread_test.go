package capture

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// TestForeignPartitionAway: a partition is a foreign table whose server does not answer. It ended every session of capture, for all tables.
func TestForeignPartitionAway(t *testing.T) {
	for _, away := range []bool{true, false} {
		t.Run(fmt.Sprintf("at the start %t", away), func(t *testing.T) {
			r := newRig(t, 0, kafkatest.Fake(t), `create table root (id int, v text) partition by range (id); create table near partition of root for values from (0) to (100);
				alter table near replica identity full; alter table root replica identity full; insert into root select i, 'near' from generate_series(1, 9) i;
				create schema hidden; create table hidden.far (id int, v text); insert into hidden.far values (100, 'far');
				create table other (id int primary key); insert into other values (1)`)
			r.config.Source.Tables = []string{"public.*"}
			here, err := pgx.ParseConfig(r.dsn)
			must(t, err)
			r.exec(fmt.Sprintf(`create extension postgres_fdw; create server far foreign data wrapper postgres_fdw options (host '127.0.0.1', port '%d', dbname '%s');
				create user mapping for current_user server far options (user '%s'); create foreign table far partition of root for values from (100) to (200) server far options (schema_name 'hidden')`, here.Port, here.Database, here.User))
			leave := func() { r.exec(`alter server far options (set port '1')`) }
			if away {
				leave()
			}
			c, stop := r.start()
			before := 0 // events of root
			if !away {
				r.fence()
				before = len(r.same("public", "root").events)
				leave()
				r.request(SnapshotRequest{ID: "again", Tables: []string{"public.root"}})
			}
			told := func() *TroubleStatus { return alarmed(c, trouble.SnapshotFailed, `table "public.root"`) }
			eventually(t, "it is told that the rows cannot be read", func() bool { return told() != nil })
			if a := told(); !strings.Contains(a.Cause, "connect to server") || !strings.Contains(a.Hint, `ALTER TABLE "public"."root" DETACH PARTITION`) || !strings.Contains(a.Means, "all other tables go on") {
				t.Errorf("it says %+v", a)
			}
			r.exec(`insert into other values (2); insert into root values (10, 'meanwhile'); delete from root where id = 1`)
			eventually(t, "the other table goes on", func() bool { return slices.Equal(r.read("public", "other").rows, r.source("public.other")) })
			if !away {
				if now := len(r.read("public", "root").events); now != before {
					t.Errorf("its topic has %d events, and had %d before its rows could not be read", now, before)
				}
			}
			if a := told(); a == nil || c.Status().Trouble != nil {
				t.Errorf("the status says %+v, and %+v", c.Status().Alarms, c.Status().Trouble)
			}
			r.exec(fmt.Sprintf(`alter server far options (set port '%d')`, here.Port))
			eventually(t, "the table is read", func() bool { return r.tableProgress("public.root").Done })
			r.fence()
			r.same("public", "root")
			eventually(t, "nothing is said of it any more", func() bool { return len(c.Status().Alarms) == 0 })
			must(t, stop())
		})
	}
}

// TestReadIsCancelled: somebody cancels a statement that reads rows. The session ended, and the stream of all tables with it.
func TestReadIsCancelled(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table item (id int primary key); insert into item select generate_series(1, 250); create table other (id int primary key)`)
	c, stop := r.start()
	r.fence()
	locker := r.connect()
	_, err := locker.Exec(t.Context(), `begin; lock table item in access exclusive mode`)
	must(t, err)
	r.request(SnapshotRequest{ID: "again", Tables: []string{"public.item"}})
	eventually(t, "the read is cancelled", func() bool {
		r.exec(`select pg_cancel_backend(pid) from pg_stat_activity where application_name like 'tributary snapshot%' and wait_event_type = 'Lock' and datname = current_database()`)
		return alarmed(c, trouble.SnapshotFailed, `table "public.item"`) != nil
	})
	r.exec(`insert into other values (2)`)
	eventually(t, "the other table goes on", func() bool { return slices.Equal(r.read("public", "other").rows, r.source("public.other")) })
	_, err = locker.Exec(t.Context(), `commit`)
	must(t, err)
	r.fence()
	r.same("public", "item")
	eventually(t, "nothing is said of it any more", func() bool { return len(c.Status().Alarms) == 0 })
	must(t, stop())
}
