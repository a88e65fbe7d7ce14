package warehouse

import (
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// TestCutKeepsItsConnection: one that has as many statements as it may makes room for a new one behind the cut that is open on it, not within, which
// would be lost, and fail in the same place when it is tried again.
func TestCutKeepsItsConnection(t *testing.T) {
	dsn := pgtest.Database(t, pgtest.Shared(t, 0))
	w := New(Config{DSN: func() (string, error) { return dsn, nil }, Group: "warehouse", Instance: "x", Log: slog.New(slog.DiscardHandler)})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(w.Migrate(t.Context(), LockPatience))
	conn, err := pgx.Connect(t.Context(), dsn)
	must(err)
	defer conn.Close(t.Context()) //nolint:errcheck // the test is over
	_, err = conn.Exec(t.Context(), `INSERT INTO tributary.checkpoint (grp, topic, partition, topic_id, owner_epoch) VALUES ('warehouse', 'shop.tributary.progress', 0, 'x', 1)`)
	must(err)
	set, err := rule.New(nil, []rule.Table{{From: "*.*", Create: true}}, "")
	must(err)
	route, _ := set.Match("shop", "public", "t")
	plan, err := route.Compile(&schema.Relation{Schema: "public", Name: "t", Key: []int{0}, Columns: []schema.Column{
		{Name: "id", Type: schema.Type{OID: schema.OIDInt8, Name: "bigint"}, NotNull: true},
	}})
	must(err)
	s := w.Session()
	defer s.Close(t.Context())
	progress := Advance{Topic: "shop.tributary.progress", Epoch: 1, Next: 1}
	cut, err := s.BeginCut(t.Context(), nil, progress, "shop", nil, func(string) bool { return true }, false)
	must(err)
	s.named = maxPrepared
	_, err = s.Prepare(t.Context(), plan, "shop.public.t", change.Position{})
	must(err)
	must(cut.Commit(t.Context(), nil))
	var there bool
	must(conn.QueryRow(t.Context(), `SELECT to_regclass('public.t') IS NOT NULL`).Scan(&there))
	must(s.open(t.Context()))
	if !there || s.opened != 2 {
		t.Errorf("the target is there: %t, behind %d connections", there, s.opened)
	}
}
