package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/browsertest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
)

// live is a capture and a sink, whose pages are read while what they work with is broken.
type live struct {
	t                 *testing.T
	name              string // of the source and of the group
	source, warehouse *pgtest.Cluster
	kafka             kafkatest.Cluster
	capture, sink     string    // where they answer
	shop, dwh         *pgx.Conn // the databases
	captureFile       string    // of the program
	sinkFile          string
	stopCapture       func()
}

// newLive starts all of it, on Apache Kafka where the machine can run it.
func newLive(t *testing.T) *live {
	t.Helper()
	w := &live{t: t, name: strings.ReplaceAll(kafkatest.Name(t), "-", "_"), source: pgtest.New(t, pgtest.Options{}), warehouse: pgtest.New(t, pgtest.Options{})}
	if _, err := osexec.LookPath("java"); err != nil || os.Getenv("TRIBUTARY_KAFKA") == "off" {
		w.kafka = kafkatest.Fake(t)
	} else {
		w.kafka = kafkatest.Real(t)
	}
	registry := kafkatest.Registry(t)
	s := newSource(t, w.name, pgtest.Database(t, w.source), w.kafka, registry)
	w.shop, w.dwh = s.conn, connect(t, pgtest.Database(t, w.warehouse))
	exec(t, w.shop, `create table item (id int primary key, price int); create table other (id int primary key);
		insert into item select i, i from generate_series(1, 100) i; insert into other values (1)`)
	w.capture, w.stopCapture = w.serve("capture", func(log *slog.Logger) (func(context.Context) error, error) {
		c, err := capture.New(s.config, capture.Options{}, log)
		return c.Serve, err
	})
	address, err := pgtest.FreeAddress()
	must(t, err)
	w.captureFile = filepath.Join(t.TempDir(), "capture.yaml")
	must(t, os.WriteFile(w.captureFile, fmt.Appendf(nil, `
source: {name: %s, dsn: %q, tables: ["public.*"]}
kafka: {brokers: [%s]}
registry: {url: %q}
http: {listen: %q}
`, w.name, s.dsn, strings.Join(w.kafka.Addrs(), ","), registry, address), 0o600))
	text := fmt.Appendf(nil, `
group: %s
warehouse: {dsn: %q, connections: 2}
kafka: {brokers: [%s]}
registry: {url: %q}
http: {listen: "127.0.0.1:0"}
sources: [{name: %s}] # the broker is shared
tables: [{from: "public.*", to: "copy.{table}"}]
`, w.name, w.dwh.Config().ConnString(), strings.Join(w.kafka.Addrs(), ","), registry, w.name)
	w.sinkFile = filepath.Join(t.TempDir(), "sink.yaml")
	must(t, os.WriteFile(w.sinkFile, text, 0o600))
	var cfg sink.Config
	must(t, config.Decode("sink.yaml", text, &cfg))
	w.sink, _ = w.serve("sink", func(log *slog.Logger) (func(context.Context) error, error) {
		k, err := sink.New(cfg, log)
		return k.Run, err
	})
	return w
}

// serve runs a service, and takes from its log where it answers.
func (w *live) serve(name string, begin func(*slog.Logger) (func(context.Context) error, error)) (address string, stop func()) {
	w.t.Helper()
	var log lines
	service, err := begin(slog.New(slog.NewTextHandler(&log, nil)))
	must(w.t, err)
	stop = run(w.t, name, service)
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("%s said:\n%s", name, log.String())
		}
	})
	eventually(w.t, name+" answers", func() bool {
		_, rest, found := strings.Cut(log.String(), " http=")
		if found {
			address = "http://" + strings.Fields(rest)[0]
		}
		return found
	})
	return address, stop
}

func (w *live) get(address string) *http.Response {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, address, nil)
	must(w.t, err)
	response, err := http.DefaultClient.Do(request)
	must(w.t, err)
	return response
}

var (
	tag   = regexp.MustCompile(`<[^>]*>`)
	space = regexp.MustCompile(`\s+`)
)

// page gives what a page says, without its tags.
func (w *live) page(address string) string {
	w.t.Helper()
	response := w.get(address)
	defer response.Body.Close() //nolint:errcheck // it is read
	body, err := io.ReadAll(response.Body)
	must(w.t, err)
	_, main, _ := strings.Cut(string(body), "<main")
	return space.ReplaceAllString(html.UnescapeString(tag.ReplaceAllString("<main"+main, " ")), " ")
}

// shows waits until a page says all of words, and nothing of what begins with a "!".
func (w *live) shows(when, address string, words ...string) {
	w.t.Helper()
	began, text, wrong := time.Now(), "", ""
	defer func() {
		if w.t.Failed() {
			w.t.Logf("%s: it is not so that %q: %s", when, wrong, text)
		}
	}()
	eventually(w.t, when, func() bool {
		text = w.page(address)
		for _, wrong = range words {
			unwanted, not := strings.CutPrefix(wrong, "!")
			if strings.Contains(text, unwanted) == not {
				return false
			}
		}
		return true
	})
	w.t.Logf("%s: after %s", when, time.Since(began).Round(100*time.Millisecond))
}

func (w *live) well(when string) {
	w.t.Helper()
	w.shows(when+", capture is well", w.capture, w.name+" is healthy: ", "Nothing needs you.")
	w.shows(when+", the sink is well", w.sink, w.name+" is healthy: complete up to ", "Nothing needs you.")
}

// verb runs one of the sink's program, which ends with code.
func (w *live) verb(code int, args ...string) string {
	w.t.Helper()
	path, err := sinkBinary()
	must(w.t, err)
	var out bytes.Buffer
	cmd := osexec.CommandContext(w.t.Context(), path, append(args, "--yes", "-c", w.sinkFile)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != code {
		w.t.Fatalf("sink %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

// changes follows those of a table at its page, and gives them a line each once it does.
func (w *live) changes(address, table string) <-chan string {
	w.t.Helper()
	response, told := w.get(address+"/changes?table="+table), make(chan string, 10)
	w.t.Cleanup(func() { _ = response.Body.Close() })
	begun := make(chan bool)
	go func() {
		defer close(told)
		for in := bufio.NewScanner(response.Body); in.Scan(); {
			switch text, data := strings.CutPrefix(in.Text(), "data: "); {
			case data && text == "asking Kafka":
			case data && strings.HasPrefix(text, "as they come, "):
				close(begun)
			case data:
				told <- text
			}
		}
	}()
	select {
	case <-begun:
	case <-time.After(patience):
		w.t.Fatalf("the changes of %s do not begin", table)
	}
	return told
}

// TestPagesInTrouble breaks, one after the other, what a capture and a sink need, and reads from their pages whether it is all
// right, what needs somebody, and what that is to do; and mends it, after which they say that all is well. At the end capture is gone.
func TestPagesInTrouble(t *testing.T) {
	w := newLive(t)
	item := w.name + "/public.item"
	w.well("at the beginning")
	published, written := w.changes(w.capture, "public.item"), w.changes(w.sink, item)
	exec(t, w.shop, `insert into item values (101, 101)`)
	for of, lines := range map[string]<-chan string{"  insert  id, price": published, "  insert  id, price  written": written} {
		select {
		case line := <-lines:
			if !strings.HasSuffix(line, of) {
				t.Errorf("a change is told as %q", line)
			}
		case <-time.After(patience):
			t.Errorf("a change is not told: %q", of)
		}
	}

	must(t, w.kafka.Kill())
	exec(t, w.shop, `insert into item values (102, 102)`)
	w.shows("without Kafka, capture says so", w.capture, w.name+" waits for Kafka, for ", "Needs you (1)", " waiting for Kafka ", "kafka-unreachable: runbook")
	w.shows("without Kafka, the sink says so", w.sink, w.name+" is waiting for Kafka, for ", ": complete up to ", "Needs you (1)", " waiting for Kafka, try ",
		"kafka-unreachable: runbook", "waiting for Kafka – –", "!another sink's")
	must(t, w.kafka.Restart(t.Context()))
	w.well("with Kafka again")

	w.quick(func() bool {
		must(t, w.kafka.Pause())
		hangs := w.watch()
		w.shows("with a Kafka that hangs, capture says so", w.capture, w.name+" waits for Kafka, for ", "Needs you (1)", " waiting for Kafka ", "kafka-unreachable: runbook")
		quick := hangs.told(service.WaitingAfter-time.Second, "of capture, that Kafka hangs")
		w.shows("with a Kafka that hangs, the sink says so", w.sink, w.name+" is waiting for Kafka, for ", ": complete up to ", "Needs you (1)", " waiting for Kafka, try ",
			"kafka-unreachable: runbook", "!another sink's")
		quick = hangs.told(service.WaitingAfter-time.Second, "of the sink, that Kafka hangs") && quick
		must(t, w.kafka.Resume())
		w.well("with a Kafka that goes on")
		return quick
	})

	person := connect(t, w.dwh.Config().ConnString())
	exec(t, person, `set application_name = 'a person'`)
	exec(t, person, `begin`)
	exec(t, person, `lock table copy.item`)
	exec(t, w.shop, `insert into item values (103, 103); insert into other values (103)`)
	holder := fmt.Sprintf("a lock held by pid %d (a person)", person.PgConn().PID())
	w.shows("at a lock, the sink says whose it is", w.sink, w.name+" is waiting for "+holder+": 1 of 2 tables, "+item+" ", "writing to copy.item waits for "+holder,
		fmt.Sprintf("SELECT pg_terminate_backend(%d);", person.PgConn().PID()), w.name+"/public.other ✓ up to date 0 s 0", "lock-wait: runbook")
	exec(t, person, `rollback`)
	w.well("without the lock")

	exec(t, w.dwh, `alter table copy.item add constraint cheap check (price < 1000)`)
	exec(t, w.shop, `insert into item values (104, 2000); insert into item values (105, 105)`)
	exec(t, w.shop, `insert into other values (105)`)
	w.shows("with a poisoned row, the sink says what it is, and what to do", w.sink, "needs you: 1 table is quarantined. The other one goes on.", item+" is quarantined",
		`violates check constraint "cheap"`, "sink resume "+item+" ", "sink resume "+item+" --park", "constraint-violation: runbook", w.name+"/public.other ✓ up to date 0 s 0")
	if said := w.verb(1, "resume", item, "--wait", "--timeout", patience.String()); !strings.Contains(said, "is held there again: offset ") {
		t.Errorf("it is not told that nothing is mended: %s", said)
	}
	if said := w.verb(0, "resume", item, "--park", "--wait", "--timeout", patience.String()); !strings.Contains(said, ", goes on\n") {
		t.Errorf("it is not told that the table goes on: %s", said)
	}
	if parked := scalar[int](t, w.dwh, `select count(*) from tributary.parked`); parked != 1 {
		t.Errorf("it returned with %d rows parked", parked)
	}
	w.shows("with a parked row, the sink says so", w.sink, "needs you: 1 row is parked. All tables go on.", "sink parked show "+item)
	w.verb(0, "parked", "discard", item)
	w.well("without the parked row")

	must(t, w.warehouse.Stop())
	exec(t, w.shop, `insert into item values (106, 106)`)
	w.shows("without its warehouse, the sink says so", w.sink, w.name+" is waiting for the warehouse, for ", ": complete up to ", "Needs you (1)", "waiting for the warehouse, try ",
		item+" ◷ waiting for the warehouse ", "warehouse-unreachable: runbook")
	must(t, w.warehouse.Restart(t.Context()))
	w.well("with the warehouse again")

	must(t, w.source.Stop())
	w.shows("without its source, capture says so", w.capture, w.name+" waits: cannot connect to source ", "Needs you (1)", "nothing is lost", "source-unreachable: runbook",
		"old: the source does not answer")
	w.stopCapture()
	w.shows("without its source and capture, the sink says so", w.sink, "has all there is, but a capture is silent: complete up to ", "the capture of "+w.name+" has said nothing for ",
		"it answered at "+w.capture, "capture status", "capture-silent: runbook")

	must(t, w.source.Restart(t.Context()))
	t.Run("killed", func(browser *testing.T) {
		w.t = browser
		defer func() { w.t = t }()
		w.killed()
	})
}

// watch is when something was broken. A service has ten seconds to tell it, in which the machine does its work as it comes: what it is
// late, as others keep it busy, is not the service's.
type watch struct {
	t     *testing.T
	began time.Time
	late  atomic.Int64 // nanoseconds, of whoever wanted to go on each 20 ms
}

func (w *live) watch() *watch {
	s := &watch{t: w.t, began: time.Now()}
	go func() {
		const each = 20 * time.Millisecond
		for s.t.Context().Err() == nil {
			before := time.Now()
			<-time.After(each)
			s.late.Add(int64(time.Since(before) - each))
		}
	}()
	return s
}

// quick does something in which services have to be quick, up to three times: one that is too slow is so each time. Late by others, it is
// not: how late the machine was, a watch knows of one goroutine alone, not of processes and a browser that wait for each other.
func (w *live) quick(once func() bool) {
	w.t.Helper()
	for range 3 {
		if once() {
			return
		}
	}
	w.t.Error("a service is too slow, three times")
}

// told says whether it is soon enough. It fails the test where it is before least, so that a short wait would be told, too.
func (s *watch) told(least time.Duration, what string) bool {
	s.t.Helper()
	after, late := time.Since(s.began), time.Duration(s.late.Load())
	s.t.Logf("%s is told after %s, by a machine that is %s late", what, after.Round(time.Millisecond), late.Round(time.Millisecond))
	if after < least {
		s.t.Errorf("%s is told after %s", what, after)
	}
	return after-late < 10*time.Second
}

// killed starts the program capture, kills it while somebody has its page open, and starts it again: the page says that it is not
// live any more, and is again, by itself.
func (w *live) killed() {
	w.t.Helper()
	var cfg capture.Config
	must(w.t, config.Load(w.captureFile, &cfg))
	kill := w.startProgram()
	address := "http://" + cfg.HTTP.Listen
	eventually(w.t, "the program capture answers", func() bool { return answers(address) })
	says := browsertest.Open(w.t, address)
	tells := func(when string, words ...string) {
		w.t.Helper()
		began, text := time.Now(), ""
		defer func() {
			if w.t.Failed() {
				w.t.Logf("%s the page says: %s", when, text)
			}
		}()
		eventually(w.t, when, func() bool {
			text = says()
			return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
		})
		w.t.Logf("%s: after %s", when, time.Since(began).Round(100*time.Millisecond))
	}
	tells("with the program capture, its page is live", "live ", w.name+" is healthy: ", "Nothing needs you.")
	w.quick(func() bool {
		killed := w.watch()
		kill()
		tells("with capture killed, its open page says so", "? ", "no answer for ", "last data ", "trying every 2 s")
		quick := killed.told(0, "that capture is gone")
		kill = w.startProgram()
		tells("with capture again, its open page is live", "live ", w.name+" is healthy: ", "Nothing needs you.")
		return quick
	})
	if text := says(); strings.Contains(text, "no answer") || strings.HasPrefix(text, "? ") {
		w.t.Errorf("the page still says %s", text)
	}
}

// startProgram starts the program capture; kill ends it as SIGKILL does. It goes with the test.
func (w *live) startProgram() (kill func()) {
	w.t.Helper()
	path, err := captureBinary()
	must(w.t, err)
	cmd := osexec.CommandContext(w.t.Context(), path, "run", "-c", w.captureFile)
	var log lines
	cmd.Stdout, cmd.Stderr = &log, &log
	must(w.t, cmd.Start())
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	w.t.Cleanup(func() {
		kill()
		if w.t.Failed() {
			w.t.Logf("the program capture said:\n%s", log.String())
		}
	})
	return kill
}

// answers says whether a service does.
func answers(address string) bool {
	response, err := http.Get(address + "/healthz") //nolint:noctx // it is near
	if err == nil {
		_ = response.Body.Close()
	}
	return err == nil
}
