package capture

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
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

// snapshotTrouble says that role cannot read the rows of t. It is the table's own trouble where a right is missing, and where the server
// can read them and fails at what they hold: that is there for the next attempt, too.
func snapshotTrouble(role string, t *table, err error) error {
	name := t.catalog.Relation.QualifiedName()
	state := postgres.SQLState(err)
	switch {
	case state == "42501":
		return &publish.OneTable{Err: &trouble.Error{
			Code: trouble.SourceRights, Op: "read the rows of", Subject: subject(name), Cause: postgres.Describe(err),
			Means: "nothing of the table is published", Hint: catalog.GrantRead(&t.catalog.Relation, role) + "     with row level security it needs BYPASSRLS too",
		}}
	case len(state) == 5 && slices.Contains([]string{"XX", "54", "22"}, state[:2]): // internal or corrupted, a limit of the program, data
		hint := unreadable(&t.catalog.Relation)
		if notUTF8(state) {
			hint = noUTF8 + "Write it anew, or leave its column out (columns in capture.yaml, and start capture anew)"
		}
		return &publish.OneTable{Err: &trouble.Error{
			Code: trouble.SnapshotFailed, Op: "read the rows of", Subject: subject(name), Cause: postgres.Describe(err),
			Means: "nothing of the table is published", Hint: hint,
		}}
	}
	return catalog.Unreachable("read the rows of", subject(name), err)
}

// unreadable says what to do about a row that the server fails at: mostly it is one whose text is longer than the 1 GiB that a buffer of
// it holds. Long texts, and bytea, whose text is twice as long, know their length without being read.
func unreadable(rel *schema.Relation) string {
	hint := "invalid memory alloc request size, or a buffer that cannot be enlarged: a row whose text is longer than 1 GiB, which no server of Postgres can give. " +
		"Shorten or delete it, or leave its column out (columns in capture.yaml, and start capture anew). Anything else: what the server's log says of it"
	var lengths []string
	for i := range rel.Columns {
		switch c := &rel.Columns[i]; c.Type.OID {
		case schema.OIDBytea:
			lengths = append(lengths, fmt.Sprintf("2.0 * coalesce(octet_length(%s), 0)", postgres.Ident(c.Name)))
		case schema.OIDText, schema.OIDVarchar:
			lengths = append(lengths, fmt.Sprintf("1.0 * coalesce(octet_length(%s), 0)", postgres.Ident(c.Name)))
		}
	}
	if len(lengths) == 0 {
		return hint
	}
	tell := []string{"ctid"}
	for _, k := range rel.Key {
		tell = append(tell, postgres.Ident(rel.Columns[k].Name))
	}
	return hint + fmt.Sprintf("\nSELECT %s FROM %s WHERE %s > 1e9;     at the source: which rows are that long",
		strings.Join(tell, ", "), postgres.Ident(rel.Schema, rel.Name), strings.Join(lengths, " + "))
}
