package capture

import (
	"errors"
	"time"

	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// mostUnread is the longest pause before rows that could not be read are asked for once more.
const mostUnread = 30 * time.Second

// unread is called where a read of t's rows has failed. One that the server has refused, on a connection that it goes on with, concerns no other table: a
// partition is a foreign table whose server is away, or somebody has cancelled the statement. It is made again, later and later, and told until it succeeds.
// What ends more than that read is given back.
func (s *session) unread(t *table, err error) error {
	failed := snapshotTrouble(s.catalog.Role(), t, err)
	said, ok := errors.AsType[*postgres.Error](err)
	if !ok || said.Severity != "ERROR" || trouble.CodeOf(failed) != trouble.SourceUnreachable {
		return failed
	}
	snap := t.snapshot
	s.again(snap, nil)
	snap.notBefore = time.Now().Add(min(time.Second<<min(snap.failed, 10), mostUnread))
	snap.failed++
	if name := subject(t.name()); name != snap.unread {
		s.quiet(snap)
		snap.unread = name
	}
	means := "its rows wait, and are asked for again by themselves; its changes go on, and so do all other tables"
	if len(t.pub.Relation.Key) == 0 {
		means = "its rows wait, and its changes with them; they are asked for again by themselves, and all other tables go on"
	}
	s.raise(&trouble.Error{
		Code: trouble.SnapshotFailed, Op: "read the rows of", Subject: snap.unread, Cause: postgres.Describe(err), Means: means,
		Hint: "mend what the server says: a partition that is a foreign table is read where its rows are; ALTER TABLE " +
			postgres.Ident(t.pub.Relation.Schema, t.pub.Relation.Name) + " DETACH PARTITION it, if that is gone",
	})
	return nil
}

// readable is called where rows of t have been read: that they could not is told no more.
func (s *session) readable(t *table) {
	if snap := t.snapshot; snap != nil && snap.failed > 0 {
		snap.failed, s.statusDue = 0, true
		s.quiet(snap)
	}
}

// quiet ends the alarm by the name under which it was raised: the table may have another one since, or, where it is just set aside, none
// that is published.
func (s *session) quiet(snap *tableSnapshot) {
	if snap.unread != "" {
		s.alarms.clear(trouble.SnapshotFailed, snap.unread)
		snap.unread = ""
	}
}
