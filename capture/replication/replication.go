// Package replication is the connection over which Postgres sends its WAL: it starts a slot's stream, hands on the
// messages in order, keeps the server informed, and confirms what is durable. It decodes no message (package
// pgoutput does) and decides nothing.
//
// It follows "Streaming Replication Protocol" of the Postgres documentation.
package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema/change"
)

// Conn is a replication connection that streams nothing yet. It is not safe for concurrent use.
type Conn struct {
	pg               *pgconn.PgConn
	dsn, application string
}

// System is what the server answers to IDENTIFY_SYSTEM.
type System struct {
	ID       string
	Timeline uint32
	Database string
}

// Open connects for replication to the database of dsn. onNotice gets the server's notices and warnings, also
// those that arrive inside the stream.
func Open(ctx context.Context, dsn, application string, onNotice func(postgres.Notice)) (*Conn, error) {
	pg, err := postgres.ConnectReplication(ctx, dsn, application, onNotice)
	if err != nil {
		return nil, err
	}
	return &Conn{pg, dsn, application}, nil
}

// cancelPatience bounds how long the end of a connection waits until a command that was cancelled has ended on the server.
const cancelPatience = 5 * time.Second

// Close ends the connection. A command that was cancelled has ended on the server by then, if that answers: a slot that is being made would
// outlive a process that ends at once.
func (c *Conn) Close(ctx context.Context) error {
	err := c.pg.Close(ctx)
	select {
	case <-c.pg.CleanupDone():
	case <-time.After(cancelPatience):
	}
	return err
}

// Identify asks which cluster this is.
func (c *Conn) Identify(ctx context.Context) (System, error) {
	r, err := pglogrepl.IdentifySystem(ctx, c.pg)
	if err != nil {
		return System{}, fmt.Errorf("identify system: %w", err)
	}
	return System{ID: r.SystemID, Timeline: uint32(r.Timeline), Database: r.DBName}, nil
}

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// ValidSlotName says whether Postgres takes name for a slot. pglogrepl and the replication grammar quote nothing,
// so no other name ever reaches them.
func ValidSlotName(name string) bool { return slotName.MatchString(name) }

// CreateSlot makes a logical slot for pgoutput and gives its consistent point. With failover, which PostgreSQL 17 and
// later know, the server's standbys may keep a copy of it. It waits for all transactions that are running on the server;
// cancel ctx to give up. The publications must exist already: decoding looks them up as of the WAL that it reads.
func (c *Conn) CreateSlot(ctx context.Context, name string, failover bool) (change.LSN, error) {
	if !ValidSlotName(name) {
		return 0, fmt.Errorf("create slot %q: not a slot name", name)
	}
	// The command is our own: pglogrepl knows no FAILOVER.
	command := "CREATE_REPLICATION_SLOT " + name + " LOGICAL pgoutput NOEXPORT_SNAPSHOT"
	if failover {
		command = "CREATE_REPLICATION_SLOT " + name + " LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER true)"
	}
	r, err := pglogrepl.ParseCreateReplicationSlot(c.pg.Exec(ctx, command))
	if err != nil {
		return 0, fmt.Errorf("create slot %q: %w", name, err)
	}
	lsn, err := change.ParseLSN(r.ConsistentPoint)
	if err != nil {
		return 0, fmt.Errorf("create slot %q: %w", name, err)
	}
	return lsn, nil
}

// SetFailover sets whether standbys that synchronise slots keep a copy of the slot, on PostgreSQL 17 and later. The
// server waits while somebody streams from it; cancel ctx to give up.
func (c *Conn) SetFailover(ctx context.Context, name string, failover bool) error {
	if !ValidSlotName(name) {
		return fmt.Errorf("alter slot %q: not a slot name", name)
	}
	if _, err := c.pg.Exec(ctx, fmt.Sprintf("ALTER_REPLICATION_SLOT %s (FAILOVER %t)", name, failover)).ReadAll(); err != nil {
		return fmt.Errorf("alter slot %q: %w", name, err)
	}
	return nil
}

// History says where a server's timelines ended, the oldest first.
type History []Switch

// Switch is the end of a timeline: what is in its WAL from At on does not belong to the server's past.
type Switch struct {
	Timeline uint32
	At       change.LSN
}

// Left gives where the server's past leaves timeline; ok is false if it never was on it.
func (h History) Left(timeline uint32) (at change.LSN, ok bool) {
	for _, s := range h {
		if s.Timeline == timeline {
			return s.At, true
		}
	}
	return 0, false
}

// History asks how the server came to be on timeline, which must not be the first one: that has no history.
func (c *Conn) History(ctx context.Context, timeline uint32) (History, error) {
	r, err := pglogrepl.TimelineHistory(ctx, c.pg, int32(timeline)) //nolint:gosec // as the server counts them
	if err != nil {
		return nil, fmt.Errorf("ask the history of timeline %d: %w", timeline, err)
	}
	return parseHistory(r.Content)
}

// parseHistory reads a timeline history file: a timeline, the LSN at which it was left, and a reason a line.
func parseHistory(content []byte) (History, error) {
	var h History
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("read a timeline history: the line %q has no LSN", strings.TrimSpace(line))
		}
		timeline, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read a timeline history: %q is no timeline", fields[0])
		}
		at, err := change.ParseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("read a timeline history: %w", err)
		}
		h = append(h, Switch{uint32(timeline), at})
	}
	return h, nil
}

// DropSlot removes a slot; the SQLSTATE is 55006 while somebody streams from it.
func (c *Conn) DropSlot(ctx context.Context, name string) error {
	if !ValidSlotName(name) {
		return fmt.Errorf("drop slot %q: not a slot name", name)
	}
	if err := pglogrepl.DropReplicationSlot(ctx, c.pg, name, pglogrepl.DropReplicationSlotOptions{}); err != nil {
		return fmt.Errorf("drop slot %q: %w", name, err)
	}
	return nil
}

// Stream is a running stream. Take and Confirm may be called from different goroutines; Take from one only.
type Stream struct {
	pg      *pgconn.PgConn
	reading Reading
	backlog *backlog      // nil where the walsender streams from the start
	ready   chan struct{} // holds one token while pending is not empty or the stream has ended

	mu      sync.Mutex
	space   sync.Cond
	pending Batch
	spare   Batch
	err     error
	failed  error // why the receiver is to end
	closed  bool
	full    time.Time  // since when the receiver has waited for space; zero while it does not
	durable change.LSN // what is confirmed
	highest change.LSN // the greatest position that the server has shown on this connection

	walsender atomic.Bool // it streams, or has
	turn      sync.Mutex  // held by who uses pg until the walsender streams
	advanced  change.LSN  // where the slot stands until then, and since when
	since     time.Time

	told               change.LSN    // the newest status
	wake               chan struct{} // asks the status goroutine to report now
	moved              chan struct{} // tells it that there is something new to report
	stop               context.CancelFunc
	received, reported chan struct{} // closed when the goroutines have ended
}

// Bounds of the stream's memory and of its silence.
const (
	// maxPending bytes of messages are read ahead; then the socket fills and the walsender waits. One message may
	// be larger and is then alone.
	maxPending = 8 << 20
	// leastBatch bytes of a batch are kept for the next one, however small they are.
	leastBatch = 64 << 10
	// statusInterval is how often the server is told what is durable, where that gets on; it asks, too, long before it gives us up.
	statusInterval = time.Second
	quietInterval  = 10 * time.Second // where it does not
)

// Reading says what is streamed, and how.
type Reading struct {
	Slot         string
	Publications []string
	Confirmed    change.LSN // the slot's confirmed_flush_lsn
	Backlog      bool       // what has gathered is fetched by SQL before the walsender streams
	Log          *slog.Logger
}

// option is one of the plugin's.
type option struct{ name, value string }

// options are the same for the walsender and for SQL. Protocol 1 sends whole committed transactions in commit order.
func (r *Reading) options() []option {
	names := make([]string, len(r.Publications))
	for i, p := range r.Publications {
		names[i] = postgres.Ident(p)
	}
	return []option{{"proto_version", "1"}, {"publication_names", strings.Join(names, ",")}, {"messages", "true"}}
}

// Start begins to stream from where the slot stands. The stream owns the connection from here on.
func (c *Conn) Start(ctx context.Context, r Reading) (*Stream, error) {
	if !ValidSlotName(r.Slot) {
		return nil, fmt.Errorf("start replication: %q is not a slot name", r.Slot)
	}
	s := &Stream{
		pg: c.pg, reading: r, ready: make(chan struct{}, 1), wake: make(chan struct{}, 1), moved: make(chan struct{}, 1),
		received: make(chan struct{}), reported: make(chan struct{}),
		durable: r.Confirmed, told: r.Confirmed, highest: r.Confirmed, advanced: r.Confirmed, since: time.Now(),
	}
	s.space.L = &s.mu
	if r.Backlog {
		var err error
		if s.backlog, err = c.openBacklog(ctx, r); err != nil {
			r.Log.Warn("the walsender streams from the start: the backlog cannot be fetched by SQL", "slot", r.Slot, service.Err(err), "hint", slotsHint(err))
		}
	}
	if s.backlog == nil {
		// The start point 0/0 means: where the slot stands; a greater one skips what committed before it.
		if err := s.startWalsender(ctx, 0); err != nil {
			return nil, err
		}
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	go s.receive(ctx)
	go s.report(ctx)
	return s, nil
}

// startWalsender lets the walsender stream what commits from start on.
func (s *Stream) startWalsender(ctx context.Context, start change.LSN) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	var args []string
	for _, o := range s.reading.options() {
		args = append(args, o.name+" "+postgres.Literal(o.value))
	}
	if err := pglogrepl.StartReplication(ctx, s.pg, s.reading.Slot, pglogrepl.LSN(start), pglogrepl.StartReplicationOptions{PluginArgs: args}); err != nil {
		return fmt.Errorf("start replication from slot %q: %w", s.reading.Slot, err)
	}
	s.walsender.Store(true)
	return nil
}

// CatchingUp says whether changes are fetched by SQL; after an error, whether they were.
func (s *Stream) CatchingUp() bool { return !s.walsender.Load() }

// Ready gives a channel that has a token when Take has something to give. For keepalives alone there is none, unless the server asks:
// who wants them looks now and then.
func (s *Stream) Ready() <-chan struct{} { return s.ready }

// Take gives the messages that have arrived, without waiting; an empty batch if there are none. The error, once all
// messages before it are taken, is the end of the stream.
func (s *Stream) Take() (*Batch, error) {
	s.mu.Lock()
	if s.pending.empty() {
		err := s.err
		s.mu.Unlock()
		return &Batch{}, err
	}
	s.pending, s.spare = s.spare, s.pending
	s.pending.reset()
	s.space.Signal()
	if s.err != nil { // let the caller come back for it
		signal(s.ready)
	}
	s.mu.Unlock()
	s.spare.index()
	return &s.spare, nil
}

// signal puts a token into c unless there is one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// receive reads until the stream ends.
func (s *Stream) receive(ctx context.Context) {
	defer close(s.received)
	err := s.receiveBacklog(ctx)
	if err == nil {
		err = s.receiveAll()
	}
	s.mu.Lock()
	s.err = err
	signal(s.ready)
	s.mu.Unlock()
}

// errEnded is the end of a stream that the server ended.
var errEnded = errors.New("the server ended the stream")

// receiveBacklog fetches by SQL, where that is wanted, and hands over to the walsender.
func (s *Stream) receiveBacklog(ctx context.Context) error {
	if s.backlog == nil {
		return nil
	}
	defer s.backlog.close()
	end, err := s.catchUp(ctx)
	if err == nil {
		err = s.startWalsender(ctx, end)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failed != nil:
		return s.failed
	case err != nil:
		return err
	case ctx.Err() != nil: // Close has set its deadline, and ctx may have removed it
		return net.ErrClosed
	}
	s.reading.Log.Info("streaming from the walsender", "slot", s.reading.Slot, "lsn", end.String())
	return nil
}

func (s *Stream) receiveAll() error {
	for {
		// No deadline and no cancellable context: both would cost a timer per message. Close unblocks the read.
		msg, err := s.pg.ReceiveMessage(context.Background())
		if err != nil {
			return fmt.Errorf("receive from the replication stream: %w", err)
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			if err := s.accept(msg.Data); err != nil {
				return err
			}
		case *pgproto3.CopyDone:
			return errEnded
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("receive from the replication stream: %w", pgconn.ErrorResponseToPgError(msg))
		}
	}
}

const (
	xlogDataHeader  = 1 + 8 + 8 + 8
	keepaliveLength = 1 + 8 + 8 + 1
)

func (s *Stream) accept(data []byte) error {
	switch {
	case len(data) >= xlogDataHeader && data[0] == pglogrepl.XLogDataByteID:
		return s.append(data[xlogDataHeader:], change.LSN(binary.BigEndian.Uint64(data[9:])))
	case len(data) == keepaliveLength && data[0] == pglogrepl.PrimaryKeepaliveMessageByteID:
		if data[17] != 0 {
			s.reportNow()
		}
		return s.keepalive(change.LSN(binary.BigEndian.Uint64(data[1:])), data[17] != 0)
	case len(data) == 0:
		return errors.New("empty message in the replication stream")
	}
	return fmt.Errorf("unknown message %q of %d bytes in the replication stream", data[0], len(data))
}

// keepalive notes that everything up to position has been sent. Each walsender sends one whenever any database of its server
// writes WAL: with hundreds of them that is all that most captures hear. So it wakes nobody, unless the server has asked.
func (s *Stream) keepalive(position change.LSN, asked bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.over(); err != nil {
		return err
	}
	s.highest = max(s.highest, position)
	s.pending.addKeepalive(position, asked)
	if asked {
		signal(s.ready)
	}
	return nil
}

// append waits for room and adds a message.
func (s *Stream) append(message []byte, position change.LSN) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.pending.takes(len(message)) && s.over() == nil {
		if s.full.IsZero() {
			s.full = time.Now()
		}
		s.space.Wait()
	}
	s.full = time.Time{}
	if err := s.over(); err != nil {
		return err
	}
	s.highest = max(s.highest, position)
	if s.pending.add(message) {
		signal(s.ready)
	}
	return nil
}

// over gives why nothing more is taken, nil while it is. s.mu is held.
func (s *Stream) over() error {
	switch {
	case s.failed != nil:
		return s.failed
	case s.closed:
		return net.ErrClosed
	}
	return nil
}

// Confirm tells the server that everything before lsn is durable and need not be kept. It never goes back. The
// server is told within statusInterval.
//
// An lsn that is beyond what this connection has seen would let the server drop WAL that nobody has read: that is a
// broken invariant of ours, and panics.
func (s *Stream) Confirm(lsn change.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lsn <= s.durable {
		return
	}
	if lsn > s.highest {
		panic(fmt.Sprintf("confirm %s: the server has shown nothing beyond %s", lsn, s.highest))
	}
	if s.durable == s.told {
		signal(s.moved)
	}
	s.durable = lsn
}

// Confirmed gives what is confirmed.
func (s *Stream) Confirmed() change.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// reportNow asks for a status update to be sent now.
func (s *Stream) reportNow() { signal(s.wake) }

// report sends status updates from a goroutine of its own, so that a full pipeline never makes the server believe
// that we are dead.
func (s *Stream) report(ctx context.Context) {
	defer close(s.reported)
	said := time.Now()
	due := time.NewTimer(statusInterval)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = s.sendStatus() // the last word before Close; if it is lost the server sends again what it had
			return
		case <-s.moved:
			due.Reset(time.Until(said.Add(statusInterval)))
			continue
		case <-due.C:
		case <-s.wake:
		}
		said = time.Now()
		if s.CatchingUp() {
			s.keepBacklog(ctx)
			due.Reset(statusInterval)
			continue
		}
		if err := s.sendStatus(); err != nil {
			return // the receiver finds the same connection broken and reports it
		}
		due.Reset(quietInterval)
	}
}

// keepBacklog says to the server that we are alive while changes are fetched by SQL, and now and then what is durable. It
// finds what keeps them.
func (s *Stream) keepBacklog(ctx context.Context) {
	s.turn.Lock()
	defer s.turn.Unlock()
	if !s.CatchingUp() {
		return
	}
	s.mu.Lock()
	full, durable := s.full, s.durable
	s.mu.Unlock()
	if !full.IsZero() && time.Since(full) > drainPatience {
		s.fail(fmt.Errorf("nothing was taken for %s of what a call has fetched by SQL: it is given up, as its snapshot keeps VACUUM at the source from its work", drainPatience))
		return
	}
	statement, patience := "select 1", postgres.WALSenderTimeout
	if fresh := durable - s.advanced; fresh >= advanceWAL || fresh > 0 && time.Since(s.since) >= advanceAfter {
		patience += callPatience // it reads as much WAL
		statement = fmt.Sprintf("select pg_replication_slot_advance(%s, '%s')", postgres.Literal(s.reading.Slot), durable)
		s.advanced, s.since = durable, time.Now()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := s.pg.Exec(ctx, statement).ReadAll(); err != nil {
		s.fail(fmt.Errorf("keep the replication connection and the slot: %w", err))
	}
}

// fail lets the receiver end with err.
func (s *Stream) fail(err error) {
	s.mu.Lock()
	if s.failed == nil && !s.closed {
		s.failed = err
	}
	s.space.Broadcast()
	s.mu.Unlock()
	s.stop()
}

func (s *Stream) sendStatus() error {
	if s.CatchingUp() {
		return nil
	}
	s.mu.Lock()
	s.told = s.durable
	lsn := pglogrepl.LSN(s.told)
	s.mu.Unlock()
	if lsn == 0 {
		return nil // a zero flush position would be replaced by the write position
	}
	// Written to the connection itself, which takes concurrent calls: pgconn's writer is used by the receiver, too,
	// when it finds the connection broken and takes leave of the server.
	const payload = 1 + 3*8 + 8 + 1
	msg := make([]byte, 0, 5+payload)
	msg = append(msg, 'd')
	msg = binary.BigEndian.AppendUint32(msg, 4+payload)
	msg = append(msg, pglogrepl.StandbyStatusUpdateByteID)
	for range 3 { // write, flush and apply position: a flush position of zero would be a received one to the server
		msg = binary.BigEndian.AppendUint64(msg, uint64(lsn))
	}
	const postgresEpoch = 946684800000000 // 2000-01-01 in microseconds since 1970
	msg = binary.BigEndian.AppendUint64(msg, uint64(time.Now().UnixMicro()-postgresEpoch))
	msg = append(msg, 0)
	_, err := s.pg.Conn().Write(msg)
	return err
}

// Close tells the server once more what is confirmed, ends the connection and waits for the stream's goroutines.
func (s *Stream) Close() error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.space.Broadcast()
	s.mu.Unlock()
	if already {
		return nil
	}
	_ = s.pg.Conn().SetWriteDeadline(time.Now().Add(time.Second))
	s.stop()
	<-s.reported
	_ = s.pg.Conn().SetReadDeadline(time.Now())
	<-s.received
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return s.pg.Close(ctx)
}
