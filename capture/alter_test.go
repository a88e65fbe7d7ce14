package capture

import (
	"log/slog"
	"testing"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// What the watcher has read of the catalog may be older than what the stream has told since: an ALTER came in between. The
// session took it for newer, could not read the next row, for which no Relation message comes, and capture ended.
func TestStreamIsAheadOfTheCatalog(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
	must(t, err)
	pub, err := publish.Open(t.Context(), publish.Options{
		Source: r.config.Source.Name, Kafka: r.config.Kafka, Topics: r.config.Topics, Registry: c.registry, Log: c.log,
		TransactionTimeout: r.config.Publish.TransactionTimeout,
	})
	must(t, err)
	defer pub.Close()
	cat, err := catalog.Open(t.Context(), r.dsn, "test")
	must(t, err)
	defer cat.Close(t.Context()) //nolint:errcheck // the server ends the session either way
	pub.SetSource(record.Source{Name: r.config.Source.Name})
	id := schema.Column{Name: "id", AttNum: 1, NotNull: true, Type: schema.Type{OID: schema.OIDInt4, Name: "integer"}}
	later := schema.Column{Name: "later", AttNum: 2, Type: schema.Type{OID: schema.OIDText, Name: "text"}}
	before := &schema.Relation{OID: 7, Schema: "public", Name: "item", Key: []int{0}, Columns: []schema.Column{id}}
	now := &schema.Relation{OID: 7, Schema: "public", Name: "item", Key: []int{0}, Columns: []schema.Column{id, later}}

	f := func(seenAt, asOf change.LSN) {
		t.Helper()
		s := &session{config: &c.config, log: c.log, meter: c.meter, stage: c.stage, others: c.others, catalog: cat, pub: pub, changed: map[schema.OID]bool{}}
		one := &table{catalog: &catalog.Table{Relation: *now}, message: []byte("what said so"), seenAt: seenAt}
		s.tables = map[schema.OID]*table{7: one}
		must(t, s.setRelation(t.Context(), one, now, now, now))
		one.reach()
		s.foresee(one, &catalog.Table{Relation: *before}, asOf)
		s.streamed = max(seenAt, asOf)
		must(t, s.alterations(t.Context()))
		// Either nothing has changed, or the next row has the last Relation message resolved again.
		if !one.pub.Relation.Equal(now) && string(one.pending) != "what said so" {
			t.Errorf("seen at %s, catalog as of %s: the next row would be read as one of %d columns", seenAt, asOf, len(one.pub.Relation.Columns))
		}
		if !one.seen.Equal(now) {
			t.Errorf("seen at %s, catalog as of %s: the older version is taken for the newer", seenAt, asOf)
		}
	}
	f(200, 100)
	if c.stages.Snapshot()[0].Busy > 0 {
		t.Error("the source is waited for, and has not been asked")
	}
	f(100, 200) // the commit was in the WAL, and its transaction not visible yet
	if c.stages.Snapshot()[0].Busy == 0 {
		t.Error("the source is asked, and is not who is waited for: an answer that comes late has capture killed")
	}
}
