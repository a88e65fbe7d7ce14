package warehouse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Operation is what a person did to the pipeline. It is written to tributary.operation in the transaction of the change.
type Operation struct {
	Verb    string
	Subject string // SOURCE/TABLE
	Before  any    // as JSON; nil for none
	After   any
	Reason  string
	Outcome string
}

func (s *Session) operation(ctx context.Context, tx pgx.Tx, op Operation) error {
	text := func(v any) (*string, error) {
		if v == nil {
			return nil, nil
		}
		b, err := json.Marshal(v)
		out := string(b)
		return &out, err
	}
	before, err := text(op.Before)
	if err != nil {
		return err
	}
	after, err := text(op.After)
	if err != nil {
		return err
	}
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO tributary.operation (who, verb, subject, before, after, reason, outcome)
		VALUES (session_user || coalesce(' from ' || host(inet_client_addr()), '') || ' as ' || $1::text,
		        $2, $3, $4::text::jsonb, $5::text::jsonb, nullif($6, ''), $7)`,
		name, op.Verb, op.Subject, before, after, op.Reason, op.Outcome)
	return err
}

// inTx runs do in a transaction.
func (s *Session) inTx(ctx context.Context, op, subject string, do func(tx pgx.Tx) error) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	if err := pgx.BeginFunc(ctx, s.conn, do); err != nil {
		return s.broken(op, subject, err)
	}
	return nil
}

// Pause is a stop that a person asked for.
type Pause struct {
	Source string     `json:"source"` // "" for all
	Table  string     `json:"table"`  // schema.table, "" for all
	Until  *time.Time `json:"until,omitempty"`
	Reason string     `json:"reason"`
	Since  time.Time  `json:"since,omitzero"`
	// Removed says that it is a source which was removed: its rows are not wanted, and nothing of it is read.
	Removed bool `json:"removed,omitempty"`
}

// Covers says whether the pause is of a table.
func (p *Pause) Covers(source, table string) bool {
	return (p.Source == "" || p.Source == source) && (p.Table == "" || p.Table == table)
}

// Removed says whether a source is removed.
func Removed(pauses []Pause, source string) bool {
	return slices.ContainsFunc(pauses, func(p Pause) bool { return p.Removed && p.Source == source })
}

// Subject names what is paused: SOURCE/TABLE, or everything.
func (p *Pause) Subject() string {
	if p.Source == "" && p.Table == "" {
		return "everything"
	}
	return strings.TrimSuffix(p.Source+"/"+p.Table, "/")
}

// Pauses lists those that hold now.
func (s *Session) Pauses(ctx context.Context) ([]Pause, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `SELECT source, "table", until, reason, since, removed FROM tributary.control
		WHERE grp = $1 AND (until IS NULL OR until > now()) ORDER BY 1, 2`, s.w.cfg.Group)
	if err != nil {
		return nil, s.broken("read", "tributary.control", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Pause, err error) {
		err = row.Scan(&p.Source, &p.Table, &p.Until, &p.Reason, &p.Since, &p.Removed)
		return p, err
	})
	if err != nil {
		return nil, s.broken("read", "tributary.control", err)
	}
	return out, nil
}

// SetPause writes a pause; one for the same subject is replaced, but for that of a source that was removed.
func (s *Session) SetPause(ctx context.Context, p Pause) error {
	return s.inTx(ctx, "pause", p.Subject(), func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO tributary.control (grp, source, "table", until, reason) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (grp, source, "table") DO UPDATE SET until = excluded.until, reason = excluded.reason, since = now()
			WHERE NOT control.removed`,
			s.w.cfg.Group, p.Source, p.Table, p.Until, p.Reason)
		if err == nil && tag.RowsAffected() == 0 {
			err = &trouble.Error{
				Code: trouble.RuleConflict, Op: "pause", Subject: p.Subject(), Cause: errors.New("it is removed"),
				Means: "nothing of it is read; nothing was changed", Hint: "to bring it back: sink tenant resume " + p.Source,
			}
		}
		if err != nil {
			return err
		}
		return s.operation(ctx, tx, Operation{Verb: "pause", Subject: p.Subject(), After: p, Reason: p.Reason, Outcome: "paused"})
	})
}

// EndPause ends a pause if it is still the one that there is: somebody may have asked for another since, or removed the source.
func (s *Session) EndPause(ctx context.Context, p Pause) error {
	return s.inTx(ctx, "end the pause of", p.Subject(), func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `DELETE FROM tributary.control WHERE grp = $1 AND source = $2 AND "table" = $3 AND since = $4 AND NOT removed`,
			s.w.cfg.Group, p.Source, p.Table, p.Since)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return s.operation(ctx, tx, Operation{Verb: "resume", Subject: p.Subject(), Reason: p.Reason, Outcome: "1 pause ended"})
	})
}

// Resumed is what Resume did.
type Resumed struct {
	Pauses      []string
	Quarantines []Quarantine
}

// Remedy is what becomes of the record that a partition is held at.
type Remedy string

// The remedies.
const (
	TryAgain Remedy = ""
	Park     Remedy = "park" // it is put aside, with all that follows of its key
	Skip     Remedy = "skip" // it is passed over: its change is lost
)

// Going is what is to go on: all that is held of a source and table ("" for all), behind a remedy for the record that each
// partition is held at.
type Going struct {
	Source, Table string
	Remedy        Remedy
	Offset        int64 // at which what is skipped is held
	Reason        string
}

// Takes says whether a held partition is meant. A source that is written as a whole is tried again by the name of any table of its,
// and no record of it is put aside or passed over.
func (g *Going) Takes(q *Quarantine) bool {
	return (g.Source == "" || q.Source == g.Source) && (g.Table == "" || q.Table == g.Table || q.Table == "" && g.Remedy == TryAgain) &&
		(g.Remedy != Skip || q.Next == g.Offset)
}

// Resume ends the pauses of exactly a subject, and lets quarantined partitions of its tables be tried again.
func (s *Session) Resume(ctx context.Context, g Going) (out Resumed, err error) {
	source, table := g.Source, g.Table
	subject := (&Pause{Source: source, Table: table}).Subject()
	err = s.inTx(ctx, "resume", subject, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `DELETE FROM tributary.control WHERE grp = $1 AND source = $2 AND "table" = $3 RETURNING source, "table", removed`,
			s.w.cfg.Group, source, table)
		if err != nil {
			return err
		}
		removed := false
		if out.Pauses, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
			var p Pause
			err := row.Scan(&p.Source, &p.Table, &p.Removed)
			removed = removed || p.Removed
			return p.Subject(), err
		}); err != nil {
			return err
		}
		if removed {
			if err := s.removedWhole(ctx, tx, source); err != nil {
				return err
			}
		}
		change := `DELETE FROM tributary.quarantine`
		switch g.Remedy {
		case Park:
			change = `UPDATE tributary.quarantine SET park = true, skip = false`
		case Skip:
			change = `UPDATE tributary.quarantine SET park = false, skip = true`
		}
		rows, err = tx.Query(ctx, change+` WHERE grp = $1 AND ($2 = '' OR source = $2) AND ($3 = '' OR table_name = $3 OR table_name = '' AND $4 = '') AND ($4 <> $5 OR next_offset = $6)
			RETURNING topic, partition, next_offset, source, table_name, code, message`, s.w.cfg.Group, source, table, string(g.Remedy), string(Skip), g.Offset)
		if err != nil {
			return err
		}
		if out.Quarantines, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (q Quarantine, err error) {
			err = row.Scan(&q.Topic, &q.Partition, &q.Next, &q.Source, &q.Table, &q.Code, &q.Message)
			return q, err
		}); err != nil {
			return err
		}
		if len(out.Pauses)+len(out.Quarantines) == 0 {
			return nil
		}
		verb := "resume"
		switch g.Remedy {
		case Park:
			verb += " --park"
		case Skip:
			verb += fmt.Sprintf(" --skip %d", g.Offset)
		}
		return s.operation(ctx, tx, Operation{
			Verb: verb, Subject: subject, Before: map[string]any{"pauses": out.Pauses, "quarantines": out.Quarantines}, Reason: g.Reason,
			Outcome: service.Plural(len(out.Pauses), "pause") + " ended, " + service.Plural(len(out.Quarantines), "partition") + " to be tried again",
		})
	})
	return out, err
}

// Place is one partition of one topic.
type Place struct {
	Topic     string
	Partition int32
}

// Checkpoints gives the next offset of each partition of the group.
func (s *Session) Checkpoints(ctx context.Context) (map[Place]int64, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `SELECT topic, partition, next_offset FROM tributary.checkpoint WHERE grp = $1`, s.w.cfg.Group)
	if err != nil {
		return nil, s.broken("read", "tributary.checkpoint", err)
	}
	out := map[Place]int64{}
	var p Place
	var next int64
	if _, err = pgx.ForEachRow(rows, []any{&p.Topic, &p.Partition, &next}, func() error { out[p] = next; return nil }); err != nil {
		return nil, s.broken("read", "tributary.checkpoint", err)
	}
	return out, nil
}
