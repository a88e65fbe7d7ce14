package warehouse

import (
	"testing"

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
