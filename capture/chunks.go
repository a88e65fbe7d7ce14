package capture

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/capture/pgoutput"
	"github.com/tributary-cdc/tributary/capture/snapshot"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// Rows that are already there are read in chunks while the stream goes on, and each chunk is put between two
// transactions of the stream. What must never happen is that an older row comes behind a newer one:
//
//	stream: UPDATE … 'new'; COMMIT, read and published
//	chunk:  read afterwards, and still sees 'old', because the commit record is in the WAL before its transaction
//	        becomes visible (with synchronous replication, seconds before)
//	chunk:  published: 'old' stands until that row changes again
//
// Positions in the WAL cannot tell; visibility can. So:
//
//  1. Before a chunk is read, a window opens: from here on the key of every event of its table is noted with its xid.
//  2. The chunk is read under a snapshot S, which says which transactions it saw and up to which LSN they reach.
//  3. Every transaction that was streamed before the window opened must be visible in S. If not: read again.
//  4. When the stream has passed that LSN, everything that S saw has been published. The rows whose key an event noted
//     of a transaction that S did not see are dropped: newer than the chunk, they are already published. The rest is
//     published at positions above all that was, and events that follow are newer.
//  5. An UPDATE without the value of a TOASTed column is no whole row. A reader that has not got the row yet can only
//     leave it out. So its row is not dropped by rule 4 but brought up to it; and the row of a key change without such
//     a value is read again by itself, under its new key, for which its chunk may have been read long ago. So is, at
//     any time, that of a key change to another partition, where no reader has the value.
//
// A table without a key is read whole under one S, and its own events are held until its rows are out; those that S saw
// are dropped, since the rows have them in.

// tableSnapshot is what is still to be read of one table.
type tableSnapshot struct {
	ranges  []snapshot.Range // not being read now
	key     []int16          // numbers of the columns by which ranges are
	windows []*window        // being read, or waiting for the stream
	split   bool             // ranges are made
	forRows bool             // all is to be read instead of many single rows, and none of it is being read yet
	// after: every transaction up to this id must have ended before a read counts; 0 for none. A table that joins
	// a publication while a transaction writes to it would lose that one's rows: they are not in the stream, and
	// not yet visible.
	after uint32
	hold  *hold
	// from: where the stream has to be before anything is read. The truncate of a reload stands for what the table's name
	// had before, and an earlier table of that name may have events up to here.
	from change.LSN
	// notBefore: a read that did not count is repeated a little later, so that waiting for a transaction to become
	// visible does not keep the source busy; and one that is to take its time goes on when its rate allows it.
	notBefore time.Time
	// What the status tells: since when it is read, how many rows were there before, how often a chunk was read again, who asked.
	began   time.Time
	had     int64
	rereads int
	by      string
	unseen  unseen
	failed  int    // reads in a row that the server has refused
	unread  string // subject of the alarm that tells of it
}

// window is one range being read.
type window struct {
	table     *table
	relation  *schema.Relation
	rng       snapshot.Range
	opened    uint64 // transactions streamed before
	touched   []touch
	bytes     int
	truncated []uint32 // xids of truncates since
	split     bool     // it stands for the split of the table, not for a range
	parts     int      // to split into
	limits    snapshot.Limits
	chunk     *snapshot.Chunk
	err       error
}

// touch is one event that a window has noted.
type touch struct {
	xid     uint32
	key     string
	partial change.Tuple // the new row of an UPDATE without some TOASTed value; nil for any other event
}

// maxTouched bounds what a window notes; beyond it the chunk is read again, closer to the stream.
const maxTouched = 32 << 20

// hold is a table without key being read.
type hold struct {
	opened  uint64
	begun   bool // the read has its snapshot, which counts, and the truncate that precedes its rows is published
	drained bool // all rows are published
	seen    snapshot.Visibility
	lsn     change.LSN
	start   chan bool           // tells the reader whether its snapshot counts
	pieces  chan *snapshot.Rows // closed by the reader when it is done
	begins  chan holdBegun      // the reader's snapshot; closed with pieces
	err     error               // why the read ended early; set before pieces is closed
	// abandoned is closed by the session when the rows are not wanted any more.
	abandoned chan struct{}
}

type holdBegun struct {
	seen snapshot.Visibility
	lsn  change.LSN
}

// chunks is the traffic between the session and its readers.
type chunks struct {
	tasks   chan task
	results chan readResult
	idle    int      // readers without a task
	queue   []*table // with a snapshot, in the order in which they are read
	reading []*table // of these, those with a window or a hold
	// finished: no id up to this one may be invisible to a read that counts. It stands for transactions that were
	// published before this session, or that recent has forgotten.
	finished uint32
	any      bool // finished is set
	ended    ended
	more     bool // what has been read waits for another Kafka transaction
}

// task is one thing for a reader to do: split a table into ranges, read one range, read a table without key, or ask what has ended, where more than
// what is known.
type task struct {
	ended  bool
	known  uint32
	source snapshot.Source
	split  bool
	window *window
	hold   *hold
}

type readResult struct {
	window *window // nil for a hold, whose outcome comes through its own channels
	ended  *ended  // where that was asked
	chunk  *snapshot.Chunk
	ranges []snapshot.Range // of a split
	err    error
}

// want begins to read t: all of it, or what its progress says is left.
func (s *session) want(t *table, after uint32, reload bool) {
	t.snapshot = &tableSnapshot{after: after, key: keyNumbers(t.pub.Relation)}
	if t.progress.Done || t.progress.Rows == 0 && t.progress.Ranges == nil {
		t.progress.Done, t.progress.Rows, t.progress.Ranges = false, 0, nil
		if t.progress.Where == "" {
			t.progress.BegunEra, t.progress.BegunLSN, t.progress.BegunColumns = s.era, record.LSN(s.lastCommit), t.progress.Columns
		}
	}
	t.snapshot.began, t.snapshot.had = time.Now(), t.progress.Rows
	for _, r := range t.progress.Ranges {
		t.snapshot.ranges = append(t.snapshot.ranges, snapshot.Range{At: r.At, After: r.After, Up: r.Up})
		t.snapshot.split = true
		if t.progress.RangesKey != nil { // else capture was older
			t.snapshot.key = t.progress.RangesKey
		}
	}
	t.progress.Reload = reload
	s.changed[t.pub.Relation.OID] = true
	if !slices.Contains(s.chunks.queue, t) {
		s.chunks.queue = append(s.chunks.queue, t)
	}
}

// snapshots is called between two transactions: it publishes chunks that are ready and gives readers new tasks.
func (s *session) snapshots(ctx context.Context) error {
	if greatest, any := s.recent.forget(); any {
		s.chunks.mustFinish(greatest)
	}
	s.chunks.more = false
	if len(s.chunks.queue) == 0 {
		return nil
	}
	for more := true; more; {
		select {
		case r := <-s.chunks.results:
			s.chunks.arrived(r)
		default:
			more = false
		}
	}
	for _, t := range slices.Clone(s.chunks.reading) {
		if err := s.setAside(ctx, t, s.settle(ctx, t)); err != nil {
			return err
		}
		if t.snapshot == nil || len(t.snapshot.windows) == 0 && t.snapshot.hold == nil {
			s.chunks.reading = without(s.chunks.reading, t)
		}
	}
	return s.dispatch(ctx)
}

func without(list []*table, t *table) []*table {
	return slices.DeleteFunc(list, func(o *table) bool { return o == t })
}

// settle publishes what can be published of one table, chunks in the order in which they were begun: that of the key. Out of it,
// a warehouse would write them into the middle of its index, which costs it a quarter more, and pages half as full.
func (s *session) settle(ctx context.Context, t *table) error {
	snap := t.snapshot
	if snap.hold != nil {
		return s.settleHold(ctx, t)
	}
	for _, w := range slices.Clone(snap.windows) {
		if w.chunk == nil && w.err == nil || w.chunk != nil && s.streamed < w.chunk.LSN {
			break
		}
		if open, _, bytes := s.pub.Open(); open && bytes >= int64(s.config.Publish.Bytes) {
			s.chunks.more = true // at the next boundary, in another Kafka transaction
			break
		}
		snap.windows = slices.DeleteFunc(snap.windows, func(o *window) bool { return o == w })
		switch {
		case errors.Is(w.err, snapshot.ErrCondition):
			s.giveUp(t, w.err)
			return nil
		case w.err != nil && !errors.Is(w.err, snapshot.ErrSchemaChanged):
			if err := s.unread(t, w.err); err != nil {
				return err
			}
			if !w.split {
				snap.ranges = append([]snapshot.Range{w.rng}, snap.ranges...)
			}
			continue
		case w.err != nil:
			if there, err := s.refresh(ctx, t); err != nil || !there {
				return err
			}
			fallthrough
		case w.relation != t.pub.Relation || w.bytes > maxTouched || !s.counts(&w.chunk.Visibility, w.opened, snap) || w.truncatedUnseen():
			s.again(snap, w.err)
			snap.ranges = append([]snapshot.Range{w.rng}, snap.ranges...)
			continue
		}
		s.readable(t)
		snap.unseen = unseen{}
		for _, n := range w.touched {
			switch {
			case w.chunk.Visibility.Sees(n.xid):
			case n.partial != nil:
				w.chunk.Overlay(n.key, n.partial)
			default:
				w.chunk.Drop(n.key)
			}
		}
		if w.chunk.Last != nil {
			snap.ranges = append([]snapshot.Range{{After: w.chunk.Last, Up: w.rng.Up}}, snap.ranges...)
		}
		if rate := t.progress.Rate; rate > 0 { // before the next is begun
			snap.notBefore = time.Now().Add(time.Duration(float64(w.chunk.Rows.Len()) / float64(rate) * float64(time.Second)))
		}
		if err := s.dispatch(ctx); err != nil { // its reader goes on meanwhile
			return err
		}
		if err := s.publishRows(ctx, t, w.chunk.Rows); err != nil {
			return err
		}
	}
	if snap.split && len(snap.ranges) == 0 && len(snap.windows) == 0 {
		s.snapshotDone(t)
	} else {
		s.noteRanges(t)
	}
	return nil
}

// What was read is read again after rereadPause, or some time more, see unseenPause; after alteredPause where the table has changed again, since a stream that is far behind brings
// the version of before until it is there, and each time the catalog is read.
const (
	rereadPause  = 50 * time.Millisecond
	alteredPause = time.Second
)

// again is called where what was read does not count, with the reader's error, if it was one.
func (s *session) again(snap *tableSnapshot, err error) {
	s.meter.chunks.WithLabelValues(chunkReread).Inc()
	snap.rereads++
	snap.notBefore = time.Now().Add(unseenPause(max(snap.unseen.reads-1, 0)))
	if err == nil || !errors.Is(err, snapshot.ErrSchemaChanged) {
		return
	}
	snap.waits(false)
	snap.unseen.altered = true
	if snap.rereads > 1 {
		snap.notBefore = time.Now().Add(alteredPause)
	}
}

func (w *window) truncatedUnseen() bool {
	return slices.ContainsFunc(w.truncated, func(xid uint32) bool { return !w.chunk.Visibility.Sees(xid) })
}

// refresh takes the table's relation from the catalog, when a read has found it changed. there is false for a table that has been
// dropped: nothing of it is read any more, and the watcher takes it out.
func (s *session) refresh(ctx context.Context, t *table) (there bool, err error) {
	known, err := s.askTable(ctx, t.catalog.Relation.OID)
	if err != nil {
		return false, err
	}
	if known == nil {
		s.abandon(t)
		return false, nil
	}
	return true, s.setCatalog(ctx, t, known)
}

func (s *session) snapshotDone(t *table) {
	t.read = t.snapshot.tell(t.progress.Rows, true)
	t.snapshot = nil
	t.progress.Done, t.progress.Reload, t.progress.Whole, t.progress.Needed, t.progress.Ranges, t.progress.Rate = true, false, false, "", nil, 0
	t.progress.RangesKey = nil
	t.progress.DoneLSN = record.LSN(s.lastCommit)
	s.changed[t.pub.Relation.OID] = true
	s.chunks.queue = without(s.chunks.queue, t)
	s.statusDue = true
	s.log.Info("snapshot of table is complete", "table", t.pub.Relation.QualifiedName(), "rows", t.progress.Rows, "still_to_read", len(s.chunks.queue))
}

// publishRows puts rows at the boundary, above everything there.
func (s *session) publishRows(ctx context.Context, t *table, rows *snapshot.Rows) error {
	at := change.Transaction{CommitLSN: s.lastCommit, CommitTime: time.Now().UnixMicro()}
	count := int64(0)
	var row change.Tuple
	for i := range rows.Len() {
		if row = rows.Row(i, row); row == nil {
			continue
		}
		ev := change.Event{Op: change.Read, Position: s.nextSnapshotPosition(), Tx: at, After: row}
		if _, err := s.pub.Publish(ctx, t.pub, &ev); err != nil {
			return err
		}
		count++
	}
	t.progress.Rows += count
	s.changed[t.pub.Relation.OID] = true
	t.counters.snapshot(count)
	s.meter.chunks.WithLabelValues(chunkPublished).Inc()
	return nil
}

func (s *session) nextSnapshotPosition() change.Position {
	s.snapshotSeq = max(s.snapshotSeq+1, change.SnapshotSeq)
	return change.Position{Era: s.era, CommitLSN: s.lastCommit, Seq: s.snapshotSeq}
}

// void publishes a truncate that precedes a reload.
func (s *session) void(ctx context.Context, t *table) error {
	ev := change.Event{
		Op: change.Truncate, Position: s.nextSnapshotPosition(),
		Tx: change.Transaction{CommitLSN: s.lastCommit, CommitTime: time.Now().UnixMicro()},
	}
	s.changed[t.pub.Relation.OID] = true
	_, err := s.pub.Publish(ctx, t.pub, &ev, kgo.RecordHeader{Key: record.HeaderReload, Value: []byte("1")})
	return err
}

// dispatch gives idle readers what is next.
func (s *session) dispatch(ctx context.Context) error {
	windows := 0
	for _, t := range s.chunks.reading {
		if t.snapshot != nil {
			windows += len(t.snapshot.windows)
		}
	}
	for _, t := range slices.Clone(s.chunks.queue) {
		for s.chunks.idle > 0 && windows < s.config.Snapshot.Workers { // those that wait to be published among them
			next, err := s.nextTask(ctx, t)
			if err := s.setAside(ctx, t, err); err != nil {
				return err
			}
			if next == nil {
				break
			}
			s.chunks.idle--
			windows++
			if !slices.Contains(s.chunks.reading, t) {
				s.chunks.reading = append(s.chunks.reading, t)
			}
			s.chunks.tasks <- *next // as many places as readers
		}
	}
	return nil
}

func (s *session) nextTask(ctx context.Context, t *table) (*task, error) {
	snap := t.snapshot
	if time.Now().Before(snap.notBefore) || s.streamed < snap.from {
		return nil, nil
	}
	keyless := len(t.pub.Relation.Key) == 0
	if !keyless {
		s.rekey(t)
	}
	source := snapshot.Source{
		Relation: t.pub.Relation, Partitioned: t.catalog.Partitioned, Columns: t.progress.Columns, Unpublished: t.pub.Unpublished(),
		Where: t.progress.Where, Sound: !t.progress.Whole && t.progress.Needed == "",
	}
	if keyless && snap.hold != nil {
		return nil, nil
	}
	if keyless || t.progress.Reload { // the truncate of a table without key comes when its read has begun, see begins
		if ended, err := s.haveEnded(snap); err != nil || !ended {
			return nil, err
		}
	}
	if keyless { // from here on no event of the table is published before its rows are
		snap.hold = &hold{
			opened: s.recent.count(), start: make(chan bool, 1),
			begins: make(chan holdBegun, 1), pieces: make(chan *snapshot.Rows, 1), abandoned: make(chan struct{}),
		}
		return &task{hold: snap.hold, source: source}, nil
	}
	if t.progress.Reload {
		if err := s.void(ctx, t); err != nil {
			return nil, err
		}
		t.progress.Reload = false
	}
	if !snap.split {
		if len(snap.windows) > 0 {
			return nil, nil // being split
		}
		// In parts of less than a chunk, where the planner knows the table so well, its rows are read in the order of the key.
		parts := max(1, 2*t.catalog.EstimatedRows/int64(s.config.Snapshot.ChunkRows))
		w := &window{table: t, split: true, parts: int(min(parts, maxParts))}
		snap.windows = append(snap.windows, w)
		return &task{split: true, window: w, source: source}, nil
	}
	rows := s.config.Snapshot.ChunkRows
	if rate := t.progress.Rate; rate > 0 { // a second's worth, and one after the other
		rows = int(min(rate, int64(rows)))
	}
	if len(snap.ranges) == 0 || t.progress.Rate > 0 && len(snap.windows) > 0 {
		return nil, nil
	}
	w := &window{table: t, relation: t.pub.Relation, rng: snap.ranges[0], opened: s.recent.count(), limits: snapshot.Limits{
		Rows: rows, Bytes: int(s.config.Snapshot.ChunkBytes),
	}}
	snap.ranges, snap.forRows = snap.ranges[1:], false
	snap.windows = append(snap.windows, w)
	if w.rng.At != nil {
		source.Where, source.Columns = "", nil
	}
	return &task{window: w, source: source}, nil
}

// arrived takes back a reader and what it has read.
func (c *chunks) arrived(r readResult) {
	c.idle++
	w := r.window
	switch {
	case r.ended != nil:
		c.ended.answered(*r.ended, r.err)
	case w == nil || w.table.snapshot == nil || !slices.Contains(w.table.snapshot.windows, w): // abandoned since
	case w.split && r.err == nil:
		snap := w.table.snapshot
		snap.ranges, snap.split = append(snap.ranges, r.ranges...), true
		snap.windows = slices.DeleteFunc(snap.windows, func(o *window) bool { return o == w })
	default:
		w.chunk, w.err = r.chunk, r.err
	}
}

// meet is called for an event of a table that is being read; row is nil for a truncate. It says whether the event is
// to be dropped.
func (s *session) meet(ctx context.Context, t *table, row *pgoutput.Row) (drop bool, err error) {
	snap := t.snapshot
	if snap.hold != nil {
		return s.meetHold(ctx, t)
	}
	if len(t.pub.Relation.Key) == 0 {
		// The truncate that precedes its rows is still to come, and would void the event; until then a reader of the topic
		// has not the row that it deletes. The snapshot will see its transaction, as those of all events before it.
		return true, nil
	}
	if row == nil {
		for _, w := range snap.windows {
			w.truncated = append(w.truncated, s.tx.XID)
		}
		return false, nil
	}
	rel := t.pub.Relation
	note := func(n touch) {
		for _, w := range snap.windows {
			if w.bytes <= maxTouched {
				w.touched = append(w.touched, n)
				w.bytes += 64 + len(n.key) + size(n.partial)
			}
		}
	}
	moved := row.Old != nil && (row.New == nil || keyChanged(rel, row))
	if moved {
		note(touch{xid: s.tx.XID, key: string(snapshot.AppendKey(nil, rel, row.Old))})
	}
	if row.New == nil {
		return false, nil
	}
	partial := slices.ContainsFunc(row.New, func(v change.Value) bool { return v.State == change.Unchanged })
	if moved && partial {
		s.readAgain(t, row.New)
		return false, nil
	}
	n := touch{xid: s.tx.XID, key: string(snapshot.AppendKey(nil, rel, row.New))}
	if partial && len(snap.windows) > 0 {
		n.partial = cloneTuple(row.New)
	}
	note(n)
	return false, nil
}

// maxParts is into how many parts a table is cut at most: all that are left stand in its progress.
const maxParts = 100

func cloneTuple(row change.Tuple) change.Tuple {
	c := slices.Clone(row)
	for i := range c {
		c[i].Text = slices.Clone(c[i].Text)
	}
	return c
}

func size(row change.Tuple) int {
	n := 0
	for i := range row {
		n += 40 + len(row[i].Text)
	}
	return n
}
