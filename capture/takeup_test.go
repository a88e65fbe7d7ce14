package capture

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

// A table that a restart publishes for the first time lost the rows of a transaction that was writing to it then: they
// are not in the stream, and the snapshot did not wait for them.
func TestTableAddedByARestartWhileItIsWritten(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		r := newRig(t, major, kafkatest.Fake(t), `create table a (id int primary key); create table b (id int primary key, v text); insert into b values (1, 'there')`)
		r.config.Source.Tables = []string{"public.a"}
		_, stop := r.start()
		r.fence()
		must(t, stop())
		writer, err := pgx.Connect(t.Context(), r.dsn)
		must(t, err)
		defer writer.Close(context.Background()) //nolint:errcheck // the test is over
		_, err = writer.Exec(t.Context(), `begin; insert into b values (2, 'open')`)
		must(t, err)
		r.config.Source.Tables = []string{"public.*"}
		c, stop := r.start()
		eventually(t, "b is being captured", func() bool { return len(c.Status().Tables) == 2 })
		_, err = writer.Exec(t.Context(), `commit`)
		must(t, err)
		r.fence()
		r.same("public", "b")
		must(t, stop())
	}
}
