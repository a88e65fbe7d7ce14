package publish

import (
	"slices"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/schema/record"
)

// A transaction that was ended before the client had noted the partitions of a new topic was not committed, or left the next
// one there without an end.
func TestPartitionsAreAwaited(t *testing.T) {
	var mu sync.Mutex
	late, early := map[string]int{}, []string(nil) // how often a topic's partitions are still to be unknown
	was := partitionLeader
	t.Cleanup(func() { partitionLeader = was })
	partitionLeader = func(client *kgo.Client, topic string, partition int32) (int32, int32, error) {
		mu.Lock()
		defer mu.Unlock()
		if late[topic] > 0 {
			late[topic]--
			return -1, -1, nil
		}
		return was(client, topic, partition)
	}
	fake := kafkatest.Fake(t)
	fake.Kfake().ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		mu.Lock()
		defer mu.Unlock()
		for topic, n := range late {
			if n > 0 && !slices.Contains(early, topic) {
				early = append(early, topic)
			}
		}
		return nil, nil, false
	})
	l := newLeaky(t, fake)
	late[l.progress] = 20
	p, err := Open(t.Context(), l.options)
	l.must(err)
	defer p.Close()
	l.must(p.Commit(t.Context(), &record.Progress{Full: true})) // progress alone, as capture begins

	topic := newTopic(l.tables[0], 1)
	mu.Lock()
	late[topic.name] = 20
	mu.Unlock()
	p.known[topic.name] = topic
	l.must(p.begin(l.t.Context()))
	p.send(t.Context(), topic, &kgo.Record{Topic: topic.name, Value: []byte("x")})
	l.must(p.Commit(t.Context(), &record.Progress{}))
	mu.Lock()
	defer mu.Unlock()
	if len(early) > 0 {
		t.Errorf("transactions were ended before the client knew the partitions of %v", early)
	}
	if late[l.progress]+late[topic.name] > 0 {
		t.Errorf("%v has not been asked for", late)
	}
}
