package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/pkg/verbs"
	"github.com/tributary-cdc/tributary/sink"
)

// identity is an identity provider over TLS: it gives tokens to who has the secret, and is away while it has none.
type identity struct {
	address string
	secret  atomic.Pointer[string]
}

// newIdentity makes one whose tokens are for the user of the client's name, and live for so long. Each is told to given.
func newIdentity(t *testing.T, authority *certtest.Authority, broker *kafkatest.SecureCluster, life time.Duration, given func(token string)) *identity {
	t.Helper()
	id := &identity{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		secret := id.secret.Load()
		client, password, _ := r.BasicAuth()
		password, _ = url.QueryUnescape(password)
		switch {
		case secret == nil:
			rw.WriteHeader(http.StatusServiceUnavailable)
		case client != "capture" && client != "sink" || password != *secret:
			rw.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(rw).Encode(map[string]string{"error": "invalid_client", "error_description": "not " + password})
		default:
			token := broker.Token(t, client, life, nil)
			given(token)
			fmt.Fprintf(rw, `{"access_token": %q, "token_type": "Bearer", "expires_in": %d}`, token, int(life.Seconds()))
		}
	}))
	server.TLS = authority.Issue(t, "id", "localhost").Server(t)
	server.StartTLS()
	t.Cleanup(server.Close)
	id.address = strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	return id
}

// TestTokens runs capture and sink on Apache Kafka with TLS, ACLs and tokens (OAUTHBEARER): capture's is in a file, the sink gets
// its own from an identity provider. It sees what is refused and how that is told; lets capture's token expire, and the identity
// provider be away, while both run; and looks for tokens and secrets in all that was said.
func TestTokens(t *testing.T) {
	authority := certtest.New(t)
	broker := kafkatest.Secure(t, authority)
	w := &secured{t: t, dir: t.TempDir(), said: &said{}, secrets: map[string]string{}}
	var given atomic.Int64
	remember := func(token string) string {
		w.said.mu.Lock()
		defer w.said.mu.Unlock()
		w.secrets[fmt.Sprintf("token%d", given.Add(1))] = token
		return token
	}
	token := func(life time.Duration, claims map[string]any) string {
		return remember(broker.Token(t, "capture", life, claims))
	}
	identity := newIdentity(t, authority, broker, 20*time.Second, func(token string) { remember(token) })
	secret := w.secret("client")
	postgres := pgtest.New(t, pgtest.Options{})
	must(t, postgres.CreateDatabase(t.Context(), "shop"))
	must(t, postgres.CreateDatabase(t.Context(), "dwh"))
	execute(t, postgres.DSN("shop"), `create table orders (id int primary key); insert into orders values (1)`)
	configure := func(cfg any, name, sasl, own string) {
		t.Helper()
		listen, err := pgtest.FreeAddress()
		must(t, err)
		text := fmt.Sprintf("kafka:\n  brokers: [%q]\n  tls: {enabled: true, ca: %q}\n  sasl: {mechanism: oauthbearer, %s}\nregistry: {url: %q}\nhttp: {listen: %q}\nlog: {level: debug}\n%s",
			broker.OAuth()[0], authority.File, sasl, kafkatest.Registry(t), listen, own)
		must(t, os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600))
		decode(t, cfg, text)
	}
	w.keep("token", token(-time.Hour, nil))
	configure(&w.capture, "capture.yaml", fmt.Sprintf(`token: "file:%s/token", extensions: [logicalCluster=lkc-1]`, w.dir),
		fmt.Sprintf("source: {name: shop, dsn: %q, tables: [\"public.*\"], heartbeat: 200ms}\n", postgres.DSN("shop")))
	configure(&w.sink, "sink.yaml", fmt.Sprintf(`oauth: {token_url: "%s/token", client_id: sink, client_secret: "file:%s/client", tls: {enabled: true, ca: %q}}`, identity.address, w.dir, authority.File),
		fmt.Sprintf("warehouse: {dsn: %q}\nsources: [{name: shop}]\ntables: [{from: \"public.*\", to: \"{source}.{table}\"}]\nrefresh: 200ms\n", postgres.DSN("dwh")))
	w.sink.Registry = w.capture.Registry

	// What a start is refused for.
	same := func(*capture.Config) {}
	w.refused("capture: expired", w.runCapture(same), trouble.KafkaAuth, "read kafka.sasl.token: the token has expired at", "fresh")
	w.keep("token", token(time.Hour, map[string]any{"aud": "elsewhere"}))
	w.refused("capture: for another broker", w.runCapture(same), trouble.KafkaAuth, `{"status":"invalid_token"}`, "audience")
	wrong := "another"
	identity.secret.Store(&wrong)
	w.refused("sink: wrong secret", w.runSink(func(*sink.Config) {}), trouble.KafkaAuth, "invalid_client", "kafka.sasl.oauth.client_secret")
	w.refused("sink: another authority", w.runSink(func(c *sink.Config) { c.Kafka.SASL.OAuth.TLS.CA = certtest.New(t).File }), trouble.KafkaAuth, "unknown authority", "kafka.sasl.oauth.tls.ca")

	// The rights that errors ask for are the user's of the token.
	w.keep("token", token(time.Hour, nil))
	identity.secret.Store(&secret)
	w.refused("capture: no rights", w.runCapture(same), trouble.KafkaNotAuthorised, "AUTHORIZATION_FAILED", "--allow-principal User:capture ")
	out := &strings.Builder{}
	if err := sink.Check(t.Context(), w.sink, terminal.NewCheck("sink", out)); err == nil || !strings.Contains(out.String(), "--allow-principal User:sink ") {
		t.Errorf("sink check: %v\n%s", err, out)
	}
	for command := range acls(block(t, readPage(t, "docs/security.md"), "sh")) {
		grant(t, broker, command)
	}
	stopCapture := run(t, "capture", w.runCapture(same))
	stopSink := run(t, "sink", w.runSink(func(*sink.Config) {}))
	n := 0
	flows := func() {
		t.Helper()
		n++
		execute(t, postgres.DSN("shop"), fmt.Sprintf(`insert into orders values (%d)`, n+1))
		arrives(t, postgres.DSN("dwh"), `select count(*)::text from shop.orders`, fmt.Sprint(n+1))
	}
	flows()

	// Nobody keeps the token fresh, until somebody does: the broker asks for it every 3 s.
	w.keep("token", token(-time.Hour, nil))
	w.needs("capture", w.capture.HTTP, trouble.KafkaAuth, "fresh")
	w.keep("token", token(time.Hour, nil))
	flows()

	// The identity provider is away for longer than its tokens live; then the secret is changed.
	identity.secret.Store(nil)
	w.needs("sink", w.sink.HTTP, trouble.IdentityUnreachable, "identity provider")
	next := "hush-next client"
	w.secrets["client2"] = next
	identity.secret.Store(&next)
	w.needs("sink", w.sink.HTTP, trouble.KafkaAuth, "client_secret")
	w.keep("client", next)
	flows()
	arrives(t, postgres.DSN("dwh"), `select count(*)::text from tributary.quarantine`, "0")

	w.tokenVerbs()
	stopCapture()

	// So may a capture get its tokens.
	w.capture.Kafka.SASL.Token, w.capture.Kafka.SASL.OAuth = "", w.sink.Kafka.SASL.OAuth
	w.capture.Kafka.SASL.OAuth.ClientID = "capture"
	stopCapture = run(t, "capture", w.runCapture(same))
	flows()
	identity.secret.Store(nil)
	w.needs("capture", w.capture.HTTP, trouble.IdentityUnreachable, "identity provider")
	identity.secret.Store(&next)
	flows()
	stopCapture()
	stopSink()
	w.noSecrets(false)
	for _, part := range []string{"invalid_token", "***", "kafka_"} {
		if !strings.Contains(w.said.String(), part) {
			t.Errorf("nobody said %q in %d bytes: the test does not look at it", part, len(w.said.String()))
		}
	}
}

// tokenVerbs has both services say what they know of their configuration, and of themselves.
func (w *secured) tokenVerbs() {
	w.t.Helper()
	c, err := capture.New(w.capture, capture.Options{}, w.said.log())
	must(w.t, err)
	bundle(w, verbs.Program[capture.Config]{
		Name: "capture", HTTP: func(cfg *capture.Config) config.HTTP { return cfg.HTTP },
		Check:  func(ctx context.Context, _ capture.Config, told *terminal.Check) error { return c.Check(ctx, told) },
		Status: func(ctx context.Context, _ capture.Config) (any, error) { return c.Ask(ctx, service.Whom{}) },
	})
	o, err := sink.NewOperator(w.sink)
	must(w.t, err)
	defer o.Close(context.WithoutCancel(w.t.Context()))
	bundle(w, verbs.Program[sink.Config]{
		Name: "sink", HTTP: func(cfg *sink.Config) config.HTTP { return cfg.HTTP }, Check: sink.Check,
		Status: func(ctx context.Context, cfg sink.Config) (any, error) { return o.Ask(ctx, cfg, service.Whom{}) },
	})
	for _, listen := range []string{w.capture.HTTP.Listen, w.sink.HTTP.Listen} {
		for _, path := range []string{"/", "/status?format=json", "/metrics"} {
			response, err := http.Get("http://" + listen + path)
			must(w.t, err)
			_, err = io.Copy(w.said, response.Body)
			must(w.t, err)
			must(w.t, response.Body.Close())
		}
	}
	plain, asks := w.capture, w.sink
	plain.Kafka.SASL.Token = config.Secret(w.secrets["token1"])
	asks.Kafka.SASL.OAuth.ClientSecret = config.Secret(w.secrets["client0"])
	for _, cfg := range []any{w.capture, w.sink, plain, asks} {
		_, _ = fmt.Fprintf(w.said, "%s %v %+v %#v\n", config.Show(cfg), cfg, cfg, cfg)
	}
	var wrong capture.Config
	err = config.Decode("capture.yaml", []byte(fmt.Sprintf("kafka: {sasl: {mechanism: oauthbearer, token: [%q], oauth: {client_secret: {a: %[1]q}}}}\n", w.secrets["token1"])), &wrong)
	w.tell(err)
}
