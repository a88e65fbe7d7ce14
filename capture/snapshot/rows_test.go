package snapshot

import (
	"testing"

	"github.com/tributary-cdc/tributary/schema/change"
)

// Rows that wait take memory by the block, not by the row, and none when they are looked at.
func TestRowsAllocations(t *testing.T) {
	const n = 10_000
	line := [][]byte{[]byte("12345"), []byte("some text that is longer"), nil, []byte("2024-03-10 12:34:56.789"), []byte("t")}
	var rows *Rows
	add := func() {
		rows = newRows(len(line))
		for range n {
			rows.add(line)
		}
	}
	const limit = 60
	if allocs := testing.AllocsPerRun(10, add); allocs > limit {
		t.Errorf("%v allocations for %d rows, at most %d", allocs, n, limit)
	}
	var dst change.Tuple
	look := func() {
		for i := range rows.Len() {
			if dst = rows.Row(i, dst); len(dst) != len(line) {
				t.Fatal("a row is not as wide as it was")
			}
		}
	}
	look()
	if allocs := testing.AllocsPerRun(10, look); allocs > 0 {
		t.Errorf("%v allocations to look at %d rows", allocs, n)
	}
}
