package capture

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// A broker that has just started lists no topics for a moment. A session that began then did not look what stands in
// their partitions, and published it again.
func TestTopicsAreNotListedYet(t *testing.T) {
	fake := kafkatest.Fake(t)
	r := newRig(t, 0, fake, tables)
	_, stop := r.start()
	r.exec(`insert into item values (1, 'one')`)
	r.fence()
	must(t, stop())

	var empty atomic.Int32
	fake.Kfake().ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		if req.(*kmsg.MetadataRequest).Topics != nil || empty.Add(1) > 1 {
			return nil, nil, false
		}
		res := req.ResponseKind().(*kmsg.MetadataResponse)
		res.ControllerID = 0
		host, port, _ := net.SplitHostPort(fake.Addrs()[0])
		n, _ := strconv.Atoi(port)
		res.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 0, Host: host, Port: int32(n)}}
		return res, nil, true
	})
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
	must(t, err)
	pub, err := publish.Open(t.Context(), publish.Options{
		Source: r.config.Source.Name, Kafka: r.config.Kafka, Topics: r.config.Topics, Registry: c.registry, Log: c.log,
		TransactionTimeout: r.config.Publish.TransactionTimeout,
	})
	must(t, err)
	defer pub.Close()
	_, err = pub.Resume(t.Context())
	must(t, err)
	if empty.Load() <= 1 {
		t.Errorf("the topics were listed %d times, want until they are there", empty.Load())
	}
	pub.SetSource(record.Source{Name: r.config.Source.Name})
	table, err := pub.Table(t.Context(), &schema.Relation{Schema: "public", Name: "item", Key: []int{0}, Columns: []schema.Column{
		{Name: "id", Type: schema.Type{OID: schema.OIDInt4, Name: "integer"}},
		{Name: "name", Type: schema.Type{OID: schema.OIDText, Name: "text"}},
	}})
	must(t, err)
	did, err := pub.Publish(t.Context(), table, &change.Event{
		Op: change.Create, Position: change.Position{Era: 1, CommitLSN: 1, Seq: 2},
		After: change.Tuple{{State: change.Present, Text: []byte("1")}, {State: change.Present, Text: []byte("one")}},
	})
	must(t, err)
	if did {
		t.Error("what the topic holds is published again")
	}
}

// While the markers of a transaction are being written the broker refuses the first batch of the next one. What is
// refused for a moment is sent again in a moment.
func TestRefusedForAMoment(t *testing.T) {
	fake := kafkatest.Fake(t)
	r := newRig(t, 0, fake, tables)
	_, stop := r.start()
	r.exec(`insert into item values (0, 'begin')`)
	r.fence()

	var refuse atomic.Bool
	fake.Kfake().ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		if !refuse.CompareAndSwap(true, false) {
			return nil, nil, false
		}
		res := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range req.(*kmsg.ProduceRequest).Topics {
			answer := kmsg.ProduceResponseTopic{Topic: topic.Topic, TopicID: topic.TopicID}
			for _, p := range topic.Partitions {
				answer.Partitions = append(answer.Partitions, kmsg.ProduceResponseTopicPartition{
					Partition: p.Partition, ErrorCode: kerr.ConcurrentTransactions.Code, BaseOffset: -1, LogAppendTime: -1,
				})
			}
			res.Topics = append(res.Topics, answer)
		}
		return res, nil, true
	})
	const patience = 2 * time.Second // it took up to 5 s each time
	var took [5]time.Duration
	for i := range took {
		begun := time.Now()
		refuse.Store(true)
		r.exec(fmt.Sprintf(`insert into item values (%d, 'refused')`, 1+i))
		r.fence()
		if refuse.Load() {
			t.Error("nothing was refused")
		}
		took[i] = time.Since(begun)
	}
	slices.Sort(took[:])
	if took[len(took)/2] > patience { // a stall of the machine is not one of each
		t.Errorf("transactions whose first batch was refused took %s", took)
	}
	must(t, stop())
	r.same("public", "item")
}

// A broker that fails within itself at a commit says nothing of what became of it: capture begins a new session, reads
// back what was committed, and goes on.
func TestCommitThatTheBrokerFailsAt(t *testing.T) {
	fake := kafkatest.Fake(t)
	r := newRig(t, 0, fake, tables)
	_, stop := r.start()
	r.exec(`insert into item values (0, 'begin')`)
	r.fence()

	var fail atomic.Bool
	fake.Kfake().ControlKey(int16(kmsg.EndTxn), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		if !fail.CompareAndSwap(true, false) {
			return nil, nil, false
		}
		res := req.ResponseKind().(*kmsg.EndTxnResponse)
		res.ErrorCode = kerr.UnknownServerError.Code
		return res, nil, true
	})
	fail.Store(true)
	r.exec(`insert into item values (1, 'failed at')`)
	r.fence()
	if fail.Load() {
		t.Error("nothing failed")
	}
	must(t, stop())
	r.same("public", "item")
}

// Capture foretells at which offsets its records will be. Where somebody else has written meanwhile they are written once
// more, and each progress record counts what it is about, no more and no less.
func TestSomebodyElseWrites(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	other, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...), kgo.TransactionalID(kafkatest.Name(t)))
	must(t, err)
	defer other.Close()
	topic := r.config.Source.Name + ".public.item"
	for i := range 3 {
		r.exec(fmt.Sprintf(`insert into item values (%d, 'before'), (%d, 'before')`, 10*i, 10*i+1))
		r.fence()
		r.exec(fmt.Sprintf(`insert into item values (%d, 'foretold')`, 10*i+2))
		r.fence()
		must(t, other.BeginTransaction())
		must(t, other.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("not ours")}).FirstErr())
		must(t, other.EndTransaction(t.Context(), kgo.TryAbort))
		r.exec(fmt.Sprintf(`insert into item values (%d, 'once more'), (%d, 'once more')`, 10*i+3, 10*i+4))
		r.fence()
	}
	must(t, stop())
	r.same("public", "item")
	r.exact("item")
}

// Without its progress topic a source would begin with era 1 again, and of topics that are of a later era take in nothing. Capture says
// so, and goes on in an era behind theirs.
func TestProgressTopicLost(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	r.exec(`insert into item values (1, 'one'), (2, 'two')`)
	r.fence()
	must(t, stop())
	eventually(t, "the slot is free", func() bool {
		_, err := r.conn.Exec(t.Context(), fmt.Sprintf("select pg_drop_replication_slot('%s')", r.config.Source.slot()))
		return err == nil
	})
	r.options.OnGap = GapResnapshot
	c, stop := r.start()
	r.fence()
	must(t, stop())
	if era := c.Status().Era; era != 2 {
		t.Fatalf("era %d", era)
	}
	r.exec(`delete from item where id = 1; insert into item values (3, 'three')`)

	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...))
	must(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).DeleteTopic(t.Context(), record.ProgressTopic(r.config.Source.Name))
	must(t, err)
	r.options.OnGap = GapStop
	r.fails(trouble.Gap)
	r.options.OnGap = GapResnapshot
	c, stop = r.start()
	r.exec(`insert into item values (4, 'four')`)
	r.fence()
	must(t, stop())
	if era := c.Status().Era; era != 3 {
		t.Errorf("era %d", era)
	}
	r.same("public", "item")
}

// Without its progress topic a source that was restored on another server began with era 1 again, below all that the topics hold: nothing that
// it changed came to them, without a word. Nor is all read again unasked: what a history or a log lacks since is never read.
func TestProgressTopicLostAndAnotherServer(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	for range 6 { // behind where a new server begins
		r.exec(`insert into item values (0, 'before'); delete from item`)
		r.exec(`select pg_switch_wal()`)
	}
	_, stop := r.start()
	r.exec(`insert into item values (1, 'one'), (2, 'two'), (4, 'gone')`)
	r.fence()
	must(t, stop())

	restored := pgtest.New(t, pgtest.Options{})
	r.dsn = restored.DSN("postgres")
	r.config.Source.DSN = config.Secret(r.dsn)
	var err error
	r.conn, err = pgx.Connect(t.Context(), r.dsn)
	must(t, err)
	r.exec(tables + `insert into item values (1, 'one'), (2, 'restored')`)
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...))
	must(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).DeleteTopic(t.Context(), record.ProgressTopic(r.config.Source.Name))
	must(t, err)
	r.fails(trouble.Gap)
	r.options.OnGap = GapResnapshot
	c, stop := r.start()
	r.exec(`insert into item values (3, 'three'); delete from item where id = 1`)
	r.fence()
	must(t, stop())
	if era := c.Status().Era; era != 2 {
		t.Errorf("era %d", era)
	}
	r.same("public", "item")
}

// Kafka deletes what a retention says, up to the end of a topic that nobody writes for long. What it deleted was read at the next start, which
// ended there, and each one after it.
func TestRetentionOfAQuietTopic(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, cluster kafkatest.Cluster) {
		r := newRig(t, 0, cluster, tables+`create table quiet (id int primary key)`)
		_, stop := r.start()
		r.exec(`insert into item values (1, 'one'), (2, 'two')`)
		r.fence()
		must(t, stop())
		client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...))
		must(t, err)
		defer client.Close()
		item, quiet := r.config.Source.Name+".public.item", r.config.Source.Name+".public.quiet"
		must(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: quiet, Value: []byte("not ours")}).FirstErr())
		admin := kadm.NewClient(client)
		expire := func() {
			t.Helper()
			ends, err := admin.ListEndOffsets(t.Context(), item, quiet)
			must(t, err)
			deleted, err := admin.DeleteRecords(t.Context(), ends.Offsets())
			must(t, err)
			must(t, deleted.Error())
		}
		expire()
		_, stop = r.start()
		r.fence()
		must(t, stop())
		for i := range 2 { // also of what the same capture has written behind it
			_, stop = r.start()
			r.exec(fmt.Sprintf(`insert into item values (%d, 'later'); insert into quiet values (%[1]d)`, 3+i))
			r.fence()
			must(t, stop())
			for _, table := range []string{"item", "quiet"} {
				if got := r.read("public", table).events; len(got) != 1 || !strings.HasPrefix(got[0], "c ") {
					t.Errorf("topic of %s: %q, want one insert", table, got)
				}
			}
			expire()
		}
	})
}

// deleted has a table's topic deleted, of which a capture that has waited for it has said so, as somebody was asking for the table's rows.
func (r *rig) deleted(table string) {
	r.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...))
	must(r.t, err)
	defer client.Close()
	topic := r.config.Source.Name + ".public." + table
	_, err = kadm.NewClient(client).DeleteTopic(r.t.Context(), topic)
	must(r.t, err)
	log := slog.New(slog.NewTextHandler(testWriter{r.t}, nil))
	pr, err := publish.ReadProgress(r.t.Context(), r.config.Kafka, r.config.Source.Name, log)
	must(r.t, err)
	pr.N, pr.Full, pr.Vector[topic] = pr.N+1, true, []int64{0}
	for i := range pr.Tables {
		pr.Tables[i].Asked = "somebody"
	}
	value, err := pr.Encode()
	must(r.t, err)
	must(r.t, client.ProduceSync(r.t.Context(), &kgo.Record{Topic: record.ProgressTopic(r.config.Source.Name), Key: []byte(pr.Key()), Value: value}).FirstErr())
}

// The topic of a table that is quiet was deleted: it is made anew, with the table as it is.
func TestDeletedTopicIsFilledAgain(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	r.exec(`insert into item values (1, 'one'), (2, 'two'), (3, 'three')`)
	r.fence()
	r.exec(`delete from item where id = 3`)
	r.fence()
	must(t, stop())
	r.deleted("item")
	c, stop := r.start()
	r.fence()
	if asked := r.tableProgress("public.item").Asked; asked != "somebody" {
		t.Errorf("who has asked for its rows is not told of them, but %q", asked)
	}
	eventually(t, "it is read again", func() bool { return c.Status().State == service.StateUpToDate })
	r.exec(`insert into item values (4, 'four')`)
	r.fence()
	must(t, stop())
	got := r.same("public", "item")
	if len(got.events) != 4 || got.reads != 2 || !strings.HasPrefix(got.events[0], "t ") {
		t.Errorf("the topic has %q, want a truncate, two rows, and what came then", got.events)
	}
	_, stop = r.start()
	r.fence()
	must(t, stop())
	if again := r.same("public", "item"); len(again.events) != len(got.events) {
		t.Errorf("it was read once more: %q", again.events)
	}
}

// Readers lack what a broker acknowledged: here its topic was made anew. Capture does not go on as if nothing was;
// --on-gap=resnapshot reads everything again.
func TestAcknowledgedAndLost(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	r.exec(`insert into item values (1, 'one'), (2, 'two'), (3, 'three')`)
	r.fence()
	must(t, stop())

	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...))
	must(t, err)
	defer client.Close()
	admin, topic := kadm.NewClient(client), r.config.Source.Name+".public.item"
	_, err = admin.DeleteTopic(t.Context(), topic)
	must(t, err)
	_, err = admin.CreateTopic(t.Context(), 1, 1, nil, topic)
	must(t, err)
	r.fails(trouble.Gap)
	r.options.OnGap = GapResnapshot
	_, stop = r.start()
	r.exec(`insert into item values (4, 'four')`)
	r.fence()
	must(t, stop())
	if got := r.same("public", "item"); !slices.Contains(got.events, "t - | -") {
		t.Errorf("what readers have of the topic before does not go: %q", got.events)
	}
}
