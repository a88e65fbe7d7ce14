package rule

import (
	"errors"
	"fmt"
	"slices"

	"cel.dev/cel-go/common/types"

	"github.com/tributary-cdc/tributary/pkg/mask"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
)

// ErrEvent is wrapped by the errors of Map, and of folding what it gave: the event does not hold what its operation needs.
var ErrEvent = errors.New("event is not complete")

// Change is one event in the columns of a plan: what becomes of it in the target is said by this alone. Map fills it. Its
// tuples alias those of the event and the Change's own memory; they live until the next Map into it.
type Change struct {
	Event *change.Event // as the source sent it; its tuples have the columns of the relation
	// Before and After are the event's in the plan's columns; nil where the event has none. Of a Before that is only a
	// key, and of a row that does not pass the filter, the columns of the plan's key are there, and all others are Null.
	Before, After change.Tuple
	Was           Match // whether the old row passes the filter
	Is            bool  // there is a new row, and it passes the filter

	before, after change.Tuple // memory of Before and After
	arena         []byte       // of their texts that are not the event's
	scope         scope
	masker        *mask.Masker
	masks         *Route // whose salt masker has
	canonical     []byte
}

// Match says whether a row passes the filter of its rule. Without a filter every row does.
type Match uint8

// The matches. The zero Match is Unknown.
const (
	Unknown Match = iota // there is no old row, or not all of it
	In
	Out
)

// Map takes an event into the columns of the plan. Where the plan takes the columns as they are, nothing is copied. An
// error is trouble with the code rule-error, or wraps ErrEvent.
func (p *Plan) Map(ev *change.Event, c *Change) error {
	c.Event, c.Before, c.After, c.Was, c.Is = ev, nil, nil, Unknown, false
	c.arena = c.arena[:0]
	var old change.Tuple // if all of it is known
	if ev.Before != nil {
		if err := p.width(ev.Before, "old row"); err != nil {
			return err
		}
		if p.whole {
			old = ev.Before
		}
		if err := p.mapBefore(c, ev.Before); err != nil {
			return err
		}
	}
	if ev.After != nil {
		if err := p.width(ev.After, "new row"); err != nil {
			return err
		}
		var err error
		if c.Is = p.keepsItsPlace(ev); !c.Is {
			if c.Is, err = p.passes(c, ev.After, old); err != nil {
				return err
			}
		}
		c.After, c.after, err = p.project(c, c.after[:0], ev.After, old, !c.Is)
		return err
	}
	return nil
}

// keepsItsPlace says whether the new row of ev is one of a snapshot of some columns that lacks what the filter reads. Such a row
// is as it was: where the target has it, it passes; where it has not, a row without all of its values is left out anyway. A log
// has no place to tell by.
func (p *Plan) keepsItsPlace(ev *change.Event) bool {
	return p.filter != nil && ev.Op == change.Read && p.Mode != Log && slices.ContainsFunc(p.filter.inputs, func(in input) bool {
		return !p.lacks(in.column) && ev.After[in.column].State == change.Unchanged
	})
}

func (p *Plan) mapBefore(c *Change, row change.Tuple) (err error) {
	if p.filter == nil {
		c.Was = In
	} else if p.whole {
		c.Was = Out
		passes, err := p.passes(c, row, nil)
		if err != nil {
			return err
		}
		if passes {
			c.Was = In
		}
	}
	c.Before, c.before, err = p.project(c, c.before[:0], row, nil, !p.whole || c.Was == Out)
	return err
}

func (p *Plan) width(t change.Tuple, what string) error {
	if len(t) != len(p.Relation.Columns) {
		return fmt.Errorf("%w: the %s has %d columns, want %d", ErrEvent, what, len(t), len(p.Relation.Columns))
	}
	return nil
}

// passes says whether a row passes the filter.
func (p *Plan) passes(c *Change, row, old change.Tuple) (bool, error) {
	if p.filter == nil {
		return true, nil
	}
	c.scope.row, c.scope.old = row, old
	v, err := c.scope.evaluate(p.filter)
	if err == nil {
		if b, ok := v.(types.Bool); ok {
			return bool(b), nil
		}
		err = &fault{1, 1, fmt.Sprintf("the result is null, and not true or false; write (%s) == true", p.filter.source)}
	}
	return false, p.failed("filter", c, p.filter, err)
}

// project appends the columns of the plan to dst and gives the row; that of the source where the plan takes it as it is.
// With keyOnly only the columns of the key are computed.
func (p *Plan) project(c *Change, dst, row, old change.Tuple, keyOnly bool) (out, memory change.Tuple, err error) {
	if p.same && (old == nil || !slices.ContainsFunc(row, func(v change.Value) bool { return v.State == change.Unchanged })) {
		return row, dst, nil
	}
	c.scope.row, c.scope.old = row, old
	for i := range p.Columns {
		pc := &p.Columns[i]
		switch {
		case keyOnly && !pc.key:
			dst = append(dst, change.Value{})
		case pc.constant != nil:
			dst = append(dst, *pc.constant)
		case pc.computed != nil && c.scope.unchanged(pc.computed):
			dst = append(dst, change.Value{State: change.Unchanged})
		case pc.computed != nil:
			v, err := c.scope.text(pc.computed, &pc.natural, &c.arena)
			if err != nil {
				return nil, dst, p.failed(pc.at+".value", c, pc.computed, err)
			}
			dst = append(dst, v)
		case pc.mask != mask.None:
			dst = append(dst, c.masked(p.Route, pc.mask, &p.Relation.Columns[pc.source].Type, c.scope.value(pc.source)))
		default:
			dst = append(dst, *c.scope.value(pc.source))
		}
	}
	return dst, dst, nil
}

// text evaluates an expression to a value whose text is at the end of arena.
func (s *scope) text(x *expression, t *schema.Type, arena *[]byte) (change.Value, error) {
	v, err := s.evaluate(x)
	if err != nil || v == types.NullValue {
		return change.Value{}, err
	}
	if arena == nil {
		arena = &[]byte{}
	}
	start := len(*arena)
	if *arena, err = appendValue(*arena, v, t); err != nil {
		return change.Value{}, &fault{1, 1, err.Error()}
	}
	return change.Value{State: change.Present, Text: (*arena)[start:len(*arena):len(*arena)]}, nil
}

// masked gives what is written instead of a value.
func (c *Change) masked(r *Route, kind mask.Kind, t *schema.Type, v *change.Value) change.Value {
	if v.State != change.Present {
		return *v
	}
	if c.masks != r {
		c.masker, c.masks = mask.New(r.salt), r
	}
	c.canonical = t.AppendCanonical(c.canonical[:0], v.Text)
	start := len(c.arena)
	var ok bool
	if c.arena, ok = c.masker.Append(c.arena, kind, c.canonical); !ok {
		return change.Value{}
	}
	return change.Value{State: change.Present, Text: c.arena[start:len(c.arena):len(c.arena)]}
}

// failed is the trouble of an expression that has no result for a row.
func (p *Plan) failed(at string, c *Change, x *expression, cause error) error {
	t := &trouble.Error{
		Code: trouble.RuleError, Op: "evaluate", Cause: cause,
		Subject: p.rule.where(p.Rule, at) + fmt.Sprintf(" for table %q of source %q", p.Schema+"."+p.Table, p.Source),
		Means:   "rules fail closed: the change is not written, and its table is held before it; nothing is lost",
		Hint:    "mend the expression so that it has a result for every row, restart the sink, then sink resume SOURCE/TABLE",
	}
	for _, in := range x.inputs {
		switch {
		case p.lacks(in.column):
			t.Hint = fmt.Sprintf("the row is of before column %s was added, and has its default or null there: mend the expression so that it has a result for that, restart the sink, then sink resume SOURCE/TABLE", display(in.name))
		case !p.whole && c.scope.row[in.column].State == change.Unchanged:
			t.Hint = fmt.Sprintf("at the source: ALTER TABLE %s REPLICA IDENTITY FULL; for the changes that are in Kafka already: load the table anew", p.Relation.QualifiedName())
		}
	}
	return t
}
