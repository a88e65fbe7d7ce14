package nemesis

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// What grows is found, in one long life and over many short ones; what only goes up and down is not.
func TestFlat(t *testing.T) {
	const hour, every, mib = 3600.0, 10.0, 1 << 20
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // it is to be repeatable
	noise := func(most float64) float64 { return (random.Float64() - 0.5) * most }
	for name, c := range map[string]struct {
		measure  string
		restarts float64 // seconds between them, 0: none
		value    func(at, age float64) float64
		grown    bool
	}{
		"noise":                    {"anonymous", 0, func(_, _ float64) float64 { return 60*mib + noise(20*mib) }, false},
		"collections":              {"anonymous", 0, func(at, _ float64) float64 { return 40*mib + math.Mod(at, 700)*60000 }, false},
		"warm-up, then flat":       {"anonymous", 0, func(_, age float64) float64 { return min(age/hour*4, 1)*80*mib + noise(8*mib) }, false},
		"peaks of large work":      {"anonymous", 0, func(at, _ float64) float64 { return 50*mib + math.Floor(math.Mod(at, 600)/500)*90*mib }, false},
		"it shrinks":               {"anonymous", 0, func(at, _ float64) float64 { return 90*mib - at/hour*40*mib }, false},
		"leak of 48 MiB an hour":   {"anonymous", 0, func(at, _ float64) float64 { return 50*mib + at/hour*48*mib + noise(20*mib) }, true},
		"files, one each minute":   {"files", 0, func(at, _ float64) float64 { return 20 + math.Floor(at/60) }, true},
		"goroutines, with each 10": {"goroutines", 0, func(at, _ float64) float64 { return 80 + math.Floor(at/240) + noise(6) }, true},
		"short lives":              {"goroutines", 240, func(_, age float64) float64 { return 60 + min(age, 60)/6 }, false},
		"from life to life":        {"own rows", 240, func(at, _ float64) float64 { return 400 + math.Floor(at/240)*60 }, true},
		"WAL that nobody confirms": {"WAL kept", 0, func(at, _ float64) float64 { return at / hour * 200 * mib }, true},
		"progress stands still":    {"progress age", 0, func(at, _ float64) float64 { return max(0, at-hour/2) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			var records bytes.Buffer
			for at := 0.0; at < hour; at += every {
				life, age := 1, at
				if c.restarts > 0 {
					life, age = 1+int(at/c.restarts), math.Mod(at, c.restarts)
				}
				line := soakLine{Sample: &Sample{At: at, Of: "sink-a", Life: life, Values: map[string]float64{c.measure: c.value(at, age)}}}
				if err := json.NewEncoder(&records).Encode(line); err != nil {
					t.Fatal(err)
				}
			}
			report, err := ReadSoak(&records)
			if err != nil {
				t.Fatal(err)
			}
			if len(report.Verdicts) != 1 {
				t.Fatalf("%d verdicts: %+v", len(report.Verdicts), report.Verdicts)
			}
			if grown := len(report.Grown()) > 0; grown != c.grown {
				t.Errorf("grown: %t, want %t: %+v", grown, c.grown, report.Verdicts)
			}
		})
	}
}

// A life that is long enough is judged by itself: what others hide in the whole shows in it.
func TestFlatInOneLife(t *testing.T) {
	var all series
	for i := range 600 {
		life, leak := 1, 0.0
		if i >= 200 && i < 400 {
			life, leak = 2, float64(i-200)/4
		} else if i >= 400 {
			life = 3
		}
		all = append(all, Sample{At: float64(i * 10), Of: "capture-a", Life: life, Values: map[string]float64{"files": 20 + leak}})
	}
	verdicts := all.judge()
	grown := func(life int) bool {
		at := slices.IndexFunc(verdicts, func(v Verdict) bool { return v.Life == life })
		return !verdicts[at].Flat
	}
	if grown(0) || grown(1) || !grown(2) || grown(3) {
		t.Errorf("the second life leaks, and nothing else does: %+v", verdicts)
	}
}
