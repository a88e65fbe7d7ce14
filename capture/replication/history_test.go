package replication

import (
	"slices"
	"testing"
)

func TestParseHistory(t *testing.T) {
	f := func(content string, want ...Switch) {
		t.Helper()
		got, err := parseHistory([]byte(content))
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("got %v, %v; want %v", got, err, want)
		}
	}
	f("")
	f("1\t0/3000110\tno recovery target specified\n", Switch{1, 0x3000110})
	f("# a comment\n1\t0/3000110\tbefore 2000-01-01 00:00:00+00\n\n2\t16/B374D848\t\n", Switch{1, 0x3000110}, Switch{2, 0x16B374D848})
	for _, wrong := range []string{"1\n", "x\t0/1\n", "1\t01\n"} {
		if h, err := parseHistory([]byte(wrong)); err == nil {
			t.Errorf("%q gives %v", wrong, h)
		}
	}
}
