package sink

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
)

// tableView is what the page of a table shows now; ok is false where there is none of that name.
func (s *Sink) tableView(name string) (v page.View, ok bool) {
	s.outlook.watch()
	st := s.steady()
	if !st.alone(name) {
		return v, false
	}
	s.detail(&st.Tables[0])
	return st.tablePage(), true
}

// tail gives the changes of a table to its page, as its topics have them and the rules make of them.
func (s *Sink) tail(ctx context.Context, name string, ready func(), each func(page.Change) error) error {
	o, err := NewOperator(s.cfg)
	if err != nil {
		return err
	}
	defer o.Close(context.WithoutCancel(ctx))
	values := s.cfg.HTTP.ShowsValues()
	return o.Tail(ctx, s.cfg, []string{name}, 0, values, func(int) { ready() }, func(t *Tailed) error {
		c := page.Change{At: t.At, Position: t.Position, Op: t.Op}
		columns := t.Columns
		if len(columns) == 0 { // it is not written as a row
			columns = t.Key
		}
		for _, column := range columns {
			c.Columns = append(c.Columns, column.Text(values))
		}
		c.Result = t.Result
		return each(c)
	})
}

// alone leaves of the status what concerns a table, and says whether there is one of that name.
func (st *Status) alone(name string) bool {
	source, others := "", map[string]bool{}
	for i := range st.Tables {
		if t := &st.Tables[i]; t.name() == name {
			source = t.Source
		} else {
			others[t.name()], others[t.Target] = true, true
		}
	}
	for i := range st.Tables {
		if t := &st.Tables[i]; t.name() == name {
			delete(others, t.Target) // which may be that of others, too
		}
	}
	for i := range st.Sources {
		if st.Sources[i].Name != source {
			others[st.Sources[i].Name] = true
		}
	}
	of := func(n service.Need) bool { return others[n.Subject] && !slices.Contains(n.Subjects, name) }
	st.Needs, st.Accepted = slices.DeleteFunc(st.Needs, of), slices.DeleteFunc(st.Accepted, of)
	st.Tables = slices.DeleteFunc(st.Tables, func(t TableStatus) bool { return t.name() != name })
	st.Sources = slices.DeleteFunc(st.Sources, func(src SourceStatus) bool { return src.Name != source })
	return len(st.Tables) == 1
}

// tablePage lays out a status that holds one table.
func (st *Status) tablePage() page.View {
	t := &st.Tables[0]
	v := page.View{
		Program: "sink", Name: st.Group, About: []string{t.name() + " to " + t.Target}, State: t.State, Headline: t.name() + " " + t.sentence(), Needs: st.Needs, Build: st.Build,
		Hour:   &page.Hour{Title: "Behind", Kind: page.Seconds, Points: t.LastHour},
		Events: service.About(st.Events, tableEvents, t.name(), t.Topic),
	}
	if t.late() > 1 {
		v.Late = service.FormatSeconds(value(t.BehindSeconds))
	}
	behind := page.Tile{Name: "Behind", Value: service.FormatSeconds(value(t.BehindSeconds)), Lines: []string{"target " + service.FormatSeconds(t.FreshnessSeconds)}}
	waiting := page.Tile{Name: "Waiting", Value: service.FormatCount(value(t.Records)), Lines: []string{"records"}}
	if t.late() > 1 {
		behind.State = t.State
	}
	if t.ETASeconds != nil && value(t.Records) > 0 {
		waiting.Lines = append(waiting.Lines, service.FormatLeft(time.Duration(*t.ETASeconds*float64(time.Second))))
	}
	if t.BehindSeconds == nil {
		why := []string{"not known: " + t.elsewhere()}
		if t.State == service.StateWaiting {
			why[0] = "not known while this sink waits for " + t.WaitingOn
		}
		behind.Value, behind.Lines, waiting.Value, waiting.Lines = "–", why, "–", why
	}
	rate := page.Tile{Name: "Applied, 1 min", Value: service.FormatRate(value(t.RowsPerSec)) + " /s", Lines: []string{service.FormatCount(t.Applied) + " changes by this sink since it began"}}
	if t.RowsPerSec == nil {
		rate.Value = "–"
		rate.Lines = append(rate.Lines, "what other sinks apply was not looked at for long enough")
	}
	commit := page.Tile{Name: "Last commit", Value: "–", Lines: []string{"no change has come yet"}}
	if t.LastCommit != nil {
		commit.Value, commit.Lines = service.FormatDuration(time.Since(*t.LastCommit))+" ago", []string{t.LastCommit.UTC().Format(time.DateTime) + " UTC, at the source"}
	}
	parked := page.Tile{Name: "Parked", Value: service.FormatCount(t.Parked), Lines: []string{"rows put aside"}}
	v.Tiles = []page.Tile{behind, waiting, rate, commit, parked}
	if t.Keep != "" {
		expired := page.Tile{Name: "Retention", Value: service.FormatCount(t.Expired), Lines: []string{"rows removed, older than " + t.Keep}}
		if t.ExpiredAt != nil {
			expired.Lines = append(expired.Lines, "last at "+t.ExpiredAt.UTC().Format(time.DateTime)+" UTC")
		}
		v.Tiles = append(v.Tiles, expired)
	}
	facts := [][2]string{
		{"target", t.Target},
		{"mode", cmp.Or(t.Mode, "–")},
		{"rule", cmp.Or(t.Rule, "–")},
		{"index used", cmp.Or(t.Index, "– (nothing was written since this sink began)")},
		{"topic", cmp.Or(t.Topic, "–")},
		{"partitions of this sink", fmt.Sprint(t.Partitions)},
		{"position", cmp.Or(t.Position, "–")},
		{"duplicates dropped", service.FormatCount(t.Duplicates)},
	}
	for i := range st.Sources {
		src := &st.Sources[i]
		facts = append(facts, [2]string{"its source", cmp.Or(src.CompleteLSN, "–") + ", capture " + service.Look(src.Capture.State).Word + ", " + service.FormatSeconds(src.Capture.BehindSeconds) + " behind"})
		if src.Capture.HTTP != "" {
			facts = append(facts, [2]string{"capture answers at", src.Capture.HTTP})
		}
	}
	plan := page.Fold{Title: "What its rule does", Open: t.Plan != "", Text: strings.TrimSpace(t.Plan)}
	if t.Plan == "" {
		plan.Text = "No change of it was read since this sink began. sink rules explain --source " + service.Quote(t.Source) + " --table " + service.Quote(t.Table) + " says it."
	}
	if len(st.Accepted) > 0 {
		v.Folds = append(v.Folds, page.Accepted(st.Accepted))
	}
	v.Folds = append(v.Folds, page.Fold{Title: "What is known of it", Open: true, Facts: facts}, plan, page.States(t.States))
	return v
}

// tableEvents is how many events of a table its page shows.
const tableEvents = 20

// sentence says how the table does.
func (t *TableStatus) sentence() string {
	text := "is " + service.Look(t.State).Word
	if t.State == service.StateSnapshotting {
		text = "is being filled"
	}
	if note := t.note(); note != "" {
		text += ": " + note
	}
	if value(t.Records) > 0 && t.State != service.StateUpToDate {
		text += fmt.Sprintf("; %s behind, %s %s", service.FormatSeconds(value(t.BehindSeconds)), service.Plural(value(t.Records), "record"), service.Agree(value(t.Records), "waits", "wait"))
	}
	return text + "."
}
