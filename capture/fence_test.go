package capture

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// impatient makes a fenced capture look for another instance for less than a second.
func impatient(t *testing.T) {
	was := claimPatience
	claimPatience = 400 * time.Millisecond
	t.Cleanup(func() { claimPatience = was })
}

// A capture that said nothing in a Kafka transaction for longer than its timeout ended as if another instance had taken
// over, and nobody published any more.
func TestTransactionTimesOut(t *testing.T) {
	each(t, func(t *testing.T, major int, kafka kafkatest.Cluster) {
		impatient(t)
		r := newRig(t, major, kafka, tables+"create table late_1 (id int primary key); create table late_2 (id int primary key); create table late_3 (id int primary key)")
		r.config.Publish.TransactionTimeout = time.Second
		slow := slowRegistry(t, &r.config)
		c, stop := r.start()
		r.fence()
		r.exec("insert into item (id) values (1)")
		r.fence()
		release := make(chan struct{})
		slow.Store(&release)
		// The new versions of three tables in the middle of a transaction: each waits for the registry.
		r.exec(`begin; insert into item (id) select i from generate_series(2, 100) i;
			alter table late_1 add v text; insert into late_1 values (1, 'v');
			alter table late_2 add v text; insert into late_2 values (1, 'v');
			alter table late_3 add v text; insert into late_3 values (1, 'v'); commit`)
		client, err := kgo.NewClient(kgo.SeedBrokers(kafka.Addrs()...))
		must(t, err)
		defer client.Close()
		admin, id, topic := kadm.NewClient(client), publish.TransactionalID(r.config.Source.Name), r.config.Source.Name+".public.item"
		state := func() string {
			described, err := admin.DescribeTransactions(t.Context(), id)
			must(t, err)
			return described[id].State
		}
		holds := func() bool { // the topic has something of a transaction that is not over
			ends, err := admin.ListEndOffsets(t.Context(), topic)
			must(t, err)
			end, ok := ends.Lookup(topic, 0)
			return ok && end.Offset > r.ends(topic)[0]
		}
		// Not a heartbeat's, which is over in a moment: seen open, and then not, it would let the registry go before any of this one had come.
		eventually(t, "the Kafka transaction of the rows is open", func() bool { return state() == "Ongoing" && holds() })
		eventually(t, "the broker has aborted it", func() bool { return state() != "Ongoing" })
		close(release)
		r.fence()
		if got := r.same("public", "item"); len(got.events) != 100 {
			t.Errorf("%d events, want each of 100 once", len(got.events))
		}
		r.same("public", "late_3")
		if n := counterValue(t, c.meter.errors.WithLabelValues(string(trouble.TransactionTimeout))); n < 1 {
			t.Error("the transaction did not time out")
		}
		must(t, stop())
	})
}

// slowRegistry puts a proxy before the registry of config. While it holds a channel, an answer to a registration waits
// until that is closed, but not as long as a client has patience.
func slowRegistry(t *testing.T, config *Config) *atomic.Pointer[chan struct{}] {
	target, err := url.Parse(config.Registry.URL)
	must(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	var slow atomic.Pointer[chan struct{}]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if release := slow.Load(); release != nil && q.Method == http.MethodPost {
			select {
			case <-*release:
			case <-time.After(8 * time.Second):
			}
		}
		proxy.ServeHTTP(w, q)
	}))
	t.Cleanup(server.Close)
	config.Registry.URL = server.URL
	return &slow
}

// An instance that takes over the transactional id and is gone before it has said so has not taken over.
func TestFencedByNobody(t *testing.T) {
	impatient(t)
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	c, stop := r.start()
	r.fence()
	for i := range 3 {
		ghost, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...), kgo.TransactionalID(publish.TransactionalID(r.config.Source.Name)))
		must(t, err)
		_, _, err = ghost.ProducerID(t.Context())
		must(t, err)
		ghost.Close()
		r.exec(fmt.Sprintf("insert into item (id) values (%d)", i))
		r.fence()
	}
	if n := counterValue(t, c.meter.errors.WithLabelValues(string(trouble.TransactionTimeout))); n != 3 {
		t.Errorf("it began again %v times, want 3", n)
	}
	if got := r.same("public", "item"); len(got.events) != 3 {
		t.Errorf("%d events, want each of 3 once", len(got.events))
	}
	must(t, stop())
}

// One that has lost its connections for a while, and comes back when another has taken over, disturbed that one until it
// ended.
func TestTakenOverBetweenSessions(t *testing.T) {
	impatient(t)
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	older, stop := r.start()
	r.fence()
	must(t, stop())
	newer, stop := r.start()
	r.exec("insert into item (id) values (1)")
	r.fence()
	ctx, cancel := context.WithTimeout(t.Context(), pgtest.Patience)
	defer cancel()
	if err := older.session(ctx, false); trouble.CodeOf(err) != trouble.Fenced {
		t.Errorf("its next session ended with %v", err)
	}
	r.exec("insert into item (id) values (2)")
	r.fence()
	if n := counterValue(t, newer.meter.reconnect.WithLabelValues("kafka")); n != 0 {
		t.Errorf("the newer one began again %v times", n)
	}
	if got := r.same("public", "item"); len(got.events) != 2 {
		t.Errorf("%d events, want two", len(got.events))
	}
	must(t, stop())
}

// Of several captures that are there at the same time, and that fence each other at any moment of their starts, one is
// left, and each of the others has ended: none begins again for ever.
func TestOneOfSeveralIsLeft(t *testing.T) {
	impatient(t)
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	r.fence()
	must(t, stop())
	const several = 4
	ended := make(chan error, several)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range several {
		c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
		must(t, err)
		go func() { ended <- c.Run(ctx) }()
	}
	for range several - 1 {
		select {
		case err := <-ended:
			if trouble.CodeOf(err) != trouble.Fenced {
				t.Errorf("one ended with %v", err)
			}
		case <-time.After(pgtest.Patience):
			t.Fatal("several go on")
		}
	}
	r.exec("insert into item (id) values (1)")
	r.fence()
	cancel()
	must(t, <-ended)
	if got := r.same("public", "item"); len(got.events) != 1 {
		t.Errorf("%d events, want one", len(got.events))
	}
}

// An instance that waited for the slot, and was fenced meanwhile, waited on while its successor streamed, and ended a minute
// later with the advice to end that one.
func TestFencedWhileItWaitsForTheSlot(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	r.fence()
	must(t, stop())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cat, err := catalog.Open(ctx, r.dsn, "holder")
	must(t, err)
	defer cat.Close(context.Background())
	slot, err := cat.Slot(ctx, r.config.Source.slot())
	must(t, err)
	conn, err := replication.Open(ctx, r.dsn, "holder", func(postgres.Notice) {})
	must(t, err)
	holder, err := conn.Start(ctx, replication.Reading{
		Slot: r.config.Source.slot(), Publications: []string{r.config.Source.publications().Full}, Confirmed: slot.ConfirmedFlushLSN,
	})
	must(t, err)
	var ended []chan error
	for range 2 {
		c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
		must(t, err)
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		eventually(t, "it has claimed the source", func() bool {
			pr, err := publish.ReadProgress(ctx, r.config.Kafka, r.config.Source.Name, c.log)
			must(t, err)
			return pr.Health.Instance == c.instance
		})
		ended = append(ended, done)
	}
	if err := <-ended[0]; trouble.CodeOf(err) != trouble.Fenced {
		t.Errorf("the older one ended with %v", err)
	}
	must(t, holder.Close())
	r.exec("insert into item (id) values (1)")
	r.fence()
	cancel()
	must(t, <-ended[1])
	if got := r.same("public", "item"); len(got.events) != 1 {
		t.Errorf("%d events, want one", len(got.events))
	}
}

// An instance that was stopped between reading how far the source is published and looking at the slot took what its
// successor had confirmed meanwhile for a gap; with --on-gap=resnapshot it would have dropped that one's slot.
func TestFencedIsNoGap(t *testing.T) {
	impatient(t)
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	r.fence()
	must(t, stop())

	ctx := t.Context()
	late, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
	must(t, err)
	pub, err := publish.Open(ctx, publish.Options{
		Source: r.config.Source.Name, Kafka: r.config.Kafka, Topics: r.config.Topics, Registry: late.registry, Log: late.log,
		TransactionTimeout: r.config.Publish.TransactionTimeout,
	})
	must(t, err)
	defer pub.Close()
	state, err := late.claim(ctx, pub)
	must(t, err)

	_, stop = r.start()
	r.exec("insert into item (id) values (1)")
	r.fence()
	must(t, stop())

	cat, err := catalog.Open(ctx, r.dsn, "late")
	must(t, err)
	defer cat.Close(ctx)
	server, err := cat.Server(ctx)
	must(t, err)
	conn, err := replication.Open(ctx, r.dsn, "late", late.notice)
	must(t, err)
	defer conn.Close(ctx)
	s := &session{config: &late.config, pub: pub}
	s.system, err = conn.Identify(ctx)
	must(t, err)
	if _, err := late.openStream(ctx, s, conn, cat, server, state, nil); trouble.CodeOf(err) != trouble.Fenced {
		t.Errorf("it ended with %v", err)
	}
}
