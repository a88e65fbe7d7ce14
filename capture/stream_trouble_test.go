package capture

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// TestServerThatCannotSend: a row whose text Postgres cannot make ends the stream each time, with the words that a walsender has for
// a bytea of 540 MB. It is no source that is away.
func TestServerThatCannotSend(t *testing.T) {
	for state, want := range map[string]trouble.Code{"XX000": trouble.StreamBroken, "54000": trouble.StreamBroken, "57P01": trouble.SourceUnreachable} {
		err := streamTrouble("tributary_shop", &pgconn.PgError{Code: state, Message: "invalid memory alloc request size 1080000003"})
		e, ok := errors.AsType[*trouble.Error](err)
		if !ok || e.Code != want || (want == trouble.StreamBroken) != strings.Contains(e.Hint, "1 GiB") {
			t.Errorf("%s: %v (%s)", state, err, trouble.CodeOf(err))
		}
	}
}
