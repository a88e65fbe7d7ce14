package sink

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/rule"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

func idle(t testing.TB, perTable bool) *Sink {
	t.Helper()
	cfg := Default()
	cfg.Warehouse.DSN, cfg.Registry.URL, cfg.Kafka.Brokers = "postgres://nobody@127.0.0.1:1/nothing", "http://127.0.0.1:1", []string{"127.0.0.1:1"}
	cfg.Metrics.PerTable = perTable
	cfg.Tables = []rule.Table{
		{From: "public.orders", Freshness: 5 * time.Second, Filter: "id > 1", Ignore: []string{"delete"}, Keep: "90 days", By: "at"},
		{From: "public.*"},
	}
	s, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.consumer.Close)
	return s
}

// Every series is there before anything has happened, those of a table as soon as its topic is known: an empty graph is not
// the same as no error.
func TestMetricsFromTheStart(t *testing.T) {
	s := idle(t, true)
	s.table("shop.public.orders")
	problems, err := testutil.GatherAndLint(s.server.Registry())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := s.server.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]int{}
	for _, f := range families {
		series[strings.TrimPrefix(f.GetName(), namespace+"_")] = len(f.GetMetric())
	}
	for name, want := range map[string]int{
		"info": 1, "state": 11, "assigned_partitions": 1, "rebalances_total": 1, "buffer_bytes": 1, "buffer_limit_bytes": 1, "warehouse_up": 1,
		"changes_total": 5 + 4 + 1 + 1 + 1, "rows_total": 3, "commits_total": 4, "apply_duration_seconds": 1, "batch_rows": 1, "batch_size_bytes": 1,
		"end_to_end_latency_seconds": 1, "warehouse_retries_total": 8, "rule_errors_total": 1, "schema_changes_total": 2, "parked_rows_total": 6,
		"expired_rows_total": 1,
	} {
		if series[name] != want {
			t.Errorf("%s has %d series, want %d", name, series[name], want)
		}
	}
	if series["errors_total"] < 40 {
		t.Errorf("errors_total has %d series, want one for each code", series["errors_total"])
	}
}

// Without per_table the tables of a source are one series.
func TestMetricsOfTablesTogether(t *testing.T) {
	s := idle(t, false)
	for _, topic := range []string{"shop.public.a", "shop.public.b"} {
		s.table(topic).duplicate()
	}
	want := `
# HELP tributary_sink_rule_errors_total Records for which an expression of a rule could not be computed.
# TYPE tributary_sink_rule_errors_total counter
tributary_sink_rule_errors_total{group="warehouse",source="shop",table=""} 0
`
	if err := testutil.GatherAndCompare(s.server.Registry(), strings.NewReader(want), "tributary_sink_rule_errors_total"); err != nil {
		t.Error(err)
	}
	if got := testutil.ToFloat64(s.metrics.changes.WithLabelValues("shop", "", anyOp, outcomeDuplicate)); got != 2 {
		t.Errorf("%v duplicates, want 2", got)
	}
}

// Whom the sink waits for is told for as long as that has failed, however often it was tried; of several the one that has longest.
func TestWaitsInMetrics(t *testing.T) {
	s := idle(t, true)
	stage, begin := s.stages.Stage("apply", waitWarehouse), time.Now()
	since := func() (told string) {
		families, err := s.server.Registry().Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == namespace+"_waiting_since_timestamp_seconds" && m.GetGauge().GetValue() > 0 {
					told += fmt.Sprintf("%s %.0f;", m.GetLabel()[1].GetValue(), begin.Sub(time.UnixMilli(int64(1000*m.GetGauge().GetValue()))).Seconds())
				}
			}
		}
		return told
	}
	for _, try := range []struct {
		err  *trouble.Error
		want string
	}{
		{nil, ""},
		{&trouble.Error{Code: trouble.WarehouseUnreachable, Op: "connect to", Subject: "it"}, "the warehouse 60;"},
		{&trouble.Error{Code: trouble.LockWait, Op: "write", Subject: "it"}, "a lock 60;"},
		{&trouble.Error{Code: trouble.WarehouseFull, Op: "write", Subject: "it"}, "the warehouse 60;"},
	} {
		if clear(s.waiting); try.err != nil {
			s.waiting[waiter{what: "kafka"}] = &wait{since: time.Now(), tries: 1, err: try.err}
			s.waiting[waiter{what: "warehouse"}] = &wait{since: begin.Add(-time.Minute), tries: 3, err: try.err}
			stage.Wait(waitWarehouse)() // and is tried again
		}
		if got := since(); got != try.want {
			t.Errorf("%v: it waits for %q, want %q", try.err, got, try.want)
		}
	}
}

// A rule says for its tables how far behind is well; the others take what stands beside the rules.
func TestFreshnessOfRules(t *testing.T) {
	s := idle(t, true)
	for topic, want := range map[string]float64{"shop.public.orders": 5, "shop.public.items": 60} {
		st, ok := s.tableStatus(topic, nil, nil, warehouse.TableProgress{}, false, &Status{})
		if !ok || st.FreshnessSeconds != want {
			t.Errorf("%s: %v, want %v", topic, st.FreshnessSeconds, want)
		}
	}
	st := Status{FreshnessSeconds: 60, Tables: []TableStatus{
		{Table: "slow", BehindSeconds: new(50.0), FreshnessSeconds: 60},
		{Table: "late", BehindSeconds: new(10.0), FreshnessSeconds: 5},
		{Table: "well"},
	}}
	if worst := st.worst(); worst == nil || worst.Table != "late" {
		t.Errorf("worst is %+v, want the one that is late by its own measure", worst)
	}
	if tile := st.tiles()[0]; tile.Value != "2.0 × late" {
		t.Errorf("the tile says %q", tile.Value)
	}
	var cfg Config
	err := config.Decode("sink.yaml", []byte(`
warehouse: {dsn: "x"}
kafka: {brokers: [a:1]}
registry: {url: "http://a"}
tables: [{from: "public.a", freshness: -1s}]
`), &cfg)
	if err == nil || !strings.Contains(err.Error(), "freshness") {
		t.Errorf("a negative freshness: %v", err)
	}
}

// What waits for its turn just after a start was said to fall behind.
func TestFallingBehindTakesAMoment(t *testing.T) {
	const topic = "shop.public.items"
	s := idle(t, true)
	views := []consume.View{{Topic: topic, Count: 1, Next: 10, End: 20, Oldest: time.Now().Add(-2 * time.Minute)}}
	for since, want := range map[time.Duration]string{time.Second: service.StateCatchingUp, 10 * time.Second: service.StateBehind} {
		s.table(topic).knownAt = time.Now().Add(-since)
		if st, _ := s.tableStatus(topic, views, nil, warehouse.TableProgress{}, false, &Status{}); st.State != want {
			t.Errorf("%s after something waits: %s, want %s", since, st.State, want)
		}
	}
}
