package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// ShowSlot prints what capture has made at the source.
func (c *Capture) ShowSlot(ctx context.Context, w io.Writer) error {
	out := terminal.To(w)
	cat, err := c.open(ctx, "slot")
	if err != nil {
		return err
	}
	defer cat.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	slot, err := cat.Slot(ctx, c.config.Source.slot())
	if err != nil {
		return err
	}
	pubs := c.config.Source.publications()
	have, err := cat.HavePublications(ctx, pubs)
	if err != nil {
		return err
	}
	if slot == nil {
		out.Printf("slot         %s   there is none\n", c.config.Source.slot())
	} else {
		out.Printf("slot         %s   %s, %s\n", slot.Name, slot.WALStatus, activity(slot))
		if !slot.Making {
			out.Printf("confirmed    %s   %s to publish\n", slot.ConfirmedFlushLSN, service.FormatBytes(slot.ToPublishBytes))
		}
		out.Printf("WAL kept     %s   budget %s, %s\n", service.FormatBytes(slot.KeptBytes), service.FormatBytes(int64(c.config.Source.WALBudget)), serverLimit(slot))
	}
	out.Printf("publications %s, %s   %s\n", pubs.Full, pubs.Insert, map[bool]string{true: "there", false: "not there, or one of them only"}[have])
	return nil
}

func activity(slot *catalog.Slot) string {
	switch {
	case slot.Making:
		return fmt.Sprintf("pid %d is making it: %s", slot.ActivePID, slot.Holder)
	case slot.Active:
		return fmt.Sprintf("pid %d streams: %s", slot.ActivePID, slot.Holder)
	}
	return "nobody streams"
}

func serverLimit(slot *catalog.Slot) string {
	if slot.SafeBytes == nil {
		return "the server has no limit"
	}
	return fmt.Sprintf("the server drops it after another %s", service.FormatBytes(*slot.SafeBytes))
}

// DropSlot removes the slot and the publications, so that nothing of capture is left at the source, and prints what it
// did. What is not published then never will be; a later start finds a gap. It refuses where somebody goes on streaming.
func (c *Capture) DropSlot(ctx context.Context, w io.Writer) error {
	out := terminal.To(w)
	cat, err := c.open(ctx, "slot")
	if err != nil {
		return err
	}
	defer cat.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	name, pubs := c.config.Source.slot(), c.config.Source.publications()
	slot, err := letGo(ctx, cat, name)
	if err != nil {
		return err
	}
	if slot != nil {
		if err := c.dropSlot(ctx, slot); err != nil {
			return err
		}
		out.Printf("dropped slot %s: the source keeps %s less\n", name, service.FormatBytes(slot.KeptBytes))
	} else {
		out.Printf("there is no slot %s\n", name)
	}
	if err := cat.DropPublications(ctx, pubs); err != nil {
		return err
	}
	out.Printf("dropped publications %s, %s, where they were\n", pubs.Full, pubs.Insert)
	return nil
}

// dropPatience is how long a slot that is to be dropped may still be streamed from.
var dropPatience = 5 * time.Second

// letGo describes a slot, nil if there is none, when nobody streams from it any more, or goes on to:
//
//	capture: is told to end, closes its connection, and is gone
//	person:  drops the slot
//	server:  notices that the connection is closed, and that nobody streams
func letGo(ctx context.Context, cat *catalog.Catalog, name string) (*catalog.Slot, error) {
	for deadline := time.Now().Add(dropPatience); ; {
		slot, err := cat.Slot(ctx, name)
		if err != nil || slot == nil || !slot.Active || slot.Making || time.Now().After(deadline) {
			return slot, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *Capture) dropSlot(ctx context.Context, slot *catalog.Slot) error {
	subject := fmt.Sprintf("slot %q", slot.Name)
	inUse := &trouble.Error{
		Code: trouble.SlotInUse, Op: "drop", Subject: subject, Cause: errors.New(activity(slot)),
		Means: "nothing was changed", Hint: "stop that capture first",
	}
	if slot.Making {
		inUse.Hint += fmt.Sprintf("; if it is dead: SELECT pg_terminate_backend(%d);", slot.ActivePID)
	}
	if slot.Active || slot.Making {
		return inUse
	}
	conn, system, err := c.replicate(ctx, "slot")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	if !ours(slot, system.Database) {
		return &trouble.Error{
			Code: trouble.Gap, Op: "drop", Subject: subject, Cause: fmt.Errorf("it is not a slot of ours: plugin %q, database %q", slot.Plugin, slot.Database),
			Means: "nothing was changed", Hint: "set source.slot to the name of capture's own slot",
		}
	}
	if err := conn.DropSlot(ctx, slot.Name); err != nil {
		if postgres.SQLState(err) == "55006" { // somebody has come meanwhile
			inUse.Cause = err
			return inUse
		}
		return catalog.Unreachable("drop", subject, err)
	}
	return nil
}
