package capture

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// rig is a source database, a broker, a registry, and a capture between them.
type rig struct {
	t        *testing.T
	dsn      string
	conn     *pgx.Conn
	kafka    kafkatest.Cluster
	config   Config
	options  Options
	fences   int
	registry *registry.Client
	repeats  bool // topics may hold what a sink drops: positions that are not above those before
}

func newRig(t *testing.T, major int, kafka kafkatest.Cluster, ddl string) *rig {
	t.Helper()
	r := &rig{t: t, kafka: kafka}
	r.dsn = pgtest.Database(t, pgtest.Shared(t, major))
	var err error
	r.conn, err = pgx.Connect(t.Context(), r.dsn)
	must(t, err)
	t.Cleanup(func() { _ = r.conn.Close(context.Background()) })
	r.exec(ddl)
	name := strings.ToLower(strings.NewReplacer("/", "_", "#", "_", "-", "_").Replace(t.Name())) + fmt.Sprint(time.Now().UnixNano()%1e6)
	yaml := fmt.Sprintf(`
source: {name: %q, dsn: %q, refresh: 200ms, heartbeat: 1s}
snapshot: {workers: 2, chunk_rows: 100}
kafka: {brokers: [%s]}
registry: {url: %q}
http: {listen: "127.0.0.1:0"}
`, name, r.dsn, strings.Join(kafka.Addrs(), ","), kafkatest.Registry(t))
	must(t, config.Decode("test.yaml", []byte(yaml), &r.config))
	r.registry, err = registry.New(r.config.Registry)
	must(t, err)
	dsn := r.dsn // a test may go on with another server
	t.Cleanup(func() {
		ctx := context.Background()
		c, err := pgx.Connect(ctx, dsn)
		must(t, err)
		defer c.Close(ctx)
		eventually(t, "the slot is dropped", func() bool { // a server may notice late that nobody streams any more
			_, err = c.Exec(ctx, `select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1`, r.config.Source.slot())
			return postgres.SQLState(err) != "55006"
		})
		must(t, err)
	})
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) exec(sql string) {
	r.t.Helper()
	if _, err := r.conn.Exec(r.t.Context(), sql); err != nil {
		r.t.Fatalf("%v\n%s", err, sql)
	}
}

// start runs a capture until stop, which waits for it and gives its error.
func (r *rig) start() (c *Capture, stop func() error) {
	r.t.Helper()
	c, stop, err := r.tryStart()
	if err != nil {
		r.t.Fatalf("capture ended: %v", err)
	}
	return c, stop
}

// tryStart is start of a capture that may end before it streams: err says why.
func (r *rig) tryStart() (c *Capture, stop func() error, err error) {
	r.t.Helper()
	c, err = New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{r.t}, nil)))
	must(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(pgtest.Patience):
			r.t.Fatal("capture does not stop")
			return nil
		}
	}
	r.t.Cleanup(func() { _ = stop() })
	eventually(r.t, "capture streams", func() bool {
		select {
		case err = <-done:
			if err == nil {
				r.t.Fatal("capture ended by itself")
			}
			stopped = true
			return true
		default:
		}
		return c.Status().State != "starting" && c.Status().Trouble == nil
	})
	return c, stop, err
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// fence writes a fence at the source and waits until the progress topic has it and all snapshots are done.
func (r *rig) fence() {
	r.t.Helper()
	r.fences++
	id := fmt.Sprintf("f%d", r.fences)
	var ignored any
	must(r.t, r.conn.QueryRow(r.t.Context(), `select pg_logical_emit_message(true, $1, $2)::text`, catalog.MessagePrefix, fmt.Sprintf(`{"fence": %q}`, id)).Scan(&ignored))
	client := r.consumer(record.ProgressTopic(r.config.Source.Name))
	defer client.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), pgtest.Patience)
	defer cancel()
	reached := false
	var last []byte
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			r.t.Fatalf("fence %s is not reached; the last progress is %s", id, last)
		}
		done := false
		fetches.EachRecord(func(rec *kgo.Record) {
			if rec.Attrs.IsControl() {
				return
			}
			last = rec.Value
			p, err := record.ParseProgress(rec.Value)
			must(r.t, err)
			for _, f := range p.Fences {
				reached = reached || f == id
			}
			done = reached && p.Health.SnapshotDone == p.Health.SnapshotOf
		})
		if done {
			return
		}
	}
}

func (r *rig) consumer(topics ...string) *kgo.Client {
	r.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...), kgo.ConsumeTopics(topics...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepControlRecords())
	must(r.t, err)
	return client
}

// topic is what reading a table's topic from its start gives.
type topicRead struct {
	events []string // "op key | row"
	rows   []string // fold of the events: each row as its texts
	reads  int
}

// read folds the topic of a table up to its present end and checks what holds for every topic: positions grow
// strictly within a partition.
func (r *rig) read(schemaName, table string) topicRead {
	r.t.Helper()
	topic, err := record.Topic(r.config.Source.Name, schemaName, table)
	must(r.t, err)
	var out topicRead
	client := r.consumer(topic)
	defer client.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), pgtest.Patience)
	defer cancel()
	ends := r.ends(topic)
	decoders := map[int]*record.Decoder{}
	last := map[int32]change.Position{}
	// By partition: only within one is there an order.
	rows := map[int32]map[string]change.Tuple{}
	var keyless []string
	moved := map[int32]*change.Tuple{}
	for missing := len(ends); missing > 0; {
		fetches := client.PollFetches(ctx)
		must(r.t, fetches.Err0())
		fetches.EachRecord(func(rec *kgo.Record) {
			if rec.Offset+1 == ends[rec.Partition] {
				missing--
			}
			if rec.Attrs.IsControl() || rec.Value == nil {
				return
			}
			id, _, err := record.ParseFrame(rec.Value)
			must(r.t, err)
			d := decoders[id]
			if d == nil {
				text, err := r.registry.Schema(ctx, id)
				must(r.t, err)
				d, err = record.NewDecoder(text)
				must(r.t, err)
				decoders[id] = d
			}
			var ev change.Event
			_, err = d.Decode(rec.Value, &ev, nil)
			must(r.t, err)
			header, err := change.ParsePosition(rec.Headers[0].Value)
			must(r.t, err)
			if header != ev.Position {
				r.t.Errorf("header says %s, envelope %s", header, ev.Position)
			}
			if ev.Position.Compare(last[rec.Partition]) <= 0 {
				if r.repeats {
					return
				}
				r.t.Errorf("topic %s partition %d offset %d: position %s is not above %s", topic, rec.Partition, rec.Offset, ev.Position, last[rec.Partition])
			}
			last[rec.Partition] = ev.Position
			out.events = append(out.events, fmt.Sprintf("%c %s | %s", ev.Op, texts(ev.Before), texts(ev.After)))
			rel := d.Relation()
			if ev.Op == change.Read {
				out.reads++
			}
			if len(rel.Key) == 0 {
				keyless = foldKeyless(r.t, keyless, &ev)
				return
			}
			if rows[rec.Partition] == nil {
				rows[rec.Partition], moved[rec.Partition] = map[string]change.Tuple{}, new(change.Tuple)
			}
			fold(rows[rec.Partition], rel, &ev, moved[rec.Partition])
		})
	}
	for _, part := range rows {
		for _, row := range part {
			keyless = append(keyless, texts(row))
		}
	}
	sort.Strings(keyless)
	out.rows = keyless
	return out
}

func (r *rig) ends(topic string) map[int32]int64 {
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...))
	must(r.t, err)
	defer client.Close()
	ends := map[int32]int64{}
	list, err := kadmEnds(r.t.Context(), client, topic)
	must(r.t, err)
	for p, o := range list {
		if o > 0 {
			ends[p] = o
		}
	}
	return ends
}

func texts(row change.Tuple) string {
	if row == nil {
		return "-"
	}
	var b strings.Builder
	for i, v := range row {
		if i > 0 {
			b.WriteByte(',')
		}
		switch v.State {
		case change.Null:
			b.WriteString("NULL")
		case change.Unchanged:
			b.WriteString("UNCHANGED")
		default:
			fmt.Fprintf(&b, "%q", v.Text)
		}
	}
	return b.String()
}

func clone(row change.Tuple) change.Tuple {
	c := make(change.Tuple, len(row))
	for i, v := range row {
		c[i] = change.Value{State: v.State, Text: append([]byte(nil), v.Text...)}
	}
	return c
}

func keyOf(rel *schema.Relation, row change.Tuple) string {
	var b strings.Builder
	for _, k := range rel.Key {
		fmt.Fprintf(&b, "%q,", row[k].Text)
	}
	return b.String()
}

// fold is the oracle: what a reader that applies events one by one holds.
func fold(rows map[string]change.Tuple, rel *schema.Relation, ev *change.Event, moved *change.Tuple) {
	switch ev.Op {
	case change.Truncate:
		clear(rows)
	case change.Delete:
		k := keyOf(rel, ev.Before)
		*moved = rows[k]
		delete(rows, k)
	default:
		k := keyOf(rel, ev.After)
		fresh := clone(ev.After)
		base := rows[k]
		if base == nil {
			base = *moved
		}
		for i := range fresh {
			if fresh[i].State == change.Unchanged {
				if base == nil {
					return // left out: the row is still to come with its chunk
				}
				fresh[i] = base[i]
			}
		}
		rows[k] = fresh
		*moved = nil
	}
}

func foldKeyless(t *testing.T, rows []string, ev *change.Event) []string {
	remove := func(row string) {
		for i := range rows {
			if rows[i] == row {
				rows = append(rows[:i:i], rows[i+1:]...)
				return
			}
		}
		t.Errorf("no row %s", row)
	}
	switch ev.Op {
	case change.Truncate:
		return nil
	case change.Delete:
		remove(texts(ev.Before))
	case change.Update:
		remove(texts(ev.Before))
		rows = append(rows, texts(ev.After))
	default:
		rows = append(rows, texts(ev.After))
	}
	return rows
}

// source gives the rows of a table at the source as read gives them.
func (r *rig) source(table string) []string {
	r.t.Helper()
	return r.sourceOf(table, "*")
}

// sourceOf is source with some of the columns.
func (r *rig) sourceOf(table, columns string) []string {
	r.t.Helper()
	cfg, err := postgres.ParseConfig(r.dsn, "oracle")
	must(r.t, err)
	conn, err := pgx.ConnectConfig(r.t.Context(), cfg)
	must(r.t, err)
	defer conn.Close(r.t.Context())
	res := conn.PgConn().ExecParams(r.t.Context(), "select "+columns+" from "+table, nil, nil, nil, nil)
	var list []string
	for res.NextRow() {
		var row change.Tuple
		for _, v := range res.Values() {
			if v == nil {
				row = append(row, change.Value{})
			} else {
				row = append(row, change.Value{State: change.Present, Text: append([]byte(nil), v...)})
			}
		}
		list = append(list, texts(row))
	}
	_, err = res.Close()
	must(r.t, err)
	sort.Strings(list)
	return list
}

// settles waits until topic and source hold the same rows of a table, all snapshots done.
func (r *rig) settles(table string) {
	r.t.Helper()
	eventually(r.t, "the topic has the rows", func() bool {
		r.fence()
		return slices.Equal(r.read("public", table).rows, r.source("public."+table))
	})
}

// same fails the test unless topic and source hold the same rows.
func (r *rig) same(schemaName, table string) topicRead {
	r.t.Helper()
	got, want := r.read(schemaName, table), r.source(postgres.Ident(schemaName, table))
	if len(got.rows) != len(want) {
		r.t.Errorf("%s.%s: the topic has %d rows, the source %d", schemaName, table, len(got.rows), len(want))
	}
	for i := range min(len(want), len(got.rows)) {
		if got.rows[i] != want[i] {
			r.t.Errorf("%s.%s: topic\n  %s\nsource\n  %s", schemaName, table, got.rows[i], want[i])
			break
		}
	}
	return got
}

// eventually polls until ok, or fails the test.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(pgtest.Patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited too long until %s", what)
		case <-tick.C:
		}
	}
}

// counterValue gives what a counter stands at.
func counterValue(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	must(t, c.Write(&m))
	return m.GetCounter().GetValue()
}
