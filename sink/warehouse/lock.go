package warehouse

import (
	"context"
	"fmt"
	"strings"
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

// stoppedPatience is how long a transaction may have nothing to do while another session of the group waits for it. Of a sink that works none has,
// but for one that waits for Kafka in the middle of a state of a source, and would begin that anew.
const stoppedPatience = 15 * time.Second

// EndStopped ends the transactions of the group that another one of its sessions waits for and that have nothing to do: a sink, or a verb, that was
// stopped in the middle of one (SIGSTOP, a machine that hangs) keeps its locks for ever. Of those on checkpoints Claim takes care; others are taken while a target
// is made to fit, and by sweeps, retention and retries. What such a process does when it goes on fails, and is done again.
func (s *Session) EndStopped(ctx context.Context) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT b.pid, b.backend_start::text, pg_terminate_backend(b.pid)
		  FROM pg_stat_activity b
		 WHERE b.state LIKE 'idle in transaction%' AND b.state_change < clock_timestamp() - make_interval(secs => $2) AND `+sameGroup("b")+`
		   AND EXISTS (SELECT FROM pg_stat_activity a WHERE a.wait_event_type = 'Lock' AND `+sameGroup("a")+` AND b.pid = ANY (pg_blocking_pids(a.pid)))`,
		s.w.application(), stoppedPatience.Seconds())
	if err == nil {
		err = s.w.ended(rows, "ended a transaction that did nothing, and that another one of the group waited for")
	}
	return s.broken("read", "pg_stat_activity", err)
}

// sameGroup is the condition that a row of pg_stat_activity is a session of the group, whose name is $1.
func sameGroup(alias string) string {
	return strings.ReplaceAll(`x.datname = current_database() AND x.usename = current_user AND x.application_name = left($1, 63)`, "x.", alias+".")
}

// ended tells of the backends that a query, whose rows these are, has ended.
func (w *Warehouse) ended(rows pgx.Rows, what string) error {
	var holder int32
	var start string
	var ended bool
	_, err := pgx.ForEachRow(rows, []any{&holder, &start, &ended}, func() error {
		w.cfg.Log.Warn(what, "pid", holder, "backend_start", start)
		return nil
	})
	return err
}

// Locks tells of the locks that sinks of the group wait for, those that are waited for longest first. What one of them holds and
// another wants is not among them: that one waits itself, is about to end, or is ended by EndStopped.
func (s *Session) Locks(ctx context.Context) ([]Lock, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	locks, err := waits(ctx, s.conn, sameGroup("a")+`
		   AND w.since < clock_timestamp() - make_interval(secs => $2) AND b.application_name IS DISTINCT FROM a.application_name`, s.w.application(), LockPatience.Seconds())
	if err != nil {
		return nil, s.broken("read", "pg_stat_activity", err)
	}
	return locks, nil
}

// waits tells of the locks that backends wait for: a, since w.since, for one of b.
func waits(ctx context.Context, conn *pgx.Conn, which string, args ...any) ([]Lock, error) {
	rows, err := conn.Query(ctx, `
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
		 WHERE a.wait_event_type = 'Lock' AND `+which+`
		 ORDER BY w.since LIMIT 20`, args...)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	ago := func(seconds float64) time.Time { return now.Add(-time.Duration(seconds * float64(time.Second))) } // the server's clock may differ
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (l Lock, err error) {
		var waited float64
		var open *float64
		err = row.Scan(&l.Waiter, &l.Table, &waited, &l.PID, &l.Application, &l.User, &l.State, &open, &l.Statement)
		if l.Since = ago(waited); open != nil {
			l.Began = new(ago(*open))
		}
		return l, err
	})
}

// Whose names a lock by its holder.
func (l *Lock) Whose() string {
	switch {
	case l.PID == 0:
		return "a lock of a prepared transaction"
	case l.Application == "":
		return fmt.Sprintf("a lock held by pid %d", l.PID)
	}
	return fmt.Sprintf("a lock held by pid %d (%s)", l.PID, l.Application)
}

// Release is what gives it up, as a hint.
func (l *Lock) Release() string {
	if l.PID == 0 {
		return "SELECT gid, owner, prepared FROM pg_prepared_xacts ORDER BY prepared;   then COMMIT PREPARED or ROLLBACK PREPARED what nobody wants any more"
	}
	return fmt.Sprintf("SELECT pg_terminate_backend(%d);   ends that session and rolls back what it did; or wait until it is done", l.PID)
}

// holder asks, every while until done, for whom the backend pid waits, and gives what was found last; nil if it has never waited.
func (w *Warehouse) holder(ctx context.Context, pid uint32, while time.Duration, done <-chan struct{}) (last *Lock, err error) {
	tick := time.NewTicker(while)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return last, err
		case <-tick.C:
		}
		err = w.with(ctx, func(conn *pgx.Conn) error {
			locks, err := waits(ctx, conn, `a.pid = $1`, int32(pid)) //nolint:gosec // as the server has it
			if err == nil && len(locks) > 0 {
				last = &locks[0]
			}
			return err
		})
	}
}
