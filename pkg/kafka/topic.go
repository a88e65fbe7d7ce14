package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/retry"
)

// Topic is a topic as it is to be created.
type Topic struct {
	Name        string
	Partitions  int32             // -1: as the broker is configured
	Replication int16             // -1: as the broker is configured
	Configs     map[string]string // the topic's own settings, like cleanup.policy
	Written     bool              // it is known to be there, with something in it: so it is not made
}

// TopicID tells a topic from one of the same name that was created later; zero where the broker has none (before 2.8).
type TopicID = kadm.TopicID

// Ping asks for the cluster's metadata: nil says that a broker answers, TLS and login included.
func Ping(ctx context.Context, client *kgo.Client) error {
	if err := client.Ping(ctx); err != nil {
		return Trouble("reach", "Kafka", err)
	}
	return nil
}

// EnsureTopic creates a topic if there is none, unless that has been deleted since it was written, and gives partitions and ID of the one there is. An existing topic is
// never changed: what its partitions mean (see trouble.TopicPartitionsChanged) is the caller's to judge.
func EnsureTopic(ctx context.Context, client *kgo.Client, topic Topic) (partitions int32, id TopicID, err error) {
	subject := fmt.Sprintf("topic %q", topic.Name)
	partitions, id, err = describe(ctx, client, topic.Name)
	switch {
	case err == nil:
		return partitions, id, nil
	case !errors.Is(err, kerr.UnknownTopicOrPartition):
		return 0, id, Trouble("describe", subject, err)
	}
	if topic.Written && CanCreate(ctx, client, topic) == nil { // else the broker that was asked does not know it yet
		return 0, id, Trouble("find", subject, err)
	}
	configs := make(map[string]*string, len(topic.Configs))
	for name, value := range topic.Configs {
		configs[name] = &value
	}
	created, err := kadm.NewClient(client).CreateTopic(ctx, topic.Partitions, topic.Replication, configs, topic.Name)
	switch {
	case err == nil && created.NumPartitions > 0 && created.ID != TopicID{}:
		return created.NumPartitions, created.ID, nil
	case err != nil && !errors.Is(err, kerr.TopicAlreadyExists): // which says that another instance was faster
		if created.ErrMessage != "" {
			err = fmt.Errorf("%w: %s", err, created.ErrMessage)
		}
		return 0, id, Trouble("create", subject, err)
	}
	// It exists; the broker that is asked may not know yet.
	ctx, cancel := context.WithTimeout(ctx, spreadTimeout)
	defer cancel()
	err = retry.Do(ctx, retry.Backoff{Min: 20 * time.Millisecond, Max: time.Second}, func(ctx context.Context) error {
		partitions, id, err = describe(ctx, client, topic.Name)
		return err
	}, nil)
	if err != nil {
		return 0, id, Trouble("describe", subject, err)
	}
	return partitions, id, nil
}

// CanCreate asks the brokers whether a topic could be created, and creates none.
func CanCreate(ctx context.Context, client *kgo.Client, topic Topic) error {
	configs := make(map[string]*string, len(topic.Configs))
	for name, value := range topic.Configs {
		configs[name] = &value
	}
	answers, err := kadm.NewClient(client).ValidateCreateTopics(ctx, topic.Partitions, topic.Replication, configs, topic.Name)
	if err == nil {
		one := answers[topic.Name]
		if err = one.Err; err != nil && one.ErrMessage != "" {
			err = fmt.Errorf("%w: %s", err, one.ErrMessage)
		}
	}
	if err == nil {
		return nil
	}
	return Trouble("create", fmt.Sprintf("topic %q", topic.Name), err)
}

// spreadTimeout is how long the news of a topic may take from the controller to the other brokers.
const spreadTimeout = 30 * time.Second

// describe asks a broker. kadm's answer may come from the client's cache, which does not hear of what was created or
// deleted a moment ago.
func describe(ctx context.Context, client *kgo.Client, name string) (partitions int32, id TopicID, err error) {
	request := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = &name
	request.Topics = append(request.Topics, topic)
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return 0, id, err
	}
	if len(response.Topics) != 1 {
		return 0, id, fmt.Errorf("the broker told of %d topics, asked for 1", len(response.Topics))
	}
	answer := response.Topics[0]
	return int32(len(answer.Partitions)), answer.TopicID, kerr.ErrorForCode(answer.ErrorCode)
}
