// Package catalog asks a source database what it is and what it holds: the server's facts, the tables with their
// columns, types and replica identities, the publications and the slot. It makes and alters publications, and
// nothing else, so that no write of the application ever fails because of us. It reads no rows and no WAL.
//
// It follows the chapters "System Catalogs" and "Logical Replication" of the Postgres documentation. What it says
// holds now; the stream, which is behind, may still be at an older version of a table.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// Catalog is one connection to the source's catalogs. It is not safe for concurrent use.
type Catalog struct {
	conn   *pgx.Conn
	types  map[schema.OID]*pgType
	looked version             // what Look was told last
	spares bool                // see Spare
	most   time.Duration       // see Spare
	open   map[int64]time.Time // by xid, since when a transaction is seen to be open that does not show its age
}

// Open connects to the database that dsn names.
func Open(ctx context.Context, dsn, application string) (*Catalog, error) {
	conn, err := postgres.Connect(ctx, dsn, application)
	if err != nil {
		return nil, Unreachable("connect to source", postgres.Redact(dsn), postgres.Unnamed(err))
	}
	// Publications and heartbeats do not wait for a standby: a failover that loses them is noticed, and they are made
	// again. While they waited, capture would stand still with the application.
	if _, err := conn.Exec(ctx, `set synchronous_commit = local`); err != nil {
		_ = conn.Close(ctx)
		return nil, Unreachable("connect to source", postgres.Redact(dsn), err)
	}
	return &Catalog{conn: conn, types: map[schema.OID]*pgType{}}, nil
}

// Unreachable is the trouble of a source that does not answer or refuses us.
func Unreachable(op, subject string, err error) error {
	e := &trouble.Error{
		Code: trouble.SourceUnreachable, Op: op, Subject: subject, Cause: postgres.Describe(err),
		Means: "nothing is lost: the source keeps the WAL that is still to be published",
		Hint:  "check host, port, database and firewall; capture goes on by itself when the source answers",
	}
	if hint := retry.TLSHint(e.Cause, retry.TLSKeys{CA: "sslrootcert in source.dsn", Name: "the host in source.dsn", Client: "sslcert and sslkey in source.dsn"}); hint != "" {
		e.Code, e.Hint = trouble.SourceRights, hint
	}
	if errors.Is(err, postgres.ErrConnString) {
		e.Code, e.Means, e.Hint = trouble.Config, "nothing was attempted", "mend source.dsn, or what it names as file: or env:"
	}
	switch postgres.SQLState(err) {
	case "57P03":
		e.Hint = "the server starts, recovers or stops, and its log says why; capture goes on by itself when it answers"
	case "3D000":
		e.Code = trouble.SourceRights
		e.Hint = "there is no such database on that server: mend its name in source.dsn (or PGDATABASE); psql -l lists those that there are"
	case "28000", "28P01":
		e.Code = trouble.SourceRights
		e.Hint = "check user, password (and until when it is valid), database, sslmode, sslcert and pg_hba.conf: a connection to this database must be allowed"
	case "42501":
		e.Code = trouble.SourceRights
		e.Hint = "see docs/security.md for the rights that capture needs"
	}
	return e
}

// User is the role that asks.
func (c *Catalog) User() string { return c.conn.Config().User }

// Close ends the connection.
func (c *Catalog) Close(ctx context.Context) error { return c.conn.Close(ctx) }

// EmitMessage writes a transactional logical message with our prefix into the source's WAL. It
// makes an idle server send something, and carries signals.
func (c *Catalog) EmitMessage(ctx context.Context, content string) error {
	if _, err := c.conn.Exec(ctx, `select pg_logical_emit_message(true, $1, $2)`, MessagePrefix, content); err != nil {
		return Unreachable("write a logical message to", "source", err)
	}
	return nil
}

// Ask writes content as EmitMessage does, and gives a position of the WAL that is behind it, or right at its end.
func (c *Catalog) Ask(ctx context.Context, content string) (behind change.LSN, err error) {
	if err := c.EmitMessage(ctx, content); err != nil {
		return 0, err
	}
	// Not what is flushed: with synchronous_commit off the message may not be.
	if err := c.conn.QueryRow(ctx, `select (pg_current_wal_insert_lsn() - '0/0')::int8`).Scan((*uint64)(&behind)); err != nil {
		return 0, Unreachable("ask the WAL position of", "source", err)
	}
	return behind, nil
}

// There says which of these the source has, whatever they are called.
func (c *Catalog) There(ctx context.Context, oids []schema.OID) (map[schema.OID]bool, error) {
	list, err := query(ctx, c.conn, "list tables", pgx.RowTo[uint32], `select oid from pg_class where oid = any($1::oid[])`, oids)
	there := map[schema.OID]bool{}
	for _, oid := range list {
		there[schema.OID(oid)] = true
	}
	return there, err
}

// MessagePrefix is the prefix of the logical messages that are meant for capture.
const MessagePrefix = "tributary"

// query runs sql and hands each row to scan.
func query[T any](ctx context.Context, conn *pgx.Conn, op string, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, Unreachable(op, "", err)
	}
	list, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, Unreachable(op, "", err)
	}
	return list, nil
}

func quoted(s string) string { return fmt.Sprintf("%q", s) }
