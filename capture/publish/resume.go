package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// State is what the topics say of how far a source has been published.
type State struct {
	// Progress is the newest record, with Tables complete; nil when nothing was ever published.
	Progress *record.Progress
	// Newest is the newest position in any partition: that of Progress, or what a torn commit has left behind it.
	Newest change.Position
	// Lacking says what brokers have acknowledged as committed and readers do not get; empty when nothing is amiss.
	Lacking string
	shorts  []short
}

// readTimeout bounds how long a start reads from Kafka without getting on.
var readTimeout = time.Minute

// Resume reads how far the source has been published, after Open has fenced everybody else who could write. It ends
// what transactions have been left without an end (see settle). It also learns the newest position in each partition, so
// that what stands there is not published again: a broker that broke down in the middle of a commit may show some
// partitions of a transaction and not others.
func (p *Publisher) Resume(ctx context.Context) (*State, error) {
	if err := p.ensureProgressTopic(ctx); err != nil {
		return nil, err
	}
	patience := endsPatience
	for settled := false; ; settled, patience = true, settledPatience {
		s, err := p.survey(ctx, patience)
		if err != nil {
			return nil, err
		}
		if len(s.hanging) > 0 {
			if settled {
				err = p.withoutEnd(s.hanging, "it was ended, and its records still do not count")
			} else {
				err = p.settle(ctx, s)
			}
			if err != nil {
				return nil, err
			}
			continue
		}
		if err := p.findAborted(ctx, s); err != nil {
			return nil, err
		}
		if err := p.readFloors(ctx, s); err != nil {
			return nil, err
		}
		state := &State{Progress: s.last, Lacking: s.lacking, shorts: s.shorts}
		for _, top := range p.known {
			for _, floor := range top.floors {
				if floor.Compare(state.Newest) > 0 {
					state.Newest = floor
				}
			}
		}
		return state, nil
	}
}

// survey is what stands in the topics of the source.
type survey struct {
	last    *record.Progress
	ends    map[string][]int64 // of the partitions, for readers: the last stable offset
	high    map[string][]int64 // what ends would be if nothing were hanging: the high watermark
	hanging map[string][]int32 // the partitions in which a transaction has no end
	lacking string
	shorts  []short
}

// survey also fills what is known of the topics from the vector. For what is missing or hangs it has patience.
func (p *Publisher) survey(ctx context.Context, patience time.Duration) (*survey, error) {
	progress := record.ProgressTopic(p.source)
	for {
		ends, err := p.ends(ctx, progress)
		if err != nil {
			return nil, err
		}
		end := ends[progress][0]
		s := &survey{}
		if s.last, err = p.readProgress(ctx, end); err != nil {
			return nil, err
		}
		clear(p.known)
		if s.last != nil {
			p.n = s.last.N
			for name, next := range s.last.Vector {
				top := newTopic(name, len(next))
				copy(top.next, next)
				p.known[name] = top
			}
		}
		if err := p.awaitEnds(ctx, s, patience); err != nil {
			return nil, err
		}
		if s.ends[progress][0] == end {
			return s, nil
		} // else the end of a transaction has come meanwhile, and there is newer progress
	}
}

// readProgress folds the progress topic from its newest full record on, up to end. The topic is compacted, so that reading it
// whole costs little.
func (p *Publisher) readProgress(ctx context.Context, end int64) (*record.Progress, error) {
	name := record.ProgressTopic(p.source)
	starts, err := kadm.NewClient(p.client).ListStartOffsets(ctx, name)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, kafka.Trouble("ask the first offset of", fmt.Sprintf("topic %q", name), err)
	}
	start, _ := starts.Lookup(name, 0)
	// The newest full record is at most FullEvery transactions back, each a record and a marker.
	from := max(start.Offset, end-2*record.FullEvery-2)
	last, err := p.foldProgress(ctx, name, from, end)
	if err == nil && last == nil && from > start.Offset {
		last, err = p.foldProgress(ctx, name, start.Offset, end)
	}
	return last, err
}

func (p *Publisher) foldProgress(ctx context.Context, name string, from, to int64) (*record.Progress, error) {
	var fold record.ProgressFold
	err := p.read(ctx, map[string][]span{name: {{from, to}}}, func(r *kgo.Record) error { return addProgress(&fold, r) })
	if err != nil || fold.Last == nil {
		return nil, err
	}
	fold.Last.Tables = slices.Collect(maps.Values(fold.Tables))
	return fold.Last, nil
}

// addProgress takes a record of the progress topic in.
func addProgress(f *record.ProgressFold, r *kgo.Record) error {
	pr, err := record.ParseProgress(r.Value)
	if err != nil {
		return &trouble.Error{
			Code: trouble.RecordInvalid, Op: "read", Subject: fmt.Sprintf("topic %q at offset %d", r.Topic, r.Offset), Cause: err,
			Means: "capture cannot know how far it has come; nothing was changed",
			Hint:  "start the version that wrote it",
		}
	}
	f.Add(pr)
	return nil
}

// readFloors finds the newest position in each partition: that of the progress record, or that of what stands
// behind the vector.
func (p *Publisher) readFloors(ctx context.Context, s *survey) error {
	floor := change.Position{}
	if s.last != nil {
		floor = s.last.Reached()
	}
	for _, top := range p.known { // also of a topic that somebody has deleted
		for i := range top.floors {
			top.floors[i] = floor
		}
	}
	names := slices.DeleteFunc(slices.Collect(maps.Keys(s.ends)), func(name string) bool { return name == record.ProgressTopic(p.source) })
	if len(names) == 0 { // asked of none, the brokers tell of all
		return nil
	}
	// What a retention has deleted, up to the end of a topic that nobody writes for long, is not there to be read. What it held
	// is in the progress, or was left by a commit that broke down so long ago, and is published again.
	starts, err := p.starts(ctx, names...)
	if err != nil {
		return err
	}
	spans := map[string][]span{}
	for _, name := range names {
		ends := s.ends[name]
		top := p.known[name]
		if top == nil {
			top = newTopic(name, len(ends))
			p.known[name] = top
		}
		if len(top.next) != len(ends) {
			continue // Table refuses it when it is to be written
		}
		spans[name] = make([]span, len(ends))
		for i := range ends {
			top.floors[i] = floor
			spans[name][i] = span{max(top.next[i], 0), ends[i]}
			if i < len(starts[name]) {
				spans[name][i].from = max(spans[name][i].from, starts[name][i])
			}
		}
	}
	return p.read(ctx, spans, func(r *kgo.Record) error {
		// Not in the vector yet: that is what belongs to the progress, which these records are ahead of.
		top := p.known[r.Topic]
		top.torn[r.Partition] = r.Offset + 1
		for _, h := range r.Headers {
			if h.Key != record.HeaderPosition {
				continue
			}
			pos, err := change.ParsePosition(h.Value)
			if err != nil {
				return fmt.Errorf("read topic %q partition %d offset %d: %w", r.Topic, r.Partition, r.Offset, err)
			}
			if pos.Compare(top.floors[r.Partition]) > 0 {
				top.floors[r.Partition] = pos
			}
		}
		return nil
	})
}

// listPatience is how long topics that must be there are waited for; listBlink, how long without a word.
var (
	listPatience = 30 * time.Second
	listBlink    = 500 * time.Millisecond
)

// listTopics lists the topics of the cluster, those of must among them. A broker that has just started gives a list
// without any: what stands in their partitions would not be looked at, and be published again. lacking are those of must that
// were waited for in vain.
func (p *Publisher) listTopics(ctx context.Context, must []string) (list kadm.TopicDetails, lacking []string, err error) {
	waiting, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	begun, told := time.Now(), false
	err = retry.Do(waiting, retry.Backoff{Min: 20 * time.Millisecond, Max: time.Second}, func(ctx context.Context) error {
		got, err := kadm.NewClient(p.client).ListTopics(ctx)
		if err != nil {
			if ctx.Err() == nil {
				lacking = nil // what no broker says any more
			}
			return err
		}
		list = got
		if lacking = slices.DeleteFunc(slices.Clone(must), list.Has); len(lacking) > 0 {
			return fmt.Errorf("topic %q: %w", lacking[0], kerr.UnknownTopicOrPartition)
		}
		return nil
	}, func(err error, try int, wait time.Duration) {
		p.log.Debug("topics are not listed yet", "try", try, "wait", wait, "error", err.Error())
		if len(lacking) > 0 && !told && time.Since(begun) >= listBlink && p.waits != nil {
			told = true
			p.waits(notListed(lacking))
		}
	})
	if told {
		p.waits(nil)
	}
	if err != nil && (len(lacking) == 0 || ctx.Err() != nil) {
		return nil, nil, kafka.Trouble("list", "topics", err)
	}
	return list, lacking, nil
}

// giveUp notes which of our topics are not in list: they are not waited for again while this Publisher lasts. Those of lacking that are gone
// hold nothing any more. Whether one is gone the controller says: a broker that lists it not may be the one that is ill.
func (p *Publisher) giveUp(ctx context.Context, list kadm.TopicDetails, lacking []string) {
	var gone []string
	if len(lacking) > 0 {
		asking, cancel := context.WithTimeout(ctx, listPatience)
		answers, err := kadm.NewClient(p.client).ValidateCreateTopics(asking, 1, -1, nil, lacking...)
		cancel()
		for _, name := range lacking {
			if err == nil && answers[name].Topic == name && answers[name].Err == nil { // it could be made
				gone = append(gone, name)
			}
		}
		p.log.Warn("topics that were written are not there; one that is gone is made anew, and its table read again", "topics", len(lacking), "first", lacking[0], "gone", len(gone))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, top := range p.known {
		top.away = !list.Has(name)
	}
	for _, name := range gone {
		if top := p.known[name]; top != nil { // not the progress topic
			top.lose()
		}
	}
}

// notListed tells of topics that are waited for.
func notListed(topics []string) *trouble.Error {
	t := &trouble.Error{
		Code: trouble.TopicRecreated, Op: "find", Subject: fmt.Sprintf("topic %q", topics[0]), Cause: errors.New("no broker lists it, and it was written before"),
		Means: fmt.Sprintf("nothing is published yet; after %.0f s capture goes on without it; if it was deleted, it is made anew, and its table read again, unless snapshot.mode is never", listPatience.Seconds()),
		Hint:  "a broker that has just started lists its topics within seconds: wait\nanother cluster: mend kafka.brokers",
	}
	if more := len(topics) - 1; more > 0 {
		t.Subject += fmt.Sprintf(" and %d more", more)
	}
	return t
}

// endsPatience is how long readers may lack what was acknowledged: a new leader has to learn first how far its followers
// are, and the ends of transactions may still be on their way.
var endsPatience = 5 * time.Second

// settledPatience is how long the ends are waited for that were written last.
const settledPatience = 30 * time.Second

// awaitEnds fills s with the ends of the source's topics, and with what they lack of what is known when they have been
// waited for.
func (p *Publisher) awaitEnds(ctx context.Context, s *survey, patience time.Duration) error {
	progress := record.ProgressTopic(p.source)
	names, must := []string{progress}, []string{progress}
	for name, top := range p.known {
		if !top.away && slices.ContainsFunc(top.next, func(n int64) bool { return n > 0 }) {
			must = append(must, name)
		}
	}
	list, lacking, err := p.listTopics(ctx, must)
	if err != nil {
		return err
	}
	p.giveUp(ctx, list, lacking)
	names = append(names, p.tableTopics(list)...)
	again := time.NewTicker(endsPatience / 20)
	defer again.Stop()
	for begun := time.Now(); ; {
		if s.high, err = p.highs(ctx, names...); err != nil {
			return err
		}
		if s.ends, err = p.ends(ctx, names...); err != nil {
			return err
		}
		s.hanging = hanging(s.ends, s.high)
		s.lacking, s.shorts = p.lacking(s.ends)
		if time.Since(begun) >= patience || s.lacking == "" && len(s.hanging) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
}

// tableTopics gives those of a list that are of the source's tables.
func (p *Publisher) tableTopics(list kadm.TopicDetails) []string {
	return slices.DeleteFunc(list.Names(), func(name string) bool {
		source, _, _, ok := record.ParseTopic(name)
		return !ok || source != p.source || name == record.ProgressTopic(p.source)
	})
}

// short is a partition in which readers get less than was acknowledged.
type short struct {
	topic     *topic
	partition int
	next      int64 // where whoever settles for what there is goes on from
}

// lacking compares ends with the vector. Everything before the vector was acknowledged as committed; since Open has
// fenced everybody, nothing is under way.
func (p *Publisher) lacking(ends map[string][]int64) (what string, shorts []short) {
	for _, name := range slices.Sorted(maps.Keys(ends)) {
		top := p.known[name]
		if top == nil || len(top.next) != len(ends[name]) {
			continue
		}
		for i, end := range ends[name] {
			if end >= top.next[i] {
				continue
			}
			if what == "" {
				what = fmt.Sprintf("topic %q partition %d ends at offset %d for readers, and was acknowledged up to %d", name, i, end, top.next[i])
			}
			shorts = append(shorts, short{top, i, end})
		}
	}
	return what, shorts
}

// Forgo settles for what there is of what s lacks: the next vector does not name what nobody can read. Until then every
// Resume finds it lacking.
func (p *Publisher) Forgo(s *State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range s.shorts {
		f.topic.next[f.partition], f.topic.touched = f.next, true
	}
}

// starts gives the first offset of each partition that is left.
func (p *Publisher) starts(ctx context.Context, names ...string) (map[string][]int64, error) {
	return p.offsets(ctx, kadm.NewClient(p.client).ListStartOffsets, names...)
}

// ends gives the last stable offset of each partition: behind the last record of a transaction that has ended.
func (p *Publisher) ends(ctx context.Context, names ...string) (map[string][]int64, error) {
	return p.offsets(ctx, kadm.NewClient(p.client).ListCommittedOffsets, names...)
}

// highs gives the offset behind the last record of each partition, whether its transaction has ended or not.
func (p *Publisher) highs(ctx context.Context, names ...string) (map[string][]int64, error) {
	return p.offsets(ctx, kadm.NewClient(p.client).ListEndOffsets, names...)
}

func (p *Publisher) offsets(
	ctx context.Context, ask func(context.Context, ...string) (kadm.ListedOffsets, error), names ...string,
) (map[string][]int64, error) {
	var list kadm.ListedOffsets
	var last error
	// A topic that was made a moment ago may not be known everywhere yet; one that was deleted a moment ago never will be.
	asking, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err := retry.Do(asking, retry.Backoff{Min: 20 * time.Millisecond, Max: time.Second}, func(ctx context.Context) (err error) {
		if list, err = ask(ctx, names...); err == nil {
			err = list.Error()
		}
		return err
	}, func(err error, try int, wait time.Duration) {
		p.log.Debug("the offsets of topics are not known yet", "try", try, "wait", wait, "error", err.Error())
		last = err
	})
	if err != nil && last != nil && ctx.Err() == nil {
		err = last
	}
	if err != nil {
		return nil, kafka.Trouble("ask the offsets of", fmt.Sprintf("topics of source %q", p.source), err)
	}
	ends := map[string][]int64{}
	list.Each(func(o kadm.ListedOffset) {
		have := ends[o.Topic]
		for len(have) <= int(o.Partition) {
			have = append(have, 0)
		}
		have[o.Partition] = o.Offset
		ends[o.Topic] = have
	})
	return ends, nil
}

// span is a range of offsets of one partition, the end exclusive.
type span struct{ from, to int64 }

// read gives the committed records in spans to each, in order within a partition.
func (p *Publisher) read(ctx context.Context, spans map[string][]span, each func(*kgo.Record) error) error {
	return p.scan(ctx, kgo.ReadCommitted(), spans, func(r *kgo.Record) error {
		if r.Attrs.IsControl() {
			return nil
		}
		return each(r)
	})
}

// scan gives the records in spans to each, in order within a partition, with the marks of the ends of transactions. For
// what stands behind the record that it is given, each may shorten the span.
func (p *Publisher) scan(ctx context.Context, level kgo.IsolationLevel, spans map[string][]span, each func(*kgo.Record) error) error {
	at := map[string]map[int32]kgo.Offset{}
	missing := 0
	for name, list := range spans {
		for i, s := range list {
			if s.from >= s.to {
				continue
			}
			if at[name] == nil {
				at[name] = map[int32]kgo.Offset{}
			}
			at[name][int32(i)] = kgo.NewOffset().At(s.from)
			missing++
		}
	}
	if missing == 0 {
		return nil
	}
	// A client of its own: it shares nothing with the producer but the seeds, TLS and SASL.
	opts := append(slices.Clone(p.reading), kgo.ConsumePartitions(at), kgo.FetchIsolationLevel(level),
		kgo.KeepControlRecords(), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return kafka.Trouble("connect to", "Kafka", err)
	}
	defer client.Close()
	for missing > 0 {
		pollCtx, cancel := context.WithTimeout(ctx, readTimeout)
		fetches := client.PollFetches(pollCtx)
		cancel()
		if err := fetches.Err0(); err != nil {
			return kafka.Trouble("read the end of", fmt.Sprintf("the topics of source %q", p.source), err)
		}
		var failed error
		fetches.EachError(func(t string, partition int32, err error) {
			failed = kafka.Trouble("read the end of", fmt.Sprintf("topic %q partition %d", t, partition), err)
		})
		fetches.EachRecord(func(r *kgo.Record) {
			s := &spans[r.Topic][r.Partition]
			if failed != nil || s.from >= s.to {
				return
			}
			if r.Offset < s.to {
				failed = each(r)
			}
			if s.from = r.Offset + 1; s.from >= s.to {
				missing--
			}
		})
		if failed != nil {
			return failed
		}
	}
	return nil
}
