package sink

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink/batch"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// A record's way from the client of Kafka into its fold takes no memory of its own.
func TestAllocations(t *testing.T) {
	read := reading(t)
	read()
	const limit = 20
	if n := testing.AllocsPerRun(20, read); n > limit {
		t.Errorf("%v allocations for 1000 records, at most %d", n, limit)
	}
}

func BenchmarkRead(b *testing.B) {
	read := reading(b)
	b.ReportAllocs()
	for b.Loop() {
		read()
	}
}

// reading is what reads 1000 records, always the same.
func reading(tb testing.TB) func() {
	tb.Helper()
	s := idle(tb, true)
	s.consumer.Close() // its client dials Kafka again and again
	client, err := registry.New(config.Registry{URL: kafkatest.Registry(tb)})
	must(tb, err)
	w := newWorker(s, 0)
	w.versions = newVersions(client, s.rules, s.latest)
	records := kernelRecords(tb, client, 1000)
	p := &consume.Partition{Topic: records[0].Topic, Count: 1}
	w.parked[p] = &warehouse.Parked{}
	v, err := w.version(tb.Context(), records[0])
	must(tb, err)
	fold := &batch.Fold{}
	return func() {
		o := w.outcome()
		fold.Begin(v.plan)
		o.units = append(o.units, unit{topic: p.Topic, plan: v.plan, target: &warehouse.Target{}, fold: fold}) // as if it had been prepared
		pt := o.begin(w.part(p))
		if err := w.readPartition(tb.Context(), o, pt, records); err != nil || pt.stop != nil || pt.records != len(records) {
			tb.Fatalf("%d of %d records are read: %v, %v", pt.records, len(records), err, pt.stop)
		}
	}
}

// kernelRecords are records as a capture writes them: inserts, updates, deletes and changes of keys of shop.public.t.
func kernelRecords(t testing.TB, client *registry.Client, n int) (out []*kgo.Record) {
	t.Helper()
	rel := &schema.Relation{OID: 7, Schema: "public", Name: "t", Key: []int{0}, Columns: []schema.Column{
		{Name: "id", AttNum: 1, NotNull: true, Type: schema.Type{OID: schema.OIDInt8, Name: "bigint"}},
		{Name: "name", AttNum: 2, Type: schema.Type{OID: schema.OIDText, Name: "text"}},
	}}
	e, err := record.NewEncoder(record.Source{Name: "shop", Database: "db", Version: "test", SystemID: "1", Timeline: 1}, rel)
	must(t, err)
	keyID, err := client.Register(t.Context(), e.Topic()+"-key", e.KeySchema())
	must(t, err)
	valueID, err := client.Register(t.Context(), e.Topic()+"-value", e.ValueSchema())
	must(t, err)
	e.SetIDs(keyID, valueID)
	row := func(id int, name string) change.Tuple {
		return change.Tuple{{State: change.Present, Text: fmt.Append(nil, id)}, {State: change.Present, Text: []byte(name)}}
	}
	key := func(row change.Tuple) []byte {
		b, err := e.AppendKey(nil, row)
		must(t, err)
		return b
	}
	for i := 0; len(out) < n; i++ {
		add := func(op change.Op, before, after change.Tuple, headers ...kgo.RecordHeader) {
			t.Helper()
			at := len(out)
			ev := &change.Event{
				Op: op, Before: before, After: after, Tx: change.Transaction{XID: 1, CommitLSN: 100, CommitTime: 1},
				Position: change.Position{Era: 1, CommitLSN: 100, Seq: uint64(at + 1)},
			}
			value, err := e.AppendValue(nil, ev)
			must(t, err)
			row := after
			if row == nil {
				row = before
			}
			out = append(out, &kgo.Record{
				Topic: e.Topic(), Offset: int64(at), Key: key(row), Value: value,
				Headers: append([]kgo.RecordHeader{{Key: record.HeaderPosition, Value: change.AppendPosition(nil, ev.Position)}}, headers...),
			})
		}
		old, fresh := row(i, "a name"), row(i+1_000_000, "another name")
		add(change.Create, nil, old)
		add(change.Update, nil, row(i, "b"))
		add(change.Delete, old, nil, kgo.RecordHeader{Key: record.HeaderNewKey, Value: key(fresh)})
		add(change.Create, nil, fresh, kgo.RecordHeader{Key: record.HeaderOldKey, Value: key(old)})
		add(change.Delete, row(i-1+1_000_000, ""), nil)
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
