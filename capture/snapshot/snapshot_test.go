package snapshot_test

import (
	"context"
	"errors"
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
