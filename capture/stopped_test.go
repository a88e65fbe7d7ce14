package capture

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
)

// losesProgress gives a capture that has stopped as its progress topic was deleted, the records of that, and who administers Kafka.
func (r *rig) losesProgress() (c *Capture, ended func() error, lost []*kgo.Record, admin *kadm.Client) {
	r.t.Helper()
	_, stop := r.start()
	r.exec(`insert into item values (1, 'one'), (2, 'two')`)
	r.fence()
	must(r.t, stop())
	topic := record.ProgressTopic(r.config.Source.Name)
	client := r.consumer(topic)
	defer client.Close()
	for end := r.ends(topic)[0]; len(lost) == 0 || lost[len(lost)-1].Offset+1 < end; {
		fetches := client.PollFetches(r.t.Context())
		must(r.t, fetches.Err0())
		lost = append(lost, fetches.Records()...)
	}
	lost = slices.DeleteFunc(lost, func(rec *kgo.Record) bool { return rec.Attrs.IsControl() })
	producer, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...))
	must(r.t, err)
	r.t.Cleanup(producer.Close)
	admin = kadm.NewClient(producer)
	_, err = admin.DeleteTopic(r.t.Context(), topic)
	must(r.t, err)
	c, ended = r.stays(trouble.Gap)
	return c, ended, lost, admin
}

// goesOn waits until c, which has stopped, streams.
func (r *rig) goesOn(c *Capture, ended func() error) {
	r.t.Helper()
	eventually(r.t, "it goes on by itself", func() bool { st := c.Status(); return st.State == service.StateUpToDate && st.Trouble == nil })
	r.exec(`insert into item values (3, 'three')`)
	r.fence()
	r.same("public", "item")
	must(r.t, ended())
}

// TestStoppedWithoutProgress: what stops a capture as no progress tells of what the topics hold is seen only by who has claimed the source. It looks
// whether that is mended all the same, and fences nobody by it.
func TestStoppedWithoutProgress(t *testing.T) {
	t.Run("restored", func(t *testing.T) { // by somebody who has a copy: that no other instance has begun
		r := newRig(t, 0, kafkatest.Fake(t), tables)
		c, ended, lost, _ := r.losesProgress()
		client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...))
		must(t, err)
		defer client.Close()
		for _, rec := range lost {
			must(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: rec.Topic, Key: rec.Key, Value: rec.Value, Headers: rec.Headers}).FirstErr())
		}
		r.goesOn(c, ended)
	})
	t.Run("deleted", func(t *testing.T) { // all of it, to begin anew
		r := newRig(t, 0, kafkatest.Fake(t), tables)
		c, ended, _, admin := r.losesProgress()
		topics, err := admin.ListTopics(t.Context())
		must(t, err)
		for _, name := range topics.Names() {
			if strings.HasPrefix(name, r.config.Source.Name+".") && name != record.ProgressTopic(r.config.Source.Name) {
				_, err := admin.DeleteTopic(t.Context(), name)
				must(t, err)
			}
		}
		r.goesOn(c, ended)
	})
	t.Run("taken over", func(t *testing.T) { // by one that may jump the gap, and waits for its slot while the look of this one fails
		impatient(t)
		r := newRig(t, 0, kafkatest.Fake(t), tables)
		c, ended, _, _ := r.losesProgress()
		r.exec(fmt.Sprintf("select pg_drop_replication_slot('%s')", r.config.Source.slot()))
		older := r.connect()
		_, err := older.Exec(t.Context(), "begin; select pg_current_xact_id()")
		must(t, err)
		r.options.OnGap = GapResnapshot
		other, _ := r.launch()
		eventually(t, "the other one makes its slot", func() bool { return strings.Contains(other.Status().Headline, "waits for the transaction of pid") })
		c.setStopped(false) // as where a look fails by what is tried again
		looks := counterValue(t, c.meter.errors.WithLabelValues(string(trouble.Gap)))
		eventually(t, "this one has looked twice", func() bool {
			return counterValue(t, c.meter.errors.WithLabelValues(string(trouble.Gap))) >= looks+2
		})
		must(t, older.Close(t.Context()))
		eventually(t, "the other one streams", func() bool { return other.Status().State == service.StateUpToDate })
		if n := counterValue(t, other.meter.errors.WithLabelValues(string(trouble.TransactionTimeout))); n != 0 {
			t.Errorf("it was fenced %v times", n)
		}
		eventually(t, "this one gives way", func() bool { return c.Status().Trouble.Code == trouble.Fenced })
		if err := ended(); trouble.CodeOf(err) != trouble.Fenced {
			t.Errorf("ended with %v", err)
		}
		r.fence()
		r.same("public", "item")
	})
	t.Run("another's slot", func(t *testing.T) { // of the name, which is dropped
		r := newRig(t, 0, kafkatest.Fake(t), tables)
		r.exec(fmt.Sprintf("select pg_create_logical_replication_slot('%s', 'pgoutput', false, true)", r.config.Source.slot()))
		c, ended := r.stays(trouble.Gap)
		r.exec(fmt.Sprintf("select pg_drop_replication_slot('%s')", r.config.Source.slot()))
		r.goesOn(c, ended)
	})
}
