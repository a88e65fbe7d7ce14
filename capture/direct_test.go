package capture

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// newDirectRig is newRig with delivery: at-least-once.
func newDirectRig(t *testing.T, kafka kafkatest.Cluster, ddl string) *rig {
	r := newRig(t, 0, kafka, ddl)
	r.config.Publish.Delivery = "at-least-once"
	return r
}

// ghost takes over the source's progress and is gone: whoever publishes can write no more progress.
func (r *rig) ghost() {
	r.t.Helper()
	ghost, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...), kgo.TransactionalID(publish.TransactionalID(r.config.Source.Name)))
	must(r.t, err)
	defer ghost.Close()
	_, _, err = ghost.ProducerID(r.t.Context())
	must(r.t, err)
}

// holds says how many records readers get of a table's topic.
func (r *rig) holds(table string) (n int64) {
	topic, err := record.Topic(r.config.Source.Name, "public", table)
	must(r.t, err)
	for _, end := range r.ends(topic) {
		n += end
	}
	return n
}

// exact fails the test unless each progress record counts those records, and no others, whose position it has reached.
func (r *rig) exact(tables ...string) {
	r.t.Helper()
	type at struct {
		offset   int64
		position change.Position
	}
	held := map[string][]at{}
	read := func(topic string, do func(*kgo.Record)) {
		end := r.ends(topic)[0]
		client := r.consumer(topic)
		defer client.Close()
		for next := int64(0); next < end; {
			fetches := client.PollFetches(r.t.Context())
			must(r.t, fetches.Err0())
			fetches.EachRecord(func(rec *kgo.Record) {
				if next = rec.Offset + 1; !rec.Attrs.IsControl() {
					do(rec)
				}
			})
		}
	}
	for _, table := range tables {
		topic, err := record.Topic(r.config.Source.Name, "public", table)
		must(r.t, err)
		read(topic, func(rec *kgo.Record) {
			position, err := change.ParsePosition(rec.Headers[0].Value)
			must(r.t, err)
			held[topic] = append(held[topic], at{rec.Offset, position})
		})
	}
	vector := map[string][]int64{}
	read(record.ProgressTopic(r.config.Source.Name), func(rec *kgo.Record) {
		pr, err := record.ParseProgress(rec.Value)
		must(r.t, err)
		for topic, next := range pr.Vector {
			vector[topic] = next
		}
		for topic, list := range held {
			if vector[topic] == nil {
				continue
			}
			for _, a := range list {
				if counted, reached := a.offset < vector[topic][0], a.position.Compare(pr.Reached()) <= 0; counted != reached {
					r.t.Errorf("progress %d, up to %s: offset %d of topic %s, at %s, is counted: %t", pr.N, pr.Reached(), a.offset, topic, a.position, counted)
				}
			}
		}
	})
}

// With delivery: at-least-once a reader has a change before there is progress of it; a capture that is gone before there
// is leaves nothing out, and its successor repeats nothing that it can read.
func TestAtLeastOnce(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, kafka kafkatest.Cluster) {
		impatient(t)
		r := newDirectRig(t, kafka, tables)
		r.exec(`insert into item (id) select i from generate_series(1, 500) i; insert into bag select i, 'v' from generate_series(1, 50) i`)
		_, stop := r.start()
		r.fence()
		must(t, stop())
		r.config.Publish.Linger = 10 * time.Second
		for round := range 3 {
			_, stop = r.start()
			before := r.holds("item")
			r.exec(fmt.Sprintf(`insert into item (id) select %d + i from generate_series(1, 20) i; update item set name = 'round' where id < 10`, 1000*(round+1)))
			eventually(t, "readers have the changes", func() bool { return r.holds("item") == before+29 })
			if open := r.progress(); open.CommitLSN >= record.LSN(r.lastCommit()) {
				t.Error("there is progress of them already")
			}
			r.ghost()
			must(t, stop())
		}
		r.config.Publish.Linger = 100 * time.Millisecond
		c, stop := r.start()
		r.exec(`insert into item (id) values (9999)`)
		r.fence()
		if got := r.same("public", "item"); len(got.events) != 500+3*29+1 {
			t.Errorf("%d events, want each of %d once", len(got.events), 500+3*29+1)
		}
		r.same("public", "bag")
		r.exact("item", "bag")
		if n := counterValue(t, c.meter.commits.WithLabelValues(resultCommit)); n == 0 {
			t.Error("no progress was written")
		}
		must(t, stop())
	})
}

// lastCommit gives where the source's WAL ended a moment ago; what was committed before is below.
func (r *rig) lastCommit() change.LSN {
	r.t.Helper()
	var text string
	must(r.t, r.conn.QueryRow(r.t.Context(), "select (pg_current_wal_insert_lsn() - 1)::text").Scan(&text))
	lsn, err := change.ParseLSN(text)
	must(r.t, err)
	return lsn
}

// failing lets as many attempts to write a table's topic fail as the counter says; what goes with them is written.
func (r *rig) failing(fake *kafkatest.FakeCluster, table string) (fail *atomic.Int32) {
	r.t.Helper()
	topic, err := record.Topic(r.config.Source.Name, "public", table)
	must(r.t, err)
	client, err := kgo.NewClient(kgo.SeedBrokers(fake.Addrs()...))
	must(r.t, err)
	defer client.Close()
	listed, err := kadm.NewClient(client).ListTopics(r.t.Context(), topic)
	must(r.t, err)
	id := listed[topic].ID

	fail = new(atomic.Int32)
	fake.Kfake().ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		req := q.(*kmsg.ProduceRequest)
		ours := func(p kmsg.ProduceRequestTopic) bool { return p.Topic == topic || p.TopicID == [16]byte(id) }
		if fail.Load() == 0 || !slices.ContainsFunc(req.Topics, ours) {
			return nil, nil, false
		}
		if len(req.Topics) > 1 { // the others are written, and this one comes again by itself
			req.Topics = slices.DeleteFunc(req.Topics, ours)
			return nil, nil, false
		}
		fail.Add(-1)
		res := req.ResponseKind().(*kmsg.ProduceResponse)
		res.Topics = []kmsg.ProduceResponseTopic{{Topic: req.Topics[0].Topic, TopicID: req.Topics[0].TopicID, Partitions: []kmsg.ProduceResponseTopicPartition{
			{ErrorCode: kerr.UnknownServerError.Code, BaseOffset: -1, LogAppendTime: -1},
		}}}
		return res, nil, true
	})
	return fail
}

// A record that cannot be written ends the session: nothing is written behind it in its partition, what other partitions
// have got already is not written again, and no progress tells of a state in between.
func TestAtLeastOnceFailedProduce(t *testing.T) {
	fake := kafkatest.Fake(t)
	r := newDirectRig(t, fake, tables)
	c, stop := r.start()
	r.exec(`insert into item (id) values (0); insert into pair values (0, '0', '')`)
	r.fence()
	fail := r.failing(fake, "pair")
	for round := 1; round <= 3; round++ {
		fail.Store(1)
		r.exec("begin; " + strings.Repeat(fmt.Sprintf("insert into pair select %d, clock_timestamp()::text, ''; insert into item (id) select coalesce(max(id), 0) + 1 from item;", round), 20) + "commit")
		for fail.Load() != 0 {
			r.exec(fmt.Sprintf("insert into pair select %d, clock_timestamp()::text, ''", round))
		}
		r.exec(fmt.Sprintf("insert into pair select %d, clock_timestamp()::text, ''", round))
		r.fence()
	}
	r.same("public", "pair")
	r.same("public", "item")
	r.exact("pair", "item")
	if n := counterValue(t, c.meter.reconnect.WithLabelValues("kafka")); n != 3 {
		t.Errorf("%v sessions ended, want 3", n)
	}
	must(t, stop())
}

// holdChanges has the broker keep the next changes that come without a transaction: held is closed when they are there, and
// they go on when release is.
func holdChanges(fake *kafkatest.FakeCluster) (held, release chan struct{}) {
	held, release = make(chan struct{}), make(chan struct{})
	var done atomic.Bool
	fake.Kfake().ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		if q.(*kmsg.ProduceRequest).TransactionID == nil && done.CompareAndSwap(false, true) {
			close(held)
			fake.Kfake().SleepControl(func() { <-release })
		}
		return nil, nil, false
	})
	return held, release
}

// A session that finds one partition far ahead of another writes no progress of what lies between.
func TestAtLeastOnceAhead(t *testing.T) {
	impatient(t)
	fake := kafkatest.Fake(t)
	r := newDirectRig(t, fake, tables)
	r.config.Publish.Linger = 10 * time.Second
	c, stop := r.start()
	r.exec(`insert into item (id) values (0); insert into pair values (0, '0', '')`)
	r.fence()
	held, release := holdChanges(fake)
	r.exec(`insert into item (id) values (1)`)
	<-held
	const changes = 500
	before := counterValue(t, c.meter.transactions)
	for i := range changes {
		r.exec(fmt.Sprintf(`insert into item (id) values (%d); insert into pair values (1, '%d', '')`, 10+i, i))
	}
	eventually(t, "all is in the round that comes", func() bool { return counterValue(t, c.meter.transactions) >= before+changes })
	fail := r.failing(fake, "pair")
	fail.Store(1 << 20)
	close(release)
	eventually(t, "item is ahead", func() bool { return r.holds("item") > changes/2 })
	_ = stop() // it cannot leave in order
	fail.Store(0)
	r.config.Publish.Linger = time.Millisecond // progress wherever there may be some
	_, stop = r.start()
	r.fence()
	r.same("public", "pair")
	r.same("public", "item")
	r.exact("pair", "item")
	must(t, stop())
}

// refusal is how a broker answers that takes nothing.
func refusal(req *kmsg.ProduceRequest) kmsg.Response {
	res := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, topic := range req.Topics {
		failed := kmsg.ProduceResponseTopic{Topic: topic.Topic, TopicID: topic.TopicID}
		for _, p := range topic.Partitions {
			failed.Partitions = append(failed.Partitions, kmsg.ProduceResponseTopicPartition{
				Partition: p.Partition, ErrorCode: kerr.UnknownServerError.Code, BaseOffset: -1, LogAppendTime: -1,
			})
		}
		res.Topics = append(res.Topics, failed)
	}
	return res
}

// Sessions that end before there is any progress have left no changes. What the first of them had left came again in the next era, behind
// itself, and the third took that for a source that has lost its progress.
func TestAtLeastOnceBeforeProgress(t *testing.T) {
	impatient(t)
	fake := kafkatest.Fake(t)
	r := newDirectRig(t, fake, tables)
	r.exec(`insert into item (id) select i from generate_series(1, 300) i; insert into bag select i, 'v' from generate_series(1, 50) i`)
	var refused atomic.Bool
	fake.Kfake().ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		req := q.(*kmsg.ProduceRequest)
		if req.TransactionID == nil || !refused.Load() {
			return nil, nil, false
		}
		return refusal(req), nil, true
	})
	refused.Store(true)
	c, stop := r.launch()
	id := 1000
	eventually(t, "three sessions have ended", func() bool {
		r.exec(fmt.Sprintf("insert into item (id) values (%d); update item set name = 'then' where id = 7", id))
		id++
		return counterValue(t, c.meter.reconnect.WithLabelValues("kafka")) >= 3
	})
	if n := r.holds("item"); n != 0 {
		t.Errorf("%d records are there without any progress", n)
	}
	refused.Store(false)
	r.fence()
	if era := c.Status().Era; era != 1 {
		t.Errorf("era %d", era)
	}
	r.same("public", "item")
	r.same("public", "bag")
	r.exact("item", "bag")
	must(t, stop())
}

// A topic that was deleted, and in which a capture that made it anew left nothing but changes, as it ended before their progress, was not filled
// again: what had been written before the changes was missing for good.
func TestAtLeastOnceIntoADeletedTopic(t *testing.T) {
	fake := kafkatest.Fake(t)
	r := newDirectRig(t, fake, tables)
	_, stop := r.start()
	r.exec(`insert into item values (1, 'one'), (2, 'two')`)
	r.fence()
	must(t, stop())
	r.deleted("item")
	r.exec(`insert into item values (3, 'three')`)
	// Each session claims the source, and no other progress is taken.
	var refuses atomic.Bool
	var claims atomic.Int32
	fake.Kfake().ControlKey(int16(kmsg.InitProducerID), func(q kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		if q.(*kmsg.InitProducerIDRequest).TransactionalID != nil {
			claims.Store(1)
		}
		return nil, nil, false
	})
	fake.Kfake().ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		if req := q.(*kmsg.ProduceRequest); refuses.Load() && req.TransactionID != nil && claims.Add(-1) < 0 {
			return refusal(req), nil, true
		}
		return nil, nil, false
	})
	refuses.Store(true)
	c, stop := r.launch()
	eventually(t, "the change is there", func() bool { return r.holds("item") > 0 })
	ended := counterValue(t, c.meter.reconnect.WithLabelValues("kafka"))
	eventually(t, "two sessions have ended behind it", func() bool { return counterValue(t, c.meter.reconnect.WithLabelValues("kafka")) >= ended+2 })
	refuses.Store(false)
	r.fence()
	r.same("public", "item")
	must(t, stop())
}

// An instance whose successor works already still has records on their way: they come again behind those of the
// successor, and whoever drops what is not above the position before has each change once.
func TestAtLeastOnceOlderInstance(t *testing.T) {
	impatient(t)
	fake := kafkatest.Fake(t)
	r := newDirectRig(t, fake, tables)
	r.exec(`insert into item (id) values (0); insert into bag values (0, 'before')`)
	r.config.Source.Refresh = time.Hour // the older one does not learn of what becomes of bag
	older, stopOlder := r.start()
	r.config.Source.Refresh = 200 * time.Millisecond
	r.fence()

	held, release := holdChanges(fake)
	// What nobody captures comes first: the newer one has time for what it would do before the stream is there.
	r.exec(`create schema other; create table other.much as select i from generate_series(1, 200000) i`)
	r.exec(`insert into item (id) select i from generate_series(1, 10) i; update item set name = 'older'; insert into bag values (1, 'older')`)
	<-held
	r.exec(`alter table bag replica identity full`) // the newer one reads it anew
	let := make(chan error, 1)
	go func() { // the newer one claims the source, and waits for the slot
		for {
			pr, err := publish.ReadProgress(t.Context(), r.config.Kafka, r.config.Source.Name, slog.New(slog.DiscardHandler))
			if err == nil && pr.Health.Instance != older.instance {
				_, err = r.conn.Exec(t.Context(), `select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1`, r.config.Source.slot())
				let <- err
				return
			}
			if err != nil {
				let <- err
				return
			}
		}
	}()
	_, stop := r.start()
	must(t, <-let)
	r.exec(`insert into item (id) values (11); update item set name = 'newer' where id < 5`)
	r.fence()
	close(release)
	eventually(t, "what was on its way has come", func() bool { return r.holds("item") > 1+10+11+1+5 })
	eventually(t, "the older instance has ended", func() bool { return older.Status().State == "stopped" })
	if err := stopOlder(); trouble.CodeOf(err) != trouble.Fenced {
		t.Errorf("the older instance ended with %v", err)
	}
	r.exec(`insert into item (id) values (12)`)
	r.fence()
	r.repeats = true
	if got := r.same("public", "item"); len(got.events) != 1+10+11+1+5+1 {
		t.Errorf("%d events, want each of %d once", len(got.events), 1+10+11+1+5+1)
	}
	if got := r.same("public", "bag"); got.reads != 1+2 {
		t.Errorf("%d rows were read, want 1, and 2 anew", got.reads)
	}
	must(t, stop())
}

func TestSettingsThatCannotBe(t *testing.T) {
	for yaml, path := range map[string]string{
		"source: {name: shop, dsn: x, heartbeat: -1s}": "source.heartbeat", "source: {name: shop, dsn: x, heartbeat: 99ms}": "source.heartbeat",
		"source: {name: shop, dsn: x, heartbeat: 0s}": "", "source: {name: shop, dsn: x, heartbeat: 100ms}": "",
		"topics: {replication: 0}": "topics.replication", "topics: {replication: -2}": "topics.replication", "topics: {replication: 3}": "",
		"topics: {overrides: [{table: orders}]}": "topics.overrides[0].table", "topics: {overrides: [{table: public.orders}, {table: '*'}]}": "",
	} {
		err := config.Decode("capture.yaml", []byte("kafka: {brokers: [b:1]}\nregistry: {url: \"http://r\"}\n"+yaml), &Config{})
		for _, key := range []string{"source.heartbeat", "topics.replication", "topics.overrides"} {
			if is := err != nil && strings.Contains(err.Error(), key); is != (path != "" && strings.HasPrefix(path, key)) {
				t.Errorf("%s: %v, want a fault of %q", yaml, err, path)
			}
		}
	}
}

func TestAtLeastOnceKeepsAll(t *testing.T) {
	var c Config
	c.Publish.Delivery, c.Topics.Keep = "at-least-once", "all"
	if len(c.Check()) > 0 {
		t.Error("refused")
	}
	c.Topics.Overrides = []publish.TopicOverride{{Table: "public.*", Keep: "latest"}}
	if len(c.Check()) != 1 {
		t.Error("compaction is not refused")
	}
}
