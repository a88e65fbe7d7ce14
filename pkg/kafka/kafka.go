// Package kafka is how every part of Tributary comes to a Kafka client: its configuration, the options of the
// connection (addresses, TLS, SASL, logging), the form of its errors, and topics that exist with the partitions they
// have. Producing belongs to capture/publish, consuming to sink/consume.
package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
)

// Config says where the brokers are and how to log in.
type Config struct {
	Brokers  []string   `mapstructure:"brokers" required:"true" doc:"Addresses of some brokers, host:port; the others are learnt from them."`
	ClientID string     `mapstructure:"client_id" default:"tributary" doc:"Name under which the brokers log and limit this client."`
	TLS      config.TLS `mapstructure:"tls" doc:"TLS to the brokers."`
	SASL     SASL       `mapstructure:"sasl" doc:"Login at the brokers."`
}

// Check wants host:port of each broker.
func (c Config) Check() []config.Fault {
	var faults []config.Fault
	for i, broker := range c.Brokers {
		if _, _, err := net.SplitHostPort(broker); err != nil {
			faults = append(faults, config.Fault{
				Path: fmt.Sprintf("brokers[%d]", i), Value: broker, Message: "not host:port; write localhost:9092",
			})
		}
	}
	return faults
}

// Options gives what every client of ours has in common; the caller adds what its client is for and closes it. What
// franz-go warns of goes to log. Files named by the configuration are read here, so that a missing one is found at the start, and
// again for each connection.
func (c Config) Options(log *slog.Logger) ([]kgo.Opt, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.WithLogger(logger{log}),
		kgo.DialTimeout(dialTimeout),
		kgo.BrokerMaxReadBytes(maxReadBytes),
	}
	dial, err := c.TLS.Dialer(&net.Dialer{Timeout: dialTimeout})
	if err != nil {
		return nil, fmt.Errorf("configure TLS to Kafka: %w", err)
	}
	if dial != nil {
		opts = append(opts, kgo.Dialer(dial))
	}
	if c.SASL.Mechanism != "" {
		mechanism, err := c.SASL.mechanism()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(mechanism))
	}
	return opts, nil
}

// maxReadBytes bounds an answer of a broker. One record, whatever size its topic takes, comes whole.
const maxReadBytes = 1 << 30

// dialTimeout is how long one attempt to connect to one broker may take.
const dialTimeout = 10 * time.Second

// logger hands franz-go's warnings and errors on. Its informational lines are one for each request and group change.
type logger struct{ log *slog.Logger }

func (l logger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (l logger) Log(level kgo.LogLevel, message string, keyvals ...any) {
	to := slog.LevelWarn
	if level == kgo.LogLevelError {
		to = slog.LevelError
	}
	l.log.Log(context.Background(), to, service.KafkaClient+message, keyvals...)
}
