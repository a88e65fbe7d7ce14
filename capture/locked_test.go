package capture

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
)

// lock locks a table as VACUUM and CREATE INDEX CONCURRENTLY do, until unlock.
func (r *rig) lock(table string) (unlock func()) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.dsn)
	must(r.t, err)
	unlock = func() { _ = conn.Close(context.Background()) }
	r.t.Cleanup(unlock)
	_, err = conn.Exec(r.t.Context(), "begin; lock table "+table+" in share update exclusive mode")
	must(r.t, err)
	return unlock
}

// watching gives a watcher that looks when it is told to.
func (r *rig) watching() (w *watcher, learn func() facts) {
	r.t.Helper()
	cat, err := catalog.Open(r.t.Context(), r.dsn, "test")
	must(r.t, err)
	r.t.Cleanup(func() { _ = cat.Close(context.Background()) })
	patterns, err := catalog.ParsePatterns(r.config.Source.Tables)
	must(r.t, err)
	w = &watcher{config: &r.config, log: slog.New(slog.NewTextHandler(testWriter{r.t}, nil)), patterns: patterns}
	return w, func() facts {
		r.t.Helper()
		l, err := cat.Look(r.t.Context(), r.config.Source.slot(), r.config.Source.publications())
		must(r.t, err)
		f, err := w.learn(r.t.Context(), cat, look{time.Now(), l})
		must(r.t, err)
		return f
	}
}

// TestLockBesideAPublicationThatPublishesLess: somebody has a publication publish less, and holds a lock on one of its tables. No lock keeps it from
// being put right: changes of all tables were missing as long as there was one.
func TestLockBesideAPublicationThatPublishesLess(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table item (id int primary key, v text); insert into item select i, 'old' from generate_series(1, 5) i;
		create table busy (id int primary key)`)
	_, stop := r.start()
	r.fence()
	r.lock("busy")
	publication := r.config.Source.publications().Full
	r.exec("begin; alter publication " + publication + " set (publish = 'insert'); update item set v = 'unseen' where id = 1; delete from item where id = 2; commit")
	r.settles("item")
	must(t, stop())
}

// TestLockOfATableThatLeavesAPublication: where a table has to leave a publication that publishes less, that goes before: else its UPDATE would fail.
// Until then changes are missing, which is told at once.
func TestLockOfATableThatLeavesAPublication(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table item (id int primary key); create table busy (id int primary key); insert into busy values (1)`)
	_, learn := r.watching()
	if f := learn(); f.unpublished != nil || len(f.tables) != 2 {
		t.Fatalf("%+v", f)
	}
	publication := r.config.Source.publications().Full
	r.exec("alter publication " + publication + " set (publish = 'insert'); alter table busy drop constraint busy_pkey")
	unlock := r.lock("busy")
	f := learn()
	if f.unpublished == nil || postgres.SQLState(f.unpublished) != "55P03" || !strings.Contains(f.unpublished.Means, "changes of its tables do not arrive") {
		t.Errorf("it is told %v", f.unpublished)
	}
	r.exec("update busy set id = 2")
	unlock()
	if f = learn(); f.unpublished != nil || len(f.tables) != 2 {
		t.Errorf("%+v", f)
	}
	r.exec("update busy set id = 3")
	var all bool
	must(t, r.conn.QueryRow(t.Context(), "select pubupdate and pubdelete from pg_publication where pubname = $1", publication).Scan(&all))
	if !all {
		t.Error("the publication publishes less")
	}
}

// TestPublicationIsAlteredBesideItsTable: somebody has a publication publish less for a while, and in the same moment a table of it loses its identity, or
// has its partitions published one by one from then on, and so its place: what was not published meanwhile comes all the same.
func TestPublicationIsAlteredBesideItsTable(t *testing.T) {
	for _, away := range []bool{true, false} {
		r := newRig(t, 0, kafkatest.Fake(t), `create table item (id int primary key, v text); insert into item select i, 'old' from generate_series(1, 5) i; create table calm (id int primary key); insert into calm values (1);
			create table root (id int primary key, v text) partition by range (id); create table root_0 partition of root for values from (0) to (10); insert into root select i, 'old' from generate_series(1, 5) i`)
		_, stop := r.start()
		r.fence()
		if away {
			must(t, stop())
		}
		publication := r.config.Source.publications().Full
		r.exec("begin; alter publication " + publication + " set (publish = 'update'); insert into item values (6, 'unseen'); insert into root values (6, 'unseen'); delete from root where id = 1; alter publication " + publication +
			" set (publish = 'insert, update, delete, truncate'); alter table item replica identity nothing; alter table root_0 replica identity full; commit")
		if away {
			_, stop = r.start()
		}
		r.settles("item")
		r.settles("root")
		must(t, stop())
	}
}

// TestLockThatIsGoneIsForgotten: a new table was locked, and is dropped: so the catalog is as it was. The next lock, an hour later, is a new one.
func TestLockThatIsGoneIsForgotten(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table item (id int primary key)`)
	w, learn := r.watching()
	learn()
	learn() // of the catalog with the publications
	locked := func() {
		t.Helper()
		r.exec("create table busy (id int primary key)")
		unlock := r.lock("busy")
		if f := learn(); f.unpublished != nil || w.refused.IsZero() {
			t.Errorf("it is told %v, refused since %s", f.unpublished, w.refused)
		}
		w.refused = w.refused.Add(-time.Hour)
		unlock()
		r.exec("drop table busy")
		learn()
	}
	locked()
	locked()
}

// TestLockOfANewTable: a table that was made while capture was away is locked. It kept capture from starting, as long as that took.
func TestLockOfANewTable(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table item (id int primary key, v text); insert into item select i, 'old' from generate_series(1, 5) i`)
	_, stop := r.start()
	r.fence()
	must(t, stop())
	r.exec("create table busy (id int primary key); insert into busy values (1)")
	unlock := r.lock("busy")
	publication := r.config.Source.publications().Full
	r.exec("alter publication " + publication + " set (publish = 'insert'); update item set v = 'unseen' where id = 1; delete from item where id = 2")
	c, stop := r.start()
	rows := func(table string) {
		t.Helper()
		r.settles(table)
	}
	rows("item")
	if n := len(c.Status().Tables); n != 1 {
		t.Errorf("%d tables are captured", n)
	}
	unlock()
	r.exec("insert into busy values (2)")
	eventually(t, "it is captured", func() bool { return len(c.Status().Tables) == 2 })
	rows("busy")
	must(t, stop())
}

// TestLockWhileItRuns: a new table that is locked keeps nothing else from being told. One that is known is not taken for one that is left out.
func TestLockWhileItRuns(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table item (id int primary key)`)
	_, learn := r.watching()
	learn()
	publication := r.config.Source.publications().Full
	levels := func(f facts) (list []string) {
		for _, one := range f.tables {
			list = append(list, one.Relation.Name+" "+string(one.Level))
		}
		return list
	}
	r.exec("create table busy (id int primary key); alter publication " + publication + " set (publish = 'insert')")
	unlock := r.lock("busy")
	if list := levels(learn()); !slices.Equal(list, []string{"busy left out", "item all"}) {
		t.Errorf("it is told of %q", list)
	}
	if list := levels(learn()); list != nil {
		t.Errorf("it is told of %q once more", list)
	}
	unlock()
	if list := levels(learn()); !slices.Equal(list, []string{"busy all", "item all"}) {
		t.Errorf("it is told of %q", list)
	}
	r.exec("alter publication " + publication + " drop table item")
	unlock = r.lock("item")
	if list := levels(learn()); list != nil {
		t.Errorf("it is told of %q", list)
	}
	unlock()
	if list := levels(learn()); !slices.Equal(list, []string{"busy all", "item all"}) {
		t.Errorf("it is told of %q", list)
	}
}

// TestTableIsMovedWhileItIsPublished: a table whose name goes between the look at the catalog and the statement that publishes it ended a start,
// although the next look has it as it is.
func TestTableIsMovedWhileItIsPublished(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create schema away; create table item (id int primary key, v text); create table other (id int primary key); insert into item values (1, 'a')`)
	r.config.Source.Tables = []string{"*.*"}
	conn, look := r.connect(), r.connect()
	_, err := conn.Exec(t.Context(), `begin; alter table item set schema away`)
	must(t, err)
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		eventually(t, "capture waits for the table", func() bool {
			var waits bool
			err := look.QueryRow(t.Context(), `select exists (select from pg_stat_activity where query ilike '%publication%' and wait_event_type = 'Lock')`).Scan(&waits)
			return err == nil && waits
		})
		_, _ = conn.Exec(t.Context(), `commit`)
	}()
	_, stop := r.start()
	<-moved
	eventually(t, "it is read", func() bool { return r.tableProgress("away.item").Done })
	r.same("away", "item")
	must(t, stop())
}
