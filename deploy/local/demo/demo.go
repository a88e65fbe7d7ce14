// Package demo shows Tributary at work: a film-rental shop with two databases, whose rows and live changes are
// consolidated into one warehouse, everything in this process and below one directory. It prints what happens, and with
// a limited time ends with a verdict: is every row of every table the same on both sides?
//
// The schema is of our own making, in the manner of Pagila (https://github.com/devrimgunduz/pagila).
package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/deploy/local"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
)

// Config says how to run the demo.
type Config struct {
	Dir  string        // of everything it keeps; made if needed. A demo that was killed is continued.
	Load time.Duration // the load ends after it, and the demo with a verdict; 0: both go on until the context ends
	Out  *os.File
}

const (
	group           = "demo"
	snapshotTimeout = 2 * time.Minute
	fenceTimeout    = time.Minute
)

type demo struct {
	Config
	screen   *screen
	shops    []shop
	tables   []table // of each shop; all have the same
	dwh      string  // DSN of the warehouse
	clusters clusters
	broker   *local.Broker
	pipeline *local.Pipeline
	load     load
	log      *slog.Logger
}

// Run runs the demo until ctx ends or its time is over; then everything it started has ended, the servers too. nil means
// that the load was ended by ctx, or that both sides were found equal. The context's error means that there was to be a
// verdict, and ctx ended before it.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return fmt.Errorf("find directory: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	d := &demo{Config: cfg, screen: newScreen(cfg.Out), shops: shops()}
	file, err := os.OpenFile(d.path("demo.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer file.Close()
	d.log = slog.New(slog.NewTextHandler(file, nil))
	d.screen.say("Tributary demo: a film-rental shop in two databases, consolidated into one warehouse.")
	d.screen.say("Everything runs in one process and below %s; nothing else is needed, nothing stays running.\n", shown(cfg.Dir))
	err = d.run(ctx)
	d.screen.keep()
	if stopped := d.stop(); err == nil || ctx.Err() == nil {
		err = errors.Join(err, stopped)
	}
	if err == nil && cfg.Load == 0 {
		d.screen.item("ended", "nothing runs any more; make demo goes on from here, rm -r %s removes it", shown(cfg.Dir))
	}
	return err
}

func (d *demo) path(name string) string { return filepath.Join(d.Dir, name) }

// shown gives a path as it is shortest.
func shown(path string) string {
	if here, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(here, path); err == nil && !strings.HasPrefix(rel, "..") {
			return rel
		}
	}
	return path
}

func (d *demo) run(ctx context.Context) error {
	if err := d.open(ctx); err != nil {
		return err
	}
	return d.live(ctx)
}

// open starts servers, databases and broker, and makes the services.
func (d *demo) open(ctx context.Context) error {
	began := time.Now()
	if err := d.clusters.start(ctx, d.Dir); err != nil {
		return err
	}
	d.screen.item("servers", "two of PostgreSQL %d, %s", d.clusters.source.Major(), service.FormatDuration(time.Since(began)))
	addresses := map[string]string{}
	for i := range d.shops {
		s := &d.shops[i]
		rows, tables, err := s.open(ctx, d.clusters.source)
		if err != nil {
			return err
		}
		d.tables = tables
		addresses[s.name] = s.dsn
		d.screen.item("source", "%-10s %s  %d tables, %s rows", s.name, s.dsn, len(tables), service.FormatCount(rows))
	}
	d.dwh = d.clusters.warehouse.DSN(warehouseDatabase)
	addresses[warehouseDatabase] = d.dwh
	if err := ensureDatabase(ctx, d.clusters.warehouse, warehouseDatabase); err != nil {
		return err
	}
	d.screen.item("warehouse", "%-10s %s", warehouseDatabase, d.dwh)
	if err := writeAddresses(d.Dir, addresses); err != nil {
		return err
	}
	var err error
	if d.broker, err = local.StartBroker(local.BrokerConfig{Dir: d.path("broker")}); err != nil {
		return err
	}
	d.screen.item("broker", "%s, schema registry %s", strings.Join(d.broker.Addrs(), ", "), d.broker.RegistryURL())
	return d.configure()
}

// configure makes the services of configurations that are written down for people to read.
func (d *demo) configure() error {
	var captures []capture.Config
	var pages []string
	var sources strings.Builder
	common := fmt.Sprintf("kafka: {brokers: [%q]}\nregistry: {url: %q}\n", d.broker.Addrs()[0], d.broker.RegistryURL())
	for _, s := range d.shops {
		http, err := pgtest.FreeAddress()
		if err != nil {
			return err
		}
		yaml := fmt.Sprintf("source: {name: %s, dsn: %q, heartbeat: 1s}\n%shttp: {listen: %q}\n", s.name, s.dsn, common, http)
		var cfg capture.Config
		if err := d.writeConfig("capture_"+s.name+".yaml", yaml, &cfg); err != nil {
			return err
		}
		captures = append(captures, cfg)
		pages = append(pages, fmt.Sprintf("http://%s/ (capture %s)", http, s.sid))
		fmt.Fprintf(&sources, "  - {name: %s, sid: %s}\n", s.name, s.sid)
	}
	http, err := pgtest.FreeAddress()
	if err != nil {
		return err
	}
	yaml := fmt.Sprintf("group: %s\nwarehouse: {dsn: %q}\n%ssources:\n%stables:\n  - {from: \"public.*\", to: \"%s.{table}\", sid: sid}\nhttp: {listen: %q}\n",
		group, d.dwh, common, sources.String(), targetSchema, http)
	var cfg sink.Config
	if err := d.writeConfig("sink.yaml", yaml, &cfg); err != nil {
		return err
	}
	pages = append(pages, fmt.Sprintf("http://%s/ (sink)", http))
	d.screen.item("status", "%s", strings.Join(pages, "\n"+strings.Repeat(" ", 15)))
	d.screen.item("written", "%s, %s", shown(d.path("*.yaml")), shown(d.path("demo.log")))
	d.pipeline, err = local.NewPipeline(d.broker, captures, cfg, d.log)
	return err
}

func (d *demo) writeConfig(name, yaml string, out any) error {
	if err := os.WriteFile(d.path(name), []byte(yaml), 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return config.Decode(name, []byte(yaml), out)
}

// live runs services and load, and shows them.
func (d *demo) live(ctx context.Context) error {
	// The services outlive the load, so that they can finish; whatever fails ends everything.
	running, fail := context.WithCancelCause(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := d.pipeline.Run(running); err != nil {
			fail(err)
		}
	}()
	defer func() {
		fail(nil)
		<-ended
	}()
	watching, stopWatching := context.WithCancel(running)
	defer stopWatching()
	defer context.AfterFunc(ctx, stopWatching)()

	err := d.watch(watching)
	if cause := context.Cause(running); cause != nil {
		return fmt.Errorf("%w\nsee %s", cause, shown(d.path("demo.log")))
	}
	if err != nil || d.Load == 0 {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return d.verdict(ctx)
}

// watch runs the load, shows what happens, and returns when the load has ended.
func (d *demo) watch(ctx context.Context) error {
	loading, stop := context.WithCancel(ctx)
	if d.Load > 0 {
		loading, stop = context.WithTimeout(ctx, d.Load)
	}
	defer stop()
	began := time.Now()
	loaded := make(chan error, 1)
	go func() { loaded <- d.load.run(loading, d.shops) }()
	until := "Ctrl-C ends it"
	if d.Load > 0 {
		until = fmt.Sprintf("for %s", service.FormatDuration(d.Load))
	}
	d.screen.item("workload", "rentals, returns, payments, corrections, deletions on both sides: %s\n", until)
	d.screen.say("Look for yourself (in another terminal)")
	d.screen.say("  source       make psql DB=%s", d.shops[0].name)
	d.screen.say("  warehouse    make psql DB=%s", warehouseDatabase)
	d.screen.say("               select sid, count(*), sum(amount) from %s.payment group by sid;", targetSchema)
	d.screen.say("Break it       kill -9 this process or its databases: make demo again goes on where it was\n")

	g := &gauge{demo: d, behind: map[string]*[int(time.Second / sampleEvery)]float64{}}
	defer g.close(ctx)
	snapshot := &snapshotWatch{demo: d, began: began}
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	var drawn, printed time.Time
	for {
		select {
		case err := <-loaded:
			d.screen.final(g.table(len(d.tables))) // as it was last
			d.screen.item("workload", "stopped after %s: %s changes in %s transactions, %d rolled back", service.FormatDuration(time.Since(began)),
				service.FormatCount(d.load.changes.Load()), service.FormatCount(d.load.transactions.Load()), d.load.undone.Load())
			return err
		case now := <-ticker.C:
			g.sample()
			if now.Sub(drawn) < drawEvery {
				continue
			}
			drawn = now
			g.measure(ctx)
			if text := snapshot.finished(); text != "" {
				d.screen.item("snapshot", "%s", text)
			}
			block := g.table(d.screen.room())
			if text := snapshot.running(); text != "" {
				block = append([]string{fmt.Sprintf("  %-12s %s", "snapshot", text)}, block...)
			}
			d.screen.draw(block)
			if d.screen.terminal == nil && now.Sub(printed) >= plainEvery {
				printed = now
				d.screen.say("%s", g.plain())
			}
		}
	}
}

// verdict waits until the warehouse has everything, and compares.
func (d *demo) verdict(ctx context.Context) error {
	began := time.Now()
	snapshot := &snapshotWatch{demo: d}
	for {
		done, _, _ := snapshot.progress()
		if done {
			break
		}
		if time.Since(began) > snapshotTimeout {
			return fmt.Errorf("wait for the snapshot: not complete after %s%s", snapshotTimeout, d.complaints())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := d.fence(ctx); err != nil {
		return err
	}
	lag := d.lag()
	d.screen.item("waiting", "until the warehouse has all of it: %s", service.FormatDuration(time.Since(began)))
	began = time.Now()
	rows, differences, err := d.compare(ctx)
	if err != nil {
		return err
	}
	d.screen.item("comparing", "%d tables x %d sources, row by row: %s\n", len(d.tables), len(d.shops), service.FormatDuration(time.Since(began)))
	tables := len(d.tables) * len(d.shops)
	result := "equal"
	if len(differences) > 0 {
		result = fmt.Sprintf("%d tables DIFFER", len(differences))
	}
	d.screen.say("demo: %d tables, %s rows, %s changes, lag %s, %s", tables, service.FormatCount(rows),
		service.FormatCount(d.load.changes.Load()), lag, result)
	if len(differences) == 0 {
		return nil
	}
	texts := make([]string, len(differences))
	for i, diff := range differences {
		texts[i] = diff.String()
	}
	return fmt.Errorf("%d of %d tables differ\n%s", len(differences), tables, strings.Join(texts, "\n"))
}

// stop ends what open started. The clusters come last, so that nobody loses a connection.
func (d *demo) stop() error {
	began := time.Now()
	var errs []error
	if d.broker != nil {
		errs = append(errs, d.broker.Close())
	}
	if d.clusters.source != nil {
		// Addresses of servers that are gone would only mislead.
		if err := os.Remove(d.path(addressFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, d.clusters.stop())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop the demo: %w", err)
	}
	d.log.Info("stopped", "took", time.Since(began))
	return nil
}

// snapshotWatch tells of the rows that were there before.
type snapshotWatch struct {
	demo  *demo
	began time.Time
	seen  bool // seen unfinished
	told  bool
}

// progress sums up the captures; of is 0 while it is not known.
func (w *snapshotWatch) progress() (done bool, rows, of int64) {
	done = true
	blind := false
	for _, c := range w.demo.pipeline.Captures {
		st := c.Status().Snapshot
		rows, done = rows+st.Rows, done && st.TablesDone >= len(w.demo.tables)
		if st.RowsExpected == nil {
			blind = true
		} else {
			of += *st.RowsExpected
		}
	}
	if blind {
		of = 0
	}
	return done, rows, of
}

// finished gives what to say once, when all is read.
func (w *snapshotWatch) finished() string {
	done, rows, _ := w.progress()
	switch {
	case w.told:
		return ""
	case !done:
		w.seen = true
		return ""
	}
	w.told = true
	if !w.seen {
		return "complete, of a former run"
	}
	return fmt.Sprintf("%s 100 %%   %s rows, %s", bar(1, 1), service.FormatCount(rows), service.FormatDuration(time.Since(w.began)))
}

// running gives the bar while rows are read.
func (w *snapshotWatch) running() string {
	done, rows, of := w.progress()
	switch {
	case done || rows == 0:
		return ""
	case of == 0:
		return service.FormatCount(rows) + " rows"
	}
	return fmt.Sprintf("%s %3d %%   %s rows", bar(rows, of), rows*100/max(of, 1), service.FormatCount(rows))
}
