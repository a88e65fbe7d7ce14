package consume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Reader reads ranges of partitions outside of any group: who may read what is decided elsewhere. What was fetched
// behind a range is kept for the next one. It is not safe for concurrent use; make one with NewReader, then Close it.
type Reader struct {
	client *kgo.Client
	admin  *kadm.Client
	tails  map[key]*tail
	chunk  int64
}

// tail is what is known of a partition behind what was handed out.
type tail struct {
	queue  []*kgo.Record
	bytes  int64
	next   int64 // offset behind the newest record in the queue
	handed int64 // offset behind the newest record handed out
	paused bool
}

// Range is a part of a partition: from one offset up to but not including another, at which there is a record or the
// end of a transaction.
type Range struct {
	Topic     string
	Partition int32
	From, To  int64
}

// NewReader makes a reader that hands out about chunk bytes at a time. It does no I/O beyond reading files that the
// configuration names.
func NewReader(cfg kafka.Config, chunk int64, log *slog.Logger) (*Reader, error) {
	fetch := int32(min(max(chunk, 1<<20), 32<<20))
	client, err := outside(cfg, log, fetch, max(fetch/4, 1<<20))
	if err != nil {
		return nil, err
	}
	return &Reader{client: client, admin: kadm.NewClient(client), tails: map[key]*tail{}, chunk: chunk}, nil
}

// outside makes a client that reads, outside of any group, what is committed, with commit markers: from where it is told, so many bytes
// at once, of all partitions and of one.
func outside(cfg kafka.Config, log *slog.Logger, most, each int32) (*kgo.Client, error) {
	opts, err := cfg.Options(log)
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(opts,
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.KeepControlRecords(),
		kgo.FetchMaxBytes(most), kgo.FetchMaxPartitionBytes(each), kgo.FetchMaxWait(fetchMaxWait),
	)...)
	if err != nil {
		return nil, fmt.Errorf("make Kafka client: %w", err)
	}
	return client, nil
}

// Close ends its connections.
func (r *Reader) Close() { r.client.Close() }

// Topics gives the id and the number of partitions of topics; those that do not exist are left out.
func (r *Reader) Topics(ctx context.Context, names ...string) (ids map[string]string, partitions map[string]int32, err error) {
	details, err := r.admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, nil, kafka.Trouble("look up topics of", "Kafka", err)
	}
	ids, partitions = map[string]string{}, map[string]int32{}
	for name, d := range details {
		if d.Err == nil {
			ids[name], partitions[name] = d.ID.String(), int32(len(d.Partitions))
		}
	}
	return ids, partitions, nil
}

// Last gives the last offsets of a topic's partition 0, so many at most, and all of it. Both are empty where there is no such topic.
func (r *Reader) Last(ctx context.Context, topic string, offsets int64) (last, all Range, err error) {
	starts, err := r.admin.ListStartOffsets(ctx, topic)
	var ends kadm.ListedOffsets
	if err == nil {
		ends, err = r.admin.ListCommittedOffsets(ctx, topic)
	}
	start, _ := starts.Lookup(topic, 0)
	end, _ := ends.Lookup(topic, 0)
	if err = cmp.Or(err, start.Err, end.Err); errors.Is(err, kerr.UnknownTopicOrPartition) {
		return Range{Topic: topic}, Range{Topic: topic}, nil
	}
	if err != nil {
		return Range{}, Range{}, kafka.Trouble("list offsets of", fmt.Sprintf("topic %q", topic), err)
	}
	all = Range{Topic: topic, From: max(0, start.Offset), To: max(0, end.Offset)}
	last = all
	last.From = max(all.From, all.To-offsets)
	return last, all, nil
}

const (
	// fewest records are handed out together if they are there, however large: the halves of a change of a key, with
	// commit markers between them.
	fewest = 4
	// readPatience is how long Read waits for a record that must be there.
	readPatience = 30 * time.Second
)

// Read hands the records of all ranges to take, a partition's in their order, commit markers among them. take says how
// many it has taken; the rest is handed out again after records of other partitions. Its error ends Read.
func (r *Reader) Read(ctx context.Context, ranges []Range, take func(topic string, partition int32, records []*kgo.Record) (int, error)) error {
	r.begin(ranges)
	for {
		progress, done := false, true
		for _, g := range ranges {
			t := r.tails[key{g.Topic, g.Partition}]
			moved, err := r.hand(t, g, take)
			if err != nil {
				return err
			}
			progress = progress || moved
			done = done && t.handed >= g.To
		}
		if done {
			r.shrink(ranges)
			return nil
		}
		if progress {
			continue // something else may go on now
		}
		if err := r.poll(ctx, ranges); err != nil {
			return err
		}
	}
}

// begin sets the partitions to where the ranges begin.
func (r *Reader) begin(ranges []Range) {
	fresh := map[string]map[int32]kgo.Offset{}
	moved := map[string]map[int32]kgo.EpochOffset{}
	for _, g := range ranges {
		k := key{g.Topic, g.Partition}
		t := r.tails[k]
		switch {
		case t == nil:
			r.tails[k] = &tail{next: g.From, handed: g.From}
			if fresh[g.Topic] == nil {
				fresh[g.Topic] = map[int32]kgo.Offset{}
			}
			fresh[g.Topic][g.Partition] = kgo.NewOffset().At(g.From)
		case t.handed != g.From: // of an attempt that failed, or of another owner
			*t = tail{next: g.From, handed: g.From, paused: t.paused}
			if moved[g.Topic] == nil {
				moved[g.Topic] = map[int32]kgo.EpochOffset{}
			}
			moved[g.Topic][g.Partition] = kgo.EpochOffset{Epoch: -1, Offset: g.From}
		}
	}
	if len(fresh) > 0 {
		r.client.AddConsumePartitions(fresh)
	}
	if len(moved) > 0 {
		r.client.SetOffsets(moved)
	}
}

// hand hands out what is there of a range.
func (r *Reader) hand(t *tail, g Range, take func(string, int32, []*kgo.Record) (int, error)) (moved bool, err error) {
	n, bytes := 0, int64(0)
	for n < len(t.queue) && t.queue[n].Offset < g.To && (bytes < r.chunk || n < fewest) {
		bytes += recordSize(t.queue[n])
		n++
	}
	if n > 0 {
		took, err := take(g.Topic, g.Partition, t.queue[:n:n])
		if err != nil {
			return false, err
		}
		for _, record := range t.queue[:took] {
			t.bytes -= recordSize(record)
			t.handed = record.Offset + 1
		}
		t.queue = t.queue[took:]
		moved = took > 0
	}
	// What compaction or an aborted transaction left out is behind us once something behind it is there.
	if t.handed < g.To && (len(t.queue) > 0 && t.queue[0].Offset >= g.To || len(t.queue) == 0 && t.next >= g.To) {
		t.handed, moved = g.To, true
	}
	return moved, nil
}

// shrink lets go of what was read ahead, behind the ranges, if it has become much. It is read again when its turn comes.
func (r *Reader) shrink(ranges []Range) {
	total := int64(0)
	for _, t := range r.tails {
		total += t.bytes
	}
	if total <= 4*r.chunk {
		return
	}
	to := map[key]int64{}
	for _, g := range ranges {
		to[key{g.Topic, g.Partition}] = g.To
	}
	back := map[string]map[int32]kgo.EpochOffset{}
	for k, t := range r.tails {
		if len(t.queue) == 0 || t.queue[0].Offset < to[k] {
			continue
		}
		t.queue, t.bytes, t.next = nil, 0, t.handed
		if back[k.topic] == nil {
			back[k.topic] = map[int32]kgo.EpochOffset{}
		}
		back[k.topic][k.number] = kgo.EpochOffset{Epoch: -1, Offset: t.handed}
	}
	if len(back) > 0 {
		r.client.SetOffsets(back)
	}
}

// forget has a partition begun anew: the client goes on where the broker has something, and would give it without another word.
func (r *Reader) forget(topic string, number int32) {
	delete(r.tails, key{topic, number})
	r.client.RemoveConsumePartitions(map[string][]int32{topic: {number}})
}

// poll fetches more. Partitions of which enough is there are left alone.
func (r *Reader) poll(ctx context.Context, ranges []Range) error {
	wanted := map[key]bool{}
	for _, g := range ranges {
		if t := r.tails[key{g.Topic, g.Partition}]; t.next < g.To && t.bytes < r.chunk {
			wanted[key{g.Topic, g.Partition}] = true
		}
	}
	r.shrink(ranges)
	if len(wanted) == 0 {
		return errors.New("partitions wait for each other") // a TRUNCATE that is not in all of them
	}
	pause, resume := map[string][]int32{}, map[string][]int32{}
	for k, t := range r.tails {
		if t.paused == wanted[k] {
			t.paused = !wanted[k]
			if t.paused {
				pause[k.topic] = append(pause[k.topic], k.number)
			} else {
				resume[k.topic] = append(resume[k.topic], k.number)
			}
		}
	}
	if len(pause) > 0 {
		r.client.PauseFetchPartitions(pause)
	}
	if len(resume) > 0 {
		r.client.ResumeFetchPartitions(resume)
	}
	waiting, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	fetches := r.client.PollRecords(waiting, pollRecords)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var failure error
	if waiting.Err() != nil {
		failure = &trouble.Error{
			Code: trouble.KafkaUnreachable, Op: "read", Subject: fmt.Sprintf("topic %q", ranges[0].Topic), Cause: waiting.Err(),
			Means: "nothing is lost; what was written was rolled back, and is tried again",
		}
	}
	fetches.EachPartition(func(fp kgo.FetchTopicPartition) {
		t := r.tails[key{fp.Topic, fp.Partition}]
		if fp.Err != nil {
			if t != nil {
				if err := fetchTrouble(&Partition{Topic: fp.Topic, Number: fp.Partition, polled: t.next}, fp.Err); err != nil {
					failure = withFirst(ctx, r.admin, fp.Topic, fp.Partition, err)
					r.forget(fp.Topic, fp.Partition)
				}
			}
			return
		}
		for _, record := range fp.Records {
			if t != nil && record.Offset >= t.next {
				t.queue = append(t.queue, record)
				t.bytes += recordSize(record)
				t.next = record.Offset + 1
			}
		}
	})
	return failure
}
