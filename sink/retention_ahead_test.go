package sink_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// months gives the names of the partitions that a table has by month: from that of the oldest rows that are kept to three months
// ahead. It counts from the first of the month, as three months after 29 November is the end of February and Go has 1 March.
func months(table string, now time.Time, days int) (out []string) {
	first := func(t time.Time) time.Time { return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC) }
	now = now.UTC()
	last := first(now).AddDate(0, 3, 0)
	for at := first(now.AddDate(0, 0, -days)); !at.After(last); at = at.AddDate(0, 1, 0) {
		out = append(out, table+at.Format("_2006_01"))
	}
	return out
}

// TestMonths: the months that tests want are those of Postgres on every day of the year, a leap year or not.
func TestMonths(t *testing.T) {
	w := newWorld(t)
	for _, row := range w.query(`SELECT day, (SELECT string_agg(to_char(m, '_YYYY_MM'), ' ' ORDER BY m) FROM generate_series(date_trunc('month', day - interval '90 days'),
		date_trunc('month', day + interval '3 months'), '1 month') m) FROM generate_series(timestamp '2027-01-01 23:59', '2028-12-31 23:59', '1 day') day`) {
		day, want, _ := strings.Cut(row, "|")
		at, err := time.Parse(time.DateTime, day)
		if got := strings.Join(months("", at, 90), " "); err != nil || got != want {
			t.Errorf("on %s: %s, want %s; %v", day, got, want, err)
		}
	}
}

// today is the time now, in UTC. A test that names partitions by it is not begun in the last moments of a day.
func today(t *testing.T) time.Time {
	t.Helper()
	now := time.Now().UTC()
	if now.Add(pgtest.Patience).Day() != now.Day() {
		t.Skip("the day ends while this runs")
	}
	return now
}

const partitions = `SELECT relid::regclass FROM pg_partition_tree('fin.tx') WHERE isleaf ORDER BY relid::regclass::text COLLATE "C"`

// TestPartitionsAhead: a target that is created gets its partitions, from those for the oldest rows that are kept to some
// ahead. Rows are found in them by the source's key, move when their time changes, and are in the default partition where it
// is null, or beyond. What is missing later is made, with the rows that are its own.
func TestPartitionsAhead(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.tx", To: "fin.tx", SID: "tenant", Keep: "90 days", By: "at", Drop: "1 day", Partition: "month"},
		rule.Table{From: "public.key", To: "fin.key", By: "day", Partition: "year"},
		rule.Table{From: "public.log", To: "fin.log", Mode: "log", Partition: "day"})
	w.cfg.Retention.Every = time.Hour
	a, b := w.source("a"), w.source("b")
	key, log := relation("key", "id integer key", "day date key", "note text"), relation("log", "id integer key")
	now := today(t)
	s := w.start(w.cfg)
	monthsOf := func(days int) string { return "fin.tx" + now.AddDate(0, 0, -days).Format("_2006_01") }
	for _, src := range []*source{a, b} {
		src.tx(ins(txRelation, 1, ago(60), "one"), ins(txRelation, 2, ago(60), "two"), ins(txRelation, 3, ago(60), "three"), ins(txRelation, 4, nil, "null"),
			ins(txRelation, 5, ago(-400), "ahead"), ins(txRelation, 6, ago(30), "six"))
		w.complete(src)
	}
	a.tx(upd(txRelation, 1, ago(1), keep), upd(txRelation, 6, ago(30), "changed"), del(txRelation, 2), upd(txRelation, 4, ago(1), "null no more"))
	a.tx(move(txRelation, []any{3}, 30, ago(1), keep)...)
	a.tx(ins(key, 1, ago(0)[:10], "x"), ins(log, 1))
	a.tx(upd(key, 1, ago(0)[:10], "y"), upd(log, 1))
	w.complete(a)
	w.rows(`SELECT tenant, id, tableoid::regclass, note FROM fin.tx ORDER BY 1, 2`,
		"a|1|"+monthsOf(1)+"|one", "a|4|"+monthsOf(1)+"|null no more", "a|5|fin.tx_default|ahead", "a|6|"+monthsOf(30)+"|changed", "a|30|"+monthsOf(1)+"|three",
		"b|1|"+monthsOf(60)+"|one", "b|2|"+monthsOf(60)+"|two", "b|3|"+monthsOf(60)+"|three", "b|4|fin.tx_default|null", "b|5|fin.tx_default|ahead", "b|6|"+monthsOf(30)+"|six")
	all := months("fin.tx", now, 90)
	w.rows(partitions, append(slices.Clone(all), "fin.tx_default")...)
	w.rows(`SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'fin.tx'::regclass`, "CREATE INDEX tx_tenant_id_idx ON ONLY fin.tx USING btree (tenant, id)")
	w.rows(`SELECT conname, note, k.tableoid::regclass FROM fin.key k, pg_constraint WHERE conrelid = 'fin.key'::regclass AND contype = 'p'`, "key_pkey|y|fin.key"+now.Format("_2006"))
	w.rows(`SELECT tableoid::regclass, change_op FROM fin.log ORDER BY change_lsn`, "fin.log"+now.Format("_2006_01_02")+"|c", "fin.log"+now.Format("_2006_01_02")+"|u")
	w.rows(`SELECT count(*) FROM tributary.quarantine`, "0")
	s.stop()

	// Some time later: as if the last months had not been made, and rows of one were in the default partition.
	last := all[len(all)-1]
	w.exec(`DROP TABLE ` + last + `, ` + all[len(all)-2])
	w.exec(`INSERT INTO fin.tx VALUES ('a', 70, now() + interval '3 months', 'waits')`)
	o := w.operator()
	var d did
	want := []string{all[len(all)-2] + " made with 0", last + " made with 1"}
	d.want(t, o.RetentionPlan(t.Context(), d.plan, d.partition), want...)
	d.want(t, o.RunRetention(t.Context(), 1_000_000, d.rows, d.partition), want...)
	w.rows(`SELECT tableoid::regclass, note FROM fin.tx WHERE id = 70`, last+"|waits")
	d.want(t, o.RunRetention(t.Context(), 1_000_000, d.rows, d.partition))

	// By the sinks themselves; and rules that do not agree are told.
	w.exec(`DROP TABLE ` + last)
	w.start(w.cfg)
	w.rows(`SELECT count(*) FROM pg_partition_tree('fin.tx') WHERE isleaf`, fmt.Sprint(len(all)+1))
	w.cfg.Tables = append([]rule.Table{w.cfg.Tables[0]}, w.cfg.Tables...)
	w.cfg.Tables[0].Source, w.cfg.Tables[0].Partition = "a", "week"
	if err := w.operator().RetentionPlan(t.Context(), d.plan, d.partition); err == nil || !strings.Contains(err.Error(), `its rules say a week of "at" and a month of "at"`) {
		t.Errorf("got %v", err)
	}
}

// TestPartitionsAheadOfOthers: a target that is there keeps the partitions that it has, and gets those for the time between
// and behind them; without a default partition, before its first row.
func TestPartitionsAheadOfOthers(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.tx", To: "fin.tx", SID: "tenant", Keep: "90 days", By: "at", Partition: "month"})
	now := today(t)
	w.partitioned()
	w.exec(`DROP TABLE fin.tx_rest`)
	a := w.source("a")
	s := w.start(w.cfg)
	a.tx(ins(txRelation, 1, ago(60), "one"), ins(txRelation, 2, ago(-20), "two"))
	w.complete(a)
	cut := "fin.tx" + now.AddDate(0, 0, 1).Format("_2006_01_02") // what is left of the month
	w.rows(`SELECT tableoid::regclass::text LIKE '`+cut+`%' OR tableoid::regclass::text = 'fin.tx`+now.AddDate(0, 0, 20).Format("_2006_01")+`' FROM fin.tx WHERE id = 2`, "t")
	w.rows(`SELECT tableoid::regclass FROM fin.tx WHERE id = 1`, "fin.tx_edge")

	// What no partition takes holds the table, and what to do is said.
	a.tx(ins(txRelation, 3, ago(-400), "far"))
	w.rows(`SELECT code, hint LIKE 'no partition takes the row: %' FROM tributary.quarantine`, "constraint-violation|t")
	s.stop()

	// Too much to be moved at once.
	w.exec(`CREATE TABLE fin.tx_rest PARTITION OF fin.tx DEFAULT`)
	last := months("fin.tx", now, 0)[3]
	w.exec(`DROP TABLE ` + last + `; INSERT INTO fin.tx SELECT 'a', i, now() + interval '3 months' FROM generate_series(1, 100001) i`)
	err := w.operator().RunRetention(t.Context(), 1_000_000, func(warehouse.Keep, int64) {}, noPartition(t))
	if err == nil || !strings.Contains(err.Error(), `the default partition has 100001 rows of "`+last+`", and no more than 100000 are moved at once`) {
		t.Errorf("got %v", err)
	}
	w.exec(`TRUNCATE fin.tx_rest`)
	var d did
	d.want(t, w.operator().RunRetention(t.Context(), 1_000_000, d.rows, d.partition), last+" made with 0")
}
