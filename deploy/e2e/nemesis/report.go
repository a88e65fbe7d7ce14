package nemesis

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report says what a run has found and how much it has looked at. As JSON it is one line, and [Sum] adds lines up.
type Report struct {
	Seed         uint64               `json:"seed"`
	Broker       string               `json:"broker"`       // kafka or kfake
	Commit       string               `json:"commit"`       // see Options
	Minutes      float64              `json:"minutes"`      // in which faults came
	Faults       map[string]int       `json:"faults"`       // by kind
	Transactions int64                `json:"transactions"` // committed by the load
	RolledBack   int64                `json:"rolled_back"`  // by plan, by a conflict, or with a server
	Changes      int64                `json:"changes"`      // of rows, in the ledger: each was looked for in the topics
	Records      int64                `json:"records"`      // read from the topics
	Read         int64                `json:"read"`         // of these: rows of snapshots
	Repeats      int64                `json:"repeats"`      // of these: dropped by their position, with at-least-once
	Rows         int64                `json:"rows"`         // compared between source and warehouse, in all rounds
	Totals       int64                `json:"totals"`       // how often the money in all accounts was summed up
	Versions     int64                `json:"versions"`     // of rows, in histories: each was looked for in the ledger
	Logged       int64                `json:"logged"`       // changes in logs, likewise
	Tables       int                  `json:"tables"`       // at the source, at the end
	Healed       []float64            `json:"healed"`       // seconds from the end of the faults of a round to its fence
	Recovery     map[string][]float64 `json:"recovery"`     // seconds by kind of kill, see kills
	WALKept      int64                `json:"wal_kept"`     // bytes, the most that the slot kept at the source
	Exits        map[string]int       `json:"exits"`        // ends of services that nobody asked for, by the code of the trouble they told
	// Findings is what is wrong with the pipeline. Empty: it kept its promises.
	Findings []string `json:"findings"`
}

// String gives the report as people read it.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d on %s, commit %s: %d transactions (and %d rolled back), %d changes checked in %d records (%d of snapshots, %d repeats), %d rows of %d tables compared, the money of all accounts summed up %d times, %d versions in histories and %d changes in logs\n",
		r.Seed, r.Broker, r.Commit, r.Transactions, r.RolledBack, r.Changes, r.Records, r.Read, r.Repeats, r.Rows, r.Tables, r.Totals, r.Versions, r.Logged)
	fmt.Fprintf(&b, "faults in %.1f minutes: %s\n", r.Minutes, counts(r.Faults))
	if len(r.Exits) > 0 {
		fmt.Fprintf(&b, "services that ended by themselves, and were started again: %s\n", counts(r.Exits))
	}
	if len(r.Healed) > 0 {
		fmt.Fprintf(&b, "from the end of the faults to a fence behind them: %s\n", spread(r.Healed))
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Recovery)) {
		fmt.Fprintf(&b, "recovery, %s: %s\n", kind, spread(r.Recovery[kind]))
	}
	fmt.Fprintf(&b, "WAL kept for the slot: %d MiB at most\n", r.WALKept>>20)
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "FOUND: %s\n", f)
	}
	return b.String()
}

func counts(m map[string]int) string {
	total := 0
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		total += m[k]
		parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
	}
	return fmt.Sprintf("%d (%s)", total, strings.Join(parts, ", "))
}

// spread gives the median and the greatest of a list of seconds that is not empty.
func spread(seconds []float64) string {
	sorted := slices.Sorted(slices.Values(seconds))
	n := len(sorted)
	return fmt.Sprintf("p50 %.1f s, max %.1f s, of %d", sorted[n/2], sorted[n-1], n)
}

// note changes the report; f runs alone.
func (m *machine) note(f func(r *Report)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.report)
}

// Sum reads reports, one JSON object a line, and writes their figures as the tables of docs/guarantees.md.
func Sum(lines io.Reader, out io.Writer) error {
	faults, exits, recovery := map[string]int{}, map[string]int{}, map[string][]float64{}
	var all Report
	brokers := map[string]bool{}
	var seeds []string
	differences := 0
	for d := json.NewDecoder(lines); ; {
		var r Report
		if err := d.Decode(&r); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("read reports: %w", err)
		}
		seeds, brokers[r.Broker] = append(seeds, fmt.Sprint(r.Seed)), true
		all.Minutes += r.Minutes
		all.Transactions += r.Transactions
		all.Changes += r.Changes
		all.Records += r.Records
		all.Read += r.Read
		all.Rows += r.Rows
		all.Totals += r.Totals
		all.Versions += r.Versions
		all.Logged += r.Logged
		all.WALKept = max(all.WALKept, r.WALKept)
		all.Healed = append(all.Healed, r.Healed...)
		differences += len(r.Findings)
		for k, n := range r.Faults {
			faults[k] += n
		}
		for k, n := range r.Exits {
			exits[k] += n
		}
		for k, s := range r.Recovery {
			recovery[k] = append(recovery[k], s...)
		}
	}
	fmt.Fprintf(out, "| | |\n|---|---|\n| broker | %s |\n| seeds | %s |\n| minutes of faults | %.0f |\n| differences found | %d |\n",
		strings.Join(slices.Sorted(maps.Keys(brokers)), ", "), strings.Join(seeds, ", "), all.Minutes, differences)
	fmt.Fprintf(out, "| transactions committed | %s |\n| changes checked, each in the ledger, the topics and the warehouse | %s |\n",
		thousands(all.Transactions), thousands(all.Changes))
	fmt.Fprintf(out, "| records read back from the topics, of these rows of snapshots | %s, %s |\n| rows compared | %s |\n",
		thousands(all.Records), thousands(all.Read), thousands(all.Rows))
	fmt.Fprintf(out, "| versions in histories, changes in logs: held against the ledger | %s, %s |\n", thousands(all.Versions), thousands(all.Logged))
	fmt.Fprintf(out, "| reads of the total of all accounts, with `consistency: source` | %s |\n", thousands(all.Totals))
	fmt.Fprintf(out, "| most WAL kept at the source | %d MiB |\n", all.WALKept>>20)
	if len(all.Healed) > 0 {
		fmt.Fprintf(out, "| from the end of all faults to a fence behind them | %s |\n", spread(all.Healed))
	}
	if len(exits) > 0 {
		fmt.Fprintf(out, "| services that gave way to another one by themselves | %s |\n", counts(exits))
	}
	total := 0
	fmt.Fprintf(out, "\n| fault | survived |\n|---|---|\n")
	for _, kind := range slices.Sorted(maps.Keys(faults)) {
		fmt.Fprintf(out, "| %s | %d |\n", kind, faults[kind])
		total += faults[kind]
	}
	fmt.Fprintf(out, "| together | %s |\n", thousands(int64(total)))
	if len(recovery) > 0 {
		fmt.Fprintf(out, "\n| recovery | times | p50 | max |\n|---|---|---|---|\n")
	}
	for _, k := range kills {
		if s := slices.Sorted(slices.Values(recovery[k.kind])); len(s) > 0 {
			fmt.Fprintf(out, "| %s, counted from %s | %d | %.1f s | %.1f s |\n", k.kind, k.from, len(s), s[len(s)/2], s[len(s)-1])
		}
	}
	return nil
}

func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
