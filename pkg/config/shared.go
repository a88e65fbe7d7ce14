package config

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
)

// Registry says where the schema registry is.
type Registry struct {
	URL      string `mapstructure:"url" required:"true" doc:"Address of the Confluent-compatible schema registry, like http://localhost:8081."`
	TLS      TLS    `mapstructure:"tls" doc:"TLS to the registry; an https URL alone is enough where the system's certificate authorities do."`
	Username string `mapstructure:"username" default:"" doc:"User for basic authentication."`
	Password Secret `mapstructure:"password" default:"" doc:"Password for basic authentication; file:/path or env:NAME to keep it elsewhere."`
}

// Check wants an http or https address without a password in it.
func (r Registry) Check() []Fault {
	if r.URL == "" {
		return nil // reported as missing
	}
	u, err := url.Parse(r.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return []Fault{{Path: "url", Message: "not an http or https address; write http://localhost:8081"}}
	case u.User != nil:
		return []Fault{{Path: "url", Message: "holds a user or password; write username and password"}}
	case u.Scheme == "http" && r.TLS.Enabled:
		return []Fault{{Path: "url", Message: "is asked without TLS, though tls is enabled; write https://"}}
	}
	return nil
}

// HTTP says where a service answers.
type HTTP struct {
	Listen string   `mapstructure:"listen" default:"127.0.0.1:9191" doc:"Address for metrics, health and status. The default is reachable from this host only; port 0 takes a free one."`
	Token  Secret   `mapstructure:"token" default:"" doc:"Token wanted as Bearer, or as the password of Basic authentication, for everything but /healthz and /readyz; file:/path or env:NAME to keep it elsewhere. A changed file is taken up within a second."`
	Hosts  []string `mapstructure:"hosts" default:"" doc:"Names, besides localhost, under which a browser may ask for the pages while the address is a loopback one."`
	TLS    ServeTLS `mapstructure:"tls" doc:"Answer over TLS alone."`
	Show   string   `mapstructure:"show" default:"none" oneof:"none,keys,values" doc:"What of rows the pages and /status show: none: names of columns alone; keys: the key of a row that an error is about; values: also the values in the live changes on the page of a table. Both want a token."`
}

// ShowsKeys says whether the key of a row may be shown.
func (h HTTP) ShowsKeys() bool { return h.shows() && h.Token != "" }

func (h HTTP) shows() bool { return h.Show == "keys" || h.Show == "values" }

// ShowsValues says whether all values of a row may be.
func (h HTTP) ShowsValues() bool { return h.Show == "values" && h.Token != "" }

// Shown gives what pages and /status show of the configuration v that h is of: what Show gives, to whoever has the token, or, where
// there is none, to this host alone; "" else. A name in Hosts means that others get there, too.
func (h HTTP) Shown(v any) string {
	host, _, _ := net.SplitHostPort(h.Listen) // Check has split it
	ip := net.ParseIP(host)
	if h.Token == "" && (len(h.Hosts) > 0 || host != "localhost" && (ip == nil || !ip.IsLoopback())) {
		return ""
	}
	return Show(v)
}

// ServeTLS is the certificate of a server; the zero value is "no TLS".
type ServeTLS struct {
	Cert string `mapstructure:"cert" default:"" doc:"PEM file with the certificate, those of authorities in between behind it; read again at each handshake."`
	Key  string `mapstructure:"key" default:"" doc:"PEM file with the certificate's key; read again at each handshake."`
}

// Check refuses half of a pair.
func (t ServeTLS) Check() []Fault {
	if (t.Cert == "") != (t.Key == "") {
		return []Fault{{Path: "cert", Message: "cert and key belong together: give both or none"}}
	}
	return nil
}

// Enabled says whether there is a certificate.
func (t ServeTLS) Enabled() bool { return t.Cert != "" }

// Certificate reads the files.
func (t ServeTLS) Certificate() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("read the server's certificate: %w", err)
	}
	return &pair, nil
}

// Check wants host:port.
func (h HTTP) Check() []Fault {
	if h.shows() && h.Token == "" {
		return []Fault{{Path: "show", Value: h.Show, Message: "wants a token: whoever reaches the address would read " + h.Show + " of rows; write token: file:/path beside it"}}
	}
	if _, _, err := net.SplitHostPort(h.Listen); err != nil {
		return []Fault{{Path: "listen", Value: h.Listen, Message: "not host:port; write 127.0.0.1:9191"}}
	}
	return nil
}

// Metrics says what a service tells Prometheus.
type Metrics struct {
	PerTable bool `mapstructure:"per_table" default:"true" doc:"A series for each table. Without it the tables of a source are told together, as table=\"\": the sum of counts, the worst of everything else."`
}

// Log says how a service talks.
type Log struct {
	Format string `mapstructure:"format" default:"text" oneof:"text,json" doc:"Form of the log lines on standard error."`
	Level  string `mapstructure:"level" default:"info" oneof:"debug,info,warn,error" doc:"Least important lines to write."`
}
