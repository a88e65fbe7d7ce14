// Package snapshot reads the rows that a table already has, in chunks small enough that no snapshot of the source
// is held for longer than one of them. It says of each chunk which transactions the read has seen and up to which
// LSN they reach; how chunks are put between the stream's events is the caller's business (package capture).
//
// Rows are read in text form by the extended protocol, under the same pinned settings as the stream, so that both
// give the same bytes for the same value.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// Range is a part of a table by its key: what is greater than After and not greater than Up, in the order of the
// primary key's index. Both are texts of the key's columns, or of the first few; nil is the end of the table. At, if
// set, is the one key that is meant instead.
type Range struct{ At, After, Up []string }

// Limits bound a chunk; it ends at whichever is reached first.
type Limits struct {
	Rows  int
	Bytes int
}

// Chunk is what one read saw.
type Chunk struct {
	Relation   *schema.Relation
	Visibility Visibility
	// LSN is behind the commit record of every transaction that the read has seen.
	LSN  change.LSN
	Rows *Rows
	// Last is the key of the last row read, from which the range goes on; nil when it is exhausted.
	Last []string

	byKey map[string]int
}

// Drop takes out the row with this key (of AppendKey), if the chunk has it.
func (c *Chunk) Drop(key string) {
	if i, ok := c.find(key); ok {
		c.Rows.drop(i)
	}
}

// Overlay brings the row with this key, if the chunk has it, up to a later UPDATE of which some columns are unknown.
func (c *Chunk) Overlay(key string, later change.Tuple) {
	i, ok := c.find(key)
	if !ok {
		return
	}
	for column, v := range later {
		if v.State != change.Unchanged {
			c.Rows.set(i, column, v)
		}
	}
}

func (c *Chunk) find(key string) (int, bool) {
	var row change.Tuple
	if c.byKey == nil {
		c.byKey = make(map[string]int, c.Rows.Len())
		var b []byte
		for i := range c.Rows.Len() {
			row = c.Rows.Row(i, row)
			b = AppendKey(b[:0], c.Relation, row)
			c.byKey[string(b)] = i
		}
	}
	i, ok := c.byKey[key]
	return i, ok && c.Rows.Row(i, row) != nil
}

// AppendKey appends bytes that are equal for equal keys of rel.
func AppendKey(dst []byte, rel *schema.Relation, row change.Tuple) []byte {
	for _, k := range rel.Key {
		at := len(dst)
		dst = append(dst, 0, 0, 0, 0)
		dst = rel.Columns[k].Type.AppendCanonical(dst, row[k].Text)
		n := len(dst) - at - 4
		dst[at], dst[at+1], dst[at+2], dst[at+3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	}
	return dst
}

// ErrSchemaChanged says that the table is not any more what the relation says: read it again with the new one.
var ErrSchemaChanged = errors.New("the table has changed since")

// ErrCondition says that the rows cannot be read because of Source.Where.
var ErrCondition = errors.New("the condition cannot be used")

// Reader is one connection that reads rows. One goroutine at a time.
type Reader struct {
	conn *pgx.Conn
}

// Open connects a reader.
func Open(ctx context.Context, dsn, application string) (*Reader, error) {
	conn, err := postgres.Connect(ctx, dsn, application)
	if err != nil {
		return nil, err
	}
	// With row security on, a policy would silently hide rows from us; off, the server refuses the read. And the message
	// behind a chunk must not wait for a standby: nothing that we write at the source needs to survive a failover.
	if _, err := conn.Exec(ctx, `set row_security = off; set synchronous_commit = local`); err != nil {
		_ = conn.Close(ctx)
		return nil, fmt.Errorf("prepare a snapshot connection: %w", postgres.Describe(err))
	}
	return &Reader{conn: conn}, nil
}

// Close ends the connection.
func (r *Reader) Close(ctx context.Context) error { return r.conn.Close(ctx) }

// Source is a table to be read.
type Source struct {
	Relation    *schema.Relation
	Partitioned bool
	Where       string // a condition in SQL to which the rows are limited, "" for none
	Sound       bool   // Where is capture's own: nothing fails by it
	// Columns are the names of the columns that are wanted besides the key; nil wants all. The others are Unchanged in
	// the rows of a Chunk, but not in the one row of a Range.At, which is whole.
	Columns []string
	// Unpublished are indexes of columns whose values nobody gets: they are not read at all, and null in all rows.
	Unpublished []int
}

// from gives the table as it stands in FROM: a partitioned one with its partitions, any other without the children
// that inherit from it, which are tables of their own.
func (s Source) from() string {
	name := postgres.Ident(s.Relation.Schema, s.Relation.Name)
	if s.Partitioned {
		return name
	}
	return "only " + name
}

func (s Source) columns() string {
	if len(s.Relation.Columns) == 0 {
		return ""
	}
	names := make([]string, len(s.Relation.Columns))
	for i := range s.Relation.Columns {
		names[i] = postgres.Ident(s.Relation.Columns[i].Name)
		if !s.wants(i) || slices.Contains(s.Unpublished, i) {
			names[i] = "(select " + names[i] + " where false)" // null of its type, which a cast to a domain may refuse
		}
	}
	return strings.Join(names, ", ")
}

func (s Source) wants(column int) bool {
	return s.Columns == nil || s.Relation.IsKey(column) || slices.Contains(s.Columns, s.Relation.Columns[column].Name)
}

// leaveOut marks what was not wanted.
func (s Source) leaveOut(rows *Rows) {
	for column := range s.Relation.Columns {
		if s.wants(column) {
			continue
		}
		for i := range rows.Len() {
			rows.set(i, column, change.Value{State: change.Unchanged})
		}
	}
}

// fetchRows rows are asked for at once: a compromise between round trips and memory.
const fetchRows = 2000

// Chunk reads the next rows of a range of a table that has a key.
func (r *Reader) Chunk(ctx context.Context, s Source, rng Range, limits Limits) (*Chunk, error) {
	if rng.At != nil {
		s.Columns = nil
	}
	c := &Chunk{Relation: s.Relation, Rows: newRows(len(s.Relation.Columns))}
	err := r.inSnapshot(ctx, s, &c.Visibility, &c.LSN, func() error {
		by, err := r.operators(ctx, s.Relation)
		if err != nil {
			return err
		}
		where, params := s.where(rng, by)
		sql := "declare chunk no scroll cursor for select " + s.columns() + " from " + s.from() + where + " order by " + s.order()
		if _, err := r.conn.PgConn().ExecParams(ctx, sql, params, nil, nil, nil).Close(); err != nil {
			return err
		}
		for c.Rows.Len() < limits.Rows && c.Rows.bytes() < limits.Bytes {
			n, err := r.fetch(ctx, s, c.Rows, min(fetchRows, limits.Rows-c.Rows.Len()))
			if err != nil || n == 0 {
				return err
			}
		}
		if rng.At == nil {
			c.Last = KeyTexts(s.Relation, c.Rows.Row(c.Rows.Len()-1, nil))
		}
		return nil
	})
	s.leaveOut(c.Rows)
	if err != nil {
		return nil, fmt.Errorf("read a chunk of table %q: %w", s.Relation.QualifiedName(), err)
	}
	return c, nil
}

// KeyTexts gives the texts of row's key.
func KeyTexts(rel *schema.Relation, row change.Tuple) []string {
	texts := make([]string, len(rel.Key))
	for i, k := range rel.Key {
		texts[i] = string(row[k].Text)
	}
	return texts
}

// Whole reads a table that has no key, under one snapshot. It calls begin when the snapshot is taken and the server has given
// the first rows, and piece for each run of rows; the rows belong to the callee. An error of either ends the read and is returned.
func (r *Reader) Whole(ctx context.Context, s Source, begin func(Visibility, change.LSN) error, piece func(*Rows) error) error {
	var seen Visibility
	var lsn change.LSN
	err := r.inSnapshot(ctx, s, &seen, &lsn, func() error {
		sql := "declare chunk no scroll cursor for select " + s.columns() + " from " + s.from()
		if _, err := r.conn.PgConn().ExecParams(ctx, sql, nil, nil, nil, nil).Close(); err != nil {
			return err
		}
		for begun := false; ; begun = true {
			rows := newRows(len(s.Relation.Columns))
			n, err := r.fetch(ctx, s, rows, fetchRows)
			if err == nil && !begun {
				err = begin(seen, lsn)
			}
			if err != nil || n == 0 {
				return err
			}
			if err := piece(rows); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return fmt.Errorf("read table %q: %w", s.Relation.QualifiedName(), err)
	}
	return nil
}

// inSnapshot runs read in a transaction whose snapshot it reports. When it has ended, a message in the WAL makes
// sure that the stream will get past lsn even if nothing else happens.
func (r *Reader) inSnapshot(ctx context.Context, s Source, seen *Visibility, lsn *change.LSN, read func() error) error {
	tx, err := r.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return postgres.Describe(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it was only read
	if err := r.inTransaction(ctx, tx, s, seen, lsn, read); err != nil {
		return s.judge(err)
	}
	if err := tx.Commit(ctx); err != nil {
		return postgres.Describe(err)
	}
	return r.mark(ctx)
}

// mark writes a message into the WAL.
func (r *Reader) mark(ctx context.Context) error {
	if _, err := r.conn.Exec(ctx, `select pg_logical_emit_message(true, 'tributary', '{"chunk": true}')`); err != nil {
		return postgres.Describe(err)
	}
	return nil
}

// Ended gives an id before which every transaction has ended. Where that is not the known one, it gives a place in the WAL behind their ends, too, past
// which the stream will get even if nothing else happens.
func (r *Reader) Ended(ctx context.Context, known uint32) (before uint32, behind change.LSN, err error) {
	var xmin, position int64
	err = r.conn.QueryRow(ctx, `select pg_snapshot_xmin(pg_current_snapshot())::text::int8, (pg_current_wal_insert_lsn() - '0/0')::int8`).Scan(&xmin, &position) // in this order
	if err != nil {
		return 0, 0, postgres.Describe(err)
	}
	if before = uint32(xmin); before == known { //nolint:gosec // the low half is what the WAL has
		return before, 0, nil
	}
	return before, change.LSN(position), r.mark(ctx)
}

func (r *Reader) inTransaction(ctx context.Context, tx pgx.Tx, s Source, seen *Visibility, lsn *change.LSN, read func() error) error {
	// The lock comes before the snapshot, since a TRUNCATE shows to snapshots that are older than it:
	//
	//	snapshot: sees neither of the two that follow
	//	stream:   UPDATE, TRUNCATE; both still to come, as the snapshot has it
	//	read:     nothing is there
	//
	// and the UPDATE would come behind a read without its row.
	if _, err := tx.Exec(ctx, "lock table "+s.from()+" in access share mode"); err != nil {
		return err
	}
	// One statement: its snapshot is taken before its functions run, so that lsn is behind all that it sees.
	var text string
	var position int64
	var nums []int16
	var names []string
	err := tx.QueryRow(ctx, `
		select pg_current_snapshot()::text, (pg_current_wal_insert_lsn() - '0/0')::int8,
		       coalesce(array_agg(attnum), '{}'), coalesce(array_agg(attname::text), '{}')
		  from pg_attribute
		 where attrelid = $1::text::regclass and attnum > 0 and not attisdropped
		   and not (attgenerated = 'v' or attgenerated = 's' and current_setting('server_version_num')::int < 180000)`,
		postgres.Ident(s.Relation.Schema, s.Relation.Name)).Scan(&text, &position, &nums, &names)
	if err != nil {
		return err
	}
	*lsn = change.LSN(position)
	if *seen, err = parseVisibility(text); err != nil {
		return err
	}
	if err := sameNames(s.Relation, nums, names); err != nil {
		return err
	}
	return read()
}

// sameNames compares rel with the columns that the table has by now, by number and name. The server tells neither of one that rel has not,
// as rows are asked for by names, nor of two that have changed theirs:
//
//	application: ALTER TABLE ADD c; INSERT with a c; is about to commit
//	reader:      waits for the lock, then has the row without c
//	stream:      drops the INSERT, as the reader has seen it
func sameNames(rel *schema.Relation, nums []int16, names []string) error {
	for i, name := range names {
		switch at := rel.Column(name); {
		case at < 0:
			return fmt.Errorf("%w: column %q is new", ErrSchemaChanged, name)
		case rel.Columns[at].AttNum != 0 && rel.Columns[at].AttNum != nums[i]:
			return fmt.Errorf("%w: column %q is another one", ErrSchemaChanged, name)
		}
	}
	return nil
}

// judge says what an error of a read means.
func (s Source) judge(err error) error {
	state := postgres.SQLState(err)
	if s.Where != "" && !s.Sound && (strings.HasPrefix(state, "42") || strings.HasPrefix(state, "22")) { // syntax and rights, data
		return fmt.Errorf("%w: %w", ErrCondition, postgres.Describe(err))
	}
	switch state {
	case "42703", "42P01", "3F000", "42704", "42883": // column, table, schema, type or operator is gone
		return fmt.Errorf("%w: %w", ErrSchemaChanged, postgres.Describe(err))
	case "":
		return err
	}
	return postgres.Describe(err)
}

// fetch takes up to n rows from the cursor.
func (r *Reader) fetch(ctx context.Context, s Source, rows *Rows, n int) (int, error) {
	result := r.conn.PgConn().ExecParams(ctx, "fetch forward "+strconv.Itoa(n)+" from chunk", nil, nil, nil, nil)
	if err := sameColumns(s.Relation, result.FieldDescriptions()); err != nil {
		_, _ = result.Close()
		return 0, err
	}
	got := 0
	for result.NextRow() {
		rows.add(result.Values())
		got++
	}
	_, err := result.Close()
	return got, err
}

func sameColumns(rel *schema.Relation, fields []pgconn.FieldDescription) error {
	if len(fields) == 0 {
		return nil // the error comes with Close
	}
	for i := range fields {
		if i >= len(rel.Columns) || schema.OID(fields[i].DataTypeOID) != rel.Columns[i].Type.OID && rel.Columns[i].Type.Base == nil {
			return fmt.Errorf("%w: column %q has another type", ErrSchemaChanged, fields[i].Name)
		}
	}
	return nil
}

func (s Source) order() string {
	names := make([]string, len(s.Relation.Key))
	for i, k := range s.Relation.Key {
		names[i] = postgres.Ident(s.Relation.Columns[k].Name)
	}
	return strings.Join(names, ", ")
}

// operators are those by which values of a key's column are compared, as they stand in SQL.
type operators struct{ upTo, equal, from, beyond string }

// operators gives those of each column of the key, by which its order is: the ones of the type's default operator class. A
// type of an extension has them outside of the pinned search_path, and what is found there in their place has another order,
// or is not there: citext would be compared as text, by which 'Mark' is not behind 'lmn', and the next chunk would leave it out.
func (r *Reader) operators(ctx context.Context, rel *schema.Relation) ([]operators, error) {
	all := make([]operators, len(rel.Key))
	for i, k := range rel.Key {
		all[i] = operators{"<=", "=", ">=", ">"}
		typ := &rel.Columns[k].Type
		for typ.Base != nil {
			typ = typ.Base
		}
		if typ.OID < schema.FirstUserOID || typ.Class != schema.ClassBase || typ.Elem != nil {
			continue // of Postgres itself, or compared by operators for all types of its class, which are
		}
		rows, err := r.conn.Query(ctx, `
			select o.amopstrategy, n.nspname::text, p.oprname::text
			  from pg_opclass c join pg_am m on m.oid = c.opcmethod and m.amname = 'btree'
			  join pg_amop o on o.amopfamily = c.opcfamily and o.amoplefttype = c.opcintype and o.amoprighttype = c.opcintype
			  join pg_operator p on p.oid = o.amopopr join pg_namespace n on n.oid = p.oprnamespace
			 where c.opcdefault and c.opcintype = $1`, uint32(typ.OID))
		if err != nil {
			return nil, err
		}
		var strategy int16
		var in, name string
		_, err = pgx.ForEachRow(rows, []any{&strategy, &in, &name}, func() error {
			operator := "operator(" + postgres.Ident(in) + "." + name + ")"
			switch strategy { // of every btree
			case 2:
				all[i].upTo = operator
			case 3:
				all[i].equal = operator
			case 4:
				all[i].from = operator
			case 5:
				all[i].beyond = operator
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// where gives the condition of a range and its parameters.
func (s Source) where(rng Range, by []operators) (string, [][]byte) {
	var params [][]byte
	texts := func(key []string) (columns, marks []string) {
		for i, v := range key {
			col := &s.Relation.Columns[s.Relation.Key[i]]
			params = append(params, []byte(v))
			columns = append(columns, postgres.Ident(col.Name))
			marks = append(marks, "$"+strconv.Itoa(len(params))+"::"+col.Type.Name)
		}
		return columns, marks
	}
	var conditions []string
	if rng.At != nil {
		columns, marks := texts(rng.At)
		for i := range columns {
			conditions = append(conditions, columns[i]+" "+by[i].equal+" "+marks[i])
		}
	}
	if rng.After != nil {
		columns, marks := texts(rng.After)
		conditions = append(conditions, beyond(columns, marks, by))
	}
	if rng.Up != nil {
		columns, marks := texts(rng.Up)
		conditions = append(conditions, upTo(columns, marks, by))
	}
	if s.Where != "" && rng.At == nil { // one row that is asked for by its key is wanted whatever it holds
		conditions = append(conditions, s.condition())
	}
	if len(conditions) == 0 {
		return "", nil
	}
	return " where " + strings.Join(conditions, " and "), params
}

// beyond says that columns come behind marks.
func beyond(columns, marks []string, by []operators) string {
	if together(columns, by) {
		return "(" + strings.Join(columns, ", ") + ") " + by[0].beyond + " (" + strings.Join(marks, ", ") + ")"
	}
	rest := beyond(columns[1:], marks[1:], by[1:])
	return columns[0] + " " + by[0].from + " " + marks[0] + " and (" + columns[0] + " " + by[0].beyond + " " + marks[0] + " or " + rest + ")"
}

// upTo says that they do not; no column of a key is null.
func upTo(columns, marks []string, by []operators) string {
	if together(columns, by) {
		return "(" + strings.Join(columns, ", ") + ") " + by[0].upTo + " (" + strings.Join(marks, ", ") + ")"
	}
	return columns[0] + " " + by[0].upTo + " " + marks[0] + " and not (" + beyond(columns, marks, by) + ")"
}

// together says whether a row comparison can be made, which is what an index of several columns understands: it takes one
// operator for all of them.
func together(columns []string, by []operators) bool {
	return !slices.ContainsFunc(by[:len(columns)], func(o operators) bool { return o != by[0] })
}

// condition gives Where so that it can stand beside others: a comment in it ends before the bracket does.
func (s Source) condition() string { return "(" + s.Where + "\n)" }

// Check says whether Where can be used: ErrCondition if not. It reads nothing.
func (r *Reader) Check(ctx context.Context, s Source) error {
	if s.Where == "" || s.Sound {
		return nil
	}
	// With brackets it could close ours and open others, without them it could go on behind WHERE; it must be right in
	// both forms.
	for _, condition := range []string{s.Where + "\n", s.condition()} {
		prepared, err := r.conn.PgConn().Prepare(ctx, "", "select 1 from "+s.from()+" where "+condition, nil)
		if postgres.SQLState(err) != "" {
			return fmt.Errorf("%w: %w", ErrCondition, postgres.Describe(err))
		}
		if err != nil {
			return fmt.Errorf("check a condition on table %q: %w", s.Relation.QualifiedName(), err)
		}
		if len(prepared.ParamOIDs) > 0 {
			return fmt.Errorf("%w: it has parameters", ErrCondition)
		}
	}
	return nil
}

// Split cuts a table into up to n ranges of about the same size, by the planner's histogram of the key's first
// column; one range where there is none. It checks Where first.
func (r *Reader) Split(ctx context.Context, s Source, n int) ([]Range, error) {
	if err := r.Check(ctx, s); err != nil {
		return nil, err
	}
	first := s.Relation.Columns[s.Relation.Key[0]].Name
	var bounds []string
	err := r.conn.QueryRow(ctx, `
		select coalesce((select histogram_bounds::text::text[] from pg_stats
		                  where schemaname = $1 and tablename = $2 and attname = $3 and inherited = $4), '{}')`,
		s.Relation.Schema, s.Relation.Name, first, s.Partitioned).Scan(&bounds)
	if err != nil {
		return nil, fmt.Errorf("split table %q: %w", s.Relation.QualifiedName(), postgres.Describe(err))
	}
	bounds = slices.Compact(bounds)
	n = min(n, len(bounds)-1)
	ranges := []Range{{}}
	for i := 1; i < n; i++ {
		cut := []string{bounds[i*len(bounds)/n]}
		ranges[len(ranges)-1].Up = cut
		ranges = append(ranges, Range{After: cut})
	}
	return ranges, nil
}
