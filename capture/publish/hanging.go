package publish

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// A transaction hangs in a partition that has its records and not the marker of its end. Apache Kafka 4.3 leaves it so
// where the partition has no leader while the transaction is being completed, and calls it complete. Readers stop before
// it; and the next marker of the same producer there, whatever it is about, ends it too. So it is ended here, before
// anything else is written: the way in which it was ended for those who were told.

// hanging gives the partitions in which a transaction hangs. Nobody else writes our topics, and Open returns when no
// transaction of ours is open: what readers do not get then has no end.
func hanging(ends, high map[string][]int64) map[string][]int32 {
	found := map[string][]int32{}
	for name, list := range ends {
		for i, end := range list {
			if i < len(high[name]) && end < high[name][i] {
				found[name] = append(found[name], int32(i))
			}
		}
	}
	return found
}

// settle ends what hangs, so that no transaction is ended here this way and there that way. What the newest progress
// counts is committed. What it does not count nobody was told of: it is aborted, and published again.
//
// A transaction may be cut off between any two steps: what is left then is settled the same way.
func (p *Publisher) settle(ctx context.Context, s *survey) error {
	id, epoch, err := p.client.ProducerID(ctx)
	if err != nil {
		return kafka.Trouble("fence older instances of", fmt.Sprintf("source %q", p.source), err)
	}
	newest, err := p.hangingProgress(ctx, s, id)
	if err != nil {
		return err
	}
	last := s.last
	if newest != nil {
		last = newest
	}
	if last == nil {
		last = &record.Progress{}
	}
	commit, abort := map[string][]int32{}, map[string][]int32{}
	for name, partitions := range s.hanging {
		for _, i := range partitions {
			end, into := s.ends[name][i], abort
			if name == record.ProgressTopic(p.source) && newest != nil || int(i) < len(last.Vector[name]) && last.Vector[name][i] > end {
				into = commit
			}
			into[name] = append(into[name], i)
		}
	}
	for as, places := range map[string]map[string][]int32{"commit": commit, "abort": abort} {
		for name, partitions := range places {
			for _, i := range partitions {
				p.log.Warn("Kafka has left a transaction without an end; it is ended now", "topic", name, "partition", i,
					"from", s.ends[name][i], "to", s.high[name][i], "as", as, "published", change.LSN(last.EndLSN))
			}
		}
	}
	if err := p.end(ctx, id, epoch, abort, false); err != nil {
		return err
	}
	return p.end(ctx, id, epoch, commit, true)
}

// hangingProgress gives the newest progress that hangs, if it is to count: if all that it counts and s.last does not is
// there, committed or hanging as well. If something of it was aborted then so was all of its transaction. It refuses what
// another producer has left, which cannot be ended in its name.
func (p *Publisher) hangingProgress(ctx context.Context, s *survey, id int64) (*record.Progress, error) {
	newest, err := p.readHanging(ctx, s, id)
	if err != nil || newest == nil {
		return nil, err
	}
	var had map[string][]int64
	if s.last != nil {
		had = s.last.Vector
	}
	moved := map[string][]int64{}
	for name, next := range newest.Vector {
		moved[name] = slices.Clone(next)
		for i, behind := range next {
			if i < len(had[name]) && had[name][i] == behind {
				moved[name][i] = 0
			} else if behind > 0 && (i >= len(s.high[name]) || behind > s.high[name][i]) {
				return nil, nil
			}
		}
	}
	fates, err := p.fates(ctx, moved, s.high)
	if err != nil {
		return nil, err
	}
	for name, next := range moved {
		for i, behind := range next {
			if f := fates[name][i].fate; behind > 0 && (f == missing || f == aborted) {
				p.log.Warn("progress that hangs does not count: something of it is not there",
					"topic", name, "partition", i, "offset", behind-1, "progress", change.LSN(newest.EndLSN))
				return nil, nil
			}
		}
	}
	return newest, nil
}

// readHanging reads what hangs, and gives the newest progress in it; nil where there is none, or it does not follow on what is known.
func (p *Publisher) readHanging(ctx context.Context, s *survey, id int64) (*record.Progress, error) {
	progress := record.ProgressTopic(p.source)
	spans := map[string][]span{}
	for name, partitions := range s.hanging {
		spans[name] = make([]span, len(s.ends[name]))
		for _, i := range partitions {
			spans[name][i] = span{s.ends[name][i], s.ends[name][i] + 1}
			if name == progress {
				spans[name][i].to = s.high[name][i]
			}
		}
	}
	fold := record.ProgressFold{Last: s.last}
	var newest *record.Progress
	foreign := map[string][]int32{}
	err := p.scan(ctx, kgo.ReadUncommitted(), spans, func(r *kgo.Record) error {
		if r.Attrs.IsTransactional() && r.ProducerID != id {
			foreign[r.Topic] = append(foreign[r.Topic], r.Partition)
		}
		if r.Topic != progress || r.Attrs.IsControl() {
			return nil
		}
		before := fold.Last
		err := addProgress(&fold, r)
		if newest = fold.Last; newest == before {
			newest = nil
		}
		return err
	})
	if err == nil && len(foreign) > 0 {
		err = p.withoutEnd(foreign, "it is of another producer, or of one of ours whose id the brokers have forgotten")
	}
	if err != nil {
		return nil, err
	}
	return newest, nil
}

// findAborted adds to what s lacks: records that the vector names, and that count as aborted. A transaction that hung
// while its producer went on was ended there by the next one, as that was ended.
func (p *Publisher) findAborted(ctx context.Context, s *survey) error {
	acknowledged := map[string][]int64{}
	for name, top := range p.known {
		if len(top.next) == len(s.ends[name]) {
			acknowledged[name] = slices.Clone(top.next)
		}
	}
	fates, err := p.fates(ctx, acknowledged, s.ends)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(fates)) {
		for i, f := range fates[name] {
			if f.fate != aborted {
				continue
			}
			if s.lacking == "" {
				s.lacking = fmt.Sprintf("topic %q partition %d has offset %d, which was acknowledged, in an aborted transaction", name, i, p.known[name].next[i]-1)
			}
			s.shorts = append(s.shorts, short{p.known[name], i, f.behind})
		}
	}
	return nil
}

// fate is what became of a record.
type fate uint8

const (
	missing fate = iota // compacted away, or never there
	deleted             // with all that stood before it
	open                // its transaction has no end
	committed
	aborted
)

type fateAt struct {
	fate     fate
	behind   int64 // the mark of the transaction's end
	producer int64
}

// fates tells what became of the records before the offsets in next, of partitions that end at high. Of 0 and less it is
// not asked. A transaction ends with the first mark of its producer behind it, so that there is rarely more to read than
// the last batch of a partition.
func (p *Publisher) fates(ctx context.Context, next, high map[string][]int64) (map[string][]fateAt, error) {
	fates, spans := map[string][]fateAt{}, map[string][]span{}
	var names []string
	for name := range next {
		if len(high[name]) > 0 {
			names = append(names, name)
		}
	}
	starts := map[string][]int64{}
	if len(names) > 0 { // asked of none, the brokers tell of all
		var err error
		if starts, err = p.starts(ctx, names...); err != nil {
			return nil, err
		}
	}
	for name, list := range next {
		fates[name], spans[name] = make([]fateAt, len(list)), make([]span, len(list))
		for i, behind := range list {
			switch {
			case behind <= 0 || i >= len(starts[name]):
			case behind <= starts[name][i]:
				fates[name][i].fate = deleted
			default:
				spans[name][i] = span{behind - 1, high[name][i]}
			}
		}
	}
	return fates, p.scan(ctx, kgo.ReadUncommitted(), spans, func(r *kgo.Record) error {
		f := &fates[r.Topic][r.Partition]
		switch {
		case r.Offset == next[r.Topic][r.Partition]-1:
			f.fate, f.producer = committed, r.ProducerID
			if r.Attrs.IsTransactional() && !r.Attrs.IsControl() {
				f.fate = open
			}
		case f.fate == open && r.Attrs.IsControl() && r.ProducerID == f.producer:
			f.behind = r.Offset + 1
			var key kmsg.ControlRecordKey
			if err := key.ReadFrom(r.Key); err != nil {
				return fmt.Errorf("read topic %q partition %d offset %d: %w", r.Topic, r.Partition, r.Offset, err)
			}
			if f.fate = aborted; key.Type == kmsg.ControlRecordKeyTypeCommit {
				f.fate = committed
			}
		}
		if f.fate != open {
			spans[r.Topic][r.Partition].to = r.Offset + 1
		}
		return nil
	})
}

// end ends in places what hangs there, with a transaction that has nothing else. A crash between its two requests has
// the brokers abort it; nothing shorter is there in the protocol.
func (p *Publisher) end(ctx context.Context, id int64, epoch int16, places map[string][]int32, commit bool) error {
	if len(places) == 0 {
		return nil
	}
	// EndTxn as before KIP-890, which leaves the producer its epoch. p.client does not hear of another one.
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(int16(kmsg.EndTxn), 4)
	client, err := kgo.NewClient(append(slices.Clone(p.reading), kgo.MaxVersions(versions))...)
	if err != nil {
		return kafka.Trouble("connect to", "Kafka", err)
	}
	defer client.Close()

	add := kmsg.NewPtrAddPartitionsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch = TransactionalID(p.source), id, epoch
	for name, partitions := range places {
		topic := kmsg.NewAddPartitionsToTxnRequestTopic()
		topic.Topic, topic.Partitions = name, partitions
		add.Topics = append(add.Topics, topic)
	}
	err = p.insist(ctx, func(ctx context.Context) error {
		response, err := add.RequestWith(ctx, client)
		if err != nil {
			return err
		}
		for _, topic := range response.Topics {
			for _, partition := range topic.Partitions {
				failed := kerr.ErrorForCode(partition.ErrorCode)
				if failed != nil && (err == nil || partition.ErrorCode != kerr.OperationNotAttempted.Code) {
					err = fmt.Errorf("topic %q partition %d: %w", topic.Topic, partition.Partition, failed)
				}
			}
		}
		return err
	})
	if err == nil {
		request := kmsg.NewPtrEndTxnRequest()
		request.TransactionalID, request.ProducerID, request.ProducerEpoch = TransactionalID(p.source), id, epoch
		request.Commit = commit
		err = p.insist(ctx, func(ctx context.Context) error {
			response, err := request.RequestWith(ctx, client)
			if err != nil {
				return err
			}
			return kerr.ErrorForCode(response.ErrorCode)
		})
	}
	if err != nil {
		return kafka.Trouble("end a transaction that was left without an end, of", fmt.Sprintf("source %q", p.source), err)
	}
	return nil
}

// insist tries for a while: the brokers may still be completing the transaction before.
func (p *Publisher) insist(ctx context.Context, request func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return retry.Do(ctx, retry.Backoff{Min: 20 * time.Millisecond, Max: time.Second}, request, func(err error, try int, wait time.Duration) {
		p.log.Debug("a transaction cannot be ended yet", "try", try, "wait", wait, "error", err.Error())
	})
}

// withoutEnd says that what hangs keeps us from going on: what is written behind it would be ended with it, or never be
// seen.
func (p *Publisher) withoutEnd(places map[string][]int32, why string) error {
	name := slices.Min(slices.Collect(maps.Keys(places)))
	return &trouble.Error{
		Code: trouble.KafkaProduce, Op: "end a transaction in", Subject: fmt.Sprintf("topic %q partition %d", name, places[name][0]),
		// With the word of a broker that has us try again.
		Cause: fmt.Errorf("it has no end, and readers stop before it; %s: %w", why, kerr.ConcurrentTransactions),
		Means: "nothing was written since",
		Hint:  "it is tried again; if it stays so: kafka-transactions.sh find-hanging, and abort",
	}
}
