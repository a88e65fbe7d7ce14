package consume

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Sources share lanes and memory. A source with a long backlog, such as a tenant whose snapshot has begun, must not keep
// the others waiting: of a lane's batch each source gets its part before any gets more, and of the memory no source gets
// more than half. What a source may be limited to besides is its rate.

// sourceState is what is known of one source. Those without a name, of the progress topics, are one, and not limited.
type sourceState struct {
	bytes int64 // held of all its partitions
	over  bool  // it has its part of the memory: its partitions are paused

	rate   int     // records a second; 0: not limited
	tokens float64 // records that may be handed out; below 0 where a batch was larger
	at     time.Time
}

// fewestBytes of a source are fetched, however many there are.
const fewestBytes = 256 << 10

// source gives the state of a topic's source. c.mu is held.
func (c *Consumer) source(topic string) *sourceState {
	name, rate := c.cfg.Source(topic)
	s := c.sources[name]
	if s == nil {
		s = &sourceState{rate: rate, tokens: float64(rate), at: time.Now()}
		c.sources[name] = s
		if name != "" {
			c.named++
		}
		if rate > 0 {
			c.limited++
		}
	}
	return s
}

// limit is how much of the memory a source may take. What waits for its rate waits long, and gets less. c.mu is held.
func (c *Consumer) limit(s *sourceState) int64 {
	switch {
	case s.rate > 0:
		return max(c.cfg.Memory/2/int64(c.limited), fewestBytes)
	case c.named > 1:
		return max(c.cfg.Memory/2, fewestBytes)
	}
	return c.cfg.Memory
}

// share is how much of the memory one partition may take, beside up to two others: these, where there are any, must find room
// beside one that is stuck. c.mu is held.
func (c *Consumer) share(p *Partition) int64 {
	if c.cfg.Ahead(p.lane) {
		return c.cfg.Memory / reserved / 2
	}
	n := int64(1)
	for _, o := range c.parts {
		if o != p && !c.cfg.Ahead(o.lane) {
			if n++; n == 3 {
				break
			}
		}
	}
	return max(c.cfg.Memory*5/8/n, 1<<20)
}

// flush is how many bytes of a partition are handed out at once, at most: while they are written the next ones are read, and
// those behind them fetched. c.mu is held.
func (c *Consumer) flush(p *Partition) int64 { return c.share(p) / 3 }

// recordOverhead is what a kgo.Record and its headers cost beside their bytes, roughly.
const recordOverhead = 256

func recordSize(r *kgo.Record) int64 { return int64(len(r.Key)+len(r.Value)) + recordOverhead }

// hold adds to what is held of a partition, or takes from it. A source that has come below its part goes on. c.mu is held.
func (c *Consumer) hold(p *Partition, bytes int64) {
	p.bytes += bytes
	p.source.bytes += bytes
	c.bytes += bytes
	if !p.source.over || p.source.bytes > c.limit(p.source)/2 {
		return
	}
	p.source.over = false
	resume := map[string][]int32{}
	for _, o := range c.parts {
		if o.source == p.source && o != p && o.paused && o.bytes < c.share(o)/2 {
			o.paused = false
			if !o.stopped && o.held == nil {
				resume[o.Topic] = append(resume[o.Topic], o.Number)
			}
		}
	}
	if len(resume) > 0 {
		c.client.ResumeFetchPartitions(resume)
	}
}

// refill gives how many records of the source may be handed out now, and how long to wait for the next; 0 for no wait.
func (s *sourceState) refill(now time.Time) (records int, wait time.Duration) {
	if s.rate == 0 {
		return int(^uint(0) >> 1), 0
	}
	s.tokens = min(s.tokens+now.Sub(s.at).Seconds()*float64(s.rate), float64(s.rate))
	s.at = now
	// In tenths of a second's records: one by one would be a transaction for each.
	if least := max(float64(s.rate)/10, 1); s.tokens < least {
		return 0, max(time.Duration((least-s.tokens)/float64(s.rate)*float64(time.Second)), time.Millisecond)
	}
	return int(s.tokens), 0
}

// cut takes the front of the queues, at most about so many records and bytes: first an equal part for each source, then
// what is left for those that have more. c.mu is held.
func (c *Consumer) cut(ready []*Partition, records int, bytes int64) []Batch {
	taken := make([]int, len(ready))
	perSource := map[*sourceState]int{}
	for _, p := range ready {
		perSource[p.source] = 0
	}
	now := time.Now()
	take := func(i int, n int, room int64) {
		p := ready[i]
		allowed, _ := p.source.refill(now)
		for n > 0 && room > 0 && allowed > 0 && records > 0 && bytes > 0 && taken[i] < len(p.queue) {
			size := recordSize(p.queue[taken[i]])
			taken[i]++
			n, room, allowed = n-1, room-size, allowed-1
			records, bytes = records-1, bytes-size
			perSource[p.source]++
			if p.source.rate > 0 {
				p.source.tokens--
			}
		}
	}
	if n := len(perSource); n > 1 {
		part, room := max(records/n, 1), max(bytes/int64(n), 1)
		left := map[*sourceState]int64{}
		for s := range perSource {
			left[s] = room
		}
		for i, p := range ready {
			before := bytes
			take(i, part-perSource[p.source], left[p.source])
			left[p.source] -= before - bytes
		}
	}
	var out []Batch
	for i, p := range ready {
		take(i, records, c.flush(p))
		if n := taken[i]; n > 0 {
			n = max(n, p.least) // less than that was of no use before
			p.busy, p.taken = true, n
			out = append(out, p.front(n))
		}
	}
	return out
}
