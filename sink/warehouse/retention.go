package warehouse

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// Keep is a feed whose rows are removed when they are old, or whose target gets its partitions made.
type Keep struct {
	Feed
	Age       rule.Age // "" for ever
	By        string   // column of the target
	Drop      rule.Age // how long a partition that is too old is kept aside; "" where rows are removed, not partitions
	Partition string   // the unit of partitions that are made; "" for none
}

// Expired is what retention did, or would do, for a feed.
type Expired struct {
	Topic   string      `json:"topic"`
	Target  rule.Target `json:"-"`
	RanAt   time.Time   `json:"ran_at"`
	Cutoff  time.Time   `json:"cutoff"`
	Removed int64       `json:"removed"`      // by the last run
	Ever    int64       `json:"removed_ever"` // by all runs
}

// expireRows is how many rows one transaction of Expire removes.
const expireRows = 1000

// AllFeeds gives what the group has written.
func (s *Session) AllFeeds(ctx context.Context) ([]Feed, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `SELECT topic, target_schema, target_table, sid FROM tributary.feed WHERE grp = $1 ORDER BY 1`, s.w.cfg.Group)
	if err != nil {
		return nil, s.broken("read", "tributary.feed", err)
	}
	feeds, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f Feed, err error) {
		err = row.Scan(&f.Topic, &f.Target.Schema, &f.Target.Table, &f.SID)
		return f, err
	})
	if err != nil {
		return nil, s.broken("read", "tributary.feed", err)
	}
	return feeds, nil
}

// Retained gives what retention has done so far, by topic.
func (s *Session) Retained(ctx context.Context) (map[string]Expired, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `SELECT topic, target_schema, target_table, ran_at, cutoff, removed, removed_ever FROM tributary.retention WHERE grp = $1`, s.w.cfg.Group)
	if err != nil {
		return nil, s.broken("read", "tributary.retention", err)
	}
	out := map[string]Expired{}
	var e Expired
	_, err = pgx.ForEachRow(rows, []any{&e.Topic, &e.Target.Schema, &e.Target.Table, &e.RanAt, &e.Cutoff, &e.Removed, &e.Ever}, func() error {
		out[e.Topic] = e
		return nil
	})
	if err != nil {
		return nil, s.broken("read", "tributary.retention", err)
	}
	return out, nil
}

// Retain takes the lock that lets one session of the group do retention at a time, for as long as do runs. It gives
// false where another one has it.
func (s *Session) Retain(ctx context.Context, do func() error) (bool, error) {
	if err := s.open(ctx); err != nil {
		return false, err
	}
	var ours bool
	err := s.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtext('tributary retention'), hashtext($1))`, s.w.cfg.Group).Scan(&ours)
	if err == nil && ours {
		// Waits for no lock for long: a statement that waits for a table keeps all behind it waiting, readers too.
		if _, err = s.conn.Exec(ctx, planFreely, false); err == nil {
			// Of a machine that is gone the server knows within a minute, and not after the two hours of the operating system: the others wait.
			_, err = s.conn.Exec(ctx, `SELECT set_config('lock_timeout', '2s', false), set_config('tcp_keepalives_idle', '30', false),
				set_config('tcp_keepalives_interval', '10', false), set_config('tcp_keepalives_count', '3', false)`)
		}
	}
	if err != nil {
		return false, s.broken("begin", "retention", err)
	}
	if !ours {
		return false, nil
	}
	defer s.Close(context.WithoutCancel(ctx)) // and the lock with it, at the latest
	err = do()
	// Unlocked before: the server ends a session some time after the client has left, and the next one would be refused.
	// Also of who was told to stop. An error here is of no matter, the session ends in any case.
	if s.conn != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_, _ = s.conn.Exec(last, `SELECT pg_advisory_unlock(hashtext('tributary retention'), hashtext($1))`, s.w.cfg.Group)
	}
	return true, err
}

// hostClock is the clock of this host. What is too old is so by it and by the warehouse's: one that is set ahead, by a year say, removes nothing
// that is not old. When retention ran is so by both, too: noted in the future, it would not be due until then, also when the clock is right again.
var hostClock = time.Now

// expiry is the condition that a row t is too old, and the column is of a type that can tell.
func (s *Session) expiry(ctx context.Context, k *Keep) (condition string, cutoff time.Time, err error) {
	have, err := readColumns(ctx, s.conn, k.Target)
	if err != nil || len(have) == 0 {
		return "", cutoff, err
	}
	if err := s.conn.QueryRow(ctx, `SELECT least(now(), $2::timestamptz) - $1::text::interval`, string(k.Age), hostClock()).Scan(&cutoff); err != nil {
		return "", cutoff, err
	}
	c := have.column(k.By)
	at := postgres.Literal(cutoff.UTC().Format("2006-01-02 15:04:05.999999"))
	switch {
	case c != nil && c.base == "timestamp with time zone":
		at = postgres.Literal(cutoff.UTC().Format("2006-01-02 15:04:05.999999+00"))
	case c != nil && (c.base == "timestamp without time zone" || c.base == "date"):
	default:
		cause := fmt.Errorf("it has no column %q, by which keep goes", k.By)
		if c != nil {
			cause = fmt.Errorf("column %q, by which keep goes, is %s", k.By, c.full)
		}
		return "", cutoff, &trouble.Error{
			Code: trouble.TargetType, Op: "remove old rows from", Subject: fmt.Sprintf("table %q", k.Target.String()), Cause: cause,
			Means: "no row is removed from it; all else goes on", Hint: "name a column of the target that is a timestamp or a date with by in the rule",
		}
	}
	condition = fmt.Sprintf("t.%s < %s::%s", postgres.Ident(c.name), at, c.base)
	if k.SIDColumn != "" {
		sid := have.column(k.SIDColumn)
		if sid == nil {
			return "", cutoff, lostColumn("remove old rows from", k.Target, k.SIDColumn, "no row is removed from it; all else goes on")
		}
		condition = fmt.Sprintf("t.%s %s %s::%s AND ", postgres.Ident(sid.name), sid.target().equal, postgres.Literal(k.SID), sid.base) + condition
	}
	return condition, cutoff, nil
}

// CountExpired gives how many rows of a feed are too old now.
func (s *Session) CountExpired(ctx context.Context, k Keep) (e Expired, err error) {
	if err := s.open(ctx); err != nil {
		return e, err
	}
	e.Topic, e.Target = k.Topic, k.Target
	condition, cutoff, err := s.expiry(ctx, &k)
	if err == nil && condition != "" {
		e.Cutoff = cutoff
		tables := []string{postgres.Ident(k.Target.Schema, k.Target.Table)}
		if k.Drop != "" {
			tables, err = s.loose(ctx, k.Target)
		}
		for _, table := range tables {
			var rows int64
			if err == nil {
				err = s.conn.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s t WHERE %s", table, condition)).Scan(&rows)
			}
			e.Removed += rows
		}
	}
	if err != nil {
		return e, s.broken("count old rows of", fmt.Sprintf("table %q", k.Target.String()), err)
	}
	return e, nil
}

// Expire removes the rows of a feed that are too old, within Retain; where partitions are dropped, only those that are in
// none which will be. It takes few at a time, none that somebody else has
// locked, and never waits for a row: whoever writes the table waits for a transaction of some milliseconds at most. told
// is given how many were removed after each transaction, and paces them. gone are those that went with partitions before,
// in the same run: DropPartitions has counted them already.
//
// What is removed is noted with it. RanAt is zero where a run has not come so far that it counts as one: whoever comes next tries again. One that something of the target keeps
// from its end counts, or each would look through all rows that stay.
func (s *Session) Expire(ctx context.Context, k Keep, gone int64, told func(rows int64) error) (e Expired, err error) {
	e.Topic, e.Target, e.Removed = k.Topic, k.Target, gone
	condition, cutoff, err := s.expiry(ctx, &k)
	begun := err == nil
	if err == nil && condition != "" {
		var removed int64
		removed, err = s.expire(ctx, &k, condition, told)
		e.Removed += removed
	}
	if begun && !retry.Waits(err) && ctx.Err() == nil {
		noted := s.conn.QueryRow(ctx, `
			INSERT INTO tributary.retention AS r (grp, topic, target_schema, target_table, ran_at, cutoff, removed, removed_ever)
			VALUES ($1, $2, $3, $4, least(now(), $7::timestamptz), coalesce($5, to_timestamp(0)), $6, 0)
			ON CONFLICT (grp, topic) DO UPDATE SET target_schema = excluded.target_schema, target_table = excluded.target_table, ran_at = excluded.ran_at,
			    cutoff = coalesce($5, r.cutoff), removed = excluded.removed
			RETURNING ran_at, cutoff, removed_ever`,
			s.w.cfg.Group, k.Topic, k.Target.Schema, k.Target.Table, reached(cutoff, err), e.Removed, hostClock()).Scan(&e.RanAt, &e.Cutoff, &e.Ever)
		err = cmp.Or(err, noted)
	}
	return e, s.removing("remove old rows from", k.Target, "they stay, and with them may others that are too old; all else goes on", err)
}

// reached is a cutoff, none after an error: there may be rows from before it.
func reached(cutoff time.Time, err error) *time.Time {
	if err != nil {
		return nil
	}
	return &cutoff
}

func (s *Session) expire(ctx context.Context, k *Keep, condition string, told func(rows int64) error) (removed int64, err error) {
	drops, cause, err := s.cascades(ctx, s.conn, k.Target)
	if err == nil && drops != "" {
		err = &trouble.Error{
			Code: trouble.TargetType, Op: "remove old rows from", Subject: fmt.Sprintf("table %q", k.Target.String()), Cause: errors.New(cause),
			Means: "no row is removed from it; all else goes on", Hint: drops,
		}
	}
	if err != nil {
		return 0, err
	}
	list := s.leaves
	if k.Drop != "" {
		list = s.loose
	}
	leaves, err := list(ctx, k.Target)
	if err != nil {
		return 0, err
	}
	stay, err := s.removePieces(ctx, leaves, pieces{
		condition: condition, lock: "FOR UPDATE SKIP LOCKED", rows: expireRows,
		with: func(ctx context.Context, tx pgx.Tx, rows int64) error {
			return s.retained(ctx, tx, k.Target, k.Topic, rows)
		},
		told: func(rows int64) error {
			removed += rows
			return told(rows)
		},
	})
	if err == nil && stay > 0 {
		err = kept(k.Target, stay, "remove old rows from", "they stay, and with them may others that are too old; all else goes on")
	}
	return removed, err
}
