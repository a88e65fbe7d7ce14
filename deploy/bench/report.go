package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
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
	path, limitWhat string
	goal            string
	on              map[string][]figure // by broker; several, of which the median counts, by its ratio
}

type figure struct {
	text        string  // rate, latency or whatever the row has
	rate, limit float64 // a second; 0 for none
	note        string
	costs       costs
	n           int      // rows or changes
	cores       float64  // that were busy with it; 0 where that is not known
	on          []string // what capture and sink spent their time on
}

func (f figure) ratio() float64 { return f.rate / f.limit }

// median gives what counts of a row on a broker. ok is false where it was not measured there.
func (row *row) median(broker string) (f figure, ok bool) {
	all := slices.Clone(row.on[broker])
	if len(all) == 0 {
		return f, false
	}
	slices.SortFunc(all, func(a, b figure) int { return cmp.Compare(a.ratio(), b.ratio()) })
	return all[len(all)/2], true
}

// ratioText gives the median ratio and, of several, the least and the greatest.
func (row *row) ratioText(broker string) string {
	f, ok := row.median(broker)
	if !ok || f.limit == 0 {
		return ""
	}
	text := fmt.Sprintf("%.2f", f.ratio())
	if all := row.on[broker]; len(all) > 1 {
		by := func(a, b figure) int { return cmp.Compare(a.ratio(), b.ratio()) }
		text += fmt.Sprintf(" (%.2f to %.2f)", slices.MinFunc(all, by).ratio(), slices.MaxFunc(all, by).ratio())
	}
	return text
}

// row finds or adds one.
func (r *report) row(w *world, path string) *row {
	r.major = w.source.Major()
	i := slices.IndexFunc(r.rows, func(have *row) bool { return have.path == path })
	if i < 0 {
		i = len(r.rows)
		r.rows = append(r.rows, &row{path: path, on: map[string][]figure{}})
	}
	return r.rows[i]
}

// rate adds how many rows or changes a second there were, beside a limit. goal is the ratio to be reached, 0 for none.
func (r *report) rate(w *world, path string, n int, took time.Duration, l limit, goal float64, c costs) {
	row := r.row(w, path)
	row.limitWhat = l.what
	if goal > 0 {
		row.goal = fmt.Sprintf("≥ %.2g", goal)
	}
	rate := float64(n) / took.Seconds()
	f := figure{text: service.FormatCount(int64(rate)) + "/s", rate: rate, limit: l.rate, n: n, costs: c, cores: c.cores(took), on: c.shares()}
	row.on[w.broker] = append(row.on[w.broker], f)
	fmt.Fprintf(os.Stderr, "\n  %s: %s, %.2f", path, f.text, f.ratio())
}

// times adds latencies, in order.
func (r *report) times(w *world, path string, found []time.Duration, goal string, c costs) {
	row := r.row(w, path)
	row.goal = goal
	at := func(q float64) string {
		return fmt.Sprintf("%.1f", float64(found[min(len(found)-1, int(q*float64(len(found))))].Microseconds())/1000)
	}
	f := figure{text: fmt.Sprintf("p50 %s, p99 %s, max %s ms", at(0.5), at(0.99), at(1)), n: len(found), costs: c, cores: c.cores(c.lasted), on: c.shares()}
	row.on[w.broker] = append(row.on[w.broker], f)
	fmt.Fprintf(os.Stderr, "\n  %s: %s", path, f.text)
}

// text adds a figure of another kind.
func (r *report) text(w *world, path, figureText, note string) {
	row := r.row(w, path)
	row.on[w.broker] = append(row.on[w.broker], figure{text: figureText, note: note})
}

// per gives CPU seconds for a million rows or changes: of capture and sink, and of the servers.
func (f figure) per() string {
	million := func(d time.Duration) string {
		if d <= 0 {
			return "–"
		}
		return fmt.Sprintf("%.1f", d.Seconds()*1e6/float64(f.n))
	}
	c := f.costs
	return strings.Join([]string{million(c.capture.cpu), million(c.sink.cpu), million(c.broker.cpu), million(c.source.cpu), million(c.warehouse.cpu)}, " ")
}

// peaks gives the memory in MiB, of the same.
func (f figure) peaks() string {
	mib := func(u used) string {
		if u.peak == 0 {
			return "–"
		}
		return fmt.Sprint(u.peak >> 20)
	}
	c := f.costs
	return strings.Join([]string{mib(c.capture), mib(c.sink), mib(c.broker), mib(c.source), mib(c.warehouse)}, " ")
}

// shares tells what capture and sink spent their time on.
func (c costs) shares() (on []string) {
	if text := sharesText(c.capture.on); text != "" {
		on = append(on, "capture: "+text)
	}
	if text := sharesText(c.sink.on); text != "" {
		on = append(on, "sink: "+text)
	}
	return on
}

// print writes the table for a terminal.
func (r *report) print() {
	fmt.Fprintf(r.out, "%s\n\n", r.machine())
	for _, broker := range r.brokers() {
		fmt.Fprintf(r.out, "On %s. CPU: seconds per million; memory: MiB at the peak; both of capture, sink, broker, source, warehouse.\n\n", broker)
		t := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "PATH\tTRIBUTARY\tLIMIT\tRATIO\tGOAL\tCPU\tMEMORY\tLIMIT IS")
		for _, row := range r.rows {
			if f, ok := row.median(broker); ok {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.path, f.text, f.limitText(), row.ratioText(broker), row.goal, f.per(), f.peaks(), row.limitWhat+f.note)
			}
		}
		_ = t.Flush() // a terminal that is gone has no reader
		fmt.Fprintln(r.out)
		for _, row := range r.rows {
			if f, _ := row.median(broker); f.on != nil {
				fmt.Fprintf(r.out, "%s: %.1f cores busy; %% of the CPU time of %s\n", row.path, f.cores, strings.Join(f.on, "; of "))
			}
		}
		fmt.Fprintln(r.out)
	}
}

func (f figure) limitText() string {
	if f.limit == 0 {
		return ""
	}
	return service.FormatCount(int64(f.limit)) + "/s"
}

func (f figure) coresText() string {
	if f.cores == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", f.cores)
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
	return fmt.Sprintf("%s: PostgreSQL %d, Apache Kafka %s (heap 1 GiB, G1, C1), %s, %s/%s, %s, commit %s, `bench %s`, %s in all",
		r.began.Format("2006-01-02"), r.major, kafkatest.Version, hardware(), runtime.GOOS, runtime.GOARCH, runtime.Version(), bytes.TrimSpace(commit), strings.Join(r.flags, " "), time.Since(r.began).Round(time.Second))
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
		f, _ := row.median(brokerKafka)
		second, also := row.ratioText(brokerFake), ""
		if fake, _ := row.median(brokerFake); second == "" {
			second = fake.text
			if fake.note != "" {
				also = "; on kfake " + fake.note
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", row.path, f.text, f.limitText(), row.ratioText(brokerKafka), row.goal, second, row.limitWhat+f.note+also)
	}
	b.WriteString("\nOf a ratio with two more behind it, the first is the median of three runs, and they are the least and the greatest; the other columns are those of the median.\n")
	r.writePeers(&b)
	b.WriteString("\nOn Apache Kafka, CPU seconds per million rows or changes, and how many cores were busy with it all:\n")
	b.WriteString("\n| path | capture | sink | broker | source | warehouse | cores |\n|---|---|---|---|---|---|---|\n")
	for _, row := range r.rows {
		if f, ok := row.median(brokerKafka); ok && f.n > 0 {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", row.path, strings.Join(strings.Fields(f.per()), " | "), f.coresText())
		}
	}
	b.WriteString("\nPeak memory in MiB. Of capture and sink what is resident; of the broker, whose heap is 1 GiB, and of the servers what their processes have for themselves, with what was touched of the 512 MiB of shared buffers:\n")
	b.WriteString("\n| path | capture | sink | broker | source | warehouse |\n|---|---|---|---|---|---|\n")
	for _, row := range r.rows {
		if f, ok := row.median(brokerKafka); ok && f.n > 0 {
			fmt.Fprintf(&b, "| %s | %s |\n", row.path, strings.Join(strings.Fields(f.peaks()), " | "))
		}
	}
	b.WriteString("\nWhat capture and sink spent it on, in percent, by profiles taken in the same run:\n")
	b.WriteString("\n| path | |\n|---|---|\n")
	for _, row := range r.rows {
		if f, _ := row.median(brokerKafka); f.on != nil {
			fmt.Fprintf(&b, "| %s | %s |\n", row.path, strings.Join(f.on, "<br>"))
		}
	}
	b.WriteString("\n" + pageEnd)
	b.Write(after)
	return os.WriteFile(path, b.Bytes(), 0o644)
}
