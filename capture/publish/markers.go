package publish

import (
	"context"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// Over is closed when the brokers are done with the last Kafka transaction. Before that Commit waits for it, and what is
// published meanwhile is in time for the next one.
//
// Its end is acknowledged when the coordinator has noted it; only then are the markers written, in a millisecond or two. A
// batch of the next transaction that comes before that is held up: the broker, which adds its partition to the transaction,
// is refused, and asks again after add.partitions.to.txn.retry.backoff.ms, 20 ms unless set otherwise (KIP-890). That was
// most of the time that a small change took. Where it cannot be asked for, or takes longer, it is the broker that waits.
func (p *Publisher) Over() <-chan struct{} {
	if p.over == nil {
		p.over = make(chan struct{})
		if left := markersLimit - time.Since(p.ended); left > 0 {
			go p.awaitMarkers(left, p.over)
		} else { // a source that changes little does not ask
			close(p.over)
		}
	}
	return p.over
}

// awaitMarkers closes over when the brokers are done with the transaction that was ended last, or after limit.
func (p *Publisher) awaitMarkers(limit time.Duration, over chan<- struct{}) {
	defer close(over)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	id, admin := TransactionalID(p.source), kadm.NewClient(p.client)
	for {
		described, err := admin.DescribeTransactions(ctx, id)
		if err != nil || !strings.HasPrefix(described[id].State, "Prepare") {
			return
		}
		time.Sleep(markersPause)
	}
}

const markersPause = 500 * time.Microsecond

var markersLimit = 20 * time.Millisecond // a test sets it
