package sink_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// TestBacklogKeepsNobodyWaiting: the snapshot of one tenant fills memory and lane; what another one commits is there
// before most of it is.
func TestBacklogKeepsNobodyWaiting(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.t", SID: "tenant"})
	w.cfg.Warehouse.Connections, w.cfg.Batch.Rows, w.cfg.Batch.Memory = 1, 200, 4<<20
	r := relation("t", "id integer key", "v text")
	big, small := w.source("big"), w.source("small")
	big.table(r, 4)
	small.table(r, 1)
	const rows = 20_000
	if err := big.client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	big.flood(r, rows)
	big.progress()
	if err := big.client.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	small.tx() // its client knows its topics by now
	s := w.start(w.cfg)
	w.eventually(true, func() any {
		return len(w.query(`SELECT FROM public.t LIMIT 1`)) == 1 && w.query(`SELECT count(*) > 0 FROM public.t`)[0] == "t"
	})
	count := `SELECT count(*) FROM public.t WHERE tenant = 'big'`
	var waited []int
	for i := range 5 {
		var before, after int
		small.tx(ins(r, i, "x"))
		if err := w.conn.QueryRow(t.Context(), count).Scan(&before); err != nil {
			t.Fatal(err)
		}
		w.rows(fmt.Sprintf(`SELECT count(*) FROM public.t WHERE tenant = 'small' AND id = %d`, i), "1")
		if err := w.conn.QueryRow(t.Context(), count).Scan(&after); err != nil {
			t.Fatal(err)
		}
		if before < rows {
			waited = append(waited, after-before)
		}
	}
	t.Logf("rows of the backlog written while one of another tenant waited: %v", waited)
	if len(waited) == 0 {
		t.Skip("the backlog was written too fast for this machine to show anything")
	}
	if most := slices.Max(waited); most > rows/2 { // about a third of the backlog is in memory, and the first may come behind it
		t.Errorf("a change waited for %d rows of another tenant", most)
	}
	w.complete(big)
	w.rows(count, fmt.Sprint(rows))
	s.stop()
}

// flood publishes rows without waiting for each.
func (s *source) flood(r *schema.Relation, rows int) {
	s.w.t.Helper()
	enc := s.encoder[r]
	s.lsn += 0x100
	for i := range rows {
		pos := change.Position{Era: s.era, CommitLSN: s.lsn, Seq: uint64(2 * (i + 1))}
		ev := &change.Event{Op: change.Create, Position: pos, After: tuple(r, []any{i, "flood"}), Tx: change.Transaction{XID: 1, CommitLSN: s.lsn, CommitTime: time.Now().UnixMicro()}}
		value, err := enc.AppendValue(nil, ev)
		if err != nil {
			s.w.t.Fatal(err)
		}
		key, err := enc.AppendKey(nil, ev.After)
		if err != nil {
			s.w.t.Fatal(err)
		}
		s.client.Produce(s.w.t.Context(), &kgo.Record{
			Topic: enc.Topic(), Key: key, Value: value, Partition: record.Partition(key, s.counts[enc.Topic()]),
			Headers: []kgo.RecordHeader{{Key: record.HeaderPosition, Value: change.AppendPosition(nil, pos)}},
		}, nil)
	}
	if err := s.client.Flush(s.w.t.Context()); err != nil {
		s.w.t.Fatal(err)
	}
	s.vector[enc.Topic()] = nil
	for p := range s.counts[enc.Topic()] {
		offsets, err := kadm.NewClient(s.client).ListEndOffsets(s.w.t.Context(), enc.Topic())
		if err != nil {
			s.w.t.Fatal(err)
		}
		o, _ := offsets.Lookup(enc.Topic(), p)
		s.vector[enc.Topic()] = append(s.vector[enc.Topic()], o.Offset)
	}
}

// TestRate: a source with a rate is not faster, in any number of tables; another one is.
func TestRate(t *testing.T) {
	w := newWorld(t, rule.Table{From: "public.*", SID: "tenant"})
	const rate, rows = 200, 600
	w.cfg.Sources = []rule.Source{{Name: "slow*", Rate: rate}, {Name: "*"}}
	one, two := relation("one", "id integer key"), relation("two", "id integer key")
	slow, fast := w.source("slow"), w.source("fast")
	slow.tx(many(rows/2, func(i int) event { return ins(one, i) })...)
	slow.tx(many(rows/2, func(i int) event { return ins(two, i) })...)
	fast.tx(many(rows, func(i int) event { return ins(one, i) })...)
	begin := time.Now()
	w.start(w.cfg)
	w.complete(fast)
	fastTook := time.Since(begin)
	w.complete(slow)
	took := time.Since(begin)
	t.Logf("%d records in %s without a rate, in %s at %d a second", rows, fastTook.Round(time.Millisecond), took.Round(time.Millisecond), rate)
	if least := (rows - rate) * time.Second / rate; took < least {
		t.Errorf("%d records in %s, want at least %s", rows, took, least)
	}
	if fastTook > took {
		t.Error("the source without a rate is slower")
	}
	w.rows(`SELECT (SELECT count(*) FROM public.one), (SELECT count(*) FROM public.two)`, fmt.Sprintf("%d|%d", rows+rows/2, rows/2))
}
