package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
)

// A slot is made while transactions run, and the server waits for them. It shows the slot meanwhile, which stands nowhere yet. Whoever
// makes it may be killed then, and the server does not notice before it has something to say: the slot is there when it is made, and nobody's.
// So a slot that is being made is no slot to anybody; when it is made, it is one that nobody has ever streamed from.

// lookAtMaking is how often it is looked whether a slot is made, and whose transaction that waits for.
const lookAtMaking = 2 * time.Second

// createSlot makes the slot and, while the server waits for transactions to end, says for which.
func (c *Capture) createSlot(ctx context.Context, conn *replication.Conn, cat *catalog.Catalog, name string) (change.LSN, error) {
	server, err := cat.Server(ctx) // a slot may have been dropped since the session began
	if err != nil {
		return 0, err
	}
	if server.SlotsUsed >= server.SlotsMax {
		return 0, &trouble.Error{
			Code: trouble.SlotsExhausted, Op: "create", Subject: fmt.Sprintf("slot %q", name),
			Cause: fmt.Errorf("%d of %d slots are in use", server.SlotsUsed, server.SlotsMax),
			Means: "nothing was changed", Hint: "raise max_replication_slots, or drop slots that nobody needs",
		}
	}
	type outcome struct {
		lsn change.LSN
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result := make(chan outcome, 1)
	go func() {
		lsn, err := conn.CreateSlot(ctx, name, c.config.Source.Failover && server.Major() >= 17 && !server.InRecovery)
		result <- outcome{lsn, err}
	}()
	tick := time.NewTicker(lookAtMaking)
	defer tick.Stop()
	defer c.others.read.Wait(waitOld)()
	defer c.oldest.Store(nil)
	told := ""
	for {
		select {
		case r := <-result:
			if r.err != nil {
				return 0, catalog.Unreachable("create", fmt.Sprintf("slot %q", name), r.err)
			}
			return r.lsn, nil
		case <-tick.C:
			if err := c.tellOld(ctx, cat, name, &told); err != nil {
				cancel()
				<-result
				return 0, err
			}
		}
	}
}

// tellOld says which transactions the making of a slot waits for. told is whose was named last.
func (c *Capture) tellOld(ctx context.Context, cat *catalog.Catalog, slot string, told *string) error {
	blockers, err := cat.Blockers(ctx, time.Second)
	if err != nil {
		return err
	}
	c.oldest.Store(openTransaction(blockers, time.Now()))
	for i, b := range blockers {
		if i == 0 && b.Whose() == *told { // the status says how long it takes
			break
		}
		if i == 0 {
			*told = b.Whose()
		}
		c.log.Warn("creating the slot waits for an open transaction", "slot", slot, "of", b.Whose(),
			"open_for", b.Age.Round(time.Second), "code", trouble.SlotWaits, "hint", "wait, or "+b.End())
	}
	return nil
}

// tellMaking has a status that nobody's service gives say who makes the slot: nobody streams from it, and nobody may ever.
func (st *Status) tellMaking(ctx context.Context, cat *catalog.Catalog, slot *catalog.Slot) error {
	blockers, err := cat.Blockers(ctx, 0)
	st.State, st.Holder, st.making = service.StateStarting, slot.Holder, slot
	st.WaitingOn, st.Oldest = waitOld, openTransaction(blockers, time.Now())
	return err
}

// madeBy is how to be rid of who makes the slot.
func madeBy(slot *catalog.Slot) service.Step {
	return service.Step{
		Command: fmt.Sprintf("SELECT pg_terminate_backend(%d);", slot.ActivePID),
		Note:    "only if the capture that makes the slot is dead: its server process does not notice that by itself",
	}
}

// awaitMade waits until a slot that somebody else makes is made, or is not there any more.
func (c *Capture) awaitMade(ctx context.Context, cat *catalog.Catalog, slot *catalog.Slot) error {
	c.log.Warn("the slot is being made already, and is waited for", "slot", slot.Name, "pid", slot.ActivePID, "by", slot.Holder,
		"hint", fmt.Sprintf("wait; or, if whoever makes it is dead: SELECT pg_terminate_backend(%d);", slot.ActivePID))
	tick := time.NewTicker(lookAtMaking)
	defer tick.Stop()
	defer c.others.read.Wait(waitOld)()
	defer c.oldest.Store(nil)
	told := ""
	for slot != nil && slot.Making {
		if err := c.tellOld(ctx, cat, slot.Name, &told); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		err := c.takenOver(ctx)
		if err != nil {
			return err
		}
		if slot, err = cat.Slot(ctx, slot.Name); err != nil {
			return err
		}
	}
	return nil
}

// slotPatience is how long a slot may be in somebody else's hands: a server takes as long to notice that a client has
// died.
var slotPatience = time.Minute

// errHeld says that somebody else has the slot.
var errHeld = errors.New("somebody else has the slot")

// isMoved says whether err is that somebody else has the slot, or has made or dropped it since it was looked at.
func isMoved(err error) bool {
	switch postgres.SQLState(err) {
	case "55006", "42704", "42710":
		return true
	}
	return errors.Is(err, errHeld)
}

// awaitFree waits a moment for a slot that was not to be had, as why says; after the deadline it gives up.
func (c *Capture) awaitFree(ctx context.Context, cat *catalog.Catalog, name string, deadline time.Time, why error) error {
	// Who waits writes nothing, and so is not told that it has been fenced:
	//
	//	a: streams
	//	b: claims the source, and waits for the slot
	//	c: claims the source, finds the slot free, as a has ended, and streams from then on
	if taken := c.takenOver(ctx); taken != nil {
		return taken
	}
	slot, err := cat.Slot(ctx, name)
	if err != nil {
		return err
	}
	late := time.Now().After(deadline)
	if late && slot != nil && slot.Active && !slot.Making {
		return &trouble.Error{
			Code: trouble.SlotInUse, Op: "start to stream from", Subject: fmt.Sprintf("slot %q", name),
			Cause: fmt.Errorf("pid %d streams from it: %s", slot.ActivePID, slot.Holder),
			Means: "nothing was changed; the other process goes on",
			Hint:  fmt.Sprintf("end the other process; if it is dead: SELECT pg_terminate_backend(%d);", slot.ActivePID),
		}
	}
	if late && !errors.Is(why, errHeld) && postgres.SQLState(why) != "55006" {
		return why
	}
	defer c.others.read.Wait(waitSlot)()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(500 * time.Millisecond):
		return nil
	}
}
