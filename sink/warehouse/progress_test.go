package warehouse

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

func TestStanding(t *testing.T) {
	s := &standing{vector: map[string][]int64{}, tables: map[string]tableState{}}
	topic, err := record.Topic("shop", "public", "t")
	if err != nil {
		t.Fatal(err)
	}
	table := func(done bool) []record.TableProgress {
		return []record.TableProgress{{Schema: "public", Table: "t", Done: done, Level: "all"}}
	}
	// A delta before the first full record: nothing is known.
	step := func(p record.Progress, taken, known bool, offset int64, doneLSN, upTo uint64) {
		t.Helper()
		p.Source = "shop"
		p.CommitLSN = record.LSN(p.N * 10)
		if got := s.add(&ProgressRecord{int64(p.N), &p}); got != taken || s.known != known {
			t.Fatalf("record %d: taken %v, known %v", p.N, got, s.known)
		}
		if !known {
			return
		}
		if v := s.vector["x"]; len(v) != 2 || v[1] != offset {
			t.Errorf("record %d: vector %v", p.N, s.vector)
		}
		if got := s.tables[topic]; got.Done != (doneLSN > 0) || got.DoneLSN != record.LSN(doneLSN) || s.tablesLSN != change.LSN(upTo) ||
			got.DoneOffset != int64(doneLSN/10) { // that of the record that said so first
			t.Errorf("record %d: table %+v up to %s", p.N, got, s.tablesLSN)
		}
	}
	step(record.Progress{N: 5, Vector: map[string][]int64{"x": {1, 1}}}, true, false, 0, 0, 0)
	step(record.Progress{N: 6, Full: true, Vector: map[string][]int64{"x": {-1, 3}}, Tables: table(false)}, true, true, 3, 0, 60)
	step(record.Progress{N: 7, Vector: map[string][]int64{"x": {4, -1}}}, true, true, 3, 0, 70)
	step(record.Progress{N: 7, Vector: map[string][]int64{"x": {4, 9}}}, false, true, 3, 0, 70) // a repeat
	step(record.Progress{N: 8, Vector: map[string][]int64{"x": {4, 5}}, Tables: table(true)}, true, true, 5, 80, 80)
	step(record.Progress{N: 9, Full: true, Vector: map[string][]int64{"x": {4, 5}}, Tables: table(true)}, true, true, 5, 80, 90)
	step(record.Progress{N: 11}, true, false, 0, 0, 0) // one is missing
	step(record.Progress{N: 12}, true, false, 0, 0, 0)
	step(record.Progress{N: 13, Full: true, Vector: map[string][]int64{"x": {4, 6}}, Tables: table(true)}, true, true, 6, 80, 130)
	step(record.Progress{N: 1, Era: 1, Full: true, Vector: map[string][]int64{"x": {4, 7}}, Tables: table(false)}, true, true, 7, 0, 10)

	// It was read again between two records.
	again := record.TableProgress{Schema: "public", Table: "t", Done: true, DoneLSN: 15}
	if !s.add(&ProgressRecord{102, &record.Progress{Source: "shop", N: 2, Era: 1, CommitLSN: 20, Tables: []record.TableProgress{again}}}) || s.tables[topic].DoneLSN != 15 {
		t.Errorf("a table that was read again: %+v", s.tables[topic])
	}

	held := record.TableProgress{Schema: "public", Table: "t", Done: true, Held: &record.Held{Code: "record-too-large"}}
	if !s.add(&ProgressRecord{103, &record.Progress{Source: "shop", N: 3, Era: 1, Tables: []record.TableProgress{held}}}) || s.tables[topic].Held == nil {
		t.Errorf("a table that capture holds: %+v", s.tables[topic])
	}
}

// own makes own tables in a database, and connects to it.
func own(tb testing.TB) (*Warehouse, *pgx.Conn) {
	tb.Helper()
	dsn := pgtest.Database(tb, pgtest.Shared(tb, 0))
	w := New(Config{DSN: func() (string, error) { return dsn, nil }, Group: "warehouse", Instance: "x"})
	if err := w.Migrate(tb.Context(), LockPatience); err != nil {
		tb.Fatal(err)
	}
	conn, err := pgx.Connect(tb.Context(), dsn)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.WithoutCancel(tb.Context())) })
	return w, conn
}

// behind is a warehouse whose only source is behind by some milestones of some parts each: the last part is not passed, or all are, and no reload
// of its tables has ended. There are no statistics yet, as there are none while a source comes for the first time.
func behind(tb testing.TB, milestones, parts int, reloads bool) *pgx.Conn {
	tb.Helper()
	_, conn := own(tb)
	lacks := parts
	if reloads {
		lacks = 0
	}
	_, err := conn.Exec(tb.Context(), fmt.Sprintf(`
		ALTER TABLE tributary.milestone SET (autovacuum_enabled = off);
		ALTER TABLE tributary.milestone_part SET (autovacuum_enabled = off);
		ALTER TABLE tributary.checkpoint SET (autovacuum_enabled = off);
		INSERT INTO tributary.source (grp, source, system_id, era, n, known, vector, commit_lsn, tables, tables_lsn, health, written_at)
		SELECT 'warehouse', 'shop', '1', 0, 1, true, jsonb_object_agg('t' || to_char(i, 'FM0000'), '[2]'::jsonb), '0/1',
		       jsonb_object_agg('t' || to_char(i, 'FM0000'), jsonb_build_object('done', i = %[2]d, 'done_lsn', '0/0', 'level', 'all')), '0/1', '{}', now()
		  FROM generate_series(1, %[2]d) i;
		INSERT INTO tributary.milestone SELECT 'warehouse', 'shop', i, 0, '0/1', '0/1', now() FROM generate_series(1, %[1]d) i;
		INSERT INTO tributary.milestone_part
		SELECT 'warehouse', 'shop', m, 't' || to_char(i, 'FM0000'), 0, 2 FROM generate_series(1, %[1]d) m, generate_series(1, %[2]d) i;
		INSERT INTO tributary.checkpoint (grp, topic, partition, topic_id, next_offset)
		SELECT 'warehouse', 't' || to_char(i, 'FM0000'), 0, '', CASE i WHEN %[3]d THEN 1 ELSE 2 END FROM generate_series(1, %[2]d) i;
		INSERT INTO tributary.reload (grp, topic, source, topic_id, partition, "offset", target_schema, target_table, sid_column, sid, key, types)
		SELECT 'warehouse', 't' || to_char(i, 'FM0000'), 'shop', '', 0, 1, 'public', 't' || to_char(i, 'FM0000'), '', '', '{id}', '{int}' FROM generate_series(1, %[2]d) i WHERE %[4]t`,
		milestones, parts, lacks, reloads), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		tb.Fatal(err)
	}
	return conn
}

// A source whose hundreds of tables are read is asked each second what of it is complete, within the transaction that takes its
// progress, too: each part is looked at once, not once for each milestone.
func TestCostOfWhatIsComplete(t *testing.T) {
	const milestones, parts = 64, 100
	conn := behind(t, milestones, parts, false)
	for what, sql := range map[string]string{
		"view":  `SELECT source, complete_lsn, fences FROM tributary.progress WHERE grp = $1 AND source = $2`,
		"prune": prunePassed,
	} {
		var text []byte
		if err := conn.QueryRow(t.Context(), `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+sql, "warehouse", "shop").Scan(&text); err != nil {
			t.Fatal(err)
		}
		var plans []struct {
			Plan struct {
				Hit  int `json:"Shared Hit Blocks"`
				Read int `json:"Shared Read Blocks"`
			}
		}
		if err := json.Unmarshal(text, &plans); err != nil {
			t.Fatal(err)
		}
		if n := plans[0].Plan.Hit + plans[0].Plan.Read; n > 12*milestones*parts {
			t.Errorf("%s: %d pages for %d parts\n%s", what, n, milestones*parts, text)
		} else {
			t.Logf("%s: %d pages for %d parts", what, n, milestones*parts)
		}
	}
}

// BenchmarkComplete asks of a source of 780 partitions that is behind by as many milestones as are kept: one partition lacks, or each table is read anew.
func BenchmarkComplete(b *testing.B) {
	for name, reloads := range map[string]bool{"behind": false, "read anew": true} {
		b.Run(name, func(b *testing.B) {
			conn := behind(b, maxMilestones, 780, reloads)
			for b.Loop() {
				var lsn *string
				if err := conn.QueryRow(b.Context(), `SELECT complete_lsn::text FROM tributary.progress`).Scan(&lsn); err != nil || lsn != nil {
					b.Fatal("something is complete: ", lsn, err)
				}
			}
		})
	}
}
