package warehouse

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/schema/change"
)

// Quarantine is a partition that is held at its checkpoint by an error, until its row in tributary.quarantine is
// deleted or it is claimed anew.
type Quarantine struct {
	Topic     string
	Partition int32
	Next      int64 // offset at which it is held
	Source    string
	Table     string // schema.table at the source
	Code      string
	Message   string
	Hint      string
	Since     time.Time
	Attempt   int64  // grows with each attempt that failed; in Hold that of the claim under which it failed, 0 for none
	Remedy    Remedy // what somebody asked for; in Hold what the claim was asked for
}

// Name is that of what is held, as verbs want it.
func (q *Quarantine) Name() string {
	if q.Table == "" {
		return q.Source // which is written as a whole
	}
	return q.Source + "/" + q.Table
}

// Part names the partition that is held, for its offsets: of a table, or of the progress of a source.
func (q *Quarantine) Part() string {
	if q.Table == "" {
		return "topic " + q.Topic
	}
	return fmt.Sprintf("%s partition %d", q.Name(), q.Partition)
}

// Hold writes a quarantine. The same error at the same offset keeps its Since.
//
// What somebody asked for since the partition was claimed is not for the attempt that fails now, which may have begun before
// something was mended: a quarantine that has been ended is not written again, and a remedy stays.
func (s *Session) Hold(ctx context.Context, q Quarantine) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	_, err := s.conn.Exec(ctx, `
		INSERT INTO tributary.quarantine AS q (grp, topic, partition, next_offset, source, table_name, code, message, hint, instance)
		SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
		 WHERE $11::bigint = 0 OR EXISTS (SELECT FROM tributary.quarantine WHERE grp = $1 AND topic = $2 AND partition = $3 AND attempt = $11)
		ON CONFLICT (grp, topic, partition) DO UPDATE
		   SET since = CASE WHEN q.next_offset = excluded.next_offset AND q.code = excluded.code THEN q.since ELSE now() END,
		       next_offset = excluded.next_offset, code = excluded.code, message = excluded.message, hint = excluded.hint, instance = excluded.instance,
		       park = q.park AND $12 AND q.attempt = $11 AND q.next_offset = excluded.next_offset,
		       skip = q.skip AND $12 AND q.attempt = $11 AND q.next_offset = excluded.next_offset,
		       attempt = nextval('tributary.quarantine_attempt')`,
		s.w.cfg.Group, q.Topic, q.Partition, q.Next, q.Source, q.Table, q.Code, q.Message, q.Hint, s.w.cfg.Instance, q.Attempt, q.Remedy == TryAgain)
	if err != nil {
		return s.broken("quarantine", partitionName(q.Topic, q.Partition), err)
	}
	return nil
}

// Recovered deletes the quarantine of a partition whose attempt went well.
func (s *Session) Recovered(ctx context.Context, topic string, partition int32, attempt int64) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	_, err := s.conn.Exec(ctx, `DELETE FROM tributary.quarantine WHERE grp = $1 AND topic = $2 AND partition = $3 AND attempt = $4`,
		s.w.cfg.Group, topic, partition, attempt)
	if err != nil {
		return s.broken("end quarantine of", partitionName(topic, partition), err)
	}
	return nil
}

// Quarantines lists those of the group.
func (s *Session) Quarantines(ctx context.Context) ([]Quarantine, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT topic, partition, next_offset, source, table_name, code, message, hint, since, attempt, CASE WHEN park THEN $2 WHEN skip THEN $3 ELSE '' END
		  FROM tributary.quarantine WHERE grp = $1 ORDER BY topic, partition`, s.w.cfg.Group, string(Park), string(Skip))
	if err != nil {
		return nil, s.broken("read", "tributary.quarantine", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (q Quarantine, err error) {
		err = row.Scan(&q.Topic, &q.Partition, &q.Next, &q.Source, &q.Table, &q.Code, &q.Message, &q.Hint, &q.Since, &q.Attempt, &q.Remedy)
		return q, err
	})
	if err != nil {
		return nil, s.broken("read", "tributary.quarantine", err)
	}
	return out, nil
}

// Barrier is where one partition of a topic is with respect to TRUNCATEs, which are in every partition at the same
// position.
type Barrier struct {
	Partition int32
	Applied   change.Position // everything up to here is in
	Waiting   change.Position // at this TRUNCATE; zero for none
	Owner     string          // instance that claimed it last, "" for none
}

// At says whether the partition has come to a TRUNCATE, or is past it.
func (b *Barrier) At(truncate change.Position) bool {
	return b.Applied.Compare(truncate) >= 0 || b.Waiting.Compare(truncate) >= 0
}

// Barriers gives the partitions of a topic that any sink of the group has ever claimed, in order.
func (s *Session) Barriers(ctx context.Context, topic string) ([]Barrier, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT partition, era, lsn::text, seq, barrier_era, barrier_lsn::text, barrier_seq, coalesce(owner, '')
		  FROM tributary.checkpoint WHERE grp = $1 AND topic = $2 ORDER BY partition`, s.w.cfg.Group, topic)
	if err == nil {
		var out []Barrier
		out, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (b Barrier, err error) {
			var eras [2]int32
			var lsns [2]string
			var seqs [2]int64
			if err := row.Scan(&b.Partition, &eras[0], &lsns[0], &seqs[0], &eras[1], &lsns[1], &seqs[1], &b.Owner); err != nil {
				return b, err
			}
			if b.Applied, err = position(eras[0], lsns[0], seqs[0]); err != nil {
				return b, err
			}
			b.Waiting, err = position(eras[1], lsns[1], seqs[1])
			return b, err
		})
		if err == nil {
			return out, nil
		}
	}
	return nil, s.broken("read checkpoints of", fmt.Sprintf("topic %q", topic), err)
}
