package warehouse

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/schema/change"
)

// Checkpoint is how far a partition is applied, by whichever sink of the group.
type Checkpoint struct {
	Place
	Next       int64           // offset of the first record not applied
	Position   change.Position // of the last record applied
	Barrier    change.Position // of the TRUNCATE that it has come to last, see Barred
	Rows       int64           // applied ever
	AppliedAt  *time.Time      // when it was moved last; nil: never
	LastCommit *time.Time      // at the source, of the last change applied
	Owner      string          // the sink that claimed it; "" where it was moved since, from outside
}

// Barred says whether it waits for the other partitions at a TRUNCATE.
func (c *Checkpoint) Barred() bool { return c.Barrier.Compare(c.Position) > 0 }

// Group gives all checkpoints of the group, in order of topic and partition: what its members know of each other.
func (s *Session) Group(ctx context.Context) ([]Checkpoint, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT topic, partition, next_offset, era, lsn::text, seq, barrier_era, barrier_lsn::text, barrier_seq,
		       applied_rows, applied_at, last_commit_ts, coalesce(owner, '')
		  FROM tributary.checkpoint WHERE grp = $1 ORDER BY 1, 2`, s.w.cfg.Group)
	if err != nil {
		return nil, s.broken("read", "tributary.checkpoint", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c Checkpoint, err error) {
		var eras [2]int32
		var lsns [2]string
		var seqs [2]int64
		if err = row.Scan(&c.Topic, &c.Partition, &c.Next, &eras[0], &lsns[0], &seqs[0], &eras[1], &lsns[1], &seqs[1], &c.Rows, &c.AppliedAt, &c.LastCommit, &c.Owner); err != nil {
			return c, err
		}
		if c.Position, err = position(eras[0], lsns[0], seqs[0]); err == nil {
			c.Barrier, err = position(eras[1], lsns[1], seqs[1])
		}
		return c, err
	})
	if err != nil {
		return nil, s.broken("read", "tributary.checkpoint", err)
	}
	return all, nil
}

// Member is a sink of the group, as the checkpoints know it.
type Member struct {
	Instance   string
	Partitions int
	AppliedAt  *time.Time // when it wrote last; nil if it never did
}

// Members gives the sinks that own checkpoints, by name.
func Members(all []Checkpoint) (members []Member) {
	for i := range all {
		c := &all[i]
		if c.Owner == "" {
			continue
		}
		at, known := slices.BinarySearchFunc(members, c.Owner, func(m Member, name string) int { return strings.Compare(m.Instance, name) })
		if !known {
			members = slices.Insert(members, at, Member{Instance: c.Owner})
		}
		m := &members[at]
		m.Partitions++
		if c.AppliedAt != nil && (m.AppliedAt == nil || c.AppliedAt.After(*m.AppliedAt)) {
			m.AppliedAt = c.AppliedAt
		}
	}
	return members
}
