package service

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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
	return Whom{}.fetch(ctx, cfg, path)
}

// Whom says which service is asked. The zero value is the one of the configuration, on this host.
type Whom struct {
	URL       string // of another, or another address of the same; then the system's certificate authorities are trusted
	Direct    bool   // none: a verb looks at what the service works on instead
	SendToken bool   // the configuration's token goes to URL whoever answers there
	Steady    bool   // what /status says is for somebody who looks at it again and again: see Steady
}

// Address is where it answers, as texts may name it.
func (w Whom) Address(cfg config.HTTP) string {
	if w.URL == "" {
		return LocalURL(cfg)
	}
	at, err := url.Parse(w.URL)
	if err != nil {
		return "no address" // which may hold a password all the same
	}
	return at.Redacted()
}

// trusted says whether who answers at an address may see the configuration's token: the service that it is of, and who is
// on this host or has shown a certificate. To anybody else it would go in the clear, and an address is easily mistyped.
func (w Whom) trusted(at *url.URL, cfg config.HTTP) bool {
	ours, err := url.Parse(LocalURL(cfg))
	ip := net.ParseIP(at.Hostname())
	return w.SendToken || at.Scheme == "https" || err == nil && at.Host == ours.Host || ip != nil && ip.IsLoopback() || at.Hostname() == "localhost"
}

func (w Whom) fetch(ctx context.Context, cfg config.HTTP, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	at := cmp.Or(w.URL, LocalURL(cfg))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(at, "/")+path, nil)
	if err != nil {
		return nil, withoutURL(err)
	}
	token, err := cfg.Token.Reveal()
	if err != nil {
		return nil, err
	}
	kept := token != "" && !w.trusted(request.URL, cfg)
	if token != "" && !kept {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if at == LocalURL(cfg) && cfg.TLS.Enabled() {
		if transport.TLSClientConfig, err = pinned(cfg.TLS); err != nil {
			return nil, err
		}
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // our services send nobody elsewhere, least of all with a token
	}}
	response, err := client.Do(request)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		says, _, _ := strings.Cut(string(answer), "\n")
		says = strings.TrimSuffix(response.Status+": "+says, ": ")
		if kept && response.StatusCode == http.StatusUnauthorized {
			says += " The token of the configuration was not sent: it goes to http.listen, to this host and over https:// alone, or with --send-token."
		}
		return nil, errors.New(says)
	}
	return answer, nil
}

// withoutURL gives an error of a request without its URL, which the caller tells as people may see it.
func withoutURL(err error) error {
	if of, is := errors.AsType[*url.Error](err); is {
		return of.Err
	}
	return err
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// Ask is Fetch that decodes the answer from JSON into out; with out nil only the answer's status counts.
func Ask(ctx context.Context, cfg config.HTTP, path string, out any) error {
	return Whom{}.Ask(ctx, cfg, path, out)
}

// Ask is Ask of the service that w names.
func (w Whom) Ask(ctx context.Context, cfg config.HTTP, path string, out any) error {
	if w.Steady {
		path += "?steady=1"
	}
	answer, err := w.fetch(ctx, cfg, path)
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
