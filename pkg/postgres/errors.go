package postgres

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Error is a server's error as people may see it: what it says and where, without DETAIL, WHERE and HINT, which hold
// rows' values. The server's own error is not in its chain, so that no printing of any kind can reach it.
type Error struct {
	Severity   string // "ERROR", "FATAL", "PANIC", never localised
	Code       string // SQLSTATE, five characters
	Message    string // without values
	Schema     string // "" where the server does not say; likewise below
	Table      string
	Column     string
	Type       string // of the column or the value
	Constraint string
}

// Error gives message, SQLSTATE and the names that the server gave.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (SQLSTATE %s)", e.Message, e.Code)
	if e.Table != "" {
		fmt.Fprintf(&b, ", table %q", strings.TrimPrefix(e.Schema+"."+e.Table, "."))
	}
	if e.Column != "" {
		fmt.Fprintf(&b, ", column %q", e.Column)
	}
	if e.Type != "" {
		fmt.Fprintf(&b, ", type %q", e.Type)
	}
	if e.Constraint != "" {
		fmt.Fprintf(&b, ", constraint %q", e.Constraint)
	}
	return b.String()
}

// SQLState gives the five characters by which code decides; messages are localised and change.
func (e *Error) SQLState() string { return e.Code }

// Describe makes err fit to be shown. A server's error anywhere in its chain becomes an *Error, behind which errors.As
// finds no *pgconn.PgError; what wrapped it is dropped, as it quotes it: describe first, wrap then. A
// *pgconn.ConnectError loses its configuration, which holds the password. Any other error is returned as it is.
func Describe(err error) error {
	if err == nil {
		return nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return &Error{
			Severity:   pg.SeverityUnlocalized,
			Code:       pg.Code,
			Message:    safeMessage(pg),
			Schema:     pg.SchemaName,
			Table:      pg.TableName,
			Column:     pg.ColumnName,
			Type:       pg.DataTypeName,
			Constraint: pg.ConstraintName,
		}
	}
	if connect, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		cause := connect.Unwrap()
		if cause != nil && strings.Contains(cause.Error(), noTLS) { // pgconn gives it no type
			return fmt.Errorf("%w, and the connection string wants it", ErrNoTLS)
		}
		return once(cause)
	}
	return err
}

// once drops what a list of errors says again: with sslmode=prefer each address is tried twice.
func once(err error) error {
	list, ok := err.(interface{ Unwrap() []error }) //nolint:errorlint // the list itself
	if !ok {
		return err
	}
	said := map[string]bool{}
	var rest []error
	for _, e := range list.Unwrap() {
		if !said[e.Error()] {
			said[e.Error()] = true
			rest = append(rest, e)
		}
	}
	if len(rest) == 1 {
		return rest[0]
	}
	return errors.Join(rest...)
}

// ErrNoTLS says that the server does not speak TLS.
var ErrNoTLS = errors.New("the server does not speak TLS")

// noTLS is what pgconn says then.
const noTLS = "server refused TLS connection"

// SQLState gives the code of the server's error in err's chain, described or not; "" if there is none.
func SQLState(err error) string {
	if e, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		return e.SQLState()
	}
	return ""
}

// LacksPublication says whether a server ended a stream as a publication was not there at that place of the WAL. Its state is that of a
// slot that is gone, and its message is in the server's language.
func LacksPublication(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "42704" && strings.Contains(strings.ToLower(e.Routine), "publication")
}

// safeMessage gives the server's message without values of rows. Most messages hold names only. Those that quote
// a value are of class 22 (data exception: `invalid input syntax for type integer: "…"`), or the text of somebody's
// own RAISE or function in another language, of which nothing is known. See also quotesValue.
func safeMessage(pg *pgconn.PgError) string {
	switch {
	case pg.Routine == "exec_stmt_raise" || strings.HasPrefix(pg.Code, "P0") || strings.HasPrefix(pg.Code, "38") || strings.HasPrefix(pg.Code, "39"):
		return "error raised by a function or trigger (its text is withheld: it may hold values)"
	case strings.HasPrefix(pg.Code, "22") && pg.Code != badCopyFileFormat && pg.Routine != standbySlots, quotesValue(pg):
		return maskQuoted(pg.Message)
	}
	return pg.Message
}

// quotesValue says whether what the message calls a name may be a value: of a column of type regclass or the like, whose text is looked up, or
// in a statement that a function of somebody has put together. What is told with a position is in our own statement, which has names only; and
// no value names publications, slots, or tables of ours.
func quotesValue(pg *pgconn.PgError) bool {
	switch pg.Code {
	case "XX000":
		return true
	case "42703":
		return pg.InternalQuery != ""
	case "42601", "42602", "42704", "42883", "42P01", "3F000":
		where := strings.ToLower(pg.Routine)
		return pg.Position == 0 && !strings.Contains(where, "publication") && !strings.Contains(where, "slot") && !strings.Contains(pg.Message, "tributary")
	}
	return false
}

// badCopyFileFormat (22P04) names columns and never quotes a value.
const badCopyFileFormat = "22P04"

// standbySlots is where the server says which slot of synchronized_standby_slots it waits for: names alone, with a code of class 22.
const standbySlots = "StandbySlotsHaveCaughtup"

// quotes are the marks that Postgres' translations put around a value, and what begins the bytes of
// "invalid byte sequence for encoding".
var quotes = []string{`"`, "«", "»", "„", "“", "”", "‘", "’", "'", "`", "「", "」", "『", "』", "0x"}

// maskQuoted replaces everything from the first quote to the last one: a value may itself hold quotes.
func maskQuoted(message string) string {
	first, last := len(message), -1
	for _, q := range quotes {
		if i := strings.Index(message, q); i >= 0 {
			first = min(first, i)
			last = max(last, strings.LastIndex(message, q)+len(q))
		}
	}
	if last < 0 {
		return message
	}
	if strings.HasSuffix(message[:last], "0x") {
		last = len(message)
	}
	return message[:first] + "…" + message[last:]
}
