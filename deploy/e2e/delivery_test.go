package e2e

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// TestAtLeastOnce lets an older capture write on beside a newer one: its topic has changes twice, a warehouse has them once.
func TestAtLeastOnce(t *testing.T) {
	kafka := kafkatest.Fake(t)
	registry := kafkatest.Registry(t)
	cluster := pgtest.Shared(t, 0)
	dsn, warehouse := pgtest.Database(t, cluster), pgtest.Database(t, cluster)
	s := newSource(t, "twice", dsn, kafka, registry)
	s.config.Publish.Delivery = "at-least-once"
	t.Cleanup(func() { dropSlot(t, dsn, "tributary_twice") })
	dwh := connect(t, warehouse)
	exec(t, s.conn, `create table account (id int primary key, n int not null default 0); insert into account select i from generate_series(1, 10) i`)
	for group, mode := range map[string]string{"now": "clone", "log": "log"} {
		startGroup(t, kafka, registry, warehouse, group, `{from: "public.*", to: "`+group+`.{table}", mode: `+mode+`}`)
	}
	reached := func(id string) {
		t.Helper()
		for _, group := range []string{"now", "log"} {
			fence(t, dwh, group, []*source{s}, id+group)
		}
	}

	var hold atomic.Bool
	held, release := make(chan struct{}), make(chan struct{})
	kafka.Kfake().ControlKey(int16(kmsg.Produce), func(q kmsg.Request) (kmsg.Response, error, bool) {
		kafka.Kfake().KeepControl()
		if q.(*kmsg.ProduceRequest).TransactionID == nil && hold.CompareAndSwap(true, false) {
			close(held)
			kafka.Kfake().SleepControl(func() { <-release })
		}
		return nil, nil, false
	})
	older, err := capture.New(s.config, capture.Options{}, quiet())
	must(t, err)
	s.capture = older
	over := make(chan error, 1)
	run(t, "the older capture", func(ctx context.Context) error {
		over <- older.Run(ctx)
		return nil
	})
	reached("before")

	hold.Store(true)
	exec(t, s.conn, `begin; insert into account select i from generate_series(11, 50) i; update account set n = n + 1; commit`)
	<-held
	first := older.Status().Instance
	s.capture, err = capture.New(s.config, capture.Options{}, quiet())
	must(t, err)
	run(t, "the newer capture", s.capture.Run)
	eventually(t, "the newer capture has claimed the source, which waits for the slot", func() bool {
		pr, err := publish.ReadProgress(t.Context(), s.config.Kafka, s.name, slog.New(slog.DiscardHandler))
		must(t, err)
		return pr.Health.Instance != first
	})
	exec(t, s.conn, `select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'tributary_twice'`)
	exec(t, s.conn, `update account set n = n + 1; delete from account where id % 2 = 0`)
	reached("newer")

	client, err := kgo.NewClient(kgo.SeedBrokers(kafka.Addrs()...))
	must(t, err)
	defer client.Close()
	records := func() (n int64) {
		ends, err := kadm.NewClient(client).ListEndOffsets(t.Context(), "twice.public.account")
		must(t, err)
		ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
		return n
	}
	n := records()
	close(release)
	eventually(t, "what the older capture had on its way has come", func() bool { return records() > n })
	if err := <-over; trouble.CodeOf(err) != trouble.Fenced {
		t.Errorf("the older capture ended with %v", err)
	}
	exec(t, s.conn, `insert into account values (100)`)
	reached("after")
	const rows = `select concat_ws(' ', id, n) from `
	differ(t, "account", texts(t, dsn, rows+`public.account order by id`), textsOf(t, dwh, rows+`now.account order by id`))
	const changes = 40 + 50 + 50 + 25 + 1
	if got := scalar[int](t, dwh, `select count(*) from log.account where change_op in ('c', 'u', 'd')`); got != changes {
		t.Errorf("the log has %d changes, the source made %d", got, changes)
	}
}
