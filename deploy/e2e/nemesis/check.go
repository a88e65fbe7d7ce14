package nemesis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// checker compares, when nothing moves, what the source did with what arrived.
type checker struct {
	m      *machine
	reader *topicReader
	ledger int64                // id of the last entry that was checked
	topics map[string]*topicLog // by table
	fences int

	created   change.LSN     // where the slot was made
	published []confirmation // the newest of the round before, and those of this one

	mu        sync.Mutex
	confirmed []confirmation
}

// confirmation is what the slot was told at some time.
type confirmation struct {
	at  time.Time
	lsn change.LSN
}

func newChecker(m *machine) (*checker, error) {
	r, err := newTopicReader(m)
	if err != nil {
		return nil, err
	}
	return &checker{m: m, reader: r, topics: map[string]*topicLog{}}, nil
}

func (c *checker) close() { c.reader.close() }

// awaitSlot waits until the slot is there: from then on the stream has every change, and the load may begin.
func (c *checker) awaitSlot(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, c.m.source.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = poll(ctx, c.m.Patience, func(ctx context.Context) (bool, error) {
		var lsn string
		err := conn.QueryRow(ctx, `SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1 AND confirmed_flush_lsn IS NOT NULL`, slotName).Scan(&lsn)
		if errors.Is(err, pgx.ErrNoRows) {
			return false, nil
		}
		if err == nil {
			c.created, err = change.ParseLSN(lsn)
		}
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("wait for capture to stream: %w", err)
	}
	return nil
}

// confirmedAt notes what the slot was told by then.
func (c *checker) confirmedAt(at time.Time, lsn change.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.confirmed); n > 0 && lsn <= c.confirmed[n-1].lsn {
		return // also after a crash of the server, which may forget some of it
	}
	c.confirmed = append(c.confirmed, confirmation{at, lsn})
}

// errBroken says that there is no point in waiting: something was found meanwhile.
var errBroken = errors.New("something is wrong already")

// fence waits until the warehouse says that it has everything, reads that are still under way included: for a fence
// that is behind the end of all reads. One at which capture was found to have none under way may be before the last
// rows, since what capture says of itself comes ahead of them.
func (c *checker) fence(ctx context.Context, id string) error {
	var last string
	quiet := false // when the fence before was reached
	err := poll(ctx, c.m.Patience, func(ctx context.Context) (bool, error) {
		c.fences++
		one := fmt.Sprintf("%s-%d", id, c.fences)
		done, state, err := c.tryFence(ctx, one)
		if state != "" {
			last = state
		}
		if c.m.broken() {
			return false, errBroken
		}
		if err != nil && ctx.Err() == nil {
			last = err.Error()
			wait(ctx, time.Second)
			return false, nil // somebody still gets up
		}
		was := quiet
		quiet = done
		return was && done, err
	})
	if err != nil {
		return fmt.Errorf("%w; at last: %s", err, last)
	}
	return nil
}

// tryFence waits for one fence; done says that when it was reached capture knew all tables of the source, and no
// snapshot was under way.
func (c *checker) tryFence(ctx context.Context, id string) (done bool, state string, err error) {
	source, err := pgx.Connect(ctx, c.m.source.DSN("postgres"))
	if err != nil {
		return false, "", err
	}
	defer source.Close(context.WithoutCancel(ctx))
	if _, err := source.Exec(ctx, `SELECT pg_logical_emit_message(true, 'tributary', $1)`, fmt.Sprintf(`{"fence": %q}`, id)); err != nil {
		return false, "", err
	}
	var all int
	if err := source.QueryRow(ctx, `SELECT count(*) FROM (`+sourceTables+`) t`).Scan(&all); err != nil {
		return false, "", err
	}
	warehouse, err := pgx.Connect(ctx, c.m.warehouse.DSN("postgres"))
	if err != nil {
		return false, "", err
	}
	defer warehouse.Close(context.WithoutCancel(ctx))
	for _, t := range c.m.targets {
		if done, state, err = c.awaitFence(ctx, warehouse, t, id, all); !done || err != nil {
			return done, state, err
		}
	}
	return true, state, nil
}

// awaitFence waits for a fence in one group; done as for tryFence, all is how many tables the source has.
func (c *checker) awaitFence(ctx context.Context, warehouse *pgx.Conn, t target, id string, all int) (done bool, state string, err error) {
	for {
		var reached bool
		var health []byte
		var missing string
		err := warehouse.QueryRow(ctx, `
			SELECT coalesce($2 = ANY (fences), false), capture::text, coalesce((
			       SELECT string_agg(format('%s/%s has %s, needs %s', p.topic, p.partition, c.next_offset, p.next_offset), ', ')
			         FROM tributary.milestone_part p LEFT JOIN tributary.checkpoint c USING (grp, topic, partition)
			        WHERE p.grp = v.grp AND coalesce(c.next_offset, 0) < p.next_offset
			          AND p.progress_offset = (SELECT min(m.progress_offset) FROM tributary.milestone m WHERE m.grp = v.grp AND m.commit_lsn > v.commit_lsn)), '')
			  FROM tributary.progress v WHERE grp = $1`, t.group, id).Scan(&reached, &health, &missing)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return false, "", postgres.Describe(err)
		}
		var h record.Health
		if err == nil {
			if err := json.Unmarshal(health, &h); err != nil {
				return false, "", err
			}
		}
		state = fmt.Sprintf("group %s: fence reached: %t; capture is %s, knows %d of %d tables, has read %d, %s; behind: %s",
			t.group, reached, h.State, h.SnapshotOf, all, h.SnapshotDone, h.WaitingOn, missing)
		if reached {
			return h.SnapshotOf == all && h.SnapshotDone == all, state, nil
		}
		if ctx.Err() != nil || c.m.broken() {
			return false, state, nil
		}
		wait(ctx, 20*time.Millisecond)
	}
}

// sourceTables lists the tables of the source, with their columns.
const sourceTables = `
	SELECT c.relname::text AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns
	  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
	 GROUP BY c.oid`

// sourceTable is a table as the source has it now.
type sourceTable struct {
	Name    string
	Columns []string
}

func (c *checker) tables(ctx context.Context) ([]sourceTable, error) {
	conn, err := pgx.Connect(ctx, c.m.source.DSN("postgres"))
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, sourceTables+" ORDER BY 1")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[sourceTable])
}

// round compares everything. Nobody writes, and the warehouse is complete.
func (c *checker) round(ctx context.Context) error {
	now, err := c.tables(ctx)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, t := range now {
		if c.topics[t.Name] == nil {
			known, made := find(t.Name)
			if known == nil {
				return fmt.Errorf("table %q is at the source, and nobody has made it", t.Name)
			}
			c.topics[t.Name] = newTopicLog(c.m, known, made)
		}
	}
	c.m.note(func(r *Report) { r.Tables = len(now) })
	if err := c.rows(ctx, now); err != nil {
		return fmt.Errorf("compare rows: %w", err)
	}
	if err := c.takeLedger(ctx); err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	if err := c.reader.read(ctx, c.topics); err != nil {
		return fmt.Errorf("read topics: %w", err)
	}
	if err := c.kept(ctx, now); err != nil {
		return fmt.Errorf("read histories and logs: %w", err)
	}
	for _, log := range c.topics {
		log.finish()
	}
	return c.confirmations(ctx)
}

// rows compares every table of every target row for row, both ways, by the texts of its values.
func (c *checker) rows(ctx context.Context, tables []sourceTable) error {
	texts := func(dsn, schema, where string, t *sourceTable) ([]string, error) {
		conn, err := postgres.Connect(ctx, dsn, "nemesis check")
		if err != nil {
			return nil, err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		var columns []string
		for _, name := range t.Columns {
			columns = append(columns, fmt.Sprintf("coalesce(%s::text, '%s')", name, null))
		}
		rows, err := conn.Query(ctx, fmt.Sprintf(`SELECT r FROM (SELECT concat_ws('|', %s) AS r FROM %s.%s WHERE %s) q ORDER BY r COLLATE "C"`,
			strings.Join(columns, ", "), schema, t.Name, where))
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[string])
	}
	for i := range tables {
		t := &tables[i]
		want, err := texts(c.m.source.DSN("postgres"), "public", "true", t)
		if err != nil {
			return err
		}
		for _, to := range c.m.targets {
			where, ok := to.current(c.m, t.Name)
			if !ok {
				continue
			}
			got, err := texts(c.m.warehouse.DSN("postgres"), to.schema, where, t)
			if postgres.SQLState(err) == "42703" && len(want) == 0 {
				continue // it was altered while it was empty: the column comes with the first row
			}
			if code := postgres.SQLState(err); code == "42703" || code == "42P01" {
				c.m.find("table %s.%s: it, or one of its columns, is not in the warehouse: %v", to.schema, t.Name, err)
				continue
			} else if err != nil {
				return err
			}
			c.m.note(func(r *Report) { r.Rows += int64(len(want)) })
			missing, extra := difference(want, got)
			if len(missing)+len(extra) > 0 {
				c.m.find("table %s.%s (%s): of %d rows %d are missing in the warehouse, %d are there and not at the source; missing: %s; extra: %s",
					to.schema, t.Name, strings.Join(t.Columns, ", "), len(want), len(missing), len(extra), few(missing), few(extra))
			}
		}
	}
	return nil
}

// difference gives what only one of two sorted lists has, each row as often as it is there.
func difference(want, got []string) (missing, extra []string) {
	for len(want) > 0 || len(got) > 0 {
		switch {
		case len(got) == 0 || len(want) > 0 && want[0] < got[0]:
			missing = append(missing, want[0])
			want = want[1:]
		case len(want) == 0 || got[0] < want[0]:
			extra = append(extra, got[0])
			got = got[1:]
		default:
			want, got = want[1:], got[1:]
		}
	}
	return missing, extra
}

// few gives the first rows for a person.
func few(rows []string) string {
	var out []string
	for _, r := range rows[:min(len(rows), 4)] {
		out = append(out, strconv.Quote(r[:min(len(r), 80)]))
	}
	return strings.Join(out, " ")
}

// takeLedger gives the logs what the load has done in this round.
func (c *checker) takeLedger(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, c.m.source.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `SELECT id, xid, tbl, op, coalesce(old_key, ''), coalesce(new_key, ''), coalesce(ver, 0), pg_xact_commit_timestamp(xmin)
		FROM nemesis.ledger WHERE id > $1 ORDER BY id`, c.ledger)
	if err != nil {
		return err
	}
	var e entry
	var table string
	n := int64(0)
	_, err = pgx.ForEachRow(rows, []any{&e.id, &e.xid, &table, &e.op, &e.oldKey, &e.newKey, &e.ver, &e.at}, func() error {
		c.ledger = e.id
		c.topics[table].expect(e)
		n++
		return nil
	})
	c.m.note(func(r *Report) { r.Changes += n })
	return err
}

// confirmations checks that the slot was never told more than was published by then.
//
// What it was told is taken first. The other way round, this comes between: the topic is read to its end, capture
// publishes that it is idle and tells the slot, and what the slot was told is taken.
func (c *checker) confirmations(ctx context.Context) error {
	c.mu.Lock()
	told := c.confirmed
	c.confirmed = nil
	c.mu.Unlock()
	added, err := c.reader.progress(ctx)
	if err != nil {
		return fmt.Errorf("read progress topic: %w", err)
	}
	c.published = append(c.published[max(0, len(c.published)-1):], added...)
	for _, confirmed := range told {
		if confirmed.lsn <= c.created {
			continue
		}
		ok := slices.ContainsFunc(c.published, func(p confirmation) bool {
			return p.lsn >= confirmed.lsn && !p.at.After(confirmed.at)
		})
		if !ok {
			c.m.find("the slot was told %s when that was not published yet, at %s", confirmed.lsn, confirmed.at.Format("15:04:05.000"))
			break
		}
	}
	return nil
}

// dump writes what the topics hold, and where the sinks stand, into files.
func (c *checker) dump(ctx context.Context) error {
	now, err := c.tables(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, t := range now {
		names = append(names, t.Name)
	}
	errs := []error{c.reader.dump(ctx, c.m.path("topics.txt"), names)}
	conn, err := pgx.Connect(ctx, c.m.warehouse.DSN("postgres"))
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var text strings.Builder
	for _, table := range []string{"checkpoint", "quarantine", "source", "milestone", "milestone_part"} {
		rows, err := conn.Query(ctx, fmt.Sprintf(`SELECT t::text FROM tributary.%s t ORDER BY 1`, table))
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		errs = append(errs, err)
		fmt.Fprintf(&text, "%s\n%s\n\n", table, strings.Join(lines, "\n"))
	}
	return errors.Join(append(errs, os.WriteFile(c.m.path("checkpoints.txt"), []byte(text.String()), 0o644))...)
}
