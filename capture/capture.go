// Package capture is service 1: it reads a Postgres database's WAL and publishes every change of every row, and the
// rows that are already there, to one Kafka topic per table, each exactly once and in order. Read it along the way of
// a row:
//
//	catalog      what the source has, what may be published, how
//	replication  the stream of WAL messages
//	pgoutput     bytes into messages
//	snapshot     rows that are already there
//	publish      events into Kafka transactions, and where to go on after a restart
//
// This package wires them: Run keeps a session alive, and session is the one goroutine through which every event
// passes in order.
//
//	before the first event        start.go: the order of a start; gap.go: what refuses it; adopt.go: its tables; fence.go, standby.go: whose source it is
//	events                        session.go, rows.go, alter.go: from a message to what is published, and Kafka's commits
//	rows that are there already   chunks.go, visibility.go, request.go; of a table without key keyless.go
//	a table that cannot go on     held.go
//	beside the session            watch.go: the catalog; lost.go: the registry; budget.go: the WAL that is kept; pause.go
//	what it tells of itself       status.go, report.go, show.go, words.go, page.go, tablepage.go, metrics.go, vitals.go
//	verbs                         check.go, init.go, slot.go, tail.go, topics.go, verb.go
package capture

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/tracing"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Capture is the service for one source. Make it with New.
type Capture struct {
	config   Config
	options  Options
	log      *slog.Logger
	registry *registry.Client
	stages   service.Stages
	stage    *service.Stage // of the session's goroutine, while it does the work itself
	others   others
	meter    *meter
	budget   *budget
	pausing  pausing
	looks    chan look // at the source, the newest
	status   atomic.Pointer[Status]
	trouble  atomic.Pointer[trouble.Error] // of the last attempt; nil while a session runs
	troubled atomic.Int64                  // since when attempts end with it, microseconds since 1970
	lost     atomic.Pointer[trouble.Error] // that the registry has lost its schemas; nil where that is not known
	again    atomic.Pointer[again]         // the next attempt; nil while there has been none that failed
	oldest   atomic.Pointer[OpenTransaction]
	vitals   *vitals
	instance string
	shown    string      // the configuration, where it may be
	active   atomic.Bool // this instance is the one that publishes, or tries to
	halted   bool        // it has stopped, and has not streamed since: what it was stopped by may be there still
	wrote    uint64      // number of the newest progress record that a session of ours has seen or written
	bare     *uint16     // era of the newest in the topics where the last claim found no progress at all; nil: it has, or there was none
	last     lastTrouble
	behind   behind
	stream   atomic.Pointer[replication.Stream] // of the session that runs
	refused  publish.Refusals
	ready    func(missing ...string) // tells /readyz what is missing
	lacks    func(missing ...string) // what may be missing for a while, see service.Server
	letIn    bool                    // the source was connected to
	streamed bool                    // a session has been up
	stays    func(error)             // not nil: what no retry mends is told to it, and does not end Run
	tracer   *tracing.Tracer         // nil: no traces
}

// Options are what the command line says beyond the configuration.
type Options struct {
	// OnGap says what to do when changes are missing between what was published and what the source can still
	// send: GapStop (also "") or GapResnapshot.
	OnGap string
	// Standby waits while another instance streams, and takes over when it is gone. Without it a start fences any other
	// instance at once.
	Standby bool
	// HTTP is the address under which this instance answers, for its progress records.
	HTTP string
}

// What Options.OnGap can be.
const (
	GapStop       = "stop"
	GapResnapshot = "resnapshot"
)

// Names of what a stage may wait for.
const (
	waitSource   = "source"
	waitSlot     = "slot"
	waitOld      = "old transaction"
	waitKafka    = "kafka"
	waitRegistry = "registry"
	waitSnapshot = "snapshot"
	waitStandby  = "standby"
	waitRetry    = "retry"
	waitResume   = "resume"
)

// Names of the stages, in the order in which a change passes them. They take turns: while Kafka commits, nothing is encoded.
const (
	stageRead     = "read"
	stageEncode   = "decode and encode"
	stageRegistry = "registry"
	stageKafka    = "kafka"
)

// others are the stages that the session's goroutine leaves the work to. One is busy while it is waited for, as there is more to be done.
type others struct {
	read     *service.Stage // the source, which sends WAL
	registry *service.Stage
	kafka    *service.Stage
}

// New prepares a capture; it connects nowhere.
func New(config Config, options Options, log *slog.Logger) (*Capture, error) {
	client, err := registry.New(config.Registry)
	if err != nil {
		return nil, err
	}
	c := &Capture{
		config: config, shown: config.HTTP.Shown(config), options: options, registry: client, instance: service.Instance(), vitals: newVitals(),
		ready: func(...string) {}, lacks: func(...string) {}, refused: publish.Refusals{}, looks: make(chan look, 1),
	}
	c.log = c.vitals.events.Log(log.With("source", config.Source.Name))
	c.others.read = c.stages.Stage(stageRead, waitSource, waitSlot, waitOld, waitStandby)
	c.stage = c.stages.Stage(stageEncode, waitSource, waitKafka, waitRegistry, waitSnapshot, waitRetry, waitResume)
	c.others.registry = c.stages.Stage(stageRegistry, waitRegistry)
	c.others.kafka = c.stages.Stage(stageKafka, waitKafka)
	c.meter = newMeter(config.Source.Name, config.Metrics.PerTable)
	c.budget = newBudget(&c.config, c.log, c.meter)
	c.status.Store(&Status{Schema: statusSchema, Source: config.Source.Name, Instance: c.instance, State: service.StateStarting, Slot: config.Source.slot(), Tables: []TableStatus{}, Alarms: []TroubleStatus{}})
	return c, nil
}

// Run captures until ctx ends (nil) or something happens that no retry mends. It may be called once. A capture that stays ends by
// that only with ctx, or where it would be no use; see stop.
func (c *Capture) Run(ctx context.Context) error {
	group := service.NewGroup(ctx)
	group.Go("budget", func(ctx context.Context) error {
		c.watchBudget(ctx)
		return nil
	})
	group.Go("vitals", func(ctx context.Context) error {
		c.watchVitals(ctx)
		return nil
	})
	group.Go("sessions", func(ctx context.Context) error {
		defer group.Stop()
		return c.sessions(ctx)
	})
	return group.Wait()
}

// sessions keeps a session alive.
func (c *Capture) sessions(ctx context.Context) error {
	backoff := retry.Backoff{Min: 200 * time.Millisecond, Max: 10 * time.Second}
	began := time.Now()
	fenced := false
	var stopped error // by which it has stopped, as long as it has
	stops := 0        // attempts in a row that have ended so
	ended := func() error {
		c.log.Info("stopped")
		if c.isStopped() {
			return stopped
		}
		return nil
	}
	failed := 0 // attempts in a row
	for try := 1; ; try++ {
		err := c.session(ctx, fenced)
		if c.again.Load() == nil {
			failed = 0 // it has streamed
		}
		if errors.Is(err, errBehind) && ctx.Err() == nil {
			c.log.Info("the walsender has fallen behind: what has gathered is fetched by SQL")
			try = 0
			continue
		}
		if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
			return ended()
		}
		if err == nil {
			err = errors.New("the session ended by itself")
		}
		if fenced = trouble.CodeOf(err) == trouble.Fenced; fenced {
			err = c.whoFenced(ctx, err)
			fenced = trouble.CodeOf(err) == trouble.Fenced
		}
		if fenced {
			c.meter.fenced.Inc()
			c.active.Store(false)
		}
		if ctx.Err() != nil {
			return ended()
		}
		if c.options.Standby && fenced {
			c.log.Warn("another instance has taken over", service.Err(err))
			continue // and wait for it to go
		}
		err = c.unusable(c.config.Kafka.Grant(err, c.rights()))
		c.note(err)
		if refusal, refused := c.refusedOne(err); refused {
			c.refused.Add(refusal) // the next session holds that table
		}
		var wait time.Duration
		if c.stopsBy(err) {
			c.ready(string(trouble.CodeOf(err)))
			known := c.isStopped() && trouble.CodeOf(err) == trouble.CodeOf(stopped)
			c.active.Store(false)
			c.setStopped(true)
			c.halted = true
			if c.stays == nil || endsBy(err) {
				return err
			}
			if stops++; !known {
				stops = 1
				c.stop(ctx, err)
			}
			stopped, try, wait = err, 0, stoppedBackoff.Wait(stops)
		} else {
			c.lacks(string(trouble.CodeOf(err)))
			c.setStopped(false)
			if time.Since(began) > time.Minute {
				try = 1
			}
			wait = backoff.Wait(try)
			c.log.Warn("session ended, trying again", "wait", wait, "try", try, service.Err(err))
			c.meter.reconnect.WithLabelValues(peer(trouble.CodeOf(err))).Inc()
		}
		failed++
		c.again.Store(&again{failed, time.Now().Add(wait).UTC()})
		done := c.stage.Wait(waitRetry)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		done()
		began = time.Now()
	}
}

// refusedOne gives what the brokers have refused of one table, where the next session holds that.
func (c *Capture) refusedOne(err error) (refusal *publish.Refusal, is bool) {
	refusal, is = errors.AsType[*publish.Refusal](err)
	return refusal, is && c.config.Source.OnError == onErrorHold
}

// stopsBy says whether err is what no retry mends. Who has streamed and is not let in any more waits: a password or certificate is being
// replaced.
func (c *Capture) stopsBy(err error) bool {
	_, refused := c.refusedOne(err)
	return !refused && !moved(err) && !retry.Transient(err) && (!c.streamed || !retry.Waits(err))
}

// unusable has the trouble of a connection string that cannot be had or used be one of a login, where it was good before: it, or a file
// that it names, is being replaced. A configuration that is wrong ends a capture, and what starts services does not start it again.
func (c *Capture) unusable(err error) error {
	t, ok := errors.AsType[*trouble.Error](err)
	if !ok || !c.letIn || t.Subject != dsnKey && !errors.Is(err, postgres.ErrConnString) {
		return err
	}
	return &trouble.Error{
		Code: trouble.SourceRights, Op: t.Op, Subject: t.Subject, Cause: t.Cause,
		Means: "nothing is lost: the source keeps the WAL that is still to be published",
		Hint:  "see to source.dsn, and to the files that it names (sslcert, sslkey, sslrootcert): they are read again for each connection, without a restart",
	}
}

// moved says whether a table was dropped, or got another name, between the look at the catalog and the statement that publishes it: the next
// look has it as it is.
func moved(err error) bool {
	return trouble.CodeOf(err) == trouble.Publication && slices.Contains([]string{"42P01", "3F000"}, postgres.SQLState(err)) // no such table, schema
}

// again is the next of several attempts.
type again struct {
	tries int // that have failed
	next  time.Time
}

// stoppedBackoff is between looks whether somebody has mended what capture has stopped by: at first as soon as something that starts
// services would start it anew.
var stoppedBackoff = retry.Backoff{Min: 5 * time.Second, Max: time.Minute}

// endsBy says whether a capture ends by err also where it would stay to say so. A configuration is read at a start alone; where another
// instance publishes there is nothing to say; and after a panic nothing that is in memory can be trusted.
func endsBy(err error) bool {
	code := trouble.CodeOf(err)
	return code == trouble.Config || code == trouble.Fenced || service.Panicked(err)
}

// stop tells why capture has stopped. From here on it looks now and then whether that is mended, and must not take the source over from
// an instance that somebody has started meanwhile: so it learns what there is.
func (c *Capture) stop(ctx context.Context, err error) {
	var means, hint string
	if t, ok := errors.AsType[*trouble.Error](err); ok {
		means, hint = t.Means, t.Hint
	}
	c.log.Error("stopped: its page and metrics stay, and it looks now and then whether that is mended", service.Err(err), "means", means, "hint", hint)
	c.stays(err)
	if c.wrote > 0 || c.bare != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if pr, err := publish.ReadProgress(ctx, c.config.Kafka, c.config.Source.Name, c.log); err == nil && pr != nil {
		c.wrote = pr.N
	}
}

// rights are what the source's capture needs at the brokers.
func (c *Capture) rights() []kafka.Right {
	name := c.config.Source.Name
	return []kafka.Right{
		{Resource: kafka.OnTopics, Name: name + ".", Prefixed: true, Operations: []string{"Create", "Describe", "Read", "Write"}},
		{Resource: kafka.OnTransactionalID, Name: publish.TransactionalID(name), Operations: []string{"Describe", "Write"}},
	}
}

// note keeps err for the status.
func (c *Capture) note(err error) {
	var t *trouble.Error
	if !errors.As(err, &t) {
		t = &trouble.Error{Code: trouble.Internal, Op: "capture", Subject: c.config.Source.Name, Cause: err}
	}
	c.meter.trouble(t.Code)
	if before := c.trouble.Load(); before == nil || before.Code != t.Code {
		c.troubled.Store(time.Now().UnixMicro())
	}
	c.trouble.Store(t)
}

// isStopped says whether what capture has stopped by is not known to be over.
func (c *Capture) isStopped() bool { return c.status.Load().State == service.StateStopped }

// setStopped changes that. While a session runs, the status is its own.
func (c *Capture) setStopped(is bool) {
	if is == c.isStopped() {
		return
	}
	st := *c.status.Load()
	if st.State = service.StateStarting; is {
		st.State = service.StateStopped
	}
	c.status.Store(&st)
}
