package nemesis

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Build builds both services into dir, with the build tags given ("" for none). modules is the directory that holds
// the modules capture and sink.
func Build(ctx context.Context, modules, dir, tags string) (Programs, error) {
	p := Programs{Capture: filepath.Join(dir, "capture"), Sink: filepath.Join(dir, "sink")}
	for name, path := range map[string]string{"capture": p.Capture, "sink": p.Sink} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", tags, "-o", path, "./cmd/"+name)
		cmd.Dir = filepath.Join(modules, name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off") // as make build: most is compiled already
		if out, err := cmd.CombinedOutput(); err != nil {
			return p, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return p, nil
}

// service is one process of ours and its supervisor, which starts it again when it ends, as systemd would.
type service struct {
	m    *machine
	name string
	path string
	args []string
	log  string // file

	mu      sync.Mutex
	wanted  bool
	pid     int           // of the running process, 0 for none
	lives   int           // how often it was launched
	begin   int64         // where its log stood then
	asked   bool          // that it ends now is our doing
	running chan struct{} // closed when the supervisor has ended
	wake    chan struct{} // closed to end the pause before the next start
}

const restartAfter = 300 * time.Millisecond

// start begins to keep the process running. Starting a started one does nothing.
func (s *service) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted {
		return
	}
	s.wanted = true
	s.running, s.wake = make(chan struct{}), make(chan struct{})
	go s.supervise(s.running, s.wake)
}

// supervise owns the process. It keeps its thread, since the death signal of a child is bound to the thread that
// started it.
func (s *service) supervise(done, wake chan struct{}) {
	runtime.LockOSThread()
	defer close(done)
	for {
		cmd, err := s.launch()
		if err != nil {
			s.m.find("%s cannot be started: %v", s.name, err)
			return
		}
		if cmd == nil {
			return
		}
		_ = cmd.Wait() // how it ended is in ProcessState
		s.mu.Lock()
		asked, wanted := s.asked, s.wanted
		s.pid, s.asked = 0, false
		s.mu.Unlock()
		if !asked || cmd.ProcessState.ExitCode() == 1 { // a capture that cannot go on stays to say so, until it is asked
			s.ended(cmd.ProcessState)
		}
		if !wanted {
			return
		}
		select {
		case <-wake:
		case <-time.After(restartAfter):
		}
	}
}

// launch starts the process, or gives nil if it is not wanted any more.
func (s *service) launch() (*exec.Cmd, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.wanted {
		return nil, nil
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	stat, err := log.Stat()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(s.path, s.args...)
	cmd.Env = append(append(os.Environ(), "GOTRACEBACK=all"), s.m.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.pid, s.begin = cmd.Process.Pid, stat.Size()
	s.lives++
	return cmd, nil
}

var runbook = regexp.MustCompile(`see    (?:capture|sink) explain ([a-z-]+)`)

// mayEnd are the troubles with which a service may end by itself: somebody else has taken its place.
var mayEnd = map[string]bool{"fenced": true, "slot-in-use": true}

// ended judges an end that nobody asked for, or in trouble.
func (s *service) ended(state *os.ProcessState) {
	tail := s.tail(4000)
	code := state.String()
	if found := runbook.FindAllSubmatch(tail, -1); state.ExitCode() == 1 && found != nil {
		code = string(found[len(found)-1][1])
	}
	s.m.note(func(r *Report) { r.Exits[s.name[:len(s.name)-2]+" "+code]++ })
	s.m.tell("%s ended by itself: %s", s.name, code)
	if !mayEnd[code] {
		s.m.find("%s ended by itself (%s); its log ends with:\n%s", s.name, code, s.tail(1500))
	}
}

func (s *service) tail(most int) []byte {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return []byte(err.Error())
	}
	return bytes.TrimSpace(b[max(0, len(b)-most):])
}

// signal sends sig to the process, if there is one. expect says that it will end by it.
func (s *service) signal(sig syscall.Signal, expect bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid == 0 {
		return
	}
	s.asked = s.asked || expect
	_ = syscall.Kill(s.pid, sig) // of one that is just ending, nothing
}

// kill is kill -9; the supervisor starts it again.
func (s *service) kill() { s.signal(syscall.SIGKILL, true) }

func (s *service) pause()  { s.signal(syscall.SIGSTOP, false) }
func (s *service) resume() { s.signal(syscall.SIGCONT, false) }

// restart ends the process in order; the supervisor starts it again.
func (s *service) restart() { s.signal(syscall.SIGTERM, true) }

// stop ends process and supervisor, in order; what does not end is a finding.
func (s *service) stop() {
	s.mu.Lock()
	if !s.wanted {
		s.mu.Unlock()
		return
	}
	s.wanted = false
	done := s.running
	close(s.wake)
	s.mu.Unlock()
	s.signal(syscall.SIGTERM, true)
	select {
	case <-done:
	case <-time.After(s.m.Patience):
		s.m.find("%s does not end within %s of SIGTERM", s.name, s.m.Patience)
		s.signal(syscall.SIGQUIT, true) // its goroutines go to its log
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			s.kill()
			<-done
		}
	}
}

// dump lets every service write its goroutines to its log, which ends it.
func (m *machine) dump() {
	for _, s := range m.services {
		s.signal(syscall.SIGQUIT, true)
	}
}
