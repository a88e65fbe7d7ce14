package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	recoverTimeout = 5 * time.Minute
	// A log whose last records were compacted away has no record before its end offset. It has been read when nothing
	// comes for so long from a broker in our own process.
	recoverIdle = 3 * time.Second
)

// recover makes up for what kfake leaves out when it loads the data of a killed process. It takes the transactions
// that were open for aborted, but writes no marker. A client which reads past such a transaction in read_committed
// then drops all that the same producer writes afterwards, up to its next marker: the first committed transaction
// after a crash would be lost. And when the data is loaded once more, that next marker would commit the aborted one.
//
// So the markers are written here, and the producers are fenced: to one whose transaction was aborted so, kfake says that its
// commit has succeeded, if the one before was committed. It is done by a kfake without the options of the real one (TLS, SASL, ACLs), before it starts.
func (c *FakeCluster) recover() (err error) {
	err = os.Remove(c.cleanMark())
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(c.dataDir()); errors.Is(err, fs.ErrNotExist) {
		return nil // a new one
	}
	var inner fakeNet
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(inner.listen), kfake.DataDir(c.dataDir()))
	if err != nil {
		return fmt.Errorf("recover data of a killed kfake: %w", err)
	}
	defer func() {
		k.Close()
		inner.cut()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), recoverTimeout)
	defer cancel()
	if err := abortOpenTransactions(ctx, inner.addrs()); err != nil {
		return fmt.Errorf("recover data of a killed kfake: %w", err)
	}
	return nil
}

// openTransaction is the end of a partition's log that a producer has not closed.
type openTransaction struct {
	topic     string
	partition int32
	producer  int64
	epoch     int16
}

func abortOpenTransactions(ctx context.Context, addrs []string) error {
	open, err := openTransactions(ctx, addrs)
	if err != nil || len(open) == 0 {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
	if err != nil {
		return err
	}
	defer client.Close()
	request := kmsg.NewPtrWriteTxnMarkersRequest()
	for _, o := range open {
		topic := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
		topic.Topic, topic.Partitions = o.topic, []int32{o.partition}
		marker := kmsg.NewWriteTxnMarkersRequestMarker()
		marker.ProducerID, marker.ProducerEpoch = o.producer, o.epoch
		marker.Topics = append(marker.Topics, topic)
		request.Markers = append(request.Markers, marker)
	}
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("write abort markers: %w", err)
	}
	for _, m := range response.Markers {
		for _, t := range m.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return fmt.Errorf("write abort marker to topic %q partition %d: %w", t.Topic, p.Partition, err)
				}
			}
		}
	}
	known, err := kadm.NewClient(client).ListTransactions(ctx, nil, nil)
	if err != nil {
		return fmt.Errorf("list transactions: %w", err)
	}
	for id, producer := range known {
		if !slices.ContainsFunc(open, func(o openTransaction) bool { return o.producer == producer.ProducerID }) {
			continue
		}
		if err := fence(ctx, addrs, id); err != nil {
			return fmt.Errorf("fence %q, whose transaction was aborted: %w", id, err)
		}
	}
	return nil
}

func fence(ctx context.Context, addrs []string, transactionalID string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.TransactionalID(transactionalID))
	if err != nil {
		return err
	}
	defer client.Close()
	_, _, err = client.ProducerID(ctx)
	return err
}

// openTransactions reads all logs from start to end.
func openTransactions(ctx context.Context, addrs []string) ([]openTransaction, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.KeepControlRecords())
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list start offsets: %w", err)
	}
	ends, err := admin.ListEndOffsets(ctx)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("list end offsets: %w", err)
	}
	from := map[string]map[int32]kgo.Offset{}
	toRead := 0
	ends.Each(func(end kadm.ListedOffset) {
		if start, ok := starts.Lookup(end.Topic, end.Partition); ok && start.Offset < end.Offset {
			if from[end.Topic] == nil {
				from[end.Topic] = map[int32]kgo.Offset{}
			}
			from[end.Topic][end.Partition] = kgo.NewOffset().At(start.Offset)
			toRead++
		}
	})

	type writer struct {
		topic     string
		partition int32
		producer  int64
	}
	open := map[writer]int16{}
	client.AddConsumePartitions(from)
	for toRead > 0 {
		idle, cancel := context.WithTimeout(ctx, recoverIdle)
		fetches := client.PollFetches(idle)
		cancel()
		if err := fetches.Err(); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read logs: %w", err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			w := writer{r.Topic, r.Partition, r.ProducerID}
			switch {
			case r.Attrs.IsControl():
				delete(open, w)
			case r.Attrs.IsTransactional():
				open[w] = r.ProducerEpoch
			}
			if end, _ := ends.Lookup(r.Topic, r.Partition); r.Offset+1 == end.Offset {
				toRead--
			}
		})
	}
	var all []openTransaction
	for w, epoch := range open {
		all = append(all, openTransaction{w.topic, w.partition, w.producer, epoch})
	}
	return all, nil
}
