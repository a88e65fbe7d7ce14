package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
)

// TestUses runs the configurations of deploy/config, as they are, through the scripts of the same names: what differs
// from place to place comes from the environment, as docs/uses.md says. Services and verbs are the roles of docs/security.md.
func TestUses(t *testing.T) {
	scripts, err := filepath.Glob("uses/*.txt")
	must(t, err)
	if len(scripts) < 3 {
		t.Fatalf("found %d scripts", len(scripts))
	}
	for _, script := range scripts {
		name := strings.TrimSuffix(filepath.Base(script), ".txt")
		t.Run(name, func(t *testing.T) { runUse(t, script, filepath.Join("..", "config", name)) })
	}
}

// step is one step of a script: a line "-- verb argument", and what follows up to the next.
type step struct {
	line            int
	verb, arg, text string
}

// readUse takes a script apart. Its first paragraph says what it is about.
func readUse(t *testing.T, file string) (steps []step) {
	t.Helper()
	content, err := os.ReadFile(file)
	must(t, err)
	for i, line := range strings.Split(string(content), "\n") {
		if head, ok := strings.CutPrefix(line, "-- "); ok {
			verb, arg, _ := strings.Cut(head, " ")
			steps = append(steps, step{line: i + 1, verb: verb, arg: arg})
		} else if n := len(steps); n > 0 {
			steps[n-1].text += line + "\n"
		}
	}
	return steps
}

// use is a script under way.
type use struct {
	t         *testing.T
	dir       string // of the configurations
	sources   map[string]*source
	names     []string
	warehouse *pgx.Conn
	running   *sink.Sink
}

func runUse(t *testing.T, script, dir string) {
	kafka := kafkatest.Fake(t)
	warehouse := pgtest.Database(t, pgtest.Shared(t, 0))
	for name, value := range map[string]string{
		"TRIBUTARY_KAFKA_BROKERS": strings.Join(kafka.Addrs(), ","), "TRIBUTARY_REGISTRY_URL": kafkatest.Registry(t), "TRIBUTARY_HTTP_LISTEN": "127.0.0.1:0",
		"TRIBUTARY_WAREHOUSE_DSN": leastWarehouse(t, warehouse, false), "TRIBUTARY_REFRESH": "200ms", "TRIBUTARY_RETENTION_EVERY": "1s",
	} {
		t.Setenv(name, value)
	}
	u := &use{t: t, dir: dir, sources: map[string]*source{}, warehouse: connect(t, warehouse)}
	steps := readUse(t, script)
	for i, s := range steps {
		switch s.verb {
		case "source":
			exec(t, u.source(s.arg).conn, s.text)
		case "run":
			u.run()
		case "paused": // the verb says: within a second or two
			eventually(t, s.arg+" is paused", func() bool { return u.paused(s.arg) })
		case "fence":
			fence(t, u.warehouse, "warehouse", []*source{u.sources[s.arg]}, fmt.Sprint("line ", s.line))
		case "sink":
			u.sink(strings.Fields(s.text)...)
		case "warehouse":
			if i+1 == len(steps) || steps[i+1].verb != "want" {
				t.Fatalf("%s:%d: no want behind it", script, s.line)
			}
			u.want(fmt.Sprintf("%s:%d", script, s.line), s.text, strings.TrimSpace(steps[i+1].text))
		case "want":
		default:
			t.Fatalf("%s:%d: unknown verb %q", script, s.line, s.verb)
		}
	}
}

// source gives the database of a source, and makes it when it is named first.
func (u *use) source(name string) *source {
	u.t.Helper()
	if s := u.sources[name]; s != nil {
		return s
	}
	s := &source{name: name, dsn: pgtest.Database(u.t, pgtest.Shared(u.t, 0))}
	owner, role := leastSource(u.t, s.dsn, "owner_of_"+connect(u.t, s.dsn).Config().Database)
	s.conn = connect(u.t, owner)
	u.t.Setenv("TRIBUTARY_SOURCE_NAME", name)
	u.t.Setenv("TRIBUTARY_SOURCE_DSN", role)
	must(u.t, config.Load(filepath.Join(u.dir, "capture.yaml"), &s.config))
	s.config.Source.Refresh, s.config.Source.Heartbeat = 300*time.Millisecond, time.Second
	u.sources[name] = s
	u.names = append(u.names, name)
	return s
}

// run starts a capture for each source, and the sink.
func (u *use) run() {
	u.t.Helper()
	var cfg sink.Config
	must(u.t, config.Load(filepath.Join(u.dir, "sink.yaml"), &cfg))
	k, err := sink.New(cfg, quiet())
	must(u.t, err)
	u.running = k
	run(u.t, "sink", k.Run)
	for _, name := range u.names {
		s := u.sources[name]
		var err error
		s.capture, err = capture.New(s.config, capture.Options{}, quiet())
		must(u.t, err)
		run(u.t, "capture "+name, s.capture.Run)
	}
}

// paused says whether the sink has stopped all tables of a source.
func (u *use) paused(source string) bool {
	for _, table := range u.running.Status().Tables {
		if table.Source == source && table.State != service.StatePaused {
			return false
		}
	}
	return true
}

// want waits until a query of the warehouse gives these rows, columns separated by |, null as ∅.
func (u *use) want(at, sql, want string) {
	u.t.Helper()
	var got string
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if got = u.query(sql); got == want {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, line := range u.troubles() {
		u.t.Log(line)
	}
	u.t.Fatalf("%s: still\n%s\nwant\n%s", at, got, want)
}

func (u *use) query(sql string) string {
	rows, err := u.warehouse.Query(u.t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return err.Error()
	}
	lines, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var cells []string
		for _, v := range row.RawValues() {
			if v == nil {
				cells = append(cells, "∅")
			} else {
				cells = append(cells, string(v))
			}
		}
		return strings.Join(cells, "|"), nil
	})
	if err != nil {
		return err.Error()
	}
	return strings.Join(lines, "\n")
}

func (u *use) troubles() []string {
	return strings.Split(u.query(`SELECT source, table_name, message FROM tributary.quarantine`), "\n")
}

// captureBinary and sinkBinary build the programs, once.
var captureBinary, sinkBinary = sync.OnceValues(building("capture")), sync.OnceValues(building("sink"))

func building(program string) func() (string, error) {
	return func() (string, error) {
		path := filepath.Join(binaries, program)
		cmd := goBuild(path, "./cmd/"+program)
		cmd.Dir = "../../" + program
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", errors.Join(err, errors.New(string(out)))
		}
		return path, nil
	}
}

// sink runs a verb of the sink's program.
func (u *use) sink(args ...string) {
	u.t.Helper()
	path, err := sinkBinary()
	must(u.t, err)
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	cmd := osexec.CommandContext(ctx, path, append(args, "-c", filepath.Join(u.dir, "sink.yaml"))...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		u.t.Fatalf("sink %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
}
