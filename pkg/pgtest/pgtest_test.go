package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

func TestMain(m *testing.M) {
	if os.Getenv("TEST_KILLED") != "" {
		startAndWait()
	}
	goleak.VerifyTestMain(m)
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func query[T any](t *testing.T, conn *pgx.Conn, sql string) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func run(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCluster(t *testing.T) {
	for _, major := range Majors(t) {
		c := New(t, Options{Major: major, Settings: map[string]string{"application_name": "it's"}})
		conn := connect(t, Database(t, c))

		if got := query[int](t, conn, "SELECT current_setting('server_version_num')::int / 10000"); got != major {
			t.Errorf("server is version %d, want %d", got, major)
		}
		for setting, want := range map[string]string{
			"wal_level": "logical", "server_encoding": "UTF8", "lc_collate": "C", "jit": "off",
			"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "application_name": "it's",
		} {
			if setting == "lc_collate" && major >= 16 {
				continue // no longer a setting
			}
			if got := query[string](t, conn, "SHOW "+setting); got != want {
				t.Errorf("Postgres %d: %s is %q, want %q", major, setting, got, want)
			}
		}
		slot := query[string](t, conn, "SELECT slot_name FROM pg_create_logical_replication_slot('s', 'pgoutput')")
		if slot != "s" {
			t.Errorf("Postgres %d: created slot %q", major, slot)
		}
	}
}

// Clusters copied from one template must not look like one source.
func TestSystemIdentifier(t *testing.T) {
	for _, major := range Majors(t) {
		ids := map[string]bool{}
		for range 2 {
			c := New(t, Options{Major: major})
			conn := connect(t, c.DSN("postgres"))
			ids[query[string](t, conn, "SELECT system_identifier::text FROM pg_control_system()")] = true
			// The server reads its first segment again, page header and all.
			run(t, conn, "SELECT pg_switch_wal()")
			must(t, c.Kill())
			must(t, c.Restart(t.Context()))
		}
		if len(ids) != 2 {
			t.Errorf("Postgres %d: two clusters have %d system identifiers: %v", major, len(ids), ids)
		}
	}
}

func TestStopKillRestart(t *testing.T) {
	for _, major := range Majors(t) {
		c := New(t, Options{Major: major})
		dsn, port := Database(t, c), c.Port()
		run(t, connect(t, dsn), "CREATE TABLE t AS SELECT 1 AS n")

		for name, end := range map[string]func() error{"Stop": c.Stop, "Kill": c.Kill} {
			open := connect(t, dsn)
			must(t, end())
			if err := open.Ping(t.Context()); err == nil {
				t.Errorf("Postgres %d: a connection answers after %s", major, name)
			}
			if _, err := pgx.Connect(t.Context(), dsn); err == nil {
				t.Errorf("Postgres %d: takes connections after %s", major, name)
			}
			must(t, end()) // once more changes nothing
			must(t, c.Restart(t.Context()))
			if c.Port() != port {
				t.Errorf("Postgres %d: port %d after %s and Restart, was %d", major, c.Port(), name, port)
			}
			run(t, connect(t, dsn), "UPDATE t SET n = n + 1")
		}
		must(t, c.Restart(t.Context())) // of a running one
		if got := query[int](t, connect(t, dsn), "SELECT n FROM t"); got != 3 {
			t.Errorf("Postgres %d: n is %d after restarts, want 3", major, got)
		}
	}
}

func TestKillLeavesNoProcess(t *testing.T) {
	c := New(t, Options{})
	conn := connect(t, c.DSN("postgres"))
	pids := []int{c.server.PID(), int(query[int32](t, conn, "SELECT pg_backend_pid()"))}
	must(t, c.Kill())
	for _, pid := range pids {
		if process.Adopt(pid).Alive() {
			t.Errorf("process %d is alive after Kill", pid)
		}
	}
}

func TestPause(t *testing.T) {
	c := New(t, Options{})
	conn := connect(t, c.DSN("postgres"))
	must(t, c.Pause())
	answer := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "SELECT 1")
		answer <- err
	}()
	select {
	case err := <-answer:
		t.Fatalf("a paused server answered: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	must(t, c.Resume())
	must(t, <-answer)
}

func TestPasswordAndUser(t *testing.T) {
	for _, major := range Majors(t) {
		c := New(t, Options{Major: major, User: "O'Hara \"x\"", Password: "p'w\\:/ä"})
		conn := connect(t, Database(t, c))
		if got := query[string](t, conn, "SELECT current_user::text"); got != c.opts.User {
			t.Errorf("Postgres %d: connected as %q", major, got)
		}
		u, err := url.Parse(c.DSN("postgres"))
		must(t, err)
		u.User = url.UserPassword(c.opts.User, "wrong")
		if _, err := pgx.Connect(t.Context(), u.String()); err == nil {
			t.Errorf("Postgres %d: connected with a wrong password", major)
		}
	}
}

// A server whose starter was killed goes on, and the next Start in its directory finds it.
func TestAdopt(t *testing.T) {
	dir := TempDir(t)
	first, err := Start(t.Context(), Options{Dir: dir})
	must(t, err)
	t.Cleanup(func() { must(t, first.Kill()) })
	dsn := Database(t, first)

	if _, err := Start(t.Context(), Options{Dir: dir}); !errors.Is(err, ErrInUse) {
		t.Fatalf("a second owner of a directory got %v", err)
	}
	first.release() // all that this process's end would do

	second := New(t, Options{Dir: dir})
	if second.server.PID() != first.server.PID() || second.Port() != first.Port() {
		t.Fatalf("started process %d on port %d beside %d on %d",
			second.server.PID(), second.Port(), first.server.PID(), first.Port())
	}
	must(t, connect(t, dsn).Ping(t.Context()))
	must(t, second.Kill())
	must(t, second.Restart(t.Context()))
	must(t, connect(t, dsn).Ping(t.Context()))
	must(t, second.Stop())
	must(t, second.Restart(t.Context()))
	second.release()

	port, err := process.FreePort()
	must(t, err)
	third := New(t, Options{Dir: dir, Port: port})
	if third.Port() != port {
		t.Errorf("adopted on port %d, asked for %d", third.Port(), port)
	}
	must(t, connect(t, third.DSN("postgres")).Ping(t.Context()))
}

// A stale postmaster.pid may name a process that is something else.
func TestStalePIDFileIsNotAdopted(t *testing.T) {
	c := New(t, Options{Dir: TempDir(t)})
	must(t, c.Kill())
	path := filepath.Join(c.DataDir(), "postmaster.pid")
	b, err := os.ReadFile(path)
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "\n")
	must(t, os.WriteFile(path, []byte("1\n"+rest), 0o600))
	if c.adopt() {
		t.Error("adopted the system's first process")
	}
}

func TestStartFails(t *testing.T) {
	_, err := Start(t.Context(), Options{Settings: map[string]string{"wal_level": "nonsense"}})
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a faulty setting gives %v", err)
	}
	c := New(t, Options{})
	_, err = Start(t.Context(), Options{Port: c.Port()})
	if !errors.Is(err, errPortTaken) {
		t.Errorf("a taken port gives %v", err)
	}
	if _, err = Start(t.Context(), Options{Major: 9}); err == nil {
		t.Error("started Postgres 9")
	}
	dir := TempDir(t)
	must(t, os.MkdirAll(filepath.Join(dir, "data"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("13\n"), 0o644))
	if _, err = Start(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "13") {
		t.Errorf("data of version 13 gives %v", err)
	}
}

func TestRemove(t *testing.T) {
	c := New(t, Options{})
	must(t, c.Remove())
	if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory after Remove: %v", err)
	}
	must(t, c.Remove())
}

func TestShared(t *testing.T) {
	if Shared(t, 0) != Shared(t, DefaultMajor) {
		t.Error("two shared clusters of one version")
	}
	first := Database(t, Shared(t, 0))
	if second := Database(t, Shared(t, 0)); first == second {
		t.Error("one database twice")
	}
}

func TestParseMajors(t *testing.T) {
	for in, want := range map[string]int{"": 1, "all": 5, "14, 18": 2, "13": 0, "x": 0, "14,": 0} {
		majors, err := parseMajors(in)
		if len(majors) != want || (err != nil) != (want == 0) {
			t.Errorf("parseMajors(%q) = %v, %v", in, majors, err)
		}
	}
}

// startAndWait is the process that TestNothingOutlivesTheProcess kills.
func startAndWait() {
	c, err := Start(context.Background(), Options{})
	if err == nil {
		err = c.Pause() // the worst case
	}
	if err != nil {
		panic(err)
	}
	fmt.Println(c.server.PID(), c.dir)
	select {}
}

func TestNothingOutlivesTheProcess(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_KILLED=1")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var pid int
	var dir string
	_, err = fmt.Fscan(out, &pid, &dir)
	must(t, err)
	must(t, cmd.Process.Kill())
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = process.Poll(ctx, func() (bool, error) {
		_, err := os.Stat(dir)
		return !process.Adopt(pid).Alive() && errors.Is(err, os.ErrNotExist), nil
	})
	if err != nil {
		t.Errorf("server %d or directory %s is still there: %v", pid, dir, err)
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		c, err := Start(b.Context(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Remove(); err != nil {
			b.Fatal(err)
		}
	}
}
