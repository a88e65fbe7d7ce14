package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// hold is why a partition is held.
type hold struct {
	err     error
	since   time.Time
	next    int64
	written bool                // it is in tributary.quarantine
	barrier change.Position     // it waits for the other partitions at this TRUNCATE; zero otherwise
	peers   []warehouse.Barrier // of all partitions of the topic, as of the last look; of one that waits at a TRUNCATE
	fenced  bool                // somebody else claimed it
	paused  bool                // somebody asked for it
	moved   bool                // its checkpoint was moved from outside

	attempt int64            // that it was claimed for, see warehouse.Quarantine
	remedy  warehouse.Remedy // that it was claimed with
}

var (
	errPaused = errors.New("is paused")
	errMoved  = errors.New("its checkpoint was moved")
	// errUnknownTopic is of a partition claimed without the id of its topic: as its source is brought back in this moment, or the topic was made anew, in
	// which the offset of the one before counts nothing.
	errUnknownTopic = errors.New("it is not known yet which topic this is")
)

var errBarrier = errors.New("waits for the other partitions at a TRUNCATE")

// hold stops a partition by an error that does not go away by itself, and writes that down where everybody sees it.
func (s *Sink) hold(ctx context.Context, session *warehouse.Session, p *consume.Partition, next int64, err error) {
	if s.consumer.Gone(p) {
		return // whoever has it now finds out by himself
	}
	h := &hold{err: err, since: time.Now(), next: next}
	if next == p.Next { // else what it was claimed with is over
		h.attempt = p.Attempt
		switch {
		case p.Park != nil:
			h.remedy = warehouse.Park
		case p.Skip:
			h.remedy = warehouse.Skip
		}
	}
	s.mu.Lock()
	s.held[p] = h
	s.mu.Unlock()
	s.consumer.Hold(p, err)
	s.tellHeld(p, next, err)
	s.writeHold(context.WithoutCancel(ctx), session, p, h)
}

// writeHold writes a quarantine. If it cannot be now, the supervisor does it.
func (s *Sink) writeHold(ctx context.Context, session *warehouse.Session, p *consume.Partition, h *hold) {
	q := warehouse.Quarantine{
		Topic: p.Topic, Partition: p.Number, Next: h.next, Code: string(trouble.CodeOf(h.err)), Message: h.err.Error(), Attempt: h.attempt, Remedy: h.remedy,
	}
	if source, schema, table, ok := record.ParseTopic(p.Topic); ok {
		q.Source, q.Table = source, schema+"."+table
	} else if source, ok := record.ParseProgressTopic(p.Topic); ok {
		q.Source = source
	}
	if t, ok := errors.AsType[*trouble.Error](h.err); ok {
		q.Hint = t.Hint
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := session.Hold(ctx, q); err != nil {
		s.retrying("supervision", err)
		return
	}
	s.mu.Lock()
	h.written = true
	s.mu.Unlock()
}

// fault is told by the consumer of a partition that cannot be read. The supervisor writes it down.
func (s *Sink) fault(p *consume.Partition, err error) {
	err = s.cfg.Kafka.Grant(err, s.rights())
	s.mu.Lock()
	s.held[p] = &hold{err: err, since: time.Now(), next: p.Next}
	s.mu.Unlock()
	s.tellHeld(p, p.Next, err)
}

// tellHeld has log and metrics tell that p is held before an offset.
func (s *Sink) tellHeld(p *consume.Partition, next int64, err error) {
	s.metrics.trouble(p.Topic, trouble.CodeOf(err))
	s.log.Error(heldWith(s.rules, p.Topic), "topic", p.Topic, "partition", p.Number, "offset", next, service.Err(err))
}

// heldWith says what is held with a partition of a topic.
func heldWith(rules *rule.Set, topic string) string {
	source, ok := record.ParseProgressTopic(topic)
	switch {
	case !ok:
		return "table is quarantined, all others go on"
	case rules.Whole(source):
		return "source is quarantined with all of its tables, as it is written as a whole; all others go on"
	}
	return "progress of a source is quarantined: tables go on, how far it is complete is not known any more"
}

// recovered ends the quarantine that a partition was claimed with, of which something was written.
func (s *Sink) recovered(ctx context.Context, session *warehouse.Session, p *consume.Partition) {
	if p.Attempt == 0 {
		return
	}
	if err := session.Recovered(context.WithoutCancel(ctx), p.Topic, p.Number, p.Attempt); err != nil {
		s.log.Warn("quarantine is over, its row could not be deleted", "topic", p.Topic, "partition", p.Number, service.Err(err))
		return
	}
	s.log.Info("goes on after quarantine", "topic", p.Topic, "partition", p.Number)
}

// refused stops a partition whose checkpoint is not where we left it.
func (s *Sink) refused(ctx context.Context, session *warehouse.Session, p *consume.Partition) {
	standings, err := session.Standings(ctx, []warehouse.Advance{{Topic: p.Topic, Partition: p.Number, Epoch: p.Epoch, Expected: p.Next, Next: p.Next}})
	if err == nil && standings[0] == warehouse.Back {
		s.wentBack(p)
		return
	}
	s.lost(p)
}

// lost stops a partition whose checkpoint belongs to somebody else. If Kafka still gives it to us after a while, it is
// claimed again.
func (s *Sink) lost(p *consume.Partition) {
	err := &trouble.Error{
		Code: trouble.CheckpointFenced, Op: "advance the checkpoint of", Subject: fmt.Sprintf("topic %q partition %d", p.Topic, p.Number),
		Cause: warehouse.ErrFenced,
		Means: "nothing was written twice; the partition is given up",
		Hint:  "normal after a rebalance; if it goes on: do two groups on different Kafka clusters have one name?",
	}
	s.mu.Lock()
	s.held[p] = &hold{err: err, since: time.Now(), next: p.Next, fenced: true}
	s.mu.Unlock()
	s.consumer.Hold(p, err)
	s.metrics.trouble(p.Topic, err.Code)
	s.log.Warn("partition belongs to another sink", "topic", p.Topic, "partition", p.Number, service.Err(err))
}

// wentBack stops a partition of which the warehouse has taken back what it had confirmed, for it to be read again.
func (s *Sink) wentBack(p *consume.Partition) {
	s.log.Warn("the warehouse is behind what it has confirmed, as after a crash or a failover: what is missing is read again", "topic", p.Topic, "partition", p.Number)
	s.holdMoved(p)
}

// holdMoved stops a partition, for the supervisor to claim it again.
func (s *Sink) holdMoved(p *consume.Partition) {
	s.mu.Lock()
	s.held[p] = &hold{err: errMoved, since: time.Now(), moved: true}
	s.mu.Unlock()
	s.consumer.Hold(p, errMoved)
}

// supervisor looks after held partitions and reads what /status shows.
type supervisor struct {
	s       *Sink
	session *warehouse.Session
	counted time.Time                   // when members were
	beaten  time.Time                   // when this sink said of itself what the others tell
	unheard bool                        // that, or what they say, could not be had the last time
	opened  int                         // connections that the session has had
	unsure  map[*consume.Partition]bool // of which it is not known whether the warehouse still has what it confirmed
}

func newSupervisor(s *Sink) *supervisor {
	return &supervisor{s: s, session: s.warehouse.Session()}
}

// Periods of the supervisor.
const (
	barrierEvery = 100 * time.Millisecond
	lookEvery    = time.Second
	reclaimAfter = 5 * time.Second
)

func (v *supervisor) run(ctx context.Context) error {
	defer v.session.Close(context.WithoutCancel(ctx))
	defer v.leave(ctx)
	tick := time.NewTicker(barrierEvery)
	defer tick.Stop()
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		attempt, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := v.barriers(attempt)
		if err == nil && time.Since(looked) >= lookEvery {
			looked = time.Now()
			err = v.look(attempt)
		}
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !retry.Waits(err) {
			return err
		}
		if err != nil {
			v.s.retrying("supervision", err)
			select {
			case <-ctx.Done():
			case <-time.After(lookEvery):
			}
			continue
		}
		v.s.retrying("supervision", nil)
	}
}

// heldNow gives the held partitions that are still ours.
func (v *supervisor) heldNow() map[*consume.Partition]*hold {
	ours := map[*consume.Partition]bool{}
	for _, view := range v.s.consumer.Views() {
		if view.Held != nil {
			ours[view.Partition] = true
		}
	}
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	out := map[*consume.Partition]*hold{}
	for p, h := range v.s.held {
		if !ours[p] && time.Since(h.since) > lookEvery {
			delete(v.s.held, p) // given up or gone on; a hold shows in Views at once
			continue
		}
		copied := *h
		out[p] = &copied
	}
	return out
}

func (v *supervisor) released(p *consume.Partition) {
	v.s.mu.Lock()
	delete(v.s.held, p)
	v.s.mu.Unlock()
}

// look reads the warehouse's tables once, and lets partitions go on whose hold is over.
func (v *supervisor) look(ctx context.Context) error {
	if err := v.locks(ctx); err != nil { // first: what follows may wait for one itself
		return err
	}
	held := v.heldNow()
	for p, h := range held {
		if !h.written && !h.fenced && !h.paused && !h.moved && h.barrier.IsZero() {
			v.s.mu.Lock()
			real := v.s.held[p]
			v.s.mu.Unlock()
			if real != nil {
				v.s.writeHold(ctx, v.session, p, real)
			}
		}
	}
	seen, err := v.see(ctx)
	if err != nil {
		return err
	}
	unowned, err := v.unowned(ctx)
	if err != nil {
		return err
	}
	v.s.mu.Lock()
	v.s.seen = *seen
	v.s.mu.Unlock()
	if err := v.pause(ctx, held); err != nil {
		return err
	}
	v.moved(unowned)
	if err := v.back(ctx); err != nil {
		return err
	}
	for p, h := range held {
		over := h.fenced && time.Since(h.since) >= reclaimAfter || h.moved
		if h.written {
			over = !slices.ContainsFunc(seen.troubles, func(q warehouse.Quarantine) bool {
				return q.Topic == p.Topic && q.Partition == p.Number && q.Remedy == warehouse.TryAgain
			})
		}
		if over && !v.s.pausedTopic(p.Topic) {
			if err := v.reclaim(ctx, p); err != nil {
				return err
			}
		}
	}
	if v.s.consumer.Overview().Ready {
		v.s.setStep("") // also without partitions: there may be more sinks than these
	}
	v.beat(ctx)
	v.s.notice()
	return nil
}

// sighting is what the warehouse has said of the group when it was looked at.
type sighting struct {
	at       time.Time
	heard    map[string]bool // topics of which the sources had all before
	version  string          // of its server
	sources  []warehouse.Source
	troubles []warehouse.Quarantine
	pauses   []warehouse.Pause
	parked   warehouse.ParkedCounts
	members  []warehouse.Member // where this sink tells Prometheus of them
	reloads  []warehouse.OpenReload
	formers  map[string][]warehouse.Former // by topic
	retained map[string]warehouse.Expired  // by topic
}

// see reads it.
func (v *supervisor) see(ctx context.Context) (*sighting, error) {
	seen := &sighting{heard: map[string]bool{}}
	var err error
	if seen.troubles, err = v.session.Quarantines(ctx); err != nil {
		return nil, err
	}
	views := v.s.consumer.Views() // before: what is applied after this may not be in what is read
	for i := range views {
		seen.heard[views[i].Topic] = atEnd(&views[i])
	}
	settled := v.s.settled(views)
	if seen.sources, err = v.session.Sources(ctx); err != nil {
		return nil, err
	}
	if seen.pauses, err = v.session.Pauses(ctx); err != nil {
		return nil, err
	}
	if seen.parked, err = v.session.CountParked(ctx); err != nil {
		return nil, err
	}
	if seen.members, err = v.members(ctx, seen.sources); err != nil {
		return nil, err
	}
	if seen.reloads, err = v.session.Reloads(ctx); err != nil {
		return nil, err
	}
	formers, err := v.session.Formers(ctx)
	if err == nil && len(formers) > 0 { // the next look finds those that are left
		err = v.session.ForgetFormers(ctx)
	}
	if err != nil {
		return nil, err
	}
	seen.formers = byTopic(formers)
	v.s.tellChanged(settled, seen.formers)
	if v.s.rules.AnyKeep() {
		if seen.retained, err = v.session.Retained(ctx); err != nil {
			return nil, err
		}
	}
	seen.at, seen.version = time.Now(), v.session.ServerVersion()
	return seen, nil
}

// locks asks who holds the locks that are waited for, where nothing of a table moves.
func (v *supervisor) locks(ctx context.Context) error {
	var locks []warehouse.Lock
	if v.s.unmoved(time.Now()) >= warehouse.LockPatience {
		var err error
		if err = v.session.EndStopped(ctx); err == nil {
			locks, err = v.session.Locks(ctx)
		}
		if err != nil {
			return err
		}
	}
	v.s.mu.Lock()
	before := v.s.locks
	v.s.locks = locks
	v.s.mu.Unlock()
	for _, l := range locks {
		if !slices.ContainsFunc(before, func(b warehouse.Lock) bool { return b.PID == l.PID && b.Table == l.Table }) {
			v.s.log.Warn("waits for a lock", "table", l.Table, "pid", l.PID, "application", l.Application, "user", l.User)
		}
	}
	return nil
}

// members gives the sinks of the group, asked now and then, where this is the sink that tells Prometheus of the group. Who looks at the page
// sees the outlook's.
func (v *supervisor) members(ctx context.Context, sources []warehouse.Source) ([]warehouse.Member, error) {
	if !v.s.leads(sources) {
		return nil, nil
	}
	if time.Since(v.counted) < watchedFor {
		v.s.mu.Lock()
		defer v.s.mu.Unlock()
		return v.s.seen.members, nil
	}
	v.counted = time.Now()
	all, err := v.session.Group(ctx)
	return warehouse.Members(all), err
}

// pause holds the partitions that somebody paused, and lets those go on whose pause is over. What is being written is
// finished; nothing is written after it. The progress topics are read on: they say how far the source is.
func (v *supervisor) pause(ctx context.Context, held map[*consume.Partition]*hold) error {
	for _, view := range v.s.consumer.Views() {
		p := view.Partition
		paused, known := v.s.pausedTopic(view.Topic), held[p] != nil
		switch {
		case paused && (view.Held == nil || !known && errors.Is(view.Held, errPaused)):
			v.s.mu.Lock()
			v.s.held[p] = &hold{err: errPaused, since: time.Now(), paused: true}
			v.s.mu.Unlock()
			v.s.consumer.Hold(p, errPaused)
			v.s.log.Info("table is paused", "topic", p.Topic, "partition", p.Number)
		case !paused && errors.Is(view.Held, errPaused):
			// Its checkpoint may have been moved meanwhile.
			if err := v.reclaim(ctx, p); err != nil {
				return err
			}
			v.s.log.Info("pause is over", "topic", p.Topic, "partition", p.Number)
		case !paused && errors.Is(view.Held, errUnknownTopic):
			if err := v.reclaim(ctx, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// unowned asks which of the partitions that this sink has it owns no more.
func (v *supervisor) unowned(ctx context.Context) (map[warehouse.Place]bool, error) {
	var ours []warehouse.Place
	for _, view := range v.s.consumer.Views() {
		ours = append(ours, warehouse.Place{Topic: view.Topic, Partition: view.Number})
	}
	return v.session.Unowned(ctx, ours)
}

// moved holds the partitions whose checkpoints were moved from outside, for them to be claimed again.
func (v *supervisor) moved(unowned map[warehouse.Place]bool) {
	for _, view := range v.s.consumer.Views() {
		p := view.Partition
		if !unowned[warehouse.Place{Topic: p.Topic, Partition: p.Number}] {
			continue
		}
		if view.Held == nil || errors.Is(view.Held, errBarrier) { // the others wait there for one that is owned
			v.s.holdMoved(p)
		}
	}
}

// back looks whether the warehouse still has what it confirmed, once after each new connection. One that somebody has taken is
// looked at later, as what was confirmed of it last may not be noted yet.
func (v *supervisor) back(ctx context.Context) error {
	views := v.s.consumer.Views() // before the checkpoints are read: these only go on
	if n := v.session.Connections(); n != v.opened {
		v.opened, v.unsure = n, map[*consume.Partition]bool{}
		for i := range views {
			v.unsure[views[i].Partition] = true
		}
	}
	if len(v.unsure) == 0 {
		return nil
	}
	var confirmed []warehouse.Advance
	var parts []*consume.Partition
	left := map[*consume.Partition]bool{}
	for _, view := range views {
		switch {
		case !v.unsure[view.Partition]:
		case errors.Is(view.Held, errBarrier): // that it has come there may be forgotten
			v.s.holdMoved(view.Partition)
		case view.Held != nil: // it is claimed again before it goes on
		case view.Busy:
			left[view.Partition] = true
		default:
			confirmed = append(confirmed, warehouse.Advance{Topic: view.Topic, Partition: view.Number, Epoch: view.Epoch, Next: view.Next})
			parts = append(parts, view.Partition)
		}
	}
	back, err := v.session.WentBack(ctx, confirmed)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if back[warehouse.Place{Topic: p.Topic, Partition: p.Number}] {
			v.s.wentBack(p)
		}
	}
	v.unsure = left
	return nil
}

// pausedTopic says whether somebody has paused what a topic is of, or removed its source.
func (s *Sink) pausedTopic(topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pausedIn(s.seen.pauses, topic)
}

// pausedIn says so by a list of pauses.
func (s *Sink) pausedIn(pauses []warehouse.Pause, topic string) bool {
	return pauseIn(s.rules, pauses, topic) != nil
}

// pauseIn gives the pause of a list by which nothing of a topic is read, nil for none.
func pauseIn(rules *rule.Set, pauses []warehouse.Pause, topic string) *warehouse.Pause {
	covering := func(is func(p *warehouse.Pause) bool) *warehouse.Pause {
		for i := range pauses {
			if is(&pauses[i]) {
				return &pauses[i]
			}
		}
		return nil
	}
	if source, ok := record.ParseProgressTopic(topic); ok {
		return covering(func(p *warehouse.Pause) bool {
			return p.Removed && p.Source == source || rules.Whole(source) && p.Covers(source, "") // its tables can only be paused together
		})
	}
	source, schema, table, ok := record.ParseTopic(topic)
	return covering(func(p *warehouse.Pause) bool { return ok && p.Covers(source, schema+"."+table) })
}

// removed says whether somebody has removed a source from the warehouse.
func (s *Sink) removed(source string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return warehouse.Removed(s.seen.pauses, source)
}

// reclaim takes a held partition over again: its checkpoint may have been moved by a person meanwhile.
func (v *supervisor) reclaim(ctx context.Context, p *consume.Partition) error {
	if !v.s.consumer.Settled(p) {
		return nil // given up, or at the next look: what is under way for it would be fenced by this
	}
	requests := []consume.Request{v.s.consumer.Request(p)}
	if requests[0].TopicID == "" {
		return nil // see errUnknownTopic
	}
	starts, err := v.s.takeOver(ctx, requests, nil)
	if err != nil {
		return err
	}
	switch err := v.s.consumer.CheckTerms(ctx, requests, starts); {
	case err == nil || starts[0].Err != nil:
	case retry.Waits(err): // as its leader is gone: it stays held, and all else is looked at
		v.s.log.Debug("a held partition is tried again later", "topic", p.Topic, "partition", p.Number, service.Err(err))
		return nil
	default:
		starts[0].Err = err
	}
	v.released(p)
	if starts[0].Err != nil {
		v.s.fault(p, starts[0].Err)
		return nil
	}
	v.s.log.Info("trying a held partition again", "topic", p.Topic, "partition", p.Number, "offset", starts[0].Next)
	v.s.consumer.Release(p, func(p *consume.Partition) { // not paused: see look
		// It may begin before a TRUNCATE that it has passed, as the others do: then each of them waits there anew.
		p.Start, p.Pass = starts[0], change.Position{}
	})
	return nil
}
