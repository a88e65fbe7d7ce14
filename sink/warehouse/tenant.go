package warehouse

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// A tenant is a source among others of the same tables. Who changes what is kept of one from outside of the sinks takes
// its checkpoints away from them first: their epochs are raised, so that no flush under way hits them, and their owner is
// null, by which sinks know that the checkpoint is to be claimed again.

// Feed is one topic and the rows of a target that it writes.
type Feed struct {
	Topic  string
	Target rule.Target
	SID    string   // "" where the target has no sid column
	Key    []string // columns of the target's key, without the sid column; none where rows cannot be written again in place

	// What follows is set by whoever knows the rules.
	SIDColumn string
	Unwritten bool     // no rule writes the topic there any more, or with another sid
	Rule      string   // what it makes of rows, as text: see rule.Meaning
	Keeps     bool     // rows that do not come when all are read stay
	Computed  []string // columns of the target that are computed, and are to belong to its key
}

// sourceOf gives the source that a topic belongs to, "" for none.
func sourceOf(topic string) string {
	if source, _, _, ok := record.ParseTopic(topic); ok {
		return source
	}
	source, _ := record.ParseProgressTopic(topic)
	return source
}

// Topics gives the topics that have checkpoints, those of progress among them: all that the group has ever read, but for
// those of sources that were removed.
func (s *Session) Topics(ctx context.Context) ([]string, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	topics, err := s.topicsIn(ctx, s.conn, "tributary.checkpoint")
	if err != nil {
		return nil, s.broken("read", "tributary.checkpoint", err)
	}
	return topics, nil
}

// SourceTopics gives those of a source.
func (s *Session) SourceTopics(ctx context.Context, source string) ([]string, error) {
	topics, err := s.Topics(ctx)
	return ofSource(topics, source), err
}

func ofSource(topics []string, source string) []string {
	return slices.DeleteFunc(topics, func(t string) bool { return sourceOf(t) != source })
}

func (s *Session) topicsOf(ctx context.Context, db reader, table, source string) ([]string, error) {
	topics, err := s.topicsIn(ctx, db, table)
	return ofSource(topics, source), err
}

func (s *Session) topicsIn(ctx context.Context, db reader, table string) ([]string, error) {
	rows, err := db.Query(ctx, `SELECT DISTINCT topic FROM `+table+` WHERE grp = $1 ORDER BY 1`, s.w.cfg.Group)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// Feeds gives what a source has written. others names who writes the same rows.
func (s *Session) Feeds(ctx context.Context, source string) (feeds []Feed, others []string, err error) {
	if err := s.open(ctx); err != nil {
		return nil, nil, err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT f.topic, f.target_schema, f.target_table, f.sid, coalesce(ARRAY(SELECT jsonb_array_elements_text(nullif(f.shape->'key', 'null'))), '{}'),
		       ARRAY(SELECT DISTINCT format('topic %s of group %s', o.topic, o.grp) FROM tributary.feed o WHERE (o.grp, o.topic) <> (f.grp, f.topic)
		              AND (o.target_schema, o.target_table) = (f.target_schema, f.target_table) AND (o.sid = f.sid OR f.sid = ''))
		  FROM tributary.feed f WHERE f.grp = $1 ORDER BY 1`, s.w.cfg.Group)
	if err != nil {
		return nil, nil, s.broken("read", "tributary.feed", err)
	}
	var f Feed
	var also []string
	_, err = pgx.ForEachRow(rows, []any{&f.Topic, &f.Target.Schema, &f.Target.Table, &f.SID, &f.Key, &also}, func() error {
		if sourceOf(f.Topic) == source {
			found := f
			found.Key = slices.Clone(f.Key)
			feeds, others = append(feeds, found), append(others, also...)
		}
		return nil
	})
	if err != nil {
		return nil, nil, s.broken("read", "tributary.feed", err)
	}
	slices.Sort(others)
	return feeds, slices.Compact(others), nil
}

// MarkRemoved has every sink of the group let go of a source, and then takes its checkpoints away from them. In this
// order: a sink that claims a partition before the checkpoints are taken is fenced by that; one that does so later
// looks at the pauses after its claim, and sees the mark. With an error there may be a mark: its Since is not zero then.
func (s *Session) MarkRemoved(ctx context.Context, source, reason string, feeds []Feed) (mark Pause, err error) {
	mark = Pause{Source: source}
	if err := s.inTx(ctx, "remove", fmt.Sprintf("source %q", source), func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `
			INSERT INTO tributary.control (grp, source, "table", reason, removed) VALUES ($1, $2, '', $3, true)
			ON CONFLICT (grp, source, "table") DO UPDATE SET until = NULL, reason = excluded.reason, since = now(), removed = true RETURNING since`,
			s.w.cfg.Group, source, reason).Scan(&mark.Since); err != nil {
			return err
		}
		var targets []string
		for _, f := range feeds {
			targets = append(targets, f.Target.String())
		}
		return s.operation(ctx, tx, Operation{Verb: "tenant remove", Subject: source, Before: map[string]any{"targets": targets}, Reason: reason, Outcome: "begun"})
	}); err != nil {
		return Pause{}, err
	}
	_, err = s.TakeAway(ctx, source)
	return mark, err
}

// ErrOvertaken says that a removal is not the one any more that there is of its source.
var ErrOvertaken = errors.New("it was resumed meanwhile, or removed once more")

// WhileRemoved has the open transaction fail if the mark that a source is removed is gone, or another one: a removal that was stopped for long, and
// goes on, finds that somebody has done it again, to its end, and that the source is written.
func (s *Session) WhileRemoved(mark Pause) func(ctx context.Context, tx pgx.Tx) error {
	return func(ctx context.Context, tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT FROM tributary.control WHERE grp = $1 AND source = $2 AND "table" = '' AND removed AND since = $3 FOR SHARE`,
			s.w.cfg.Group, mark.Source, mark.Since).Scan()
		if errors.Is(err, pgx.ErrNoRows) {
			err = &trouble.Error{
				Code: trouble.RuleConflict, Op: "remove", Subject: fmt.Sprintf("tenant %q", mark.Source), Cause: ErrOvertaken,
				Means: "nothing more of it is removed", Hint: "sink tenant list says how it is",
			}
		}
		return err
	}
}

// emptying is what was lost of a topic whose rows a rebuild removes, until its end.
const emptying = "they, or some of them, were removed by a rebuild that has not come to its end"

// Emptying notes in the open transaction, which has removed rows of a topic, that they are, if that is not known any more: a rebuild that was stopped for long,
// and goes on, finds that somebody has done it again, to its end. It does so behind the rows: see lockRules.
func (s *Session) Emptying(topic string) func(ctx context.Context, tx pgx.Tx) error {
	return func(ctx context.Context, tx pgx.Tx) error {
		var known bool
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM tributary.rule WHERE grp = $1 AND topic = $2 AND former @> jsonb_build_array(jsonb_build_object('lost', $3::text)))`,
			s.w.cfg.Group, topic, emptying).Scan(&known)
		if err == nil && !known {
			err = s.lost(ctx, tx, emptying, topic)
		}
		return err
	}
}

// TakeAway takes the checkpoints of a source away from the sinks. They are claimed again unless the source is paused. Rows of emptied are
// about to be removed, until Rebuild or Forget; it gives how far they are applied.
func (s *Session) TakeAway(ctx context.Context, source string, emptied ...Feed) (applied string, err error) {
	err = s.inTx(ctx, "take the checkpoints of", fmt.Sprintf("source %q", source), func(tx pgx.Tx) error {
		topics, err := s.topicsOf(ctx, tx, "tributary.checkpoint", source)
		if err == nil {
			err = s.takeAway(ctx, tx, topics)
		}
		for i := range emptied {
			if err == nil {
				err = s.lost(ctx, tx, emptying, emptied[i].Topic)
			}
		}
		if err == nil {
			applied, err = s.applied(ctx, tx, emptied)
		}
		return err
	})
	return applied, err
}

// applied says how far the topics of feeds are applied: nothing of them is written while that stays the same.
func (s *Session) applied(ctx context.Context, db querier, feeds []Feed) (text string, err error) {
	err = db.QueryRow(ctx, `SELECT coalesce(string_agg(format('%s %s %s %s %s %s', topic, partition, topic_id, next_offset, applied_rows, parked_n), ', ' ORDER BY topic, partition), '')
		FROM tributary.checkpoint WHERE grp = $1 AND topic = ANY ($2)`, s.w.cfg.Group, topicsIn(feeds)).Scan(&text)
	return text, err
}

func topicsIn(feeds []Feed) []string {
	topics := []string{}
	for i := range feeds {
		topics = append(topics, feeds[i].Topic)
	}
	slices.Sort(topics)
	return topics
}

// CheckEmpty refuses feeds whose rows RemoveRows has removed, and that have rows still; but for what was written since TakeAway, which gave applied.
func (s *Session) CheckEmpty(ctx context.Context, feeds []Feed, applied string) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	for i := range feeds {
		f := &feeds[i]
		condition, err := f.rows(ctx, s.conn, f.Target)
		if err == nil && condition != "" {
			err = f.isEmpty(ctx, s.conn, condition)
		}
		if trouble.CodeOf(err) == trouble.RowCount {
			now, asked := s.applied(ctx, s.conn, feeds)
			if err = cmp.Or(asked, err); asked == nil && now != applied {
				return nil // Rebuild removes it
			}
		}
		if err != nil {
			return s.removing("remove rows from", f.Target, "its source is not rebuilt", err)
		}
	}
	return nil
}

// takeAway takes the checkpoints of topics away from whoever owns them. Flushes under way have written them, or will not.
func (s *Session) takeAway(ctx context.Context, tx pgx.Tx, topics []string) error {
	if err := s.lockCheckpoints(ctx, tx, topics); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE tributary.checkpoint SET owner_epoch = owner_epoch + 1, owner = NULL WHERE grp = $1 AND topic = ANY ($2)`,
		s.w.cfg.Group, topics)
	return err
}

// lockCheckpoints locks those of topics until the end of the transaction, in the order in which flushes lock them: see lockRules.
func (s *Session) lockCheckpoints(ctx context.Context, tx pgx.Tx, topics []string) error {
	_, err := tx.Exec(ctx, `SELECT FROM tributary.checkpoint WHERE grp = $1 AND topic = ANY ($2) ORDER BY topic COLLATE "C", partition FOR UPDATE`, s.w.cfg.Group, topics)
	return err
}

// Forget removes everything that is known of a source, whose rows RemoveRows has removed, but for the mark that it is removed.
func (s *Session) Forget(ctx context.Context, mark Pause, removed int64) error {
	source := mark.Source
	return s.inTx(ctx, "forget", fmt.Sprintf("source %q", source), func(tx pgx.Tx) error {
		if err := s.WhileRemoved(mark)(ctx, tx); err != nil {
			return err
		}
		for _, table := range []string{"checkpoint", "quarantine", "parked", "rule", "feed", "reload"} {
			topics, err := s.topicsOf(ctx, tx, "tributary."+table, source)
			if err == nil {
				switch table {
				case "checkpoint":
					err = s.lockCheckpoints(ctx, tx, topics)
				case "rule":
					err = s.lockRules(ctx, tx, topics)
				case "feed":
					err = s.lockFeeds(ctx, tx, `topic = ANY ($2)`, topics)
				case "reload":
					for _, topic := range topics {
						if err == nil {
							err = s.dropReload(ctx, topic)
						}
					}
				}
			}
			if err == nil {
				_, err = tx.Exec(ctx, `DELETE FROM tributary.`+table+` WHERE grp = $1 AND topic = ANY ($2)`, s.w.cfg.Group, topics)
			}
			if err != nil {
				return err
			}
		}
		for _, table := range []string{"source", "milestone", "fence"} {
			if _, err := tx.Exec(ctx, `DELETE FROM tributary.`+table+` WHERE grp = $1 AND source = $2`, s.w.cfg.Group, source); err != nil {
				return err
			}
		}
		return s.operation(ctx, tx, Operation{Verb: "tenant remove", Subject: source, Outcome: service.Plural(removed, "row") + " removed"})
	})
}

// removedWhole refuses to bring a source back whose removal has not come to its end: its checkpoints are there still, and would go on
// behind the rows that are gone. A sink that was late may have left a feed after the end, or a checkpoint that has written nothing.
func (s *Session) removedWhole(ctx context.Context, tx pgx.Tx, source string) error {
	left, err := s.topicsOf(ctx, tx, "(SELECT grp, topic FROM tributary.checkpoint WHERE applied_rows > 0) c", source)
	if err != nil || len(left) == 0 {
		return err
	}
	return &trouble.Error{
		Code: trouble.RuleConflict, Op: "bring back", Subject: fmt.Sprintf("tenant %q", source), Cause: errors.New("its removal has not come to its end: only some of its rows are gone"),
		Means: "nothing was changed", Hint: "let it end, or do it again: sink tenant remove " + service.Quote(source) + "; then sink tenant resume " + service.Quote(source),
	}
}

// Rebuild has the topics of a source read anew from their first records. It is one transaction: afterwards sinks claim
// the partitions again. The rows of a table that has a key stay until all of them have come again, as in a reload; those
// of tables without were removed by the caller, in small transactions, and what was written of them since they were applied as far as emptied says is removed
// here: whoever starts waits for that. starts are the first offsets.
func (s *Session) Rebuild(ctx context.Context, source, reason string, feeds []Feed, emptied string, starts map[Place]int64, whole bool) error {
	return s.inTx(ctx, "rebuild", fmt.Sprintf("source %q", source), func(tx pgx.Tx) error {
		topics := topicsIn(feeds)
		if err := s.notRemoved(ctx, tx, source); err != nil {
			return err
		}
		taken := topics
		if whole {
			taken = append(slices.Clone(topics), record.ProgressTopic(source))
		}
		if err := s.takeAway(ctx, tx, taken); err != nil {
			return err
		}
		applied, err := s.applied(ctx, tx, Keyless(feeds))
		if err != nil {
			return err
		}
		if whole {
			if err := s.readAgain(ctx, tx, source); err != nil {
				return err
			}
		}
		if err := s.incomplete(ctx, tx, source, topics); err != nil {
			return err
		}
		for i := range feeds {
			f := &feeds[i]
			if err := s.endReload(ctx, f.Topic); err != nil {
				return err
			}
			if len(f.Key) == 0 && applied != emptied {
				if err := f.empty(ctx, tx); err != nil {
					return err
				}
			}
			if len(f.Key) == 0 || f.Keeps {
				continue
			}
			if err := s.openReload(ctx, tx, source, f); err != nil {
				return err
			}
		}
		// Behind the targets, as whoever makes one fit locks it before it notes what it has found: see lockRules.
		if err := s.lockRules(ctx, tx, topics); err != nil {
			return err
		}
		for _, table := range []string{"quarantine", "parked"} {
			if _, err := tx.Exec(ctx, `DELETE FROM tributary.`+table+` WHERE grp = $1 AND topic = ANY ($2)`, s.w.cfg.Group, topics); err != nil {
				return err
			}
		}
		if err := s.rebuilt(ctx, tx, feeds); err != nil {
			return err
		}
		for place, start := range starts {
			if _, err := tx.Exec(ctx, `
				UPDATE tributary.checkpoint SET next_offset = $4, era = 0, lsn = '0/0', seq = 0, barrier_era = 0, barrier_lsn = '0/0', barrier_seq = 0
				 WHERE grp = $1 AND topic = $2 AND partition = $3`, s.w.cfg.Group, place.Topic, place.Partition, start); err != nil {
				return err
			}
		}
		return s.operation(ctx, tx, Operation{Verb: "tenant rebuild", Subject: source, After: map[string]any{"topics": topics}, Reason: reason, Outcome: "begun"})
	})
}

// Keyless gives the feeds whose rows cannot be written again in place.
func Keyless(feeds []Feed) []Feed {
	return slices.DeleteFunc(slices.Clone(feeds), func(f Feed) bool { return len(f.Key) > 0 })
}

// notRemoved refuses a source that somebody has removed meanwhile.
func (s *Session) notRemoved(ctx context.Context, tx pgx.Tx, source string) error {
	var removed bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM tributary.control WHERE grp = $1 AND source = $2 AND "table" = '' AND removed)`, s.w.cfg.Group, source).Scan(&removed)
	if err == nil && removed {
		err = &trouble.Error{
			Code: trouble.RuleConflict, Op: "rebuild", Subject: fmt.Sprintf("tenant %q", source), Cause: errors.New("it was removed meanwhile"),
			Means: "nothing of it is read anew", Hint: "sink tenant resume " + service.Quote(source) + " reads all of it",
		}
	}
	return err
}

// readAgain has the newest progress record of a source that is written as a whole, which was taken away, read once more, by which its tables come to the state
// that they had: whoever writes it reads them for a progress record only, and the source's capture may write none any more.
func (s *Session) readAgain(ctx context.Context, tx pgx.Tx, source string) error {
	_, err := tx.Exec(ctx, `
		UPDATE tributary.checkpoint SET next_offset = least(next_offset,
			(SELECT max(progress_offset) FROM tributary.milestone WHERE grp = $1 AND source = $2)) WHERE grp = $1 AND topic = $3`,
		s.w.cfg.Group, source, record.ProgressTopic(source))
	return err
}

// incomplete has a source count as complete, up to where it is, only when what is applied now of topics, which are about to be read anew, is applied
// again.
func (s *Session) incomplete(ctx context.Context, tx pgx.Tx, source string, topics []string) error {
	// Whoever notes a milestone at this moment has this row until the end, and would count what is applied now.
	for _, sql := range []string{
		`SELECT FROM tributary.source WHERE grp = $1 AND source = $2 FOR UPDATE`,
		`DELETE FROM tributary.milestone WHERE grp = $1 AND source = $2
		   AND progress_offset < (SELECT max(progress_offset) FROM tributary.milestone WHERE grp = $1 AND source = $2)`,
	} {
		if _, err := tx.Exec(ctx, sql, s.w.cfg.Group, source); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO tributary.milestone_part AS p (grp, source, progress_offset, topic, partition, next_offset)
		SELECT m.grp, m.source, m.progress_offset, c.topic, c.partition, c.next_offset
		  FROM tributary.milestone m JOIN tributary.checkpoint c USING (grp)
		 WHERE m.grp = $1 AND m.source = $2 AND c.topic = ANY ($3) AND c.next_offset > 0
		ON CONFLICT (grp, source, progress_offset, topic, partition) DO UPDATE SET next_offset = greatest(p.next_offset, excluded.next_offset)`,
		s.w.cfg.Group, source, topics)
	return err
}

// beforeAll is the mark of a reload that no record has begun: every record is behind it.
const beforeAll = -2

// openReload begins a reload at the beginning of a topic.
func (s *Session) openReload(ctx context.Context, tx pgx.Tx, source string, f *Feed) error {
	have, err := readColumns(ctx, tx, f.Target)
	if err != nil || len(have) == 0 {
		return err // where somebody has dropped it, no row is left that might not come again
	}
	r := &Reload{key: f.Key}
	for _, name := range f.Key {
		c := have.column(name)
		if c == nil {
			return lostColumn("rebuild", f.Target, name, "nothing was changed")
		}
		r.types = append(r.types, c.full)
	}
	err = tx.QueryRow(ctx, `
		INSERT INTO tributary.reload (grp, topic, source, topic_id, partition, "offset", target_schema, target_table, sid_column, sid, key, types)
		SELECT grp, topic, $3, topic_id, partition, $4, $5, $6, $7, $8, $9, $10
		  FROM tributary.checkpoint WHERE grp = $1 AND topic = $2 ORDER BY partition LIMIT 1
		RETURNING id, since`, s.w.cfg.Group, f.Topic, source, beforeAll, f.Target.Schema, f.Target.Table, f.SIDColumn, f.SID, r.key, r.types).Scan(&r.ID, &r.Since)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // nothing was ever read
	}
	if err != nil {
		return err
	}
	columns := r.key
	if f.SIDColumn != "" {
		columns = append([]string{f.SIDColumn}, columns...)
	}
	return s.createSeen(ctx, r, postgres.Ident(f.Target.Schema, f.Target.Table), quoted(columns))
}

// Unowned gives those of the places, which have been claimed, whose checkpoints were moved from outside, or deleted: a source that is removed
// and brought back within a moment begins anew, and nothing of it may come that finds it out.
func (s *Session) Unowned(ctx context.Context, places []Place) (map[Place]bool, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	topics, numbers := make([]string, len(places)), make([]int32, len(places))
	for i, p := range places {
		topics[i], numbers[i] = p.Topic, p.Partition
	}
	rows, err := s.conn.Query(ctx, `
		SELECT s.topic, s.partition FROM unnest($2::text[], $3::int[]) AS s(topic, partition)
		  LEFT JOIN tributary.checkpoint c ON c.grp = $1 AND c.topic = s.topic AND c.partition = s.partition
		 WHERE c.owner IS NULL`, s.w.cfg.Group, topics, numbers)
	if err != nil {
		return nil, s.broken("read", "tributary.checkpoint", err)
	}
	out := map[Place]bool{}
	var p Place
	if _, err = pgx.ForEachRow(rows, []any{&p.Topic, &p.Partition}, func() error { out[p] = true; return nil }); err != nil {
		return nil, s.broken("read", "tributary.checkpoint", err)
	}
	return out, nil
}
