package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// ending is a command as it is typed, and how it ends.
type ending struct {
	command string
	code    int
	says    string // on either output
	until   string // what it must have said before signal is sent
	signal  os.Signal
	failure string // the code of the error that --json gives
}

// TestVerbsEndAsTheySay: the exit codes of docs/reference/json.md, of the programs themselves.
func TestVerbsEndAsTheySay(t *testing.T) {
	g := newGround(t, &Page{Needs: []string{"running shop"}})
	must(t, os.WriteFile(g.dir+"/broken.yaml", []byte("source: {name: [\n"), 0o600))
	sql := func(side, database, text string) { g.sql(database, Block{Info: "sql " + side}, text, nil) }
	all := func(endings ...ending) {
		t.Helper()
		for i := range endings {
			g.ends(&endings[i])
		}
	}
	interrupted := func(code int, until, command string) ending {
		return ending{command: command, code: code, until: until, signal: os.Interrupt}
	}
	all(
		ending{command: "capture check", says: "Ready."},
		ending{command: "sink check", says: "Ready."},
		ending{command: "capture status --wait snapshot-done --timeout 1m", says: "is healthy"},
		ending{command: "sink status --wait caught-up --timeout 1m", says: "shop/public.orders"},
		ending{command: "capture healthcheck"},
		ending{command: "sink healthcheck --ready"},
		ending{command: "capture snapshot --table public.orders --wait", says: "300 rows published"},
		ending{command: "capture pause --reason test --yes", says: "paused"},
		ending{command: "capture resume --yes", says: "resumed"},
		ending{command: "capture resume --yes", says: "it is not paused"},
		ending{command: "sink pause shop/public.odrers --yes", says: "did you mean shop/public.orders?"},
		ending{command: "sink resume shop/public.odrers --yes", says: "1 pause ended"},
		ending{command: "sink tenant rebuild shop --yes --wait --timeout 1m", says: "rebuilt"},
		ending{command: "sink tenant remove shop --yes", says: "rows removed"},
		ending{command: "sink tenant resume shop --yes --wait --timeout 1m", says: "all rows are there again"},

		// Failed, or not well.
		ending{command: "TRIBUTARY_KAFKA_BROKERS=127.0.0.1:1 capture check --json", code: 1, says: `"FAIL"`, failure: "kafka-unreachable"},
		ending{command: "WAREHOUSE_DSN=postgres://sink@127.0.0.1:1/dwh sink check --only warehouse --json", code: 1, says: `"FAIL"`, failure: "warehouse-unreachable"},
		ending{command: "WAREHOUSE_DSN=postgres://sink@127.0.0.1:1/dwh sink status --direct --json", code: 1, failure: "warehouse-unreachable"},
		ending{command: "capture status --url http://127.0.0.1:1", code: 1, says: "127.0.0.1:1"},
		ending{command: "TRIBUTARY_HTTP_LISTEN=127.0.0.1:1 sink healthcheck", code: 1, says: "connection refused"},
		ending{command: "sink status --wait complete=FF/0 --timeout 3s --json", code: 1, says: "is complete up to", failure: "late"}, // once a second the sink looks at what was brought back
		ending{command: "capture run", code: 1, says: "http.listen"},                                                                 // one runs
		ending{command: "WAREHOUSE_DSN=${WAREHOUSE_DSN/dwh/no_such} TRIBUTARY_HTTP_LISTEN=127.0.0.1:0 sink run", code: 1, says: "sink explain warehouse-rights"},

		// Used wrongly.
		ending{command: "capture stauts", code: 2, says: "did you mean status?\nusage: capture VERB "},
		ending{command: "capture run --confg x", code: 2, says: "did you mean --config?\nusage: capture run "},
		ending{command: "capture snapshot lsit", code: 2, says: "did you mean list?"},
		ending{command: "capture snapshot", code: 2, says: "which tables? --table"},
		ending{command: "capture snapshot --table public.odrers", code: 2, says: "did you mean public.orders?"},
		ending{command: "capture tail public.odrers --json", code: 2, says: "did you mean public.orders?", failure: "usage"},
		ending{command: "capture tail nodot", code: 2, says: "write schema.table"},
		ending{command: "capture slot drop", code: 2, says: "--yes"},
		ending{command: "capture status --wait soon", code: 2, says: "snapshot-done"},
		ending{command: "capture explain slot-lots --json", code: 2, says: "did you mean slot-lost?", failure: "usage"},
		ending{command: "capture config check -c broken.yaml --json", code: 2, says: "not YAML", failure: "config"},
		ending{command: "capture check -c absent.yaml", code: 2, says: "capture init env:NAME -o capture.yaml"},
		ending{command: "SHOP_DSN=postgres:/shop TRIBUTARY_HTTP_LISTEN=127.0.0.1:0 capture run", code: 2, says: "connection string is not valid"},
		ending{command: "-u WAREHOUSE_DSN TRIBUTARY_HTTP_LISTEN=127.0.0.1:0 sink run", code: 2, says: `"WAREHOUSE_DSN" is not set`},
		ending{command: "sink status --source shpo", code: 2, says: "did you mean shop?"},
		ending{command: "sink tail shpo", code: 2, says: "did you mean shop?"},
		ending{command: "sink rules test --source shop --table public.odrers", code: 2, says: "did you mean shop.public.orders?"},
		ending{command: "sink rules explain --source shop --table public.odrers", code: 2, says: "did you mean shop.public.orders?"},
		ending{command: "sink tenant rebuild shpo --yes", code: 2, says: "did you mean shop?"},
		ending{command: "sink parked list --code constraint-violaton --json", code: 2, says: "did you mean constraint-violation?", failure: "usage"},

		// Ctrl-C ends what only looks, and interrupts what is waited for.
		interrupted(0, `"headline"`, "capture status --watch"),
		interrupted(0, `"headline"`, "sink status --watch=100ms"),
		interrupted(0, "Ready.", "capture tail"),
		interrupted(0, "Ready.", "sink tail shop"),
		interrupted(130, "warehouse", "sink status --wait complete=FF/0"),
		ending{command: "TRIBUTARY_HTTP_LISTEN=127.0.0.1:0 capture run --standby", until: "standing by", signal: syscall.SIGTERM},
		ending{command: "TRIBUTARY_HTTP_LISTEN=127.0.0.1:0 sink run", until: "claimed partitions", signal: syscall.SIGTERM},
	)
	all(interrupted(130, "asked for", "capture snapshot --table public.orders --rate 1 --wait"))
	g.shell.must("until capture snapshot list | grep -q public.orders; do sleep 0.1; done")
	all(
		interrupted(130, "reads existing rows", "capture status --wait snapshot-done"),
		ending{command: "capture status --wait snapshot-done --timeout 3s --json", code: 1, says: "tables done", failure: "late"},
		ending{command: "capture snapshot cancel --table public.orders --yes", says: "asked to give up"},
		ending{command: "sink pause shop --for 1h --yes"},
		interrupted(130, "every sink begins", "sink tenant rebuild shop --yes --wait"),
		ending{command: "sink resume shop --yes"},
		ending{command: "sink pause shop --yes"}, // this one nobody ends
		ending{command: "sink tenant rebuild shop --yes --wait", code: 1, says: "it is paused since"},
		ending{command: "sink resume shop --yes"},
	)
	sql("warehouse", "dwh", `ALTER TABLE sales.orders ADD CHECK (status <> 'bad')`)
	sql("source", "shop", `INSERT INTO orders VALUES (1000, 1, 1, 'bad')`)
	g.shell.must("until sink status | grep -q quarantined; do sleep 0.1; done")
	all(
		ending{command: "sink status", code: 1, says: "needs you"},
		ending{command: "sink tenant rebuild shop --yes --wait", code: 1, says: "explain constraint-violation"},
		ending{command: "sink resume shop/public.orders --park --yes", says: "1 partition is tried again"},
	)
	g.shell.must("stop sink; stop capture") // each with 0
	all(
		ending{command: "capture status", code: 1, says: "is not running"},
		ending{command: "sink status --json", code: 1, says: `"not_running"`},
	)
}

// ends runs a command, and compares how it ends.
func (g *ground) ends(e *ending) {
	g.t.Helper()
	cmd := exec.Command("bash", "-c", "exec env "+e.command) //nolint:gosec // of this file
	var out, said output
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = g.dir, g.shell.cmd.Env, &out, &said
	must(g.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if e.signal != nil {
		if !eventually(func() bool { return strings.Contains(out.String()+said.String(), e.until) }) {
			g.t.Errorf("%s: it never says %q", e.command, e.until)
		}
		_ = cmd.Process.Signal(e.signal) // how one ends that has ended is looked at below
	}
	err := <-ended
	if cmd.ProcessState == nil {
		g.t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != e.code || !strings.Contains(out.String()+said.String(), e.says) {
		g.t.Errorf("%s: exit code %d, want %d and %q\n%s%s", e.command, code, e.code, e.says, out.String(), said.String())
	}
	if e.failure != "" {
		if err := failedWith(said.String(), e.failure); err != nil {
			g.t.Errorf("%s: %v", e.command, err)
		}
	}
}

// failedWith looks whether the last line is an error of this code, as docs/reference/json.md has it.
func failedWith(said, code string) error {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	last := lines[len(lines)-1]
	var document map[string]map[string]string
	if err := json.Unmarshal([]byte(last), &document); err != nil {
		return fmt.Errorf("%w: %s", err, last)
	}
	if e := document["error"]; len(document) != 1 || len(e) != 7 || e["code"] != code || e["cause"] == "" {
		return fmt.Errorf("want the code %q in %s", code, last)
	}
	return nil
}

// output is what a program has said so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
