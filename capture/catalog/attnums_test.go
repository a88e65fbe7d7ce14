package catalog

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/schema"
)

// columnsOf reads "a1 b2": names with attnums.
func columnsOf(t *testing.T, s string) (columns []schema.Column) {
	t.Helper()
	for word := range strings.FieldsSeq(s) {
		n, err := strconv.Atoi(word[1:])
		if err != nil {
			t.Fatal(err)
		}
		columns = append(columns, schema.Column{Name: word[:1], AttNum: int16(n)})
	}
	return columns
}

func TestAttnums(t *testing.T) {
	f := func(before, message, now string, want ...int16) {
		t.Helper()
		got := attnums(strings.Fields(message), columnsOf(t, before), columnsOf(t, now))
		if !slices.Equal(got, want) {
			t.Errorf("before %q, message %q, now %q: %v, want %v", before, message, now, got, want)
		}
	}
	f("a1 b2", "a b", "a1 b2", 1, 2)
	f("", "a b", "a1 b2", 1, 2)
	f("a1 b2", "a b", "", 1, 2)                 // the table is gone
	f("a1 b2", "a b", "a1 c2", 1, 2)            // renamed since
	f("a1 b2", "a c", "a1 c2", 1, 2)            // renamed
	f("a1 b2", "a c", "a1 d2", 1, 2)            // renamed twice
	f("a1 b2", "a c", "a1 d2 c3", 1, 2)         // and the name is another column's now
	f("a1 b2", "a b", "a1 b3", 1, 0)            // dropped and added: is it the old or the new one?
	f("a1 b2", "a b c", "a1 b2 c3", 1, 2, 3)    // added
	f("a1 b2", "a b c", "a1 b2", 1, 2, 0)       // added, and dropped since
	f("a1", "a b", "a1 b3", 1, 0)               // added; was it dropped and added since?
	f("a1", "a b", "a1 c3", 1, 0)               // added, dropped since
	f("a1", "a b c", "a1 b2 c4", 1, 0, 0)       // two were added, one came and went: before them, or between?
	f("a1 b3", "a b c", "a1 b3 c4", 1, 3, 4)    // what went before is of no account
	f("a1 b2 c3", "a c", "a1 c3", 1, 3)         // dropped
	f("a1 b2 c3", "a b c", "a1 c3", 1, 2, 3)    // dropped since
	f("a1 b2", "b a", "b1 a2", 1, 2)            // exchanged
	f("a1 b2", "b a", "a1 b2", 0, 0)            // exchanged, and exchanged back since
	f("a1 b2 c3", "a x b", "a1 b2 c3", 0, 0, 0) // in a ring, and back since: there is no number for x
	f("a1 b2", "x y", "p1 q2", 1, 2)
	f("a1 b2", "a x y", "a1 z2 y3", 1, 0, 0)
	f("", "x", "", 0)
}
