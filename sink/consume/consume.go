// Package consume reads the topics of a consumer group and hands their records out, partition by partition, to the
// lanes that apply them. A partition begins where the warehouse's checkpoint says, which the caller gives when it
// claims it; Kafka's own committed offsets are written afterwards, for lag tools only.
//
// It owns the Kafka client, membership, buffers and their bounds. What records mean, and when a checkpoint moves, is
// the caller's business. Rebalances are cooperative (KIP-429); reads are of committed transactions only (KIP-98), and
// commit markers are counted, so that a partition that is read to its end has no lag.
package consume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema/change"
)

// Config says what to consume.
type Config struct {
	Kafka   kafka.Config
	Group   string
	Member  string        // static membership (KIP-345): partitions wait for a restart under this name; "" for none
	Session time.Duration // after which a member that is not heard of loses its partitions
	Refresh time.Duration // between looks for new topics
	Memory  int64         // bytes of records held, of all partitions together
	Age     time.Duration // how long records may gather before they are handed out
	Log     *slog.Logger
	Stage   *service.Stage // of the fetching goroutine
	// Retrying is told of what failed and is tried again ("kafka", "group", "warehouse"), and with nil when it went well.
	Retrying func(what string, err error)

	// Route says which lane a partition belongs to, always the same, and whether its topic is consumed at all, which may change.
	Route func(topic string, number int32) (lane int, ok bool)
	// Source names the source that a topic is of, "" for what is never kept waiting, and gives how many of its records may be handed out a second; 0: any number.
	Source func(topic string) (name string, rate int)
	// Ahead says of which lanes others may wait. Their topics are fetched also while the memory is full of what waits.
	Ahead func(lane int) bool
	// Claim takes partitions over, in order of topic and number. It is called again until it succeeds or ctx ends.
	Claim func(ctx context.Context, parts []Request) ([]Start, error)
	// Fault is told of a partition that cannot be read on. It is held until Release.
	Fault func(p *Partition, err error)
}

// Request is a partition to claim.
type Request struct {
	Topic   string
	Number  int32
	TopicID string
}

// Start is where a claimed partition begins.
type Start struct {
	Epoch    int64
	Next     int64
	Term     Term // of the record before Next
	Position change.Position
	// CommitTime is that of the last change applied, microseconds since 1970; 0 for none.
	CommitTime int64
	Attempt    int64
	Err        error // not nil: the partition is held from the start
	Hold       error // not nil: the partition is held from the start, by the caller who says so
	Park       error // not nil: why the first record is not to be applied, but put aside
	Skip       bool  // the first record is to be passed over
}

// Term is by which leader of its partition a record was written: one more than Kafka's leader epoch, 0 where that is not known.
type Term int32

// TermOf gives that of a record.
func TermOf(r *kgo.Record) Term { return Term(r.LeaderEpoch + 1) }

// at is where to read on: at next, behind a record of this term.
func (t Term) at(next int64) kgo.EpochOffset {
	return kgo.EpochOffset{Epoch: int32(t) - 1, Offset: next}
}

// Partition is an assigned partition. The exported fields may be read by whoever took it, until Finish; they are
// changed by Finish and Release only.
type Partition struct {
	Topic  string
	Number int32
	Count  int32 // partitions of the topic
	Start        // as claimed; Next, Term, Position and CommitTime move with the checkpoint

	// Pass is the TRUNCATE that the partition need not wait at any more.
	Pass change.Position

	lane    int
	source  *sourceState
	queue   []*kgo.Record
	bytes   int64
	polled  int64     // offset behind the newest record in the queue
	arrived time.Time // of the oldest record in the queue
	least   int       // records needed before the partition is handed out
	taken   int       // records that were handed out
	end     int64     // last stable offset, as far as seen
	oldest  time.Time // timestamp of the oldest record not applied
	polls   []poll    // by which the queue was filled, if that is noted
	busy    bool
	gone    bool
	paused  bool  // because it has its share of the memory
	stopped bool  // because the memory is full
	held    error // by the caller
	release bool  // to be done by the fetching goroutine
}

// poll is when the records from an offset on arrived.
type poll struct {
	from int64
	at   time.Time
}

// Consumer is a member of a group. Make one with New; Run it; Take, Finish and Hold are for the lanes.
type Consumer struct {
	cfg    Config
	client *kgo.Client
	admin  *kadm.Client
	end    context.CancelFunc // ends what the client does

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at each change that somebody may wait for
	parts    map[key]*Partition
	topics   map[string]topic
	unrouted []string
	retained map[string]time.Duration // how long records are kept, by topic
	sources  map[string]*sourceState
	named    int // of them have a name
	limited  int // of them have a rate
	bytes    int64
	largest  int64              // bytes of the largest record of late; what was longer ago counts less
	wake     context.CancelFunc // ends the poll under way
	narrow   bool               // only what is Ahead is fetched
	ready    bool               // topics have been looked for
	asked    time.Time          // since when a look for topics has no answer; zero: all have
	noting   bool               // when records arrive
	waits    time.Time          // since when what the client has fetched waits for room; of the fetching goroutine
	moves    int64              // rebalances
	claiming map[string]bool    // topics of which partitions were given to this member and are not claimed yet
}

type key struct {
	topic  string
	number int32
}

type topic struct {
	id         string
	partitions int32
}

// KeptForEver is the retention of a topic from which Kafka deletes nothing because of its age.
const KeptForEver = time.Duration(math.MaxInt64)

// New makes a consumer. It does no I/O beyond reading files that the configuration names.
func New(cfg Config) (*Consumer, error) {
	opts, err := cfg.Kafka.Options(cfg.Log)
	if err != nil {
		return nil, err
	}
	c := &Consumer{cfg: cfg, largest: firstGuess, changed: make(chan struct{}), parts: map[key]*Partition{}, topics: map[string]topic{}, sources: map[string]*sourceState{}, claiming: map[string]bool{}}
	life, end := context.WithCancel(context.Background())
	c.end = end
	opts = append(opts,
		kgo.WithContext(life),
		kgo.ConsumerGroup(cfg.Group),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(cfg.Session),
		kgo.HeartbeatInterval(cfg.Session/5),
		// A rebalance waits so long for members that do not join again: no longer than for one that is not heard of at all.
		// A broker that has answered a member which has lost its connection meanwhile waits for the answer to the answer.
		kgo.RebalanceTimeout(cfg.Session),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.KeepControlRecords(),
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchBytes/2),
		// The client has one fetch a broker under way. While all partitions with records are paused it is one that waits
		// for the others, and a resumed partition waits for its answer: the default of 5 s would be 5 s of standstill.
		kgo.FetchMaxWait(fetchMaxWait),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		// Answers to our looks for topics, and what the client itself knows of new ones, are no older than this; its
		// default of 5 s would make a table wait that long for its first row.
		kgo.MetadataMinAge(max(cfg.Refresh/2, minMetadataAge)),
		kgo.AdjustFetchOffsetsFn(c.assign),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { c.giveUp(lost, true) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { c.giveUp(lost, false) }),
	)
	if cfg.Member != "" {
		opts = append(opts, kgo.InstanceID(cfg.Member))
	}
	if c.client, err = kgo.NewClient(opts...); err != nil {
		end()
		return nil, fmt.Errorf("make Kafka client: %w", err)
	}
	c.admin = kadm.NewClient(c.client)
	return c, nil
}

const (
	// leavePatience is how long Close waits for a rebalance that is under way.
	leavePatience = 5 * time.Second
	pollRecords   = 10_000
	// fetchBytes of batches, as they are compressed, are fetched at once: what is written in a fraction of sharePatience.
	fetchBytes   = 1 << 20
	firstGuess   = 64 << 10 // bytes of a record, before one was seen
	fetchMaxWait = 100 * time.Millisecond
	commitEvery  = time.Second
	// minMetadataAge is the least that the client takes.
	minMetadataAge = 10 * time.Millisecond
)

// Client gives the Kafka client, for checks.
func (c *Consumer) Client() *kgo.Client { return c.client }

// Run consumes until ctx ends. It must be followed by Close.
func (c *Consumer) Run(ctx context.Context) error {
	group := service.NewGroup(ctx)
	group.Go("find topics", c.discover)
	group.Go("fetch", c.fetch)
	group.Go("commit offsets", c.commit)
	return group.Wait()
}

// Close leaves the group. No partition may be taken by then.
//
// A member that has asked to join leaves when it is answered. The broker answers when all members have asked, or have
// been found dead, which can take a whole rebalance timeout: such a rebalance is not waited for, and the broker finds
// out by itself that the member is gone.
func (c *Consumer) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c.commitOffsets(ctx, true)
	defer c.end()
	defer time.AfterFunc(leavePatience, c.end).Stop()
	c.client.CloseAllowingRebalance()
}

// notify wakes all who wait for a change. c.mu is held.
func (c *Consumer) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
	if c.narrow && !c.full() {
		c.wake()
	}
}

// drop lets go of the records of p. c.mu is held.
func (c *Consumer) drop(p *Partition) {
	c.hold(p, -p.bytes)
	p.queue, p.least, p.polls = nil, 0, nil
}

// fetch polls and fills the queues.
func (c *Consumer) fetch(ctx context.Context) error {
	for {
		poll, cancel := context.WithCancel(ctx)
		c.mu.Lock()
		c.wake = cancel
		c.awaitRoom(ctx)
		room := c.room()
		narrow := c.narrow
		if c.anyRelease() || narrow && !c.full() {
			cancel() // do it now, then poll again
		}
		c.mu.Unlock()
		done := func() {}
		if narrow {
			done = c.cfg.Stage.Wait("room in memory")
		}
		fetches := c.client.PollRecords(poll, room)
		done()
		cancel()
		c.cfg.Stage.Busy()
		if c.client.BufferedFetchRecords() == 0 {
			c.waits = time.Time{}
		}
		faults := c.dispatch(ctx, fetches)
		c.releaseHeld()
		c.client.AllowRebalance()
		for _, fault := range faults {
			fault()
		}
		c.cfg.Stage.Idle()
		if ctx.Err() != nil || fetches.IsClientClosed() {
			return nil
		}
	}
}

// The client lets go of what it has fetched of partitions that are stopped or paused, and fetches it once more later: of a
// backlog it would be most. So room is waited for, for a while, before anything is stopped.
const (
	fullPatience = 500 * time.Millisecond // for room in the memory; then only what is Ahead is fetched
	// sharePatience is how long what the client has fetched may wait for room in the shares of its partitions; then the
	// others are fetched without these. Other sources do not wait.
	sharePatience = 100 * time.Millisecond
)

// awaitRoom waits while there is no room, and decides what may be fetched. If the memory stays full it may be for a reason:
//
//	lane 0: waits for a progress record before it can decide about a row; all its partitions have their share of the memory
//	fetch:  waits for room
//
// and nobody would fetch the progress record. c.mu is held.
func (c *Consumer) awaitRoom(ctx context.Context) {
	if !c.narrow {
		c.await(ctx, fullPatience, c.full)
	}
	crowded := c.crowded()
	if len(crowded) > 0 && c.waits.IsZero() {
		c.waits = time.Now()
	}
	if len(crowded) > 0 && c.named <= 1 {
		c.await(ctx, sharePatience-time.Since(c.waits), func() bool { return len(c.crowded()) > 0 })
		crowded = c.crowded()
	}
	pause := map[string][]int32{}
	for _, p := range crowded {
		p.paused = true
		pause[p.Topic] = append(pause[p.Topic], p.Number)
	}
	if len(pause) > 0 {
		c.client.PauseFetchPartitions(pause)
	}
	c.narrow = c.full()
	stop, resume := map[string][]int32{}, map[string][]int32{}
	for _, p := range c.parts {
		switch {
		case c.narrow == p.stopped || c.cfg.Ahead(p.lane):
		case c.narrow:
			p.stopped = true
			stop[p.Topic] = append(stop[p.Topic], p.Number)
		default:
			p.stopped = false
			if !p.paused && p.held == nil {
				resume[p.Topic] = append(resume[p.Topic], p.Number)
			}
		}
	}
	if len(stop) > 0 {
		c.client.PauseFetchPartitions(stop)
	}
	if len(resume) > 0 {
		c.client.ResumeFetchPartitions(resume)
	}
}

// await waits until there is room, for so long at most. c.mu is held, but not while it waits.
func (c *Consumer) await(ctx context.Context, most time.Duration, without func() bool) {
	if !without() {
		return
	}
	defer c.cfg.Stage.Wait("room in memory")()
	patience := time.NewTimer(most)
	defer patience.Stop()
	for over := false; !over && without() && !c.anyRelease() && ctx.Err() == nil; {
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-patience.C:
			over = true
		case <-ctx.Done():
		}
		c.mu.Lock()
	}
}

// crowded gives the partitions that are fetched though they, or their sources, have their share of the memory. c.mu is held.
func (c *Consumer) crowded() (crowded []*Partition) {
	for _, p := range c.parts {
		if p.paused || p.stopped || p.held != nil || p.wantsMore() {
			continue
		}
		if p.bytes > c.share(p) || p.source.over && !c.cfg.Ahead(p.lane) {
			crowded = append(crowded, p)
		}
	}
	return crowded
}

// full says whether no more may be fetched of what is not Ahead. c.mu is held.
func (c *Consumer) full() bool {
	return c.bytes+min(c.largest, c.cfg.Memory/4) > c.cfg.Memory-c.cfg.Memory/reserved
}

// reserved is the part of the memory that is kept for what is Ahead.
const reserved = 16

// room gives how many records may be taken from the client now, so that those held stay within the memory: as many as
// would fit if each were as large as the largest of those that came lately. After a long time of small records a poll of
// large ones may go over it, by what the client has fetched at most. c.mu is held.
func (c *Consumer) room() int {
	return int(min(max((c.cfg.Memory-c.bytes)/c.largest, 1), pollRecords))
}

func (c *Consumer) anyRelease() bool {
	for _, p := range c.parts {
		if p.release && !p.busy {
			return true
		}
	}
	return false
}

// dispatch puts records into the queues.
func (c *Consumer) dispatch(ctx context.Context, fetches kgo.Fetches) (faults []func()) {
	now := time.Now()
	largest := int64(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	fetches.EachPartition(func(fp kgo.FetchTopicPartition) {
		p := c.parts[key{fp.Topic, fp.Partition}]
		if fp.Err != nil && fp.Topic == "" && !errors.Is(fp.Err, context.Canceled) && !errors.Is(fp.Err, kgo.ErrClientClosed) {
			// Of the group as a whole: the client goes on trying.
			faults = append(faults, func() {
				c.cfg.Retrying("group", kafka.Trouble("consume as a member of", fmt.Sprintf("group %q", c.cfg.Group), fp.Err))
			})
		}
		if p == nil || p.held != nil {
			return // given up, or read again after Release
		}
		if fp.Err != nil {
			if err := fetchTrouble(p, fp.Err); err != nil {
				faults = append(faults, func() { c.fault(p, withFirst(ctx, c.admin, p.Topic, p.Number, err)) })
			}
			return
		}
		p.end = max(p.end, fp.LastStableOffset)
		had := len(p.queue)
		for _, r := range fp.Records {
			if r.Offset < p.polled {
				continue
			}
			if len(p.queue) == 0 {
				p.arrived, p.oldest = now, r.Timestamp
			}
			p.queue = append(p.queue, r)
			size := recordSize(r)
			c.hold(p, size)
			largest = max(largest, size)
			p.polled = r.Offset + 1
		}
		if c.noting && len(p.queue) > had {
			p.polls = append(p.polls, poll{p.queue[had].Offset, now})
		}
		p.source.over = p.source.over || p.source.bytes > c.limit(p.source) && !c.cfg.Ahead(p.lane)
	})
	if largest > 0 {
		c.largest = max(largest, c.largest-c.largest/16)
	}
	c.notify()
	return faults
}

// releaseHeld lets partitions go on that were released. Only the fetching goroutine does so: records of the old place
// must not arrive after the new one was set.
func (c *Consumer) releaseHeld() {
	c.mu.Lock()
	defer c.mu.Unlock()
	set := map[string]map[int32]kgo.EpochOffset{}
	resume := map[string][]int32{}
	for _, p := range c.parts {
		if !p.release || p.busy {
			continue
		}
		c.drop(p)
		p.release, p.held, p.paused, p.stopped, p.polled = false, nil, false, false, p.Next
		if set[p.Topic] == nil {
			set[p.Topic] = map[int32]kgo.EpochOffset{}
		}
		set[p.Topic][p.Number] = p.Term.at(p.Next)
		resume[p.Topic] = append(resume[p.Topic], p.Number)
	}
	if len(set) > 0 {
		c.client.SetOffsets(set)
		c.client.ResumeFetchPartitions(resume)
	}
}

// commit tells Kafka how far we are, for lag tools.
func (c *Consumer) commit(ctx context.Context) error {
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			c.commitOffsets(ctx, false)
		}
	}
}

func (c *Consumer) commitOffsets(ctx context.Context, wait bool) {
	offsets := map[string]map[int32]kgo.EpochOffset{}
	committed := c.client.CommittedOffsets()
	c.mu.Lock()
	for k, p := range c.parts {
		if !p.busy && p.held == nil && p.Next > 0 && committed[k.topic][k.number].Offset != p.Next {
			if offsets[k.topic] == nil {
				offsets[k.topic] = map[int32]kgo.EpochOffset{}
			}
			offsets[k.topic][k.number] = p.Term.at(p.Next)
		}
	}
	c.mu.Unlock()
	if len(offsets) == 0 {
		return
	}
	// A failure is of no account: the warehouse has the truth, and the next second tries again.
	if wait {
		c.client.CommitOffsetsSync(ctx, offsets, nil)
	} else {
		c.client.CommitOffsets(ctx, offsets, nil)
	}
}
