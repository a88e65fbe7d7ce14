package snapshot_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture/snapshot"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// A TRUNCATE that came between the snapshot of a read and its first row left the read without rows that its snapshot was
// said to see, as TRUNCATE shows to older snapshots too.
func TestTruncateWaitsForARead(t *testing.T) {
	ctx := t.Context()
	for _, major := range pgtest.Majors(t) {
		dsn := pgtest.Database(t, pgtest.Shared(t, major))
		conn, err := pgx.Connect(ctx, dsn)
		must(t, err)
		defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the test is over
		_, err = conn.Exec(ctx, `create table bag (k int4); insert into bag select i from generate_series(1, 5000) i; set lock_timeout = '200ms'`)
		must(t, err)
		reader, err := snapshot.Open(ctx, dsn, "test")
		must(t, err)
		defer reader.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the test is over
		rel := &schema.Relation{Schema: "public", Name: "bag", Columns: []schema.Column{{Name: "k", AttNum: 1, Type: schema.Type{OID: 23, Name: "integer"}}}}
		rows := 0
		err = reader.Whole(ctx, snapshot.Source{Relation: rel},
			func(snapshot.Visibility, change.LSN) error {
				began := time.Now()
				if _, err := conn.Exec(ctx, `truncate bag`); postgres.SQLState(err) != "55P03" {
					t.Errorf("%d: the TRUNCATE did not wait: after %s it has %v", major, time.Since(began), err)
				}
				return nil
			},
			func(piece *snapshot.Rows) error {
				rows += piece.Len()
				return nil
			})
		must(t, err)
		if rows != 5000 {
			t.Errorf("%d: %d rows were read, want 5000", major, rows)
		}
	}
}

// A table whose name has gone has changed, whatever part of the name it was.
func TestNameIsGone(t *testing.T) {
	reader, err := snapshot.Open(t.Context(), pgtest.Database(t, pgtest.Shared(t, pgtest.DefaultMajor)), "test")
	must(t, err)
	defer reader.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // the test is over
	for _, in := range []string{"public", "gone"} {
		rel := &schema.Relation{Schema: in, Name: "gone", Key: []int{0}, Columns: []schema.Column{{Name: "k", AttNum: 1, Type: schema.Type{OID: 23, Name: "integer"}}}}
		if _, err := reader.Chunk(t.Context(), snapshot.Source{Relation: rel}, snapshot.Range{}, snapshot.Limits{Rows: 1, Bytes: 1}); !errors.Is(err, snapshot.ErrSchemaChanged) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A key of an extension's type was compared by operators that the pinned search_path has: citext as text, by which rows were
// left out between two chunks, and ltree by none. Its own are in the extension's schema, and give the order of its index.
func TestKeysOfExtensions(t *testing.T) {
	ctx := t.Context()
	for _, major := range pgtest.Majors(t) {
		dsn := pgtest.Database(t, pgtest.Shared(t, major))
		conn, err := pgx.Connect(ctx, dsn)
		must(t, err)
		defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the test is over
		reader, err := snapshot.Open(ctx, dsn, "test")
		must(t, err)
		defer reader.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the test is over
		_, err = conn.Exec(ctx, `create schema "ext ""n"""; create extension citext schema "ext ""n"""; create extension ltree; create domain mail as "ext ""n""".citext`)
		if postgres.SQLState(err) != "" {
			t.Logf("PostgreSQL %d has no such extensions here: %v", major, err)
			continue
		}
		must(t, err)
		citext := func(i int) string { return "aB"[i%2:i%2+1] + strconv.Itoa(i) }
		kinds := map[string]func(int) string{
			`"ext ""n""".citext`: citext, "public.mail": citext, "integer": func(i int) string { return strconv.Itoa(i / 3) },
			"public.ltree": func(i int) string { return "a." + strconv.Itoa(i*7%40) + ".b" },
		}
		keys := [][]string{
			{`"ext ""n""".citext`},
			{"public.ltree"},
			{"public.mail"},
			{"integer", `"ext ""n""".citext`},
			{`"ext ""n""".citext`, "integer"},
			{"public.ltree", "public.mail", "integer"},
		}
		for _, key := range keys {
			rel := &schema.Relation{Schema: "public", Name: "k"}
			create, names := "create table public.k (", []string{}
			for i, typ := range key {
				name := string(rune('a' + i))
				names = append(names, name)
				create += name + " " + typ + ", "
				rel.Columns, rel.Key = append(rel.Columns, column(t, conn, name, typ)), append(rel.Key, i)
			}
			_, err = conn.Exec(ctx, "drop table if exists public.k; "+create+"primary key ("+strings.Join(names, ", ")+"))")
			must(t, err)
			const rows = 40
			for i := range rows {
				var values []string
				for _, typ := range key {
					values = append(values, postgres.Literal(kinds[typ](i)))
				}
				_, err = conn.Exec(ctx, "insert into public.k values ("+strings.Join(values, ", ")+")")
				must(t, err)
			}
			first := readAll(t, reader, rel, snapshot.Range{})
			if len(first) != rows {
				t.Errorf("%d: key %v: %d rows were read, want %d", major, key, len(first), rows)
				continue
			}
			middle := first[rows/2]
			both := append(readAll(t, reader, rel, snapshot.Range{Up: middle[:1]}), readAll(t, reader, rel, snapshot.Range{After: middle[:1]})...)
			if !slices.EqualFunc(first, both, slices.Equal) {
				t.Errorf("%d: key %v: two ranges have %v, want %v", major, key, both, first)
			}
			up := readAll(t, reader, rel, snapshot.Range{After: first[2], Up: middle})
			if !slices.EqualFunc(first[3:rows/2+1], up, slices.Equal) {
				t.Errorf("%d: key %v: behind row 3 and up to row %d there is %v", major, key, rows/2+1, up)
			}
			if at := readAll(t, reader, rel, snapshot.Range{At: middle}); len(at) != 1 || !slices.Equal(at[0], middle) {
				t.Errorf("%d: key %v: at %v there is %v", major, key, middle, at)
			}
		}
	}
}

// readAll gives the keys that are read in chunks of three rows.
func readAll(t *testing.T, reader *snapshot.Reader, rel *schema.Relation, rng snapshot.Range) (keys [][]string) {
	t.Helper()
	for {
		chunk, err := reader.Chunk(t.Context(), snapshot.Source{Relation: rel}, rng, snapshot.Limits{Rows: 3, Bytes: 1 << 20})
		must(t, err)
		for i := range chunk.Rows.Len() {
			keys = append(keys, snapshot.KeyTexts(rel, chunk.Rows.Row(i, nil)))
		}
		if chunk.Last == nil || len(keys) > 1000 {
			return keys
		}
		rng.After = chunk.Last
	}
}

// column gives a column as the catalog tells it.
func column(t *testing.T, conn *pgx.Conn, name, typ string) schema.Column {
	t.Helper()
	c := schema.Column{Name: name, Type: schema.Type{Name: typ, Typmod: -1}}
	var class string
	var base uint32
	must(t, conn.QueryRow(t.Context(), `select oid, typtype::text, typbasetype from pg_type where oid = $1::text::regtype`, typ).Scan(&c.Type.OID, &class, &base))
	if c.Type.Class = schema.Class(class[0]); base != 0 {
		c.Type.Base = &schema.Type{OID: schema.OID(base), Class: schema.ClassBase}
	}
	return c
}
