// Package process runs the servers that tests and the demo need as child processes: Postgres and Kafka.
//
// It owns what both have in common: signals to a whole process tree, the promise that no server outlives the
// process that wanted it, free ports, and a cache for what is expensive to make. What the servers are, how they are
// configured and when they are ready is the business of pgtest and kafkatest.
//
// It starts no goroutines, so that a test which looks for leaked goroutines sees none of ours.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const pollInterval = 5 * time.Millisecond

// Server is one server: a process and its descendants. Its methods must not be called concurrently.
type Server struct {
	pid int
	cmd *exec.Cmd // nil if adopted: not our child, so not ours to reap
}

// Start starts cmd in a session of its own, so that a Ctrl-C at the terminal reaches us and not the server.
// cmd's Stdout and Stderr must be nil or files: anything else needs goroutines.
func Start(cmd *exec.Cmd) (*Server, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return &Server{pid: cmd.Process.Pid, cmd: cmd}, nil
}

// Adopt takes over a running process that is not our child.
func Adopt(pid int) *Server { return &Server{pid: pid} }

// PID gives the process id of the tree's root.
func (s *Server) PID() int { return s.pid }

// Alive says whether the root still runs; a zombie does not.
func (s *Server) Alive() bool {
	if s.cmd != nil && s.cmd.ProcessState != nil {
		return false
	}
	return alive(s.pid)
}

// Signal sends sig to the root alone. A root that is gone is no error.
func (s *Server) Signal(sig syscall.Signal) error {
	if !s.Alive() {
		return nil
	}
	return signal(s.pid, sig)
}

// Wait waits until the root is gone and reaps it if it is our child.
func (s *Server) Wait(ctx context.Context) error {
	if err := Poll(ctx, func() (bool, error) { return !s.Alive(), nil }); err != nil {
		return fmt.Errorf("wait for process %d to end: %w", s.pid, err)
	}
	s.reap()
	return nil
}

// Stop ends the root with sig and reaps it, also one that has ended by itself. A tree that does not end within that time is killed, and
// that is an error.
func (s *Server) Stop(sig syscall.Signal, within time.Duration) error {
	if err := s.Signal(sig); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := s.Wait(ctx); err != nil {
		return errors.Join(err, s.Kill())
	}
	return nil
}

// Kill ends the whole tree with SIGKILL and returns when every process of it is gone.
func (s *Server) Kill() error {
	if !s.Alive() {
		s.reap()
		return nil
	}
	// The root is stopped first: it forks no more, so the list of its descendants is complete. Killed first, it
	// would hand them to init and nobody could tell whose they were.
	if err := signal(s.pid, syscall.SIGSTOP); err != nil {
		return err
	}
	pids, err := descendants(s.pid)
	if err != nil {
		return err
	}
	pids = append(pids, s.pid)
	var errs []error
	for _, pid := range pids {
		errs = append(errs, signal(pid, syscall.SIGKILL))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, pid := range pids {
		if err := Poll(ctx, func() (bool, error) { return !alive(pid), nil }); err != nil {
			return fmt.Errorf("wait for killed process %d: %w", pid, err)
		}
	}
	s.reap()
	return nil
}

// Pause stops every process of the tree (SIGSTOP), the root first; see Kill.
func (s *Server) Pause() error {
	if !s.Alive() {
		return fmt.Errorf("pause process %d: not running", s.pid)
	}
	if err := signal(s.pid, syscall.SIGSTOP); err != nil {
		return err
	}
	return s.signalDescendants(syscall.SIGSTOP)
}

// Resume undoes Pause, the root last.
func (s *Server) Resume() error {
	if err := s.signalDescendants(syscall.SIGCONT); err != nil {
		return err
	}
	return s.Signal(syscall.SIGCONT)
}

func (s *Server) signalDescendants(sig syscall.Signal) error {
	pids, err := descendants(s.pid)
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		errs = append(errs, signal(pid, sig))
	}
	return errors.Join(errs...)
}

// reap takes the exit status of a process that is gone. The status is no news: either we ended it, or its log says
// why it went. But until then it is a zombie, which Postgres takes for a running server.
func (s *Server) reap() {
	switch {
	case s.cmd == nil:
		// Ours to reap only if we became its parent: as a container's first process.
		_, _ = syscall.Wait4(s.pid, nil, syscall.WNOHANG, nil)
	case s.cmd.ProcessState == nil:
		_ = s.cmd.Wait()
	}
}

func signal(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %v to process %d: %w", sig, pid, err)
	}
	return nil
}

// Poll calls done until it says true, gives an error, or ctx ends.
func Poll(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// guards holds the pipe of every guard: were one collected as garbage, its pipe would be closed and the guard
// would act although we live.
var guards sync.Map

// Guard starts a shell that waits for the end of this process, however it comes (exit, panic, SIGKILL), and then
// runs script with args as $1, $2, …. It is how a test that is killed leaves no server behind. release ends the
// shell without running the script.
func Guard(script string, args ...string) (release func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	defer r.Close()
	// read returns when the last write end of the pipe is closed; ours is the only one and closes with us.
	cmd := exec.Command("/bin/sh", append([]string{"-c", "read -r _\n" + script, "guard"}, args...)...)
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start guard: %w", err)
	}
	guards.Store(cmd, w)
	return sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // fails only if it is gone
		_ = cmd.Wait()
		guards.Delete(cmd)
		w.Close()
	}), nil
}

// LastLines gives the end of a log file for an error message; "" if there is none.
func LastLines(path string) string {
	const most = 2000
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	if len(b) > most {
		b = append([]byte("… "), b[len(b)-most:]...)
	}
	return string(b)
}

// below lists all descendants of root, parents before children.
func below(root int, children map[int][]int) []int {
	all := append([]int(nil), children[root]...)
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}
