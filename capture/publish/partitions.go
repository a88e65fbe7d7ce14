package publish

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/schema/record"
)

// awaitPartitions waits until the client has noted the partitions of all topics that the Kafka transaction has records in.
// franz-go (1.22) sends the first records of a topic before it notes them. A transaction that is ended in between has nothing
// there for it: one with nothing else is not committed, without a word, and the next one is not added to the partition, so that
// its records there have no end.
func (p *Publisher) awaitPartitions(ctx context.Context) error {
	for topic, partition := range p.written() {
		for {
			if leader, _, _ := partitionLeader(p.client, topic, partition); leader >= 0 {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(partitionsPause):
			}
		}
	}
	return nil
}

// partitionsPause is short: it is one goroutine of this process that is waited for.
const partitionsPause = 100 * time.Microsecond

// partitionLeader gives no leader, less than 0, for a partition that the client has not noted. Tests have it late.
var partitionLeader = (*kgo.Client).PartitionLeader

// written gives the topics that the Kafka transaction has records in, with one partition of each: the client notes all of them
// at once.
func (p *Publisher) written() map[string]int32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	topics := map[string]int32{record.ProgressTopic(p.source): 0}
	for name, top := range p.known {
		if i := slices.IndexFunc(top.sent, func(n int64) bool { return n > 0 }); i >= 0 {
			topics[name] = int32(i)
		}
	}
	return topics
}
