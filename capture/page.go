package capture

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
)

// page lays the status out for a browser. What is not in the status is not on the page.
func (st *Status) page() page.View {
	v := page.View{
		Program: "capture", Name: st.Source, State: st.State, Headline: st.Source + " " + st.Headline, Needs: st.Needs, Wants: strings.HasPrefix(st.Headline, service.NeedsYou),
		Tiles: st.tiles(), Stages: seen(st.Stages), Ends: st.ends(), Events: st.Events, Build: st.Build, Tables: []page.Table{st.tables()},
	}
	if st.ServerVersion != "" {
		v.About = append(v.About, "PostgreSQL "+st.ServerVersion)
	}
	v.About = append(v.About, "slot "+st.Slot)
	if len(st.Idle) > 0 {
		v.About = append(v.About, "no table fits "+strings.Join(st.Idle, ", ")+" of source.tables")
	}
	if st.LagSeconds > freshness.Seconds() {
		v.Late = service.FormatSeconds(st.LagSeconds)
	}
	v.Snapshot = st.snapshot()
	v.Folds = []page.Fold{page.Running("Source, configuration, build", [][2]string{
		{"system", st.SystemID},
		{"timeline", counted(st.Timeline)},
		{"era", counted(st.Era)},
		{"publications", strings.Join(st.Publications, ", ")},
		{"slot", strings.TrimSpace(st.Slot + " " + st.WAL.SlotStatus)},
		{"published up to", st.PublishedLSN},
		{"commit of that", at(st.PublishedTime)},
		{"the server's WAL end", st.ServerLSN},
		{"instance", st.Instance},
	}, st.Build, st.Since, st.MemoryBytes, st.Configuration)}
	if len(st.Accepted) > 0 {
		v.Folds = append([]page.Fold{page.Accepted(st.Accepted)}, v.Folds...)
	}
	return v
}

// ends are where the source stands, and up to where it is published.
func (st *Status) ends() *page.Ends {
	if st.ServerLSN == "" {
		return nil
	}
	return &page.Ends{From: "the source is at " + st.ServerLSN, To: "published up to " + cmp.Or(st.PublishedLSN, "nothing")}
}

// counted tells a number that is 0 where it is not known yet.
func counted[N uint16 | uint32](n N) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprint(n)
}

// at tells a time among facts.
func at(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format(time.DateTime) + " UTC"
}

func (st *Status) tiles() []page.Tile {
	behind := page.Tile{Name: "Behind", Value: service.FormatSeconds(st.LagSeconds), Lines: []string{"oldest change not in Kafka"}}
	if !st.looked() {
		behind.Value, behind.Lines = "–", []string{"nobody has looked yet"}
	}
	if st.LagSeconds > freshness.Seconds() {
		behind.State = st.State
	}
	if quiet := time.Since(st.PublishedTime); st.looked() && st.LagSeconds == 0 && !st.PublishedTime.IsZero() && quiet > 10*time.Minute {
		behind.Lines = []string{"quiet for " + service.FormatDuration(quiet)}
	}
	if skew := st.skew(); skew != "" {
		behind.Lines = append(behind.Lines, skew)
	}
	publish := page.Tile{Name: "To publish", Value: service.FormatBytes(st.ToPublish)}
	switch {
	case !st.looked():
		publish.Value, publish.Lines = behind.Value, behind.Lines
	case !st.counted():
		publish.Value, publish.Lines = "–", []string{"there is no slot to count it by"}
	case st.ETASeconds != nil && st.LagSeconds > freshness.Seconds():
		publish.Lines = []string{service.FormatLeft(seconds(*st.ETASeconds))}
	case st.Falling && st.LagSeconds > freshness.Seconds():
		publish.Lines = []string{"not catching up"}
	}
	rate := page.Tile{Name: "Rate, 1 min", Value: service.FormatRate(st.ChangesPerSecond) + " /s", Lines: []string{
		service.FormatBytes(int64(st.PublishedBytesPerSecond)) + "/s of WAL; source " + service.FormatBytes(int64(st.SourceBytesPerSecond)) + "/s",
	}}
	if st.ChangesPerSecondHour != nil {
		rate.Lines = append(rate.Lines, service.FormatRate(*st.ChangesPerSecondHour)+" /s over the hour")
	}
	latency := page.Tile{Name: "Latency, 5 min", Value: "–", Lines: []string{"fewer than 20 commits to tell by"}}
	if st.LatencyP50 != nil && st.LatencyP99 != nil {
		latency.Value, latency.Lines = "p50 "+service.FormatSeconds(*st.LatencyP50), []string{"p99 " + service.FormatSeconds(*st.LatencyP99), "commit to Kafka"}
		if st.LatencyUsual != nil {
			latency.Lines = append(latency.Lines, "usually "+service.FormatSeconds(*st.LatencyUsual))
		}
	}
	return []page.Tile{behind, publish, rate, st.walTile(), latency, st.snapshotTile()}
}

func (st *Status) walTile() page.Tile {
	w := &st.WAL
	t := page.Tile{Name: "WAL kept"}
	if w.AsOf.IsZero() {
		t.Value, t.Lines = "–", []string{"the source was not asked yet, or does not answer"}
		return t
	}
	t.Value = service.FormatBytes(w.RetainedBytes)
	used := fmt.Sprintf("%.0f %% of %s", 100*float64(w.RetainedBytes)/float64(max(w.BudgetBytes, 1)), service.FormatBytes(w.BudgetBytes))
	switch {
	case w.RetainedBytes >= w.BudgetBytes:
		t.State = service.StateStopped
	case w.GrowthBytesPerSecond < 0:
		used += ", falling"
	}
	t.Bar = &page.Bar{Part: float64(min(w.RetainedBytes, w.BudgetBytes)), Whole: float64(max(w.BudgetBytes, 1)), Text: used}
	t.Lines = []string{used}
	switch {
	case w.RetainedBytes >= w.BudgetBytes:
		t.Lines = append(t.Lines, "the budget is used up")
	case w.FullInSeconds != nil && w.RetainedBytes > w.BudgetBytes/10:
		t.Lines = append(t.Lines, "used up in "+service.FormatLeft(seconds(*w.FullInSeconds)))
	}
	if w.SafeBytes != nil && w.RetainedBytes+*w.SafeBytes <= w.BudgetBytes {
		t.Lines = append(t.Lines, "the server drops the slot after another "+service.FormatBytes(*w.SafeBytes))
	}
	if age := time.Since(w.AsOf); age > staleAfter {
		t.Lines = append(t.Lines, service.FormatDuration(age)+" old: the source does not answer")
	}
	return t
}

func (st *Status) snapshotTile() page.Tile {
	s := &st.Snapshot
	t := page.Tile{Name: "Snapshot", Value: "none runs"}
	switch {
	case s.TablesDone < s.Tables:
		rows, of := st.rowsRead()
		t.Value, t.Lines = percent(rows, of), []string{fmt.Sprintf("%d of %s", s.TablesDone, service.Plural(s.Tables, "table"))}
		if of != nil {
			t.Bar = bar(rows, of)
		} else if rows > 0 {
			t.Lines = append(t.Lines, service.FormatCount(rows)+" rows so far; of how many is not known, as a table was never analyzed")
		}
		if s.ETASeconds != nil {
			t.Lines = append(t.Lines, service.FormatLeft(seconds(*s.ETASeconds)))
		}
	case !s.EndedAt.IsZero():
		t.Lines = []string{fmt.Sprintf("the last one ended %s ago, %s", service.FormatDuration(time.Since(s.EndedAt)), service.Plural(s.Tables, "table"))}
	case s.Tables > 0:
		t.Lines = []string{fmt.Sprintf("%s, %s rows read before", service.Plural(s.Tables, "table"), service.FormatCount(s.Rows))}
	}
	return t
}

// rowsRead sums up the tables that are being read, as their bars do: how many rows have come, and of how many; nil where that is not known of
// one of them, or there are none.
func (st *Status) rowsRead() (rows int64, of *int64) {
	of = new(int64)
	for i := range st.Tables {
		t := &st.Tables[i]
		if t.State != service.StateSnapshotting {
			continue
		}
		rows += t.SnapshotRows
		if of != nil && t.ExpectedRows != nil {
			*of += max(*t.ExpectedRows, t.SnapshotRows)
		} else {
			of = nil
		}
	}
	if of != nil && *of == 0 { // none is said to be read, or none has a row
		of = nil
	}
	return rows, of
}

// percent gives how much of an estimate is done; "–" where there is none, or there was more than it said.
func percent(part int64, whole *int64) string {
	if whole == nil || part > *whole {
		return "–"
	}
	return fmt.Sprintf("~%.0f %%", 100*float64(part)/float64(max(*whole, 1)))
}

func bar(part int64, whole *int64) *page.Bar {
	if percent(part, whole) == "–" {
		return nil
	}
	return &page.Bar{Part: float64(part), Whole: float64(max(*whole, 1)), Text: percent(part, whole)}
}

// rows says how many rows are read, and of how many.
func (t *TableStatus) rows() string {
	read := service.FormatCount(t.SnapshotRows)
	switch {
	case t.ExpectedRows == nil:
		return read + " rows, of how many is not known: never analyzed"
	case t.SnapshotRows > *t.ExpectedRows:
		return read + " rows, more than estimated"
	}
	return fmt.Sprintf("%s of ~%s rows", read, service.FormatCount(*t.ExpectedRows))
}

// snapshot tells of the tables that are read, and of those that were within a day, the newest first; nil where there are none.
func (st *Status) snapshot() *page.Snapshot {
	var read []*TableStatus
	for i := range st.Tables {
		if t := &st.Tables[i]; t.Snapshot != nil {
			read = append(read, t)
		}
	}
	if len(read) == 0 {
		return nil
	}
	slices.SortStableFunc(read, func(a, b *TableStatus) int {
		return cmp.Or(cmp.Compare(slices.Index(readOrder, a.Snapshot.State), slices.Index(readOrder, b.Snapshot.State)), b.Snapshot.EndedAt.Compare(a.Snapshot.EndedAt))
	})
	s := &page.Snapshot{Title: fmt.Sprintf("Snapshot: %d of %s done", st.Snapshot.TablesDone, service.Plural(st.Snapshot.Tables, "table"))}
	if len(read) > maxReads {
		s.Title += fmt.Sprintf(", %d are shown", maxReads)
		read = read[:maxReads]
	}
	for _, t := range read {
		s.Rows = append(s.Rows, page.SnapshotRow{Name: t.Table, Bar: bar(t.SnapshotRows, t.ExpectedRows), Notes: []string{t.read()}})
	}
	return s
}

// maxReads bounds how many reads the page tells of.
const maxReads = 20

// readOrder has what goes on first.
var readOrder = []string{readFailed, readHolding, readReading, readWaiting, readDone}

// read tells of a read in a line.
func (t *TableStatus) read() string {
	s := t.Snapshot
	parts := []string{t.rows()}
	if s.State == readDone {
		parts[0] = service.FormatCount(t.SnapshotRows) + " rows"
	}
	if s.RowsPerSecond > 0 {
		parts = append(parts, service.FormatRate(s.RowsPerSecond)+" /s")
	}
	if s.ETASeconds != nil {
		parts = append(parts, service.FormatLeft(seconds(*s.ETASeconds)))
	}
	switch {
	case s.State == readHolding:
		parts = append(parts, "its changes wait for them")
	case s.State == readDone:
		parts = append(parts, "done "+service.FormatDuration(time.Since(s.EndedAt))+" ago")
	case s.State != readReading:
		parts = append(parts, s.State)
	}
	if s.Rereads > 0 {
		parts = append(parts, service.Plural(s.Rereads, "chunk")+" read again")
	}
	if s.By != "" {
		parts = append(parts, "asked by "+s.By)
	}
	return strings.Join(parts, ", ")
}

func (st *Status) tables() page.Table {
	out := page.Table{
		ID: "tables", Title: "Tables", Main: true, Pages: true, Empty: fmt.Sprintf("No table is captured yet: source.tables is %q, which none is like. capture check lists what there is.", st.Wanted),
		Columns: []page.Column{
			{Key: "table", Title: "table"},
			{Key: "state", Title: "state"},
			{Key: "rate", Title: "changes/s", Number: true},
			{Key: "hour", Title: "last hour"},
			{Key: "change", Title: "last change"},
			{Key: "rows", Title: "rows sent", Number: true},
			{Key: "key", Title: "key"},
			{Key: "topic", Title: "topic"},
			{Key: "schema", Title: "schema", Number: true},
		},
	}
	switch st.State {
	case service.StateStarting:
		out.Empty = "Tables are known as soon as capture has begun."
	case service.StateStandby:
		out.Empty = fmt.Sprintf("%s captures the tables from slot %s, up to %s; this one goes on from there when it has been gone for %s.", cmp.Or(st.Holder, "Another capture"), st.Slot, cmp.Or(st.PublishedLSN, "–"), service.FormatDuration(standbyPatience))
	}
	for i := range st.Tables {
		t := &st.Tables[i]
		note := ""
		switch {
		case t.State == service.StateSnapshotting:
			note = percent(t.SnapshotRows, t.ExpectedRows)
		case t.State == service.StateHeld && t.Held != nil:
			note = string(t.Held.Code)
		case t.Level == "insert":
			note = "INSERT, TRUNCATE only"
		}
		topic, schema := t.Topic, ""
		if t.Partitions > 0 {
			topic += " ×" + fmt.Sprint(t.Partitions)
		}
		if t.SchemaID != 0 {
			schema = fmt.Sprint(t.SchemaID)
		}
		out.Rows = append(out.Rows, page.Row{Key: t.Table, State: t.State, Cells: []page.Cell{
			{Text: t.Table},
			{State: t.State, Text: note},
			{Text: service.FormatRate(t.ChangesPerSecond), Order: t.ChangesPerSecond},
			{Line: &page.Spark{Points: t.LastHour, Format: func(v float64) string { return service.FormatRate(v) + " /s" }}},
			{Time: t.LastChange},
			{Text: service.FormatCount(t.SnapshotRows), Order: float64(t.SnapshotRows)},
			{Text: t.Key},
			{Text: topic},
			{Text: schema, Order: float64(t.SchemaID)},
		}})
	}
	return out
}
