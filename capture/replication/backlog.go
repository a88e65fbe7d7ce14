package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema/change"
)

// A walsender sends one message at a time; pg_logical_slot_peek_binary_changes gives the same messages of the same plugin
// several times faster. So a stream that begins far behind is fetched by calls of it, and by the walsender from there on.
// A call gives whole transactions, in commit order, and moves nothing. Only when Confirm has said that all of a call is
// durable is the slot advanced, and the next call made. What is fetched twice, because nobody came to advance, is what
// comes twice after any crash.
//
// Between two calls nobody holds the slot, and to others it looks free. So the replication connection, idle until the
// walsender's turn, holds an advisory lock (ReaderLock) by which catalog.Slot knows that there is a reader, and is
// pinged as often as a status would be sent. The server ends it when it is silent for as long as it gives a walsender:
// a reader that is frozen loses both alike.
//
// The lock gives no right. Another instance may come in between: it has fenced our producer first, and has then read
// what we had published. What we do then is one of these:
//
//	- advance, or call, while it holds the slot: refused (55006), and the stream ends;
//	- advance to Y after it has confirmed Z > Y: refused;
//	- advance to Y before it has confirmed as much: Y was durable before our producer was fenced, so it is within what
//	  the other has found published when it began, and would drop if it came. It misses nothing.
//
// What we never do is advance beyond what we made durable ourselves.

// ReaderLock is, with hashtext of the slot's name, the key of the advisory lock that who reads a slot by calls holds.
const ReaderLock = 0x74726962

// Bounds of what a call costs the source.
const (
	// A call returns so many messages that they make up callBytes, going by the call before, and those of the
	// transaction in which they are reached. The server keeps them in memory, or in a temporary file.
	callBytes = 64 << 20
	// callWAL bounds the WAL that a call reads from where the slot stands, where little of it is for us.
	callWAL = 512 << 20
	// mostReread bounds the WAL between restart_lsn and where the slot stands, which each call and each advance read
	// again: from about here on the walsender, which reads it once, is faster.
	mostReread = 1 << 30
)

var (
	// lockPatience is how long a reader before us, whom nobody has told yet, may take to go.
	lockPatience = 5 * time.Second
	// mostCall bounds the messages of a call; the first returns a quarter of it.
	mostCall = 400_000
	// callPatience is how long a call may take until its first row: that long a transaction which is spilled to disk
	// may fill a temporary file besides.
	callPatience = time.Minute
	// drainPatience is how long nobody may take messages while a call has more of them: as long its snapshot keeps
	// VACUUM at the source from removing anything.
	drainPatience = time.Minute
)

// backlog is the fetching by calls.
type backlog struct {
	sql   *pgconn.PgConn
	slot  string
	more  []string // the plugin's options, names and values in turn
	log   *slog.Logger
	limit int // of messages in the next call
	at    place
}

// place is where a slot and its server stand.
type place struct {
	active                    bool
	confirmed, restart, flush change.LSN
}

// openBacklog makes ready to fetch by calls; nil without an error where somebody else reads the slot.
func (c *Conn) openBacklog(ctx context.Context, r Reading) (_ *backlog, err error) {
	conn, err := postgres.Connect(ctx, c.dsn, c.application)
	if err != nil {
		return nil, err
	}
	b := &backlog{sql: conn.PgConn(), slot: r.Slot, log: r.Log, limit: mostCall / 4}
	for _, o := range r.options() {
		b.more = append(b.more, o.name, o.value)
	}
	ours := false
	defer func() {
		if !ours {
			b.close()
		}
	}()
	// Those that this version does not know are left out. The server gives up a reader that takes nothing for twice as
	// long as we do.
	if _, err := b.query(ctx, `select set_config(name, case name when 'tcp_user_timeout' then $1 else '0' end, false)
		from pg_settings where name in ('transaction_timeout', 'idle_session_timeout', 'tcp_user_timeout')`, millis(2*drainPatience)); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockPatience); ; {
		if b.at, err = b.look(ctx); err != nil {
			return nil, err
		}
		if !b.at.active {
			ours, err = c.lock(ctx, r.Slot)
		}
		switch {
		case err != nil:
			return nil, err
		case ours:
			return b, nil
		case time.Now().After(deadline):
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
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

func (b *backlog) look(ctx context.Context) (place, error) {
	row, err := b.query(ctx, `select s.active, s.confirmed_flush_lsn, s.restart_lsn, pg_current_wal_flush_lsn() from pg_replication_slots s where s.slot_name = $1`, b.slot)
	if err != nil {
		return place{}, err
	}
	if row == nil {
		return place{}, errors.New("the slot is gone")
	}
	at := place{active: string(row[0]) == "t"}
	for i, lsn := range []*change.LSN{&at.confirmed, &at.restart, &at.flush} {
		if *lsn, err = change.ParseLSN(string(row[i+1])); err != nil {
			return place{}, err
		}
	}
	return at, nil
}

// catchUp fetches by calls until one has shown all that there was, or it is no use to go on. An error is the end of the
// stream.
func (s *Stream) catchUp(ctx context.Context) error {
	b := s.backlog
	b.log.Info("catching up by SQL", "slot", b.slot, "behind", service.FormatBytes(int64(b.at.flush-b.at.confirmed)))
	for {
		if again := b.at.confirmed - b.at.restart; again > mostReread {
			b.log.Warn("the walsender goes on instead of SQL: each call would read much WAL again", "slot", b.slot, "again", service.FormatBytes(int64(again)), //nolint:gosec // as much as is checked
				"hint", "look for transactions that have been open for long")
			return nil
		}
		done, err := s.call(ctx, min(b.at.flush, b.at.confirmed+callWAL))
		var unable *unableError
		switch {
		case errors.As(err, &unable):
			b.log.Warn("the walsender goes on instead of SQL", "slot", b.slot, service.Err(unable.cause))
			return nil
		case err != nil:
			return err
		case done:
			return nil
		}
	}
}

// unableError is of a call that has given nothing.
type unableError struct{ cause error }

func (e *unableError) Error() string { return e.cause.Error() }

// call fetches up to about an LSN, waits until it is durable and advances the slot. done says that this was all that
// there was.
func (s *Stream) call(ctx context.Context, upto change.LSN) (done bool, err error) {
	b := s.backlog
	limit := b.limit
	rows, last, err := s.peek(ctx, upto, limit)
	if err != nil {
		return false, err
	}
	// A commit is in the WAL before upto, and not shown, only where the call was full: that ends behind its last.
	shown, target := last, last
	if rows < limit {
		shown = max(shown, upto)
	}
	if rows == 0 {
		target = shown
	}
	var wal [8]byte
	binary.BigEndian.PutUint64(wal[:], uint64(shown))
	if err := s.append(wal[:], true, shown); err != nil {
		return false, err
	}
	durable, err := s.await(target)
	if err != nil {
		return false, err
	}
	if durable > b.at.confirmed {
		if _, err := b.query(ctx, `select pg_replication_slot_advance($1, $2)`, b.slot, durable.String()); err != nil {
			return false, fmt.Errorf("advance the slot to %s: %w", durable, err)
		}
	}
	done = rows < limit && upto == b.at.flush
	if b.at, err = b.look(ctx); err != nil {
		return false, fmt.Errorf("look at the slot: %w", err)
	}
	return done, nil
}

// peek hands on what one call gives: how many messages, and the greatest LSN among them. It sets the limit of the next.
func (s *Stream) peek(ctx context.Context, upto change.LSN, limit int) (rows int, last change.LSN, err error) {
	b := s.backlog
	params := [][]byte{[]byte(b.slot), []byte(upto.String()), strconv.AppendInt(nil, int64(limit), 10)}
	var more strings.Builder
	for i, o := range b.more {
		fmt.Fprintf(&more, ", $%d", 4+i)
		params = append(params, []byte(o))
	}
	late := time.AfterFunc(callPatience, func() {
		ctx, cancel := context.WithTimeout(ctx, callPatience)
		defer cancel()
		_ = b.sql.CancelRequest(ctx)
	})
	defer late.Stop()
	bytes := 0
	result := b.sql.ExecParams(ctx, `select lsn, data from pg_logical_slot_peek_binary_changes($1, $2, $3`+more.String()+`)`, params, nil, nil, []int16{1})
	for result.NextRow() {
		if rows == 0 {
			late.Stop()
		}
		row := result.Values()
		lsn, data := change.LSN(binary.BigEndian.Uint64(row[0])), row[1]
		if err := s.append(data, false, lsn); err != nil {
			return rows, last, err // the connection is closed, with the rest of the result
		}
		rows, bytes, last = rows+1, bytes+len(data), max(last, lsn)
	}
	if _, err := result.Close(); err != nil {
		pg, ok := errors.AsType[*pgconn.PgError](err)
		err = fmt.Errorf("fetch changes by SQL: %w", err)
		if ok && rows == 0 && pg.Code != "55006" { // somebody else has the slot: never fight over it
			err = &unableError{err}
		}
		return rows, last, err
	}
	if rows > 0 {
		b.limit = min(max(callBytes/max(bytes/rows, 1), mostCall/40), mostCall)
	}
	return rows, last, nil
}

// await waits until everything before lsn is durable, and gives what is.
func (s *Stream) await(lsn change.LSN) (change.LSN, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.durable < lsn && !s.closed && s.failed == nil {
		s.space.Wait()
	}
	switch {
	case s.failed != nil:
		return 0, s.failed
	case s.closed:
		return 0, net.ErrClosed
	}
	return s.durable, nil
}
