package verbs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

type testConfig struct {
	DSN  config.Secret `mapstructure:"dsn" required:"true" doc:"Where."`
	Salt config.Secret `mapstructure:"salt" default:"" doc:"Salt."`
	Name string        `mapstructure:"name" default:"" doc:"Name."`
	HTTP config.HTTP   `mapstructure:"http" doc:"Answers."`
	Log  config.Log    `mapstructure:"log" doc:"Lines."`
	List []struct {
		Password config.Secret `mapstructure:"password" default:"" doc:"Password."`
	} `mapstructure:"list" doc:"More."`
}

const (
	dsnPassword = `p@ss "word" 1`
	token       = "token-of-http"
	salt        = "salt-in-a-file"
	listed      = "listed-password"
)

// world is a service that runs, and the program of its verbs.
type world struct {
	t      *testing.T
	dir    string
	server *service.Server
	stop   func()
	status func() any
	leaks  string // what check and status let slip
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.status = func() any {
		return map[string]any{
			"source": "shop", "events": []string{"started"}, "tables": []map[string]string{{"table": "public.orders"}, {"table": "public.a\nb", "source": "eu"}},
			"sources": []map[string]string{{"name": "eu"}},
		}
	}
	w.write("salt", salt+"\n")
	w.server = service.NewServer("test", config.HTTP{Listen: "127.0.0.1:0", Token: token}, slog.New(slog.DiscardHandler), func(service.Asked) any { return w.status() })
	if err := w.server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.server.Run(ctx) }()
	w.stop = func() { cancel(); <-done; w.stop = func() {} }
	t.Cleanup(func() { w.stop() })
	w.write("test.yaml", fmt.Sprintf("dsn: %q\nsalt: file:%s\nhttp: {listen: %q, token: %s}\nlist: [{password: %s}]\n",
		"postgres://me:p%40ss%20%22word%22%201@db1:1/shop", filepath.Join(w.dir, "salt"), w.server.Addr(), token, listed))
	return w
}

func (w *world) write(name, content string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) root() *cobra.Command {
	p := Program[testConfig]{
		Name:  "test",
		HTTP:  func(cfg *testConfig) config.HTTP { return cfg.HTTP },
		Log:   func(cfg *testConfig) *config.Log { return &cfg.Log },
		Names: func(*testConfig) ([]string, []string) { return []string{"configured"}, []string{"public.configured"} },
		Check: func(_ context.Context, _ testConfig, c *terminal.Check) error {
			c.Of("Source", "shop", "postgres://db1/shop")
			c.Part("Server", "")
			c.OK("leak", w.leaks)
			c.Warn(trouble.WALBudget, "WAL limit", "it is low")
			if c.Part("Kafka", "localhost:9092") {
				c.Fail(trouble.KafkaUnreachable, "brokers", "no answer\nof any", "start\nthem")
			}
			return c.End("test")
		},
		Status: func(context.Context, testConfig) (any, error) { return map[string]string{"leak": w.leaks}, nil },
	}
	some := &cobra.Command{Use: "some [TABLE]", Run: func(*cobra.Command, []string) {}}
	some.Flags().String("source", "", "")
	return p.Completed(terminal.Root("test", "Try verbs", p.Config(), p.Explain(), p.Ready("Look", "server", "kafka"), p.HealthCheck(), p.SupportBundle(), p.Manual(), some,
		p.Init("Write one", "TEST_DSN", "one", func(*pflag.FlagSet) {}, func(_ context.Context, dsn, reference string, file bool) (*Drafted, error) {
			return &Drafted{File: []byte("dsn: " + reference + "\n"), Summary: fmt.Sprint(len(dsn), file), Roles: map[string]string{"one": "CREATE ROLE one;\n", "two": "CREATE ROLE two;\n"}}, nil
		})))
}

// run runs a verb; fails is what its error says, "" for none.
func (w *world) run(fails string, args ...string) (stdout, stderr string) {
	w.t.Helper()
	var out, notes bytes.Buffer
	root := w.root()
	root.SetOut(&out)
	root.SetErr(&notes)
	root.SetArgs(append(args, "-c", filepath.Join(w.dir, "test.yaml")))
	err := root.ExecuteContext(w.t.Context())
	if fails == "" && err != nil || fails != "" && (err == nil || !strings.Contains(err.Error(), fails)) {
		w.t.Errorf("%v: error %v, want %q", args, err, fails)
	}
	return out.String(), notes.String()
}

func (w *world) says(got string, parts ...string) {
	w.t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			w.t.Errorf("no %q in:\n%s", part, got)
		}
	}
}

func TestConfigVerbs(t *testing.T) {
	w := newWorld(t)
	out, _ := w.run("", "config", "show")
	w.says(out, "dsn: '***'", "token: '***'", "hosts: []")
	out, _ = w.run("", "config", "show", "--origin")
	w.says(out, "dsn: '***' # test.yaml:1:1", "hosts: [] # default")
	t.Setenv("TRIBUTARY_LOG_LEVEL", "error")
	out, _ = w.run("", "config", "show", "--origin", "--log-format", "json")
	w.says(out, "format: json # flag", "level: error # TRIBUTARY_LOG_LEVEL")
	out, _ = w.run("", "config", "show", "--log-level", "debug")
	w.says(out, "format: text", "level: debug")
	w.run(`--log-level is "loud"; write debug, info, warn, error`, "config", "show", "--log-level", "loud")
	out, _ = w.run("", "config", "show", "--defaults")
	w.says(out, "# Where.\n#dsn:  # required, secret")
	w.run("either --defaults or --origin", "config", "show", "--defaults", "--origin")
	out, _ = w.run("", "config", "check")
	w.says(out, "test.yaml: no faults")
	out, _ = w.run("", "config", "schema")
	if !json.Valid([]byte(out)) {
		t.Errorf("not JSON: %s", out)
	}
	out, _ = w.run("", "config", "reference")
	w.says(out, "# test.yaml\n", "| `dsn` | secret | required |")
	w.write("test.yaml", "dns: x\n")
	w.run(`unknown key; did you mean "dsn"?`, "config", "check")
}

func TestExplain(t *testing.T) {
	w := newWorld(t)
	out, _ := w.run("", "explain")
	w.says(out, "CODE\tWHY\n", "slot-lost\t", "TributaryCaptureStuck\t")
	out, _ = w.run("", "explain", "slot-lost")
	w.says(out, "# slot-lost\n", "**Do**")
	w.run("did you mean slot-lost?", "explain", "slot-lots")
	out, _ = w.run("", "explain", "slot-lost", "--json")
	w.says(out, `"schema": "tributary.explain/1"`, `"code": "slot-lost"`, `"alerts": []`)
	out, _ = w.run("", "explain", "TributaryWalBudgetHalfUsed")
	w.says(out, "# TributaryWalBudgetHalfUsed\n", "**Impact**", "**Do**")
	w.run("did you mean TributaryCaptureStuck?", "explain", "TributaryCaptureStuk")
	out, _ = w.run("", "explain", "TributaryWalBudgetHalfUsed", "--json")
	w.says(out, `"codes": []`, `"alert": "TributaryWalBudgetHalfUsed"`, `"why": "For 10 min the source has kept more than 50 %`)
}

func TestHealthCheck(t *testing.T) {
	w := newWorld(t)
	out, _ := w.run("", "healthcheck")
	w.says(out, "ok")
	w.run("not ready: start", "healthcheck", "--ready")
	w.server.Ready()
	out, _ = w.run("", "healthcheck", "--ready")
	w.says(out, "ready")
	w.stop()
	w.run("refused", "healthcheck")
	w.write("test.yaml", "nonsense: x\n")
	w.run("nonsense", "healthcheck")
}

func TestSupportBundle(t *testing.T) {
	w := newWorld(t)
	w.leaks = strings.Join([]string{"postgres://me:p%40ss%20%22word%22%201@db1:1/shop", dsnPassword, token, salt, listed}, " and ")
	status := w.status()
	w.status = func() any { return map[string]any{"status": status, "leak": w.leaks, "events": []string{"an event"}} }
	unpack := func(name string) map[string]string {
		t.Helper()
		content, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		zipped, err := gzip.NewReader(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		for archive := tar.NewReader(zipped); ; {
			header, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			files[strings.TrimPrefix(header.Name, "test-support/")] = string(text)
			for _, secret := range []string{dsnPassword, "p%40ss", `p@ss \"word\"`, token, salt, listed} {
				if bytes.Contains(text, []byte(secret)) {
					t.Errorf("%s holds %q:\n%s", header.Name, secret, text)
				}
			}
		}
		return files
	}
	up := filepath.Join(w.dir, "up.tar.gz")
	out, _ := w.run("", "support-bundle", "-o", up)
	w.says(out, up)
	files := unpack("up.tar.gz")
	for name, part := range map[string]string{
		"version.txt": "test devel", "configuration.yaml": "dsn: '***' # test.yaml", "status.json": `"leak"`, "events.json": "an event", "metrics.txt": "tributary_build_info",
		"goroutines.txt": "goroutine ", "status-without-service.json": `"leak"`, "check.txt": "error: check source shop: test is not ready: 1 check failed", "missing.txt": "ready.txt: 503 Service Unavailable: not ready: start",
	} {
		if !strings.Contains(files[name], part) {
			t.Errorf("%s: no %q in %q", name, part, files[name])
		}
	}
	w.run("there already", "support-bundle", "-o", up)
	if out, _ := w.run("", "support-bundle", "-o", "-"); !strings.HasPrefix(out, "\x1f\x8b") || strings.HasSuffix(out, "-\n") {
		t.Errorf("standard output has no archive alone: %q", out)
	}

	w.stop()
	_, notes := w.run("", "support-bundle", "-o", filepath.Join(w.dir, "down.tar.gz"))
	w.says(notes, "not in it: status.json: ", "refused")
	files = unpack("down.tar.gz")
	w.says(files["missing.txt"], "status.json: ", "metrics.txt: ", "goroutines.txt: ")
	if files["check.txt"] == "" || files["status-without-service.json"] == "" || files["configuration.yaml"] == "" {
		t.Errorf("what does not need the service is missing: %v", files)
	}
	w.write("test.yaml", "nonsense: "+token+"\n")
	w.run("", "support-bundle", "-o", filepath.Join(w.dir, "faulty.tar.gz"))
	w.says(unpack("faulty.tar.gz")["configuration-faults.txt"], "nonsense", "unknown key")
}

func TestCompletion(t *testing.T) {
	w := newWorld(t)
	expect := func(got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	ask := func(args ...string) []string {
		t.Helper()
		var out bytes.Buffer
		root := w.root()
		root.SetOut(&out)
		root.SetErr(io.Discard)
		root.SetArgs(append([]string{"__complete", "-c", filepath.Join(w.dir, "test.yaml")}, args...))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		return lines[:len(lines)-1]
	}
	was := completePatience
	t.Cleanup(func() { completePatience = was })
	completePatience = time.Minute // a service that answers is waited for, also on a busy machine
	expect(ask("some", ""), "public.orders")
	expect(ask("some", "--source", ""), "shop", "eu")
	if got := ask("explain", ""); !slices.Contains(got, "slot-lost") || !slices.Contains(got, "TributarySlotLost") {
		t.Errorf("got %q", got)
	}
	// A service that is silent is not waited for.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() //nolint:errcheck // nobody was answered
	w.write("test.yaml", fmt.Sprintf("dsn: x\nhttp: {listen: %q}\n", silent.Addr()))
	completePatience = was
	began := time.Now()
	expect(ask("some", ""), "public.configured")
	expect(ask("some", "--source", ""), "configured")
	if took := time.Since(began); took < 2*completePatience || took > 20*completePatience {
		t.Errorf("it took %v", took)
	}
}

func TestInit(t *testing.T) {
	w := newWorld(t)
	const dsn = "postgres://me:secret@db1/shop"
	out, _ := w.run("", "init", dsn)
	if out != "dsn: env:TEST_DSN\n" {
		t.Errorf("got %q", out)
	}
	file := filepath.Join(w.dir, "new.yaml")
	out, notes := w.run("", "init", dsn, "-o", file, "--role")
	w.says(notes, file+": 29 true", "export TEST_DSN='…'", "test check -c "+file)
	if out != "CREATE ROLE one;\n" || strings.Contains(notes, "secret") {
		t.Errorf("got %q, %q", out, notes)
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "dsn: env:TEST_DSN\n" {
		t.Errorf("%q, %v", content, err)
	}
	w.run("is not overwritten", "init", dsn, "-o", file)
	out, _ = w.run("", "init", dsn, "--role=two")
	if out != "CREATE ROLE two;\n" {
		t.Errorf("got %q", out)
	}
	w.run("write --role=one or --role=two", "init", dsn, "--role=three")
	w.run("which database?", "init")
	t.Setenv("SOME_DSN", dsn)
	out, _ = w.run("", "init", dsn)
	if out != "dsn: env:SOME_DSN\n" {
		t.Errorf("what a variable holds is called %q", out)
	}
	out, _ = w.run("", "init", "env:SOME_DSN")
	if out != "dsn: env:SOME_DSN\n" {
		t.Errorf("got %q", out)
	}
	w.run("is not set", "init", "env:NO_SUCH_DSN")
}

func TestManual(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "man")
	w.run("", "manpage", "-o", dir)
	page, err := os.ReadFile(filepath.Join(dir, "test-config-show.1"))
	if err != nil {
		t.Fatal(err)
	}
	w.says(string(page), "every key, its default and its meaning", "test config show")
	out, _ := w.run("", "manpage", "--markdown")
	w.says(out, "## test\n", "## test config show\n", "```text\n  test config show\n  test config show --origin", "### Exit codes")
	if strings.Contains(out, "SEE ALSO") || strings.Count(out, "--no-color ") != 1 {
		t.Errorf("it says things twice:\n%s", out)
	}
}

// TestReady: what check finds is text or a document, whole or in part; what fails says so.
func TestReady(t *testing.T) {
	w := newWorld(t)
	w.leaks = "none"
	text, _ := w.run("test is not ready: 1 check failed", "check")
	w.says(text, "Source shop   postgres://db1/shop\n\nServer\n  ok    leak           none\n  warn  WAL limit      it is low\n\nKafka                  localhost:9092\n",
		"  FAIL  brokers        no answer\n                       of any\n                       -> start\n                       -> them\n\n1 failure, 1 warning, 1 ok, ")
	text, _ = w.run("", "check", "--only", "server")
	w.says(text, "\nReady. 0 failures, 1 warning, 1 ok, ")
	if strings.Contains(text, "Kafka") {
		t.Errorf("only the server was wanted:\n%s", text)
	}
	w.run("1 warning, and none is allowed", "check", "--only", "server", "--strict")
	w.run(`--only is "kafak"; did you mean kafka?; write server, kafka`, "check", "--only", "kafak")
	text, _ = w.run("1 check failed", "check", "--json")
	var found terminal.Checked
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if found.Schema != "tributary.test.check/1" || found.Ready || found.Subject != "source shop" || found.Failures != 1 || found.Warnings != 1 || found.OK != 1 || len(found.Findings) != 3 {
		t.Errorf("%+v", found)
	}
	if f := found.Findings[2]; f.Part != "kafka" || f.Verdict != "FAIL" || f.Code != trouble.KafkaUnreachable || !slices.Equal(f.Do, []string{"start", "them"}) {
		t.Errorf("%+v", f)
	}
	w.says(text, `"do": []`)

	// Ctrl-C in the middle of it says nothing of what was looked at.
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	root := w.root()
	root.SetOut(io.Discard)
	root.SetArgs([]string{"check", "-c", filepath.Join(w.dir, "test.yaml")})
	if err := root.ExecuteContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// TestConfigShowPaintsNothing: what could paint a terminal, or turn the direction of what is behind it, is written out, also in a file's
// name, and what config show prints is still that configuration.
func TestConfigShowPaintsNothing(t *testing.T) {
	w := newWorld(t)
	const name = "a\u202eb\x1b[31m\nc \U000e0001\u00ad'\"\\"
	quoted, err := json.Marshal(name)
	if err != nil {
		t.Fatal(err)
	}
	w.write("\u202etest.yaml", "dsn: x\nname: "+string(quoted)+"\n")
	for _, args := range [][]string{{"config", "show"}, {"config", "show", "--origin"}} {
		root := w.root()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetArgs(append(args, "-c", filepath.Join(w.dir, "\u202etest.yaml")))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if strings.ContainsAny(text, "\u202e\x1b\u00ad\U000e0001") {
			t.Errorf("%s: %q", args, text)
		}
		var again testConfig
		if err := config.Decode("again", []byte(text), &again); err != nil || again.Name != name {
			t.Errorf("%s: %v, %q in\n%s", args, err, again.Name, text)
		}
	}
}
