// Package local runs Tributary on one machine: an embedded broker with a schema registry, and both services in this
// process. It is for trying, for the demo and for tests; what it keeps survives kill -9, not the loss of its disk.
//
// The broker is franz-go's kfake, which speaks Kafka's protocol (https://kafka.apache.org/protocol) and has no replicas,
// no access control and one process. Whoever outgrows it changes two lines of the configuration; nothing else differs.
package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/schemaregistry"
)

// Broker is an embedded broker and a schema registry. Start one with StartBroker; its methods are safe for concurrent use.
type Broker struct {
	kafka    *kafkatest.FakeCluster
	registry *schemaregistry.Registry
	server   *http.Server
	url      string
	served   chan error

	closing sync.Once
	closed  error
}

// BrokerConfig says where a broker keeps its data and listens.
type BrokerConfig struct {
	Dir      string // made if needed; of one broker at a time
	Kafka    string // host:port; "" takes a free port of 127.0.0.1
	Registry string // likewise
}

// Limits of the registry's HTTP server: its clients are on this machine.
const (
	registryHeaderTimeout = 5 * time.Second
	registryStopTimeout   = 5 * time.Second
)

// StartBroker starts a broker on what an earlier one left in cfg.Dir, be it closed or killed. The caller closes it.
func StartBroker(cfg BrokerConfig) (_ *Broker, err error) {
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("start broker: %w", err)
	}
	b := &Broker{served: make(chan error, 1)}
	// The registry first: it locks its file, so that two processes never share the directory.
	if b.registry, err = schemaregistry.Open(filepath.Join(cfg.Dir, "schemas.log")); err != nil {
		return nil, fmt.Errorf("start broker in %q: %w", cfg.Dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start broker in %q: %w", cfg.Dir, err), b.registry.Close())
		}
	}()
	if cfg.Registry == "" {
		cfg.Registry = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", cfg.Registry)
	if err != nil {
		return nil, err
	}
	var addresses []string
	if cfg.Kafka != "" {
		addresses = append(addresses, cfg.Kafka)
	}
	if b.kafka, err = kafkatest.StartFakeAt(filepath.Join(cfg.Dir, "kafka"), addresses); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	b.url = "http://" + listener.Addr().String()
	b.server = &http.Server{Handler: b.registry, ReadHeaderTimeout: registryHeaderTimeout}
	go func() { b.served <- b.server.Serve(listener) }()
	return b, nil
}

// Addrs gives host:port of the broker.
func (b *Broker) Addrs() []string { return b.kafka.Addrs() }

// RegistryURL gives the address of the schema registry.
func (b *Broker) RegistryURL() string { return b.url }

// Close stops the broker and the registry; what they hold is kept. Closing again gives the first answer.
func (b *Broker) Close() error {
	b.closing.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), registryStopTimeout)
		defer cancel()
		err := b.server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = b.server.Close()
		}
		if served := <-b.served; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		if err = errors.Join(err, b.kafka.Stop(), b.registry.Close()); err != nil {
			b.closed = fmt.Errorf("stop broker: %w", err)
		}
	})
	return b.closed
}
