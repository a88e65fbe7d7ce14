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
// they are for programs: separated by tabs, with raw numbers, and complete.
type Output struct {
	Out, Err io.Writer
	Terminal bool // a person reads Out
	Width    int  // of the terminal
	Colour   bool
	Quiet    bool
	JSON     bool // one document is wanted instead of text
	Wide     bool // every column is wanted
	Explains bool // the program has the verb explain
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

// Note writes what is not a result, such as a hint or how far something is: to standard error, and not where nobody wants
// to hear.
func (o *Output) Note(format string, args ...any) {
	if !o.Quiet {
		_, _ = fmt.Fprintf(o.Err, format, clean(args)...)
	}
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
	if !o.Terminal {
		return o.tabs(t)
	}
	w := table.NewWriter()
	style := table.Style{Name: "plain", Box: table.StyleBoxDefault, Options: table.OptionsNoBordersAndSeparators, Format: table.FormatOptions{Header: text.FormatUpper}}
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	w.SetStyle(style)
	var titles table.Row
	var configs []table.ColumnConfig
	rest, giving := o.Width, -1
	for i, c := range t.Columns {
		if c.Wide && !o.Wide {
			continue
		}
		titles = append(titles, c.Title)
		config := table.ColumnConfig{Number: len(titles)}
		if c.Number {
			config.Align, config.AlignHeader = text.AlignRight, text.AlignRight
		}
		if c.Wraps {
			giving = len(configs)
		} else {
			rest -= t.width(i) + 2
		}
		configs = append(configs, config)
	}
	if giving >= 0 {
		configs[giving].WidthMax, configs[giving].WidthMaxEnforcer = max(rest, minWrapped), text.WrapSoft
	}
	w.SetColumnConfigs(configs)
	w.AppendHeader(titles)
	for _, row := range t.Rows {
		var cells table.Row
		for i, c := range t.Columns {
			if !c.Wide || o.Wide {
				cells = append(cells, o.State(row[i].State, row[i].Text))
			}
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

// minWrapped is how narrow a column that gives way may become.
const minWrapped = 24

// width is how wide a column is.
func (t *Table) width(i int) int {
	width := text.StringWidth(t.Columns[i].Title)
	for _, row := range t.Rows {
		width = max(width, text.StringWidth(Clean(row[i].Text)))
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
