package warehouse

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/sink/rule"
)

// detachedStill are the partitions d that retention has detached and not dropped yet, nor has somebody dropped, attached again, renamed or moved them.
const detachedStill = `tributary.detached d JOIN pg_class c ON c.oid = d.partition AND c.relname = d.partition_table AND NOT c.relispartition
	JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = d.partition_schema`

// forsaken is the condition that no topic writes the target of such a partition any more, of whichever group.
const forsaken = `NOT EXISTS (SELECT FROM tributary.feed f WHERE f.target_schema = d.target_schema AND f.target_table = d.target_table)`

// detached gives those of the group, of a target; of those that nobody writes with nil.
func (s *Session) detached(ctx context.Context, target *rule.Target) ([]TablePartition, error) {
	sql, args := `SELECT d.target_schema, d.target_table, d.partition, d.partition_schema, d.partition_table, d.bounds FROM `+detachedStill+` WHERE d.grp = $1 AND `, []any{s.w.cfg.Group}
	if target == nil {
		sql += forsaken
	} else {
		sql, args = sql+`d.target_schema = $2 AND d.target_table = $3`, append(args, target.Schema, target.Table)
	}
	rows, err := s.conn.Query(ctx, sql+` ORDER BY 1, 2, 4, 5`, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (TablePartition, error) {
		p := TablePartition{Deed: Dropped}
		err := row.Scan(&p.Target.Schema, &p.Target.Table, &p.oid, &p.Name.Schema, &p.Name.Table, &p.Bounds)
		return p, err
	})
}

// empty says whether nothing is in it.
func (p *TablePartition) empty(ctx context.Context, db querier) (empty bool, err error) {
	err = db.QueryRow(ctx, fmt.Sprintf("SELECT NOT EXISTS (SELECT FROM %s)", p.quoted())).Scan(&empty)
	return empty, err
}

// PlanForsaken tells what DropForsaken would do now.
func (s *Session) PlanForsaken(ctx context.Context, told func(TablePartition)) error {
	return s.eachForsaken(ctx, "look for old partitions of", func(p *TablePartition) error {
		told(*p)
		return nil
	})
}

// DropForsaken drops the partitions that were detached of targets that nobody writes any more, as their sources were removed, if nothing is in them: no rule says
// after which time. It is done within Retain.
func (s *Session) DropForsaken(ctx context.Context, told func(TablePartition)) error {
	err := s.eachForsaken(ctx, "drop old partitions of", func(p *TablePartition) error {
		empty := false
		err := pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
			// Locked before it is looked at once more: a person may be about to put rows into it.
			_, err := tx.Exec(ctx, "LOCK TABLE "+p.quoted()+" IN ACCESS EXCLUSIVE MODE")
			if err == nil {
				empty, err = p.empty(ctx, tx)
			}
			if err == nil && empty {
				err = p.drop(ctx, tx)
			}
			return err
		})
		if err == nil && empty {
			told(*p)
		}
		return err
	})
	_, forget := s.conn.Exec(ctx, `DELETE FROM tributary.detached d WHERE d.grp = $1 AND `+forsaken+` AND d.partition NOT IN (SELECT d.partition FROM `+detachedStill+`)`, s.w.cfg.Group)
	if forget != nil {
		err = errors.Join(err, s.broken("write", "tributary.detached", forget))
	}
	return err
}

// eachForsaken does something for each of them that is empty; an error of one does not keep it from the others.
func (s *Session) eachForsaken(ctx context.Context, op string, do func(p *TablePartition) error) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	list, err := s.detached(ctx, nil)
	if err != nil {
		return s.broken("read", "tributary.detached", err)
	}
	var failed []error
	for i := range list {
		p := &list[i]
		empty, err := p.empty(ctx, s.conn)
		if err == nil && empty {
			err = do(p)
		}
		if err != nil {
			failed = append(failed, s.removing(op, p.Target, "it stays as it is; other partitions and all else go on", err))
		}
	}
	return errors.Join(failed...)
}
