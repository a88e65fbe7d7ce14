package nemesis

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// limit says by how much a measure may grow from the end of its warm-up to its end: by an amount, or by a share of its
// median, whatever is more.
type limit struct {
	measure, unit, what string
	grow, share         float64
	least               float64 // seconds that must be behind the warm-up; what is young takes more with every kind of work
}

// limits are what is judged. Growth is the slope that half of all pairs of samples exceed (Theil and Sen), times the time
// between the first and the last of them: peaks that come and go do not move it, what stays does.
var limits = []limit{
	{"anonymous", "MiB", "memory of the process that is no file's", 16 << 20, 0.20, oldEnough},
	{"resident", "MiB", "all of its memory, its program included", 24 << 20, 0.20, oldEnough},
	{"heap", "MiB", "what was alive at the last collection of garbage", 4 << 20, 0.25, oldEnough},
	{"goroutines", "", "of the process", 5, 0.10, 0},
	{"files", "", "open file descriptors, sockets included", 5, 0.10, 0},
	{"WAL kept", "MiB", "that the source keeps for the slot", 64 << 20, 0.25, 0},
	{"checkpoint age", "s", "since the last commit of the group that is furthest behind", 5, 0.25, 0},
	{"progress age", "s", "lag in tributary.progress, of the group that is furthest behind", 10, 0.25, 0},
	{"source connections", "", "of capture", 2, 0, 0},
	{"warehouse connections", "", "of all sinks", 3, 0, 0},
	{"Kafka lag", "records", "of all groups, as Kafka's own tools count it", 1000, 0.25, 0},
	{"own rows", "rows", "checkpoints, milestones, fences and reloads in the schema tributary", 200, 0.10, 0},
}

// The first quarter of a life is warm-up: every kind of work comes in it. A life with fewer samples behind it than this
// says nothing about growth by itself; it is a part of the whole.
const (
	warmUp     = 4
	oldEnough  = 20 * 60
	leastLong  = 40
	leastShort = 3
)

// Verdict is what was judged of one measure.
type Verdict struct {
	Of      string  `json:"of"`
	Life    int     `json:"life"` // 0: all lives of the service together
	Measure string  `json:"measure"`
	Samples int     `json:"samples"` // behind the warm-up
	Seconds float64 `json:"seconds"` // from the first to the last of them
	Median  float64 `json:"median"`
	Most    float64 `json:"most"`
	Growth  float64 `json:"growth"`
	Allowed float64 `json:"allowed"`
	Flat    bool    `json:"flat"`
}

// series is all samples, in the order of time.
type series []Sample

// judge judges every process that lived long enough, and every service over all of its lives.
func (s series) judge() (verdicts []Verdict) {
	lives := map[string]map[int]series{}
	for _, sample := range s {
		if lives[sample.Of] == nil {
			lives[sample.Of] = map[int]series{}
		}
		lives[sample.Of][sample.Life] = append(lives[sample.Of][sample.Life], sample)
	}
	for _, of := range slices.Sorted(maps.Keys(lives)) {
		var whole series
		for _, life := range slices.Sorted(maps.Keys(lives[of])) {
			warm := lives[of][life]
			warm = warm[len(warm)/warmUp:]
			if len(warm) >= leastShort {
				whole = append(whole, warm...)
			}
			if len(warm) >= leastLong && len(lives[of]) > 1 {
				verdicts = append(verdicts, warm.verdicts(of, life)...)
			}
		}
		if len(whole) >= leastLong {
			verdicts = append(verdicts, whole.verdicts(of, 0)...)
		}
	}
	return verdicts
}

func (s series) verdicts(of string, life int) (verdicts []Verdict) {
	for _, l := range limits {
		var at, values []float64
		for i := range s {
			if v, ok := s[i].Values[l.measure]; ok {
				at, values = append(at, s[i].At), append(values, v)
			}
		}
		if len(values) < leastLong || at[len(at)-1]-at[0] < l.least {
			continue // not a measure of this, or too early to say
		}
		v := Verdict{Of: of, Life: life, Measure: l.measure, Samples: len(values), Seconds: at[len(at)-1] - at[0], Median: median(values), Most: slices.Max(values)}
		v.Growth, v.Allowed = slope(at, values)*v.Seconds, max(l.grow, l.share*v.Median)
		v.Flat = v.Growth <= v.Allowed
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// slope is the median of the slopes between all pairs.
func slope(at, values []float64) float64 {
	var all []float64
	for i := range values {
		for j := range i {
			if d := at[i] - at[j]; d > 0 {
				all = append(all, (values[i]-values[j])/d)
			}
		}
	}
	if len(all) == 0 {
		return 0
	}
	return median(all)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// SoakReport says what a soak was, and what was judged.
type SoakReport struct {
	Commit        string         `json:"commit"`
	Broker        string         `json:"broker"`
	Rate          int            `json:"rate"`
	LargeRows     int            `json:"large_rows"`
	Seconds       float64        `json:"seconds"`
	Changes       int64          `json:"changes"` // of rows, committed
	Transactions  int64          `json:"transactions"`
	Large         int            `json:"large"`
	Snapshots     int            `json:"snapshots"`
	SchemaChanges int            `json:"schema_changes"`
	Restarts      map[string]int `json:"restarts"`
	CaughtUp      float64        `json:"caught_up"` // seconds from the end of the load to a fence behind it
	Rows          int64          `json:"rows"`      // compared, in all groups
	Verdicts      []Verdict      `json:"verdicts"`
	Findings      []string       `json:"findings"`
}

// Grown are the verdicts that say that something is not flat.
func (r *SoakReport) Grown() (grown []Verdict) {
	for _, v := range r.Verdicts {
		if !v.Flat {
			grown = append(grown, v)
		}
	}
	return grown
}

// Markdown writes the report as docs/guarantees.md has it.
func (r *SoakReport) Markdown(out io.Writer) {
	fmt.Fprintf(out, "%.0f minutes on %s (%s): %s changes in %s transactions, %d of them with up to %s rows; %d snapshots asked for, %d schema changes. Restarts: %s. ",
		r.Seconds/60, r.Broker, r.Commit, thousands(r.Changes), thousands(r.Transactions), r.Large, thousands(int64(r.LargeRows)), r.Snapshots, r.SchemaChanges, counts(r.Restarts))
	if len(r.Findings) == 0 && r.Rows > 0 {
		fmt.Fprintf(out, "Complete %.1f s after the end of the load; %s rows compared, no difference.", r.CaughtUp, thousands(r.Rows))
	}
	for _, f := range r.Findings {
		fmt.Fprintf(out, "\n\nFOUND: %s", f)
	}
	fmt.Fprintf(out, "\n\n| of | lives | measure | over | median | most | growth | allowed | |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, v := range r.Verdicts {
		life, word := "all", "flat"
		if v.Life > 0 {
			life = fmt.Sprintf("number %d", v.Life)
		}
		if !v.Flat {
			word = "**grows**"
		}
		l := limits[slices.IndexFunc(limits, func(l limit) bool { return l.measure == v.Measure })]
		fmt.Fprintf(out, "| %s | %s | %s | %.0f min | %s | %s | %s | %s | %s |\n", v.Of, life, v.Measure, v.Seconds/60,
			l.text(v.Median), l.text(v.Most), l.text(v.Growth), l.text(v.Allowed), word)
	}
}

// Limits writes what is measured, and what growth is allowed.
func Limits(out io.Writer) {
	fmt.Fprint(out, "| measure | what | may grow by |\n|---|---|---|\n")
	for _, l := range limits {
		allowed := l.text(l.grow)
		if l.share > 0 {
			allowed += fmt.Sprintf(", or by %.0f %% of its median", l.share*100)
		}
		if l.least > 0 {
			allowed += fmt.Sprintf("; judged from %.0f minutes on", l.least/60)
		}
		fmt.Fprintf(out, "| %s | %s | %s |\n", l.measure, l.what, allowed)
	}
}

func (l limit) text(v float64) string {
	if l.unit == "MiB" {
		v /= 1 << 20
	}
	return strings.TrimSpace(strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + l.unit)
}

// ReadSoak reads the records of a soak, also of one that did not come to its end: what its samples say is judged anew.
func ReadSoak(records io.Reader) (*SoakReport, error) {
	report := &SoakReport{}
	var all series
	lines := bufio.NewScanner(records)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var line soakLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("read records: %w", err)
		}
		switch {
		case line.Report != nil:
			report = line.Report
		case line.Sample != nil:
			all = append(all, *line.Sample)
			report.Seconds = line.Sample.At
		}
	}
	report.Verdicts = all.judge()
	return report, lines.Err()
}
