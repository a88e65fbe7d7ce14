package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("TEST_GUARDED_DIR"); dir != "" {
		guarded(dir)
	}
	if count, err := strconv.Atoi(os.Getenv("TEST_FREE_PORTS")); err == nil {
		printPorts(count)
	}
	goleak.VerifyTestMain(m)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := Poll(ctx, func() (bool, error) { return done(), nil }); err != nil {
		t.Fatalf("wait until %s: %v", what, err)
	}
}

// family starts a shell with two children.
func family(t *testing.T) (s *Server, pids []int) {
	t.Helper()
	s, err := Start(exec.Command("/bin/sh", "-c", "sleep 100 & sleep 100 & wait"))
	must(t, err)
	t.Cleanup(func() { must(t, s.Kill()) })
	await(t, "the family is complete", func() bool {
		pids, err = descendants(s.PID())
		must(t, err)
		return len(pids) == 2 && WorkingDir(pids[0]) != ""
	})
	return s, append(pids, s.PID())
}

func TestKillEndsTheTree(t *testing.T) {
	s, pids := family(t)
	must(t, s.Kill())
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is alive", pid)
		}
	}
	if s.Alive() {
		t.Error("the server is alive")
	}
	must(t, s.Kill())
	must(t, s.Signal(syscall.SIGTERM))
	if err := s.Pause(); err == nil {
		t.Error("paused a server that is gone")
	}
}

func TestPauseStopsTheTree(t *testing.T) {
	s, pids := family(t)
	states := func() (states string) {
		for _, pid := range pids {
			out, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
			must(t, err)
			states += string(out[0])
		}
		return states
	}
	must(t, s.Pause())
	await(t, "all are stopped", func() bool { return states() == "TTT" })
	must(t, s.Resume())
	await(t, "all go on", func() bool { return states() == "SSS" })
	must(t, s.Pause())
	must(t, s.Kill()) // a stopped tree too
}

func TestWait(t *testing.T) {
	s, err := Start(exec.Command("/bin/sh", "-c", "exit 3"))
	must(t, err)
	must(t, s.Wait(t.Context()))
	if s.Alive() {
		t.Error("alive after Wait")
	}
	must(t, s.Wait(t.Context()))

	s, _ = family(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait for a running server: %v", err)
	}
}

// guarded is the process that TestGuard kills: it starts a server and says its pid.
func guarded(dir string) {
	s, err := Start(exec.Command("sleep", "100"))
	if err == nil {
		_, err = Guard(`kill -9 "$1"; rm -rf "$2"`, strconv.Itoa(s.PID()), dir)
	}
	if err != nil {
		panic(err)
	}
	fmt.Println(s.PID())
	select {} // until killed
}

func TestGuard(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with 'quotes' and spaces")
	must(t, os.Mkdir(dir, 0o755))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_GUARDED_DIR="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	must(t, err)
	if !alive(pid) {
		t.Fatalf("server %d is not there", pid)
	}
	must(t, cmd.Process.Kill())
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
	await(t, "the server is gone", func() bool { return !alive(pid) })
	await(t, "its directory is gone", func() bool { _, err := os.Stat(dir); return errors.Is(err, os.ErrNotExist) })
}

func TestGuardIsReleased(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	release, err := Guard(`touch "$1"`, file)
	must(t, err)
	release()
	release()
	if _, err := os.Stat(file); err == nil {
		t.Error("the script ran")
	}
}

// TestFreePort: ports are below those that the system gives, and none is given twice while those who were given one have no server
// there yet, in this process or in others.
func TestFreePort(t *testing.T) {
	const processes, count = 4, 150
	given := map[int]string{}
	note := func(port int, to string) {
		if port < 1024 || port >= 32768 {
			t.Errorf("port %d", port)
		}
		if before := given[port]; before != "" {
			t.Errorf("port %d is given to %s, and then to %s", port, before, to)
		}
		given[port] = to
	}
	for i := range processes {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("TEST_FREE_PORTS=%d", count))
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe()
		must(t, err)
		stdout, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		t.Cleanup(func() { must(t, errors.Join(stdin.Close(), cmd.Wait())) })
		lines := bufio.NewScanner(stdout)
		for range count {
			lines.Scan()
			port, err := strconv.Atoi(lines.Text())
			must(t, err)
			note(port, fmt.Sprintf("process %d", i))
		}
	}
	for range count {
		port, err := FreePort()
		must(t, err)
		note(port, "this process")
	}
}

// printPorts is what the other processes of TestFreePort do: they end when they are told to.
func printPorts(count int) {
	for range count {
		port, err := FreePort()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(port)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func TestFetch(t *testing.T) {
	f := func(ctx context.Context, failing, want int) {
		t.Helper()
		tries := 0
		err := Fetch(ctx, func() error {
			if tries++; tries > failing {
				return nil
			}
			return fmt.Errorf("try %d failed", tries)
		})
		if tries != want || (err == nil) != (want > failing) || err != nil && err.Error() != fmt.Sprintf("try %d failed", want) {
			t.Errorf("with %d that fail: %d tries, %v", failing, tries, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		f(t.Context(), 0, 1)
		f(t.Context(), 2, 3)
		f(t.Context(), 9, 3)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		f(ended, 9, 1)
	})
}

func TestCachedIsMadeOnce(t *testing.T) {
	t.Setenv("TRIBUTARY_CACHE", t.TempDir())
	var fills atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			dir, err := Cached(context.Background(), "a/b", func(_ context.Context, dir string) error {
				fills.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), []byte("whole"), 0o644)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := os.ReadFile(filepath.Join(dir, "file")); string(b) != "whole" {
				t.Errorf("file holds %q, %v", b, err)
			}
		})
	}
	wg.Wait()
	if fills.Load() != 1 {
		t.Errorf("made %d times", fills.Load())
	}
}

func TestCachedAfterFailure(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("TRIBUTARY_CACHE", cache)
	failure := errors.New("no network")
	half := func(_ context.Context, dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o644), failure)
	}
	if _, err := Cached(t.Context(), "a", half); !errors.Is(err, failure) {
		t.Errorf("failing fill: %v", err)
	}
	must(t, os.MkdirAll(filepath.Join(cache, "a.new", "of a killed process"), 0o755))
	dir, err := Cached(t.Context(), "a", func(context.Context, string) error { return nil })
	must(t, err)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("directory holds %v, %v", entries, err)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path)
	must(t, err)
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("TryLock of a taken lock: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lock of a taken lock: %v", err)
	}
	unlock()
	unlock, err = TryLock(path)
	must(t, err)
	unlock()
}

func TestLastLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if got := LastLines(path); got != "" {
		t.Errorf("of no file: %q", got)
	}
	must(t, os.WriteFile(path, []byte(strings.Repeat("x", 5000)+"end"), 0o644))
	if got := LastLines(path); len(got) > 2100 || !strings.HasSuffix(got, "end") {
		t.Errorf("%d bytes: …%s", len(got), got[len(got)-10:])
	}
}
