package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// binaries is where programs are built, for the time of this process.
var binaries string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var err error
	if binaries, err = os.MkdirTemp("", "tributary-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binaries)
	return m.Run()
}

// binary builds the program local, once, and gives its path. Other users can run it.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaries, "local")
	if out, err := goBuild(path, "../cmd/local").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build local: %w\n%s", err, out)
	}
	return path, errors.Join(os.Chmod(binaries, 0o755), os.Chmod(path, 0o755))
})

// goBuild builds as make build does, so that what that has compiled is not compiled again.
func goBuild(path, program string) *osexec.Cmd {
	cmd := osexec.Command("go", "build", "-trimpath", "-o", path, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	return cmd
}

// newDir makes a directory that another user may enter, as Postgres has to for root; t.TempDir is closed to others. What
// still runs below it at the end of the test is an error, and killed.
func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tributary-e2e-")
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() {
		for _, pid := range running(t, dir) {
			t.Errorf("process %d still runs in %s", pid, dir)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		must(t, os.RemoveAll(dir))
	})
	return dir
}

// running gives the processes that work in a directory below dir, which is where a Postgres server works.
func running(t *testing.T, dir string) (pids []int) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	must(t, err)
	for _, link := range links {
		var pid int
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, dir) {
			if _, err := fmt.Sscanf(link, "/proc/%d/", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// program is a run of the binary.
type program struct {
	t      *testing.T
	cmd    *osexec.Cmd
	output string // file
	done   chan struct{}
}

// start starts the binary with its arguments in the environment env, as user uid if that is not 0.
func start(t *testing.T, uid int, env []string, args ...string) *program {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "output")
	must(t, err)
	defer file.Close()
	path, err := binary()
	must(t, err)
	p := &program{t: t, cmd: osexec.Command(path, args...), output: file.Name(), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = file, file
	p.cmd.Dir = "/"
	if uid != 0 {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	must(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the exit status is in ProcessState
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // of one that has ended, an error
		<-p.done
		if t.Failed() {
			t.Logf("local %s said:\n%s", strings.Join(args, " "), p.text())
		}
	})
	return p
}

func (p *program) text() string {
	p.t.Helper()
	b, err := os.ReadFile(p.output)
	must(p.t, err)
	return string(b)
}

// exit waits for the end and gives the exit code.
func (p *program) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("%s still runs after %s", strings.Join(p.cmd.Args[1:], " "), patience)
		return 0
	}
}

func (p *program) signal(s os.Signal) {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(s))
}

// until polls what until it is true.
func (p *program) until(what string, is func() bool) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for !is() {
		select {
		case <-p.done:
			p.t.Fatalf("%s: the program ended before, with %s", what, p.cmd.ProcessState)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// number gives the result of a query, -1 while it cannot be had.
func number(dsn func() (string, error), query string) int64 {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	address, err := dsn()
	if err != nil {
		return -1
	}
	conn, err := postgres.Connect(ctx, address, "e2e")
	if err != nil {
		return -1
	}
	defer conn.Close(ctx) //nolint:errcheck // the server ends the session either way
	var n int64
	if err := conn.QueryRow(ctx, query, pgx.QueryExecModeSimpleProtocol).Scan(&n); err != nil {
		return -1
	}
	return n
}
