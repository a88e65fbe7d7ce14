package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sr"
	"go.uber.org/goleak"

	"github.com/tributary-cdc/tributary/pkg/internal/process"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// deadline bounds each test; on an idle machine they take a few seconds with Apache Kafka.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func client(t *testing.T, c Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.Addrs()...), kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	must(t, err)
	t.Cleanup(cl.CloseAllowingRebalance)
	return cl
}

func producer(t *testing.T, c Cluster, txnID string) *kgo.Client {
	t.Helper()
	return client(t, c, kgo.TransactionalID(txnID), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.TransactionTimeout(30*time.Second))
}

// topic creates one with the partitions and gives its name.
func topic(t *testing.T, c Cluster, partitions int32) string {
	t.Helper()
	name := Name(t)
	_, err := kadm.NewClient(client(t, c)).CreateTopic(deadline(t), partitions, 1, nil, name)
	must(t, err)
	return name
}

func produce(t *testing.T, cl *kgo.Client, topic string, partition int32, values ...string) error {
	t.Helper()
	var records []*kgo.Record
	for _, v := range values {
		records = append(records, &kgo.Record{Topic: topic, Partition: partition, Value: []byte(v)})
	}
	return cl.ProduceSync(deadline(t), records...).FirstErr()
}

// commit produces values to partition 0 of topic and commits them.
func commit(t *testing.T, cl *kgo.Client, topic string, values ...string) {
	t.Helper()
	must(t, cl.BeginTransaction())
	must(t, produce(t, cl, topic, 0, values...))
	must(t, cl.EndTransaction(deadline(t), kgo.TryCommit))
}

// ends gives the offset after the last record, and after the last one that read_committed may see, of each partition.
func ends(t *testing.T, c Cluster, topic string) (all, committed []int64) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...))
	must(t, err)
	defer cl.Close() // now, not with the test: this is polled
	admin := kadm.NewClient(cl)
	list := func(offsets kadm.ListedOffsets, err error) []int64 {
		must(t, errors.Join(err, offsets.Error()))
		var ends []int64
		for _, o := range offsets.Offsets().Sorted() {
			ends = append(ends, o.At)
		}
		return ends
	}
	return list(admin.ListEndOffsets(deadline(t), topic)), list(admin.ListCommittedOffsets(deadline(t), topic))
}

// read reads partition 0 of topic from its start, in read_committed, up to end.
func read(t *testing.T, c Cluster, topic string, end int64) (values []string) {
	t.Helper()
	cl := client(t, c, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	for next := int64(0); next < end; {
		fetches := cl.PollFetches(deadline(t))
		must(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			if r.Attrs.IsControl() {
				values = append(values, fmt.Sprintf("%d: control", r.Offset))
			} else {
				values = append(values, fmt.Sprintf("%d: %s", r.Offset, r.Value))
			}
		})
	}
	return values
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// A transaction over two partitions is seen by nobody before its commit, by everybody after it; an aborted one never.
func TestTransactionIsInvisibleUntilCommit(t *testing.T) {
	Each(t, func(t *testing.T, c Cluster) {
		topic := topic(t, c, 2)
		p := producer(t, c, Name(t))

		must(t, p.BeginTransaction())
		must(t, produce(t, p, topic, 0, "a", "b"))
		must(t, produce(t, p, topic, 1, "c"))
		if all, committed := ends(t, c, topic); fmt.Sprint(all, committed) != "[2 1] [0 0]" {
			t.Errorf("before commit: ends %v, committed %v", all, committed)
		}
		// Others' records behind it are held back too.
		must(t, produce(t, client(t, c, kgo.RecordPartitioner(kgo.ManualPartitioner())), topic, 0, "plain"))
		if all, committed := ends(t, c, topic); fmt.Sprint(all, committed) != "[3 1] [0 0]" {
			t.Errorf("before commit, with another's record: ends %v, committed %v", all, committed)
		}
		must(t, p.EndTransaction(deadline(t), kgo.TryCommit))
		awaitCommitted(t, c, topic, "[4 2]")
		equal(t, "after commit", read(t, c, topic, 4), []string{"0: a", "1: b", "2: plain", "3: control"})

		must(t, p.BeginTransaction())
		must(t, produce(t, p, topic, 0, "never"))
		must(t, p.EndTransaction(deadline(t), kgo.TryAbort))
		commit(t, p, topic, "d")
		awaitCommitted(t, c, topic, "[8 2]")
		equal(t, "after abort and commit", read(t, c, topic, 8),
			[]string{"0: a", "1: b", "2: plain", "3: control", "5: control", "6: d", "7: control"})
	})
}

// awaitCommitted waits until read_committed may see up to the ends: a commit is answered when it is decided, before
// each partition has its marker.
func awaitCommitted(t *testing.T, c Cluster, topic, want string) {
	t.Helper()
	var committed []int64
	err := process.Poll(deadline(t), func() (bool, error) {
		_, committed = ends(t, c, topic)
		return fmt.Sprint(committed) == want, nil
	})
	if err != nil {
		t.Fatalf("committed ends are %v, want %s", committed, want)
	}
}

// A newer producer with the same transactional id ends the older one's transaction and all its attempts to go on.
func TestNewerProducerFencesOlder(t *testing.T) {
	Each(t, func(t *testing.T, c Cluster) {
		topic, txnID := topic(t, c, 1), Name(t)
		older := producer(t, c, txnID)
		must(t, older.BeginTransaction())
		must(t, produce(t, older, topic, 0, "older"))

		newer := producer(t, c, txnID)
		_, _, err := newer.ProducerID(deadline(t)) // InitProducerID
		must(t, err)

		err = produce(t, older, topic, 0, "late")
		if !errors.Is(err, kerr.ProducerFenced) && !errors.Is(err, kerr.InvalidProducerEpoch) {
			t.Errorf("the older producer's record: %v", err)
		}
		if err := older.EndTransaction(deadline(t), kgo.TryCommit); err == nil {
			t.Error("the older producer committed")
		}
		commit(t, newer, topic, "newer")
		awaitCommitted(t, c, topic, "[4]")
		equal(t, "records", read(t, c, topic, 4), []string{"1: control", "2: newer", "3: control"})
	})
}

// Markers take offsets: who counts records instead of offsets is behind for ever, and the last offset is a marker's.
func TestControlRecordsTakeOffsets(t *testing.T) {
	Each(t, func(t *testing.T, c Cluster) {
		topic := topic(t, c, 1)
		p := producer(t, c, Name(t))
		commit(t, p, topic, "a", "b", "c")
		commit(t, p, topic, "d", "e")
		awaitCommitted(t, c, topic, "[7]")
		equal(t, "records", read(t, c, topic, 7),
			[]string{"0: a", "1: b", "2: c", "3: control", "4: d", "5: e", "6: control"})
		if all, _ := ends(t, c, topic); all[0] != 7 {
			t.Errorf("end offset %d, want 7", all[0])
		}
	})
}

// What was committed is there after Stop and Kill, an open transaction is not, addresses stay, and a client goes on.
// How many markers there are is left open: a broker that is killed after it has written those of a commit, and before it
// has noted that they are written, writes them once more when it is back.
func TestRestartKeepsData(t *testing.T) {
	Each(t, func(t *testing.T, c Cluster) {
		topic := topic(t, c, 1)
		addrs := c.Addrs()
		txnID := Name(t)
		var want []string
		kept := func(what string) {
			t.Helper()
			var got []string
			for _, v := range read(t, c, topic, committed(t, c, topic)) {
				if _, value, _ := strings.Cut(v, ": "); value != "control" {
					got = append(got, value)
				}
			}
			equal(t, what, got, want)
		}
		life := func(p *kgo.Client, value string) {
			t.Helper()
			commit(t, p, topic, value)
			want = append(want, value)
			kept("before the end of " + value)
		}
		for i, stop := range []func() error{c.Stop, c.Kill, c.Kill} {
			value := fmt.Sprint("life ", i)
			life(producer(t, c, txnID), value)

			must(t, stop())
			must(t, stop()) // once more changes nothing
			must(t, c.Restart(t.Context()))
			if !slices.Equal(c.Addrs(), addrs) {
				t.Fatalf("addresses %v, were %v", c.Addrs(), addrs)
			}
			kept("after the end of " + value)
		}
		p := producer(t, c, txnID)
		must(t, p.BeginTransaction())
		must(t, produce(t, p, topic, 0, "torn"))
		must(t, c.Kill())
		must(t, c.Restart(t.Context()))
		life(producer(t, c, txnID), "after")
		must(t, c.Kill())
		must(t, c.Restart(t.Context()))
		kept("and one more restart")
	})
}

// committed waits until no transaction of the topic is open, and gives the end.
func committed(t *testing.T, c Cluster, topic string) (end int64) {
	t.Helper()
	err := process.Poll(deadline(t), func() (bool, error) {
		all, committed := ends(t, c, topic)
		end = all[0]
		return all[0] == committed[0], nil
	})
	if err != nil {
		t.Fatalf("topic %q: a transaction is still open at offset %d", topic, end)
	}
	return end
}

// A producer whose transaction a kill has aborted is not told that its commit has succeeded.
func TestFakeTornCommit(t *testing.T) {
	c := Fake(t)
	topic := topic(t, c, 1)
	p := producer(t, c, Name(t))
	commit(t, p, topic, "before")
	must(t, c.Restart(t.Context())) // from here on it is known that this was a commit
	must(t, p.BeginTransaction())
	must(t, produce(t, p, topic, 0, "torn"))
	must(t, c.Kill())
	must(t, c.Restart(t.Context()))
	if err := p.EndTransaction(deadline(t), kgo.TryCommit); err == nil {
		t.Error("the commit of an aborted transaction succeeded")
	}
}

func TestPause(t *testing.T) {
	Each(t, func(t *testing.T, c Cluster) {
		cl := client(t, c, kgo.RequestTimeoutOverhead(time.Second), kgo.RequestRetries(0))
		must(t, cl.Ping(deadline(t)))
		must(t, c.Pause())
		if err := cl.Ping(deadline(t)); err == nil {
			t.Error("a paused broker answered")
		}
		must(t, c.Resume())
		must(t, cl.Ping(deadline(t)))
	})
}

func TestFakeFaults(t *testing.T) {
	c := Fake(t, kfake.SeedTopics(1, "t"))
	seen := make(chan struct{}, 1)
	c.Kfake().ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		seen <- struct{}{}
		return nil, errors.New("connection is cut"), true
	})
	cl := client(t, c, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	must(t, produce(t, cl, "t", 0, "a")) // retried
	select {
	case <-seen:
	default:
		t.Error("the produce request did not go through the fault")
	}

	c.Cut()
	must(t, produce(t, cl, "t", 0, "b"))
	if got := read(t, c, "t", 2); len(got) != 2 {
		t.Errorf("records %q", got)
	}
}

func TestFakeInMemory(t *testing.T) {
	c, err := StartFake("", kfake.NumBrokers(3), kfake.SeedTopics(1, "t"))
	must(t, err)
	defer func() { must(t, c.Stop()) }()
	if len(c.Addrs()) != 3 {
		t.Errorf("addresses %v of 3 brokers", c.Addrs())
	}
	must(t, produce(t, client(t, c, kgo.RecordPartitioner(kgo.ManualPartitioner())), "t", 0, "a"))
	must(t, c.Kill())
	must(t, c.Restart(t.Context()))
	if all, _ := ends(t, c, "t"); all[0] != 0 {
		t.Errorf("end offset %d after the restart of a fake in memory", all[0])
	}
}

func TestRegistry(t *testing.T) {
	cl, err := sr.NewClient(sr.URLs(Registry(t)))
	must(t, err)
	id, err := cl.RegisterSchema(deadline(t), "s", sr.Schema{Schema: `"int"`}, -1, -1)
	must(t, err)
	if id != 1 {
		t.Errorf("first id is %d", id)
	}
}
