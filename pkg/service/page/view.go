// Package page shows the status of a service to people, in a browser: HTML that the service renders itself, renewed while
// it is looked at. It needs no build step, no other host, and works without JavaScript. A page changes nothing; what is to
// be done is a command to copy. It knows nothing of changes, topics or tables.
package page

import (
	"fmt"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// View is what a page shows: made of the status that /status gives, and of nothing else. Every text may hold anything, as
// names come from databases; times are shown in the reader's zone.
type View struct {
	Program  string   // "capture"
	Name     string   // of the source or the group
	Table    string   // that the page is of alone; "" for all
	About    []string // beside the name
	State    string
	Headline string
	Wants    bool   // the headline says that it needs somebody, however well it goes on
	Near     string // a table that may have been meant
	Late     string // how far behind, for the title of the tab; "" where it is not
	Needs    []service.Need
	Tiles    []Tile
	Stages   []service.StageState
	Part     string    // whose charts and stages are, where they are not of all that the page tells of: "this sink"
	Ends     *Ends     // of the stages; nil: not told
	Hour     *Hour     // of the table
	Snapshot *Snapshot // nil: none runs
	Tables   []Table
	Events   []service.Event
	Folds    []Fold
	Build    service.Build
}

// Ends are the positions before the first stage and behind the last.
type Ends struct{ From, To string }

// Hour is the last hour of a table.
type Hour struct {
	Title  string
	Kind   Kind
	Points []float32 // one each minute, the newest last; not a number where it is not known
}

// Tile is one of the few numbers on top.
type Tile struct {
	Name  string
	Value string    // "–" where it is not known, with the reason in Lines
	Time  time.Time // the value where it is one
	Lines []string
	Bar   *Bar
	State string // colours the value; "" for none
}

// Bar is a part of a whole.
type Bar struct {
	Part, Whole float64
	Text        string // says the same
}

// Snapshot tells of rows that were there before, table by table.
type Snapshot struct {
	Title string
	Rows  []SnapshotRow
}

// SnapshotRow is one table.
type SnapshotRow struct {
	Name  string
	Bar   *Bar     // nil where it is not known how much there is
	Notes []string // rows, rate, time that is left
}

// Table is a table of the page. Its rows are shown worst first, as long as nobody asks for another order.
type Table struct {
	ID      string // "tables"
	Title   string
	Columns []Column
	Rows    []Row
	Main    bool // it can be filtered, grouped and sorted, and is told in parts; at most one of a page
	Pages   bool // each row has a page of its own, by its key
	// Group are titles of what Row.Groups are. As long as nobody asks for an order, rows are grouped by the first; a column of that
	// key says nothing then, and is left out.
	Group []string
	// Sum says what the rows of a group with these keys come to, besides how many are in which state: as many texts for each group,
	// "" for what is not known. nil: nothing.
	Sum   func(keys []string) []string
	Empty string // what to say where there are no rows at all
}

// Column is one column.
type Column struct {
	Key, Title string
	Number     bool
}

// Row is one row.
type Row struct {
	Key    string // tells it from all others
	State  string
	Wants  bool // it needs somebody, however well it goes on
	Groups []string
	Cells  []Cell // one for each column
}

// Cell is what a row says in a column.
type Cell struct {
	Text  string
	Order float64 // by which a column of numbers is sorted
	State string  // shown before the text, which then is a note
	Time  time.Time
	Line  *Spark
}

// Spark is a line of the last hour, a point each minute; not a number where it is not known.
type Spark struct {
	Points []float32
	Format func(float64) string
}

// Accepted folds away warnings that the configuration accepts.
func Accepted(needs []service.Need) Fold {
	f := Fold{Title: fmt.Sprintf("Accepted warnings (%d)", len(needs))}
	for _, n := range needs {
		f.Facts = append(f.Facts, [2]string{string(n.Code), n.What})
	}
	return f
}

// Running folds away what a service is: facts about it, what runs since when, and its configuration; "" where it is not shown to
// whoever reads the page.
func Running(title string, facts [][2]string, build service.Build, since time.Time, memory int64, configuration string) Fold {
	facts = append(facts, [][2]string{
		{"running since", fmt.Sprintf("%s UTC, for %s", since.UTC().Format(time.DateTime), service.FormatDuration(time.Since(since)))},
		{"memory", service.FormatBytes(memory)},
		{"version", build.Version},
		{"revision", build.Revision},
		{"Go", build.GoVersion},
	}...)
	if configuration == "" {
		facts = append(facts, [2]string{"configuration", "shown to who has http.token, and on a loopback address; the verb config show prints it"})
	}
	return Fold{Title: title, Facts: facts, Text: configuration}
}

// States folds away the states that something has been in.
func States(turns []service.Turn) Fold {
	f := Fold{Title: "States"}
	for _, t := range turns {
		look := service.Look(t.State)
		f.Facts = append(f.Facts, [2]string{t.At.UTC().Format(time.DateTime) + " UTC", look.Sign + " " + look.Word})
	}
	return f
}

// Fold is a list of facts, or a text, that is folded away.
type Fold struct {
	Title string
	Open  bool // it is not, at first
	Facts [][2]string
	Text  string // its lines are told as they are
}
