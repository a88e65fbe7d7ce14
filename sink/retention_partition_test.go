package sink_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// partitioned makes fin.tx, by ranges of days before now: 200 to 100, 100 to 50, 50 to tomorrow, and the rest.
func (w *world) partitioned() {
	w.exec(`CREATE SCHEMA fin; CREATE TABLE fin.tx (tenant text NOT NULL, id integer NOT NULL, at timestamptz, note text) PARTITION BY RANGE (at);
		CREATE INDEX ON fin.tx (tenant, id); CREATE TABLE fin.tx_rest PARTITION OF fin.tx DEFAULT`)
	for name, days := range map[string][2]int{"old": {200, 100}, "edge": {100, 50}, "now": {50, -1}} {
		w.exec(fmt.Sprintf(`CREATE TABLE fin.tx_%s PARTITION OF fin.tx FOR VALUES FROM ('%s') TO ('%s')`, name, ago(days[0]), ago(days[1])))
	}
}

// retained fills fin.tx from two sources, by rules without keep, and gives an operator by rules with it.
func (w *world) retained(a, b *source, rows map[*source][]event, drop rule.Age) *sink.Operator {
	w.t.Helper()
	w.cfg.Tables = []rule.Table{{From: "public.tx", To: "fin.tx", SID: "tenant", Create: true}}
	s := w.start(w.cfg)
	for _, src := range []*source{a, b} {
		src.tx(rows[src]...)
		w.complete(src)
	}
	s.stop()
	w.cfg.Tables = []rule.Table{
		{Source: "a", From: "public.tx", To: "fin.tx", SID: "tenant", Create: true, Keep: "30 days", By: "at", Drop: drop},
		{From: "public.tx", To: "fin.tx", SID: "tenant", Create: true, Keep: "60 days", By: "at", Drop: drop},
	}
	return w.operator()
}

// did is what a run or a plan told, in words.
type did []string

func (d *did) partition(p warehouse.TablePartition) {
	*d = append(*d, fmt.Sprintf("%s %s with %d", p.Name, p.Deed, p.Rows))
}

func (d *did) rows(k warehouse.Keep, n int64) {
	if n > 0 {
		*d = append(*d, fmt.Sprintf("%s %d", k.Topic, n))
	}
}

func (d *did) plan(k warehouse.Keep, e warehouse.Expired) { d.rows(k, e.Removed) }

// want compares, and begins anew.
func (d *did) want(t *testing.T, err error, want ...string) {
	t.Helper()
	if err != nil || !slices.Equal(*d, want) {
		t.Errorf("got %q, want %q: %v", *d, want, err)
	}
	*d = nil
}

var txRelation = relation("tx", "id integer key", "at timestamp with time zone", "note text")

// TestPartitionedByAge: rows of a target whose primary key has the time in it are found by the source's key alone, also when
// the time changes.
func TestPartitionedByAge(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.tx", To: "fin.tx", SID: "tenant", Keep: "300 days", By: "at", Drop: "1 day"})
	w.partitioned()
	w.exec(`ALTER TABLE fin.tx ADD PRIMARY KEY (tenant, id, at)`)
	a := w.source("a")
	w.start(w.cfg)
	a.tx(ins(txRelation, 1, ago(60), "one"), ins(txRelation, 2, ago(60), "two"), ins(txRelation, 3, ago(60), "three"))
	w.complete(a)
	a.tx(upd(txRelation, 1, ago(1), keep), del(txRelation, 2))
	a.tx(move(txRelation, []any{3}, 4, ago(150), keep)...)
	w.complete(a)
	w.rows(`SELECT tableoid::regclass, id, note FROM fin.tx ORDER BY 2`, "fin.tx_now|1|one", "fin.tx_old|4|three")
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
}

// TestRetentionOfPartitions: without drop, rows are removed leaf by leaf, wherever they are, and all partitions stay.
func TestRetentionOfPartitions(t *testing.T) {
	w := newWorld(t)
	w.partitioned()
	w.exec(`CREATE TABLE fin.tx_before PARTITION OF fin.tx FOR VALUES FROM (MINVALUE) TO ('` + ago(300) + `') PARTITION BY LIST (tenant);
		CREATE TABLE fin.tx_before_a PARTITION OF fin.tx_before FOR VALUES IN ('a'); CREATE TABLE fin.tx_before_b PARTITION OF fin.tx_before FOR VALUES IN ('b')`)
	a, b := w.source("a"), w.source("b")
	var events []event
	for i, days := range []int{400, 250, 150, 99, 51, 45, 29, 1} {
		events = append(events, ins(txRelation, i, ago(days), "v"))
	}
	events = append(events, ins(txRelation, 100, nil, "v"))
	events = append(events, many(2500, func(i int) event { return ins(txRelation, 1000+i, ago(101+i%90), "v") })...)
	o := w.retained(a, b, map[*source][]event{a: events, b: events}, "")
	var d did
	d.want(t, o.RetentionPlan(t.Context(), d.plan, d.partition), "a.public.tx 2506", "b.public.tx 2504")
	d.want(t, o.RunRetention(t.Context(), 1_000_000, d.rows, d.partition), "a.public.tx 2506", "b.public.tx 2504")
	w.rows(`SELECT tenant, string_agg(id::text, ' ' ORDER BY id) FROM fin.tx GROUP BY 1 ORDER BY 1`, "a|6 7 100", "b|4 5 6 7 100")
	w.rows(`SELECT count(*) FROM pg_partition_tree('fin.tx') WHERE isleaf`, "6")
}

// TestRetentionDropsPartitions: a partition goes when its last row is too old for the rule of every source, is dropped
// some time later, and not if it holds what may not go. Rows that are in no such partition go one by one.
func TestRetentionDropsPartitions(t *testing.T) {
	w := newWorld(t)
	w.partitioned()
	a, b := w.source("a"), w.source("b")
	o := w.retained(a, b, map[*source][]event{
		a: {ins(txRelation, 1, ago(150), "v"), ins(txRelation, 2, ago(70), "v"), ins(txRelation, 3, ago(10), "v"), ins(txRelation, 4, nil, "v"), ins(txRelation, 5, ago(300), "v")},
		b: {ins(txRelation, 1, ago(150), "v"), ins(txRelation, 2, ago(55), "v")},
	}, "1 hour")
	var d did
	plan := func(o *sink.Operator) error { return o.RetentionPlan(t.Context(), d.plan, d.partition) }
	run := func(o *sink.Operator) error { return o.RunRetention(t.Context(), 1_000_000, d.rows, d.partition) }
	refused := func(o *sink.Operator, want string) {
		t.Helper()
		if err := run(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		d.want(t, nil)
		w.rows(`SELECT count(*) FROM fin.tx WHERE at < now() - interval '100 days'`, "3")
	}

	// What nobody lets go: a row of somebody who is no source, and those of a source whose rule keeps partitions.
	w.exec(`INSERT INTO fin.tx_old VALUES ('by hand', 1, '` + ago(150) + `')`)
	if err := run(o); err == nil || !strings.Contains(err.Error(), `"fin.tx_old" holds 1 rows that no rule with keep lets go`) {
		t.Errorf("got %v", err)
	}
	w.exec(`DELETE FROM fin.tx WHERE tenant = 'by hand'`)
	strict := w.cfg.Tables
	w.cfg.Tables = slices.Clone(strict)
	w.cfg.Tables[1].Drop = ""
	refused(w.operator(), `topic "b.public.tx" writes it as well`)
	w.cfg.Tables = strict

	d.want(t, plan(o), "fin.tx_old detached with 2", "a.public.tx 1")
	d.want(t, run(o), "fin.tx_old detached with 2", "a.public.tx 1")
	left := `SELECT tenant, string_agg(id::text, ' ' ORDER BY id) FROM fin.tx GROUP BY 1 ORDER BY 1`
	w.rows(left, "a|2 3 4", "b|2")                                                       // a's row of 70 days waits for the partition
	counted := `SELECT topic, removed, removed_ever FROM tributary.retention ORDER BY 1` // those that went with the partition too
	w.rows(counted, "a.public.tx|2|2", "b.public.tx|1|1")
	d.want(t, run(o))
	w.rows(counted, "a.public.tx|0|2", "b.public.tx|0|1")
	w.rows(`SELECT tenant, id FROM fin.tx_old ORDER BY 1`, "a|1", "b|1")

	// Whoever attaches it again has it in use: it is detached anew, and has all its time.
	w.exec(`UPDATE tributary.detached SET detached_at = detached_at - interval '1 hour'`)
	d.want(t, plan(o), "fin.tx_old dropped with 2")
	w.exec(`DO $do$ BEGIN EXECUTE 'ALTER TABLE fin.tx ATTACH PARTITION fin.tx_old ' || (SELECT bounds FROM tributary.detached); END $do$`)
	d.want(t, run(o), "fin.tx_old detached with 2")

	// Late changes of rows that are gone with it, while sinks do the rest by themselves: one writes the row, which goes
	// again, the other is left out. A row that is too young for what became of its partition keeps the table.
	w.exec(`INSERT INTO fin.tx_old VALUES ('a', 9, '` + ago(1) + `'); UPDATE tributary.detached SET detached_at = detached_at - interval '1 hour'`)
	if err := run(o); err == nil || !strings.Contains(err.Error(), `"fin.tx_old" holds 1 rows`) {
		t.Errorf("got %v", err)
	}
	w.exec(`DELETE FROM fin.tx_old WHERE id = 9`)
	w.cfg.Retention = sink.Retention{Every: 100 * time.Millisecond, Rate: 1_000_000}
	s := w.start(w.cfg)
	a.tx(upd(txRelation, 1, ago(150), "late"), upd(txRelation, 2, ago(70), "late"), upd(txRelation, 5, ago(300), keep))
	w.complete(a)
	w.rows(`SELECT to_regclass('fin.tx_old')`, "∅")
	w.rows(`SELECT count(*) FROM tributary.detached`, "0")
	w.rows(`SELECT id, note FROM fin.tx WHERE tenant = 'a' ORDER BY 1`, "2|late", "3|v", "4|v")
	w.rows(`SELECT removed_ever FROM tributary.retention WHERE topic = 'a.public.tx'`, "4") // 5, 1, 1 when it was attached again, and the late one
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")

	// The metrics of the sink: rows of both sources that go with a partition count with the one that went by itself.
	w.eventually(1.0, func() any { return told(t, s, "expired_rows_total") })
	w.exec(fmt.Sprintf(`CREATE TABLE fin.tx_again PARTITION OF fin.tx FOR VALUES FROM ('%s') TO ('%s');
		INSERT INTO fin.tx_again VALUES ('a', 20, '%[3]s'), ('a', 21, '%[3]s'), ('b', 20, '%[3]s')`, ago(190), ago(110), ago(150)))
	w.eventually(4.0, func() any { return told(t, s, "expired_rows_total") })
	w.eventually(true, func() any { // 60 days, of the two rules the longer
		age := time.Since(time.Unix(int64(told(t, s, "retention_cutoff_timestamp_seconds")), 0)).Hours() / 24
		return age > 59.9 && age < 60.1
	})
}

// TestPartitionsOfRemovedTenants: of a tenant that is removed no row is left, in no partition that is kept aside, either. What is empty by that goes also where
// nobody writes the target any more; what has rows stays.
func TestPartitionsOfRemovedTenants(t *testing.T) {
	w := newWorld(t)
	w.partitioned()
	w.exec(`CREATE TABLE fin.tx_before PARTITION OF fin.tx FOR VALUES FROM (MINVALUE) TO ('` + ago(300) + `') PARTITION BY LIST (tenant);
		CREATE TABLE fin.tx_before_a PARTITION OF fin.tx_before FOR VALUES IN ('a'); CREATE TABLE fin.tx_before_b PARTITION OF fin.tx_before FOR VALUES IN ('b')`)
	a, b := w.source("a"), w.source("b")
	rows := []event{ins(txRelation, 1, ago(150), "v"), ins(txRelation, 2, ago(400), "v"), ins(txRelation, 3, ago(1), "v")}
	o := w.retained(a, b, map[*source][]event{a: rows, b: rows}, "1 hour")
	var d did
	run := func() error { return o.RunRetention(t.Context(), 1_000_000, d.rows, d.partition) }
	d.want(t, run(), "fin.tx_old detached with 2", "fin.tx_before detached with 2")
	remove := func(source string) {
		t.Helper()
		if n, err := o.RemoveTenant(t.Context(), w.tenantPlan(o, source), "", untold); n != 3 || err != nil {
			t.Errorf("%d rows are removed: %v", n, err)
		}
	}
	const aside = `SELECT 'old', tenant FROM fin.tx_old UNION ALL SELECT 'before', tenant FROM fin.tx_before ORDER BY 1`
	remove("a")
	w.rows(aside, "before|b", "old|b")
	d.want(t, run())
	w.exec(`UPDATE tributary.detached SET detached_at = detached_at - interval '2 hours' WHERE partition_table = 'tx_old'`)
	d.want(t, run(), "fin.tx_old dropped with 1")
	w.exec(`CREATE TABLE fin.tx_again PARTITION OF fin.tx FOR VALUES FROM ('` + ago(190) + `') TO ('` + ago(110) + `')`)
	d.want(t, run(), "fin.tx_again detached with 0")
	if n, err := o.RemoveTenant(t.Context(), w.tenantPlan(o, "b"), "", untold); n != 2 || err != nil {
		t.Errorf("%d rows are removed: %v", n, err)
	}
	w.exec(`INSERT INTO fin.tx_again VALUES ('by hand', 1, '` + ago(150) + `')`)
	d.want(t, o.RetentionPlan(t.Context(), d.plan, d.partition), "fin.tx_before dropped with 0")
	s := w.start(w.cfg) // which does it by itself
	w.rows(`SELECT partition_table FROM tributary.detached`, "tx_again")
	s.stop()
	d.want(t, run())
	w.rows(`SELECT to_regclass('fin.tx_before') IS NULL, (SELECT count(*) FROM fin.tx_again)`, "t|1")
	w.exec(`DROP TABLE fin.tx_again`)
	d.want(t, run())
	w.rows(`SELECT count(*) FROM tributary.detached`, "0")
}

// TestPartitionThatStaysIsToldOf: what keeps a partition from being detached is told until there is another run, once for all that write the target.
func TestPartitionThatStaysIsToldOf(t *testing.T) {
	w := newWorld(t)
	w.partitioned()
	a, b := w.source("a"), w.source("b")
	w.retained(a, b, map[*source][]event{a: {ins(txRelation, 1, ago(150), "v")}, b: {ins(txRelation, 1, ago(150), "v")}}, "1 hour")
	w.exec(`INSERT INTO fin.tx_old VALUES ('by hand', 1, '` + ago(150) + `')`)
	w.cfg.Retention = sink.Retention{Every: time.Hour, Rate: 1_000_000}
	s := w.start(w.cfg)
	s.stop()
	w.exec(`UPDATE tributary.retention SET ran_at = ran_at - interval '2 hours'`)
	round := s.Retainer()
	for range 3 {
		if err := fmt.Sprint(round(t.Context())); strings.Count(err, "rows that no rule with keep lets go") != 1 {
			t.Errorf("got %s", err)
		}
	}
	w.exec(`DELETE FROM fin.tx WHERE tenant = 'by hand'; UPDATE tributary.retention SET ran_at = ran_at - interval '2 hours'`)
	for range 2 {
		if err := round(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// told gives what the sink's metrics tell of fin.tx.
func told(t *testing.T, s *running, name string) float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.Collectors()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "tributary_sink_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			if slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == "target" && l.GetValue() == "fin.tx" }) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// TestRetentionDropsNoOthers: what is no range of the column that tells the age is left alone, and said.
func TestRetentionDropsNoOthers(t *testing.T) {
	w := newWorld(t)
	w.exec(`CREATE SCHEMA fin; CREATE TABLE fin.tx (tenant text NOT NULL, id integer NOT NULL, at timestamptz, note text) PARTITION BY LIST (tenant);
		CREATE TABLE fin.tx_rest PARTITION OF fin.tx DEFAULT`)
	a, b := w.source("a"), w.source("b")
	old := []event{ins(txRelation, 1, ago(150), "v")}
	o := w.retained(a, b, map[*source][]event{a: old, b: old}, "1 hour")
	var d did
	err := o.RunRetention(t.Context(), 1_000_000, d.rows, d.partition)
	if err == nil || !strings.Contains(err.Error(), `it is not partitioned by ranges of column "at" alone`) {
		t.Errorf("got %v", err)
	}
	d.want(t, nil)
	w.rows(`SELECT count(*) FROM fin.tx`, "2")
}

// TestRetentionWhileOthersRead: readers see every row that is not too old, each time, and do not wait for a partition
// that goes; one that reads for long keeps it, and others wait behind that for half a second at most.
func TestRetentionWhileOthersRead(t *testing.T) {
	w := newWorld(t)
	w.partitioned()
	a, b := w.source("a"), w.source("b")
	const fresh = 500
	events := append(many(3000, func(i int) event { return ins(txRelation, i, ago(101+i%90), "v") }),
		many(fresh, func(i int) event { return ins(txRelation, 10_000+i, ago(i%29), "v") })...)
	events = append(events, many(1500, func(i int) event { return ins(txRelation, 20_000+i, ago(300), "v") })...)
	o := w.retained(a, b, map[*source][]event{a: events, b: events}, "1 hour")

	type seen struct {
		reads   int
		longest time.Duration
		err     error
	}
	reading := func() (stop func() seen) {
		conn, ended, out := w.connect(w.dsn), make(chan struct{}), make(chan seen)
		go func() {
			var s seen
			for s.err == nil {
				select {
				case <-ended:
					out <- s
					return
				default:
				}
				var rows int
				began := time.Now()
				s.err = conn.QueryRow(w.t.Context(), `SELECT count(*) FROM fin.tx WHERE at > now() - interval '30 days'`).Scan(&rows)
				s.longest, s.reads = max(s.longest, time.Since(began)), s.reads+1
				if s.err == nil && rows != 2*fresh {
					s.err = fmt.Errorf("%d rows", rows)
				}
			}
			<-ended
			out <- s
		}()
		return func() seen { close(ended); return <-out }
	}
	var d did
	run := func() (seen, error) {
		stop := reading()
		err := o.RunRetention(t.Context(), 1_000_000, d.rows, d.partition)
		return stop(), err
	}
	long := w.connect(w.dsn)
	if _, err := long.Exec(t.Context(), `BEGIN; SELECT count(*) FROM fin.tx`); err != nil {
		t.Fatal(err)
	}
	s, err := run()
	if err == nil || !strings.Contains(err.Error(), "lock timeout") || s.err != nil || s.longest > 5*time.Second {
		t.Errorf("%+v, run: %v", s, err)
	}
	w.rows(`SELECT count(*) FROM fin.tx_old`, "6000")
	if _, err := long.Exec(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	s, err = run()
	d.want(t, err, "fin.tx_old detached with 6000", "a.public.tx 1500", "b.public.tx 1500")
	if s.err != nil || s.reads == 0 {
		t.Errorf("%+v", s)
	}
	t.Logf("%d reads while it ran, the longest of %s", s.reads, s.longest)
	w.rows(`SELECT count(*) FROM fin.tx`, fmt.Sprint(2*fresh))
}

// TestRetentionDropsWhatItLookedAt: a partition that somebody attaches again between the look for old ones and its drop stays.
func TestRetentionDropsWhatItLookedAt(t *testing.T) {
	w := newWorld(t)
	w.partitioned()
	w.exec(`CREATE TABLE fin.tx_older PARTITION OF fin.tx FOR VALUES FROM ('` + ago(900) + `') TO ('` + ago(800) + `')`)
	a, b := w.source("a"), w.source("b")
	o := w.retained(a, b, map[*source][]event{a: {ins(txRelation, 1, ago(150), "v"), ins(txRelation, 2, ago(850), "v")}, b: {ins(txRelation, 1, ago(150), "v")}}, "1 hour")
	var d did
	if err := o.RunRetention(t.Context(), 1_000_000, d.rows, d.partition); err != nil || len(d) != 2 {
		t.Fatalf("%q: %v", d, err)
	}
	w.exec(`UPDATE tributary.detached SET detached_at = detached_at - interval '1 day'`)
	other := "" // whichever is dropped last
	err := o.RunRetention(t.Context(), 1_000_000, func(warehouse.Keep, int64) {}, func(p warehouse.TablePartition) {
		if p.Deed != warehouse.Dropped || other != "" {
			return
		}
		other = map[string]string{"tx_old": "tx_older", "tx_older": "tx_old"}[p.Name.Table]
		w.exec(`DO $do$ BEGIN EXECUTE 'ALTER TABLE fin.tx ATTACH PARTITION fin.` + other + ` ' || (SELECT bounds FROM tributary.detached WHERE partition_table = '` + other + `'); END $do$`)
	})
	if err == nil || !strings.Contains(err.Error(), "is attached again, or another table") {
		t.Errorf("got %v", err)
	}
	w.rows(`SELECT relispartition FROM pg_class WHERE relname = '`+other+`'`, "t")
}

// TestTriggersElsewhere: a trigger of another table is no reason to look at a partitioned target again; one of a partition is, however deep.
func TestTriggersElsewhere(t *testing.T) {
	w := newWorld(t)
	w.exec(`CREATE TABLE public.t (id integer, v text) PARTITION BY RANGE (id); CREATE TABLE public.t_0 PARTITION OF public.t DEFAULT PARTITION BY RANGE (id);
		CREATE TABLE public.t_0_0 PARTITION OF public.t_0 DEFAULT; CREATE INDEX ON public.t_0_0 (id); CREATE TABLE public.elsewhere (id integer);
		CREATE FUNCTION public.pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	w.start(w.cfg)
	shop.tx(ins(r, 1, "x"))
	w.complete(shop)
	release := w.lock(`SELECT FROM tributary.feed FOR UPDATE`) // for which a look would wait
	trigger := func(table string) {
		w.exec(`CREATE TRIGGER pass BEFORE INSERT ON ` + table + ` FOR EACH ROW EXECUTE FUNCTION public.pass()`)
	}
	trigger("public.elsewhere")
	shop.tx(ins(r, 2, "x"))
	w.complete(shop)
	trigger("public.t_0_0")
	shop.tx(ins(r, 3, "x"))
	w.waiting("tributary.feed", 1)
	release()
	w.complete(shop)
	w.rows(`SELECT id FROM public.t ORDER BY 1`, "1", "2", "3")
}

// TestTriggerThatIsCommittedLate: a trigger of a partition that was made before another one, and is committed behind a look that has seen that, is a reason to
// look again.
func TestTriggerThatIsCommittedLate(t *testing.T) {
	w := newWorld(t)
	w.exec(`CREATE TABLE public.t (id integer, v text) PARTITION BY RANGE (id); CREATE TABLE public.t_0 PARTITION OF public.t FOR VALUES FROM (0) TO (10);
		CREATE TABLE public.t_1 PARTITION OF public.t FOR VALUES FROM (10) TO (20); CREATE TABLE public.elsewhere (id integer);
		CREATE FUNCTION public.pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`)
	shop := w.source("shop")
	r := relation("t", "id integer key", "v text")
	commit := w.lock(`CREATE TRIGGER pass BEFORE INSERT ON public.t_1 FOR EACH ROW EXECUTE FUNCTION public.pass()`)
	w.exec(`CREATE TRIGGER pass BEFORE INSERT ON public.elsewhere FOR EACH ROW EXECUTE FUNCTION public.pass()`)
	w.start(w.cfg)
	shop.tx(ins(r, 1, "x"))
	w.waiting(`"public"."t"`, 1)                               // the flush, which has looked
	release := w.lock(`SELECT FROM tributary.feed FOR UPDATE`) // for which a look waits
	commit()
	w.waiting("tributary.feed", 1)
	release()
	w.complete(shop)
	w.rows(`SELECT id FROM public.t`, "1")
}
