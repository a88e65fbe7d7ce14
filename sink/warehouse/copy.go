package warehouse

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/mutant"
)

// fillStage puts a set into the temporary table of its target.
func (a *flushing) fillStage(ctx context.Context, i int, k kind, set *batch.Set) error {
	t := a.f.Units[i].Target
	stage := a.s.stages[t.stage]
	if a.staged[stage] {
		a.queue = append(a.queue, statement{unit: i, sql: "TRUNCATE " + stage})
	}
	a.staged[stage] = true
	if err := a.run(ctx); err != nil {
		return err
	}
	sql := fmt.Sprintf("COPY %s (%s) FROM STDIN", stage, strings.Join(fieldNames(t.fields[k]), ", "))
	if _, err := a.s.conn.PgConn().CopyFrom(ctx, newCopyReader(t, k, set), sql); err != nil {
		return &statementError{i, err}
	}
	return nil
}

func fieldNames(fields []field) []string {
	out := make([]string, len(fields))
	for i := range fields {
		out[i] = fields[i].name
	}
	return out
}

// copyRows copies rows straight into the target.
func (a *flushing) copyRows(ctx context.Context, t *Target, set *batch.Set) (int64, error) {
	r := newCopyReader(t, byValue, set)
	var names []string
	if t.sid != nil {
		names = append(names, t.sid.name)
		r.prefix = append(appendCopyText(nil, []byte(t.plan.SID)), '\t')
	}
	for i := range t.columns {
		if t.columns[i].written {
			names = append(names, t.columns[i].name)
		}
	}
	tag, err := a.s.conn.PgConn().CopyFrom(ctx, r, fmt.Sprintf("COPY %s (%s) FROM STDIN", t.name, strings.Join(names, ", ")))
	return tag.RowsAffected(), err
}

// copyReader writes a set in COPY's text format, a row at a time. One that is larger than the caller's buffer is
// handed out in pieces.
type copyReader struct {
	t       *Target
	fields  []field
	set     *batch.Set
	prefix  []byte // of each line
	next    int
	buf     []byte
	off     int
	scratch []byte
}

func newCopyReader(t *Target, k kind, set *batch.Set) *copyReader {
	const number = 64 // or a time
	return &copyReader{t: t, fields: t.fields[k], set: set, scratch: make([]byte, 0, max(number, len(t.columns)))}
}

// Read implements io.Reader.
func (r *copyReader) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if r.off == len(r.buf) {
			if r.next == r.set.Len() {
				break
			}
			r.buf, r.off = r.line(r.buf[:0], r.next), 0
			r.next++
		}
		c := copy(p[n:], r.buf[r.off:])
		n, r.off = n+c, r.off+c
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *copyReader) line(b []byte, i int) []byte {
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
	if len(b) > 0 && b[len(b)-1] == '\t' {
		b = b[:len(b)-1]
	}
	return append(b, '\n')
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
	var scratch []byte
	for j := range t.fields[k] {
		out = append(out, param{array: textArray(set.Len(), func(i int) ([]byte, bool) {
			return t.text(&t.fields[k][j], set, i, scratch[:0])
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
