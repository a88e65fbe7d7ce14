package consume

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/schema/change"
)

// Batch is what a lane may work on: the front of a partition's queue. Commit markers are among the records.
type Batch struct {
	Partition *Partition
	Records   []*kgo.Record
	Since     time.Time // when the first of them arrived; zero where that is not noted
}

// NoteArrivals has Batch.Since noted. To be called before Run.
func (c *Consumer) NoteArrivals() { c.noting = true }

// front gives what is to be worked on next: the first n records of the queue. c.mu is held.
func (p *Partition) front(n int) Batch {
	b := Batch{Partition: p, Records: p.queue[:n:n]}
	for len(p.polls) > 1 && p.polls[1].from <= p.queue[0].Offset {
		p.polls = p.polls[1:]
	}
	if len(p.polls) > 0 {
		b.Since = p.polls[0].at
	}
	return b
}

// Take waits until partitions of the lane have records and gives those at the front, at most about the given number
// and bytes together. The partitions are the caller's until Finish; only one goroutine may take from a lane. It
// returns nil when ctx ends.
func (c *Consumer) Take(ctx context.Context, lane, records int, bytes int64) []Batch {
	for ctx.Err() == nil {
		c.mu.Lock()
		ready, soon := c.takeable(lane)
		if len(ready) > 0 {
			batches := c.cut(ready, records, bytes)
			c.mu.Unlock()
			return batches
		}
		changed := c.changed
		c.mu.Unlock()
		var timer <-chan time.Time
		if soon > 0 {
			t := time.NewTimer(soon)
			defer t.Stop()
			timer = t.C
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer:
		}
	}
	return nil
}

// TryTake is Take without waiting: nothing where fewer than least records can be had.
func (c *Consumer) TryTake(lane, records int, bytes int64, least int) []Batch {
	c.mu.Lock()
	defer c.mu.Unlock()
	ready, _ := c.takeable(lane)
	n := 0
	for _, p := range ready {
		n += len(p.queue)
	}
	if n < least {
		return nil
	}
	return c.cut(ready, records, bytes)
}

// Beyond gives the records of a taken partition behind the first have of its queue, at most about so many and so many bytes: nothing where
// fewer than least are there, or where its source has a rate. They are given with Finish, see Done.Keep.
func (c *Consumer) Beyond(p *Partition, have, records int, bytes int64, least int) []*kgo.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.source.rate > 0 || len(p.queue)-have < least {
		return nil
	}
	end := have
	for bytes = min(bytes, c.flush(p)); end < len(p.queue) && end-have < records && bytes > 0; end++ {
		bytes -= recordSize(p.queue[end])
	}
	return p.queue[have:end:end]
}

// Changes gives a channel that is closed when more may be had than now.
func (c *Consumer) Changes() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// takeable gives the partitions of a lane that can be worked on, and after which time there will be one because its
// records are of age, or its source's rate lets it; 0 for never. c.mu is held.
func (c *Consumer) takeable(lane int) (ready []*Partition, soon time.Duration) {
	for _, p := range c.parts {
		if p.lane != lane || p.busy || p.held != nil || p.release || len(p.queue) == 0 || len(p.queue) < p.least {
			continue
		}
		if wait := c.cfg.Age - time.Since(p.arrived); wait > 0 && p.bytes < c.share(p)/2 {
			if soon == 0 || wait < soon {
				soon = wait
			}
			continue
		}
		if records, wait := p.source.refill(time.Now()); records == 0 {
			if soon == 0 || wait < soon {
				soon = wait
			}
			continue
		}
		ready = append(ready, p)
	}
	// Oldest first: none starves, however small the batch.
	slices.SortFunc(ready, func(a, b *Partition) int {
		if d := a.arrived.Compare(b.arrived); d != 0 {
			return d
		}
		return int(a.Number) - int(b.Number)
	})
	return ready, soon
}

// More gives up to n more records behind those that Take gave for p, without waiting.
func (c *Consumer) More(p *Partition, have, n int) []*kgo.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have >= len(p.queue) {
		return nil
	}
	end := min(have+n, len(p.queue))
	p.taken = end
	return p.queue[have:end:end]
}

// Done is what became of a partition that was taken.
type Done struct {
	Records  int // behind the checkpoint, which was moved
	Next     int64
	Term     Term // of the record before Next
	Position change.Position
	// CommitTime is that of the newest change applied; 0: as before.
	CommitTime int64
	// WantMore says that the rest is of no use before another record has arrived.
	WantMore bool
	// Keep says that the partition is to stay taken, with so many records behind these.
	Keep int
}

// Request gives what it takes to claim a partition again: with the topic as it is now, which may have been made anew.
func (c *Consumer) Request(p *Partition) Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Request{p.Topic, p.Number, c.topics[p.Topic].id}
}

// Nothing is the Done of a partition whose checkpoint was not moved.
func Nothing(p *Partition) Done { return Done{Next: p.Next, Term: p.Term, Position: p.Position} }

// Finish gives a partition back, or where it may stay taken, what is to be done next of it.
func (c *Consumer) Finish(p *Partition, d Done) (next Batch, kept bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.notify()
	p.busy = d.Keep > 0 && !p.gone && p.held == nil && !p.release
	p.Next, p.Term, p.Position = d.Next, d.Term, d.Position
	if d.CommitTime != 0 {
		p.CommitTime = d.CommitTime
	}
	if d.Records > 0 {
		p.Attempt, p.Park, p.Skip = 0, nil, false
	}
	if p.release && c.wake != nil {
		c.wake()
	}
	if p.gone || p.held != nil {
		c.drop(p)
		return Batch{}, false
	}
	var bytes int64
	for i, r := range p.queue[:d.Records] {
		bytes += recordSize(r)
		p.queue[i] = nil
	}
	p.queue = p.queue[d.Records:]
	c.hold(p, -bytes)
	p.least = 0
	if d.WantMore {
		p.least = p.taken - d.Records + 1 // more may have come meanwhile
	}
	if len(p.queue) > 0 {
		p.oldest = p.queue[0].Timestamp
	} else {
		p.queue, p.polls = nil, nil
	}
	if p.paused && (p.bytes < c.share(p)/2 && !p.source.over || p.wantsMore()) {
		p.paused = false
		if !p.stopped {
			c.client.ResumeFetchPartitions(map[string][]int32{p.Topic: {p.Number}})
		}
	}
	if p.busy {
		p.taken = d.Keep
		next, kept = p.front(d.Keep), true
	}
	return next, kept
}

// wantsMore says that what is there of a partition is of no use before more has come. It is fetched then, whatever share of the
// memory the partition has, or it would be waited for for ever. c.mu is held.
func (p *Partition) wantsMore() bool { return p.least > len(p.queue) }

// Gone says whether the partition has been given up since it was taken: what is under way for it will be refused.
func (c *Consumer) Gone(p *Partition) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return p.gone
}

// Settled says whether the partition is held, and nothing is under way for it any more.
func (c *Consumer) Settled(p *Partition) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return p.held != nil && !p.busy && !p.gone
}

// Hold stops a partition where it stands: nothing of it is fetched or handed out, its records are let go. why is
// shown to people.
func (c *Consumer) Hold(p *Partition, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.gone {
		return
	}
	p.held, p.release = why, false
	if !p.busy {
		c.drop(p)
	}
	c.client.PauseFetchPartitions(map[string][]int32{p.Topic: {p.Number}})
	c.notify()
}

// Release lets a held partition go on from its Start.Next. Where change is not nil, it may set Pass, Start.Next and
// Start.Epoch before.
func (c *Consumer) Release(p *Partition, change func(p *Partition)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.gone || p.held == nil || p.busy {
		return
	}
	if change != nil {
		change(p)
	}
	if t := c.topics[p.Topic]; t.partitions > 0 {
		p.Count = t.partitions
	}
	p.release = true
	if c.wake != nil {
		c.wake()
	}
	c.notify()
}

// View is what is known of a partition at one moment.
type View struct {
	Partition *Partition
	Topic     string
	Number    int32
	Count     int32 // partitions of the topic
	Next      int64 // offset of the first record not applied
	Position  change.Position
	End       int64     // last stable offset seen, -1 before the first fetch
	Oldest    time.Time // timestamp of the oldest record that is fetched and not applied; zero for none
	Held      error
	Epoch     int64
	Lane      int
	Busy      bool // somebody has taken it: Next may be behind what is confirmed
}

// Views gives the assigned partitions in order of topic and number.
func (c *Consumer) Views() []View {
	c.mu.Lock()
	out := make([]View, 0, len(c.parts))
	for _, p := range c.parts {
		v := View{
			Partition: p, Topic: p.Topic, Number: p.Number, Count: p.Count, Next: p.Next, Position: p.Position,
			End: p.end, Held: p.held, Epoch: p.Epoch, Lane: p.lane, Busy: p.busy,
		}
		if len(p.queue) > 0 || p.held != nil && p.Next < p.end {
			v.Oldest = p.oldest
		}
		out = append(out, v)
	}
	c.mu.Unlock()
	slices.SortFunc(out, func(a, b View) int {
		switch {
		case a.Topic < b.Topic:
			return -1
		case a.Topic > b.Topic:
			return 1
		}
		return int(a.Number) - int(b.Number)
	})
	return out
}

// Overview is what is known of the consumer as a whole.
type Overview struct {
	Ready      bool            // topics have been looked for at least once
	Asked      time.Time       // since when Kafka owes the answer to such a look; zero: it owes none
	Topics     []string        // that are consumed, by any member
	Unrouted   []string        // that no rule wants
	Claiming   map[string]bool // topics of which this member has been given partitions, and has none to read before they are claimed
	Bytes      int64           // of records held
	Limit      int64
	Rebalances int64
	Retention  map[string]time.Duration // how long Kafka keeps records of each topic, where that is known; KeptForEver
}

// Overview gives it. Retention is not to be changed.
func (c *Consumer) Overview() Overview {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := Overview{Ready: c.ready, Asked: c.asked, Unrouted: slices.Clone(c.unrouted), Bytes: c.bytes, Limit: c.cfg.Memory, Rebalances: c.moves, Claiming: maps.Clone(c.claiming), Retention: c.retained}
	for name := range c.topics {
		o.Topics = append(o.Topics, name)
	}
	slices.Sort(o.Topics)
	return o
}
