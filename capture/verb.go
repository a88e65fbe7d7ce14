package capture

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/capture/snapshot"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// dsnKey is what the configuration calls the connection string.
const dsnKey = "source.dsn"

func (c *Capture) dsn() (string, error) {
	dsn, err := c.config.Source.DSN.Reveal()
	if err != nil {
		return "", &trouble.Error{Code: trouble.Config, Op: "read", Subject: dsnKey, Cause: err, Means: "nothing was attempted", Hint: "env:NAME is a variable of the environment of this process, file:/path a file that it may read"}
	}
	return dsn, nil
}

// RequestSnapshot writes q, which gets an ID of its own, into the source's WAL, where the capture that runs, or the next
// one, finds it. With wait it returns when the rows are published. It prints what happens, and shows how far it is.
func (c *Capture) RequestSnapshot(ctx context.Context, q SnapshotRequest, wait bool, out *terminal.Output) error {
	cat, tables, err := c.openAsked(ctx, q)
	if err != nil {
		return err
	}
	defer cat.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	var names []string
	for _, t := range tables {
		names = append(names, t.Relation.QualifiedName())
	}
	slot, err := cat.Slot(ctx, c.config.Source.slot())
	if err != nil {
		return err
	}
	if slot == nil || slot.Making { // which begins behind what is asked now
		return notThere(c.config.Source.slot(), slot, strings.Join(names, ", "))
	}
	q.ID, q.By = rand.Text(), cat.User()
	text, err := json.Marshal(signal{Snapshot: &q})
	if err != nil {
		return fmt.Errorf("write the request: %w", err)
	}
	behind, err := cat.Ask(ctx, string(text))
	if err != nil {
		return err
	}
	asked := "asked for %s: %s\n"
	if q.Cancel {
		asked = "asked to give up what is read again of %s: %s\n"
	}
	out.Printf(asked, service.Plural(len(names), "table"), strings.Join(names, ", "))
	if !slot.Active {
		out.Printf("no capture runs at present; the next one finds the request\n")
	}
	if !wait {
		return nil
	}
	return c.awaitSnapshot(ctx, &q, tables, behind, out)
}

// notThere says why nobody finds what is asked of tables: there is no slot, nil, or it is being made.
func notThere(name string, slot *catalog.Slot, tables string) error {
	e := &trouble.Error{
		Code: trouble.SlotMissing, Op: "ask for a snapshot of", Subject: tables,
		Cause: fmt.Errorf("there is no slot %q: no capture has run yet, or somebody has dropped it", name), Means: "nothing was changed",
		Hint: "capture run     reads all tables when it first starts\ncapture run --on-gap=resnapshot     reads them again, where the slot was dropped",
	}
	if slot != nil {
		e.Cause = fmt.Errorf("slot %q is not made yet: %s", name, activity(slot))
		e.Hint = "wait: when it is made, all tables are read; capture status says whose transaction that waits for"
	}
	return e
}

// PlanSnapshot prints what q would do.
func (c *Capture) PlanSnapshot(ctx context.Context, q SnapshotRequest, w io.Writer) error {
	out := terminal.To(w)
	cat, tables, err := c.openAsked(ctx, q)
	if err != nil {
		return err
	}
	defer cat.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	for _, t := range tables {
		what := "its rows are read again and published; what is gone at the source stays downstream"
		switch {
		case q.Cancel:
			what = "if it is read again at present, that is given up; its first read, one that began with a truncate, and what capture reads by itself go on"
		case q.Reload || len(t.Relation.Key) == 0:
			what = "a truncate is published, then its rows: what is gone at the source goes downstream, too"
		case q.Where != "":
			what = "its rows that fit the condition are read again and published"
		case len(q.Columns) > 0:
			what = "its rows are read again and published with their key and " + strings.Join(q.Columns, ", ")
		}
		rows := ""
		if t.EstimatedRows > 0 && !q.Cancel {
			rows = ", about " + service.FormatCount(t.EstimatedRows) + " rows"
			if q.Rate > 0 {
				rows += " in " + service.FormatLeft(seconds(float64(t.EstimatedRows)/float64(q.Rate)))
			}
		}
		out.Printf("%s%s: %s\n", t.Relation.QualifiedName(), rows, what)
	}
	return nil
}

// openAsked connects to the source, and gives the tables that q asks for.
func (c *Capture) openAsked(ctx context.Context, q SnapshotRequest) (*catalog.Catalog, []*catalog.Table, error) {
	patterns, err := q.check(c.config.Snapshot.Conditions)
	if err != nil {
		return nil, nil, terminal.Usage(fmt.Errorf("ask for a snapshot: %w", err))
	}
	cat, err := c.open(ctx, "snapshot")
	if err != nil {
		return nil, nil, err
	}
	tables, err := c.askedTables(ctx, cat, patterns, q)
	if err != nil {
		_ = cat.Close(context.WithoutCancel(ctx))
		return nil, nil, err
	}
	return cat, tables, nil
}

// askedTables gives the captured tables that are asked for, and tries the condition on each.
func (c *Capture) askedTables(ctx context.Context, cat *catalog.Catalog, patterns catalog.Patterns, q SnapshotRequest) ([]*catalog.Table, error) {
	captured, err := catalog.ParsePatterns(c.config.Source.Tables)
	if err != nil {
		return nil, err
	}
	tables, err := cat.Tables(ctx, captured)
	if err != nil {
		return nil, err
	}
	failed := func(subject string, err error) error {
		return &trouble.Error{
			Code: trouble.SnapshotFailed, Op: "ask for a snapshot of", Subject: subject, Cause: err,
			Means: "nothing was changed", Hint: "capture check lists the tables; a condition is what may stand behind WHERE",
		}
	}
	var asked []*catalog.Table
	var reader *snapshot.Reader
	for _, t := range tables {
		if t.Level == catalog.LeftOut || !patterns.Match(t.Relation.Schema, t.Relation.Name) {
			continue
		}
		name := t.Relation.QualifiedName()
		asked = append(asked, t)
		if err := q.fits(&t.Relation); err != nil {
			return nil, failed(name, err)
		}
		if len(t.Relation.Key) == 0 && (q.Where != "" || len(q.Columns) > 0 || q.Rate > 0) {
			return nil, failed(name, errors.New("it has no key, and is always read whole and at once: leave condition, columns and rate out"))
		}
		if q.Where == "" {
			continue
		}
		if reader == nil {
			dsn, err := c.dsn()
			if err != nil {
				return nil, err
			}
			if reader, err = snapshot.Open(ctx, dsn, "tributary snapshot "+c.instance); err != nil {
				return nil, catalog.Unreachable("connect to source", "", err)
			}
			defer reader.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
		}
		if err := reader.Check(ctx, snapshot.Source{Relation: &t.Relation, Partitioned: t.Partitioned, Where: q.Where}); err != nil {
			return nil, failed(name, err)
		}
	}
	if len(asked) == 0 {
		var known []string
		for _, t := range tables {
			if t.Level != catalog.LeftOut {
				known = append(known, t.Relation.QualifiedName())
			}
		}
		return nil, terminal.Usage(terminal.Nearest("captured table", strings.Join(q.Tables, ", "), known))
	}
	return asked, nil
}

// awaitSnapshot follows the progress topic until tables have been read for the request, which stands in the WAL before a position, or one
// will not be.
func (c *Capture) awaitSnapshot(ctx context.Context, q *SnapshotRequest, tables []*catalog.Table, behind change.LSN, out *terminal.Output) error {
	bars := terminal.NewBars(out)
	defer bars.Close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	begun, told := map[uint32]readSeen{}, map[uint32]bool{}
	for {
		pr, err := publish.ReadProgress(ctx, c.config.Kafka, c.config.Source.Name, c.log)
		if err != nil {
			return err
		}
		if pr == nil {
			pr = &record.Progress{}
		}
		state := map[uint32]record.TableProgress{}
		for _, t := range pr.Tables {
			state[t.OID] = t
		}
		var reading []terminal.Progress
		for _, asked := range tables {
			oid, name := uint32(asked.Relation.OID), asked.Relation.QualifiedName()
			t := state[oid]
			first, seen := begun[oid]
			if told[oid] {
				continue
			}
			if err := q.fails(name, t, seen, change.LSN(pr.EndLSN) >= behind); err != nil {
				return err
			}
			switch {
			case t.Asked != q.ID:
			case t.Done:
				told[oid] = true
				bars.Close() // they stand below the line
				out.Printf("%s: %s published\n", name, service.Plural(t.Rows, "row"))
			default:
				if !seen {
					first = readSeen{time.Now(), t.Rows}
					begun[oid] = first
				}
				expected := asked.EstimatedRows
				if q.Where != "" {
					expected = 0
				}
				reading = append(reading, first.bar(name, t.Rows, expected))
			}
		}
		if len(told) >= len(tables) {
			return nil
		}
		slices.SortFunc(reading, func(a, b terminal.Progress) int { return cmp.Compare(a.Name, b.Name) })
		bars.Show(reading)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// fails says why rows that q asks for do not come any more; nil: they may. t is what the progress says of the table, the zero value where it
// does not have it. seen says that they were being read for q, passed that capture has come past q: whatever came of it is in the progress.
func (q *SnapshotRequest) fails(table string, t record.TableProgress, seen, passed bool) error {
	var cause string
	hint := "ask again, if they are still wanted: capture snapshot"
	switch asked := t.Asked == q.ID; {
	case t.Held != nil && (asked || passed):
		return heldTrouble(table, t.Held)
	case asked && t.GivenUp:
		cause = "cancelled: the read was given up"
	case asked || !seen && !passed:
		return nil
	case t.OID == 0:
		cause, hint = "it is not captured any more: it was dropped, or has another name", "capture check lists the tables; one that has just been made is read by itself"
	case seen && t.Asked != "":
		cause = "a later request reads the table anew"
	case seen:
		cause, hint = "capture has begun to read the table anew by itself, as it was altered, or its topic lacked changes", "the rows come with that: capture status shows how far it is, the log says why"
	default:
		cause, hint = "capture has not taken the request, or a later one reads the table anew", "capture status says why, where the request was refused"
	}
	return &trouble.Error{
		Code: trouble.SnapshotFailed, Op: "wait for the rows of", Subject: subject(table), Cause: errors.New(cause),
		Means: "rows that were published stay; the stream goes on", Hint: hint,
	}
}

// readSeen is when a read was seen first, and how many rows had come by then.
type readSeen struct {
	at   time.Time
	rows int64
}

// bar is of the read by now; expected is 0 where how many rows there are is not known.
func (first readSeen) bar(table string, rows, expected int64) terminal.Progress {
	bar := terminal.Progress{Name: "snapshot " + table, Done: rows, Total: max(expected, 0), Unit: "rows", Estimated: true}
	if in := time.Since(first.at); in >= time.Second && rows > first.rows {
		bar.Rate = float64(rows-first.rows) / in.Seconds()
		bar.Left = seconds(float64(max(bar.Total-rows, 0)) / bar.Rate)
	}
	return bar
}
