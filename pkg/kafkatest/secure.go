package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

// SecureCluster is an Apache Kafka as in production: one listener wants TLS and a login, one wants TLS and a token,
// one wants TLS with a client's certificate, whose subject (CN=name) is the user; and whatever no ACL allows is refused. Addrs is a listener for the test
// itself, who may do everything there.
type SecureCluster struct {
	*RealCluster
	admin *kadm.Client
}

type secured struct {
	dir                          string // of keystores and truststore
	issuer                       *issuer
	sasl, oauth, mutual, expired int
}

// Secure starts one for a test, with a certificate of the authority for the name localhost. It has no users: SetUser makes
// them. It is skipped where Real is.
func Secure(t testing.TB, authority *certtest.Authority) *SecureCluster {
	t.Helper()
	skipUnwanted(t)
	s := &secured{dir: t.TempDir()}
	trusted, err := os.ReadFile(authority.File)
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(s.dir, "truststore.pem"), trusted, 0o600),
			s.keep("keystore.pem", authority.Issue(t, "kafka", "localhost")), s.keep("expired.pem", authority.Expired(t, "kafka", "localhost")))
	}
	if err != nil {
		t.Fatal(err)
	}
	if s.issuer, err = newIssuer(s.dir); err != nil {
		t.Fatal(err)
	}
	c, err := startReal(t.Context(), Version, slices.Concat(jvmQuick, []string{"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://" + s.issuer.file}), s)
	failOrSkip(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Kafka's log ends with:\n%s", process.LastLines(c.Log()))
		}
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &SecureCluster{c, kadm.NewClient(client)}
}

// keep writes a certificate with its key as a keystore.
func (s *secured) keep(name string, pair certtest.Pair) error {
	key, err1 := os.ReadFile(pair.Key)
	cert, err2 := os.ReadFile(pair.Cert)
	return errors.Join(err1, err2, os.WriteFile(filepath.Join(s.dir, name), append(key, cert...), 0o600))
}

// properties chooses the ports and gives what stands behind server.properties.
func (s *secured) properties(port, controller int) (string, error) {
	for _, chosen := range []*int{&s.sasl, &s.oauth, &s.mutual, &s.expired} {
		var err error
		if *chosen, err = process.FreePort(); err != nil {
			return "", fmt.Errorf("choose ports: %w", err)
		}
	}
	text, err := kafkaFiles.ReadFile("kafka/secure.properties")
	if err != nil {
		return "", err
	}
	values := map[string]string{
		"port": strconv.Itoa(port), "controller": strconv.Itoa(controller), "sasl": strconv.Itoa(s.sasl), "oauth": strconv.Itoa(s.oauth), "mutual": strconv.Itoa(s.mutual), "expired": strconv.Itoa(s.expired),
		"keystore": filepath.Join(s.dir, "keystore.pem"), "expiredkeystore": filepath.Join(s.dir, "expired.pem"), "truststore": filepath.Join(s.dir, "truststore.pem"),
		"jwks": "file://" + s.issuer.file, "issuer": issuerName, "audience": tokenAudience,
	}
	return os.Expand(string(text), func(name string) string { return values[name] }), nil
}

// SASL gives the addresses that want TLS and a login.
func (c *SecureCluster) SASL() []string { return localhost(c.secure.sasl) }

// OAuth gives the addresses that want TLS and a token, see Token.
func (c *SecureCluster) OAuth() []string { return localhost(c.secure.oauth) }

// Expired gives the addresses that want a login, and show a certificate that has expired.
func (c *SecureCluster) Expired() []string { return localhost(c.secure.expired) }

// Mutual gives the addresses that want TLS and a client's certificate.
func (c *SecureCluster) Mutual() []string { return localhost(c.secure.mutual) }

func localhost(port int) []string { return []string{net.JoinHostPort("localhost", strconv.Itoa(port))} }

// SetUser makes a user of SCRAM-SHA-512, or gives one another password.
func (c *SecureCluster) SetUser(ctx context.Context, user, password string) error {
	done, err := c.admin.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: user, Mechanism: kadm.ScramSha512, Iterations: 4096, Password: password}})
	if err == nil {
		err = done.Error()
	}
	if err != nil {
		return fmt.Errorf("set password of user %q: %w", user, err)
	}
	return nil
}

// Admin is a client that may do everything.
func (c *SecureCluster) Admin() *kadm.Client { return c.admin }
