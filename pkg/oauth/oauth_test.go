package oauth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

var kafka = For{Keys: "kafka.sasl", Refused: trouble.KafkaAuth}

// jwt is one that nobody has signed.
func jwt(body string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(body)) + ".c2ln"
}

// want fails the test unless err is a trouble of this code, with these words in what it says and advises.
func want(t *testing.T, what string, err error, code trouble.Code, cause, hint string) {
	t.Helper()
	e, ok := errors.AsType[*trouble.Error](err)
	if !ok || e.Code != code || !strings.Contains(e.Error(), cause) || e.Hint == "" || !strings.Contains(e.Hint, hint) {
		t.Errorf("%s: got %v (%s), want %s with %q", what, err, trouble.CodeOf(err), code, cause)
		if ok {
			t.Logf("hint %q, want %q", e.Hint, hint)
		}
		return
	}
	if waits, refused := code == trouble.IdentityUnreachable, code == kafka.Refused; retry.Transient(err) != waits || retry.Refused(err) != refused {
		t.Errorf("%s: transient %v, refused %v: %v", what, retry.Transient(err), retry.Refused(err), err)
	}
	for _, form := range []string{"%v", "%+v", "%#v", "%q"} {
		if text := fmt.Sprintf(form, err) + e.Hint; strings.Contains(text, "hush") {
			t.Errorf("%s: %s", what, text)
		}
	}
}

func TestGrant(t *testing.T) {
	config.CheckStruct(t, Grant{})
	faulty := func(yaml, want string) {
		t.Helper()
		var g Grant
		err := config.Decode("x.yaml", []byte(yaml), &g)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", yaml, err, want)
		}
	}
	faulty("", "")
	faulty("{token_url: 'https://id/token', client_id: a, client_secret: b, scope: c}", "")
	faulty("{client_id: a, client_secret: b}", "token_url  missing, so the other keys have no effect")
	faulty("{scope: a}", "token_url  missing")
	faulty("{token_url: 'https://id/token', client_id: a}", "token_url  needs client_id and client_secret")
	faulty("{token_url: 'id/token', client_id: a, client_secret: b}", "token_url  not an http or https address")
	faulty("{token_url: 'https://a:hush@id/token', client_id: a, client_secret: b}", "token_url  holds a user or password")
	faulty("{token_url: 'http://id/token', client_id: a, client_secret: b, tls: {enabled: true}}", "token_url  is asked without TLS")
}

// TestTokenOfAFile: it is read each time, and what cannot be a valid one is shown to nobody.
func TestTokenOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	secret := config.Secret("file:" + file)
	_, err := New(secret, Grant{}, kafka)
	want(t, "no file", err, trouble.KafkaAuth, "read kafka.sasl.token: read secret: open "+file, "read again at each login")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("hush-opaque\n")
	s, err := New(secret, Grant{}, kafka)
	if err != nil {
		t.Fatal(err)
	}
	gives := func(token string) {
		t.Helper()
		if got, err := s.Token(t.Context()); got != token || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, token)
		}
	}
	gives("hush-opaque")
	fresh := jwt(fmt.Sprintf(`{"sub": "capture", "exp": %d.25}`, time.Now().Unix()))
	write(fresh)
	gives(fresh) // up just now: clocks differ
	for what, text := range map[string]string{"quoted": `"hush"`, "with the word": "Bearer hush", "blank": " \n", "two": "hush\nhush", "injected": "hush\x01auth=Bearer hush"} {
		write(text)
		_, err := s.Token(t.Context())
		want(t, what, err, trouble.KafkaAuth, "read kafka.sasl.token: what is there is no token", "access_token")
	}
	write("\n")
	_, err = s.Token(t.Context())
	want(t, "empty", err, trouble.KafkaAuth, "read kafka.sasl.token: nothing is there", "kafka.sasl.token")
	write(jwt(`{"sub": "hush", "exp": 1700000000}`))
	_, err = s.Token(t.Context())
	want(t, "expired", err, trouble.KafkaAuth, "has expired at 2023-11-14T22:13:20Z", "fresh")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	_, err = s.Token(t.Context())
	want(t, "file gone", err, trouble.KafkaAuth, "no such file", "kafka.sasl.token")
	write(fresh)
	gives(fresh)
}

// TestClaims: what is no JWT says nothing.
func TestClaims(t *testing.T) {
	if c := read(jwt(`{"sub": "a", "exp": 1700000000}`)); c.subject != "a" || c.expires.Unix() != 1700000000 {
		t.Errorf("got %+v", c)
	}
	for _, token := range []string{"", "a.b", "a.b.c", "a.!.c", jwt(`[]`), jwt(`{"exp": "soon"}`), jwt(`{}`), jwt(`{"exp": -1}`)} {
		if c := read(token); c != (claims{}) {
			t.Errorf("%q says %+v", token, c)
		}
	}
}

// provider is an identity provider over TLS that answers as it is told.
func provider(t *testing.T, answer func(http.ResponseWriter, *http.Request)) Grant {
	t.Helper()
	authority := certtest.New(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(answer))
	server.TLS = authority.Issue(t, "id", "localhost", "127.0.0.1").Server(t)
	server.StartTLS()
	t.Cleanup(server.Close)
	return Grant{
		TokenURL: server.URL + "/token", ClientID: "pipeline", ClientSecret: "hush/ %+é", Scope: "kafka  more",
		TLS: config.TLS{Enabled: true, CA: authority.File},
	}
}

func newSource(t *testing.T, g Grant) *Source {
	t.Helper()
	s, err := New("", g, kafka)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestClientCredentials asks in both ways in which identity providers take a secret, keeps what it gets, and takes up a secret
// that was changed.
func TestClientCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	secret := "hush/ %+é"
	keep := func() {
		t.Helper()
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keep()
	for _, inBody := range []bool{false, true} {
		given, asked := 0, 0
		g := provider(t, func(rw http.ResponseWriter, r *http.Request) {
			asked++
			id, password := r.PostFormValue("client_id"), r.PostFormValue("client_secret")
			if !inBody {
				id, password, _ = r.BasicAuth()
				password, _ = url.QueryUnescape(password) // RFC 6749, 2.3.1
			}
			rw.Header().Set("Content-Type", "application/json")
			if id != "pipeline" || password != secret || r.Method != http.MethodPost || r.PostFormValue("grant_type") != "client_credentials" || r.PostFormValue("scope") != "kafka more" {
				rw.WriteHeader(http.StatusUnauthorized)
				fmt.Fprint(rw, `{"error": "invalid_client"}`)
				return
			}
			given++
			fmt.Fprintf(rw, `{"access_token": "token-%d", "token_type": "Bearer", "expires_in": "3600"}`, given)
		})
		g.ClientSecret = config.Secret("file:" + file)
		s := newSource(t, g)
		for range 3 {
			if got, err := s.Token(t.Context()); got != "token-1" || err != nil {
				t.Fatalf("in the body: %v: got %q, %v", inBody, got, err)
			}
		}
		s.Forget("another")
		s.Forget("token-1")
		if got, err := s.Token(t.Context()); got != "token-2" || err != nil {
			t.Errorf("after the token was refused: %q, %v", got, err)
		}
		if asked != 2 && !inBody || asked != 3 && inBody { // the first try tells in which way
			t.Errorf("in the body: %v: asked %d times", inBody, asked)
		}
		secret = "hush-next"
		keep()
		s.Forget("token-2")
		if got, err := s.Token(t.Context()); got != "token-3" || err != nil {
			t.Errorf("with another secret: %q, %v", got, err)
		}
	}
}

// TestRenewedAuthorities: whom to trust is read again each time a token is asked for.
func TestRenewedAuthorities(t *testing.T) {
	g := provider(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprint(rw, `{"access_token": "token", "token_type": "Bearer", "expires_in": "0"}`)
	})
	kept, other := filepath.Join(t.TempDir(), "kept.pem"), certtest.New(t).File
	certtest.Copy(t, g.TLS.CA, kept)
	s := newSource(t, g)
	if got, err := s.Token(t.Context()); got != "token" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	certtest.Copy(t, other, g.TLS.CA)
	_, err := s.Token(t.Context())
	want(t, "another authority", err, trouble.KafkaAuth, "unknown authority", "kafka.sasl.oauth.tls.ca")
	if err := os.Remove(g.TLS.CA); err != nil {
		t.Fatal(err)
	}
	_, err = s.Token(t.Context())
	want(t, "none", err, trouble.KafkaAuth, "no such file", "kafka.sasl.oauth.tls.ca, and to those of")
	certtest.Copy(t, kept, g.TLS.CA)
	if got, err := s.Token(t.Context()); got != "token" || err != nil {
		t.Errorf("the first one again: got %q, %v", got, err)
	}
}

// transport answers without a network, so that time is the test's.
type transport func(*http.Request) string

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	rec.Header().Set("Content-Type", "application/json")
	fmt.Fprint(rec, f(r))
	return rec.Result(), nil
}

// TestTokensAreRenewedBeforeTheirEnd: by when a broker wants another one (Kafka's reauthentication comes after 95 % of the time),
// there is one.
func TestTokensAreRenewedBeforeTheirEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		given, answer := 0, `{"access_token": "%s", "expires_in": 1000}`
		s := newSource(t, Grant{TokenURL: "http://id/token", ClientID: "a", ClientSecret: "b"})
		s.client.Transport = transport(func(*http.Request) string {
			given++
			return fmt.Sprintf(answer, jwt(fmt.Sprintf(`{"jti": "%d", "exp": %d}`, given, time.Now().Add(100*time.Second).Unix())))
		})
		after := func(wait time.Duration, want int) {
			t.Helper()
			time.Sleep(wait)
			if _, err := s.Token(t.Context()); err != nil || given != want {
				t.Errorf("%d tokens were asked for, %v; want %d", given, err, want)
			}
		}
		after(0, 1)
		after(799*time.Second, 1)
		after(2*time.Second, 2)
		after(801*time.Second, 3)
		answer = `{"access_token": "%s"}` // the token says it itself
		after(801*time.Second, 4)
		after(79*time.Second, 4)
		after(2*time.Second, 5)
		answer = `{"access_token": "opaque%.0s"}` // nobody says it
		after(81*time.Second, 6)
		after(0, 7)
	})
}

func TestProviderThatRefuses(t *testing.T) {
	status, body, kind := 0, "", ""
	g := provider(t, func(rw http.ResponseWriter, _ *http.Request) {
		if status == http.StatusTemporaryRedirect {
			rw.Header().Set("Location", "/elsewhere")
		}
		rw.Header().Set("Content-Type", kind)
		rw.WriteHeader(status)
		fmt.Fprint(rw, body)
	})
	says := func(what string, answers int, of, text string, code trouble.Code, cause, hint string) {
		t.Helper()
		status, kind, body = answers, of, text
		_, err := newSource(t, g).Token(t.Context())
		want(t, what, err, code, cause, hint)
		if !strings.Contains(err.Error(), "ask for a token at "+g.TokenURL) {
			t.Errorf("%s: %v", what, err)
		}
	}
	const json = "application/json"
	says("wrong secret", 401, json, `{"error": "invalid_client", "error_description": "not hush/ %+é, hush%2F+%25%2B%C3%A9"}`, trouble.KafkaAuth, `401 Unauthorized: "invalid_client" "not ***, ***"`, "kafka.sasl.oauth.client_secret")
	says("wrong scope", 400, json, `{"error": "invalid_scope"}`, trouble.KafkaAuth, `"invalid_scope"`, "kafka.sasl.oauth.scope")
	says("an error with status 200", 200, json, `{"error": "unauthorized_client"}`, trouble.KafkaAuth, `"unauthorized_client"`, "client_credentials")
	says("another page", 404, "text/html", "<p>hush</p>", trouble.KafkaAuth, "404 Not Found", "kafka.sasl.oauth.token_url")
	says("a page instead of a token", 200, "text/html", "<p>hush</p>", trouble.KafkaAuth, "cannot parse json", "kafka.sasl.oauth.token_url")
	says("no token", 200, json, `{}`, trouble.KafkaAuth, "missing access_token", "kafka.sasl.oauth.token_url")
	says("an unfit token", 200, json, `{"access_token": "hush hush"}`, trouble.KafkaAuth, "no token", "kafka.sasl.oauth.token_url")
	says("elsewhere", 307, "", "", trouble.KafkaAuth, "307", "kafka.sasl.oauth.token_url")
	says("down", 503, "text/html", "<p>hush</p>", trouble.IdentityUnreachable, "503 Service Unavailable", "identity provider")
	says("too many", 429, json, `{"error": "slow_down"}`, trouble.IdentityUnreachable, "429 Too Many Requests", "identity provider")

	trusted := g.TLS.CA
	g.TLS.CA = certtest.New(t).File
	says("another authority", 200, json, `{}`, trouble.KafkaAuth, "unknown authority", "kafka.sasl.oauth.tls.ca")
	g.TLS.CA = trusted
	address := g.TokenURL
	g.TokenURL = strings.Replace(address, "https:", "http:", 1)
	says("without TLS", 400, "", "", trouble.KafkaAuth, "400 Bad Request", "kafka.sasl.oauth.token_url")
	g.TokenURL = "https://127.0.0.1:1/token"
	says("nobody there", 200, json, `{}`, trouble.IdentityUnreachable, "connection refused", "kafka.sasl.oauth.token_url")

	g.ClientSecret = "file:/absent/secret"
	_, err := New("", g, kafka)
	want(t, "no secret", err, trouble.KafkaAuth, "read kafka.sasl.oauth.client_secret", "kafka.sasl.oauth.client_secret")
	g.ClientSecret, g.TLS.CA = "x", "/absent/ca.pem"
	if _, err := New("", g, kafka); trouble.CodeOf(err) != trouble.Config || !strings.Contains(err.Error(), "kafka.sasl.oauth.tls: ") {
		t.Errorf("absent authorities: %v", err)
	}
}
