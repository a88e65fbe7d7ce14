package capture

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
)

// tableView is what the page of a table shows now; ok is false where there is none of that name.
func (c *Capture) tableView(name string) (v page.View, ok bool) {
	st := c.steady()
	if !st.alone(name) {
		return v, false
	}
	st.Tables[0].States = c.vitals.table(name).shown.Newest()
	return st.tablePage(), true
}

// changes gives those of a table to its page, as they are published.
func (c *Capture) changes(ctx context.Context, name string, ready func(), each func(page.Change) error) error {
	values := c.config.HTTP.ShowsValues()
	return c.Tail(ctx, []string{name}, 0, values, func(int) { ready() }, func(t *Tailed) error {
		change := page.Change{At: t.At, Position: t.Position, Op: t.Op}
		for _, column := range slices.Concat(t.Key, t.Columns) {
			change.Columns = append(change.Columns, column.Text(values))
		}
		return each(change)
	})
}

// alone leaves of the status what concerns a table, and says whether there is one of that name.
func (st *Status) alone(name string) bool {
	others := map[string]bool{}
	for i := range st.Tables {
		if t := st.Tables[i].Table; t != name {
			others[t], others[subject(t)] = true, true
		}
	}
	of := func(n service.Need) bool { return others[n.Subject] }
	st.Needs, st.Accepted = slices.DeleteFunc(st.Needs, of), slices.DeleteFunc(st.Accepted, of)
	st.Tables = slices.DeleteFunc(st.Tables, func(t TableStatus) bool { return t.Table != name })
	return len(st.Tables) == 1
}

// tablePage lays out a status that holds one table.
func (st *Status) tablePage() page.View {
	t := &st.Tables[0]
	v := page.View{
		Program: "capture", Name: st.Source, About: []string{t.Table}, State: t.State, Headline: t.Table + " " + t.sentence(st), Needs: st.Needs, Build: st.Build,
		Hour:   &page.Hour{Title: "Changes", Kind: page.Rate, Points: t.LastHour},
		Events: service.About(st.Events, tableEvents, t.Table, t.Topic),
	}
	rate := page.Tile{Name: "Rate, 1 min", Value: service.FormatRate(t.ChangesPerSecond) + " /s", Lines: []string{"changes published"}}
	last := page.Tile{Name: "Last change", Value: "–", Lines: []string{"none since this capture began"}}
	if !t.LastChange.IsZero() {
		last.Value, last.Lines = service.FormatDuration(time.Since(t.LastChange))+" ago", []string{at(t.LastChange)}
	}
	rows := page.Tile{Name: "Rows sent", Value: service.FormatCount(t.SnapshotRows), Lines: []string{"of those that were there before"}}
	if t.State == service.StateSnapshotting {
		rows.Value, rows.Bar, rows.Lines = percent(t.SnapshotRows, t.ExpectedRows), bar(t.SnapshotRows, t.ExpectedRows), []string{t.rows()}
	}
	source := page.Tile{Name: "The source", Value: service.Look(st.State).Word, State: st.State, Lines: []string{service.FormatSeconds(st.LagSeconds) + " behind; of a table alone nobody can know"}}
	v.Tiles = []page.Tile{rate, last, rows, source}
	facts := [][2]string{
		{"captured", t.captured()},
		{"key", cmp.Or(t.Key, "–")},
		{"topic", cmp.Or(t.Topic, "–")},
		{"partitions", count(t.Partitions)},
		{"schema in the registry", count(t.SchemaID)},
		{"source published up to", cmp.Or(st.PublishedLSN, "–")},
	}
	if t.HeldLSN != "" {
		facts = append(facts, [2]string{"held since", t.HeldLSN})
	}
	if len(st.Accepted) > 0 {
		v.Folds = append(v.Folds, page.Accepted(st.Accepted))
	}
	v.Folds = append(v.Folds, page.Fold{Title: "What is known of it", Open: true, Facts: facts}, page.States(t.States))
	return v
}

// tableEvents is how many events of a table its page shows.
const tableEvents = 20

// count is a number of which 0 is none.
func count(n int) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprint(n)
}

// captured says what of the table is.
func (t *TableStatus) captured() string {
	if t.Level == "insert" {
		return "INSERT and TRUNCATE only: " + t.Reason
	}
	return cmp.Or(t.Level, "–")
}

// sentence says how the table does.
func (t *TableStatus) sentence(st *Status) string {
	switch {
	case t.Held != nil:
		return fmt.Sprintf("is held: %s. Nothing of it is published since %s.", t.Held.Code, cmp.Or(t.HeldLSN, "then"))
	case t.State == service.StateSnapshotting:
		return "is being read: " + t.rows() + "."
	case st.LagSeconds > freshness.Seconds():
		return fmt.Sprintf("is captured, its source is %s behind.", service.FormatSeconds(st.LagSeconds))
	}
	return fmt.Sprintf("is captured: %s changes/s.", service.FormatRate(t.ChangesPerSecond))
}
