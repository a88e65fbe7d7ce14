package warehouse

import (
	"context"
	"encoding/binary"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// Session is one connection for writing, opened when it is needed and again after it broke. One goroutine at a time.
type Session struct {
	w        *Warehouse
	conn     *pgx.Conn
	prepared map[string]string // SQL text: name of the statement
	named    int               // how many names were given
	stages   map[string]string // columns: name of the temporary table
	cut      pgx.Tx            // of a Cut that is open, else nil
	timing   *Timing           // of the Apply under way, if somebody wants it
	pid      atomic.Uint32     // of the server's process, for everybody; 0: none is known

	inspecting bool     // by Inspect: changes of targets are listed and rolled back
	changes    []string // statements
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
		if s.named < maxPrepared {
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
