package sink

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// Barrier is a TRUNCATE at which partitions wait for the others: it is executed when all have come to it.
type Barrier struct {
	Position string    `json:"position"`
	Since    time.Time `json:"since"`
	There    []int32   `json:"there"` // partitions that have come to it
	Missing  []Missing `json:"missing"`
}

// Missing is a partition that has not come to a TRUNCATE.
type Missing struct {
	Partition int32  `json:"partition"`
	Code      string `json:"code,omitempty"`  // of the trouble that holds it
	Owner     string `json:"owner,omitempty"` // instance that reads it, as far as is known
}

// truncation is a TRUNCATE that a partition of a topic waits at.
type truncation struct {
	topic string
	at    change.Position
	since time.Time
	count int32 // partitions of the topic
	peers []warehouse.Barrier
}

// barrierOf gives the TRUNCATE that a partition of the topic has waited at longest, nil for none: of those that this sink reads, or else of
// those of others, as far as these were looked at. s.mu is held.
func (s *Sink) barrierOf(topic string) *Barrier {
	var first *truncation
	for p, h := range s.held {
		if p.Topic == topic && !h.barrier.IsZero() && len(h.peers) > 0 && (first == nil || h.since.Before(first.since)) {
			first = &truncation{topic, h.barrier, h.since, p.Count, h.peers}
		}
	}
	if first == nil {
		first = s.outlook.truncation(topic)
	}
	return first.tell(s.seen.troubles)
}

// truncation gives the TRUNCATE that a partition of the topic has waited at longest, as the checkpoints have it; nil for none, or where they
// were not looked at of late.
func (o *outlook) truncation(topic string) *truncation {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.at) > lookKept {
		return nil
	}
	var first *truncation
	var peers []warehouse.Barrier
	count := int32(0)
	for i := range o.all {
		c := &o.all[i]
		if c.Topic != topic {
			continue
		}
		count = max(count, c.Partition+1)
		peers = append(peers, warehouse.Barrier{Partition: c.Partition, Applied: c.Position, Waiting: c.Barrier, Owner: c.Owner})
		if c.Barred() && c.AppliedAt != nil && (first == nil || c.AppliedAt.Before(first.since)) {
			first = &truncation{topic: topic, at: c.Barrier, since: *c.AppliedAt}
		}
	}
	if first != nil {
		for number := range o.parts[topic] { // also of those that nobody has claimed
			count = max(count, number+1)
		}
		first.count, first.peers = count, peers
	}
	return first
}

// tell says which partitions have come to it, and what holds the others; nil of none.
func (t *truncation) tell(troubles []warehouse.Quarantine) *Barrier {
	if t == nil {
		return nil
	}
	b := &Barrier{Position: t.at.String(), Since: t.since.UTC(), There: []int32{}, Missing: []Missing{}}
	for number := range t.count {
		missing := Missing{Partition: number}
		there := false
		for i := range t.peers {
			if peer := &t.peers[i]; peer.Partition == number {
				there, missing.Owner = peer.At(t.at), peer.Owner
			}
		}
		if there {
			b.There = append(b.There, number)
			continue
		}
		for i := range troubles {
			if q := &troubles[i]; q.Topic == t.topic && q.Partition == number {
				missing.Code = q.Code
			}
		}
		b.Missing = append(b.Missing, missing)
	}
	return b
}

// barrier tells of a table that waits at a TRUNCATE; ok is false where it does not, or has only come there.
func (t *TableStatus) barrier() (n service.Need, ok bool) {
	b := t.Barrier
	if b == nil || len(b.Missing) == 0 || time.Since(b.Since) < service.WaitingAfter {
		return n, false
	}
	there := make([]string, len(b.There))
	for i, number := range b.There {
		there[i] = fmt.Sprint(number)
	}
	n = service.Need{
		Code: trouble.BarrierWaiting, Subject: t.name(), Since: b.Since,
		What: fmt.Sprintf("a TRUNCATE of %s at %s: of %s %s %s there", t.name(), b.Position,
			service.Plural(len(b.There)+len(b.Missing), "partition"), strings.Join(there, ", "), service.Agree(len(there), "is", "are")),
	}
	for _, missing := range b.Missing {
		step := service.Step{Note: fmt.Sprintf("partition %d is read by %s, and has not come to it yet: wait, or see there", missing.Partition, missing.Owner)}
		switch {
		case missing.Code != "":
			step = service.Step{Command: "sink resume " + service.Quote(t.name()), Note: fmt.Sprintf("partition %d is held by %s: mend that first", missing.Partition, missing.Code)}
		case missing.Owner == "":
			step.Note = fmt.Sprintf("partition %d is nobody's: start a sink, or restart one", missing.Partition)
		}
		n.Do = append(n.Do, step)
	}
	return n, true
}

// holdAtBarrier lets a partition wait at a TRUNCATE.
func (s *Sink) holdAtBarrier(p *consume.Partition, at change.Position) {
	s.mu.Lock()
	s.held[p] = &hold{err: errBarrier, since: time.Now(), barrier: at}
	s.mu.Unlock()
	s.consumer.Hold(p, errBarrier)
}

// barriers lets partitions pass a TRUNCATE: partition 0, which executes it, when all others have come to it; the
// others when partition 0 has executed it. All of it is in the checkpoints, so that it holds across processes.
func (v *supervisor) barriers(ctx context.Context) error {
	if !v.s.anyBarrier() {
		return nil
	}
	for p, h := range v.heldNow() {
		if h.barrier.IsZero() {
			continue
		}
		all, err := v.session.Barriers(ctx, p.Topic)
		if err != nil {
			return err
		}
		done, there := false, 0
		v.s.mu.Lock()
		if real := v.s.held[p]; real != nil {
			real.peers = all
		}
		v.s.mu.Unlock()
		for _, b := range all {
			if b.At(h.barrier) {
				there++
			}
			if b.Partition == 0 && b.Applied.Compare(h.barrier) >= 0 {
				done = true
			}
		}
		if done || p.Number == 0 && there >= int(p.Count) {
			v.released(p)
			v.s.consumer.Release(p, func(p *consume.Partition) { p.Pass = h.barrier })
		}
	}
	return nil
}

func (s *Sink) anyBarrier() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.held {
		if !h.barrier.IsZero() {
			return true
		}
	}
	return false
}
