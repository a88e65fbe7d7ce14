package warehouse

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// TestMaintenanceHoldsNothing: of what is removed beside the tables none is held, and none is to be resumed, whatever Postgres refuses.
func TestMaintenanceHoldsNothing(t *testing.T) {
	w := New(Config{DSN: func() (string, error) { return "postgres://sink@nowhere/dwh", nil }, Group: "warehouse", Instance: "x"})
	for _, test := range []struct{ state, message, means, hint string }{
		{"23503", "violates foreign key constraint", "they stay", "remove what refers to them, or drop the constraint"},
		{"22003", "numeric field overflow", "they stay", "widen the target's column"},
		{"55000", `foreign table "far" does not allow deletes`, "they stay", "let it be written (updatable of a server of postgres_fdw), or ALTER TABLE the target DETACH PARTITION it"},
		{"42501", "permission denied for table t", "they stay", `GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON … TO "sink";`},
		{"42501", "permission denied for schema tributary", "they stay", "log in as the role that sink runs as: the schema is its own (docs/security.md)"},
		{"XX000", "something", "they stay", ""},
		{"53100", "could not extend file", "what needs space is not written; nothing is lost: Kafka keeps the changes", "free disk space; the sink goes on by itself"},
		{"57P01", "terminating connection", "nothing is lost: Kafka keeps the changes, and the sink goes on by itself", ""},
	} {
		err := w.Session().removing("remove rows from", rule.Target{Schema: "public", Table: "t"}, "they stay", &pgconn.PgError{Code: test.state, Message: test.message})
		said, _ := errors.AsType[*trouble.Error](err)
		if said.Means != test.means || said.Hint != test.hint || strings.Contains(err.Error(), "SOURCE/TABLE") {
			t.Errorf("%s is told as\n%v", test.state, err)
		}
	}
	own := &trouble.Error{Code: trouble.TargetMissing, Cause: errors.New("x"), Means: "its own", Hint: "its own, too"}
	if err := w.Session().removing("remove rows from", rule.Target{}, "they stay", own); !errors.Is(err, own) || own.Means != "its own" || own.Hint != "its own, too" {
		t.Errorf("got %v", err)
	}
}

// TestHintsWithoutResume: what is to be done stands by itself.
func TestHintsWithoutResume(t *testing.T) {
	for hint, want := range map[string]string{
		"drop it; then sink resume SOURCE/TABLE":                                      "drop it",
		"alter it; then sink resume SOURCE/TABLE; or say create: true":                "alter it; or say create: true",
		"DELETE it;\nthen sink resume SOURCE/TABLE; what was is not in it, read anew": "DELETE it;\nwhat was is not in it, read anew",
		"drop it; then sink resume SOURCE/TABLE\nor sink resume SOURCE/TABLE --park":  "drop it",
		"DELETE it;\nthen sink resume SOURCE/TABLE":                                   "DELETE it;",
	} {
		if got := WithoutResume(hint); got != want {
			t.Errorf("%q becomes %q", hint, got)
		}
	}
}
