package catalog

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/schema"
)

// looking gives a database, and who looks at it.
func looking(t testing.TB) (exec func(sql string), look func() (version string), cat *Catalog) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dsn := pgtest.Database(t, pgtest.Shared(t, 0))
	conn, err := pgx.Connect(t.Context(), dsn)
	must(err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	cat, err = Open(t.Context(), dsn, "test")
	must(err)
	t.Cleanup(func() { _ = cat.Close(context.Background()) })
	exec = func(sql string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql)
		must(err)
	}
	return exec, func() string {
		t.Helper()
		l, err := cat.Look(t.Context(), "none", Publications{Full: "p", Insert: "i"})
		must(err)
		return l.Version
	}, cat
}

// Where it is much work to tell whether tables have changed, that is not asked all the time.
func TestLookSparesTheSource(t *testing.T) {
	exec, look, cat := looking(t)
	was, began := look(), time.Now()
	cat.Spare(time.Minute)
	if cat.looked.due = began.Add(time.Hour); look() != was {
		t.Error("it is another version, and nothing has changed")
	}
	exec(`create table t (id int)`)
	if look() != was {
		t.Error("it was asked before it was due")
	}
	cat.looked.due = began
	if look() == was {
		t.Error("the version is the same")
	}
	if due := cat.looked.due; !due.After(began) || due.After(time.Now().Add(sparing*time.Since(began))) {
		t.Errorf("it is asked again in %s", time.Until(due))
	}
	for _, f := range []struct {
		what string
		took []float64 // before
		most time.Duration
	}{
		{"it has taken less before", []float64{3600, -3600}, time.Hour},
		{"it takes long each time", nil, -time.Hour},
	} {
		began := time.Now()
		cat.Spare(f.most)
		cat.looked.took, cat.looked.due = f.took, began
		exec(`create table if not exists other (id int); drop table other`)
		look()
		if due := cat.looked.due; due.After(began) { // told by numbers that no clock comes near to
			t.Errorf("%s: it is asked again in %s", f.what, time.Until(due))
		}
	}
}

// TestLookSeesWhatIsInterleaved: that two tables are altered is no less a change where the ids of who wrote them last have the same sum as before.
func TestLookSeesWhatIsInterleaved(t *testing.T) {
	exec, look, cat := looking(t)
	exec(`create table t1 (id int); create table t2 (id int)`)
	other, err := pgx.ConnectConfig(t.Context(), cat.conn.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background()) //nolint:errcheck // the server forgets the connection by itself
	between := func(sql string) {
		t.Helper()
		if _, err := other.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`alter table t1 set (fillfactor = 90)`)
	between(`begin; select pg_current_xact_id()`)
	exec(`alter table t2 set (fillfactor = 90)`)
	was := look()
	between(`alter table public.t1 set (fillfactor = 80); alter table public.t2 set (fillfactor = 80); commit`)
	if look() == was {
		t.Errorf("the version is the same: %s", was)
	}
}

// BenchmarkLook looks at 2,000 tables of 20 columns, each made by a transaction of its own: while others write to the source, and while nobody does.
func BenchmarkLook(b *testing.B) {
	exec, look, cat := looking(b)
	exec(`create procedure fill() language plpgsql as $$ begin
		for i in 1 .. 2000 loop
			execute format('create table t%s (id int primary key, %s)', i, (select string_agg(format('c%s text', n), ', ') from generate_series(2, 20) n));
			commit;
		end loop;
	end $$`)
	exec(`call fill()`)
	exec(`vacuum analyze`)
	for name, between := range map[string]string{"busy": `select pg_current_xact_id()`, "idle": ``} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				exec(between)
				b.StartTimer()
				look()
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/2*100, "%-of-a-core-every-2s")
		})
	}
	b.Run("table", func(b *testing.B) { // one of them, as at its first row
		var oid uint32
		if err := cat.conn.QueryRow(b.Context(), `select 'public.t1000'::regclass::oid`).Scan(&oid); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if t, err := cat.Table(b.Context(), schema.OID(oid)); err != nil || len(t.Relation.Columns) != 20 {
				b.Fatal(t, err)
			}
		}
	})
}
