package e2e

import (
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tributary-cdc/tributary/deploy/local/demo"
)

var verdict = regexp.MustCompile(`(?m)^demo: 30 tables, ([\d,]+) rows, ([\d,]+) changes, lag p50 [\d.]+ m?s p99 [\d.]+ m?s, (.*)$`)

// enough is how many seconds of load have changes behind the snapshot, whose lag the verdict tells, also where other tests share the machine.
const enough = 10

func startDemo(t *testing.T, uid int, dir string, seconds int) *program {
	t.Helper()
	env := []string{"DEMO_DIR=" + dir, "DEMO_SECONDS="}
	if seconds > 0 {
		env[1] += strconv.Itoa(seconds)
	}
	return start(t, uid, env, "demo")
}

// expect waits for the demo's end and wants its verdict.
func (p *program) expect(code int, result string) {
	p.t.Helper()
	if got := p.exit(); got != code {
		p.t.Fatalf("exit code %d, want %d", got, code)
	}
	found := verdict.FindStringSubmatch(p.text())
	if found == nil {
		p.t.Fatal("there is no verdict")
	}
	number := func(s string) int {
		n, err := strconv.Atoi(strings.ReplaceAll(s, ",", ""))
		must(p.t, err)
		return n
	}
	if rows, changes := number(found[1]), number(found[2]); rows < 95_000 || changes < 500 || found[3] != result {
		p.t.Errorf("verdict is %q; want at least 95,000 rows, 500 changes, and %s", found[0], result)
	}
}

// The demo ends by itself, finds both sides equal, and leaves nothing running, whoever runs it.
func TestDemo(t *testing.T) {
	users := map[string]int{"this user": 0}
	if os.Geteuid() == 0 {
		nobody, err := user.Lookup("nobody") // initdb wants one that the system knows
		must(t, err)
		users["ordinary user"], err = strconv.Atoi(nobody.Uid)
		must(t, err)
	}
	for _, who := range []string{"this user", "ordinary user"} { // the first one fetches Postgres for both
		uid, ok := users[who]
		if !ok {
			continue
		}
		t.Run(who, func(t *testing.T) {
			dir := newDir(t)
			if uid != 0 {
				must(t, os.Chown(dir, uid, uid))
				t.Setenv("TRIBUTARY_CACHE", cacheFor(t, uid))
			}
			startDemo(t, uid, dir, enough).expect(0, "equal")
			if pids := running(t, dir); len(pids) > 0 {
				t.Errorf("processes %v still run", pids)
			}
		})
	}
}

// Ctrl-C ends a demo without end: everything stops, and that is no failure. While it runs there is no second one.
func TestDemoInterrupted(t *testing.T) {
	dir := newDir(t)
	p := startDemo(t, 0, dir, 0)
	p.until("rows arrive", func() bool { return number(database(dir, "dwh"), `SELECT count(*) FROM sales.payment`) > 0 })
	second := startDemo(t, 0, dir, 0)
	if code := second.exit(); code != 1 || !strings.Contains(second.text(), "the demo runs already") {
		t.Errorf("a second demo ends with exit code %d", code)
	}
	p.signal(os.Interrupt)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d after Ctrl-C", code)
	}
	if want := "nothing runs any more; make demo goes on"; !strings.Contains(p.text(), want) {
		t.Errorf("it does not say %q", want)
	}
	if pids := running(t, dir); len(pids) > 0 {
		t.Errorf("processes %v still run", pids)
	}
}

// A demo that is killed, at first while the snapshot arrives and then under load, goes on where it was: the servers
// that were left running are taken over, and in the end both sides are equal.
func TestDemoKilled(t *testing.T) {
	dir := newDir(t)
	p := startDemo(t, 0, dir, 300)
	p.until("rows arrive", func() bool { return number(database(dir, "dwh"), `SELECT count(*) FROM sales.payment`) > 0 })
	p.signal(syscall.SIGKILL)
	<-p.done
	if pids := running(t, dir); len(pids) == 0 {
		t.Error("the servers went with the demo; nothing was there to be taken over")
	}

	p = startDemo(t, 0, dir, 300)
	p.until("changes arrive", func() bool {
		return number(database(dir, "dwh"), `SELECT count(*) FROM sales.rental WHERE rental_id > 16200`) > 0
	})
	p.signal(syscall.SIGKILL)
	<-p.done

	startDemo(t, 0, dir, enough).expect(0, "equal")
}

// A demo whose servers are killed says so, can still be ended, and the next one goes on.
func TestDemoServersKilled(t *testing.T) {
	dir := newDir(t)
	p := startDemo(t, 0, dir, 0)
	p.until("rows arrive", func() bool { return number(database(dir, "dwh"), `SELECT count(*) FROM sales.payment`) > 0 })
	for _, server := range []string{"source", "warehouse"} {
		b, err := os.ReadFile(filepath.Join(dir, server, "data", "postmaster.pid"))
		must(t, err)
		first, _, _ := strings.Cut(string(b), "\n")
		pid, err := strconv.Atoi(first)
		must(t, err)
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	p.until("the demo says that it waits", func() bool { return strings.Contains(p.text(), "waiting") })
	p.signal(os.Interrupt)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d after Ctrl-C", code)
	}
	eventually(t, "what the killed servers had started is gone", func() bool { return len(running(t, dir)) == 0 })
	startDemo(t, 0, dir, enough).expect(0, "equal")
}

// The verdict is worth something: a changed row, a missing one and one too many are found, named, and fail the demo.
func TestDemoFindsDifference(t *testing.T) {
	dir := newDir(t)
	p := startDemo(t, 0, dir, 15)
	p.until("the tables that nobody changes are complete", func() bool {
		return number(database(dir, "dwh"), `SELECT (SELECT count(*) FROM sales.country) + (SELECT count(*) FROM sales.city) + (SELECT count(*) FROM sales.category)`) == 2*(20+120+16)
	})
	dsn, err := demo.Database(dir, "dwh")
	must(t, err)
	exec(t, connect(t, dsn), `
		UPDATE sales.country SET iso = 'xx' WHERE sid = 'eu' AND country_id = 3;
		DELETE FROM sales.city WHERE sid = 'us' AND city_id = 7;
		INSERT INTO sales.category (sid, category_id, name) VALUES ('us', 99, 'Made up')`)
	p.expect(1, "3 tables DIFFER")
	for _, want := range []string{
		"country of rental_eu: 1 rows of the source are missing in the warehouse, 1 are there and not in the source",
		"city of rental_us: 1 rows of the source are missing in the warehouse, 0 are there and not in the source",
		"category of rental_us: 0 rows of the source are missing in the warehouse, 1 are there and not in the source",
		`+ (99,"Made up")`,
	} {
		if !strings.Contains(p.text(), want) {
			t.Errorf("the demo does not say %q", want)
		}
	}
}

func TestDemoRefusesWrongSeconds(t *testing.T) {
	p := start(t, 0, []string{"DEMO_SECONDS=soon", "DEMO_DIR=" + newDir(t)}, "demo")
	if code := p.exit(); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	if want := `DEMO_SECONDS is "soon"`; !strings.Contains(p.text(), want) {
		t.Errorf("it does not say %q", want)
	}
}

// cacheFor makes a cache for another user, with root's programs in it.
func cacheFor(t *testing.T, uid int) string {
	t.Helper()
	root := os.Getenv("TRIBUTARY_CACHE")
	if root == "" {
		root = "/var/cache/tributary"
	}
	dir := newDir(t)
	must(t, os.Chown(dir, uid, uid))
	must(t, os.Symlink(filepath.Join(root, "postgres"), filepath.Join(dir, "postgres")))
	return dir
}

func database(dir, name string) func() (string, error) {
	return func() (string, error) { return demo.Database(dir, name) }
}
