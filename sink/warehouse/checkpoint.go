package warehouse

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/mutant"
)

// Partition names one partition of one topic.
type Partition struct {
	Topic   string
	Number  int32
	TopicID string // as Kafka has it
}

// Claim is what a claimed partition has to go on from.
type Claim struct {
	Partition
	Epoch    int64 // of this claim; every later write names it
	Next     int64 // offset of the first record to apply
	Term     int32 // of the last one that was, see Advance; 0 where it is not known
	Position change.Position
	// CommitTime is that of the last change applied, microseconds since 1970; 0 for none.
	CommitTime int64
	// Attempt is not 0 where the partition was quarantined before: this claim is a new attempt, see Quarantined.
	Attempt int64
	Err     error // the partition must not be consumed, though claimed: trouble
	// Park is not nil where somebody asked that the first record be parked: the reason for which it was quarantined.
	Park *Reason
	Skip bool // somebody asked that the first record be passed over
}

// claimPatience is how long a claim waits for the transaction of an owner before it. A live owner has finished by
// then: the rebalance that made the claim waited for it.
const claimPatience = 10 * time.Second

// Claim takes over partitions: it raises their epoch, so that no write of an owner before hits the checkpoint any
// more. A transaction of such an owner that is still open is waited for; after claimPatience its backend is
// terminated, as a process that was stopped would hold its locks for ever. parts must be in order of topic and number.
func (w *Warehouse) Claim(ctx context.Context, parts []Partition) (claims []Claim, err error) {
	err = w.with(ctx, func(conn *pgx.Conn) error {
		done := make(chan struct{})
		impatient := make(chan error, 1)
		go func() { impatient <- w.endBlockers(ctx, conn.PgConn().PID(), done) }()
		claims, err = w.claim(ctx, conn, parts)
		close(done)
		if err := <-impatient; err != nil {
			w.cfg.Log.Warn("cannot end the transaction of an owner before; waiting for it", "error", err)
		}
		return w.troubled("claim partitions", fmt.Sprintf("group %q", w.cfg.Group), err)
	})
	return claims, err
}

// endBlockers terminates, every claimPatience until done, the sinks' backends of this group that keep the backend
// pid waiting. Others (a person's psql) are left alone.
func (w *Warehouse) endBlockers(ctx context.Context, pid uint32, done <-chan struct{}) error {
	tick := time.NewTicker(claimPatience)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-tick.C:
		}
		err := w.with(ctx, func(conn *pgx.Conn) error {
			rows, err := conn.Query(ctx, `
				SELECT a.pid, a.backend_start::text, pg_terminate_backend(a.pid)
				  FROM pg_stat_activity a
				 WHERE a.pid = ANY (pg_blocking_pids($1)) AND a.usename = current_user
				   AND a.application_name = left($2, 63)`, int32(pid), w.application())
			if err != nil {
				return postgres.Describe(err)
			}
			return postgres.Describe(w.ended(rows, "ended the transaction of an owner before, which held its partitions"))
		})
		if err != nil {
			return err
		}
	}
}

func (w *Warehouse) claim(ctx context.Context, conn *pgx.Conn, parts []Partition) ([]Claim, error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	topics, numbers, ids := arrays(parts)
	rows, err := tx.Query(ctx, `
		INSERT INTO tributary.checkpoint (grp, topic, partition, topic_id)
		SELECT $1, s.topic, s.partition, s.id FROM unnest($2::text[], $3::int[], $4::text[]) AS s(topic, partition, id)
		ON CONFLICT DO NOTHING RETURNING topic`, w.cfg.Group, topics, numbers, ids)
	if err != nil {
		return nil, err
	}
	begun, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err == nil {
		err = w.unknown(ctx, tx, begun)
	}
	if err != nil {
		return nil, err
	}
	// One row at a time and in the order of the key: a flush takes its locks in the same order. All of them in one round trip.
	var all pgx.Batch
	for _, p := range parts {
		// Whoever has claimed a topic in the moment in which it was not to be read, as its source was removed and is brought back, did not know its id.
		all.Queue(`
			UPDATE tributary.checkpoint c
			   SET owner_epoch = owner_epoch + 1, owner = $4, owner_pid = NULL, owner_backend_start = NULL, topic_id = coalesce(nullif(topic_id, ''), $5)
			 WHERE grp = $1 AND topic = $2 AND partition = $3
			RETURNING owner_epoch, next_offset, CASE WHEN term_offset = next_offset THEN term ELSE 0 END, era, lsn::text, seq,
			          coalesce((extract(epoch FROM last_commit_ts) * 1000000)::bigint, 0), topic_id`,
			w.cfg.Group, p.Topic, p.Number, w.cfg.Instance, p.TopicID)
		all.Queue(`
			SELECT attempt, park AND q.next_offset = c.next_offset, skip AND q.next_offset = c.next_offset, code, message
			  FROM tributary.quarantine q JOIN tributary.checkpoint c USING (grp, topic, partition)
			 WHERE grp = $1 AND topic = $2 AND partition = $3`, w.cfg.Group, p.Topic, p.Number)
	}
	answers := tx.SendBatch(ctx, &all)
	claims, err := readClaims(answers, parts)
	if closed := answers.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return nil, err
	}
	regrown, err := w.regrown(ctx, tx, topics)
	if err != nil {
		return nil, err
	}
	for i := range claims {
		c := &claims[i]
		c.Err = regrown[c.Topic]
		if id := c.TopicID; id != parts[i].TopicID && parts[i].TopicID != "" { // that is not known, and says nothing
			c.TopicID = parts[i].TopicID
			c.Err = &trouble.Error{
				Code: trouble.TopicRecreated, Op: "go on with", Subject: partitionName(c.Topic, c.Number),
				Cause: fmt.Errorf("the topic has the id %s, the checkpoint was made for %s", c.TopicID, id),
				Means: "the topic was deleted and made anew, or this is another Kafka cluster; nothing of it is applied",
				Hint: fmt.Sprintf("to take the new topic from its beginning: DELETE FROM tributary.checkpoint WHERE grp = %s AND topic = %s;\nthen sink resume SOURCE/TABLE; what the old one held is not in it, so read the table anew: docs/reload.md",
					postgres.Literal(w.cfg.Group), postgres.Literal(c.Topic)),
			}
		}
	}
	return claims, tx.Commit(ctx)
}

// regrown gives the trouble of topics that are held as they have got partitions. Who claims one, after a restart or a rebalance, sees only how many there
// are by now, and would go on with all of them, in which rows have lost their order; nobody but resume ends that.
func (w *Warehouse) regrown(ctx context.Context, tx pgx.Tx, topics []string) (map[string]error, error) {
	rows, err := tx.Query(ctx, `SELECT topic, message, hint FROM tributary.quarantine WHERE grp = $1 AND topic = ANY ($2) AND code = $3`,
		w.cfg.Group, topics, string(trouble.TopicPartitionsChanged))
	if err != nil {
		return nil, err
	}
	out := map[string]error{}
	var topic, message, hint string
	_, err = pgx.ForEachRow(rows, []any{&topic, &message, &hint}, func() error {
		op, subject := "go on with", fmt.Sprintf("topic %q", topic)
		out[topic] = &trouble.Error{
			Code: trouble.TopicPartitionsChanged, Op: op, Subject: subject, Cause: errors.New(strings.TrimPrefix(message, op+" "+subject+": ")),
			Means: "keys would change their partition and rows their order; what is written from the topic is held", Hint: hint,
		}
		return nil
	})
	return out, err
}

// unknown forgets what is known of sources whose progress topic is among topics, which are read from their beginning. A topic that was made anew, as the one
// before is lost, counts its records and offsets from the beginning: what it says would be taken for known, and its fences for reached.
func (w *Warehouse) unknown(ctx context.Context, tx pgx.Tx, topics []string) error {
	var sources []string
	for _, topic := range topics {
		if source, ok := record.ParseProgressTopic(topic); ok {
			sources = append(sources, source)
		}
	}
	if sources == nil {
		return nil
	}
	for _, table := range []string{"source", "milestone", "fence"} { // the order in which they are written
		if _, err := tx.Exec(ctx, `DELETE FROM tributary.`+table+` WHERE grp = $1 AND source = ANY ($2)`, w.cfg.Group, sources); err != nil {
			return err
		}
	}
	return nil
}

// readClaims reads what claim has asked for; TopicID is that of the checkpoint.
func readClaims(answers pgx.BatchResults, parts []Partition) ([]Claim, error) {
	claims := make([]Claim, len(parts))
	for i, p := range parts {
		c := &claims[i]
		c.Partition = p
		var era int32
		var lsn string
		var seq int64
		err := answers.QueryRow().Scan(&c.Epoch, &c.Next, &c.Term, &era, &lsn, &seq, &c.CommitTime, &c.TopicID)
		if err != nil {
			return nil, err
		}
		if c.Position, err = position(era, lsn, seq); err != nil {
			return nil, err
		}
		var park bool
		var why Reason
		err = answers.QueryRow().Scan(&c.Attempt, &park, &c.Skip, &why.Code, &why.Message)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
		if park {
			c.Park = &why
		}
	}
	return claims, nil
}

func arrays(parts []Partition) (topics []string, numbers []int32, ids []string) {
	for _, p := range parts {
		topics, numbers, ids = append(topics, p.Topic), append(numbers, p.Number), append(ids, p.TopicID)
	}
	return topics, numbers, ids
}

func position(era int32, lsn string, seq int64) (change.Position, error) {
	l, err := change.ParseLSN(lsn)
	return change.Position{Era: uint16(era), CommitLSN: l, Seq: uint64(seq)}, err
}

// Advance moves one checkpoint.
type Advance struct {
	Topic      string
	Partition  int32
	Epoch      int64
	Expected   int64           // next offset before
	Next       int64           // next offset after
	Term       int32           // by which leader the record before Next was written, see consume.Term; 0 where that is not known
	Position   change.Position // of the last record applied
	Barrier    change.Position // of the TRUNCATE that the partition now waits at; zero for none
	Truncate   change.Position // of the TRUNCATE of several partitions that it passes, which partition 0 executes; zero for none
	Partitions int32           // of the topic, where it passes one
	Rows       int64           // applied by this advance
	CommitTime int64           // of the last record, microseconds since 1970; 0 if there is none
	ParkedN    int64           // as Parked gave it; -1: whatever is parked, and whether the table is read anew, is known otherwise
	Parks      bool            // what is parked of the partition changes
}

// ErrFenced says that a checkpoint was not where its owner left it: somebody else owns the partition, or (its standing
// is Behind) what is parked of it has changed. Nothing was written.
var ErrFenced = errors.New("checkpoint belongs to another owner")

// advanceSQL is the compare-and-set. It takes its locks in the order of the arrays: the plan can only be a nested loop (see connect), and = ANY lets a
// checkpoint be looked for by what an array has, not the other way round. That would be in the order of the index, which another collation than C has.
const advanceSQL = `
UPDATE tributary.checkpoint c
   SET next_offset = s.next::bigint, term = s.term::int, term_offset = s.next::bigint, era = s.era::int, lsn = s.lsn::pg_lsn, seq = s.seq::bigint,
       barrier_era = s.bera::int, barrier_lsn = s.blsn::pg_lsn, barrier_seq = s.bseq::bigint,
       parked_n = c.parked_n + s.parks::bigint, applied_rows = c.applied_rows + s.rows::bigint, applied_at = clock_timestamp(),
       last_commit_ts = coalesce('epoch'::timestamptz + s.ts::bigint * interval '1 microsecond', c.last_commit_ts),
       owner_pid = pg_backend_pid(), owner_backend_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
  FROM (SELECT $1::text AS grp, u.* FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
                     $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[])
          AS u(topic, partition, epoch, expected, next, term, era, lsn, seq, bera, blsn, bseq, rows, ts, parked, parks) OFFSET 0) s
 WHERE c.grp = ANY (ARRAY[s.grp]) AND c.topic = ANY (ARRAY[s.topic]) AND c.partition = ANY (ARRAY[s.partition::int])`

// compareSQL is what makes it one.
const compareSQL = `
   AND c.owner_epoch = s.epoch::bigint AND c.next_offset = s.expected::bigint
   AND (c.parked_n = s.parked::bigint OR s.parked::bigint < 0)`

// inOrder gives advances in the order in which checkpoints are locked: see lockRules.
func inOrder(advances []Advance) []Advance {
	before := func(a, b Advance) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	}
	if !slices.IsSortedFunc(advances, before) {
		advances = slices.SortedFunc(slices.Values(advances), before)
	}
	return advances
}

// advance is the statement that moves checkpoints, all or none.
func (w *Warehouse) advance(advances []Advance) statement {
	advances = inOrder(advances)
	column := func(text func(a *Advance) string) []byte {
		return textArray(len(advances), func(i int) ([]byte, bool) {
			s := text(&advances[i])
			return []byte(s), s != ""
		})
	}
	number := func(n func(a *Advance) int64) []byte {
		return column(func(a *Advance) string { return strconv.FormatInt(n(a), 10) })
	}
	sql := advanceSQL + compareSQL
	if mutant.On(mutant.NoCompareAndSet) {
		sql = advanceSQL
	}
	return statement{
		unit: -1, sql: sql, prepare: true,
		params: []param{
			{text: []byte(w.cfg.Group)},
			{array: column(func(a *Advance) string { return a.Topic })},
			{array: number(func(a *Advance) int64 { return int64(a.Partition) })},
			{array: number(func(a *Advance) int64 { return a.Epoch })},
			{array: number(func(a *Advance) int64 { return a.Expected })},
			{array: number(func(a *Advance) int64 { return a.Next })},
			{array: number(func(a *Advance) int64 { return int64(a.Term) })},
			{array: number(func(a *Advance) int64 { return int64(a.Position.Era) })},
			{array: column(func(a *Advance) string { return a.Position.CommitLSN.String() })},
			{array: number(func(a *Advance) int64 { return int64(a.Position.Seq) })},
			{array: number(func(a *Advance) int64 { return int64(a.Barrier.Era) })},
			{array: column(func(a *Advance) string { return a.Barrier.CommitLSN.String() })},
			{array: number(func(a *Advance) int64 { return int64(a.Barrier.Seq) })},
			{array: number(func(a *Advance) int64 { return a.Rows })},
			{array: column(func(a *Advance) string {
				if a.CommitTime == 0 {
					return ""
				}
				return strconv.FormatInt(a.CommitTime, 10)
			})},
			{array: number(func(a *Advance) int64 { return a.ParkedN })},
			{array: number(func(a *Advance) int64 {
				if a.Parks {
					return 1
				}
				return 0
			})},
		},
		check: func(rows int64) error {
			if rows != int64(len(advances)) {
				return ErrFenced
			}
			return nil
		},
	}
}

// passing is the statement that locks what flushes lock, and the other partitions of topics with a TRUNCATE that they pass: partition 0 when all others have
// come to it, these when it has. They had when the partition was let pass; it locks nothing, and gives false, where none is passed.
//
//	partition 1: comes to it, and says so
//	partition 0: is let pass
//	warehouse:   is failed over to a standby that was behind, with partition 1 before it
//	partition 0: executes it; partition 1 writes its last rows once more
//
// Nobody applies what is parked of the others meanwhile.
func (w *Warehouse) passing(advances []Advance) (st statement, any bool) {
	there := make([]int32, len(advances)) // partitions, of each
	column := func(text func(a *Advance) string, all bool) param {
		return param{array: textArray(len(advances), func(i int) ([]byte, bool) {
			a := &advances[i]
			if !all && a.Truncate.IsZero() {
				return nil, false
			}
			return []byte(text(a)), true
		})}
	}
	return statement{
		unit: -1,
		sql: `
SELECT s.i, CASE WHEN s.era IS NULL OR c.partition = s.partition::int THEN true
                 WHEN c.partition = 0 THEN (c.era, c.lsn, c.seq) >= (s.era::int, s.lsn::pg_lsn, s.seq::bigint)
                 WHEN s.partition::int = 0 THEN (c.era, c.lsn, c.seq) >= (s.era::int, s.lsn::pg_lsn, s.seq::bigint)
                   OR (c.barrier_era, c.barrier_lsn, c.barrier_seq) >= (s.era::int, s.lsn::pg_lsn, s.seq::bigint)
                 ELSE true END
  FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) WITH ORDINALITY AS s(topic, partition, era, lsn, seq, i)
  JOIN tributary.checkpoint c ON c.grp = $1 AND c.topic = s.topic AND (c.partition = s.partition::int OR s.era IS NOT NULL)
 ORDER BY c.topic COLLATE "C", c.partition FOR UPDATE OF c`,
		params: []param{
			{text: []byte(w.cfg.Group)},
			column(func(a *Advance) string { return a.Topic }, true),
			column(func(a *Advance) string { return strconv.Itoa(int(a.Partition)) }, true),
			column(func(a *Advance) string { return strconv.Itoa(int(a.Truncate.Era)) }, false),
			column(func(a *Advance) string { return a.Truncate.CommitLSN.String() }, false),
			column(func(a *Advance) string { return strconv.FormatUint(a.Truncate.Seq, 10) }, false),
		},
		each: func(row [][]byte) error {
			i, err := strconv.Atoi(string(row[0]))
			if err == nil && string(row[1]) != "t" {
				err = ErrFenced
			}
			if err == nil {
				there[i-1]++
			}
			return err
		},
		check: func(int64) error {
			for i := range advances {
				if !advances[i].Truncate.IsZero() && there[i] < advances[i].Partitions {
					return ErrFenced
				}
			}
			return nil
		},
	}, slices.ContainsFunc(advances, func(a Advance) bool { return !a.Truncate.IsZero() })
}

// Standing says where a checkpoint is with respect to an Advance.
type Standing int

// The standings.
const (
	Behind Standing = iota // the advance was not made, and still can be
	Past                   // the advance was made
	Lost                   // somebody else claimed the partition, or the checkpoint was moved from outside
	Back                   // the warehouse has taken back what it had confirmed, see WentBack
)

// Standings looks up where checkpoints are: how an unknown outcome of a COMMIT is resolved, and which of several
// partitions was lost. The answer has one entry for each advance.
func (s *Session) Standings(ctx context.Context, advances []Advance) ([]Standing, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	out := make([]Standing, len(advances))
	for i := range advances {
		a := &advances[i]
		var epoch, next int64
		err := s.conn.QueryRow(ctx, `SELECT owner_epoch, next_offset FROM tributary.checkpoint
			WHERE grp = $1 AND topic = $2 AND partition = $3`, s.w.cfg.Group, a.Topic, a.Partition).Scan(&epoch, &next)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			out[i] = Back
		case err != nil:
			return nil, s.broken("read checkpoint of", partitionName(a.Topic, a.Partition), err)
		case epoch > a.Epoch:
			out[i] = Lost
		case epoch < a.Epoch, next < a.Expected:
			out[i] = Back
		case next == a.Next && next != a.Expected:
			out[i] = Past
		case next == a.Expected:
			out[i] = Behind
		default:
			out[i] = Lost
		}
	}
	return out, nil
}

// Resolved says what became of a transaction whose COMMIT was not answered, by where its checkpoints are: nil if it was
// committed, ErrFenced if it was not and cannot be any more, else why it was not, which is the trouble in unknown.
func Resolved(standings []Standing, unknown error) error {
	for _, standing := range standings {
		switch standing {
		case Lost, Back:
			return ErrFenced
		case Behind:
			if cause, ok := errors.AsType[*trouble.Error](unknown); ok {
				return cause
			}
			return unknown
		}
	}
	return nil
}

// WentBack gives those of the places where the warehouse is behind what it has confirmed: it has crashed, was failed over to
// a standby that was behind, or restored. Next is what was confirmed. What is missing must be read again, also where nothing
// comes any more that would find it out:
//
//	sink:      writes the last change of a partition, which then is quiet for days
//	warehouse: confirms, and crashes before the change is on disk
//	sink:      connects again, with nothing to write
func (s *Session) WentBack(ctx context.Context, confirmed []Advance) (back map[Place]bool, err error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	topics, numbers, epochs, nexts := make([]string, len(confirmed)), make([]int32, len(confirmed)), make([]int64, len(confirmed)), make([]int64, len(confirmed))
	for i := range confirmed {
		topics[i], numbers[i], epochs[i], nexts[i] = confirmed[i].Topic, confirmed[i].Partition, confirmed[i].Epoch, confirmed[i].Next
	}
	rows, err := s.conn.Query(ctx, `
		SELECT s.topic, s.partition FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]) AS s(topic, partition, epoch, next)
		  LEFT JOIN tributary.checkpoint c ON c.grp = $1 AND c.topic = s.topic AND c.partition = s.partition
		 WHERE c.topic IS NULL OR c.owner_epoch < s.epoch OR c.owner_epoch = s.epoch AND c.next_offset < s.next`,
		s.w.cfg.Group, topics, numbers, epochs, nexts)
	if err != nil {
		return nil, s.broken("read", "tributary.checkpoint", err)
	}
	back = map[Place]bool{}
	var p Place
	if _, err = pgx.ForEachRow(rows, []any{&p.Topic, &p.Partition}, func() error { back[p] = true; return nil }); err != nil {
		return nil, s.broken("read", "tributary.checkpoint", err)
	}
	return back, nil
}
