package capture

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/schema/change"
)

// Well says that nothing needs a person: the exit code of the verb.
func (r *Report) Well() bool {
	urgent := slices.ContainsFunc(r.Needs, func(n service.Need) bool { return n.Urgent })
	return !urgent && r.Trouble == nil && service.Look(r.State).Colour != "red" && r.WAL.SlotStatus != "lost"
}

// Until gives what --wait of the verb waits for. Nobody waits for what does not run.
func Until(name string) (terminal.Missing, error) {
	running := func(done func(r *Report) string) terminal.Missing {
		return func(st terminal.Status) string {
			r, ok := st.(*Report)
			if !ok || !r.runs() {
				return st.Sentence()
			}
			return done(r)
		}
	}
	switch name {
	case "caught-up":
		from := change.LSN(0)
		return running(func(r *Report) string {
			published, _ := change.ParseLSN(r.PublishedLSN)
			server, err := change.ParseLSN(r.ServerLSN)
			if err != nil || server == 0 {
				return "the source was not asked yet"
			}
			from = cmp.Or(from, server) // what was there when it was looked at first
			if r.ToPublish == 0 || published >= from {
				return ""
			}
			return service.FormatBytes(r.ToPublish) + " are to be published"
		}), nil
	case "snapshot-done":
		return running(func(r *Report) string {
			if r.Snapshot.Tables > 0 && r.Snapshot.TablesDone == r.Snapshot.Tables {
				return ""
			}
			return fmt.Sprintf("%d of %s done", r.Snapshot.TablesDone, service.Plural(r.Snapshot.Tables, "table"))
		}), nil
	}
	return nil, terminal.Usagef("--wait is %q; write caught-up or snapshot-done", name)
}

func (r *Report) runs() bool {
	switch r.State {
	case service.StateStarting, service.StateNotRunning, service.StateStopped:
		return false
	}
	return true
}

// Reading is a table whose rows are being read.
type Reading struct {
	Table        string `json:"table"`
	Rows         int64  `json:"rows"`
	RowsExpected *int64 `json:"rows_expected"` // estimate; null: there is none
	TableSnapshot
}

// Reading lists the tables that are being read.
func (r *Report) Reading() []Reading {
	all := []Reading{}
	for i := range r.Tables {
		if t := &r.Tables[i]; t.State == service.StateSnapshotting {
			one := Reading{Table: t.Table, Rows: t.SnapshotRows, RowsExpected: t.ExpectedRows}
			if t.Snapshot != nil {
				one.TableSnapshot = *t.Snapshot
			}
			all = append(all, one)
		}
	}
	return all
}

// Bars are of the tables that are being read.
func (r *Report) Bars() []terminal.Progress {
	var all []terminal.Progress
	for _, one := range r.Reading() {
		bar := terminal.Progress{Name: "snapshot " + one.Table, Done: one.Rows, Unit: "rows", Estimated: true, Rate: one.RowsPerSecond}
		if one.RowsExpected != nil {
			bar.Total = *one.RowsExpected
		}
		if one.ETASeconds != nil {
			bar.Left = seconds(*one.ETASeconds)
		}
		all = append(all, bar)
	}
	return all
}

// Show writes the report: the sentence, and, where there is something to say, the rest; what needs a person is told whole. In a pipe the
// table alone is the result.
func (r *Report) Show(out *terminal.Output, look *terminal.Look) error {
	tables, rest, err := r.shown(out, look)
	if err != nil {
		return err
	}
	told := out.Beside()
	told.Sentence(r.Sentence())
	quiet := r.State == service.StateUpToDate && len(r.Needs) == 0 && len(r.Idle) == 0
	if !quiet || look.All || len(look.Tables) > 0 || !out.Terminal {
		told.Printf("\n")
		told.Facts(r.facts())
		if bars := r.Bars(); len(bars) > 0 && out.Terminal {
			// No share of the rows: with those of tables that are done it is another one than that of the bars.
			out.Printf("\nSnapshot: %d of %s done\n", r.Snapshot.TablesDone, service.Plural(r.Snapshot.Tables, "table"))
			out.BarLines(bars)
		}
		if r.State == service.StateNotRunning {
			rest = 0 // nobody knows how they are
		}
		if err := out.Counted(tables, rest, "table", "streaming"); err != nil {
			return err
		}
		told.Needs(r.Needs, "capture")
		told.Accepted(r.Accepted)
	}
	if !strings.HasPrefix(r.Asked, "the service") {
		out.Note("(asked %s)\n", r.Asked)
	}
	return nil
}

// shown gives the tables that are shown, those in trouble first, and how many are only counted.
func (r *Report) shown(out *terminal.Output, look *terminal.Look) (*terminal.Table, int, error) {
	t := &terminal.Table{Columns: []terminal.Column{
		{Title: "table"},
		{Title: "state"},
		{Title: "changes/s", Number: true},
		{Title: "last change"},
		{Title: "rows sent", Number: true},
		{Title: "key", Wide: true},
		{Title: "topic", Wide: true},
		{Title: "partitions", Wide: true, Number: true},
		{Title: "schema", Wide: true, Number: true},
		{Title: "note", Wraps: true},
	}}
	rest := 0
	var known []string
	rows := slices.Clone(r.Tables)
	rank := func(t TableStatus) int {
		if t.State == service.StateNotRunning { // as all are, but those that are held
			return service.StateRank(service.StateStreaming)
		}
		return service.StateRank(t.State)
	}
	slices.SortStableFunc(rows, func(a, b TableStatus) int { return cmp.Compare(rank(a), rank(b)) })
	for i := range rows {
		one := &rows[i]
		known = append(known, one.Table)
		if !look.Shows(one.Table) {
			continue
		}
		note := one.note()
		calm := service.Look(one.State).Colour == "green" || one.State == service.StateNotRunning // which the first sentence says of all
		if calm && note == "" && out.Terminal && !look.All && len(look.Tables) == 0 {
			rest++
			continue
		}
		word := service.Look(one.State).Word
		if one.State == service.StateSnapshotting {
			word += " " + strings.TrimPrefix(percent(one.SnapshotRows, one.ExpectedRows), "~")
		}
		t.Rows = append(t.Rows, []terminal.Cell{
			{Text: one.Table},
			{Text: word, Raw: one.State, State: one.State},
			terminal.Number(service.FormatRate(one.ChangesPerSecond), one.ChangesPerSecond), terminal.Moment(one.LastChange),
			terminal.Number(service.FormatCount(one.SnapshotRows), one.SnapshotRows),
			{Text: one.Key},
			{Text: one.Topic},
			numbered(one.Partitions),
			numbered(one.SchemaID),
			{Text: note},
		})
	}
	if len(t.Rows) == 0 && len(look.Tables) > 0 {
		return nil, 0, look.None(known)
	}
	return t, rest, nil
}

// numbered is a cell for a number that is never 0, "-" where it is: who asks the source and Kafka alone is not told it.
func numbered(n int) terminal.Cell {
	if n == 0 {
		return terminal.Number("-", "")
	}
	return terminal.Number(fmt.Sprint(n), n)
}

// note says what stands beside the state of a table.
func (t *TableStatus) note() string {
	switch {
	case t.Held != nil:
		return fmt.Sprintf("%s: nothing of it is published since %s", t.Held.Code, t.HeldLSN)
	case t.Level == string(catalog.InsertOnly):
		return "INSERT, TRUNCATE only"
	}
	return ""
}

func (r *Report) facts() []terminal.Fact {
	var all []terminal.Fact
	add := func(name, value, note string) { all = append(all, terminal.Fact{Name: name, Value: value, Note: note}) }
	down := r.State == service.StateNotRunning
	unseen := !r.looked() || r.SeenAt.IsZero() && (r.State == service.StateStarting || r.State == service.StateStandby) // then this one has published nothing
	switch {
	case down:
	case unseen:
		add("behind", "-", "nobody has looked yet")
	default:
		add("behind", service.FormatSeconds(r.LagSeconds), r.lateness())
	}
	switch {
	case unseen:
	case !r.counted():
		add("to publish", "-", "there is no slot to count it by")
	case down:
		add("to publish", service.FormatBytes(r.ToPublish), "")
	default:
		reads := "reads"
		if r.BySQL {
			reads = "fetches by SQL"
		}
		add("to publish", service.FormatBytes(r.ToPublish), fmt.Sprintf(reads+" %s/s, the source writes %s/s",
			service.FormatBytes(int64(r.PublishedBytesPerSecond)), service.FormatBytes(int64(r.SourceBytesPerSecond))))
		note := "last minute"
		if r.ChangesPerSecondHour != nil {
			note += "; " + service.FormatRate(*r.ChangesPerSecondHour) + " over the last hour"
		}
		add("rate", service.FormatRate(r.ChangesPerSecond)+" changes/s", note)
		if r.LatencyP50 != nil && r.LatencyP99 != nil {
			note := "p99 " + service.FormatSeconds(*r.LatencyP99) + ", commit to Kafka, last 5 min"
			if r.LatencyUsual != nil {
				note += " (usually " + service.FormatSeconds(*r.LatencyUsual) + ")"
			}
			add("latency", "p50 "+service.FormatSeconds(*r.LatencyP50), note)
		}
	}
	if unseen && r.WAL.AsOf.IsZero() {
		add("WAL kept", "-", "the source was not asked yet, or does not answer")
	} else {
		add("WAL kept", fmt.Sprintf("%s of %s", service.FormatBytes(r.WAL.RetainedBytes), service.FormatBytes(r.WAL.BudgetBytes)), r.wal())
	}
	if r.Paused != nil {
		add("paused", "since "+terminal.Clock(r.Paused.Since), r.Paused.until(&r.WAL))
	}
	published, where := r.reach(down, unseen)
	add("published", published, where)
	if len(r.Idle) > 0 {
		add("tables", "none fits "+strings.Join(r.Idle, ", "), "of source.tables; capture check says which name is near")
	}
	if goes, ok := service.TimeGoes(seen(r.Stages)); ok {
		add("time goes", goes, "")
	}
	for _, st := range seen(r.Stages) {
		if st.WaitingOn != "" && st.WaitingOn != whom(waitResume) && time.Since(st.Since) >= time.Second {
			add("waits", st.Name, "for "+st.WaitingOn+", for "+service.FormatDuration(time.Since(st.Since)))
		}
	}
	switch {
	case down && r.Trouble != nil: // which says what is next
	case down:
		add("next", "capture run", "")
	case r.Paused != nil:
		add("next", "capture resume", "")
	}
	return all
}

// lateness says what stands behind how far behind the capture is.
func (r *Report) lateness() string {
	note := ""
	switch quiet := time.Since(r.PublishedTime); {
	case r.LagSeconds >= 1 && !r.PublishedTime.IsZero():
		note = "the newest published change was committed at " + terminal.Clock(r.PublishedTime)
	case r.LagSeconds == 0 && !r.PublishedTime.IsZero() && quiet > 10*time.Minute:
		note = "quiet for " + service.FormatDuration(quiet)
	}
	if skew := r.skew(); skew != "" {
		note = strings.TrimPrefix(note+"; "+skew, "; ")
	}
	return note
}

// reach says up to where all is published, and where that is.
func (r *Report) reach(down, unseen bool) (published, where string) {
	var position []string
	if r.Era != 0 {
		position = append(position, fmt.Sprintf("era %d", r.Era))
	}
	position = append(position, strings.TrimSpace("slot "+r.Slot))
	if r.WAL.SlotStatus != "" {
		position = append(position, r.WAL.SlotStatus)
	}
	if down && !r.PublishedTime.IsZero() {
		position = append(position, "committed "+terminal.Clock(r.PublishedTime))
	}
	if r.ServerLSN != "" && r.ServerLSN != r.PublishedLSN {
		position = append(position, "the source is at "+r.ServerLSN)
	}
	published = "nothing yet"
	switch {
	case r.PublishedLSN != "":
		published = "up to " + r.PublishedLSN
	case unseen, r.Trouble != nil && strings.HasPrefix(string(r.Trouble.Code), "kafka-"):
		published = "-" // by a capture of before, perhaps; or the progress could not be read
	}
	return published, strings.Join(position, ", ")
}

// wal says how much of the budget is used, and what becomes of it.
func (r *Report) wal() string {
	w := &r.WAL
	text := fmt.Sprintf("%s %2.0f %%", terminal.Bar(float64(w.RetainedBytes), float64(w.BudgetBytes), 20), 100*float64(w.RetainedBytes)/float64(max(w.BudgetBytes, 1)))
	switch growth := w.GrowthBytesPerSecond; {
	case growth < 0:
		text += ", falling"
	case growth >= 1:
		text += ", +" + service.FormatBytes(int64(growth)) + "/s"
		if w.FullInSeconds != nil && *w.FullInSeconds > 0 && w.RetainedBytes > w.BudgetBytes/10 {
			text += ", full in " + service.FormatDuration(seconds(*w.FullInSeconds))
		}
	}
	if age := time.Since(w.AsOf); age > staleAfter && !w.AsOf.IsZero() {
		text += ", " + service.FormatDuration(age) + " old: the source does not answer"
	}
	return text
}
