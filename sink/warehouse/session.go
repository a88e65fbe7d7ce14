package warehouse

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Session is one connection for writing, opened when it is needed and again after it broke. One goroutine at a time.
type Session struct {
	w        *Warehouse
	conn     *pgx.Conn
	prepared map[string]string // SQL text: name of the statement
	names    int               // how many were given
	stages   map[string]string // columns: name of the temporary table
	cut      pgx.Tx            // of a Cut that is open, else nil

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
		if s.names < maxPrepared {
			return nil
		}
		s.Close(ctx)
	}
	conn, err := s.w.connect(ctx)
	if err != nil {
		return err
	}
	s.conn, s.prepared, s.names, s.stages = conn, map[string]string{}, 0, map[string]string{}
	return nil
}

// broken makes the trouble of a failed operation.
func (s *Session) broken(op, subject string, err error) error { return s.w.troubled(op, subject, err) }

// maxPrepared is how many statements are prepared on a connection before it makes room for a new one: tables whose
// columns change leave old ones behind.
const maxPrepared = 5000

// statement is one SQL statement of a transaction.
type statement struct {
	unit    int // index into Flush.Units of what it belongs to, -1 for none
	sql     string
	params  []param
	prepare bool // worth keeping: the same text comes again
	check   func(rows int64) error
}

// param is the value of one parameter: a text, or the binary form of a text[].
type param struct{ text, array []byte }

// statementError says which statement failed.
type statementError struct {
	unit int
	err  error
}

func (e *statementError) Error() string { return e.err.Error() }
func (e *statementError) Unwrap() error { return e.err }

// run sends statements in one round trip and checks their outcomes. The first that fails is returned as a
// *statementError; those behind it were not executed.
func (s *Session) run(ctx context.Context, statements []statement) error {
	if len(statements) == 0 {
		return nil
	}
	pipeline := s.conn.PgConn().StartPipeline(ctx)
	first := make([]bool, len(statements)) // the statement is preceded by its preparation
	var fresh []string
	for i := range statements {
		st := &statements[i]
		values, formats := bind(st.params)
		if !st.prepare {
			pipeline.SendQueryParams(st.sql, values, nil, formats, nil)
			continue
		}
		name, ok := s.prepared[st.sql]
		if !ok {
			s.names++ // a name is never used again: after a failure it is not known whether the server has it
			name = fmt.Sprintf("tributary_%d", s.names)
			s.prepared[st.sql] = name
			fresh = append(fresh, st.sql)
			first[i] = true
			pipeline.SendPrepare(name, st.sql, nil)
		}
		pipeline.SendQueryPrepared(name, values, formats, nil)
	}
	err := func() error {
		if err := pipeline.Sync(); err != nil {
			return &statementError{-1, err}
		}
		for i := range statements {
			st := &statements[i]
			if first[i] {
				if _, err := pipeline.GetResults(); err != nil {
					return &statementError{st.unit, err}
				}
			}
			tag, err := commandTag(pipeline)
			if err == nil && st.check != nil {
				err = st.check(tag.RowsAffected())
			}
			if err != nil {
				return &statementError{st.unit, err}
			}
		}
		return nil
	}()
	closeErr := pipeline.Close()
	if err == nil && closeErr != nil {
		err = &statementError{-1, closeErr}
	}
	if err != nil {
		for _, sql := range fresh {
			delete(s.prepared, sql)
		}
	}
	return err
}

func bind(params []param) (values [][]byte, formats []int16) {
	for _, p := range params {
		if p.array != nil {
			values, formats = append(values, p.array), append(formats, 1)
		} else {
			values, formats = append(values, p.text), append(formats, 0)
		}
	}
	return values, formats
}

func commandTag(pipeline *pgconn.Pipeline) (pgconn.CommandTag, error) {
	results, err := pipeline.GetResults()
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	reader, ok := results.(*pgconn.ResultReader)
	if !ok {
		return pgconn.CommandTag{}, errors.New("the server answered less than was asked")
	}
	return reader.Close()
}

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
