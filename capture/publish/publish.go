// Package publish writes events to Kafka exactly once: one topic per table, Kafka transactions that hold data and
// progress together, and the state from which a restart goes on. It knows nothing of Postgres; the caller decides
// where a Kafka transaction ends and what is confirmed to the source afterwards.
//
// Where Options.Direct is set changes go without a transaction, and what is said here of a Kafka transaction is of the
// changes between two progress records; see Together.
//
// The order of a start is what makes it safe: Open fences an older instance (InitProducerID), and only then Resume
// reads the progress. Read the other way round, the older instance could commit between the two, and its work would
// be published again.
package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/tracing"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// Publisher is the one producer of a source. One goroutine at a time.
type Publisher struct {
	source   string
	topics   Topics
	client   *kgo.Client
	direct   *direct   // nil where everything is written in transactions
	reading  []kgo.Opt // how to connect a reader
	registry *registry.Client
	log      *slog.Logger
	refused  Refusals
	waits    func(*trouble.Error)
	covers   []Cover
	salt     []byte

	sender record.Source
	known  map[string]*topic // by name
	memory memory
	clock  time.Time     // of this host, when it was looked at last
	ended  time.Time     // when the last Kafka transaction was
	over   chan struct{} // see Over; nil until it is asked for
	open   bool          // something was produced since the last Commit
	inTx   bool          // a Kafka transaction has been begun
	began  time.Time
	bytes  int64 // produced since the last Commit

	visible time.Time // when readers had the first of what the last Commit was about

	interruption interruption
	retries      *kafka.Retries

	trace func(at time.Time) *tracing.Trace // begins one; nil: no traces
	mark  *mark                             // of what is produced until the next Commit; nil before the first record, and without traces

	n         uint64    // of the last progress record
	lastFull  time.Time // when a full one was written last
	sinceFull int

	sound context.Context          // ends with the first record that was not taken: nothing can be committed any more
	spoil context.CancelCauseFunc  // says why
	tell  func(*kgo.Record, error) // promise: one for all records, as a new one each time takes memory
	limit time.Duration            // Options.TransactionTimeout

	mu    sync.Mutex // guards what promises write: acked here, next and touched of topics
	acked time.Time  // when the first record since the last Commit that goes without a transaction was acknowledged
}

// Why says why the brokers do not take what is published, as far as they do: they refuse the login, or some topic has too few replicas; nil
// where nothing is known. It is to be asked again and again while they are waited for, and Hush called after that. Both are safe beside a Commit.
func (p *Publisher) Why(ctx context.Context) error {
	if heard := p.retries.Why(); heard != nil {
		return heard
	}
	return kafka.Ping(ctx, p.client)
}

// Hush ends what Why has begun.
func (p *Publisher) Hush() { p.retries.Hush() }

// Options say where to publish.
type Options struct {
	Source   string // name of the source: prefix of its topics and the transactional id
	Kafka    kafka.Config
	Topics   Topics
	Registry *registry.Client
	Log      *slog.Logger
	// TransactionTimeout is how long the broker keeps a transaction of ours open when we say nothing. A dead instance's
	// open transaction hides later records from readers for as long, unless a successor fences it.
	TransactionTimeout time.Duration
	// Direct publishes changes without a transaction, see Together.
	Direct bool
	// Refused is what brokers have refused in earlier sessions. It stays the caller's: an entry that is deleted counts no
	// more.
	Refused Refusals
	// Waits is told of what is waited for before anything is published, where that takes a while, and with nil that it is over; nil:
	// nobody is.
	Waits func(*trouble.Error)
	// Covers say what is not published, or not as it is; Salt is that of hashes.
	Covers []Cover
	Salt   []byte
}

const (
	maxBufferedBytes   = 64 << 20
	maxBufferedRecords = 1 << 20
	maxWriteBytes      = 100 << 20            // as brokers take by default: socket.request.max.bytes
	requestOverhead    = 1 << 20              // what a request holds besides one record of the greatest size
	producerLinger     = 5 * time.Millisecond // fills batches under load; a commit does not wait for it
	// metadataMinAge is how long the client waits from one look at the metadata to the next. A batch that the broker refuses
	// for a moment waits for that: since KIP-890 every first batch of a transaction whose predecessor's markers are still being
	// written, which with the default of 5 s would stop everything for as long.
	metadataMinAge = 100 * time.Millisecond
)

// Open connects and fences: any older instance of the same source can produce nothing from here on.
func Open(ctx context.Context, o Options) (*Publisher, error) {
	opts, err := o.Kafka.Options(o.Log)
	if err != nil {
		return nil, err
	}
	producing := append(slices.Clone(opts),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(int32(o.Topics.MaxMessageBytes)),
		kgo.MaxBufferedBytes(max(maxBufferedBytes, int(o.Topics.MaxMessageBytes))),
		kgo.BrokerMaxWriteBytes(max(maxWriteBytes, int32(o.Topics.MaxMessageBytes)+requestOverhead)),
		kgo.MaxBufferedRecords(maxBufferedRecords),
		kgo.MetadataMinAge(metadataMinAge),
	)
	p := &Publisher{
		source: o.Source, topics: o.Topics, reading: opts, registry: o.Registry, log: o.Log,
		refused: o.Refused, waits: o.Waits, covers: o.Covers, salt: o.Salt, known: map[string]*topic{}, limit: o.TransactionTimeout,
	}
	p.sound, p.spoil = context.WithCancelCause(context.Background())
	p.tell, p.retries = p.promise, o.Kafka.Retries(o.Log)
	producing = append(append(producing, kgo.WithHooks(&p.interruption)), p.retries.Options()...)
	client, err := kgo.NewClient(append(slices.Clone(producing),
		kgo.TransactionalID(TransactionalID(o.Source)),
		kgo.TransactionTimeout(o.TransactionTimeout),
		kgo.ProducerLinger(producerLinger),
	)...)
	if err != nil {
		return nil, kafka.Trouble("connect to", "Kafka", err)
	}
	p.client = client
	if _, _, err := client.ProducerID(ctx); err != nil {
		client.Close()
		return nil, kafka.Trouble("fence older instances of", fmt.Sprintf("source %q", o.Source), err)
	}
	if o.Direct {
		if p.direct, err = newDirect(producing, int(o.Topics.MaxMessageBytes)/2, p.promiseDirect, p.failed); err != nil {
			client.Close()
			return nil, kafka.Trouble("connect to", "Kafka", err)
		}
	}
	return p, nil
}

// TransactionalID gives the transactional id of a source's producer.
func TransactionalID(source string) string { return source }

// Close ends the connection. What is not committed is lost, and published again after the next start.
func (p *Publisher) Close() {
	if p.direct != nil {
		p.direct.close()
	}
	p.client.Close()
	p.spoil(kgo.ErrClientClosed)
	if p.over != nil {
		<-p.over
	}
}

// SetTrace has what is produced until a Commit traced from its first record on, with a trace that begin gives: nil where it
// is not to be recorded. Its end is the caller's.
func (p *Publisher) SetTrace(begin func(at time.Time) *tracing.Trace) { p.trace = begin }

// mark names a trace to readers: on the first record in each partition, so that whatever of the transaction a reader has
// before it, it finds the trace. It is not on the progress record, which those who read rows do not.
type mark struct {
	trace  *tracing.Trace
	header []byte
	done   map[markedPartition]bool
}

type markedPartition struct {
	topic  *topic
	number int32
}

// marked gives the headers of a record.
func (p *Publisher) marked(t *topic, partition int32, headers []kgo.RecordHeader) []kgo.RecordHeader {
	if p.mark == nil {
		trace := p.trace(p.began)
		p.mark = &mark{trace: trace, header: trace.Header(), done: map[markedPartition]bool{}}
	}
	at := markedPartition{t, partition}
	if p.mark.header == nil || p.mark.done[at] {
		return headers
	}
	p.mark.done[at] = true
	return append(slices.Clone(headers), kgo.RecordHeader{Key: record.HeaderTrace, Value: p.mark.header})
}

// SetSource sets what every record says of where it comes from. To be called before Table.
func (p *Publisher) SetSource(s record.Source) { p.sender = s }

// Table is one version of one relation, ready to be published.
type Table struct {
	Relation *schema.Relation // as the source has it
	cover    *cover           // nil where all of it is published as it is
	encoder  *record.Encoder
	schemaID int    // of the values
	schemas  string // fingerprint of those of key and values
	topic    *topic
	// partitions over which rows are spread. It is one where keys that are equal for Postgres may have different bytes: the
	// delete of 'Abc' must not come after the insert of 'ABC'.
	partitions int32
}

// SchemaID gives the registry's id of the schema that values have.
func (t *Table) SchemaID() int { return t.schemaID }

// Schemas gives a fingerprint of the schemas of key and values: that of another version is another one.
func (t *Table) Schemas() string { return t.schemas }

// Partitions gives over how many partitions rows are spread.
func (t *Table) Partitions() int { return int(t.partitions) }

// Unpublished gives the indexes of those columns of Relation whose values no reader of the topic gets.
func (t *Table) Unpublished() []int {
	if t.cover == nil {
		return nil
	}
	return t.cover.hidden
}

// Topic gives the name of the table's topic.
func (t *Table) Topic() string { return t.topic.name }

// Table compiles rel, makes its topic where it is missing, and registers its schemas.
func (p *Publisher) Table(ctx context.Context, rel *schema.Relation) (*Table, error) {
	source := rel
	covered, err := newCover(p.covers, p.salt, rel)
	if err != nil {
		return nil, err
	}
	if covered != nil {
		rel = covered.published
	}
	enc, err := record.NewEncoder(p.sender, rel)
	if err != nil {
		return nil, &OneTable{&trouble.Error{
			Code: trouble.TopicName, Op: "publish", Subject: fmt.Sprintf("table %q", rel.QualifiedName()), Cause: err,
			Means: "nothing of the table is published", Hint: "leave the table out of source.tables",
		}}
	}
	top, err := p.topic(ctx, enc.Topic(), rel)
	if err != nil {
		return nil, err
	}
	valueID, err := p.registry.Register(ctx, enc.Topic()+"-value", enc.ValueSchema())
	if err != nil {
		return nil, registryTrouble(rel, err)
	}
	keyID := 0
	if text := enc.KeySchema(); text != "" {
		if keyID, err = p.registry.Register(ctx, enc.Topic()+"-key", text); err != nil {
			return nil, registryTrouble(rel, err)
		}
	}
	enc.SetIDs(keyID, valueID)
	partitions := int32(len(top.floors))
	if !rel.ByteEqualKey() {
		partitions = 1
	}
	return &Table{Relation: source, cover: covered, encoder: enc, schemaID: valueID, schemas: fingerprint(enc), topic: top, partitions: partitions}, nil
}

func fingerprint(enc *record.Encoder) string {
	sum := sha256.Sum256([]byte(enc.KeySchema() + "\n" + enc.ValueSchema()))
	return hex.EncodeToString(sum[:8])
}

// Holds says whether anything was ever written to the topic of t, be it there still or not. Where t is new, that is of an earlier table of its
// name.
func (p *Publisher) Holds(t *Table) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	written := func(n int64) bool { return n > 0 }
	top := t.topic
	return top.direct || slices.ContainsFunc(top.next, func(n int64) bool { return n >= 0 }) || slices.ContainsFunc(top.torn, written) || slices.ContainsFunc(top.sent, written)
}

// Lost says whether the topic of t, or a partition of it, has lost all that was written to it, and no progress has counted anything there since: it
// was deleted and made anew. What stands there all the same was written without a transaction, or by a commit that broke down, and nothing
// says that its writer had the table read again.
func (p *Publisher) Lost(t *Table) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(t.topic.next, 0)
}

// Publish produces ev, unless its partition already holds it, and says whether it did. The event's tuples may be
// reused as soon as it returns. For a truncate, every partition gets the record.
func (p *Publisher) Publish(ctx context.Context, t *Table, ev *change.Event, headers ...kgo.RecordHeader) (bool, error) {
	if ev.Position.Snapshot() {
		if err := p.Together(ctx); err != nil {
			return false, err
		}
	}
	if ev.Op == change.Truncate {
		published := false
		for partition := range t.topic.floors {
			did, err := p.produce(ctx, t, ev, nil, int32(partition), headers)
			if err != nil {
				return false, err
			}
			published = published || did
		}
		return published, nil
	}
	if t.cover != nil {
		covered := t.cover.event(ev)
		ev = &covered
	}
	row := ev.After
	if ev.Op == change.Delete {
		row = ev.Before
	}
	key, err := p.key(t, row)
	if err != nil {
		return false, err
	}
	return p.produce(ctx, t, ev, key, record.Partition(key, t.partitions), headers)
}

// PublishMove produces the two halves of a key change, next to each other, each naming the other's key. whole is false
// where the new row lacks values that were not sent, and its key belongs to another partition than the old one, where a
// reader has them: then only the delete is published, and the caller has the row of the new key read again.
func (p *Publisher) PublishMove(ctx context.Context, t *Table, old, fresh *change.Event) (did, whole bool, err error) {
	if t.cover != nil { // the one has no After, the other no Before
		both := t.cover.event(&change.Event{Before: old.Before, After: fresh.After})
		coveredOld, coveredFresh := *old, *fresh
		coveredOld.Before, coveredFresh.After = both.Before, both.After
		old, fresh = &coveredOld, &coveredFresh
	}
	oldKey, err := p.key(t, old.Before)
	if err != nil {
		return false, false, err
	}
	newKey, err := p.key(t, fresh.After)
	if err != nil {
		return false, false, err
	}
	from, to := record.Partition(oldKey, t.partitions), record.Partition(newKey, t.partitions)
	if from != to && slices.ContainsFunc(fresh.After, func(v change.Value) bool { return v.State == change.Unchanged }) {
		did, err = p.produce(ctx, t, old, oldKey, from, nil)
		return did, false, err
	}
	did, err = p.produce(ctx, t, old, oldKey, from, []kgo.RecordHeader{{Key: record.HeaderNewKey, Value: newKey}})
	if err != nil {
		return false, false, err
	}
	also, err := p.produce(ctx, t, fresh, newKey, to, []kgo.RecordHeader{{Key: record.HeaderOldKey, Value: oldKey}})
	return did || also, true, err
}

func (p *Publisher) key(t *Table, row change.Tuple) ([]byte, error) {
	if t.encoder.KeySchema() == "" {
		return nil, nil
	}
	key, err := p.memory.build(func(dst []byte) ([]byte, error) { return t.encoder.AppendKey(dst, row) })
	if err != nil {
		return nil, notEncoded("the key of a row of", fmt.Sprintf("table %q", t.Relation.QualifiedName()), err)
	}
	return key, nil
}

func (p *Publisher) produce(ctx context.Context, t *Table, ev *change.Event, key []byte, partition int32, headers []kgo.RecordHeader) (bool, error) {
	if ev.Position.Compare(t.topic.floors[partition]) <= 0 {
		return false, nil
	}
	if err := p.refused.of(t.topic.name, ev.Position); err != nil {
		return false, err
	}
	t.topic.floors[partition] = ev.Position
	value, err := p.memory.build(func(dst []byte) ([]byte, error) { return t.encoder.AppendValue(dst, ev) })
	if err != nil {
		return false, notEncoded("a row of", fmt.Sprintf("table %q at %s", t.Relation.QualifiedName(), ev.Position), err)
	}
	if size := len(key) + len(value) + recordOverhead; size > t.topic.maxBytes {
		return false, tooLarge(t, ev, size)
	}
	if err := p.begin(ctx); err != nil {
		return false, err
	}
	if p.trace != nil {
		headers = p.marked(t.topic, partition, headers)
	}
	position := p.memory.position(ev.Position)
	r := p.memory.record()
	r.Topic, r.Partition, r.Key, r.Value = t.topic.name, partition, key, value
	r.Timestamp = p.stamp(ev.Tx.CommitTime)
	r.Headers = p.memory.headers(kgo.RecordHeader{Key: record.HeaderPosition, Value: position}, headers)
	p.send(ctx, t.topic, r)
	if t.topic.compacted && ev.Op == change.Delete && key != nil {
		grave := p.memory.record()
		grave.Topic, grave.Partition, grave.Key, grave.Timestamp = r.Topic, partition, key, r.Timestamp
		grave.Headers = p.memory.headers(r.Headers[0], nil)
		p.send(ctx, t.topic, grave)
	}
	return true, nil
}

// stamp gives a record's time: that of the commit, in microseconds by the source's clock, but none that is to come. Brokers refuse a record
// that is an hour ahead (message.timestamp.after.max.ms), and what a source with such a clock has committed keeps its time in the WAL.
func (p *Publisher) stamp(commit int64) time.Time {
	at := time.UnixMicro(commit)
	if at.After(p.clock) {
		if p.clock = time.Now(); at.After(p.clock) {
			return p.clock
		}
	}
	return at
}

// recordOverhead bounds what a record takes in a batch of its own besides key and value.
const recordOverhead = 512

func (p *Publisher) send(ctx context.Context, top *topic, r *kgo.Record) {
	p.bytes += int64(len(r.Key) + len(r.Value))
	if p.direct != nil && !p.inTx {
		top.direct = true
		p.direct.add(r)
		return
	}
	top.sent[r.Partition]++
	p.client.Produce(ctx, r, p.tell)
}

// Send sends on its way what was published without a transaction. The caller calls it where a source transaction ends.
func (p *Publisher) Send() {
	if p.direct != nil {
		p.direct.send()
	}
}

// promise takes the outcome of one record, from the client's goroutine.
func (p *Publisher) promise(r *kgo.Record, err error) {
	if err != nil {
		p.spoil(refusal(r, kafka.Trouble("produce to", fmt.Sprintf("topic %q partition %d", r.Topic, r.Partition), err)))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if top := p.known[r.Topic]; top != nil {
		top.next[r.Partition] = r.Offset + 1
		top.touched = true
	}
}

// promiseDirect is promise of a record that readers have as soon as it is acknowledged.
func (p *Publisher) promiseDirect(r *kgo.Record, err error) {
	p.promise(r, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.acked.IsZero() {
		p.acked = time.Now()
	}
}

// failed gives why nothing can be committed any more; nil where that is not so.
func (p *Publisher) failed() error { return context.Cause(p.sound) }
