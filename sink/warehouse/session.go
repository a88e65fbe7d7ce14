package warehouse

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// Session is one connection for writing, opened when it is needed and again after it broke. One goroutine at a time.
type Session struct {
	w        *Warehouse
	conn     *pgx.Conn
	prepared map[string]string // SQL text: name of the statement
	named    int               // how many names were given
	opened   int               // how many connections there were
	stages   map[string]string // columns: name of the temporary table
	cut      pgx.Tx            // of a Cut that is open, else nil
	later    []found           // in it, see leaveOthers
	timing   *Timing           // of the Apply under way, if somebody wants it
	pid      atomic.Uint32     // of the server's process, for everybody; 0: none is known

	inspecting  bool     // by Inspect: changes of targets are listed and rolled back
	changes     []string // statements
	beside      []rule.Target
	parkedThere parkedThere
	answers     map[string]answer // to questions, of the Prepare under way
}

// Session makes a session. It does no I/O.
func (w *Warehouse) Session() *Session { return &Session{w: w} }

// Close ends the connection.
func (s *Session) Close(ctx context.Context) {
	if s.conn != nil {
		closeConn(ctx, s.conn)
		s.conn = nil
		s.pid.Store(0)
	}
}

// Connections gives how many connections the session has had. One more than before may be one to a server that has crashed
// meanwhile, or to another one.
func (s *Session) Connections() int { return s.opened }

// ServerVersion gives the version that the warehouse had when the session connected last; "" before.
func (s *Session) ServerVersion() string {
	if s.conn == nil {
		return ""
	}
	version, _, _ := strings.Cut(s.conn.PgConn().ParameterStatus("server_version"), " ")
	return version
}

func (s *Session) open(ctx context.Context) error {
	if s.conn != nil && !s.conn.IsClosed() {
		if s.named < maxPrepared || s.cut != nil { // what is open on it would be lost
			return nil
		}
		s.Close(ctx)
	}
	conn, err := s.w.connect(ctx)
	if err != nil {
		return err
	}
	s.conn, s.prepared, s.named, s.stages = conn, map[string]string{}, 0, map[string]string{}
	s.pid.Store(conn.PgConn().PID())
	s.opened++
	return nil
}

// PID gives the process of the server that has the session's connection; 0 for none. It is safe to call at any time.
func (s *Session) PID() uint32 { return s.pid.Load() }

// broken makes the trouble of a failed operation.
func (s *Session) broken(op, subject string, err error) error { return s.w.troubled(op, subject, err) }

// maxPrepared is how many statements are prepared on a connection before it makes room for a new one: tables whose
// columns change leave old ones behind.
const maxPrepared = 5000

// rollback ends a failed transaction; a connection that cannot do even that is given up.
func (s *Session) rollback(ctx context.Context) {
	if s.conn == nil || s.conn.IsClosed() {
		return
	}
	if _, err := s.conn.PgConn().Exec(ctx, "ROLLBACK").ReadAll(); err != nil {
		s.Close(ctx)
	}
}

// commit ends a transaction that moves checkpoints. It does not wait for the disk: rows and checkpoint are in one order in the
// WAL, so that a crash takes back some of the last transactions, whole ones, and the partitions are behind again by as much.
// Kafka still has what is missing; that it must be read again, WentBack tells. After an error nothing is known: ErrUnknownOutcome.
func (s *Session) commit(ctx context.Context) error {
	answers, err := s.conn.PgConn().Exec(ctx, "SET LOCAL synchronous_commit = off; COMMIT").ReadAll()
	if err != nil {
		s.rollback(context.WithoutCancel(ctx))
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, s.broken("commit to warehouse", "", err))
	}
	if done := answers[len(answers)-1].CommandTag.String(); done != "COMMIT" {
		return &trouble.Error{Code: trouble.Internal, Op: "commit to warehouse", Cause: fmt.Errorf("the server answered %q", done)}
	}
	return nil
}

// textArray gives the binary form of a text[] with n elements; text gives false for NULL.
// Format: array_send of src/backend/utils/adt/arrayfuncs.c.
func textArray(n int, text func(i int) (b []byte, ok bool)) []byte {
	const oidText = 25
	dims := uint32(1)
	if n == 0 {
		dims = 0
	}
	b := make([]byte, 0, 20+16*n)
	b = binary.BigEndian.AppendUint32(b, dims)
	b = binary.BigEndian.AppendUint32(b, 1) // may hold NULL
	b = binary.BigEndian.AppendUint32(b, oidText)
	if n == 0 {
		return b
	}
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = binary.BigEndian.AppendUint32(b, 1) // lower bound
	for i := range n {
		t, ok := text(i)
		if !ok {
			b = binary.BigEndian.AppendUint32(b, 0xffffffff)
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(t)))
		b = append(b, t...)
	}
	return b
}
