package sink_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

func TestTopicTruncated(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r, other := relation("t", "id integer key"), relation("other", "id integer key")
	shop.tx(many(10, func(i int) event { return ins(r, i) })...)
	deleteRecords(t, shop, "shop.public.t", 5)
	shop.tx(ins(other, 1))
	w.start(w.cfg)
	w.rows(`SELECT code, topic, message LIKE '%the first offset that is left is 5', hint LIKE '%next_offset in tributary.checkpoint to 5,%' FROM tributary.quarantine`, "topic-truncated|shop.public.t|t|t")
	w.rows(`SELECT id FROM public.other`, "1")
	w.rows(`SELECT to_regclass('public.t')`, "∅")
}

// TestTopicMadeAnew: what the new topic holds does not follow on what was applied.
func TestTopicMadeAnew(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r, other := relation("t", "id integer key"), relation("other", "id integer key")
	shop.tx(ins(r, 1), ins(r, 2))
	w.start(w.cfg)
	w.complete(shop)
	deleteTopic(t, shop, "shop.public.t")
	lsn, n := shop.lsn, shop.n
	shop = w.source("shop") // the client before sticks to the topic before
	shop.lsn, shop.n = lsn, n
	shop.tx(ins(r, 7), ins(r, 8), ins(r, 9), ins(r, 10), ins(other, 1))
	w.rows(`SELECT code FROM tributary.quarantine`, "topic-recreated")
	w.rows(`SELECT id FROM public.other`, "1")
	// Letting it go on without a decision about the checkpoint changes nothing.
	attempt := w.query(`SELECT attempt FROM tributary.quarantine`)
	w.exec(`DELETE FROM tributary.quarantine`)
	w.eventually(true, func() any {
		now := w.query(`SELECT attempt FROM tributary.quarantine`)
		return len(now) == 1 && now[0] != attempt[0]
	})
	w.rows(`SELECT id FROM public.t ORDER BY id`, "1", "2")
	w.exec(`DELETE FROM tributary.checkpoint WHERE topic = 'shop.public.t'; DELETE FROM tributary.quarantine`)
	w.rows(`SELECT id FROM public.t ORDER BY id`, "1", "2", "7", "8", "9", "10")
}

// TestPartitionsAdded: a topic that has got partitions is held, also by who starts after that and finds nothing else, until somebody has it go on.
func TestPartitionsAdded(t *testing.T) {
	w := newWorld(t)
	shop := w.source("shop")
	r := relation("t", "id integer key")
	shop.tx(ins(r, 1))
	s := w.start(w.cfg)
	w.complete(shop)
	if _, err := kadm.NewClient(shop.client).CreatePartitions(t.Context(), 2, "shop.public.t"); err != nil {
		t.Fatal(err)
	}
	w.rows(`SELECT code, message FROM tributary.quarantine WHERE partition = 0`, `topic-partitions-changed|go on with topic "shop.public.t": it had 1 partitions and has 3`)
	s.stop()
	before := w.query(`SELECT attempt FROM tributary.quarantine WHERE partition = 0`)
	shop.tx(ins(r, 2))
	w.start(w.cfg)
	w.eventually(true, func() any {
		now := w.query(`SELECT attempt FROM tributary.quarantine WHERE partition = 0`)
		return len(now) == 1 && now[0] != before[0]
	})
	w.rows(`SELECT DISTINCT code, message FROM tributary.quarantine`, `topic-partitions-changed|go on with topic "shop.public.t": it had 1 partitions and has 3`)
	w.rows(`SELECT id FROM public.t`, "1")
	if _, err := w.operator().Resume(t.Context(), warehouse.Going{Source: "shop"}); err != nil {
		t.Fatal(err)
	}
	w.complete(shop)
	w.rows(`SELECT id FROM public.t ORDER BY 1`, "1", "2")
}

// termsOf has a broker say where the terms of shop.public.t end; those of all other topics are whole.
func termsOf(cluster *kafkatest.FakeCluster, says func(*kmsg.OffsetForLeaderEpochResponseTopicPartition)) {
	cluster.Kfake().ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(q kmsg.Request) (kmsg.Response, error, bool) {
		cluster.Kfake().KeepControl()
		request := q.(*kmsg.OffsetForLeaderEpochRequest)
		response := request.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		for _, topic := range request.Topics {
			answer := kmsg.NewOffsetForLeaderEpochResponseTopic()
			answer.Topic = topic.Topic
			for _, p := range topic.Partitions {
				one := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				one.Partition, one.LeaderEpoch, one.EndOffset = p.Partition, p.LeaderEpoch, 1<<40
				if topic.Topic == "shop.public.t" {
					says(&one)
				}
				answer.Partitions = append(answer.Partitions, one)
			}
			response.Topics = append(response.Topics, answer)
		}
		return response, nil, true
	})
}

// TestTopicThatLostItsEnd: a broker that has lost the end of a topic gives its offsets once more. A sink that was away meanwhile does not take what
// stands behind its checkpoint for what comes next, however often it is told to go on, until somebody has moved the checkpoint.
func TestTopicThatLostItsEnd(t *testing.T) {
	for _, consistency := range []string{"", "source"} {
		t.Run(consistency, func(t *testing.T) {
			cluster := kafkatest.Fake(t)
			w := newWorldOn(t, cluster)
			w.cfg.Sources = []rule.Source{{Name: "*", Consistency: consistency}}
			shop := w.source("shop")
			r := relation("t", "id integer key")
			s := w.start(w.cfg)
			shop.tx(many(10, func(i int) event { return ins(r, i) })...)
			w.complete(shop)
			s.stop()
			termsOf(cluster, func(end *kmsg.OffsetForLeaderEpochResponseTopicPartition) { end.EndOffset = 5 })
			shop.tx(ins(r, 10))
			w.start(w.cfg)
			attempt := ""
			for range 3 {
				w.eventually(true, func() any {
					now := w.query(`SELECT code || attempt FROM tributary.quarantine WHERE message LIKE '%the broker lost what was behind offset 5; the first offset that is left is 0'`)
					if len(now) == 1 && now[0] != attempt {
						attempt = now[0]
						return true
					}
					return false
				})
				w.exec(`DELETE FROM tributary.quarantine`)
			}
			w.rows(`SELECT count(*) FROM public.t`, "10")
			w.exec(`UPDATE tributary.checkpoint SET next_offset = 0 WHERE topic = 'shop.public.t'; DELETE FROM tributary.quarantine`)
			w.rows(`SELECT count(*) FROM public.t`, "11")
			w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
		})
	}
}

// TestClaimOfATopicNotKnownIsHeld: a partition whose topic is not known waits until it is, whatever was applied of it, and nothing is said of records that were lost: the
// topic may be another one, which begins anew.
func TestClaimOfATopicNotKnownIsHeld(t *testing.T) {
	cluster := kafkatest.Fake(t)
	w := newWorldOn(t, cluster)
	shop := w.source("shop")
	s := w.start(w.cfg)
	shop.tx(many(10, func(i int) event { return ins(relation("t", "id integer key"), i) })...)
	w.complete(shop)
	termsOf(cluster, func(end *kmsg.OffsetForLeaderEpochResponseTopicPartition) { end.EndOffset = 5 })
	for _, topic := range []string{"shop.public.t", "shop.public.fresh"} {
		if held, err := s.ClaimUnknown(t.Context(), topic); !held || err != nil {
			t.Errorf("%s is held: %t, %v", topic, held, err)
		}
	}
}

// TestTermsOfASilentBroker: a broker that does not answer does not keep another one from being asked where a topic begins that has lost its end.
func TestTermsOfASilentBroker(t *testing.T) {
	t.Parallel() // it waits most of its time
	cluster := kafkatest.Fake(t, kfake.NumBrokers(2))
	w := newWorldOn(t, cluster)
	shop := w.source("shop")
	r, other := relation("t", "id integer key"), relation("other", "id integer key")
	shop.table(r, 1)
	shop.table(other, 1)
	for topic, node := range map[string]int32{"shop.public.t": 0, "shop.public.other": 1} {
		if err := cluster.Kfake().MoveTopicPartition(topic, 0, node); err != nil {
			t.Fatal(err)
		}
	}
	s := w.start(w.cfg)
	shop.tx(many(10, func(i int) event { return ins(r, i) })...)
	shop.tx(ins(other, 1))
	w.complete(shop)
	s.stop()
	cluster.Kfake().ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.Kfake().KeepControl()
		return nil, nil, cluster.Kfake().CurrentNode() == 1
	})
	termsOf(cluster, func(end *kmsg.OffsetForLeaderEpochResponseTopicPartition) { end.EndOffset = 5 })
	w.start(w.cfg)
	w.rows(`SELECT topic, message LIKE '%the broker lost what was behind offset 5; the first offset that is left is 0' FROM tributary.quarantine`, "shop.public.t|t")
}

// TestTermsThatKafkaDoesNotTell: a partition without a leader keeps no other from going on. What it has lost is noticed once there is one.
func TestTermsThatKafkaDoesNotTell(t *testing.T) {
	t.Parallel() // it waits most of its time
	cluster := kafkatest.Fake(t)
	w := newWorldOn(t, cluster)
	shop := w.source("shop")
	r, other := relation("t", "id integer key"), relation("other", "id integer key")
	s := w.start(w.cfg)
	shop.tx(ins(r, 1), ins(other, 1))
	w.complete(shop)
	s.stop()
	var says, asked atomic.Int32 // a code for shop.public.t; 0: its end is lost
	says.Store(int32(kerr.LeaderNotAvailable.Code))
	termsOf(cluster, func(end *kmsg.OffsetForLeaderEpochResponseTopicPartition) {
		asked.Add(1)
		if end.ErrorCode, end.EndOffset = int16(says.Load()), -1; end.ErrorCode == 0 { //nolint:gosec // one of Kafka's
			end.EndOffset = 0
		}
	})
	shop.tx(ins(r, 2), ins(other, 2))
	w.start(w.cfg)
	w.rows(`SELECT count(*) FROM public.other`, "2")
	w.rows(`SELECT count(*) FROM public.t`, "1")
	says.Store(0)
	w.rows(`SELECT topic, code FROM tributary.quarantine`, "shop.public.t|topic-truncated")
	// Nor does it where it is tried again, and the sink goes on looking.
	for n, c := range []struct {
		first, then int16
		is          string
	}{
		{kerr.LeaderNotAvailable.Code, 0, "topic-truncated"},
		{kerr.TopicAuthorizationFailed.Code, kerr.TopicAuthorizationFailed.Code, "kafka-not-authorised"},
	} {
		says.Store(int32(c.first))
		asked.Store(0)
		w.exec(`DELETE FROM tributary.quarantine`)
		w.eventually(true, func() any { return asked.Load() > 0 })
		now := w.query(`SELECT clock_timestamp()`)[0]
		shop.tx(ins(other, 3+n))
		w.rows(`SELECT count(*) FROM public.other`, fmt.Sprint(3+n))
		w.rows(`SELECT max(seen_at) > '`+now+`' FROM tributary.member`, "t")
		says.Store(int32(c.then))
		w.rows(`SELECT topic, code FROM tributary.quarantine`, "shop.public.t|"+c.is)
	}
	w.rows(`SELECT count(*) FROM public.t`, "1")
}
