// Package page shows the status of a service to people, in a browser: HTML that the service renders itself, renewed while
// it is looked at. It needs no build step, no other host, and works without JavaScript. A page changes nothing; what is to
// be done is a command to copy. It knows nothing of changes, topics or tables.
package page

import (
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
)

// View is what a page shows: made of the status that /status gives, and of nothing else. Every text may hold anything, as
// names come from databases; times are shown in the reader's zone.
type View struct {
	Program  string   // "capture"
	Name     string   // of the source or the group
	About    []string // beside the name
	State    string
	Headline string
	Late     string // how far behind, for the title of the tab; "" where it is not
	Needs    []service.Need
	Tiles    []Tile
	Stages   []service.StageState
	Snapshot *Snapshot // nil: none runs
	Tables   []Table
	Events   []service.Event
	Folds    []Fold
	Build    service.Build
}

// Tile is one of the few numbers on top.
type Tile struct {
	Name  string
	Value string // "–" where it is not known, with the reason in Lines
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
	Main    bool     // it can be filtered and sorted, and has pages; at most one of a page
	Group   []string // titles of what Row.Groups are, where rows can be grouped
	Empty   string   // what to say where there are no rows at all
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

// Spark is a line of the last hour, a point each minute.
type Spark struct {
	Points []float32
	Format func(float64) string
}

// Fold is a list of facts that is folded away.
type Fold struct {
	Title string
	Facts [][2]string
}
