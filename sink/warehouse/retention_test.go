package warehouse

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// TestClocksOfRetention: a clock that is ahead, be it the sink's or the warehouse's, makes no row and no partition too old.
func TestClocksOfRetention(t *testing.T) {
	w, conn := own(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := conn.Exec(t.Context(), `
		CREATE TABLE public.t (at timestamptz); INSERT INTO public.t VALUES (now() - interval '3 days');
		CREATE TABLE public.p (at timestamptz) PARTITION BY RANGE (at); CREATE TABLE public.old PARTITION OF public.p FOR VALUES FROM ('2000-01-01') TO ('2000-01-02'); CREATE TABLE public.aside (at timestamptz);
		INSERT INTO tributary.detached VALUES ('warehouse', 'public', 'p', 'public.aside'::regclass, 'public', 'aside', 'x', now() - interval '3 days')`)
	must(err)
	s := w.Session()
	defer s.Close(t.Context())
	t.Cleanup(func() { hostClock = time.Now })
	for _, step := range []struct {
		set             time.Duration // the sink's clock, before the warehouse's
		rows            int64
		detached, aside int
	}{{0, 1, 1, 1}, {365 * 24 * time.Hour, 1, 1, 1}, {-36 * time.Hour, 0, 1, 0}, {-50 * 365 * 24 * time.Hour, 0, 0, 0}} {
		hostClock = func() time.Time { return time.Now().Add(step.set) }
		e, err := s.CountExpired(t.Context(), Keep{Feed: Feed{Topic: "shop.public.t", Target: rule.Target{Schema: "public", Table: "t"}}, Age: "2 days", By: "at"})
		must(err)
		done := map[Deed]int{}
		must(s.PlanPartitions(t.Context(), []Keep{{Feed: Feed{Topic: "shop.public.p", Target: rule.Target{Schema: "public", Table: "p"}}, Age: "2 days", By: "at", Drop: "2 days"}},
			func(p TablePartition) { done[p.Deed]++ }))
		if e.Removed != step.rows || done[Detached] != step.detached || done[Dropped] != step.aside {
			t.Errorf("with a clock set by %s: %d rows, partitions %v; want %d, %d detached and %d dropped", step.set, e.Removed, done, step.rows, step.detached, step.aside)
		}
	}
	// What is done is noted as done when it was by the earlier clock, what is put aside by the later one. A clock that was ahead of both is forgotten.
	hostClock = func() time.Time { return time.Now().Add(-36 * time.Hour) }
	keep := Keep{Feed: Feed{Topic: "shop.public.p", Target: rule.Target{Schema: "public", Table: "p"}}, Age: "2 days", By: "at", Drop: "2 days"}
	nobody := func(TablePartition) {}
	must(s.DropPartitions(t.Context(), []Keep{keep}, nobody))
	_, err = s.Expire(t.Context(), keep, 0, func(int64) error { return nil })
	must(err)
	noted := func() (ran, aside time.Duration) {
		t.Helper()
		must(conn.QueryRow(t.Context(), `SELECT now() - ran_at, now() - detached_at FROM tributary.retention, tributary.detached WHERE partition_table = 'old'`).Scan(&ran, &aside))
		return ran.Round(time.Hour), aside.Round(time.Hour)
	}
	if ran, aside := noted(); ran != 36*time.Hour || aside != 0 {
		t.Errorf("retention ran %s ago, and a partition is aside for %s; want 36 hours and 0", ran, aside)
	}
	_, err = conn.Exec(t.Context(), `UPDATE tributary.detached SET detached_at = now() + interval '1 year' WHERE partition_table = 'old'`)
	must(err)
	must(s.DropPartitions(t.Context(), []Keep{keep}, nobody))
	if _, aside := noted(); aside != 0 {
		t.Errorf("a partition is aside for %s", aside)
	}
}

// TestClocksOfPartitionsAhead: there are partitions for the time of either clock, and none for what is in between.
func TestClocksOfPartitionsAhead(t *testing.T) {
	dsn := pgtest.Database(t, pgtest.Shared(t, 0))
	conn, err := pgx.Connect(t.Context(), dsn)
	if err == nil {
		defer conn.Close(t.Context()) //nolint:errcheck // the test is over
		_, err = conn.Exec(t.Context(), `CREATE TABLE public.p (at timestamptz) PARTITION BY RANGE (at)`)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{DSN: func() (string, error) { return dsn, nil }, Group: "warehouse", Instance: "x"}).Session()
	defer s.Close(t.Context())
	t.Cleanup(func() { hostClock = time.Now })
	now := time.Now()
	for _, years := range []int{0, -20, 20} {
		of := now.AddDate(years, 0, 0)
		hostClock = func() time.Time { return of }
		var made []string
		if err := s.PlanAhead(t.Context(), []Keep{{Feed: Feed{Topic: "shop.public.p", Target: rule.Target{Schema: "public", Table: "p"}}, Age: "2 days", By: "at", Partition: "day"}},
			func(p TablePartition) { made = append(made, p.Name.Table) }); err != nil {
			t.Fatal(err)
		}
		want := map[string]bool{}
		for day := -2; day <= 7; day++ {
			want[now.UTC().AddDate(0, 0, day).Format("p_2006_01_02")], want[of.UTC().AddDate(0, 0, day).Format("p_2006_01_02")] = true, true
		}
		if is := slices.Sorted(maps.Keys(want)); !slices.Equal(made, is) {
			t.Errorf("with a clock set by %d years: %q, want %q", years, made, is)
		}
	}
}
