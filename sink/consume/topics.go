package consume

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// discover looks for topics.
func (c *Consumer) discover(ctx context.Context) error {
	tick := time.NewTicker(c.cfg.Refresh)
	defer tick.Stop()
	var asked time.Time
	known := 0
	look := retry.Do
	for {
		err := look(ctx, retry.Backoff{Max: 5 * time.Second}, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			c.ask()
			topics, err := c.admin.ListTopics(ctx)
			if err != nil {
				return kafka.Trouble("list topics of", "Kafka", err)
			}
			c.found(topics)
			return nil
		}, func(err error, _ int, _ time.Duration) { c.cfg.Retrying("kafka", err) })
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		c.cfg.Retrying("kafka", nil)
		c.askEnds(ctx)
		if topics := c.Overview().Topics; len(topics) != known || time.Since(asked) > retentionEvery {
			asked, known = time.Now(), len(topics)
			c.askRetention(ctx, topics)
		}
		look = retry.Keep
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// ask notes since when Kafka owes an answer: a broker that hangs refuses nothing, and the client is patient.
func (c *Consumer) ask() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked.IsZero() {
		c.asked = time.Now()
	}
}

// retentionEvery is how often topics are asked how long they keep records.
const retentionEvery = time.Minute

// askRetention asks how long records are kept. Without the right to ask it stays unknown.
func (c *Consumer) askRetention(ctx context.Context, topics []string) {
	if len(topics) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answers, err := c.admin.DescribeTopicConfigs(ctx, topics...)
	if err != nil {
		c.cfg.Log.Debug("how long topics keep records is not known", "error", err.Error())
		return
	}
	retained := map[string]time.Duration{}
	for _, a := range answers {
		values := map[string]string{}
		for _, one := range a.Configs {
			values[one.Key] = one.MaybeValue()
		}
		if kept, known := keeps(values); a.Err == nil && known {
			retained[a.Name] = kept
		}
	}
	c.mu.Lock()
	c.retained = retained
	c.mu.Unlock()
}

// keeps says how long a topic with these settings has each of its records. Compaction removes all but the newest of a key, and a delete some time
// after it, of what is older than min.compaction.lag.ms: who has not read them by then misses what the newest does not carry.
func keeps(settings map[string]string) (kept time.Duration, known bool) {
	lasts := func(name string) time.Duration {
		ms, err := strconv.ParseInt(settings[name], 10, 64)
		known = known || err == nil
		if err != nil || ms < 0 || ms > int64(KeptForEver/time.Millisecond) {
			return KeptForEver
		}
		return max(time.Duration(ms)*time.Millisecond, 1) // 0 would be that it is not known
	}
	kept = KeptForEver
	if settings["cleanup.policy"] != "compact" {
		kept = lasts("retention.ms")
	}
	if strings.Contains(settings["cleanup.policy"], "compact") {
		lag := time.Duration(1) // unless somebody has set it
		if settings["min.compaction.lag.ms"] != "" {
			lag = lasts("min.compaction.lag.ms")
		}
		kept, known = min(kept, lag), true
	}
	return kept, known
}

// askEnds asks how far the topics of held partitions have grown: these are not fetched.
func (c *Consumer) askEnds(ctx context.Context) {
	var topics []string
	c.mu.Lock()
	for k, p := range c.parts {
		if p.held != nil && !slices.Contains(topics, k.topic) {
			topics = append(topics, k.topic)
		}
	}
	c.mu.Unlock()
	if len(topics) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ends, err := c.admin.ListCommittedOffsets(ctx, topics...)
	if err != nil {
		c.cfg.Log.Debug("how many records wait is not known", "error", err.Error())
		return
	}
	var unseen []Range
	c.mu.Lock()
	for k, p := range c.parts {
		end, ok := ends.Lookup(k.topic, k.number)
		if !ok || end.Err != nil || p.held == nil {
			continue
		}
		if p.end <= p.Next && end.Offset > p.Next {
			if p.end < 0 {
				unseen = append(unseen, Range{k.topic, k.number, p.Next, end.Offset})
			}
			p.oldest = time.Now() // about: it was committed since the last look
		}
		p.end = max(p.end, end.Offset)
	}
	c.mu.Unlock()
	c.askOldest(ctx, unseen)
}

// askOldest asks since when the records of held partitions have been waiting of which nothing was seen yet, as they were held when they were
// claimed.
func (c *Consumer) askOldest(ctx context.Context, unseen []Range) {
	if len(unseen) == 0 {
		return
	}
	looker, err := NewLooker(c.cfg.Kafka, c.cfg.Log)
	if err != nil { // the consumer's client was made of the same
		c.cfg.Log.Debug("since when records wait is not known", "error", err.Error())
		return
	}
	defer looker.Close()
	looker.Oldest(ctx, unseen, func(g Range, at time.Time) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if p := c.parts[key{g.Topic, g.Partition}]; p != nil && p.held != nil && p.Next == g.From && !at.IsZero() {
			p.oldest = at
		}
	})
}

func (c *Consumer) found(topics kadm.TopicDetails) {
	var fresh, gone, unwanted []string
	var faults []func()
	c.mu.Lock()
	c.asked = time.Time{}
	c.unrouted = c.unrouted[:0]
	for name, detail := range topics {
		if detail.Err != nil || detail.IsInternal {
			continue
		}
		if _, ok := c.cfg.Route(name, 0); !ok {
			c.unrouted = append(c.unrouted, name)
			if _, known := c.topics[name]; known {
				unwanted = append(unwanted, name)
				delete(c.topics, name)
			}
			continue
		}
		now := topic{detail.ID.String(), int32(len(detail.Partitions))}
		before, known := c.topics[name]
		switch {
		case !known:
			fresh = append(fresh, name)
		case before.id != now.id:
			// The client sticks to the old topic until it is told to forget it. With the next look it is found
			// like a new one, and the claim then sees that the checkpoint is of another topic.
			gone = append(gone, name)
			delete(c.topics, name)
			continue
		case before.partitions != now.partitions:
			faults = append(faults, c.partitionsChanged(name, before, now)...)
		}
		c.topics[name] = now
	}
	slices.Sort(c.unrouted)
	if !c.ready {
		c.ready = true
		c.notify()
	}
	c.mu.Unlock()
	for _, fault := range faults {
		fault()
	}
	if len(gone) > 0 {
		c.cfg.Log.Warn("topics were made anew", "topics", len(gone), "first", gone[0])
		c.client.PurgeTopicsFromConsuming(gone...)
	}
	if len(unwanted) > 0 {
		c.cfg.Log.Info("topics are not read any more", "topics", len(unwanted), "first", unwanted[0])
		c.client.PurgeTopicsFromConsuming(unwanted...)
	}
	if len(fresh) > 0 {
		slices.Sort(fresh)
		c.cfg.Log.Info("found topics", "topics", len(fresh), "first", fresh[0])
		c.client.AddConsumeTopics(fresh...)
	}
}

// partitionsChanged holds the partitions of a topic that has got more of them. c.mu is held.
func (c *Consumer) partitionsChanged(name string, before, now topic) []func() {
	t := &trouble.Error{
		Code: trouble.TopicPartitionsChanged, Op: "go on with", Subject: fmt.Sprintf("topic %q", name),
		Cause: fmt.Errorf("it had %d partitions and has %d", before.partitions, now.partitions),
		Means: "keys would change their partition and rows their order; its table is held",
		Hint:  "capture refuses such a topic, too: make a new one",
	}
	var faults []func()
	for _, p := range c.parts {
		if p.Topic == name && p.held == nil {
			faults = append(faults, func() { c.fault(p, t) })
		}
	}
	return faults
}
