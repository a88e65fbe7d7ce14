package demo

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

const (
	sampleEvery = 100 * time.Millisecond // "behind" is looked at so often; the worst of a second is shown
	drawEvery   = time.Second
	plainEvery  = 5 * time.Second // between lines where the output is no terminal
	rateWindow  = 5               // seconds over which changes a second are taken
	fewestRows  = 5               // of the table, however small the terminal is
	barWidth    = 24
)

// screen prints lines and, at its end, a block that is drawn anew in place. On what is no terminal there is no block.
type screen struct {
	out      io.Writer
	terminal *os.File // nil: none
	drawn    int      // lines of the block that stand there
}

func newScreen(out *os.File) *screen {
	s := &screen{out: out}
	if terminal.IsTerminal(out) && os.Getenv("TERM") != "dumb" {
		s.terminal = out
	}
	return s
}

// say prints a line above the block.
func (s *screen) say(format string, args ...any) {
	s.clear()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// item prints a line of the list of what there is.
func (s *screen) item(name, format string, args ...any) {
	s.say("  %-12s %s", name, fmt.Sprintf(format, args...))
}

// draw replaces the block.
func (s *screen) draw(lines []string) {
	if s.terminal == nil {
		return
	}
	s.clear()
	width, _ := terminal.Size(s.terminal)
	for _, line := range lines {
		if r := []rune(line); width > 0 && len(r) >= width { // a line that wraps could not be gone over again
			line = string(r[:width-1])
		}
		fmt.Fprintln(s.out, line)
	}
	s.drawn = len(lines)
}

func (s *screen) clear() {
	if s.drawn > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.drawn)
	}
	s.drawn = 0
}

// final prints the block for good.
func (s *screen) final(lines []string) {
	for _, line := range lines {
		s.say("%s", line)
	}
	s.say("")
}

// keep leaves the block where it is.
func (s *screen) keep() { s.drawn = 0 }

// room gives how many rows of a table fit.
func (s *screen) room() int {
	const others = 18 // lines that stand around them
	if s.terminal != nil {
		if _, height := terminal.Size(s.terminal); height > 0 {
			return max(height-others, fewestRows)
		}
	}
	return fewestRows
}

// gauge measures what the table shows.
type gauge struct {
	demo    *demo
	conn    *pgx.Conn
	samples int
	behind  map[string]*[int(time.Second / sampleEvery)]float64 // seconds, by table, of the last second
	applied []map[string]int64                                  // changes by table, one a second, the newest last
	rows    map[string]int64                                    // in the warehouse
	from    map[string][]string                                 // sids by table
	trouble string
}

// sample looks at how far behind the tables are.
func (g *gauge) sample() {
	worst := map[string]float64{}
	for _, t := range g.demo.pipeline.Sink.Status().Tables {
		name := strings.TrimPrefix(t.Table, "public.")
		if t.BehindSeconds != nil {
			worst[name] = max(worst[name], *t.BehindSeconds)
		}
	}
	for name, seconds := range worst {
		if g.behind[name] == nil {
			g.behind[name] = new([int(time.Second / sampleEvery)]float64)
		}
		g.behind[name][g.samples%len(g.behind[name])] = seconds
	}
	g.samples++
}

// measure takes the numbers of a second.
func (g *gauge) measure(ctx context.Context) {
	st := g.demo.pipeline.Sink.Status()
	now := map[string]int64{}
	g.from = map[string][]string{}
	g.trouble = ""
	for _, t := range st.Tables {
		name := strings.TrimPrefix(t.Table, "public.")
		now[name] += t.Applied
		for _, s := range g.demo.shops {
			if s.name == t.Source {
				g.from[name] = append(g.from[name], s.sid)
			}
		}
		slices.Sort(g.from[name])
		if t.Trouble != nil {
			g.trouble = fmt.Sprintf("%s of %s: %s", t.Table, t.Source, t.Trouble.Message)
		}
	}
	if g.trouble == "" && len(st.Waiting) > 0 {
		g.trouble = fmt.Sprintf("waiting for %s: %s", st.Waiting[0].For, st.Waiting[0].Error)
	}
	for _, c := range g.demo.pipeline.Captures {
		if t := c.Status().Trouble; t != nil && g.trouble == "" {
			g.trouble = fmt.Sprintf("waiting: %s %s: %s", t.Op, t.Subject, t.Cause)
		}
	}
	if err := g.demo.load.waits(); err != nil && g.trouble == "" {
		g.trouble = "waiting: " + err.Error()
	}
	g.applied = append(g.applied, now)
	if len(g.applied) > rateWindow+1 {
		g.applied = g.applied[1:]
	}
	if err := g.count(ctx); err != nil && ctx.Err() == nil {
		g.close(ctx) // a new connection next time
		if g.trouble == "" {
			g.trouble = "waiting: " + err.Error()
		}
	}
	g.trouble, _, _ = strings.Cut(g.trouble, "\n")
}

func (g *gauge) count(ctx context.Context) error {
	if g.conn == nil {
		conn, err := postgres.Connect(ctx, g.demo.dwh, application)
		if err != nil {
			return err
		}
		g.conn = conn
	}
	tables, err := tablesOf(ctx, g.conn, targetSchema)
	if err == nil {
		g.rows, err = countRows(ctx, g.conn, targetSchema, tables)
	}
	return postgres.Describe(err)
}

func (g *gauge) close(ctx context.Context) {
	if g.conn != nil {
		closeConn(ctx, g.conn)
	}
	g.conn = nil
}

// line is what is shown of one table, or of several.
type line struct {
	name   string
	rows   int64
	rate   float64 // changes a second
	behind float64 // seconds
	from   string
}

// lines gives the tables, the busiest first.
func (g *gauge) lines() (tables []line, total line) {
	for _, t := range g.demo.tables {
		l := line{name: t.name, rows: g.rows[t.name], from: strings.Join(g.from[t.name], ", ")}
		if n := len(g.applied); n > 1 {
			l.rate = float64(g.applied[n-1][t.name]-g.applied[0][t.name]) / float64(n-1)
		}
		if g.behind[t.name] != nil {
			l.behind = slices.Max(g.behind[t.name][:])
		}
		tables = append(tables, l)
		total.add(l)
	}
	total.name = "total"
	slices.SortStableFunc(tables, func(a, b line) int {
		return cmp.Or(cmp.Compare(b.rate, a.rate), cmp.Compare(b.rows, a.rows))
	})
	return tables, total
}

func (l *line) add(o line) {
	l.rows += o.rows
	l.rate += o.rate
	l.behind = max(l.behind, o.behind)
}

func (l line) String() string {
	return strings.TrimRight(fmt.Sprintf("%-15s %10s %12s %11s   %s", l.name, service.FormatCount(l.rows), service.FormatRate(l.rate), ago(l.behind), l.from), " ")
}

// table draws at most most tables, the rest as one line.
func (g *gauge) table(most int) []string {
	tables, total := g.lines()
	if rest := len(tables) - most; rest > 1 {
		sum := line{name: fmt.Sprintf("%d more", rest)}
		for _, l := range tables[most:] {
			sum.add(l)
		}
		tables = append(tables[:most], sum)
	}
	out := []string{fmt.Sprintf(" %s  %-15s %10s %12s %11s   %s", time.Now().Format(time.TimeOnly), "TABLE", "ROWS", "CHANGES/S", "BEHIND", "FROM")}
	for _, l := range tables {
		out = append(out, "           "+l.String())
	}
	out = append(out, fmt.Sprintf("           %-15s %10s %12s   %s", total.name, service.FormatCount(total.rows), service.FormatRate(total.rate), g.demo.lag()))
	if g.trouble != "" {
		out = append(out, "           "+g.trouble)
	}
	return out
}

// plain gives the total as one line.
func (g *gauge) plain() string {
	_, total := g.lines()
	text := " " + time.Now().Format(time.TimeOnly) + "  " + total.sum(g.demo.lag())
	if g.trouble != "" {
		text += ", " + g.trouble
	}
	return text
}

// sum tells of all tables together, in a line without columns.
func (l line) sum(lag string) string {
	if l.rows == 0 { // how far behind that is nobody knows yet
		return "no row is in the warehouse yet"
	}
	return fmt.Sprintf("%s rows, %s changes/s, behind %s, %s", service.FormatCount(l.rows), service.FormatRate(l.rate), ago(l.behind), lag)
}

// lag gives the quantiles of the time from a commit at a source to the commit in the warehouse.
func (d *demo) lag() string {
	p50, p99, ok := d.pipeline.Sink.Latency()
	if !ok {
		return "p50 - p99 -"
	}
	return fmt.Sprintf("p50 %s p99 %s", ago(p50.Seconds()), ago(p99.Seconds()))
}

// ago gives a short time in milliseconds, a longer one as people read it.
func ago(seconds float64) string {
	if seconds < 1 {
		return fmt.Sprintf("%.0f ms", seconds*1000)
	}
	return service.FormatDuration(time.Duration(seconds * float64(time.Second)))
}

func bar(done, of int64) string {
	filled := 0
	if of > 0 {
		filled = int(min(done*barWidth/of, barWidth))
	}
	return "[" + strings.Repeat("#", filled) + strings.Repeat("-", barWidth-filled) + "]"
}
