// Package local runs Tributary on one machine: an embedded broker with a schema registry, and both services in this
// process. It is for trying, for the demo and for tests; what it keeps survives kill -9, not the loss of its disk.
//
// The broker is franz-go's kfake, which speaks Kafka's protocol (https://kafka.apache.org/protocol) and has no replicas,
// no access control and one process. Whoever outgrows it changes two lines of the configuration; nothing else differs.
package local

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
)

// Broker is an embedded broker and a schema registry. Start one with StartBroker; its methods are safe for concurrent use.
type Broker struct {
	kafka    *kafkatest.FakeCluster
	registry *Registry

	closing sync.Once
	closed  error
}

// BrokerConfig says where a broker keeps its data and listens.
type BrokerConfig struct {
	Dir      string // made if needed; of one broker at a time
	Kafka    string // host:port; "" takes a free port of 127.0.0.1
	Registry string // likewise
}

// StartBroker starts a broker on what an earlier one left in cfg.Dir, be it closed or killed. The caller closes it.
func StartBroker(cfg BrokerConfig) (*Broker, error) {
	// The registry first: it locks its file, so that two processes never share the directory.
	registry, err := StartRegistry(cfg.Dir, cfg.Registry)
	if err != nil {
		return nil, err
	}
	var addresses []string
	if cfg.Kafka != "" {
		addresses = append(addresses, cfg.Kafka)
	}
	cluster, err := kafkatest.StartFakeAt(filepath.Join(cfg.Dir, "kafka"), addresses)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start broker in %q: %w", cfg.Dir, err), registry.Close())
	}
	return &Broker{kafka: cluster, registry: registry}, nil
}

// Addrs gives host:port of the broker.
func (b *Broker) Addrs() []string { return b.kafka.Addrs() }

// RegistryURL gives the address of the schema registry.
func (b *Broker) RegistryURL() string { return b.registry.URL() }

// Close stops the broker and the registry; what they hold is kept. Closing again gives the first answer.
func (b *Broker) Close() error {
	b.closing.Do(func() {
		if err := errors.Join(b.registry.Close(), b.kafka.Stop()); err != nil {
			b.closed = fmt.Errorf("stop broker: %w", err)
		}
	})
	return b.closed
}
