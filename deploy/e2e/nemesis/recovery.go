package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

// kill is one way to end a part of the pipeline at once. It returns when the part has begun to come back, which is
// from when recovery is counted.
type kill struct {
	kind, from string
	target     int // of targets: where the change must come to
	do         func(ctx context.Context, m *machine) error
}

var kills = []kill{
	{"kill capture", "the kill", 0, func(_ context.Context, m *machine) error { m.services["capture-a"].kill(); return nil }},
	{"kill sink", "the kill", 0, func(_ context.Context, m *machine) error { m.services["sink-a"].kill(); return nil }},
	{"kill whole sink", "the kill", 1, func(_ context.Context, m *machine) error { m.services["whole-a"].kill(); return nil }},
	{"kill broker", "when it takes requests again", 0, func(ctx context.Context, m *machine) error {
		return errors.Join(m.Broker.Kill(), m.Broker.Restart(ctx))
	}},
	{"kill source", "when it takes connections again", 0, func(ctx context.Context, m *machine) error {
		return errors.Join(m.source.Kill(), m.source.Restart(ctx))
	}},
	{"kill warehouse", "when it takes connections again", 0, func(ctx context.Context, m *machine) error {
		return errors.Join(m.warehouse.Kill(), m.warehouse.Restart(ctx))
	}},
}

// recover ends each part in turn, and nothing else, while the load goes on, and measures how long it takes until a
// change that is made afterwards is in the warehouse, in every partition.
func (m *machine) recover(ctx context.Context, random *rand.Rand) error {
	wait(ctx, time.Second) // what the round before left
	for range m.Kills {
		for _, i := range random.Perm(len(kills)) {
			k := &kills[i]
			m.tell("recovery: %s", k.kind)
			if err := k.do(ctx, m); err != nil {
				return fmt.Errorf("%s: %w", k.kind, err)
			}
			begun := time.Now()
			switch err := m.probe(ctx, m.targets[k.target].schema); {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				m.find("%s: a change made afterwards did not come to the warehouse: %v", k.kind, err)
			}
			if m.broken() {
				return nil
			}
			took := time.Since(begun)
			m.tell("recovery: %s took %s", k.kind, took.Round(10*time.Millisecond))
			m.note(func(r *Report) {
				r.Faults[k.kind]++
				r.Recovery[k.kind] = append(r.Recovery[k.kind], seconds(took))
			})
		}
	}
	return nil
}

// probeRows is how many rows table probe has: enough for each partition to have some.
const probeRows = 16

// probe changes each row of the table probe and waits until all of that is in a schema of the warehouse.
func (m *machine) probe(ctx context.Context, schema string) error {
	ctx, cancel := context.WithTimeout(ctx, m.Patience)
	defer cancel()
	var n int
	// Of a server that just gets up the first answers may be errors.
	err := poll(ctx, m.Patience, func(ctx context.Context) (bool, error) {
		conn, err := pgx.Connect(ctx, m.source.DSN("postgres"))
		if err != nil {
			return false, nil
		}
		defer conn.Close(context.WithoutCancel(ctx))
		return conn.QueryRow(ctx, `WITH u AS (UPDATE probe SET n = n + 1 RETURNING n) SELECT max(n) FROM u`).Scan(&n) == nil, nil
	})
	if err != nil {
		return fmt.Errorf("change the table probe: %w", err)
	}
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	return poll(ctx, m.Patience, func(ctx context.Context) (bool, error) {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.Connect(ctx, m.warehouse.DSN("postgres")); err != nil {
				conn = nil
				return false, nil
			}
		}
		var there int
		err := conn.QueryRow(ctx, fmt.Sprintf(`SELECT count(*) FROM %s.probe WHERE n >= $1`, schema), n).Scan(&there)
		return err == nil && there == probeRows, nil
	})
}
