package warehouse

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// historyTemplates are the further statements of a target with mode history; see templates.
type historyTemplates struct {
	last    string // for rows byKey: number, place in time, and state of the newest version of each key
	compare string // for rows byVersion: number, and a 1 for each column in which the version is equal
	end     string // for rows byEnd
	endAll  string // for rows byKey: all versions that are valid but those of these keys
	copy    string // for rows byVersion
}

// micros gives a time as the fold has it; NULL for one that is infinite.
func micros(column string) string {
	return fmt.Sprintf("CASE WHEN isfinite(%s) THEN (extract(epoch FROM %s) * 1000000)::bigint END", column, column)
}

// span is where a history keeps for how long a version was valid: quoted names, and their type.
type span struct{ from, to, deleted, typ, end string }

func (t *Target) span() span {
	added := t.columns[len(t.plan.Columns):]
	return span{
		from: added[rule.AddedFrom].name, to: added[rule.AddedTo].name, deleted: added[rule.AddedDeleted].name,
		typ: added[rule.AddedFrom].typ, end: postgres.Literal(t.plan.Bounds.End) + "::" + added[rule.AddedTo].typ,
	}
}

// valid is the condition that t is a version that is valid still.
func (s *span) valid() string { return fmt.Sprintf("t.%s = %s", s.to, s.end) }

// ending sets when a version ceases to be: at a time, or a microsecond after it began, if that is later.
func (s *span) ending(at string) string {
	return fmt.Sprintf("%s = greatest(%s::%s, t.%s + interval '1 microsecond'), %s = true", s.to, at, s.typ, s.from, s.deleted)
}

// compileHistory writes the statements down. where completes conditions by that on the sid.
func (t *Target) compileHistory(where func([]string) string, byOrigin []string, into, valueSID []string) {
	s := t.span()
	of := func(conditions ...string) string {
		return where(append(append([]string{}, byOrigin...), conditions...))
	}
	// Since when a version is valid: compared as the column has it.
	began := fmt.Sprintf("t.%s = s.b::%s", s.from, s.typ)
	numbered := fmt.Sprintf("(SELECT *, row_number() OVER () AS r FROM %s s) s", source)
	facts := fmt.Sprintf("t.%s AS f, t.%s AS e, %s AS valid", s.from, s.to, s.valid())
	answer := fmt.Sprintf("v.r, v.valid, CASE WHEN v.valid THEN %s ELSE %s END, %s", micros("v.f"), micros("v.e"), seenTable)
	if t.indexed {
		t.history.last = fmt.Sprintf("SELECT %s FROM (SELECT s.*, l.* FROM %s CROSS JOIN LATERAL (SELECT %s FROM %s t%s ORDER BY t.%s DESC LIMIT 1) l) v",
			answer, numbered, facts, t.name, of(), s.from)
	} else {
		t.history.last = fmt.Sprintf("SELECT %s FROM (SELECT DISTINCT ON (s.r) s.*, %s FROM %s JOIN %s t ON true%s ORDER BY s.r, t.%s DESC) v",
			answer, facts, numbered, t.name, of(), s.from)
	}
	var equal, taken []string
	for i := range t.columns {
		col := &t.columns[i]
		switch {
		case i < len(t.plan.Columns) && !col.written:
			equal = append(equal, "'1'") // it follows from the others
		case i < len(t.plan.Columns):
			equal = append(equal, fmt.Sprintf("CASE WHEN s.c%d::%s::text IS NOT DISTINCT FROM t.%s::text THEN '1' ELSE '0' END", i+1, col.full, col.name))
		}
		switch {
		case !col.written:
		case i < len(t.plan.Columns):
			taken = append(taken, fmt.Sprintf("CASE WHEN substr(s.m, %d, 1) = '1' THEN s.c%d ELSE t.%s END", i+1, i+1, col.name))
		default:
			taken = append(taken, fmt.Sprintf("s.c%d", i+1))
		}
	}
	t.history.compare = fmt.Sprintf("SELECT s.r, %s FROM %s JOIN %s t ON true%s", strings.Join(equal, " || "), numbered, t.name, of(began, s.valid()))
	n := len(t.plan.Columns)
	t.history.end = fmt.Sprintf("UPDATE %s t SET %s = s.c%d, %s = s.c%d FROM %s s%s", t.name,
		s.to, n+rule.AddedTo+1, s.deleted, n+rule.AddedDeleted+1, source, of(began, s.valid()))
	at := "$1"
	if t.sid != nil {
		at = "$2"
	}
	t.history.endAll = fmt.Sprintf("UPDATE %s t SET %s%s", t.name, s.ending(at+"::text"),
		where([]string{s.valid(), fmt.Sprintf("NOT EXISTS (SELECT FROM %s s WHERE %s)", source, strings.Join(byOrigin, " AND "))}))
	t.history.copy = fmt.Sprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s s JOIN %s t ON true%s", t.name,
		strings.Join(into, ", "), strings.Join(append(append([]string{}, valueSID...), taken...), ", "), source, t.name, of(began))
}

// writeHistory writes a unit of a history. It first asks for the newest versions of the keys that changed, and where rows
// of a snapshot meet one, whether they are the same: what becomes of the changes follows from that.
func (a *flushing) writeHistory(ctx context.Context, i int) error {
	u := &a.f.Units[i]
	r, t, effect := u.Result, u.Target, &a.effects[i]
	var reload int64
	seen := "false"
	if open := a.reloads[u.Topic]; open != nil {
		reload = open.At
		seen = t.noted("v", open)
	}
	err := a.ask(ctx, i, byKey, &r.Keys, strings.Replace(t.history.last, seenTable, seen, 1), func(k int, row [][]byte) error {
		last := batch.Last{There: true, Open: string(row[1]) == "t", At: rule.Ever, Noted: string(row[3]) == "t"}
		if row[2] != nil {
			var err error
			if last.At, err = strconv.ParseInt(string(row[2]), 10, 64); err != nil {
				return err
			}
		}
		r.Found(k, last)
		return nil
	})
	if err != nil {
		return err
	}
	again := r.Comparable()
	err = a.ask(ctx, i, byVersion, &again, t.history.compare, func(k int, row [][]byte) error {
		r.Compared(&again, k, row[1])
		return nil
	})
	if err != nil {
		return err
	}
	r.Resolve(reload)
	if err := a.left(ctx, i, r.Lost); err != nil {
		return err
	}
	a.mark(i, &r.Noted)
	if r.Truncate {
		st := a.statement(i, t.history.endAll, counted(&effect.Deleted))
		st.params = append(st.params, param{text: batch.AppendTime(nil, r.TruncatedAt)})
		a.setOf(byKey, &r.Keys, st)
	}
	a.set(i, byEnd, &r.Ends, t.history.end, func(rows int64) error {
		effect.Updated += rows
		return exactly(u, "ended", int64(r.Ends.Len()), rows)
	})
	a.set(i, byVersion, &r.Copies, t.history.copy, func(rows int64) error {
		effect.Inserted += rows
		return exactly(u, "made from the version before", int64(r.Copies.Len()), rows)
	})
	a.insert(i)
	return nil
}

// noted is the condition that a reload has noted the key of a row with the fields byKey.
func (t *Target) noted(alias string, r *Reload) string {
	var conditions []string
	if t.sid != nil {
		conditions = append(conditions, fmt.Sprintf("n.%s %s $1::text::%s", t.sid.name, t.sid.equal, t.sid.typ))
	}
	for i, c := range t.plan.Key {
		col := &t.columns[c]
		conditions = append(conditions, fmt.Sprintf("n.%s %s %s.o%d", col.name, col.equal, alias, i+1))
	}
	return fmt.Sprintf("EXISTS (SELECT FROM %s n WHERE %s)", r.seen(), strings.Join(conditions, " AND "))
}

// ask runs a query for the rows of a set, whose first column is the number of the row that the answer is about, from 1.
func (a *flushing) ask(ctx context.Context, i int, k kind, set *batch.Set, template string, take func(n int, row [][]byte) error) error {
	if set.Len() == 0 {
		return nil
	}
	t := a.f.Units[i].Target
	staged := !t.few(k, set)
	if staged {
		a.fillStage(i, k, set)
	}
	if !t.indexed {
		a.queue = append(a.queue, statement{unit: i, sql: hashJoins})
	}
	st := a.statement(i, template, nil)
	st.sql, st.params = a.source(t, k, set, staged, st.sql, st.params)
	st.each = func(row [][]byte) error {
		n, err := strconv.Atoi(string(row[0]))
		if err != nil {
			return err
		}
		if n < 1 || n > set.Len() {
			return fmt.Errorf("the answer is about row %d of %d", n, set.Len())
		}
		return take(n-1, row)
	}
	a.queue = append(a.queue, st)
	if err := a.run(ctx); err != nil {
		return err
	}
	if !t.indexed {
		a.queue = append(a.queue, statement{unit: i, sql: noHashJoins})
	}
	return nil
}
