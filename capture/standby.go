package capture

import (
	"context"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/service"
)

// standbyPatience is how long the slot must have been free before a standby takes over: an instance that begins a new
// session, because a broker or the source went away for a moment, leaves it for a while.
var standbyPatience = 5 * time.Second

// fencedPatience is the same for one that has been fenced: there is another, which may take its time to begin.
const fencedPatience = time.Minute

// standBy returns when nobody has streamed from the slot for a while. It fences nobody. Where two standbys return
// at once, the later one fences the other, which stands by again.
func (c *Capture) standBy(ctx context.Context, cat *catalog.Catalog, fenced bool) error {
	name := c.config.Source.slot()
	tick := time.NewTicker(min(c.config.Source.Refresh, standbyPatience/4))
	defer tick.Stop()
	c.active.Store(false)
	done := c.others.read.Wait(waitSlot)
	defer done()
	holder, since, freeSince, patience := -1, time.Time{}, time.Now(), standbyPatience
	if fenced {
		patience = fencedPatience
	}
	for {
		slot, err := cat.Slot(ctx, name)
		if err != nil {
			return err
		}
		pid := 0
		if slot != nil && slot.Active {
			pid, freeSince, patience = slot.ActivePID, time.Now(), standbyPatience
		}
		if pid != holder {
			holder, since = pid, time.Time{}
			if pid != 0 {
				since = time.Now()
				c.log.Info("standing by: another instance has the slot", "slot", name, "pid", pid, "holder", slot.Holder)
			} else {
				c.log.Info("standing by: nobody streams", "slot", name)
			}
		}
		c.standing(slot, since)
		if time.Since(freeSince) >= patience {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// standing makes a standby's state visible, and since when somebody else streams.
func (c *Capture) standing(slot *catalog.Slot, since time.Time) {
	if c.isStopped() && (slot == nil || !slot.Active) {
		return // nobody else is well either
	}
	c.trouble.Store(nil)
	st := &Status{
		Schema: statusSchema, Source: c.config.Source.Name, Instance: c.instance, State: service.StateStandby, Slot: c.config.Source.slot(),
		Tables: []TableStatus{}, Alarms: []TroubleStatus{}, HolderSince: since.UTC(),
	}
	if slot != nil {
		if st.Holder = slot.Holder; slot.Making {
			st.making = slot
		} else {
			st.PublishedLSN = slot.ConfirmedFlushLSN.String()
		}
	}
	c.status.Store(st)
	c.ready() // as ready as a standby can be; a rolling update waits for no more
}
