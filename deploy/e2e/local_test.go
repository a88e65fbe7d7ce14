package e2e

import (
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// The way of the tutorial on one machine: two databases, both services on the embedded broker, a prompt.
func TestLocal(t *testing.T) {
	dir := newDir(t)
	exports := regexp.MustCompile(`export (SOURCE|WAREHOUSE)='(\S+)'\n`)
	dsn := map[string]string{}
	databases := func() *program {
		p := start(t, 0, nil, "databases", "--port", "0", "--dir", filepath.Join(dir, "databases"))
		p.until("addresses are printed", func() bool { return len(exports.FindAllString(p.text(), -1)) == 2 })
		for _, found := range exports.FindAllStringSubmatch(p.text(), -1) {
			dsn[found[1]] = found[2]
		}
		return p
	}
	end := func(p *program) {
		p.signal(os.Interrupt)
		if code := p.exit(); code != 0 {
			t.Errorf("exit code %d after Ctrl-C", code)
		}
	}
	servers := databases()
	exec(t, connect(t, dsn["SOURCE"]), `ALTER SYSTEM SET wal_level = 'logical'`) // as capture check says
	end(servers)
	servers = databases()
	source := connect(t, dsn["SOURCE"])
	exec(t, source, `CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item SELECT i, 'item ' || i FROM generate_series(1, 100) i`)

	captureFile, sinkFile := filepath.Join(dir, "capture.yaml"), filepath.Join(dir, "sink.yaml")
	must(t, os.WriteFile(captureFile, fmt.Appendf(nil, "source: {name: shop, dsn: %q}\nhttp: {listen: '127.0.0.1:0'}\n", dsn["SOURCE"]), 0o644))
	must(t, os.WriteFile(sinkFile, fmt.Appendf(nil, "warehouse: {dsn: %q}\ntables: [{from: public.item, to: copy.item}]\nhttp: {listen: '127.0.0.1:0'}\n", dsn["WAREHOUSE"]), 0o644))
	warehouse := func() (string, error) { return dsn["WAREHOUSE"], nil }
	for round := range 2 {
		p := start(t, 0, nil, "run", "--dir", filepath.Join(dir, "broker"), "--capture", captureFile, "--sink", sinkFile)
		p.until("rows arrive", func() bool { return number(warehouse, `SELECT count(*) FROM copy.item`) == int64(100+round) })
		exec(t, source, `INSERT INTO item VALUES ($1, 'one more')`, 101+round)
		p.until("a change arrives", func() bool { return number(warehouse, `SELECT count(*) FROM copy.item`) == int64(101+round) })
		p.signal(syscall.SIGTERM)
		if code := p.exit(); code != 0 {
			t.Fatalf("exit code %d after SIGTERM", code)
		}
	}

	path, err := binary()
	must(t, err)
	prompt := osexec.Command(path, "psql", dsn["WAREHOUSE"])
	prompt.Env = []string{"PATH=" + dir} // no psql there
	prompt.Stdin = strings.NewReader("select count(*) from copy.item;")
	if out, err := prompt.CombinedOutput(); err != nil || !strings.Contains(string(out), "\n   102\n(1 row)") {
		t.Errorf("the prompt says (%v):\n%s", err, out)
	}

	end(servers)
}

func TestPsqlWithoutDemo(t *testing.T) {
	dir := newDir(t)
	p := start(t, 0, []string{"DEMO_DIR=" + dir}, "psql", "dwh")
	if code := p.exit(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if want := "start it with make demo"; !strings.Contains(p.text(), want) {
		t.Errorf("it does not say %q", want)
	}
}
