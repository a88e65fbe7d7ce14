package warehouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// Reload is a reading anew of a table of which every row comes again. Nothing is removed when it begins: from then on
// every flush notes the keys that it writes, and once all rows have come those that were not noted are swept. A reader
// of the target never sees less than what stays.
//
// Whether a reload is open is known with what is parked of a partition: its beginning and its end count parked_n of all
// partitions of the topic up, so that a flush that believes otherwise fails its compare-and-set.
type Reload struct {
	ID    int64
	Since time.Time
	At    int64 // commit time of the record that began it, microseconds since 1970-01-01 UTC; 0 where none did: see Replays

	key, types []string // of the target, in the order of the plan's key
}

// Mark is the record that begins a reload.
type Mark struct {
	Partition int32
	Offset    int64
	At        int64 // its commit time, microseconds since 1970-01-01 UTC
}

// Replays says whether all changes of before come once more (Rebuild): rows are there already as the last ones leave them. nil does not.
func (r *Reload) Replays() bool { return r != nil && r.At == 0 }

// seen names the table of the keys that were written since r began.
func (r *Reload) seen() string { return postgres.Ident("tributary", fmt.Sprintf("seen_%d", r.ID)) }

// fits says whether keys of the target are still what the reload notes.
func (r *Reload) fits(t *Target) bool {
	names, types := t.keyColumns()
	return slices.Equal(r.key, names) && slices.Equal(r.types, types)
}

func (t *Target) keyColumns() (names, types []string) {
	for _, k := range t.plan.Key {
		names, types = append(names, t.names[k]), append(types, t.columns[k].full)
	}
	return names, types
}

// beginReload begins one in the open transaction; one that runs begins anew.
func (a *flushing) beginReload(ctx context.Context, i int) error {
	u := &a.f.Units[i]
	if err := a.run(ctx); err != nil { // the transaction must be open
		return err
	}
	plan, conn := u.Result.Plan, a.s.conn
	r := &Reload{At: u.Mark.At}
	r.key, r.types = u.Target.keyColumns()
	columns := quoted(r.key)
	if u.Target.sid != nil {
		columns = append([]string{u.Target.sid.name}, columns...)
	}
	err := a.s.endReload(ctx, u.Topic)
	if err == nil {
		err = conn.QueryRow(ctx, `
			INSERT INTO tributary.reload (grp, topic, source, topic_id, partition, "offset", target_schema, target_table, sid_column, sid, key, types, at, history)
			SELECT grp, topic, $3, topic_id, partition, $5, $6, $7, $8, $9, $10, $11, $12, $13
			  FROM tributary.checkpoint WHERE grp = $1 AND topic = $2 AND partition = $4
			RETURNING id, since`, a.s.w.cfg.Group, u.Topic, plan.Source, u.Mark.Partition, u.Mark.Offset,
			plan.Target.Schema, plan.Target.Table, plan.SIDColumn, plan.SIDThere(), r.key, r.types,
			r.At, historyNames(plan)).Scan(&r.ID, &r.Since)
	}
	if err == nil {
		err = a.s.createSeen(ctx, r, u.Target.name, columns)
	}
	if err != nil {
		return &statementError{unit: i, err: err}
	}
	a.reloads[u.Topic] = r
	return nil
}

// createSeen makes the table of the keys that are written from now on. target and columns are quoted.
func (s *Session) createSeen(ctx context.Context, r *Reload, target string, columns []string) error {
	list := strings.Join(columns, ", ")
	// Not UNLOGGED: it would be empty after a crash of the warehouse, and the sweep would remove every row.
	if _, err := s.conn.Exec(ctx, fmt.Sprintf("CREATE TABLE %s AS SELECT %s FROM %s WITH NO DATA", r.seen(), list, target)); err != nil {
		return err
	}
	_, err := s.conn.Exec(ctx, fmt.Sprintf("ALTER TABLE %s ADD PRIMARY KEY (%s)", r.seen(), list))
	return err
}

// endReload ends the reload of a topic, if there is one, without removing anything, and has all who write the topic look
// again whether there is one. They stand at the barrier or wait for their checkpoints, but for a claim that has taken the
// one and waits for another that this transaction holds: then Postgres ends one of both, and it is tried again.
func (s *Session) endReload(ctx context.Context, topic string) error {
	if _, err := s.conn.Exec(ctx, `UPDATE tributary.checkpoint SET parked_n = parked_n + 1 WHERE grp = $1 AND topic = $2`, s.w.cfg.Group, topic); err != nil {
		return err
	}
	return s.dropReload(ctx, topic)
}

func (s *Session) dropReload(ctx context.Context, topic string) error {
	var r Reload
	err := s.conn.QueryRow(ctx, `DELETE FROM tributary.reload WHERE grp = $1 AND topic = $2 RETURNING id`, s.w.cfg.Group, topic).Scan(&r.ID)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		_, err = s.conn.Exec(ctx, "DROP TABLE "+r.seen())
	}
	return err
}

// checkReload abandons a reload whose keys are not those of the target any more: which rows are gone cannot be told, so
// all stay, and that is told until a reload has ended.
func (a *flushing) checkReload(ctx context.Context, i int) error {
	u := &a.f.Units[i]
	r := a.reloads[u.Topic]
	if r == nil || len(u.Result.Plan.Key) > 0 && r.fits(u.Target) {
		return nil
	}
	if err := a.run(ctx); err != nil {
		return err
	}
	err := a.s.endReload(ctx, u.Topic)
	if err == nil {
		err = a.s.noteLoss(ctx, a.s.conn, "the key has changed while the table was read anew: rows that are gone at the source may be there still", lossStay, u.Topic)
	}
	if err != nil {
		return &statementError{unit: i, err: err}
	}
	delete(a.reloads, u.Topic)
	a.s.w.cfg.Log.Warn("the key has changed while the table is read anew: rows that are gone at the source stay until it is read anew again", "topic", u.Topic, "code", trouble.RowsOutdated)
	return nil
}

// mark notes the keys that a set is about to write, where a reload is open.
func (a *flushing) mark(i int, set *batch.Set) {
	u := &a.f.Units[i]
	r := a.reloads[u.Topic]
	if r != nil {
		a.set(i, byFinal, set, strings.Replace(u.Target.template.mark, seenTable, r.seen(), 1), nil)
	}
}

// openReloads gives the reloads of a source by topic, in the open transaction.
func (s *Session) openReloads(ctx context.Context, source string) (map[string]*Reload, error) {
	rows, err := s.conn.Query(ctx, `SELECT topic, id, since, at, key, types FROM tributary.reload WHERE grp = $1 AND source = $2`, s.w.cfg.Group, source)
	if err != nil {
		return nil, err
	}
	out := map[string]*Reload{}
	var topic string
	var r Reload
	_, err = pgx.ForEachRow(rows, []any{&topic, &r.ID, &r.Since, &r.At, &r.key, &r.types}, func() error {
		found := r
		out[topic], r = &found, Reload{}
		return nil
	})
	return out, err
}

// OpenReload is a reload as the supervisor sees it.
type OpenReload struct {
	Reload
	Topic  string
	Source string
	Due    bool // all rows have come: Sweep

	target         rule.Target
	sidColumn, sid string
	history        []string // see historyNames
}

// Reloads lists those of the group. It notes, too, which offsets have to be passed before the sweep: those of any progress
// record that says, behind the mark, that the table has been read. Later ones would do as well, but on a busy table there
// is always a later one; rows that are written between the offsets and the sweep are noted like all others.
func (s *Session) Reloads(ctx context.Context) ([]OpenReload, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	out, err := s.reloads(ctx, "")
	if err != nil {
		return nil, s.broken("read", "tributary.reload", err)
	}
	return out, nil
}

// reloads does that; for one source if it is not "".
func (s *Session) reloads(ctx context.Context, source string) ([]OpenReload, error) {
	// One that somebody has locked is ended, or noted by whoever has it: nobody waits for that with others in his hands.
	if _, err := s.conn.Exec(ctx, `
		UPDATE tributary.reload r SET vector = ready.vector
		  FROM (SELECT r.id, ARRAY(SELECT v::bigint FROM jsonb_array_elements_text(s.vector->r.topic) WITH ORDINALITY AS e(v, i) ORDER BY i) AS vector
		          FROM tributary.reload r JOIN tributary.source s ON s.grp = r.grp AND s.source = r.source
		         WHERE r.grp = $1 AND ($2 = '' OR r.source = $2) AND r.vector IS NULL AND s.known
		           AND (s.tables->r.topic->>'done')::boolean AND (s.vector->r.topic->>r.partition)::bigint > r."offset"
		           FOR UPDATE OF r SKIP LOCKED) ready
		 WHERE r.grp = $1 AND r.id = ready.id`, s.w.cfg.Group, source); err != nil {
		return nil, err
	}
	// A checkpoint of another topic id is of a topic that was made anew: what was noted says nothing of its rows. What was parked since the
	// mark has come, and is noted when it is retried.
	rows, err := s.conn.Query(ctx, `
		SELECT r.topic, r.source, r.id, r.since, r.key, r.types, r.target_schema, r.target_table, r.sid_column, r.sid, r.at, r.history,
		       r.vector IS NOT NULL AND NOT EXISTS (
		       SELECT FROM unnest(r.vector) WITH ORDINALITY AS v(next, i)
		         LEFT JOIN tributary.checkpoint c ON c.grp = r.grp AND c.topic = r.topic AND c.partition = v.i - 1 AND c.topic_id = r.topic_id
		        WHERE v.next > 0 AND coalesce(c.next_offset, 0) < v.next)
		       AND NOT EXISTS (SELECT FROM tributary.parked p WHERE p.grp = r.grp AND p.topic = r.topic)
		  FROM tributary.reload r WHERE r.grp = $1 AND ($2 = '' OR r.source = $2) ORDER BY 1`, s.w.cfg.Group, source)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r OpenReload, err error) {
		err = row.Scan(&r.Topic, &r.Source, &r.ID, &r.Since, &r.key, &r.types, &r.target.Schema, &r.target.Table, &r.sidColumn, &r.sid, &r.At, &r.history, &r.Due)
		return r, err
	})
}

// sweepRows is how many rows one transaction of Sweep removes. The topic is not written meanwhile, and a claim of its
// partitions waits, which must be well below claimPatience.
const sweepRows = 20_000

// Sweep ends a reload that is due: rows of the target whose keys were not noted are removed. It gives how many.
//
// What is gone is looked for first, while the topic is written on: a row that was not noted then and is later is left
// alone. Then the checkpoints of the topic are locked, and only behind that the keys are compared once more and the rows
// removed. Without the lock: a DELETE finds that row 7 was not noted; a flush notes 7, updates it and commits; the DELETE
// has waited for the row, sees that it still is row 7, compares it with the notes as they were when the DELETE
// began, and removes it.
func (s *Session) Sweep(ctx context.Context, due OpenReload) (removed int64, err error) {
	if err := s.open(ctx); err != nil {
		return 0, err
	}
	defer s.Close(context.WithoutCancel(ctx)) // and its temporary table with it
	sw, err := s.sweeping(ctx, &due)
	if err == nil {
		removed, err = sw.run(ctx)
	}
	return removed, s.removing("remove rows that are gone at the source from", due.target, "rows that are gone at the source stay; all else goes on", err)
}

// sweeping is one sweep.
type sweeping struct {
	s        *Session
	due      *OpenReload
	target   string // quoted
	columns  []string
	ofSource string                          // condition on t: it is a row of the source, and there
	remove   string                          // statement up to the rows by which it finds them
	same     func(a, b string) string        // the keys of a and b are equal
	seen     func(alias string) (sql string) // the key of alias was noted
}

func (s *Session) sweeping(ctx context.Context, due *OpenReload) (*sweeping, error) {
	sw := &sweeping{s: s, due: due, target: postgres.Ident(due.target.Schema, due.target.Table), columns: quoted(due.key), ofSource: "true"}
	have, err := readColumns(ctx, s.conn, due.target)
	if err != nil {
		return nil, err
	}
	names := due.key
	if due.sidColumn != "" {
		names = append([]string{due.sidColumn}, names...)
		sw.columns = append([]string{postgres.Ident(due.sidColumn)}, sw.columns...)
	}
	equal := make([]string, len(names))
	for i, name := range names {
		c := have.column(name)
		if c == nil {
			return nil, &trouble.Error{
				Code: trouble.TargetMissing, Op: "remove rows that are gone at the source from", Subject: fmt.Sprintf("table %q", due.target.String()),
				Cause: fmt.Errorf("it is gone, or has no column %q any more", name),
				Means: "rows that are gone at the source stay; all else goes on",
				Hint:  "put it back, or read the table anew: docs/reload.md",
			}
		}
		equal[i] = c.target().equal
		if name == due.sidColumn {
			sw.ofSource = fmt.Sprintf("t.%s %s %s::%s", sw.columns[i], equal[i], postgres.Literal(due.sid), c.base)
		}
	}
	sw.remove = "DELETE FROM " + sw.target + " t USING"
	if due.history != nil {
		if err := sw.ofHistory(have); err != nil {
			return nil, err
		}
	}
	sw.same = func(a, b string) string {
		var out []string
		for i, name := range sw.columns {
			out = append(out, fmt.Sprintf("%s.%s %s %s.%s", a, name, equal[i], b, name))
		}
		return strings.Join(out, " AND ")
	}
	sw.seen = func(alias string) string {
		return fmt.Sprintf("EXISTS (SELECT FROM %s s WHERE %s)", due.seen(), sw.same("s", alias))
	}
	return sw, nil
}

// all removes everything at once, in the open transaction, in which the checkpoints have been locked.
func (sw *sweeping) all(ctx context.Context) (int64, error) {
	gone := fmt.Sprintf("(SELECT) g WHERE %s AND NOT %s", sw.ofSource, sw.seen("t"))
	tag, err := sw.s.conn.Exec(ctx, sw.remove+" "+gone)
	if err == nil {
		err = sw.noneStay(ctx, gone)
	}
	if err != nil {
		return 0, err
	}
	return tag.RowsAffected(), sw.end(ctx)
}

// end ends the reload, which has removed what is gone, in the open transaction.
func (sw *sweeping) end(ctx context.Context) error {
	if err := sw.s.endReload(ctx, sw.due.Topic); err != nil {
		return err
	}
	return sw.s.reloaded(ctx, sw.due)
}

// noneStay refuses rows that are there still after they were removed. gone is the end of a statement that finds them as t.
func (sw *sweeping) noneStay(ctx context.Context, gone string, args ...any) error {
	return noneStay(ctx, sw.s.conn, sw.due.target, "t, "+gone, "remove rows that are gone at the source from",
		"rows that are gone at the source stay; all else goes on, and it is tried again", args...)
}

// planFreely lets the planner choose: see connect for why it may not elsewhere.
const planFreely = `SELECT set_config('enable_hashjoin', 'on', $1), set_config('enable_mergejoin', 'on', $1), set_config('enable_seqscan', 'on', $1)`

func (sw *sweeping) run(ctx context.Context) (removed int64, err error) {
	conn := sw.s.conn
	if _, err := conn.Exec(ctx, planFreely, false); err != nil {
		return 0, err
	}
	if _, err := conn.Exec(ctx, "ANALYZE "+sw.due.seen()); err != nil {
		return 0, err
	}
	tag, err := conn.Exec(ctx, fmt.Sprintf("CREATE TEMPORARY TABLE tributary_gone AS SELECT row_number() OVER () AS tributary_n, t.%s FROM %s t WHERE %s AND NOT %s",
		strings.Join(sw.columns, ", t."), sw.target, sw.ofSource, sw.seen("t")))
	if err != nil {
		return 0, err
	}
	if _, err := conn.Exec(ctx, "ANALYZE pg_temp.tributary_gone"); err != nil {
		return 0, err
	}
	gone := tag.RowsAffected()
	if gone > 0 && sw.due.history == nil {
		if removed, err = sw.keyless(ctx); err != nil {
			return removed, err
		}
	}
	for from := int64(0); ; from += sweepRows {
		last := from+sweepRows >= gone
		n, open, err := sw.piece(ctx, from, last)
		removed += n
		if err != nil || !open || last {
			return removed, err
		}
	}
}

// keyless removes rows with a null in their key: they are of before a column was added to it, and have come again with another key.
// Nobody writes them any more, so that it needs no lock.
func (sw *sweeping) keyless(ctx context.Context) (removed int64, err error) {
	of := make([]string, len(sw.due.key))
	for i, name := range sw.due.key {
		of[i] = "t." + postgres.Ident(name) + " IS NULL"
	}
	condition := fmt.Sprintf("%s AND (%s)", sw.ofSource, strings.Join(of, " OR "))
	leaves, err := sw.s.leaves(ctx, sw.due.target)
	if err == nil {
		_, err = sw.s.removePieces(ctx, leaves, pieces{condition: condition, lock: "FOR UPDATE", rows: sweepRows, told: func(rows int64) error { removed += rows; return nil }})
	}
	if err == nil {
		err = sw.noneStay(ctx, "(SELECT) g WHERE "+condition)
	}
	return removed, err
}

// piece removes one piece of what is gone, and ends the reload with the last one. open is false if the reload is over or
// has begun anew meanwhile.
func (sw *sweeping) piece(ctx context.Context, from int64, last bool) (removed int64, open bool, err error) {
	s := sw.s
	err = pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT FROM tributary.checkpoint WHERE grp = $1 AND topic = $2 ORDER BY partition FOR UPDATE`,
			s.w.cfg.Group, sw.due.Topic); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM tributary.reload WHERE grp = $1 AND topic = $2 AND id = $3)`,
			s.w.cfg.Group, sw.due.Topic, sw.due.ID).Scan(&open); err != nil || !open {
			return err
		}
		gone := fmt.Sprintf("pg_temp.tributary_gone g WHERE g.tributary_n > $1 AND g.tributary_n <= $2 AND %s AND %s AND NOT %s",
			sw.ofSource, sw.same("t", "g"), sw.seen("g"))
		tag, err := tx.Exec(ctx, sw.remove+" "+gone, from, from+sweepRows)
		if err == nil {
			err = sw.noneStay(ctx, gone, from, from+sweepRows)
		}
		if err != nil {
			return err
		}
		removed = tag.RowsAffected()
		if last {
			return sw.end(ctx)
		}
		return nil
	})
	return removed, open, err
}

// ofHistory has the sweep end versions instead of removing rows: they are gone since the reading began.
func (sw *sweeping) ofHistory(have catalogColumns) error {
	due := sw.due
	s := span{from: postgres.Ident(due.history[0]), to: postgres.Ident(due.history[1]), deleted: postgres.Ident(due.history[2])}
	from := have.column(due.history[0])
	if from == nil || have.column(due.history[1]) == nil || have.column(due.history[2]) == nil {
		return &trouble.Error{
			Code: trouble.TargetMissing, Op: "end versions of rows that are gone at the source in", Subject: fmt.Sprintf("table %q", due.target.String()),
			Cause: fmt.Errorf("it lacks one of the columns %s", strings.Join(due.history[:3], ", ")),
			Means: "versions of rows that are gone at the source stay valid; all else goes on",
			Hint:  "put it back, or read the table anew: docs/reload.md",
		}
	}
	s.typ, s.end = from.base, postgres.Literal(due.history[3])+"::"+from.base
	sw.ofSource += " AND " + s.valid()
	sw.remove = fmt.Sprintf("UPDATE %s t SET %s FROM", sw.target, s.ending(postgres.Literal(string(batch.AppendTime(nil, due.At)))))
	return nil
}

// historyNames gives the columns of a history and the bound of what is valid still, nil for other modes.
func historyNames(plan *rule.Plan) []string {
	if plan.Mode != rule.History {
		return nil
	}
	return []string{plan.Added[rule.AddedFrom].Name, plan.Added[rule.AddedTo].Name, plan.Added[rule.AddedDeleted].Name, plan.Bounds.End}
}

func quoted(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = postgres.Ident(name)
	}
	return out
}
