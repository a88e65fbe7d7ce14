package sink_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// TestBrokers runs what depends on the broker's behaviour (membership, transactions, markers, partitions) on the fake
// and on Apache Kafka.
func TestBrokers(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, cluster kafkatest.Cluster) {
		w := newWorldOn(t, cluster)
		name := kafkatest.Name(t) // the broker is shared
		w.cfg.Group = name
		w.cfg.Sources = []rule.Source{{Name: name}}
		shop := w.source(name)
		r, log := relation("t", "id integer key", "big text"), relation("log", "id integer")
		shop.table(r, 4)
		shop.table(log, 1)
		one, two := w.start(w.cfg), w.start(w.cfg)
		const n = 40
		shop.tx(ins(r, -1, "BIG"))
		w.eventually(true, func() any { return one.Status().Partitions > 0 && two.Status().Partitions > 0 })
		for i := range n {
			shop.tx(ins(r, i, "BIG"), upd(r, i, keep), ins(log, i))
			switch i {
			case 10:
				shop.tx(trunc(r))
			case 20:
				one.stop()
			case 30:
				one = w.start(w.cfg)
			}
		}
		shop.tx(move(r, []any{n - 1}, n-1+1000, "BIG")...)
		w.complete(shop)
		w.rows(`SELECT count(*), min(id), max(id), string_agg(DISTINCT big, ',') FROM public.t`, fmt.Sprintf("%d|11|%d|BIG", n-11, n+999))
		w.rows(`SELECT count(*), count(DISTINCT id) FROM public.log`, fmt.Sprintf("%d|%d", n, n))
		// Read to the end, no tool sees a lag: the last record is a commit marker.
		end := logEnd(t, shop, name+".public.log")
		w.eventually(end, func() any { return committedOffset(t, shop, name, name+".public.log") })
		// Who asks the warehouse is told whether there is a sink at all.
		o := w.operator()
		state := func() any {
			r, err := o.Ask(t.Context(), w.cfg, service.Whom{Direct: true})
			if err != nil {
				return err
			}
			sentence, _, _ := strings.Cut(r.Sentence(), ":")
			return r.State + ": " + sentence
		}
		one.stop()
		w.eventually("up_to_date: "+name+" is healthy", state)
		two.stop()
		w.eventually("not_running: "+name+" is not running", state)
	})
}

// A sink that is told to stop while its group stands in a rebalance does not wait for it to end: another member may
// have been killed, and the broker may wait for that one for a minute.
func TestStopInRebalance(t *testing.T) {
	t.Parallel() // it waits most of its time
	cluster := kafkatest.Fake(t)
	w := newWorldOn(t, cluster)
	shop := w.source("shop")
	shop.table(relation("t", "id integer key"), 1)
	asked, answer := make(chan struct{}, 16), make(chan struct{})
	defer close(answer)
	cluster.Kfake().ControlKey(int16(kmsg.JoinGroup), func(kmsg.Request) (kmsg.Response, error, bool) {
		asked <- struct{}{}
		cluster.Kfake().SleepControl(func() { <-answer })
		return nil, nil, false
	})
	s := w.start(w.cfg)
	<-asked
	begun := time.Now()
	s.stop()
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestMemberThatIsGone: somebody has joined the group and is not heard of again. A sink that joins does not wait for it much
// longer than a session: one on Kafka, two and some seconds on the fake.
func TestMemberThatIsGone(t *testing.T) {
	t.Parallel() // it waits most of its time
	kafkatest.Each(t, func(t *testing.T, cluster kafkatest.Cluster) {
		w := newWorldOn(t, cluster)
		name := kafkatest.Name(t)
		w.cfg.Group = name
		w.cfg.Sources = []rule.Source{{Name: name}}
		shop := w.source(name)
		shop.table(relation("t", "id integer key"), 4)
		one := w.start(w.cfg)
		w.eventually(5, func() any { return one.Status().Partitions })
		metadata := kmsg.NewConsumerMemberMetadata()
		metadata.Version = 1
		join := kmsg.NewPtrJoinGroupRequest()
		join.Group, join.ProtocolType = w.cfg.Group, "consumer"
		join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = 120_000, 1_000
		join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "cooperative-sticky", Metadata: metadata.AppendTo(nil)}}
		for {
			joined, err := join.RequestWith(t.Context(), shop.client)
			if err != nil {
				t.Fatal(err)
			}
			if err := kerr.ErrorForCode(joined.ErrorCode); err == nil {
				break
			} else if !errors.Is(err, kerr.MemberIDRequired) {
				t.Fatal(err)
			}
			join.MemberID = joined.MemberID
		}
		begin := time.Now()
		two := w.start(w.cfg)
		w.eventually(true, func() any { return two.Status().Partitions > 0 && one.Status().Partitions+two.Status().Partitions == 5 })
		t.Logf("took %v", time.Since(begin))
	})
}
