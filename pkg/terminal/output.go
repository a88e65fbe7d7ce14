package terminal

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// Output is where a verb's results go. At a terminal they are for people: aligned, what is well only counted. Elsewhere
// they are for programs: separated by tabs, with raw numbers, and complete; what is told beside tables goes to standard error.
type Output struct {
	Out, Err io.Writer
	Terminal bool // a person reads Out
	Width    int  // of the terminal
	Colour   bool
	Quiet    bool
	JSON     bool // one document is wanted instead of text
	Wide     bool // every column is wanted
	Explains bool // the program has the verb explain

	tabled bool // a table was written by Counted
}

// Of gives the output of a verb, as its flags, the environment and the terminal want it.
func Of(cmd *cobra.Command) *Output {
	o := &Output{Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
	o.Width, o.Terminal = size(o.Out)
	o.Colour = o.Terminal && !flag(cmd, "no-color") && os.Getenv("NO_COLOR") == "" && !dumb()
	o.Quiet, o.JSON, o.Wide = flag(cmd, "quiet"), flag(cmd, "json"), flag(cmd, "wide")
	o.Explains = explains(cmd.Root())
	return o
}

// Beside gives the output for what people are told beside tables. In a pipe, which has the tables alone, that is standard error, and not
// where nobody wants to hear.
func (o *Output) Beside() *Output {
	if o.Terminal {
		return o
	}
	beside := &Output{Out: o.Err, Err: o.Err, Explains: o.Explains}
	beside.Width, beside.Terminal = size(o.Err)
	if o.Quiet {
		beside.Out = io.Discard
	}
	return beside
}

// To gives an output that writes texts to w, cleaned.
func To(w io.Writer) *Output { return &Output{Out: w, Err: io.Discard} }

// dumb says that the terminal takes no escape codes.
func dumb() bool { return os.Getenv("TERM") == "dumb" }

func flag(cmd *cobra.Command, name string) bool {
	set, err := cmd.Flags().GetBool(name)
	return err == nil && set
}

// IsTerminal says whether a person sits at the other end of w, or r.
func IsTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // a descriptor fits
}

// Size gives the columns and lines of a terminal; 0 where w is none, or does not say.
func Size(w any) (width, height int) {
	if f, ok := w.(*os.File); ok && IsTerminal(f) {
		width, height, _ = term.GetSize(int(f.Fd())) //nolint:gosec // a descriptor fits
	}
	return max(width, 0), max(height, 0)
}

// defaultWidth is taken where a terminal does not say how wide it is.
const defaultWidth = 80

func size(w io.Writer) (width int, terminal bool) {
	width, _ = Size(w)
	return cmp.Or(width, defaultWidth), IsTerminal(w)
}

// Printf writes a line, or lines, of the result. Arguments that are texts are cleaned.
func (o *Output) Printf(format string, args ...any) {
	_, _ = fmt.Fprintf(o.Out, format, clean(args)...)
}

// Text writes whole lines, cleaned.
func (o *Output) Text(lines string) error {
	_, err := io.WriteString(o.Out, cleanLines(lines))
	return err
}

// Note writes what is not a result, such as a hint or how far something is: to standard error, and not where nobody wants
// to hear.
func (o *Output) Note(format string, args ...any) {
	if !o.Quiet {
		_, _ = fmt.Fprintf(o.Err, format, clean(args)...)
	}
}

// Sentence writes one, wrapped at a terminal.
func (o *Output) Sentence(text string) {
	for _, line := range wrap(Clean(text), o.wraps(), 0) {
		o.line(line)
	}
}

// wraps is at which width sentences are wrapped; 0: not at all.
func (o *Output) wraps() int {
	if o.Terminal {
		return o.Width
	}
	return 0
}

func clean(args []any) []any {
	out := make([]any, len(args))
	for i, arg := range args {
		switch v := arg.(type) {
		case string:
			out[i] = Clean(v)
		case error:
			out[i] = cleanLines(v.Error())
		default:
			out[i] = arg
		}
	}
	return out
}

// Document writes v as one JSON document.
func (o *Output) Document(v any) error {
	encoder := json.NewEncoder(o.Out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// Line writes v as one line of JSON.
func (o *Output) Line(v any) error {
	encoder := json.NewEncoder(o.Out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// State gives a text in the colour of a state.
func (o *Output) State(state, s string) string {
	s = Clean(s)
	if colour, ok := colours[service.Look(state).Colour]; ok && o.Colour && state != "" {
		return colour + s + "\x1b[0m"
	}
	return s
}

// colours are the sequences that turn a colour on.
var colours = map[string]string{"red": "\x1b[31m", "amber": "\x1b[33m", "blue": "\x1b[34m", "green": "\x1b[32m", "grey": "\x1b[90m"}

// Table is columns with titles.
type Table struct {
	Columns []Column
	Rows    [][]Cell
	Empty   string // what a person is told where there are no rows
}

// Column is one column.
type Column struct {
	Title  string
	Number bool
	Wraps  bool // it gives way where the terminal is too narrow
	Wide   bool // only shown where every column is wanted
}

// Cell is what a row says in a column.
type Cell struct {
	Text  string
	Raw   any    // for programs, where it is not the text
	State string // colours the text
}

// Text makes cells of texts.
func Text(texts ...string) []Cell {
	out := make([]Cell, len(texts))
	for i, t := range texts {
		out[i] = Cell{Text: t}
	}
	return out
}

// Number is a cell for a number that people read as s.
func Number(s string, raw any) Cell { return Cell{Text: s, Raw: raw} }

// Table writes a table.
func (o *Output) Table(t *Table) error {
	if len(t.Rows) == 0 && t.Empty != "" {
		if o.Terminal {
			o.Printf("%s\n", t.Empty)
			return nil
		}
		o.Note("%s\n", t.Empty)
	}
	if !o.Terminal {
		return o.tabs(t)
	}
	w := table.NewWriter()
	style := table.Style{Name: "plain", Box: table.StyleBoxDefault, Options: table.OptionsNoBordersAndSeparators, Format: table.FormatOptions{Header: text.FormatUpper}}
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	w.SetStyle(style)
	var shown []int
	for i, c := range t.Columns {
		if !c.Wide || o.Wide {
			shown = append(shown, i)
		}
	}
	widths := t.fit(shown, o.Width)
	var titles table.Row
	var configs []table.ColumnConfig
	for n, i := range shown {
		c := t.Columns[i]
		titles = append(titles, strings.Join(wrap(c.Title, widths[n], 0), "\n")) // whose lines are aligned one by one
		config := table.ColumnConfig{Number: n + 1, WidthMax: widths[n], WidthMaxEnforcer: text.WrapSoft}
		if c.Number {
			config.Align, config.AlignHeader, config.WidthMax = text.AlignRight, text.AlignRight, 0 // to be wrapped would pad its title on the right
		}
		configs = append(configs, config)
	}
	w.SetColumnConfigs(configs)
	w.AppendHeader(titles)
	for _, row := range t.Rows {
		var cells table.Row
		for _, i := range shown {
			cells = append(cells, o.State(row[i].State, row[i].Text))
		}
		w.AppendRow(cells)
	}
	for line := range strings.SplitSeq(w.Render(), "\n") {
		if _, err := fmt.Fprintln(o.Out, strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}

// A column that gives way has room for a few words as long as it can be, and for one at the least.
const (
	fewWords = 24
	oneWord  = 16
)

// fit gives the columns that are shown widths with which the table fits, as far as it can: names and numbers stay whole. The last
// column that wraps gives way first, then titles of several words, then that column again.
func (t *Table) fit(shown []int, width int) []int {
	widths := make([]int, len(shown))
	over, giving := -width, -1
	for n, i := range shown {
		widths[n] = max(text.StringWidth(t.Columns[i].Title), t.width(i))
		over += widths[n] + 2
		if t.Columns[i].Wraps {
			giving = n
		}
	}
	over -= 2 // nothing is behind the last one
	give := func(n, least int) {
		if narrow := max(widths[n]-over, least); over > 0 && narrow < widths[n] {
			over -= widths[n] - narrow
			widths[n] = narrow
		}
	}
	if giving >= 0 {
		give(giving, fewWords)
	}
	for n, i := range shown {
		if n != giving {
			give(n, max(longestWord(t.Columns[i].Title), t.width(i)))
		}
	}
	if giving >= 0 {
		longest := 0
		for _, row := range t.Rows {
			longest = max(longest, longestWord(Clean(row[shown[giving]].Text)))
		}
		give(giving, max(min(longest, oneWord), longestWord(t.Columns[shown[giving]].Title)))
	}
	return widths
}

// width is how wide the cells of a column are.
func (t *Table) width(i int) (width int) {
	for _, row := range t.Rows {
		width = max(width, text.StringWidth(Clean(row[i].Text)))
	}
	return width
}

func longestWord(s string) (width int) {
	for word := range strings.FieldsSeq(s) {
		width = max(width, text.StringWidth(word))
	}
	return width
}

// tabs writes a table for programs.
func (o *Output) tabs(t *Table) error {
	var b strings.Builder
	for i, c := range t.Columns {
		if i > 0 {
			b.WriteByte('\t')
		}
		b.WriteString(strings.ToUpper(c.Title))
	}
	b.WriteByte('\n')
	for _, row := range t.Rows {
		for i, c := range row {
			if i > 0 {
				b.WriteByte('\t')
			}
			if c.Raw != nil {
				b.WriteString(Clean(fmt.Sprint(c.Raw)))
			} else {
				b.WriteString(Clean(c.Text))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(o.Out, b.String())
	return err
}
