package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
)

// Report is a Status and who has told it.
type Report struct {
	Status
	// Asked says where the status comes from: the service, or, where that does not answer, the source and Kafka.
	Asked string `json:"asked"`
}

// Ask gives the status of the source's capture: of the service that listens at http.listen, else of what the source's
// catalog and the progress topic say. Where whom has a URL only the service at that address is asked.
func (c *Capture) Ask(ctx context.Context, whom service.Whom) (*Report, error) {
	at, why := whom.Address(c.config.HTTP), "the source and Kafka"
	if !whom.Direct {
		st, err := c.askService(ctx, whom)
		if err == nil {
			return &Report{*st, "the service at " + at}, nil
		}
		if whom.URL != "" {
			return nil, fmt.Errorf("ask %s: %w", at, err)
		}
		why += fmt.Sprintf(": %s does not answer: %v", at, err)
	}
	st, err := c.askSource(ctx)
	if err != nil {
		return nil, err
	}
	return &Report{*st, why}, nil
}

func (c *Capture) askService(ctx context.Context, whom service.Whom) (*Status, error) {
	var st Status
	if err := whom.Ask(ctx, c.config.HTTP, "/status", &st); err != nil {
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
	look, err := cat.Look(ctx, c.config.Source.slot(), c.config.Source.publications())
	if err != nil {
		return nil, err
	}
	slot, pause := look.Slot, look.Pause
	st := &Status{
		Schema: statusSchema, Source: c.config.Source.Name, State: service.StateNotRunning, Slot: c.config.Source.slot(), ServerLSN: look.WAL.String(),
		WAL: WAL{BudgetBytes: int64(c.config.Source.WALBudget), SlotStatus: "missing"}, Tables: []TableStatus{}, Alarms: []TroubleStatus{},
		Paused: tellPause(pause, 0), Stages: []service.StageState{}, Events: []service.Event{}, Build: service.ThisBuild(),
	}
	if slot != nil {
		if pause != nil {
			st.Paused.EndsBytes = pauseLimit(st.WAL.BudgetBytes, slot.KeptBytes, slot.SafeBytes)
		}
		why := reason{"no capture streams from it", "capture run; or, if none is to run any more, capture slot drop"}
		switch {
		case slot.Making:
			why = reason{"it is not made yet", "capture status says for whom that waits"}
			if err := st.tellMaking(ctx, cat, slot); err != nil {
				return nil, err
			}
		case slot.Active:
			why = reason{slot.Holder + " streams from it", "ask that capture: capture status on its host, or with --url"}
			st.State, st.Holder = service.StateElsewhere, slot.Holder
		}
		c.budget.observe(time.Now(), slot, nil, why)
		c.budget.tell(st)
		st.ToPublish = slot.ToPublishBytes
	}
	st.accept = c.config.accepted()
	defer func() { st.judge(time.Now(), 0) }()
	pr, err := publish.ReadProgress(ctx, c.config.Kafka, c.config.Source.Name, c.log)
	if t, ok := errors.AsType[*trouble.Error](err); ok && ctx.Err() == nil { // what the source says is worth most when Kafka is away: how long it can be
		st.Trouble = new(tell(t))
		return st, nil
	}
	if err != nil {
		return nil, err
	}
	if st.State == service.StateNotRunning {
		server, err := cat.Server(ctx)
		if err != nil {
			return nil, err
		}
		err = c.refusal(ctx, server, slot, pr)
		if t, ok := errors.AsType[*trouble.Error](err); ok {
			st.Trouble = new(tell(t))
		} else if err != nil {
			return nil, err
		}
	}
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
	st.Snapshot = snapshotOf(&pr.Health)
	for _, t := range pr.Tables {
		one := TableStatus{Table: t.Schema + "." + t.Table, State: service.StateStreaming, Level: t.Level, SnapshotRows: t.Rows, ExpectedRows: new(t.Rows), LastHour: []float32{}}
		switch {
		case !t.Done:
			one.State, one.ExpectedRows = service.StateSnapshotting, nil // the record does not say
		case st.State != service.StateElsewhere:
			one.State = service.StateNotRunning
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
