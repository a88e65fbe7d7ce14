package warehouse

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Lock is one that a sink of the group has been waiting for longer than it should be held, and who holds it. What another
// role's session does, and since when, only a role with pg_read_all_stats sees. The text of its statement is not read: it
// may hold values.
type Lock struct {
	Table       string // "" where the server does not say
	Since       time.Time
	Waiter      uint32 // the process of the sink's session that waits
	PID         int32  // 0: of a prepared transaction
	Application string
	User        string
	State       string     // "idle in transaction"; "": not shown to this role
	Began       *time.Time // of its transaction
	Statement   string     // the first word of the newest one: "LOCK"
}

// LockPatience is how long a lock is waited for before anybody is asked who holds it.
const LockPatience = 3 * time.Second

// Locks tells of the locks that sinks of the group wait for, those that are waited for longest first. What one of them holds and
// another wants is not among them: that one waits itself, or is about to end.
func (s *Session) Locks(ctx context.Context) ([]Lock, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT a.pid, coalesce(t.name, ''), extract(epoch FROM clock_timestamp() - w.since)::float8,
		       holder.pid, coalesce(b.application_name, ''), coalesce(b.usename, ''), coalesce(b.state, ''),
		       extract(epoch FROM clock_timestamp() - b.xact_start)::float8, coalesce(upper(substring(b.query FROM '^\s*([A-Za-z]+)')), '')
		  FROM pg_stat_activity a
		  JOIN LATERAL (SELECT coalesce(min(waitstart), a.query_start) AS since FROM pg_locks WHERE pid = a.pid AND NOT granted) w ON true
		  LEFT JOIN LATERAL (
		       SELECT n.nspname || '.' || c.relname AS name
		         FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
		        WHERE l.pid = a.pid AND (NOT l.granted OR l.locktype = 'tuple') LIMIT 1) t ON true
		 CROSS JOIN LATERAL unnest(pg_blocking_pids(a.pid)) AS holder(pid)
		  LEFT JOIN pg_stat_activity b ON b.pid = holder.pid
		 WHERE a.datname = current_database() AND a.usename = current_user AND a.application_name = left($1, 63) AND a.wait_event_type = 'Lock'
		   AND w.since < clock_timestamp() - make_interval(secs => $2) AND b.application_name IS DISTINCT FROM a.application_name
		 ORDER BY w.since LIMIT 20`, s.w.application(), LockPatience.Seconds())
	if err != nil {
		return nil, s.broken("read", "pg_stat_activity", err)
	}
	now := time.Now()
	ago := func(seconds float64) time.Time { return now.Add(-time.Duration(seconds * float64(time.Second))) } // the server's clock may differ
	locks, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l Lock, err error) {
		var waited float64
		var open *float64
		err = row.Scan(&l.Waiter, &l.Table, &waited, &l.PID, &l.Application, &l.User, &l.State, &open, &l.Statement)
		if l.Since = ago(waited); open != nil {
			l.Began = new(ago(*open))
		}
		return l, err
	})
	if err != nil {
		return nil, s.broken("read", "pg_stat_activity", err)
	}
	return locks, nil
}
