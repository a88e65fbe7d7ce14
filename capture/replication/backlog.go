package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema/change"
)

// A walsender sends one message at a time; pg_logical_slot_get_binary_changes gives the same messages of the same plugin
// several times faster. So a stream that begins far behind is fetched by calls of it, and by the walsender from there on.
//
// The calls read a temporary copy of the slot, and move it: a call gives whole transactions, in commit order, and the next
// one goes on behind them. A call has moved its copy by the time that its first row is there: the server decodes all of it
// first. So the next call need not wait until its rows are taken. It is made on a second connection, with a copy of that copy,
// and the two take turns: one decodes while what the other has given is published. The slot itself keeps what a crash goes
// back to. It is advanced now and then, to what Confirm has said to be durable, on the replication
// connection, which is idle until the walsender's turn. The copy goes with its connection, or with the first error there.
//
// The walsender begins where the last call ended, not where the slot stands. Both decide by where a commit record begins:
// the calls have given each transaction that committed before, the walsender sends each that committed from there on. What
// is not durable by then is before it in this very stream, and only Confirm moves the slot: a crash goes back to there.
//
// Between two advances nobody holds the slot, and to others it looks free. So the replication connection holds an
// advisory lock (ReaderLock) by which catalog.Slot knows that there is a reader, and is pinged as often as a status would
// be sent. The server ends it when it is silent for as long as it gives a walsender: a reader that is frozen loses both
// alike.
//
// The lock gives no right. Another instance may come in between: it has fenced our producer first, and has then read
// what we had published. What we do then is one of these:
//
//	- advance, or begin to stream, while it holds the slot: refused (55006), and the stream ends;
//	- advance to Y after it has confirmed Z > Y: refused;
//	- advance to Y before it has confirmed as much: Y was durable before our producer was fenced, so it is within what
//	  the other has found published when it began, and would drop if it came. It misses nothing.
//
// What we never do is advance beyond what we made durable ourselves.

// ReaderLock is, with hashtext of the slot's name, the key of the advisory lock that who reads a slot by calls holds.
const ReaderLock = 0x74726962

// Bounds of what a call costs the source.
const (
	// callBytes of messages, going by the call before, and those of the transaction in which they are reached, are the
	// most that a call returns. The server keeps them in memory, or in a temporary file.
	callBytes = 64 << 20
	// callWAL bounds the WAL that a call reads from where the copy stands, where little of it is for us.
	callWAL = 512 << 20
	// MostReread bounds the WAL between restart_lsn and where the copy stands, which each call reads again: from about
	// here on the walsender, which reads it once, is faster.
	MostReread = 1 << 30
	// standbyMargin stays for the walsender where standbys must have the WAL first: more than a commit record that a call
	// reads across its end.
	standbyMargin = 1 << 20
)

var (
	// lockPatience is how long a reader before us, whom nobody has told yet, may take to go.
	lockPatience = 5 * time.Second
	// leastCall is the messages of a call: so few that the calls to come are decoded while they are published. It is more
	// where the server would else read more WAL again than it decodes.
	leastCall = 32_000
	// mostMessage bytes a message, on average, are those above which the walsender is faster: what a call returns, the server writes
	// down first and reads again. largeCalls calls in turn must have met them, as one may be of a single large transaction.
	mostMessage = 512
	largeCalls  = 2
	mostReread  = change.LSN(MostReread)
	// callPatience is how long a call may take until its first row: that long a transaction which is spilled to disk
	// may fill a temporary file besides.
	callPatience = time.Minute
	// mostTemporary bounds that file, where our role may say so: a transaction that is larger is the walsender's.
	mostTemporary = "1GB"
	// drainPatience is how long nobody may take messages while a call has more of them: as long its snapshot keeps
	// VACUUM at the source from removing anything.
	drainPatience = time.Minute
	// The slot is advanced when so much has become durable, or after so long: it keeps WAL and old rows of the catalog.
	advanceWAL   change.LSN = 512 << 20
	advanceAfter            = 30 * time.Second
)

// backlog is the fetching by calls.
type backlog struct {
	slot    string
	more    []string // the plugin's options, names and values in turn
	log     *slog.Logger
	connect func(context.Context) (*reader, error)
	readers []*reader // who take turns; one where there is no slot for a second copy
	alone   bool      // there is to be no second one
	size    int       // bytes of a message of the call before, on average; 0: there was none
	each    int       // and of WAL
	large   int       // calls in turn whose messages were large
	at      place     // where what was handed on ends
}

// reader is a connection that calls are made on, with the copy of the slot that they read.
type reader struct {
	sql  *pgconn.PgConn
	copy string // its name; "" before there is one
}

// place is where a copy stands, and up to where it may be read.
type place struct{ confirmed, restart, upto change.LSN }

// openBacklog makes ready to fetch by calls; nil without an error where somebody else reads the slot.
func (c *Conn) openBacklog(ctx context.Context, r Reading) (_ *backlog, err error) {
	b := &backlog{slot: r.Slot, log: r.Log, connect: c.reader}
	for _, o := range r.options() {
		b.more = append(b.more, o.name, o.value)
	}
	first, err := c.reader(ctx)
	if err != nil {
		return nil, err
	}
	b.readers = []*reader{first}
	ours := false
	defer func() {
		if !ours || err != nil {
			b.close()
		}
	}()
	for deadline := time.Now().Add(lockPatience); !ours; {
		free, err := first.query(ctx, `select from pg_replication_slots where slot_name = $1 and not active`, r.Slot)
		if err == nil && free != nil {
			ours, err = c.lock(ctx, r.Slot)
		}
		switch {
		case err != nil:
			return nil, err
		case ours:
			continue
		case time.Now().After(deadline):
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	if err := first.copyOf(ctx, r.Slot, r.Slot); err != nil {
		return nil, err
	}
	b.at, err = b.look(ctx, first, first)
	return b, err
}

// reader connects one.
func (c *Conn) reader(ctx context.Context) (*reader, error) {
	conn, err := postgres.Connect(ctx, c.dsn, c.application)
	if err != nil {
		return nil, err
	}
	r := &reader{sql: conn.PgConn()}
	// Those that this version does not know are left out. The server gives up a reader that takes nothing for twice as
	// long as we do.
	row, err := r.query(ctx, `select current_setting('server_version_num')::int >= 150000, set_config(name, case name when 'tcp_user_timeout' then $1 else '0' end, false)
		from pg_settings where name in ('idle_session_timeout', 'tcp_user_timeout')`, millis(2*drainPatience))
	if err != nil {
		r.close()
		return nil, err
	}
	// To try would leave an error in the server's log. Before PostgreSQL 15 that right could not be granted.
	may := `current_setting('is_superuser')::bool`
	if row != nil && string(row[0]) == "t" {
		may = `has_parameter_privilege('temp_file_limit', 'set')`
	}
	// What the server's administrator allows is never raised.
	if _, err := r.query(ctx, `select set_config('temp_file_limit', $1, false)
		where `+may+` and pg_size_bytes(current_setting('temp_file_limit')) not between 0 and pg_size_bytes($1)`, mostTemporary); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// copyOf gives the reader a copy of a slot instead of the one that it has. It stands where that one stands, also while somebody
// else holds that.
func (r *reader) copyOf(ctx context.Context, slot, name string) error {
	if r.copy != "" {
		if _, err := r.query(ctx, `select pg_drop_replication_slot($1)`, r.copy); err != nil {
			return fmt.Errorf("drop the copy of the slot: %w", err)
		}
		r.copy = ""
	}
	// Two readers never have the same name, as both are there; the copy has no failover and no two_phase.
	row, err := r.query(ctx, `select slot_name from pg_copy_logical_replication_slot($1::name, (left($2::name::text, 48) || '_copy_' || pg_backend_pid())::name, true)`, slot, name)
	if err != nil {
		return fmt.Errorf("copy the slot: %w", err)
	}
	r.copy = string(row[0])
	return nil
}

// lock takes the ReaderLock of a slot, if it is free, for as long as the connection lives and says so.
func (c *Conn) lock(ctx context.Context, slot string) (bool, error) {
	results, err := c.pg.Exec(ctx, fmt.Sprintf(`set idle_session_timeout = %s; select pg_try_advisory_lock(%d, hashtext(%s))`,
		millis(postgres.WALSenderTimeout), ReaderLock, postgres.Literal(slot))).ReadAll()
	return err == nil && len(results) == 2 && len(results[1].Rows) == 1 && string(results[1].Rows[0][0]) == "t", err
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// close ends the connections; a call that is under way is cancelled.
func (b *backlog) close() {
	for _, r := range b.readers {
		r.close()
	}
}

func (r *reader) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = r.sql.Close(ctx)
}

// query gives the only row of a statement, as text; nil for none.
func (r *reader) query(ctx context.Context, sql string, params ...string) ([][]byte, error) {
	values := make([][]byte, len(params))
	for i, p := range params {
		values[i] = []byte(p)
	}
	result := r.sql.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	if result.Err != nil || len(result.Rows) == 0 {
		return nil, result.Err
	}
	return result.Rows[0], nil
}

// StandbysSQL are the names in synchronized_standby_slots, as a table of one column; a slot's name has neither space nor quote.
const StandbysSQL = `unnest(string_to_array(translate(current_setting('synchronized_standby_slots', true), ' "', ''), ','))`

// look gives where a reader's copy stands, and up to where calls may read; by asks, as that reader may be busy. What
// synchronized_standby_slots wants standbys to have before a reader gets it, the server holds back from slots with failover
// alone, which the copy has not.
func (b *backlog) look(ctx context.Context, by, at *reader) (there place, err error) {
	row, err := by.query(ctx, `select s.confirmed_flush_lsn, s.restart_lsn, pg_current_wal_flush_lsn(), (
		select min(coalesce(p.restart_lsn, '0/0'))
		  from pg_replication_slots m, `+StandbysSQL+` standby
		  left join pg_replication_slots p on p.slot_name = standby
		 where m.slot_name = $2 and (to_jsonb(m)->>'failover')::bool)
		from pg_replication_slots s where s.slot_name = $1`, at.copy, b.slot)
	if err != nil {
		return there, fmt.Errorf("look at the copy of the slot: %w", err)
	}
	if row == nil {
		return there, errors.New("the copy of the slot is gone")
	}
	var standbys change.LSN
	for i, lsn := range []*change.LSN{&there.confirmed, &there.restart, &there.upto, &standbys} {
		if row[i] == nil {
			continue
		}
		if *lsn, err = change.ParseLSN(string(row[i])); err != nil {
			return there, err
		}
	}
	if row[3] != nil {
		there.upto = min(there.upto, max(standbys, standbyMargin)-standbyMargin)
	}
	there.upto = max(there.upto, there.confirmed)
	return there, nil
}

// fits says whether a call from a place on is of use.
func (b *backlog) fits(at place) bool {
	return at.upto > at.confirmed && at.confirmed-at.restart <= mostReread && b.large < largeCalls
}

// gaveUp tells why there is no call from a place on, where there is something to be fetched.
func (b *backlog) gaveUp(at place) {
	switch again := at.confirmed - at.restart; {
	case at.upto <= at.confirmed:
	case again > mostReread:
		b.log.Warn("the walsender goes on instead of SQL: each call would read much WAL again", "slot", b.slot, "again", service.FormatBytes(int64(again)), //nolint:gosec // as much as is checked
			"hint", "look for transactions that have been open for long")
	default:
		b.log.Info("the walsender goes on instead of SQL: it is faster with large rows", "slot", b.slot, "bytes", b.size)
	}
}

// other gives the reader whose turn is next, to begin while one is busy; nil where there is none.
func (b *backlog) other(ctx context.Context, busy *reader) *reader {
	if b.alone || b.each == 0 { // a first call shows how large the next ones may be
		return nil
	}
	if len(b.readers) == 1 {
		second, err := b.connect(ctx)
		if err != nil {
			b.byItself(err)
			return nil
		}
		b.readers = append(b.readers, second)
	}
	if busy == b.readers[0] {
		return b.readers[1]
	}
	return b.readers[0]
}

// byItself ends the turns.
func (b *backlog) byItself(why error) {
	b.alone = true
	b.log.Info("each call waits for the one before it", "slot", b.slot, "why", why, "hint", slotsHint(why))
}

// slotsHint is what helps where a server has no slot left; "" where that is not it: the code is of other limits, too, and the words
// are in the server's language.
func slotsHint(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "53400" || pg.Routine != "ReplicationSlotCreate" {
		return ""
	}
	return "raise max_replication_slots: one more is needed while a backlog is fetched, better two"
}

// call is one call.
type call struct {
	*reader
	from     place // where it begins
	upto     change.LSN
	stop     context.CancelFunc
	patience *time.Timer   // until it is stopped, of one that is made ahead
	ran      chan struct{} // closed when the server has decoded all of it, or it has failed
	copied   error         // why there was no copy for it, and it was not made
	result   *pgconn.ResultReader
	more     bool // a row is there to be taken
	rows     int  // taken
	bytes    int
}

// call begins one of a reader from a place on, where its copy stands. With ahead, a reader whose copy stands there, it gets a
// copy of that first; the snapshot of such a one is held until the call before is taken, so it is given up after drainPatience.
func (b *backlog) call(ctx context.Context, r *reader, from place, ahead *reader) *call {
	limit := leastCall / 4
	if b.each > 0 {
		limit = min(max(leastCall, int(from.confirmed-from.restart)/b.each), max(callBytes/(b.size+1), 1))
	}
	c := &call{reader: r, from: from, upto: min(from.upto, from.confirmed+callWAL), ran: make(chan struct{})}
	ctx, c.stop = context.WithCancel(ctx)
	if ahead != nil {
		c.patience = time.AfterFunc(drainPatience, c.stop)
	}
	go func() {
		defer close(c.ran)
		if ahead != nil {
			if c.copied = r.copyOf(ctx, ahead.copy, b.slot); c.copied != nil {
				return
			}
		}
		params := [][]byte{[]byte(r.copy), []byte(c.upto.String()), strconv.AppendInt(nil, int64(limit), 10)}
		var more strings.Builder
		for i, o := range b.more {
			fmt.Fprintf(&more, ", $%d", 4+i)
			params = append(params, []byte(o))
		}
		late := time.AfterFunc(callPatience, func() {
			ctx, cancel := context.WithTimeout(ctx, postgres.WALSenderTimeout)
			defer cancel()
			_ = r.sql.CancelRequest(ctx)
		})
		defer late.Stop()
		c.result = r.sql.ExecParams(ctx, `select lsn, data from pg_logical_slot_get_binary_changes($1, $2, $3`+more.String()+`)`, params, nil, nil, []int16{1})
		c.more = c.result.NextRow()
	}()
	return c
}

// end cancels a call, or what is left of it.
func (c *call) end() {
	if c != nil {
		c.stop()
		<-c.ran
	}
}

// late says why a call that was made ahead cannot be taken; nil where it can.
func (c *call) late() error {
	if !c.patience.Stop() {
		return fmt.Errorf("one that was made ahead was not taken for %s", drainPatience)
	}
	<-c.ran
	return c.copied
}

// over says whether a call that ended at a place has given all that there was.
func (c *call) over(end place) bool { return c.upto == c.from.upto && end.confirmed >= c.upto }

// catchUp fetches by calls until one has given all that there was, or it is no use to go on, and gives where the walsender
// is to go on. An error is the end of the stream.
func (s *Stream) catchUp(ctx context.Context) (change.LSN, error) {
	b := s.backlog
	b.log.Info("catching up by SQL", "slot", b.slot, "behind", service.FormatBytes(int64(b.at.upto-b.at.confirmed)))
	var now, next *call
	defer func() { now.end(); next.end() }()
	turn := b.readers[0]
	for b.fits(b.at) {
		if now = next; now == nil {
			now = b.call(ctx, turn, b.at, nil)
		}
		next, turn = nil, now.reader
		<-now.ran
		var end place
		var err error
		if other := b.other(ctx, turn); now.more && other != nil {
			if end, err = b.look(ctx, other, turn); err != nil {
				return 0, err
			}
			if !now.over(end) && b.fits(end) {
				next = b.call(ctx, other, end, turn)
			}
		}
		if err := s.take(now); err != nil {
			var unable *unableError
			if errors.As(err, &unable) {
				b.log.Warn("the walsender goes on instead of SQL", "slot", b.slot, service.Err(unable.cause))
				return b.at.confirmed, nil
			}
			return 0, err
		}
		now.stop()
		if end == (place{}) {
			if end, err = b.look(ctx, turn, turn); err != nil {
				return 0, err
			}
		}
		if now.rows > 0 {
			b.size, b.each = now.bytes/now.rows, int(end.confirmed-b.at.confirmed)/now.rows+1
			if b.large++; b.size <= mostMessage {
				b.large = 0
			}
		}
		b.at = end
		// The copy stands behind the last record that the call has read: whatever has committed before is given.
		if err := s.keepalive(end.confirmed, true); err != nil {
			return 0, err
		}
		if now.over(end) {
			return end.confirmed, nil
		}
		if next != nil {
			if err := next.late(); err != nil {
				b.byItself(err)
				next.end()
				next = nil
			}
		}
	}
	b.gaveUp(b.at)
	return b.at.confirmed, nil
}

// unableError is of a call that has given nothing.
type unableError struct{ cause error }

func (e *unableError) Error() string { return e.cause.Error() }

// take hands on what a call has given.
func (s *Stream) take(c *call) error {
	for ; c.more; c.more = c.result.NextRow() {
		row := c.result.Values()
		if err := s.append(row[1], change.LSN(binary.BigEndian.Uint64(row[0]))); err != nil {
			return err // the connection is closed, with the rest of the result
		}
		c.rows, c.bytes = c.rows+1, c.bytes+len(row[1])
	}
	if _, err := c.result.Close(); err != nil {
		_, ok := errors.AsType[*pgconn.PgError](err)
		err = fmt.Errorf("fetch changes by SQL: %w", err)
		if ok && c.rows == 0 {
			err = &unableError{err}
		}
		return err
	}
	return nil
}
