package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink"
)

// TestRolesOfSecurityPage runs the page's SQL and then both services with the roles that it makes.
func TestRolesOfSecurityPage(t *testing.T) {
	page := readPage(t, "docs/security.md")
	cluster := pgtest.New(t, pgtest.Options{Password: "admin"})
	broker, registry := kafkatest.Fake(t), kafkatest.Registry(t)
	execute(t, cluster.DSN("postgres"), `create role shop_owner login password 'o'`)
	must(t, cluster.CreateDatabase(t.Context(), "dwh"))
	warehouse := as(t, cluster.DSN("dwh"), "tributary_sink")
	execute(t, cluster.DSN("dwh"), block(t, page, "sql warehouse"))

	run(t, "sink", func(ctx context.Context) error {
		var cfg sink.Config
		decode(t, &cfg, fmt.Sprintf(`
warehouse: {dsn: %q}
kafka: {brokers: [%q]}
registry: {url: %q}
tables: [{from: "public.*", to: "{source}.{table}"}]
http: {listen: "127.0.0.1:0"}
refresh: 200ms
`, warehouse, broker.Addrs()[0], registry))
		return sink.Run(ctx, cfg)
	})
	for _, way := range []struct{ block, role, source string }{
		{"sql source", "tributary_capture", "shop_first"},
		{"sql source read-only", "tributary_reader", "shop_second"},
	} {
		// The page calls the database shop; each way gets a fresh one.
		execute(t, cluster.DSN("postgres"), `drop database if exists shop`)
		execute(t, cluster.DSN("postgres"), `create database shop owner shop_owner`)
		admin := cluster.DSN("shop")
		execute(t, admin, `
			create table public.orders (id int primary key, note text); alter table public.orders owner to shop_owner;
			create table public.audit (note text); alter table public.audit owner to shop_owner;
			insert into public.orders values (1, 'old'); insert into public.audit values ('old')`)
		execute(t, admin, block(t, page, way.block))
		var cfg capture.Config
		decode(t, &cfg, fmt.Sprintf(`
source: {name: %s, slot: tributary_shop, dsn: %q, tables: ["public.*"], heartbeat: 500ms}
kafka: {brokers: [%q]}
registry: {url: %q}
http: {listen: "127.0.0.1:0"}
`, way.source, as(t, admin, way.role), broker.Addrs()[0], registry))
		capturing := func(options capture.Options) (stop func()) {
			end := run(t, "capture", func(ctx context.Context) error {
				return capture.Serve(ctx, cfg, options, slog.New(slog.DiscardHandler), nil)
			})
			return func() {
				end()
				arrives(t, admin, `select active::text from pg_replication_slots where slot_name = 'tributary_shop'`, "false")
			}
		}
		stop := capturing(capture.Options{})
		orders := `select string_agg(id || note, ' ' order by id) from ` + way.source + `.orders`
		audit := `select string_agg(note, ' ' order by note) from ` + way.source + `.audit`
		arrives(t, warehouse, orders, "1old")
		arrives(t, warehouse, audit, "old")
		execute(t, as(t, admin, "shop_owner"), `
			update orders set note = 'new' where id = 1; insert into orders values (2, 'new');
			update audit set note = 'changed'; insert into audit values ('new')`)
		arrives(t, warehouse, orders, "1new 2new")
		arrives(t, warehouse, audit, "new old")

		if way.role == "tributary_capture" {
			execute(t, cluster.DSN("dwh"), block(t, page, "sql warehouse progress"))
			analyst := as(t, cluster.DSN("dwh"), "analyst")
			arrives(t, analyst, `select tributary.wait_for('shop_first', '0/1')::text`, "true")
			arrives(t, analyst, `select count(*)::text from tributary.progress`, "1")

			// What docs/reload.md says: a change that nobody saw, and a target that somebody broke, are put right.
			stop()
			execute(t, admin, `SELECT pg_drop_replication_slot('tributary_shop')`)
			execute(t, as(t, admin, "shop_owner"), `delete from orders where id = 2; insert into orders values (3, 'unseen')`)
			execute(t, warehouse, `update shop_first.orders set note = 'broken'`)
			stop = capturing(capture.Options{OnGap: capture.GapResnapshot})
			arrives(t, warehouse, orders, "1new 3unseen")
			arrives(t, warehouse, audit, "changed new")
		}
		if way.role == "tributary_reader" { // the last one: the schemas are there
			execute(t, cluster.DSN("dwh"), `REVOKE CREATE ON DATABASE "dwh" FROM tributary_sink`)
			execute(t, as(t, admin, "shop_owner"), `alter table orders add more int; update orders set more = 5 where id = 1`)
			arrives(t, warehouse, `select more::text from shop_second.orders where id = 1`, "5")
		}
		stop()
		if way.role == "tributary_reader" {
			leavesPublications(t, cfg, admin)
			continue
		}
		execute(t, admin, block(t, page, "sql"))
	}
}

// leavesPublications has a role that does not own the publications drop what it may, and tells who owns them what is left.
func leavesPublications(t *testing.T, cfg capture.Config, admin string) {
	t.Helper()
	c, err := capture.New(cfg, capture.Options{}, slog.New(slog.DiscardHandler))
	must(t, err)
	var out strings.Builder
	if err := c.Check(t.Context(), terminal.NewCheck("capture", &out)); err != nil {
		t.Errorf("check: %v\n%s", err, &out)
	}
	err = c.DropSlot(t.Context(), &out)
	e, _ := errors.AsType[*trouble.Error](err)
	if e == nil || e.Code != trouble.SourceRights || !strings.HasPrefix(e.Hint, "DROP PUBLICATION") {
		t.Fatalf("slot drop: %v\n%s", err, &out)
	}
	execute(t, admin, strings.TrimSuffix(e.Hint, "as their owner"))
	arrives(t, admin, `select count(*)::text from pg_publication`, "0")
	arrives(t, admin, `select count(*)::text from pg_replication_slots`, "0")
}

// as gives dsn for another role of the page, which all have one password.
func as(t *testing.T, dsn, role string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	must(t, err)
	password := "change me"
	if role == "shop_owner" {
		password = "o"
	}
	u.User = url.UserPassword(role, password)
	return u.String()
}

func decode(t *testing.T, cfg any, yaml string) {
	t.Helper()
	must(t, config.Decode("test.yaml", []byte(yaml), cfg))
}

// run runs a service until stop or the end of the test.
func run(t *testing.T, name string, serve func(context.Context) error) (stop func()) {
	t.Helper()
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s ended: %v", name, err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func execute(t *testing.T, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	defer conn.Close(context.Background()) //nolint:errcheck // only used here
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
}

// arrives waits until sql gives want.
func arrives(t *testing.T, dsn, sql, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pgtest.Patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	must(t, err)
	defer conn.Close(context.Background()) //nolint:errcheck // only used here
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last string
	for {
		var got *string
		err := conn.QueryRow(ctx, sql).Scan(&got)
		switch {
		case err == nil && got != nil && *got == want:
			return
		case err != nil:
			last = err.Error()
		case got != nil:
			last = *got
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %q, want %q", strings.TrimSpace(sql), last, want)
		case <-tick.C:
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
