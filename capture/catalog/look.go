package catalog

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/schema/change"
)

// Look is what is asked of a source all the time, also of one where nothing happens.
type Look struct {
	Slot  *Slot      // nil: it is not there
	WAL   change.LSN // end of what the server has flushed
	Pause *Pause     // that is asked for; nil: none
	Now   time.Time  // by the source's clock; zero without publications
	// Version is another one whenever Tables or LeaveOut may have another answer than before, or Ensure something to do.
	Version string
}

// version is what the source has said of its catalogs.
type version struct {
	text string
	// asOf is the snapshot under which it was asked. A transaction that has ended since makes another one of it.
	asOf string
	took []float64 // seconds that the source took to answer the last times
	due  time.Time // when it is asked again, see Spare
}

// sparing is how many times as long as it takes to ask for the version Spare has Look wait before it asks again.
const sparing = 20

// sparedBy is how many of the last times count for that.
const sparedBy = 3

// Spare has Look tell the version that it was told last, where to ask for it would be more than a twentieth of a core's work of the source: one that
// has very many tables is told of later when they change, but not later than after most. What took long may have waited for a lock, or a disk: of the last
// times the shortest counts.
func (c *Catalog) Spare(most time.Duration) { c.spares, c.most = true, most }

// Look asks for all of it in one round trip: there may be hundreds of captures that do.
func (c *Catalog) Look(ctx context.Context, slot string, p Publications) (*Look, error) {
	var l Look
	var batch pgx.Batch
	batch.Queue(slotSQL, slot).Query(func(rows pgx.Rows) (err error) {
		l.Slot, err = scanSlot(slot, rows)
		return err
	})
	batch.Queue(walSQL).QueryRow(func(row pgx.Row) error { return row.Scan((*uint64)(&l.WAL)) })
	batch.Queue(commentSQL, p.Full).QueryRow(func(row pgx.Row) error {
		comment, _, now, err := scanComment(row)
		l.Pause, l.Now = parsePause(comment), now
		return err
	})
	is := c.looked
	if began := time.Now(); !c.spares || !began.Before(is.due) {
		batch.Queue(versionSQL, p.Full, p.Insert, is.asOf).QueryRow(func(row pgx.Row) error {
			var text *string
			var took float64
			if err := row.Scan(&is.asOf, &text, &took); err != nil {
				return err
			}
			if text == nil {
				is.due = began
				return nil
			}
			is.text = *text
			is.took = slices.Concat([]float64{took}, is.took[:min(len(is.took), sparedBy-1)])
			is.due = time.Now().Add(min(time.Duration(sparing*slices.Min(is.took)*float64(time.Second)), c.most)) // from its end: it may have taken longer than that
			return nil
		})
	}
	if err := c.conn.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, Unreachable("look at", "source", err)
	}
	c.looked, l.Version = is, is.text
	return &l, nil
}

// versionSQL sums up who wrote the rows of the catalogs that Tables, LeaveOut and Ensure read, and what is written in place; null where no transaction has
// ended since the snapshot $3. Only what users have made is looked at.
var versionSQL = `
	select s.now, case when s.now <> $3 then concat_ws(' ',
	       ` + written("pg_class where oid >= 16384 and relpersistence <> 't'", "sum(reltuples::float8)") + `,
	       ` + written("pg_attribute where attrelid >= 16384") + `,
	       ` + written("pg_index where indrelid >= 16384") + `,
	       ` + written("pg_type where oid >= 16384") + `,
	       (select sum(hash_record_extended(row(inhrelid, inhparent, xmin), 0)) from pg_inherits),
	       (select sum(hash_record_extended(row(oid, xmin), 0)) from pg_publication_rel),
	       (select sum(hash_record_extended(row(oid, xmin), 0)) from pg_publication where pubname in ($1, $2)),
	       (select sum(hash_record_extended(row(roleid, member, xmin), 0)) from pg_auth_members where member >= 16384),
	       (select sum(hash_record_extended(row(oid, xmin), 0)) from pg_namespace)) end,
	       extract(epoch from clock_timestamp() - statement_timestamp())::float8
	  from (select pg_current_snapshot()::text as now) s`

// written is the expression of how many rows there are in a catalog that has very many, and the sum of a hash of the ids that wrote them: whoever changes a row leaves
// one of a later id. The ids themselves may have the sum of before: of rows of 100 and 102, 101 changes both. An id has no number; its age has, beside
// that of another. To make a hash of each row, instead of one number of it, takes three times as long as to read it.
func written(from string, more ...string) string {
	return "(select concat_ws(' ', " + strings.Join(append(more, "count(*)", "sum(hashint8(age(xmin) - (select age('3'::xid)::bigint)))"), ", ") + ") from " + from + ")"
}
