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
	reader, err := observe(cfg, source, log)
	if err != nil {
		return nil, err
	}
	defer reader.client.Close()
	name := record.ProgressTopic(source)
	topics, err := kadm.NewClient(reader.client).ListTopics(ctx, name)
	if err != nil {
		return nil, kafka.Trouble("look for", fmt.Sprintf("topic %q", name), err)
	}
	if !topics.Has(name) {
		return nil, nil
	}
	ends, err := reader.ends(ctx, name)
	if err != nil {
		return nil, err
	}
	return reader.readProgress(ctx, ends[name][0])
}

// Holds says whether the topics of a source's tables hold anything, as ReadProgress does: it reads none of it.
func Holds(ctx context.Context, cfg kafka.Config, source string, log *slog.Logger) (bool, error) {
	reader, err := observe(cfg, source, log)
	if err != nil {
		return false, err
	}
	defer reader.client.Close()
	list, err := kadm.NewClient(reader.client).ListTopics(ctx)
	if err != nil {
		return false, kafka.Trouble("list", "topics", err)
	}
	names := reader.tableTopics(list)
	if len(names) == 0 { // asked of none, the brokers tell of all
		return false, nil
	}
	starts, err := reader.starts(ctx, names...)
	if err != nil {
		return false, err
	}
	ends, err := reader.ends(ctx, names...)
	if err != nil {
		return false, err
	}
	for name, partitions := range ends {
		for i, end := range partitions {
			if i < len(starts[name]) && end > starts[name][i] {
				return true, nil
			}
		}
	}
	return false, nil
}

// observe connects to read, and fences nobody.
func observe(cfg kafka.Config, source string, log *slog.Logger) (*Publisher, error) {
	opts, err := cfg.Options(log)
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, kafka.Trouble("connect to", "Kafka", err)
	}
	return &Publisher{source: source, client: client, reading: opts, log: log}, nil
}
