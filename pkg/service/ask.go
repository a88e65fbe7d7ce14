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

// Ask asks the service of this configuration on this host for path ("/status"), with its token, and decodes the answer
// from JSON into out; with out nil only the answer's status counts. What answers has to have the certificate of the
// configuration, whatever name that bears: this host is asked by its address.
func Ask(ctx context.Context, cfg config.HTTP, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, LocalURL(cfg)+path, nil)
	if err != nil {
		return err
	}
	token, err := cfg.Token.Reveal()
	if err != nil {
		return err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if cfg.TLS.Enabled() {
		if transport.TLSClientConfig, err = pinned(cfg.TLS); err != nil {
			return err
		}
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		if inner := errors.Unwrap(err); inner != nil {
			err = inner // without the URL, which the caller tells
		}
		return err
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	if out == nil {
		_, err = io.Copy(io.Discard, response.Body)
		return err
	}
	if err := json.NewDecoder(response.Body).Decode(out); err != nil {
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
