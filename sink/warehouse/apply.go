package warehouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/mutant"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// Flush is what one transaction writes: rows of some tables, and how far the partitions have come by them.
type Flush struct {
	Advances []Advance // in order of topic and partition
	Units    []Unit
	Parked   []ParkedRecord // put aside instead of applied
	// Reloads are those open, by topic, as Parked gave them.
	Reloads map[string]*Reload
	// Impatient says not to wait for the first progress record of a source: what only it could explain is trouble.
	Impatient bool
	Timing    *Timing // filled by Apply, where it is not nil
	// Committing is called by Apply when all is written and only the COMMIT is missing; nil: nobody wants to know.
	Committing func()
}

// Timing is when the parts of a flush were done; of those that were not, zero.
type Timing struct {
	Began, Sent, Answered, Committed time.Time
}

// Unit is the rows of one topic under one plan.
type Unit struct {
	Topic  string
	Result *batch.Result
	Target *Target
	Mark   Mark // the record that Result.Reload stands for
}

// Effect counts what a unit did.
type Effect struct {
	Inserted, Updated, Deleted int64
	Expired                    int64 // partial updates of rows that retention has removed
	LeftOut                    int64 // partial updates of rows that the running snapshot has still to bring
}

// ErrUnknownOutcome says that the connection was lost while the transaction was being committed, or that COMMIT failed.
// Standings tells which it is.
var ErrUnknownOutcome = errors.New("outcome of COMMIT is not known")

// ErrTargetChanged says that a target is not as it was when Prepare looked at it. Nothing was written; Prepare again.
var ErrTargetChanged = errors.New("target table has changed")

// ErrTargetUnsteady is ErrTargetChanged where nothing has failed by it: who alters the target goes on doing so, or has done, and Prepare finds it as it is then.
var ErrTargetUnsteady = fmt.Errorf("%w while it was written", ErrTargetChanged)

// UnitError says which unit of a flush made it fail. Nothing was written.
type UnitError struct {
	Unit int
	Err  error // trouble
}

func (e *UnitError) Error() string { return e.Err.Error() }

// Unwrap gives the trouble.
func (e *UnitError) Unwrap() error { return e.Err }

// fewRows is up to how many new rows are inserted by a statement. Above it, COPY into the target is cheaper for both sides.
//
// All other sets of rows are parameters of their statement, or where they are many, come from a temporary table that is
// filled by COPY: see few.
const fewRows = 200

// FewValues is up to how many values of a set, of fewBytes together, go as parameters. Up to there arrays cost the server less
// than a temporary table, which has to be filled, read and emptied. Above it they cost more: twice as much with rows of 2 KB.
// Tests lower it.
var FewValues = 32 << 10

const fewBytes = 1 << 20

// few says whether the rows of a set go as parameters.
func (t *Target) few(k kind, set *batch.Set) bool {
	fields := t.fields[k]
	switch {
	case set.Len() <= fewRows:
		return true
	case set.Len()*len(fields) > FewValues:
		return false
	}
	var scratch [64]byte
	bytes := 0
	for i := range set.Len() {
		for f := range fields {
			text, _ := t.text(&fields[f], set, i, scratch[:0])
			bytes += len(text)
		}
		if bytes > fewBytes {
			return false
		}
	}
	return true
}

// flushing is one call of Apply.
type flushing struct {
	s       *Session
	f       *Flush
	effects []Effect
	queue   []statement
	after   []func(ctx context.Context) error // once the queue has run
	staged  map[string]bool                   // temporary tables with rows in them
	reloads map[string]*Reload                // open, by topic
	missed  []string                          // topics of which left does not know whether rows are missing
}

func (s *Session) flushing(f *Flush, reloads map[string]*Reload) *flushing {
	a := &flushing{s: s, f: f, effects: make([]Effect, len(f.Units)), staged: map[string]bool{}, reloads: map[string]*Reload{}}
	maps.Copy(a.reloads, reloads)
	return a
}

// Apply writes a flush in one transaction, whose first statement is the compare-and-set of all its checkpoints. Errors:
// ErrFenced, ErrUnknownOutcome, ErrTargetChanged, *UnitError; all else concerns the warehouse as a whole. But for
// ErrUnknownOutcome nothing was written.
func (s *Session) Apply(ctx context.Context, f *Flush) ([]Effect, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	if s.timing = f.Timing; s.timing != nil {
		s.timing.Began = time.Now()
		defer func() { s.timing = nil }()
	}
	a := s.flushing(f, f.Reloads)
	err := a.write(ctx)
	if err == nil {
		err = a.noteMissed(ctx)
	}
	if err != nil {
		s.rollback(context.WithoutCancel(ctx))
		return nil, a.failed(err)
	}
	if f.Timing != nil {
		f.Timing.Answered = time.Now()
	}
	if f.Committing != nil {
		f.Committing()
	}
	if err := s.commit(ctx); err != nil {
		return nil, err
	}
	if f.Timing != nil {
		f.Timing.Committed = time.Now()
	}
	return a.effects, nil
}

// failed says what an error of write means.
func (a *flushing) failed(err error) error {
	switch {
	case errors.Is(err, ErrFenced):
		return ErrFenced
	case errors.Is(err, ErrTargetChanged):
		a.s.w.forget()
		return err
	}
	unit := -1
	if at, ok := errors.AsType[*statementError](err); ok {
		unit = at.unit
	}
	op, subject := "write to warehouse", ""
	if unit >= 0 {
		op, subject = "write to", targetName(a.f.Units[unit].Result.Plan)
	}
	state := postgres.SQLState(err)
	_, ours := errors.AsType[*trouble.Error](err)
	switch {
	case state == "" && !ours: // the connection is gone
		return a.s.broken("write to warehouse", subject, err)
	case slices.Contains(changedStates, state):
		a.s.w.forget()
		a.s.Close(context.Background())
		return fmt.Errorf("%w: %w", ErrTargetChanged, wrapUnit(unit, a.s.broken(op, subject, err)))
	}
	return wrapUnit(unit, a.s.broken(op, subject, err))
}

func wrapUnit(unit int, err error) error {
	if unit < 0 {
		return err
	}
	return &UnitError{Unit: unit, Err: err}
}

// changedStates are what a statement compiled for a table gives that has since lost a column, changed a type, lost its
// unique index, or gone: undefined_column, undefined_table, undefined_schema, invalid_column_reference,
// datatype_mismatch, generated_always, feature_not_supported (cached plan must not change result type).
var changedStates = []string{"42703", "42P01", "3F000", "42P10", "42804", "428C9", "0A000"}

func (a *flushing) write(ctx context.Context) error {
	if err := a.makeStages(ctx); err != nil {
		return err
	}
	begin, advance := statement{unit: -1, sql: "BEGIN"}, a.s.w.advance(a.f.Advances)
	if mutant.On(mutant.CheckpointApart) {
		a.queue = append(a.queue, begin)
		if err := a.writeUnits(ctx); err != nil {
			return err
		}
		a.queue = append(a.queue, statement{unit: -1, sql: "COMMIT"}, begin, advance)
		return a.run(ctx)
	}
	a.queue = append(a.queue, begin)
	if passing, any := a.s.w.passing(a.f.Advances); any {
		a.queue = append(a.queue, passing)
	}
	a.queue = append(a.queue, advance)
	return a.writeUnits(ctx)
}

// writeUnits writes all but the checkpoints.
func (a *flushing) writeUnits(ctx context.Context) error {
	for i := range a.f.Units {
		if i > 0 && a.s.cut != nil && mutant.On(mutant.TablesApart) {
			a.queue = append(a.queue, statement{unit: -1, sql: "COMMIT"}, statement{unit: -1, sql: "BEGIN"})
		}
		if err := a.unit(ctx, i); err != nil {
			return err
		}
		if u := &a.f.Units[i]; u.Result.Truncate || u.Result.Reload {
			a.queue = append(a.queue, a.s.w.clearParked(u.Topic))
		}
	}
	if len(a.f.Parked) > 0 {
		a.queue = append(a.queue, a.s.w.park(a.f.Parked))
	}
	if len(a.f.Units) > 0 {
		a.queue = append(a.queue, a.s.w.sameForms(a.f.Units))
	}
	return a.run(ctx)
}

const uniqueViolation = "23505"

// run executes what is queued.
func (a *flushing) run(ctx context.Context) error {
	for len(a.queue) > 0 {
		queue := a.queue
		a.queue = nil
		err := a.s.run(ctx, queue)
		if err == nil {
			break
		}
		at, ok := errors.AsType[*statementError](err)
		if !ok || at.place == 0 || queue[at.place-1].refused == nil || postgres.SQLState(err) != uniqueViolation {
			return err
		}
		queue[at.place-1].refused()
		a.queue = append(a.queue, queue[at.place:]...)
	}
	after := a.after
	a.after = nil // what follows may run more statements
	for _, f := range after {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

// makeStages creates the temporary tables that will be needed: before the transaction, which may be rolled back.
func (a *flushing) makeStages(ctx context.Context) error {
	for i := range a.f.Units {
		u := &a.f.Units[i]
		r, columns := u.Result, u.Target.stage
		if max(r.Deletes.Len(), r.Moves.Len(), r.Updates.Len(), r.Upserts.Len(), r.Removals.Len(), r.Inserts.Len(), r.Changes) <= fewRows {
			continue
		}
		if _, ok := a.s.stages[columns]; ok {
			continue
		}
		name := fmt.Sprintf("tributary_stage_%d", len(a.s.stages))
		if _, err := a.s.conn.Exec(ctx, createStage(name, columns)); err != nil {
			return &statementError{unit: i, err: err}
		}
		a.s.stages[columns] = "pg_temp." + postgres.Ident(name)
	}
	return nil
}

// unit queues the statements of one unit, in the order that Result asks for.
func (a *flushing) unit(ctx context.Context, i int) error {
	u := &a.f.Units[i]
	r, t, effect := u.Result, u.Target, &a.effects[i]
	if r.Reload {
		if err := a.beginReload(ctx, i); err != nil {
			return err
		}
	} else if err := a.checkReload(ctx, i); err != nil {
		return err
	}
	if r.Plan.Mode == rule.History {
		return a.writeHistory(ctx, i)
	}
	if r.Truncate {
		st := a.statement(i, t.template.truncate, nil)
		st.check = counted(&effect.Deleted)
		a.queue = append(a.queue, st)
		if t.guards.deletes {
			a.queue = append(a.queue, a.statement(i, still(t.template.truncate), noneKept(u)))
		}
	}
	if err := a.left(ctx, i, r.Lost); err != nil {
		return err
	}
	a.deletes(i)
	a.moves(i)
	a.updates(i)
	a.upserts(i)
	removals := 0
	for j := range r.Removals.Len() {
		removals += r.Removals.Times(j)
	}
	a.set(i, byCount, &r.Removals, t.template.takeOut, func(rows int64) error {
		effect.Deleted += rows
		return exactly(u, "removed", int64(removals), rows)
	})
	a.insert(i)
	return nil
}

// deletes queues that rows are removed.
func (a *flushing) deletes(i int) {
	u := &a.f.Units[i]
	deletes := &u.Result.Deletes
	if deletes.Len() == 0 {
		return
	}
	remove := u.Target.template.remove
	a.setOf(byKey, deletes, a.sparing(i, remove, counted(&a.effects[i].Deleted)))
	if u.Target.guards.deletes {
		a.setOf(byKey, deletes, a.sparing(i, still(remove), noneKept(u)))
	}
}

// sparing is a statement that leaves alone what is spared.
func (a *flushing) sparing(i int, template string, check func(int64) error) statement {
	st := a.statement(i, template, check)
	u := &a.f.Units[i]
	if spared := &u.Result.Spared; spared.Len() > 0 {
		st.sql += " AND " + strings.Replace(u.Target.template.unless, source, u.Target.fromArrays(byKey, len(st.params)+1), 1)
		st.params = append(st.params, arraysOf(u.Target, byKey, spared)...)
	}
	return st
}

// insert queues the rows of Inserts.
func (a *flushing) insert(i int) {
	u := &a.f.Units[i]
	rows := &u.Result.Inserts
	inserted := func(n int64) error {
		a.effects[i].Inserted += n
		return exactly(u, "inserted", int64(rows.Len()), n)
	}
	if rows.Len() > fewRows {
		a.queue = append(a.queue, a.copyInto(i, rows, inserted))
		return
	}
	a.set(i, byValue, rows, u.Target.template.insert, inserted)
}

func (a *flushing) moves(i int) {
	u := &a.f.Units[i]
	moves := &u.Result.Moves
	a.mark(i, moves)
	there := int64(-1)
	if u.Target.guards.deletes && u.Result.Carried > 0 { // one that stays would look like one that was not there
		a.set(i, byKey, moves, still(u.Target.template.remove), func(rows int64) error { there = rows; return nil })
	}
	a.set(i, byMove, moves, u.Target.template.move, func(rows int64) error {
		a.effects[i].Updated += rows
		switch {
		case there >= 0 && rows != there:
			return exactly(u, "moved", there, rows)
		case u.Target.unique && rows > int64(moves.Len()):
			return exactly(u, "moved", int64(moves.Len()), rows)
		}
		if !u.Target.unique || rows < int64(moves.Len()) { // two rows of one key would stand for one that is not there
			a.after = append(a.after, func(ctx context.Context) error { return a.unmoved(ctx, i, int(int64(moves.Len())-rows)) })
		}
		return nil
	})
}

// unmoved decides about so many moves that have found no row; where keys are there more than once, so many says too little, and each is looked for. Whole rows that are not
// there are written: those that are have their values already.
func (a *flushing) unmoved(ctx context.Context, i, missing int) error {
	u := &a.f.Units[i]
	r, moves := u.Result, &u.Result.Moves
	var whole []int
	var lost []batch.Partial
	if r.Carried > 0 || !u.Target.unique {
		if err := a.ask(ctx, i, byMask, moves, u.Target.template.missing, func(n int, _ [][]byte) error {
			if n < r.Carried {
				whole = append(whole, n)
			} else {
				lost = append(lost, moves.Partial(n))
			}
			return nil
		}); err != nil {
			return err
		}
		rows := moves.Pick(whole)
		a.upsert(i, &rows)
		a.effects[i].Updated += int64(len(whole))
		if err := a.run(ctx); err != nil {
			return err
		}
	}
	if more := missing - len(lost); r.Carried == 0 && more > 0 { // of any of them: there is a row with the key that it would have got
		var newest batch.Partial
		for j := range moves.Len() {
			newest = batch.Partial{LSN: max(newest.LSN, moves.Partial(j).LSN), Changed: newest.Changed || moves.Partial(j).Changed}
		}
		lost = append(lost, slices.Repeat([]batch.Partial{newest}, more)...)
	}
	return a.left(ctx, i, lost)
}

// updates overwrites columns of rows that must be there. If not all are, it finds out which are missing, and whether
// that is to be expected.
func (a *flushing) updates(i int) {
	u := &a.f.Units[i]
	updates := &u.Result.Updates
	a.mark(i, updates)
	if u.Target.template.update == "" {
		return // nothing but the key is written
	}
	a.set(i, byMask, updates, u.Target.template.update, func(rows int64) error {
		a.effects[i].Updated += rows
		if u.Target.unique && rows >= int64(updates.Len()) { // else two rows of one key would stand for one that is not there
			return exactly(u, "updated", int64(updates.Len()), rows)
		}
		a.after = append(a.after, func(ctx context.Context) error {
			var missing []batch.Partial
			err := a.ask(ctx, i, byMask, updates, u.Target.template.missing, func(n int, _ [][]byte) error {
				missing = append(missing, updates.Partial(n))
				return nil
			})
			if err != nil {
				return err
			}
			if there := int64(updates.Len() - len(missing)); rows < there { // a trigger, a rule or a policy has kept some as they were
				return &statementError{unit: i, err: exactly(u, "updated", there, rows)}
			}
			return a.left(ctx, i, missing)
		})
		return nil
	})
}

func (a *flushing) upserts(i int) {
	u := &a.f.Units[i]
	r, t := u.Result, u.Target
	fresh, rest := r.Upserts.Slice(0, r.Inserted), r.Upserts.Slice(r.Inserted, r.Upserts.Len())
	a.mark(i, &r.Upserts)
	a.effects[i].Inserted += int64(fresh.Len())
	a.effects[i].Updated += int64(rest.Len())
	// Rows of a table that is read anew are there, most of them.
	if a.reloads[u.Topic] == nil && t.unique && fresh.Len() > fewRows && a.s.w.optimistic(t) {
		a.tryCopy(i, &fresh)
	} else {
		rest = r.Upserts
	}
	a.upsert(i, &rest)
}

// upsert queues whole rows that may be there.
func (a *flushing) upsert(i int, rows *batch.Set) {
	u := &a.f.Units[i]
	t := u.Target
	var overwritten int64
	if t.template.overwrite != "" {
		a.set(i, byValue, rows, t.template.overwrite, counted(&overwritten))
	} else if t.template.clear != "" {
		a.set(i, byValue, rows, t.template.clear, nil)
		a.gone(i, byValue, rows, t.template.clear)
	}
	counts := t.template.overwrite != "" || t.template.clear != "" || strings.Contains(t.template.upsert, "DO UPDATE")
	a.set(i, byValue, rows, t.template.upsert, func(n int64) error {
		if !counts || overwritten > 0 && overwritten+n > int64(rows.Len()) { // a row is there twice: whoever has written it, both have the values now
			return nil
		}
		return exactly(u, "written", int64(rows.Len()), overwritten+n)
	})
	if !counts {
		a.there(i, rows)
	}
}

// tryCopy queues that rows that ought to be new go straight into the target, and how they are written where one of them
// was there.
func (a *flushing) tryCopy(i int, rows *batch.Set) {
	u := &a.f.Units[i]
	try := a.copyInto(i, rows, func(n int64) error { return exactly(u, "copied", int64(rows.Len()), n) })
	try.refused = func() {
		a.s.w.pessimistic(u.Target)
		a.queue = append(a.queue, statement{unit: i, sql: "ROLLBACK TO SAVEPOINT tributary_copy"})
		stage := a.s.stages[u.Target.stage]
		a.staged[stage] = true // it may be: what is queued already is run behind this
		a.upsert(i, rows)
		a.queue = append(a.queue, statement{unit: i, sql: "TRUNCATE " + stage})
	}
	a.queue = append(a.queue, statement{unit: i, sql: "SAVEPOINT tributary_copy"}, try)
}

// set queues one statement for the rows of a set.
func (a *flushing) set(i int, k kind, set *batch.Set, template string, check func(int64) error) {
	if set.Len() > 0 {
		a.setOf(k, set, a.statement(i, template, check))
	}
}

// setOf queues a statement for the rows of a set, which may be none.
func (a *flushing) setOf(k kind, set *batch.Set, st statement) {
	i := st.unit
	u := &a.f.Units[i]
	staged := !u.Target.few(k, set)
	if staged {
		a.fillStage(i, k, set)
	}
	st.sql, st.params = a.source(u.Target, k, set, staged, st.sql, st.params)
	// A plan for the temporary table would be made for its size of today, so it is not kept.
	st.prepare = !staged
	switch {
	case u.Target.plan.Mode == rule.Log:
		a.queue = append(a.queue, st) // nothing is looked for
	case len(u.Target.plan.Key) == 0:
		// Whole rows are compared, for which there is no index: a nested loop, which the planner likes as long as it
		// takes a new target for a small one, would read the whole target for each row.
		st.prepare = false
		a.queue = append(a.queue, statement{unit: i, sql: "SELECT set_config('enable_hashjoin', 'on', true), set_config('enable_nestloop', 'off', true)"}, st,
			statement{unit: i, sql: "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_nestloop', 'on', true)"})
	case !u.Target.indexed:
		st.prepare = false
		a.queue = append(a.queue, statement{unit: i, sql: hashJoins}, st, statement{unit: i, sql: noHashJoins})
	default:
		a.queue = append(a.queue, st)
	}
}

// hashJoins lets the whole target be read once for all rows of a statement, where no index leads to them.
const (
	hashJoins   = "SET LOCAL enable_hashjoin = on"
	noHashJoins = "SET LOCAL enable_hashjoin = off"
)

func (a *flushing) statement(i int, template string, check func(int64) error) statement {
	st := statement{unit: i, sql: template, check: check}
	if u := &a.f.Units[i]; u.Target.sid != nil {
		st.params = append(st.params, param{text: []byte(u.Result.Plan.SID)})
	}
	return st
}

// source completes a template: rows come from the temporary table if they are staged, else from parameters.
func (a *flushing) source(t *Target, k kind, set *batch.Set, staged bool, sql string, params []param) (string, []param) {
	if staged {
		return strings.Replace(sql, source, a.s.stages[t.stage], 1), params
	}
	from := t.fromArrays(k, len(params)+1)
	return strings.Replace(sql, source, from, 1), append(params, arraysOf(t, k, set)...)
}

func counted(n *int64) func(int64) error {
	return func(rows int64) error {
		*n += rows
		return nil
	}
}

// exactly refuses a number of affected rows that is not what the events amount to: something else writes the target,
// or a trigger or a rule of it changes what is written.
func exactly(u *Unit, verb string, want, got int64) error {
	if want == got {
		return nil
	}
	return &trouble.Error{
		Code: trouble.RowCount, Op: "write to", Subject: targetName(u.Result.Plan),
		Cause: fmt.Errorf("%d rows were %s, %d were expected", got, verb, want),
		Means: "the target is not what the changes so far make of it; this batch was rolled back",
		Hint:  "look for triggers, rules, policies and other writers of the table; to load it anew: docs/reload.md",
	}
}
