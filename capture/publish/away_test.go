package publish

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
)

// begun is a Publisher that has claimed the source as capture does, and what it found.
func (l *leaky) begun() (*Publisher, *State) {
	l.t.Helper()
	p, err := Open(l.t.Context(), l.options)
	l.must(err)
	l.t.Cleanup(p.Close)
	state, err := p.Resume(l.t.Context())
	l.must(err)
	mine := *state.Progress
	mine.Full = true
	l.must(p.Commit(l.t.Context(), &mine))
	return p, state
}

// shortly has topics waited for for a moment, and gives what is told of that.
func (l *leaky) shortly() *[]*trouble.Error {
	patience, blink := listPatience, listBlink
	listPatience, listBlink = 500*time.Millisecond, time.Millisecond
	l.t.Cleanup(func() { listPatience, listBlink = patience, blink })
	told := new([]*trouble.Error)
	l.options.Waits = func(what *trouble.Error) { *told = append(*told, what) }
	return told
}

func relationOf(topic string) *schema.Relation {
	_, schemaName, table, _ := record.ParseTopic(topic)
	return &schema.Relation{Schema: schemaName, Name: table, Key: []int{0}, Columns: []schema.Column{{Name: "id", Type: schema.Type{OID: schema.OIDInt4, Name: "integer"}}}}
}

// delete deletes a topic. It is gone when the broker does not list it any more: Kafka answers when its controller has noted that, of which
// the broker hears a moment later, and whoever describes the topic meanwhile finds it.
func (l *leaky) delete(topic string) {
	l.t.Helper()
	deleted, err := kadm.NewClient(l.raw).DeleteTopics(l.t.Context(), topic)
	l.must(err)
	l.must(deleted.Error())
	ask := kmsg.NewPtrMetadataRequest() // not kadm, which may answer from what the client remembers
	ask.Topics = []kmsg.MetadataRequestTopic{{Topic: &topic}}
	for {
		answer, err := ask.RequestWith(l.t.Context(), l.raw)
		l.must(err)
		if answer.Topics[0].ErrorCode == kerr.UnknownTopicOrPartition.Code {
			return
		}
	}
}

// A topic that somebody has deleted is waited for once. It was waited for at each start; and where it had been made anew, empty, it was lacking at
// the start after that, which stopped the source.
func TestDeletedTopic(t *testing.T) {
	eachLeaky(t, func(t *testing.T, l *leaky) {
		told := l.shortly()
		l.begin()
		l.write(tx{tables: []int{0, 1}, commit: true})
		l.write(tx{tables: []int{0, 1}, commit: true})
		l.delete(l.tables[0])
		p, state := l.begun()
		if len(*told) != 2 || (*told)[0].Code != trouble.TopicRecreated || state.Lacking != "" {
			t.Fatalf("told of %v, lacking %q", *told, state.Lacking)
		}
		p.Close()

		p, state = l.begun() // of a table that is gone as well
		if len(*told) != 2 || state.Lacking != "" || !slices.Equal(state.Progress.Vector[l.tables[0]], []int64{0}) {
			t.Errorf("told of %v, lacking %q, vector %v", *told, state.Lacking, state.Progress.Vector)
		}
		top, err := p.topic(t.Context(), l.tables[0], relationOf(l.tables[0]))
		l.must(err)
		if table := (&Table{topic: top}); !p.Lost(table) || !p.Holds(table) {
			t.Errorf("made anew: lost %t, holds %t", p.Lost(table), p.Holds(table))
		}
		p.Close()

		p, state = l.begun() // before anything is written to it
		top = p.known[l.tables[0]]
		if len(*told) != 2 || state.Lacking != "" || !p.Lost(&Table{topic: top}) || p.Lost(&Table{topic: p.known[l.tables[1]]}) {
			t.Errorf("told of %v, lacking %q, topic %+v", *told, state.Lacking, top)
		}
		if floor := top.floors[0]; floor.Compare(l.position(20)) < 0 {
			t.Errorf("published again would be what is behind %s", floor)
		}
		l.must(p.begin(t.Context()))
		p.send(t.Context(), top, &kgo.Record{Topic: top.name, Value: []byte("read again")})
		pr := l.progressAt(30)
		l.must(p.Commit(t.Context(), pr))
		p.Close()

		p, state = l.begun()
		if top = p.known[l.tables[0]]; len(*told) != 2 || state.Lacking != "" || p.Lost(&Table{topic: top}) || top.next[0] != 1 {
			t.Errorf("told of %v, lacking %q, topic %+v", *told, state.Lacking, top)
		}
	})
}

// What is on its way to a topic counts for what it holds: rows of an earlier table of its name would stay beside those of the next one, which was
// taken for the first.
func TestHoldsWhatIsOnItsWay(t *testing.T) {
	for _, direct := range []bool{false, true} {
		l := newLeaky(t, kafkatest.Fake(t))
		l.options.Direct = direct
		p, err := Open(t.Context(), l.options)
		l.must(err)
		defer p.Close()
		_, err = p.Resume(t.Context())
		l.must(err)
		top, err := p.topic(t.Context(), l.tables[0], relationOf(l.tables[0]))
		l.must(err)
		table := &Table{topic: top}
		if p.Holds(table) {
			t.Errorf("direct %t: it holds something", direct)
		}
		l.must(p.begin(t.Context()))
		p.send(t.Context(), top, &kgo.Record{Topic: top.name, Value: []byte("a row")})
		if !p.Holds(table) {
			t.Errorf("direct %t: it holds nothing", direct)
		}
	}
}

// A topic that was deleted while nothing was written to it was made anew, empty, when its table was altered: it was lacking at the next start, which
// stopped the source.
func TestDeletedWhileItIsQuiet(t *testing.T) {
	eachLeaky(t, func(t *testing.T, l *leaky) {
		l.shortly()
		l.begin()
		l.write(tx{tables: []int{0, 1}, commit: true})
		p, _ := l.begun()
		_, err := p.topic(t.Context(), l.tables[0], relationOf(l.tables[0]))
		l.must(err)
		l.delete(l.tables[0])
		if _, err := p.topic(t.Context(), l.tables[0], relationOf(l.tables[0])); err == nil || !retry.Transient(err) {
			t.Errorf("its table is altered: %v", err)
		}
		p.Close()
		p, state := l.begun()
		top, err := p.topic(t.Context(), l.tables[0], relationOf(l.tables[0]))
		l.must(err)
		if state.Lacking != "" || !p.Lost(&Table{topic: top}) {
			t.Errorf("made anew: lacking %q, topic %+v", state.Lacking, top)
		}
	})
}

// A broker that lists a topic not, though it is there, is ill: the topic keeps its place, and nothing is written behind what nobody looked at.
func TestTopicIsOnlyHidden(t *testing.T) {
	fake := kafkatest.Fake(t)
	l := newLeaky(t, fake)
	told := l.shortly()
	p, err := Open(t.Context(), l.options)
	l.must(err)
	_, err = p.Resume(t.Context())
	l.must(err)
	top := newTopic(l.tables[0], 1)
	p.known[top.name] = top
	l.must(p.begin(t.Context()))
	p.send(t.Context(), top, &kgo.Record{Topic: top.name, Value: []byte("one")})
	pr := l.progressAt(10)
	pr.Full = true
	l.must(p.Commit(t.Context(), pr))
	p.Close()

	hidden := true
	fake.Kfake().ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		if req.(*kmsg.MetadataRequest).Topics != nil || !hidden {
			return nil, nil, false
		}
		res := req.ResponseKind().(*kmsg.MetadataResponse)
		host, port, _ := net.SplitHostPort(fake.Addrs()[0])
		n, _ := strconv.Atoi(port)
		res.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 0, Host: host, Port: int32(n)}}
		for _, name := range append(slices.Clone(l.tables[1:]), l.progress) {
			res.Topics = append(res.Topics, kmsg.MetadataResponseTopic{
				Topic: kmsg.StringPtr(name), Partitions: []kmsg.MetadataResponseTopicPartition{{Replicas: []int32{0}, ISR: []int32{0}}},
			})
		}
		return res, nil, true
	})
	p, state := l.begun()
	if len(*told) != 2 || state.Lacking != "" {
		t.Errorf("told of %v, lacking %q", *told, state.Lacking)
	}
	if next := p.known[top.name].next; !slices.Equal(next, []int64{1}) {
		t.Errorf("the hidden topic goes on from %v", next)
	}
	_, err = p.topic(t.Context(), top.name, relationOf(top.name))
	if err == nil || !retry.Transient(err) {
		t.Errorf("it is written to: %v", err)
	}
	p.Close()

	hidden = false
	p, state = l.begun()
	got, err := p.topic(t.Context(), top.name, relationOf(top.name))
	l.must(err)
	if state.Lacking != "" || p.Lost(&Table{topic: got}) || fmt.Sprint(got.next) != "[1]" || got.floors[0].Compare(l.position(10)) < 0 {
		t.Errorf("it comes back: lacking %q, topic %+v", state.Lacking, got)
	}
}

// A topic that is deleted after it was listed is not asked for for ever: the next session finds it gone.
func TestDeletedWhileItIsLookedAt(t *testing.T) {
	was := readTimeout
	readTimeout = 500 * time.Millisecond
	t.Cleanup(func() { readTimeout = was })
	fake := kafkatest.Fake(t)
	l := newLeaky(t, fake)
	fake.Kfake().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Topic: l.tables[0], Err: kerr.UnknownTopicOrPartition, Count: -1})
	p, err := Open(t.Context(), l.options)
	l.must(err)
	defer p.Close()
	if _, err = p.Resume(t.Context()); err == nil || !retry.Transient(err) || !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("it said %v", err)
	}
}
