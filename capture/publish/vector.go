package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// write has everything of the open Kafka transaction written, and pr with it, which names the offsets of it all.
//
// Those are known when it is acknowledged. To wait for that would cost each transaction one more round trip; but as nobody
// else writes there, they can be foretold: from one transaction to the next a partition grows by our records and a marker. So
// pr is sent with the data, and what the brokers acknowledge is held against it. Where somebody else has written after all,
// readers must not get a record that counts too little: it is all written once more, in another transaction.
func (p *Publisher) write(ctx context.Context, pr *record.Progress) error {
	vector, foretold := p.vector(pr, true)
	if !foretold {
		if err := p.flush(ctx); err != nil {
			return err
		}
		vector, _ = p.vector(pr, false)
	}
	if err := p.writeProgress(ctx, pr, vector); err != nil || !foretold {
		return err
	}
	got, _ := p.vector(pr, false)
	if name, i, ok := unended(vector, got); ok {
		p.log.Warn("Kafka has left a transaction without an end; it is ended now", "topic", name, "partition", i, "as", "commit", "published", change.LSN(pr.EndLSN))
		return nil
	}
	if !maps.EqualFunc(vector, got, slices.Equal) {
		p.log.Warn("somebody else has written to our topics; a Kafka transaction is written once more")
		return p.writeAgain(ctx, pr)
	}
	return nil
}

// unended finds a partition in which the transaction before has no end (see hanging): the marker is not there that was
// foretold. The open transaction will end it there too, so it must not be aborted: what was acknowledged would go with it. That
// its progress counts the marker which is not there is nothing to readers, as its own marker is at that place.
func unended(foretold, got map[string][]int64) (name string, partition int, ok bool) {
	for name, next := range foretold {
		for i := range next {
			if got[name][i] == next[i]-1 {
				return name, i, true
			}
		}
	}
	return "", 0, false
}

func (p *Publisher) writeAgain(ctx context.Context, pr *record.Progress) error {
	if err := p.endTransaction(ctx, kgo.TryAbort); err != nil {
		return kafka.Trouble("abort a transaction for", fmt.Sprintf("source %q", p.source), err)
	}
	<-p.Over()
	if err := p.beginTransaction(); err != nil {
		return err
	}
	p.memory.all(func(r *kgo.Record) { p.client.Produce(ctx, r, p.promise) })
	if err := p.flush(ctx); err != nil {
		return err
	}
	vector, _ := p.vector(pr, false)
	return p.writeProgress(ctx, pr, vector)
}

func (p *Publisher) writeProgress(ctx context.Context, pr *record.Progress, vector map[string][]int64) error {
	r, err := p.progressRecord(pr, vector)
	if err != nil {
		return err
	}
	p.client.Produce(ctx, r, p.promise)
	return p.flush(ctx)
}

func (p *Publisher) progressRecord(pr *record.Progress, vector map[string][]int64) (*kgo.Record, error) {
	pr.Source, pr.N, pr.WrittenAt, pr.Vector = p.source, p.n+1, time.Now().UnixMicro(), vector
	value, err := pr.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode progress of source %q: %w", p.source, err)
	}
	return &kgo.Record{Topic: record.ProgressTopic(p.source), Key: []byte(pr.Key()), Value: value}, nil
}

// flush waits until everything is acknowledged, or nothing can be committed any more: when a record was not taken, or when
// the brokers have ended the transaction, as they do after its timeout. It does not wait for all the others then. franz-go
// (1.22) may never say what became of some of them where another producer has fenced this one, and another one that.
func (p *Publisher) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	defer context.AfterFunc(p.sound, cancel)()
	err := p.client.Flush(ctx)
	if failed := p.failed(); failed != nil {
		return failed
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("not everything of a transaction was acknowledged within publish.transaction_timeout, %s: %w", p.limit, err)
	}
	if err != nil {
		return kafka.Trouble("flush to", "Kafka", err)
	}
	return nil
}

// vector gives the next offset of each partition of the topics that pr is about: all of them if it is a full one. With ahead
// what was sent need not be acknowledged: known is false where it cannot be foretold where that will be, as before the first
// transaction with something in a partition, and where records go without a transaction.
func (p *Publisher) vector(pr *record.Progress, ahead bool) (v map[string][]int64, known bool) {
	if ahead && p.direct != nil {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	v = map[string][]int64{}
	reached := pr.Reached()
	for name, top := range p.known {
		top.mend(reached)
		if !pr.Full && !top.touched && !slices.ContainsFunc(top.sent, func(n int64) bool { return n > 0 }) {
			continue
		}
		next := slices.Clone(top.next)
		for i, sent := range top.sent {
			if !ahead || sent == 0 {
				continue
			}
			if top.ends[i] == 0 {
				return nil, false
			}
			next[i] = top.ends[i] + sent
		}
		v[name] = next
	}
	return v, true
}

// committed notes where the next records will be: behind what was committed, and its marker.
func (p *Publisher) committed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, top := range p.known {
		top.touched = false
		for i, sent := range top.sent {
			if sent > 0 {
				top.ends[i], top.sent[i] = top.next[i]+1, 0
			}
		}
	}
}
