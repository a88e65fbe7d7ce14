package sink_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafka"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// world is everything around a sink: broker, registry, an empty warehouse, and sources that a test publishes itself.
type world struct {
	t        testing.TB
	kafka    kafkatest.Cluster
	registry string
	dsn      string
	conn     *pgx.Conn
	cfg      sink.Config
}

func newWorld(t testing.TB, tables ...rule.Table) *world {
	t.Helper()
	return newWorldOn(t, kafkatest.Fake(t), tables...)
}

func newWorldOn(t testing.TB, cluster kafkatest.Cluster, tables ...rule.Table) *world {
	t.Helper()
	w := &world{t: t, kafka: cluster, registry: kafkatest.Registry(t)}
	w.dsn = pgtest.Database(t, pgtest.Shared(t, 0))
	w.conn = w.connect(w.dsn)
	for i := range tables {
		tables[i].Create = true
	}
	if len(tables) == 0 {
		tables = []rule.Table{{From: "*.*", To: "{schema}.{table}", Create: true}}
	}
	w.cfg = sink.Default()
	w.cfg.Warehouse.DSN = config.Secret(w.dsn)
	w.cfg.Warehouse.Connections = 2
	w.cfg.Kafka = kafka.Config{Brokers: w.kafka.Addrs(), ClientID: "test"}
	w.cfg.Registry.URL = w.registry
	w.cfg.Tables = tables
	w.cfg.HTTP.Listen = "127.0.0.1:0"
	w.cfg.Refresh = 50 * time.Millisecond
	w.cfg.Session = 6 * time.Second
	return w
}

func (w *world) connect(dsn string) *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), dsn)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// running is a sink in this process.
type running struct {
	*sink.Sink
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
	t      testing.TB
}

// start runs a sink until stop or the end of the test.
func (w *world) start(cfg sink.Config) *running {
	w.t.Helper()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	return w.startLogging(cfg, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
}

func (w *world) startLogging(cfg sink.Config, log *slog.Logger) *running {
	w.t.Helper()
	s, err := sink.New(cfg, log)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Sink: s, cancel: cancel, done: make(chan error, 1), t: w.t}
	go func() { r.done <- s.Run(ctx) }()
	w.t.Cleanup(r.stop)
	return r
}

func (r *running) stop() {
	r.once.Do(func() {
		r.cancel()
		select {
		case err := <-r.done:
			if err != nil {
				r.t.Errorf("sink ended: %v", err)
			}
		case <-time.After(pgtest.Patience):
			r.t.Error("sink does not end")
		}
	})
}

// get asks for a page.
func (r *running) get(path string) (code int, text string) {
	r.t.Helper()
	resp, err := (&http.Client{Timeout: pgtest.Patience}).Get("http://" + r.Addr() + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// eventually waits until what gives what is wanted.
func (w *world) eventually(want any, what func() any) {
	w.t.Helper()
	deadline := time.Now().Add(pgtest.Patience)
	var got any
	for time.Now().Before(deadline) {
		if got = what(); fmt.Sprint(got) == fmt.Sprint(want) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("still %v, want %v", got, want)
}

// reported waits as eventually does, while these sources report as they do: of one that has not for some seconds that would be told, too.
func (w *world) reported(want any, what func() any, sources ...*source) {
	w.t.Helper()
	w.eventually(want, func() any {
		for _, s := range sources {
			if time.Since(time.UnixMicro(s.last.WrittenAt)) > service.SilentAfter/3 {
				s.tx()
			}
		}
		return what()
	})
}

// query gives rows as text, columns separated by |, null as ∅.
func (w *world) query(sql string, args ...any) []string {
	w.t.Helper()
	rows, err := w.conn.Query(w.t.Context(), sql, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
	if err != nil {
		return []string{"error: " + err.Error()}
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var cols []string
		for _, v := range row.RawValues() {
			if v == nil {
				cols = append(cols, "∅")
			} else {
				cols = append(cols, string(v))
			}
		}
		return strings.Join(cols, "|"), nil
	})
	if err != nil {
		return []string{"error: " + err.Error()}
	}
	return out
}

func (w *world) exec(sql string) {
	w.t.Helper()
	if _, err := w.conn.Exec(w.t.Context(), sql); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// rows waits until sql gives these rows.
func (w *world) rows(sql string, want ...string) {
	w.t.Helper()
	if want == nil {
		want = []string{}
	}
	w.eventually(want, func() any { return w.query(sql) })
}

// oids of the types that tests use.
var oids = map[string]schema.OID{
	"integer": schema.OIDInt4, "bigint": schema.OIDInt8, "text": schema.OIDText, "numeric": schema.OIDNumeric,
	"boolean": schema.OIDBool, "timestamp with time zone": schema.OIDTimestampTZ, "jsonb": schema.OIDJSONB, "bytea": schema.OIDBytea,
	"character(5)": schema.OIDBpchar, "bit(3)": 1560, "double precision": schema.OIDFloat8, "date": schema.OIDDate,
	"interval": schema.OIDInterval, "numrange": 3906,
	"public.mood": 90001,
}

// relation makes one from columns like "id integer key" and "note text".
func relation(name string, columns ...string) *schema.Relation {
	r := &schema.Relation{OID: 1000, Schema: "public", Name: name, Identity: schema.IdentityDefault}
	for i, c := range columns {
		c, isKey := strings.CutSuffix(c, " key")
		column, typ, _ := strings.Cut(c, " ")
		oid, ok := oids[typ]
		if !ok {
			panic("no OID for " + typ)
		}
		class := schema.ClassBase
		if oid >= schema.FirstUserOID {
			class = schema.ClassEnum
		}
		r.Columns = append(r.Columns, schema.Column{Name: column, AttNum: int16(i + 1), NotNull: isKey, Type: schema.Type{OID: oid, Typmod: -1, Name: typ, Class: class}})
		if isKey {
			r.Key = append(r.Key, i)
		}
	}
	if len(r.Key) == 0 {
		r.Identity = schema.IdentityFull
	}
	return r
}

// source plays a capture.
type source struct {
	w       *world
	name    string
	client  *kgo.Client
	reg     *registry.Client
	era     uint16
	lsn     change.LSN
	n       uint64
	vector  map[string][]int64
	counts  map[string]int32
	encoder map[*schema.Relation]*record.Encoder
	tables  []record.TableProgress
	quiet   bool   // write no progress
	inside  uint64 // what progress says of a source transaction that is not whole yet
	padding string
	behind  time.Duration // of its capture
	damage  bool          // cut values off
	key     []byte        // of all records, instead of theirs
	last    *record.Progress
	now     func() time.Time // of commits
}

func (w *world) source(name string) *source {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Addrs()...), kgo.TransactionalID(name), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(client.Close)
	reg, err := registry.New(config.Registry{URL: w.registry})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(reg.Close)
	s := &source{
		w: w, name: name, client: client, reg: reg, era: 1, lsn: 0x1000, vector: map[string][]int64{}, counts: map[string]int32{},
		encoder: map[*schema.Relation]*record.Encoder{}, now: time.Now,
	}
	s.topic(record.ProgressTopic(name), 1)
	return s
}

func (s *source) topic(name string, partitions int32) {
	s.w.t.Helper()
	if _, _, err := kafka.EnsureTopic(s.w.t.Context(), s.client, kafka.Topic{Name: name, Partitions: partitions, Replication: 1}); err != nil {
		s.w.t.Fatal(err)
	}
	s.counts[name] = partitions
}

// table creates the topic of a relation.
func (s *source) table(rel *schema.Relation, partitions int32) *record.Encoder {
	s.w.t.Helper()
	e, ok := s.encoder[rel]
	if ok {
		return e
	}
	e, err := record.NewEncoder(record.Source{Name: s.name, Database: "db", Version: "test", SystemID: "1", Timeline: 1}, rel)
	if err != nil {
		s.w.t.Fatal(err)
	}
	if s.counts[e.Topic()] == 0 {
		s.topic(e.Topic(), partitions)
	}
	keyID := 0
	if e.KeySchema() != "" {
		if keyID, err = s.reg.Register(s.w.t.Context(), e.Topic()+"-key", e.KeySchema()); err != nil {
			s.w.t.Fatal(err)
		}
	}
	valueID, err := s.reg.Register(s.w.t.Context(), e.Topic()+"-value", e.ValueSchema())
	if err != nil {
		s.w.t.Fatal(err)
	}
	e.SetIDs(keyID, valueID)
	s.encoder[rel] = e
	return e
}

// event is one change to publish.
type event struct {
	op     change.Op
	rel    *schema.Relation
	before []any
	after  []any
	rekey  bool // the delete of a key change; the insert follows
	reload bool
}

// keep stands for a TOASTed value that was not sent.
type keepType struct{}

var keep keepType

func ins(rel *schema.Relation, row ...any) event {
	return event{op: change.Create, rel: rel, after: row}
}

func upd(rel *schema.Relation, row ...any) event {
	return event{op: change.Update, rel: rel, after: row}
}

func del(rel *schema.Relation, row ...any) event {
	return event{op: change.Delete, rel: rel, before: row}
}

func snap(rel *schema.Relation, row ...any) event {
	return event{op: change.Read, rel: rel, after: row}
}
func trunc(rel *schema.Relation) event { return event{op: change.Truncate, rel: rel} }

// move is a change of a key: old is the old key's row.
func move(rel *schema.Relation, old []any, row ...any) []event {
	return []event{{op: change.Delete, rel: rel, before: old, rekey: true}, {op: change.Create, rel: rel, after: row, rekey: true}}
}

func tuple(rel *schema.Relation, row []any) change.Tuple {
	if row == nil {
		return nil
	}
	t := make(change.Tuple, len(rel.Columns))
	for i := range row {
		switch v := row[i].(type) {
		case nil:
		case keepType:
			t[i].State = change.Unchanged
		default:
			t[i] = change.Value{State: change.Present, Text: []byte(fmt.Sprint(v))}
		}
	}
	return t
}

// tx publishes one source transaction as one Kafka transaction, with a progress record.
func (s *source) tx(events ...event) {
	s.w.t.Helper()
	s.lsn += 0x100
	if err := s.client.BeginTransaction(); err != nil {
		s.w.t.Fatal(err)
	}
	s.publish(s.lsn, s.now(), events...)
	s.progress()
	if err := s.client.Flush(s.w.t.Context()); err != nil {
		s.w.t.Fatal(err)
	}
	if err := s.client.EndTransaction(s.w.t.Context(), kgo.TryCommit); err != nil {
		s.w.t.Fatal(err)
	}
}

// publish produces the records of one source transaction.
func (s *source) publish(lsn change.LSN, at time.Time, events ...event) {
	s.w.t.Helper()
	var records []*kgo.Record
	var oldKey []byte
	for i, e := range events {
		enc := s.table(e.rel, 1)
		pos := change.Position{Era: s.era, CommitLSN: lsn, Seq: uint64(2 * (i + 1))}
		if e.op == change.Read || e.reload {
			pos.Seq += change.SnapshotSeq
		}
		if e.rekey && e.op == change.Create {
			pos.Seq = uint64(2*i) + 1
		}
		ev := &change.Event{
			Op: e.op, Position: pos, Before: tuple(e.rel, e.before), After: tuple(e.rel, e.after),
			Tx: change.Transaction{XID: uint32(lsn), CommitLSN: lsn, CommitTime: at.UnixMicro()},
		}
		value, err := enc.AppendValue(nil, ev)
		if err != nil {
			s.w.t.Fatal(err)
		}
		r := &kgo.Record{Topic: enc.Topic(), Value: value, Timestamp: at, Headers: []kgo.RecordHeader{
			{Key: record.HeaderPosition, Value: change.AppendPosition(nil, pos)},
		}}
		if e.reload {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: record.HeaderReload})
		}
		if e.op == change.Truncate {
			for p := range s.counts[enc.Topic()] {
				copied := *r
				copied.Partition = p
				records = append(records, &copied)
			}
			continue
		}
		if s.damage {
			r.Value = r.Value[:len(r.Value)/2]
		}
		if len(e.rel.Key) > 0 {
			row := ev.After
			if row == nil {
				row = ev.Before
			}
			if r.Key, err = enc.AppendKey(nil, row); err != nil {
				s.w.t.Fatal(err)
			}
			r.Partition = record.Partition(r.Key, s.counts[enc.Topic()])
			if s.key != nil {
				r.Key = s.key
			}
		}
		if e.rekey && e.op == change.Delete {
			newKey, err := enc.AppendKey(nil, tuple(e.rel, events[i+1].after))
			if err != nil {
				s.w.t.Fatal(err)
			}
			oldKey = r.Key
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: record.HeaderNewKey, Value: newKey})
		} else if e.rekey {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: record.HeaderOldKey, Value: oldKey})
		}
		records = append(records, r)
	}
	s.produce(records...)
}

// produce produces records, those of a partition in their order.
func (s *source) produce(records ...*kgo.Record) {
	s.w.t.Helper()
	if err := s.client.ProduceSync(s.w.t.Context(), records...).FirstErr(); err != nil {
		s.w.t.Fatal(err)
	}
	for _, r := range records {
		v := s.vector[r.Topic]
		for int32(len(v)) < s.counts[r.Topic] {
			v = append(v, -1)
		}
		v[r.Partition] = r.Offset + 1
		s.vector[r.Topic] = v
	}
}

func (s *source) progress(fences ...string) {
	s.w.t.Helper()
	if s.quiet {
		return
	}
	s.n++
	now := time.Now().UnixMicro()
	p := &record.Progress{
		Source: s.name, SystemID: "1", Timeline: 1, Era: s.era, Full: true, N: s.n, CommitLSN: record.LSN(s.lsn), EndLSN: record.LSN(s.lsn + 0x10),
		CommitTime: now, WrittenAt: now, Vector: s.vector, Tables: s.tables, Fences: fences, Health: record.Health{
			State: "streaming", Instance: "test" + s.padding, BehindSeconds: s.behind.Seconds(),
		},
		Inside: s.inside,
	}
	b, err := p.Encode()
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.last = p
	r := &kgo.Record{Topic: record.ProgressTopic(s.name), Key: []byte(p.Key()), Value: b}
	if err := s.client.ProduceSync(s.w.t.Context(), r).FirstErr(); err != nil {
		s.w.t.Fatal(err)
	}
}

// complete waits until the warehouse says that all that was published is in.
func (w *world) complete(s *source) {
	w.t.Helper()
	var ok bool
	err := w.conn.QueryRow(w.t.Context(), `SELECT to_regproc('tributary.wait_for') IS NOT NULL`).Scan(&ok)
	for start := time.Now(); err == nil && !ok && time.Since(start) < pgtest.Patience; {
		time.Sleep(10 * time.Millisecond)
		err = w.conn.QueryRow(w.t.Context(), `SELECT to_regproc('tributary.wait_for') IS NOT NULL`).Scan(&ok)
	}
	if err == nil {
		err = w.conn.QueryRow(w.t.Context(), fmt.Sprintf(`SELECT tributary.wait_for('%s', '%s', '%d s')`, s.name, change.LSN(s.last.EndLSN), int(pgtest.Patience.Seconds()))).Scan(&ok)
	}
	if err == nil && !ok {
		err = errors.New("does not get complete")
	}
	if err != nil {
		w.t.Fatalf("%v\ncheckpoints: %s\nquarantine: %s\nprogress: %s\nparts: %s", err,
			strings.Join(w.query(`SELECT topic, partition, next_offset, lsn, seq FROM tributary.checkpoint ORDER BY 1, 2`), "\n  "),
			strings.Join(w.query(`SELECT topic, partition, message FROM tributary.quarantine`), "\n  "),
			strings.Join(w.query(`SELECT source, complete_lsn, published_lsn FROM tributary.progress`), "\n  "),
			strings.Join(w.query(`SELECT progress_offset, topic, partition, next_offset FROM tributary.milestone_part ORDER BY 1, 2, 3`), "\n  "))
	}
}

// many makes events from functions of a number.
func many(n int, f func(i int) event) []event {
	out := make([]event, n)
	for i := range out {
		out[i] = f(i)
	}
	return out
}

func insertEvent(rel *schema.Relation, row ...any) *change.Event {
	return &change.Event{Op: change.Create, After: tuple(rel, row)}
}

// deleteRecords removes what is before an offset, as retention does.
func deleteRecords(t testing.TB, s *source, topic string, before int64) {
	t.Helper()
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, 0, before, -1)
	if _, err := kadm.NewClient(s.client).DeleteRecords(t.Context(), offsets); err != nil {
		t.Fatal(err)
	}
}

func committedOffset(t testing.TB, s *source, group, topic string) int64 {
	t.Helper()
	offsets, err := kadm.NewClient(s.client).FetchOffsets(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := offsets.Lookup(topic, 0)
	return o.At
}

func logEnd(t testing.TB, s *source, topic string) int64 {
	t.Helper()
	offsets, err := kadm.NewClient(s.client).ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := offsets.Lookup(topic, 0)
	return o.Offset
}

func deleteTopic(t testing.TB, s *source, topic string) {
	t.Helper()
	if _, err := kadm.NewClient(s.client).DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
}
