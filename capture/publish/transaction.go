package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/schema/record"
)

func (p *Publisher) begin(ctx context.Context) error {
	if !p.open {
		if err := p.afterInterruption(ctx); err != nil {
			return err
		}
		p.open, p.began, p.bytes = true, time.Now(), 0
	}
	if p.inTx || p.direct != nil {
		return nil
	}
	return p.beginTransaction()
}

func (p *Publisher) beginTransaction() error {
	if err := p.client.BeginTransaction(); err != nil {
		return kafka.Trouble("begin a transaction for", fmt.Sprintf("source %q", p.source), err)
	}
	p.inTx = true
	return nil
}

// endTransaction ends the Kafka transaction; what comes next waits for the brokers, see Over.
func (p *Publisher) endTransaction(ctx context.Context, how kgo.TransactionEndTry) error {
	if err := p.awaitPartitions(ctx); err != nil {
		return err
	}
	err := p.client.EndTransaction(ctx, how)
	p.ended, p.over = time.Now(), nil
	return err
}

// Together makes what is published from here to the next Commit one Kafka transaction with its progress record, as
// everything is where Direct is not set. It is for what another instance would not publish again as it is: its positions
// or its place depend on when this one came to it. So it must not be there without its progress, nor after another
// instance has fenced this one. Rows of snapshots go so by themselves.
func (p *Publisher) Together(ctx context.Context) error {
	if p.direct == nil || p.inTx {
		return nil
	}
	if err := p.direct.flush(ctx); err != nil { // in each partition it comes before
		return err
	}
	if err := p.begin(ctx); err != nil {
		return err
	}
	return p.beginTransaction()
}

// Hidden says whether something was published that readers do not get before the next Commit.
func (p *Publisher) Hidden() bool { return p.inTx }

// Visible gives when readers had the first of what the last Commit was about.
func (p *Publisher) Visible() time.Time { return p.visible }

// Open says whether a Kafka transaction is under way, since when, and how many bytes it holds.
func (p *Publisher) Open() (open bool, since time.Time, bytes int64) { return p.open, p.began, p.bytes }

// FullDue says whether the next progress record should be a full one, for which the caller gives all tables.
func (p *Publisher) FullDue() bool {
	return p.sinceFull >= record.FullEvery || time.Since(p.lastFull) > fullInterval
}

const fullInterval = 5 * time.Minute

// N gives the number of the newest progress record that is known to be there: read by Resume, or written by Commit.
func (p *Publisher) N() uint64 { return p.n }

// Ask returns when the broker answers that ends the source's transactions: without it nothing is published, whoever else
// answers.
func (p *Publisher) Ask(ctx context.Context) error {
	request := kmsg.NewPtrDescribeTransactionsRequest()
	request.TransactionalIDs = []string{TransactionalID(p.source)}
	_, err := request.RequestWith(ctx, p.client)
	if err == nil || ctx.Err() != nil || !retry.Transient(err) {
		return nil // one that does not know the request answers, too
	}
	return kafka.Trouble("ask", "Kafka", err)
}

// Commit makes everything produced since the last Commit, and pr with it, visible at once. Vector, N, Source and
// WrittenAt of pr are filled here; Full says what the caller has put into Tables. After an error the Publisher is of
// no more use: whether the transaction was committed only the next Resume can tell.
func (p *Publisher) Commit(ctx context.Context, pr *record.Progress) error {
	if err := p.Together(ctx); err != nil { // what went without is acknowledged before the progress is written that counts it
		return err
	}
	if err := p.begin(ctx); err != nil { // a progress record alone is a transaction too
		return err
	}
	<-p.Over()
	if err := p.write(ctx, pr); err != nil {
		return err
	}
	produced := time.Now()
	if err := p.endTransaction(ctx, kgo.TryCommit); err != nil {
		if errors.Is(err, kerr.InvalidTxnState) {
			// The transaction is aborted already, and not by us: that is how a broker answers (KIP-890) where a newer
			// instance has taken over in the middle of it.
			err = fmt.Errorf("%w (%w)", kerr.ProducerFenced, err)
		}
		return kafka.Trouble("commit a transaction for", fmt.Sprintf("source %q", p.source), err)
	}
	if p.mark != nil {
		p.mark.trace.Part("produce", p.began, produced)
		p.mark.trace.Part("commit", produced, time.Now())
		p.mark = nil
	}
	p.committed()
	p.open, p.inTx, p.n = false, false, pr.N
	p.sinceFull++
	if pr.Full {
		p.sinceFull, p.lastFull = 0, time.Now()
	}
	p.memory.reset()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.visible = p.acked; p.visible.IsZero() {
		p.visible = time.Now()
	}
	p.acked = time.Time{}
	return nil
}
