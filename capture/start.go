package capture

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// session starts and runs one session. The order of the start is part of the protocol: fence the older instance
// before its progress is read, make the publications before the slot, compare the slot with the progress before
// anything is streamed. fenced says that another instance has ended the session before.
func (c *Capture) session(ctx context.Context, fenced bool) (err error) {
	dsn, err := c.dsn()
	if err != nil {
		return err
	}
	cat, err := catalog.Open(ctx, dsn, "tributary capture "+c.instance)
	if err != nil {
		return err
	}
	defer cat.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	c.letIn = true
	server, err := cat.Server(ctx)
	if err != nil {
		return err
	}
	if why := server.Unconvertible(); why != "" && !c.streamed {
		c.log.Warn("a row with a text that is not UTF-8 will stop capture, or hold its table", "reason", why)
	}
	if err := c.mayBegin(ctx, cat, server, fenced); err != nil {
		return err
	}
	pub, err := c.openPublisher(ctx)
	if err != nil {
		return err
	}
	defer pub.Close()
	claimed := false
	defer func() {
		if claimed {
			c.lastWord(ctx, pub, err)
			c.wrote = pub.N()
		}
	}()
	defer func() {
		if open, _, _ := pub.Open(); open {
			c.meter.commits.WithLabelValues(resultAbort).Inc()
		}
	}()
	why := service.NewGroup(ctx)
	why.Go("why Kafka is waited for", func(ctx context.Context) error { c.askWhy(ctx, pub); return nil })
	defer func() {
		why.Stop()
		err = cmp.Or(err, why.Wait())
	}()
	state, err := c.claim(ctx, pub)
	if err != nil {
		return err
	}
	claimed = true
	conn, system, err := c.replicate(ctx, "capture")
	if err != nil {
		return err
	}
	s := c.newSession(cat, pub, server, system, state)
	defer func() {
		if s.stream == nil { // which closes it
			_ = conn.Close(ctx)
		}
	}()
	s.facts.at = time.Now()
	seen, err := c.look(ctx, cat) // before anything is published: is it paused, and how far behind?
	if err != nil {
		return err
	}
	s.facts.slot, s.facts.wal = seen.Slot, seen.WAL
	s.passed.see(s.facts.at, s.facts.wal)
	tables, err := cat.Tables(ctx, s.patterns)
	if err != nil {
		return err
	}
	if _, err := cat.LeaveOut(ctx, c.config.Source.publications(), tables); err != nil {
		return err
	}
	asOf, err := cat.WALPosition(ctx)
	if err != nil {
		return err
	}
	if s.stream, err = c.openStream(ctx, s, conn, cat, server, state, tables); err != nil {
		return err
	}
	c.stream.Store(s.stream)
	defer func() {
		c.stream.Store(nil)
		if closeErr := s.stream.Close(); err == nil && closeErr != nil && ctx.Err() == nil {
			err = closeErr
		}
	}()
	if c.config.Publish.direct() {
		// The slot is ours: nobody else is sent anything from here on.
		if s.settled, err = cat.WALPosition(ctx); err != nil {
			return err
		}
	}
	// What the registry said to an attempt that failed counts only once it is known to have its schemas; and where Kafka has nothing, not
	// even what was published a moment ago, the registry may be as empty: its schemas are often in a topic of that Kafka.
	if !c.streamed || state.Progress == nil {
		c.registry.Forget()
	}
	if err := s.takeUp(ctx, state.Progress, tables, asOf); err != nil {
		return err
	}
	err = c.runSession(ctx, s, dsn, tables)
	s.passage.end(err)
	if s.streamEnded && s.stream.CatchingUp() {
		c.behind.fails()
	}
	return err
}

// mayBegin says why a session must not begin: the server, another instance, or what capture has stopped by. On standby it returns when the
// source is nobody's.
func (c *Capture) mayBegin(ctx context.Context, cat *catalog.Catalog, server *catalog.Server, fenced bool) error {
	if err := usable(server); err != nil {
		return err
	}
	if err := c.notTakenOver(ctx); err != nil {
		return err
	}
	if c.halted { // also where a look could not be had, and it says that it waits
		if err := c.stillStopped(ctx, cat, server); err != nil {
			return err
		}
	}
	if c.options.Standby {
		return c.standBy(ctx, cat, fenced)
	}
	return nil
}

// openPublisher fences whoever published before, and says meanwhile for what Kafka makes it wait.
func (c *Capture) openPublisher(ctx context.Context) (*publish.Publisher, error) {
	covers, salt, err := c.config.covers()
	if err != nil {
		return nil, err
	}
	var awaited *trouble.Error
	waits := func(t *trouble.Error) {
		if t == nil {
			c.trouble.CompareAndSwap(awaited, nil)
			return
		}
		awaited = t
		c.note(t)
		c.setStopped(false)
	}
	defer c.others.kafka.Wait(waitKafka)()
	return publish.Open(ctx, publish.Options{
		Source: c.config.Source.Name, Kafka: c.config.Kafka, Topics: c.config.Topics, Registry: c.registry, Log: c.log,
		TransactionTimeout: c.config.Publish.TransactionTimeout, Refused: c.refused, Covers: covers, Salt: salt,
		Direct: c.config.Publish.direct(), Waits: waits,
	})
}

// newSession makes a session that stands nowhere yet.
func (c *Capture) newSession(cat *catalog.Catalog, pub *publish.Publisher, server *catalog.Server, system replication.System, state *publish.State) *session {
	s := &session{
		config: &c.config, log: c.log, meter: c.meter, stage: c.stage, others: c.others, catalog: cat, pub: pub, registry: c.registry, system: system,
		tables: map[schema.OID]*table{}, changed: map[schema.OID]bool{}, gone: map[schema.OID]record.GoneTable{}, publishStatus: c.publishStatus, paused: c.pausing.holds,
		instance: c.instance, http: c.options.HTTP, refused: c.refused, serverVersion: server.Version, passage: passage{tracer: c.tracer},
		livelyAt: time.Now(), passed: passed{until: publishedUntil(state.Progress)},
	}
	s.tooSlow = func() bool { return !server.InRecovery && c.behind.tooSlow(s.stream) }
	if c.tracer != nil {
		pub.SetTrace(s.passage.begin)
	}
	s.patterns, _ = catalog.ParsePatterns(c.config.Source.Tables) // the configuration's check has parsed them
	pub.SetSource(record.Source{
		Name: c.config.Source.Name, Database: system.Database, Version: service.ThisBuild().Version, SystemID: system.ID, Timeline: system.Timeline,
	})
	return s
}

// replicate opens a connection for replication, under a name that says what for, and asks which server that is.
func (c *Capture) replicate(ctx context.Context, as string) (*replication.Conn, replication.System, error) {
	dsn, err := c.dsn()
	if err != nil {
		return nil, replication.System{}, err
	}
	conn, err := replication.Open(ctx, dsn, "tributary "+as+" "+c.instance, c.notice)
	if err != nil {
		return nil, replication.System{}, catalog.Unreachable("connect for replication to", postgres.Redact(dsn), err)
	}
	system, err := conn.Identify(ctx)
	if err != nil {
		_ = conn.Close(ctx)
		return nil, replication.System{}, catalog.Unreachable("identify", "source", err)
	}
	return conn, system, nil
}

// notice logs what the server says inside the stream.
func (c *Capture) notice(n postgres.Notice) {
	c.log.Warn("the source says", "severity", n.Severity, "sqlstate", n.SQLState, "message", n.Message)
}

// runSession runs the session with its readers and its watcher; the first to fail ends the others.
func (c *Capture) runSession(ctx context.Context, s *session, dsn string, tables []*catalog.Table) error {
	workers := c.config.Snapshot.Workers
	s.chunks.tasks, s.chunks.results, s.chunks.idle = make(chan task, workers), make(chan readResult, workers), workers
	watched := make(chan facts, 1)
	s.watched = watched
	c.trouble.Store(nil)
	c.again.Store(nil)
	c.last = lastTrouble{}
	c.active.Store(true)
	c.publishStatus(s) // before the goroutine that owns s runs
	c.ready()
	c.streamed, c.halted = true, false
	captured := captured(tables)
	c.log.Info("streaming", "slot", c.config.Source.slot(), "lsn", s.stream.Confirmed().String(), "tables", len(captured), "to_read", len(s.chunks.queue))
	group := service.NewGroup(ctx)
	for i := range workers {
		group.Go("snapshot reader", func(ctx context.Context) error {
			return reader(ctx, dsn, fmt.Sprintf("tributary snapshot %d %s", i, c.instance), s.chunks.tasks, s.chunks.results, c.meter.chunkTook.WithLabelValues())
		})
	}
	w := &watcher{config: &c.config, log: c.log, patterns: s.patterns, looks: c.looks, instead: c.lookInstead, out: watched, known: fingerprint(tables), captured: captured}
	group.Go("registry watcher", func(ctx context.Context) error { c.watchRegistry(ctx); return nil })
	group.Go("catalog watcher", func(ctx context.Context) error { return w.run(ctx, dsn, "tributary watcher "+c.instance) })
	group.Go("stream", func(ctx context.Context) error {
		err := s.run(ctx)
		if err == nil {
			group.Stop()
		}
		return err
	})
	return group.Wait()
}

// askWhy asks, while Kafka is waited for, for a reason that the client tells to the log at most, as it tries again for ever: that the
// brokers refuse the login, that nobody gives the token for it, or that a topic has too few replicas. The status says so until they are
// not waited for any more.
func (c *Capture) askWhy(ctx context.Context, pub *publish.Publisher) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var told *trouble.Error
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		waits := slices.ContainsFunc(c.stages.Snapshot(), func(st service.StageState) bool {
			return st.WaitingOn == waitKafka && time.Since(st.Since) >= service.WaitingAfter
		})
		switch {
		case !waits:
			pub.Hush()
			if told != nil {
				c.trouble.CompareAndSwap(told, nil)
				told = nil
			}
		case told == nil:
			ctx, cancel := context.WithTimeout(ctx, service.WaitingAfter)
			err := pub.Why(ctx)
			cancel()
			switch trouble.CodeOf(err) {
			case trouble.KafkaAuth, trouble.KafkaNotEnoughReplicas, trouble.IdentityUnreachable:
				c.log.Warn("waiting, and trying again", "for", waitKafka, service.Err(err))
				c.note(err)
				told = c.trouble.Load()
			}
		}
	}
}

// openStream makes publications and slot, compares what there is with what was published, and starts to stream. A slot that somebody else
// has is waited for, never fought over, and not longer than nobody else has claimed the source. Then it is looked at again, as it may have
// been moved, dropped, or made meanwhile.
func (c *Capture) openStream(ctx context.Context, s *session, conn *replication.Conn, cat *catalog.Catalog, server *catalog.Server, state *publish.State, tables []*catalog.Table) (*replication.Stream, error) {
	name := c.config.Source.slot()
	known := map[schema.OID]bool{}
	if state.Progress != nil {
		for _, t := range state.Progress.Tables {
			known[schema.OID(t.OID)] = true
		}
	}
	late, err := cat.Ensure(ctx, c.config.Source.publications(), tables, known)
	if err != nil {
		return nil, err
	}
	if late != nil {
		c.log.Warn(notChangedYet, service.Err(late))
	}
	history, err := historyOf(ctx, conn, s.system, state.Progress)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(slotPatience); ; {
		slot, err := cat.Slot(ctx, name)
		if err != nil {
			return nil, err
		}
		gap := findGap(state, slot, s.system, history, name)
		if gap != nil {
			if err := c.mayJump(ctx, s, state, slot, gap); err != nil {
				return nil, err
			}
		}
		if slot != nil && slot.Making {
			if err := c.awaitMade(ctx, cat, slot); err != nil {
				return nil, err
			}
			deadline = time.Now().Add(slotPatience)
			continue
		}
		stream, err := c.streamFrom(ctx, s, conn, cat, server, state, slot, gap)
		if err == nil {
			return stream, nil
		}
		if !isMoved(err) {
			return nil, err
		}
		if err := c.awaitFree(ctx, cat, name, deadline, err); err != nil {
			return nil, err
		}
	}
}

// mayJump says whether the gap may be left behind; nil: it may, and what Kafka has lost is settled for.
func (c *Capture) mayJump(ctx context.Context, s *session, state *publish.State, slot *catalog.Slot, gap *trouble.Error) error {
	// Only the owner of the source can judge, and it may be another one since:
	//
	//	a: claims the source, reads how far it is published, and is stopped
	//	b: claims the source, publishes, confirms
	//	a: wakes up and finds the slot ahead of what it has read
	if err := c.affirm(ctx, s.pub, state); err != nil {
		return err
	}
	if c.options.OnGap != GapResnapshot {
		return gap
	}
	if slot != nil && !ours(slot, s.system.Database) {
		return gap // whatever --on-gap says: it is somebody else's
	}
	s.pub.Forgo(state)
	return nil
}

// streamFrom starts to stream from slot, nil if there is none, or from a new one behind a gap. Where isMoved says so of the error, slot is not
// what it was, or somebody else has it.
func (c *Capture) streamFrom(
	ctx context.Context, s *session, conn *replication.Conn, cat *catalog.Catalog, server *catalog.Server, state *publish.State, slot *catalog.Slot, gap *trouble.Error,
) (*replication.Stream, error) {
	name, pubs := c.config.Source.slot(), c.config.Source.publications()
	if slot != nil && gap != nil { // the slot cannot be trusted, or is lost
		if slot.Active {
			return nil, errHeld // to drop it would wait, and say nothing
		}
		c.log.Warn("a gap: a new slot is made and everything is read again", service.Err(gap))
		if err := conn.DropSlot(ctx, name); err != nil {
			return nil, catalog.Unreachable("drop", fmt.Sprintf("slot %q", name), err)
		}
		slot = nil
	}
	var confirmed change.LSN
	if slot == nil {
		var err error
		if confirmed, err = c.createSlot(ctx, conn, cat, name); err != nil {
			return nil, err
		}
		c.log.Info("slot created", "slot", name, "lsn", confirmed.String())
	} else {
		confirmed = slot.ConfirmedFlushLSN
	}
	// A transaction that wrote to a table before it was published, just now or before a crash, is not in the stream with that: a read of
	// the table must not begin before it has ended. Nor is one in the stream that committed while the slot was made; a synchronous standby
	// that is late keeps it from being seen, and the making did not wait for it.
	var err error
	if s.joined, err = cat.NewestTransaction(ctx); err != nil {
		return nil, err
	}
	if err := s.standAt(state, confirmed, gap != nil); err != nil {
		return nil, err
	}
	if slot != nil && server.Major() >= 17 && !server.InRecovery && slot.Failover != c.config.Source.Failover {
		if slot.Active {
			return nil, errHeld // the server would wait, and say nothing
		}
		ctx, cancel := context.WithTimeout(ctx, slotPatience)
		err := conn.SetFailover(ctx, name, c.config.Source.Failover)
		cancel()
		if err != nil {
			return nil, catalog.Unreachable("start to stream from", fmt.Sprintf("slot %q", name), err)
		}
	}
	reading := replication.Reading{
		Slot: name, Publications: []string{pubs.Full, pubs.Insert}, Confirmed: confirmed, Log: c.log,
		Backlog: slot != nil && !server.InRecovery && c.catchesUp(slot),
	}
	if reading.Backlog {
		c.behind.begins()
	}
	stream, err := conn.Start(ctx, reading)
	if err != nil {
		return nil, catalog.Unreachable("start to stream from", fmt.Sprintf("slot %q", name), err)
	}
	return stream, nil
}

// standAt sets where the session stands before the stream's first message. The beginning of all WAL is no place: what is below it would be
// above everything that comes, which would be left out for a repeat.
func (s *session) standAt(state *publish.State, confirmed change.LSN, newEra bool) error {
	if confirmed == 0 {
		return fmt.Errorf("slot %q stands nowhere", s.config.Source.slot())
	}
	pr := state.Progress
	s.before, s.resumed, s.reached = nil, change.Position{}, change.Position{} // the slot may be another one than that of the try before
	s.streamed, s.endLSN, s.progressEnd = confirmed, confirmed, confirmed
	s.commitTime, s.newest, s.maxXID, s.snapshotSeq = 0, 0, 0, 0
	if pr == nil || newEra {
		// Behind what stands in the partitions, if anything does: the progress may be lost, and of another server. 1 where nothing does.
		s.era = state.Newest.Era + 1
		if pr != nil {
			s.era = max(s.era, pr.Era+1)
		}
		// A later commit may begin just where the slot's consistent point is; snapshot rows must be below it.
		s.lastCommit = confirmed - 1
		return nil
	}
	s.era, s.before, s.resumed, s.reached = pr.Era, pr, state.Newest, pr.Reached()
	s.commitTime, s.newest = pr.CommitTime, pr.CommitTime
	s.lastCommit, s.snapshotSeq = change.LSN(pr.CommitLSN), 0
	if pr.SnapshotSeq > 0 {
		s.snapshotSeq = pr.SnapshotSeq - 1
	}
	if s.resumed.CommitLSN == s.lastCommit && s.resumed.Snapshot() {
		s.snapshotSeq = max(s.snapshotSeq, s.resumed.Seq)
	}
	if pr.Inside != 0 {
		s.lastCommit-- // the transaction is still to come, and snapshot rows must stay below its events
		s.snapshotSeq = 0
	}
	s.endLSN, s.progressEnd = change.LSN(pr.EndLSN), change.LSN(pr.EndLSN)
	s.maxXID = pr.MaxXID
	// What was published before this session may still be invisible, and is not in the list of recent transactions.
	s.chunks.mustFinish(pr.MaxXID)
	return nil
}

// bySQL says whether changes are fetched by SQL at present.
func (c *Capture) bySQL() bool {
	stream := c.stream.Load()
	return stream != nil && stream.CatchingUp()
}
