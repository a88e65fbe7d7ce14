package capture

import (
	"context"
	"errors"
	"fmt"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// usable refuses a server that cannot be captured.
func usable(s *catalog.Server) error {
	switch {
	case s.Major() < 14:
		return &trouble.Error{
			Code: trouble.ServerVersion, Op: "start", Subject: fmt.Sprintf("source %q", s.Database), Cause: fmt.Errorf("the server is PostgreSQL %s", s.Version),
			Means: "nothing was changed", Hint: "PostgreSQL 14 or later is needed",
		}
	case s.WALLevel != "logical":
		return &trouble.Error{
			Code: trouble.WALLevel, Op: "start", Subject: fmt.Sprintf("source %q", s.Database), Cause: fmt.Errorf("wal_level is %s", s.WALLevel),
			Means: "the server writes no WAL from which rows can be read; nothing was changed",
			Hint:  "ALTER SYSTEM SET wal_level = 'logical';   then restart the server",
		}
	case !s.Replication:
		return &trouble.Error{
			Code: trouble.SourceRights, Op: "start", Subject: fmt.Sprintf("source %q", s.Database), Cause: fmt.Errorf("role %q has no REPLICATION", s.Role),
			Means: "nothing was changed", Hint: fmt.Sprintf("ALTER ROLE %s REPLICATION;", postgres.Ident(s.Role)),
		}
	}
	return nil
}

// stillStopped looks, and takes the source over from nobody, for what a capture that has stopped would be refused by again: it must not
// fence an instance that somebody has just started, with leave to jump the gap.
func (c *Capture) stillStopped(ctx context.Context, cat *catalog.Catalog, server *catalog.Server) error {
	slot, err := cat.Slot(ctx, c.config.Source.slot())
	if err != nil {
		return err
	}
	pr, err := publish.ReadProgress(ctx, c.config.Kafka, c.config.Source.Name, c.log) // behind the slot, which is made behind a claim
	if err != nil {
		return err
	}
	if !c.options.Standby && c.takenSince(pr) {
		return takenOver(pr)
	}
	if c.options.OnGap == GapResnapshot {
		return nil
	}
	return c.refusal(ctx, server, slot, pr)
}

// refusal gives the trouble by which a start is refused, as far as can be told of a server, its slot and the newest progress; nil
// where there is none.
func (c *Capture) refusal(ctx context.Context, server *catalog.Server, slot *catalog.Slot, pr *record.Progress) error {
	if err := usable(server); err != nil {
		return err
	}
	conn, system, err := c.replicate(ctx, "look")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server forgets the connection by itself
	history, err := historyOf(ctx, conn, system, pr)
	if err != nil {
		return err
	}
	state := &publish.State{Progress: pr}
	if pr == nil && c.bare != nil && *c.bare > 0 { // a claim has seen that; another would fence whoever is about to begin an era
		holds, err := publish.Holds(ctx, c.config.Kafka, c.config.Source.Name, c.log)
		if err != nil {
			return err
		}
		if holds {
			state.Newest.Era = *c.bare
		}
	}
	if gap := findGap(state, slot, system, history, c.config.Source.slot()); gap != nil {
		return gap
	}
	return nil
}

// historyOf gives where the server left the timeline of what is published, if it has.
func historyOf(ctx context.Context, conn *replication.Conn, system replication.System, pr *record.Progress) (replication.History, error) {
	if pr == nil || pr.SystemID != system.ID || pr.Timeline >= system.Timeline {
		return nil, nil
	}
	history, err := conn.History(ctx, system.Timeline)
	if err != nil {
		return nil, catalog.Unreachable("ask the timelines of", "source", err)
	}
	return history, nil
}

// alien is the trouble of a slot that is not one of ours: another program's, or that of another database's capture.
func alien(slot *catalog.Slot) *trouble.Error {
	return &trouble.Error{
		Op: "start", Subject: fmt.Sprintf("slot %q", slot.Name), Code: trouble.Gap,
		Cause: fmt.Errorf("it is not a slot of ours: plugin %q, two_phase %t, database %q", slot.Plugin, slot.TwoPhase, slot.Database),
		Means: "nothing was written; whoever reads that slot goes on as long as it is not dropped",
		Hint:  "look at source.dsn and source.name: each database is a source of its own, with a name of its own. If it is another program's slot, choose a name with source.slot",
	}
}

const resnapshotHint = "capture run --on-gap=resnapshot     reads all tables again; rows gone at the source go downstream too"

// findGap compares the slot with what is published: nil if the slot can give everything that is not yet, and the
// server has everything that is. history says where the server left its earlier timelines.
func findGap(state *publish.State, slot *catalog.Slot, system replication.System, history replication.History, name string) *trouble.Error {
	pr := state.Progress
	e := &trouble.Error{
		Op: "start", Subject: fmt.Sprintf("slot %q", name), Code: trouble.Gap,
		Means: "changes in between are not in the topics; nothing was skipped silently, nothing was written",
		Hint:  resnapshotHint,
	}
	switch {
	case slot != nil && slot.WALStatus == "lost":
		e.Code, e.Cause = trouble.SlotLost, errors.New("the server dropped the WAL that the slot needed (wal_status is lost)")
	case slot != nil && !ours(slot, system.Database):
		return alien(slot)
	case pr == nil && state.Newest.Era > 0: // an era begins with its progress: there was one
		e.Cause = fmt.Errorf("the topics hold changes of era %d, of which the progress topic says nothing: it was deleted, or has lost its records", state.Newest.Era)
		e.Means = "how far the source is published is not known; nothing was skipped silently, nothing was written"
	case pr == nil:
		return nil
	case pr.SystemID != system.ID:
		e.Code, e.Cause = trouble.WrongSystem, fmt.Errorf("the topics are of system %s, this server is %s: a restore, an upgrade, or another server", pr.SystemID, system.ID)
		e.Means = "positions of two servers cannot be compared; nothing was written"
		e.Hint = "look at source.dsn: is this the server that is meant? If so:\n" + e.Hint
	case pr.Timeline != system.Timeline && !passedOn(state, system, history):
		e.Code, e.Cause = trouble.WrongSystem, fmt.Errorf("the topics are of timeline %d, this server is on %d: a failover or a restore", pr.Timeline, system.Timeline)
		if at, was := history.Left(pr.Timeline); was {
			e.Cause = fmt.Errorf("this server left timeline %d at %s, and transactions after that are published: a failover lost them", pr.Timeline, at)
		}
		e.Means = "what is published and this server's data differ; nothing was written"
		if system.Timeline < pr.Timeline {
			e.Cause = fmt.Errorf("the topics are of timeline %d, this server is still on %d: an old primary, whose successor has been captured, or a restore", pr.Timeline, system.Timeline)
			e.Means = "it lacks what its successor has written, and what it has written since is in no topic; nothing was written"
			e.Hint = "look at source.dsn: it has to lead to the successor. Capture goes on by itself when it does; see that this server takes no writes\n" +
				"only if this server is meant, as after a restore:\n" + e.Hint
		}
	case slot == nil:
		e.Code, e.Cause = trouble.SlotMissing, fmt.Errorf("it is gone; published is everything up to %s", change.LSN(pr.EndLSN))
	case slot.Making: // a new one, whose predecessor is gone
		e.Code, e.Cause = trouble.SlotMissing, fmt.Errorf("it is being made anew by pid %d (%s); published is everything up to %s", slot.ActivePID, slot.Holder, change.LSN(pr.EndLSN))
	case slot.ConfirmedFlushLSN > change.LSN(pr.EndLSN):
		e.Cause = fmt.Errorf("it stands at %s, published is everything up to %s: somebody advanced or re-made it", slot.ConfirmedFlushLSN, change.LSN(pr.EndLSN))
	case state.Lacking != "":
		e.Subject = fmt.Sprintf("source %q", pr.Source)
		e.Cause = fmt.Errorf("%s: Kafka has lost it, or left its transaction without an end", state.Lacking)
		e.Means = "changes that were published do not arrive; nothing was skipped silently, nothing was written"
	default:
		return nil
	}
	return e
}

// passedOn says whether everything that is published belongs to the past of a server that has been promoted: it has all
// of it, and its own changes come behind.
func passedOn(state *publish.State, system replication.System, history replication.History) bool {
	pr := state.Progress
	at, was := history.Left(pr.Timeline)
	if !was || system.Timeline < pr.Timeline || change.LSN(pr.EndLSN) > at {
		return false
	}
	// Of a transaction that is not published whole the record of its commit must be there; records are whole before at.
	return change.LSN(pr.CommitLSN) < at && (state.Newest.Era != pr.Era || state.Newest.CommitLSN < at)
}

// ours says whether a slot can be one that this program made in this database. For a moment one that is being made has no plugin.
func ours(slot *catalog.Slot, database string) bool {
	return (slot.Plugin == "pgoutput" || slot.Plugin == "" && slot.Making) && !slot.TwoPhase && slot.Database == database
}
