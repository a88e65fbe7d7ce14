package capture

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
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

// Rows that a partitioned table had before a column was added lacked the column's default in the warehouse: the root
// has no rows, and the server keeps that value with the partitions.
func TestDefaultOfPartitionedTable(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `
		create table parted (region int, id int, primary key (region, id)) partition by list (region);
		create table parted_1 partition of parted for values in (1);
		insert into parted values (1, 1);
		alter table parted add column late numeric(10, 2) default 1.5;
		create table parted_2 partition of parted for values in (2)`)
	cat, err := catalog.Open(t.Context(), r.dsn, "test")
	must(t, err)
	defer cat.Close(t.Context())
	all, err := catalog.ParsePatterns([]string{"public.*"})
	must(t, err)
	known, err := cat.Tables(t.Context(), all)
	must(t, err)
	if late := known[0].Relation.Columns[2]; late.Default == nil || *late.Default != "1.50" {
		t.Errorf("column %q has the default %v", late.Name, late.Default)
	}
}

// The tables are listed only where a look says that their catalog has changed: what it does not tell would never be taken up.
func TestLookTellsOfEveryChangeOfTables(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `
		create schema other; create table other.t (id int, name text); create domain cents as int; create table leaf (id int);
		create table parted (id int) partition by range (id); create publication p for table other.t; insert into other.t values (1, 'a')`)
	cat, err := catalog.Open(t.Context(), r.dsn, "test")
	must(t, err)
	defer cat.Close(t.Context())
	version := func() string {
		l, err := cat.Look(t.Context(), "none", catalog.Publications{Full: "p"})
		must(t, err)
		return l.Version
	}
	for _, sql := range []string{
		`create table fresh (id int primary key)`, `drop table fresh`, `alter table other.t add extra cents`, `alter table other.t rename extra to more`,
		`alter domain cents set default 1`, `alter domain cents rename to pence`, `alter table other.t alter name set not null`, `alter table other.t add primary key (id)`,
		`alter table other.t replica identity full`, `create unique index u on other.t (id, name)`, `alter table other.t replica identity using index u`,
		`alter table other.t alter name type varchar(20)`, `alter schema other rename to moved`, `alter schema public rename to pub`, `alter schema pub rename to public`,
		`alter table parted attach partition leaf for values from (1) to (9)`, `alter table parted detach partition leaf`, `truncate moved.t`, `insert into moved.t values (1, 'a'); analyze moved.t`,
		`alter table moved.t drop more`, `drop publication p; alter table moved.t set unlogged`,
	} {
		before := version()
		if again := version(); again != before {
			t.Errorf("%q is another version than %q, and nothing has changed", again, before)
		}
		r.exec(sql)
		if version() == before {
			t.Errorf("%s: the version is the same", sql)
		}
	}
	before := version()
	r.exec(`insert into moved.t select i, 'b' from generate_series(2, 100) i; update moved.t set name = 'c'; select pg_logical_emit_message(true, 'tributary', '{}')`)
	if version() != before {
		t.Error("rows have made another version")
	}
}

// A Relation message made capture ask for the size of every table, which waits for whoever has locked one. The lock of a
// TRUNCATE that waited for a read of capture's own, which waited for capture, stopped the stream and the application for good.
func TestStreamWaitsForNoLock(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		r := newRig(t, major, kafkatest.Fake(t), tables+`
			create table other (id int primary key, v int default 1, w int generated always as (id * 2) stored);
			create table root (id int primary key) partition by list (id);
			create table leaf partition of root for values in (1)`)
		_, stop := r.start()
		r.fence()
		locker, err := pgx.Connect(t.Context(), r.dsn)
		must(t, err)
		defer locker.Close(context.Background()) //nolint:errcheck // the test is over
		_, err = locker.Exec(t.Context(), `begin; lock table other, root, leaf in access exclusive mode`)
		must(t, err)
		r.exec(`alter table item add late text; insert into item (id, late) values (1, 'new')`)
		r.fence()
		r.same("public", "item")
		must(t, stop())
	}
}

// TestGoneTablesLeaveTheProgress: a sink learns within seconds that a table is captured no more, dropped or renamed while capture ran or
// while it did not.
func TestGoneTablesLeaveTheProgress(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), "create table kept (id int primary key); create table dropped (id int primary key); create table renamed (id int primary key); create table late (id int primary key)")
	names := func() any {
		pr, err := publish.ReadProgress(t.Context(), r.config.Kafka, r.config.Source.Name, slog.New(slog.DiscardHandler))
		must(t, err)
		var all []string
		for _, known := range pr.Tables {
			all = append(all, known.Table)
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	_, stop := r.start()
	r.fence()
	r.exec("drop table dropped")
	eventually(t, "the dropped one is gone", func() bool { return names() == "kept late renamed" })
	r.exec("alter table renamed rename to other; insert into other values (1)")
	eventually(t, "the renamed one is known by its new name alone", func() bool { return names() == "kept late other" })
	must(t, stop())
	r.exec("drop table late")
	_, stop = r.start()
	r.fence()
	eventually(t, "the one that was dropped meanwhile is gone", func() bool { return names() == "kept other" })
	must(t, stop())
}
