package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
)

// A broker refuses a producer with the same words in two cases:
//
//   - a newer instance has taken over. The older one must end: if it began again it would fence the newer one, that one
//     would begin again, and so for ever.
//   - nobody has. The broker itself has ended a transaction in which nothing was said for publish.transaction_timeout,
//     because capture was stopped for a while, or could not reach it. To end would be to stop for no reason.
//
// What tells them apart is the progress topic. Before it does anything else, an instance that has taken over claims the
// source: it writes the newest progress record again, under its own name. One that is refused looks, fencing nobody,
// for a record of somebody else behind all that it has seen or written itself. If there is one it ends. If none comes for
// a while it begins again. Should it have looked away too early, from an instance that takes longer to claim, it is that
// one which finds a claim of somebody else, and ends: each claim ends all others for good. Two that take over again and
// again before either has claimed wait for different times, so that one of them gets through.

// claimPatience is how long the claim of an instance that has taken over is waited for; up to as long again comes by
// chance.
var claimPatience = 5 * time.Second

// claim reads how far the source is published and writes down that this instance publishes from here on.
func (c *Capture) claim(ctx context.Context, pub *publish.Publisher) (*publish.State, error) {
	defer c.others.kafka.Wait(waitKafka)()
	state, err := pub.Resume(ctx)
	if err != nil {
		return nil, err
	}
	c.wrote, c.bare = pub.N(), new(state.Newest.Era)
	if state.Progress != nil {
		c.bare = nil
		c.last.take(&state.Progress.Health, c.instance)
	}
	return state, c.affirm(ctx, pub, state)
}

// affirm writes the claim on a source that was read as state; an error says that somebody else has claimed it since.
func (c *Capture) affirm(ctx context.Context, pub *publish.Publisher, state *publish.State) error {
	if state.Progress == nil {
		return nil // there is nothing to publish again either
	}
	mine := *state.Progress
	mine.Full, mine.Fences = true, nil
	mine.Health.State, mine.Health.Instance, mine.Health.HTTP = service.StateStarting, c.instance, c.options.HTTP
	mine.Health.Version, mine.Health.Trouble, mine.Health.TroubleSince = service.ThisBuild().Version, "", 0
	mine.Health.BehindSeconds = max(time.Since(publishedUntil(state.Progress)).Seconds(), 0) // or what the record said would count as said now
	return pub.Commit(ctx, &mine)
}

// lastWord writes down why a session has ended, where it was not by the brokers: sinks know of a capture what its progress says, and one that
// waits for its source, or has stopped, writes none until it streams again. It is the source's owner who says it, as in a claim.
func (c *Capture) lastWord(ctx context.Context, pub *publish.Publisher, ended error) {
	code := trouble.CodeOf(ended)
	if ended == nil || ctx.Err() != nil || errors.Is(ended, errBehind) || service.Panicked(ended) || peer(code) == waitKafka {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastWordPatience)
	defer cancel()
	err := pub.Last(ctx, func(pr *record.Progress) {
		h := &pr.Health
		h.BehindSeconds = max(time.Since(publishedUntil(pr)).Seconds(), 0)
		h.WaitingOn, h.WaitingSince = "", 0
		if h.State = service.StateWaiting; c.stopsBy(ended) {
			h.State = service.StateStopped
		}
		if now := string(cmp.Or(code, trouble.Internal)); c.last.code != now {
			c.last = lastTrouble{now, time.Now().UnixMicro()}
		}
		h.Trouble, h.TroubleSince = c.last.code, c.last.since
	})
	if err != nil {
		c.log.Debug("why the session has ended is not in its progress", service.Err(err))
	}
}

// lastTrouble is what the last word of a session before was, of this instance or another; of those that end alike one after another it is
// the first that says since when. The zero value is for none since something streamed.
type lastTrouble struct {
	code  string
	since int64 // microseconds
}

// take takes what the newest progress record says when instance claims the source. One of its own without a trouble is a claim whose last
// word did not come to be written; one of another instance says that something has streamed since, or has begun to try.
func (l *lastTrouble) take(h *record.Health, instance string) {
	if h.Trouble != "" || h.Instance != instance {
		*l = lastTrouble{h.Trouble, h.TroubleSince}
	}
}

// lastWordPatience is how long a session that has ended may take to say so.
const lastWordPatience = 5 * time.Second

// whoFenced gives refused, by which a session has been ended, if another instance has taken over; else a trouble that
// another try mends.
func (c *Capture) whoFenced(ctx context.Context, refused error) error {
	done := c.others.kafka.Wait(waitKafka)
	defer done()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	patience := claimPatience + rand.N(claimPatience)
	var since time.Time // of the first look
	for {
		pr, err := publish.ReadProgress(ctx, c.config.Kafka, c.config.Source.Name, c.log)
		switch {
		case err == nil && c.claimedByAnother(pr):
			var t *trouble.Error
			if errors.As(refused, &t) {
				t.Means = fmt.Sprintf("instance %s publishes; nothing was published twice", pr.Health.Instance)
			}
			return refused
		case err != nil && (ctx.Err() != nil || !retry.Transient(err)):
			return err
		case err != nil:
			since = time.Time{}
			c.note(err)
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= patience:
			return &trouble.Error{
				Code: trouble.TransactionTimeout, Op: "publish", Subject: fmt.Sprintf("changes of source %q", c.config.Source.Name),
				// Not wrapped: it is not what people are to look for, nor what decides whether to try again.
				Cause: fmt.Errorf("the brokers ended a Kafka transaction in which nothing was said for a while, and no other instance has taken over (%s)", refused.Error()),
				Means: "nothing is lost: what it held is published again",
				Hint:  "if this comes again: look for what stopped this process or kept it from the brokers, or raise publish.transaction_timeout",
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// notTakenOver refuses to begin another session where another instance has taken over since the last one: it would be
// fenced by that, and be the one that ends. An instance that stands by does take over, when the other is gone.
func (c *Capture) notTakenOver(ctx context.Context) error {
	if c.wrote == 0 && c.bare == nil || c.options.Standby {
		return nil
	}
	return c.takenOver(ctx)
}

// takenOver gives the trouble of an instance whose source another has claimed; nil: none has.
func (c *Capture) takenOver(ctx context.Context) error {
	pr, err := publish.ReadProgress(ctx, c.config.Kafka, c.config.Source.Name, c.log)
	if err != nil || !c.takenSince(pr) {
		return err
	}
	return takenOver(pr)
}

func takenOver(pr *record.Progress) error {
	return &trouble.Error{
		Code: trouble.Fenced, Op: "go on with", Subject: fmt.Sprintf("source %q", pr.Source),
		Cause: fmt.Errorf("instance %s has taken over", pr.Health.Instance),
		Means: "it publishes; nothing was published twice", Hint: "stop one of the two",
	}
}

// takenSince says whether pr, the newest progress record, is of another instance that has taken over since our last claim. Where that found none, whoever
// takes over begins an era behind all that the topics hold. A record of an earlier one is of a progress topic that somebody has restored: so nobody publishes.
func (c *Capture) takenSince(pr *record.Progress) bool {
	return c.claimedByAnother(pr) && (c.wrote > 0 || c.bare != nil && pr.Era > *c.bare)
}

// claimedByAnother says whether pr, the newest progress record, is of another instance and newer than all that this one
// has seen or written.
func (c *Capture) claimedByAnother(pr *record.Progress) bool {
	return pr != nil && pr.N > c.wrote && pr.Health.Instance != c.instance
}
