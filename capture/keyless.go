package capture

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/snapshot"
	"github.com/tributary-cdc/tributary/schema/change"
)

// errAbandoned ends a read that nobody wants any more.
var errAbandoned = errors.New("abandoned")

// errNotYet ends a read whose snapshot does not count.
var errNotYet = errors.New("a published transaction is not visible yet")

// begins takes the reader's snapshot and tells the reader whether it counts. If so, the truncate goes before its rows, and not sooner: a server that
// refuses the read, as that of a foreign partition is away, would refuse it again and again, and readers of the topic would have an empty table
// for as long. No event of the table has been published since the read was asked for, so that the truncate may stand within a transaction.
func (s *session) begins(ctx context.Context, t *table, b holdBegun) error {
	h := t.snapshot.hold
	h.seen, h.lsn = b.seen, b.lsn
	if s.counts(&b.seen, h.opened, t.snapshot) {
		if err := s.void(ctx, t); err != nil {
			return err
		}
		h.begun, t.progress.Rows = true, 0
	}
	h.start <- h.begun
	return nil
}

// settleHold publishes the rows of a table without key that have been read so far.
func (s *session) settleHold(ctx context.Context, t *table) error {
	h := t.snapshot.hold
	if !h.begun {
		select {
		case b, ok := <-h.begins:
			if !ok {
				return s.holdSettled(ctx, t)
			}
			if err := s.begins(ctx, t, b); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	for !h.drained {
		select {
		case rows, ok := <-h.pieces:
			if !ok {
				return s.holdSettled(ctx, t)
			}
			if !h.begun {
				continue
			}
			if err := s.publishRows(ctx, t, rows); err != nil {
				return err
			}
			if _, _, bytes := s.pub.Open(); bytes >= int64(s.config.Publish.Bytes) {
				return nil // the rest at the next boundary, in another Kafka transaction
			}
		default:
			return nil
		}
	}
	if s.streamed >= h.lsn { // what S saw has been streamed, and dropped
		s.snapshotDone(t)
	}
	return nil
}

// holdEnded is called when the reader has closed its channels.
func (s *session) holdEnded(t *table) error {
	h := t.snapshot.hold
	switch {
	case h.err == nil && h.begun:
		h.drained, t.snapshot.unseen = true, unseen{}
		s.readable(t)
		return nil
	case errors.Is(h.err, errNotYet), errors.Is(h.err, snapshot.ErrSchemaChanged): // of the latter the server may tell with a snapshot that counts
		s.again(t.snapshot, h.err)
		t.snapshot.hold = nil // the next dispatch begins again
		return nil
	}
	if err := s.unread(t, h.err); err != nil {
		return err
	}
	t.snapshot.hold = nil
	return nil
}

// holdSettled is holdEnded between two transactions. A table that is not any more what it was is read as what it is.
func (s *session) holdSettled(ctx context.Context, t *table) error {
	h := t.snapshot.hold
	if err := s.holdEnded(t); err != nil || h.drained || !errors.Is(h.err, snapshot.ErrSchemaChanged) {
		return err
	}
	_, err := s.refresh(ctx, t)
	return err
}

// letGo has reads of tables without key begin again later: one that is under way holds a snapshot and a lock at the source as long as nobody takes its rows.
func (s *session) letGo() {
	for _, t := range slices.Clone(s.chunks.reading) {
		if snap := t.snapshot; snap != nil && snap.hold != nil && !snap.hold.drained {
			close(snap.hold.abandoned)
			snap.hold, s.chunks.reading = nil, without(s.chunks.reading, t)
		}
	}
}

// meetHold deals with an event of a table without key that is being read. Nothing of the table may be published
// before its rows: so the event waits, and the stream with it, until all of them are out. That is in the middle of a
// transaction, but the table's partition has nothing of it yet: the rows' positions are still above all it holds.
func (s *session) meetHold(ctx context.Context, t *table) (drop bool, err error) {
	for {
		h := t.snapshot.hold
		if h == nil {
			return true, nil // the read begins again, and will see this transaction, as meet has it
		}
		if h.begun && h.seen.Sees(s.tx.XID) {
			return true, nil // the rows have it in
		}
		if h.drained {
			return false, nil
		}
		done := s.stage.Wait(waitSnapshot)
		err := s.awaitHold(ctx, t, h)
		done()
		if err != nil {
			return false, err
		}
	}
}

func (s *session) awaitHold(ctx context.Context, t *table, h *hold) error {
	if !h.begun {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b, ok := <-h.begins:
			if !ok {
				return s.holdEnded(t)
			}
			if err := s.begins(ctx, t, b); err != nil || h.begun {
				return err
			}
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case rows, ok := <-h.pieces:
		if !ok {
			return s.holdEnded(t)
		}
		if !h.begun {
			return nil
		}
		if err := s.publishRows(ctx, t, rows); err != nil {
			return err
		}
		return s.cutIfLarge(ctx)
	}
}

// reader does tasks until the channel is closed or ctx ends.
func reader(ctx context.Context, dsn, application string, tasks <-chan task, results chan<- readResult, took prometheus.Observer) error {
	r, err := snapshot.Open(ctx, dsn, application)
	if err != nil {
		return catalog.Unreachable("connect to source for its rows", "", err)
	}
	defer r.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	for {
		select {
		case <-ctx.Done():
			return nil
		case t := <-tasks:
			result := readResult{window: t.window}
			switch {
			case t.ended:
				result.ended = &ended{}
				result.ended.xid, result.ended.at, result.err = r.Ended(ctx, t.known)
			case t.hold != nil:
				readHold(ctx, r, t)
			case t.split:
				result.ranges, result.err = r.Split(ctx, t.source, t.window.parts)
			default:
				begin := time.Now()
				result.chunk, result.err = r.Chunk(ctx, t.source, t.window.rng, t.window.limits)
				took.Observe(time.Since(begin).Seconds())
			}
			select {
			case results <- result:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// readHold reads a table without key and closes the hold's channels.
func readHold(ctx context.Context, r *snapshot.Reader, t task) {
	h := t.hold
	h.err = r.Whole(ctx, t.source,
		func(seen snapshot.Visibility, lsn change.LSN) error {
			h.begins <- holdBegun{seen, lsn}
			select {
			case ok := <-h.start:
				if !ok {
					return errNotYet
				}
				return nil
			case <-h.abandoned:
				return errAbandoned
			case <-ctx.Done():
				return ctx.Err()
			}
		},
		func(rows *snapshot.Rows) error {
			select {
			case h.pieces <- rows:
				return nil
			case <-h.abandoned:
				return errAbandoned
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	close(h.begins)
	close(h.pieces)
}
