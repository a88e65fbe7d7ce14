package record

import (
	"reflect"
	"strings"
	"testing"
)

func TestProgress(t *testing.T) {
	safe := int64(-5)
	p := &Progress{
		Source: "shop", SystemID: "7300000000000000001", Timeline: 3, Era: 65535, Slot: "tributary_shop", Full: true, N: 1 << 63,
		CommitLSN: 1<<64 - 1, EndLSN: 0x16_B374D848, Inside: 1 << 47, SnapshotSeq: 1<<47 + 1, CommitTime: -1, WrittenAt: 2,
		Vector: map[string][]int64{"shop.public.orders": {5, -1}},
		Tables: []TableProgress{{
			OID: 4_000_000_000, Schema: "public", Table: "a.b", Rows: 7, Level: "all",
			Ranges: []RangeProgress{{After: []string{"1", ""}}, {Up: []string{"\"x\"", "é"}}},
		}},
		Fences: []string{"f1"},
		Health: Health{State: "streaming", WALSafe: &safe},
	}
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), `"end_lsn":"16/B374D848"`) {
		t.Errorf("LSNs are not in Postgres' notation: %s", b)
	}
	got, err := ParseProgress(b)
	if err != nil || !reflect.DeepEqual(got, p) {
		t.Fatalf("got  %+v, %v\nwant %+v", got, err, p)
	}

	if got, err := ParseProgress([]byte(`{"version":1,"source":"s","added later":{}}`)); err != nil || got.Source != "s" {
		t.Errorf("a field that is not known: %+v, %v", got, err)
	}
	for _, bad := range []string{"", "{", "{}", `{"version":2}`, `{"version":1,"end_lsn":"x"}`, `{"version":1,"era":65536}`} {
		if _, err := ParseProgress([]byte(bad)); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

// Compaction keeps the last record of a key: a delta that is needed must not be followed by another with its key
// before the next full record.
func TestProgressKeys(t *testing.T) {
	const start = 1<<64 - FullEvery/2 // the counter's end is a place like any other
	seen := map[string]bool{(&Progress{Full: true, N: start}).Key(): true}
	for n := range uint64(FullEvery) {
		key := (&Progress{N: start + 1 + n}).Key()
		if seen[key] {
			t.Fatalf("delta %d after a full record has the key %q of one before it", n+1, key)
		}
		seen[key] = true
	}
	if (&Progress{Full: true, N: 1}).Key() != (&Progress{Full: true, N: 2}).Key() {
		t.Error("full records have several keys: old ones are never compacted away")
	}
}
