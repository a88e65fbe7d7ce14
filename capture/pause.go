package capture

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

// A pause holds all publishing of a source: between two transactions the session stands still, and takes nothing from the
// stream. So the source keeps its WAL meanwhile, on its disk. That is why a pause ends by itself, whatever was asked for,
// before what is kept reaches the budget, or what the server would keep of it.

// pauseEnds is the part of either limit at which a pause ends by itself.
const pauseEnds = 0.8

// afterPause is for how long what is kept is told to be of a pause that has ended: by then the stages have been busy for
// what they show, the share of a minute.
const afterPause = time.Minute

// pauseLimit is how many bytes of WAL may be kept while paused, where the server allows safe more than are; nil: any number.
func pauseLimit(budget, kept int64, safe *int64) int64 {
	return int64(pauseEnds * float64(allowed(budget, kept, safe)))
}

// pausing is the pause that holds, as the source says. Its methods are safe for concurrent use.
type pausing struct {
	now   atomic.Pointer[catalog.Pause]
	limit atomic.Int64 // of WAL kept, at which it ends
	over  atomic.Int64 // when the last one ended, in nanoseconds of Unix; 0: none has

	mu     sync.Mutex // never held while the source is asked
	looked time.Time  // when the look that was obeyed last began: an earlier one that comes late says nothing
	ended  time.Time  // Since of the one that has ended by itself, and may stand at the source still
}

func (p *pausing) holds() *catalog.Pause { return p.now.Load() }

// endedAgo gives how long ago the last one ended; ok is false where that says nothing any more of what is kept.
func (p *pausing) endedAgo() (ago time.Duration, ok bool) {
	at := p.over.Load()
	ago = time.Since(time.Unix(0, at))
	return ago, at != 0 && ago < afterPause
}

// look looks at the source, notes its clock, and does what it says of a pause: a pause that has lasted long enough is ended.
func (c *Capture) look(ctx context.Context, cat *catalog.Catalog) (*catalog.Look, error) {
	began := time.Now()
	l, err := cat.Look(ctx, c.config.Source.slot(), c.config.Source.publications()) // which may hang: whoever looks beside it must not
	if err != nil {
		return nil, err
	}
	c.budget.clock(began, l.Now)
	c.obey(ctx, cat, began, l)
	return l, nil
}

// obey is of look, which began then.
func (c *Capture) obey(ctx context.Context, cat *catalog.Catalog, began time.Time, l *catalog.Look) {
	if !c.pauses(began, l) {
		return
	}
	if err := cat.EndThisPause(ctx, c.config.Source.publications(), l.Pause); err != nil { // for which a lock is waited for, too
		c.log.Warn("the source says still that it is paused; it is not", service.Err(err))
	}
}

// pauses pauses or goes on as a look says that began then. ended: it goes on by itself, and the source says still that it is paused.
func (c *Capture) pauses(began time.Time, l *catalog.Look) (ended bool) {
	p, asked, slot := &c.pausing, l.Pause, l.Slot
	p.mu.Lock()
	defer p.mu.Unlock()
	if !began.After(p.looked) {
		return false
	}
	p.looked = began
	was, over := p.now.Load(), ""
	if asked == nil {
		p.now.Store(nil)
		if was != nil {
			p.over.Store(time.Now().UnixNano())
			c.log.Info("resumed", "paused_since", was.Since)
		}
		return false
	}
	switch {
	case !asked.Until.IsZero() && !l.Now.Before(asked.Until):
		over = "its time is over"
	case slot != nil:
		limit := pauseLimit(c.budget.limit, slot.KeptBytes, slot.SafeBytes)
		p.limit.Store(limit)
		if slot.KeptBytes >= limit {
			over = fmt.Sprintf("the source keeps %s of WAL, and a pause ends at %s", service.FormatBytes(slot.KeptBytes), service.FormatBytes(limit))
		}
	}
	switch {
	case asked.Since.Equal(p.ended):
	case over != "":
		p.now.Store(nil)
		p.over.Store(time.Now().UnixNano())
		p.ended = asked.Since
		c.log.Warn("the pause has ended by itself", "reason", over, "paused_since", asked.Since, "by", asked.By)
		return true
	default:
		p.now.Store(asked)
		if was != nil && was.Since.Equal(asked.Since) {
			return false
		}
		args := []any{"by", asked.By, "reason", asked.Reason}
		if !asked.Until.IsZero() {
			args = append(args, "until", asked.Until)
		}
		c.log.Warn("paused: nothing is published, and the source keeps its WAL", args...)
	}
	return false
}

// rest is between two transactions: it stands still while a pause holds, and leaves where ctx has ended, or SQL is to take the
// walsender's place. The session goes on
// telling how it is, and learns of tables.
func (s *session) rest(ctx context.Context) (ended bool, err error) {
	if s.inTx {
		return false, nil
	}
	if s.paused() != nil {
		if err := s.standStill(ctx); err != nil {
			return false, err
		}
	}
	if ctx.Err() != nil {
		return true, s.leave(ctx)
	}
	if s.tooSlow() {
		if err := s.commit(ctx, true); err != nil {
			return false, err
		}
		return false, errBehind
	}
	return false, nil
}

func (s *session) standStill(ctx context.Context) error {
	if err := s.commit(ctx, false); err != nil { // what was published before
		return err
	}
	s.letGo()
	done := s.stage.Wait(waitResume)
	defer done()
	tick := time.NewTicker(restTick)
	defer tick.Stop()
	for s.paused() != nil {
		select {
		case <-ctx.Done():
			return nil
		case f := <-s.watched:
			if err := s.learn(ctx, f); err != nil {
				return err
			}
		case <-tick.C:
		}
		if time.Since(s.progressAt) >= progressInterval {
			if err := s.commit(ctx, false); err != nil {
				return err
			}
		}
	}
	return nil
}

const restTick = 100 * time.Millisecond

// PauseStatus is a pause as the status tells it.
type PauseStatus struct {
	Since     time.Time `json:"since"`
	Until     time.Time `json:"until,omitzero"`
	By        string    `json:"by"`
	Reason    string    `json:"reason,omitempty"`
	EndsBytes int64     `json:"ends_bytes"` // of WAL kept, at which it ends by itself; 0: not known yet
}

func tellPause(p *catalog.Pause, limit int64) *PauseStatus {
	if p == nil {
		return nil
	}
	told := &PauseStatus{Since: p.Since.UTC(), By: p.By, Reason: p.Reason, EndsBytes: limit}
	if !p.Until.IsZero() {
		told.Until = p.Until.UTC()
	}
	return told
}

// until says when it ends, given what is kept and how fast that grows.
func (p *PauseStatus) until(w *WAL) string {
	var text string
	if p.EndsBytes > 0 {
		text = "ends by itself at " + service.FormatBytes(p.EndsBytes) + " of WAL kept"
		if left := p.EndsBytes - w.RetainedBytes; w.GrowthBytesPerSecond >= 1 && left > 0 {
			text += ", in " + service.FormatLeft(seconds(float64(left)/w.GrowthBytesPerSecond)) + " at the present rate"
		}
	}
	if !p.Until.IsZero() {
		if text != "" {
			text += ", and "
		}
		text += "in " + service.FormatLeft(time.Until(p.Until)) + " at the latest"
	}
	return text
}

// PauseRequest is a pause that somebody asks for.
type PauseRequest struct {
	For    time.Duration // 0: until it is resumed
	Reason string
}

// PlanPause prints what a pause would do, and how long it could last.
func (c *Capture) PlanPause(ctx context.Context, q PauseRequest, w io.Writer) error {
	out := terminal.To(w)
	r, err := c.Ask(ctx, service.Whom{})
	if err != nil {
		return err
	}
	until := "until capture resume"
	if q.For > 0 {
		until = "for " + q.For.String()
	}
	out.Printf("%s: nothing is published, %s. The source keeps its WAL meanwhile: %s of %s are kept.\n", c.config.Source.Name, until,
		service.FormatBytes(r.WAL.RetainedBytes), service.FormatBytes(r.WAL.BudgetBytes))
	limit := pauseLimit(r.WAL.BudgetBytes, r.WAL.RetainedBytes, r.WAL.SafeBytes)
	out.Printf("It ends by itself at %s", service.FormatBytes(limit))
	switch left := limit - r.WAL.RetainedBytes; {
	case left <= 0:
		out.Printf(": at once, as that is kept already.\n")
	case r.SourceBytesPerSecond >= 1:
		out.Printf("; the source writes %s/s at present: in %s.\n", service.FormatBytes(int64(r.SourceBytesPerSecond)), service.FormatLeft(seconds(float64(left)/r.SourceBytesPerSecond)))
	default:
		out.Printf("; how fast the source writes is not known, or it writes nothing.\n")
	}
	return nil
}

// Pause asks, at the source, for nothing to be published. Whatever capture runs obeys within source.refresh.
func (c *Capture) Pause(ctx context.Context, q PauseRequest) error {
	return c.atSource(ctx, func(cat *catalog.Catalog) error {
		return cat.SetPause(ctx, c.config.Source.publications(), q.For, q.Reason)
	})
}

// Paused gives the pause that stands at the source, nil for none.
func (c *Capture) Paused(ctx context.Context) (p *catalog.Pause, err error) {
	err = c.atSource(ctx, func(cat *catalog.Catalog) (err error) {
		p, _, err = cat.Pause(ctx, c.config.Source.publications())
		return err
	})
	return p, err
}

// Resume ends a pause.
func (c *Capture) Resume(ctx context.Context) error {
	return c.atSource(ctx, func(cat *catalog.Catalog) error { return cat.EndPause(ctx, c.config.Source.publications()) })
}

func (c *Capture) atSource(ctx context.Context, do func(*catalog.Catalog) error) error {
	cat, err := c.open(ctx, "pause")
	if err != nil {
		return err
	}
	defer cat.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	return do(cat)
}
