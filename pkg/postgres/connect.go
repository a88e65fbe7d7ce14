// Package postgres is how every part of Tributary talks to a Postgres server: connections whose session settings are
// pinned (so that a value has one text form, whatever the database or role defaults to), quoting, and errors that can
// be shown to people because they never hold a row's values or a password.
//
// It follows the chapters "Frontend/Backend Protocol", "Client Connection Defaults" and "PostgreSQL Error Codes" of
// the Postgres manual (https://www.postgresql.org/docs/current/). What is done over a connection is its users' business.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// WALSenderTimeout is the wal_sender_timeout that ConnectReplication asks the server for. The server asks for a status
// update after half of it and ends the connection after all of it; it is also how long a slot stays held after its
// reader froze.
const WALSenderTimeout = 30 * time.Second

// connectTimeout is how long one attempt to connect to one address may take where the connection string does not say.
const connectTimeout = 10 * time.Second

// A dead peer is noticed after about half a minute: idle + count × interval, and the same for unacknowledged data.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
	userTimeout       = keepAliveIdle + keepAliveCount*keepAliveInterval
)

// pinned are the session settings of every connection. They are startup parameters because ALTER DATABASE and ALTER
// ROLE override the server's defaults, but not these. lc_monetary is left alone: changing it changes the scale of money.
var pinned = map[string]string{
	"client_encoding":                     "UTF8",
	"datestyle":                           "ISO",
	"intervalstyle":                       "postgres",
	"extra_float_digits":                  "3",
	"bytea_output":                        "hex",
	"array_nulls":                         "on",      // off: a null in the text of an array is read as four letters
	"xmloption":                           "content", // document: what is none is refused
	"quote_all_identifiers":               "off",     // on: format_type gives types other names
	"timezone":                            "UTC",
	"search_path":                         "pg_catalog",
	"statement_timeout":                   "0",
	"lock_timeout":                        "0",
	"idle_in_transaction_session_timeout": "0",
}

// ParseConfig reads a connection string (URL or keywords, as libpq takes it, environment included) into a configuration
// with pinned session settings and application as application_name. What the string itself says of a pinned setting or
// of the application's name is overridden. The error never holds any part of the connection string.
func ParseConfig(dsn, application string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, &connStringError{reason: parseReason(err)}
	}
	for name, value := range pinned {
		// Names of settings are case-insensitive to the server; "TimeZone" in the string must not stand beside ours.
		for have := range cfg.RuntimeParams {
			if strings.EqualFold(have, name) {
				delete(cfg.RuntimeParams, have)
			}
		}
		cfg.RuntimeParams[name] = value
	}
	if application != "" {
		cfg.RuntimeParams["application_name"] = application
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	dialer := &net.Dialer{
		Timeout: cfg.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable:   true,
			Idle:     keepAliveIdle,
			Interval: keepAliveInterval,
			Count:    keepAliveCount,
		},
		Control: limitUnacknowledged,
	}
	cfg.DialFunc = dialer.DialContext
	cfg.AfterConnect = liftTransactionTimeout
	return cfg, nil
}

// liftTransactionTimeout pins the setting that PostgreSQL 17 has and older servers, and poolers, do not know: as a startup parameter they
// would let nobody in with it. That is one round trip more for each connection.
func liftTransactionTimeout(ctx context.Context, conn *pgconn.PgConn) error {
	var major int
	if _, err := fmt.Sscanf(conn.ParameterStatus("server_version"), "%d", &major); err != nil || major < 17 {
		return nil //nolint:nilerr // who does not say a version is no server of Postgres
	}
	_, err := conn.Exec(ctx, "SET transaction_timeout = 0").ReadAll()
	return err
}

// Connect opens a connection with pinned session settings, and what adapt makes of them. The caller closes it. Errors are
// described (see Describe) and name the server without its password.
func Connect(ctx context.Context, dsn, application string, adapt ...func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	cfg, err := ParseConfig(dsn, application)
	if err != nil {
		return nil, err
	}
	for _, f := range adapt {
		f(cfg)
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, connectError(dsn, err)
	}
	return conn, nil
}

// ConnectReplication opens a connection that takes replication commands (replication=database) besides simple queries,
// with the same pinned settings and wal_sender_timeout = WALSenderTimeout. onNotice, where not nil, is given the
// server's notices (described; they arrive inside the copy stream too) from the goroutine that reads the connection.
// The caller closes it.
func ConnectReplication(ctx context.Context, dsn, application string, onNotice func(Notice)) (*pgconn.PgConn, error) {
	cfg, err := ParseConfig(dsn, application)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["replication"] = "database"
	cfg.RuntimeParams["wal_sender_timeout"] = strconv.FormatInt(WALSenderTimeout.Milliseconds(), 10)
	if onNotice != nil {
		cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
			onNotice(Notice{Severity: n.SeverityUnlocalized, SQLState: n.Code, Message: safeMessage((*pgconn.PgError)(n))})
		}
	}
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &patient{Conn: conn, sleep: time.Sleep}, nil
	}
	conn, err := pgconn.ConnectConfig(ctx, &cfg.Config)
	if err != nil {
		return nil, connectError(dsn, err)
	}
	return conn, nil
}

// Notice is what a server says without being asked. It holds no row's values.
type Notice struct {
	Severity string // "NOTICE", "WARNING", "LOG" …, never localised
	SQLState string
	Message  string
}

// Redact gives a connection string as people may see it: user, host, port and database, nothing else
// ("postgres://capture@db1:5432/shop").
func Redact(dsn string) string {
	const unreadable = "postgres://(unreadable)"
	if rest, isURL := cutScheme(dsn); isURL {
		// Parsed here and not by pgx, which would also read the files that the string names.
		u, err := url.Parse("postgres://" + rest)
		if err != nil || strings.Contains(u.Path, "@") || strings.Contains(u.Host, "@") {
			return unreadable
		}
		out := url.URL{Scheme: "postgres", Host: u.Host, Path: u.Path}
		if u.User != nil && u.User.Username() != "" {
			out.User = url.User(u.User.Username())
		}
		if host := u.Query().Get("host"); out.Host == "" && host != "" {
			out.RawQuery = "host=" + host
		}
		return out.String()
	}
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return unreadable
	}
	return address(cfg)
}

func cutScheme(dsn string) (rest string, isURL bool) {
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		if rest, ok := strings.CutPrefix(dsn, scheme); ok {
			return rest, true
		}
	}
	return dsn, false
}

func address(cfg *pgconn.Config) string {
	out := url.URL{Scheme: "postgres", Path: "/" + cfg.Database}
	if cfg.User != "" {
		out.User = url.User(cfg.User)
	}
	if strings.HasPrefix(cfg.Host, "/") {
		out.RawQuery = "host=" + cfg.Host
		return out.String()
	}
	var hosts []string
	add := func(host string, port uint16) {
		hostPort := net.JoinHostPort(host, strconv.Itoa(int(port)))
		// With sslmode=prefer each host stands twice, with and without TLS.
		if len(hosts) == 0 || hosts[len(hosts)-1] != hostPort {
			hosts = append(hosts, hostPort)
		}
	}
	add(cfg.Host, cfg.Port)
	for _, f := range cfg.Fallbacks {
		add(f.Host, f.Port)
	}
	out.Host = strings.Join(hosts, ",")
	return out.String()
}

func connectError(dsn string, err error) error { return &connectFailure{Redact(dsn), Describe(err)} }

// connectFailure is an error of a server that could not be reached.
type connectFailure struct {
	at    string
	cause error
}

func (e *connectFailure) Error() string { return "connect to " + e.at + ": " + e.cause.Error() }
func (e *connectFailure) Unwrap() error { return e.cause }

// Unnamed gives an error of Connect without the server's name, for who tells that beside it.
func Unnamed(err error) error {
	if failure, ok := err.(*connectFailure); ok { //nolint:errorlint // what wraps one says more
		return failure.cause
	}
	return err
}

// ErrConnString says that a connection string cannot be used, before anything was attempted.
var ErrConnString = errors.New("connection string is not valid")

// connStringError says why a connection string is unusable without quoting it: a malformed string cannot be told from
// a password reliably.
type connStringError struct{ reason string }

func (e *connStringError) Error() string {
	return ErrConnString.Error() + ": " + e.reason
}

func (*connStringError) Unwrap() error { return ErrConnString }

// parseReason gives the part of pgx's refusal that is certainly no secret: a file that it could not read, or the name
// of the setting that it did not understand.
func parseReason(err error) string {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Error()
	}
	// pgx says "cannot parse `<the string, masked as well as it can be>`: <why>".
	text := err.Error()
	if why := text[strings.LastIndex(text, "`: ")+1:]; why != text {
		for _, setting := range []string{
			"sslnegotiation", "sslcertmode", "sslrootcert", "sslcert", "sslmode", "TLS", "channel_binding", "target_session_attrs",
			"connect_timeout", "port", "service", "protocol_version", "require_auth", "krb",
		} {
			if strings.Contains(why, setting) {
				return "its " + setting + " setting is not usable"
			}
		}
	}
	return "write postgres://user:password@host:5432/database, special characters of the password percent-encoded"
}
