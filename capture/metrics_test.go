package capture

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema"
)

// Every series of what is counted, or decided here, is there before anything has happened: an empty graph is not the same as no error.
// What nobody has looked at has none: 0 would say that it is well.
func TestMetricsFromTheStart(t *testing.T) {
	c := unconnected(t)
	c.meter.table("public.orders")
	series := seriesOf(t, c)
	for name, want := range map[string]int{
		"info": 1, "state": 10, "active": 1, "source_wal_bytes_total": 1, "confirmed_wal_bytes_total": 1, "wal_budget_bytes": 1, "by_sql": 1,
		"changes_total": 5, "skipped_changes_total": 3, "transactions_total": 1, "published_bytes_total": 1,
		"kafka_transactions_total": 2, "kafka_transaction_duration_seconds": 1, "kafka_transaction_size_bytes": 1, "heartbeat_latency_seconds": 1,
		"snapshot_rows_total": 1, "snapshot_chunks_total": 2,
		"snapshot_chunk_duration_seconds": 1, "stage_busy_seconds_total": 4, "waiting_since_timestamp_seconds": 9, "reconnects_total": 3,
		"schema_changes_total": 7, "fenced_total": 1,
	} {
		if series[name] != want {
			t.Errorf("%s has %d series, want %d", name, series[name], want)
		}
	}
	for name := range lookedAt {
		if series[name] != 0 {
			t.Errorf("%s is told, which nobody knows", name)
		}
	}
	if series["errors_total"] < 40 {
		t.Errorf("errors_total has %d series, want one for each code", series["errors_total"])
	}
}

// lookedAt are series of what a session has seen of itself and its source, and how many there are then.
var lookedAt = map[string]int{
	"lag_seconds": 1, "lag_bytes": 1, "caught_up_in_seconds": 1, "wal_retained_bytes": 1, "wal_safe_bytes": 1, "slot_active": 1, "slot_status": 5,
	"oldest_transaction_seconds": 1, "last_commit_timestamp_seconds": 1, "snapshot_tables": 4, "snapshot_remaining_seconds": 1, "held_tables": 1,
	"snapshot_expected_rows": 1, "snapshot_progress_ratio": 1,
}

// Once it was looked at, it is told; but not how much of a snapshot is done of which nobody knows how large it is, or which does not go on.
func TestMetricsOfWhatIsKnown(t *testing.T) {
	c := unconnected(t)
	now := time.Now()
	c.status.Store(&Status{Source: "shop", SeenAt: now, PublishedTime: now, Tables: []TableStatus{
		{Table: "public.known", State: "snapshotting", ExpectedRows: new(int64(10)), SnapshotRows: 5},
		{Table: "public.unknown", State: "snapshotting", SnapshotRows: 5},
		{Table: "public.failed", State: "held", ExpectedRows: new(int64(5)), SnapshotRows: 5, Snapshot: &TableSnapshot{State: readFailed}},
	}})
	c.budget.observe(now, &catalog.Slot{WALStatus: "reserved"}, nil, reason{})
	series := seriesOf(t, c)
	for name, want := range lookedAt {
		if series[name] != want {
			t.Errorf("%s has %d series, want %d", name, series[name], want)
		}
	}
	c.budget.observe(now, nil, nil, reason{}) // the slot is gone: nothing is kept for it
	series = seriesOf(t, c)
	if series["wal_retained_bytes"] != 0 || series["slot_status"] != 5 || series["slot_active"] != 1 {
		t.Errorf("without a slot there are %v", series)
	}
}

// seriesOf gives how many series c tells of each metric, all of them well-formed.
func seriesOf(t *testing.T, c *Capture) map[string]int {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c.Collectors()...)
	problems, err := testutil.GatherAndLint(registry)
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := registry.Gather()
	must(t, err)
	series := map[string]int{}
	for _, f := range families {
		series[strings.TrimPrefix(f.GetName(), namespace+"_")] = len(f.GetMetric())
	}
	return series
}

// unconnected gives a capture of which nobody is reached.
func unconnected(t *testing.T) *Capture {
	t.Helper()
	var cfg Config
	must(t, config.Decode("test.yaml", []byte(`
source: {name: shop, dsn: "postgres://nobody@127.0.0.1:1/nothing"}
kafka: {brokers: ["127.0.0.1:1"]}
registry: {url: "http://127.0.0.1:1"}
`), &cfg))
	c, err := New(cfg, Options{}, slog.New(slog.DiscardHandler))
	must(t, err)
	return c
}

// Whom capture waits for is told for as long as that has failed, however often it was tried.
func TestWaitsInMetrics(t *testing.T) {
	for code, want := range map[trouble.Code]string{
		trouble.SourceUnreachable: waitSource, trouble.KafkaUnreachable: waitKafka, trouble.RegistryUnreachable: waitRegistry, trouble.Internal: waitRetry,
		trouble.SlotInUse: waitSlot,
	} {
		synctest.Test(t, func(t *testing.T) {
			c := unconnected(t)
			if on, _ := c.waits(); on != "" {
				t.Errorf("before anything was tried it waits for %q", on)
			}
			began := time.Now()
			for range 3 {
				c.note(&trouble.Error{Code: code, Op: "try", Subject: "it", Cause: errors.New("no answer")})
				done := c.stage.Wait(waitRetry)
				time.Sleep(10 * time.Second)
				done()
			}
			if on, since := c.waits(); on != want || !since.Equal(began) {
				t.Errorf("%s: waits for %q since %s, want %q since %s", code, on, since, want, began)
			}
			c.setStopped(true)
			if on, _ := c.waits(); on != "" {
				t.Errorf("%s: it has stopped, and waits for %q", code, on)
			}
		})
	}
}

// Without per_table the tables of a source are one series.
func TestMetricsOfTablesTogether(t *testing.T) {
	m := newMeter("shop", false)
	for _, name := range []string{"public.a", "public.b"} {
		m.table(name).snapshot(5)
	}
	want := `
# HELP tributary_capture_snapshot_rows_total Rows of snapshots published.
# TYPE tributary_capture_snapshot_rows_total counter
tributary_capture_snapshot_rows_total{source="shop",table=""} 10
`
	must(t, testutil.CollectAndCompare(m.rows, strings.NewReader(want)))
}

func TestSchemaKind(t *testing.T) {
	column := func(att int16, name, typ string) schema.Column {
		return schema.Column{AttNum: att, Name: name, Type: schema.Type{Name: typ}}
	}
	rel := func(name string, key []int, columns ...schema.Column) *schema.Relation {
		return &schema.Relation{Schema: "public", Name: name, Key: key, Columns: columns}
	}
	id, a := column(1, "id", "integer"), column(2, "a", "text")
	before := rel("t", []int{0}, id, a)
	for want, now := range map[string]*schema.Relation{
		"column_added":   rel("t", []int{0}, id, a, column(3, "b", "text")),
		"column_dropped": rel("t", []int{0}, id),
		"column_renamed": rel("t", []int{0}, id, column(2, "b", "text")),
		"column_type":    rel("t", []int{0}, id, column(2, "a", "bytea")),
		"key":            rel("t", []int{0, 1}, id, a),
		"renamed":        rel("u", []int{0}, id, a),
		"other":          rel("t", []int{0}, id, a),
	} {
		if got := schemaKind(before, now); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
