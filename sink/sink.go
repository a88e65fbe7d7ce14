// Package sink is the service that keeps a warehouse equal to its sources: it reads the topics that captures write and
// applies them, exactly once, table by table. Read it in this order: consume fetches records and owns partitions; rule
// says what becomes of a table; batch folds records to the least that must be written; warehouse writes rows and
// checkpoint in one transaction. This package wires them together and owns every goroutine:
//
//	before all that                      start.go: rules that do not fit their tables are refused
//	find topics, fetch, commit offsets   package consume
//	one worker a lane                    worker.go, read.go: decode, fold, apply; a partition belongs to one lane
//	progress                             progress.go: applies the progress topics
//	sources written as a whole           whole.go: progress decides what becomes visible together
//	supervisor                           supervise.go, barrier.go: quarantine, TRUNCATE, lost partitions, what /status shows
//	outlook                              outlook.go: how far other sinks of the group are, while somebody looks
//	retention                            retention.go: removes rows that are too old
//	sweep                                sweep.go: removes what did not come again when a table was read anew
package sink

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
	"github.com/tributary-cdc/tributary/pkg/tracing"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// Sink is one member of a group. Make one with New, then Run it once.
type Sink struct {
	cfg       Config
	log       *slog.Logger
	instance  string
	shown     string // the configuration, where it may be
	rules     *rule.Set
	registry  *registry.Client
	warehouse *warehouse.Warehouse
	consumer  *consume.Consumer
	server    *service.Server
	stages    *service.Stages
	metrics   *metrics
	started   time.Time
	vitals    *vitals
	tracer    *tracing.Tracer // nil: no traces
	outlook   *outlook
	latest    *newest

	mu       sync.Mutex
	held     map[*consume.Partition]*hold
	tables   map[string]*tableStats // by topic
	waiting  map[waiter]*wait       // what is being retried
	seen     sighting               // of the newest look
	told     presences
	locks    []warehouse.Lock           // that the group waits for
	writers  map[int]*warehouse.Session // of each lane
	step     string                     // of the start, "" once running
	unlisted map[string]bool
	changed  map[string]*taken // by topic: see settled
}

// waiter tells what is tried again, and by which of several; nil where there is one.
type waiter struct {
	what string
	by   any
}

// wait is something that is tried again and again.
type wait struct {
	since time.Time
	tries int
	err   error
}

// New makes a sink. It reads files that the configuration names, and does no other I/O. cfg must have passed its
// checks, as config.Load sees to.
func New(cfg Config, log *slog.Logger) (*Sink, error) {
	rules, err := rule.New(cfg.Sources, cfg.Tables, cfg.Salt)
	if err != nil {
		return nil, &trouble.Error{Code: trouble.Config, Op: "read", Subject: "rules", Cause: err}
	}
	vitals := newVitals()
	log = vitals.events.Log(log)
	s := &Sink{
		vitals: vitals, cfg: cfg, shown: cfg.HTTP.Shown(cfg), log: log, instance: service.Instance(), rules: rules, stages: &service.Stages{}, step: stepConnecting, started: time.Now(),
		held: map[*consume.Partition]*hold{}, tables: map[string]*tableStats{}, waiting: map[waiter]*wait{}, unlisted: map[string]bool{}, writers: map[int]*warehouse.Session{},
		changed: map[string]*taken{},
	}
	if s.registry, err = registry.New(cfg.Registry); err != nil {
		return nil, err
	}
	s.warehouse = warehouse.New(warehouse.Config{DSN: cfg.Warehouse.DSN.Reveal, Group: cfg.Group, Instance: s.instance, Log: log, Altered: func() { s.metrics.schemas.WithLabelValues(schemaApplied).Inc() }})
	s.consumer, err = consume.New(consume.Config{
		Kafka: cfg.Kafka, Group: cfg.Group, Member: cfg.Member, Session: cfg.Session, Refresh: cfg.Refresh,
		Memory: int64(cfg.Batch.Memory), Age: cfg.Batch.Age, Log: log,
		Stage:    s.stages.Stage("fetch", waitMemory),
		Retrying: s.retrying, Route: s.route, Source: s.sourceRate, Ahead: func(lane int) bool { return lane >= s.progressLane() }, Claim: s.claimAssigned, Fault: s.fault,
	})
	if err != nil {
		return nil, &trouble.Error{Code: trouble.Config, Op: "read", Subject: "kafka", Cause: err}
	}
	s.outlook, s.latest = newOutlook(s.instance), newNewest(cfg.Kafka, log)
	s.server = service.NewServer("sink", cfg.HTTP, log, func(asked service.Asked) any { return s.StatusOf(asked) })
	s.server.Watch(s.stages, "fetch")
	s.metrics = newMetrics(s)
	s.server.Registry().MustRegister(s.metrics.all...)
	page.Handle(s.server, page.Config{View: s.view, Table: s.tableView, Tail: s.tail, History: s.vitals.history, Log: log})
	return s, nil
}

// rights are what the group needs at the brokers.
func (s *Sink) rights() []kafka.Right {
	reads := []string{"Describe", "Read"}
	rights := []kafka.Right{{Resource: kafka.OnGroup, Name: s.cfg.Group, Operations: reads}}
	if len(s.cfg.Sources) == 0 {
		return append(rights, kafka.Right{Resource: kafka.OnTopics, Name: "*", Operations: reads})
	}
	for _, source := range s.cfg.Sources {
		name, _, isPattern := strings.Cut(source.Name, "*")
		if before, _, more := strings.Cut(name, "?"); more {
			name, isPattern = before, true
		}
		if !isPattern {
			name += "."
		}
		if name == "" {
			name = "*"
		}
		rights = append(rights, kafka.Right{Resource: kafka.OnTopics, Name: name, Prefixed: name != "*", Operations: reads})
	}
	return rights
}

// What stages wait for.
const (
	waitMemory    = "room in memory"
	waitWarehouse = "the warehouse"
	waitRegistry  = "the registry"
	waitProgress  = "progress of the source"
	waitLock      = "a lock"
)

// Lanes are one for each connection, one for progress, and one for the progress of sources that are written as a whole.
func (s *Sink) progressLane() int { return s.cfg.Warehouse.Connections }

func (s *Sink) wholeLane() int { return s.cfg.Warehouse.Connections + 1 }

// writer makes the session by which a lane writes.
func (s *Sink) writer(lane int) *warehouse.Session {
	session := s.warehouse.Session()
	s.mu.Lock()
	s.writers[lane] = session
	s.mu.Unlock()
	return session
}

// route says which lane a partition belongs to: those with one number, of all topics that write one target, belong to one. So
// topics of one partition, however many, have one writer in each process, and those of several are written side by side.
func (s *Sink) route(topic string, number int32) (lane int, ok bool) {
	if source, ok := record.ParseProgressTopic(topic); ok {
		_, ok := s.rules.Source(source)
		ok = ok && !s.removed(source)
		if s.rules.Whole(source) {
			return s.wholeLane(), ok
		}
		return s.progressLane(), ok
	}
	r, ok := s.match(topic)
	if !ok || s.rules.Whole(r.Source) {
		return 0, false
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(r.Target.Schema + "\x00" + r.Target.Table))
	return int((h.Sum32() + uint32(number)) % uint32(s.cfg.Warehouse.Connections)), true
}

// match gives the rule for a topic of changes; none for those of a source that was removed.
func (s *Sink) match(topic string) (*rule.Route, bool) {
	r, ok := matchTopic(s.rules, topic)
	if !ok || s.removed(r.Source) {
		return nil, false
	}
	return r, true
}

func matchTopic(rules *rule.Set, topic string) (*rule.Route, bool) {
	source, schema, table, ok := record.ParseTopic(topic)
	if !ok {
		return nil, false
	}
	return rules.Match(source, schema, table)
}

// sourceRate gives the source of a topic, and how many of its records may be written a second; "" for progress topics.
func (s *Sink) sourceRate(topic string) (name string, rate int) {
	if _, ok := record.ParseProgressTopic(topic); ok {
		return "", 0
	}
	name = sourceOf(topic)
	return name, s.rules.Rate(name)
}

// consumed says whether this group writes what is in the topic.
func (s *Sink) consumed(topic string) bool {
	_, ok := s.match(topic)
	return ok
}

// Run works until ctx ends: then what is being written is finished, the group left, and nil returned.
func (s *Sink) Run(ctx context.Context) error {
	tracer, err := tracing.Open(ctx, "sink", s.instance, s.log)
	if err != nil {
		return err
	}
	if s.tracer = tracer; tracer != nil {
		s.consumer.NoteArrivals()
		defer tracer.Close(context.WithoutCancel(ctx))
	}
	if err := s.server.Listen(ctx); err != nil {
		return err
	}
	s.log.Info("sink starts", "group", s.cfg.Group, "instance", s.instance, "http", s.server.Addr())
	defer service.PaceHeap()()
	group := service.NewGroup(ctx)
	group.Go("http", s.server.Run)
	group.Go("vitals", s.watchVitals)
	group.Go("sink", func(ctx context.Context) error {
		defer group.Stop()
		return s.work(ctx)
	})
	err = s.cfg.Kafka.Grant(group.Wait(), s.rights())
	s.registry.Close()
	s.log.Info("sink ends", "group", s.cfg.Group, "instance", s.instance)
	return err
}

func (s *Sink) work(ctx context.Context) error {
	defer s.consumer.Close()
	patience := warehouse.LockPatience
	err := retry.Do(ctx, backoff, func(ctx context.Context) error { return s.warehouse.Migrate(ctx, patience) }, func(err error, _ int, _ time.Duration) {
		step := stepConnecting
		if trouble.CodeOf(err) == trouble.LockWait {
			step, patience = "creating its own tables waits for "+waitedLock(err), min(2*patience, mostPatience)
		}
		s.setStep(step)
		s.retrying("warehouse", err)
		s.notice()
	})
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	// Before the first topic is found: those of removed sources are not wanted.
	var known []string
	err = retry.Do(ctx, backoff, func(ctx context.Context) (err error) {
		session := s.warehouse.Session()
		defer session.Close(context.WithoutCancel(ctx))
		if _, err = s.readPauses(ctx, session); err == nil {
			known, err = session.Topics(ctx)
		}
		return err
	}, func(err error, _ int, _ time.Duration) { s.retrying("warehouse", err) })
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	s.retrying("warehouse", nil)
	s.setStep("comparing rules with tables")
	if err := s.refuseMisfits(ctx, known); err != nil {
		return err
	}
	s.setStep("joining the group")
	group := service.NewGroup(ctx)
	group.Go("consume", s.consumer.Run)
	for lane := range s.cfg.Warehouse.Connections {
		group.Go(fmt.Sprintf("worker %d", lane), newWorker(s, lane).run)
	}
	group.Go("progress", newFollower(s).run)
	if s.rules.AnyWhole() {
		group.Go("whole sources", newWhole(s).run)
	}
	group.Go("supervisor", newSupervisor(s).run)
	group.Go("outlook", s.lookOut)
	group.Go("sweep", newSweeper(s).run)
	if s.rules.AnyKeep() || s.rules.AnyPartition() {
		group.Go("retention", newRetainer(s).run)
	}
	return group.Wait()
}

// stepConnecting is the first step of the start.
const stepConnecting = "connecting to the warehouse"

// mostPatience is the longest wait for a lock on own tables: longer than a wait_for has them, so that those who wait one
// after the other do not keep a sink from starting.
const mostPatience = time.Minute

// backoff is between tries of anything that can only be waited for.
var backoff = retry.Backoff{Min: 100 * time.Millisecond, Max: 5 * time.Second}

func (s *Sink) setStep(step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.step = step
}

// Addr gives the address of the HTTP server once Run has begun; "" before.
func (s *Sink) Addr() string { return s.server.Addr() }

// Latency gives the median and the 99th percentile of the time from commit at the source to commit here, of the last
// five minutes. ok is false with too few observations.
func (s *Sink) Latency() (p50, p99 time.Duration, ok bool) { return s.metrics.latency.Quantiles() }

// retrying notes that something is tried again, or, with nil, that it went well. The first failure, one of another
// code, and else one a minute are logged.
func (s *Sink) retrying(what string, err error) { s.retryingBy(nil, what, err) }

// retryingBy is retrying by one of several: what goes well for another one does not mend it. On a full disk rows of one table
// cannot be written, while progress, or what finds room in the pages of another table, still is. When by gives up, it tells gaveUp.
func (s *Sink) retryingBy(by any, what string, err error) {
	s.mu.Lock()
	at := waiter{what, by}
	w := s.waiting[at]
	if err == nil {
		delete(s.waiting, at)
		s.mu.Unlock()
		if w != nil {
			s.log.Info("goes on", "after", what, "tries", w.tries, "waited", time.Since(w.since).Round(time.Millisecond))
		}
		return
	}
	if w == nil {
		w = &wait{since: time.Now()}
		s.waiting[at] = w
	}
	err = s.cfg.Kafka.Grant(err, s.rights())
	w.tries++
	tell := w.tries == 1 || w.tries%20 == 0 || trouble.CodeOf(err) != trouble.CodeOf(w.err)
	w.err = err
	tries := w.tries
	s.mu.Unlock()
	s.metrics.retries.WithLabelValues(what).Inc()
	s.metrics.trouble("", trouble.CodeOf(err))
	if tell {
		s.log.Warn("waiting, and trying again", "for", what, "tries", tries, service.Err(err))
	}
}

// gaveUp notes that by tries nothing again any more: what it had to do is somebody else's.
func (s *Sink) gaveUp(by any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.waiting, func(at waiter, _ *wait) bool { return at.by == by })
}

// gaveUpOn notes that of one thing.
func (s *Sink) gaveUpOn(by any, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, waiter{what, by})
}

// claimTables takes over partitions of tables in the warehouse, of which Kafka still has what was applied of them, for who owns the progress of their source.
func (s *Sink) claimTables(ctx context.Context, progress *consume.Partition, requests []consume.Request) ([]consume.Start, error) {
	starts, err := s.takeOver(ctx, requests, progress)
	if err == nil {
		err = s.consumer.CheckTerms(ctx, requests, starts)
	}
	if err != nil {
		return nil, err
	}
	return starts, nil
}

// claimAssigned takes over those that the group has given us. One of which Kafka does not tell, as its leader is gone, keeps no other from
// going on: of these the client asks itself, for each term, before it fetches anything behind it.
func (s *Sink) claimAssigned(ctx context.Context, requests []consume.Request) ([]consume.Start, error) {
	starts, err := s.takeOver(ctx, requests, nil)
	if err == nil {
		_ = s.consumer.CheckTerms(ctx, requests, starts)
	}
	return starts, err
}

// takeOver claims partitions. progress is that of their source where it is written as a whole, and they are its tables.
func (s *Sink) takeOver(ctx context.Context, requests []consume.Request, progress *consume.Partition) ([]consume.Start, error) {
	parts := make([]warehouse.Partition, len(requests))
	for i, r := range requests {
		parts[i] = warehouse.Partition{Topic: r.Topic, Number: r.Number, TopicID: r.TopicID}
	}
	claims, err := s.warehouse.Claim(ctx, parts)
	if err != nil {
		return nil, err
	}
	session := s.warehouse.Session()
	defer session.Close(context.WithoutCancel(ctx))
	pauses, err := s.readPauses(ctx, session) // after the claim: see warehouse.MarkRemoved
	if err != nil {
		return nil, err
	}
	if err := s.takeRules(ctx, session, claims, progress); err != nil {
		return nil, err
	}
	starts := make([]consume.Start, len(claims))
	for i, c := range claims {
		starts[i] = consume.Start{Epoch: c.Epoch, Next: c.Next, Term: consume.Term(c.Term), Position: c.Position, CommitTime: c.CommitTime, Attempt: c.Attempt, Skip: c.Skip, Err: c.Err}
		if c.Park != nil {
			starts[i].Park = c.Park
		}
		// By what was read here: a look that has read before the mark may have put its list in the place of this one since.
		if s.pausedIn(pauses, c.Topic) {
			starts[i].Hold = errPaused
		} else if requests[i].TopicID == "" { // also where nothing was applied yet: else the next claim that knows an id would take it for that of what was applied
			starts[i].Hold = errUnknownTopic
		}
	}
	return starts, nil
}

// readPauses learns what people have stopped.
func (s *Sink) readPauses(ctx context.Context, session *warehouse.Session) ([]warehouse.Pause, error) {
	pauses, err := session.Pauses(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.seen.pauses = pauses
	s.mu.Unlock()
	return pauses, nil
}

// Run makes a sink and runs it until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	s, err := New(cfg, service.Log(cfg.Log))
	if err != nil {
		return err
	}
	return s.Run(ctx)
}
