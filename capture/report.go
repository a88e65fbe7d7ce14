package capture

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema/change"
)

// Report is a Status and who has told it.
type Report struct {
	Status
	// Asked says where the status comes from: the service, or, where that does not answer, the source and Kafka.
	Asked string `json:"asked"`
}

// Ask gives the status of the source's capture: of the service that listens at http.listen, else of what the source's
// catalog and the progress topic say.
func (c *Capture) Ask(ctx context.Context) (*Report, error) {
	at := service.LocalURL(c.config.HTTP)
	st, serviceErr := c.askService(ctx)
	if serviceErr == nil {
		return &Report{*st, "the service at " + at}, nil
	}
	st, err := c.askSource(ctx)
	if err != nil {
		return nil, err
	}
	return &Report{*st, fmt.Sprintf("the source and Kafka: %s does not answer: %v", at, serviceErr)}, nil
}

func (c *Capture) askService(ctx context.Context) (*Status, error) {
	var st Status
	if err := service.Ask(ctx, c.config.HTTP, "/status", &st); err != nil {
		return nil, err
	}
	if st.Schema != statusSchema || st.Source != c.config.Source.Name {
		return nil, fmt.Errorf("it is not the capture of this source, but %q of %q", st.Schema, st.Source)
	}
	return &st, nil
}

// askSource makes a status of what is known without the service.
func (c *Capture) askSource(ctx context.Context) (*Status, error) {
	cat, err := c.open(ctx, "status")
	if err != nil {
		return nil, err
	}
	defer cat.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	slot, err := cat.Slot(ctx, c.config.Source.slot())
	if err != nil {
		return nil, err
	}
	wal, err := cat.WALPosition(ctx)
	if err != nil {
		return nil, err
	}
	st := &Status{
		Schema: statusSchema, Source: c.config.Source.Name, State: "not_running", Slot: c.config.Source.slot(), ServerLSN: wal.String(),
		WAL: WAL{BudgetBytes: int64(c.config.Source.WALBudget), SlotStatus: "missing"}, Tables: []TableStatus{}, Alarms: []TroubleStatus{},
		Stages: []service.StageState{}, Events: []service.Event{}, Build: service.ThisBuild(),
	}
	if slot != nil {
		c.budget.observe(time.Now(), slot, nil, reason{"no capture streams from it", "capture run; or, if none is to run any more, capture slot drop"})
		c.budget.tell(st)
		st.ToPublish = slot.ToPublishBytes
		if slot.Active {
			st.State, st.Holder = "elsewhere", slot.Holder
		}
	}
	pr, err := publish.ReadProgress(ctx, c.config.Kafka, c.config.Source.Name, c.log)
	if err != nil {
		return nil, err
	}
	defer func() { st.judge(time.Now(), 0) }()
	if pr == nil {
		return st, nil
	}
	st.Instance, st.SystemID, st.Timeline, st.Era = pr.Health.Instance, pr.SystemID, pr.Timeline, pr.Era
	st.PublishedLSN = change.LSN(pr.EndLSN).String()
	if pr.CommitTime != 0 {
		st.PublishedTime = time.UnixMicro(pr.CommitTime).UTC()
		if st.ToPublish > 0 {
			st.LagSeconds = max(time.Since(st.PublishedTime).Seconds(), 0)
		}
	}
	st.Snapshot = SnapshotStatus{
		TablesDone: pr.Health.SnapshotDone, Tables: pr.Health.SnapshotOf, Rows: pr.Health.RowsDone, RowsExpected: pr.Health.RowsExpected,
	}
	for _, t := range pr.Tables {
		one := TableStatus{Table: t.Schema + "." + t.Table, State: "streaming", Level: t.Level, SnapshotRows: t.Rows, ExpectedRows: t.Rows}
		if !t.Done {
			one.State = "snapshotting"
		}
		one.tellHeld(t.Held)
		st.Tables = append(st.Tables, one)
	}
	slices.SortFunc(st.Tables, func(a, b TableStatus) int { return cmp.Compare(a.Table, b.Table) })
	return st, nil
}

// open connects to the source for a verb.
func (c *Capture) open(ctx context.Context, verb string) (*catalog.Catalog, error) {
	dsn, err := c.dsn()
	if err != nil {
		return nil, err
	}
	return catalog.Open(ctx, dsn, "tributary "+verb+" "+c.instance)
}

// Healthy says whether nothing is wrong enough for an exit code.
func (r *Report) Healthy() bool {
	return r.Trouble == nil && r.held() == 0 && r.State != "not_running" && r.State != "stopped" && r.WAL.SlotStatus != "lost"
}

// Print writes the report for people: one sentence, and the rest only where there is something to say.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%s %s\n", r.Source, r.Headline)
	quiet := r.State == "up_to_date" && r.Trouble == nil && len(r.Alarms) == 0
	if !quiet {
		r.printNumbers(w)
	}
	for _, t := range r.Tables {
		switch {
		case t.Held != nil:
			fmt.Fprintf(w, "  %-28s held: nothing of it is published since %s (%s)\n", t.Table, t.HeldLSN, t.Held.Code)
		case t.State == "snapshotting":
			fmt.Fprintf(w, "  %-28s snapshot: %s of about %s rows\n", t.Table, service.FormatCount(t.SnapshotRows), service.FormatCount(max(t.ExpectedRows, t.SnapshotRows)))
		case t.Level == string(catalog.InsertOnly):
			fmt.Fprintf(w, "  %-28s INSERT, TRUNCATE only\n", t.Table)
		}
	}
	if r.Trouble != nil {
		printTrouble(w, "waits because it cannot", r.Trouble)
	}
	for i := range r.Tables {
		if t := r.Tables[i].Held; t != nil && len(r.Alarms) == 0 { // else the service tells it among its alarms
			printTrouble(w, "alarm: cannot", t)
		}
	}
	for i := range r.Alarms {
		printTrouble(w, "alarm: cannot", &r.Alarms[i])
	}
	if strings.HasPrefix(r.Asked, "the source") {
		fmt.Fprintf(w, "(asked %s)\n", r.Asked)
	}
}

func (r *Report) printNumbers(w io.Writer) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	kept := fmt.Sprintf("%s of %s", service.FormatBytes(r.WAL.RetainedBytes), service.FormatBytes(r.WAL.BudgetBytes))
	if r.WAL.GrowthBytesPerSecond > 0 {
		kept += fmt.Sprintf(", growing by %s/s", service.FormatBytes(int64(r.WAL.GrowthBytesPerSecond)))
	}
	line("WAL kept", "%s (%s)", kept, cmp.Or(r.WAL.SlotStatus, "not known"))
	if r.PublishedLSN != "" {
		when := ""
		if !r.PublishedTime.IsZero() {
			when = ", committed " + r.PublishedTime.Format(time.DateTime) + " UTC"
		}
		line("published", "up to %s%s", r.PublishedLSN, when)
	}
	if r.ToPublish > 0 {
		line("to publish", "%s", service.FormatBytes(r.ToPublish))
	}
	if r.ChangesPerSecond > 0 {
		line("changes", "%s/s", service.FormatCount(int64(math.Round(r.ChangesPerSecond))))
	}
	if r.LatencyP50 != nil && r.LatencyP99 != nil {
		line("latency", "%s, one in a hundred above %s", formatSeconds(*r.LatencyP50), formatSeconds(*r.LatencyP99))
	}
	for _, st := range r.Stages {
		if st.Busy > 0 {
			line("busy", "%s with %s since its start", formatSeconds(st.Busy), st.Name)
		}
		if st.WaitingOn != "" {
			line("waits", "for %s, for %s", st.WaitingOn, service.FormatDuration(time.Since(st.Since)))
		}
	}
	if r.State == "not_running" {
		line("next", "capture run")
	}
}

func formatSeconds(seconds float64) string {
	return service.FormatDuration(time.Duration(seconds * float64(time.Second)))
}

func printTrouble(w io.Writer, what string, t *TroubleStatus) {
	fmt.Fprintf(w, "%s %s %s: %s\n", what, t.Op, t.Subject, t.Cause)
	for _, one := range [][2]string{{"means", t.Means}, {"hint", t.Hint}, {"see", fmt.Sprintf("docs/runbooks/%s.md", t.Code)}} {
		if one[1] != "" {
			fmt.Fprintf(w, "  %-6s %s\n", one[0], strings.ReplaceAll(one[1], "\n", "\n         "))
		}
	}
}
