package config

import (
	"strings"
	"testing"
)

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
	faulty(Registry{URL: "http://localhost", TLS: TLS{Enabled: true}}, "url")
	faulty(Registry{URL: "https://localhost", TLS: TLS{Enabled: true}}, "")
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
