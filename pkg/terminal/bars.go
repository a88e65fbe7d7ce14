package terminal

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// Progress is something that runs and will end.
type Progress struct {
	Name        string        // "snapshot public.rental"
	Done, Total int64         // Total 0: not known
	Unit        string        // "rows"
	Estimated   bool          // Total is a guess
	Rate        float64       // a second; 0: not known
	Left        time.Duration // 0: not known
}

// Bars shows how far things are, on standard error. On a terminal that is wide enough they are bars, below what else is
// written there; elsewhere a line each half a minute, and one at the end. It is an io.Writer for a log that shares the
// terminal with them. Safe for use by many goroutines. Close it.
type Bars struct {
	out  *Output
	live bool

	mu     sync.Mutex
	drawn  int // lines
	now    []Progress
	looked time.Time
	told   time.Time
	had    map[string]bool // that were shown and have not ended
}

const (
	barsWidth = 60 // of a terminal, from which on there are bars
	maxBars   = 5
	tellEvery = 30 * time.Second
	barChars  = 24
)

// NewBars gives bars of nothing yet.
func NewBars(out *Output) *Bars {
	width, terminal := size(out.Err)
	return &Bars{out: out, live: terminal && width >= barsWidth && !out.Quiet && !dumb(), had: map[string]bool{}}
}

// Show takes how far everything is that runs now. What is no longer among it has ended.
func (b *Bars) Show(all []Progress) {
	if b.out.Quiet {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.now
	b.now = all
	if b.live {
		b.clear()
		b.draw()
		return
	}
	now := time.Now()
	b.looked = now
	if len(all) > 0 && now.Sub(b.told) >= tellEvery { // what begins is told at once, also where nothing ran a moment ago
		b.told = now
		for i := range all {
			_, _ = fmt.Fprintln(b.out.Err, line(now, &all[i]))
			b.had[all[i].Name] = true
		}
	}
	for i := range before {
		if p := &before[i]; b.had[p.Name] && !names(all, p.Name) {
			delete(b.had, p.Name)
			_, _ = fmt.Fprintf(b.out.Err, "%s %s   ended\n", time.Now().Format(time.TimeOnly), Clean(p.Name))
		}
	}
}

// Follow shows what all gives until ctx ends: each second, where anybody is told as often.
func (b *Bars) Follow(ctx context.Context, all func() []Progress) {
	for !b.out.Quiet && sleep(ctx, b.quiet()) == nil {
		b.Show(all())
	}
	b.Close()
}

// quiet gives how long nothing is to be shown.
func (b *Bars) quiet() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.live || len(b.had) > 0 || b.looked.IsZero() {
		return waitEvery
	}
	return max(time.Until(b.looked.Add(tellEvery)), waitEvery)
}

func names(all []Progress, name string) bool {
	for i := range all {
		if all[i].Name == name {
			return true
		}
	}
	return false
}

// say writes a line with the time of day above the bars.
func (b *Bars) say(line string) {
	if !b.out.Quiet {
		_, _ = fmt.Fprintf(b, "%s %s\n", time.Now().Format(time.TimeOnly), Clean(line))
	}
}

// Write writes lines above the bars.
func (b *Bars) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear()
	n, err := b.out.Err.Write(p)
	b.draw()
	return n, err
}

// Close takes the bars away.
func (b *Bars) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear()
	b.now = nil
}

func (b *Bars) clear() {
	if b.drawn > 0 {
		_, _ = fmt.Fprintf(b.out.Err, "\x1b[%dA\x1b[J", b.drawn)
		b.drawn = 0
	}
}

func (b *Bars) draw() {
	if !b.live || len(b.now) == 0 {
		return
	}
	width, _ := size(b.out.Err)
	lines := strings.Split(strings.TrimSuffix(drawn(b.now), "\n"), "\n")
	for _, l := range lines {
		_, _ = io.WriteString(b.out.Err, text.Trim(l, width-1)+"\n")
	}
	b.drawn = len(lines)
}

// drawn gives the bars as text: the greatest of what is left on top, and a line of all together.
func drawn(all []Progress) string {
	var b strings.Builder
	total := Progress{Name: fmt.Sprintf("all %d", len(all)), Estimated: true}
	width, blind := len(total.Name), false
	for i := range all {
		p := &all[i]
		width = max(width, text.StringWidth(Clean(p.Name)))
		total.Done, total.Total, total.Rate, total.Unit = total.Done+p.Done, total.Total+max(p.Total, p.Done), total.Rate+p.Rate, p.Unit
		blind = blind || p.Total <= 0
		total.Left = max(total.Left, p.Left)
	}
	for i := range all[:min(len(all), maxBars)] {
		b.WriteString(all[i].bar(width) + "\n")
	}
	if blind {
		total.Total = 0
	}
	if len(all) > maxBars {
		fmt.Fprintf(&b, "  … and %d more\n", len(all)-maxBars)
	}
	if len(all) > 1 {
		b.WriteString(total.bar(width) + "\n")
	}
	return b.String()
}

// bar is a line with a bar in it.
func (p *Progress) bar(width int) string {
	name := Clean(p.Name)
	return strings.TrimRight(fmt.Sprintf("  %s  %s  %4s  %s  %s", name+strings.Repeat(" ", max(width-text.StringWidth(name), 0)),
		Bar(float64(p.Done), float64(p.Total), barChars), p.percent(), p.amount(), p.speed()), " ")
}

func line(now time.Time, p *Progress) string {
	return strings.TrimRight(fmt.Sprintf("%s %s   %s   %s  %s", now.Format(time.TimeOnly), Clean(p.Name), p.amount(), p.percent(), p.speed()), " ")
}

func (p *Progress) percent() string {
	if p.Total <= 0 || p.Done > p.Total {
		return "–"
	}
	return fmt.Sprintf("%.0f %%", 100*float64(p.Done)/float64(p.Total))
}

func (p *Progress) amount() string {
	if p.Total <= 0 {
		return service.FormatCount(p.Done) + " " + p.Unit
	}
	if p.Done > p.Total && p.Estimated {
		return service.FormatCount(p.Done) + " " + p.Unit + ", more than estimated"
	}
	about := ""
	if p.Estimated {
		about = "~"
	}
	return fmt.Sprintf("%s of %s%s %s", service.FormatCount(p.Done), about, service.FormatCount(p.Total), p.Unit)
}

func (p *Progress) speed() string {
	var parts []string
	if p.Rate > 0 {
		parts = append(parts, service.FormatRate(p.Rate)+"/s")
	}
	if p.Left > 0 {
		parts = append(parts, service.FormatLeft(p.Left))
	}
	return strings.Join(parts, "  ")
}

// BarLines writes the bars of a status for people.
func (o *Output) BarLines(all []Progress) { _, _ = io.WriteString(o.Out, drawn(all)) }
