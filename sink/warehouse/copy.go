package warehouse

import (
	"context"
	"fmt"
	"io"
	"strconv"
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
	names, _ := t.stageColumns(k)
	sql := fmt.Sprintf("COPY %s (%s) FROM STDIN", stage, strings.Join(names, ", "))
	if _, err := a.s.conn.PgConn().CopyFrom(ctx, &copyReader{t: t, kind: k, set: set}, sql); err != nil {
		return &statementError{i, err}
	}
	return nil
}

// copyRows copies rows straight into the target.
func (a *flushing) copyRows(ctx context.Context, t *Target, set *batch.Set) (int64, error) {
	r := &copyReader{t: t, kind: byValue, set: set}
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
	t      *Target
	kind   kind
	set    *batch.Set
	prefix []byte // of each line
	next   int
	buf    []byte
	off    int
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
	if r.kind == byKey || r.kind == byMove {
		for k := range r.t.plan.Key {
			b = append(appendCopyText(b, r.set.Key(i, k)), '\t')
		}
	}
	if r.kind == byMove || r.kind == byMask {
		b = append(appendMask(b, r.t, r.set, i), '\t')
	}
	if r.kind == byCount {
		b = append(strconv.AppendInt(b, int64(r.set.Times(i)), 10), '\t')
	}
	if r.kind != byKey {
		for c := range r.t.columns {
			if !r.t.columns[c].written {
				continue
			}
			if text, state := r.set.Value(i, c); state == change.Present {
				b = appendCopyText(b, text)
			} else {
				b = append(b, `\N`...)
			}
			b = append(b, '\t')
		}
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

// arraysOf gives the columns of a set as parameters, in the order of stageColumns.
func arraysOf(t *Target, k kind, set *batch.Set) []param {
	var out []param
	add := func(text func(i int) ([]byte, bool)) {
		out = append(out, param{array: textArray(set.Len(), text)})
	}
	if k == byKey || k == byMove {
		for c := range t.plan.Key {
			add(func(i int) ([]byte, bool) { return set.Key(i, c), true })
		}
	}
	switch k {
	case byKey:
		return out
	case byMove, byMask:
		add(func(i int) ([]byte, bool) { return appendMask(nil, t, set, i), true })
	case byCount:
		add(func(i int) ([]byte, bool) { return strconv.AppendInt(nil, int64(set.Times(i)), 10), true })
	}
	for c := range t.columns {
		if t.columns[c].written {
			add(func(i int) ([]byte, bool) {
				text, state := set.Value(i, c)
				return text, state == change.Present
			})
		}
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
