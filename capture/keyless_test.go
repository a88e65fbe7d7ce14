package capture

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

// While the rows of a table without key waited for a reader, its events went out before them: a DELETE of a row that
// the reader of the topic never had, which holds the table at a sink.
func TestTableWithoutKeyWaitsForAReader(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		r := newRig(t, major, kafkatest.Fake(t), `
			create table a (id int primary key, v text); insert into a select i, 'v' || i from generate_series(1, 100000) i;
			create table z (id int primary key, v text); insert into z select * from a;
			create table bag (k int, v text); alter table bag replica identity full;
			insert into bag select i, 'same' from generate_series(1, 300) i`)
		r.config.Snapshot.Workers, r.config.Snapshot.ChunkRows = 1, 1000
		_, stop := r.start()
		for i := range 100 {
			r.exec(fmt.Sprintf(`delete from bag where k = %d; update bag set v = 'other' where k = %d; insert into bag values (%[1]d, 'new')`, i, 200+i))
		}
		r.fence()
		if got := r.same("public", "bag"); !strings.HasPrefix(got.events[0], "t ") {
			t.Errorf("the topic begins with %q, want the truncate behind which the rows come", got.events[0])
		}
		must(t, stop())
	}
}

// A column of a table without key that was dropped, or got another type, while a reader waited for the table's lock stopped capture, for every
// table: the snapshot counted already when the server refused the statement.
func TestTableWithoutKeyIsAlteredBeforeItsRead(t *testing.T) {
	for _, alter := range []string{`drop extra`, `alter v type bytea using decode(md5(v), 'hex')`, `add c text; insert into bag values (2000, 'came', 1, 'with c')`} {
		r := newRig(t, 0, kafkatest.Fake(t), `
			create table bag (k int, v text, extra int); alter table bag replica identity full;
			insert into bag select i, 'same', i from generate_series(1, 300) i`)
		_, stop := r.start()
		r.fence()
		altering, err := pgx.Connect(t.Context(), r.dsn)
		must(t, err)
		defer altering.Close(context.Background()) //nolint:errcheck // the test is over
		_, err = altering.Exec(t.Context(), `begin; alter table bag `+alter)
		must(t, err)
		r.request(SnapshotRequest{ID: "again", Tables: []string{"public.bag"}, Reload: true})
		eventually(t, "the reader waits", func() bool {
			var waits bool
			must(t, r.conn.QueryRow(t.Context(), `select exists (select from pg_stat_activity where query like 'lock table%bag%' and wait_event_type = 'Lock')`).Scan(&waits))
			return waits
		})
		_, err = altering.Exec(t.Context(), `commit`)
		must(t, err)
		r.exec(`delete from bag where k < 10; insert into bag (k) values (1000)`)
		r.fence()
		r.same("public", "bag")
		must(t, stop())
	}
}
