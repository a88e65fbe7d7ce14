package consume

import (
	"context"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
)

// Looker looks, outside of any group, at what others read: where partitions end, and how old what waits in them is. It is not
// safe for concurrent use; make one with NewLooker, then Close it.
type Looker struct {
	client *kgo.Client
	admin  *kadm.Client
}

// NewLooker makes one. It does no I/O beyond reading files that the configuration names.
func NewLooker(cfg kafka.Config, log *slog.Logger) (*Looker, error) {
	client, err := outside(cfg, log, fetchBytes, lookBytes)
	if err != nil {
		return nil, err
	}
	return &Looker{client: client, admin: kadm.NewClient(client)}, nil
}

// lookBytes of a partition are fetched to see its first record; a broker gives no less than the first batch.
const lookBytes = 32 << 10

// Close ends its connections.
func (l *Looker) Close() { l.client.Close() }

// Ends gives the last stable offset of each partition of topics. A partition of which the broker does not say it is left out.
func (l *Looker) Ends(ctx context.Context, topics ...string) (map[string]map[int32]int64, error) {
	listed, err := l.admin.ListCommittedOffsets(ctx, topics...)
	if err != nil {
		return nil, kafka.Trouble("list offsets of", "Kafka", err)
	}
	ends := map[string]map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) {
		if o.Err != nil {
			return
		}
		if ends[o.Topic] == nil {
			ends[o.Topic] = map[int32]int64{}
		}
		ends[o.Topic][o.Partition] = o.Offset
	})
	return ends, nil
}

// Oldest gives the timestamp of the first record in each of the ranges: that of a change is its commit at the source. It is
// zero where there are only commit markers. tell is called once for each range of which it is found out, until ctx ends; it is not for
// those that cannot be read.
func (l *Looker) Oldest(ctx context.Context, ranges []Range, tell func(Range, time.Time)) {
	left, at, all := map[key]Range{}, map[string]map[int32]kgo.Offset{}, map[string][]int32{}
	for _, g := range ranges {
		left[key{g.Topic, g.Partition}] = g
		if at[g.Topic] == nil {
			at[g.Topic] = map[int32]kgo.Offset{}
		}
		at[g.Topic][g.Partition] = kgo.NewOffset().At(g.From)
		all[g.Topic] = append(all[g.Topic], g.Partition)
	}
	l.client.AddConsumePartitions(at)
	defer l.client.RemoveConsumePartitions(all)
	for len(left) > 0 && ctx.Err() == nil {
		found := map[string][]int32{}
		l.client.PollRecords(ctx, pollRecords).EachPartition(func(fp kgo.FetchTopicPartition) {
			k := key{fp.Topic, fp.Partition}
			g, ok := left[k]
			if !ok || ctx.Err() != nil && fp.Err != nil {
				return
			}
			first, seen := g.first(fp.Records)
			if !seen && fp.Err == nil {
				return
			}
			if fp.Err == nil { // else it is told by whoever reads it
				tell(g, first)
			}
			delete(left, k)
			found[k.topic] = append(found[k.topic], k.number)
		})
		l.client.RemoveConsumePartitions(found)
	}
}

// first gives the timestamp of the first record of the range, zero where there are only commit markers; seen is false where records do not
// tell yet.
func (g Range) first(records []*kgo.Record) (at time.Time, seen bool) {
	for _, r := range records {
		switch {
		case r.Offset < g.From:
		case r.Offset < g.To && !r.Attrs.IsControl():
			return r.Timestamp, true
		case r.Offset+1 >= g.To:
			return time.Time{}, true
		}
	}
	return time.Time{}, false
}
