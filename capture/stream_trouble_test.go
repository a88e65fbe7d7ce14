package capture

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// TestServerThatCannotSend: a row whose text Postgres cannot make ends the stream each time, with the words that a walsender has for
// a bytea of 540 MB. It is no source that is away.
func TestServerThatCannotSend(t *testing.T) {
	for state, want := range map[string]trouble.Code{"XX000": trouble.StreamBroken, "54000": trouble.StreamBroken, "22021": trouble.StreamBroken, "22P05": trouble.StreamBroken, "57P01": trouble.SourceUnreachable} {
		err := streamTrouble("tributary_shop", &pgconn.PgError{Code: state, Message: "invalid memory alloc request size 1080000003"})
		e, ok := errors.AsType[*trouble.Error](err)
		says := "check host, port"
		switch {
		case strings.HasPrefix(state, "22"):
			says = "to UTF-8"
		case want == trouble.StreamBroken:
			says = "1 GiB"
		}
		if !ok || e.Code != want || !strings.Contains(e.Hint, says) {
			t.Errorf("%s: %v (%s)", state, err, trouble.CodeOf(err))
		}
	}
}

// TestTextThatIsNotUTF8: a row of a database in SQL_ASCII whose text is not UTF-8 holds its table where it is read, and stops capture in the
// stream; both say of what it is, and check and the start say beforehand that it may come.
func TestTextThatIsNotUTF8(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), "")
	r.dsn = pgtest.Database(t, pgtest.Shared(t, 0), "encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C'")
	r.config.Source.DSN = config.Secret(r.dsn)
	var err error
	r.conn, err = pgx.Connect(t.Context(), r.dsn)
	must(t, err)
	defer r.conn.Close(context.Background()) //nolint:errcheck // the test is over
	r.exec(`create table doc (id int primary key, note text); create table other (id int primary key, note text); insert into doc values (1, E'\xe4')`)
	var log strings.Builder
	c, err := New(r.config, r.options, slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, c.Check(t.Context(), terminal.NewCheck("capture", &log)))
	if !strings.Contains(log.String(), "server_encoding is SQL_ASCII") {
		t.Errorf("check says\n%s", &log)
	}
	c, stop := r.start()
	r.fence()
	if held := r.isHeld(c, "public.doc", trouble.SnapshotFailed); !strings.Contains(held.Hint, "to UTF-8") {
		t.Errorf("the hint is %s", held.Hint)
	}
	r.exec(`insert into other values (1, E'\xc3\xa4')`)
	r.fence()
	r.same("public", "other")
	must(t, stop())
	r.exec(`insert into other values (2, E'\xe4')`)
	if e := r.fails(trouble.StreamBroken); !strings.Contains(e.Hint, "to UTF-8") {
		t.Errorf("the hint is %s", e.Hint)
	}
	_, err = r.conn.Exec(t.Context(), `select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1`, r.config.Source.slot())
	must(t, err)
}
