// Command bench measures the pipeline beside what the machine allows, in one run: rows of a snapshot and changes of a
// stream, from the source to the topics and from the topics to the warehouse, next to COPY out, COPY in, and reading the
// same slot to nowhere. Machines are noisy: ratios count.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
)

//go:embed load.sql
var load string

func main() {
	rows := flag.Int("rows", 500_000, "rows of the snapshot")
	changes := flag.Int("changes", 200_000, "changes of the stream")
	fake := flag.Bool("kfake", false, "use the embedded broker even if Java is there")
	flag.Parse()
	os.Exit(service.Main("bench", func(ctx context.Context) error {
		b := &bench{rows: *rows, changes: *changes, out: os.Stdout}
		defer b.close()
		return b.run(ctx, *fake)
	}))
}

type bench struct {
	rows, changes     int
	out               io.Writer
	closers           []func()
	source, warehouse *pgtest.Cluster
	brokers, registry string
	broker            string
}

func (b *bench) close() {
	for i := len(b.closers) - 1; i >= 0; i-- {
		b.closers[i]()
	}
}

// server settings are those of a small production machine: everything durable.
var settings = map[string]string{
	"fsync": "on", "synchronous_commit": "on", "shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "15min",
}

func (b *bench) run(ctx context.Context, fake bool) error {
	if err := b.start(ctx, fake); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "PostgreSQL %d, %s, %d CPUs, %s\n\n", b.source.Major(), b.broker, runtime.NumCPU(), runtime.Version())
	fmt.Fprintf(b.out, "%-36s %12s %12s %8s   %s\n", "PATH", "TRIBUTARY/S", "LIMIT/S", "RATIO", "LIMIT")
	src, err := postgres.Connect(ctx, b.source.DSN("postgres"), "bench")
	if err != nil {
		return err
	}
	defer src.Close(context.WithoutCancel(ctx))
	dst, err := postgres.Connect(ctx, b.warehouse.DSN("postgres"), "bench")
	if err != nil {
		return err
	}
	defer dst.Close(context.WithoutCancel(ctx))
	if err := b.snapshot(ctx, src, dst); err != nil {
		return err
	}
	return b.stream(ctx, src, dst)
}

// start brings up two clusters, a broker and a registry.
func (b *bench) start(ctx context.Context, fake bool) (err error) {
	if b.source, err = pgtest.Start(ctx, pgtest.Options{Settings: settings}); err != nil {
		return err
	}
	b.closers = append(b.closers, func() { _ = b.source.Remove() })
	if b.warehouse, err = pgtest.Start(ctx, pgtest.Options{Settings: settings}); err != nil {
		return err
	}
	b.closers = append(b.closers, func() { _ = b.warehouse.Remove() })
	dir, err := os.MkdirTemp("", "tributary-bench")
	if err != nil {
		return err
	}
	b.closers = append(b.closers, func() { _ = os.RemoveAll(dir) })
	if _, lookErr := exec.LookPath("java"); lookErr == nil && !fake {
		kafka, err := kafkatest.StartReal(ctx)
		if err != nil {
			return err
		}
		b.closers = append(b.closers, func() { _ = kafka.Remove() })
		b.brokers, b.broker = strings.Join(kafka.Addrs(), ","), "Apache Kafka"
	} else {
		kafka, err := kafkatest.StartFake(dir)
		if err != nil {
			return err
		}
		b.closers = append(b.closers, func() { _ = kafka.Stop() })
		b.brokers, b.broker = strings.Join(kafka.Addrs(), ","), "kfake"
	}
	url, stop, err := serveRegistry(dir)
	if err != nil {
		return err
	}
	b.registry = url
	b.closers = append(b.closers, stop)
	return nil
}

func (b *bench) row(path string, n int, took time.Duration, limit float64, what string) {
	rate := float64(n) / took.Seconds()
	fmt.Fprintf(b.out, "%-36s %12s %12s %8.2f   %s\n", path, service.FormatCount(int64(rate)), service.FormatCount(int64(limit)), rate/limit, what)
}

// snapshot measures rows that are already there.
func (b *bench) snapshot(ctx context.Context, src, dst *pgx.Conn) error {
	for _, sql := range []string{
		load,
		fmt.Sprintf(`insert into accounts select i, i %% 20, 0, '' from generate_series(1, %d) i`, b.rows),
		`vacuum analyze accounts`, `checkpoint`,
	} {
		if _, err := src.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	if _, err := dst.Exec(ctx, `create schema if not exists limits; create table limits.accounts (aid integer primary key, bid integer, abalance integer, filler character(84))`, pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	var copied bytes.Buffer
	began := time.Now()
	if _, err := src.PgConn().CopyTo(ctx, &copied, `copy public.accounts to stdout`); err != nil {
		return err
	}
	out := float64(b.rows) / time.Since(began).Seconds()
	began = time.Now()
	if _, err := dst.PgConn().CopyFrom(ctx, &copied, `copy limits.accounts from stdin`); err != nil {
		return err
	}
	in := float64(b.rows) / time.Since(began).Seconds()

	took, err := b.capture(ctx, src, "first")
	if err != nil {
		return err
	}
	b.row("snapshot: source to topic", b.rows, took, out, "COPY TO STDOUT, one connection")
	if took, err = b.sink(ctx, dst, "first"); err != nil {
		return err
	}
	b.row("snapshot: topic to warehouse", b.rows, took, in, "COPY FROM STDIN, with primary key")
	return nil
}

// stream measures a backlog of changes.
func (b *bench) stream(ctx context.Context, src, dst *pgx.Conn) error {
	if _, err := src.Exec(ctx, `select pg_create_logical_replication_slot('limit', 'pgoutput')`); err != nil {
		return err
	}
	const sessions = 4
	var wg sync.WaitGroup
	errs := make([]error, sessions)
	for i := range sessions {
		wg.Go(func() {
			conn, err := pgx.Connect(ctx, b.source.DSN("postgres"))
			if err == nil {
				defer conn.Close(context.WithoutCancel(ctx))
				_, err = conn.Exec(ctx, fmt.Sprintf("call gen_changes(%d, %d)", i, b.changes/sessions), pgx.QueryExecModeSimpleProtocol)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	nowhere, who, err := drain(ctx, b.source.DSN("postgres"), "limit", "tributary_bench")
	if err != nil {
		return err
	}
	limit := float64(b.changes) / nowhere.Seconds()
	took, err := b.capture(ctx, src, "second")
	if err != nil {
		return err
	}
	b.row("stream: WAL to topic", b.changes, took, limit, "the same messages, read to nowhere by "+who)
	if took, err = b.sink(ctx, dst, "second"); err != nil {
		return err
	}
	b.row("stream: topic to warehouse", b.changes, took, limit, "as above")
	return nil
}

// capture runs a capture until everything that the source has is published, and gives how long that took.
func (b *bench) capture(ctx context.Context, src *pgx.Conn, fence string) (time.Duration, error) {
	var target string
	if err := src.QueryRow(ctx, `select pg_current_wal_insert_lsn()::text`).Scan(&target); err != nil {
		return 0, err
	}
	var cfg capture.Config
	if err := config.Decode("bench", fmt.Appendf(nil, `
source: {name: bench, dsn: %q, refresh: 100ms}
kafka: {brokers: [%s]}
registry: {url: %q}
http: {listen: "127.0.0.1:0"}
`, b.source.DSN("postgres"), b.brokers, b.registry), &cfg); err != nil {
		return 0, err
	}
	c, err := capture.New(cfg, capture.Options{}, quiet)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	stop := start(ctx, c.Run)
	for {
		var reached bool
		st := c.Status()
		if st.PublishedLSN != "" && st.Snapshot.Tables > 0 && st.Snapshot.TablesDone == st.Snapshot.Tables {
			if err := src.QueryRow(ctx, `select $1::pg_lsn >= $2::pg_lsn`, st.PublishedLSN, target).Scan(&reached); err != nil {
				return 0, err
			}
		}
		if reached {
			break
		}
		if err := pause(ctx); err != nil {
			return 0, err
		}
	}
	took := time.Since(began)
	if _, err := src.Exec(ctx, `select pg_logical_emit_message(true, 'tributary', $1)`, fmt.Sprintf(`{"fence": %q}`, fence)); err != nil {
		return 0, err
	}
	time.Sleep(2 * time.Second) // the fence is published; not part of what is measured
	return took, stop()
}

// sink runs a sink until the fence is reached, and gives how long that took.
func (b *bench) sink(ctx context.Context, dst *pgx.Conn, fence string) (time.Duration, error) {
	var cfg sink.Config
	if err := config.Decode("bench", fmt.Appendf(nil, `
warehouse: {dsn: %q}
kafka: {brokers: [%s]}
registry: {url: %q}
refresh: 200ms
http: {listen: "127.0.0.1:0"}
tables: [{from: "public.*", to: "public.{table}"}]
`, b.warehouse.DSN("postgres"), b.brokers, b.registry), &cfg); err != nil {
		return 0, err
	}
	k, err := sink.New(cfg, quiet)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	stop := start(ctx, k.Run)
	for {
		var reached bool
		if err := dst.QueryRow(ctx, `select to_regclass('tributary.progress') is not null`).Scan(&reached); err != nil {
			return 0, err
		}
		if reached {
			if err := dst.QueryRow(ctx, `select coalesce((select $1 = any(fences) from tributary.progress where source = 'bench'), false)`, fence).Scan(&reached); err != nil {
				return 0, err
			}
		}
		if reached {
			break
		}
		if err := pause(ctx); err != nil {
			return 0, err
		}
	}
	return time.Since(began), stop()
}

var quiet = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))

func start(ctx context.Context, run func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(20 * time.Millisecond):
		return nil
	}
}
