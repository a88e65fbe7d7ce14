package demo

import "testing"

// Numbers are written as the services write them, and what is not known is not told.
func TestLines(t *testing.T) {
	l := line{name: "rental", rows: 32_011, rate: 16_378.4, behind: 0.003, from: "eu, us"}
	for got, want := range map[string]string{
		l.String():      "rental              32,011       16,378        3 ms   eu, us",
		l.sum("p50 -"):  "32,011 rows, 16,378 changes/s, behind 3 ms, p50 -",
		line{}.sum("-"): "no row is in the warehouse yet",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
