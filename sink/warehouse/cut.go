package warehouse

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Cut is a transaction that takes a source from one of its states to a later one: everything in between, of all its
// tables, becomes visible at once. The records are written in as many pieces as memory wants.
type Cut struct {
	s       *Session
	tx      pgx.Tx
	source  string
	writing *flushing
}

// cutPatience is how long a cut waits for a lock while other sources wait for the session: long enough for Locks to tell who holds it.
const cutPatience = 2 * LockPatience

// NextCut looks for the state of a source to go to next: of the first n progress records the last, with the next offset
// of each partition there. Only records behind a whole source transaction count. Several are taken together as long as
// size, which is asked how much lies before a state, stays within most; a single one may be larger. n is 0 if another
// record has to come first; vector is nil where what came before is not known (until the next full record), and only the
// progress records themselves can be passed.
func (s *Session) NextCut(ctx context.Context, source string, records []ProgressRecord, most int64, size func(vector map[string][]int64) int64) (n int, vector map[string][]int64, err error) {
	if err := s.open(ctx); err != nil {
		return 0, nil, err
	}
	standings, err := s.standings(ctx, source)
	if err != nil {
		return 0, nil, s.broken("read progress of", fmt.Sprintf("source %q", source), err)
	}
	at := standings[source]
	for i := range records {
		at.add(&records[i])
		switch {
		case records[i].Inside != 0:
			continue
		case !at.known:
			if vector == nil {
				n = i + 1
			}
			continue
		}
		if vector != nil && size(at.vector) > most {
			return n, vector, nil
		}
		n = i + 1
		vector = map[string][]int64{}
		for topic, offsets := range at.vector {
			vector[topic] = slices.Clone(offsets)
		}
	}
	return n, vector, nil
}

// BeginCut opens the transaction. locks are the advances of the partitions that will move, with Next as it is now: who
// owns them is decided here, not after the work. The progress records are followed as by Follow. Errors are those of
// Apply, but for ErrUnknownOutcome. After an error there is no cut. Where others want the session, locks are waited for no longer than cutPatience.
func (s *Session) BeginCut(ctx context.Context, locks []Advance, progress Advance, source string, records []ProgressRecord, consumed func(topic string) bool, others bool) (*Cut, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	tx, err := s.conn.Begin(ctx)
	if err != nil {
		return nil, s.broken("begin transaction in", "warehouse", err)
	}
	c := &Cut{s: s, tx: tx, source: source}
	s.cut, s.later = tx, nil
	if others {
		_, err = tx.Exec(ctx, fmt.Sprintf(`SET LOCAL lock_timeout = %d`, cutPatience.Milliseconds()))
	}
	if err == nil && len(locks) > 0 { // with the progress: all of them in their order
		stays := progress
		stays.Next, stays.Term, stays.Rows = progress.Expected, 0, 0
		err = s.run(ctx, []statement{s.w.advance(append(slices.Clone(locks), stays))})
	}
	if err == nil {
		err = s.followIn(ctx, progress, source, records, consumed)
	}
	if err == nil {
		var reloads map[string]*Reload
		reloads, err = s.openReloads(ctx, source)
		c.writing = s.flushing(&Flush{}, reloads)
	}
	if err != nil {
		c.Rollback(ctx)
		if errors.Is(err, ErrFenced) {
			return nil, ErrFenced
		}
		return nil, s.broken("write progress of", fmt.Sprintf("source %q", source), err)
	}
	return c, nil
}

// Write writes units, in their order. Errors are those of Apply; then only Rollback is left.
func (c *Cut) Write(ctx context.Context, units []Unit) ([]Effect, error) {
	a := c.writing
	a.f, a.effects = &Flush{Units: units, Impatient: true}, make([]Effect, len(units))
	err := a.makeStages(ctx)
	if err == nil {
		err = a.writeUnits(ctx)
	}
	if err != nil {
		return nil, a.failed(err)
	}
	return a.effects, nil
}

// Replays says whether all changes of before of a topic come once more.
func (c *Cut) Replays(topic string) bool { return c.writing.reloads[topic].Replays() }

// Commit moves the checkpoints, ends the reloads of which all rows have come, and makes all of it visible. Errors are
// those of Apply.
func (c *Cut) Commit(ctx context.Context, advances []Advance) error {
	if len(advances) > 0 {
		if err := c.s.run(ctx, []statement{c.s.w.advance(advances)}); err != nil {
			c.Rollback(ctx)
			if errors.Is(err, ErrFenced) {
				return ErrFenced
			}
			return c.s.broken("move checkpoints in", "warehouse", err)
		}
	}
	if err := c.writing.noteMissed(ctx); err != nil {
		c.Rollback(ctx)
		return c.s.broken("note what is missing of", fmt.Sprintf("source %q", c.source), err)
	}
	if err := c.sweep(ctx); err != nil {
		c.Rollback(ctx)
		return c.s.broken("remove rows that are gone at the source of", fmt.Sprintf("source %q", c.source), err)
	}
	if err := c.s.noteLater(ctx); err != nil {
		c.Rollback(ctx)
		return c.s.broken("note what was lost beside", fmt.Sprintf("source %q", c.source), err)
	}
	err := c.tx.Commit(ctx)
	c.s.cut, c.s.later = nil, nil
	if err != nil {
		c.Rollback(ctx)
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, c.s.broken("commit to warehouse", "", err))
	}
	return nil
}

// sweep ends the reloads that are due by now. Nobody else writes the source, so there is nobody to lock out.
func (c *Cut) sweep(ctx context.Context) error {
	open, err := c.s.reloads(ctx, c.source)
	if err != nil || len(open) == 0 {
		return err
	}
	if _, err := c.tx.Exec(ctx, planFreely, true); err != nil {
		return err
	}
	for i := range open {
		if !open[i].Due {
			continue
		}
		sw, err := c.s.sweeping(ctx, &open[i])
		if err != nil {
			return err
		}
		removed, err := sw.all(ctx)
		if err != nil {
			return err
		}
		c.s.w.cfg.Log.Info("table has been read anew", "topic", open[i].Topic, "removed_rows", removed)
	}
	return nil
}

// Rollback ends the transaction. Targets that it made or changed, and its temporary tables, are gone with it.
func (c *Cut) Rollback(ctx context.Context) {
	c.s.cut, c.s.later = nil, nil
	c.s.w.forget()
	c.s.Close(context.WithoutCancel(ctx))
}
