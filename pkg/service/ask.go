package service

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// askTimeout bounds how long the service, which is near, may take to answer.
const askTimeout = 2 * time.Second

// LocalURL is where a service with this configuration answers on this host.
func LocalURL(cfg config.HTTP) string {
	host, port, _ := net.SplitHostPort(cfg.Listen) // the configuration's check has split it
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme(cfg) + net.JoinHostPort(host, port)
}

func scheme(cfg config.HTTP) string {
	if cfg.TLS.Enabled() {
		return "https://"
	}
	return "http://"
}

// Fetch asks the service of this configuration on this host for path ("/status"), with its token, and gives its answer.
// What answers has to have the certificate of the configuration, whatever name that bears: this host is asked by its
// address. An answer other than 200 is an error that says what it says.
func Fetch(ctx context.Context, cfg config.HTTP, path string) ([]byte, error) {
	return fetch(ctx, LocalURL(cfg), cfg, path)
}

func fetch(ctx context.Context, url string, cfg config.HTTP, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+path, nil)
	if err != nil {
		return nil, err
	}
	token, err := cfg.Token.Reveal()
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if url == LocalURL(cfg) && cfg.TLS.Enabled() {
		if transport.TLSClientConfig, err = pinned(cfg.TLS); err != nil {
			return nil, err
		}
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		if inner := errors.Unwrap(err); inner != nil {
			err = inner // without the URL, which the caller tells
		}
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		says, _, _ := strings.Cut(string(answer), "\n")
		return nil, errors.New(strings.TrimSuffix(response.Status+": "+says, ": "))
	}
	return answer, nil
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// Ask is Fetch that decodes the answer from JSON into out; with out nil only the answer's status counts.
func Ask(ctx context.Context, cfg config.HTTP, path string, out any) error {
	return AskAt(ctx, LocalURL(cfg), cfg, path, out)
}

// AskAt is Ask of the service at an address that need not be of this host: then the system's certificate authorities are
// trusted.
func AskAt(ctx context.Context, url string, cfg config.HTTP, path string, out any) error {
	answer, err := fetch(ctx, url, cfg, path)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("its answer is no status: %w", err)
	}
	return nil
}

// pinned trusts the certificate in the file and no other.
func pinned(cfg config.ServeTLS) (*tls.Config, error) {
	ours, err := cfg.Certificate()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // VerifyPeerCertificate wants more than a name
		VerifyPeerCertificate: func(given [][]byte, _ [][]*x509.Certificate) error {
			if len(given) == 0 || !bytes.Equal(given[0], ours.Certificate[0]) {
				return errors.New("another certificate than http.tls.cert")
			}
			return nil
		},
	}, nil
}
