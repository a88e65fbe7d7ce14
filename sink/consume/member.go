package consume

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/retry"
)

// assign claims newly assigned partitions and says where to read on.
func (c *Consumer) assign(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	var requests []Request
	c.mu.Lock()
	for name, numbers := range offsets {
		for number := range numbers {
			requests = append(requests, Request{name, number, c.topics[name].id})
		}
	}
	c.mu.Unlock()
	slices.SortFunc(requests, func(a, b Request) int {
		if a.Topic != b.Topic {
			if a.Topic < b.Topic {
				return -1
			}
			return 1
		}
		return int(a.Number) - int(b.Number)
	})
	starts, err := c.claim(ctx, requests)
	if err != nil {
		return nil, err
	}
	resume := map[string][]int32{}
	hold := map[string][]int32{}
	var faults []func()
	c.mu.Lock()
	c.moves++
	for i, r := range requests {
		lane, _ := c.cfg.Route(r.Topic, r.Number)
		p := &Partition{
			Topic: r.Topic, Number: r.Number, Count: c.topics[r.Topic].partitions, Start: starts[i],
			lane: lane, source: c.source(r.Topic), polled: starts[i].Next, end: -1,
		}
		k := key{r.Topic, r.Number}
		if old := c.parts[k]; old != nil {
			c.drop(old)
			old.gone = true
		}
		c.parts[k] = p
		offsets[r.Topic][r.Number] = kgo.NewOffset().At(p.Next).WithEpoch(int32(p.Term) - 1)
		if p.Err == nil && p.Hold != nil {
			p.held = p.Hold
			hold[r.Topic] = append(hold[r.Topic], r.Number)
		} else if p.Err != nil {
			p.held = p.Err
			hold[r.Topic] = append(hold[r.Topic], r.Number)
			faults = append(faults, func() { c.cfg.Fault(p, p.Err) })
		} else {
			resume[r.Topic] = append(resume[r.Topic], r.Number)
		}
	}
	c.notify()
	c.mu.Unlock()
	// What an earlier assignment paused is still paused.
	c.client.ResumeFetchPartitions(resume)
	if len(hold) > 0 {
		c.client.PauseFetchPartitions(hold)
	}
	for _, fault := range faults {
		fault()
	}
	c.cfg.Retrying("group", nil)
	c.cfg.Log.Info("claimed partitions", "partitions", len(requests))
	return offsets, nil
}

func (c *Consumer) claim(ctx context.Context, requests []Request) (starts []Start, err error) {
	c.mu.Lock()
	for _, r := range requests {
		c.claiming[r.Topic] = true
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, r := range requests {
			delete(c.claiming, r.Topic)
		}
	}()
	err = retry.Keep(ctx, retry.Backoff{Max: 5 * time.Second}, func(ctx context.Context) error {
		starts, err = c.cfg.Claim(ctx, requests)
		return err
	}, func(err error, _ int, _ time.Duration) { c.cfg.Retrying("warehouse", err) })
	if err == nil || ctx.Err() == nil {
		c.cfg.Retrying("warehouse", err) // the client tries a claim again that failed for good, too
	}
	return starts, err
}

// giveUp lets partitions go. If wait is set it lets flushes under way finish, for some time.
func (c *Consumer) giveUp(lost map[string][]int32, wait bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var going []*Partition
	for name, numbers := range lost {
		for _, number := range numbers {
			if p := c.parts[key{name, number}]; p != nil {
				p.gone = true
				if !p.busy {
					c.drop(p)
				}
				delete(c.parts, key{name, number})
				going = append(going, p)
			}
		}
	}
	c.moves++
	c.notify()
	// Not waiting would be right too, since the checkpoint fences us, but then the flush is for nothing. Waiting too long
	// would cost the membership, see RebalanceTimeout.
	deadline := time.NewTimer(c.cfg.Session / 2)
	defer deadline.Stop()
	for wait && slices.ContainsFunc(going, func(p *Partition) bool { return p.busy }) {
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-deadline.C:
			wait = false
		}
		c.mu.Lock()
	}
}
