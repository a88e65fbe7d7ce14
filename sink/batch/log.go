package batch

import (
	"slices"
	"strconv"
	"time"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// restart is the op of the record that precedes a reading anew: it is no TRUNCATE of the source's.
const restart = change.Op('s')

// enter appends a change to a log. Of a DELETE the columns of the plan have the old row, as far as it was sent.
func (f *Fold) enter(c *rule.Change) error {
	ev := c.Event
	op, row, what := ev.Op, c.After, "new row"
	if op == change.Delete {
		row, what = c.Before, "old row"
	}
	if err := f.check(row, what); err != nil {
		return err
	}
	switch {
	case op == change.Delete && c.Was == rule.Out, op != change.Delete && !c.Is && (c.Was == rule.Out || op == change.Create || op == change.Read):
		return nil // the filter keeps it out, before and after
	case op != change.Delete && !c.Is:
		op = change.Delete
	}
	at := f.newRow(row)
	f.enterEvent(at, op, ev)
	if c.Before != nil && c.Was != rule.Out { // a row that did not pass is not told of
		f.json(at, rule.AddedBefore, c.Before)
	}
	if slices.ContainsFunc(row, func(v change.Value) bool { return v.State == change.Unchanged }) {
		off := len(f.arena)
		f.arena = append(f.arena, '{')
		cells := f.row(at)
		for i := range row {
			if row[i].State == change.Unchanged {
				if len(f.arena) > off+1 {
					f.arena = append(f.arena, ',')
				}
				f.arena = appendElement(f.arena, f.plan.Columns[i].Name)
				cells[i] = cell{}
			}
		}
		f.arena = append(f.arena, '}')
		cells[len(f.plan.Columns)+rule.AddedUnchanged] = f.kept(off)
	}
	return nil
}

func (f *Fold) enterTruncate(ev *change.Event, reload bool) {
	op := ev.Op
	if reload {
		op = restart
	}
	f.enterEvent(f.newRow(nil), op, ev)
}

// enterEvent fills in what every change has.
func (f *Fold) enterEvent(row int32, op change.Op, ev *change.Event) {
	number := func(added int, n uint64) {
		off := len(f.arena)
		f.arena = strconv.AppendUint(f.arena, n, 10)
		f.row(row)[len(f.plan.Columns)+added] = f.kept(off)
	}
	f.set(row, rule.AddedOp, string(rune(op)))
	number(rule.AddedEra, uint64(ev.Position.Era))
	off := len(f.arena)
	f.arena = strconv.AppendUint(f.arena, uint64(ev.Position.CommitLSN>>32), 16)
	f.arena = strconv.AppendUint(append(f.arena, '/'), uint64(ev.Position.CommitLSN&0xffffffff), 16)
	f.row(row)[len(f.plan.Columns)+rule.AddedLSN] = f.kept(off)
	number(rule.AddedSeq, ev.Position.Seq)
	if ev.Tx.CommitTime != 0 {
		off = len(f.arena)
		f.arena = AppendTime(f.arena, ev.Tx.CommitTime)
		f.row(row)[len(f.plan.Columns)+rule.AddedTime] = f.kept(off)
	}
	f.entries = append(f.entries, item{row: row})
}

// json writes an old row as a JSON object of texts. Under an identity that is not FULL only the key was sent.
func (f *Fold) json(row int32, added int, before change.Tuple) {
	off := len(f.arena)
	b := append(f.arena, '{')
	rel := f.plan.Relation
	for i := range before {
		if rel.Identity != schema.IdentityFull && before[i].State != change.Present || before[i].State == change.Unchanged {
			continue
		}
		if len(b) > off+1 {
			b = append(b, ',')
		}
		b = append(appendJSON(b, f.plan.Columns[i].Name), ':')
		if before[i].State == change.Present {
			b = appendJSON(b, before[i].Text)
		} else {
			b = append(b, "null"...)
		}
	}
	f.arena = append(b, '}')
	f.row(row)[len(f.plan.Columns)+added] = f.kept(off)
}

// appendJSON writes a string as JSON has it.
func appendJSON[T string | []byte](b []byte, s T) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"', c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// appendElement writes an element of an array's text.
func appendElement(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// AppendTime writes microseconds since 1970-01-01 UTC as Postgres reads them; rule.Ever is -infinity.
func AppendTime(b []byte, micros int64) []byte {
	if micros == rule.Ever {
		return append(b, "-infinity"...)
	}
	t := time.UnixMicro(micros).UTC()
	year, suffix := t.Year(), ""
	if year <= 0 {
		year, suffix = 1-year, " BC"
	}
	for n := 1000; n > year && n > 1; n /= 10 {
		b = append(b, '0')
	}
	b = strconv.AppendInt(b, int64(year), 10)
	b = t.AppendFormat(b, "-01-02 15:04:05.000000+00")
	return append(b, suffix...)
}
