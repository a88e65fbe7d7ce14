package local

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
)

// Pipeline is captures and a sink in this process. Make one with NewPipeline, then Run it once.
type Pipeline struct {
	Captures []*capture.Capture // in the order of their configurations
	Sink     *sink.Sink
}

// NewPipeline makes the services of these configurations and connects nowhere. Whatever brokers and registry the
// configurations name, the services use broker's. With log nil each writes its own, as configured.
func NewPipeline(broker *Broker, captures []capture.Config, warehouse sink.Config, log *slog.Logger) (*Pipeline, error) {
	logger := func(name string, configured *slog.Logger) *slog.Logger {
		if log != nil {
			configured = log
		}
		return configured.With("service", name)
	}
	p := &Pipeline{}
	for _, cfg := range captures {
		cfg.Kafka.Brokers, cfg.Registry.URL = broker.Addrs(), broker.RegistryURL()
		c, err := capture.New(cfg, capture.Options{}, logger("capture", service.Log(cfg.Log)))
		if err != nil {
			return nil, err
		}
		p.Captures = append(p.Captures, c)
	}
	warehouse.Kafka.Brokers, warehouse.Registry.URL = broker.Addrs(), broker.RegistryURL()
	var err error
	p.Sink, err = sink.New(warehouse, logger("sink", service.Log(warehouse.Log)))
	return p, err
}

// Run runs the services, each with its HTTP answers, until ctx ends (nil) or one of them fails, which ends the others.
func (p *Pipeline) Run(ctx context.Context) error {
	group := service.NewGroup(ctx)
	for _, c := range p.Captures {
		group.Go(fmt.Sprintf("capture of %s", c.Status().Source), c.Serve)
	}
	group.Go("sink", p.Sink.Run)
	return group.Wait()
}
