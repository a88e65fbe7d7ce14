package warehouse

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Presence is what a sink of the group says of itself.
type Presence struct {
	Instance string
	Host     string
	Version  string    // of the program
	Since    time.Time // start of the process
	Memory   int64     // bytes that the process holds
	Busy     float64   // share of the last minute, of the stage that most of it went into

	// Not of the own one.
	SeenAt time.Time     // when it said so last
	Age    time.Duration // how long ago that was when it was read, by the warehouse's clock
	Ended  bool          // it has said that it ends
}

const (
	// beatPatience is how long a beat waits for a lock: nothing else that its session does is to wait behind it.
	beatPatience = 100 * time.Millisecond
	// MemberForgotten is how long a sink has said nothing when it counts as gone.
	MemberForgotten = 10 * time.Minute
)

const presencesSQL = `
	SELECT instance, host, version, since, memory_bytes, busy_share, seen_at, extract(epoch FROM clock_timestamp() - seen_at)::float8, ended
	  FROM tributary.member WHERE grp = $1 ORDER BY instance`

// Beat writes down what this sink says of itself, and gives what all of the group have said. Sinks of the group that are gone are
// forgotten; those that checkpoints still name are kept, for it to be known that they are gone.
func (s *Session) Beat(ctx context.Context, own Presence) (all []Presence, err error) {
	err = s.aside(ctx, "write", func(tx pgx.Tx) error {
		var beat pgx.Batch
		beat.Queue(`
			INSERT INTO tributary.member AS m (grp, instance, host, version, since, memory_bytes, busy_share, seen_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp())
			ON CONFLICT (grp, instance) DO UPDATE SET memory_bytes = excluded.memory_bytes, busy_share = excluded.busy_share, seen_at = excluded.seen_at, ended = false`,
			s.w.cfg.Group, s.w.cfg.Instance, own.Host, own.Version, own.Since, own.Memory, own.Busy)
		beat.Queue(`
			DELETE FROM tributary.member m
			 WHERE grp = $1 AND seen_at < clock_timestamp() - make_interval(secs => $2)
			   AND NOT EXISTS (SELECT FROM tributary.checkpoint c WHERE c.grp = $1 AND c.owner = m.instance)`, s.w.cfg.Group, MemberForgotten.Seconds())
		beat.Queue(presencesSQL, s.w.cfg.Group).Query(func(rows pgx.Rows) (err error) {
			all, err = pgx.CollectRows(rows, presence)
			return err
		})
		return tx.SendBatch(ctx, &beat).Close()
	})
	return all, err
}

// Leave writes down that this sink ends.
func (s *Session) Leave(ctx context.Context) error {
	return s.aside(ctx, "write", func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE tributary.member SET ended = true, seen_at = clock_timestamp() WHERE grp = $1 AND instance = $2`, s.w.cfg.Group, s.w.cfg.Instance)
		return err
	})
}

// Presences gives what the sinks of the group have said of themselves, by name; none where the own tables are of a version before.
func (s *Session) Presences(ctx context.Context) (all []Presence, err error) {
	err = s.aside(ctx, "read", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, presencesSQL, s.w.cfg.Group)
		if err == nil {
			all, err = pgx.CollectRows(rows, presence)
		}
		return err
	})
	if trouble.CodeOf(err) == trouble.TargetMissing {
		return nil, nil
	}
	return all, err
}

func presence(row pgx.CollectableRow) (p Presence, err error) {
	var age float64
	err = row.Scan(&p.Instance, &p.Host, &p.Version, &p.Since, &p.Memory, &p.Busy, &p.SeenAt, &age, &p.Ended)
	p.Age = time.Duration(age * float64(time.Second))
	return p, err
}

// aside runs do in a transaction that waits for nobody: neither long for a lock, nor for a disk or a standby.
func (s *Session) aside(ctx context.Context, op string, do func(tx pgx.Tx) error) error {
	return s.inTx(ctx, op, "tributary.member", func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d; SET LOCAL synchronous_commit = off", beatPatience.Milliseconds())); err != nil {
			return err
		}
		return do(tx)
	})
}
