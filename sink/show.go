package sink

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
)

// Report is a Status and who has told it.
type Report struct {
	*Status
	// Asked says where the status comes from: the sink, or, where none answers, the warehouse.
	Asked string `json:"asked"`

	source string // the only one that is shown; "" for all
}

// Of gives the report of one source, "" for all.
func (r *Report) Of(source string) *Report {
	r.source = source
	return r
}

// Ask gives the status of the group: of the sink that listens at http.listen, else of what the warehouse says. Where
// whom has a URL only the sink at that address is asked.
func (o *Operator) Ask(ctx context.Context, cfg Config, whom service.Whom) (*Report, error) {
	at, why := whom.Address(cfg.HTTP), "the warehouse"
	if !whom.Direct {
		st, err := askService(ctx, cfg, whom)
		if err == nil {
			return &Report{Status: st, Asked: "the sink at " + at}, nil
		}
		if whom.URL != "" {
			return nil, fmt.Errorf("ask %s: %w", at, err)
		}
		why += fmt.Sprintf(": no sink answers at %s: %v", at, err)
	}
	st, err := o.Status(ctx, cfg)
	if err != nil {
		return nil, err
	}
	failed := o.outlook.failure()
	if st.State != service.StateNotRunning && (failed != "" && st.ended() || empty(ctx, cfg)) {
		st.notRunning()
	}
	if failed != "" {
		switch st.State {
		case service.StateUpToDate, service.StateSnapshotting, service.StateCatchingUp, service.StateBehind: // as far as the warehouse alone says
			st.State, st.Headline = service.StateWaiting, "may have more to do than the warehouse tells: "+failed+st.completeTo(". The warehouse is ")+"."
		}
		why += "; " + failed
	}
	return &Report{Status: st, Asked: why}, nil
}

// empty says that no sink is in the group. Where Kafka does not say, it is not known.
func empty(ctx context.Context, cfg Config) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	client, err := kafkaClient(cfg)
	if err != nil {
		return false
	}
	defer client.Close()
	members, err := membersOf(ctx, kadm.NewClient(client), cfg.Group)
	return err == nil && members == 0
}

func askService(ctx context.Context, cfg Config, whom service.Whom) (*Status, error) {
	var st Status
	if err := whom.Ask(ctx, cfg.HTTP, "/status", &st); err != nil {
		return nil, err
	}
	if st.Schema != statusSchema || st.Group != cfg.Group {
		return nil, fmt.Errorf("it is not a sink of this group, but %q of %q", st.Schema, st.Group)
	}
	return &st, nil
}

// Well says that nothing needs a person: the exit code of the verb.
func (r *Report) Well() bool {
	urgent := slices.ContainsFunc(r.Needs, func(n service.Need) bool { return n.Urgent })
	return !urgent && !strings.HasPrefix(r.Headline, service.NeedsYou) && service.Look(r.State).Colour != "red"
}

// Until gives what --wait of the verb waits for, of one source or of all ("").
func (o *Operator) Until(ctx context.Context, cfg Config, name, source string) (terminal.Missing, error) {
	if name == "caught-up" {
		missing, err := o.applied(ctx, cfg, source)
		if trouble.CodeOf(err) == trouble.TargetMissing || retry.Transient(err) {
			err = nil // the sink that has just been started makes them; or who was asked comes back
		}
		return func(terminal.Status) string {
			if missing == nil {
				var err error
				if missing, err = o.applied(ctx, cfg, source); err != nil {
					return err.Error()
				}
			}
			return missing()
		}, err
	}
	text, ok := strings.CutPrefix(name, "complete=")
	want, err := change.ParseLSN(text)
	if !ok || err != nil {
		return nil, terminal.Usagef("--wait is %q; write caught-up, or complete=LSN with a position like 16/B2F01A20", name)
	}
	return func(st terminal.Status) string {
		r, _ := st.(*Report)
		lacks := "no source has reported yet"
		for i := range r.Sources {
			src := &r.Sources[i]
			if source != "" && src.Name != source || source == "" && src.State == service.StateLeftOut {
				continue
			}
			if at, err := change.ParseLSN(src.CompleteLSN); err != nil || at < want {
				lacks = src.Name + " is complete up to " + cmp.Or(src.CompleteLSN, "nothing")
				if src.Reason != "" {
					lacks += ", and not read any more: " + src.Reason
				}
				return lacks
			}
			lacks = ""
		}
		return lacks
	}, nil
}

// Bars are of the tables whose existing rows are still to come.
func (r *Report) Bars() []terminal.Progress {
	var all []terminal.Progress
	for i := range r.Tables {
		t := &r.Tables[i]
		if records := value(t.Records); t.Snapshot && records > 0 {
			left := time.Duration(0)
			if t.ETASeconds != nil {
				left = time.Duration(*t.ETASeconds * float64(time.Second))
			}
			all = append(all, terminal.Progress{Name: t.name(), Done: t.Applied, Total: t.Applied + records, Unit: "records", Estimated: true, Rate: value(t.RowsPerSec), Left: left})
		}
	}
	return all
}

// Show writes the report: the sentence, and, where there is something to say, the rest; what needs a person is told whole. In a pipe the
// tables alone are the result: that of sources and that of tables, or, where tables are asked for, the latter.
func (r *Report) Show(out *terminal.Output, look *terminal.Look) error {
	sources, wellSources, err := r.shownSources(out, look, r.source)
	if err != nil {
		return err
	}
	tables, wellTables, err := r.shownTables(out, look, r.source)
	if err != nil {
		return err
	}
	told := out.Beside()
	told.Sentence(r.Sentence())
	if topics := r.unmatched(); topics != "" {
		if r.UnmatchedHint != "" { // a sink of before does not tell it
			topics += " (" + r.UnmatchedHint + ")"
		}
		told.Sentence(topics)
	}
	quiet := r.State == service.StateUpToDate && len(r.Needs) == 0 && len(tables.Rows) == 0
	if !quiet || look.All || r.source != "" || len(look.Tables) > 0 || !out.Terminal {
		if facts := r.facts(look.All); len(facts) > 0 { // the warehouse alone may know none
			told.Printf("\n")
			told.Facts(facts)
		}
		if out.Terminal || len(look.Tables) == 0 {
			if err := out.Counted(sources, wellSources, "source", "up to date"); err != nil {
				return err
			}
		}
		if err := out.Counted(tables, wellTables, "table", "up to date"); err != nil {
			return err
		}
		told.Needs(r.Needs, "sink")
		told.Accepted(r.Accepted)
	}
	if !strings.HasPrefix(r.Asked, "the sink") {
		out.Note("(asked %s)\n", r.Asked)
	}
	return nil
}

// mostMembers is of how many there is a line, unless all are asked for.
const mostMembers = 10

func (r *Report) facts(allMembers bool) []terminal.Fact {
	var all []terminal.Fact
	add := func(name, value, note string) { all = append(all, terminal.Fact{Name: name, Value: value, Note: note}) }
	if last := r.complete(); last != nil {
		note := service.FormatSeconds(*last.AgeSeconds) + " ago: " + r.holds(last)
		for _, more := range []string{r.others(last), r.except()} {
			if more != "" {
				note += "; " + more
			}
		}
		add("complete", "up to "+terminal.Clock(*last.until()), note)
	}
	records := int64(0)
	for i := range r.Tables {
		records += value(r.Tables[i].Records)
	}
	waiting := service.Plural(records, "record")
	if r.blind() {
		waiting = "-"
	}
	if r.Instance != "" { // else no sink was asked
		rate, note := r.RowsPerSec, "last minute, by this sink"
		if all := r.RowsPerSecGroup; all != nil && r.sinks() > 1 {
			rate, note = *all, "last minute, "+service.FormatRate(r.RowsPerSec)+" by this sink"
		}
		if r.RowsPerSecHour != nil {
			note += "; " + service.FormatRate(*r.RowsPerSecHour) + " over the last hour"
		}
		add("applied", service.FormatRate(rate)+" changes/s", note)
		if r.LatencyP50 != nil && r.LatencyP99 != nil {
			add("latency", "p50 "+service.FormatSeconds(*r.LatencyP50), "p99 "+service.FormatSeconds(*r.LatencyP99)+", commit at the source to commit here, last 5 min")
		}
		add("waiting", waiting, fmt.Sprintf("%s in memory, limit %s", service.FormatBytes(r.BufferBytes), service.FormatBytes(r.BufferLimit)))
	} else if len(r.Tables) > 0 {
		add("waiting", waiting, "in Kafka")
	}
	if goes, ok := service.TimeGoes(r.Stages); ok {
		add("time goes", goes, "")
	}
	awaited := map[string]bool{}
	for i := range r.Waiting {
		w := &r.Waiting[i]
		if awaited[w.whom()] {
			continue // who has waited longest for it is told
		}
		awaited[w.whom()] = true
		add("waits", "for "+w.whom(), fmt.Sprintf("for %s, try %d", service.FormatDuration(time.Since(w.Since)), w.Tries))
	}
	for i := range r.Locks {
		l := &r.Locks[i]
		add("waits", "for "+l.whose(), "for "+service.FormatDuration(time.Since(l.Since)))
	}
	if len(r.Members) > 0 {
		add("members", service.Plural(r.sinks(), "sink"), r.rebalance())
	}
	for i := range r.Members {
		if !allMembers && i == mostMembers {
			add("", "", fmt.Sprintf("%d more (--all)", len(r.Members)-i))
			break
		}
		add("", "", r.Members[i].line())
	}
	if r.State == service.StateNotRunning {
		add("next", "sink run", "")
	}
	return all
}

func (r *Report) shownSources(out *terminal.Output, look *terminal.Look, only string) (*terminal.Table, int, error) {
	t := &terminal.Table{Columns: []terminal.Column{
		{Title: "source"},
		{Title: "state"},
		{Title: "complete up to"},
		{Title: "age", Number: true},
		{Title: "changes/s", Number: true},
		{Title: "capture"},
		{Title: "WAL kept", Wide: true, Number: true},
		{Title: "tables", Number: true},
	}}
	rest, known := 0, []string{}
	rows := slices.Clone(r.Sources)
	slices.SortStableFunc(rows, func(a, b SourceStatus) int {
		return cmp.Compare(service.StateRank(a.State), service.StateRank(b.State))
	})
	for i := range rows {
		src := &rows[i]
		known = append(known, src.Name)
		if only != "" && src.Name != only {
			continue
		}
		if src.State == service.StateUpToDate && out.Terminal && !look.All && only == "" {
			rest++
			continue
		}
		age := terminal.Cell{Text: "-", Raw: ""}
		if src.AgeSeconds != nil {
			age = terminal.Number(service.FormatSeconds(*src.AgeSeconds), *src.AgeSeconds)
		}
		reported, beside := src.reported()
		separator := ", "
		if reported == service.StateSilent {
			separator = " " // no report for 41 s
		}
		capture := terminal.Cell{Text: service.Look(reported).Word + separator + beside, Raw: reported, State: reported}
		wal := terminal.Number(service.FormatBytes(src.Capture.WALKept), src.Capture.WALKept)
		if src.State == service.StateLeftOut { // what its capture has said is of when it was read
			capture, wal = terminal.Cell{Text: src.Reason, Raw: ""}, terminal.Cell{Text: "-", Raw: ""}
		}
		t.Rows = append(t.Rows, []terminal.Cell{
			{Text: src.Name},
			{Text: service.Look(src.State).Word, Raw: src.State, State: src.State},
			moment(src.until()), age,
			terminal.Number(service.FormatRate(src.RowsPerSec), src.RowsPerSec), capture, wal,
			{Text: fmt.Sprint(src.Tables)},
		})
	}
	if only != "" && len(t.Rows) == 0 {
		return nil, 0, terminal.Usage(terminal.Nearest("source", only, known))
	}
	return t, rest, nil
}

func (r *Report) shownTables(out *terminal.Output, look *terminal.Look, only string) (*terminal.Table, int, error) {
	t := &terminal.Table{Columns: []terminal.Column{
		{Title: "table"},
		{Title: "state"},
		{Title: "behind", Number: true},
		{Title: "records", Number: true},
		{Title: "changes/s", Wide: true, Number: true},
		{Title: "last commit", Wide: true},
		{Title: "target"},
		{Title: "mode", Wide: true},
		{Title: "note", Wraps: true},
	}}
	rest, known := 0, []string{}
	rows := slices.Clone(r.Tables)
	slices.SortStableFunc(rows, func(a, b TableStatus) int { return cmp.Compare(service.StateRank(a.State), service.StateRank(b.State)) })
	for i := range rows {
		one := &rows[i]
		known = append(known, one.name(), one.Table)
		if only != "" && one.Source != only || !look.Shows(one.name()) && !look.Shows(one.Table) {
			continue
		}
		if one.State == service.StateUpToDate && one.Parked == 0 && out.Terminal && !look.All && only == "" && len(look.Tables) == 0 {
			rest++
			continue
		}
		t.Rows = append(t.Rows, []terminal.Cell{
			{Text: one.name()},
			{Text: service.Look(one.State).Word, Raw: one.State, State: one.State},
			number(one.BehindSeconds, service.FormatSeconds), number(one.Records, service.FormatCount), number(one.RowsPerSec, service.FormatRate),
			moment(one.LastCommit),
			{Text: one.Target},
			{Text: one.Mode},
			{Text: r.beside(one)},
		})
	}
	if len(t.Rows) == 0 && len(look.Tables) > 0 {
		return nil, 0, look.None(known)
	}
	return t, rest, nil
}

// moment is a cell for a time that may not be known.
func moment(at *time.Time) terminal.Cell {
	if at == nil {
		return terminal.Moment(time.Time{})
	}
	return terminal.Moment(*at)
}

// number is a cell for a number that may not be known.
func number[T int64 | float64](n *T, form func(T) string) terminal.Cell {
	if n == nil {
		return terminal.Number("-", "")
	}
	return terminal.Number(form(*n), *n)
}

// beside is what stands in the last column: note, why it is not known how far the table is, and what retention has done.
func (r *Report) beside(t *TableStatus) string {
	var all []string
	if note := t.note(); note != "" {
		all = append(all, note)
	}
	if t.BehindSeconds == nil && t.State != service.StateWaiting {
		all = append(all, t.elsewhere())
	}
	switch {
	case t.Keep == "":
	case t.ExpiredAt == nil:
		all = append(all, "keep "+t.Keep+": not looked yet")
	default:
		all = append(all, fmt.Sprintf("keep %s: %s rows removed, last at %s", t.Keep, service.FormatCount(t.Expired), terminal.Clock(*t.ExpiredAt)))
	}
	return strings.Join(all, ", ")
}
