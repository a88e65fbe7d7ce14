package warehouse

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// TestCheckpointsAreLockedInOneOrder: whoever locks several does so in the order of their bytes, in a warehouse with another order, too.
func TestCheckpointsAreLockedInOneOrder(t *testing.T) {
	dsn := pgtest.Database(t, pgtest.Shared(t, 0), pgtest.InWords)
	w := New(Config{DSN: func() (string, error) { return dsn, nil }, Group: "warehouse", Instance: "x"})
	if err := w.Migrate(t.Context(), LockPatience); err != nil {
		t.Fatal(err)
	}
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return conn
	}
	conn, gate := connect(), connect()
	exec := func(conn *pgx.Conn, sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	advance := func(topic string) Advance { return Advance{Topic: topic, Epoch: 1, Next: 1} }
	const upper, score, progress, users = "shop.public.User", "shop.public._m", "shop.tributary.progress", "shop.users.t"
	for name, c := range map[string]struct {
		first, second string
		do            func(ctx context.Context, s *Session) error
	}{
		"claim": {upper, score, func(ctx context.Context, _ *Session) error {
			_, err := w.Claim(ctx, []Partition{{Topic: upper}, {Topic: score}})
			return err
		}},
		"flush": {upper, score, func(ctx context.Context, s *Session) error {
			_, err := s.Apply(ctx, &Flush{Advances: []Advance{advance(score), advance(upper)}})
			return err
		}},
		"cut": {progress, users, func(ctx context.Context, s *Session) error {
			c, err := s.BeginCut(ctx, []Advance{advance(users)}, advance(progress), "shop", nil, func(string) bool { return true }, false)
			if err == nil {
				c.Rollback(ctx)
			}
			return err
		}},
		"rules": {upper, score, func(ctx context.Context, s *Session) error {
			var parts []Taken
			for _, topic := range []string{score, upper} {
				at := Place{Topic: topic}
				parts = append(parts, Taken{Ruled: Ruled{at, "x"}, By: at, Epoch: 1})
			}
			_, err := s.TakeRules(ctx, parts)
			return err
		}},
		"removal": {upper, score, func(ctx context.Context, s *Session) error {
			_, err := s.MarkRemoved(ctx, "shop", "", nil)
			return err
		}},
		"rebuild": {progress, users, func(ctx context.Context, s *Session) error {
			return s.Rebuild(ctx, "shop", "", []Feed{{Topic: users, Target: rule.Target{Schema: "public", Table: "t"}}}, "", nil, true)
		}},
		"parked": {upper, score, func(ctx context.Context, s *Session) error {
			_, err := s.Discard(ctx, Selection{Source: "shop"}, "")
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			exec(conn, `DELETE FROM tributary.checkpoint; DELETE FROM tributary.control; DELETE FROM tributary.parked`)
			exec(conn, `INSERT INTO tributary.checkpoint (grp, topic, partition, topic_id, owner_epoch) SELECT 'warehouse', unnest($1::text[]), 0, 'x', 1`, []string{c.second, c.first})
			exec(conn, `INSERT INTO tributary.parked (grp, topic, partition, "offset", source, table_name, identity, headers, code, message)
				SELECT grp, topic, 0, 0, 'shop', 'x', '', '{}', 'x', 'x' FROM tributary.checkpoint`)
			exec(gate, `BEGIN`)
			exec(gate, `SELECT FROM tributary.checkpoint WHERE topic = $1 FOR UPDATE`, c.second)
			s := w.Session()
			defer s.Close(context.Background())
			ctx, cancel := context.WithTimeout(t.Context(), pgtest.Patience)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- c.do(ctx, s) }()
			for waits := false; !waits; time.Sleep(time.Millisecond) {
				if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits); err != nil {
					t.Fatal(err)
				}
				select {
				case err := <-done:
					t.Fatal("it does not wait:", err)
				default:
				}
			}
			if _, err := conn.Exec(ctx, `SELECT FROM tributary.checkpoint WHERE topic = $1 FOR UPDATE NOWAIT`, c.first); postgres.SQLState(err) != "55P03" {
				t.Errorf("it waits for %s, and has not locked %s before: %v", c.second, c.first, err)
			}
			exec(gate, `COMMIT`)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
