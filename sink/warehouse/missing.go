package warehouse

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/sink/batch"
)

// left decides about updates that could not be applied since their row is not there and they do not carry all of it.
// While a snapshot of the table runs, the row's chunk is still to come and brings the whole row: they are left out. So are
// those of a table whose rows are removed when they are old: the row was too old already.
//
// With a filter it may be otherwise, and the order of keys, by which it could be told, is the source's. That a row may be missing is noted, until
// all have come again:
//
//	chunk:  row 7 is a draft, and left out
//	stream: UPDATE … SET status = 'open' WHERE id = 7, without its large value
//	chunk:  others; of row 7 nothing comes any more
func (a *flushing) left(ctx context.Context, i int, updates []batch.Partial) error {
	if len(updates) == 0 {
		return nil
	}
	if err := a.run(ctx); err != nil { // the transaction must be open
		return err
	}
	u := &a.f.Units[i]
	if age, _ := u.Result.Plan.Keep(); age != "" {
		a.effects[i].Expired += int64(len(updates))
		return nil
	}
	changed, newest := false, change.LSN(0)
	for _, p := range updates {
		changed, newest = changed || p.Changed, max(newest, p.LSN)
	}
	done, known, err := a.s.snapshotDone(ctx, u.Result.Plan.Source, u.Topic, newest)
	if a.f.Impatient && errors.Is(err, errNoProgress) {
		err = nil
	}
	if err != nil {
		return &statementError{unit: i, err: err}
	}
	if !known || done != 0 && newest > done {
		return &statementError{unit: i, err: &trouble.Error{
			Code: trouble.UnresolvedToast, Op: "update", Subject: targetName(u.Result.Plan),
			Cause: fmt.Errorf("%d rows are not there, and their updates, up to %s, do not carry every value", len(updates), newest),
			Means: "values that the source did not send (unchanged TOAST) are nowhere to be found; the table is held, nothing was written",
			Hint:  "load the table anew: docs/reload.md; ALTER TABLE … REPLICA IDENTITY FULL at the source avoids it",
		}}
	}
	a.effects[i].LeftOut += int64(len(updates))
	if changed && u.Result.Plan.Filters() && !slices.Contains(a.missed, u.Topic) {
		a.missed = append(a.missed, u.Topic)
	}
	return nil
}

// noteMissed notes of which topics rows may be missing: at the end of the transaction, when the checkpoints say what a read has to begin behind.
func (a *flushing) noteMissed(ctx context.Context) error {
	if len(a.missed) == 0 {
		return nil
	}
	return a.s.noteLoss(ctx, a.s.conn, "rows that came into the filter while the table was read, by an UPDATE without all of their values, may be missing", lossAbsent, a.missed...)
}
