package kafka

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/sasl"
	saslbearer "github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/oauth"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// SASL is a login at the brokers; with mechanism "" there is none.
type SASL struct {
	Mechanism  string        `mapstructure:"mechanism" default:"" oneof:",plain,scram-sha-256,scram-sha-512,oauthbearer" doc:"How to log in; empty: not at all. plain shows the password to whoever reads the connection, and oauthbearer the token: use them with TLS."`
	Username   string        `mapstructure:"username" default:"" doc:"User, of plain and scram."`
	Password   config.Secret `mapstructure:"password" default:"" doc:"Password; file:/path or env:NAME to keep it elsewhere. Read at each login, so that a changed one is taken up."`
	Token      config.Secret `mapstructure:"token" default:"" doc:"Token of oauthbearer, where something else keeps it fresh: file:/path, as Kubernetes projects one. Read at each login, so that a changed one is taken up."`
	OAuth      oauth.Grant   `mapstructure:"oauth" doc:"Where oauthbearer gets its tokens, if there is no file of one: the identity provider, which gives them for client credentials. Each is used for four fifths of its time."`
	Extensions []string      `mapstructure:"extensions" default:"" doc:"What oauthbearer tells the broker besides, each as name=value, where it wants that: logicalCluster=lkc-1 and identityPoolId=pool-1 at Confluent Cloud."`
}

const oauthbearer = "oauthbearer"

// Check wants what the mechanism needs and nothing that it does not look at.
func (s SASL) Check() []config.Fault {
	password, token := s.Username != "" || s.Password != "", s.Token != "" || s.OAuth.TokenURL != ""
	switch {
	case s.Mechanism == "" && password:
		return []config.Fault{{Path: "mechanism", Message: "missing, so username and password have no effect; write scram-sha-512"}}
	case s.Mechanism != oauthbearer && (token || len(s.Extensions) > 0):
		return []config.Fault{{Path: "mechanism", Value: s.Mechanism, Message: "uses no token, so token, oauth and extensions have no effect; write oauthbearer"}}
	case s.Mechanism == "":
		return nil
	case s.Mechanism != oauthbearer:
		if s.Username == "" || s.Password == "" {
			return []config.Fault{{Path: "mechanism", Message: "needs username and password"}}
		}
		return nil
	case password:
		return []config.Fault{{Path: "mechanism", Value: s.Mechanism, Message: "uses a token, so username and password have no effect; write token, or oauth with token_url, client_id and client_secret"}}
	case !token:
		return []config.Fault{{Path: "mechanism", Message: "needs token: file:/path, or oauth with token_url, client_id and client_secret"}}
	case s.Token != "" && s.OAuth.TokenURL != "":
		return []config.Fault{{Path: "token", Message: "stands beside oauth.token_url; give one of the two"}}
	}
	_, faults := s.extensions()
	return faults
}

// Names and values of extensions (RFC 7628, 3.1). The token itself is the value of auth.
var (
	extensionName  = regexp.MustCompile(`^[A-Za-z]+$`)
	extensionValue = regexp.MustCompile(`^[\x20-\x7e]+$`)
)

func (s SASL) extensions() (named map[string]string, faults []config.Fault) {
	named = map[string]string{}
	for i, e := range s.Extensions {
		name, value, _ := strings.Cut(e, "=")
		_, twice := named[name]
		if !extensionName.MatchString(name) || !extensionValue.MatchString(value) || name == "auth" || twice {
			faults = append(faults, config.Fault{Path: fmt.Sprintf("extensions[%d]", i), Value: e, Message: "not name=value with a name of letters, each once; write logicalCluster=lkc-1"})
		}
		named[name] = value
	}
	return named, faults
}

// mechanism makes what logs in. What the configuration refers to is read once, so that what is missing is found at the
// start, and then at each login.
func (s SASL) mechanism() (sasl.Mechanism, error) {
	if s.Mechanism == oauthbearer {
		return s.bearer()
	}
	password := func() (string, error) {
		text, err := s.Password.Reveal()
		if err == nil && text == "" { // which the client would not send
			err = errors.New("it is empty")
		}
		if err != nil {
			return "", &trouble.Error{Code: trouble.KafkaAuth, Op: "read", Subject: "kafka.sasl.password", Cause: err, Hint: "see to what kafka.sasl.password refers to; it is read again at each login, without a restart"}
		}
		return text, nil
	}
	if _, err := password(); err != nil {
		return nil, err
	}
	asScram := func(context.Context) (scram.Auth, error) {
		text, err := password()
		return scram.Auth{User: s.Username, Pass: text}, err
	}
	switch s.Mechanism {
	case "plain":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			text, err := password()
			return plain.Auth{User: s.Username, Pass: text}, err
		}), nil
	case "scram-sha-256":
		return scram.Sha256(asScram), nil
	case "scram-sha-512":
		return scram.Sha512(asScram), nil
	}
	return nil, fmt.Errorf("configure login at Kafka: unknown mechanism %q", s.Mechanism)
}

func (s SASL) bearer() (*bearer, error) {
	source, err := oauth.New(s.Token, s.OAuth, oauth.For{Keys: "kafka.sasl", Refused: trouble.KafkaAuth})
	if err != nil {
		return nil, err
	}
	extensions, _ := s.extensions() // Check has seen them
	return &bearer{source, extensions}, nil
}

// subject is whom the token stands for: the brokers' user, unless they look at another claim.
func (s SASL) subject() string {
	if b, err := s.bearer(); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
		defer cancel()
		if token, err := b.source.Token(ctx); err == nil && oauth.Subject(token) != "" {
			return oauth.Subject(token)
		}
	}
	if s.OAuth.ClientID != "" {
		return s.OAuth.ClientID
	}
	return "…"
}

// bearer is OAUTHBEARER (RFC 7628). franz-go's ends without an answer where a broker refuses the token, so that neither side
// learns of a refused login: its session is ours.
type bearer struct {
	source     *oauth.Source
	extensions map[string]string
}

func (b *bearer) Name() string { return "OAUTHBEARER" }

func (b *bearer) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	token, err := b.source.Token(ctx)
	if err != nil {
		return nil, nil, err
	}
	_, first, err := saslbearer.Auth{Token: token, Extensions: b.extensions}.AsMechanism().Authenticate(ctx, host)
	return &bearerSession{forget: func() { b.source.Forget(token) }}, first, err
}

type bearerSession struct {
	forget  func() // the token
	refused bool
}

// Challenge gets nothing where the token is taken. Where it is not, the broker says why, waits for an answer without meaning,
// and then ends the login with an error that says it again (RFC 7628, 3.2.3).
func (s *bearerSession) Challenge(why []byte) (done bool, answer []byte, err error) {
	switch {
	case len(why) == 0 && !s.refused:
		return true, nil, nil
	case s.refused:
		return false, nil, kerr.SaslAuthenticationFailed
	}
	s.refused = true
	s.forget()
	return false, []byte{1}, nil
}
