package warehouse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// feed is what is known of a topic that writes a target.
type feed struct {
	topic string
	sole  bool   // no other topic writes the target
	shape *shape // nil before the first time
}

// feedSID gives the sid by which tributary.feed tells the rows of a plan apart: "" where the target has no sid column.
func feedSID(plan *rule.Plan) string {
	if plan.SIDColumn == "" {
		return ""
	}
	return plan.SID
}

// readFeed gives nil where no topic writes the plan's target with its sid.
func (s *Session) readFeed(ctx context.Context, tx pgx.Tx, plan *rule.Plan) (*feed, error) {
	var known *string
	var raw []byte
	f := &feed{}
	// Without a lock: whoever prepares a target has the advisory lock of its schema.
	err := tx.QueryRow(ctx, `
		SELECT max(topic) FILTER (WHERE grp = $1 AND sid = $4), count(*) <= 1, (array_agg(shape::text) FILTER (WHERE grp = $1 AND sid = $4))[1]
		  FROM tributary.feed WHERE target_schema = $2 AND target_table = $3`,
		s.w.cfg.Group, plan.Target.Schema, plan.Target.Table, feedSID(plan)).Scan(&known, &f.sole, &raw)
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
	added, err := tx.Exec(ctx, `INSERT INTO tributary.feed VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
		s.w.cfg.Group, plan.Target.Schema, plan.Target.Table, feedSID(plan), topic)
	if err != nil {
		return nil, err
	}
	f, err := s.readFeed(ctx, tx, plan)
	if err != nil {
		return nil, err
	}
	if f.topic == topic {
		return f, s.refuseOthers(ctx, tx, plan, added.RowsAffected() > 0)
	}
	hint := fmt.Sprintf("add sid: <column> to tables[%d], or give the sources different targets ({source} in to)", plan.Rule)
	if plan.SIDColumn != "" {
		hint = "give the sources different values of sid"
	}
	return nil, conflict(plan, fmt.Errorf("topic %q already writes table %q with the same sid", f.topic, plan.Target.String()),
		hint+fmt.Sprintf("\nif the other is gone for good: DELETE FROM tributary.feed WHERE grp = %s AND topic = %s;", postgres.Literal(s.w.cfg.Group), postgres.Literal(f.topic)))
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
	args := []any{s.w.cfg.Group, plan.Target.Schema, plan.Target.Table, feedSID(plan)}
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
	if sid != feedSID(plan) {
		how, hint = "and one of the two has no sid", "write to another target (to), or give the rules of both groups a sid"
	} else if sid == "" {
		how = "and none has a sid"
	}
	return conflict(plan, fmt.Errorf("group %q writes table %q, too, from topic %q, %s", group, plan.Target.String(), topic, how),
		hint+fmt.Sprintf("\nif it is this group by its former name: docs/operations/rename-group.md\nif it is stopped and is not to write the table again: DELETE FROM tributary.feed WHERE grp = %s AND topic = %s;",
			postgres.Literal(group), postgres.Literal(topic)))
}

// conflict is the trouble of a plan whose rows are somebody else's.
func conflict(plan *rule.Plan, cause error, hint string) error {
	return &trouble.Error{
		Code: trouble.RuleConflict, Op: "write to", Subject: targetName(plan), Cause: cause,
		Means: "the rows of the one would overwrite those of the other; this table is not written, nothing is lost",
		Hint:  hint,
	}
}
