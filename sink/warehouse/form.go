package warehouse

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// A Target is of a moment. Statements name columns, and what a name stands for may change between that moment and a flush:
//
//	sink 1, partition 0: is far behind, has looked at the target, writes column a
//	sink 2, partition 1: takes in that the source has renamed a to b and has a new a; renames the target's, and adds one
//	sink 1:              writes what was a into the new a
//
// No statement fails by that. So the last one of what a flush writes compares: by then its locks keep the target as it is. Where others
// write the target, too, sink 2 leaves column a as it is and copies the rows of its source into b: then it is what sink 2 has noted of the source
// that is another.

// columnForm is what a column of pg_attribute a is to a flush: one that ceases to be generated is to be written from then on.
const columnForm = `format('%s %s %s %s %s%s', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated, a.attcollation)`

// tableForm is what a table of pg_class c is: one that gets columns, whose triggers, rules, policies or unique indexes change, or that is SET UNLOGGED,
// is looked at again. Of a partitioned one each flush would have to ask for all partitions, and for the triggers of each: it goes by
// which they are, one level down, and by the sum of their triggers, see sameTriggers.
const tableForm = `format('%s;%s;%s;%s;%s;%s;%s,', c.relpersistence, c.relnatts,
	CASE WHEN c.relkind = 'p' THEN (SELECT sum(i.inhrelid::bigint) FROM pg_inherits i WHERE i.inhparent = c.oid) END,
	CASE WHEN c.relhastriggers THEN (SELECT string_agg(g.oid::text || g.tgenabled::text, ' ' ORDER BY g.oid) FROM pg_trigger g WHERE g.tgrelid = c.oid) END,
	CASE WHEN c.relhasrules THEN (SELECT string_agg(w.oid::text || w.ev_enabled::text, ' ' ORDER BY w.oid) FROM pg_rewrite w WHERE w.ev_class = c.oid) END,
	CASE WHEN c.relrowsecurity THEN c.relforcerowsecurity || (SELECT string_agg(p.oid || ' ' || p.xmin, ' ' ORDER BY p.oid) FROM pg_policy p WHERE p.polrelid = c.oid) END,
	CASE WHEN c.relhasindex THEN (SELECT string_agg(i.indexrelid::text, ' ' ORDER BY i.indexrelid) FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid) END)`

// newestTriggers tells the triggers of the database apart that were made last: by all of them, as what was made before another one may be committed behind
// it. There may be many of foreign keys, of which more would take long.
const newestTriggers = `(SELECT coalesce(sum(g.oid::bigint), 0)::text FROM (SELECT oid FROM pg_trigger ORDER BY oid DESC LIMIT 1000) g)`

// triggersBelow does so with the triggers of the table with oid %s and of its partitions, however deep.
const triggersBelow = `(WITH RECURSIVE part(oid) AS (SELECT %s UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN part ON i.inhparent = part.oid)
	SELECT coalesce(sum(g.oid::bigint), 0)::text FROM part JOIN pg_trigger g ON g.tgrelid = part.oid)`

// partTriggers is both, where the table of pg_class c is partitioned: with the first of its columns in pg_attribute a.
var partTriggers = `CASE WHEN c.relkind = 'p' AND row_number() OVER (ORDER BY a.attnum) = 1 THEN ` + newestTriggers + ` || ' ' || ` + fmt.Sprintf(triggersBelow, "c.oid") + ` ELSE '' END`

// sameTriggers says whether the triggers of the partitions of s.oid are those of s.triggers. Each flush asks for the newest of the database: few ever come.
var sameTriggers = `CASE WHEN s.triggers = '' OR split_part(s.triggers, ' ', 1) = ` + newestTriggers + ` THEN true ELSE split_part(s.triggers, ' ', 2) = ` + fmt.Sprintf(triggersBelow, "s.oid::oid") + ` END`

// sameFormSQL gives a row for each of the targets that are as they were.
var sameFormSQL = `
SELECT FROM (SELECT $1::text AS grp, u.* FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) AS u(oid, attnums, form, topic, mapping, triggers)) s
 WHERE mapping = ` + mappingForm + ` AND ` + sameTriggers + `
   AND form = (SELECT ` + tableForm + ` FROM pg_class c WHERE c.oid = s.oid::oid) || (SELECT string_agg(` + columnForm + `, ',' ORDER BY a.attnum) FROM pg_attribute a
                WHERE a.attrelid = s.oid::oid AND a.attnum = ANY (s.attnums::int2[]) AND NOT a.attisdropped)`

// mappingForm is to which columns of the target those of a source go, and with which defaults rows of before are written: of topic s.topic, into the table s.oid. There are several where the source had
// another sid before. Names of the catalog have another collation than ours, for which our index is of no use, and the table is to be looked up first: each
// flush asks this of each of its targets, of which there may be thousands.
const mappingForm = `coalesce((SELECT string_agg(md5(concat(f.shape->'columns', f.shape->'unmet')), ' ' ORDER BY f.sid)
	FROM (SELECT n.nspname::text COLLATE "default" AS schema, c.relname::text COLLATE "default" AS name
	        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = s.oid::oid OFFSET 0) t,
	     LATERAL (SELECT f.sid, f.shape FROM tributary.feed f
	               WHERE f.grp = s.grp AND f.target_schema = t.schema AND f.target_table = t.name AND f.topic = s.topic OFFSET 0) f), '')`

// mapped notes that.
func (s *Session) mapped(ctx context.Context, tx pgx.Tx, t *Target, topic string) error {
	if s.inspecting {
		return nil // there may be no tables of our own
	}
	return tx.QueryRow(ctx, `SELECT `+mappingForm+` FROM (SELECT $1::text, $2::text, $3::text) s(grp, oid, topic)`, s.w.cfg.Group, t.oid, topic).Scan(&t.mapping)
}

// formOf notes what the table is, and the columns that t uses; have is in the order of attnum.
func (t *Target) formOf(have catalogColumns, used map[string]bool) {
	var attnums, forms []string
	var of string
	for i := range have {
		if c := &have[i]; used[c.name] {
			t.oid, t.triggers, of, attnums, forms = c.table, have[0].triggers, c.tableForm, append(attnums, c.attnum), append(forms, c.form)
		}
	}
	t.attnums, t.form = "{"+strings.Join(attnums, ",")+"}", of+strings.Join(forms, ",")
}

// sameForms is the statement that compares the targets of units.
func (w *Warehouse) sameForms(units []Unit) statement {
	of := func(text func(u *Unit) string) param {
		return param{array: textArray(len(units), func(i int) ([]byte, bool) { return []byte(text(&units[i])), true })}
	}
	return statement{
		unit: -1, sql: sameFormSQL, prepare: true,
		params: []param{
			{text: []byte(w.cfg.Group)},
			of(func(u *Unit) string { return u.Target.oid }), of(func(u *Unit) string { return u.Target.attnums }),
			of(func(u *Unit) string { return u.Target.form }), of(func(u *Unit) string { return u.Topic }), of(func(u *Unit) string { return u.Target.mapping }),
			of(func(u *Unit) string { return u.Target.triggers }),
		},
		check: func(rows int64) error {
			if rows != int64(len(units)) {
				return unsteady(units)
			}
			return nil
		},
	}
}

// unsteady is the trouble of units of which the target of one is not as it was.
func unsteady(units []Unit) error {
	of := targetName(units[0].Result.Plan)
	if len(units) > 1 {
		of = "one of several tables"
	}
	return &trouble.Error{
		Code: trouble.SchemaChangeBlocked, Op: "write to", Subject: of, Cause: ErrTargetUnsteady,
		Means: "nothing of it was written, and nothing is lost: it is tried again until nobody alters it meanwhile",
	}
}
