package publish

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// leaky is a source whose topics are written as a Publisher writes them, on a broker that leaves out ends of
// transactions where it is told to.
type leaky struct {
	t        testing.TB
	options  Options
	raw      *kgo.Client
	progress string
	tables   []string

	id    int64
	epoch int16
	seq   map[string]int32

	vector    map[string][]int64
	n         uint64
	at        uint64              // of the newest transaction, an LSN
	acked     uint64              // of the newest one that was acknowledged
	holds     map[uint64][]string // the topics with a record of a transaction
	justified bool                // what was acknowledged was then aborted together with another transaction
	open      map[string]bool     // in which topics something acknowledged has no end
	again     int                 // records that the newest Publisher has published again
}

// tx is a transaction: it has a record in some tables, and is left without an end in some topics.
type tx struct {
	tables []int
	commit bool
	hangs  func(topic string) bool
}

func newLeaky(t testing.TB, cluster kafkatest.Cluster) *leaky {
	was := endsPatience
	endsPatience = 100 * time.Millisecond
	t.Cleanup(func() { endsPatience = was })
	source := kafkatest.Name(t)
	l := &leaky{
		t: t, progress: record.ProgressTopic(source), seq: map[string]int32{}, vector: map[string][]int64{},
		holds: map[uint64][]string{}, open: map[string]bool{},
		options: Options{
			Source: source, Kafka: kafka.Config{Brokers: cluster.Addrs()}, TransactionTimeout: time.Minute,
			Topics: Topics{Partitions: 1, Replication: -1, MaxMessageBytes: 1 << 20},
			Log:    slog.New(slog.NewTextHandler(t.Output(), nil)),
		},
	}
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(int16(kmsg.Produce), 11) // later ones add the partition to the transaction
	var err error
	l.raw, err = kgo.NewClient(kgo.SeedBrokers(cluster.Addrs()...), kgo.MaxVersions(versions))
	l.must(err)
	t.Cleanup(l.raw.Close)
	for i := range 3 {
		name, err := record.Topic(source, "public", fmt.Sprintf("t%d", i))
		l.must(err)
		l.tables = append(l.tables, name)
	}
	created, err := kadm.NewClient(l.raw).CreateTopics(t.Context(), 1, 1, nil, append(slices.Clone(l.tables), l.progress)...)
	l.must(err)
	l.must(created.Error())
	return l
}

func (l *leaky) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// fakeLeaky is a fake that takes records of a transaction that it knows nothing of. It does so from producers without a
// transactional id, and gives the id of one to whoever asks for one with such an id.
func fakeLeaky(t testing.TB) kafkatest.Cluster {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	fake, err := kafkatest.StartFake(dir, kfake.MaxVersions(kversion.V3_9_0())) // clients add partitions to transactions
	must(err)
	t.Cleanup(func() { _ = fake.Stop() })
	must(fake.Stop())
	// Only from its data it takes one that has no such id, and yet a timeout.
	const id = 4711
	entry, err := json.Marshal(map[string]any{"type": "init", "pid": id, "epoch": 0, "timeout": 60_000})
	must(err)
	body := append([]byte{1, 0}, entry...)
	log := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	log = binary.LittleEndian.AppendUint32(log, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	must(os.WriteFile(filepath.Join(dir, "data", "pids.log"), append(log, body...), 0o644))
	must(fake.Restart(t.Context()))
	fake.Kfake().ControlKey(int16(kmsg.InitProducerID), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		if init := req.(*kmsg.InitProducerIDRequest); init.TransactionalID != nil {
			init.ProducerID, init.ProducerEpoch = id, 0
		}
		return nil, nil, false
	})
	return fake
}

// realLeaky is Apache Kafka, which takes such records where it is told not to look.
func realLeaky(t testing.TB) kafkatest.Cluster {
	real := kafkatest.Real(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(real.Addrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	value := "false"
	res, err := kadm.NewClient(client).AlterBrokerConfigs(t.Context(), []kadm.AlterConfig{
		{Op: kadm.SetConfig, Name: "transaction.partition.verification.enable", Value: &value},
	})
	if err == nil {
		err = res[0].Err
	}
	if err != nil {
		t.Fatal(err)
	}
	return real
}

func eachLeaky(t *testing.T, test func(t *testing.T, l *leaky)) {
	t.Run("kfake", func(t *testing.T) { test(t, newLeaky(t, fakeLeaky(t))) })
	t.Run("kafka", func(t *testing.T) { test(t, newLeaky(t, realLeaky(t))) })
}

// begin makes the producer of the transactions that follow.
func (l *leaky) begin() {
	req := kmsg.NewPtrInitProducerIDRequest()
	id := TransactionalID(l.options.Source)
	req.TransactionalID, req.TransactionTimeoutMillis = &id, 60_000
	for {
		res, err := req.RequestWith(l.t.Context(), l.raw)
		l.must(err)
		if res.ErrorCode == kerr.ConcurrentTransactions.Code {
			continue
		}
		l.must(kerr.ErrorForCode(res.ErrorCode))
		l.id, l.epoch = res.ProducerID, res.ProducerEpoch
		clear(l.seq)
		return
	}
}

func (l *leaky) produce(topic string, key, value []byte, headers ...kmsg.Header) (offset int64) {
	rec := kmsg.Record{Key: key, Value: value, Headers: headers}
	rec.Length = int32(len(rec.AppendTo(nil)) - 1)
	if n := len(rec.AppendTo(nil)); n > 64 { // its length takes two bytes
		rec.Length = int32(n - 2)
		rec.Length = int32(len(rec.AppendTo(nil)) - 2)
	}
	now := time.Now().UnixMilli()
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, Attributes: 1 << 4, FirstTimestamp: now, MaxTimestamp: now,
		ProducerID: l.id, ProducerEpoch: l.epoch, FirstSequence: l.seq[topic], NumRecords: 1, Records: rec.AppendTo(nil),
	}
	l.seq[topic]++
	b.Length = int32(len(b.AppendTo(nil)) - 12)
	b.CRC = int32(crc32.Checksum(b.AppendTo(nil)[21:], crc32.MakeTable(crc32.Castagnoli)))
	req := kmsg.NewPtrProduceRequest()
	id := TransactionalID(l.options.Source)
	req.TransactionID, req.Acks, req.TimeoutMillis = &id, -1, 10_000
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, Partitions: []kmsg.ProduceRequestTopicPartition{{Records: b.AppendTo(nil)}}}}
	for {
		res, err := req.RequestWith(l.t.Context(), l.raw)
		l.must(err)
		p := res.Topics[0].Partitions[0]
		if p.ErrorCode == kerr.UnknownTopicOrPartition.Code || p.ErrorCode == kerr.NotLeaderForPartition.Code {
			continue // it was made a moment ago
		}
		l.must(kerr.ErrorForCode(p.ErrorCode))
		return p.BaseOffset
	}
}

// write writes a transaction as the broker that leaks leaves it.
func (l *leaky) write(x tx) {
	l.at += 10
	vector := maps.Clone(l.vector)
	touched := map[string]bool{l.progress: true}
	for _, i := range x.tables {
		topic := l.tables[i]
		touched[topic] = true
		l.holds[l.at] = append(l.holds[l.at], topic)
		offset := l.produce(topic, nil, fmt.Append(nil, l.at), kmsg.Header{Key: record.HeaderPosition, Value: change.AppendPosition(nil, l.position(l.at))})
		vector[topic] = []int64{offset + 1}
	}
	pr := l.progressAt(l.at)
	pr.N, pr.Vector, pr.Full, pr.Source = l.n+1, vector, l.n%4 == 0, l.options.Source
	value, err := pr.Encode()
	l.must(err)
	l.produce(l.progress, []byte(pr.Key()), value)

	ended := map[string][]int32{}
	hung := 0
	for topic := range touched {
		if x.hangs != nil && x.hangs(topic) {
			l.open[topic] = l.open[topic] || x.commit
			hung++
			continue
		}
		l.justified = l.justified || !x.commit && l.open[topic]
		delete(l.open, topic)
		ended[topic] = []int32{0}
	}
	// What was acknowledged and hangs cannot be told from what hangs with it, and was aborted elsewhere.
	l.justified = l.justified || !x.commit && hung > 0 && hung < len(touched) && l.open[l.progress]
	p := &Publisher{source: l.options.Source, log: l.options.Log, reading: []kgo.Opt{kgo.SeedBrokers(l.options.Kafka.Brokers...)}}
	l.must(p.end(l.t.Context(), l.id, l.epoch, ended, x.commit))
	for preparing := true; preparing; { // its markers would also end what is produced now
		described, err := kadm.NewClient(l.raw).DescribeTransactions(l.t.Context(), TransactionalID(l.options.Source))
		l.must(err)
		preparing = strings.HasPrefix(described[TransactionalID(l.options.Source)].State, "Prepare")
	}
	if x.commit {
		l.acked, l.vector, l.n = l.at, vector, l.n+1
	}
}

func (l *leaky) position(at uint64) change.Position {
	return change.Position{Era: 1, CommitLSN: change.LSN(at), Seq: 2}
}

func (l *leaky) progressAt(at uint64) *record.Progress {
	return &record.Progress{Era: 1, CommitLSN: record.LSN(at), EndLSN: record.LSN(at)}
}

// resume starts a Publisher, which publishes again what it says is not published, and looks at what readers have then.
// It gives the newest transaction that was found published.
func (l *leaky) resume() (found uint64, lacking string) {
	l.t.Helper()
	p, err := Open(l.t.Context(), l.options)
	l.must(err)
	defer p.Close()
	state, err := p.Resume(l.t.Context())
	l.must(err)
	if state.Progress != nil {
		found = uint64(state.Progress.EndLSN)
	}
	if state.Lacking != "" || found < l.acked { // capture stops
		return found, state.Lacking
	}
	if state.Progress != nil { // as capture claims the source
		mine := *state.Progress
		mine.Full = true
		l.must(p.Commit(l.t.Context(), &mine))
	}
	commit := func(at uint64) {
		pr := l.progressAt(at)
		pr.Full = p.N() == 0
		l.must(p.Commit(l.t.Context(), pr))
	}
	l.again = 0
	for at := uint64(10); at <= l.at; at += 10 {
		for _, topic := range l.holds[at] {
			if top := p.known[topic]; at > found && l.position(at).Compare(top.floors[0]) > 0 {
				l.again++
				l.must(p.begin(l.t.Context()))
				r := p.memory.record()
				r.Topic, r.Value = topic, fmt.Append(nil, at)
				r.Headers = []kgo.RecordHeader{{Key: record.HeaderPosition, Value: change.AppendPosition(nil, l.position(at))}}
				p.send(l.t.Context(), top, r)
			}
		}
		if at > found {
			commit(at)
		}
	}
	// It publishes on, in every topic.
	l.at += 10
	l.must(p.begin(l.t.Context()))
	for _, topic := range l.tables {
		l.holds[l.at] = append(l.holds[l.at], topic)
		p.send(l.t.Context(), p.known[topic], &kgo.Record{
			Topic: topic, Value: fmt.Append(nil, l.at),
			Headers: []kgo.RecordHeader{{Key: record.HeaderPosition, Value: change.AppendPosition(nil, l.position(l.at))}},
		})
	}
	commit(l.at)
	l.acked, l.n = l.at, p.n
	clear(l.open)
	l.look(p)
	return found, ""
}

// look fails the test unless readers have every transaction once, in order, and a vector that says so.
func (l *leaky) look(p *Publisher) {
	l.t.Helper()
	var s *survey
	for deadline := time.Now().Add(time.Minute); ; {
		var err error
		s, err = p.survey(l.t.Context(), time.Second)
		l.must(err)
		if s.last != nil && uint64(s.last.EndLSN) == l.at && len(s.hanging) == 0 {
			break
		}
		if time.Now().After(deadline) || l.t.Context().Err() != nil {
			l.t.Fatalf("progress %+v, hanging %v", s.last, s.hanging)
		}
	}
	l.vector = s.last.Vector
	spans := map[string][]span{}
	for _, topic := range l.tables {
		spans[topic] = []span{{0, s.ends[topic][0]}}
	}
	got, behind := map[string][]string{}, map[string]int64{}
	l.must(p.read(l.t.Context(), spans, func(r *kgo.Record) error {
		got[r.Topic] = append(got[r.Topic], string(r.Value))
		behind[r.Topic] = r.Offset + 1
		return nil
	}))
	for _, topic := range l.tables {
		var want []string
		for at := uint64(10); at <= l.at; at += 10 {
			if slices.Contains(l.holds[at], topic) {
				want = append(want, fmt.Sprint(at))
			}
		}
		if !slices.Equal(got[topic], want) {
			l.t.Errorf("topic %s has %v, want %v", topic, got[topic], want)
		}
		if next := s.last.Vector[topic]; len(next) != 1 || next[0] != behind[topic] {
			l.t.Errorf("topic %s: vector %v, want %d", topic, next, behind[topic])
		}
	}
}

func everywhere(string) bool { return true }

func (l *leaky) in(topics ...string) func(string) bool {
	return func(topic string) bool { return slices.Contains(topics, topic) }
}

// A broker killed between the acknowledgement of a commit and the markers left the transaction without an end. It was
// published again, and the commit of the next one made both readable.
func TestHangingEverywhere(t *testing.T) {
	eachLeaky(t, func(t *testing.T, l *leaky) {
		l.begin()
		l.write(tx{tables: []int{0, 1}, commit: true})
		l.write(tx{tables: []int{1, 2}, commit: true, hangs: everywhere})
		if found, lacking := l.resume(); found != 20 || lacking != "" {
			t.Errorf("published is %d, lacking %q", found, lacking)
		}
	})
}

// The very first transaction, too.
func TestHangingFirst(t *testing.T) {
	eachLeaky(t, func(t *testing.T, l *leaky) {
		l.begin()
		l.write(tx{tables: []int{0}, commit: true, hangs: everywhere})
		if found, lacking := l.resume(); found != 10 || lacking != "" {
			t.Errorf("published is %d, lacking %q", found, lacking)
		}
	})
}

func TestHangingWithoutProgress(t *testing.T) {
	eachLeaky(t, func(t *testing.T, l *leaky) {
		l.begin()
		l.write(tx{tables: []int{0, 1}, commit: true})
		l.write(tx{tables: []int{0, 1}, commit: true, hangs: l.in(l.tables[0])})
		l.write(tx{tables: []int{1, 2}, commit: true}) // it went on
		if found, lacking := l.resume(); found != 30 || lacking != "" {
			t.Errorf("published is %d, lacking %q", found, lacking)
		}
	})
}

// What was not acknowledged, and was aborted in one partition, is aborted in all.
func TestHangingHalfAborted(t *testing.T) {
	eachLeaky(t, func(t *testing.T, l *leaky) {
		l.begin()
		l.write(tx{tables: []int{0, 1}, commit: true})
		l.write(tx{tables: []int{0, 1}, hangs: l.in(l.progress, l.tables[0])})
		if found, lacking := l.resume(); found != 10 || lacking != "" || l.again != 2 {
			t.Errorf("published is %d, lacking %q, %d records again", found, lacking, l.again)
		}
		l.begin()
		l.write(tx{tables: []int{0, 2}, hangs: l.in(l.tables[0], l.tables[2])}) // only its progress was aborted
		if found, lacking := l.resume(); found != 30 || lacking != "" || l.again != 2 {
			t.Errorf("published is %d, lacking %q, %d records again", found, lacking, l.again)
		}
	})
}

// A topic that is gone is waited for after an interruption too: that is told, and that it is over.
func TestInterruptionWithoutATopic(t *testing.T) {
	patience, blink := listPatience, listBlink
	listPatience, listBlink = 500*time.Millisecond, time.Millisecond
	t.Cleanup(func() { listPatience, listBlink = patience, blink })
	l := newLeaky(t, kafkatest.Fake(t))
	var told []*trouble.Error
	l.options.Waits = func(what *trouble.Error) { told = append(told, what) }
	p, err := Open(t.Context(), l.options)
	l.must(err)
	defer p.Close()
	_, err = p.Resume(t.Context())
	l.must(err)
	gone, err := record.Topic(l.options.Source, "public", "gone")
	l.must(err)
	p.known[gone] = newTopic(gone, 1)
	p.known[gone].next[0] = 1000
	for range 3 { // connections that idle are ended, again and again
		p.interruption.OnBrokerDisconnect(kgo.BrokerMetadata{}, nil)
		l.must(p.begin(t.Context()))
		p.open = false
	}
	if len(told) != 2 || told[0] == nil || told[0].Code != trouble.TopicRecreated || told[1] != nil {
		t.Errorf("told of %v", told)
	}
}

// A transaction that hangs while its producer goes on ends with the next one there. When that was written once more, as
// somebody else seemed to have written, the hanging one was aborted, and lost.
func TestHangingIsEndedByTheNext(t *testing.T) {
	l := newLeaky(t, kafkatest.Fake(t))
	p, err := Open(t.Context(), l.options)
	l.must(err)
	defer p.Close()
	_, err = p.Resume(t.Context())
	l.must(err)
	topic := newTopic(l.tables[0], 1)
	p.known[topic.name] = topic
	const transactions = 4
	for i := range transactions {
		if i == 1 || i == 2 {
			topic.ends[0]++ // as if there were one marker less than there are transactions
		}
		l.at += 10
		l.holds[l.at] = []string{topic.name}
		l.must(p.begin(t.Context()))
		p.send(t.Context(), topic, &kgo.Record{Topic: topic.name, Value: fmt.Append(nil, l.at)})
		pr := l.progressAt(l.at)
		pr.Full = true
		l.must(p.Commit(t.Context(), pr))
	}
	highs, err := p.highs(t.Context(), topic.name)
	l.must(err)
	if high := highs[topic.name][0]; high != 2*transactions {
		t.Errorf("the topic ends at %d, want a record and a marker each", high)
	}
	l.tables = l.tables[:1]
	l.look(p)
}

// After an interruption nothing is written behind what hangs: it would be lost with what is aborted there.
func TestHangingAfterInterruption(t *testing.T) {
	eachLeaky(t, func(t *testing.T, l *leaky) {
		p, err := Open(t.Context(), l.options)
		l.must(err)
		defer p.Close()
		_, err = p.Resume(t.Context())
		l.must(err)
		l.id, l.epoch, err = p.client.ProducerID(t.Context())
		l.must(err)
		p.interruption.OnBrokerDisconnect(kgo.BrokerMetadata{}, nil)
		l.must(p.begin(t.Context())) // nothing hangs
		p.open = false
		l.write(tx{tables: []int{0, 1}, commit: true, hangs: l.in(l.tables[0])})
		p.interruption.OnBrokerDisconnect(kgo.BrokerMetadata{}, nil)
		err = p.begin(t.Context())
		if err == nil || !strings.Contains(err.Error(), l.tables[0]) || !retry.Transient(err) {
			t.Fatalf("begin gave %v, want a transient error that names %s", err, l.tables[0])
		}
		if found, lacking := l.resume(); found != 10 || lacking != "" {
			t.Errorf("published is %d, lacking %q", found, lacking)
		}
	})
}

// What was acknowledged, hung while capture went on, and was then aborted with another transaction, was lost without a
// word.
func TestAcknowledgedAndAborted(t *testing.T) {
	eachLeaky(t, func(t *testing.T, l *leaky) {
		l.begin()
		l.write(tx{tables: []int{0, 1}, commit: true, hangs: l.in(l.tables[0])})
		l.write(tx{tables: []int{1, 2}, commit: true})
		l.write(tx{tables: []int{0}})
		if _, lacking := l.resume(); !strings.Contains(lacking, l.tables[0]) {
			t.Errorf("lacking is %q, want topic %s", lacking, l.tables[0])
		}
	})
}

// What another producer has left cannot be ended in its name. Nothing is written behind it.
func TestHangingOfAnother(t *testing.T) {
	l := newLeaky(t, fakeLeaky(t))
	l.begin()
	l.write(tx{tables: []int{0}, commit: true})
	ours := l.id
	res, err := kmsg.NewPtrInitProducerIDRequest().RequestWith(t.Context(), l.raw)
	l.must(err)
	l.id, l.epoch = res.ProducerID, res.ProducerEpoch
	clear(l.seq)
	l.produce(l.tables[0], nil, []byte("x"))
	if l.id == ours {
		t.Fatal("it is the same producer")
	}
	p, err := Open(t.Context(), l.options)
	l.must(err)
	defer p.Close()
	if _, err = p.Resume(t.Context()); trouble.CodeOf(err) != trouble.KafkaProduce {
		t.Errorf("it said %v", err)
	}
}

// Whatever hangs, of transactions that were acknowledged or not: nothing is lost or published twice. What stops capture is only
// what was aborted after it had been acknowledged.
func TestHangingAnyhow(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	fake := fakeLeaky(t)
	stopped, settled := 0, 0
	for i := range uint64(30) {
		func() {
			r := rand.New(rand.NewPCG(seed, i))
			l := newLeaky(t, fake)
			for range 3 {
				l.begin()
				some := func(topics int, p float64) (list []int) {
					for i := range topics {
						if r.Float64() < p {
							list = append(list, i)
						}
					}
					return list
				}
				hangs := func() func(string) bool {
					p, all := r.Float64(), map[string]bool{}
					return func(topic string) bool {
						if _, ok := all[topic]; !ok {
							all[topic] = r.Float64() < p
						}
						return all[topic]
					}
				}
				for range r.IntN(4) {
					l.write(tx{tables: some(3, 0.5), commit: true, hangs: hangs()})
				}
				if r.IntN(2) == 0 {
					l.write(tx{tables: some(3, 0.6), hangs: hangs()})
				}
				acked := l.acked
				found, lacking := l.resume()
				if lacking != "" || found < acked {
					stopped++
					if !l.justified {
						t.Errorf("seed %d, %d: published is %d, acknowledged %d, lacking %q", seed, i, found, acked, lacking)
					}
					return
				}
				settled++
			}
		}()
		if t.Failed() {
			t.Fatalf("seed %d, %d", seed, i)
		}
	}
	t.Logf("seed %d: capture went on %d times, and stopped %d times", seed, settled, stopped)
}
