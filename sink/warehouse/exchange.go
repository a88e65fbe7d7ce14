package warehouse

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// statement is one SQL statement of a transaction.
type statement struct {
	unit    int // index into Flush.Units of what it belongs to, -1 for none
	sql     string
	params  []param
	rows    *copyRows                // of COPY … FROM STDIN: what it writes
	prepare bool                     // worth keeping: the same text comes again
	each    func(row [][]byte) error // told of each row of the answer, which is text
	check   func(rows int64) error   // told how many rows were affected
	refused func()                   // queues what is done instead of it where rows are there already
}

// param is the value of one parameter: a text, or the binary form of a text[].
type param struct{ text, array []byte }

// statementError says which statement failed.
type statementError struct {
	unit  int
	err   error
	place int // in what was sent, from 1; 0 where it is of none
}

func (e *statementError) Error() string { return e.err.Error() }
func (e *statementError) Unwrap() error { return e.err }

// run sends statements in one round trip and checks their outcomes. The first that fails is returned as a
// *statementError; those behind it were not executed, unless it was its check that failed.
//
// pgconn.Pipeline is not used, since it knows no COPY: each would be a round trip for itself, and one more for what was
// queued before. The protocol has nothing against rows right behind the COPY that they belong to: a server that refuses
// it, or what goes before it, skips them.
func (s *Session) run(ctx context.Context, statements []statement) error {
	if len(statements) == 0 {
		return nil
	}
	names, fresh := s.names(statements)
	conn := s.conn.PgConn().Conn()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	// Both at once: who only writes may wait for a server that waits for its answers to be read.
	sent := make(chan error, 1)
	go func() {
		err := send(s.conn.PgConn().Frontend(), statements, names)
		if err != nil {
			_ = conn.Close() // nobody waits for an answer
		}
		if s.timing != nil {
			s.timing.Sent = time.Now()
		}
		sent <- err
	}()
	ended, err := receive(s.conn.PgConn().Frontend(), statements)
	if !ended {
		_ = conn.Close()
	}
	sendErr := <-sent
	if !stop() || sendErr != nil {
		ended = false
		if err == nil {
			err = &statementError{unit: -1, err: errors.Join(ctx.Err(), sendErr)}
		}
	}
	if !ended {
		closeConn(ctx, s.conn)
	}
	if err != nil {
		for _, sql := range fresh {
			delete(s.prepared, sql)
		}
	}
	return err
}

// naming says how a statement is called at the server.
type naming struct {
	name  string // "" for one that is not kept
	fresh bool   // it has to be prepared
}

// names gives the names of statements, and the SQL of those that have new ones.
func (s *Session) names(statements []statement) (names []naming, fresh []string) {
	names = make([]naming, len(statements))
	for i := range statements {
		st := &statements[i]
		if !st.prepare {
			names[i].fresh = true
			continue
		}
		name, ok := s.prepared[st.sql]
		if !ok {
			s.named++ // a name is never used again: after a failure it is not known whether the server has it
			name = fmt.Sprintf("tributary_%d", s.named)
			s.prepared[st.sql] = name
			fresh = append(fresh, st.sql)
		}
		names[i] = naming{name, !ok}
	}
	return names, fresh
}

// piece is about how much is sent at once.
const piece = 64 << 10

func send(f *pgproto3.Frontend, statements []statement, names []naming) error {
	waiting := 0 // bytes
	var buf []byte
	for i := range statements {
		st := &statements[i]
		values, formats := bind(st.params)
		if names[i].fresh {
			f.SendParse(&pgproto3.Parse{Name: names[i].name, Query: st.sql})
		}
		f.SendBind(&pgproto3.Bind{PreparedStatement: names[i].name, ParameterFormatCodes: formats, Parameters: values})
		f.SendExecute(&pgproto3.Execute{})
		if st.rows != nil {
			var err error
			if buf, err = st.rows.send(f, buf); err != nil {
				return err
			}
			waiting = 0
			continue
		}
		for _, v := range values {
			waiting += len(v)
		}
		if waiting >= piece {
			if err := f.Flush(); err != nil {
				return err
			}
			waiting = 0
		}
	}
	f.SendSync(&pgproto3.Sync{})
	return f.Flush()
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

// receive takes the answers to statements. ended is false where the connection is of no use any more.
func receive(f *pgproto3.Frontend, statements []statement) (ended bool, failed error) {
	n := 0 // statement that is being answered
	fail := func(err error) {
		switch {
		case err == nil || failed != nil:
		case n < len(statements):
			failed = &statementError{statements[n].unit, err, n + 1}
		default:
			failed = &statementError{unit: -1, err: err}
		}
	}
	for {
		msg, err := f.Receive()
		if err != nil {
			fail(err)
			return false, failed
		}
		switch msg := msg.(type) {
		case *pgproto3.DataRow:
			if failed == nil && n < len(statements) && statements[n].each != nil {
				fail(statements[n].each(msg.Values))
			}
		case *pgproto3.CommandComplete:
			if failed == nil && n < len(statements) && statements[n].check != nil {
				fail(statements[n].check(pgconn.NewCommandTag(string(msg.CommandTag)).RowsAffected()))
			}
			n++
		case *pgproto3.ErrorResponse:
			fail(pgconn.ErrorResponseToPgError(msg))
		case *pgproto3.ReadyForQuery:
			if n < len(statements) {
				fail(errors.New("the server answered less than was asked"))
			}
			return true, failed
		}
	}
}
