package config

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/certtest"
)

// mutual is a server that wants a client's certificate, and tells its name.
type mutual struct {
	*httptest.Server
	now atomic.Pointer[tls.Config]
}

func newMutual(t *testing.T) *mutual {
	t.Helper()
	m := &mutual{Server: httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))}
	m.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return m.now.Load(), nil }}
	m.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that have to fail
	t.Cleanup(m.Close)
	return m
}

// trust has the server show a certificate of a, and want one of it.
func (m *mutual) trust(t *testing.T, a *certtest.Authority) {
	t.Helper()
	cfg := a.Issue(t, "broker", "broker.test").Server(t)
	cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, a.Pool()
	m.now.Store(cfg)
}

func ask(client *http.Client, url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func overDialer(t *testing.T, c TLS) (*http.Client, error) {
	t.Helper()
	dial, err := c.Dialer(&net.Dialer{})
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialTLSContext: dial}}, err
}

// TestRenewedFiles keeps what makes connections while the client's certificate, and then the authority of both sides, is
// replaced: what is dialled next uses the new files, and a file that is half written is told.
func TestRenewedFiles(t *testing.T) {
	server, first := newMutual(t), certtest.New(t)
	server.trust(t, first)
	server.StartTLS()
	pair := first.Issue(t, "one")
	c := TLS{Enabled: true, CA: first.File, Cert: pair.Cert, Key: pair.Key, ServerName: "broker.test"}
	dialled, err := overDialer(t, c)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := c.Transport()
	if err != nil {
		t.Fatal(err)
	}
	kept := &http.Client{Transport: transport}
	defer kept.CloseIdleConnections()
	both := func(what string, check func(string, error) bool) {
		t.Helper()
		for how, client := range map[string]*http.Client{"dialled": dialled, "HTTP": kept} {
			if name, err := ask(client, server.URL); !check(name, err) {
				t.Errorf("%s, %s: got %q, %v", what, how, name, err)
			}
		}
	}
	is := func(want string) func(string, error) bool {
		return func(name string, err error) bool { return name == want && err == nil }
	}
	both("first", is("one"))

	first.Issue(t, "two").Replace(t, pair)
	server.CloseClientConnections()
	both("another certificate", is("two"))

	second := certtest.New(t)
	server.trust(t, second)
	server.CloseClientConnections()
	both("another authority at the server alone", func(_ string, err error) bool {
		_, ok := errors.AsType[*tls.CertificateVerificationError](err)
		return ok
	})
	second.Issue(t, "three").Replace(t, pair)
	certtest.Copy(t, second.File, c.CA)
	both("another authority", is("three"))

	other := second.Issue(t, "four")
	certtest.Copy(t, other.Cert, c.Cert)
	server.CloseClientConnections()
	both("the key of another certificate", func(_ string, err error) bool { return errors.Is(err, ErrTLSFiles) })
	certtest.Copy(t, other.Key, c.Key)
	if err := os.WriteFile(c.CA, []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	both("half a file", func(_ string, err error) bool {
		return errors.Is(err, ErrTLSFiles) && strings.Contains(err.Error(), c.CA)
	})
	certtest.Copy(t, second.File, c.CA)
	both("whole again", is("four"))
}

// TestAuthoritiesOfKeptConnections: with other authorities a connection of before is not used on.
func TestAuthoritiesOfKeptConnections(t *testing.T) {
	server, first := newMutual(t), certtest.New(t)
	server.trust(t, first)
	server.StartTLS()
	pair := first.Issue(t, "one")
	transport, err := TLS{Enabled: true, CA: first.File, Cert: pair.Cert, Key: pair.Key, ServerName: "broker.test"}.Transport()
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	if name, err := ask(client, server.URL); name != "one" || err != nil {
		t.Fatalf("got %q, %v", name, err)
	}
	certtest.Copy(t, certtest.New(t).File, first.File)
	if name, err := ask(client, server.URL); err == nil {
		t.Errorf("whom nobody trusts any more answers %q", name)
	}
}

// TestFilesAreReadOnce: requests read files that nobody has written since no more.
func TestFilesAreReadOnce(t *testing.T) {
	server, authority := newMutual(t), certtest.New(t)
	server.trust(t, authority)
	server.StartTLS()
	pair := authority.Issue(t, "one")
	transport, err := TLS{Enabled: true, CA: authority.File, Cert: pair.Cert, Key: pair.Key, ServerName: "broker.test"}.Transport()
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	at := time.Now().Add(-time.Hour)
	date := func(at time.Time) {
		t.Helper()
		for _, path := range []string{authority.File, pair.Cert, pair.Key} {
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	answer := func(want error) {
		t.Helper()
		if name, err := ask(client, server.URL); !errors.Is(err, want) || err == nil && name != "one" {
			t.Errorf("got %q, %v", name, err)
		}
	}
	date(at)
	answer(nil)
	info, err := os.Stat(pair.Cert)
	if err == nil {
		err = os.WriteFile(pair.Cert, make([]byte, info.Size()), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	date(at) // nobody can see that it was written
	answer(nil)
	date(at.Add(time.Minute))
	answer(ErrTLSFiles)
	answer(ErrTLSFiles)
	authority.Issue(t, "one").Replace(t, pair)
	date(at.Add(2 * time.Minute))
	answer(nil)
	if err := os.Remove(pair.Key); err != nil {
		t.Fatal(err)
	}
	answer(ErrTLSFiles)
}

func TestTLSRefusals(t *testing.T) {
	server, authority := newMutual(t), certtest.New(t)
	server.trust(t, authority)
	server.StartTLS()
	pair := authority.Issue(t, "one")
	good := TLS{Enabled: true, CA: authority.File, Cert: pair.Cert, Key: pair.Key, ServerName: "broker.test"}
	get := func(c TLS) (string, error) {
		client, err := overDialer(t, c)
		if err != nil {
			return "", err
		}
		return ask(client, server.URL)
	}
	refused := func(change func(*TLS), want string) {
		t.Helper()
		c := good
		change(&c)
		if _, err := get(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want error with %q", err, want)
		}
	}
	refused(func(c *TLS) { c.ServerName = "other.test" }, "other.test")
	refused(func(c *TLS) { c.ServerName = "" }, "127.0.0.1") // of the address that is dialled
	refused(func(c *TLS) { c.CA = "" }, "unknown authority")
	refused(func(c *TLS) { c.CA = "/absent.pem" }, "absent.pem")
	refused(func(c *TLS) { c.CA = pair.Key }, "no PEM certificate")
	refused(func(c *TLS) { c.Key = authority.Issue(t, "two").Key }, "read client certificate")
	insecure := good
	insecure.CA, insecure.ServerName, insecure.InsecureSkipVerify = "", "other.test", true
	if name, err := get(insecure); err != nil || name != "one" {
		t.Errorf("insecure_skip_verify: got %q, %v", name, err)
	}
	if dial, err := (TLS{}).Dialer(nil); dial != nil || err != nil {
		t.Errorf("not enabled: %v", err)
	}
	if _, err := (TLS{Enabled: true, CA: "/absent.pem"}).Transport(); !errors.Is(err, ErrTLSFiles) {
		t.Errorf("HTTP without its file: %v", err)
	}
}
