package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
)

// budget watches how much WAL the source keeps for us against what it may keep. It does not depend on a session: the
// WAL piles up just when there is none. Its methods are safe for concurrent use.
type budget struct {
	slot  string // name
	limit int64
	log   *slog.Logger
	meter *meter

	blockers   []catalog.Blocker // as of blockersAt; of the watching goroutine
	blockersAt time.Time

	mu      sync.Mutex
	samples []keptSample // of the last growthWindow, oldest first
	wal     WAL          // zero until the first look
	seen    standing
	level   int // index into budgetLevels of the alarm that is on, -1 for none
	alarm   *trouble.Error
	passed  passed
	ahead   *time.Duration // of the source's clock before ours; nil: not known
}

// standing is where the slot stood when it was looked at; zero before.
type standing struct {
	at                time.Time
	confirmed, server change.LSN
	toPublish         int64
	until             time.Time     // all that was committed before is confirmed; zero: not known
	active, missing   bool          // somebody streams from the slot; it is gone
	holder            string        // who does
	oldest            time.Duration // age of the oldest open transaction that has written
}

// standing gives the newest.
func (b *budget) standing() standing {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen
}

// keptSample is what was kept at one moment.
type keptSample struct {
	at   time.Time
	kept int64
}

const (
	// growthWindow is how far back growth is measured.
	growthWindow = 15 * time.Minute
	// hysteresis keeps an alarm from going on and off around its level.
	hysteresis = 0.05
	// blockersEvery is at which look at the slot the server's sessions are looked at, too: of a server with many databases there
	// are many, and each has a capture that asks.
	blockersEvery = 5
	// unseenAfter is how old what is known of the source's WAL may be to be shown as what is.
	unseenAfter = time.Minute
	// The source is asked after so many times source.refresh at the latest whether tables have changed, where that is much work, and not more often than so.
	sparedRefreshes, sparedLeast = 10, 30 * time.Second
	// skewShown is from where on clocks that differ are told of.
	skewShown = time.Second
	// oldTransaction is how long a transaction must be open to be called the cause.
	oldTransaction = time.Minute
)

// budgetLevels are the parts of the budget at which the alarm goes on.
var budgetLevels = []float64{0.5, 0.8}

func newBudget(config *Config, log *slog.Logger, meter *meter) *budget {
	b := &budget{slot: config.Source.slot(), limit: int64(config.Source.WALBudget), log: log, meter: meter, level: -1}
	b.wal.BudgetBytes = b.limit
	return b
}

// watchBudget looks at the source until ctx ends, and hands what it sees to the session, if there is one. While the source cannot be
// reached it is that which says so.
func (c *Capture) watchBudget(ctx context.Context) {
	tick := time.NewTicker(c.config.Source.Refresh)
	defer tick.Stop()
	var cat *catalog.Catalog
	defer func() {
		if cat != nil {
			_ = cat.Close(context.WithoutCancel(ctx))
		}
	}()
	blind, told := time.Time{}, false // since when it has not been seen; that is logged
	for {
		switch err := c.lookAtBudget(ctx, &cat); {
		case err == nil:
			if told {
				c.log.Info("the source is looked at again", "after", service.FormatDuration(time.Since(blind)))
			}
			blind, told = time.Time{}, false
		case ctx.Err() == nil:
			if blind.IsZero() {
				blind = time.Now()
			}
			if !told && time.Since(blind) >= unseenAfter {
				told = true
				c.log.Warn("the connection that looks at what the source keeps cannot be had; while capture streams, another one looks less often", service.Err(err))
			}
			c.log.Debug("the slot's WAL is not known", service.Err(err))
			if cat != nil {
				_ = cat.Close(ctx)
				cat = nil
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lookInstead is a look of the session's watcher, where those of watchBudget do not come: its connection may be lost alone, and cannot come back,
// as the server's are used up. What is kept is watched all the same, and a pause ends.
func (c *Capture) lookInstead(ctx context.Context, cat *catalog.Catalog) (*catalog.Look, error) {
	l, err := c.look(ctx, cat)
	if err != nil {
		return nil, err
	}
	var old []catalog.Blocker
	if l.Slot != nil {
		if old, err = cat.Blockers(ctx, 0); err != nil {
			return nil, err
		}
	}
	c.budget.observe(time.Now(), l.Slot, old, c.holdsUp(l.Slot, old))
	return l, nil
}

func (c *Capture) lookAtBudget(ctx context.Context, cat **catalog.Catalog) error {
	if *cat == nil {
		opened, err := c.open(ctx, "budget")
		if err != nil {
			return err
		}
		opened.Spare(max(sparedRefreshes*c.config.Source.Refresh, sparedLeast))
		*cat = opened
	}
	ctx, cancel := context.WithTimeout(ctx, unseenAfter) // a connection that hangs is no use: the next look has another
	defer cancel()
	began := time.Now()
	l, err := c.look(ctx, *cat)
	if err != nil {
		return err
	}
	slot := l.Slot
	select {
	case <-c.looks: // nobody has taken it
	default:
	}
	c.looks <- look{began, l} // there is room: only this goroutine sends
	c.fallsBehind(slot)
	now := time.Now()
	if b := c.budget; slot != nil && now.Sub(b.blockersAt) >= blockersEvery*c.config.Source.Refresh {
		if b.blockers, err = (*cat).Blockers(ctx, 0); err != nil {
			return err
		}
		b.blockersAt = now
	}
	if slot != nil {
		c.oldest.Store(openTransaction(c.budget.blockers, c.budget.blockersAt))
	}
	old := slices.Clone(c.budget.blockers)
	for i := range old {
		old[i].Age += now.Sub(c.budget.blockersAt)
	}
	c.budget.observe(now, slot, old, c.holdsUp(slot, old))
	return nil
}

// clock takes what the source's clock said when it was asked between began and now.
func (b *budget) clock(began, source time.Time) {
	took := time.Since(began)
	if source.IsZero() || took > skewShown {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ahead = new(source.Sub(began.Add(took / 2)))
}

// reason is why WAL is kept, and what to do about it.
type reason struct{ cause, hint string }

// holdsUp finds why the source keeps WAL for slot.
func (c *Capture) holdsUp(slot *catalog.Slot, old []catalog.Blocker) reason {
	if p := c.pausing.holds(); p != nil {
		return reason{fmt.Sprintf("%s has paused it, %s ago", p.By, service.FormatDuration(time.Since(p.Since))), "capture resume"}
	}
	if t := c.trouble.Load(); t != nil {
		return reason{fmt.Sprintf("nothing is published: %s", t.Code), fmt.Sprintf("see docs/runbooks/%s.md: capture goes on by itself when that is mended", t.Code)}
	}
	for _, st := range c.stages.Snapshot() {
		if st.WaitingOn != "" && time.Since(st.Since) > longestOpen {
			return reason{
				fmt.Sprintf("capture has been waiting for %s for %s", whom(st.WaitingOn), service.FormatDuration(time.Since(st.Since))),
				fmt.Sprintf("look at %s; capture goes on by itself", whom(st.WaitingOn)),
			}
		}
	}
	// The slot keeps WAL from the oldest open transaction on, also where all that has ended is published.
	if slot != nil && len(old) > 0 && old[0].Age >= oldTransaction && slot.ToPublishBytes < slot.KeptBytes/2 {
		b := old[0]
		return reason{
			fmt.Sprintf("a transaction has been open for %s: %s", service.FormatDuration(b.Age), b.Whose()),
			"wait, or " + b.End(),
		}
	}
	if ago, ok := c.pausing.endedAgo(); ok {
		return reason{fmt.Sprintf("a pause ended %s ago, and what was written meanwhile is being published", service.FormatDuration(ago)), "wait: capture status says how far it is"}
	}
	why := limit(c.stages.Snapshot())
	if why.cause == "" {
		return reason{"the source writes faster than capture publishes", "see in capture status where the time goes"}
	}
	why.cause = "the source writes faster than capture publishes: " + why.cause
	return why
}

// observe takes one look at the slot, nil if it is not there, and at open transactions, the oldest first, and sets the alarm.
func (b *budget) observe(now time.Time, slot *catalog.Slot, old []catalog.Blocker, why reason) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if slot == nil {
		gone := b.seen.missing || !b.seen.at.IsZero()
		b.samples, b.wal, b.level, b.alarm, b.seen = nil, WAL{BudgetBytes: b.limit}, -1, nil, standing{missing: gone, until: b.passed.until}
		if gone {
			b.wal.SlotStatus = slotMissing
		}
		return
	}
	b.stand(now, slot)
	if len(old) > 0 {
		b.seen.oldest = old[0].Age
	}
	b.samples = append(b.samples, keptSample{now, slot.KeptBytes})
	for len(b.samples) > 2 && now.Sub(b.samples[1].at) >= growthWindow {
		b.samples = b.samples[1:]
	}
	growth, budget := b.growth(), allowed(b.limit, slot.KeptBytes, slot.SafeBytes)
	b.wal = WAL{
		RetainedBytes: slot.KeptBytes, BudgetBytes: budget, SafeBytes: slot.SafeBytes, SlotStatus: slot.WALStatus, Standbys: slot.Standbys,
		GrowthBytesPerSecond: growth, AsOf: now.UTC(),
	}
	if left := budget - slot.KeptBytes; left <= 0 {
		b.wal.FullInSeconds = new(float64)
	} else if growth > 0 {
		seconds := float64(left) / growth
		b.wal.FullInSeconds = &seconds
	}
	b.raise(slot, why)
}

// allowed is how much WAL may be kept: the budget, or where the server drops the slot before that is used, what it allows: safe more
// than are kept; nil: any number. An alarm at a part of a budget that the slot does not live to see would never come.
func allowed(budget, kept int64, safe *int64) int64 {
	if safe != nil {
		return min(budget, kept+*safe)
	}
	return budget
}

// stand notes where the slot stands. One that is being made keeps WAL, and stands nowhere: where there was one before, it is missing still.
func (b *budget) stand(now time.Time, slot *catalog.Slot) {
	before := b.seen
	b.seen = standing{active: slot.Active, holder: holderOf(slot), until: b.passed.until}
	if slot.Making {
		b.seen.missing = before.missing || !before.at.IsZero()
		return
	}
	b.seen.at, b.seen.confirmed, b.seen.toPublish = now, slot.ConfirmedFlushLSN, slot.ToPublishBytes
	b.seen.server = slot.ConfirmedFlushLSN + change.LSN(slot.ToPublishBytes) //nolint:gosec // it is not negative
	b.passed.see(now, b.seen.server)
	b.passed.reach(b.seen.confirmed)
	b.seen.until = b.passed.until
	b.moved(before)
}

// holderOf says who streams from the slot.
func holderOf(slot *catalog.Slot) string {
	if !slot.Active {
		return ""
	}
	return strings.TrimSpace(fmt.Sprintf("pid %d, %s", slot.ActivePID, slot.Holder))
}

// growth gives bytes a second over the window, 0 while it is not known.
func (b *budget) growth() float64 {
	first, last := b.samples[0], b.samples[len(b.samples)-1]
	if seconds := last.at.Sub(first.at).Seconds(); seconds > 0 {
		return float64(last.kept-first.kept) / seconds
	}
	return 0
}

// moved counts the WAL since the look before. Not from zero: a counter that began at an LSN would be a leap at each start.
func (b *budget) moved(before standing) {
	if before.at.IsZero() {
		return
	}
	if b.seen.server > before.server {
		b.meter.sourceWAL.Add(float64(b.seen.server - before.server))
	}
	if b.seen.confirmed > before.confirmed {
		b.meter.confirmedWAL.Add(float64(b.seen.confirmed - before.confirmed))
	}
}

// raise sets, changes or ends the alarm.
func (b *budget) raise(slot *catalog.Slot, why reason) {
	used := float64(slot.KeptBytes) / float64(max(b.wal.BudgetBytes, 1))
	level := -1
	for i, at := range budgetLevels {
		if used >= at || i <= b.level && used >= at-hysteresis {
			level = i
		}
	}
	was := b.level
	b.level = level
	if level < 0 {
		if was >= 0 {
			b.log.Info("the source keeps less WAL again", "slot", b.slot, "kept_bytes", slot.KeptBytes, "budget_bytes", b.wal.BudgetBytes)
		}
		b.alarm = nil
		return
	}
	b.alarm = &trouble.Error{
		Code: trouble.WALBudget, Op: "keep WAL within the budget for", Subject: fmt.Sprintf("slot %q", b.slot),
		Cause: errors.New(b.describe(used) + "; " + why.cause), Means: b.means(slot), Hint: why.hint,
	}
	if level > was {
		b.meter.trouble(trouble.WALBudget)
		b.log.Warn("the source keeps much WAL", service.Err(b.alarm), "means", b.alarm.Means, "hint", why.hint)
	}
}

func (b *budget) describe(used float64) string {
	text := fmt.Sprintf("%s of %s are kept (%.0f %%)", service.FormatBytes(b.wal.RetainedBytes), service.FormatBytes(b.wal.BudgetBytes), 100*used)
	if growth := int64(b.wal.GrowthBytesPerSecond); growth > 0 {
		text += fmt.Sprintf(", growing by %s/s", service.FormatBytes(growth))
	}
	return text
}

func (b *budget) means(slot *catalog.Slot) string {
	var text string
	switch left := b.wal.FullInSeconds; {
	case left == nil:
		text = "it does not grow at present"
	case *left == 0:
		text = "the budget is used up"
	default:
		text = "at this rate the budget is used up in " + service.FormatDuration(seconds(*left))
	}
	if slot.SafeBytes == nil {
		return text + "; the server has no limit of its own: its disk fills"
	}
	text += fmt.Sprintf("; the server drops the slot after another %s", service.FormatBytes(*slot.SafeBytes))
	if growth := b.wal.GrowthBytesPerSecond; growth > 0 {
		text += ", in " + service.FormatDuration(seconds(float64(*slot.SafeBytes)/growth))
	}
	return text
}

func seconds(n float64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/float64(time.Second)-1) * float64(time.Second))
}

// tell puts what is known into st.
func (b *budget) tell(st *Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st.WAL = b.wal
	if b.ahead != nil {
		st.ClockAheadSeconds = new(b.ahead.Seconds())
	}
	if b.alarm != nil {
		st.Alarms = append([]TroubleStatus{tell(b.alarm)}, st.Alarms...)
	}
}
