package warehouse

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

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

// Taken is a partition that is written from now on under a rule, by whoever has claimed the partition By: itself, or the progress of a source that is
// written as a whole.
type Taken struct {
	Ruled
	By    Place
	Epoch int64 // of that claim
}

// Former is a rule under which rows of a topic were written that have not come again since.
type Former struct {
	Topic string
	Rule  string    // "" where rows were lost otherwise, as the target, or a column of it, was gone and made anew
	Lost  string    // how: a sentence
	Until time.Time // by the warehouse's clock

	Reload bool // what is meant is rows that only a reload removes
	Absent bool // what is meant is rows that a read of all brings, whatever the rule

	Key   []string // columns of the key of the topic's targets
	Swept bool     // a reload has removed since what did not come again
}

// former is one in tributary.rule. What the partition had applied by then stands at, or before, the position.
type former struct {
	Rule  string     `json:"rule,omitempty"`
	Lost  string     `json:"lost,omitempty"`
	Until time.Time  `json:"until"`
	Era   uint16     `json:"era"`
	LSN   record.LSN `json:"lsn"`

	Reload bool `json:"reload,omitempty"`
	Absent bool `json:"absent,omitempty"`
	Swept  bool `json:"swept,omitempty"`
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
//
// Of those that somebody else has claimed since nothing is noted, nor given:
//
//	sink 1: claims a partition, and is stopped
//	sink 2: claims it, notes another rule, and writes
//	sink 1: goes on; what it would note is what rows are not written by
func (s *Session) TakeRules(ctx context.Context, parts []Taken) (changed []string, err error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	topics, numbers, rules := make([]string, len(parts)), make([]int32, len(parts)), make([]string, len(parts))
	by := map[Place]Place{}
	claims := map[Place]int64{}
	for i, p := range parts {
		topics[i], numbers[i], rules[i] = p.Topic, p.Partition, p.Rule
		by[p.Place], claims[p.By] = p.By, p.Epoch
	}
	// A partition of which nothing is applied has no rows. Neither the rows nor the rules of a topic that was made anew count: it is not written.
	rows, err := s.conn.Query(ctx, `
		SELECT s.topic, s.partition, s.rule, c.applied_rows, c.era, c.lsn::text, now()
		  FROM unnest($2::text[], $3::int[], $4::text[]) AS s(topic, partition, rule)
		  JOIN tributary.checkpoint c ON c.grp = $1 AND c.topic = s.topic AND c.partition = s.partition
		  LEFT JOIN tributary.rule r ON r.grp = $1 AND r.topic = s.topic AND r.partition = s.partition
		 WHERE r.rule IS DISTINCT FROM s.rule`, s.w.cfg.Group, topics, numbers, rules)
	if err != nil {
		return nil, s.broken("read", "tributary.rule", err)
	}
	type taken struct {
		is      string
		applied int64
		at      change.Position
		now     time.Time
	}
	taking := map[Place]taken{}
	var place Place
	var one taken
	var lsn string
	var era int32
	if _, err = pgx.ForEachRow(rows, []any{&place.Topic, &place.Partition, &one.is, &one.applied, &era, &lsn, &one.now}, func() (err error) {
		one.at, err = position(era, lsn, 0)
		taking[place] = one
		return err
	}); err != nil {
		return nil, s.broken("read", "tributary.rule", err)
	}
	if len(taking) == 0 {
		return nil, nil
	}
	var again []rule.Target
	err = s.inTx(ctx, "write", "tributary.rule", func(tx pgx.Tx) error {
		ours, err := s.lockClaims(ctx, tx, claims)
		if err != nil {
			return err
		}
		maps.DeleteFunc(taking, func(at Place, _ taken) bool { return !ours[by[at]] })
		if len(taking) == 0 {
			return nil
		}
		topics, numbers := placesIn(taking)
		// Of a partition that has no rule yet there is something to lock then.
		if _, err := tx.Exec(ctx, `INSERT INTO tributary.rule (grp, topic, partition, rule, rows) SELECT $1, s.topic, s.partition, '', 0 FROM `+somePlaces+` ORDER BY 2, 3 ON CONFLICT DO NOTHING`,
			s.w.cfg.Group, topics, numbers); err != nil {
			return err
		}
		replaced := map[string][]string{}
		if err := s.noteRules(ctx, tx, func(r *ruling) {
			t := taking[r.Place]
			if r.rule == t.is { // by now: a rename
				return
			}
			was, written := r.rule, t.applied > max(r.rows, 0)
			r.rows = t.applied
			if was == "" || slices.ContainsFunc(r.former, func(f former) bool { return f.Rule == t.is }) {
				r.rows = noRows // there are rows that it has made, if there are any
			}
			r.rule = t.is
			r.former = slices.DeleteFunc(r.former, func(f former) bool { return t.applied == 0 || f.Lost == "" && f.Rule == t.is })
			if was != "" && written {
				r.former = slices.DeleteFunc(r.former, func(f former) bool { return f.Lost == "" && f.Rule == was })
				replaced[r.Topic] = append(replaced[r.Topic], was)
				r.former = append(r.former, former{Rule: was, Until: t.now, Era: t.at.Era, LSN: record.LSN(t.at.CommitLSN)})
			}
			if len(r.former) > 0 && !slices.Contains(changed, r.Topic) {
				changed = append(changed, r.Topic)
			}
			r.former = r.former[max(0, len(r.former)-maxFormer):]
		}, `(topic, partition) IN (SELECT s.topic, s.partition FROM `+somePlaces+`)`, topics, numbers); err != nil {
			return err
		}
		again, err = s.unfix(ctx, tx, replaced)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.w.lookAgain(again)
	return changed, nil
}

// lockClaims locks the checkpoints of claims, of which it has the epochs, and gives those that nobody has claimed since. Nobody does until the end of the
// transaction, and whoever does it then finds what was noted. See lockRules.
func (s *Session) lockClaims(ctx context.Context, tx pgx.Tx, claims map[Place]int64) (ours map[Place]bool, err error) {
	topics, numbers := placesIn(claims)
	epochs := make([]int64, len(topics))
	for i := range topics {
		epochs[i] = claims[Place{topics[i], numbers[i]}]
	}
	rows, err := tx.Query(ctx, `
		SELECT c.topic, c.partition FROM unnest($2::text[], $3::int[], $4::bigint[]) AS s(topic, partition, epoch)
		  JOIN tributary.checkpoint c ON c.grp = $1 AND c.topic = s.topic AND c.partition = s.partition AND c.owner_epoch = s.epoch
		 ORDER BY c.topic COLLATE "C", c.partition FOR SHARE OF c`, s.w.cfg.Group, topics, numbers, epochs)
	if err != nil {
		return nil, err
	}
	ours = map[Place]bool{}
	var at Place
	_, err = pgx.ForEachRow(rows, []any{&at.Topic, &at.Partition}, func() error { ours[at] = true; return nil })
	return ours, err
}

// unfix has columns looked at again to which rules, by which rows of topics were written up to now, gave no value. It gives the targets.
//
//	sink 1, partition 0: is started with a rule that gives a column the same value in all rows, and gives it to those that are there
//	sink 2, partition 1: runs on by the rule before, and writes rows without it
//	sink 1, partition 1: takes it over
func (s *Session) unfix(ctx context.Context, tx pgx.Tx, replaced map[string][]string) (again []rule.Target, err error) {
	if len(replaced) == 0 {
		return nil, nil
	}
	const which = `topic = ANY ($2) AND jsonb_typeof(shape->'constants') = 'array'`
	topics := slices.Collect(maps.Keys(replaced))
	if err := s.lockFeeds(ctx, tx, which, topics); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `SELECT topic, target_schema, target_table, sid, ARRAY(SELECT jsonb_array_elements_text(shape->'constants')) FROM tributary.feed WHERE grp = $1 AND `+which,
		s.w.cfg.Group, topics)
	if err != nil {
		return nil, err
	}
	var batch pgx.Batch
	var topic, sid string
	var target rule.Target
	var constants []string
	if _, err := pgx.ForEachRow(rows, []any{&topic, &target.Schema, &target.Table, &sid, &constants}, func() error {
		// Also where none is left: sink 2 may have noted since that its rule has none, of which sink 1 does not know.
		again = append(again, target)
		lacks := slices.DeleteFunc(constants, func(name string) bool {
			return !slices.ContainsFunc(replaced[topic], func(text string) bool {
				was, err := rule.ParseMeaning(text)
				_, had := was.Columns[name]
				return err == nil && !had
			})
		})
		if len(lacks) > 0 {
			batch.Queue(`UPDATE tributary.feed SET shape = jsonb_set(shape, '{constants}', (shape->'constants') - $5::text[]) WHERE grp = $1 AND target_schema = $2 AND target_table = $3 AND sid = $4`,
				s.w.cfg.Group, target.Schema, target.Table, sid, lacks)
		}
		return nil
	}); err != nil || batch.Len() == 0 {
		return again, err
	}
	return again, tx.SendBatch(ctx, &batch).Close()
}

// somePlaces are partitions, of arrays of topics and numbers, behind the group.
const somePlaces = `unnest($2::text[], $3::int[]) AS s(topic, partition)`

func placesIn[T any](places map[Place]T) (topics []string, numbers []int32) {
	for at := range places {
		topics, numbers = append(topics, at.Topic), append(numbers, at.Partition)
	}
	return topics, numbers
}

// ruling is what tributary.rule has of a partition.
type ruling struct {
	Place
	rule   string
	rows   int64
	former []former
}

// lockRules locks the rules of topics until the end of the transaction.
//
// What several transactions write of these tables is locked in one order, so that none waits for another one that waits for it: checkpoints, then
// rules, then feeds; rows of one table in the order of their keys, those of checkpoints in the order of bytes, which Go has as well. Whoever makes a
// target fit finds out in another order what is to be noted, and notes it at the end (evolution.noteFound).
func (s *Session) lockRules(ctx context.Context, tx execer, topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `SELECT FROM tributary.rule WHERE grp = $1 AND topic = ANY ($2) ORDER BY topic, partition FOR UPDATE`, s.w.cfg.Group, topics)
	return err
}

// noteRules has change make of what is noted of partitions what is to be noted of them, in the open transaction. They are locked before they are
// read: what another sink has noted meanwhile, a rename or that rows were lost, would be undone by what was read before. which says which, of the
// group, in SQL, with args from $2 on.
func (s *Session) noteRules(ctx context.Context, tx pgx.Tx, change func(r *ruling), which string, args ...any) error {
	return s.noteRulesThat(ctx, tx, "FOR UPDATE", change, which, args...)
}

// noteRulesThat is noteRules with what becomes of those that somebody else has locked.
func (s *Session) noteRulesThat(ctx context.Context, tx pgx.Tx, lock string, change func(r *ruling), which string, args ...any) error {
	rows, err := tx.Query(ctx, `SELECT topic, partition, rule, rows, former::text FROM tributary.rule WHERE grp = $1 AND `+which+` ORDER BY topic, partition `+lock,
		append([]any{s.w.cfg.Group}, args...)...)
	if err != nil {
		return err
	}
	var batch pgx.Batch
	var r ruling
	var raw []byte
	if _, err = pgx.ForEachRow(rows, []any{&r.Topic, &r.Partition, &r.rule, &r.rows, &raw}, func() error {
		r.former = nil
		if err := json.Unmarshal(raw, &r.former); err != nil {
			return err
		}
		now := r
		now.former = slices.Clone(r.former)
		change(&now)
		if now.rule == r.rule && now.rows == r.rows && slices.Equal(now.former, r.former) {
			return nil
		}
		text, err := json.Marshal(now.former)
		if err != nil {
			return err
		}
		batch.Queue(`UPDATE tributary.rule SET rule = $4, rows = $5, former = coalesce(nullif($6, 'null'), '[]')::jsonb WHERE grp = $1 AND topic = $2 AND partition = $3`,
			s.w.cfg.Group, r.Topic, r.Partition, now.rule, now.rows, string(text))
		return nil
	}); err != nil || batch.Len() == 0 {
		return err
	}
	return tx.SendBatch(ctx, &batch).Close()
}

func goneAndBack(what string) string {
	return what + " was gone, and was made anew: it has what was written since"
}

// lost notes that rows of topics which were written to a target are not there any more, all or some of them or their values of a column, in the
// transaction of that. what is a sentence. Nothing is of a partition that stands at its beginning, as it is rebuilt: all of them come again.
func (s *Session) lost(ctx context.Context, tx pgx.Tx, what string, topics ...string) error {
	return s.noteLoss(ctx, tx, what, lossGone, topics...)
}

// execer is a connection or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// lossKind is a field of former, or none.
type lossKind string

const (
	lossGone   lossKind = ""       // rows that are there no more
	lossStay   lossKind = "reload" // rows that are gone at the source, and there still
	lossAbsent lossKind = "absent" // rows that have perhaps not come, and come with a read
)

// noteLoss does that. What has been noted before in the same words is noted as of now.
func (s *Session) noteLoss(ctx context.Context, tx execer, what string, kind lossKind, topics ...string) error {
	if s.inspecting {
		return nil
	}
	if err := s.lockRules(ctx, tx, topics); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		UPDATE tributary.rule r
		   SET former = coalesce((SELECT jsonb_agg(f ORDER BY n) FROM jsonb_array_elements(r.former) WITH ORDINALITY AS e(f, n) WHERE f->>'lost' IS DISTINCT FROM $3), '[]')
		             || (jsonb_build_object('lost', $3::text, 'until', now(), 'era', c.era, 'lsn', c.lsn::text)
		                 || CASE WHEN $4::text <> '' THEN jsonb_build_object($4::text, true) ELSE '{}' END)
		  FROM tributary.checkpoint c
		 WHERE r.grp = $1 AND r.topic = ANY ($2) AND c.grp = r.grp AND c.topic = r.topic AND c.partition = r.partition
		   AND c.applied_rows > 0 AND (c.era, c.lsn, c.seq) <> (0, '0/0', 0)`,
		s.w.cfg.Group, topics, what, string(kind))
	return err
}

// reloaded forgets of a topic what a reload mends, in the open transaction in which one ends, and notes that rows of former rules which did not come again
// are there no more: of those rules by which nothing was written when it began. It has the keys that were written since.
func (s *Session) reloaded(ctx context.Context, due *OpenReload) error {
	if err := s.lockRules(ctx, s.conn, []string{due.Topic}); err != nil {
		return err
	}
	_, err := s.conn.Exec(ctx, `
		UPDATE tributary.rule SET former = coalesce((
		       SELECT jsonb_agg(CASE WHEN before AND f ? 'rule' THEN f || '{"swept": true}' ELSE f END ORDER BY n)
		         FROM jsonb_array_elements(former) WITH ORDINALITY AS e(f, n) CROSS JOIN LATERAL (SELECT (f->>'until')::timestamptz < $3 AS before) b
		        WHERE NOT (before AND f ? 'reload')), '[]')
		 WHERE grp = $1 AND topic = $2 AND former <> '[]'`, s.w.cfg.Group, due.Topic, due.Since)
	return err
}

// rebuilt forgets under which rules rows of topics were written that are about to be read anew, in the open transaction in which checkpoints say still what was
// applied, and rules are locked: all come again under the rule that there is. What is there still then goes on being told.
func (s *Session) rebuilt(ctx context.Context, tx pgx.Tx, feeds []Feed) error {
	topics, of := topicsIn(feeds), map[string]*Feed{}
	for i := range feeds {
		of[feeds[i].Topic] = &feeds[i]
	}
	rows, err := tx.Query(ctx, `SELECT topic, partition, era, lsn::text, now() FROM tributary.checkpoint WHERE grp = $1 AND topic = ANY ($2) AND applied_rows > 0`, s.w.cfg.Group, topics)
	if err != nil {
		return err
	}
	stands := map[Place]former{}
	var at Place
	var era int32
	var lsn string
	var now time.Time
	if _, err := pgx.ForEachRow(rows, []any{&at.Topic, &at.Partition, &era, &lsn, &now}, func() error {
		p, err := position(era, lsn, 0)
		stands[at] = former{Until: now, Era: p.Era, LSN: record.LSN(p.CommitLSN)}
		return err
	}); err != nil {
		return err
	}
	if err := s.noteRules(ctx, tx, func(r *ruling) {
		if is, applied := stands[r.Place]; applied && r.rule != "" {
			is.Rule = r.rule
			r.former = append(r.former, is)
		}
		r.rule, r.rows = "", 0
		r.former = slices.DeleteFunc(r.former, func(f former) bool { return f.Lost != "" || !of[r.Topic].outlived(f.Rule) })
	}, `topic = ANY ($2)`, topics); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `DELETE FROM tributary.rule WHERE grp = $1 AND topic = ANY ($2) AND former = '[]'`, s.w.cfg.Group, topics)
	return err
}

// outlived says whether something of rows that were written under a former rule is there still when the topic has come again. Those of a target without key,
// a history or a log were removed before.
func (f *Feed) outlived(text string) bool {
	now, err := rule.ParseMeaning(f.Rule)
	if err != nil {
		return false
	}
	was, err := rule.ParseMeaning(text)
	return err == nil && (was.Moved(now) || len(f.Key) > 0 && was.Outlives(now, slices.Concat(f.Key, f.Computed)))
}

// renameRules has the rules under which rows of a topic were written name columns as the source does now; is is the one that there is, which
// does so. In the transaction in which the target is made to fit. Where the names are not sure, only a rule is meant that is the one that there is by them.
func (s *Session) renameRules(ctx context.Context, tx pgx.Tx, topic, is string, list []rule.Rename, sure bool) error {
	renamed := func(text string) string {
		m, err := rule.ParseMeaning(text)
		if err != nil || text == is || text == "" {
			return text // of a version that knows more; or the one that there is
		}
		if now := m.Renamed(list).Text(); sure || now == is {
			return now
		}
		return text
	}
	return s.noteRules(ctx, tx, func(r *ruling) {
		r.rule = renamed(r.rule)
		for i := range r.former {
			r.former[i].Rule = renamed(r.former[i].Rule)
		}
		r.former = slices.DeleteFunc(r.former, func(f former) bool { return f.Lost == "" && f.Rule == is })
	}, `topic = $2`, topic)
}

// keyOf are the columns of the key of a topic's targets: of all, as one of a former rule is of no matter where it is not written.
func keyOf(topic string) string {
	return `ARRAY(SELECT DISTINCT k FROM tributary.feed d CROSS JOIN LATERAL jsonb_array_elements_text(nullif(d.shape->'key', 'null')) k WHERE d.grp = $1 AND d.topic = ` + topic + `)`
}

// ForgetFormers forgets the former rules all of whose rows have come again: by a read of the whole table, or of some columns, that began behind them and
// has been applied, and that is enough of them.
func (s *Session) ForgetFormers(ctx context.Context) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT r.topic, r.partition, r.rule, r.former::text, t.begun_era, t.begun::text, t.columns, `+keyOf("r.topic")+`
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
	type read struct {
		begun        change.Position
		columns, key []string
	}
	again := func(r *ruling, by read) func(former) bool {
		return func(f former) bool {
			at := change.Position{Era: f.Era, CommitLSN: change.LSN(f.LSN)}
			return by.begun.Compare(at) > 0 && !f.Reload &&
				(f.Absent && len(by.columns) == 0 || rule.Residue{Was: f.Rule, Is: r.rule, Key: by.key, Swept: f.Swept}.Enough(by.columns))
		}
	}
	reads := map[Place]read{}
	var r ruling
	var lsn string
	var era int32
	var raw []byte
	var columns, key []string
	if _, err = pgx.ForEachRow(rows, []any{&r.Topic, &r.Partition, &r.rule, &raw, &era, &lsn, &columns, &key}, func() error {
		begun, err := position(era, lsn, 0)
		if r.former = nil; err == nil {
			err = json.Unmarshal(raw, &r.former)
		}
		if by := (read{begun, slices.Clone(columns), slices.Clone(key)}); slices.ContainsFunc(r.former, again(&r, by)) {
			reads[r.Place] = by
		}
		return err
	}); err != nil {
		return s.broken("read", "tributary.rule", err)
	}
	if len(reads) == 0 {
		return nil
	}
	topics, numbers := placesIn(reads)
	// The next look finds what somebody has locked: a source that is written as a whole may have, as long as it writes.
	return s.inTx(ctx, "write", "tributary.rule", func(tx pgx.Tx) error {
		return s.noteRulesThat(ctx, tx, "FOR UPDATE SKIP LOCKED", func(r *ruling) { r.former = slices.DeleteFunc(r.former, again(r, reads[r.Place])) },
			`(topic, partition) IN (SELECT s.topic, s.partition FROM `+somePlaces+`)`, topics, numbers)
	})
}

// Formers gives the rules under which rows were written that have not come again since, in order of topic, the oldest first; none where the own
// tables are of a version before.
func (s *Session) Formers(ctx context.Context) ([]Former, error) {
	return ruled(ctx, s, func(row pgx.CollectableRow) (f Former, err error) {
		err = row.Scan(&f.Topic, &f.Rule, &f.Lost, &f.Reload, &f.Absent, &f.Until, &f.Swept, &f.Key)
		return f, err
	}, `
		SELECT r.topic, coalesce(f->>'rule', ''), coalesce(f->>'lost', ''), f ? 'reload', f ? 'absent', max((f->>'until')::timestamptz), bool_and(f ? 'swept'), `+keyOf("r.topic")+`
		  FROM tributary.rule r CROSS JOIN LATERAL jsonb_array_elements(r.former) f
		 WHERE r.grp = $1 AND r.former <> '[]' GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 6`)
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
			WITH before AS (SELECT topic, partition, former FROM tributary.rule WHERE grp = $1 AND topic = ANY ($2) AND former <> '[]' ORDER BY topic, partition FOR UPDATE),
			     done AS (UPDATE tributary.rule r SET former = '[]' FROM before b WHERE r.grp = $1 AND r.topic = b.topic AND r.partition = b.partition)
			SELECT coalesce(jsonb_agg(to_jsonb(b)), '[]')::text FROM before b`, s.w.cfg.Group, topics).Scan(&before)
		if err != nil {
			return err
		}
		return s.operation(ctx, tx, Operation{Verb: "rules accept", Subject: subject, Before: json.RawMessage(before), Reason: reason, Outcome: "rows stay as they are"})
	})
}
