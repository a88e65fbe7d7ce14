package warehouse

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// Ruled is a partition with what its rule makes of rows, as text: see rule.Meaning.
type Ruled struct {
	Place
	Rule string
}

// Former is a rule under which rows of a topic were written that have not come again since.
type Former struct {
	Topic string
	Rule  string    // "" where rows were lost otherwise, as the target, or a column of it, was gone and made anew
	Lost  string    // how: a sentence
	Until time.Time // by the warehouse's clock
}

// former is one in tributary.rule. What the partition had applied by then stands at, or before, the position.
type former struct {
	Rule  string     `json:"rule,omitempty"`
	Lost  string     `json:"lost,omitempty"`
	Until time.Time  `json:"until"`
	Era   uint16     `json:"era"`
	LSN   record.LSN `json:"lsn"`
}

// noRows stands for fewer than nothing is: whatever is applied was so under the rule.
const noRows = -1

// maxFormer bounds how many are kept of a partition, the newest.
const maxFormer = 8

// TakeRules notes under which rules partitions are written from now on. They have been claimed, and nothing was written since. It gives
// the topics of which rows are there that were written under another one.
//
// It is noted for each partition, not each topic: while sinks are started anew with another configuration, one after the other, some
// partitions are written by the new rule and others by the old one.
func (s *Session) TakeRules(ctx context.Context, parts []Ruled) (changed []string, err error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	topics, numbers, rules := make([]string, len(parts)), make([]int32, len(parts)), make([]string, len(parts))
	for i, p := range parts {
		topics[i], numbers[i], rules[i] = p.Topic, p.Partition, p.Rule
	}
	// A partition of which nothing is applied has no rows. Neither the rows nor the rules of a topic that was made anew count: it is not written.
	rows, err := s.conn.Query(ctx, `
		SELECT s.topic, s.partition, s.rule, c.applied_rows, c.era, c.lsn::text, now(), coalesce(r.rule, ''), coalesce(r.rows, 0), coalesce(r.former::text, '[]')
		  FROM unnest($2::text[], $3::int[], $4::text[]) AS s(topic, partition, rule)
		  JOIN tributary.checkpoint c ON c.grp = $1 AND c.topic = s.topic AND c.partition = s.partition
		  LEFT JOIN tributary.rule r ON r.grp = $1 AND r.topic = s.topic AND r.partition = s.partition
		 WHERE r.rule IS DISTINCT FROM s.rule`, s.w.cfg.Group, topics, numbers, rules)
	if err != nil {
		return nil, s.broken("read", "tributary.rule", err)
	}
	var batch pgx.Batch
	var topic, is, was, lsn string
	var number, era int32
	var applied, since int64
	var now time.Time
	var raw []byte
	_, err = pgx.ForEachRow(rows, []any{&topic, &number, &is, &applied, &era, &lsn, &now, &was, &since, &raw}, func() error {
		var kept []former
		if err := json.Unmarshal(raw, &kept); err != nil {
			return err
		}
		at, err := position(era, lsn, 0)
		if err != nil {
			return err
		}
		from := applied
		if was == "" || slices.ContainsFunc(kept, func(f former) bool { return f.Rule == is }) {
			from = noRows // there are rows that it has made, if there are any
		}
		kept = slices.DeleteFunc(kept, func(f former) bool { return applied == 0 || f.Lost == "" && f.Rule == is })
		if was != "" && applied > max(since, 0) {
			kept = slices.DeleteFunc(kept, func(f former) bool { return f.Lost == "" && f.Rule == was })
			kept = append(kept, former{Rule: was, Until: now, Era: at.Era, LSN: record.LSN(at.CommitLSN)})
		}
		if len(kept) > 0 && !slices.Contains(changed, topic) {
			changed = append(changed, topic)
		}
		text, err := json.Marshal(kept[max(0, len(kept)-maxFormer):])
		if err != nil {
			return err
		}
		batch.Queue(`
			INSERT INTO tributary.rule (grp, topic, partition, rule, rows, former) VALUES ($1, $2, $3, $4, $5, coalesce(nullif($6, 'null'), '[]')::jsonb)
			ON CONFLICT (grp, topic, partition) DO UPDATE SET rule = excluded.rule, rows = excluded.rows, former = excluded.former`,
			s.w.cfg.Group, topic, number, is, from, string(text))
		return nil
	})
	if err == nil && batch.Len() > 0 {
		err = s.conn.SendBatch(ctx, &batch).Close()
	}
	if err != nil {
		return nil, s.broken("write", "tributary.rule", err)
	}
	return changed, nil
}

func goneAndBack(what string) string {
	return what + " was gone, and was made anew: it has what was written since"
}

// lost notes that rows of topics which were written to a target are not there any more, all or some of them or their values of a column, in the
// transaction of that. what is a sentence. Nothing is of a partition that stands at its beginning, as it is rebuilt: all of them come again.
func (s *Session) lost(ctx context.Context, tx pgx.Tx, what string, topics ...string) error {
	if s.inspecting {
		return nil
	}
	_, err := tx.Exec(ctx, `
		UPDATE tributary.rule r
		   SET former = r.former || jsonb_build_object('lost', $3::text, 'until', now(), 'era', c.era, 'lsn', c.lsn::text)
		  FROM tributary.checkpoint c
		 WHERE r.grp = $1 AND r.topic = ANY ($2) AND c.grp = r.grp AND c.topic = r.topic AND c.partition = r.partition
		   AND c.applied_rows > 0 AND (c.era, c.lsn, c.seq) <> (0, '0/0', 0)`,
		s.w.cfg.Group, topics, what)
	return err
}

// renameRules has the rules under which rows of a topic were written name columns as the source does now; is is the one that there is, which
// does so. In the transaction in which the target is made to fit.
func (s *Session) renameRules(ctx context.Context, tx pgx.Tx, topic, is string, list []rule.Rename) error {
	renamed := func(text string) string {
		m, err := rule.ParseMeaning(text)
		if err != nil || text == is || text == "" {
			return text // of a version that knows more; or the one that there is
		}
		return m.Renamed(list).Text()
	}
	rows, err := tx.Query(ctx, `SELECT partition, rule, former::text FROM tributary.rule WHERE grp = $1 AND topic = $2 ORDER BY 1 FOR UPDATE`, s.w.cfg.Group, topic)
	if err != nil {
		return err
	}
	var batch pgx.Batch
	var number int32
	var text string
	var raw []byte
	if _, err = pgx.ForEachRow(rows, []any{&number, &text, &raw}, func() error {
		var kept []former
		if err := json.Unmarshal(raw, &kept); err != nil {
			return err
		}
		for i := range kept {
			kept[i].Rule = renamed(kept[i].Rule)
		}
		now, err := json.Marshal(slices.DeleteFunc(kept, func(f former) bool { return f.Lost == "" && f.Rule == is }))
		if err != nil {
			return err
		}
		batch.Queue(`UPDATE tributary.rule SET rule = $4, former = coalesce(nullif($5, 'null'), '[]')::jsonb WHERE grp = $1 AND topic = $2 AND partition = $3`,
			s.w.cfg.Group, topic, number, renamed(text), string(now))
		return nil
	}); err != nil || batch.Len() == 0 {
		return err
	}
	return tx.SendBatch(ctx, &batch).Close()
}

// ForgetFormers forgets the former rules all of whose rows have come again: by a read of the whole table that began behind them and has been
// applied. Whether a read, of some columns or nil for all, is enough of rows that a rule wrote, for the one that there is, enough says.
func (s *Session) ForgetFormers(ctx context.Context, enough func(was, is string, columns []string) bool) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT r.topic, r.partition, r.rule, r.former::text, t.begun_era, t.begun::text, t.columns
		  FROM tributary.rule r
		  JOIN tributary.checkpoint c USING (grp, topic, partition)
		  JOIN tributary.source s ON s.grp = r.grp AND s.tables ? r.topic
		  CROSS JOIN LATERAL (SELECT (s.tables->r.topic->>'begun_era')::int AS begun_era, (s.tables->r.topic->>'begun_lsn')::pg_lsn AS begun,
		                             ARRAY(SELECT jsonb_array_elements_text(s.tables->r.topic->'begun_columns')) AS columns,
		                             (s.tables->r.topic->>'done_lsn')::pg_lsn AS done) t
		 WHERE r.grp = $1 AND r.former <> '[]' AND s.known AND (s.tables->r.topic->>'done')::boolean AND t.begun_era IS NOT NULL
		   AND (c.next_offset >= (s.vector->r.topic->>r.partition)::bigint OR (c.era, c.lsn) > (s.era, t.done))`, s.w.cfg.Group)
	if err != nil {
		return s.broken("read", "tributary.rule", err)
	}
	var batch pgx.Batch
	var topic, is, lsn string
	var number, era int32
	var raw []byte
	var columns []string
	_, err = pgx.ForEachRow(rows, []any{&topic, &number, &is, &raw, &era, &lsn, &columns}, func() error {
		var all []former
		if err := json.Unmarshal(raw, &all); err != nil {
			return err
		}
		begun, err := position(era, lsn, 0)
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(slices.Clone(all), func(f former) bool {
			at := change.Position{Era: f.Era, CommitLSN: change.LSN(f.LSN)}
			return begun.Compare(at) > 0 && enough(f.Rule, is, columns)
		})
		if len(left) == len(all) {
			return nil
		}
		text, err := json.Marshal(left)
		if err != nil {
			return err
		}
		batch.Queue(`UPDATE tributary.rule SET former = $4::text::jsonb WHERE grp = $1 AND topic = $2 AND partition = $3 AND former = $5::text::jsonb`,
			s.w.cfg.Group, topic, number, string(text), string(raw))
		return nil
	})
	if err == nil && batch.Len() > 0 {
		err = s.conn.SendBatch(ctx, &batch).Close()
	}
	return s.broken("write", "tributary.rule", err)
}

// Formers gives the rules under which rows were written that have not come again since, in order of topic, the oldest first; none where the own
// tables are of a version before.
func (s *Session) Formers(ctx context.Context) ([]Former, error) {
	return ruled(ctx, s, func(row pgx.CollectableRow) (f Former, err error) {
		err = row.Scan(&f.Topic, &f.Rule, &f.Lost, &f.Until)
		return f, err
	}, `
		SELECT r.topic, coalesce(f->>'rule', ''), coalesce(f->>'lost', ''), max((f->>'until')::timestamptz)
		  FROM tributary.rule r CROSS JOIN LATERAL jsonb_array_elements(r.former) f
		 WHERE r.grp = $1 AND r.former <> '[]' GROUP BY 1, 2, 3 ORDER BY 1, 4`)
}

// Rules gives under which rule each topic is written, in order of topic; of one whose partitions differ, that of the first. None where the own
// tables are of a version before.
func (s *Session) Rules(ctx context.Context) ([]Ruled, error) {
	return ruled(ctx, s, func(row pgx.CollectableRow) (r Ruled, err error) {
		err = row.Scan(&r.Topic, &r.Partition, &r.Rule)
		return r, err
	}, `
		SELECT DISTINCT ON (r.topic) r.topic, r.partition, r.rule FROM tributary.rule r JOIN tributary.checkpoint c USING (grp, topic, partition)
		 WHERE r.grp = $1 AND c.applied_rows > 0 ORDER BY r.topic, r.partition`)
}

// ruled asks tributary.rule something of the group.
func ruled[T any](ctx context.Context, s *Session, of pgx.RowToFunc[T], sql string) ([]T, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, sql, s.w.cfg.Group)
	var out []T
	if err == nil {
		out, err = pgx.CollectRows(rows, of)
	}
	if err = s.broken("read", "tributary.rule", err); trouble.CodeOf(err) == trouble.TargetMissing {
		return nil, nil
	}
	return out, err
}

// AcceptRules has rows of topics that were written under former rules count as they are. subject is for tributary.operation.
func (s *Session) AcceptRules(ctx context.Context, topics []string, subject, reason string) error {
	return s.inTx(ctx, "accept rows of", subject, func(tx pgx.Tx) error {
		var before []byte
		err := tx.QueryRow(ctx, `
			WITH before AS (SELECT topic, partition, former FROM tributary.rule WHERE grp = $1 AND topic = ANY ($2) AND former <> '[]' FOR UPDATE),
			     done AS (UPDATE tributary.rule r SET former = '[]' FROM before b WHERE r.grp = $1 AND r.topic = b.topic AND r.partition = b.partition)
			SELECT coalesce(jsonb_agg(to_jsonb(b)), '[]')::text FROM before b`, s.w.cfg.Group, topics).Scan(&before)
		if err != nil {
			return err
		}
		return s.operation(ctx, tx, Operation{Verb: "rules accept", Subject: subject, Before: json.RawMessage(before), Reason: reason, Outcome: "rows stay as they are"})
	})
}
