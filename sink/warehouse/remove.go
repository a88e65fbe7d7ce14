package warehouse

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// removeRows is how many rows one transaction of RemoveRows removes.
const removeRows = 10_000

const theyStay = "they stay, and so does what is known of their source"

// Removal is what RemoveRows does beside removing rows, which it does in small transactions.
type Removal struct {
	First func(context.Context, pgx.Tx) error // begins each of them, and may refuse; nil for none
	Last  func(context.Context, pgx.Tx) error // ends each of them that removes rows; nil for none
	Aside bool                                // partitions that retention has detached, and not dropped yet, are gone over, too
	Told  func(rows int64)                    // of each of them
}

// RemoveRows removes the rows of a feed. Nobody may write them meanwhile.
func (s *Session) RemoveRows(ctx context.Context, f Feed, r Removal) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	// Whoever attaches or detaches a partition meanwhile has it here or there when it is looked for.
	done := map[rule.Target]bool{}
	for {
		tables := []rule.Target{f.Target}
		if r.Aside {
			aside, err := s.detached(ctx, &f.Target)
			if err != nil {
				return s.removing("remove rows from", f.Target, theyStay, err)
			}
			for _, p := range aside {
				tables = append(tables, p.Name)
			}
		}
		tables = slices.DeleteFunc(tables, func(table rule.Target) bool { return done[table] })
		if len(tables) == 0 {
			return nil
		}
		for _, table := range tables {
			if err := s.removeFrom(ctx, &f, table, r); err != nil {
				return s.removing("remove rows from", table, theyStay, err)
			}
			done[table] = true
		}
	}
}

// removeFrom removes those that are in a table: the target, or one that was a partition of it.
func (s *Session) removeFrom(ctx context.Context, f *Feed, table rule.Target, r Removal) error {
	condition, err := f.rows(ctx, s.conn, table)
	if err != nil || condition == "" {
		return err
	}
	how := pieces{condition: condition, lock: "FOR UPDATE", rows: removeRows, first: r.First, told: func(rows int64) error { r.Told(rows); return nil }}
	if r.Last != nil {
		how.with = func(ctx context.Context, tx pgx.Tx, _ int64) error { return r.Last(ctx, tx) }
	}
	stay, err := s.removeLeaves(ctx, table, how)
	if err == nil {
		var more int64
		more, err = s.removeForeign(ctx, table, how)
		stay += more
	}
	if err == nil && stay > 0 {
		err = kept(table, stay, "empty", theyStay)
	}
	return err
}

// removeLeaves does removePieces of all tables that hold the rows of a target, also of those that come meanwhile: whoever makes a partition has
// it take rows from the default one.
func (s *Session) removeLeaves(ctx context.Context, target rule.Target, p pieces) (stay int64, err error) {
	done := map[string]bool{}
	for {
		leaves, err := s.leaves(ctx, target)
		leaves = slices.DeleteFunc(leaves, func(table string) bool { return done[table] })
		if err != nil || len(leaves) == 0 {
			return stay, err
		}
		n, err := s.removePieces(ctx, leaves, p)
		stay += n
		if err != nil {
			return stay, err
		}
		for _, table := range leaves {
			done[table] = true
		}
	}
}

// removeForeign removes rows of the foreign tables below a target, those of each at once: where its rows stand is for another server to say.
func (s *Session) removeForeign(ctx context.Context, target rule.Target, p pieces) (stay int64, err error) {
	tables, err := s.foreign(ctx, target)
	for _, table := range tables {
		var rows, removed int64
		if err == nil {
			err = pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
				if p.first != nil {
					if err := p.first(ctx, tx); err != nil {
						return err
					}
				}
				var lets bool
				if err := tx.QueryRow(ctx, fmt.Sprintf(`SELECT count(*), pg_relation_is_updatable($1::text::regclass, false) & (1 << 4) <> 0 FROM ONLY %s t WHERE %s`, table, p.condition), table).
					Scan(&rows, &lets); err != nil || rows == 0 {
					return err
				}
				if !lets {
					return &trouble.Error{
						Code: trouble.RowCount, Op: "empty", Subject: fmt.Sprintf("table %q", target.String()),
						Cause: fmt.Errorf("%s of it are in the foreign table %s, which does not let rows be removed", service.Plural(rows, "row"), table), Means: theyStay,
						Hint: fmt.Sprintf("remove them where they are, or ALTER TABLE %s DETACH PARTITION %s; then once more", postgres.Ident(target.Schema, target.Table), table),
					}
				}
				tag, err := tx.Exec(ctx, fmt.Sprintf(`DELETE FROM ONLY %s t WHERE %s`, table, p.condition))
				removed = tag.RowsAffected()
				if err == nil && removed > 0 && p.with != nil {
					err = p.with(ctx, tx, removed)
				}
				return err
			})
		}
		if err == nil && rows > 0 {
			err = p.told(removed)
			stay += rows - removed
		}
	}
	return stay, err
}

// removing makes the trouble of rows, or of a partition, that could not be removed from a target.
func (s *Session) removing(op string, target rule.Target, means string, err error) error {
	err = s.maintaining(op, target, means, err)
	if t, ok := errors.AsType[*trouble.Error](err); ok && t.Code == trouble.ConstraintViolation {
		t.Hint = "remove what refers to them, or drop the constraint"
	}
	return err
}

// maintaining makes the trouble of what is done to a target beside writing it, and is tried again by itself: no table is held by it, and none is to be
// resumed. means is what a refusal of Postgres does; what is said of the warehouse as a whole, and what was found by ourselves, has its own words.
func (s *Session) maintaining(op string, target rule.Target, means string, err error) error {
	_, ours := errors.AsType[*trouble.Error](err)
	err = s.broken(op, fmt.Sprintf("table %q", target.String()), err)
	if t, ok := errors.AsType[*trouble.Error](err); ok && !ours {
		t.Hint = WithoutResume(t.Hint)
		if t.Code != trouble.WarehouseUnreachable && t.Code != trouble.WarehouseReadOnly && t.Code != trouble.WarehouseFull {
			t.Means = means
		}
	}
	return err
}

// lostColumn tells that a target lacks what rows are told apart by.
func lostColumn(op string, target rule.Target, column, means string) error {
	return &trouble.Error{
		Code: trouble.TargetMissing, Op: op, Subject: fmt.Sprintf("table %q", target.String()),
		Cause: fmt.Errorf("it has no column %q any more", column),
		Means: means, Hint: "put the column back with the values that it had; or drop the table, which is then made anew; then once more",
	}
}

// rows is the condition that a row t of a table, the target or one that was a partition of it, is the feed's; "" where somebody has dropped the table.
func (f *Feed) rows(ctx context.Context, db reader, table rule.Target) (string, error) {
	have, err := readColumns(ctx, db, table)
	switch {
	case err != nil || len(have) == 0:
		return "", err
	case f.SIDColumn == "":
		return "true", nil
	}
	c := have.column(f.SIDColumn)
	if c == nil {
		return "", lostColumn("remove rows from", table, f.SIDColumn, "its rows stay, as nothing tells whose they are")
	}
	return fmt.Sprintf("t.%s %s %s::%s", postgres.Ident(c.name), c.target().equal, postgres.Literal(f.SID), c.base), nil
}

// empty removes what somebody has written since RemoveRows, in the open transaction, in which the checkpoints have been taken away.
func (f *Feed) empty(ctx context.Context, tx pgx.Tx) error {
	condition, err := f.rows(ctx, tx, f.Target)
	if err != nil || condition == "" {
		return err
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("DELETE FROM %s t WHERE %s", postgres.Ident(f.Target.Schema, f.Target.Table), condition)); err != nil {
		return err
	}
	return f.isEmpty(ctx, tx, condition)
}

// isEmpty refuses a target that has rows of the feed, which its condition finds, after they were removed.
func (f *Feed) isEmpty(ctx context.Context, db querier, condition string) error {
	return noneStay(ctx, db, f.Target, "t WHERE "+condition, "empty", "they would be there twice; its source is not rebuilt")
}

// noneStay refuses rows that are there still after they were removed. these is the end of a statement that finds them in the target, as t.
func noneStay(ctx context.Context, db querier, target rule.Target, these, op, means string, args ...any) error {
	var stay int64
	err := db.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s %s", postgres.Ident(target.Schema, target.Table), these), args...).Scan(&stay)
	if err != nil || stay == 0 {
		return err
	}
	return kept(target, stay, op, means)
}

// kept is the trouble of so many rows that a trigger, a rule or a policy of a target keeps.
func kept(target rule.Target, rows int64, op, means string) error {
	return &trouble.Error{
		Code: trouble.RowCount, Op: op, Subject: fmt.Sprintf("table %q", target.String()),
		Cause: fmt.Errorf("%d rows were there still after their DELETE", rows),
		Means: means, Hint: "look for triggers, rules and policies of the table, or of its partitions, that keep rows",
	}
}

// leaves gives the tables that hold the rows of a target, quoted: its partitions, or itself and those that inherit from it. What of it is in
// foreign tables, foreign gives.
func (s *Session) leaves(ctx context.Context, target rule.Target) ([]string, error) {
	return s.tables(ctx, target, fmt.Sprintf(below, "r"))
}

func (s *Session) foreign(ctx context.Context, target rule.Target) ([]string, error) {
	return s.tables(ctx, target, fmt.Sprintf(below, "f"))
}

// below lists the tables of a kind that are a target, or partitions of it, or inherit from it.
const below = `
	WITH RECURSIVE part(oid) AS (SELECT $1::text::regclass::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN part ON part.oid = i.inhparent)
	SELECT n.nspname::text, c.relname::text FROM part JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = '%s' ORDER BY 1, 2`

// tables gives the quoted names that a query has about a target, $1.
func (s *Session) tables(ctx context.Context, target rule.Target, query string) ([]string, error) {
	rows, err := s.conn.Query(ctx, query, postgres.Ident(target.Schema, target.Table))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var schema, table string
		err := row.Scan(&schema, &table)
		return postgres.Ident(schema, table), err
	})
}

// pieces is what removePieces removes, and how.
type pieces struct {
	condition string // on the rows t
	lock      string // what is said of rows that others have locked
	rows      int64  // at most, in one transaction
	first     func(context.Context, pgx.Tx) error
	with      func(ctx context.Context, tx pgx.Tx, rows int64) error // at the end of each transaction: so many are gone with it
	told      func(rows int64) error                                 // of each transaction, after it
}

// removePieces removes rows of tables, quoted, a piece of them in each transaction. It goes on until a table has none left, or only such as stay
// there: those that were to be removed last and are still there. What others have locked, if lock passes over it, is not among them. first, with
// and told may be nil.
func (s *Session) removePieces(ctx context.Context, tables []string, p pieces) (stay int64, err error) {
	for _, table := range tables {
		for more := true; more; {
			n, removed, err := s.removePiece(ctx, table, &p)
			if err == nil && p.told != nil {
				err = p.told(removed)
			}
			if err != nil {
				return stay, err
			}
			if more = n == p.rows && removed > 0; !more {
				stay += n - removed
			}
		}
	}
	return stay, nil
}

// removePiece gives how many rows it has found, and how many of them are gone.
func (s *Session) removePiece(ctx context.Context, table string, p *pieces) (n, removed int64, err error) {
	// By ctid: whatever index there is, or none, the rows are looked for once. They are locked, so that each of them is removed by the
	// DELETE, which sees them as they are now, unless something keeps it. ONLY: another table has other rows of these ctids.
	found := fmt.Sprintf(`SELECT coalesce(array_agg(ctid), '{}')::text, count(*) FROM (SELECT t.ctid FROM ONLY %s t WHERE %s LIMIT $1 %s) t`, table, p.condition, p.lock)
	remove := fmt.Sprintf(`DELETE FROM ONLY %s WHERE ctid = ANY ($1::text::tid[])`, table)
	err = pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		if p.first != nil {
			if err := p.first(ctx, tx); err != nil {
				return err
			}
		}
		var ctids string
		if err := tx.QueryRow(ctx, found, p.rows).Scan(&ctids, &n); err != nil || n == 0 {
			return err
		}
		tag, err := tx.Exec(ctx, remove, ctids)
		removed = tag.RowsAffected()
		if err == nil && removed > 0 && p.with != nil {
			err = p.with(ctx, tx, removed)
		}
		return err
	})
	return n, removed, err
}
