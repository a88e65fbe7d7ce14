package publish

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// What became of a record may never be known. A commit waits for it neither where another one was refused, nor for longer
// than the brokers keep the transaction.
func TestFlushEnds(t *testing.T) {
	for _, c := range []struct {
		name    string
		refuses bool // the broker that answers
		timeout time.Duration
		code    trouble.Code
	}{
		{"refused", true, time.Minute, trouble.Fenced},
		{"too late", false, 2 * time.Second, trouble.KafkaUnreachable},
	} {
		t.Run(c.name, func(t *testing.T) {
			fake := kafkatest.Fake(t, kfake.NumBrokers(2))
			l := newLeaky(t, fake)
			const answers, silent = 0, 1
			l.must(fake.Kfake().MoveTopicPartition(l.tables[answers], 0, answers))
			l.must(fake.Kfake().MoveTopicPartition(l.tables[silent], 0, silent))
			told := make(chan struct{})
			t.Cleanup(func() { close(told) })
			fake.Kfake().ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
				fake.Kfake().KeepControl()
				if fake.Kfake().CurrentNode() == silent {
					fake.Kfake().SleepControl(func() { <-told })
				}
				if !c.refuses {
					return nil, nil, false
				}
				req := q.(*kmsg.ProduceRequest)
				res := req.ResponseKind().(*kmsg.ProduceResponse)
				for _, topic := range req.Topics {
					res.Topics = append(res.Topics, kmsg.ProduceResponseTopic{
						Topic: topic.Topic, TopicID: topic.TopicID,
						Partitions: []kmsg.ProduceResponseTopicPartition{{ErrorCode: kerr.InvalidProducerEpoch.Code, BaseOffset: -1, LogAppendTime: -1}},
					})
				}
				return res, nil, true
			})

			l.options.TransactionTimeout = c.timeout
			p, err := Open(t.Context(), l.options)
			l.must(err)
			defer p.Close()
			l.must(p.begin(t.Context()))
			for _, topic := range l.tables[:2] {
				p.client.Produce(t.Context(), &kgo.Record{Topic: topic, Value: []byte("x")}, p.promise)
			}
			begun := time.Now()
			err = p.flush(t.Context())
			if known, ok := errors.AsType[*trouble.Error](err); !ok || known.Code != c.code {
				t.Errorf("flush gave %v, want code %s", err, c.code)
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("flush waited for %s", took)
			}
		})
	}
}
