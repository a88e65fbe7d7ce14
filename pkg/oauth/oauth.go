// Package oauth gets the tokens by which a service logs in where an identity provider says who is who: from a file that
// somebody else keeps fresh, or from the provider itself, by the grant for programs (client credentials, RFC 6749, 4.4).
// How a token is shown to whom it is for is the business of that one's client.
package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Grant says how to ask an identity provider for tokens. The zero value is "not at all".
type Grant struct {
	TokenURL     string        `mapstructure:"token_url" default:"" doc:"Address at which the identity provider gives tokens for client credentials, like https://id.example.com/oauth2/token."`
	ClientID     string        `mapstructure:"client_id" default:"" doc:"Name of this service at the identity provider."`
	ClientSecret config.Secret `mapstructure:"client_secret" default:"" doc:"Its secret; file:/path or env:NAME to keep it elsewhere. Read each time a token is asked for, so that a changed one is taken up."`
	Scope        string        `mapstructure:"scope" default:"" doc:"Scopes to ask for, separated by spaces, where the identity provider wants to be told."`
	TLS          config.TLS    `mapstructure:"tls" doc:"TLS to the identity provider; an https address alone is enough where the system's certificate authorities do."`
}

// Check wants all of it or nothing.
func (g Grant) Check() []config.Fault {
	if g.TokenURL == "" {
		if g.ClientID != "" || g.ClientSecret != "" || g.Scope != "" || g.TLS.Enabled {
			return []config.Fault{{Path: "token_url", Message: "missing, so the other keys have no effect; write https://id.example.com/oauth2/token"}}
		}
		return nil
	}
	var faults []config.Fault
	u, err := url.Parse(g.TokenURL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		faults = append(faults, config.Fault{Path: "token_url", Message: "not an http or https address; write https://id.example.com/oauth2/token"})
	case u.User != nil:
		faults = append(faults, config.Fault{Path: "token_url", Message: "holds a user or password; write client_id and client_secret"})
	case u.Scheme == "http" && g.TLS.Enabled:
		faults = append(faults, config.Fault{Path: "token_url", Message: "is asked without TLS, though tls is enabled; write https://"})
	}
	if g.ClientID == "" || g.ClientSecret == "" {
		faults = append(faults, config.Fault{Path: "token_url", Message: "needs client_id and client_secret"})
	}
	return faults
}

// For says whom tokens are for.
type For struct {
	Keys    string       // of the configuration, below which token and oauth stand: kafka.sasl
	Refused trouble.Code // of what no waiting mends: a token that has expired, a secret that the provider does not take
}

// Source gives tokens. It is safe for concurrent use.
type Source struct {
	whom   For
	given  config.Secret // from a file; then there is no grant
	grant  clientcredentials.Config
	secret config.Secret
	client *http.Client

	mu    sync.Mutex
	token string    // of the grant, that is used until:
	until time.Time // some of its time is left then
}

// requestTimeout is how long one request for a token may take; the caller's context may allow less.
const requestTimeout = 10 * time.Second

// New makes a source of the given token, or, where that is "", of the grant. It does no I/O but to read what the
// configuration refers to, so that what is missing is found at the start.
func New(given config.Secret, g Grant, whom For) (*Source, error) {
	s := &Source{whom: whom, given: given, secret: g.ClientSecret}
	if given != "" {
		_, err := s.read()
		return s, err
	}
	if _, err := s.reveal(".oauth.client_secret", s.secret); err != nil {
		return nil, err
	}
	transport, err := g.TLS.Transport()
	if err != nil {
		return nil, &trouble.Error{Code: trouble.Config, Op: "read", Subject: whom.Keys + ".oauth.tls", Cause: err}
	}
	s.client = &http.Client{
		Timeout: requestTimeout, Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the secret is for nobody else
	}
	s.grant = clientcredentials.Config{ClientID: g.ClientID, TokenURL: g.TokenURL, Scopes: strings.Fields(g.Scope)}
	return s, nil
}

// Token gives one that is valid for a while. The error is a trouble: a provider that does not answer is trouble.IdentityUnreachable.
func (s *Source) Token(ctx context.Context) (string, error) {
	if s.given != "" {
		return s.read()
	}
	s.mu.Lock() // while one asks, the others wait for what it gets
	defer s.mu.Unlock()
	if s.token != "" && time.Now().Before(s.until) {
		return s.token, nil
	}
	asked := time.Now()
	token, expires, err := s.ask(ctx)
	if err != nil {
		return "", err
	}
	// Whoever is logged in has to show a new one shortly before the old one's end (Kafka's clients after 95 % of its time):
	// by then there must be one.
	s.token, s.until = token, asked.Add(expires.Sub(asked)*8/10)
	return token, nil
}

// Forget has the next Token be another one: somebody has refused this one.
func (s *Source) Forget(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == token {
		s.token = ""
	}
}

// skew is how far clocks may be apart: a token whose time has been up for longer is not shown to anybody.
const skew = time.Minute

// bearer is the form of a token (RFC 6750, 2.1).
var bearer = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// read gives the token of the configuration, as its file holds it now.
func (s *Source) read() (string, error) {
	key := s.whom.Keys + ".token"
	token, err := s.reveal(".token", s.given)
	if err != nil {
		return "", err
	}
	token = strings.TrimSpace(token)
	if !bearer.MatchString(token) {
		return "", &trouble.Error{
			Code: s.whom.Refused, Op: "read", Subject: key, Cause: errors.New("what is there is no token"),
			Hint: "it must hold the token alone, as the identity provider gives it (access_token), without quotes or the word Bearer",
		}
	}
	if c := read(token); !c.expires.IsZero() && time.Since(c.expires) > skew {
		return "", &trouble.Error{
			Code: s.whom.Refused, Op: "read", Subject: key, Cause: fmt.Errorf("the token has expired at %s", c.expires.UTC().Format(time.RFC3339)),
			Hint: "whatever keeps the token fresh has not put a new one there: see to it; it is read again at each login, without a restart",
		}
	}
	return token, nil
}

func (s *Source) reveal(below string, secret config.Secret) (string, error) {
	text, err := secret.Reveal()
	if err == nil && text == "" {
		err = errors.New("nothing is there")
	}
	if err != nil {
		key := s.whom.Keys + below
		return "", &trouble.Error{Code: s.whom.Refused, Op: "read", Subject: key, Cause: err, Hint: "see to what " + key + " refers to; it is read again at each login, without a restart"}
	}
	return text, nil
}

// ask gets a token from the identity provider. Of one that says nothing of its end, that is now.
func (s *Source) ask(ctx context.Context) (token string, expires time.Time, err error) {
	secret, err := s.reveal(".oauth.client_secret", s.secret)
	if err != nil {
		return "", time.Time{}, err
	}
	grant := &s.grant // it remembers in which way the provider takes the secret
	grant.ClientSecret = secret
	defer s.client.CloseIdleConnections() // a request an hour, and nobody closes a source
	got, err := grant.Token(context.WithValue(ctx, oauth2.HTTPClient, s.client))
	if err != nil {
		if ctx.Err() != nil {
			return "", time.Time{}, ctx.Err()
		}
		return "", time.Time{}, s.trouble(err, secret)
	}
	if !bearer.MatchString(got.AccessToken) {
		return "", time.Time{}, s.trouble(errors.New("what it gives is no token"), secret)
	}
	if got.Expiry.IsZero() {
		got.Expiry = read(got.AccessToken).expires
	}
	return got.AccessToken, got.Expiry, nil
}

// trouble tells why the identity provider gave no token. What it sends besides the error's code and description (RFC 6749, 5.2)
// is not repeated, and the secret is not even where it does.
func (s *Source) trouble(err error, secret string) *trouble.Error {
	keys := s.whom.Keys + ".oauth"
	t := &trouble.Error{
		Code: s.whom.Refused, Op: "ask for a token at", Subject: s.grant.TokenURL, Cause: err,
	}
	untrusted := retry.TLSHint(err, retry.TLSKeys{CA: keys + ".tls.ca", Name: keys + ".token_url and " + keys + ".tls.server_name", Client: keys + ".tls.cert and " + keys + ".tls.key"})
	answer, answered := errors.AsType[*oauth2.RetrieveError](err)
	switch {
	case untrusted != "":
		t.Hint = untrusted
	case answered:
		said := answer.Response.Status
		if answer.ErrorCode != "" {
			hidden := config.Secret(secret).String()
			without := strings.NewReplacer(secret, hidden, url.QueryEscape(secret), hidden)
			said = fmt.Sprintf("%s: %q %q", said, without.Replace(answer.ErrorCode), without.Replace(answer.ErrorDescription))
		}
		t.Cause = errors.New("the identity provider answers " + said)
		t.Hint = fmt.Sprintf("check %[1]s.token_url, %[1]s.client_id, %[1]s.client_secret and %[1]s.scope, and that the client may use the grant client_credentials", keys)
		if status := answer.Response.StatusCode; status >= http.StatusInternalServerError || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
			t.Code, t.Hint = trouble.IdentityUnreachable, "look after the identity provider: it is asked again until it answers"
		}
	case retry.Transient(err):
		t.Code, t.Hint = trouble.IdentityUnreachable, fmt.Sprintf("check %s.token_url, the network between, and that the identity provider runs", keys)
	default:
		t.Hint = fmt.Sprintf("check %s.token_url: it must be the address that gives tokens", keys)
	}
	return t
}
