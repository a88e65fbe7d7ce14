package warehouse

import "strings"

// A Target is of a moment. Statements name columns, and what a name stands for may change between that moment and a flush:
//
//	sink 1, partition 0: is far behind, has looked at the target, writes column a
//	sink 2, partition 1: takes in that the source has renamed a to b and has a new a; renames the target's, and adds one
//	sink 1:              writes what was a into the new a
//
// No statement fails by that. So the last one of what a flush writes compares: by then its locks keep the target as it is.

// columnForm is what a column of pg_attribute a is to a flush: one that ceases to be generated is to be written from then on.
const columnForm = `format('%s %s %s %s %s%s', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated, a.attcollation)`

// tableForm is what a table of pg_class c is: one whose triggers, rules, policies or unique indexes change, or that is SET UNLOGGED,
// is looked at again.
const tableForm = `format('%s;%s;%s;%s;%s,', c.relpersistence,
	CASE WHEN c.relhastriggers THEN (SELECT string_agg(g.oid::text || g.tgenabled::text, ' ' ORDER BY g.oid) FROM pg_trigger g WHERE g.tgrelid = c.oid) END,
	CASE WHEN c.relhasrules THEN (SELECT string_agg(w.oid::text || w.ev_enabled::text, ' ' ORDER BY w.oid) FROM pg_rewrite w WHERE w.ev_class = c.oid) END,
	CASE WHEN c.relrowsecurity THEN c.relforcerowsecurity || (SELECT string_agg(p.oid || ' ' || p.xmin, ' ' ORDER BY p.oid) FROM pg_policy p WHERE p.polrelid = c.oid) END,
	CASE WHEN c.relhasindex THEN (SELECT string_agg(i.indexrelid::text, ' ' ORDER BY i.indexrelid) FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid) END)`

// sameFormSQL gives a row for each of the targets that are as they were.
const sameFormSQL = `
SELECT FROM unnest($1::text[], $2::text[], $3::text[]) AS s(oid, attnums, form)
 WHERE form = (SELECT ` + tableForm + ` FROM pg_class c WHERE c.oid = s.oid::oid) || (SELECT string_agg(` + columnForm + `, ',' ORDER BY a.attnum) FROM pg_attribute a
                WHERE a.attrelid = s.oid::oid AND a.attnum = ANY (s.attnums::int2[]) AND NOT a.attisdropped)`

// formOf notes what the table is, and the columns that t uses; have is in the order of attnum.
func (t *Target) formOf(have catalogColumns, used map[string]bool) {
	var attnums, forms []string
	var of string
	for i := range have {
		if c := &have[i]; used[c.name] {
			t.oid, of, attnums, forms = c.table, c.tableForm, append(attnums, c.attnum), append(forms, c.form)
		}
	}
	t.attnums, t.form = "{"+strings.Join(attnums, ",")+"}", of+strings.Join(forms, ",")
}

// sameForms is the statement that compares the targets of units.
func sameForms(units []Unit) statement {
	of := func(text func(t *Target) string) param {
		return param{array: textArray(len(units), func(i int) ([]byte, bool) { return []byte(text(units[i].Target)), true })}
	}
	return statement{
		unit: -1, sql: sameFormSQL, prepare: true,
		params: []param{
			of(func(t *Target) string { return t.oid }), of(func(t *Target) string { return t.attnums }), of(func(t *Target) string { return t.form }),
		},
		check: func(rows int64) error {
			if rows != int64(len(units)) {
				return ErrTargetChanged
			}
			return nil
		},
	}
}
