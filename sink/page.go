package sink

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// view is what the page shows now.
func (s *Sink) view() page.View {
	s.outlook.watch()
	return s.steady().page()
}

// page lays the status out for a browser. What is not in the status is not on the page.
func (st *Status) page() page.View {
	v := page.View{
		Program: "sink", Name: st.Group, About: []string{"this sink " + st.Instance}, State: st.State, Headline: st.Group + " " + st.Headline,
		Needs: st.Needs, Tiles: st.tiles(), Stages: st.Stages, Events: st.Events, Build: st.Build,
		Tables: []page.Table{st.sources(), st.tables(), st.members()}, Wants: strings.HasPrefix(st.Headline, service.NeedsYou),
	}
	if unmatched := st.unmatched(); unmatched != "" {
		v.About = append(v.About, unmatched)
	}
	if st.sinks() > 1 {
		v.Part = "this sink"
	}
	if worst := st.worst(); worst != nil && worst.late() > 1 {
		v.Late = service.FormatSeconds(*worst.BehindSeconds)
	}
	if len(st.Accepted) > 0 {
		v.Folds = append(v.Folds, page.Accepted(st.Accepted))
	}
	unmatched := page.Fold{Title: fmt.Sprintf("Topics that no rule wants (%d)", len(st.Unmatched))}
	for i, topic := range st.Unmatched {
		if i == maxUnmatched {
			unmatched.Facts = append(unmatched.Facts, [2]string{"", fmt.Sprintf("and %d more: see /status", len(st.Unmatched)-i)})
			break
		}
		unmatched.Facts = append(unmatched.Facts, [2]string{topic, ""})
	}
	if len(st.Unmatched) > 0 {
		v.Folds = append(v.Folds, unmatched)
	}
	v.Folds = append(v.Folds, page.Running("Configuration, build", [][2]string{
		{"instance", st.Instance},
		{"partitions", fmt.Sprint(st.Partitions)},
		{"rebalances", fmt.Sprint(st.Rebalances)},
		{"freshness", service.FormatSeconds(st.FreshnessSeconds)},
	}, st.Build, st.Since, st.MemoryBytes, st.Configuration))
	return v
}

// maxUnmatched bounds a list that may be long.
const maxUnmatched = 50

// late gives how often what the table may be behind goes into how far it is.
func (t *TableStatus) late() float64 {
	if t.FreshnessSeconds <= 0 {
		return 0 // told by a sink of before
	}
	return value(t.BehindSeconds) / t.FreshnessSeconds
}

// worst gives the table that is furthest behind, measured by how far it may be; nil where none is behind.
func (st *Status) worst() (worst *TableStatus) {
	for i := range st.Tables {
		if t := &st.Tables[i]; value(t.BehindSeconds) > 0 && (worst == nil || t.late() > worst.late()) {
			worst = t
		}
	}
	return worst
}

// unknown counts the tables of which nobody who was asked knows how far they are, and gives why that is of one of them.
func (st *Status) unknown() (tables int, why string) {
	for i := range st.Tables {
		if t := &st.Tables[i]; t.BehindSeconds == nil {
			tables, why = tables+1, t.elsewhere()
		}
	}
	return tables, why
}

// blind says that it is known of no table how far it is.
func (st *Status) blind() bool {
	tables, _ := st.unknown()
	return tables > 0 && tables == len(st.Tables)
}

func (st *Status) tiles() []page.Tile {
	fresh, target := page.Tile{Name: "Freshness", Value: service.FormatSeconds(0), Lines: []string{"no table is behind"}}, st.FreshnessSeconds
	if worst := st.worst(); worst != nil {
		target = worst.FreshnessSeconds
		fresh.Value, fresh.Lines = service.FormatSeconds(*worst.BehindSeconds), []string{worst.name()}
		if worst.late() > 1 {
			fresh.Value, fresh.State = fmt.Sprintf("%.1f × late", worst.late()), service.StateBehind
			fresh.Lines = append(fresh.Lines, service.FormatSeconds(*worst.BehindSeconds)+" behind")
		}
	} else if _, why := st.unknown(); st.blind() {
		fresh.Value, fresh.Lines = "–", []string{"not known: " + why}
	}
	lacks, _ := st.unknown()
	if lacks > 0 && !st.blind() {
		fresh.Lines = append(fresh.Lines, "without "+service.Plural(lacks, "table")+" that "+service.Agree(lacks, "is", "are")+" not known")
	}
	fresh.Lines = append(fresh.Lines, "target "+service.FormatSeconds(target))

	complete := page.Tile{Name: "Complete up to", Value: "–", Lines: []string{"a source is not known to be complete up to any commit"}}
	if last := st.complete(); last != nil {
		complete.Time, complete.Lines = *last.until(), []string{service.FormatSeconds(*last.AgeSeconds) + " ago: " + st.holds(last)}
		if others := st.others(last); others != "" {
			complete.Lines = append(complete.Lines, others)
		}
		if *last.AgeSeconds > st.FreshnessSeconds {
			complete.State = service.StateBehind
		}
	} else if len(st.Sources) == 0 {
		complete.Lines = []string{"no source has reported yet"}
	} else if st.read() == 0 {
		complete.Lines = []string{"no source is read"}
	}
	records := int64(0)
	for i := range st.Tables {
		records += value(st.Tables[i].Records)
	}
	if except := st.except(); except != "" {
		complete.Lines = append(complete.Lines, except)
	}

	applied := page.Tile{Name: "Applied, 1 min", Value: service.FormatRate(st.RowsPerSec) + " /s", Lines: []string{"changes, by this sink"}}
	if all := st.RowsPerSecGroup; all != nil && st.sinks() > 1 {
		applied.Value, applied.Lines[0] = service.FormatRate(*all)+" /s", "changes, "+service.FormatRate(st.RowsPerSec)+" /s by this sink"
	}
	if st.RowsPerSecHour != nil {
		applied.Lines = append(applied.Lines, service.FormatRate(*st.RowsPerSecHour)+" /s over the hour, by this sink")
	}
	latency := page.Tile{Name: "Latency, 5 min", Value: "–", Lines: []string{"fewer than 20 transactions to tell by"}}
	if st.LatencyP50 != nil && st.LatencyP99 != nil {
		latency.Value, latency.Lines = "p50 "+service.FormatSeconds(*st.LatencyP50), []string{"p99 " + service.FormatSeconds(*st.LatencyP99), "commit to commit"}
	}
	memory := fmt.Sprintf("%s of %s", service.FormatBytes(st.BufferBytes), service.FormatBytes(st.BufferLimit))
	waiting := page.Tile{Name: "Waiting", Value: service.Plural(records, "record"), Lines: []string{memory + " in memory"}}
	if st.blind() {
		waiting.Value = "–"
	} else if lacks > 0 {
		waiting.Lines = append(waiting.Lines, fmt.Sprintf("of %d of %s", len(st.Tables)-lacks, service.Plural(len(st.Tables), "table")))
	}
	if st.BufferLimit > 0 {
		waiting.Bar = &page.Bar{Part: float64(min(st.BufferBytes, st.BufferLimit)), Whole: float64(st.BufferLimit), Text: memory}
	}
	members := page.Tile{Name: "Members", Value: service.FormatCount(int64(max(st.sinks(), 1))), Lines: []string{
		service.Plural(st.Partitions, "partition") + " here",
	}}
	if rebalance := st.rebalance(); rebalance != "" {
		members.Lines = append(members.Lines, rebalance)
	}
	return []page.Tile{fresh, complete, applied, latency, waiting, members}
}

func (st *Status) sources() page.Table {
	out := page.Table{
		ID: "sources", Title: "Sources", Empty: "No source has reported yet.",
		Columns: []page.Column{
			{Key: "source", Title: "source"},
			{Key: "state", Title: "state"},
			{Key: "complete", Title: "complete up to"},
			{Key: "age", Title: "age", Number: true},
			{Key: "rate", Title: "changes/s", Number: true},
			{Key: "capture", Title: "capture"},
			{Key: "wal", Title: "WAL kept", Number: true},
			{Key: "tables", Title: "tables", Number: true},
		},
	}
	fenced := slices.ContainsFunc(st.Sources, func(src SourceStatus) bool { return len(src.Fences) > 0 })
	if fenced {
		out.Columns = append(out.Columns, page.Column{Key: "fence", Title: "last fence"})
	}
	for i := range st.Sources {
		src := &st.Sources[i]
		complete, age, wal, note := page.Cell{Text: "–"}, page.Cell{Text: "–"}, service.FormatBytes(src.Capture.WALKept), src.Reason
		if until := src.until(); until != nil {
			complete = page.Cell{Time: *until}
		}
		if src.AgeSeconds != nil {
			age = page.Cell{Text: service.FormatSeconds(*src.AgeSeconds)}
		}
		if src.Capture.WALBudget > 0 {
			wal += " of " + service.FormatBytes(src.Capture.WALBudget)
		}
		capture := page.Cell{}
		capture.State, capture.Text = src.reported()
		if src.State == service.StateSilent {
			note = "for " + service.FormatSeconds(src.SilentSeconds)
		}
		if src.State == service.StateLeftOut { // what its capture has said is of when it was read
			capture, wal = page.Cell{Text: "–"}, "–"
		}
		row := page.Row{Key: src.Name, State: src.State, Cells: []page.Cell{
			{Text: src.Name},
			{State: src.State, Text: note},
			complete, age,
			{Text: service.FormatRate(src.RowsPerSec)},
			capture,
			{Text: wal},
			{Text: service.FormatCount(int64(src.Tables))},
		}}
		if fenced {
			row.Cells = append(row.Cells, page.Cell{Text: src.fence()})
		}
		out.Rows = append(out.Rows, row)
	}
	return out
}

// fence names the last one that is reached, and how many others are.
func (src *SourceStatus) fence() string {
	switch n := len(src.Fences); n {
	case 0:
		return "–"
	case 1:
		return src.Fences[0]
	default:
		return fmt.Sprintf("%s, and %d before", src.Fences[n-1], n-1)
	}
}

func (st *Status) tables() page.Table {
	out := page.Table{
		ID: "tables", Title: "Tables", Main: true, Pages: true, Group: []string{"target", "source"}, Sum: st.sum(), Empty: "No topic matches the rules yet. Start the capture; sink rules match says which topics are there, and which rule wants them.",
		Columns: []page.Column{
			{Key: "table", Title: "table"},
			{Key: "state", Title: "state"},
			{Key: "behind", Title: "behind", Number: true},
			{Key: "records", Title: "records", Number: true},
			{Key: "rate", Title: "changes/s", Number: true},
			{Key: "hour", Title: "behind, last hour"},
			{Key: "commit", Title: "last commit"},
			{Key: "target", Title: "target"},
			{Key: "mode", Title: "mode"},
		},
	}
	for i := range st.Tables {
		t := &st.Tables[i]
		behind, records, rate := page.Cell{Text: "–"}, page.Cell{Text: t.elsewhere()}, page.Cell{Text: "–"}
		if t.BehindSeconds != nil {
			behind = page.Cell{Text: service.FormatSeconds(*t.BehindSeconds), Order: t.late()}
		}
		if t.Records != nil {
			records = page.Cell{Text: service.FormatCount(*t.Records), Order: float64(*t.Records)}
		}
		if t.RowsPerSec != nil {
			rate = page.Cell{Text: service.FormatRate(*t.RowsPerSec), Order: *t.RowsPerSec}
		}
		row := page.Row{Key: t.name(), State: t.State, Wants: t.Parked > 0 && !service.Accepts(st.accept, trouble.Parked, t.name()), Groups: []string{t.Target, t.Source}, Cells: []page.Cell{
			{Text: t.name()},
			{State: t.State, Text: t.note()},
			behind, records, rate,
			{Line: &page.Spark{Points: t.LastHour, Format: service.FormatSeconds}},
			{},
			{Text: t.Target},
			{Text: t.Mode},
		}}
		if t.LastCommit != nil {
			row.Cells[6].Time = *t.LastCommit
		}
		out.Rows = append(out.Rows, row)
	}
	return out
}

// sum gives what says what tables come to: modes, the worst of how far they are behind, and how fast they go, as far as that is known.
func (st *Status) sum() func(names []string) []string {
	of := make(map[string]*TableStatus, len(st.Tables))
	for i := range st.Tables {
		of[st.Tables[i].name()] = &st.Tables[i]
	}
	return func(names []string) []string {
		var modes []string
		var worst, rate *float64
		parked := int64(0)
		for _, name := range names {
			t := of[name]
			if t.Mode != "" && !slices.Contains(modes, t.Mode) {
				modes = append(modes, t.Mode)
			}
			if t.BehindSeconds != nil {
				worst = new(max(value(worst), *t.BehindSeconds))
			}
			if t.RowsPerSec != nil {
				rate = new(value(rate) + *t.RowsPerSec)
			}
			parked += t.Parked
		}
		slices.Sort(modes)
		sums := []string{strings.Join(modes, " and "), "", ""}
		if worst != nil && rate != nil {
			sums[1], sums[2] = "worst "+service.FormatSeconds(*worst)+" behind", service.FormatRate(*rate)+" changes/s"
		}
		if parked > 0 {
			sums[2] = strings.TrimPrefix(sums[2]+", "+service.Plural(parked, "row")+" parked", ", ")
		}
		return sums
	}
}

// elsewhere says why it is not known how far the table is.
func (t *TableStatus) elsewhere() string {
	if t.State == service.StateWaiting { // for Kafka, which has not given it to anybody
		return "–"
	}
	return cmp.Or(t.Unknown, "another sink's")
}

// note says what stands beside the state of a table.
func (t *TableStatus) note() string {
	note := ""
	add := func(text string) {
		if note != "" {
			note += ", "
		}
		note += text
	}
	switch {
	case t.Trouble != nil:
		add(t.Trouble.Code)
	case t.State == service.StatePaused && t.PausedReason != "":
		add(t.PausedReason)
	case t.WaitingOn != "":
		add("for " + t.WaitingOn)
	case t.ETASeconds != nil && t.State == service.StateCatchingUp:
		add(service.FormatLeft(time.Duration(*t.ETASeconds * float64(time.Second))))
	case t.ReloadDue:
		add("loaded anew: removes rows that are gone")
	case t.ReloadSince != nil && t.State == service.StateSnapshotting:
		add("loaded anew, for " + service.FormatDuration(time.Since(*t.ReloadSince)))
	case t.State == service.StateSnapshotting:
		add(service.FormatCount(t.SnapshotRows) + " rows published")
	}
	if t.Parked > 0 {
		add(fmt.Sprintf("parked: %d", t.Parked))
	}
	if len(t.Former) > 0 {
		add("rows of another rule")
	}
	if t.Gone {
		add("captured no more")
	}
	if t.InsertsOnly {
		add("INSERT, TRUNCATE only")
	}
	return note
}
