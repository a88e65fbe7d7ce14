package sink_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
)

// TestMemoryIsBounded: with the warehouse locked, records pile up to the limit and no further, and the status names who has
// the lock, as far as the sink's role may see it.
func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t)
	w.cfg.Batch.Memory = 4 << 20
	w.cfg.Batch.Bytes = 1 << 20
	database := w.conn.Config().Database
	role := postgres.Ident("sink of " + database)
	for _, sql := range []string{`CREATE ROLE ` + role + ` LOGIN`, `GRANT CREATE, TEMPORARY ON DATABASE ` + postgres.Ident(database) + ` TO ` + role, `GRANT USAGE, CREATE ON SCHEMA public TO ` + role} {
		if _, err := w.conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	as, err := url.Parse(w.dsn)
	if err != nil {
		t.Fatal(err)
	}
	as.User = url.User("sink of " + database)
	w.cfg.Warehouse.DSN = config.Secret(as.String())
	shop := w.source("shop")
	r := relation("t", "id integer key", "big text")
	big := strings.Repeat("x", 10_000)
	shop.tx(ins(r, 0, big))
	s := w.start(w.cfg)
	w.complete(shop)
	lock := w.connect(w.dsn)
	for _, sql := range []string{`SET application_name = 'a person'; BEGIN`, `LOCK TABLE public.t`} {
		if _, err := lock.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		shop.tx(many(100, func(j int) event { return ins(r, 1+100*i+j, big) })...)
	}
	w.eventually(true, func() any { return s.Status().BufferBytes > 1<<20 })
	most := int64(0)
	for range 50 {
		most = max(most, s.Status().BufferBytes)
		time.Sleep(10 * time.Millisecond)
	}
	if limit := int64(w.cfg.Batch.Memory); most > limit {
		t.Errorf("%d bytes held", most)
	}
	holder := fmt.Sprintf("a lock held by pid %d (a person)", lock.PgConn().PID())
	w.eventually("waiting "+holder, func() any { st := s.Status(); return st.Tables[0].State + " " + st.Tables[0].WaitingOn })
	told := func(why string) func() any {
		return func() any {
			st := s.Status()
			i := slices.IndexFunc(st.Needs, func(n service.Need) bool { return n.Code == trouble.LockWait })
			if i < 0 || st.Needs[i].Subject != "public.t" || !strings.HasPrefix(st.Headline, "is waiting for "+holder+": 1 of 1 table") || !strings.Contains(st.Needs[i].Why+".", why) {
				return fmt.Sprintf("%q, %+v", st.Headline, st.Needs)
			}
			return "so"
		}
	}
	w.reported("so", told(" is only shown to a role with pg_read_all_stats."), shop)
	if _, err := w.conn.Exec(t.Context(), `GRANT pg_read_all_stats TO `+role); err != nil {
		t.Fatal(err)
	}
	w.reported("so", told("is idle in transaction, its newest statement is LOCK; its transaction began "), shop)
	if _, err := lock.Exec(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT count(*) FROM public.t`, "2001")
}

// TestMemoryWhileTheWarehouseIsAway: records keep coming, of several tables; what is held stays within the limit, and
// when the warehouse is back all of it is fetched and written.
func TestMemoryWhileTheWarehouseIsAway(t *testing.T) {
	w := newWorld(t)
	w.cfg.Batch.Memory = 4 << 20
	w.cfg.Batch.Bytes = 1 << 20
	cluster := pgtest.New(t, pgtest.Options{})
	if err := cluster.CreateDatabase(t.Context(), "dwh"); err != nil {
		t.Fatal(err)
	}
	w.dsn = cluster.DSN("dwh")
	w.cfg.Warehouse.DSN = config.Secret(w.dsn)
	w.conn = w.connect(w.dsn)
	shop := w.source("shop")
	var tables []*schema.Relation
	for i := range 6 {
		tables = append(tables, relation(fmt.Sprint("t", i), "id integer key", "big text"))
		shop.tx(ins(tables[i], 0, "first"))
	}
	s := w.start(w.cfg)
	w.complete(shop)
	if err := cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	const rows = 4000
	most, full := int64(0), 0
	for i := 1; i <= rows; i += 100 {
		// Small ones and large ones, so that the size of the next is no good guess.
		big := strings.Repeat("x", []int{10, 1000, 20_000}[i/100%3])
		shop.tx(many(100, func(j int) event { return ins(tables[(i+j)%6], i+j, big) })...)
		held := s.Status().BufferBytes
		most = max(most, held)
		if held > 3<<20 {
			full++
		}
	}
	if limit := int64(w.cfg.Batch.Memory); most > limit || full == 0 {
		t.Errorf("%d bytes held at most, limit %d; full %d times", most, limit, full)
	}
	if st := s.Status(); st.WarehouseUp || len(st.Waiting) == 0 {
		t.Errorf("got %+v", st)
	}
	if err := cluster.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.conn = w.connect(w.dsn)
	w.complete(shop)
	w.rows(`SELECT (SELECT count(*) FROM public.t0) + (SELECT count(*) FROM public.t1) + (SELECT count(*) FROM public.t2)
		+ (SELECT count(*) FROM public.t3) + (SELECT count(*) FROM public.t4) + (SELECT count(*) FROM public.t5)`, fmt.Sprint(rows+6))
}

// What must wait for a progress record filled the memory, and the record was not fetched for lack of room.
func TestMemoryFullOfWhatWaitsForProgress(t *testing.T) {
	w := newWorld(t)
	w.cfg.Batch.Memory = 4 << 20
	w.cfg.Batch.Bytes = 1 << 20
	shop := w.source("shop")
	r := relation("t", "id integer key", "note text", "big text")
	shop.table(r, 8)
	shop.tables = []record.TableProgress{{Schema: "public", Table: "t", Level: "all"}}
	shop.tx(ins(r, 0, "a", "BIG"))
	s := w.start(w.cfg)
	w.complete(shop)
	shop.quiet = true
	const unread, rows = 64, 600
	shop.tx(many(unread, func(i int) event { return upd(r, 1000+i, "b", keep) })...) // their rows are still to be read
	shop.tx(many(rows, func(i int) event { return ins(r, 10_000+i, "c", strings.Repeat("x", 20_000)) })...)
	w.eventually(true, func() any { return s.Status().BufferBytes > 5<<19 })
	shop.quiet = false
	shop.tx(ins(r, 1, "a", "BIG"))
	w.complete(shop)
	w.rows(`SELECT count(*), count(*) FILTER (WHERE note = 'c') FROM public.t`, fmt.Sprintf("%d|%d", 2+rows, rows))
}
