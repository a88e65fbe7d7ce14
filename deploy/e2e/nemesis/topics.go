package nemesis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// topicReader reads, in read_committed, what was added to the topics.
type topicReader struct {
	m        *machine
	client   *kgo.Client
	registry *registry.Client
	decoders map[int]*record.Decoder
	next     map[string]map[int32]int64 // offset up to which each partition was read
}

func newTopicReader(m *machine) (*topicReader, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(m.Broker.Addrs()...), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("make a Kafka client: %w", err)
	}
	schemas, err := registry.New(config.Registry{URL: m.Registry})
	if err != nil {
		client.Close()
		return nil, err
	}
	return &topicReader{m: m, client: client, registry: schemas, decoders: map[int]*record.Decoder{}, next: map[string]map[int32]int64{}}, nil
}

func (r *topicReader) close() {
	r.client.Close()
	r.registry.Close()
}

// readLimit bounds the reading of all topics.
const readLimit = 3 * time.Minute

// added calls do for each record, markers left out, that was added to a topic since the last call, in the order of
// each partition.
func (r *topicReader) added(ctx context.Context, topic string, do func(*kgo.Record) error) error {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	var ends kadm.ListedOffsets
	err := retry.Do(ctx, retry.Backoff{Max: time.Second}, func(ctx context.Context) (err error) { // a broker may lose its leadership under load
		if ends, err = kadm.NewClient(r.client).ListCommittedOffsets(ctx, topic); err == nil {
			err = ends.Error()
		}
		return err
	}, func(error, int, time.Duration) {})
	if err != nil {
		return fmt.Errorf("ask how far topic %q goes: %w", topic, err)
	}
	next := r.next[topic]
	if next == nil {
		next = map[int32]int64{}
		r.next[topic] = next
	}
	from := map[string]map[int32]kgo.Offset{topic: {}}
	open := 0
	ends.Each(func(end kadm.ListedOffset) {
		if next[end.Partition] < end.Offset {
			from[topic][end.Partition] = kgo.NewOffset().At(next[end.Partition])
			open++
		}
	})
	r.client.AddConsumePartitions(from)
	defer func() {
		remove := map[string][]int32{}
		for p := range from[topic] {
			remove[topic] = append(remove[topic], p)
		}
		r.client.RemoveConsumePartitions(remove)
	}()
	for open > 0 {
		fetches := r.client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return fmt.Errorf("read topic %q: %w", topic, err)
		}
		for iter := fetches.RecordIter(); !iter.Done(); {
			rec := iter.Next()
			end, _ := ends.Lookup(rec.Topic, rec.Partition)
			if rec.Topic != topic || rec.Offset >= end.Offset || rec.Offset < next[rec.Partition] {
				continue
			}
			next[rec.Partition] = rec.Offset + 1
			if rec.Offset+1 == end.Offset {
				open--
			}
			if rec.Attrs.IsControl() || rec.Value == nil {
				continue
			}
			if err := do(rec); err != nil {
				return fmt.Errorf("topic %q partition %d offset %d: %w", topic, rec.Partition, rec.Offset, err)
			}
		}
	}
	return nil
}

// read gives the logs what was added to their topics.
func (r *topicReader) read(ctx context.Context, logs map[string]*topicLog) error {
	for _, log := range logs {
		topic, err := record.Topic(sourceName, "public", log.table.name)
		if err != nil {
			return err
		}
		var ev change.Event
		var arena []byte
		records, rows := int64(0), int64(0)
		err = r.added(ctx, topic, func(rec *kgo.Record) error {
			d, err := r.decoder(ctx, rec.Value)
			if err != nil {
				return err
			}
			if arena, err = d.Decode(rec.Value, &ev, arena[:0]); err != nil {
				return err
			}
			records++
			if ev.Op == change.Read {
				rows++
			}
			log.take(rec, d.Relation(), &ev)
			return nil
		})
		if err != nil {
			return err
		}
		r.m.note(func(r *Report) { r.Records, r.Read = r.Records+records, r.Read+rows })
	}
	return nil
}

func (r *topicReader) decoder(ctx context.Context, value []byte) (*record.Decoder, error) {
	id, _, err := record.ParseFrame(value)
	if err != nil {
		return nil, err
	}
	d := r.decoders[id]
	if d == nil {
		text, err := r.registry.Schema(ctx, id)
		if err != nil {
			return nil, err
		}
		if d, err = record.NewDecoder(text); err != nil {
			return nil, err
		}
		r.decoders[id] = d
	}
	return d, nil
}

// progress gives what the progress records added say: when at the earliest everything up to which LSN was published. A
// table that capture holds is a finding.
func (r *topicReader) progress(ctx context.Context) (published []confirmation, err error) {
	err = r.added(ctx, record.ProgressTopic(sourceName), func(rec *kgo.Record) error {
		p, err := record.ParseProgress(rec.Value)
		if err != nil {
			return err
		}
		for i := range p.Tables {
			if t := &p.Tables[i]; t.Held != nil {
				r.m.find("table %s is held: %s: %s", t.Table, t.Held.Code, t.Held.Message)
			}
		}
		published = append(published, confirmation{time.UnixMicro(p.WrittenAt), change.LSN(p.EndLSN)})
		return nil
	})
	return published, err
}

// mostDumped bounds the records of one topic in a dump.
const mostDumped = 300_000

// dump writes what the topics hold into a file, a line a record, for whoever looks for the cause of a finding.
func (r *topicReader) dump(ctx context.Context, path string, tables []string) (err error) {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	lines := bufio.NewWriter(out)
	clear(r.next) // from the beginning
	for _, table := range tables {
		topic, err := record.Topic(sourceName, "public", table)
		if err != nil {
			return err
		}
		var ev change.Event
		var arena []byte
		n := 0
		err = r.added(ctx, topic, func(rec *kgo.Record) error {
			d, err := r.decoder(ctx, rec.Value)
			if err != nil {
				return err
			}
			if arena, err = d.Decode(rec.Value, &ev, arena[:0]); err != nil {
				return err
			}
			if n++; n > mostDumped {
				return nil
			}
			fmt.Fprintf(lines, "%s %d %d %s %c xid %d", table, rec.Partition, rec.Offset, ev.Position, ev.Op, ev.Tx.XID)
			for _, row := range []change.Tuple{ev.Before, ev.After} {
				fmt.Fprintf(lines, " (%.120s)", rowText(row, nil))
			}
			fmt.Fprintln(lines)
			return nil
		})
		if err != nil {
			return err
		}
	}
	err = r.added(ctx, record.ProgressTopic(sourceName), func(rec *kgo.Record) error {
		p, err := record.ParseProgress(rec.Value)
		if err == nil {
			fmt.Fprintf(lines, "progress %d end %s at %s\n", rec.Offset, change.LSN(p.EndLSN), time.UnixMicro(p.WrittenAt).Format("15:04:05.000"))
		}
		return err
	})
	return errors.Join(err, lines.Flush())
}
