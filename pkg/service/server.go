// Package service is what any service of ours is made of besides its work: the group of its goroutines, its HTTP answers,
// its log, its stages, states and latencies, and the form of numbers that people read. It knows nothing of changes, topics
// or tables.
package service

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// Server answers a service's HTTP: /metrics, /healthz, /readyz, /status, /status/stream, and what Handle adds. Make one with NewServer,
// then Listen, then Run.
type Server struct {
	cfg      config.HTTP
	token    token
	guesses  guesses
	log      *slog.Logger
	registry *prometheus.Registry
	mux      *http.ServeMux
	listener net.Listener
	status   func(Asked) any
	streams  atomic.Int32
	hung     func(limit time.Duration) (stage string) // see Watch

	mu      sync.Mutex
	missing []string
	still   string        // the stage that stood still when that was asked last
	turned  chan struct{} // has one when missing was set, until the service manager is told
}

// Timeouts of the HTTP server. There is none for writing: event streams stay open, and set deadlines of their own.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	shutdownTimeout   = 5 * time.Second
	maxHeaderBytes    = 64 << 10
)

// NewServer gives a server that is not ready yet. program ("capture") names the service in tributary_build_info; status
// gives what /status shows of what it is asked of, marshalled as JSON, and must be safe to call at any time by many goroutines.
func NewServer(program string, cfg config.HTTP, log *slog.Logger, status func(Asked) any) *Server {
	s := &Server{
		cfg:      cfg,
		log:      log,
		registry: prometheus.NewRegistry(),
		mux:      http.NewServeMux(),
		missing:  []string{"start"},
		turned:   make(chan struct{}, 1),
		status:   status,
		hung:     func(time.Duration) string { return "" },
	}
	build := ThisBuild()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tributary_build_info",
		Help: "What is running; always 1.",
		ConstLabels: prometheus.Labels{
			"service": program, "version": build.Version, "revision": build.Revision, "goversion": build.GoVersion,
		},
	})
	info.Set(1)
	s.registry.MustRegister(info, collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/gc/heap/live:bytes$`)})),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelError),
	}))
	s.mux.HandleFunc("GET /healthz", s.serveHealth)
	s.mux.HandleFunc("GET /readyz", s.serveReady)
	s.mux.HandleFunc("GET /debug/goroutines", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_ = pprof.Lookup("goroutine").WriteTo(w, 2) // stacks hold no values but addresses
	})
	s.mux.HandleFunc("GET /debug/profile", serveProfile)
	s.mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept"), "text/html") && r.URL.Query().Get("format") != "json" {
			http.Redirect(w, r, "/", http.StatusSeeOther) // a browser, whose reader wants the page
			return
		}
		s.serveStatus(w, status(askedBy(r)))
	})
	s.mux.HandleFunc("GET /status/stream", s.Stream(s.streamStatus))
	return s
}

// Registry is where the service registers its own metrics.
func (s *Server) Registry() *prometheus.Registry { return s.registry }

// Handle adds an answer, with a pattern of http.ServeMux. Call it before Run. It is behind the token like all but
// /healthz and /readyz.
func (s *Server) Handle(pattern string, handler http.Handler) { s.mux.Handle(pattern, handler) }

// Ready says what /readyz lacks: from now on these things, or nothing, which makes it 200. Safe at any time.
func (s *Server) Ready(missing ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing = slices.Clone(missing)
	select {
	case s.turned <- struct{}{}:
	default:
	}
}

// Lacks is Ready of what may be missing for a while, as a server that is away. What is ready already stays so: to be started anew mends
// nothing, and whoever replaces instances one after the other, or empties a host, and goes on when they are ready, would wait for that server.
func (s *Server) Lacks(missing ...string) {
	s.mu.Lock()
	ready := len(s.missing) == 0
	s.mu.Unlock()
	if !ready {
		s.Ready(missing...)
	}
}

// Listen takes the address, so that a port in use is found at the start.
func (s *Server) Listen(ctx context.Context) error {
	var err error
	if s.token, err = newToken(s.cfg.Token); err != nil {
		return fmt.Errorf("listen on %s: %w", s.cfg.Listen, err)
	}
	if s.cfg.TLS.Enabled() {
		if _, err := s.cfg.TLS.Certificate(); err != nil {
			return fmt.Errorf("listen on %s: http.tls: %w", s.cfg.Listen, err)
		}
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", s.cfg.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%w: does another one run here? http.listen is where this one shows its page", err)
	}
	if err != nil {
		return fmt.Errorf("listen for HTTP: %w", err) // names the address
	}
	s.listener = listener
	local, ok := listener.Addr().(*net.TCPAddr)
	if open := !ok || !local.IP.IsLoopback(); open && s.cfg.Token == "" {
		s.log.Warn("whoever reaches the address reads the status: set http.token", "listen", s.Addr())
	} else if open && !s.cfg.TLS.Enabled() {
		s.log.Warn("the token is sent in clear: set http.tls, or put a proxy with TLS before it", "listen", s.Addr())
	}
	return nil
}

// URL gives the address that Listen took, as a browser takes it; "" before.
func (s *Server) URL() string {
	if s.listener == nil {
		return ""
	}
	return scheme(s.cfg) + s.Addr()
}

// Addr gives the address that Listen took, with the port where 0 was asked for ("127.0.0.1:41231"); "" before.
func (s *Server) Addr() string {
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Run serves until ctx ends, then lets open requests finish for a few seconds. Their contexts end with ctx, so that
// streams leave first. Listen must have succeeded.
func (s *Server) Run(ctx context.Context) error {
	server := &http.Server{
		Handler:           s.guard(s.mux),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	serve := func() error { return server.Serve(s.listener) }
	if s.cfg.TLS.Enabled() {
		server.TLSConfig = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cfg.TLS.Certificate() },
		}
		serve = func() error { return server.ServeTLS(s.listener, "", "") }
	}
	served := make(chan error, 1)
	go func() { served <- serve() }()
	var reporting sync.WaitGroup
	defer reporting.Wait()
	reporting.Go(func() { s.report(ctx, theManager()) })
	select {
	case err := <-served:
		return fmt.Errorf("serve HTTP on %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	timed, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(timed)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close() // a client that does not read is no reason to stay
	}
	if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	if err != nil {
		return fmt.Errorf("stop HTTP on %s: %w", s.Addr(), err)
	}
	return nil
}

// serveHealth fails where systemd's watchdog would have the service start anew, and never by what is waited for.
func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	answer := "ok"
	if stage := s.standing(hungAfter); stage != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		answer = fmt.Sprintf("stage %q has stood still for %v", stage, hungAfter)
	}
	_, _ = io.WriteString(w, answer+"\n")
}

func (s *Server) serveReady(w http.ResponseWriter, _ *http.Request) {
	answer := s.readiness()
	if answer != ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, answer+"\n")
}

func (s *Server) serveStatus(w http.ResponseWriter, status any) {
	body, err := json.MarshalIndent(status, "", "  ")
	if err != nil {
		s.log.Error("marshal status", Err(err))
		http.Error(w, "status cannot be shown; see the log", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(body, '\n'))
}

// guard stands before every answer: host name, then token.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		switch {
		case !s.hostAllowed(r):
			http.Error(w, "unknown host name; see http.hosts", http.StatusMisdirectedRequest)
		case r.URL.Path == "/healthz" || r.URL.Path == "/readyz" || s.admitted(w, r):
			next.ServeHTTP(w, r)
		}
	})
}

// hostAllowed refuses names that are not ours where the address is a loopback one. A page of another site may have its
// own name resolve to 127.0.0.1 and read our answers in the user's browser (DNS rebinding); a browser still sends that
// name as Host.
func (s *Server) hostAllowed(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok || !local.IP.IsLoopback() {
		return true
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	if _, err := netip.ParseAddr(host); err == nil {
		return true // an address is nobody's name
	}
	return strings.EqualFold(host, "localhost") ||
		slices.ContainsFunc(s.cfg.Hosts, func(known string) bool { return strings.EqualFold(known, host) })
}
