package warehouse

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// templates are the statements of a target. %SRC% stands for where the rows come from: arrays given as parameters, or
// the temporary table; the columns are the same. $1 is the sid where the target has a sid column.
type templates struct {
	truncate, remove, unless, move, update, missing, upsert, insert, takeOut, mark string
	// What goes before upsert where no unique index tells which rows are there: clear removes those, overwrite gives them the values, and upsert brings the
	// others, where they have values that no rule writes.
	clear, overwrite string
}

const (
	source    = "%SRC%"
	seenTable = "%SEEN%" // of a reload
)

// kind says which columns the rows of a statement carry.
type kind int

const (
	byKey     kind = iota // o1…: the key of a row that is there
	byMove                // o1…, m, c1…: m has a 1 for each column that is set
	byMask                // m, c1…
	byValue               // c1…
	byCount               // n, c1…
	byFinal               // those of c1… that are the key
	byVersion             // o1…, b, m, c1…: b is since when the version is valid that has the key
	byEnd                 // o1…, b, and those of c1… that say when a version ceases to be
	kinds
)

// field is a column of the rows that a statement carries: where it comes from, its name there, its type.
type field struct {
	of        origin
	i         int // column of the plan's key, or of the target
	name, typ string
}

type origin uint8

const (
	ofKey origin = iota
	ofBase
	ofMask
	ofTimes
	ofColumn
)

// fieldsOf lists the fields of a kind.
func (t *Target) fieldsOf(k kind) (out []field) {
	add := func(of origin, i int, name, typ string) { out = append(out, field{of, i, name, typ}) }
	column := func(c int) {
		if t.columns[c].written {
			add(ofColumn, c, fmt.Sprintf("c%d", c+1), t.columns[c].typ)
		}
	}
	switch k {
	case byKey, byMove, byVersion, byEnd:
		for i, c := range t.plan.Key {
			add(ofKey, i, fmt.Sprintf("o%d", i+1), t.columns[c].typ)
		}
	}
	switch k {
	case byVersion, byEnd:
		add(ofBase, 0, "b", "timestamp with time zone")
	}
	switch k {
	case byMove, byMask, byVersion:
		add(ofMask, 0, "m", "text")
	case byCount:
		add(ofTimes, 0, "n", "integer")
	}
	switch k {
	case byMove, byMask, byValue, byCount, byVersion:
		for c := range t.columns {
			column(c)
		}
	case byFinal:
		for _, c := range t.plan.Key {
			column(c)
		}
	case byEnd:
		column(len(t.plan.Columns) + rule.AddedTo)
		column(len(t.plan.Columns) + rule.AddedDeleted)
	}
	return out
}

// text gives the value of a field of item i of a set; false for NULL. It may use scratch.
func (t *Target) text(f *field, set *batch.Set, i int, scratch []byte) (text []byte, ok bool) {
	switch f.of {
	case ofKey:
		return set.Key(i, f.i), true
	case ofBase:
		return set.AppendBase(scratch, i), true
	case ofMask:
		return appendMask(scratch, t, set, i), true
	case ofTimes:
		return strconv.AppendInt(scratch, int64(set.Times(i)), 10), true
	}
	text, state := set.Value(i, f.i)
	return text, state == change.Present
}

// fromArrays is the source of rows given as one text[] parameter a column, the first being $first.
func (t *Target) fromArrays(k kind, first int) string {
	var out, params, cols []string
	for i, f := range t.fields[k] {
		out = append(out, fmt.Sprintf("a%d::%s AS %s", i+1, f.typ, f.name))
		params = append(params, fmt.Sprintf("$%d::text[]", first+i))
		cols = append(cols, fmt.Sprintf("a%d", i+1))
	}
	return fmt.Sprintf("(SELECT %s FROM unnest(%s) AS u(%s))", strings.Join(out, ", "), strings.Join(params, ", "), strings.Join(cols, ", "))
}

// stageDDL gives the columns of the temporary table, which serves all kinds.
func (t *Target) stageDDL() string {
	var cols []string
	have := map[string]bool{}
	for k := range kinds {
		for _, f := range t.fields[k] {
			if !have[f.name] {
				have[f.name] = true
				cols = append(cols, f.name+" "+f.typ)
			}
		}
	}
	return strings.Join(cols, ", ")
}

// compile writes the statements down.
func (t *Target) compile() {
	for k := range kinds {
		if k != byEnd && k != byVersion || t.plan.Mode == rule.History {
			t.fields[k] = t.fieldsOf(k)
		}
	}
	t.stage = t.stageDDL()
	var ofSID []string // condition on the sid, as part of a WHERE
	var intoSID, valueSID []string
	if t.sid != nil {
		ofSID = []string{fmt.Sprintf("t.%s %s $1::text::%s", t.sid.name, t.sid.equal, t.sid.typ)}
		intoSID, valueSID = []string{t.sid.name}, []string{"$1::text::" + t.sid.typ}
	}
	where := func(conditions []string) string {
		if all := append(append([]string{}, ofSID...), conditions...); len(all) > 0 {
			return " WHERE " + strings.Join(all, " AND ")
		}
		return ""
	}
	var byOrigin, byFinal []string
	isKey := map[int]bool{}
	for i, c := range t.plan.Key {
		col := &t.columns[c]
		byOrigin = append(byOrigin, fmt.Sprintf("t.%s %s s.o%d", col.name, col.equal, i+1))
		byFinal = append(byFinal, fmt.Sprintf("t.%s %s s.c%d", col.name, col.equal, c+1))
		isKey[c] = true
	}
	var into, values, sets, masked, excluded, overwritten, taken, put []string
	var respelled []string // columns of the key in which a row that is read anew may spell the same value otherwise
	conflict := append([]string{}, intoSID...)
	for i := range t.columns {
		col := &t.columns[i]
		if !col.written {
			continue
		}
		into = append(into, col.name)
		values = append(values, fmt.Sprintf("s.c%d", i+1))
		put = append(put, fmt.Sprintf("d.c%d", i+1))
		pick := fmt.Sprintf("CASE WHEN substr(s.m, %d, 1) = '1' THEN s.c%d ELSE t.%s END", i+1, i+1, col.name)
		if isKey[i] {
			taken = append(taken, fmt.Sprintf("s.c%d", i+1))
			if typ := &t.plan.Column(i).Type; typ.Respelled() || !typ.ByteEqual() {
				respelled = append(respelled, col.name)
				overwritten = append(overwritten, fmt.Sprintf("%s = s.c%d", col.name, i+1))
			}
			continue
		}
		taken = append(taken, fmt.Sprintf("%s AS c%d", pick, i+1))
		masked = append(masked, col.name+" = "+pick)
		sets = append(sets, col.name)
		overwritten = append(overwritten, fmt.Sprintf("%s = s.c%d", col.name, i+1))
	}
	for _, c := range t.plan.Key {
		conflict = append(conflict, t.columns[c].name)
	}
	for _, name := range slices.Concat(sets, respelled) {
		excluded = append(excluded, name+" = excluded."+name)
	}
	intoNew, valueNew := slices.Clone(intoSID), slices.Clone(valueSID) // of a row that was not there
	for _, c := range t.fixed {
		intoNew, valueNew = append(intoNew, c.name), append(valueNew, c.literal)
	}
	intoAll := strings.Join(append(append([]string{}, intoNew...), into...), ", ")
	valuesAll := strings.Join(append(append([]string{}, valueNew...), values...), ", ")
	insert := fmt.Sprintf("INSERT INTO %s AS t (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s s", t.name, intoAll, valuesAll, source)

	// DELETE and not TRUNCATE: readers keep what they see and are not waited for, and no further right is needed.
	t.template.truncate = "DELETE FROM " + t.name + " t" + where(nil)
	t.template.insert = insert
	if len(t.plan.Key) == 0 {
		if t.plan.Mode == rule.Clone {
			t.template.takeOut = t.takeOut(where)
		}
		return
	}
	if t.plan.Mode == rule.History {
		t.compileHistory(where, byOrigin, append(append([]string{}, intoNew...), into...), valueNew)
	}
	var noted []string
	for _, c := range t.plan.Key {
		noted = append(noted, fmt.Sprintf("s.c%d", c+1))
	}
	t.template.mark = fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s s ON CONFLICT DO NOTHING", seenTable,
		strings.Join(conflict, ", "), strings.Join(append(append([]string{}, valueSID...), noted...), ", "), source)
	t.template.remove = fmt.Sprintf("DELETE FROM %s t USING %s s%s", t.name, source, where(byOrigin))
	t.template.unless = fmt.Sprintf("NOT EXISTS (SELECT FROM %s s WHERE %s)", source, strings.Join(byOrigin, " AND "))
	t.template.missing = fmt.Sprintf("SELECT s.r FROM (SELECT *, row_number() OVER () AS r FROM %s s) s WHERE NOT EXISTS (SELECT FROM %s t%s)",
		source, t.name, where(byFinal))
	if len(masked) > 0 {
		t.template.update = fmt.Sprintf("UPDATE %s t SET %s FROM %s s%s", t.name, strings.Join(masked, ", "), source, where(byFinal))
	}
	switch {
	case !t.unique && t.Carries():
		t.template.upsert = insert + fmt.Sprintf(" WHERE NOT EXISTS (SELECT FROM %s t%s)", t.name, where(byFinal))
		if len(overwritten) > 0 {
			t.template.overwrite = fmt.Sprintf("UPDATE %s t SET %s FROM %s s%s", t.name, strings.Join(overwritten, ", "), source, where(byFinal))
		}
	case !t.unique:
		t.template.clear = fmt.Sprintf("DELETE FROM %s t USING %s s%s", t.name, source, where(byFinal))
		t.template.upsert = insert
	case len(excluded) == 0:
		t.template.upsert = insert + " ON CONFLICT (" + strings.Join(conflict, ", ") + ") DO NOTHING"
	default:
		t.template.upsert = insert + " ON CONFLICT (" + strings.Join(conflict, ", ") + ") DO UPDATE SET " + strings.Join(excluded, ", ")
	}
	// All rows are taken away before the first is put back, which the sort sees to: a row may move to the key that
	// another one leaves. Columns that no rule writes move along.
	for i, name := range t.extra {
		taken = append(taken, fmt.Sprintf("t.%s AS x%d", name, i+1))
		put = append(put, fmt.Sprintf("d.x%d", i+1))
	}
	t.template.move = fmt.Sprintf("WITH d AS (DELETE FROM %s t USING %s s%s RETURNING s.m, %s) INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM d ORDER BY d.m",
		t.name, source, where(byOrigin), strings.Join(taken, ", "), t.name,
		strings.Join(append(append(append([]string{}, intoSID...), into...), t.extra...), ", "),
		strings.Join(append(append([]string{}, valueSID...), put...), ", "))
}

// takeOut deletes, for each row of the source of rows, n of the rows equal to it. Rows are compared by the text of all
// columns, since not every type has an equality and none other is exact; both sides go through the column's type.
func (t *Target) takeOut(where func([]string) string) string {
	var mine, theirs []string
	for i := range t.columns {
		if t.columns[i].written {
			mine = append(mine, fmt.Sprintf("t.%s::text", t.columns[i].name))
			theirs = append(theirs, fmt.Sprintf("s.c%d::text", i+1))
		}
	}
	return fmt.Sprintf(`WITH w AS MATERIALIZED (SELECT ROW(%s)::text AS k, sum(s.n) AS n FROM %s s GROUP BY 1),
m AS MATERIALIZED (SELECT t.tableoid AS o, t.ctid AS c, row_number() OVER (PARTITION BY w.k) AS i, w.n
  FROM %s t JOIN w ON ROW(%s)::text = w.k%s)
DELETE FROM %s t USING m WHERE t.ctid = m.c AND t.tableoid = m.o AND m.i <= m.n`,
		strings.Join(theirs, ", "), source, t.name, strings.Join(mine, ", "), where(nil), t.name)
}

// createStage gives the statement that makes the temporary table.
func createStage(name, columns string) string {
	return fmt.Sprintf("CREATE TEMPORARY TABLE %s (%s) ON COMMIT DELETE ROWS", postgres.Ident(name), columns)
}
