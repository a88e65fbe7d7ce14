package demo

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
)

// difference is a table that is not the same on both sides.
type difference struct {
	shop, table    string
	missing, extra int64    // rows of the source that the warehouse lacks, and the other way round
	examples       []string // the first of them
	err            error    // of the warehouse: the table could not be read
}

const (
	mostExamples  = 3
	exampleLength = 160
)

func (d *difference) String() string {
	what := fmt.Sprintf("%d rows of the source are missing in the warehouse, %d are there and not in the source", d.missing, d.extra)
	if d.err != nil {
		what = d.err.Error()
	}
	return strings.Join(append([]string{fmt.Sprintf("%s of %s: %s", d.table, d.shop, what)}, d.examples...), "\n    ")
}

// fence writes a fence into each source and waits until the warehouse says that all before it has arrived.
func (d *demo) fence(ctx context.Context) error {
	id := fmt.Sprintf("demo-%d", time.Now().UnixNano())
	for _, s := range d.shops {
		conn, err := postgres.Connect(ctx, s.dsn, application)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, `SELECT pg_logical_emit_message(true, 'tributary', $1)`, fmt.Sprintf(`{"fence": %q}`, id))
		closeConn(ctx, conn)
		if err != nil {
			return fmt.Errorf("write fence into %q: %w", s.name, postgres.Describe(err))
		}
	}
	conn, err := postgres.Connect(ctx, d.dwh, application)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	waiting, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		rows, err := conn.Query(ctx, `SELECT source FROM tributary.progress WHERE grp = $1 AND $2 = ANY (fences)`, group, id)
		var reached []string
		if err == nil {
			reached, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		if err != nil {
			return fmt.Errorf("read tributary.progress: %w", postgres.Describe(err))
		}
		if len(reached) == len(d.shops) {
			return nil
		}
		select {
		case <-waiting.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("wait for the warehouse: after %s only %q of %d sources are complete there%s",
				fenceTimeout, reached, len(d.shops), d.complaints())
		case <-ticker.C:
		}
	}
}

// complaints gives what the services say of themselves.
func (d *demo) complaints() string {
	var b strings.Builder
	for _, c := range d.pipeline.Captures {
		st := c.Status()
		fmt.Fprintf(&b, "\ncapture of %s: %s, %s of WAL to publish", st.Source, st.State, service.FormatBytes(st.ToPublish))
		if st.Trouble != nil {
			fmt.Fprintf(&b, ": %s %s: %s", st.Trouble.Op, st.Trouble.Subject, st.Trouble.Cause)
		}
	}
	st := d.pipeline.Sink.Status()
	fmt.Fprintf(&b, "\nsink: %s", st.Headline)
	for _, t := range st.Tables {
		if t.Trouble != nil {
			fmt.Fprintf(&b, "\n  %s of %s: %s: %s", t.Table, t.Source, t.Trouble.Code, t.Trouble.Message)
		}
	}
	return b.String()
}

// compare compares every table of every shop with its copy, row for row. Nobody may be writing.
func (d *demo) compare(ctx context.Context) (rows int64, differences []*difference, err error) {
	for _, s := range d.shops {
		source, err := postgres.Connect(ctx, s.dsn, application)
		if err != nil {
			return 0, nil, err
		}
		defer closeConn(ctx, source)
		warehouse, err := postgres.Connect(ctx, d.dwh, application)
		if err != nil {
			return 0, nil, err
		}
		defer closeConn(ctx, warehouse)
		for _, t := range d.tables {
			diff := &difference{shop: s.name, table: t.name}
			n, err := diff.find(ctx, source, warehouse, t, s.sid)
			if err != nil {
				return 0, nil, fmt.Errorf("compare %s of %s: %w", t.name, s.name, postgres.Describe(err))
			}
			rows += n
			if diff.err != nil || diff.missing+diff.extra > 0 {
				differences = append(differences, diff)
			}
		}
	}
	return rows, differences, nil
}

// find merges both sides in the order of their rows' texts, which are the output of each column's type under the
// settings that package postgres pins. It gives the number of rows of the source.
func (d *difference) find(ctx context.Context, source, warehouse *pgx.Conn, t table, sid string) (rows int64, err error) {
	columns := make([]string, len(t.columns))
	for i, name := range t.columns {
		columns[i] = postgres.Ident(name)
	}
	query := `SELECT r FROM (SELECT ROW(` + strings.Join(columns, ", ") + `)::text AS r FROM %s%s) AS t ORDER BY r COLLATE "C"`
	left, err := source.Query(ctx, fmt.Sprintf(query, postgres.Ident("public", t.name), ""))
	if err != nil {
		return 0, err
	}
	defer left.Close()
	right, err := warehouse.Query(ctx, fmt.Sprintf(query, postgres.Ident(targetSchema, t.name), " WHERE sid = $1"), sid)
	if err != nil {
		d.err = postgres.Describe(err)
		return 0, nil
	}
	defer right.Close()
	a, b := next(left), next(right)
	for a != nil || b != nil {
		order := bytes.Compare(a, b)
		switch {
		case b == nil || a != nil && order < 0:
			d.missing++
			d.example("- ", a)
			rows++
			a = next(left)
		case a == nil || order > 0:
			d.extra++
			d.example("+ ", b)
			b = next(right)
		default:
			rows++
			a, b = next(left), next(right)
		}
	}
	if err := left.Err(); err != nil {
		return 0, err
	}
	d.err = postgres.Describe(right.Err())
	return rows, nil
}

// next gives the next row, valid until the one after it; nil at the end.
func next(rows pgx.Rows) []byte {
	if !rows.Next() {
		return nil
	}
	return rows.RawValues()[0]
}

func (d *difference) example(sign string, row []byte) {
	if len(d.examples) < mostExamples {
		d.examples = append(d.examples, sign+string(row[:min(len(row), exampleLength)]))
	}
}
