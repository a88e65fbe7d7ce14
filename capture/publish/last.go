package publish

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/schema/record"
)

// Last takes back what is not committed, and writes the newest progress record once more, with the health that the caller gives it: the
// last word of this Publisher, which publishes nothing any more. Its vector stays as it is, so that whatever stands behind it is seen by
// the next Resume as if nothing had been said.
//
// It is the producer of this Publisher that writes it: where a newer instance has taken over, that one is not fenced, and the brokers refuse
// this one. Nothing is said, and nobody misses it, where the brokers have refused something or connections to them have ended: what they
// hold then is for the next Resume to settle (see afterInterruption).
func (p *Publisher) Last(ctx context.Context, say func(*record.Progress)) error {
	if err := p.failed(); err != nil {
		return err
	}
	if p.interruption.seen.Load() {
		return errors.New("a connection to the brokers has ended meanwhile")
	}
	if p.inTx {
		if err := p.client.AbortBufferedRecords(ctx); err != nil {
			return kafka.Trouble("take back changes of", fmt.Sprintf("source %q", p.source), err)
		}
		if err := p.endTransaction(ctx, kgo.TryAbort); err != nil {
			return kafka.Trouble("abort a transaction for", fmt.Sprintf("source %q", p.source), err)
		}
		p.open, p.inTx = false, false
	}
	<-p.Over()
	reader := &Publisher{source: p.source, client: p.client, reading: p.reading, log: p.log}
	name := record.ProgressTopic(p.source)
	ends, err := reader.ends(ctx, name)
	if err != nil {
		return err
	}
	pr, err := reader.readProgress(ctx, ends[name][0])
	if err != nil {
		return err
	}
	if pr == nil || pr.N != p.n {
		return errors.New("the newest progress record is another one")
	}
	pr.Full, pr.Fences = true, nil
	say(pr)
	if err := p.beginTransaction(); err != nil {
		return err
	}
	r, err := p.progressRecord(pr, pr.Vector)
	if err != nil {
		return err
	}
	if err := p.client.ProduceSync(ctx, r).FirstErr(); err != nil { // not as Commit does: what was taken back has spoiled that
		return kafka.Trouble("produce to", fmt.Sprintf("topic %q", name), err)
	}
	if err := p.endTransaction(ctx, kgo.TryCommit); err != nil {
		return kafka.Trouble("commit a transaction for", fmt.Sprintf("source %q", p.source), err)
	}
	p.inTx, p.n = false, pr.N
	return nil
}
