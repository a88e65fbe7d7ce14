package warehouse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// ProgressRecord is a record of a progress topic with its offset.
type ProgressRecord struct {
	Offset int64
	*record.Progress
}

// standing is the row of tributary.source: the sum of all progress records so far.
type standing struct {
	systemID  string
	era       uint16
	n         uint64
	known     bool               // vector is whole
	vector    map[string][]int64 // next offset of each partition, by topic
	commitLSN change.LSN
	tables    map[string]tableState // by topic
	tablesLSN change.LSN
}

// tableState is what is known of a table's snapshot.
type tableState struct {
	Done    bool       `json:"done"`
	DoneLSN record.LSN `json:"done_lsn"` // the snapshot was complete at this commit, or before
	// DoneOffset is that of the first progress record that said so. One before it may have the same commit: a source that
	// does nothing is read anew without another one.
	DoneOffset int64  `json:"done_offset,omitempty"`
	Rows       int64  `json:"rows"`
	Level      string `json:"level"`
	// BegunEra, BegunLSN and BegunColumns are those of record.TableProgress.
	BegunEra     uint16     `json:"begun_era,omitempty"`
	BegunLSN     record.LSN `json:"begun_lsn,omitempty"`
	BegunColumns []string   `json:"begun_columns,omitempty"`

	Held *record.Held `json:"held,omitempty"`
}

// add takes a record in. It gives false for one that was taken in before.
func (s *standing) add(p *ProgressRecord) bool {
	if p.Era < s.era || p.Era == s.era && p.N <= s.n {
		return false
	}
	switch {
	case p.Full:
		s.vector = map[string][]int64{}
		s.known = true
	case p.N != s.n+1:
		s.known = false // until the next full record
	}
	for topic, offsets := range p.Vector {
		have := s.vector[topic]
		for len(have) < len(offsets) {
			have = append(have, -1)
		}
		for i, offset := range offsets {
			have[i] = max(have[i], offset)
		}
		s.vector[topic] = have
	}
	s.systemID, s.era, s.n, s.commitLSN = p.SystemID, p.Era, p.N, change.LSN(p.CommitLSN)
	if !s.known {
		return true
	}
	tables := s.tables
	if p.Full {
		tables = map[string]tableState{}
	}
	for _, t := range p.Tables {
		topic, err := record.Topic(p.Source, t.Schema, t.Table)
		if err != nil {
			continue // has no topic, so nobody asks for it
		}
		now := tableState{Done: t.Done, Rows: t.Rows, Level: t.Level, Held: t.Held, BegunEra: t.BegunEra, BegunLSN: t.BegunLSN, BegunColumns: t.BegunColumns}
		if t.Done {
			before := s.tables[topic]
			now.DoneLSN, now.DoneOffset = p.CommitLSN, p.Offset
			if before.Done {
				now.DoneLSN = before.DoneLSN
			}
			if t.DoneLSN != 0 {
				now.DoneLSN = t.DoneLSN // capture knows of reads that no record was in between
			}
			if before.Done && before.DoneLSN == now.DoneLSN {
				now.DoneOffset = before.DoneOffset
			}
		}
		tables[topic] = now
	}
	s.tables, s.tablesLSN = tables, change.LSN(p.CommitLSN)
	return true
}

// Bounds of what is kept for each source. Milestones that are not complete pile up while the data lags behind: beyond
// the limit every other one is dropped, which makes the answer coarser, never wrong.
const (
	maxMilestones = 64 // of hundreds of partitions each: all of them are looked at each second
	maxFences     = 100
)

// Following are records of the progress topic of one source, in their order, with the checkpoint of the topic behind them.
type Following struct {
	Advance
	Source  string
	Records []ProgressRecord
}

// Follow takes in what sources say, in one transaction, and moves the checkpoints of their topics: four round trips, of however many
// sources. consumed says which topics this group's rules write: the others hold nothing up. Errors are those of Apply, and of all.
func (s *Session) Follow(ctx context.Context, all []Following, consumed func(topic string) bool) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	err := s.follow(ctx, all, consumed)
	if err == nil {
		return s.commit(ctx)
	}
	s.rollback(context.WithoutCancel(ctx))
	if errors.Is(err, ErrFenced) {
		return ErrFenced
	}
	subject := fmt.Sprintf("source %q", all[0].Source)
	if len(all) > 1 {
		subject = fmt.Sprintf("%d sources", len(all))
	}
	return s.broken("write progress of", subject, err)
}

func (s *Session) follow(ctx context.Context, all []Following, consumed func(topic string) bool) error {
	advances := make([]Advance, len(all))
	for i := range all {
		advances[i] = all[i].Advance
	}
	if err := s.run(ctx, []statement{{unit: -1, sql: "BEGIN"}, s.w.advance(advances)}); err != nil {
		return err
	}
	return s.note(ctx, all, consumed)
}

// followIn is follow of one source in a transaction that is open.
func (s *Session) followIn(ctx context.Context, adv Advance, source string, records []ProgressRecord, consumed func(topic string) bool) error {
	if err := s.run(ctx, []statement{s.w.advance([]Advance{adv})}); err != nil {
		return err
	}
	return s.note(ctx, []Following{{adv, source, records}}, consumed)
}

// note takes records in. There is one every few seconds of each of hundreds of idle sources: what is read is one round trip, and so
// is what is written.
func (s *Session) note(ctx context.Context, all []Following, consumed func(topic string) bool) error {
	sources := make([]string, len(all))
	for i := range all {
		sources[i] = all[i].Source
	}
	standings, err := s.standings(ctx, sources...)
	if err != nil {
		return err
	}
	var batch pgx.Batch
	for i := range all {
		if err := s.noteOf(&batch, standings[all[i].Source], &all[i], consumed); err != nil {
			return err
		}
	}
	if batch.Len() == 0 {
		return nil
	}
	return s.conn.SendBatch(ctx, &batch).Close()
}

// noteOf takes in what one source says.
func (s *Session) noteOf(batch *pgx.Batch, at *standing, f *Following, consumed func(topic string) bool) error {
	var newest *ProgressRecord
	fences := map[string]int64{} // offset of the last record that has it: somebody may have sent one twice
	for i := range f.Records {
		if !at.add(&f.Records[i]) {
			continue
		}
		newest = &f.Records[i]
		for _, fence := range newest.Fences {
			fences[fence] = newest.Offset
		}
	}
	if newest == nil {
		return nil
	}
	if err := s.writeStanding(batch, f.Source, at, newest); err != nil {
		return err
	}
	if len(fences) > 0 {
		batch.Queue(`
			INSERT INTO tributary.fence SELECT $1, $2, * FROM unnest($3::text[], $4::bigint[])
			ON CONFLICT (grp, source, id) DO UPDATE SET progress_offset = excluded.progress_offset`,
			s.w.cfg.Group, f.Source, slices.Collect(maps.Keys(fences)), slices.Collect(maps.Values(fences)))
	}
	if at.known {
		s.milestone(batch, f.Source, at, newest, consumed)
	}
	s.prune(batch, f.Source, len(fences) > 0)
	return nil
}

// standings gives those of sources, which are locked in the order of their names; an empty one of a source that has none yet.
func (s *Session) standings(ctx context.Context, sources ...string) (map[string]*standing, error) {
	found := map[string]*standing{}
	for _, name := range sources {
		found[name] = &standing{vector: map[string][]int64{}, tables: map[string]tableState{}}
	}
	rows, err := s.conn.Query(ctx, `
		SELECT source, system_id, era, n, known, vector::text, commit_lsn::text, tables::text, tables_lsn::text
		  FROM tributary.source WHERE grp = $1 AND source = ANY ($2::text[]) ORDER BY source FOR UPDATE`, s.w.cfg.Group, sources)
	if err != nil {
		return nil, err
	}
	var source, systemID, commitLSN, tablesLSN string
	var era int32
	var n int64
	var known bool
	var vector, tables []byte
	_, err = pgx.ForEachRow(rows, []any{&source, &systemID, &era, &n, &known, &vector, &commitLSN, &tables, &tablesLSN}, func() error {
		at := found[source]
		at.systemID, at.era, at.n, at.known = systemID, uint16(era), uint64(n), known
		var errs [4]error
		errs[0] = json.Unmarshal(vector, &at.vector)
		errs[1] = json.Unmarshal(tables, &at.tables)
		at.commitLSN, errs[2] = change.ParseLSN(commitLSN)
		at.tablesLSN, errs[3] = change.ParseLSN(tablesLSN)
		return errors.Join(errs[:]...)
	})
	return found, err
}

func (s *Session) writeStanding(batch *pgx.Batch, source string, at *standing, newest *ProgressRecord) error {
	vector, err := json.Marshal(at.vector)
	if err != nil {
		return err
	}
	tables, err := json.Marshal(at.tables)
	if err != nil {
		return err
	}
	health, err := json.Marshal(newest.Health)
	if err != nil {
		return err
	}
	batch.Queue(`
		INSERT INTO tributary.source (grp, source, system_id, era, n, known, vector, commit_lsn, tables, tables_lsn, health, written_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8::text::pg_lsn, $9::text::jsonb, $10::text::pg_lsn, $11::text::jsonb, $12)
		ON CONFLICT (grp, source) DO UPDATE SET system_id = excluded.system_id, era = excluded.era, n = excluded.n,
			known = excluded.known, vector = excluded.vector, commit_lsn = excluded.commit_lsn, tables = excluded.tables,
			tables_lsn = excluded.tables_lsn, health = excluded.health, written_at = excluded.written_at`,
		s.w.cfg.Group, source, at.systemID, int32(at.era), int64(at.n), at.known, string(vector), at.commitLSN.String(),
		string(tables), at.tablesLSN.String(), string(health), time.UnixMicro(newest.WrittenAt))
	return nil
}

// milestone records what has to be passed for everything up to the newest record to be here.
func (s *Session) milestone(batch *pgx.Batch, source string, at *standing, newest *ProgressRecord, consumed func(string) bool) {
	var commitTime *time.Time
	if newest.CommitTime != 0 {
		t := time.UnixMicro(newest.CommitTime)
		commitTime = &t
	}
	batch.Queue(`
		INSERT INTO tributary.milestone VALUES ($1, $2, $3, $4, $5::text::pg_lsn, $6::text::pg_lsn, $7)
		ON CONFLICT DO NOTHING`, s.w.cfg.Group, source, newest.Offset, int32(newest.Era),
		change.LSN(newest.CommitLSN).String(), change.LSN(newest.EndLSN).String(), commitTime)
	var topics []string
	var partitions []int32
	var offsets []int64
	for topic, next := range at.vector {
		if !consumed(topic) {
			continue
		}
		for p, offset := range next {
			if offset > 0 {
				topics, partitions, offsets = append(topics, topic), append(partitions, int32(p)), append(offsets, offset)
			}
		}
	}
	batch.Queue(`
		INSERT INTO tributary.milestone_part (grp, source, progress_offset, topic, partition, next_offset)
		SELECT $1, $2, $3, v.topic, v.partition, v.next
		  FROM unnest($4::text[], $5::int[], $6::bigint[]) AS v(topic, partition, next)
		  LEFT JOIN tributary.checkpoint c ON c.grp = $1 AND c.topic = v.topic AND c.partition = v.partition
		 WHERE coalesce(c.next_offset, 0) < v.next
		ON CONFLICT DO NOTHING`, s.w.cfg.Group, source, newest.Offset, topics, partitions, offsets)
}

// prunePassed removes the milestones behind the newest of which everything is in.
const prunePassed = `
	DELETE FROM tributary.milestone WHERE grp = $1 AND source = $2 AND progress_offset < (
		SELECT max(p.progress_offset) FROM tributary.passed p WHERE p.grp = $1 AND p.source = $2)`

func (s *Session) prune(batch *pgx.Batch, source string, fences bool) {
	batch.Queue(prunePassed, s.w.cfg.Group, source)
	batch.Queue(`
		DELETE FROM tributary.milestone WHERE grp = $1 AND source = $2 AND progress_offset IN (
			SELECT o FROM (SELECT progress_offset AS o, row_number() OVER (ORDER BY progress_offset DESC) AS i, count(*) OVER () AS n
			                 FROM tributary.milestone WHERE grp = $1 AND source = $2) m
			 WHERE n > $3 AND i % 2 = 0)`, s.w.cfg.Group, source, maxMilestones)
	if !fences {
		return
	}
	batch.Queue(`
		DELETE FROM tributary.fence WHERE grp = $1 AND source = $2 AND id IN (
			SELECT id FROM tributary.fence WHERE grp = $1 AND source = $2 ORDER BY progress_offset DESC OFFSET $3)`,
		s.w.cfg.Group, source, maxFences)
}

// ErrProgressBehind says that what is to be decided depends on progress records that are not applied yet; they are in
// Kafka, since they were written together with what is being applied. Try again.
var ErrProgressBehind = errors.New("progress of the source is not applied up to this commit yet")

// errNoProgress is an ErrProgressBehind of a source of which no progress record was applied yet; if it is not one of a
// capture of ours, there never will be.
var errNoProgress = fmt.Errorf("%w: there is none at all", ErrProgressBehind)

// snapshotDone says at which commit the snapshot of a table was complete; 0 if it runs at lsn. It is not known of a
// table that is in no progress record. Errors: ErrProgressBehind, errNoProgress.
func (s *Session) snapshotDone(ctx context.Context, source, topic string, lsn change.LSN) (done change.LSN, known bool, err error) {
	var table []byte
	var tablesLSN string
	err = s.conn.QueryRow(ctx, `SELECT (tables->$3::text)::text, tables_lsn::text FROM tributary.source WHERE grp = $1 AND source = $2`,
		s.w.cfg.Group, source, topic).Scan(&table, &tablesLSN)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, errNoProgress
	}
	if err != nil {
		return 0, false, err
	}
	knownUpTo, err := change.ParseLSN(tablesLSN)
	if err != nil {
		return 0, false, err
	}
	var state tableState
	if table != nil {
		if err := json.Unmarshal(table, &state); err != nil {
			return 0, false, err
		}
	}
	switch {
	case knownUpTo < lsn: // a table that was done may be read anew since
		return 0, false, ErrProgressBehind
	case state.Done:
		return change.LSN(state.DoneLSN), true, nil
	case table == nil:
		return 0, false, nil
	}
	return 0, true, nil
}

// Source is what people are shown of a source.
type Source struct {
	Name        string
	CompleteLSN string     // "" where nothing is known to be complete yet
	CompleteAt  *time.Time // commit time
	Lag         *time.Duration
	Until       *time.Time // what Lag is the time since: that commit, or up to when capture has seen no other
	Fences      []string
	Capture     record.Health
	ReportedAt  time.Time
	Tables      map[string]TableProgress // by topic
}

// TableProgress is what a source says of the snapshot of one of its tables.
type TableProgress struct {
	Done  bool
	Rows  int64
	Level string
	Held  *record.Held // why capture publishes nothing of it; nil where it does
}

// Sources reads tributary.progress.
func (s *Session) Sources(ctx context.Context) ([]Source, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT p.source, coalesce(p.complete_lsn::text, ''), p.complete_ts, extract(epoch FROM p.lag)::float8, p.fences,
		       p.capture::text, p.reported_at, s.tables::text, now() - p.lag
		  FROM tributary.progress p JOIN tributary.source s USING (grp, source)
		 WHERE p.grp = $1 ORDER BY p.source`, s.w.cfg.Group)
	if err != nil {
		return nil, s.broken("read", "tributary.progress", err)
	}
	sources, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Source, error) {
		var src Source
		var lag *float64
		var health, tables []byte
		if err := row.Scan(&src.Name, &src.CompleteLSN, &src.CompleteAt, &lag, &src.Fences, &health, &src.ReportedAt, &tables, &src.Until); err != nil {
			return src, err
		}
		if lag != nil {
			d := time.Duration(*lag * float64(time.Second))
			src.Lag = &d
		}
		states := map[string]tableState{}
		if err := errors.Join(json.Unmarshal(health, &src.Capture), json.Unmarshal(tables, &states)); err != nil {
			return src, err
		}
		src.Tables = map[string]TableProgress{}
		for topic, t := range states {
			src.Tables[topic] = TableProgress{Done: t.Done, Rows: t.Rows, Level: t.Level, Held: t.Held}
		}
		return src, nil
	})
	if err != nil {
		return nil, s.broken("read", "tributary.progress", err)
	}
	return sources, nil
}

// Table is what the checkpoints say of one topic.
type Table struct {
	Topic      string
	LastCommit *time.Time // at the source, of the last change applied
	Reload     *time.Time // since when it is read anew; nil where it is not
}

// Tables lists the topics that any sink of the group has ever claimed.
func (s *Session) Tables(ctx context.Context) ([]Table, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT topic, max(last_commit_ts), (SELECT since FROM tributary.reload r WHERE r.grp = $1 AND r.topic = c.topic)
		  FROM tributary.checkpoint c WHERE grp = $1 GROUP BY 1 ORDER BY 1`, s.w.cfg.Group)
	if err != nil {
		return nil, s.broken("read", "tributary.checkpoint", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Table, err error) {
		err = row.Scan(&t.Topic, &t.LastCommit, &t.Reload)
		return t, err
	})
	if err != nil {
		return nil, s.broken("read", "tributary.checkpoint", err)
	}
	return out, nil
}
