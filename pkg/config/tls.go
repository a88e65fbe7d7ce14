package config

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// TLS says how a client proves itself and whom it trusts. The zero value is "no TLS".
type TLS struct {
	Enabled            bool   `mapstructure:"enabled" default:"false" doc:"Speak TLS. Without further keys the system's certificate authorities are trusted."`
	CA                 string `mapstructure:"ca" default:"" doc:"PEM file with the certificate authorities to trust instead of the system's; read again for each connection."`
	Cert               string `mapstructure:"cert" default:"" doc:"PEM file with the client's certificate (mutual TLS); read again at each handshake."`
	Key                string `mapstructure:"key" default:"" doc:"PEM file with the key of the client's certificate; read again at each handshake."`
	ServerName         string `mapstructure:"server_name" default:"" doc:"Name that the server's certificate must bear, where it is not the host's."`
	InsecureSkipVerify bool   `mapstructure:"insecure_skip_verify" default:"false" doc:"Do not check the server's certificate: anybody on the way can read and change everything."`
}

// ErrTLSFiles says that a file of TLS cannot be read, or that certificate and key do not fit each other: it may be being replaced.
var ErrTLSFiles = errors.New("a file of TLS cannot be used")

// Check refuses halves of a pair and keys that would have no effect.
func (t TLS) Check() []Fault {
	var faults []Fault
	if (t.Cert == "") != (t.Key == "") {
		faults = append(faults, Fault{Path: "cert", Message: "cert and key belong together: give both or none"})
	}
	if !t.Enabled && (t.CA != "" || t.Cert != "" || t.ServerName != "" || t.InsecureSkipVerify) {
		faults = append(faults, Fault{Path: "enabled", Message: "TLS is configured but not enabled; write enabled: true"})
	}
	return faults
}

// Dialer gives what connects with d and shakes hands with the files as they are then, so that renewed ones are taken up; nil where
// TLS is not enabled. They are read here, too, so that a missing one is found at the start. Errors: ErrTLSFiles.
func (t TLS) Dialer(d *net.Dialer) (func(ctx context.Context, network, address string) (net.Conn, error), error) {
	if _, _, err := t.read(); err != nil || !t.Enabled {
		return nil, err
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		cfg, _, err := t.read()
		if err != nil {
			return nil, err
		}
		return (&tls.Dialer{NetDialer: d, Config: cfg}).DialContext(ctx, network, address)
	}, nil
}

// Transport gives what speaks HTTP, over TLS as t says where that is enabled. As with a Dialer, renewed files are taken up; with other
// authorities no connection of before is used any more. Errors, also of requests: ErrTLSFiles.
func (t TLS) Transport() (http.RoundTripper, error) {
	r := &transport{tls: t}
	_, err := r.current()
	return r, err
}

// transport makes its connections anew when the authorities have changed.
type transport struct {
	tls TLS

	mu   sync.Mutex
	http *http.Transport
	ca   []byte        // what the file of authorities held when http was made
	read []fs.FileInfo // the files as they were when they were read last
}

// RoundTrip implements http.RoundTripper.
func (r *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	now, err := r.current()
	if err != nil {
		if request.Body != nil {
			_ = request.Body.Close() // a RoundTripper has to
		}
		return nil, err
	}
	return now.RoundTrip(request)
}

// CloseIdleConnections is what http.Client calls by this name.
func (r *transport) CloseIdleConnections() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.http.CloseIdleConnections()
}

func (r *transport) current() (*http.Transport, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	files := r.tls.files()
	if r.http != nil && files != nil && slices.EqualFunc(files, r.read, sameFile) {
		return r.http, nil
	}
	cfg, ca, err := r.tls.read()
	if err != nil {
		return nil, err
	}
	r.read = files
	if r.http != nil && bytes.Equal(ca, r.ca) {
		return r.http, nil
	}
	if r.http != nil {
		r.http.CloseIdleConnections()
	}
	r.http, r.ca = http.DefaultTransport.(*http.Transport).Clone(), ca
	r.http.TLSClientConfig = cfg
	return r.http, nil
}

// young is a file that somebody may write once more without its time telling so.
const young = 2 * time.Second

// files gives what is to be known of the files to see later whether they were written; nil where that would not be seen, or one is not there.
func (t TLS) files() []fs.FileInfo {
	var list []fs.FileInfo
	for _, path := range []string{t.CA, t.Cert, t.Key} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil || time.Since(info.ModTime()) < young {
			return nil
		}
		list = append(list, info)
	}
	return list
}

func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// read gives what crypto/tls needs, nil where TLS is not enabled, and what the file of authorities holds now. The client's
// certificate is read now and again at each handshake.
func (t TLS) read() (cfg *tls.Config, ca []byte, err error) {
	if !t.Enabled {
		return nil, nil, nil
	}
	cfg = &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.InsecureSkipVerify, //nolint:gosec // asked for by name in the configuration
	}
	if t.CA != "" {
		if ca, err = os.ReadFile(t.CA); err != nil {
			return nil, nil, fmt.Errorf("%w: read certificate authorities: %w", ErrTLSFiles, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(ca) {
			return nil, nil, fmt.Errorf("%w: read certificate authorities: no PEM certificate in %q", ErrTLSFiles, t.CA)
		}
	}
	if t.Cert != "" {
		if _, err := t.clientCertificate(nil); err != nil {
			return nil, nil, err
		}
		cfg.GetClientCertificate = t.clientCertificate
	}
	return cfg, ca, nil
}

func (t TLS) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: read client certificate: %w", ErrTLSFiles, err)
	}
	return &pair, nil
}
