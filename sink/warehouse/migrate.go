package warehouse

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

//go:embed schema.sql
var version1 string

//go:embed schema_2.sql
var version2 string

//go:embed schema_3.sql
var version3 string

//go:embed schema_4.sql
var version4 string

//go:embed schema_5.sql
var version5 string

//go:embed schema_6.sql
var version6 string

//go:embed schema_7.sql
var version7 string

//go:embed schema_8.sql
var version8 string

//go:embed schema_9.sql
var version9 string

//go:embed schema_10.sql
var version10 string

//go:embed schema_11.sql
var version11 string

//go:embed schema_12.sql
var version12 string

//go:embed schema_13.sql
var version13 string

//go:embed schema_14.sql
var version14 string

//go:embed schema_15.sql
var version15 string

// migrations lead from one version of the schema tributary to the next. A released one is never changed.
var migrations = []string{version1, version2, version3, version4, version5, version6, version7, version8, version9, version10, version11, version12, version13, version14, version15}

// Version is the version of the schema tributary that this binary wants.
var Version = len(migrations)

// migrationLock serialises the sinks that start together.
const migrationLock = 0x747269627574 // "tribut"

// LockedError says that own tables are not made yet, as somebody else has held a lock for too long.
type LockedError struct{ Lock }

func (e *LockedError) Error() string {
	if e.Table == "" {
		return e.Whose() + " is in the way"
	}
	return fmt.Sprintf("%s, on %s, is in the way", e.Whose(), e.Table)
}

// Migrate creates the schema tributary, or brings it to Version. Sinks may do so at the same time. It waits for a lock no longer
// than patience, as who works with those tables waits behind it, and then says whose it is: a LockedError, within a trouble that
// is worth another try. A warehouse that is busy may need more patience the next time.
func (w *Warehouse) Migrate(ctx context.Context, patience time.Duration) error {
	return w.with(ctx, func(conn *pgx.Conn) error {
		done := make(chan struct{})
		var lock *Lock
		var asked error
		var asking sync.WaitGroup
		asking.Go(func() { lock, asked = w.holder(ctx, conn.PgConn().PID(), patience/2, done) })
		err := w.migrate(ctx, conn, patience)
		close(done)
		asking.Wait()
		t, ok := errors.AsType[*trouble.Error](err)
		if !ok || !lockedOut(err) {
			return err
		}
		t.Code, t.Hint = trouble.LockWait, "see who holds a lock on tables of the schema tributary: sink explain lock-wait"
		t.Means = "nothing is written before they are there; Kafka keeps the changes, and the sink goes on by itself"
		switch {
		case lock != nil:
			t.Cause, t.Hint = fmt.Errorf("%w: %w", &LockedError{*lock}, t.Cause), lock.Release()
		case asked != nil:
			t.Cause = fmt.Errorf("%w; nor is it known who holds it: %w", t.Cause, postgres.Describe(asked))
		}
		return t
	})
}

// lockedOut says that lock_timeout has ended a statement.
func lockedOut(err error) bool { return postgres.SQLState(err) == "55P03" }

// migrate is a try of Migrate, in one transaction. The advisory lock is waited for like any other.
func (w *Warehouse) migrate(ctx context.Context, conn *pgx.Conn, patience time.Duration) error {
	if _, err := conn.Exec(ctx, fmt.Sprintf(`SET lock_timeout = %d`, patience.Milliseconds())); err != nil {
		return w.troubled("create own tables", "schema tributary", err)
	}
	if have, err := schemaVersion(ctx, conn); err == nil && have == Version {
		return nil // no rights to create anything are needed
	} else if lockedOut(err) {
		return w.troubled("read version of own tables", "schema tributary", err)
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return w.troubled("create own tables", "schema tributary", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
		return w.troubled("create own tables", "schema tributary", err)
	}
	have, err := schemaVersion(ctx, tx)
	if err != nil {
		return w.troubled("read version of own tables", "schema tributary", err)
	}
	if have > Version {
		return &trouble.Error{
			Code: trouble.ServerVersion, Op: "use own tables", Subject: "schema tributary",
			Cause: fmt.Errorf("they have version %d, this sink knows up to %d", have, Version),
			Means: "a newer sink has been here; nothing was changed",
			Hint:  "run the newer version",
		}
	}
	// At once: a warehouse may be far away.
	if _, err := tx.Exec(ctx, steps(have)); err != nil {
		return w.troubled("create own tables", fmt.Sprintf("schema tributary, from version %d to %d", have, Version), err)
	}
	if err := tx.Commit(ctx); err != nil {
		return w.troubled("create own tables", "schema tributary", err)
	}
	return nil
}

// steps are the statements that lead from a version to Version.
func steps(have int) string {
	var sql strings.Builder
	if have == 0 {
		sql.WriteString(`CREATE SCHEMA IF NOT EXISTS tributary;
			CREATE TABLE IF NOT EXISTS tributary.version (version integer NOT NULL);`)
	}
	for _, step := range migrations[have:] {
		sql.WriteString("\n" + step + "\n;")
	}
	fmt.Fprintf(&sql, `DELETE FROM tributary.version; INSERT INTO tributary.version VALUES (%d)`, Version)
	return sql.String()
}

// querier is a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// schemaVersion gives 0 where there is no schema tributary.
func schemaVersion(ctx context.Context, q querier) (int, error) {
	var exists bool
	// Not to_regclass: the backend may remember that there was none, also after having waited for who made it.
	if err := q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'tributary' AND c.relname = 'version')`).Scan(&exists); err != nil || !exists {
		return 0, err
	}
	var v int
	err := q.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM tributary.version`).Scan(&v)
	return v, err
}
