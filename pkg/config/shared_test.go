package config

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writePair writes a self-signed certificate for name, and its key, and gives the certificate.
func writePair(t *testing.T, certFile, keyFile, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestTLSMutual talks to a server that wants a client certificate, and replaces that certificate in between.
func TestTLSMutual(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	writePair(t, file("server.pem"), file("server.key"), "broker.test")
	writePair(t, file("client.pem"), file("client.key"), "first")
	pair, err := tls.LoadX509KeyPair(file("server.pem"), file("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()

	get := func(c TLS) (string, error) {
		cfg, err := c.Config()
		if err != nil {
			return "", err
		}
		conn, err := tls.Dial("tcp", server.Listener.Addr().String(), cfg)
		if err != nil {
			return "", err
		}
		client := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		}}
		response, err := client.Get("http://broker.test/")
		if err != nil {
			return "", err
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	good := TLS{
		Enabled: true, CA: file("server.pem"), Cert: file("client.pem"), Key: file("client.key"), ServerName: "broker.test",
	}
	if name, err := get(good); err != nil || name != "first" {
		t.Fatalf("got %q, %v", name, err)
	}
	writePair(t, file("client.pem"), file("client.key"), "rotated")
	if name, err := get(good); err != nil || name != "rotated" {
		t.Errorf("after the certificate was replaced: got %q, %v", name, err)
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
	refused(func(c *TLS) { c.CA = "" }, "unknown authority")
	refused(func(c *TLS) { c.CA = file("absent.pem") }, "absent.pem")
	refused(func(c *TLS) { c.CA = file("client.key") }, "no PEM certificate")
	refused(func(c *TLS) { c.Key = file("server.key") }, "read client certificate")
	insecure := good
	insecure.CA, insecure.ServerName, insecure.InsecureSkipVerify = "", "other.test", true
	if name, err := get(insecure); err != nil || name != "rotated" {
		t.Errorf("insecure_skip_verify: got %q, %v", name, err)
	}
	if cfg, err := (TLS{}).Config(); cfg != nil || err != nil {
		t.Errorf("not enabled: got %v, %v", cfg, err)
	}
}

func TestSharedChecks(t *testing.T) {
	faulty := func(c Checker, path string) {
		t.Helper()
		var got []string
		for _, f := range c.Check() {
			got = append(got, f.Path)
		}
		if strings.Join(got, " ") != path {
			t.Errorf("%#v: faults at %v, want %q", c, got, path)
		}
	}
	faulty(TLS{}, "")
	faulty(TLS{Enabled: true, Cert: "a", Key: "b"}, "")
	faulty(TLS{Enabled: true, Cert: "a"}, "cert")
	faulty(TLS{CA: "a"}, "enabled")
	faulty(Registry{URL: "http://localhost:8081"}, "")
	faulty(Registry{URL: "https://registry/path"}, "")
	faulty(Registry{URL: "localhost:8081"}, "url")
	faulty(Registry{URL: "ftp://localhost"}, "url")
	faulty(Registry{URL: "http://user:pass@localhost"}, "url")
	faulty(HTTP{Listen: ":0"}, "")
	faulty(HTTP{Listen: "9191"}, "listen")
	faulty(HTTP{Listen: ":0", Show: "keys", Token: "t"}, "")
	if h := (HTTP{Show: "values", Token: "t"}); !h.ShowsKeys() || !h.ShowsValues() || (HTTP{Show: "keys", Token: "t"}).ShowsValues() || (HTTP{Show: "values"}).ShowsValues() {
		t.Error("what is shown is not what was asked for")
	}
	faulty(HTTP{Listen: ":0", Show: "keys"}, "show")
	faulty(ServeTLS{}, "")
	faulty(ServeTLS{Cert: "a", Key: "b"}, "")
	faulty(ServeTLS{Key: "b"}, "cert")
}

// The configuration is shown without its secrets, and only to who has the token or is on this host.
func TestConfigurationIsShownToFew(t *testing.T) {
	type settings struct {
		DSN  Secret `mapstructure:"dsn" required:"true" doc:"."`
		HTTP HTTP   `mapstructure:"http" doc:"."`
	}
	for _, one := range []struct {
		http HTTP
		want bool
	}{
		{HTTP{Listen: "127.0.0.1:9191"}, true},
		{HTTP{Listen: "[::1]:9191"}, true},
		{HTTP{Listen: "localhost:0"}, true},
		{HTTP{Listen: "127.0.0.1:9191", Hosts: []string{"tributary.example"}}, false}, // a proxy stands before it
		{HTTP{Listen: ":9191"}, false},
		{HTTP{Listen: "0.0.0.0:9191"}, false},
		{HTTP{Listen: "db1:9191"}, false},
		{HTTP{Listen: "0.0.0.0:9191", Token: "geheim"}, true},
	} {
		got := one.http.Shown(&settings{DSN: "postgres://u:geheim@h/d", HTTP: one.http})
		if (got != "") != one.want || strings.Contains(got, "geheim") || one.want && !strings.Contains(got, "dsn: '***'") {
			t.Errorf("%+v: %q", one.http, got)
		}
	}
}
