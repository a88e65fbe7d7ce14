package sink

import (
	"fmt"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
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

// barrierOf gives the TRUNCATE that a partition of the topic has waited at longest, nil for none. s.mu is held.
func (s *Sink) barrierOf(topic string) *Barrier {
	var first *hold
	count := int32(0)
	for p, h := range s.held {
		if p.Topic == topic && !h.barrier.IsZero() && len(h.peers) > 0 && (first == nil || h.since.Before(first.since)) {
			first, count = h, p.Count
		}
	}
	if first == nil {
		return nil
	}
	b := &Barrier{Position: first.barrier.String(), Since: first.since.UTC(), There: []int32{}, Missing: []Missing{}}
	for number := range count {
		missing := Missing{Partition: number}
		there := false
		for i := range first.peers {
			if peer := &first.peers[i]; peer.Partition == number {
				there, missing.Owner = peer.At(first.barrier), peer.Owner
			}
		}
		if there {
			b.There = append(b.There, number)
			continue
		}
		for i := range s.troubles {
			if q := &s.troubles[i]; q.Topic == topic && q.Partition == number {
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
