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
// one goes on behind them. So the server decodes while what it gave before is still being published. The slot itself keeps
// what a crash goes back to. It is advanced now and then, to what Confirm has said to be durable, on the replication
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
	sql   *pgconn.PgConn
	slot  string
	copy  string   // name of the slot that the calls read
	more  []string // the plugin's options, names and values in turn
	log   *slog.Logger
	limit int // of messages in the next call
	size  int // of a message of the call before, on average
	large int // calls in turn whose messages were large
	at    place
}

// place is where the copy stands, and up to where it may be read.
type place struct{ confirmed, restart, upto change.LSN }

// openBacklog makes ready to fetch by calls; nil without an error where somebody else reads the slot.
func (c *Conn) openBacklog(ctx context.Context, r Reading) (_ *backlog, err error) {
	conn, err := postgres.Connect(ctx, c.dsn, c.application)
	if err != nil {
		return nil, err
	}
	b := &backlog{sql: conn.PgConn(), slot: r.Slot, log: r.Log, limit: leastCall / 4}
	for _, o := range r.options() {
		b.more = append(b.more, o.name, o.value)
	}
	ours := false
	defer func() {
		if !ours || err != nil {
			b.close()
		}
	}()
	// Those that this version does not know are left out. The server gives up a reader that takes nothing for twice as
	// long as we do.
	if _, err := b.query(ctx, `select set_config(name, case name when 'tcp_user_timeout' then $1 else '0' end, false)
		from pg_settings where name in ('transaction_timeout', 'idle_session_timeout', 'tcp_user_timeout')`, millis(2*drainPatience)); err != nil {
		return nil, err
	}
	// What the server's administrator allows is never raised.
	if _, err := b.query(ctx, `select set_config('temp_file_limit', $1, false)
		where pg_size_bytes(current_setting('temp_file_limit')) not between 0 and pg_size_bytes($1)`, mostTemporary); err != nil && postgres.SQLState(err) != "42501" {
		return nil, err
	}
	for deadline := time.Now().Add(lockPatience); !ours; {
		free, err := b.query(ctx, `select from pg_replication_slots where slot_name = $1 and not active`, r.Slot)
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
	// Two readers never have the same name, as both are there; the copy has no failover and no two_phase.
	row, err := b.query(ctx, `select slot_name from pg_copy_logical_replication_slot($1::name, (left($1::name::text, 48) || '_copy_' || pg_backend_pid())::name, true)`, r.Slot)
	if err != nil {
		return nil, fmt.Errorf("copy the slot: %w", err)
	}
	b.copy = string(row[0])
	b.at, err = b.look(ctx)
	return b, err
}

// lock takes the ReaderLock of a slot, if it is free, for as long as the connection lives and says so.
func (c *Conn) lock(ctx context.Context, slot string) (bool, error) {
	results, err := c.pg.Exec(ctx, fmt.Sprintf(`set idle_session_timeout = %s; select pg_try_advisory_lock(%d, hashtext(%s))`,
		millis(postgres.WALSenderTimeout), ReaderLock, postgres.Literal(slot))).ReadAll()
	return err == nil && len(results) == 2 && len(results[1].Rows) == 1 && string(results[1].Rows[0][0]) == "t", err
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// close ends the connection; a call that is under way is cancelled.
func (b *backlog) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = b.sql.Close(ctx)
}

// query gives the only row of a statement, as text; nil for none.
func (b *backlog) query(ctx context.Context, sql string, params ...string) ([][]byte, error) {
	values := make([][]byte, len(params))
	for i, p := range params {
		values[i] = []byte(p)
	}
	r := b.sql.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	if r.Err != nil || len(r.Rows) == 0 {
		return nil, r.Err
	}
	return r.Rows[0], nil
}

// StandbysSQL are the names in synchronized_standby_slots, as a table of one column; a slot's name has neither space nor quote.
const StandbysSQL = `unnest(string_to_array(translate(current_setting('synchronized_standby_slots', true), ' "', ''), ','))`

// look gives where the copy stands, and up to where calls may read. What synchronized_standby_slots wants standbys to have
// before a reader gets it, the server holds back from slots with failover alone, which the copy has not.
func (b *backlog) look(ctx context.Context) (at place, err error) {
	row, err := b.query(ctx, `select s.confirmed_flush_lsn, s.restart_lsn, pg_current_wal_flush_lsn(), (
		select min(coalesce(p.restart_lsn, '0/0'))
		  from pg_replication_slots m, `+StandbysSQL+` standby
		  left join pg_replication_slots p on p.slot_name = standby
		 where m.slot_name = $2 and (to_jsonb(m)->>'failover')::bool)
		from pg_replication_slots s where s.slot_name = $1`, b.copy, b.slot)
	if err != nil {
		return at, err
	}
	if row == nil {
		return at, errors.New("the copy of the slot is gone")
	}
	var standbys change.LSN
	for i, lsn := range []*change.LSN{&at.confirmed, &at.restart, &at.upto, &standbys} {
		if row[i] == nil {
			continue
		}
		if *lsn, err = change.ParseLSN(string(row[i])); err != nil {
			return at, err
		}
	}
	if row[3] != nil {
		at.upto = min(at.upto, max(standbys, standbyMargin)-standbyMargin)
	}
	at.upto = max(at.upto, at.confirmed)
	return at, nil
}

// catchUp fetches by calls until one has shown all that there was, or it is no use to go on, and gives where the walsender
// is to go on. An error is the end of the stream.
func (s *Stream) catchUp(ctx context.Context) (change.LSN, error) {
	b := s.backlog
	b.log.Info("catching up by SQL", "slot", b.slot, "behind", service.FormatBytes(int64(b.at.upto-b.at.confirmed)))
	for done := false; !done && b.at.upto > b.at.confirmed; {
		if again := b.at.confirmed - b.at.restart; again > mostReread {
			b.log.Warn("the walsender goes on instead of SQL: each call would read much WAL again", "slot", b.slot, "again", service.FormatBytes(int64(again)), //nolint:gosec // as much as is checked
				"hint", "look for transactions that have been open for long")
			break
		}
		if b.large >= largeCalls {
			b.log.Info("the walsender goes on instead of SQL: it is faster with large rows", "slot", b.slot, "bytes", b.size)
			break
		}
		var err error
		done, err = s.call(ctx)
		var unable *unableError
		if errors.As(err, &unable) {
			b.log.Warn("the walsender goes on instead of SQL", "slot", b.slot, service.Err(unable.cause))
			break
		}
		if err != nil {
			return 0, err
		}
	}
	return b.at.confirmed, nil
}

// unableError is of a call that has given nothing.
type unableError struct{ cause error }

func (e *unableError) Error() string { return e.cause.Error() }

// call fetches what comes next. done says that this was all that there was.
func (s *Stream) call(ctx context.Context) (done bool, err error) {
	b, was := s.backlog, s.backlog.at
	upto, limit := min(was.upto, was.confirmed+callWAL), b.limit
	rows, bytes, err := s.get(ctx, upto, limit)
	if err != nil {
		return false, err
	}
	if b.at, err = b.look(ctx); err != nil {
		return false, fmt.Errorf("look at the copy of the slot: %w", err)
	}
	if rows > 0 {
		each := int(b.at.confirmed-was.confirmed)/rows + 1 // bytes of WAL a message
		b.size = bytes / rows
		if b.large++; b.size <= mostMessage {
			b.large = 0
		}
		b.limit = min(max(leastCall, int(b.at.confirmed-b.at.restart)/each), max(callBytes/(b.size+1), 1))
	}
	// The copy stands behind the last record that the call has read: whatever has committed before is given.
	return rows < limit && upto == was.upto, s.keepalive(b.at.confirmed, true)
}

// get hands on what one call gives: how many messages and bytes.
func (s *Stream) get(ctx context.Context, upto change.LSN, limit int) (rows, bytes int, err error) {
	b := s.backlog
	params := [][]byte{[]byte(b.copy), []byte(upto.String()), strconv.AppendInt(nil, int64(limit), 10)}
	var more strings.Builder
	for i, o := range b.more {
		fmt.Fprintf(&more, ", $%d", 4+i)
		params = append(params, []byte(o))
	}
	late := time.AfterFunc(callPatience, func() {
		ctx, cancel := context.WithTimeout(ctx, postgres.WALSenderTimeout)
		defer cancel()
		_ = b.sql.CancelRequest(ctx)
	})
	defer late.Stop()
	result := b.sql.ExecParams(ctx, `select lsn, data from pg_logical_slot_get_binary_changes($1, $2, $3`+more.String()+`)`, params, nil, nil, []int16{1})
	for result.NextRow() {
		if rows == 0 {
			late.Stop()
		}
		row := result.Values()
		if err := s.append(row[1], change.LSN(binary.BigEndian.Uint64(row[0]))); err != nil {
			return rows, bytes, err // the connection is closed, with the rest of the result
		}
		rows, bytes = rows+1, bytes+len(row[1])
	}
	if _, err := result.Close(); err != nil {
		_, ok := errors.AsType[*pgconn.PgError](err)
		err = fmt.Errorf("fetch changes by SQL: %w", err)
		if ok && rows == 0 {
			err = &unableError{err}
		}
		return rows, bytes, err
	}
	return rows, bytes, nil
}
