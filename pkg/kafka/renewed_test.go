package kafka

import (
	"context"
	"crypto/tls"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/certtest"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// TestRenewedFilesOfTLS keeps a client while the brokers go over to another authority, for their certificates and for those of their
// clients; with a file that is half written it says which keys name the files.
func TestRenewedFilesOfTLS(t *testing.T) {
	first, second := certtest.New(t), certtest.New(t)
	var now atomic.Pointer[tls.Config]
	trust := func(a *certtest.Authority) {
		cfg := a.Issue(t, "kafka", "127.0.0.1").Server(t)
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, a.Pool()
		now.Store(cfg)
	}
	trust(first)
	broker := kafkatest.Fake(t, kfake.TLS(&tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return now.Load(), nil }}))
	pair := first.Issue(t, "pipeline")
	cfg := Config{Brokers: broker.Addrs(), ClientID: "test", TLS: config.TLS{Enabled: true, CA: first.File, Cert: pair.Cert, Key: pair.Key}}
	client := newClient(t, cfg, kgo.RequestRetries(1))
	ping := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return Ping(ctx, client)
	}
	refused := func(what, cause, hint string) {
		t.Helper()
		broker.Cut()
		err := ping()
		for end := time.Now().Add(time.Minute); trouble.CodeOf(err) != trouble.KafkaAuth && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			err = ping() // the connection that was cut may be noticed as such first
		}
		if e, ok := err.(*trouble.Error); !ok || e.Code != trouble.KafkaAuth || !strings.Contains(e.Error(), cause) || !strings.Contains(e.Hint, hint) { //nolint:errorlint // as it is
			t.Errorf("%s: %v (%s)", what, err, trouble.CodeOf(err))
		}
	}
	if err := ping(); err != nil {
		t.Fatal(err)
	}
	trust(second)
	refused("another authority at the brokers alone", "unknown authority", "kafka.tls.ca")
	certtest.Copy(t, second.File, cfg.TLS.CA)
	refused("a certificate of the first one", "tls: ", "kafka.tls.cert")
	if err := os.WriteFile(pair.Key, []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("half a key", "read client certificate", "kafka.tls.key: they are read again")
	second.Issue(t, "pipeline").Replace(t, pair)
	if err := ping(); err != nil {
		t.Errorf("with all of the second authority: %v", err)
	}
}
