package capture

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
)

// What it means that the source's server fails at a stream, or at a read of rows.

// streamTrouble says what the end of the stream means. A server that fails within itself does so again at the same place: mostly
// it cannot make a text of a row, as no buffer of it holds more than 1 GiB, and a bytea takes twice its length. So does one, before
// PostgreSQL 18, that has come to a change at which the publication was not there: a later one does not help.
func streamTrouble(slot string, err error) error {
	const anew = "capture slot drop, and capture run --on-gap=resnapshot"
	var hint string
	switch state := postgres.SQLState(err); {
	case state == "XX000" || state == "54000":
		hint = "invalid memory alloc request size, or a buffer that cannot be enlarged: a row whose text is longer than 1 GiB, which no server of Postgres can send. Shorten it at the source, then " + anew
	case notUTF8(state):
		hint = noUTF8 + "Write it anew at the source, then " + anew
	case postgres.LacksPublication(err):
		hint = "somebody has dropped or renamed the publication, and rows were written before capture made it again: no server before PostgreSQL 18 gets past them. " + anew
	default:
		return catalog.Unreachable("read WAL from", fmt.Sprintf("slot %q", slot), err)
	}
	return &trouble.Error{
		Code: trouble.StreamBroken, Op: "read WAL from", Subject: fmt.Sprintf("slot %q", slot), Cause: postgres.Describe(err),
		Means: "nothing after that point is published; the source keeps its WAL, and a restart comes to the same place", Hint: hint,
	}
}

// notUTF8 says whether a server could not send a text as it has no form in UTF-8: its bytes are none (SQL_ASCII), or are nothing in server_encoding
// (of WIN1252: five of them).
func notUTF8(state string) bool { return state == "22021" || state == "22P05" }

// noUTF8 begins what is to be done then.
const noUTF8 = "a row has a text that the server cannot convert to UTF-8: its bytes are of another encoding than server_encoding says. "

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
