package sink

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// outlook is what is known of partitions that are not read here: those of other sinks, and those of sources that are written as a
// whole, which the owner of their progress reads outside of the group. How far they are the checkpoints say, where they end, and
// how old the oldest record is that waits, Kafka does: the same numbers that their owner has. It is safe for use by many
// goroutines, but for look.
type outlook struct {
	looker   *consume.Looker // of whoever looks
	instance string          // of this sink, "" for none

	mu      sync.Mutex
	watched time.Time     // when somebody looked at the group last
	began   time.Time     // since when somebody does
	running bool          // somebody looks by himself
	kick    chan struct{} // now, not with the next tick
	changed chan struct{} // closed and replaced by each look

	at      time.Time // of the last look that went well
	failed  string    // why the one behind it did not; "" where there is none
	looks   int       // that went well, in a row
	parts   map[string]map[int32]*outside
	rates   map[string]*counter // of topics: changes applied by other sinks
	members map[string]*counter
	all     []warehouse.Checkpoint
}

// outside is a partition that is not read here.
type outside struct {
	*warehouse.Checkpoint       // nil: nobody has claimed it yet
	end                   int64 // last stable offset; -1: Kafka does not say it
	seen                  sight
}

// sight is what was seen of what waits in a partition.
type sight struct {
	known    bool
	from, to int64
	oldest   time.Time // commit time of the first change there; zero: there are only commit markers
}

// counter is a number that grows, put together from pieces.
type counter struct {
	total float64
	pace  service.Pace
}

// Bounds of a look.
const (
	// lookKept is how long what was seen counts, where nobody answers any more.
	lookKept = 10 * time.Second
	// firstLook is how long whoever asks first waits for a look.
	firstLook = 1500 * time.Millisecond
	// oldestAtOnce is of how many partitions one look asks for the oldest record that waits, and oldestPatience for how long it is waited: a broker gives
	// no less than a batch for each. The others have their turn with the next looks.
	oldestAtOnce   = 64
	oldestPatience = time.Second
	lookPatience   = 5 * time.Second
)

// watchedFor is how long after a look at the page it is taken for open.
const watchedFor = 10 * time.Second

func newOutlook(instance string) *outlook {
	return &outlook{
		instance: instance, kick: make(chan struct{}, 1), changed: make(chan struct{}),
		parts: map[string]map[int32]*outside{}, rates: map[string]*counter{}, members: map[string]*counter{},
	}
}

// watch notes that somebody looks at the group. Where nobody did of late it waits until it was looked at, for a moment.
func (o *outlook) watch() {
	now := time.Now()
	o.mu.Lock()
	if now.Sub(o.watched) > watchedFor {
		o.began = now
		select {
		case o.kick <- struct{}{}:
		default:
		}
	}
	o.watched = now
	wait, changed := firstLook-now.Sub(o.began), o.changed
	if !o.running || o.at.After(o.began) {
		wait = 0
	}
	o.mu.Unlock()
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

func (o *outlook) isWatched() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Since(o.watched) <= watchedFor
}

// look asks Kafka and the warehouse once. topics are those that are not wholly read here, here says which of their partitions are;
// atOnce bounds how many records are looked at. What could not be asked is told where the numbers would stand.
func (o *outlook) look(ctx context.Context, session *warehouse.Session, topics []string, here map[warehouse.Place]bool, atOnce int) error {
	var ends map[string]map[int32]int64
	var err error
	if len(topics) > 0 {
		// First: what was there then, and is applied when the checkpoints are read, was never waiting.
		ends, err = o.looker.Ends(ctx, topics...)
	}
	if err != nil {
		o.fail("Kafka does not say where its topics end")
		return err
	}
	all, err := session.Group(ctx)
	if err != nil {
		o.fail("the warehouse does not answer")
		return err
	}
	checkpoints := map[warehouse.Place]*warehouse.Checkpoint{}
	for i := range all {
		checkpoints[all[i].Place] = &all[i]
	}
	parts := map[string]map[int32]*outside{}
	var first, again []consume.Range
	o.mu.Lock()
	before := o.parts
	o.mu.Unlock()
	for _, topic := range topics {
		parts[topic] = map[int32]*outside{}
		for number, end := range ends[topic] {
			place := warehouse.Place{Topic: topic, Partition: number}
			if here[place] {
				continue
			}
			p := &outside{Checkpoint: checkpoints[place], end: end}
			parts[topic][number] = p
			if p.Checkpoint == nil || p.Next >= p.end {
				continue
			}
			if was := before[topic][number]; was != nil {
				p.seen = was.seen
			}
			switch wanted := (consume.Range{Topic: topic, Partition: number, From: p.Next, To: p.end}); {
			case p.seen.holds(p.Next, p.end):
			case p.seen.known && p.seen.oldest.IsZero() && p.seen.from <= p.Next && p.seen.to > p.Next: // markers, and what came since
				wanted.From, p.seen.known = p.seen.to, false
				first = append(first, wanted)
			case p.seen.known && !p.seen.oldest.IsZero() && p.seen.from <= p.Next: // it is older than what waits now: no less than the truth
				again = append(again, wanted)
			default:
				p.seen.known = false
				first = append(first, wanted)
			}
		}
	}
	slices.SortFunc(again, func(a, b consume.Range) int { // those that were seen longest ago
		return int(parts[a.Topic][a.Partition].seen.from - a.From - parts[b.Topic][b.Partition].seen.from + b.From)
	})
	if wanted := append(first, again...); len(wanted) > 0 {
		seeing, cancel := context.WithTimeout(ctx, oldestPatience)
		o.looker.Oldest(seeing, wanted[:min(len(wanted), atOnce)], func(g consume.Range, at time.Time) {
			p := parts[g.Topic][g.Partition]
			p.seen = sight{true, p.Next, g.To, at}
		})
		cancel()
	}
	o.note(parts, all)
	return nil
}

// holds says whether what was seen is so still.
func (s *sight) holds(next, end int64) bool {
	if s.oldest.IsZero() {
		return s.known && s.from <= next && s.to >= end
	}
	return s.from == next
}

// failure says why the last look did not go well; "" where it did.
func (o *outlook) failure() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failed
}

func (o *outlook) fail(why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed = why
	o.told()
}

// told wakes those who wait for a look. o.mu is held.
func (o *outlook) told() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// note takes what was seen in, and counts what was applied since.
func (o *outlook) note(parts map[string]map[int32]*outside, all []warehouse.Checkpoint) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if now.Sub(o.at) > lookKept {
		o.looks, o.rates, o.members = 0, map[string]*counter{}, map[string]*counter{}
	}
	before := map[warehouse.Place]*warehouse.Checkpoint{}
	for i := range o.all {
		before[o.all[i].Place] = &o.all[i]
	}
	for i := range all {
		c := &all[i]
		if _, progress := record.ParseProgressTopic(c.Topic); progress || c.Owner == "" {
			continue
		}
		member, topic := counted(o.members, c.Owner), counted(o.rates, c.Topic)
		if was := before[c.Place]; was != nil && was.Owner == c.Owner && o.looks > 0 {
			rows := float64(max(c.Rows-was.Rows, 0)) // it was read anew from its beginning, perhaps
			member.total += rows
			if c.Owner != o.instance {
				topic.total += rows
			}
		}
	}
	for _, counters := range []map[string]*counter{o.rates, o.members} {
		for _, c := range counters {
			c.pace.Sample(now, c.total)
		}
	}
	o.at, o.failed, o.parts, o.all = now, "", parts, all
	o.looks++
	o.told()
}

func counted(of map[string]*counter, name string) *counter {
	c := of[name]
	if c == nil {
		c = &counter{}
		of[name] = c
	}
	return c
}

// sinks gives the members of the group, who have told of themselves; false where it was not looked of late.
func (o *outlook) sinks(told presences) ([]Member, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.at) > lookKept {
		return nil, false
	}
	out := told.crew(warehouse.Members(o.all))
	for i := range out {
		m := &out[i]
		if m.Ended || o.looks < 2 {
			continue
		}
		m.RowsPerSec = new(0.0)
		if c := o.members[m.Instance]; c != nil { // else it has none but of progress
			*m.RowsPerSec = c.pace.PerSecond()
		}
	}
	return out, true
}

// standing is where the partitions of a topic are, taken together.
type standing struct {
	all  extent
	own  extent // of what this sink writes
	lost string // why all is not known, and is no more than own; "" where it is
	// others is how many partitions other sinks write, rate how many changes a second these apply: nil where it is not known yet.
	others     int
	rate       *float64
	barred     bool // one waits for the others at a TRUNCATE
	position   change.Position
	lastCommit *time.Time
}

// extent is how far some partitions are.
type extent struct {
	partitions    int
	next, records int64
	oldest        time.Time // commit time of the oldest change not applied; zero: none waits
}

func (e *extent) add(next, end int64, oldest time.Time) {
	e.partitions++
	e.next += next
	e.records += max(end-next, 0)
	if !oldest.IsZero() && (e.oldest.IsZero() || oldest.Before(e.oldest)) {
		e.oldest = oldest
	}
}

// behind is how long the oldest change has been waiting.
func (e *extent) behind(now time.Time) time.Duration {
	if e.oldest.IsZero() {
		return 0
	}
	return max(now.Sub(e.oldest), 0)
}

// stand adds to what a sink knows of its own partitions, views, what is known of the others.
func (o *outlook) stand(topic string, views []consume.View) standing {
	at := standing{rate: new(0.0)}
	here := map[int32]bool{}
	for i := range views {
		v := &views[i]
		here[v.Number] = true
		at.own.add(v.Next, v.End, v.Oldest)
		if v.Position.Compare(at.position) > 0 {
			at.position = v.Position
		}
	}
	at.all = at.own
	if len(views) > 0 && len(views) >= int(views[0].Count) {
		return at
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	parts, asked := o.parts[topic]
	if old := time.Since(o.at) > lookKept; old || !asked {
		at.lost, at.rate = notLooked, nil
		if old && o.failed != "" {
			at.lost = o.failed
		}
		return at
	}
	all, own := at.own, at.own
	for number, p := range parts {
		if !here[number] {
			here[number] = true
			at.join(p, &all, &own, p.Checkpoint != nil && p.Owner == o.instance)
		}
	}
	switch {
	case at.lost != "":
	case len(here) == 0:
		at.lost = "Kafka does not have its topic"
	case len(views) > 0 && len(here) < int(views[0].Count):
		at.lost = notLooked // it was given away since
	default:
		at.all, at.own = all, own
	}
	if at.others > 0 && o.looks < 2 {
		at.rate = nil
	} else if c := o.rates[topic]; c != nil {
		*at.rate = c.pace.PerSecond()
	}
	return at
}

// join adds a partition that is not read here to all, and, where this sink writes it, to own.
func (at *standing) join(p *outside, all, own *extent, mine bool) {
	if p.Checkpoint == nil {
		if all.partitions++; p.end > 0 {
			at.lost = "no sink has it yet"
		}
		return
	}
	end, oldest := p.end, p.seen.oldest
	switch {
	case p.Next >= p.end:
		oldest = time.Time{}
	case !p.seen.known:
		at.lost = "what waits is not seen yet"
	case oldest.IsZero():
		end = p.Next // who writes a source as a whole passes commit markers with what follows them
	}
	all.add(p.Next, end, oldest)
	if mine {
		own.add(p.Next, end, oldest)
	} else {
		at.others++
	}
	at.barred = at.barred || p.Barred() && end > p.Next
	if p.Position.Compare(at.position) > 0 {
		at.position = p.Position
	}
	if p.LastCommit != nil && (at.lastCommit == nil || p.LastCommit.After(*at.lastCommit)) {
		at.lastCommit = p.LastCommit
	}
}

const notLooked = "not looked yet"

// seconds gives them for a line: not a number where it is not known.
func seconds(d time.Duration, known bool) float64 {
	if !known {
		return math.NaN()
	}
	return d.Seconds()
}

// beyond gives the topics of which not all partitions are read here, and which are: all while somebody looks, else those of sources
// that this sink writes as a whole, as nothing else tells how far they are.
func (s *Sink) beyond(watched bool) (topics []string, here map[warehouse.Place]bool) {
	here = map[warehouse.Place]bool{}
	lacks, follows := map[string]int32{}, map[string]bool{} // lacks: by topic, of which there is a partition
	for _, v := range s.consumer.Views() {
		here[warehouse.Place{Topic: v.Topic, Partition: v.Number}] = true
		lacks[v.Topic] = cmp.Or(lacks[v.Topic], v.Count) - 1
		if source, ok := record.ParseProgressTopic(v.Topic); ok {
			follows[source] = true
		}
	}
	overview := s.consumer.Overview()
	for _, topic := range slices.Concat(overview.Topics, overview.Unrouted) {
		route, ok := s.match(topic)
		if lack, some := lacks[topic]; ok && (!some || lack > 0) && (watched || s.rules.Whole(route.Source) && follows[route.Source]) {
			topics = append(topics, topic)
		}
	}
	return topics, here
}

// lookOut keeps the outlook.
func (s *Sink) lookOut(ctx context.Context) error {
	session := s.warehouse.Session()
	defer session.Close(context.WithoutCancel(ctx))
	o := s.outlook
	var err error
	if o.looker, err = consume.NewLooker(s.cfg.Kafka, s.log); err != nil {
		return &trouble.Error{Code: trouble.Config, Op: "read", Subject: "kafka", Cause: err}
	}
	defer o.looker.Close()
	o.setRunning(true)
	defer o.setRunning(false)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		watched := o.isWatched()
		if topics, here := s.beyond(watched); watched || len(topics) > 0 {
			looking, cancel := context.WithTimeout(ctx, lookPatience)
			if err := o.look(looking, session, topics, here, oldestAtOnce); err != nil && ctx.Err() == nil {
				s.log.Debug("how far other sinks are is not known", service.Err(err))
			}
			cancel()
		} else {
			session.Close(context.WithoutCancel(ctx))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-o.kick:
		}
	}
}

func (o *outlook) setRunning(running bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running = running
}
