package capture

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/record"
)

// A row's way from a message of the stream to the client of Kafka takes no memory of its own.
func TestAllocations(t *testing.T) {
	masked := publish.Cover{
		Columns: publish.Columns{Table: "*.*", Mask: []publish.Mask{{Column: "name", As: "hash"}}},
		Match:   func(string, string) bool { return true },
	}
	for _, way := range []struct {
		name, delivery string
		covers         []publish.Cover
		messages       int
	}{
		{"in a transaction", "exactly-once", nil, 4000},
		{"without one", "at-least-once", nil, 300}, // fewer than are sent at once
		{"masked", "exactly-once", []publish.Cover{masked}, 4000},
	} {
		t.Run(way.name, func(t *testing.T) {
			s := unfed(t, way.delivery, way.covers)
			items := messages(way.messages)
			lsn := uint64(1 << 20)
			transaction := func() float64 {
				lsn += 100
				must(t, s.item(t.Context(), &replication.Item{Data: begins(lsn)}))
				n := mallocs(func() {
					for i := range items {
						must(t, s.item(t.Context(), &items[i]))
					}
				})
				s.inTx = false
				must(t, s.pub.Commit(t.Context(), &record.Progress{CommitLSN: record.LSN(lsn), EndLSN: record.LSN(lsn)}))
				return float64(n) / float64(len(items))
			}
			// The first takes memory for those to come. One in which the client of Kafka had nothing to do beside it shows ours; on a
			// busy machine it is long in coming.
			least, began := transaction(), time.Now()
			for least > 0.1 && time.Since(began) < pgtest.Patience {
				least = min(least, transaction())
			}
			if least > 0.1 {
				t.Errorf("%.2f allocations a message", least)
			}
		})
	}
}

// mallocs counts the allocations of do, and of what goes on beside it.
func mallocs(do func()) uint64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}

// unfed is a session that publishes the table public.item (id bigint, name text), and to which messages are given by hand.
func unfed(t *testing.T, delivery string, covers []publish.Cover) *session {
	t.Helper()
	var cfg Config
	must(t, config.Decode("test.yaml", []byte(fmt.Sprintf(`
source: {name: kernel, dsn: "postgres://nobody@127.0.0.1:1/nothing"}
publish: {delivery: %s}
kafka: {brokers: [%s]}
registry: {url: %q}
`, delivery, strings.Join(kafkatest.Fake(t).Addrs(), ","), kafkatest.Registry(t))), &cfg))
	c, err := New(cfg, Options{}, slog.New(slog.DiscardHandler))
	must(t, err)
	pub, err := publish.Open(t.Context(), publish.Options{
		Source: cfg.Source.Name, Kafka: cfg.Kafka, Topics: cfg.Topics, Registry: c.registry, Log: c.log,
		TransactionTimeout: cfg.Publish.TransactionTimeout, Direct: cfg.Publish.direct(), Covers: covers, Salt: []byte("salt"),
	})
	must(t, err)
	t.Cleanup(pub.Close)
	_, err = c.claim(t.Context(), pub)
	must(t, err)
	pub.SetSource(record.Source{Name: cfg.Source.Name})
	s := &session{config: &c.config, log: c.log, meter: c.meter, stage: c.stage, others: c.others, pub: pub, changed: map[schema.OID]bool{}, era: 1}
	s.tables = map[schema.OID]*table{7: {}}
	rel := &schema.Relation{
		OID: 7, Schema: "public", Name: "item", Key: []int{0}, Columns: []schema.Column{
			{Name: "id", AttNum: 1, NotNull: true, Type: schema.Type{OID: schema.OIDInt8, Name: "bigint"}},
			{Name: "name", AttNum: 2, Type: schema.Type{OID: schema.OIDText, Name: "text"}},
		},
	}
	must(t, s.setRelation(t.Context(), s.tables[7], rel, rel, rel))
	return s
}

// begins is the message with which a transaction begins.
func begins(lsn uint64) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'B'}, lsn)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, 1), uint32(lsn))
}

// messages are inserts, updates, and deletes of the table of unfed, in turn.
func messages(n int) []replication.Item {
	tuple := func(b []byte, values ...string) []byte {
		b = binary.BigEndian.AppendUint16(b, uint16(len(values)))
		for _, v := range values {
			if v == "" {
				b = append(b, 'n')
				continue
			}
			b = binary.BigEndian.AppendUint32(append(b, 't'), uint32(len(v)))
			b = append(b, v...)
		}
		return b
	}
	items := make([]replication.Item, n)
	for i := range items {
		id := fmt.Sprint(i)
		switch i % 3 {
		case 0:
			items[i].Data = tuple([]byte{'I', 0, 0, 0, 7, 'N'}, id, "a name")
		case 1:
			items[i].Data = tuple([]byte{'U', 0, 0, 0, 7, 'N'}, id, "another name")
		default:
			items[i].Data = tuple([]byte{'D', 0, 0, 0, 7, 'K'}, id, "")
		}
	}
	return items
}
