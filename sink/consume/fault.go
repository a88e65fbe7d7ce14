package consume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// fetchTrouble gives the trouble of a partition that cannot be read, nil for what the client goes on with by itself.
func fetchTrouble(p *Partition, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		return nil
	}
	lost, isLost := errors.AsType[*kgo.ErrDataLoss](err)
	subject := fmt.Sprintf("topic %q partition %d from offset %d", p.Topic, p.Number, p.polled)
	switch {
	case isLost, errors.Is(err, kerr.OffsetOutOfRange):
		if isLost {
			err = lostBehind(lost.ResetTo)
		}
		return truncated(subject, err)
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID):
		return &trouble.Error{
			Code: trouble.TopicRecreated, Op: "read", Subject: subject, Cause: err,
			Means: "the topic was deleted, and perhaps made anew; its table is held",
			Hint:  "sink resume SOURCE/TABLE once the topic is there again: then it is told how to take the new one; what the old one held is not in it, so read the table anew: docs/reload.md",
		}
	case retry.Waits(err):
		return nil
	}
	return kafka.Trouble("read", subject, err)
}

func truncated(subject string, cause error) *trouble.Error {
	return &trouble.Error{
		Code: trouble.TopicTruncated, Op: "read", Subject: subject, Cause: cause,
		Means: "records between the checkpoint and the first one that Kafka still has are gone; nothing was skipped, the table is held",
		Hint:  "read the table anew: docs/reload.md; then move next_offset in tributary.checkpoint, and sink resume SOURCE/TABLE",
	}
}

func lostBehind(offset int64) error {
	return fmt.Errorf("the broker lost what was behind offset %d", offset)
}

// CheckTerms asks whether the topics still have what was applied of them, before starts go on, and sets the Err of those that have not. A broker that
// has lost the end of a topic gives its offsets once more, and nothing else tells:
//
//	sink:    applies up to offset 20, and ends
//	broker:  crashes, and has offsets up to 11
//	capture: publishes 12 to 40
//	sink:    begins at 21
//
// The broker is asked up to where it has records of the term of 20. It says 11. starts are in the order of requests. With an error there
// are some of which that is not known; the Err of the others is set all the same. Those with a Hold do not go on, and are claimed anew before they do: one
// whose topic is not known may be of one made anew, which has lost nothing.
func (c *Consumer) CheckTerms(ctx context.Context, requests []Request, starts []Start) error {
	terms := kadm.OffsetForLeaderEpochRequest{}
	for i := range starts {
		if s := &starts[i]; s.Term > 0 && s.Err == nil && s.Hold == nil {
			terms.Add(requests[i].Topic, requests[i].Number, int32(s.Term)-1)
		}
	}
	if len(terms) == 0 {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, askPatience)
	ends, err := c.admin.OffsetForLeaderEpoch(asking, terms)
	cancel()
	if err != nil { // of some of them, perhaps: ends has the others
		err = kafka.Trouble("ask for the terms of", service.Plural(len(terms), "topic"), err)
	}
	var lost []string
	for i, r := range requests {
		end, asked := ends[r.Topic][r.Number]
		switch s := &starts[i]; {
		case !asked || s.Err != nil:
		case end.Err != nil && kerr.IsRetriable(end.Err) && !errors.Is(end.Err, kerr.UnknownTopicOrPartition):
			err = cmp.Or(err, error(kafka.Trouble("ask for the terms of", fmt.Sprintf("topic %q", r.Topic), end.Err)))
		case end.Err == nil && end.EndOffset >= 0 && end.EndOffset < s.Next:
			subject := fmt.Sprintf("topic %q partition %d from offset %d", r.Topic, r.Number, s.Next)
			s.Err = truncated(subject, lostBehind(end.EndOffset))
			lost = append(lost, r.Topic)
		}
	}
	if len(lost) == 0 {
		return err
	}
	first := firstOffsets(ctx, c.admin, lost...)
	for i, r := range requests {
		if _, asked := ends[r.Topic][r.Number]; asked {
			starts[i].Err = tellFirst(first, r.Topic, r.Number, starts[i].Err)
		}
	}
	return err
}

// askPatience is how long is waited for what brokers say of topics. Of those whose broker is silent it is not known then.
const askPatience = 5 * time.Second

// hintPatience is how long is waited for what only words a hint, beside that.
const hintPatience = 2 * time.Second

// firstOffsets asks where topics begin now. Those that are not known then are not among them.
func firstOffsets(ctx context.Context, admin *kadm.Client, topics ...string) kadm.ListedOffsets {
	ctx, cancel := context.WithTimeout(ctx, hintPatience)
	defer cancel()
	first, _ := admin.ListStartOffsets(ctx, topics...)
	return first
}

// withFirst adds where a truncated topic begins now, to the trouble of that; any other is as it was.
func withFirst(ctx context.Context, admin *kadm.Client, topic string, number int32, err error) error {
	if trouble.CodeOf(err) != trouble.TopicTruncated {
		return err
	}
	return tellFirst(firstOffsets(ctx, admin, topic), topic, number, err)
}

// tellFirst does so with what is known. Where the brokers do not say it, the trouble is told without.
func tellFirst(starts kadm.ListedOffsets, topic string, number int32, err error) error {
	t, ok := errors.AsType[*trouble.Error](err)
	first, listed := starts.Lookup(topic, number)
	if !ok || t.Code != trouble.TopicTruncated || !listed || first.Err != nil {
		return err
	}
	out := *t
	out.Cause = fmt.Errorf("%w; the first offset that is left is %d", t.Cause, first.Offset)
	out.Hint = fmt.Sprintf("read the table anew: docs/reload.md; then set next_offset in tributary.checkpoint to %d, and sink resume SOURCE/TABLE", first.Offset)
	return &out
}

// fault holds a partition and tells.
func (c *Consumer) fault(p *Partition, err error) {
	c.Hold(p, err)
	c.cfg.Fault(p, err)
}
