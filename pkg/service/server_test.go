package service

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// serve runs a server until the test ends, or until stop is called; that gives what Run returned.
func serve(t *testing.T, cfg config.HTTP, prepare func(*Server)) (s *Server, stop func() error) {
	t.Helper()
	s = NewServer("capture", cfg, slog.New(slog.DiscardHandler), func(asked Asked) any {
		return map[string]string{"state": "streaming", "steady": fmt.Sprint(asked.Steady)}
	})
	if prepare != nil {
		prepare(s)
	}
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	stopped := false
	stop = func() error {
		cancel()
		stopped = true
		return <-ran
	}
	t.Cleanup(func() {
		if !stopped {
			if err := stop(); err != nil {
				t.Error(err)
			}
		}
	})
	return s, stop
}

// get asks path and gives status and body.
func get(t *testing.T, s *Server, path string, change func(*http.Request)) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(request)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// Who looks once is told all, who looks on what lasts.
func TestSteadyIsAskedFor(t *testing.T) {
	s, _ := serve(t, config.HTTP{Listen: "127.0.0.1:0"}, nil)
	for _, steady := range []bool{false, true} {
		said := map[string]string{}
		if err := (Whom{URL: s.URL(), Steady: steady}).Ask(t.Context(), config.HTTP{}, "/status", &said); err != nil || said["steady"] != fmt.Sprint(steady) {
			t.Errorf("%t: %v, %v", steady, said, err)
		}
	}
}

// The status is sent when it has changed, and not again; a stream ends with the service.
func TestStatusStream(t *testing.T) {
	s, stop := serve(t, config.HTTP{Listen: "127.0.0.1:0"}, nil)
	response, err := http.Get("http://" + s.Addr() + "/status/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	const event = "event: status\ndata: {\"state\":\"streaming\",\"steady\":\"true\"}\n\n"
	got := make([]byte, len(event))
	if _, err := io.ReadFull(response.Body, got); err != nil || string(got) != event || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%q: %v", got, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(response.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q: %v", rest, err)
	}
}

// connection is one that a stream is written to.
type connection struct {
	header http.Header
	text   strings.Builder
	dead   atomic.Bool
}

func (c *connection) Header() http.Header { return c.header }

func (c *connection) WriteHeader(int) {}

func (c *connection) SetWriteDeadline(time.Time) error { return nil }

func (c *connection) Flush() {}

func (c *connection) Write(b []byte) (int, error) {
	if c.dead.Load() {
		return 0, io.ErrClosedPipe
	}
	return c.text.Write(b)
}

// A stream in which nothing happens says each 15 seconds that it is there, one in which something does says no more than
// that; and it ends when nobody can be told.
func TestStreamBreathes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer("capture", config.HTTP{}, slog.New(slog.DiscardHandler), nil)
		c, next := &connection{header: http.Header{}}, make(chan string)
		ended := make(chan bool)
		go func() {
			defer close(ended)
			s.Stream(func(r *http.Request, send func(event string, data []byte) error) {
				for {
					select {
					case <-r.Context().Done():
						return
					case text := <-next:
						if err := send("change", []byte(text)); err != nil {
							t.Error(err)
						}
					}
				}
			})(c, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/changes", nil))
		}()
		time.Sleep(31 * time.Second) // comments at 15 and 30
		next <- "one\ntwo"
		time.Sleep(14 * time.Second)
		next <- "three" // nothing at 46
		time.Sleep(16 * time.Second)
		c.dead.Store(true)
		synctest.Wait()
		const want = ":\n\n:\n\nevent: change\ndata: one\ndata: two\n\nevent: change\ndata: three\n\n:\n\n"
		if got := c.text.String(); got != want {
			t.Errorf("got %q", got)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("it goes on though nobody reads")
		}
	})
}

func TestServerAnswers(t *testing.T) {
	s, stop := serve(t, config.HTTP{Listen: "127.0.0.1:0"}, func(s *Server) {
		s.Registry().MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "tributary_capture_x_total", Help: "X."}))
		s.Handle("GET /table/{name}", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.PathValue("name"))
		}))
	})
	answers := func(path string, code int, want ...string) {
		t.Helper()
		gotCode, body := get(t, s, path, nil)
		if gotCode != code {
			t.Errorf("%s: status %d, want %d", path, gotCode, code)
		}
		for _, part := range want {
			if !strings.Contains(body, part) {
				t.Errorf("%s: no %q in\n%s", path, part, body)
			}
		}
	}
	answers("/healthz", 200, "ok")
	answers("/readyz", 503, "not ready: start")
	s.Ready("preflight", "first connection to the source")
	answers("/readyz", 503, "not ready: preflight, first connection to the source")
	s.Ready()
	answers("/readyz", 200, "ready")
	s.Lacks("the warehouse")
	answers("/readyz", 200, "ready")
	s.Ready("slot-lost")
	s.Lacks("source-unreachable")
	answers("/readyz", 503, "not ready: source-unreachable")
	s.Lacks()
	answers("/readyz", 200, "ready")
	s.hung = func(limit time.Duration) string {
		if limit != 2*time.Minute {
			t.Errorf("standing still for %v is told", limit)
		}
		return "encode"
	}
	answers("/healthz", 503, `stage "encode" has stood still for 2m0s`)
	s.hung = func(time.Duration) string { return "" }
	answers("/healthz", 200, "ok")
	answers("/metrics", 200, "tributary_build_info{", `service="capture"`, "tributary_capture_x_total 0", "go_goroutines", "process_cpu_seconds_total")
	answers("/table/public.orders", 200, "public.orders")
	answers("/nowhere", 404)
	answers("/debug/profile?seconds=0", 400, "from 1 to 600")
	profile, err := http.Get("http://" + s.Addr() + "/debug/profile?seconds=600")
	if err != nil {
		t.Fatal(err)
	}
	defer profile.Body.Close() //nolint:errcheck // it is read
	answers("/debug/profile?seconds=1", 409, "another")
	_, body := get(t, s, "/status", nil)
	var status map[string]string
	if err := json.Unmarshal([]byte(body), &status); err != nil || status["state"] != "streaming" {
		t.Errorf("/status: %v in %s", err, body)
	}
	if problems, err := testutil.GatherAndLint(s.Registry()); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if body, err := io.ReadAll(profile.Body); err != nil || !bytes.HasPrefix(body, []byte("\x1f\x8b")) {
		t.Errorf("the profile that ends with the process is no gzip: %v %.40q", err, body)
	}
	if conn, err := net.Dial("tcp", s.Addr()); err == nil {
		_ = conn.Close()
		t.Error("it still listens")
	}
}

func TestServerToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := serve(t, config.HTTP{Listen: "127.0.0.1:0", Token: config.Secret("file:" + file)}, nil)
	s.Ready()
	answers := func(path string, want int, change func(*http.Request)) {
		t.Helper()
		if code, body := get(t, s, path, change); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
	basic := func(password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth("anybody", password) }
	}
	answers("/healthz", 200, nil)
	answers("/readyz", 200, nil)
	for _, path := range []string{"/status", "/metrics", "/nowhere", "//healthz"} {
		s.guesses.forget()
		answers(path, 401, nil)
		answers(path, 401, bearer("wrong"))
		answers(path, 401, bearer(""))
		answers(path, 401, basic("righ"))
	}
	answers("/status", 200, bearer("right"))
	answers("/status", 200, basic("right"))

	for _, token := range []config.Secret{"file:/absent/token", "env:TOKEN_NOT_SET"} {
		broken := NewServer("capture", config.HTTP{Listen: "127.0.0.1:0", Token: token}, slog.New(slog.DiscardHandler), nil)
		if err := broken.Listen(t.Context()); err == nil {
			t.Errorf("%q: listens without a token", string(token))
		}
	}
	t.Setenv("EMPTY_TOKEN", "")
	broken := NewServer("capture", config.HTTP{Listen: "127.0.0.1:0", Token: "env:EMPTY_TOKEN"}, slog.New(slog.DiscardHandler), nil)
	if err := broken.Listen(t.Context()); err == nil {
		t.Error("an empty token opens everything")
	}
}

// TestServerHost: a page of another site, whose name resolves to 127.0.0.1, is refused.
func TestServerHost(t *testing.T) {
	s, _ := serve(t, config.HTTP{Listen: "127.0.0.1:0", Hosts: []string{"tributary.internal"}}, nil)
	_, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{
		"127.0.0.1:" + port: 200, "localhost:" + port: 200, "LOCALHOST": 200, "[::1]:" + port: 200, "tributary.internal": 200,
		"evil.example": 421, "evil.example:" + port: 421, "localhost.evil.example": 421,
	} {
		if code, _ := get(t, s, "/status", func(r *http.Request) { r.Host = host }); code != want {
			t.Errorf("Host %s: %d, want %d", host, code, want)
		}
	}
}

func TestServerPortInUse(t *testing.T) {
	s, _ := serve(t, config.HTTP{Listen: "127.0.0.1:0"}, nil)
	second := NewServer("capture", config.HTTP{Listen: s.Addr()}, slog.New(slog.DiscardHandler), nil)
	if err := second.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), s.Addr()) || !strings.Contains(err.Error(), "http.listen") {
		t.Errorf("got %v", err)
	}
	if second.Addr() != "" {
		t.Errorf("address is %q", second.Addr())
	}
}

// TestServerStopsStreams: an open event stream ends with the service and does not hold it up.
func TestServerStopsStreams(t *testing.T) {
	started := make(chan struct{})
	s, stop := serve(t, config.HTTP{Listen: "127.0.0.1:0"}, func(s *Server) {
		s.Handle("GET /stream", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprint(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			close(started)
			<-r.Context().Done()
			_, _ = fmt.Fprint(w, "data: end\n\n")
		}))
	})
	body := make(chan string, 1)
	go func() {
		_, text := get(t, s, "/stream", nil)
		body <- text
	}()
	<-started
	begin := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took >= shutdownTimeout {
		t.Errorf("took %v", took)
	}
	if got := <-body; got != "data: 1\n\ndata: end\n\n" {
		t.Errorf("got %q", got)
	}
}

func TestServerStatusThatCannotBeMarshalled(t *testing.T) {
	s := NewServer("capture", config.HTTP{Listen: "127.0.0.1:0"}, slog.New(slog.DiscardHandler), func(Asked) any { return func() {} })
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	if code, body := get(t, s, "/status", nil); code != 500 || strings.Contains(body, "func") {
		t.Errorf("got %d %s", code, body)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
