package publish

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// interruption notes that a connection to a broker has ended: it may have broken down.
type interruption struct{ seen atomic.Bool }

// OnBrokerDisconnect is kgo.HookBrokerDisconnect.
func (i *interruption) OnBrokerDisconnect(kgo.BrokerMetadata, net.Conn) { i.seen.Store(true) }

// afterInterruption makes sure, after an interruption, that what was acknowledged has its end, before anything is published
// behind it. What would break it:
//
//   - a broker acknowledges that A is committed, and breaks down before A's marker is in one of its partitions. It leaves
//     A hanging there (see hanging);
//   - the client connects again, and transaction B goes into the same partition;
//   - B is aborted, as this process or the source breaks down. B's marker ends A there, too: it is lost in that partition.
//
// And where there is no B for long, readers do not get A. So the session ends, and the next one settles A while nothing is
// behind it. There is no Kafka transaction open here.
func (p *Publisher) afterInterruption(ctx context.Context) error {
	if !p.interruption.seen.Swap(false) {
		return nil
	}
	s := &survey{}
	if err := p.awaitEnds(ctx, s, endsPatience); err != nil {
		return err
	}
	switch {
	case len(s.hanging) > 0:
		return p.withoutEnd(s.hanging, "a connection to the brokers ended meanwhile")
	case s.lacking != "":
		return &trouble.Error{
			Code: trouble.KafkaProduce, Op: "publish", Subject: fmt.Sprintf("changes of source %q", p.source),
			Cause: fmt.Errorf("%s: %w", s.lacking, kerr.ConcurrentTransactions), // with the word of a broker that has us look again
			Means: "nothing was written since", Hint: "it is looked at again",
		}
	}
	return nil
}
