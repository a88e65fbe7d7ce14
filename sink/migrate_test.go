package sink_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// TestOwnTablesWaitForALock: a sink whose own tables are in somebody's hands says in whose, and goes on when they are free. It
// stands in nobody's way for long meanwhile.
func TestOwnTablesWaitForALock(t *testing.T) {
	t.Parallel() // it waits most of its time
	for name, lock := range map[string]string{
		"another sink makes them": `SELECT pg_advisory_xact_lock(x'747269627574'::bigint)`,
		"they are looked at":      `CREATE SCHEMA tributary; CREATE TABLE tributary.version (version integer NOT NULL); COMMIT; BEGIN; LOCK TABLE tributary.version`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			person := w.connect(w.dsn)
			if _, err := person.Exec(t.Context(), `SET application_name = 'a person'; BEGIN; `+lock); err != nil {
				t.Fatal(err)
			}
			shop := w.source("shop")
			shop.tx(ins(relation("t", "id integer key"), 1))
			s := w.start(w.cfg)
			if got := s.Status(); !strings.HasPrefix(got.Headline, "is starting: ") { // it may be further than connecting already
				t.Errorf("%s: %q", got.State, got.Headline)
			}
			holder := fmt.Sprintf("a lock held by pid %d (a person)", person.PgConn().PID())
			w.eventually(true, func() any { // or it has waited for long already
				return slices.Contains([]string{"is starting: creating its own tables waits", "is waiting"}, strings.Split(s.Status().Headline, " for "+holder)[0])
			})
			if code, text := s.get("/readyz"); code == 200 || !strings.Contains(text, holder) {
				t.Errorf("/readyz: %d %s", code, text)
			}
			w.eventually(true, func() any { return strings.HasPrefix(s.Status().Headline, "is waiting for "+holder+", for ") })
			st := s.Status()
			if n := st.Needs[0]; !st.WarehouseUp || n.Code != trouble.LockWait || n.Do[0].Command != fmt.Sprintf("SELECT pg_terminate_backend(%d);", person.PgConn().PID()) {
				t.Errorf("the warehouse is up %t, %+v", st.WarehouseUp, n)
			}
			if _, err := person.Exec(t.Context(), `COMMIT`); err != nil {
				t.Fatal(err)
			}
			w.complete(shop)
			w.reported(" 0", func() any { st := s.Status(); return fmt.Sprint(st.Step, " ", len(st.Needs)) }, shop)
		})
	}
}

// TestPatienceForALock is that of warehouse.Migrate, which a lock outlasts.
func TestPatienceForALock(t *testing.T) {
	w := newWorld(t)
	wh := w.warehouse("first")
	person := w.connect(w.dsn)
	if _, err := person.Exec(t.Context(), `BEGIN; LOCK TABLE tributary.version`); err != nil {
		t.Fatal(err)
	}
	err := wh.Migrate(t.Context(), warehouse.LockPatience/10)
	if want := fmt.Sprintf("a lock held by pid %d, on tributary.version, is in the way", person.PgConn().PID()); trouble.CodeOf(err) != trouble.LockWait || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
}
