package warehouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// TablePartition is one of a target that retention makes, detaches, or has detached and drops.
type TablePartition struct {
	Target rule.Target
	Name   rule.Target
	Rows   int64 // that are in it; of one that is made, those that the default partition had
	Deed   Deed
	Bounds string           // "FOR VALUES FROM (…) TO (…)"
	Of     map[string]int64 // rows by topic, of one that goes

	oid  uint32
	span period
}

// Deed is what becomes of a partition.
type Deed string

// The deeds.
const (
	Made     Deed = "made"
	Detached Deed = "detached"
	Dropped  Deed = "dropped" // it was detached before, and its time is over
)

func (p *TablePartition) quoted() string { return postgres.Ident(p.Name.Schema, p.Name.Table) }

// detachWait is how long a reader may wait behind a detach that waits for another reader: a detach has the target for
// itself for a moment. DETACH CONCURRENTLY would not, but is refused where there is a default partition, is no part of a
// transaction that also notes what was done, and leaves a half-detached partition if it is ended.
const detachWait = "500ms"

// bounded lists the partitions below a target, with where they end: NULL for the default one and those without end.
// A partition that somebody else is detaching is left out.
const bounded = `
	SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds,
	       CASE WHEN c.relkind IN ('r', 'p') THEN substring(pg_get_expr(c.relpartbound, c.oid) FROM ' TO \(''([^'']*)''\)$') END AS upto
	  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	 WHERE i.inhparent = $1::text::regclass AND NOT i.inhdetachpending`

// ranged says whether a target is partitioned by ranges of a column alone.
func ranged(ctx context.Context, db reader, target rule.Target, by string) (ok bool, err error) {
	err = db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid
		  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
		 WHERE n.nspname = $1 AND c.relname = $2 AND p.partstrat = 'r' AND p.partnatts = 1 AND a.attname = $3)`, target.Schema, target.Table, by).Scan(&ok)
	return ok, err
}

// loose gives the tables whose rows are in no partition that is dropped as a whole.
func (s *Session) loose(ctx context.Context, target rule.Target) ([]string, error) {
	return s.tables(ctx, target, `
		SELECT n.nspname::text, l.relname::text
		  FROM (`+bounded+`) b, pg_partition_tree(b.oid) t JOIN pg_class l ON l.oid = t.relid JOIN pg_namespace n ON n.oid = l.relnamespace
		 WHERE b.upto IS NULL AND l.relkind = 'r' ORDER BY 1, 2`)
}

// oldPartitions finds what is to be done for a target; keeps are all of it that say drop. tooOld are the conditions that a
// row t of each may go.
func (s *Session) oldPartitions(ctx context.Context, keeps []Keep) (list []TablePartition, tooOld []string, err error) {
	target := keeps[0].Target
	refused := func(code trouble.Code, hint, cause string, args ...any) error {
		return &trouble.Error{
			Code: code, Op: "drop old partitions of", Subject: fmt.Sprintf("table %q", target.String()), Cause: fmt.Errorf(cause, args...),
			Means: "no partition of it is dropped; all else goes on", Hint: hint,
		}
	}
	var topics, graces []string
	var until time.Time // of ages that differ, the greatest tells
	for i := range keeps {
		k := &keeps[i]
		if k.By != keeps[0].By {
			return nil, nil, refused(trouble.RuleConflict, "give its rules the same by", "its rules say by: %s and by: %s", keeps[0].By, k.By)
		}
		condition, cutoff, err := s.expiry(ctx, k)
		if err != nil || condition == "" {
			return nil, nil, err
		}
		if until.IsZero() || cutoff.Before(until) {
			until = cutoff
		}
		topics, graces = append(topics, k.Topic), append(graces, string(k.Drop))
		tooOld = append(tooOld, condition)
	}
	var other *string
	if err := s.conn.QueryRow(ctx, `SELECT min(topic) FROM tributary.feed
		 WHERE target_schema = $1 AND target_table = $2 AND NOT (grp = $3 AND topic = ANY ($4))`,
		target.Schema, target.Table, s.w.cfg.Group, topics).Scan(&other); err != nil {
		return nil, nil, err
	}
	if other != nil {
		return nil, nil, refused(trouble.RuleConflict, "give all rules for it the same keep, by and drop, or leave drop out: then rows are removed one by one",
			"topic %q writes it as well, by a rule without drop or in another group", *other)
	}
	have, err := readColumns(ctx, s.conn, target)
	if err != nil {
		return nil, nil, err
	}
	name, by := postgres.Ident(target.Schema, target.Table), have.column(keeps[0].By)
	ok, err := ranged(ctx, s.conn, target, by.name)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, refused(trouble.TargetType, "create it so, or leave drop out of the rule: then rows are removed one by one",
			"it is not partitioned by ranges of column %q alone", by.name)
	}
	rows, err := s.conn.Query(ctx, fmt.Sprintf(`
		WITH old AS MATERIALIZED (%s)
		SELECT old.oid, old.schema, old.name, old.bounds, 'detached' FROM old WHERE old.upto::%s <= $2::text::%[2]s
		UNION ALL
		SELECT d.partition, d.partition_schema, d.partition_table, d.bounds, 'dropped'
		  FROM `+detachedStill+`
		 WHERE d.grp = $3 AND d.target_schema = $4 AND d.target_table = $5
		   AND d.detached_at + (SELECT max(g::interval) FROM unnest($6::text[]) g) <= least(now(), $7::timestamptz)
		 ORDER BY 5, 4`, bounded, by.base), name, until.UTC().Format("2006-01-02 15:04:05.999999+00"), s.w.cfg.Group, target.Schema, target.Table, graces, hostClock())
	if err != nil {
		return nil, nil, err
	}
	list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (TablePartition, error) {
		p := TablePartition{Target: target}
		err := row.Scan(&p.oid, &p.Name.Schema, &p.Name.Table, &p.Bounds, &p.Deed)
		return p, err
	})
	return list, tooOld, err
}

// count counts the rows, those of each feed by itself, and refuses a partition with one that may not go: of nobody whose
// rule says keep, say.
func (s *Session) count(ctx context.Context, p *TablePartition, keeps []Keep, tooOld []string) error {
	var each []string
	for _, condition := range tooOld {
		each = append(each, fmt.Sprintf("count(*) FILTER (WHERE %s)", condition))
	}
	var of []int64
	if err := s.conn.QueryRow(ctx, fmt.Sprintf("SELECT count(*), ARRAY[%s] FROM %s t", strings.Join(each, ", "), p.quoted())).Scan(&p.Rows, &of); err != nil {
		return err
	}
	stay := p.Rows
	p.Of = map[string]int64{}
	for i, n := range of {
		p.Of[keeps[i].Topic], stay = n, stay-n // a row is of one feed: others of the target have another sid
	}
	if stay > 0 {
		return &trouble.Error{
			Code: trouble.RuleConflict, Op: "drop old partition of", Subject: fmt.Sprintf("table %q", p.Target.String()),
			Cause: fmt.Errorf("%q holds %d rows that no rule with keep lets go", p.Name.String(), stay),
			Means: "it stays as it is; other partitions and all else go on",
			Hint:  "move those rows, or leave drop out of the rule: then rows are removed one by one",
		}
	}
	return nil
}

// PlanPartitions tells what DropPartitions would do now.
func (s *Session) PlanPartitions(ctx context.Context, keeps []Keep, told func(TablePartition)) error {
	return s.eachPartition(ctx, keeps, "look for old partitions of", func(p *TablePartition) error {
		told(*p)
		return nil
	})
}

// DropPartitions detaches the partitions of a target that are too old, within Retain, and drops those whose time after
// that is over. keeps are all feeds of the target whose rule says drop. Of a target that somebody reads for long, a
// partition is left for the next time, with an error.
func (s *Session) DropPartitions(ctx context.Context, keeps []Keep, told func(TablePartition)) error {
	target := keeps[0].Target
	err := s.eachPartition(ctx, keeps, "drop old partitions of", func(p *TablePartition) error {
		err := pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
			if p.Deed == Dropped {
				return p.drop(ctx, tx)
			}
			if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '`+detachWait+`'`); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", postgres.Ident(target.Schema, target.Table), p.quoted())); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `INSERT INTO tributary.detached VALUES ($1, $2, $3, $4, $5, $6, $7, greatest(now(), $8::timestamptz))
				ON CONFLICT (grp, partition) DO UPDATE SET target_schema = excluded.target_schema, target_table = excluded.target_table,
				    partition_schema = excluded.partition_schema, partition_table = excluded.partition_table,
				    bounds = excluded.bounds, detached_at = excluded.detached_at`,
				s.w.cfg.Group, target.Schema, target.Table, p.oid, p.Name.Schema, p.Name.Table, p.Bounds, hostClock())
			for topic, rows := range p.Of {
				if err == nil && rows > 0 {
					err = s.retained(ctx, tx, target, topic, rows)
				}
			}
			return err
		})
		if err == nil {
			told(*p)
		}
		return err
	})
	// Of those that are dropped, or that somebody has attached again, renamed or moved, nothing is remembered.
	_, forget := s.conn.Exec(ctx, `
		DELETE FROM tributary.detached d WHERE d.grp = $1 AND d.target_schema = $2 AND d.target_table = $3
		   AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		         WHERE c.oid = d.partition AND c.relname = d.partition_table AND n.nspname = d.partition_schema AND NOT c.relispartition)`,
		s.w.cfg.Group, target.Schema, target.Table)
	if forget == nil {
		// Their time is over when it is by both clocks. Of one that was ahead meanwhile, and has been put right, it begins anew.
		_, forget = s.conn.Exec(ctx, `
			UPDATE tributary.detached SET detached_at = greatest(now(), $4::timestamptz)
			 WHERE grp = $1 AND target_schema = $2 AND target_table = $3 AND detached_at > greatest(now(), $4::timestamptz)`,
			s.w.cfg.Group, target.Schema, target.Table, hostClock())
	}
	if forget != nil {
		err = errors.Join(err, s.broken("write", "tributary.detached", forget))
	}
	return err
}

// drop drops a partition that was detached, if it still is. It was looked for a while ago, perhaps by a sink that was stopped since: somebody may
// have attached it again, or have given its name to another table.
func (p *TablePartition) drop(ctx context.Context, tx pgx.Tx) error {
	var still bool
	_, err := tx.Exec(ctx, "LOCK TABLE "+p.quoted()+" IN ACCESS EXCLUSIVE MODE")
	if err == nil {
		err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class WHERE oid = $1 AND oid = $2::text::regclass AND NOT relispartition)`, p.oid, p.quoted()).Scan(&still)
	}
	if err == nil && !still {
		err = &trouble.Error{
			Code: trouble.RuleConflict, Op: "drop old partition of", Subject: fmt.Sprintf("table %q", p.Target.String()),
			Cause: fmt.Errorf("%q is attached again, or another table", p.Name.String()), Means: "it stays as it is; other partitions and all else go on",
		}
	}
	if err == nil {
		_, err = tx.Exec(ctx, "DROP TABLE "+p.quoted())
	}
	return err
}

// retained adds the rows that go with a partition to those that retention has removed.
func (s *Session) retained(ctx context.Context, tx pgx.Tx, target rule.Target, topic string, rows int64) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO tributary.retention AS r (grp, topic, target_schema, target_table, ran_at, cutoff, removed, removed_ever)
		VALUES ($1, $2, $3, $4, least(now(), $6::timestamptz), to_timestamp(0), $5, $5)
		ON CONFLICT (grp, topic) DO UPDATE SET removed_ever = r.removed_ever + excluded.removed_ever`,
		s.w.cfg.Group, topic, target.Schema, target.Table, rows, hostClock())
	return err
}

// eachPartition does something for each old partition; an error of one does not keep it from the others.
func (s *Session) eachPartition(ctx context.Context, keeps []Keep, op string, do func(p *TablePartition) error) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	target := keeps[0].Target
	list, tooOld, err := s.oldPartitions(ctx, keeps)
	if err != nil {
		return s.removing(op, target, "its old partitions stay as they are; all else goes on", err)
	}
	var failed []error
	for i := range list {
		err := s.count(ctx, &list[i], keeps, tooOld)
		if err == nil {
			err = do(&list[i])
		}
		if err != nil {
			failed = append(failed, s.removing(op, target, "it stays as it is; other partitions and all else go on", err))
		}
	}
	return errors.Join(failed...)
}
