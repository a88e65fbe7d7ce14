package warehouse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// feed is what is known of a topic that writes a target.
type feed struct {
	topic string
	noted bool   // in tributary.feed
	sole  bool   // no other topic writes the target: with the sid that its source had before, this one may have
	shape *shape // nil before the first time
}

// readFeed gives nil where no topic writes the plan's target with its sid.
func (s *Session) readFeed(ctx context.Context, tx pgx.Tx, plan *rule.Plan) (*feed, error) {
	var known *string
	var raw []byte
	f := &feed{noted: true}
	// Without a lock: whoever prepares a target has the advisory lock of its schema.
	err := tx.QueryRow(ctx, `
		SELECT max(topic) FILTER (WHERE grp = $1 AND sid = $4), count(DISTINCT (grp, topic)) <= 1, (array_agg(shape::text) FILTER (WHERE grp = $1 AND sid = $4))[1]
		  FROM tributary.feed WHERE target_schema = $2 AND target_table = $3`,
		s.w.cfg.Group, plan.Target.Schema, plan.Target.Table, plan.SIDThere()).Scan(&known, &f.sole, &raw)
	if err != nil || known == nil {
		return nil, err
	}
	f.topic = *known
	if raw != nil {
		f.shape = &shape{}
		if err := json.Unmarshal(raw, f.shape); err != nil {
			return nil, fmt.Errorf("read tributary.feed of topic %q: %w", f.topic, err)
		}
	}
	return f, nil
}

// feed makes sure that nobody else writes the rows of a topic: no other topic, and no other group.
func (s *Session) feed(ctx context.Context, tx pgx.Tx, plan *rule.Plan, topic string) (*feed, error) {
	// Of a source that was removed nothing is noted any more: what is about to be written of it is refused, as its checkpoint is gone. While its removal is
	// under way it is there still, and may be the one who writes: those rows have to be found, too.
	added, err := tx.Exec(ctx, `
		INSERT INTO tributary.feed SELECT $1, $2, $3, $4, $5
		 WHERE NOT EXISTS (SELECT FROM tributary.control WHERE grp = $1 AND source = $6 AND "table" = '' AND removed)
		    OR EXISTS (SELECT FROM tributary.checkpoint WHERE grp = $1 AND topic = $5) ON CONFLICT DO NOTHING`,
		s.w.cfg.Group, plan.Target.Schema, plan.Target.Table, plan.SIDThere(), topic, sourceOf(topic))
	if err != nil {
		return nil, err
	}
	f, err := s.readFeed(ctx, tx, plan)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return &feed{topic: topic}, nil
	}
	if f.topic == topic {
		return f, s.refuseOthers(ctx, tx, plan, added.RowsAffected() > 0)
	}
	hint := fmt.Sprintf("add sid: <column> to tables[%d], or give the sources different targets ({source} in to)", plan.Rule)
	if plan.SIDColumn != "" {
		hint = "give the sources different values of sid"
	}
	return nil, conflict(plan, fmt.Errorf("topic %q already writes table %q with the same sid", f.topic, plan.Target.String()),
		hint+"\nif the other is gone for good: "+forgetFeed(s.w.cfg.Group, f.topic, plan.Target, plan.SIDThere()))
}

// forgetFeed is the statement by which one topic does not write rows of one sid in one target any more. A topic may have several: of targets, and of sids, that
// rules have given it before.
func forgetFeed(group, topic string, target rule.Target, sid string) string {
	return fmt.Sprintf("DELETE FROM tributary.feed WHERE grp = %s AND topic = %s AND target_schema = %s AND target_table = %s AND sid = %s;",
		postgres.Literal(group), postgres.Literal(topic), postgres.Literal(target.Schema), postgres.Literal(target.Table), postgres.Literal(sid))
}

// ForgetFeed is that of a feed of the group.
func (s *Session) ForgetFeed(f Feed) string {
	return forgetFeed(s.w.cfg.Group, f.Topic, f.Target, f.SID)
}

// memberSilent is how long a sink of another group has said nothing when it does not count as writing: it says something every
// ten seconds.
const memberSilent = "1 minute"

// refuseOthers refuses a target whose rows of the plan another group has written, from whichever topic: the two are at different
// places of it, and each would take back what the other has written. That the other group does not run proves nothing, sinks that are
// stopped come back; that it never will only a person knows, who then removes its feed. Rows without a sid column are everybody's.
//
// A group that had the target before (not first) is only refused while a sink of the other lives that has the topic: feeds of groups that
// were given up long ago hold nobody up.
func (s *Session) refuseOthers(ctx context.Context, tx pgx.Tx, plan *rule.Plan, first bool) error {
	var group, topic, sid string
	const others = `SELECT f.grp, f.topic, f.sid FROM tributary.feed f
		 WHERE f.grp <> $1 AND f.target_schema = $2 AND f.target_table = $3 AND (f.sid = $4 OR f.sid = '' OR $4 = '')`
	args := []any{s.w.cfg.Group, plan.Target.Schema, plan.Target.Table, plan.SIDThere()}
	err := tx.QueryRow(ctx, others+" ORDER BY 1, 2 LIMIT 1", args...).Scan(&group, &topic, &sid)
	if err == nil && !first { // only then: nobody waits for who has locked tributary.member
		err = tx.QueryRow(ctx, others+` AND EXISTS (SELECT FROM tributary.checkpoint c JOIN tributary.member m ON m.grp = c.grp AND m.instance = c.owner
			WHERE c.grp = f.grp AND c.topic = f.topic AND NOT m.ended AND m.seen_at > clock_timestamp() - $5::text::interval) ORDER BY 1, 2 LIMIT 1`,
			append(args, memberSilent)...).Scan(&group, &topic, &sid)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	how, hint := "with the same sid", "write to another target (to), or with another sid"
	if sid != plan.SIDThere() {
		how, hint = "and one of the two has no sid", "write to another target (to), or give the rules of both groups a sid"
	} else if sid == "" {
		how = "and none has a sid"
	}
	return conflict(plan, fmt.Errorf("group %q writes table %q, too, from topic %q, %s", group, plan.Target.String(), topic, how),
		hint+"\nif it is this group by its former name: docs/operations/rename-group.md\nif it is stopped and is not to write the table again: "+
			forgetFeed(group, topic, plan.Target, sid))
}

// noteOwn is the oid of tributary.feed, beside that of the target: in a copy of the warehouse, by a dump or by logical replication, both are others.
const noteOwn = `jsonb_build_object('own', 'tributary.feed'::regclass::oid::text)`

// movedFeeds gives the feeds of a target, $1 to $3, that knew another table than the one with oid $4, with whether that one was, created or not ($5),
// in this warehouse: their rows are not there, unless somebody has copied them. A feed that knew none was noted by a version of before. One of a topic
// that has others may be of a former rule: it is left to that topic, but for the one with sid $6, which is written now.
const movedFeeds = `
	SELECT f.topic, f.sid, ($5 OR f.shape->>'table' IS NOT NULL AND f.shape->'own' = ` + noteOwn + `->'own') AND has_table_privilege($4::text::oid, 'SELECT') FROM tributary.feed f
	 WHERE f.grp = $1 AND f.target_schema = $2 AND f.target_table = $3 AND f.shape IS NOT NULL AND f.shape->>'table' IS DISTINCT FROM $4::text
	   AND (f.sid = $6 OR NOT EXISTS (SELECT FROM tributary.feed o WHERE o.grp = f.grp AND o.topic = f.topic AND (o.target_schema, o.target_table, o.sid) <> ($2, $3, f.sid)))
	 ORDER BY 1, 2`

// feedOf is one of a target: see movedFeeds.
type feedOf struct{ topic, sid string }

func columnsOf(feeds []feedOf) (topics, sids []string) {
	for _, f := range feeds {
		topics, sids = append(topics, f.topic), append(sids, f.sid)
	}
	return topics, sids
}

// lockFeeds locks feeds until the end of the transaction: see lockRules. which says which, of the group, in SQL, with args from $2 on.
func (s *Session) lockFeeds(ctx context.Context, tx execer, which string, args ...any) error {
	_, err := tx.Exec(ctx, `SELECT FROM tributary.feed WHERE grp = $1 AND `+which+` ORDER BY target_schema, target_table, sid FOR UPDATE`, append([]any{s.w.cfg.Group}, args...)...)
	return err
}

// sameTable tells of a target that is another table than the one that was written before: somebody has dropped it, or renamed it, and it was created, or they
// have put another one in its place. So it does of all feeds of the group that write it, as those of which nothing changes have no other occasion.
// Rows that are there already were copied, as by who partitions a table by hand: then there is nothing to tell. Nor is there of who had no rows
// in the former table, either, as long as that can be asked: it has another name.
func (e *evolution) sameTable(ctx context.Context, have catalogColumns, created bool) error {
	if e.feed == nil || e.feed.shape == nil || e.s.inspecting || !created && (e.feed.shape.Table == "" || e.feed.shape.Table == have.table()) {
		return nil
	}
	row, sidType := "true", ""
	if e.plan.SIDColumn != "" {
		c := have.column(e.plan.SIDColumn)
		if err := sidFits(e.plan, c); err != nil {
			return err
		}
		row, sidType = fmt.Sprintf("t.%s %s f.sid::%s", postgres.Ident(c.name), c.target().equal, c.base), c.base
	}
	rows, err := e.tx.Query(ctx, movedFeeds, e.s.w.cfg.Group, e.plan.Target.Schema, e.plan.Target.Table, have.table(), created, e.plan.SIDThere())
	if err != nil {
		return err
	}
	var asked []feedOf
	var f feedOf
	var told bool
	if _, err := pgx.ForEachRow(rows, []any{&f.topic, &f.sid, &told}, func() error {
		if _, unfit := rule.SIDFits(f.sid, sidType); told && (f.sid == "") == (sidType == "") && (f.sid == "" || unfit == nil) {
			asked = append(asked, f)
		}
		e.moved = append(e.moved, f)
		return nil
	}); err != nil || len(asked) == 0 {
		return err
	}
	gone, err := e.rowless(ctx, e.table, row, asked)
	if err != nil || len(gone) == 0 {
		return err
	}
	former, had, err := e.former(ctx)
	if err != nil {
		return err
	}
	if c := had.column(e.plan.SIDColumn); len(had) > 0 && (sidType == "" || c != nil && c.base == sidType) {
		never, err := e.rowless(ctx, former, row, gone)
		if err != nil {
			return err
		}
		if gone = slices.DeleteFunc(gone, func(f feedOf) bool { return slices.Contains(never, f) }); len(gone) == 0 {
			return nil
		}
	}
	what := targetName(e.plan) + " was replaced by another one: it has what was written since"
	if created {
		what = goneAndBack(targetName(e.plan))
	}
	topics, _ := columnsOf(gone)
	e.lose(what, topics...)
	return nil
}

// rowless gives those of feeds of which a table has no rows. row is the condition that a row t of it is of such an f.
func (e *evolution) rowless(ctx context.Context, table, row string, feeds []feedOf) ([]feedOf, error) {
	topics, sids := columnsOf(feeds)
	rows, err := e.tx.Query(ctx, `SELECT f.topic, f.sid FROM unnest($1::text[], $2::text[]) f(topic, sid) WHERE NOT EXISTS (SELECT FROM `+table+` t WHERE `+row+`) ORDER BY 1`, topics, sids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (f feedOf, err error) {
		err = row.Scan(&f.topic, &f.sid)
		return f, err
	})
}

// former gives the table that was the target before, quoted, with its columns; none where it is gone or may not be read.
func (e *evolution) former(ctx context.Context) (table string, had catalogColumns, err error) {
	var was rule.Target
	err = e.tx.QueryRow(ctx, `
		SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE c.oid::text = $1 AND c.relkind IN ('r', 'p') AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')`, e.feed.shape.Table).Scan(&was.Schema, &was.Table)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil, nil
	}
	if err == nil {
		had, err = readColumns(ctx, e.tx, was)
	}
	return postgres.Ident(was.Schema, was.Table), had, err
}

// conflict is the trouble of a plan whose rows are somebody else's.
func conflict(plan *rule.Plan, cause error, hint string) error {
	return &trouble.Error{
		Code: trouble.RuleConflict, Op: "write to", Subject: targetName(plan), Cause: cause,
		Means: "the rows of the one would overwrite those of the other; this table is not written, nothing is lost",
		Hint:  hint,
	}
}
