package warehouse_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// TestParkedAreCountedOnce: each sink asks each second, and counting hundreds of thousands of rows takes longer than that.
func TestParkedAreCountedOnce(t *testing.T) {
	dsn := pgtest.Database(t, pgtest.Shared(t, 0))
	w := warehouse.New(warehouse.Config{DSN: func() (string, error) { return dsn, nil }, Group: "warehouse", Instance: "x"})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(w.Migrate(t.Context(), warehouse.LockPatience))
	conn, err := pgx.Connect(t.Context(), dsn)
	must(err)
	defer conn.Close(t.Context()) //nolint:errcheck // the test is over
	s := w.Session()
	defer s.Close(t.Context())
	step := func(sql string, want int64) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql)
		must(err)
		counts, err := s.CountParked(t.Context())
		must(err)
		if n := counts["shop.public.t"]["record-invalid"].Records; n != want {
			t.Errorf("%d, want %d, after %s", n, want, sql)
		}
	}
	step(`INSERT INTO tributary.checkpoint (grp, topic, partition, topic_id) VALUES ('warehouse', 'shop.public.t', 0, 'x')`, 0)
	step(`INSERT INTO tributary.parked (grp, topic, partition, "offset", source, table_name, identity, headers, code, message)
		SELECT 'warehouse', 'shop.public.t', 0, i, 'shop', 'public.t', 'x', '{}', 'record-invalid', 'damaged' FROM generate_series(1, 5) i;
		UPDATE tributary.checkpoint SET parked_n = parked_n + 1`, 5)
	step(`DELETE FROM tributary.parked WHERE "offset" = 1`, 5) // by hand: nothing says so, for a while
	s.Close(t.Context())
	step(`SELECT`, 4)
	step(`DELETE FROM tributary.parked WHERE "offset" = 2; UPDATE tributary.checkpoint SET parked_n = parked_n + 1`, 3)
	step(`DELETE FROM tributary.parked; DELETE FROM tributary.checkpoint`, 0)
}
