package publish

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/schema/record"
)

// ReadProgress gives the newest progress of a source, with Tables and Vector complete, to somebody who does not publish;
// nil if nothing was ever published. It fences nobody and makes nothing.
func ReadProgress(ctx context.Context, cfg kafka.Config, source string, log *slog.Logger) (*record.Progress, error) {
	opts, err := cfg.Options(log)
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, kafka.Trouble("connect to", "Kafka", err)
	}
	defer client.Close()
	name := record.ProgressTopic(source)
	topics, err := kadm.NewClient(client).ListTopics(ctx, name)
	if err != nil {
		return nil, kafka.Trouble("look for", fmt.Sprintf("topic %q", name), err)
	}
	if !topics.Has(name) {
		return nil, nil
	}
	reader := &Publisher{source: source, client: client, reading: opts, log: log}
	ends, err := reader.ends(ctx, name)
	if err != nil {
		return nil, err
	}
	return reader.readProgress(ctx, ends[name][0])
}
