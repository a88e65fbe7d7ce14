package publish

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// A source whose clock was ahead by more than an hour stopped capture, and with it what it had committed meanwhile for ever: brokers from
// 4.0 on refuse such records.
func TestClockOfTheSourceIsAhead(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, cluster kafkatest.Cluster) {
		l := newLeaky(t, cluster)
		var err error
		l.options.Registry, err = registry.New(config.Registry{URL: kafkatest.Registry(t)})
		l.must(err)
		p, err := Open(t.Context(), l.options)
		l.must(err)
		defer p.Close()
		p.SetSource(record.Source{Name: l.options.Source})
		table, err := p.Table(t.Context(), &schema.Relation{Schema: "public", Name: "t0", Key: []int{0}, Columns: []schema.Column{
			{Name: "id", Type: schema.Type{OID: schema.OIDInt4, Name: "integer"}},
		}})
		l.must(err)
		began := time.Now()
		earlier := began.Add(-time.Hour).Truncate(time.Millisecond)
		commits := []time.Time{earlier, began.Add(30 * 24 * time.Hour), earlier}
		for i, at := range commits {
			did, err := p.Publish(t.Context(), table, &change.Event{
				Op: change.Create, Position: change.Position{Era: 1, CommitLSN: 1, Seq: uint64(i + 1)}, Tx: change.Transaction{CommitTime: at.UnixMicro()},
				After: change.Tuple{{State: change.Present, Text: []byte("1")}},
			})
			l.must(err)
			if !did {
				t.Error("it is not published")
			}
		}
		l.must(p.flush(t.Context()))
		reader, err := kgo.NewClient(kgo.SeedBrokers(cluster.Addrs()...), kgo.ConsumeTopics(l.tables[0]), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		l.must(err)
		defer reader.Close()
		var got []time.Time
		for len(got) < len(commits) {
			fetches := reader.PollFetches(t.Context())
			l.must(fetches.Err())
			fetches.EachRecord(func(r *kgo.Record) { got = append(got, r.Timestamp) })
		}
		if !got[0].Equal(earlier) || !got[2].Equal(earlier) {
			t.Errorf("records have the times %s, want the commit's, %s, of the first and the last", got, earlier)
		}
		if got[1].Before(began.Truncate(time.Millisecond)) || got[1].After(time.Now()) {
			t.Errorf("the record of a commit that is to come has the time %s, want that of now", got[1])
		}
	})
}
