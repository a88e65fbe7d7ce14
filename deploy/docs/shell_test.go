package docs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell is the terminal of a page's reader: one bash for all of its commands.
type shell struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.Writer
	done  chan string // "0 line": the exit status of a command, and the first line of it that failed
	out   string      // directory of what the commands say
	count int
}

// prelude is what blocks that the reader does not see use: stop is Ctrl-C in a service's terminal; raised waits until a
// service's status names a code, well until it names nothing.
const prelude = `
raised() { until "$1" status -c "$1.yaml" 2>&1 | grep -q "explain $2\$"; do sleep 0.1; done; }
well() { until sink status -c sink.yaml --wait caught-up --timeout 1m >/dev/null && sink status -c sink.yaml; do sleep 0.1; done; }
stop() { kill -TERM "${!1}" && wait "${!1}"; }
crash() { kill -KILL "${!1}"; wait "${!1}" || true; }
set -E
`

// patience bounds a command, and what is waited for; the machine may be busy.
const patience = 2 * time.Minute

func newShell(t *testing.T, dir string, env []string) *shell {
	t.Helper()
	s := &shell{t: t, done: make(chan string, 1), out: t.TempDir()}
	report, answer, err := os.Pipe()
	must(t, err)
	s.cmd = exec.Command("bash", "--noprofile", "--norc")
	s.cmd.Dir, s.cmd.Env, s.cmd.ExtraFiles = dir, env, []*os.File{answer}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.in, err = s.cmd.StdinPipe()
	must(t, err)
	must(t, s.cmd.Start())
	must(t, answer.Close())
	go func() {
		lines := bufio.NewScanner(report)
		for lines.Scan() {
			s.done <- lines.Text()
		}
		close(s.done)
		_ = report.Close() // it was only read
	}()
	t.Cleanup(s.end)
	s.must(prelude)
	return s
}

// end ends the shell and what it has left running, as a logout does, and by force what does not listen.
func (s *shell) end() {
	if s.t.Failed() {
		files, _ := filepath.Glob(filepath.Join(s.out, "*"))
		for _, file := range files {
			if text := s.read(file); text != "" {
				s.t.Logf("%s:\n%s", filepath.Base(file), text[max(0, len(text)-4000):])
			}
		}
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGTERM)
	_ = s.cmd.Process.Kill() // it ignores SIGTERM
	_ = s.cmd.Wait()
	deadline := time.Now().Add(30 * time.Second)
	for syscall.Kill(-s.cmd.Process.Pid, 0) == nil {
		if time.Now().After(deadline) {
			_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
			s.t.Errorf("a service did not end within 30 s of SIGTERM")
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// run runs commands and gives what they say, and whether each of them succeeded.
func (s *shell) run(commands string) (said string, ok bool) {
	s.t.Helper()
	s.count++
	file := filepath.Join(s.out, fmt.Sprint(s.count))
	_, err := fmt.Fprintf(s.in, "failed=; trap 'failed=$?' ERR\n{\n%s\n} >'%s' 2>&1 </dev/null 3>&-\ntrap - ERR; echo \"${failed:-0}\" >&3\n", commands, file)
	must(s.t, err)
	select {
	case status, alive := <-s.done:
		if !alive {
			s.t.Fatalf("the shell has ended at:\n%s", commands)
		}
		return s.read(file), status == "0"
	case <-time.After(patience):
		s.t.Fatalf("not done after %s:\n%s\n%s", patience, commands, s.read(file))
		return "", false
	}
}

func (s *shell) must(commands string) string {
	s.t.Helper()
	said, ok := s.run(commands)
	if !ok {
		s.t.Fatalf("failed:\n%s\n%s", commands, said)
	}
	return said
}

// serve starts a command that stays, as in a terminal of its own. Its process is known to later commands as $name, what
// it says is in the file that is returned.
func (s *shell) serve(name, command string) (log string) {
	s.t.Helper()
	log = filepath.Join(s.out, name+".log")
	must(s.t, os.WriteFile(log, nil, 0o600)) // the command makes it when it comes to it
	s.must(fmt.Sprintf("%s >'%s' 2>&1 &\n%s=$!", command, log, name))
	return log
}

func (s *shell) read(file string) string {
	content, err := os.ReadFile(file)
	must(s.t, err)
	return string(content)
}

// eventually polls until is says yes.
func eventually(is func() bool) bool {
	deadline := time.Now().Add(patience)
	for !is() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(100 * time.Millisecond)
	}
	return true
}

// nameOf gives the program that a command runs.
func nameOf(command string) string {
	for _, word := range strings.Fields(command) {
		if !strings.Contains(word, "=") {
			return filepath.Base(word)
		}
	}
	return ""
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestUpdateOfServices: with -update a block of a service that begins slowly stays as it is, and gets what it says where that is
// something else.
func TestUpdateOfServices(t *testing.T) {
	was := *update
	*update = true
	t.Cleanup(func() { *update = was })
	g := &ground{t: t, there: strings.NewReplacer(), shell: newShell(t, t.TempDir(), os.Environ())}
	const service = "$ sh -c 'sleep 1; echo ready after 31 ms; sleep 1; echo and more'\n"
	for shown, want := range map[string]string{
		"":                     "",
		"ready after 20 ms\n":  "ready after 20 ms\n",
		"steady after 20 ms\n": "ready after 31 ms\nand more\n",
	} {
		if got := g.console("here", Block{Info: "console service"}, service+shown); got != service+want {
			t.Errorf("%q becomes %q", shown, got)
		}
	}
}
