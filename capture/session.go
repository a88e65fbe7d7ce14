package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/pgoutput"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// session is one life of the pipeline, from a fenced producer and a started stream to the first error. Everything
// below is touched by the goroutine of run alone; readers of chunks and the watcher of the catalog talk to it
// through channels.
type session struct {
	config   *Config
	log      *slog.Logger
	meter    *meter
	stage    *service.Stage
	others   others
	stream   *replication.Stream
	catalog  *catalog.Catalog // of this goroutine
	pub      *publish.Publisher
	registry *registry.Client
	patterns catalog.Patterns

	system replication.System
	era    uint16
	tables map[schema.OID]*table
	decode pgoutput.Decoder

	// Where the stream stands.
	tx         change.Transaction
	inTx       bool
	ordinal    uint64     // of the row message in tx that came last
	done       uint64     // of the one up to which all are published
	lastCommit change.LSN // commit LSN of the newest whole transaction: the boundary of snapshot rows
	commitTime int64      // of lastCommit
	endLSN     change.LSN // end of the last whole transaction
	streamed   change.LSN // all that committed before here has been read from the stream
	maxXID     uint32
	recent     recent // transactions that were read lately

	snapshotSeq uint64 // Seq of the last snapshot row at lastCommit, 0 for none
	// resumed is the newest position in any partition at the start. Snapshot rows must come behind it: before the
	// stream is there again, they would be taken for what the partitions already hold.
	resumed change.Position
	// settled is up to where the server can have sent an older instance anything, where its fence is not that of all it
	// writes (publish.delivery: at-least-once). Snapshot rows must come behind that too, see boundary.
	settled change.LSN
	// reached is up to where the progress that the session began with says that everything is published; zero in a new era.
	reached change.Position
	chunks  chunks
	before  *record.Progress // what the session began with; nil in a new era, and once it is past it

	// What the last committed progress record says.
	progressEnd change.LSN
	progressAt  time.Time
	lastBytes   int64               // of its Kafka transaction
	askedAt     time.Time           // when Kafka was asked for nothing but an answer
	livelyAt    time.Time           // when something was published last, or the server asked
	changed     map[schema.OID]bool // tables whose progress has changed since
	altered     []*table            // those with an alteration to come
	related     schema.OID          // of the Relation message that came right before the row; 0: none did
	fences      []string            // reached since
	requests    []SnapshotRequest   // of the current transaction
	alarms      alarms
	leftOut     map[string]*catalog.Table       // by name, of which tellLeftOut has told
	unfit       []string                        // patterns likewise, that no table fits
	gone        map[schema.OID]record.GoneTable // tables of which rows may still come
	fewer       bool                            // the progress is of tables that are gone, or had another name, until a full record is written
	passage     passage
	refused     publish.Refusals
	oldest      int64 // commit time of the first change since the last Kafka commit, microseconds; 0 for none
	newest      int64 // commit time that the last committed progress record says
	facts       facts // newest from the watcher
	passed      passed
	watched     <-chan facts

	leaving        bool   // what is committed is the last word of a life that ends in order
	streamEnded    bool   // by itself, with an error
	joined         uint32 // transactions up to this id may have written to tables before this session published them
	instance, http string
	serverVersion  string
	publishStatus  func(*session)
	statusDue      bool                  // the status is older than what is worth telling at once
	paused         func() *catalog.Pause // nil: it is not
	tooSlow        func() bool           // the walsender has fallen behind
}

// table is a captured table.
type table struct {
	catalog  *catalog.Table // nil: it is none that is captured, or was dropped before or since; the stream may have rows of it still
	lost     bool           // the catalog had it while this session ran; since where it has not, session.gone says
	pub      *publish.Table // nil until the first row needs it
	message  []byte         // the Relation message that pub was made of, nil if it was made of the catalog
	pending  []byte         // a newer Relation message, resolved when the first row needs it
	schema   string         // what the table's schema is called now, where pending is no newer message; "" where it is
	progress record.TableProgress
	seen     *schema.Relation          // the version that the stream was at last; pub may be ahead of it, see alter.go
	ahead    bool                      // seen is the catalog's, of which it is not sure that the stream is there
	seenAt   change.LSN                // commit LSN of the row that told of it; 0 where none has
	lacked   change.LSN                // commit LSN of the transaction of which a row came without its old values last
	missed   bool                      // it has left the captured names, and rows of it were left out
	later    *table                    // that has by now the name under which t is published, see alter.go; nil where none is known
	altered  *alteration               // what the watcher has found changed, until the stream is there
	told     []uint32                  // the partitions that it has as a row told: what the watcher tells next may be older
	asked    map[schema.OID]change.LSN // up to where the catalog has said of partitions what they are
	snapshot *tableSnapshot            // nil when there is nothing to be read
	read     *TableSnapshot            // the read that has ended last; nil where none has

	counters  *counters
	txOrdinal uint64     // events of the table in the current transaction
	txAt      change.LSN // commit LSN of the transaction that txOrdinal counts in
}

// relation gives the version of a captured table that is published, or, of one that is held, the catalog's: by its name there it is asked for. nil
// for a table that is not captured.
func (t *table) relation() *schema.Relation {
	switch {
	case t.catalog == nil:
		return nil
	case t.progress.Held != nil:
		return &t.catalog.Relation
	case t.pub != nil:
		return t.pub.Relation
	}
	return nil
}

// name gives the name of a captured table.
func (t *table) name() string { return t.relation().QualifiedName() }

const (
	// progressInterval: a source that does nothing still says so, and the slot gets on.
	progressInterval = 5 * time.Second
	idleAdvance      = time.Second
	lookEvery        = 100 * time.Millisecond
	// askInterval: whoever has nothing to write learns in between, too, that Kafka hangs.
	askInterval = progressInterval / 2
	// lively is for how long after a change a source gets on every idleAdvance, by what other databases of its server write: so long
	// that whoever has written, and waits for the server's position, waits for a second. Each time is a Kafka transaction, and a server
	// may have hundreds of databases in which something happens now and then.
	lively = 2 * idleAdvance
	// A Kafka transaction that has held bulkBytes makes one that begins right behind it gather for bulkLinger. At the pace of
	// small transactions so much is 10 MB/s.
	bulkBytes  = 64 << 10
	bulkLinger = 20 * time.Millisecond
	// longestOpen bounds a Kafka transaction within one huge source transaction.
	longestOpen = 10 * time.Second
)

// run reads the stream until ctx ends or something fails. A nil error says that ctx ended and everything read was
// published as far as whole transactions go.
func (s *session) run(ctx context.Context) error {
	defer s.stage.Idle() // who tries again, or stands by, waits: that is not to stand still
	if err := s.begunEra(ctx); err != nil {
		return err
	}
	if ended, err := s.rest(ctx); ended || err != nil { // what begins paused publishes nothing before it is resumed
		return err
	}
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		batch, streamErr := s.stream.Take()
		if s.passage.tracer != nil {
			open, _, _ := s.pub.Open()
			s.passage.take(batch, open)
		}
		for i := range batch.Items {
			if err := s.item(ctx, &batch.Items[i]); err != nil {
				return err
			}
			if ended, err := s.rest(ctx); ended || err != nil {
				return err
			}
		}
		if len(batch.Items) > 0 { // a stream that never pauses is not one that stands still, and its tables change too
			s.stage.Busy()
			select {
			case f := <-s.watched:
				if err := s.learn(ctx, f); err != nil {
					return err
				}
			default:
			}
			s.tellDue()
			continue
		}
		if ended, err := s.rest(ctx); ended || err != nil {
			return err
		}
		over, err := s.idle(ctx)
		if err != nil {
			return err
		}
		if streamErr != nil {
			s.streamEnded = true
			return streamTrouble(s.config.Source.slot(), streamErr)
		}
		if s.chunks.more && !s.inTx {
			continue
		}
		s.tellDue()
		s.stage.Idle()
		theirs := s.waitsFor(over != nil)
		if theirs != nil {
			theirs.Busy()
		}
		again.Reset(s.nothingFor())
		select {
		case <-ctx.Done():
			return s.leave(ctx)
		case <-s.stream.Ready():
		case r := <-s.chunks.results:
			s.chunks.arrived(r)
		case f := <-s.watched:
			if err := s.learn(ctx, f); err != nil {
				return err
			}
		case <-over:
		case <-again.C:
		}
		if theirs != nil {
			theirs.Idle()
		}
		s.stage.Busy()
	}
}

// begunEra writes the progress of an era that begins, before anything else of it. What is published without a transaction would be without
// progress otherwise:
//
//	session 1: begins era 1, publishes a change, ends before there is progress
//	session 2: begins era 2, as the topics hold something of era 1, and publishes the change again; it ends as well
//	session 3: finds era 2 in the topics and no progress at all, and takes that for lost
func (s *session) begunEra(ctx context.Context) error {
	if s.before != nil {
		return nil
	}
	return s.commit(ctx, true)
}

// tellDue publishes the status, where something has happened that is worth telling at once.
func (s *session) tellDue() {
	if s.statusDue {
		s.statusDue = false
		s.publishStatus(s)
	}
}

// waitsFor gives the stage whose turn it is where nothing is left to be done here: that which reads, while the source is known to have
// more; nil where nobody has anything to do. hidden says that Kafka has not ended the transaction before yet.
func (s *session) waitsFor(hidden bool) *service.Stage {
	switch {
	case hidden:
		return s.others.kafka
	case s.inTx || s.lags():
		return s.others.read
	}
	return nil
}

// lags says whether the source had more when it was looked at last than it has sent.
func (s *session) lags() bool { return s.facts.wal > s.streamed }

// nothingFor gives how long there is nothing to do unless something comes. Keepalives wake nobody: while something waits for where
// they say that the stream is, it is looked often. A source that does nothing is one of hundreds.
func (s *session) nothingFor() time.Duration {
	open, began, _ := s.pub.Open()
	left, gathers := s.gathers()
	switch {
	case s.inTx:
		return progressInterval
	case gathers:
		return max(left, time.Millisecond)
	case open && s.config.Publish.direct():
		return max(time.Until(began.Add(s.config.Publish.Linger)), min(lookEvery, s.config.Publish.Linger))
	case open, len(s.chunks.queue) > 0, len(s.altered) > 0, time.Since(s.livelyAt) < lively, s.stream.CatchingUp(), s.lags():
		return lookEvery
	}
	due, ask := s.progressAt.Add(progressInterval), s.progressAt.Add(askInterval)
	if s.askedAt.After(s.progressAt) {
		ask = s.askedAt.Add(askInterval)
	}
	return max(min(time.Until(due), time.Until(ask)), lookEvery)
}

// gathers says whether the Kafka transaction gathers changes though everything that has arrived is in it, and how long it still
// does.
func (s *session) gathers() (left time.Duration, yes bool) {
	open, began, bytes := s.pub.Open()
	if !open || s.config.Publish.direct() || bytes >= int64(s.config.Publish.Bytes) || !behindBulk(s.lastBytes, began.Sub(s.progressAt)) {
		return 0, false
	}
	return time.Until(began.Add(min(bulkLinger, s.config.Publish.Linger))), true
}

// behindBulk says whether a Kafka transaction that begins so long after one of so many bytes gathers changes: where much comes there is
// more within moments, and a broker works as long for a transaction as for a thousand rows.
func behindBulk(bytes int64, pause time.Duration) bool {
	return bytes >= bulkBytes && pause < bulkLinger
}

// leave commits what is whole, at the end of a life in order.
func (s *session) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	s.leaving = true
	return s.commit(ctx, true)
}

func (s *session) item(ctx context.Context, item *replication.Item) error {
	if item.Data == nil {
		// Sent on the same ordered stream after every commit before it; but between Begin and Commit the server
		// may speak of the position that it reads at, ahead of what it has sent of this transaction.
		if !s.inTx {
			s.streamed = max(s.streamed, item.WALEnd)
		}
		if item.Asked {
			s.livelyAt = time.Now() // a server that shuts down waits for us
		}
		return nil
	}
	kind, err := s.decode.Decode(item.Data)
	if err != nil {
		return &trouble.Error{
			Code: trouble.StreamBroken, Op: "decode", Subject: fmt.Sprintf("a message of the transaction that commits at %s", s.tx.CommitLSN), Cause: err,
			Means: "nothing after it is published; the source keeps its WAL",
			Hint:  trouble.Report("capture"),
		}
	}
	switch kind {
	case pgoutput.KindBegin:
		return s.begin()
	case pgoutput.KindCommit:
		return s.commitMessage(ctx)
	case pgoutput.KindOrigin:
		s.tx.Origin = string(s.decode.Origin.Name)
	case pgoutput.KindRelation:
		s.relation(item.Data)
	case pgoutput.KindInsert, pgoutput.KindUpdate, pgoutput.KindDelete:
		s.ordinal++
		if err := s.row(ctx, kind); err != nil {
			return err
		}
		s.done = s.ordinal
		return s.cutIfLarge(ctx)
	case pgoutput.KindTruncate:
		s.ordinal++
		if err := s.truncate(ctx); err != nil {
			return err
		}
		s.done = s.ordinal
	case pgoutput.KindLogical:
		return s.message()
	}
	return nil
}

func (s *session) begin() error {
	b := &s.decode.Begin
	if s.inTx {
		return errors.New("the stream begins a transaction within another")
	}
	s.inTx, s.ordinal, s.done = true, 0, 0
	s.tx = change.Transaction{XID: b.XID, CommitLSN: b.FinalLSN, CommitTime: b.CommitTime}
	s.recent.add(b.XID)
	return nil
}

func (s *session) commitMessage(ctx context.Context) error {
	c := &s.decode.Commit
	if !s.inTx || c.CommitLSN != s.tx.CommitLSN {
		return fmt.Errorf("the stream commits a transaction at %s, the one it began commits at %s", c.CommitLSN, s.tx.CommitLSN)
	}
	s.inTx = false
	// One that comes again leaves the boundary where it is: rows that have been put there since the session began would
	// be followed by others at the same positions.
	if c.CommitLSN > s.lastCommit {
		s.lastCommit, s.snapshotSeq, s.commitTime = c.CommitLSN, 0, c.CommitTime
		if s.resumed.CommitLSN == s.lastCommit && s.resumed.Snapshot() {
			s.snapshotSeq = s.resumed.Seq
		}
	}
	s.endLSN = max(s.endLSN, c.EndLSN)
	s.streamed = max(s.streamed, c.EndLSN)
	if s.maxXID == 0 || int32(s.tx.XID-s.maxXID) > 0 {
		s.maxXID = s.tx.XID
	}
	s.meter.transactions.Inc()
	s.pub.Send()
	if mutant(mutantConfirmOnReceipt) {
		s.stream.Confirm(s.endLSN)
	}
	if err := s.takeRequests(ctx); err != nil {
		return err
	}
	if err := s.boundary(ctx); err != nil {
		return err
	}
	if open, since, bytes := s.pub.Open(); open && (bytes >= int64(s.config.Publish.Bytes) || time.Since(since) >= s.config.Publish.Linger) {
		return s.commit(ctx, false)
	}
	return nil
}

// boundary is between two transactions of the source: where rows of snapshots are put.
func (s *session) boundary(ctx context.Context) error {
	if err := s.alterations(ctx); err != nil {
		return err
	}
	// What an older instance still writes without a transaction is above the rows' positions otherwise: readers would
	// take the rows for repeats.
	if s.lastCommit < s.resumed.CommitLSN || s.streamed < s.settled {
		return nil
	}
	return s.snapshots(ctx)
}

// published notes that a change or a heartbeat of the current transaction is in the open Kafka transaction, or will be in
// the next.
func (s *session) published() {
	if s.oldest == 0 {
		s.oldest = s.tx.CommitTime
	}
}

// cutIfLarge ends the Kafka transaction in the middle of a source transaction that is too large for one.
func (s *session) cutIfLarge(ctx context.Context) error {
	open, since, bytes := s.pub.Open()
	if !open || bytes < int64(s.config.Publish.Bytes) && (s.ordinal%1024 != 0 || time.Since(since) < longestOpen) {
		return nil
	}
	return s.commit(ctx, false)
}

// idle is called when everything that has arrived is dealt with. If what is published waits for the end of the Kafka
// transaction before, over is closed at that.
func (s *session) idle(ctx context.Context) (over <-chan struct{}, err error) {
	if s.inTx {
		return nil, nil
	}
	if err := s.boundary(ctx); err != nil {
		return nil, err
	}
	open, began, _ := s.pub.Open()
	since := time.Since(s.progressAt)
	left, _ := s.gathers()
	switch {
	case open && time.Since(began) >= s.config.Publish.Linger:
	case left > 0:
		return nil, nil
	case open && s.pub.Hidden():
		select {
		case <-s.pub.Over():
		default: // what comes until then goes with it
			return s.pub.Over(), nil
		}
	case s.streamed > s.progressEnd && since >= idleAdvance && time.Since(s.livelyAt) < lively:
	case len(s.fences) > 0:
	case s.oldest != 0 && !open: // a heartbeat: what it measures is how long a change would take
	case len(s.changed) > 0: // a table without rows has been read, or one is held: it is waited for
	case since >= progressInterval:
	case since >= askInterval && time.Since(s.askedAt) >= askInterval:
		return nil, s.ask(ctx)
	default:
		return nil, nil
	}
	return nil, s.commit(ctx, false)
}

// ask waits until Kafka answers.
func (s *session) ask(ctx context.Context) error {
	s.askedAt = time.Now()
	defer s.stage.Hand(s.others.kafka, waitKafka)()
	return s.pub.Ask(ctx)
}

// commit ends the Kafka transaction with a progress record and then confirms to the server what has become durable.
func (s *session) commit(ctx context.Context, last bool) error {
	pr := s.progressRecord(s.pub.FullDue() || last || s.fewer)
	// Some partitions hold more than the session began with, others do not. A record of anything in between would count
	// what is published now, and not what those hold already. What was published after the last progress is not much.
	if at := pr.Reached(); s.config.Publish.direct() && at.Compare(s.reached) > 0 && at.Compare(s.resumed) < 0 {
		return nil
	}
	open, began, bytes := s.pub.Open()
	if open {
		s.livelyAt = time.Now()
	} else {
		began = time.Now() // a progress record alone
	}
	s.passage.decoded()
	done := s.stage.Hand(s.others.kafka, waitKafka)
	err := s.pub.Commit(ctx, pr)
	done()
	if err != nil {
		return err
	}
	if s.passage.trace != nil {
		s.passage.end(nil, slog.String("tributary.source", s.config.Source.Name), slog.String("tributary.commit_lsn", change.LSN(pr.CommitLSN).String()),
			slog.Int64("tributary.bytes", bytes), slog.Int64("tributary.progress", int64(pr.N))) //nolint:gosec // it counts
	}
	s.progressEnd, s.progressAt, s.newest = change.LSN(pr.EndLSN), time.Now(), pr.CommitTime
	s.lastBytes = bytes
	clear(s.changed)
	s.fences = nil
	s.fewer = s.fewer && !pr.Full
	s.meter.commits.WithLabelValues(resultCommit).Inc()
	s.meter.duration.WithLabelValues().Observe(time.Since(began).Seconds())
	s.meter.size.WithLabelValues().Observe(float64(bytes))
	s.meter.bytes.Add(float64(bytes))
	s.stream.Confirm(min(s.progressEnd, s.streamed)) // not what only an earlier connection has shown
	if s.oldest != 0 {
		s.meter.latency.ObserveDuration(s.pub.Visible().Sub(time.UnixMicro(s.oldest)))
		s.oldest = 0
	}
	return nil
}

func (s *session) progressRecord(full bool) *record.Progress {
	pr := &record.Progress{
		SystemID: s.system.ID, Timeline: s.system.Timeline, Era: s.era, Slot: s.config.Source.slot(), Full: full,
		CommitLSN: record.LSN(s.lastCommit), EndLSN: record.LSN(max(s.streamed, s.progressEnd)), CommitTime: s.commitTime,
		MaxXID: s.maxXID, Fences: s.fences,
	}
	if s.inTx && s.tx.CommitLSN > s.lastCommit {
		// done, not ordinal: the row that came last may still wait for a snapshot. Rows of a snapshot that were put
		// at lastCommit meanwhile are below this transaction's position.
		pr.CommitLSN, pr.Inside, pr.EndLSN = record.LSN(s.tx.CommitLSN), s.done*2+1, record.LSN(s.endBefore())
		pr.CommitTime = s.tx.CommitTime
	} else if s.snapshotSeq > 0 {
		pr.SnapshotSeq = s.snapshotSeq + 1
	}
	// While the stream comes once more to where the session began, what is published stays what it was. A record that said
	// less would let the next session publish the difference again:
	//
	//	session 1: half of a transaction, progress "inside it, up to 19"
	//	session 2: progress "up to the transaction before it", then it ends
	//	session 3: the half again
	if s.before != nil && pr.Reached().Compare(s.before.Reached()) < 0 {
		b := s.before
		pr.CommitLSN, pr.Inside, pr.SnapshotSeq, pr.CommitTime = b.CommitLSN, b.Inside, b.SnapshotSeq, b.CommitTime
	} else {
		s.before = nil
	}
	pr.Health = s.health(0, pr.CommitTime) // as it is once the record is there: nothing that has been read waits any more
	if s.leaving {
		pr.Health.State = service.StateNotRunning
	}
	if full {
		pr.Gone = s.parted(change.LSN(pr.EndLSN))
	}
	for oid, t := range s.tables {
		if t.progress.OID != 0 && (full || s.changed[oid]) {
			pr.Tables = append(pr.Tables, t.progress)
		}
	}
	return pr
}

// endBefore gives what may be confirmed while a transaction is under way: not a byte of it.
func (s *session) endBefore() change.LSN { return max(s.endLSN, s.progressEnd) }
