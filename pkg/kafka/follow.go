package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// NoTopicError says that there is no topic of those wanted.
type NoTopicError struct{ There []string } // topics that are

func (*NoTopicError) Error() string { return "there is no such topic" }

// Follow gives the committed records of the topics that are wanted, from the last so many offsets of each partition on,
// until ctx ends (nil) or each returns an error. It is in no group, and disturbs nobody. ready is called before the first.
func Follow(ctx context.Context, opts []kgo.Opt, wanted func(topic string) bool, last int64, ready func(topics int), each func(*kgo.Record) error) error {
	client, err := kgo.NewClient(append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))...)
	if err != nil {
		return Trouble("connect to", "Kafka", err)
	}
	defer client.Close()
	from, err := followFrom(ctx, kadm.NewClient(client), wanted, last)
	if err != nil {
		return err
	}
	client.AddConsumePartitions(from)
	ready(len(from))
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return Trouble("read", "topics", err)
		}
		for _, r := range fetches.Records() {
			if err := each(r); err != nil {
				return err
			}
		}
	}
}

// followFrom gives where to begin with each partition.
func followFrom(ctx context.Context, admin *kadm.Client, wanted func(topic string) bool, last int64) (map[string]map[int32]kgo.Offset, error) {
	listed, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, Trouble("list topics of", "Kafka", err)
	}
	var names []string
	for _, name := range listed.Names() {
		if wanted(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, &NoTopicError{listed.Names()}
	}
	starts, err := admin.ListStartOffsets(ctx, names...)
	var ends kadm.ListedOffsets
	if err == nil {
		ends, err = admin.ListCommittedOffsets(ctx, names...)
	}
	if err == nil {
		err = errors.Join(starts.Error(), ends.Error())
	}
	if err != nil {
		return nil, Trouble("list offsets of", "topics", err)
	}
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(end.Topic, end.Partition)
		if from[end.Topic] == nil {
			from[end.Topic] = map[int32]kgo.Offset{}
		}
		from[end.Topic][end.Partition] = kgo.NewOffset().At(max(start.Offset, end.Offset-last))
	})
	return from, nil
}
