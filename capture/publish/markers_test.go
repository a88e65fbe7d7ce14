package publish

import (
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/schema/record"
)

// A transaction is not begun at the brokers before they are done with the one before; nor is it where they do not say so.
func TestMarkersAreAwaited(t *testing.T) {
	const rounds, writing = 40, 3 // transactions; how often the broker says that it still writes the markers
	was := markersLimit
	markersLimit = time.Minute // on a busy machine four answers take longer than markers do
	t.Cleanup(func() { markersLimit = was })
	var mu sync.Mutex
	asked, early, refuses := 0, 0, false
	fake := kafkatest.Fake(t)
	control := func(key kmsg.Key, take func(kmsg.Request) kmsg.Response) {
		fake.Kfake().ControlKey(int16(key), func(q kmsg.Request) (kmsg.Response, error, bool) {
			fake.Kfake().KeepControl()
			mu.Lock()
			defer mu.Unlock()
			r := take(q)
			return r, nil, r != nil
		})
	}
	control(kmsg.DescribeTransactions, func(q kmsg.Request) kmsg.Response {
		r := kmsg.NewPtrDescribeTransactionsResponse()
		state := kmsg.NewDescribeTransactionsResponseTransactionState()
		state.TransactionalID = q.(*kmsg.DescribeTransactionsRequest).TransactionalIDs[0]
		if asked++; refuses {
			state.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		} else if state.State = "PrepareCommit"; asked > writing {
			state.State = "CompleteCommit"
		}
		r.TransactionStates = append(r.TransactionStates, state)
		return r
	})
	control(kmsg.Produce, func(kmsg.Request) kmsg.Response {
		if asked <= writing {
			early++
		}
		return nil
	})
	control(kmsg.EndTxn, func(kmsg.Request) kmsg.Response { asked = 0; return nil })

	l := newLeaky(t, fake)
	p, err := Open(t.Context(), l.options)
	l.must(err)
	defer p.Close()
	for range rounds {
		l.must(p.Commit(t.Context(), &record.Progress{}))
	}
	mu.Lock()
	if early > 1 { // the first has none before it
		t.Errorf("%d of %d transactions began while the markers of the one before were written", early, rounds)
	}
	refuses = true
	mu.Unlock()
	l.must(p.Commit(t.Context(), &record.Progress{}))
	<-p.Over()
	l.must(p.Commit(t.Context(), &record.Progress{}))
}
