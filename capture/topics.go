package capture

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/schema/record"
)

// TopicInfo is a topic of the source as the brokers have it.
type TopicInfo struct {
	Topic           string `json:"topic"`
	Table           string `json:"table"` // "" for the progress topic
	Partitions      int    `json:"partitions"`
	Replicas        int    `json:"replicas"`
	Cleanup         string `json:"cleanup_policy"`
	RetentionMillis int64  `json:"retention_ms"` // -1: for ever
	RetentionBytes  int64  `json:"retention_bytes"`
	MaxMessageBytes int64  `json:"max_message_bytes"`
	Records         int64  `json:"offsets"` // that are there, markers of transactions among them
}

// read takes what brokers say of the topic's settings.
func (t *TopicInfo) read(settings []kadm.Config) {
	for _, setting := range settings {
		number, _ := strconv.ParseInt(setting.MaybeValue(), 10, 64)
		switch setting.Key {
		case "cleanup.policy":
			t.Cleanup = setting.MaybeValue()
		case "retention.ms":
			t.RetentionMillis = number
		case "retention.bytes":
			t.RetentionBytes = number
		case "max.message.bytes":
			t.MaxMessageBytes = number
		}
	}
}

// admin gives a client for the brokers' own affairs.
func (c *Capture) admin() (*kadm.Client, func(), error) {
	opts, err := c.config.Kafka.Options(c.log)
	if err != nil {
		return nil, nil, err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, nil, kafka.Trouble("connect to", "Kafka", err)
	}
	return kadm.NewClient(client), client.Close, nil
}

// Topics lists the topics of the source, in the order of their names.
func (c *Capture) Topics(ctx context.Context) ([]TopicInfo, error) {
	admin, closeAdmin, err := c.admin()
	if err != nil {
		return nil, err
	}
	defer closeAdmin()
	listed, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, kafka.Trouble("list topics of", "Kafka", err)
	}
	all, names := []TopicInfo{}, []string{}
	for _, t := range listed.Sorted() {
		one := TopicInfo{Topic: t.Topic, Partitions: len(t.Partitions), Replicas: t.Partitions.NumReplicas()}
		source, schema, table, ok := record.ParseTopic(t.Topic)
		if ok {
			one.Table = schema + "." + table
		} else if source, ok = record.ParseProgressTopic(t.Topic); !ok {
			continue
		}
		if source == c.config.Source.Name {
			all, names = append(all, one), append(names, t.Topic)
		}
	}
	if len(all) == 0 {
		return all, nil
	}
	configs, err := admin.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, kafka.Trouble("describe", "topics", err)
	}
	starts, err := admin.ListStartOffsets(ctx, names...)
	if err != nil {
		return nil, kafka.Trouble("list offsets of", "topics", err)
	}
	ends, err := admin.ListEndOffsets(ctx, names...)
	if err != nil {
		return nil, kafka.Trouble("list offsets of", "topics", err)
	}
	for i := range all {
		one := &all[i]
		described, err := configs.On(one.Topic, nil)
		if err == nil {
			err = described.Err
		}
		if err != nil {
			return nil, kafka.Trouble("describe", fmt.Sprintf("topic %q", one.Topic), err)
		}
		one.read(described.Configs)
		ends.Each(func(l kadm.ListedOffset) {
			if start, ok := starts.Lookup(l.Topic, l.Partition); ok && l.Topic == one.Topic && l.Err == nil && start.Err == nil {
				one.Records += l.Offset - start.Offset
			}
		})
	}
	return all, nil
}

// TopicChange is what is to be another than it is; nil leaves it.
type TopicChange struct {
	MaxMessageBytes *int64
	Retention       *time.Duration // below zero: for ever
}

// SetTopic changes settings of a topic of the source.
func (c *Capture) SetTopic(ctx context.Context, topic string, change TopicChange) error {
	var alter []kadm.AlterConfig
	set := func(name string, value int64) {
		text := strconv.FormatInt(value, 10)
		alter = append(alter, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: &text})
	}
	lasts := int64(-1)
	if d := change.Retention; d != nil && *d >= 0 {
		lasts = max(d.Milliseconds(), 1)
	}
	if change.MaxMessageBytes != nil {
		set("max.message.bytes", *change.MaxMessageBytes)
	}
	admin, closeAdmin, err := c.admin()
	if err != nil {
		return err
	}
	defer closeAdmin()
	if change.Retention != nil {
		set("retention.ms", lasts)
		is, err := admin.DescribeTopicConfigs(ctx, topic)
		if err != nil {
			return kafka.Trouble("describe", fmt.Sprintf("topic %q", topic), err)
		}
		var info TopicInfo
		described, _ := is.On(topic, nil) // where it cannot be told, it cannot be altered either
		info.read(described.Configs)
		if strings.Contains(info.Cleanup, "compact") {
			lag := lasts
			if lag < 0 {
				lag = math.MaxInt64
			}
			set("min.compaction.lag.ms", lag)
		}
	}
	answers, err := admin.AlterTopicConfigs(ctx, alter, topic)
	if err == nil {
		for _, a := range answers {
			if err = a.Err; err != nil && a.ErrMessage != "" {
				err = fmt.Errorf("%w: %s", err, a.ErrMessage)
			}
		}
	}
	if err != nil {
		return kafka.Trouble("change", fmt.Sprintf("topic %q", topic), err)
	}
	return nil
}
