package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/sink"
)

const pagila = "../../../shared/data/pagila"

var pagilaTables = []string{
	"actor", "address", "category", "city", "country", "customer", "film", "film_actor", "film_category", "inventory",
	"language", "payment", "rental", "staff", "store",
}

// TestPagila consolidates Pagila from a server of each major version into one warehouse, told apart by sid, while
// each source is written to: first as it is, where country and payment have no usable replica identity; then after
// the statements that capture itself suggests, given while it runs.
func TestPagila(t *testing.T) {
	if _, err := os.Stat(filepath.Join(pagila, "schema.sql")); err != nil {
		t.Skip("Pagila is not here: it is material of the project's workplace, not part of it")
	}
	kafka := kafkatest.Fake(t)
	registry := kafkatest.Registry(t)
	warehouse := pgtest.Database(t, pgtest.Shared(t, 17))
	var sources []*source
	for _, major := range []int{14, 15, 16, 17, 18} {
		sources = append(sources, newPagilaSource(t, major, kafka, registry))
	}
	// A group is a copy of the data: it writes the schema of its name.
	start := func(group string) {
		startGroup(t, kafka, registry, warehouse, group, fmt.Sprintf(`{from: "public.*", to: "%s.{table}", sid: sid}`, group))
	}
	start("pagila")
	dwh, err := postgres.Connect(t.Context(), warehouse, "oracle")
	must(t, err)
	t.Cleanup(func() { _ = dwh.Close(context.Background()) })
	for _, s := range sources {
		s.startCapture(t)
	}

	// As it is: everything arrives of 13 tables, and INSERT of the two others.
	work(t, sources, 150)
	fence(t, dwh, "pagila", sources, "as it is")
	for _, s := range sources {
		for _, table := range pagilaTables {
			compare(t, s, dwh, "pagila", table)
		}
		if got := s.levels(); !slices.Equal(got, []string{"public.country", "public.payment"}) {
			t.Errorf("%s: insert-only are %v, want country and payment", s.name, got)
		}
		s.applicationWorks(t)
	}

	// After the statements that help.
	for _, s := range sources {
		s.help(t)
	}
	work(t, sources, 100)
	for _, s := range sources {
		s.applicationWorks(t)
		exec(t, s.conn, `update public.country set country = country || '!' where country_id % 5 = 0`)
		exec(t, s.conn, `delete from public.payment where payment_id % 7 = 0`)
		exec(t, s.conn, `update public.payment set amount = amount + 1 where payment_id % 5 = 0`)
	}
	fence(t, dwh, "pagila", sources, "helped")
	for _, s := range sources {
		for _, table := range pagilaTables {
			compare(t, s, dwh, "pagila", table)
		}
	}

	// While their tables are altered, each at its own pace.
	var altering sync.WaitGroup
	for _, s := range sources {
		conn := connect(t, s.dsn)
		altering.Go(func() {
			for _, sql := range alterShop {
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Errorf("%s: %s: %v", s.name, sql, err)
				}
			}
		})
	}
	work(t, sources, 100)
	altering.Wait()
	work(t, sources, 30)
	fence(t, dwh, "pagila", sources, "altered")
	rows := 0
	for _, s := range sources {
		for _, table := range pagilaTables {
			rows += compare(t, s, dwh, "pagila", table)
		}
	}
	t.Logf("%d tables, %d rows equal", len(sources)*len(pagilaTables), rows)

	// The topics alone rebuild the warehouse.
	start("rebuilt")
	fence(t, dwh, "rebuilt", sources, "rebuilt")
	for _, s := range sources {
		for _, table := range pagilaTables {
			compare(t, s, dwh, "rebuilt", table)
		}
	}
}

// source is a database with a capture.
type source struct {
	name    string
	dsn     string
	conn    *pgx.Conn
	config  capture.Config
	capture *capture.Capture
}

func newPagilaSource(t *testing.T, major int, kafka kafkatest.Cluster, registry string) *source {
	t.Helper()
	dsn := pgtest.Database(t, pgtest.New(t, pgtest.Options{Major: major}))
	loader := connect(t, dsn)
	// JSON_TABLE and transaction_timeout came with 17; see the data's README.
	load(t.Context(), t, loader, filepath.Join(pagila, "schema.sql"), "transaction_timeout", "films_per_customer_rental", "JSON_TABLE")
	load(t.Context(), t, loader, filepath.Join(pagila, "data.sql"))
	return newSource(t, fmt.Sprintf("pg%d", major), dsn, kafka, registry)
}

// newSource configures a capture of all tables in the schema public of a database.
func newSource(t *testing.T, name, dsn string, kafka kafkatest.Cluster, registry string) *source {
	t.Helper()
	s := &source{name: name, dsn: dsn, conn: connect(t, dsn)}
	must(t, config.Decode("capture.yaml", []byte(fmt.Sprintf(`
source: {name: %s, dsn: %q, tables: ["public.*"], refresh: 300ms, heartbeat: 1s}
snapshot: {workers: 2, chunk_rows: 2000}
kafka: {brokers: [%s]}
registry: {url: %q}
http: {listen: "127.0.0.1:0"}
`, s.name, s.dsn, strings.Join(kafka.Addrs(), ","), registry)), &s.config))
	return s
}

func quiet() *slog.Logger {
	level := slog.LevelError
	if testing.Verbose() {
		level = slog.LevelWarn
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// startCapture runs a capture until stop, or the end of the test.
func (s *source) startCapture(t *testing.T) (stop func()) {
	t.Helper()
	var err error
	s.capture, err = capture.New(s.config, capture.Options{}, quiet())
	must(t, err)
	stop = run(t, "capture "+s.name, s.capture.Run)
	eventually(t, s.name+" streams", func() bool { return s.capture.Status().State != "starting" })
	return stop
}

// startGroup starts the only sink of a group, with the rules, until stop or the end of the test.
func startGroup(t *testing.T, kafka kafkatest.Cluster, registry, warehouse, group, rules string, lines ...string) (stop func()) {
	t.Helper()
	var cfg sink.Config
	must(t, config.Decode("sink.yaml", fmt.Appendf(nil, `
group: %s
warehouse: {dsn: %q, connections: 3}
kafka: {brokers: [%s]}
registry: {url: %q}
refresh: 200ms
http: {listen: "127.0.0.1:0"}
tables: [%s]
%s
`, group, warehouse, strings.Join(kafka.Addrs(), ","), registry, rules, strings.Join(lines, "\n")), &cfg))
	k, err := sink.New(cfg, quiet())
	must(t, err)
	return run(t, "sink", k.Run)
}

// run runs a service until stop, or the test's end, which it must reach without an error.
func run(t *testing.T, name string, service func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(time.Minute):
			t.Errorf("%s does not stop", name)
		}
	})
	t.Cleanup(stop)
	return stop
}

// patience is how long eventually waits.
var patience = 3 * time.Minute

// eventually polls until ok, or fails the test.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited too long until %s", what)
		case <-tick.C:
		}
	}
}

// levels names the tables that are captured for INSERT and TRUNCATE only.
func (s *source) levels() []string {
	var names []string
	for _, table := range s.capture.Status().Tables {
		if table.Level == "insert" {
			names = append(names, table.Table)
		}
	}
	return names
}

// help runs the statements that the status suggests and waits until they have been noticed.
func (s *source) help(t *testing.T) {
	t.Helper()
	for _, table := range s.capture.Status().Tables {
		if table.Help != "" {
			exec(t, s.conn, table.Help)
		}
	}
	eventually(t, s.name+" captures all tables whole", func() bool { return len(s.levels()) == 0 })
}

// applicationWorks proves that UPDATE and DELETE are refused on no table and no partition, because of us.
func (s *source) applicationWorks(t *testing.T) {
	t.Helper()
	rows, err := s.conn.Query(t.Context(), `select format('%I.%I', n.nspname, c.relname), a.attname::text
		from pg_class c join pg_namespace n on n.oid = c.relnamespace
		join lateral (select attname from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped and attgenerated = '' order by attnum limit 1) a on true
		where n.nspname = 'public' and c.relkind in ('r', 'p')`)
	must(t, err)
	pairs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ A, B string }])
	must(t, err)
	if len(pairs) < 23 {
		t.Fatalf("%s: %d tables and partitions, want all 23", s.name, len(pairs))
	}
	for _, p := range pairs {
		for _, sql := range []string{fmt.Sprintf("update %s set %s = %[2]s", p.A, pgx.Identifier{p.B}.Sanitize()), "delete from " + p.A} {
			tx, err := s.conn.Begin(t.Context())
			must(t, err)
			_, err = tx.Exec(t.Context(), `set local session_replication_role = replica`) // foreign keys are not the matter here
			must(t, err)
			if _, err := tx.Exec(t.Context(), sql); err != nil {
				t.Errorf("%s: %s: %v", s.name, sql, err)
			}
			must(t, tx.Rollback(t.Context()))
		}
	}
}

// work writes to all sources at once: what a shop does, n times.
func work(t *testing.T, sources []*source, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for i, s := range sources {
		wg.Add(1)
		go func() {
			defer wg.Done()
			random := rand.New(rand.NewPCG(uint64(i), uint64(n))) //nolint:gosec // a workload that can be repeated
			for range n {
				sql := shop[random.IntN(len(shop))]
				if _, err := s.conn.Exec(t.Context(), strings.ReplaceAll(sql, "?", fmt.Sprint(1+random.IntN(500)))); err != nil {
					t.Errorf("%s: %s: %v", s.name, sql, err)
					return
				}
			}
		}()
	}
	wg.Wait()
}

// shop is the workload; ? is a number from 1 to 500.
var shop = []string{
	`insert into public.rental (inventory_id, customer_id, staff_id, rental_period) values (?, ?, 1, tsrange(now()::timestamp, null))`,
	`update public.rental set rental_period = tsrange(lower(rental_period), lower(rental_period) + interval '3 days') where rental_id = ?`,
	`insert into public.payment (customer_id, staff_id, rental_id, amount, payment_date) values (?, 1, ?, 4.99, '2007-03-01'::date + ?)`,
	`update public.customer set email = email || '.new', activebool = not activebool where customer_id = ?`,
	`update public.film set description = description || ' again', special_features = array['x', null, 'y"z'] where film_id = ?`,
	`update public.film set rating = 'NC-17', release_year = 2000 + ? % 100 where film_id = ?`,
	`delete from public.rental where rental_id = ? + 10000 and not exists (select 1 from public.payment p where p.rental_id = rental.rental_id)`,
	`delete from public.film_actor where film_id = ?`,
	`insert into public.film_category (film_id, category_id) values (?, 1 + ? % 16) on conflict do nothing`,
	`update public.film_category set category_id = 17 - category_id where film_id = ? and category_id <> 8 and not exists (select 1 from public.film_category o where o.film_id = film_category.film_id and o.category_id = 17 - film_category.category_id)`,
	`begin; update public.inventory set last_update = now() where inventory_id <= ?; update public.actor set first_name = lower(first_name) where actor_id = ? % 200; rollback`,
	`begin; update public.inventory set last_update = now() where inventory_id <= ?; update public.actor set first_name = initcap(first_name) where actor_id = ? % 200; commit`,
	`insert into public.country (country) values ('Country ?')`,
	`update public.staff set picture = decode(repeat('00ff', ?), 'hex') where staff_id = 1`,
}

// alterShop alters what the workload does not name.
var alterShop = []string{
	`alter table public.customer add loyalty int default 3`,
	`update public.customer set loyalty = loyalty + customer_id where customer_id % 7 = 0`,
	`alter table public.address rename phone to telephone`,
	`update public.address set telephone = telephone || '-1' where address_id % 10 = 0`,
	`alter table public.address drop address2`,
	`alter table public.payment add tip numeric(5,2)`,
	`update public.payment set tip = 1 where payment_id % 9 = 0`,
	`alter table public.rental add seen float8 default random()`,
	`alter table public.customer alter loyalty type int8`,
	`alter table public.city add mayor text`,
	`update public.city set mayor = 'M. ' || city where city_id % 3 = 0`,
	`alter table public.store add opened timestamptz default clock_timestamp()`,
}

// fence waits until everything that the sources have committed is in the warehouse, snapshots included.
func fence(t *testing.T, dwh *pgx.Conn, group string, sources []*source, id string) {
	t.Helper()
	for _, s := range sources {
		eventually(t, s.name+" has read all tables", func() bool {
			st := s.capture.Status()
			return st.Snapshot.Tables > 0 && st.Snapshot.TablesDone == st.Snapshot.Tables
		})
		exec(t, s.conn, `select pg_logical_emit_message(true, 'tributary', $1)`, fmt.Sprintf(`{"fence": %q}`, id))
	}
	for _, s := range sources {
		tell(t, s.name, dwh)
		eventually(t, "the fence of "+s.name+" is reached", func() bool {
			return scalar[bool](t, dwh, `select coalesce((select $3 = any(fences) from tributary.progress where grp = $1 and source = $2), false)`, group, s.name, id)
		})
	}
}

// compare fails the test unless the warehouse holds exactly the source's rows of a table under its sid, and gives how
// many they are. Columns that the warehouse does not have (generated ones) are left out.
func compare(t *testing.T, s *source, dwh *pgx.Conn, group, table string) int {
	t.Helper()
	columns := scalar[[]string](t, dwh, `select array_agg(attname::text order by attnum) from pg_attribute
		where attrelid = ($1 || '.' || $2)::regclass and attnum > 0 and not attisdropped and attname <> 'sid'`, group, table)
	there := scalar[[]string](t, s.conn, `select array_agg(attname::text order by attnum) from pg_attribute
		where attrelid = ('public.' || $1)::regclass and attnum > 0 and not attisdropped and attgenerated = ''`, table)
	for _, c := range there {
		if !slices.Contains(columns, c) {
			t.Errorf("%s %s: the warehouse has no column %q", s.name, table, c)
		}
	}
	columns = slices.DeleteFunc(columns, func(c string) bool { return !slices.Contains(there, c) }) // dropped at the source
	var list []string
	for _, c := range columns {
		list = append(list, postgres.Ident(c)+"::text")
	}
	row := "array_to_string(array[" + strings.Join(list, ", ") + "], '|', '<null>')"
	want := texts(t, s.dsn, fmt.Sprintf(`select r from (select %s as r from public.%s) q order by r collate "C"`, row, table))
	got := textsOf(t, dwh, fmt.Sprintf(`select r from (select %s as r from %s.%s where sid = '%s') q order by r collate "C"`, row, group, table, s.name))
	if len(got) != len(want) {
		t.Errorf("%s %s: %d rows in the warehouse, %d at the source", s.name, table, len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Errorf("%s %s: warehouse\n  %.300s\nsource\n  %.300s", s.name, table, got[i], want[i])
			break
		}
	}
	return len(want)
}

// texts queries under the pinned settings.
func texts(t *testing.T, dsn, sql string) []string {
	t.Helper()
	conn, err := postgres.Connect(t.Context(), dsn, "oracle")
	must(t, err)
	defer conn.Close(t.Context())
	return textsOf(t, conn, sql)
}

func textsOf(t *testing.T, conn *pgx.Conn, sql string) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	must(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	return list
}

// tell says, if the test fails, what stands between the source and the warehouse.
func tell(t *testing.T, source string, dwh *pgx.Conn) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for what, sql := range map[string]string{
			"behind": `select format('%s/%s needs %s has %s', p.topic, p.partition, max(p.next_offset), max(c.next_offset)) from tributary.milestone_part p
				join tributary.checkpoint c using (grp, topic, partition) where source = $1 and p.next_offset > c.next_offset group by p.topic, p.partition`,
			"quarantined": `select format('%s: %s', topic, message) from tributary.quarantine where source = $1`,
			"running":     `select format('%s %s %s: %s', now() - query_start, state, wait_event, query) from pg_stat_activity where state <> 'idle' and pid <> pg_backend_pid() and $1 <> ''`,
		} {
			rows, err := dwh.Query(context.Background(), sql, source)
			if err == nil {
				var list []string
				list, err = pgx.CollectRows(rows, pgx.RowTo[string])
				t.Logf("%s %s: %s", source, what, strings.Join(list, "\n"))
			}
			if err != nil {
				t.Logf("%s %s: %v", source, what, err)
			}
		}
	})
}
