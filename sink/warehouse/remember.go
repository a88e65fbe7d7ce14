package warehouse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// loss is what lost is told, and of which topics.
type loss struct {
	what   string
	topics []string
}

// lose has the transaction note a loss at its end.
func (e *evolution) lose(what string, topics ...string) {
	e.losses = append(e.losses, loss{what, topics})
}

// remember writes down what the target, whose oid table is, was made to fit, and what was found on the way. Nothing behind it waits for a lock.
func (e *evolution) remember(ctx context.Context, at change.Position, table string) error {
	if e.feed == nil || e.s.inspecting {
		return nil
	}
	if e.older {
		return e.noteFound(ctx, nil, true, table)
	}
	now := e.fitted(at, table)
	// Also where nothing of the target was altered, as for a column that is dropped: what other plans know of it is of the mapping before.
	//
	//	partition 0: version 1, then version 2, which is noted in the open transaction
	//	partition 1: version 1, by what was known before: it is refused, everything is taken back, and it comes to the same again
	if e.feed.shape == nil || !reflect.DeepEqual(e.feed.shape.Columns, now.Columns) || !reflect.DeepEqual(e.feed.shape.Unmet, now.Unmet) {
		e.s.w.forgetTarget(e.plan.Target)
	}
	var list []rule.Rename
	var sure bool
	if e.feed.shape != nil {
		list, sure = e.feed.shape.renames(now)
	}
	if err := e.noteFound(ctx, list, sure, table); err != nil {
		return err
	}
	if err := e.leaveUnfixed(ctx, now); err != nil {
		return err
	}
	raw, err := json.Marshal(now)
	if err != nil {
		return err
	}
	// One row: those of several are locked in their order before.
	_, err = e.tx.Exec(ctx, `UPDATE tributary.feed SET shape = $1::text::jsonb || `+noteOwn+` WHERE grp = $2 AND topic = $3 AND target_schema = $4 AND target_table = $5 AND sid = $6`,
		string(raw), e.s.w.cfg.Group, e.feed.topic, e.plan.Target.Schema, e.plan.Target.Table, e.plan.SIDThere())
	return err
}

// leaveUnfixed leaves out of a shape, which is about to be noted, columns that somebody has had looked at again since the target was looked at: rows
// have not been given their values here. The feed is locked then.
//
//	sink 1, partition 0: looks at the target: its rows have the value
//	sink 1, partition 1: takes it over from a sink that wrote rows without, and has the column looked at again (unfix)
//	sink 1, partition 0: notes what it has found
//
// Where the column was not noted before, there is nothing to have looked at again, and nothing to tell by. Then rows that were written without the value,
// behind the answer to a question, are not told of as lost: what tells of them is the rule that the partition was written by, see TakeRules.
func (e *evolution) leaveUnfixed(ctx context.Context, now *shape) error {
	if e.feed.shape == nil || len(e.feed.shape.Constants) == 0 {
		return nil
	}
	var is []string
	err := e.tx.QueryRow(ctx, `SELECT ARRAY(SELECT jsonb_array_elements_text(shape->'constants')) FROM tributary.feed
		WHERE grp = $1 AND topic = $2 AND target_schema = $3 AND target_table = $4 AND sid = $5 AND jsonb_typeof(shape->'constants') = 'array' FOR UPDATE`,
		e.s.w.cfg.Group, e.feed.topic, e.plan.Target.Schema, e.plan.Target.Table, e.plan.SIDThere()).Scan(&is)
	if errors.Is(err, pgx.ErrNoRows) { // its source was removed
		return nil
	}
	now.Constants = slices.DeleteFunc(now.Constants, func(name string) bool {
		return slices.Contains(e.feed.shape.Constants, name) && !slices.Contains(is, name)
	})
	return err
}

// found is what was found of topics of a target, and is to be noted.
type found struct {
	target rule.Target
	losses []loss
	table  string   // the oid of the target
	moved  []feedOf // which know another one
	writer string   // the topic that is written; its feed is locked with these
}

// noteFound notes what was lost, what the source has renamed, and which feeds have another table now. These, and those of the plan's topic, are locked then:
// in a Cut those of other sources only at its end, as nobody of these may be held up for as long as it takes.
func (e *evolution) noteFound(ctx context.Context, list []rule.Rename, sure bool, table string) error {
	now := found{e.plan.Target, e.losses, table, e.moved, e.feed.topic}
	if e.s.cut != nil {
		now = e.s.leaveOthers(now)
	}
	var renamed []string
	if len(list) > 0 {
		renamed = append(renamed, e.feed.topic)
	}
	if err := e.s.noteLosses(ctx, e.tx, []found{now}, renamed...); err != nil {
		return err
	}
	if len(list) > 0 {
		if err := e.s.renameRules(ctx, e.tx, e.feed.topic, e.plan.Meaning().Text(), list, sure); err != nil {
			return err
		}
	}
	return e.s.noteMoved(ctx, e.tx, []found{now})
}

// leaveOthers leaves for the end of the open Cut what is not of the source that it writes, and gives the rest.
func (s *Session) leaveOthers(is found) (own found) {
	own, later := is, is
	own.losses, own.moved, later.losses = nil, nil, nil
	source := sourceOf(is.writer)
	for _, l := range is.losses {
		if others := slices.DeleteFunc(slices.Clone(l.topics), func(topic string) bool { return sourceOf(topic) == source }); len(others) > 0 {
			later.losses = append(later.losses, loss{l.what, others})
		}
		if topics := ofSource(slices.Clone(l.topics), source); len(topics) > 0 {
			own.losses = append(own.losses, loss{l.what, topics})
		}
	}
	if len(later.losses) > 0 || len(later.moved) > 0 {
		s.later = append(s.later, later)
	}
	return own
}

// noteLater notes what the open Cut has left.
func (s *Session) noteLater(ctx context.Context) error {
	if len(s.later) == 0 {
		return nil
	}
	if err := s.noteLosses(ctx, s.cut, s.later); err != nil {
		return err
	}
	return s.noteMoved(ctx, s.cut, s.later)
}

// noteLosses notes what was lost. Rules of more topics are locked with those of these.
func (s *Session) noteLosses(ctx context.Context, tx pgx.Tx, all []found, more ...string) error {
	for i := range all {
		for _, l := range all[i].losses {
			more = append(more, l.topics...)
		}
	}
	if err := s.lockRules(ctx, tx, more); err != nil {
		return err
	}
	for i := range all {
		for _, l := range all[i].losses {
			if err := s.lost(ctx, tx, l.what, l.topics...); err != nil {
				return err
			}
		}
	}
	return nil
}

// noteMoved notes which table feeds have now.
func (s *Session) noteMoved(ctx context.Context, tx pgx.Tx, all []found) error {
	var schemas, tables, topics []string
	for i := range all {
		f := &all[i]
		if len(f.moved) == 0 {
			continue
		}
		of, _ := columnsOf(f.moved)
		for _, topic := range append(of, f.writer) {
			schemas, tables, topics = append(schemas, f.target.Schema), append(tables, f.target.Table), append(topics, topic)
		}
	}
	if len(topics) == 0 {
		return nil
	}
	if err := s.lockFeeds(ctx, tx, `(target_schema, target_table, topic) IN (SELECT * FROM unnest($2::text[], $3::text[], $4::text[]))`, schemas, tables, topics); err != nil {
		return err
	}
	for i := range all {
		f := &all[i]
		if len(f.moved) == 0 {
			continue
		}
		_, sids := columnsOf(f.moved)
		if _, err := tx.Exec(ctx, `
			UPDATE tributary.feed SET shape = shape || jsonb_build_object('table', $5::text) || `+noteOwn+`
			 WHERE grp = $1 AND target_schema = $2 AND target_table = $3 AND sid = ANY ($4) AND shape IS NOT NULL`,
			s.w.cfg.Group, f.target.Schema, f.target.Table, sids, f.table); err != nil {
			return err
		}
	}
	return nil
}

// fitted is the shape that the target has now.
func (e *evolution) fitted(at change.Position, table string) *shape {
	now := &shape{At: at, Columns: map[string]shapeColumn{}, Key: e.keyColumns(), Constants: []string{}, Table: table, OID: e.plan.Relation.OID}
	for i := range e.plan.Relation.Columns {
		c := &e.plan.Relation.Columns[i]
		if now.Newest = max(now.Newest, c.AttNum); c.AttNum == 0 {
			now.Unnumbered = append(now.Unnumbered, c.Name)
		}
	}
	if was := e.feed.shape; was != nil {
		if !e.another() { // a column that has come may be gone
			now.Newest = max(now.Newest, was.Newest)
		}
		left := slices.Clone(was.Left)
		for _, c := range was.Columns {
			left = append(left, c.Target)
		}
		slices.Sort(left)
		now.Left = slices.DeleteFunc(slices.Compact(left), func(name string) bool { return slices.Contains(e.names, name) })
	}
	for i := range e.plan.Columns {
		if e.plan.Constant(i) {
			now.Constants = append(now.Constants, e.names[i])
		}
		src := e.plan.Column(i)
		if src.AttNum == 0 {
			continue
		}
		c := shapeColumn{Source: src.Name, Target: e.names[i]}
		// Also of the first version that is met: a partition may be behind, and have rows of one before it.
		if e.plan.Mode != rule.Log {
			c.Default = src.Default
			if was := e.addedWith(src); was != nil {
				c.Default = was // the server may have written the table anew: then it knows none any more
			}
		}
		now.Columns[fmt.Sprint(src.AttNum)] = c
	}
	now.Unmet = e.unmet(now)
	return now
}

// unmet gives the columns of versions before that are none of now, as far as is known, and none of its columns of the target; nil, as it is noted, for none.
func (e *evolution) unmet(now *shape) map[string]shapeColumn {
	if e.feed.shape == nil || e.another() || len(now.Unnumbered) == 0 {
		return nil
	}
	targets := map[string]bool{}
	for _, c := range now.Columns {
		targets[c.Target] = true
	}
	unmet := e.feed.shape.allColumns()
	maps.DeleteFunc(unmet, func(number string, c shapeColumn) bool {
		_, met := now.Columns[number]
		return met || targets[c.Target]
	})
	if len(unmet) == 0 {
		return nil
	}
	return unmet
}

// addedWith gives the default with which the source has added a column, as far as versions before have told; nil for none.
func (e *evolution) addedWith(src *schema.Column) *string {
	if e.feed.shape == nil || e.another() {
		return nil
	}
	return e.feed.shape.allColumns()[fmt.Sprint(src.AttNum)].Default
}
