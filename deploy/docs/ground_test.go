package docs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/deploy/local"
	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

// ground is what a page is followed on: a directory with the programs in bin, two empty databases (shop is the source, dwh
// the warehouse; services log in as the roles of security.md, $SOURCE and $WAREHOUSE, for configurations that say so also $SHOP_DSN and $WAREHOUSE_DSN), a broker and a
// registry. Addresses that pages use mean those. "needs" in the front matter asks for something else:
//
//	running shop some tables with rows are there, and capture and sink run on them with shopCapture and shopSink
//	busy shop    the ground that this page shares with others and with the runbooks: running, with more tables and rules, see
//	             busyTables. A page leaves it as it was
//	own source   the source is a server of its own, which the page may turn off and on
//	small disk   the warehouse is on a disk of 64 MiB, in disk of the page's directory: only root can make one
//	no broker    the page starts one
//	minutes      it takes long, and is only run on request
type ground struct {
	t         *testing.T
	dir       string
	source    *pgtest.Cluster
	warehouse *pgtest.Cluster
	other     *pgtest.Cluster // the source's standby, or its successor
	ports     []string        // of broker, registry, capture, sink
	broker    *local.Broker
	brokerAt  local.BrokerConfig
	names     []string          // what here replaces
	here      *strings.Replacer // addresses of the page to those of this run
	there     *strings.Replacer // back again
	shell     *shell
}

// programs builds the programs, once, by the command that the pages tell.
var programs = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("make", "-C", top, "build", "BIN="+binaries).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, out)
	}
	return binaries, nil
})

// binaries is where programs are built, for the time of this process.
var binaries string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var err error
	if binaries, err = os.MkdirTemp("", "tributary-docs-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binaries)
	if err := os.Chmod(binaries, 0o755); err != nil { //nolint:gosec // Postgres' user enters it
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func newGround(t *testing.T, p *Page) *ground {
	t.Helper()
	built, err := programs()
	must(t, err)
	g := &ground{t: t, dir: pgtest.TempDir(t)}
	g.warehouse = pgtest.Shared(t, 0)
	g.source = g.warehouse
	if slices.Contains(p.Needs, "own source") {
		g.source = pgtest.New(t, pgtest.Options{})
	}
	for range 4 {
		address, err := pgtest.FreeAddress()
		must(t, err)
		g.ports = append(g.ports, address)
	}
	ports := g.ports
	g.brokerAt = local.BrokerConfig{Dir: filepath.Join(g.dir, ".broker"), Kafka: ports[0], Registry: ports[1]}
	if !slices.Contains(p.Needs, "no broker") {
		g.startBroker()
		t.Cleanup(g.stopBroker)
	}
	if slices.Contains(p.Needs, "small disk") {
		use := g.makeDisk()
		g.databases(p)
		use()
	} else {
		g.databases(p)
	}
	g.addresses()

	// The page's commands are bin/capture or capture; both find what was built, with ports that are free here.
	bin := filepath.Join(g.dir, "bin")
	must(t, os.Mkdir(bin, 0o755))
	must(t, os.Symlink(absolute(t, filepath.Join(top, "deploy")), filepath.Join(g.dir, "deploy"))) // pages name its files
	for name, script := range map[string]string{
		"capture": fmt.Sprintf("export TRIBUTARY_HTTP_LISTEN=\"${TRIBUTARY_HTTP_LISTEN:-%s}\"\nexec %s/capture \"$@\"\n", ports[2], built),
		"sink":    fmt.Sprintf("export TRIBUTARY_HTTP_LISTEN=\"${TRIBUTARY_HTTP_LISTEN:-%s}\"\nexec %s/sink \"$@\"\n", ports[3], built),
		"local": fmt.Sprintf("verb=$1; shift; [ \"$verb\" = broker ] && set -- --kafka %s --registry %s \"$@\"\nexec %s/local \"$verb\" \"$@\"\n",
			ports[0], ports[1], built),
		// make build has been run; the rest is the Makefile's.
		"make": fmt.Sprintf("exec /usr/bin/env PATH=\"${PATH#*:}\" make -s -f %s/Makefile -o bin/local -o \"$PWD/bin/local\" -o \"$PWD/bin/capture\" -o \"$PWD/bin/sink\" \"$@\"\n", absolute(t, top)),
	} {
		must(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script), 0o755)) //nolint:gosec // it is to be run
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "TRIBUTARY_") || strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "MAKE")
	})
	source := g.here.Replace("postgres://capture@localhost/shop?sslmode=disable")
	warehouse := g.here.Replace("postgres://sink@localhost/dwh?sslmode=disable")
	g.shell = newShell(t, g.dir, append(env,
		"PATH="+bin+":"+os.Getenv("PATH"), "PGSSLMODE=disable", "TZ=UTC", "LC_ALL=C.UTF-8", "TERM=dumb",
		"SOURCE="+source, "WAREHOUSE="+warehouse, "SHOP_DSN="+source, "WAREHOUSE_DSN="+warehouse,
		// Quicker than by default: the pages say what happens, not when.
		"TRIBUTARY_SOURCE_HEARTBEAT=500ms", "TRIBUTARY_SOURCE_REFRESH=500ms", "TRIBUTARY_REFRESH=200ms"))
	switch {
	case slices.Contains(p.Needs, "running shop"):
		g.openShop(shopTables, shopRules)
	case slices.Contains(p.Needs, "busy shop"):
		g.secure()
		g.openShop(shopTables+busyTables, busyRules)
	}
	return g
}

// What most pages of operations begin with.
const (
	shopTables = `
		CREATE TABLE public.customer (id int PRIMARY KEY, name text, email text);
		CREATE TABLE public.orders (id int PRIMARY KEY, customer_id int, total numeric(10,2), status text);
		INSERT INTO public.customer SELECT i, 'customer ' || i, 'c' || i || '@example.org' FROM generate_series(1, 100) i;
		INSERT INTO public.orders SELECT i, i % 100 + 1, i, 'open' FROM generate_series(1, 300) i;`
	shopCapture = `
source:   {name: shop, dsn: "env:SHOP_DSN", tables: ["public.*"]}
kafka:    {brokers: ["localhost:9092"]}
registry: {url: "http://localhost:8081"}
`
	shopSink = `
warehouse: {dsn: "env:WAREHOUSE_DSN"}
kafka:     {brokers: ["localhost:9092"]}
registry:  {url: "http://localhost:8081"}
tables:
`
	shopRules = `
  - {from: "public.*", to: "sales.{table}"}
`
)

// secure gives the ground a registry with TLS and a login, whose address is also that of brokers with TLS: as far as the
// certificate they are alike. The authority is in ca.pem.
func (g *ground) secure() {
	g.t.Helper()
	authority := certtest.New(g.t)
	must(g.t, os.Symlink(authority.File, filepath.Join(g.dir, "ca.pem")))
	url := kafkatest.SecureRegistry(g.t, authority.Issue(g.t, "registry", "localhost", "registry", "kafka").Server(g.t),
		func(user, password string) bool { return user == "capture" && password == "secret" })
	g.here = strings.NewReplacer(append([]string{
		"https://registry:8081", url, "kafka:9093", strings.TrimPrefix(url, "https://"),
		"-u capture ", "-u capture:secret ",
	}, g.names...)...) // curl asks for the password
}

// What runbooks, and pages that need not be alone, speak of beside it.
const (
	busyTables = `
		CREATE TABLE public.order_line (id int PRIMARY KEY, order_id int, article text);
		CREATE TABLE public.document (id int PRIMARY KEY, body text);
		CREATE TABLE public.event (line text);
		CREATE TABLE public.audit_log (line text);
		CREATE TABLE public.person (id int PRIMARY KEY, name text, country text);
		CREATE TABLE public.member (id int PRIMARY KEY, name text);
		CREATE TABLE public.payment (id int PRIMARY KEY, amount int);
		ALTER TABLE public.payment REPLICA IDENTITY FULL;
		INSERT INTO public.order_line VALUES (1, 1, 'apple');
		INSERT INTO public.document VALUES (1, 'short');
		INSERT INTO public.person VALUES (7, 'Ada', 'DE');
		INSERT INTO public.member VALUES (7, 'Ada');
		INSERT INTO public.payment VALUES (7, 10);`
	busyRules = `
  - {from: public.person, to: crm.customer, mode: history, history: {views: true}}
  - {from: public.member, to: dwh.customer, mode: history, history: {from: kvsz_start, to: kvsz_end, deleted: kvsz_deleted}}
  - {from: public.payment, to: audit.orders, mode: log, keep: 12 months}
  - {from: public.orders, to: sales.orders, sid: tenant, filter: "total > 0"}
  - {from: "public.invoice*", to: "sales.{table}", create: false}
  - {from: "public.*", to: "sales.{table}", sid: tenant}
`
)

func (g *ground) openShop(tables, rules string) {
	g.t.Helper()
	g.sql("shop", Block{Info: "sql source"}, tables, nil)
	for name, text := range map[string]string{"capture.yaml": shopCapture, "sink.yaml": shopSink + rules} {
		must(g.t, os.WriteFile(filepath.Join(g.dir, name), []byte(g.here.Replace(text)), 0o644)) //nolint:gosec // no secret is in it
	}
	g.shell.serve("capture", "capture run")
	g.shell.serve("sink", "sink run")
	g.sql("shop", Block{Info: "sql warehouse"}, `SELECT (SELECT count(*) FROM sales.customer) AS customers, (SELECT count(*) FROM sales.orders) AS orders`,
		&Block{Text: " customers | orders\n--+--\n 100 | 300\n(1 row)\n"})
}

func absolute(t *testing.T, dir string) string {
	t.Helper()
	abs, err := filepath.Abs(dir)
	must(t, err)
	return abs
}

// addresses says what the addresses of pages mean here.
func (g *ground) addresses() {
	var here, there []string
	for i, names := range [][]string{
		{"127.0.0.1:9092", "localhost:9092", "kafka:9092"},
		{"127.0.0.1:8081", "localhost:8081", "registry:8081"},
		{"127.0.0.1:9191", "localhost:9191"},
		{"127.0.0.1:9192", "localhost:9192"},
	} {
		for _, name := range names {
			here = append(here, name, g.ports[i])
		}
		there = append(there, g.ports[i], names[0])
	}
	here = append(here, "16/B374D848", "0/1") // reached already: nothing is waited for
	here = append(here, "TO tributary_capture", "TO capture", "ROLE tributary_capture", "ROLE capture", "TO tributary_sink", "TO sink")
	if g.other != nil {
		here = append(here, "capture@localhost/new", fmt.Sprintf("capture@127.0.0.1:%d/shop", g.other.Port()))
	}
	for server, role := range map[*pgtest.Cluster]string{g.source: "capture", g.warehouse: "sink"} {
		here = append(here, role+"@localhost/", fmt.Sprintf("%s@127.0.0.1:%d/", role, server.Port()))
		there = append(there, fmt.Sprintf("@127.0.0.1:%d/", server.Port()), "@localhost/")
	}
	if g.source == g.warehouse {
		here = append(here, "capture@localhost/", fmt.Sprintf("capture@127.0.0.1:%d/", g.source.Port()))
	}
	there = append(there, g.dir+"/", "")
	g.names = here
	g.here, g.there = strings.NewReplacer(here...), strings.NewReplacer(there...)
}

var named = regexp.MustCompile(`postgres://(?:capture|sink)@localhost/([a-z_0-9]+)`)

// databases makes the databases that a page names, empty, and leaves no slot of it behind.
func (g *ground) databases(p *Page) {
	g.t.Helper()
	names := []string{"shop", "dwh"}
	for _, m := range named.FindAllStringSubmatch(p.Text, -1) {
		names = append(names, m[1])
	}
	for _, b := range p.Blocks {
		if b.Kind() == "sql" && b.Word(2) != "" && b.Word(2) != "postgres" {
			names = append(names, b.Word(2))
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	servers := []*pgtest.Cluster{g.source, g.warehouse}
	if g.source == g.warehouse {
		servers = servers[:1]
	}
	for _, server := range servers {
		g.makeDatabases(server, names...)
	}
	g.t.Cleanup(func() {
		g.admin(g.warehouse, func(conn *pgx.Conn) {
			ctx := context.WithoutCancel(g.t.Context())
			_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY($1)`, names)
			must(g.t, err)
			if !eventually(func() bool {
				_, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = ANY($1)`, names)
				return err == nil
			}) {
				g.t.Error("a slot stays")
			}
			for _, name := range names {
				_, err := conn.Exec(ctx, `DROP DATABASE `+pgx.Identifier{name}.Sanitize()+` WITH (FORCE)`)
				must(g.t, err)
			}
		})
	})
}

// makeDatabases makes databases of an owner, and the roles of security.md with what its SQL gives them there.
func (g *ground) makeDatabases(server *pgtest.Cluster, names ...string) {
	g.t.Helper()
	page, err := Read(filepath.Join(top, "docs/security.md"))
	must(g.t, err)
	g.admin(server, func(conn *pgx.Conn) {
		execute := func(sql string) {
			_, err := conn.Exec(g.t.Context(), sql)
			if exists, is := errors.AsType[*pgconn.PgError](err); !is || exists.Code != "42710" {
				must(g.t, err)
			}
		}
		execute(`CREATE ROLE shop_owner LOGIN`)
		for _, name := range names {
			execute(`CREATE DATABASE ` + pgx.Identifier{name}.Sanitize() + ` OWNER shop_owner`)
			for _, b := range page.Blocks {
				if b.Info != "sql source" && b.Info != "sql warehouse" {
					continue
				}
				text := strings.NewReplacer(`"shop"`, pgx.Identifier{name}.Sanitize(), `"dwh"`, pgx.Identifier{name}.Sanitize(), "tributary_capture", "capture", "tributary_sink", "sink").Replace(b.Text)
				for statement := range strings.Lines(text) {
					execute(statement)
				}
			}
		}
	})
}

func (g *ground) admin(server *pgtest.Cluster, do func(*pgx.Conn)) {
	g.t.Helper()
	ctx := context.WithoutCancel(g.t.Context())
	conn, err := pgx.Connect(ctx, server.DSN("postgres"))
	must(g.t, err)
	defer conn.Close(ctx) //nolint:errcheck // the server ends the session either way
	do(conn)
}

// dsn gives the address of a database at a side.
func (g *ground) dsn(side, database string) string {
	switch side {
	case "source":
		return g.source.DSN(cmp.Or(database, "shop"))
	case "standby", "new":
		return g.other.DSN(cmp.Or(database, "shop"))
	default:
		return g.warehouse.DSN(cmp.Or(database, "dwh"))
	}
}

func (g *ground) startBroker() {
	g.t.Helper()
	var err error
	g.broker, err = local.StartBroker(g.brokerAt)
	must(g.t, err)
}

func (g *ground) stopBroker() {
	g.t.Helper()
	must(g.t, g.broker.Close())
}

// do does to the machines what a comment says: "world stop broker", "world start source".
func (g *ground) do(at string, b Block) {
	g.t.Helper()
	switch strings.TrimPrefix(b.Info, "world ") {
	case "stop broker":
		g.stopBroker()
	case "start broker":
		g.startBroker()
	case "stop source":
		must(g.t, g.source.Stop())
	case "start source":
		must(g.t, g.source.Restart(g.t.Context()))
	case "stop warehouse":
		must(g.t, g.warehouse.Stop())
	case "start warehouse":
		must(g.t, g.warehouse.Restart(g.t.Context()))
	case "lose schemas":
		g.moveSchemas("schemas.log", "backup")
	case "restore schemas":
		g.moveSchemas("backup", "schemas.log")
	case "kill source":
		must(g.t, g.source.Kill())
	case "make standby":
		g.makeStandby()
	case "make new source":
		g.other = pgtest.New(g.t, pgtest.Options{Major: g.source.Major() + 1})
		g.makeDatabases(g.other, "shop")
		g.addresses()
	case "use standby", "use new source":
		g.source, g.other = g.other, g.source
		g.addresses()
		g.shell.must("export SHOP_DSN=" + g.here.Replace("postgres://capture@localhost/shop?sslmode=disable"))
	case "spoil topic":
		g.spoil([]byte{0, 0, 0, 0, 1, 2}) // framed as one of ours
	case "spoil topic without key":
		g.spoil(nil)
	default:
		g.t.Fatalf("%s: what is %q?", at, b.Info)
	}
}

// moveSchemas replaces what the registry has kept.
func (g *ground) moveSchemas(from, to string) {
	g.t.Helper()
	g.stopBroker()
	must(g.t, os.Rename(filepath.Join(g.brokerAt.Dir, from), filepath.Join(g.brokerAt.Dir, to)))
	g.startBroker()
}

// makeDisk makes a small disk, and gives what moves the warehouse there. The server's WAL, and what else it keeps, stays where
// it is.
func (g *ground) makeDisk() (use func()) {
	g.t.Helper()
	disk := filepath.Join(g.dir, "disk")
	must(g.t, os.Mkdir(disk, 0o755))
	server, err := os.Stat(g.warehouse.DataDir())
	must(g.t, err)
	owner := server.Sys().(*syscall.Stat_t).Uid
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=64m,uid=%d", owner), "tmpfs", disk).CombinedOutput(); err != nil {
		g.t.Skipf("only root can make a small disk, and not in every container: mount: %v: %s", err, out)
	}
	g.t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", disk).CombinedOutput(); err != nil {
			g.t.Errorf("umount: %v: %s", err, out)
		}
	})
	execute := func(sql string) {
		g.admin(g.warehouse, func(conn *pgx.Conn) {
			_, err := conn.Exec(context.WithoutCancel(g.t.Context()), sql)
			must(g.t, err)
		})
	}
	execute(`CREATE TABLESPACE disk LOCATION '` + disk + `'`)
	g.t.Cleanup(func() { execute(`DROP TABLESPACE disk`) })
	return func() { execute(`ALTER DATABASE dwh SET TABLESPACE disk`) }
}

// spoil writes a record into a topic that is none of capture's.
func (g *ground) spoil(key []byte) {
	g.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(g.broker.Addrs()...))
	must(g.t, err)
	defer client.Close()
	must(g.t, client.ProduceSync(g.t.Context(), &kgo.Record{Topic: "shop.public.customer", Key: key, Value: []byte("not ours")}).FirstErr())
}

// makeStandby makes a standby of the source, and waits until it has a copy of the slot.
func (g *ground) makeStandby() {
	g.t.Helper()
	execute := func(sql string) {
		g.admin(g.source, func(conn *pgx.Conn) {
			_, err := conn.Exec(g.t.Context(), sql)
			must(g.t, err)
		})
	}
	execute(`SELECT pg_create_physical_replication_slot('standby', true)`)
	must(g.t, g.source.Stop())
	dir := pgtest.TempDir(g.t)
	data := filepath.Join(dir, "data")
	for _, copied := range [][2]string{{g.source.DataDir(), data}, {filepath.Join(g.source.DataDir(), "postgresql.conf"), filepath.Join(data, "standby.signal")}} {
		if out, err := exec.Command("cp", "-a", copied[0], copied[1]).CombinedOutput(); err != nil {
			g.t.Fatalf("%v: %s", err, out)
		}
	}
	slots, err := filepath.Glob(filepath.Join(data, "pg_replslot", "*"))
	must(g.t, err)
	for _, slot := range slots { // a base backup has none of them either
		must(g.t, os.RemoveAll(slot))
	}
	must(g.t, g.source.Restart(g.t.Context()))
	g.other = pgtest.New(g.t, pgtest.Options{Major: g.source.Major(), Dir: dir, Settings: map[string]string{
		"primary_conninfo":       fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres", g.source.Port()),
		"primary_slot_name":      "standby",
		"hot_standby_feedback":   "on",
		"sync_replication_slots": "on",
	}})
	execute(`ALTER SYSTEM SET synchronized_standby_slots = 'standby'`)
	execute(`SELECT pg_reload_conf()`)
	if !eventually(func() bool {
		execute(`SELECT pg_log_standby_snapshot()`) // else a running server writes one every 15 s, and the copy waits for it
		copies := 0
		g.admin(g.other, func(conn *pgx.Conn) {
			must(g.t, conn.QueryRow(g.t.Context(), `SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary`).Scan(&copies))
		})
		return copies == 1
	}) {
		g.t.Fatal("the standby has no copy of the slot")
	}
}

// quiet gives what says whether an answer has looked the same for some seconds, which is when -update takes it.
func quiet() func(said string) bool {
	last, since := "", time.Now()
	return func(said string) bool {
		if said = shape(said); said != last {
			last, since = said, time.Now()
		}
		return time.Since(since) > 5*time.Second
	}
}
