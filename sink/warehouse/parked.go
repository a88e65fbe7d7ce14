package warehouse

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// ParkedRecord is a record that was put aside: by itself because it cannot be applied, or behind another one of its
// key, so that applying it later never puts an old row over a new one. Slices are the caller's.
type ParkedRecord struct {
	Topic     string
	Partition int32
	Offset    int64
	Source    string
	Table     string // schema.table at the source
	Key       []byte
	Value     []byte
	Headers   map[string][]byte
	Identity  []byte // what records of one row have in common
	Linked    []byte // of a half of a change of a key: Identity of the other half; nil otherwise
	Behind    *int64 // offset of the record that it waits behind; nil: it failed itself
	Reason    Reason
	ParkedAt  time.Time // read only
}

// Reason is why a record was put aside. It never holds values of rows beside the key's.
type Reason struct {
	Code    trouble.Code
	Message string
}

// Error gives the message.
func (r *Reason) Error() string { return r.Message }

// Parked is what is put aside of one partition, and whether its table is read anew: while N in its checkpoint stays the
// same, so does all of it.
type Parked struct {
	N      int64
	Keys   map[string]int64 // Identity: offset of the first record of it
	Reload *Reload          // nil for none
}

// Parked looks up what is put aside. The answer has one entry for each partition; one without a checkpoint has none.
func (s *Session) Parked(ctx context.Context, parts []Partition) ([]Parked, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	topics, numbers, _ := arrays(parts)
	// One statement, hence one moment: the number belongs to the keys.
	rows, err := s.conn.Query(ctx, `
		SELECT s.i, coalesce(c.parked_n, 0), p.identity, min(p."offset"), coalesce(r.id, 0), r.since, coalesce(r.at, 0), r.key, r.types
		  FROM unnest($2::text[], $3::int[]) WITH ORDINALITY AS s(topic, partition, i)
		  LEFT JOIN tributary.checkpoint c ON c.grp = $1 AND c.topic = s.topic AND c.partition = s.partition
		  LEFT JOIN tributary.parked p ON p.grp = $1 AND p.topic = s.topic AND p.partition = s.partition AND c.parked_n > 0
		  LEFT JOIN tributary.reload r ON r.grp = $1 AND r.topic = s.topic
		 GROUP BY s.i, c.parked_n, p.identity, r.grp, r.topic`, s.w.cfg.Group, topics, numbers)
	if err != nil {
		return nil, s.broken("read", "tributary.parked", err)
	}
	out := make([]Parked, len(parts))
	var i, n int64
	var identity []byte
	var first *int64
	var r Reload
	var since *time.Time
	_, err = pgx.ForEachRow(rows, []any{&i, &n, &identity, &first, &r.ID, &since, &r.At, &r.key, &r.types}, func() error {
		p := &out[i-1]
		p.N = n
		if since != nil {
			p.Reload = &Reload{ID: r.ID, Since: *since, At: r.At, key: slices.Clone(r.key), types: slices.Clone(r.types)}
		}
		if p.Keys == nil {
			p.Keys = map[string]int64{}
		}
		if first != nil {
			p.Keys[string(identity)] = *first
		}
		return nil
	})
	if err != nil {
		return nil, s.broken("read", "tributary.parked", err)
	}
	return out, nil
}

// park is the statement that puts records aside. A record that is there already was read again after its checkpoint
// was moved back by hand.
func (w *Warehouse) park(records []ParkedRecord) statement {
	column := func(text func(r *ParkedRecord) (string, bool)) param {
		return param{array: textArray(len(records), func(i int) ([]byte, bool) {
			s, ok := text(&records[i])
			return []byte(s), ok
		})}
	}
	text := func(text func(r *ParkedRecord) string) param {
		return column(func(r *ParkedRecord) (string, bool) { return text(r), true })
	}
	bytes := func(b func(r *ParkedRecord) []byte) param {
		return column(func(r *ParkedRecord) (string, bool) { return hex.EncodeToString(b(r)), b(r) != nil })
	}
	return statement{
		unit: -1,
		sql: `
INSERT INTO tributary.parked (grp, topic, partition, "offset", source, table_name, key, value, identity, linked, headers, behind, code, message)
SELECT $1, s.topic, s.partition::int, s.off::bigint, s.source, s.tab, decode(s.key, 'hex'), decode(s.value, 'hex'), decode(s.identity, 'hex'),
       decode(s.linked, 'hex'), s.headers::jsonb, s.behind::bigint, s.code, s.message
  FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
              $12::text[], $13::text[], $14::text[])
    AS s(topic, partition, off, source, tab, key, value, identity, linked, headers, behind, code, message)
ON CONFLICT (grp, topic, partition, "offset") DO UPDATE SET key = excluded.key, value = excluded.value, identity = excluded.identity,
       linked = excluded.linked, headers = excluded.headers, behind = excluded.behind, code = excluded.code, message = excluded.message`,
		params: []param{
			{text: []byte(w.cfg.Group)},
			text(func(r *ParkedRecord) string { return r.Topic }),
			text(func(r *ParkedRecord) string { return strconv.Itoa(int(r.Partition)) }),
			text(func(r *ParkedRecord) string { return strconv.FormatInt(r.Offset, 10) }),
			text(func(r *ParkedRecord) string { return r.Source }),
			text(func(r *ParkedRecord) string { return r.Table }),
			bytes(func(r *ParkedRecord) []byte { return r.Key }),
			bytes(func(r *ParkedRecord) []byte { return r.Value }),
			bytes(func(r *ParkedRecord) []byte { return r.Identity }),
			bytes(func(r *ParkedRecord) []byte { return r.Linked }),
			text(func(r *ParkedRecord) string { return encodeHeaders(r.Headers) }),
			column(func(r *ParkedRecord) (string, bool) {
				if r.Behind == nil {
					return "", false
				}
				return strconv.FormatInt(*r.Behind, 10), true
			}),
			text(func(r *ParkedRecord) string { return string(r.Reason.Code) }),
			text(func(r *ParkedRecord) string { return r.Reason.Message }),
		},
	}
}

func encodeHeaders(headers map[string][]byte) string {
	texts := map[string]string{}
	for name, value := range headers {
		texts[name] = hex.EncodeToString(value)
	}
	out, _ := json.Marshal(texts) // strings only: cannot fail
	return string(out)
}

func decodeHeaders(text []byte) (map[string][]byte, error) {
	var texts map[string]string
	if err := json.Unmarshal(text, &texts); err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for name, t := range texts {
		value, err := hex.DecodeString(t)
		if err != nil {
			return nil, err
		}
		out[name] = value
	}
	return out, nil
}

// clearParked is the statement that forgets what is parked of a table when a TRUNCATE is applied: all of it came before,
// since the other partitions wait at the barrier, and what is parked behind it comes later in the transaction.
// Partition 0 applies a TRUNCATE and counts its own change with its Advance.
func (w *Warehouse) clearParked(topic string) statement {
	return statement{
		unit: -1,
		sql: `
WITH gone AS (DELETE FROM tributary.parked WHERE grp = $1 AND topic = $2 RETURNING partition)
UPDATE tributary.checkpoint SET parked_n = parked_n + 1
 WHERE grp = $1 AND topic = $2 AND partition > 0 AND partition IN (SELECT partition FROM gone)`,
		params: []param{{text: []byte(w.cfg.Group)}, {text: []byte(topic)}},
	}
}

// parkedColumns are read by scanParked.
const parkedColumns = `topic, partition, "offset", source, table_name, key, value, headers::text, identity, linked, behind, code, message, parked_at`

func scanParked(row pgx.CollectableRow) (r ParkedRecord, err error) {
	var headers []byte
	err = row.Scan(&r.Topic, &r.Partition, &r.Offset, &r.Source, &r.Table, &r.Key, &r.Value, &headers, &r.Identity, &r.Linked,
		&r.Behind, &r.Reason.Code, &r.Reason.Message, &r.ParkedAt)
	if err == nil {
		r.Headers, err = decodeHeaders(headers)
	}
	return r, err
}

// Selection picks parked records. Empty fields pick all.
type Selection struct {
	Source, Table string
	Code          string
	Since         time.Time
	Offset        *int64
	Partition     *int32
}

const selected = `grp = $1 AND ($2 = '' OR source = $2) AND ($3 = '' OR table_name = $3) AND ($4 = '' OR code = $4)
	AND ($5::timestamptz IS NULL OR parked_at >= $5) AND ($6::bigint IS NULL OR "offset" = $6) AND ($7::int IS NULL OR partition = $7)`

func (sel *Selection) args(group string) []any {
	var since *time.Time
	if !sel.Since.IsZero() {
		since = &sel.Since
	}
	return []any{group, sel.Source, sel.Table, sel.Code, since, sel.Offset, sel.Partition}
}

// ListParked gives up to limit records in order of topic, partition and offset; 0 for all.
func (s *Session) ListParked(ctx context.Context, sel Selection, limit int) ([]ParkedRecord, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `SELECT `+parkedColumns+` FROM tributary.parked WHERE `+selected+`
		ORDER BY topic, partition, "offset" LIMIT nullif($8::int, 0)`, append(sel.args(s.w.cfg.Group), limit)...)
	if err != nil {
		return nil, s.broken("read", "tributary.parked", err)
	}
	out, err := pgx.CollectRows(rows, scanParked)
	if err != nil {
		return nil, s.broken("read", "tributary.parked", err)
	}
	return out, nil
}

// ParkedCounts is how many records are put aside, by topic and by why: the code, "" for those that wait behind another.
type ParkedCounts map[string]map[trouble.Code]ParkedCount

// ParkedCount is how many records are put aside, and when the first and the last of them were.
type ParkedCount struct {
	Records        int64
	Oldest, Newest time.Time
}

// parkedThere is what CountParked has counted last.
type parkedThere struct {
	counts ParkedCounts
	asOf   string // of all checkpoints, whose parked_n grow with each change
	opened int    // the connection: another server may have lost what it confirmed last
	at     time.Time
}

// recountAfter is how long a count is taken for what is there where nothing says that it has changed: somebody may delete rows by hand.
const recountAfter = time.Minute

// CountParked gives how many records of the group are put aside. They are counted when that has changed: with hundreds of thousands of
// them it takes long, and each sink asks each second. The answer is not to be changed.
func (s *Session) CountParked(ctx context.Context) (ParkedCounts, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	now := parkedThere{counts: ParkedCounts{}, opened: s.opened, at: time.Now()}
	if err := s.conn.QueryRow(ctx, `SELECT coalesce(sum(hashtextextended(topic || ' ' || partition || ' ' || owner_epoch, parked_n)), 0)::text
		FROM tributary.checkpoint WHERE grp = $1`, s.w.cfg.Group).Scan(&now.asOf); err != nil {
		return nil, s.broken("read", "tributary.checkpoint", err)
	}
	if last := &s.parkedThere; last.asOf == now.asOf && last.opened == now.opened && now.at.Sub(last.at) < recountAfter {
		return last.counts, nil
	}
	rows, err := s.conn.Query(ctx, `SELECT topic, code, count(*), min(parked_at), max(parked_at) FROM tributary.parked WHERE grp = $1 GROUP BY 1, 2`, s.w.cfg.Group)
	if err != nil {
		return nil, s.broken("read", "tributary.parked", err)
	}
	out := now.counts
	var topic, code string
	var n ParkedCount
	if _, err = pgx.ForEachRow(rows, []any{&topic, &code, &n.Records, &n.Oldest, &n.Newest}, func() error {
		if out[topic] == nil {
			out[topic] = map[trouble.Code]ParkedCount{}
		}
		out[topic][trouble.Code(code)] = n
		return nil
	}); err != nil {
		return nil, s.broken("read", "tributary.parked", err)
	}
	s.parkedThere = now
	return out, nil
}

// ErrNotParked says that a record is not parked any more.
var ErrNotParked = errors.New("it is not parked any more")

// Retry applies a parked record with everything that is parked of its key, and of the keys that changes of the key link
// to it, in their order: in one transaction, which takes them out of tributary.parked. The lock on the checkpoint keeps
// the partition's owner from parking more meanwhile. build folds the records; it must not use this session. It gives
// the records that were picked also with an error, and then nothing was written.
func (s *Session) Retry(ctx context.Context, at ParkedRecord, build func([]ParkedRecord) ([]Unit, error)) (records []ParkedRecord, err error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	tx, err := s.conn.Begin(ctx)
	if err != nil {
		return nil, s.broken("retry", "parked records", err)
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback(context.WithoutCancel(ctx))
			s.Close(context.WithoutCancel(ctx)) // its temporary tables went with the transaction
		}
	}()
	subject := partitionName(at.Topic, at.Partition)
	if _, err := tx.Exec(ctx, `UPDATE tributary.checkpoint SET parked_n = parked_n + 1 WHERE grp = $1 AND topic = $2 AND partition = $3`,
		s.w.cfg.Group, at.Topic, at.Partition); err != nil {
		return nil, s.broken("retry parked records of", subject, err)
	}
	rows, err := tx.Query(ctx, `
		WITH RECURSIVE keys(identity) AS (
			SELECT identity FROM tributary.parked WHERE grp = $1 AND topic = $2 AND partition = $3 AND "offset" = $4
			UNION
			SELECT CASE WHEN p.identity = k.identity THEN p.linked ELSE p.identity END
			  FROM keys k JOIN tributary.parked p ON p.grp = $1 AND p.topic = $2 AND p.partition = $3
			   AND p.linked IS NOT NULL AND (p.identity = k.identity OR p.linked = k.identity))
		SELECT `+parkedColumns+` FROM tributary.parked
		 WHERE grp = $1 AND topic = $2 AND partition = $3 AND identity IN (SELECT identity FROM keys) ORDER BY "offset"`,
		s.w.cfg.Group, at.Topic, at.Partition, at.Offset)
	if err != nil {
		return nil, s.broken("retry parked records of", subject, err)
	}
	if records, err = pgx.CollectRows(rows, scanParked); err != nil {
		return nil, s.broken("retry parked records of", subject, err)
	}
	if len(records) == 0 {
		return nil, ErrNotParked
	}
	units, err := build(records)
	if err != nil {
		return records, err
	}
	reloads, err := s.openReloads(ctx, at.Source)
	if err != nil {
		return records, s.broken("retry parked records of", subject, err)
	}
	a := s.flushing(&Flush{Units: units, Impatient: true}, reloads)
	if err = a.makeStages(ctx); err == nil {
		err = a.writeUnits(ctx)
	}
	if err == nil {
		err = a.noteMissed(ctx)
	}
	if err != nil {
		return records, a.failed(err)
	}
	offsets := make([]int64, len(records))
	for i := range records {
		offsets[i] = records[i].Offset
	}
	if _, err = tx.Exec(ctx, `DELETE FROM tributary.parked WHERE grp = $1 AND topic = $2 AND partition = $3 AND "offset" = ANY ($4)`,
		s.w.cfg.Group, at.Topic, at.Partition, offsets); err != nil {
		return records, s.broken("retry parked records of", subject, err)
	}
	err = s.operation(ctx, tx, Operation{
		Verb: "parked retry", Subject: at.Source + "/" + at.Table, Outcome: service.Plural(len(records), "record") + " applied",
		Before: map[string]any{"topic": at.Topic, "partition": at.Partition, "offsets": offsets},
	})
	if err == nil {
		err = tx.Commit(ctx)
	}
	if err != nil {
		return records, s.broken("retry parked records of", subject, err)
	}
	return records, nil
}

// Discard deletes parked records: they will never be applied. It gives how many.
func (s *Session) Discard(ctx context.Context, sel Selection, reason string) (n int64, err error) {
	subject := "parked records of " + strconv.Quote(sel.Source+"/"+sel.Table)
	err = s.inTx(ctx, "discard", subject, func(tx pgx.Tx) error {
		// Checkpoints first, in the order of their key, as every flush does.
		if _, err := tx.Exec(ctx, `
			SELECT FROM tributary.checkpoint c WHERE c.grp = $1 AND EXISTS (SELECT FROM tributary.parked p
			  WHERE p.grp = c.grp AND p.topic = c.topic AND p.partition = c.partition AND ($2 = '' OR p.source = $2) AND ($3 = '' OR p.table_name = $3))
			 ORDER BY c.topic COLLATE "C", c.partition FOR UPDATE`, s.w.cfg.Group, sel.Source, sel.Table); err != nil {
			return err
		}
		var offsets []byte
		err := tx.QueryRow(ctx, `
			WITH gone AS (DELETE FROM tributary.parked WHERE `+selected+` RETURNING topic, partition, "offset"),
			     counted AS (UPDATE tributary.checkpoint c SET parked_n = parked_n + 1
			                   FROM (SELECT DISTINCT topic, partition FROM gone) g
			                  WHERE c.grp = $1 AND c.topic = g.topic AND c.partition = g.partition)
			SELECT count(*), coalesce(jsonb_agg(jsonb_build_object('topic', topic, 'partition', partition, 'offset', "offset")), '[]')::text FROM gone`,
			sel.args(s.w.cfg.Group)...).Scan(&n, &offsets)
		if err != nil || n == 0 {
			return err
		}
		return s.operation(ctx, tx, Operation{
			Verb: "parked discard", Subject: sel.Source + "/" + sel.Table, Reason: reason,
			Before: json.RawMessage(offsets), Outcome: service.Plural(n, "record") + " discarded",
		})
	})
	return n, err
}
