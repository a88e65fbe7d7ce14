package nemesis

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/schema/change"
)

// sampleEvery is how often the sampler looks.
const sampleEvery = 100 * time.Millisecond

// sampler looks at what must hold at any moment, while everything breaks.
type sampler struct {
	conn        *pgx.Conn // to the warehouse, of the last look
	m           *machine
	checkpoints map[string]checkpoint
	complete    map[string]change.LSN // of tributary.progress, by group
	troubles    map[string]bool
}

type checkpoint struct {
	epoch, next int64
	position    change.Position
}

// sample looks until ctx ends. A server that does not answer is no news.
func (m *machine) sample(ctx context.Context) {
	s := &sampler{m: m, checkpoints: map[string]checkpoint{}, complete: map[string]change.LSN{}, troubles: map[string]bool{}}
	var source, warehouse *pgx.Conn
	defer func() {
		for _, conn := range []*pgx.Conn{source, warehouse} {
			if conn != nil {
				_ = conn.Close(context.WithoutCancel(ctx))
			}
		}
	}()
	for ctx.Err() == nil {
		_ = look(ctx, &warehouse, m.warehouse.DSN("postgres"), s.warehouse)
		_ = look(ctx, &source, m.source.DSN("postgres"), s.source)
		wait(ctx, sampleEvery)
	}
}

// look asks a server something over a connection that is kept, and made anew after an error.
func look(ctx context.Context, conn **pgx.Conn, dsn string, what func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var err error
	if *conn == nil {
		*conn, err = pgx.Connect(ctx, dsn)
	}
	if err == nil {
		err = what(ctx, *conn)
	}
	if err != nil && *conn != nil {
		_ = (*conn).Close(ctx)
		*conn = nil
	}
	return err
}

func (s *sampler) warehouse(ctx context.Context, conn *pgx.Conn) error {
	// A server that was killed has lost what it had confirmed last; sink commits without waiting for the disk. Claims do wait.
	again := conn != s.conn
	if s.conn = conn; again {
		clear(s.complete)
	}
	rows, err := conn.Query(ctx, `SELECT grp || ': ' || topic || '/' || partition, owner_epoch, next_offset, era, lsn::text, seq FROM tributary.checkpoint`)
	if err != nil {
		return err
	}
	var name, lsn string
	var now checkpoint
	var era int32
	var seq int64
	_, err = pgx.ForEachRow(rows, []any{&name, &now.epoch, &now.next, &era, &lsn, &seq}, func() error {
		commit, err := change.ParseLSN(lsn)
		now.position = change.Position{Era: uint16(era), CommitLSN: commit, Seq: uint64(seq)}
		was := s.checkpoints[name]
		if now.epoch < was.epoch || !again && (now.next < was.next || now.position.Compare(was.position) < 0) {
			s.m.find("checkpoint of %s went back: from epoch %d offset %d position %s to epoch %d offset %d position %s",
				name, was.epoch, was.next, was.position, now.epoch, now.next, now.position)
		}
		s.checkpoints[name] = now
		return err
	})
	if err != nil {
		return err
	}
	rows, err = conn.Query(ctx, `SELECT grp, complete_lsn::text FROM tributary.progress WHERE complete_lsn IS NOT NULL`)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, []any{&name, &lsn}, func() error {
		to, err := change.ParseLSN(lsn)
		if to < s.complete[name] {
			s.m.find("tributary.progress of group %s went back from %s to %s", name, s.complete[name], to)
		}
		s.complete[name] = to
		return err
	})
	if err != nil {
		return err
	}
	rows, err = conn.Query(ctx, `SELECT grp || ': ' || topic || '/' || partition || ' at ' || next_offset || ': ' || code || ': ' || message FROM tributary.quarantine`)
	if err != nil {
		return err
	}
	troubles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, t := range troubles {
		if !s.troubles[t] {
			s.troubles[t] = true
			s.m.find("quarantine: %s", t)
		}
	}
	return err
}

func (s *sampler) source(ctx context.Context, conn *pgx.Conn) error {
	var lsn *string
	var kept int64
	err := conn.QueryRow(ctx, `SELECT confirmed_flush_lsn::text, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint
		FROM pg_replication_slots WHERE slot_name = $1`, slotName).Scan(&lsn, &kept)
	if err != nil || lsn == nil {
		return err
	}
	s.m.note(func(r *Report) { r.WALKept = max(r.WALKept, kept) })
	if kept > walBudget {
		s.m.find("the slot keeps %d MiB of WAL, its budget is %d MiB", kept>>20, walBudget>>20)
	}
	confirmed, err := change.ParseLSN(*lsn)
	if err != nil {
		return fmt.Errorf("read confirmed LSN: %w", err)
	}
	s.m.checker.confirmedAt(time.Now(), confirmed)
	return nil
}
