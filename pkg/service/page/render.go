package page

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"hash/fnv"
	"html/template"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
)

//go:embed templates/*.html
var templateFiles embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"look": service.Look, "tablepage": tablePage, "asset": asset, "spark": sparkPoints, "lower": strings.ToLower, "left": func(at time.Time) string { return service.FormatDuration(time.Since(at)) },
	"count": func(n int) string { return service.FormatCount(int64(n)) }, "percent": func(f float64) string { return fmt.Sprintf("%.0f %%", 100*f) },
	"long": func(since time.Time) bool { return time.Since(since) >= time.Second }, "add": func(a, b int) int { return a + b }, "stamp": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"clock": func(t time.Time) string { return t.UTC().Format(time.TimeOnly) }, "date": func(t time.Time) string { return t.UTC().Format(time.DateTime) + " UTC" },
	"recent": func(t time.Time) bool { return time.Since(t) < 12*time.Hour },
}).ParseFS(templateFiles, "templates/*.html"))

// shown is what the templates see.
type shown struct {
	View
	Now    time.Time
	Boot   string // another one after a restart
	Charts []shownChart
	Since  time.Time
	Day    bool   // of the charts; else an hour
	Marks  []Mark // what happened in the time of the charts, oldest first
	Hour   *shownChart
	Tables []shownTable
	Whole  []card        // the first of those that need somebody
	More   []card        // the rest
	Main   template.HTML // what is renewed, once it is rendered
	Urgent int

	missing bool
	tails   bool // changes can be looked at
	query   query
}

// maxNeeds is how many cards are there without being asked for.
const maxNeeds = 5

// card is something that needs somebody, as the page shows it.
type card struct {
	service.Need
	ID     string // the same as long as it is there
	Folded bool   // its first line is told, the rest on request
}

// cards gives those of what needs somebody. Those that are not urgent are folded behind the first, so that the numbers stay on the
// first screen.
func cards(needs []service.Need) (whole, more []card) {
	list, same := make([]card, len(needs)), map[string]int{}
	for i, n := range needs {
		sum := fnv.New32a()
		fmt.Fprintf(sum, "%s %s", n.Code, n.Subject)
		id := fmt.Sprintf("need-%x", sum.Sum32())
		if same[id]++; same[id] > 1 {
			id = fmt.Sprintf("%s-%d", id, same[id])
		}
		list[i] = card{Need: n, ID: id, Folded: i > 0 && !n.Urgent}
	}
	first := min(len(list), maxNeeds)
	return list[:first], list[first:]
}

// Window gives the address of a view of the charts.
func (s *shown) Window(window string) string {
	return s.query.with("window", window, "page", s.query.get("page"))
}

// Stream is where the page of a table is renewed from; "" for the whole, which is renewed as its address says.
func (s *shown) Stream() string {
	if s.Table == "" {
		return ""
	}
	return "/stream?" + url.Values{"table": {s.Table}}.Encode()
}

// Live is where the changes of the table come from; "" where nobody gives them.
func (s *shown) Live() string {
	if s.Table == "" || s.missing || !s.tails {
		return ""
	}
	return "/changes?" + url.Values{"table": {s.Table}}.Encode()
}

// shown gives the last hour of a table, and what happened in it; nil where there is none yet.
func (h *Hour) shown(now time.Time, events []service.Event) (*shownChart, []Mark) {
	if h == nil || len(h.Points) == 0 {
		return nil, nil
	}
	column, times := make([]float64, len(h.Points)), make([]int64, len(h.Points))
	for i, v := range h.Points {
		column[i], times[i] = float64(v), now.Add(time.Duration(i-len(times))*time.Minute).Unix()
	}
	marks := marksOf(events, time.Unix(times[0], 0), time.Hour)
	c := Chart{Title: h.Title, Kind: h.Kind, Lines: []ChartLine{{Name: h.Title}}}.shown(times, [][]float64{column}, marks)
	return &c, marks
}

// tablePage is the address of a table's page.
func tablePage(name string) string { return "/table/" + url.PathEscape(name) }

// Title is the tab's: what is wrong, and where.
func (s *shown) Title() string {
	switch {
	case s.Urgent > 0:
		return fmt.Sprintf("‼ %d · %s", s.Urgent, cmp.Or(s.Table, s.Name))
	case s.Late != "":
		return s.Late + " · " + cmp.Or(s.Table, s.Name)
	case s.Table != "":
		return s.Table + " · " + s.Program
	}
	return s.Name + " · " + s.Program
}

// Colour is that of the tab's icon.
func (s *shown) Colour() string {
	if s.Urgent > 0 {
		return "red"
	}
	return s.Look().Colour
}

// Look is how the state is shown.
func (s *shown) Look() service.Appearance {
	look := service.Look(s.State)
	switch {
	case s.Wants && s.Urgent > 0 && look.Colour != "red":
		look = service.Appearance{Sign: "‼", Word: "needs you", Colour: "red"}
	case s.Wants && look.Colour == "green":
		look = service.Appearance{Sign: "◷", Word: "needs you", Colour: "amber"}
	}
	return look
}

// Said is what is read aloud when it changes.
func (s *shown) Said() string {
	return fmt.Sprintf("%s %s: %s.", s.Program, s.Look().Word, service.Plural(len(s.Needs), "thing")+" to look at")
}

// Filter gives what the filter holds.
func (s *shownTable) Filter() string { return s.query.get("q") }

// StateFilter gives the state that rows are limited to.
func (s *shownTable) StateFilter() string { return s.query.get("state") }

// Kept gives the parameters that the filter's form must not lose.
func (s *shownTable) Kept() [][2]string {
	var out [][2]string
	for _, name := range []string{"sort", "dir", "group", "in", "window"} {
		if v := s.query.get(name); v != "" {
			out = append(out, [2]string{name, v})
		}
	}
	return out
}

// NearLink is the address that filters by what may have been meant.
func (s *shownTable) NearLink() string { return s.query.with("q", s.Near, "state", "", "in", "") }

// choice is an order that can be chosen.
type choice struct {
	Title, Address string
	Chosen         bool
}

// Choices are the orders of the main table, besides those by a column.
func (s *shownTable) Choices() []choice {
	plain := func(group string) string {
		return s.query.with("q", "", "state", "", "sort", "", "dir", "", "in", "", "open", "", "group", group)
	}
	var out []choice
	if len(s.Group) == 0 {
		if s.query.get("sort") != "" {
			out = append(out, choice{Title: "trouble first", Address: plain("")})
		}
		return out
	}
	for i, title := range s.Group {
		group := title
		if i == 0 {
			group = ""
		}
		out = append(out, choice{"by " + title, plain(group), s.by == i})
	}
	return append(out, choice{"one by one", plain(ungrouped), s.query.get("group") == ungrouped && s.query.get("sort") == ""})
}

// Unit is what is counted by Of.
func (s *shownTable) Unit() string {
	if s.by < 0 {
		return ""
	}
	return " " + s.Group[s.by] + "s"
}

// grid is a table of HTML.
type grid struct {
	ID    string
	Label string // for who does not see where it stands
	Head  []gridHead
	Rows  []toldRow
}

type gridHead struct {
	Column
	Link, Sorted string
}

// toldRow is a row with its columns.
type toldRow struct {
	ID    string
	Cells []toldCell
}

type toldCell struct {
	Cell
	Column Column
	First  bool
	Page   string // address of the row's own page, of its first cell
}

// Grid puts heads and cells to rows. The main table's can be sorted by its heads.
func (s *shownTable) Grid(id, group string, rows []Row) grid {
	out := grid{ID: id, Label: s.Title}
	if group != "" {
		out.Label += " of " + group
	}
	for _, c := range s.Columns {
		if s.told(c) {
			continue
		}
		head := gridHead{Column: c}
		if s.Main {
			head.Link, head.Sorted = s.SortLink(c), s.Sorted(c)
		}
		out.Head = append(out.Head, head)
	}
	for _, r := range rows {
		one := toldRow{ID: s.RowID(r.Key)}
		for i, c := range r.Cells {
			if s.told(s.Columns[i]) {
				continue
			}
			cell := toldCell{Cell: c, Column: s.Columns[i], First: i == 0}
			if cell.First && s.Pages {
				cell.Page = tablePage(r.Key)
			}
			one.Cells = append(one.Cells, cell)
		}
		out.Rows = append(out.Rows, one)
	}
	return out
}

// told says whether a column says what stands above its rows.
func (s *shownTable) told(c Column) bool { return s.by >= 0 && c.Key == s.Group[s.by] }

// shownChart is a chart with what stands above it: that is also what is read aloud.
type shownChart struct {
	Chart
	Known     []knownLine // of its lines
	First     string      // that Now and Most are of, where that has to be said
	Now, Most string
	MostAt    time.Time
	Rows      []chartRow // five minutes each
	Paths     []string   // points of each line, for where there is no JavaScript
	Ticks     string     // lines of what happened, likewise
}

// knownLine is a line of which anything is known: of one that never was there is nothing to say.
type knownLine struct {
	ChartLine
	At int // among all of the chart
}

type chartRow struct {
	At     time.Time
	Values []string // of the known lines
}

func (k Kind) format(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	switch k {
	case Seconds:
		return service.FormatDuration(time.Duration(v * float64(time.Second)))
	case Bytes:
		return service.FormatBytes(int64(v))
	case Rate:
		return service.FormatRate(v)
	}
	return service.FormatCount(int64(v))
}

// unit is what stands behind a chart's title.
func (k Kind) unit() string {
	if k == Rate {
		return "/s"
	}
	return ""
}

func (h *History) shown(day bool) (since time.Time, out []shownChart, marks []Mark) {
	since, times, columns, marks := h.read(day)
	at := 0
	for _, c := range h.charts {
		one := c.shown(times, columns[at:at+len(c.Lines)], marks)
		if !one.MostAt.IsZero() && one.MostAt.Before(since) { // a point stands at the beginning of its time
			one.MostAt = since
		}
		out = append(out, one)
		at += len(c.Lines)
	}
	return since, out, marks
}

func (c Chart) shown(times []int64, columns [][]float64, marks []Mark) shownChart {
	s := shownChart{Chart: c, Now: "–", Most: "–"}
	s.Title += c.Kind.unit()
	top, most := c.top(columns), math.NaN()
	for i, v := range columns[0] {
		if !math.IsNaN(v) && !(v <= most) {
			most, s.MostAt = v, time.Unix(times[i], 0)
		}
	}
	if n := len(times); n > 0 {
		s.Now, s.Most = c.Kind.format(columns[0][n-1]), c.Kind.format(most)
	}
	var known [][]float64
	for i, column := range columns {
		s.Paths = append(s.Paths, trace(times, column, top))
		if i == 0 || slices.ContainsFunc(column, func(v float64) bool { return !math.IsNaN(v) }) {
			known, s.Known = append(known, column), append(s.Known, knownLine{c.Lines[i], i})
			if first := c.Lines[0].Name; i > 0 && !c.Lines[i].Limit && !strings.Contains(strings.ToLower(c.Title), first) {
				s.First = first
			}
		}
	}
	s.Rows, s.Ticks = c.rows(times, known), ticks(times, marks)
	return s
}

// limitInSight is how many times a line's greatest value a limit may be to be in the picture: one that is far away would make a flat
// line of what matters.
const limitInSight = 4

// top is the greatest value that is in the picture.
func (c Chart) top(columns [][]float64) float64 {
	top, highest := 0.0, make([]float64, len(columns))
	for i, column := range columns {
		for _, v := range column {
			if !math.IsNaN(v) {
				highest[i] = max(highest[i], v)
			}
		}
		if !c.Lines[i].Limit {
			top = max(top, highest[i])
		}
	}
	most := top
	for i, h := range highest {
		if c.Lines[i].Limit && h <= limitInSight*top {
			most = max(most, h)
		}
	}
	return most
}

// rows gives the greatest value of each of twelve parts of the time.
func (c Chart) rows(times []int64, columns [][]float64) []chartRow {
	const parts = 12
	if len(times) == 0 {
		return nil
	}
	span := times[len(times)-1] - times[0] + 1
	step := max((span+parts-1)/parts, 300)
	var out []chartRow
	for from := times[len(times)-1] + 1 - step; from+step > times[0] && len(out) < parts; from -= step {
		row := chartRow{At: time.Unix(max(from, times[0]), 0)}
		for _, column := range columns {
			most := math.NaN()
			for i, v := range column {
				if times[i] >= from && times[i] < from+step && !math.IsNaN(v) && !(v <= most) {
					most = v
				}
			}
			row.Values = append(row.Values, c.Kind.format(most))
		}
		out = append(out, row)
	}
	return out
}

// trace gives the points of a line in a picture of 300 by 100, a gap where a value is not known.
func trace(times []int64, column []float64, top float64) string {
	if len(times) < 2 {
		return ""
	}
	nothing := top <= 0 // all the time: a line at the bottom, and no limit in sight
	first, span := float64(times[0]), float64(times[len(times)-1]-times[0])
	var b strings.Builder
	pen := "M"
	for i, v := range column {
		if math.IsNaN(v) || nothing && v > 0 {
			pen = "M"
			continue
		}
		y := 100.0
		if !nothing {
			y -= 98 * v / top
		}
		fmt.Fprintf(&b, "%s%.0f %.1f", pen, 300*(float64(times[i])-first)/span, y)
		pen = "L"
	}
	return b.String()
}

// ticks gives vertical lines in the same picture.
func ticks(times []int64, marks []Mark) string {
	if len(times) < 2 {
		return ""
	}
	first, last := float64(times[0]), float64(times[len(times)-1])
	var b strings.Builder
	for _, m := range marks {
		at := min(max(float64(m.At().Unix()), first), last)
		fmt.Fprintf(&b, "M%.0f 0V102", 300*(at-first)/(last-first))
	}
	return b.String()
}

// sparkPoints gives the points of a small line of 60 by 16, of each piece between gaps, and what is read aloud instead.
func sparkPoints(s *Spark) (out struct {
	Pieces []string
	Label  string
},
) {
	top, known := float32(0), false
	for _, v := range s.Points {
		if v == v {
			top, known = max(top, v), true
		}
	}
	switch {
	case len(s.Points) == 0:
		out.Label = "no line yet: it has a point each minute"
		return out
	case !known:
		out.Label = "no line: it was not known in the last hour"
		return out
	}
	piece := ""
	for i, v := range s.Points {
		if v != v {
			if piece != "" {
				out.Pieces, piece = append(out.Pieces, piece), ""
			}
			continue
		}
		y := float32(15)
		if top > 0 {
			y = 15 - 14*v/top
		}
		if piece != "" {
			piece += " "
		}
		piece += fmt.Sprintf("%d,%.1f", 60-len(s.Points)+i, y)
	}
	if piece != "" {
		out.Pieces = append(out.Pieces, piece)
	}
	last := "not known"
	if v := s.Points[len(s.Points)-1]; v == v {
		last = s.Format(float64(v))
	}
	out.Label = fmt.Sprintf("0 to %s in the last hour, %s last", s.Format(float64(top)), last)
	return out
}

// render gives one of the templates. What names may hold to disturb the reading of others' text is made visible.
func render(name string, data any) ([]byte, error) {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		return nil, fmt.Errorf("render page: %w", err)
	}
	return []byte(isolate(invisible.Replace(b.String()))), nil
}

// invisible are control characters, and those that turn the direction of text or take no room.
var invisible = func() *strings.Replacer {
	var pairs []string
	hide := func(from, to rune) {
		for r := from; r <= to; r++ {
			if r != '\n' && r != '\t' {
				pairs = append(pairs, string(r), fmt.Sprintf(`\u%04x`, r))
			}
		}
	}
	hide(0x00, 0x1f)
	hide(0x7f, 0x9f)
	hide(0x61c, 0x61c)
	hide(0x200b, 0x200f)
	hide(0x2028, 0x202e)
	hide(0x2060, 0x206f)
	hide(0xfeff, 0xfeff)
	return strings.NewReplacer(pairs...)
}()
