package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink"
)

// said is all that the services have said to anybody. It is safe for concurrent use.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *said) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// secured is a pipeline in which every connection is over TLS and wants a login, with the roles of the security page.
type secured struct {
	t           *testing.T
	dir         string
	said        *said
	authority   *certtest.Authority
	other       *certtest.Authority // that nobody trusts
	cluster     *pgtest.Cluster
	broker      *kafkatest.FakeCluster
	admin       *kadm.Client // of broker
	brokerTLS   atomic.Pointer[tls.Config]
	registry    string
	registryTLS atomic.Pointer[tls.Config]
	login       atomic.Pointer[string] // the registry's password
	secrets     map[string]string      // by name, with the hostile characters that they have
	client      certtest.Pair          // that the registry wants to see
	pages       certtest.Pair          // of both services
	capture     capture.Config
	sink        sink.Config
}

// secret makes a recognisable secret that wants quoting everywhere, in a file.
func (w *secured) secret(name string) string {
	key := name + fmt.Sprint(len(w.secrets))
	text := fmt.Sprintf(`hush-%s"'\ %%@:/#?é`, key)
	w.secrets[key] = text
	must(w.t, os.WriteFile(filepath.Join(w.dir, name), []byte(text+"\n"), 0o600))
	return text
}

// dsn is the connection string of a role, with its password.
func (w *secured) dsn(database, role, password string, options ...string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(role, password), Host: net.JoinHostPort("localhost", fmt.Sprint(w.cluster.Port())), Path: "/" + database,
		RawQuery: "sslmode=verify-full&sslrootcert=" + url.QueryEscape(w.authority.File) + strings.Join(append([]string{""}, options...), "&"),
	}
	return u.String()
}

// keep writes what is in a file of the configuration anew.
func (w *secured) keep(name, text string) config.Secret {
	file := filepath.Join(w.dir, name)
	must(w.t, os.WriteFile(file, []byte(text), 0o600))
	return config.Secret("file:" + file)
}

func newSecured(t *testing.T) *secured {
	w := &secured{t: t, dir: t.TempDir(), said: &said{}, authority: certtest.New(t), other: certtest.New(t), secrets: map[string]string{}}
	page := readPage(t, "docs/security.md")
	admin := w.secret("admin")
	pair := w.authority.Issue(t, "postgres", "localhost")
	w.cluster = pgtest.New(t, pgtest.Options{Password: admin, TLS: &pgtest.TLS{Cert: pair.Cert, Key: pair.Key}})
	execute(t, w.cluster.DSN("postgres"), `create role shop_owner login`)
	execute(t, w.cluster.DSN("postgres"), `create database shop owner shop_owner`)
	must(t, w.cluster.CreateDatabase(t.Context(), "dwh"))
	execute(t, w.cluster.DSN("shop"), `create table public.orders (id int primary key, note text); alter table public.orders owner to shop_owner; insert into public.orders values (1, 'old')`)
	execute(t, w.cluster.DSN("shop"), block(t, page, "sql source"))
	execute(t, w.cluster.DSN("dwh"), block(t, page, "sql warehouse"))
	source, warehouse := w.secret("source"), w.secret("warehouse")
	w.password("tributary_capture", source)
	w.password("tributary_sink", warehouse)

	serving := func(now *atomic.Pointer[tls.Config], name string) *tls.Config {
		now.Store(w.authority.Issue(t, name, "localhost", "127.0.0.1").Server(t))
		return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return now.Load(), nil }}
	}
	kafka := w.secret("kafka")
	w.broker = kafkatest.Fake(t, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "pipeline", kafka), kfake.Superuser("SCRAM-SHA-512", "admin", admin), kfake.TLS(serving(&w.brokerTLS, "kafka")))
	admins, err := kgo.NewClient(kgo.SeedBrokers(w.broker.Addrs()...), kgo.DialTLSConfig(&tls.Config{RootCAs: w.authority.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}),
		kgo.SASL(scram.Auth{User: "admin", Pass: admin}.AsSha512Mechanism()))
	must(t, err)
	t.Cleanup(admins.Close)
	w.admin = kadm.NewClient(admins)
	login := w.secret("registry")
	w.login.Store(&login)
	w.registry = kafkatest.SecureRegistry(t, serving(&w.registryTLS, "registry"), func(user, password string) bool {
		return user == "pipeline" && password == *w.login.Load()
	})
	w.client, w.pages = w.authority.Issue(t, "pipeline"), w.authority.Issue(t, "pages", "localhost")
	w.mutual()
	w.secret("token")
	w.secret("salt")
	w.collector(w.secret("collector"))
	shared := fmt.Sprintf(`
salt: "file:%[1]s/salt"
kafka:
  brokers: [%[2]q]
  tls: {enabled: true, ca: %[3]q}
  sasl: {mechanism: scram-sha-512, username: pipeline, password: "file:%[1]s/kafka"}
registry: {url: %[4]q, tls: {enabled: true, ca: %[3]q, cert: %[5]q, key: %[6]q}, username: pipeline, password: "file:%[1]s/registry"}
log: {level: debug}
`, w.dir, w.broker.Addrs()[0], w.authority.File, w.registry, w.client.Cert, w.client.Key)
	configure := func(cfg any, name, own string) {
		t.Helper()
		listen, err := pgtest.FreeAddress()
		must(t, err)
		text := shared + fmt.Sprintf("http: {listen: %q, token: \"file:%s/token\", tls: {cert: %q, key: %q}}\n", listen, w.dir, w.pages.Cert, w.pages.Key) + own
		must(t, os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600))
		decode(t, cfg, text)
	}
	configure(&w.capture, "capture.yaml", fmt.Sprintf("source: {name: shop, dsn: %q, tables: [\"public.*\"], heartbeat: 200ms, refresh: 200ms}\ncolumns: [{table: public.orders, mask: [{column: note, as: hash}]}]\n",
		string(w.keep("source.dsn", w.dsn("shop", "tributary_capture", source)))))
	configure(&w.sink, "sink.yaml", fmt.Sprintf("warehouse: {dsn: %q, connections: 1}\ntables: [{from: \"public.*\", to: \"{source}.{table}\"}]\nrefresh: 100ms\n",
		string(w.keep("warehouse.dsn", w.dsn("dwh", "tributary_sink", warehouse)))))
	return w
}

// mutual has the registry want certificates of the authority from its clients.
func (w *secured) mutual() {
	cfg := w.registryTLS.Load().Clone()
	cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, w.authority.Pool()
	w.registryTLS.Store(cfg)
}

// renew has another authority sign every certificate anew, of the servers and of their clients, in the files that the
// configurations name. Nobody trusts the one of before any more.
func (w *secured) renew() {
	w.t.Helper()
	next := certtest.New(w.t)
	next.Issue(w.t, "pipeline").Replace(w.t, w.client)
	next.Issue(w.t, "pages", "localhost").Replace(w.t, w.pages)
	certtest.Copy(w.t, next.File, w.authority.File)
	next.File, w.authority = w.authority.File, next
	w.brokerTLS.Store(next.Issue(w.t, "kafka", "localhost", "127.0.0.1").Server(w.t))
	w.registryTLS.Store(next.Issue(w.t, "registry", "localhost").Server(w.t))
	w.mutual()
	pair := next.Issue(w.t, "postgres", "localhost")
	must(w.t, w.cluster.SetTLS(pgtest.TLS{Cert: pair.Cert, Key: pair.Key}))
	w.broker.Cut()
	for _, role := range []string{"tributary_capture", "tributary_sink"} {
		w.end(role)
	}
}

// end breaks the connections of a role.
func (w *secured) end(role string) {
	w.t.Helper()
	execute(w.t, w.cluster.DSN("postgres"), `select pg_terminate_backend(pid) from pg_stat_activity where usename = `+postgres.Literal(role))
}

// collector has traces told to one that notes what it gets and takes nothing, with the secret in its address and in a header.
func (w *secured) collector(secret string) {
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w.said, r.Body)
		rw.WriteHeader(http.StatusForbidden)
	}))
	w.t.Cleanup(server.Close)
	at := strings.Replace(server.URL, "http://", "http://"+url.UserPassword("anybody", secret).String()+"@", 1)
	for name, value := range map[string]string{
		"EXPORTER_OTLP_ENDPOINT": at, "EXPORTER_OTLP_HEADERS": "authorization=" + url.PathEscape(secret), "TRACES_SAMPLER": "always_on", "BSP_SCHEDULE_DELAY": "100",
	} {
		w.t.Setenv("OTEL_"+name, value)
	}
}

func (w *secured) password(role, password string) {
	w.t.Helper()
	execute(w.t, w.cluster.DSN("postgres"), `alter role `+role+` password `+postgres.Literal(password))
}

// tell notes an error as somebody at a terminal sees it, and in every form that printing gives it.
func (w *secured) tell(err error) {
	terminal.Print(w.said, "tributary", err)
	_, _ = fmt.Fprintf(w.said, "%v %+v %#v %q\n", err, err, err, err)
	for ; err != nil; err = errors.Unwrap(err) {
		_, _ = fmt.Fprintf(w.said, "%T %v %+v\n", err, err, err)
	}
}

// refused runs a service that must end with the code, a cause and a hint.
func (w *secured) refused(what string, run func(context.Context) error, code trouble.Code, cause, hint string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	err := run(ctx)
	w.tell(err)
	e, ok := errors.AsType[*trouble.Error](err)
	if !ok || e.Code != code || e.Op == "" || e.Subject == "" || !strings.Contains(e.Error(), cause) || !strings.Contains(e.Hint, hint) || e.Hint == "" {
		w.t.Errorf("%s: %v (%s), want %s with %q", what, err, trouble.CodeOf(err), code, cause)
		if ok {
			w.t.Logf("hint: %s, want %q", e.Hint, hint)
		}
	}
}

func (w *secured) runCapture(change func(*capture.Config)) func(context.Context) error {
	return func(ctx context.Context) error {
		cfg := w.capture
		change(&cfg)
		c, err := capture.New(cfg, capture.Options{}, w.said.log())
		if err != nil {
			return err
		}
		return c.Serve(ctx)
	}
}

func (w *secured) runSink(change func(*sink.Config)) func(context.Context) error {
	return func(ctx context.Context) error {
		cfg := w.sink
		change(&cfg)
		s, err := sink.New(cfg, w.said.log())
		if err != nil {
			return err
		}
		return s.Run(ctx)
	}
}
