package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/deploy/e2e/nemesis"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/schemaregistry"
	"github.com/tributary-cdc/tributary/schema/record"
)

const (
	brokerKafka = "Apache Kafka"
	brokerFake  = "kfake"
)

// settings are those of a small production machine: everything durable.
var settings = map[string]string{
	"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "15min",
	"max_replication_slots": "260", "max_wal_senders": "260", "max_connections": "2000", "logical_decoding_work_mem": "64MB",
}

// world is what a run has.
type world struct {
	scale     float64
	broker    string
	dir       string
	programs  nemesis.Programs
	source    *pgtest.Cluster
	warehouse *pgtest.Cluster
	kafka     kafkatest.Cluster
	registry  string
	died      func(error) // ends the run: a program has ended by itself
	closers   []func()
	databases int
}

func (w *world) close() {
	for i := len(w.closers) - 1; i >= 0; i-- {
		w.closers[i]()
	}
}

// newWorld builds the programs and starts the servers. The caller closes it.
func newWorld(ctx context.Context, broker string, scale float64) (w *world, err error) {
	w = &world{scale: scale, broker: broker}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.dir, err = os.MkdirTemp("", "tributary-bench-"); err != nil {
		return nil, err
	}
	w.closers = append(w.closers, func() { _ = os.RemoveAll(w.dir) })
	modules, err := modules()
	if err != nil {
		return nil, err
	}
	if w.programs, err = nemesis.Build(ctx, modules, w.dir, ""); err != nil {
		return nil, err
	}
	for _, c := range []**pgtest.Cluster{&w.source, &w.warehouse} {
		if *c, err = pgtest.Start(ctx, pgtest.Options{Settings: settings}); err != nil {
			return nil, err
		}
		w.closers = append(w.closers, func() { _ = (*c).Remove() })
	}
	if broker == brokerKafka {
		kafka, err := kafkatest.StartReal(ctx)
		if err != nil {
			return nil, err
		}
		w.kafka = kafka
		w.closers = append(w.closers, func() { _ = kafka.Remove() })
	} else {
		kafka, err := kafkatest.StartFake(w.dir)
		if err != nil {
			return nil, err
		}
		w.kafka = kafka
		w.closers = append(w.closers, func() { _ = kafka.Stop() })
	}
	return w, w.serveRegistry()
}

// modules finds the directory that holds the modules capture and sink.
func modules() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.work in this directory or above: run it inside the project, as make bench does")
		}
	}
	return "", err
}

func (w *world) serveRegistry() error {
	registry, err := schemaregistry.Open(filepath.Join(w.dir, "schemas.log"))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: registry, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	w.registry = "http://" + listener.Addr().String()
	w.closers = append(w.closers, func() { _ = server.Close(); _ = registry.Close() })
	return nil
}

// n scales a number of rows or changes.
func (w *world) n(full int) int { return max(1, int(float64(full)*w.scale)) }

// database is a database at one of the servers.
type database struct {
	name, dsn string
	*pgx.Conn
}

// create makes a database at a server, with what the statements make in it.
func (w *world) create(ctx context.Context, c *pgtest.Cluster, sql ...string) (*database, error) {
	w.databases++
	d := &database{name: fmt.Sprintf("bench_%d", w.databases)}
	if err := c.CreateDatabase(ctx, d.name); err != nil {
		return nil, err
	}
	d.dsn = c.DSN(d.name)
	var err error
	if d.Conn, err = postgres.Connect(ctx, d.dsn, "bench"); err != nil {
		return nil, err
	}
	for _, s := range append([]string{`set search_path = public`}, sql...) {
		if err := d.exec(ctx, s); err != nil {
			return nil, errors.Join(err, d.Close(ctx))
		}
	}
	return d, nil
}

func (d *database) exec(ctx context.Context, sql string) error {
	if _, err := d.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("database %s: %w", d.name, postgres.Describe(err))
	}
	return nil
}

// leave ends the connection and removes what a measure has left at the source: the slots keep WAL for everybody.
func (d *database) leave(ctx context.Context) error {
	return errors.Join(
		d.exec(ctx, `select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database() and not active`),
		d.Close(ctx))
}

// program is a running process of ours.
type program struct {
	cmd     *exec.Cmd
	log     string
	stopped atomic.Bool
	ended   chan struct{}
	err     error // once ended is closed

	profiled chan []share // see profile; nil without
}

// start runs one of the programs with a configuration.
func (w *world) start(ctx context.Context, path, yaml string) (*program, error) {
	base := filepath.Join(w.dir, fmt.Sprintf("%s-%d", filepath.Base(path), time.Now().UnixNano()))
	if err := os.WriteFile(base+".yaml", []byte(yaml), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(base + ".log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &program{cmd: exec.CommandContext(ctx, path, "run", "-c", base+".yaml"), log: base + ".log", ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
		if !p.stopped.Load() {
			w.died(p.trouble("ended by itself"))
		}
	}()
	return p, nil
}

// trouble tells what the process has said last.
func (p *program) trouble(what string) error {
	tail, _ := os.ReadFile(p.log)
	return fmt.Errorf("%s %s: %w\n%s", filepath.Base(p.cmd.Path), what, cmp.Or(p.err, errors.New("exit code 0")), tail[max(0, len(tail)-2000):])
}

// stop ends the process in order and gives what it took.
func (p *program) stop() (used, error) {
	peak := residentPeak(p.cmd.Process.Pid)
	p.stopped.Store(true)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	for running := true; running; {
		select {
		case <-p.ended:
			running = false
		case <-time.After(10 * time.Millisecond):
			peak = max(peak, residentPeak(p.cmd.Process.Pid))
		}
	}
	if p.err != nil {
		return used{}, p.trouble("failed")
	}
	use := usedBy(p.cmd.ProcessState, peak)
	if p.profiled != nil {
		use.on = <-p.profiled
	}
	return use, nil
}

// capture gives the configuration of a capture of database d, whose tables are those of schema public.
// A backlog is fetched by SQL from catchUp on, 0 leaves it to the walsender.
func (w *world) capture(name string, d *database, catchUp int, more string) string {
	return fmt.Sprintf(`
source: {name: %s, dsn: %q, tables: ["public.*"], catch_up: %d}
kafka: {brokers: [%s]}
registry: {url: %q}
http: {listen: "127.0.0.1:0"}
%s
`, name, d.dsn, catchUp, strings.Join(w.kafka.Addrs(), ", "), w.registry, more)
}

// sink gives the configuration of a sink that writes the tables of sources into d, and finds their topics soon.
func (w *world) sink(group string, d *database, sources, rule string) string {
	return "refresh: 200ms" + w.usualSink(group, d, sources, rule)
}

// usualSink is a sink that looks for topics as often as one does unless told otherwise.
func (w *world) usualSink(group string, d *database, sources, rule string) string {
	return fmt.Sprintf(`
group: %s
warehouse: {dsn: %q}
kafka: {brokers: [%s]}
registry: {url: %q}
http: {listen: "127.0.0.1:0"}
salt: of-the-bench
sources: [{name: %q}]
tables: [%s]
`, group, d.dsn, strings.Join(w.kafka.Addrs(), ", "), w.registry, sources, rule)
}

// captured waits until the slot of a source is where its stream begins: what is written from then on is in the stream.
func (d *database) captured(ctx context.Context, source string) error {
	return poll(ctx, func() (there bool, err error) {
		err = d.QueryRow(ctx, `select exists (select from pg_replication_slots where slot_name = $1 and confirmed_flush_lsn is not null and active)`, "tributary_"+source).Scan(&there)
		return there, err
	})
}

// fence writes a fence behind everything that is committed in d.
func (d *database) fence(ctx context.Context, id string) error {
	_, err := d.Exec(ctx, `select pg_logical_emit_message(true, 'tributary', $1)`, fmt.Sprintf(`{"fence": %q}`, id))
	return err
}

// published waits until everything in front of a fence of a source is in the topics, and all of its tables are read.
func (w *world) published(ctx context.Context, source, fence string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Addrs()...), kgo.ConsumeTopics(record.ProgressTopic(source)),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.UnknownTopicRetries(-1))
	if err != nil {
		return err
	}
	defer client.Close()
	fenced, done := false, map[string]bool{} // by table
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var bad error
		fetches.EachRecord(func(r *kgo.Record) {
			p, err := record.ParseProgress(r.Value)
			if err != nil {
				bad = err
				return
			}
			for _, t := range p.Tables {
				done[t.Table] = t.Done
			}
			for _, f := range p.Fences {
				fenced = fenced || f == fence
			}
		})
		if bad != nil {
			return bad
		}
		if fenced && len(done) > 0 && !slices.Contains(slices.Collect(maps.Values(done)), false) {
			return nil
		}
	}
}

// applied waits until a group of sinks has applied everything in front of a fence of the sources.
func (d *database) applied(ctx context.Context, group, fence string, sources int) error {
	return poll(ctx, func() (bool, error) {
		var there bool
		if err := d.QueryRow(ctx, `select to_regclass('tributary.progress') is not null`).Scan(&there); err != nil || !there {
			return false, err
		}
		var n int
		err := d.QueryRow(ctx, `select count(*) from tributary.progress where grp = $1 and $2 = any(fences)`, group, fence).Scan(&n)
		if postgres.SQLState(err) != "" {
			return false, nil // it is being made
		}
		return n >= sources, err
	})
}

func poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// measure runs what only fits.
func (w *world) measure(ctx context.Context, only *regexp.Regexp, r *report) error {
	for _, m := range measures {
		if !only.MatchString(m.name) {
			continue
		}
		began := time.Now()
		fmt.Fprintf(os.Stderr, "%s: %s …", w.broker, m.name)
		err := w.warmUp(ctx)
		if err == nil {
			err = m.run(ctx, w, r)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		fmt.Fprintf(os.Stderr, " %.0f s\n", time.Since(began).Seconds())
	}
	return nil
}
