package warehouse

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/mutant"
)

// fillStage queues that a set goes into the temporary table of its target.
func (a *flushing) fillStage(i int, k kind, set *batch.Set) {
	t := a.f.Units[i].Target
	stage := a.s.stages[t.stage]
	if a.staged[stage] {
		a.queue = append(a.queue, statement{unit: i, sql: "TRUNCATE " + stage})
	}
	a.staged[stage] = true
	a.queue = append(a.queue, statement{
		unit: i, rows: newCopyRows(t, k, set),
		sql: fmt.Sprintf("COPY %s (%s) FROM STDIN", stage, strings.Join(fieldNames(t.fields[k]), ", ")),
	})
}

func fieldNames(fields []field) []string {
	out := make([]string, len(fields))
	for i := range fields {
		out[i] = fields[i].name
	}
	return out
}

// copyInto is the statement that copies rows straight into the target.
func (a *flushing) copyInto(i int, set *batch.Set, check func(int64) error) statement {
	t := a.f.Units[i].Target
	r := newCopyRows(t, byValue, set)
	var names []string
	if t.sid != nil {
		names = append(names, t.sid.name)
		r.prefix = append(appendCopyText(nil, []byte(t.plan.SID)), '\t')
	}
	for _, c := range t.fixed {
		names = append(names, c.name)
		r.prefix = append(appendCopyText(r.prefix, []byte(c.text)), '\t')
	}
	for i := range t.columns {
		if t.columns[i].written {
			names = append(names, t.columns[i].name)
		}
	}
	return statement{unit: i, sql: fmt.Sprintf("COPY %s (%s) FROM STDIN", t.name, strings.Join(names, ", ")), rows: r, check: check}
}

// copyRows are the rows of a COPY.
type copyRows struct {
	t       *Target
	fields  []field
	set     *batch.Set
	prefix  []byte // of each line
	scratch []byte
}

func newCopyRows(t *Target, k kind, set *batch.Set) *copyRows {
	return &copyRows{t: t, fields: t.fields[k], set: set, scratch: t.scratch()}
}

// scratch is memory for what is no value of a row: a mask, a number, a time.
func (t *Target) scratch() []byte {
	const number = 64 // or a time
	return make([]byte, 0, max(number, len(t.columns)))
}

// send sends them in COPY's text format, and what waits to be sent before them. buf is for reuse.
func (r *copyRows) send(f *pgproto3.Frontend, buf []byte) ([]byte, error) {
	const header = 5
	buf = append(buf[:0], 'd', 0, 0, 0, 0)
	for i := range r.set.Len() {
		buf = r.line(buf, i)
		if len(buf) < piece && i+1 < r.set.Len() {
			continue
		}
		binary.BigEndian.PutUint32(buf[1:], uint32(len(buf)-1))
		if err := f.SendUnbufferedEncodedCopyData(buf); err != nil {
			return nil, err
		}
		buf = buf[:header]
	}
	f.Send(&pgproto3.CopyDone{})
	return buf, nil
}

func (r *copyRows) line(b []byte, i int) []byte {
	b = append(b, r.prefix...)
	for k := range r.fields {
		text, ok := r.t.text(&r.fields[k], r.set, i, r.scratch[:0])
		if ok {
			b = appendCopyText(b, text)
		} else {
			b = append(b, `\N`...)
		}
		b = append(b, '\t')
	}
	b[len(b)-1] = '\n' // instead of the last tab: there is always a column
	return b
}

// appendCopyText escapes what COPY's text format gives a meaning to.
func appendCopyText(b, text []byte) []byte {
	start := 0
	for i, c := range text {
		var escape byte
		switch c {
		case '\\':
			escape = '\\'
		case '\n':
			escape = 'n'
		case '\r':
			escape = 'r'
		case '\t':
			escape = 't'
		default:
			continue
		}
		b = append(b, text[start:i]...)
		b = append(b, '\\', escape)
		start = i + 1
	}
	return append(b, text[start:]...)
}

// appendMask writes a 1 for each column of the plan that the row sets and a 0 for each that it leaves.
func appendMask(b []byte, t *Target, set *batch.Set, i int) []byte {
	for c := range t.columns {
		if _, state := set.Value(i, c); state == change.Unchanged && !mutant.On(mutant.TOASTAsNull) {
			b = append(b, '0')
		} else {
			b = append(b, '1')
		}
	}
	return b
}

// arraysOf gives the columns of a set as parameters, in the order of the kind's fields.
func arraysOf(t *Target, k kind, set *batch.Set) (out []param) {
	scratch := t.scratch()
	for j := range t.fields[k] {
		out = append(out, param{array: textArray(set.Len(), func(i int) ([]byte, bool) {
			return t.text(&t.fields[k][j], set, i, scratch)
		})})
	}
	return out
}

// pause is for how many flushes a target is not written by COPY after a row turned out to be there.
const pause = 100

// optimistic says whether new rows of t may be tried with COPY.
func (w *Warehouse) optimistic(t *Target) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.noCopy > 0 {
		t.noCopy--
		return false
	}
	return true
}

func (w *Warehouse) pessimistic(t *Target) {
	w.mu.Lock()
	t.noCopy = pause
	w.mu.Unlock()
}
