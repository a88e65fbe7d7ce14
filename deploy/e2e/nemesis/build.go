package nemesis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// build starts the servers and the proxies, makes the tables, and prepares the services.
func (m *machine) build(ctx context.Context) error {
	source := map[string]string{
		"fsync": "on", "full_page_writes": "on", // servers are killed
		"wal_sender_timeout": strconv.Itoa(int(senderLimit.Milliseconds())), "deadlock_timeout": "200",
	}
	warehouse := map[string]string{"fsync": "on", "full_page_writes": "on", "max_connections": "60", "deadlock_timeout": "200"}
	if err := m.startServers(ctx, source, warehouse); err != nil {
		return err
	}
	if err := m.createTables(ctx); err != nil {
		return err
	}
	m.load = &load{
		dsn: as(m.source, owner), seed: m.Seed, rows: m.Rows, pace: m.Pace, large: m.Large, largeEvery: m.LargeEvery,
		failed: func(err error) { m.tell("load: %v", postgres.Describe(err)) },
	}
	m.load.nextLarge.Store(time.Now().Add(m.LargeEvery).UnixNano()) // the first rows are still to be read
	return m.configure()
}

// startServers starts both servers, each with its roles and a proxy, and the checker that looks at them.
func (m *machine) startServers(ctx context.Context, source, warehouse map[string]string) (err error) {
	if m.source, err = pgtest.Start(ctx, pgtest.Options{Settings: source}); err != nil {
		return err
	}
	if m.warehouse, err = pgtest.Start(ctx, pgtest.Options{Settings: warehouse}); err != nil {
		return err
	}
	err = errors.Join(execute(ctx, m.source.DSN("postgres"), sourceRoles), execute(ctx, m.warehouse.DSN("postgres"), warehouseRole))
	if err != nil {
		return fmt.Errorf("make roles: %w", err)
	}
	if m.sourceNet, err = newProxy(net.JoinHostPort("127.0.0.1", strconv.Itoa(m.source.Port()))); err != nil {
		return fmt.Errorf("start proxy: %w", err)
	}
	if m.warehouseNet, err = newProxy(net.JoinHostPort("127.0.0.1", strconv.Itoa(m.warehouse.Port()))); err != nil {
		return fmt.Errorf("start proxy: %w", err)
	}
	m.checker, err = newChecker(m)
	return err
}

func (m *machine) createTables(ctx context.Context) error {
	script := ledgerSQL + schemaSQL + transferSQL
	for i := range tables {
		script += tables[i].createSQL(m.Rows) + tables[i].triggerSQL()
	}
	if err := execute(ctx, as(m.source, owner), script); err != nil {
		return fmt.Errorf("make tables: %w", err)
	}
	return nil
}

// The services have no more rights than docs/security.md gives them, and the application, which owns the tables, is none of
// a superuser either. What disturbs and what compares may do everything.
const (
	owner       = "shop_owner"
	ofCapture   = "tributary_capture"
	ofSink      = "tributary_sink"
	sourceRoles = `CREATE ROLE shop_owner LOGIN; ALTER DATABASE postgres OWNER TO shop_owner;
		CREATE ROLE tributary_capture LOGIN REPLICATION; GRANT CONNECT, CREATE ON DATABASE postgres TO tributary_capture; GRANT shop_owner TO tributary_capture`
	warehouseRole = `CREATE ROLE tributary_sink LOGIN; GRANT CONNECT, CREATE, TEMPORARY ON DATABASE postgres TO tributary_sink`
)

// as gives the address of a server for a role.
func as(c *pgtest.Cluster, role string) string {
	return strings.Replace(c.DSN("postgres"), "postgres@", role+"@", 1)
}

func execute(ctx context.Context, dsn, sql string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

// exactlyOnce is what Options.Delivery is by default.
const exactlyOnce = "exactly-once"

// configure writes the services' configurations. Everything is small, so that what happens at a limit happens often:
// large transactions are cut, chunks are many, batches are several.
func (m *machine) configure() error {
	overrides := []string{fmt.Sprintf("{table: public.%s, partitions: %d}", latePattern, late("").partitions)}
	for _, t := range tables {
		overrides = append(overrides, fmt.Sprintf("{table: public.%s, partitions: %d}", t.name, t.partitions))
	}
	brokers := strings.Join(m.Broker.Addrs(), ", ")
	capture := fmt.Sprintf(`
source: {name: %s, dsn: %q, tables: ["public.*"], refresh: 500ms, heartbeat: 1s, wal_budget: %d, catch_up: 128KiB}
snapshot: {workers: 2, chunk_rows: 200, chunk_bytes: 128KiB}
publish: {delivery: %s, linger: %s, bytes: 128KiB}
kafka: {brokers: [%s]}
topics: {overrides: [%s]}
registry: {url: %q}
http: {listen: "127.0.0.1:0"}
`, sourceName, through(m.source, m.sourceNet, ofCapture), walBudget, cmp.Or(m.Delivery, exactlyOnce), cmp.Or(m.Linger, 50*time.Millisecond), brokers, strings.Join(overrides, ", "), m.Registry)
	configs := map[string]string{"capture": capture}
	for i, name := range []string{"sink", "whole", "kept"} {
		rules := fmt.Sprintf(`{from: "public.*", to: "%s.{table}"}`, targets[i].schema)
		if name == "kept" {
			rules = m.keptRules()
		}
		configs[name] = fmt.Sprintf(`
group: %s
warehouse: {dsn: %q, connections: 3}
kafka: {brokers: [%s]}
registry: {url: %q}
batch: {rows: 1000, bytes: 1MiB, memory: 4MiB}
refresh: 500ms
session: %s
http: {listen: "127.0.0.1:0"}
tables: [%s]
sources: [{name: %s, consistency: %s}]
`, targets[i].group, through(m.warehouse, m.warehouseNet, ofSink), brokers, m.Registry, sinkSession, rules, sourceName, []string{"table", "source", "table"}[i])
	}
	return m.prepare(configs, "capture-a", "capture-b", "sink-a", "sink-b", "sink-c", "whole-a", "whole-b", "kept-a", "kept-b")
}

// prepare writes the configurations, and makes the services that are to have them, none of them running: capture-a has the
// one called capture.
func (m *machine) prepare(configs map[string]string, names ...string) error {
	for name, text := range configs {
		if err := os.WriteFile(m.path(name+".yaml"), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	for _, name := range names {
		config, _, _ := strings.Cut(name, "-")
		s := &service{m: m, name: name, path: m.Programs.Sink, log: m.path(name + ".log"), args: []string{"run", "-c", m.path(config + ".yaml")}}
		if config == "capture" {
			s.path = m.Programs.Capture
		}
		m.services[name] = s
	}
	return nil
}

// through gives the address of a server for a role, by way of its proxy.
func through(c *pgtest.Cluster, p *proxy, role string) string {
	return strings.Replace(as(c, role), net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port())), p.addr(), 1)
}

// tearDown stops everything that build and the run have started, and keeps the servers' logs.
func (m *machine) tearDown(ctx context.Context) error {
	for _, s := range m.services {
		s.resume()
	}
	for _, name := range slices.Sorted(maps.Keys(m.services)) { // captures first
		m.services[name].stop()
	}
	var errs []error
	for _, p := range []*proxy{m.sourceNet, m.warehouseNet} {
		if p != nil {
			p.close()
		}
	}
	if m.checker != nil {
		m.checker.close()
	}
	for name, c := range map[string]*pgtest.Cluster{"source": m.source, "warehouse": m.warehouse} {
		if c == nil {
			continue
		}
		errs = append(errs, keep(c.Log(), m.path(name+".log")), c.Remove())
	}
	if m.load != nil {
		m.note(func(r *Report) { r.Transactions, r.RolledBack = m.load.committed.Load(), m.load.rolledBack.Load() })
	}
	return errors.Join(append(errs, context.Cause(ctx))...)
}

func keep(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
