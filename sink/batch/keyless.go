package batch

import (
	"bytes"
	"fmt"
	"hash/maphash"

	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// addKeyless folds an event of a table without a key. Its rows form a multiset: each delete takes one of equal rows,
// first among those that the batch itself inserted.
func (f *Fold) addKeyless(c *rule.Change) error {
	op := c.Event.Op
	if op == change.Update || op == change.Delete {
		if err := f.check(c.Before, "old row"); err != nil {
			return err
		}
	}
	if (op == change.Update || op == change.Delete) && c.Was != rule.Out {
		b, err := f.bag(c.Before, nil)
		if err != nil {
			return err
		}
		if bag := &f.bags[b]; bag.inserts > 0 {
			bag.inserts--
		} else {
			bag.deletes++
		}
	}
	if op == change.Delete {
		return nil
	}
	if err := f.check(c.After, "new row"); err != nil || !c.Is {
		return err
	}
	b, err := f.bag(c.After, c.Before)
	if err != nil {
		return err
	}
	// An insert does not cancel a pending delete of an equal row: the delete must take place, and be counted.
	f.bags[b].inserts++
	return nil
}

// bag finds the bag of rows equal to row, or makes one. Values that an UPDATE left unchanged are in the old row.
func (f *Fold) bag(row, old change.Tuple) (int32, error) {
	value := func(i int) *change.Value {
		if row[i].State == change.Unchanged && len(old) == len(row) {
			return &old[i]
		}
		return &row[i]
	}
	f.scratch = f.scratch[:0]
	for i := range row {
		v := value(i)
		switch v.State {
		case change.Null:
			f.scratch = append(f.scratch, 0xff, 0xff, 0xff, 0xff)
		case change.Present:
			start := len(f.scratch)
			f.scratch = append(f.scratch, 0, 0, 0, 0)
			putSize(f.scratch[start:], len(v.Text))
			f.scratch = append(f.scratch, v.Text...)
		default:
			return 0, fmt.Errorf("%w: no value for column %q of a table without a key", rule.ErrEvent, f.plan.Columns[i].Name)
		}
	}
	hash := maphash.Bytes(f.seed, f.scratch)
	first, ok := f.index[hash]
	if !ok {
		first = -1
	}
	for b := first; b >= 0; b = f.bags[b].next {
		if bytes.Equal(f.text(f.bags[b].canonical), f.scratch) {
			return b, nil
		}
	}
	b := int32(len(f.bags))
	f.bags = append(f.bags, bag{
		canonical: f.keep(f.scratch, change.Present),
		next:      first,
		row:       int32(len(f.rows) / max(f.width, 1)),
	})
	// The texts are those in canonical, each behind its size.
	at := f.bags[b].canonical.off
	for i := range row {
		v, c := value(i), cell{}
		at += 4
		if v.State == change.Present {
			c = cell{off: at, size: uint32(len(v.Text)) | uint32(change.Present)<<stateShift}
			at += uint32(len(v.Text))
		}
		f.rows = append(f.rows, c)
	}
	f.index[hash] = b
	return b, nil
}
