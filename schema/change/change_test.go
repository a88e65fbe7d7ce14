package change

import (
	"bytes"
	"errors"
	"testing"
)

func TestLSN(t *testing.T) {
	f := func(lsn LSN, text string) {
		t.Helper()
		if got := lsn.String(); got != text {
			t.Fatalf("%d is written %q, want %q", uint64(lsn), got, text)
		}
		if got, err := ParseLSN(text); got != lsn || err != nil {
			t.Fatalf("%q reads as %d, %v", text, uint64(got), err)
		}
	}
	f(0, "0/0")
	f(0x16_B374D848, "16/B374D848")
	f(0x1_0000_000A, "1/A")
	f(1<<64-1, "FFFFFFFF/FFFFFFFF")
	for _, bad := range []string{"", "0", "/", "0/", "/0", "0/100000000", "x/0", "0/0/0", "-1/0"} {
		if got, err := ParseLSN(bad); err == nil {
			t.Errorf("%q reads as %s", bad, got)
		}
	}
}

// Encoded positions must compare as positions do: others find the place of a record by its bytes.
func FuzzPosition(f *testing.F) {
	f.Add(uint16(1), uint64(2), uint64(3), uint16(1), uint64(2), SnapshotSeq)
	f.Add(uint16(1), uint64(1<<63), uint64(1<<32-1), uint16(256), uint64(0), uint64(1<<32))
	f.Fuzz(func(t *testing.T, era1 uint16, lsn1, seq1 uint64, era2 uint16, lsn2, seq2 uint64) {
		const most = 1<<48 - 1
		p := Position{Era: era1, CommitLSN: LSN(lsn1), Seq: seq1 & most}
		q := Position{Era: era2, CommitLSN: LSN(lsn2), Seq: seq2 & most}
		a, b := AppendPosition(nil, p), AppendPosition(nil, q)
		if len(a) != PositionSize {
			t.Fatalf("%s takes %d bytes", p, len(a))
		}
		if back, err := ParsePosition(a); back != p || err != nil {
			t.Fatalf("%s reads as %s, %v", p, back, err)
		}
		if p.Compare(q) != bytes.Compare(a, b) || p.Compare(q) != -q.Compare(p) {
			t.Fatalf("%s and %s: %d, bytes %d", p, q, p.Compare(q), bytes.Compare(a, b))
		}
	})
}

func TestParsePositionRefuses(t *testing.T) {
	for _, n := range []int{0, 15, 17} {
		if _, err := ParsePosition(make([]byte, n)); !errors.Is(err, ErrPosition) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestPosition(t *testing.T) {
	if !(Position{}).IsZero() || (Position{Seq: 1}).IsZero() {
		t.Error("only the zero position is zero")
	}
	if (Position{Seq: SnapshotSeq - 1}).Snapshot() || !(Position{Seq: SnapshotSeq}).Snapshot() {
		t.Error("snapshot rows are those from SnapshotSeq on")
	}
	if got, want := (Position{Era: 2, CommitLSN: 0x16_B374D848, Seq: 7}).String(), "2:16/B374D848.7"; got != want {
		t.Errorf("written %q, want %q", got, want)
	}
}
