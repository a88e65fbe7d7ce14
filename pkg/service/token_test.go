package service

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/config"
)

func bearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

// forget gives every address all its tries back.
func (g *guesses) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until = nil
}

// TestTokenIsReplaced: a changed file counts without a restart; a missing or empty one opens nothing.
func TestTokenIsReplaced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	token, err := newToken(config.Secret("file:" + file))
	if err != nil {
		t.Fatal(err)
	}
	later := func() string {
		token.readAt = token.readAt.Add(-tokenAge)
		return token.now()
	}
	write("second\n")
	if got := token.now(); got != "first" {
		t.Errorf("read again at once: %q", got)
	}
	if got := later(); got != "second" {
		t.Errorf("got %q, want the new one", got)
	}
	write("")
	if got := later(); got != "second" {
		t.Errorf("an empty file gives %q", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := later(); got != "second" {
		t.Errorf("no file gives %q", got)
	}
	write("third")
	if got := later(); got != "third" {
		t.Errorf("got %q, want the newest", got)
	}
}

func TestServerTokenIsReplaced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := serve(t, config.HTTP{Listen: "127.0.0.1:0", Token: config.Secret("file:" + file)}, nil)
	if code, _ := get(t, s, "/status", bearer("first")); code != 200 {
		t.Fatalf("first token: %d", code)
	}
	if err := os.WriteFile(file, []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(tokenAge / 2) { // few wrong ones
		if code, _ := get(t, s, "/status", bearer("second")); code == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the new token is not taken up")
		}
	}
	if code, body := get(t, s, "/status", bearer("first")); code != 401 || body != "This page wants a token. Any user name, the token as password. It is configured as http.token.\n" {
		t.Errorf("the old token: %d, %q", code, body)
	}
}

// TestGuesses: who has tried guessBurst wrong tokens waits; others do not.
func TestGuesses(t *testing.T) {
	var g guesses
	now := time.Now()
	bad, good := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i := range guessBurst {
		if g.wait(bad, now) != 0 {
			t.Fatalf("no try left after %d", i)
		}
		if last := g.wrong(bad, now); last != (i == guessBurst-1) {
			t.Fatalf("try %d is the last: %t", i, last)
		}
	}
	if wait := g.wait(bad, now); wait <= 0 || wait > guessEvery {
		t.Errorf("waits %s", wait)
	}
	if g.wait(good, now) != 0 {
		t.Error("another address waits too")
	}
	now = now.Add(guessEvery)
	if g.wait(bad, now) != 0 {
		t.Error("it still waits")
	}
	if !g.wrong(bad, now) || g.wait(bad, now) == 0 {
		t.Error("it has more than one try")
	}
	for i := range maxGuessed + 100 { // memory is bounded
		g.wrong(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), now)
	}
	if len(g.until) > maxGuessed {
		t.Errorf("%d addresses are kept", len(g.until))
	}
}

func TestServerRefusesGuessing(t *testing.T) {
	var log bytes.Buffer
	s, stop := serve(t, config.HTTP{Listen: "127.0.0.1:0", Token: "right-one"}, func(s *Server) { s.log = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 3 * guessBurst { // a browser's first request has none, and does not count
		if code, _ := get(t, s, "/status", nil); code != 401 {
			t.Fatalf("without a token: %d", code)
		}
	}
	for i := range guessBurst {
		if code, _ := get(t, s, "/status", bearer(fmt.Sprintf("guess-%d", i))); code != 401 {
			t.Fatalf("guess %d: %d", i, code)
		}
	}
	for _, token := range []string{"guess", "right-one"} {
		if code, body := get(t, s, "/status", bearer(token)); code != 429 || strings.Contains(body, "right-one") {
			t.Errorf("%s: %d %s", token, code, body)
		}
	}
	if code, _ := get(t, s, "/healthz", nil); code != 200 {
		t.Errorf("/healthz: %d", code)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if text := log.String(); strings.Count(text, "too many wrong tokens") != 1 || strings.Contains(text, "guess-") {
		t.Errorf("log: %s", text)
	}
}

// TestServerTLS: pages over TLS alone, with a certificate that can be replaced; and Ask trusts just that one.
func TestServerTLS(t *testing.T) {
	authority := certtest.New(t)
	pair := authority.Issue(t, "tributary", "localhost")
	cfg := config.HTTP{Listen: "127.0.0.1:0", Token: "secret", TLS: config.ServeTLS{Cert: pair.Cert, Key: pair.Key}}
	s, _ := serve(t, cfg, nil)
	if !strings.HasPrefix(s.URL(), "https://127.0.0.1:") {
		t.Errorf("URL is %s", s.URL())
	}
	fetch := func() (serial string, err error) {
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS12},
		}}
		response, err := client.Get(s.URL() + "/healthz")
		if err != nil {
			return "", err
		}
		defer func() { _ = response.Body.Close() }()
		_, err = io.Copy(io.Discard, response.Body)
		return response.TLS.PeerCertificates[0].SerialNumber.String(), err
	}
	first, err := fetch()
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := get(t, s, "/healthz", nil); code != 400 { // plain HTTP
		t.Errorf("without TLS: %d", code)
	}
	cfg.Listen = s.Addr()
	var status map[string]string
	if err := Ask(t.Context(), cfg, "/status", &status); err != nil || status["state"] != "streaming" {
		t.Errorf("ask: %v, %v", status, err)
	}
	other := authority.Issue(t, "tributary", "localhost")
	wrong := cfg
	wrong.TLS = config.ServeTLS{Cert: other.Cert, Key: other.Key}
	if err := Ask(t.Context(), wrong, "/status", &status); err == nil || !strings.Contains(err.Error(), "another certificate") {
		t.Errorf("ask with another certificate: %v", err)
	}
	wrong = cfg
	wrong.Token = "wrong-token"
	if err := Ask(t.Context(), wrong, "/status", nil); err == nil || !strings.Contains(err.Error(), "401") || strings.Contains(err.Error(), "wrong-token") {
		t.Errorf("ask with another token: %v", err)
	}
	for from, to := range map[string]string{other.Cert: pair.Cert, other.Key: pair.Key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if second, err := fetch(); err != nil || second == first {
		t.Errorf("the certificate was not replaced: %v", err)
	}
	cfg.Listen = "127.0.0.1:0"
	cfg.TLS.Key = filepath.Join(t.TempDir(), "absent.pem")
	if err := NewServer("capture", cfg, slog.New(slog.DiscardHandler), nil).Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "absent.pem") {
		t.Errorf("listens without a key: %v", err)
	}
}

// TestServerWarnsOfOpenAddress: an address that others reach wants a token, and a token wants TLS.
func TestServerWarnsOfOpenAddress(t *testing.T) {
	pair := certtest.New(t).Issue(t, "tributary", "localhost")
	withTLS := config.ServeTLS{Cert: pair.Cert, Key: pair.Key}
	for _, c := range []struct {
		cfg  config.HTTP
		want string
	}{
		{config.HTTP{Listen: "127.0.0.1:0"}, ""},
		{config.HTTP{Listen: "[::1]:0"}, ""},
		{config.HTTP{Listen: ":0"}, "set http.token"},
		{config.HTTP{Listen: "0.0.0.0:0", TLS: withTLS}, "set http.token"},
		{config.HTTP{Listen: "0.0.0.0:0", Token: "t"}, "set http.tls"},
		{config.HTTP{Listen: "0.0.0.0:0", Token: "t", TLS: withTLS}, ""},
	} {
		var log bytes.Buffer
		s := NewServer("capture", c.cfg, slog.New(slog.NewTextHandler(&log, nil)), nil)
		if err := s.Listen(context.Background()); err != nil {
			if c.cfg.Listen == "[::1]:0" {
				continue // a machine without IPv6
			}
			t.Fatal(err)
		}
		_ = s.listener.Close()
		if got := log.String(); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%+v: logged %q, want %q", c.cfg, got, c.want)
		}
	}
}

func TestLocalURL(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:9191": "http://127.0.0.1:9191", ":9191": "http://127.0.0.1:9191", "0.0.0.0:1": "http://127.0.0.1:1",
		"[::]:9191": "http://127.0.0.1:9191", "[::1]:9191": "http://[::1]:9191", "db1:80": "http://db1:80",
	} {
		if got := LocalURL(config.HTTP{Listen: listen}); got != want {
			t.Errorf("%s: %s, want %s", listen, got, want)
		}
	}
	if got := LocalURL(config.HTTP{Listen: "127.0.0.1:1", TLS: config.ServeTLS{Cert: "a"}}); got != "https://127.0.0.1:1" {
		t.Errorf("with TLS: %s", got)
	}
}

// TestTokenStaysHome: the configuration's token goes to its own service and to nobody else in the clear.
func TestTokenStaysHome(t *testing.T) {
	s, _ := serve(t, config.HTTP{Listen: "127.0.0.1:0", Token: "secret"}, nil)
	_, port, _ := net.SplitHostPort(s.Addr())
	home, away := "http://127.0.0.1:"+port, "http://0.0.0.0:"+port // a client takes 0.0.0.0 for this host, too
	elsewhere := config.HTTP{Listen: "127.0.0.1:1", Token: "secret"}
	for _, c := range []struct {
		whom Whom
		cfg  config.HTTP
		sent bool
	}{
		{Whom{}, config.HTTP{Listen: s.Addr(), Token: "secret"}, true},
		{Whom{URL: home}, elsewhere, true},
		{Whom{URL: "http://localhost:" + port}, elsewhere, true},
		{Whom{URL: away}, elsewhere, false},
		{Whom{URL: away, SendToken: true}, elsewhere, true},
	} {
		err := c.whom.Ask(t.Context(), c.cfg, "/status", nil)
		if c.sent && err != nil || !c.sent && (err == nil || !strings.Contains(err.Error(), "was not sent")) {
			t.Errorf("%+v: %v", c.whom, err)
		}
	}
	for at, want := range map[string]bool{"https://db1:9191": true, "http://db1:9191": true, "http://db1:9192": false, "http://db2:9191": false, "http://127.0.0.1.evil:9191": false} {
		u, err := url.Parse(at)
		if err != nil {
			t.Fatal(err)
		}
		if got := (Whom{}).trusted(u, config.HTTP{Listen: "db1:9191"}); got != want {
			t.Errorf("%s: trusted %t", at, got)
		}
	}
	// Who answers cannot send it on.
	asked := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer other.Close()
	sends := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer sends.Close()
	if err := (Whom{URL: sends.URL}).Ask(t.Context(), elsewhere, "/status", nil); err == nil || !strings.Contains(err.Error(), "302") || asked {
		t.Errorf("redirected: %v, asked %t", err, asked)
	}
	if got := (Whom{URL: "http://u:hidden@db1:1/"}).Address(elsewhere); strings.Contains(got, "hidden") {
		t.Errorf("address %s", got)
	}
}
