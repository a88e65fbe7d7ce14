package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// report is the figures of a run.
type report struct {
	began time.Time
	out   io.Writer
	flags []string // of the command
	major int      // of Postgres
	rows  []*row

	failed []string // what could not be measured to its end, and why
}

// row is one path, on each broker.
type row struct {
	path, limitWhat, note string
	goal                  string
	on                    map[string]figure // by broker
}

type figure struct {
	text  string  // rate, latency or whatever the row has
	limit string  // "" for none
	ratio float64 // to the limit; 0 for none
	costs string
	peaks string
	cores float64  // that were busy with it; 0 where that is not known
	on    []string // what capture and sink spent their time on
}

// row finds or adds one.
func (r *report) row(w *world, path string) *row {
	r.major = w.source.Major()
	i := slices.IndexFunc(r.rows, func(have *row) bool { return have.path == path })
	if i < 0 {
		i = len(r.rows)
		r.rows = append(r.rows, &row{path: path, on: map[string]figure{}})
	}
	return r.rows[i]
}

// rate adds how many rows or changes a second there were, beside a limit. goal is the ratio to be reached, 0 for none.
func (r *report) rate(w *world, path string, n int, took time.Duration, l limit, goal float64, c costs) {
	row := r.row(w, path)
	rate := float64(n) / took.Seconds()
	row.limitWhat = l.what
	if goal > 0 {
		row.goal = fmt.Sprintf("≥ %.2g", goal)
	}
	f := figure{
		text: service.FormatCount(int64(rate)) + "/s", limit: service.FormatCount(int64(l.rate)) + "/s", ratio: rate / l.rate,
		costs: c.per(n), peaks: c.peaks(), cores: c.cores(took),
	}
	if text := sharesText(c.capture.on); text != "" {
		f.on = append(f.on, "capture: "+text)
	}
	if text := sharesText(c.sink.on); text != "" {
		f.on = append(f.on, "sink: "+text)
	}
	row.on[w.broker] = f
	fmt.Fprintf(os.Stderr, "\n  %s: %s, %s", path, f.text, f.ratioText())
}

// times adds latencies, in order.
func (r *report) times(w *world, path string, found []time.Duration, goal string, c costs) {
	row := r.row(w, path)
	row.goal = goal
	at := func(q float64) string {
		return fmt.Sprintf("%.1f", float64(found[min(len(found)-1, int(q*float64(len(found))))].Microseconds())/1000)
	}
	row.on[w.broker] = figure{text: fmt.Sprintf("p50 %s, p99 %s, max %s ms", at(0.5), at(0.99), at(1)), costs: c.per(len(found)), peaks: c.peaks()}
}

// text adds a figure of another kind.
func (r *report) text(w *world, path, figureText, note string) {
	row := r.row(w, path)
	row.note = note
	row.on[w.broker] = figure{text: figureText}
}

// per gives CPU seconds for a million rows or changes: of capture and sink, and of the servers.
func (c costs) per(n int) string {
	million := func(d time.Duration) string {
		if d <= 0 {
			return "–"
		}
		return fmt.Sprintf("%.1f", d.Seconds()*1e6/float64(n))
	}
	return strings.Join([]string{million(c.capture.cpu), million(c.sink.cpu), million(c.broker), million(c.source), million(c.warehouse)}, " ")
}

func (c costs) peaks() string {
	mib := func(b int64) string {
		if b == 0 {
			return "–"
		}
		return fmt.Sprint(b >> 20)
	}
	return mib(c.capture.peak) + " " + mib(c.sink.peak)
}

// print writes the table for a terminal.
func (r *report) print() {
	fmt.Fprintf(r.out, "%s\n\n", r.machine())
	for _, broker := range r.brokers() {
		fmt.Fprintf(r.out, "On %s. CPU: seconds per million, of capture, sink, broker, source, warehouse. Memory: MiB at the peak, of capture, sink.\n\n", broker)
		t := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "PATH\tTRIBUTARY\tLIMIT\tRATIO\tGOAL\tCPU\tMEMORY\tLIMIT IS")
		for _, row := range r.rows {
			f, ok := row.on[broker]
			if !ok {
				continue
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.path, f.text, f.limit, f.ratioText(), row.goal, f.costs, f.peaks, row.limitWhat+row.note)
		}
		_ = t.Flush() // a terminal that is gone has no reader
		fmt.Fprintln(r.out)
		for _, row := range r.rows {
			if f := row.on[broker]; f.on != nil {
				fmt.Fprintf(r.out, "%s: %.1f cores busy; %% of the CPU time of %s\n", row.path, f.cores, strings.Join(f.on, "; of "))
			}
		}
		fmt.Fprintln(r.out)
	}
}

func (f figure) coresText() string {
	if f.cores == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", f.cores)
}

func (f figure) ratioText() string {
	if f.ratio == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", f.ratio)
}

func (r *report) brokers() (names []string) {
	for _, row := range r.rows {
		for _, broker := range []string{brokerKafka, brokerFake} {
			if _, ok := row.on[broker]; ok && !slices.Contains(names, broker) {
				names = append(names, broker)
			}
		}
	}
	return names
}

// machine says where and of what the figures are.
func (r *report) machine() string {
	commit, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		commit = []byte("an unknown commit")
	}
	return fmt.Sprintf("%s: PostgreSQL %d, %d CPUs, %s/%s, %s, commit %s, `bench %s`, %s in all", r.began.Format("2006-01-02"), r.major,
		runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), bytes.TrimSpace(commit), strings.Join(r.flags, " "), time.Since(r.began).Round(time.Second))
}

// The page's tables stand between these lines.
const (
	pageBegin = "<!-- make bench writes what follows -->"
	pageEnd   = "<!-- up to here -->"
)

// write puts the tables into a page.
func (r *report) write(path string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(page, []byte(pageBegin))
	_, after, ended := bytes.Cut(rest, []byte(pageEnd))
	if !ok || !ended {
		return fmt.Errorf("%s has no %q followed by %q", path, pageBegin, pageEnd)
	}
	var b bytes.Buffer
	b.Write(before)
	b.WriteString(pageBegin + "\n\n" + r.machine() + "\n")
	for _, why := range r.failed {
		b.WriteString("\nNot measured to its end: " + why + "\n")
	}
	b.WriteString("\n| path | Tributary | limit | ratio | goal | on kfake: ratio | limit is |\n|---|---|---|---|---|---|---|\n")
	for _, row := range r.rows {
		f, fake := row.on[brokerKafka], row.on[brokerFake]
		second := fake.ratioText()
		if second == "" {
			second = fake.text
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", row.path, f.text, f.limit, f.ratioText(), row.goal, second, row.limitWhat+row.note)
	}
	b.WriteString("\nOn Apache Kafka, CPU seconds per million rows or changes, how many cores were busy with it all, and peak memory in MiB:\n")
	b.WriteString("\n| path | capture | sink | broker | source | warehouse | cores | memory of capture | of sink |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, row := range r.rows {
		if f := row.on[brokerKafka]; f.costs != "" {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", row.path, strings.Join(strings.Fields(f.costs), " | "), f.coresText(), strings.Join(strings.Fields(f.peaks), " | "))
		}
	}
	b.WriteString("\nWhat capture and sink spent it on, in percent, by profiles taken in the same run:\n")
	b.WriteString("\n| path | |\n|---|---|\n")
	for _, row := range r.rows {
		if f := row.on[brokerKafka]; f.on != nil {
			fmt.Fprintf(&b, "| %s | %s |\n", row.path, strings.Join(f.on, "<br>"))
		}
	}
	b.WriteString("\n" + pageEnd)
	b.Write(after)
	return os.WriteFile(path, b.Bytes(), 0o644)
}
