package main

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/pkg/verbs"
	"github.com/tributary-cdc/tributary/sink"
)

// noTLS answers as a Postgres server without TLS.
func noTLS(t *testing.T) (port string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(conn, make([]byte, 8))
			_, _ = conn.Write([]byte("N"))
			_ = conn.Close()
		}
	}()
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	return port
}

// TestSecured runs capture and sink where every connection is over TLS and wants a login, with the roles of the security
// page; sees what is refused, and how that is told; replaces every password, certificate and authority while they run; and looks for
// secrets in all that was said.
func TestSecured(t *testing.T) {
	w := newSecured(t)
	source, warehouse := w.secrets["source1"], w.secrets["warehouse2"]
	w.refusals(source, warehouse)

	warehouseDSN := w.dsn("dwh", "tributary_sink", warehouse)
	w.registryRefusals("capture", func(r config.Registry) (run, check func(context.Context) error) {
		change := func(c *capture.Config) { c.Registry = r }
		return w.runCapture(change), func(ctx context.Context) error {
			cfg := w.capture
			change(&cfg)
			c, err := capture.New(cfg, capture.Options{}, w.said.log())
			must(t, err)
			return c.Check(ctx, terminal.NewCheck("capture", w.said))
		}
	})
	stopCapture := run(t, "capture", w.runCapture(func(*capture.Config) {}))
	w.published("shop.public.orders")
	w.registryRefusals("sink", func(r config.Registry) (run, check func(context.Context) error) {
		change := func(c *sink.Config) { c.Registry = r }
		return w.runSink(change), func(ctx context.Context) error {
			cfg := w.sink
			change(&cfg)
			return sink.Check(ctx, cfg, terminal.NewCheck("sink", w.said))
		}
	})
	stopSink := run(t, "sink", w.runSink(func(*sink.Config) {}))
	arrives(t, warehouseDSN, `select count(*)::text from shop.orders`, "1")
	n := 1
	flows := func(what, dsn string) {
		t.Helper()
		n++
		execute(t, w.cluster.DSN("shop"), fmt.Sprintf(`insert into orders values (%d, %s)`, n, postgres.Literal(what)))
		arrives(t, dsn, `select count(*)::text from shop.orders`, fmt.Sprint(n))
	}
	flows("before", warehouseDSN)

	// A password is changed at the server, connections break, and only then the file is.
	after := func(change func(), part string) {
		t.Helper()
		from := len(w.said.String())
		change()
		for deadline := time.Now().Add(pgtest.Patience); !strings.Contains(w.said.String()[from:], part); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("nobody says %q", part)
			}
		}
	}
	next := w.secret("source")
	after(func() {
		w.password("tributary_capture", next)
		w.end("tributary_capture")
	}, `password authentication failed for user \"tributary_capture\"`)
	w.keep("source.dsn", w.dsn("shop", "tributary_capture", next))
	flows("another source password", warehouseDSN)

	next = w.secret("warehouse")
	after(func() {
		w.password("tributary_sink", next)
		w.end("tributary_sink")
	}, `password authentication failed for user \"tributary_sink\"`)
	warehouseDSN = w.dsn("dwh", "tributary_sink", next)
	w.keep("warehouse.dsn", warehouseDSN)
	flows("another warehouse password", warehouseDSN)

	next = fmt.Sprintf("hush-kafka2 %s", `"'`)
	w.secrets["kafka2"] = next
	altered, err := w.admin.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: "pipeline", Mechanism: kadm.ScramSha512, Iterations: 4096, Password: next}})
	must(t, err)
	must(t, altered.Error())
	after(w.broker.Cut, "code=kafka-")
	w.keep("kafka", next)
	flows("another Kafka password", warehouseDSN)

	kept := w.brokerTLS.Load()
	w.brokerTLS.Store(w.authority.Expired(t, "kafka", "localhost", "127.0.0.1").Server(t))
	w.broker.Cut()
	w.needs("capture", w.capture.HTTP, trouble.KafkaAuth, "renewed")
	w.needs("sink", w.sink.HTTP, trouble.KafkaAuth, "renewed")
	w.brokerTLS.Store(kept)
	flows("another certificate of Kafka", warehouseDSN)

	nextLogin := "hush-registry2"
	w.secrets["registry2"] = nextLogin
	after(func() {
		w.login.Store(&nextLogin)
		execute(t, w.cluster.DSN("shop"), `alter table orders add more int; update orders set more = 1`)
	}, "the registry refuses the login")
	w.keep("registry", nextLogin)
	flows("another registry password", warehouseDSN)

	w.renew()
	execute(t, w.cluster.DSN("shop"), `alter table orders add renewed int`) // which the registry is asked about
	flows("other certificates and authorities everywhere", warehouseDSN)

	arrives(t, warehouseDSN, `select coalesce(string_agg(message, ' '), 'none') from tributary.quarantine`, "none")

	w.answers(w.secrets["token5"])
	next = w.secret("token")
	w.answers(next)
	w.verbs()
	stopCapture()
	stopSink()
	w.noSecrets(true)
}

// answers asks both services all that anybody can ask, with the token, which may have been replaced just now, and without.
func (w *secured) answers(token string) {
	w.t.Helper()
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.authority.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	ask := func(url, token string) int {
		w.t.Helper()
		request, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, url, nil)
		must(w.t, err)
		if token != "" {
			request.SetBasicAuth("anybody", token)
		}
		response, err := client.Do(request)
		must(w.t, err)
		defer response.Body.Close() //nolint:errcheck // it is read
		body, err := io.ReadAll(response.Body)
		must(w.t, err)
		_, _ = fmt.Fprintf(w.said, "%v\n%s\n", response.Header, body)
		return response.StatusCode
	}
	from := len(w.said.String())
	for _, listen := range []string{w.capture.HTTP.Listen, w.sink.HTTP.Listen} {
		base := "https://" + listen
		for deadline := time.Now().Add(pgtest.Patience); ask(base+"/metrics", token) == http.StatusUnauthorized; time.Sleep(time.Second) { // ten wrong ones, and nobody is asked any more
			if time.Now().After(deadline) {
				w.t.Fatalf("%s does not take up the token", base)
			}
		}
		for _, path := range []string{"/", "/status?format=json", "/metrics", "/explain/source-rights", "/debug/goroutines", "/debug/profile?seconds=1", "/nowhere", "/healthz", "/readyz"} {
			free := path == "/healthz" || path == "/readyz"
			if status := ask(base+path, ""); (status == http.StatusUnauthorized) == free {
				w.t.Errorf("%s without the token: %d", path, status)
			}
			if status := ask(base+path, token); status == http.StatusUnauthorized || status == http.StatusTooManyRequests {
				w.t.Errorf("%s with the token: %d", path, status)
			}
		}
	}
	if shown := strings.Count(w.said.String()[from:], "dsn: &#39;***&#39;"); shown != 2 {
		w.t.Errorf("%d of two pages show the configuration", shown)
	}
}

// needs waits until a service's status says that somebody has to look, for this reason, and what the refusal itself advises.
func (w *secured) needs(who string, at config.HTTP, code trouble.Code, hint string) {
	w.t.Helper()
	var st struct {
		Needs []service.Need `json:"needs_you"`
	}
	for deadline := time.Now().Add(pgtest.Patience); ; time.Sleep(100 * time.Millisecond) {
		err := service.Whom{}.Ask(w.t.Context(), at, "/status", &st)
		if i := slices.IndexFunc(st.Needs, func(n service.Need) bool { return n.Code == code }); err == nil && i >= 0 {
			if do := fmt.Sprint(st.Needs[i].Do); !strings.Contains(do, hint) {
				w.t.Errorf("%s advises %s", who, do)
			}
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s does not say %s: %v, %+v", who, code, err, st.Needs)
		}
	}
}

// verbs runs those that print what they know.
func (w *secured) verbs() {
	c, err := capture.New(w.capture, capture.Options{}, w.said.log())
	must(w.t, err)
	if err := c.Check(w.t.Context(), terminal.NewCheck("capture", w.said)); err != nil {
		w.t.Errorf("capture check: %v", err)
	}
	report, err := c.Ask(w.t.Context(), service.Whom{})
	must(w.t, err)
	must(w.t, json.NewEncoder(w.said).Encode(report))
	must(w.t, c.ShowSlot(w.t.Context(), w.said))
	o, err := sink.NewOperator(w.sink)
	must(w.t, err)
	defer o.Close(context.WithoutCancel(w.t.Context()))
	bundle(w, verbs.Program[capture.Config]{
		Name: "capture", HTTP: func(cfg *capture.Config) config.HTTP { return cfg.HTTP },
		Check: func(ctx context.Context, _ capture.Config, told *terminal.Check) error { return c.Check(ctx, told) },
		Status: func(ctx context.Context, _ capture.Config) (any, error) {
			return c.Ask(ctx, service.Whom{Direct: true})
		},
	})
	bundle(w, verbs.Program[sink.Config]{
		Name: "sink", HTTP: func(cfg *sink.Config) config.HTTP { return cfg.HTTP }, Check: sink.Check,
		Status: func(ctx context.Context, cfg sink.Config) (any, error) {
			return o.Ask(ctx, cfg, service.Whom{Direct: true})
		},
	})
	for what, ask := range map[string]func() (any, error){
		"status":   func() (any, error) { return o.Ask(w.t.Context(), w.sink, service.Whom{}) },
		"tenants":  func() (any, error) { return o.Tenants(w.t.Context(), w.sink) },
		"rules":    func() (any, error) { return o.MatchRules(w.t.Context(), w.sink) },
		"topics":   func() (any, error) { return c.Topics(w.t.Context()) },
		"scaffold": func() (any, error) { return nil, sink.Scaffold(w.t.Context(), w.sink, "*", w.said) },
	} {
		answer, err := ask()
		if err != nil {
			w.t.Errorf("%s: %v", what, err)
		}
		must(w.t, json.NewEncoder(w.said).Encode(answer))
	}
	w.init()
	for _, at := range []string{"https://anybody:%s@127.0.0.1:1", "https://anybody:%s@[", "http://anybody%s@127.0.0.1:1/%%zz"} {
		whom := service.Whom{URL: fmt.Sprintf(at, url.PathEscape(w.secrets["token5"]))}
		_, _ = io.WriteString(w.said, whom.Address(w.capture.HTTP))
		w.tell(whom.Ask(w.t.Context(), w.capture.HTTP, "/status", nil))
	}
	group := service.NewGroup(w.t.Context())
	group.Go("panic", func(context.Context) error { panic(fmt.Sprintf("%+v", w.plain())) })
	w.tell(group.Wait())
	if err := sink.Check(w.t.Context(), w.sink, terminal.NewCheck("sink", w.said)); err != nil {
		w.t.Errorf("sink check: %v\n%s", err, w.said)
	}
	_, _ = io.WriteString(w.said, config.Show(w.capture)+config.Show(w.sink))
	plain := w.plain()
	_, _ = fmt.Fprintf(w.said, "%s %v %+v %#v\n", config.Show(plain), plain, plain, plain)
	var wrong capture.Config
	err = config.Decode("capture.yaml", []byte(fmt.Sprintf("source: {name: shop, dsn: [%q], dsm: %q}\nsalt: {a: %q}\nhttp: {token: [%q]}\n",
		w.secrets["source1"], w.secrets["source1"], w.secrets["salt6"], w.secrets["token5"])), &wrong)
	if faults, ok := errors.AsType[*config.Faults](err); ok {
		faults.Print(w.said, "capture")
	} else {
		w.t.Errorf("a wrong configuration passes: %v", err)
	}
}

// plain is a configuration that holds its secrets itself.
func (w *secured) plain() capture.Config {
	plain := w.capture
	plain.Source.DSN, plain.Salt, plain.HTTP.Token = config.Secret(w.dsn("shop", "tributary_capture", w.secrets["source1"])), config.Secret(w.secrets["salt6"]), config.Secret(w.secrets["token5"])
	plain.Kafka.SASL.Token, plain.Kafka.SASL.OAuth.ClientSecret = config.Secret(w.secrets["token5"]), config.Secret(w.secrets["kafka3"])
	plain.Kafka.SASL.Password, plain.Registry.Password = config.Secret(w.secrets["kafka3"]), config.Secret(w.secrets["registry4"])
	return plain
}

// bundle has a program write its file, and tells what is in it.
func bundle[C any](w *secured, program verbs.Program[C]) {
	w.t.Helper()
	root, file := terminal.Root(program.Name, "", program.SupportBundle()), filepath.Join(w.dir, program.Name+".tar.gz")
	root.SetArgs([]string{"support-bundle", "-c", filepath.Join(w.dir, program.Name+".yaml"), "-o", file})
	root.SetOut(w.said)
	root.SetErr(w.said)
	must(w.t, root.ExecuteContext(w.t.Context()))
	packed, err := os.Open(file)
	must(w.t, err)
	unpacked, err := gzip.NewReader(packed)
	must(w.t, err)
	_, err = io.Copy(w.said, unpacked) //nolint:gosec // it is ours
	must(w.t, errors.Join(err, packed.Close()))
}

// init writes first configurations, and is given connection strings as people write them: with another password, or with one
// that is not escaped.
func (w *secured) init() {
	source, warehouse := w.secrets["source8"], w.secrets["warehouse9"]
	shop, dwh := w.dsn("shop", "tributary_capture", source), w.dsn("dwh", "tributary_sink", warehouse)
	var d capture.Draft
	d.Name, d.DSN = "shop", "env:SOURCE"
	must(w.t, d.Ask(w.t.Context(), shop))
	d.Write(w.said)
	_, _ = fmt.Fprintln(w.said, d.Roles())
	var e sink.Draft
	e.DSN, e.Sources = "env:WAREHOUSE", "*"
	must(w.t, e.Ask(w.t.Context(), w.sink, dwh, true))
	e.Write(w.sink, w.said)
	_, _ = fmt.Fprintln(w.said, e.Roles())
	for _, dsn := range []string{
		strings.Replace(shop, "localhost", "127.0.0.1", 1), strings.Replace(shop, "/shop", "/elsewhere", 1), strings.Replace(shop, "verify-full", "verify-everything", 1),
		"postgres://tributary_capture:" + source + "@localhost/shop", "postgres://tributary_capture:" + source + "@localhost:port/shop", "postgres//tributary_capture:" + source + "@localhost",
		"host=localhost user=tributary_capture password='" + source, "host=localhost password=" + source + " user=tributary_capture", "host=localhost password " + source,
	} {
		for _, err := range []error{new(capture.Draft).Ask(w.t.Context(), dsn), new(sink.Draft).Ask(w.t.Context(), w.sink, dsn, false)} {
			if err == nil {
				w.t.Errorf("%s is taken", postgres.Redact(dsn))
			} else {
				w.tell(err)
			}
		}
	}
}

// refusals are all the ways in which a connection can be wrong, each at a start.
func (w *secured) refusals(source, warehouse string) {
	pg := func(what string, options func(dsn string) string, cause, hint string) {
		w.t.Helper()
		dsn := options(w.dsn("shop", "tributary_capture", source))
		w.refused("capture: "+what, w.runCapture(func(c *capture.Config) { c.Source.DSN = config.Secret(dsn) }), trouble.SourceRights, cause, hint)
		dsn = options(w.dsn("dwh", "tributary_sink", warehouse))
		w.refused("sink: "+what, w.runSink(func(c *sink.Config) { c.Warehouse.DSN = config.Secret(dsn) }), trouble.WarehouseRights, cause, hint)
	}
	replace := func(from, to string) func(string) string {
		return func(dsn string) string { return strings.Replace(dsn, from, to, 1) }
	}
	pg("wrong password", func(dsn string) string { return strings.Replace(dsn, "hush-", "hush-wrong-", 1) }, "password authentication failed", "password")
	valid := func(until string) {
		execute(w.t, w.cluster.DSN("postgres"), fmt.Sprintf(`alter role tributary_capture valid until '%[1]s'; alter role tributary_sink valid until '%[1]s'`, until))
	}
	valid("yesterday")
	pg("expired password", func(dsn string) string { return dsn }, "password authentication failed", "until when it is valid")
	valid("infinity")
	pg("another authority", replace(url.QueryEscape(w.authority.File), url.QueryEscape(w.other.File)), "unknown authority", "sslrootcert")
	pg("another host name", replace("localhost", "127.0.0.1"), "127.0.0.1", "another name")
	pg("without TLS", replace("sslmode=verify-full", "sslmode=disable"), "no encryption", "sslmode")
	pg("a server without TLS", replace(fmt.Sprint(w.cluster.Port()), noTLS(w.t)), "does not speak TLS", "switch TLS on")

	good := w.authority.Issue(w.t, "postgres", "localhost")
	expired := w.authority.Expired(w.t, "postgres", "localhost")
	set := func(pair certtest.Pair, clients string, until func(error) bool) {
		w.t.Helper()
		must(w.t, w.cluster.SetTLS(pgtest.TLS{Cert: pair.Cert, Key: pair.Key, ClientCA: clients}))
		for deadline := time.Now().Add(pgtest.Patience); ; time.Sleep(20 * time.Millisecond) {
			conn, err := postgres.Connect(w.t.Context(), w.dsn("shop", "tributary_capture", source), "test")
			if err == nil {
				_ = conn.Close(w.t.Context())
			}
			if until(err) {
				return
			}
			if time.Now().After(deadline) {
				w.t.Fatalf("the server does not take up its certificate: %v", err)
			}
		}
	}
	set(expired, "", func(err error) bool { return err != nil })
	pg("expired certificate", func(dsn string) string { return dsn }, "expired", "renewed")
	set(good, w.authority.File, func(err error) bool { return err != nil && strings.Contains(err.Error(), "valid client certificate") })
	pg("no client's certificate", func(dsn string) string { return dsn }, "client certificate", "sslcert")
	client := func(pair certtest.Pair) func(string) string {
		return func(dsn string) string {
			return dsn + "&sslcert=" + url.QueryEscape(pair.Cert) + "&sslkey=" + url.QueryEscape(pair.Key)
		}
	}
	pg("a client's certificate of another authority", client(w.other.Issue(w.t, "tributary_capture")), "unknown certificate authority", "sslcert")
	pg("a client's certificate that has expired", client(w.authority.Expired(w.t, "tributary_capture")), "expired certificate", "sslcert")
	pg("another's certificate", client(w.authority.Issue(w.t, "somebody")), "authentication failed", "sslcert")
	conn, err := postgres.Connect(w.t.Context(), client(w.authority.Issue(w.t, "tributary_capture"))(w.dsn("shop", "tributary_capture", source)), "test")
	must(w.t, err)
	must(w.t, conn.Close(w.t.Context()))
	set(good, "", func(err error) bool { return err == nil })

	kafka := func(what string, change func(*config.TLS, *config.Secret), cause, hint string) {
		w.t.Helper()
		w.refused("capture: "+what, w.runCapture(func(c *capture.Config) { change(&c.Kafka.TLS, &c.Kafka.SASL.Password) }), trouble.KafkaAuth, cause, hint)
		w.refused("sink: "+what, w.runSink(func(c *sink.Config) { change(&c.Kafka.TLS, &c.Kafka.SASL.Password) }), trouble.KafkaAuth, cause, hint)
	}
	kafka("another authority", func(tls *config.TLS, _ *config.Secret) { tls.CA = w.other.File }, "unknown authority", "kafka.tls.ca")
	kafka("another host name", func(tls *config.TLS, _ *config.Secret) { tls.ServerName = "elsewhere" }, "elsewhere", "kafka.tls.server_name")
	kept := w.brokerTLS.Load()
	w.brokerTLS.Store(w.authority.Expired(w.t, "kafka", "localhost", "127.0.0.1").Server(w.t))
	kafka("expired certificate", func(*config.TLS, *config.Secret) {}, "expired", "renewed")
	w.brokerTLS.Store(kept) // a wrong password is TestACLsOfSecurityPage's: kfake does not answer to one as Kafka does
}

// registryRefusals are the ways in which a service and the registry do not take each other, each at a start and in what check says.
func (w *secured) registryRefusals(of string, with func(config.Registry) (run, check func(context.Context) error)) {
	refused := func(what string, change func(*config.Registry), cause, hint string) {
		w.t.Helper()
		r := w.capture.Registry
		change(&r)
		run, check := with(r)
		w.refused(of+": registry: "+what, run, trouble.RegistryAuth, cause, hint)
		from := len(w.said.String())
		if err := check(w.t.Context()); err == nil || !strings.Contains(w.said.String()[from:], cause) || !strings.Contains(w.said.String()[from:], hint) {
			w.t.Errorf("%s check: registry: %s: %v, want %q and %q:\n%s", of, what, err, cause, hint, w.said.String()[from:])
		}
	}
	refused("another authority", func(r *config.Registry) { r.TLS.CA = w.other.File }, "unknown authority", "registry.tls.ca")
	refused("another host name", func(r *config.Registry) { r.TLS.ServerName = "elsewhere" }, "elsewhere", "registry.tls.server_name")
	refused("a server without TLS", func(r *config.Registry) { r.URL = strings.Replace(kafkatest.Registry(w.t), "http:", "https:", 1) }, "HTTP response to HTTPS client", "does not speak TLS")
	refused("wrong password", func(r *config.Registry) { r.Password = "hush-wrong" }, "refuses the login", "registry.password")
	refused("no such user", func(r *config.Registry) { r.Username = "nobody" }, "refuses the login", "registry.username")
	refused("no login", func(r *config.Registry) { r.Username, r.Password = "", "" }, "refuses the login", "registry.username")
	kept := w.registryTLS.Load()
	w.registryTLS.Store(w.authority.Expired(w.t, "registry", "localhost").Server(w.t))
	refused("expired certificate", func(*config.Registry) {}, "expired", "renewed")
	w.registryTLS.Store(kept)
	refused("no client's certificate", func(r *config.Registry) { r.TLS.Cert, r.TLS.Key = "", "" }, "certificate required", "registry.tls.cert")
}

// published waits until a topic is there.
func (w *secured) published(topic string) {
	w.t.Helper()
	for deadline := time.Now().Add(pgtest.Patience); ; time.Sleep(20 * time.Millisecond) {
		topics, err := w.admin.ListTopics(w.t.Context(), topic)
		must(w.t, err)
		if topics.Has(topic) {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("there is no topic %s", topic)
		}
	}
}

// noSecrets looks for every secret, as it is and as it is written where it has to be quoted.
func (w *secured) noSecrets(everything bool) {
	text := w.said.String()
	for name, secret := range w.secrets {
		quoted := fmt.Sprintf("%q", secret)
		for how, form := range map[string]string{
			"as it is": secret, "quoted": quoted[1 : len(quoted)-1], "in a URL": url.PathEscape(secret), "in a query": url.QueryEscape(secret),
			"as user information": strings.TrimPrefix(url.UserPassword("", secret).String(), ":"),
			"in Basic":            base64.StdEncoding.EncodeToString([]byte("pipeline:" + secret)), "its beginning": strings.SplitN(secret, `"`, 2)[0],
		} {
			if at := strings.Index(text, form); at >= 0 {
				w.t.Errorf("secret %s, %s: …%s…", name, how, text[max(0, at-200):min(len(text), at+len(form)+50)])
			}
		}
	}
	for _, part := range []string{"tributary_build_info", "***", "kafka transaction", "traces could not be told"} {
		if everything && !strings.Contains(text, part) {
			w.t.Errorf("nobody said %q in %d bytes: the test does not look at it", part, len(text))
		}
	}
}
