package rule

import (
	"errors"
	"fmt"

	"github.com/tributary-cdc/tributary/schema/change"
)

// ErrEvent is wrapped by the errors of Map, and of folding what it gave: the event does not hold what its operation needs.
var ErrEvent = errors.New("event is not complete")

// Change is one event in the columns of a plan: what becomes of it in the target is said by this alone. Map fills it. Its
// tuples alias those of the event and the Change's own memory; they live until the next Map into it.
type Change struct {
	Event *change.Event // as the source sent it; its tuples have the columns of the relation
	// Before and After are the event's in the plan's columns; nil where the event has none. Of a Before that is only a
	// key the columns of the plan's key are there, and all others are Null.
	Before, After change.Tuple
	Was           Match // whether the old row passes the filter
	Is            bool  // there is a new row, and it passes the filter

	before, after change.Tuple // memory of Before and After
}

// Match says whether a row passes the filter of its rule. Without a filter every row does.
type Match uint8

// The matches. The zero Match is Unknown.
const (
	Unknown Match = iota // there is no old row, or not all of it, or nobody asks
	In
	Out
)

// Map takes an event into the columns of the plan. Where the plan takes the columns as they are, nothing is copied.
func (p *Plan) Map(ev *change.Event, c *Change) error {
	c.Event, c.Before, c.After, c.Was, c.Is = ev, nil, nil, Unknown, false
	if ev.Before != nil {
		if err := p.width(ev.Before, "old row"); err != nil {
			return err
		}
		c.before = p.project(c.before[:0], ev.Before)
		c.Before, c.Was = p.taken(c.before, ev.Before), In
	}
	if ev.After != nil {
		if err := p.width(ev.After, "new row"); err != nil {
			return err
		}
		c.after = p.project(c.after[:0], ev.After)
		c.After, c.Is = p.taken(c.after, ev.After), true
	}
	return nil
}

func (p *Plan) width(t change.Tuple, what string) error {
	if len(t) != len(p.Relation.Columns) {
		return fmt.Errorf("%w: the %s has %d columns, want %d", ErrEvent, what, len(t), len(p.Relation.Columns))
	}
	return nil
}

// taken gives the row of the plan: mapped, or the source's own where the plan takes all of it as it is.
func (p *Plan) taken(mapped, row change.Tuple) change.Tuple {
	if p.same {
		return row
	}
	return mapped
}

// project appends the columns of row that the plan takes.
func (p *Plan) project(dst, row change.Tuple) change.Tuple {
	if p.same {
		return dst
	}
	for i := range p.Columns {
		dst = append(dst, row[p.Columns[i].Source])
	}
	return dst
}
