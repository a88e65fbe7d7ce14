package capture

import (
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/registry"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// movable is a registry that is another one from one moment to the next, at the same address.
type movable struct {
	t  *testing.T
	is atomic.Pointer[url.URL]
}

// moves puts a movable registry in the place of the rig's, whose readers keep the one that it is at first.
func (r *rig) moves(is string) *movable {
	r.t.Helper()
	m := &movable{t: r.t}
	m.becomes(is)
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:  func(p *httputil.ProxyRequest) { p.SetURL(m.is.Load()) },
		ErrorLog: log.New(io.Discard, "", 0), // requests that are given up
	})
	r.t.Cleanup(server.Close)
	r.config.Registry.URL = is
	var err error
	r.registry, err = registry.New(r.config.Registry)
	must(r.t, err)
	r.config.Registry.URL = server.URL
	return m
}

func (m *movable) becomes(is string) {
	m.t.Helper()
	u, err := url.Parse(is)
	must(m.t, err)
	m.is.Store(u)
}

// olderCopy gives an empty registry what the one at from had when it had n schemas.
func olderCopy(t *testing.T, from, to string, n int) {
	t.Helper()
	old, err := sr.NewClient(sr.URLs(from))
	must(t, err)
	fresh, err := sr.NewClient(sr.URLs(to))
	must(t, err)
	for id := 1; id <= n; id++ {
		schema, err := old.SchemaByID(t.Context(), id)
		must(t, err)
		usages, err := old.SchemaUsagesByID(t.Context(), id)
		must(t, err)
		for _, usage := range usages {
			got, err := fresh.RegisterSchema(t.Context(), usage.Subject, schema, -1, -1)
			must(t, err)
			if got != id {
				t.Fatalf("schema %d is %d in the copy", id, got)
			}
		}
	}
}

func subjectsAt(t *testing.T, url string) []string {
	t.Helper()
	client, err := sr.NewClient(sr.URLs(url))
	must(t, err)
	subjects, err := client.Subjects(t.Context())
	must(t, err)
	return subjects
}

// withRegistries runs a test on each kind of registry; empty gives the URL of one that knows nothing.
func withRegistries(t *testing.T, test func(t *testing.T, empty func() string)) {
	for kind, run := range map[string]func(testing.TB) string{"own": kafkatest.Registry, "apicurio": kafkatest.Apicurio} {
		t.Run(kind, func(t *testing.T) { test(t, func() string { return run(t) }) })
	}
}

// An emptied registry counts from the beginning again, so what is published with its numbers reads as records of other tables. A
// capture that has stopped by that knows nothing of what the emptied one said when the other is back.
func TestRegistryLostItsSchemas(t *testing.T) {
	withRegistries(t, func(t *testing.T, empty func() string) {
		kept := empty()
		r := newRig(t, 0, kafkatest.Fake(t), tables)
		m := r.moves(kept)
		_, stop := r.start()
		r.fence()
		must(t, stop())
		m.becomes(empty())
		r.exec("alter table item add column added int; create table a_first (id int primary key)")
		r.fails(trouble.SchemaUnknown)
		c, ended := r.stays(trouble.SchemaUnknown)
		m.becomes(kept)
		eventually(t, "it goes on", func() bool { return c.Status().State == service.StateUpToDate })
		r.exec("insert into item (id, added) values (1, 1); insert into a_first values (1)")
		r.fence()
		r.same("public", "item")
		r.same("public", "a_first")
		must(t, ended())
	})
}

// An emptied registry may give a table the number that it had. That is no loss where it is the same version, and is one where it is not.
func TestRegistryGivesNumbersAgain(t *testing.T) {
	withRegistries(t, func(t *testing.T, empty func() string) {
		r := newRig(t, 0, kafkatest.Fake(t), "create table single (id int primary key)")
		kept := empty()
		m := r.moves(kept)
		_, stop := r.start()
		r.exec("insert into single values (1)")
		r.fence()
		must(t, stop())
		m.becomes(empty())
		_, stop = r.start()
		r.exec("insert into single values (2)")
		r.fence()
		r.same("public", "single")
		must(t, stop())
		r.exec("alter table single add column v text")
		m.becomes(empty())
		r.fails(trouble.SchemaUnknown)
		r.fails(trouble.SchemaUnknown) // which has the number by now
		m.becomes(kept)
		_, stop = r.start()
		r.exec("insert into single values (3)")
		r.fence()
		if events := r.read("public", "single").events; events[len(events)-1] != `c - | "3",NULL` {
			t.Errorf("read by who has the schemas: %q", events)
		}
		must(t, stop())
	})
}

// Where Kafka has lost everything, and the registry with it, a capture that runs begins again with the numbers that this one gives: who
// reads the new topics finds their schemas.
func TestKafkaAndRegistryLost(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables+"create table a_first (id int primary key);")
	m := r.moves(kafkatest.Registry(t))
	_, stop := r.start()
	r.exec("insert into item values (1, 'one'); drop table a_first") // the numbers are others then
	r.fence()
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...))
	must(t, err)
	defer client.Close()
	admin := kadm.NewClient(client)
	topics, err := admin.ListTopics(t.Context())
	must(t, err)
	for _, name := range topics.Names() {
		if strings.HasPrefix(name, r.config.Source.Name+".") {
			_, err = admin.DeleteTopic(t.Context(), name)
			must(t, err)
		}
	}
	empty := kafkatest.Registry(t)
	m.becomes(empty)
	r.exec(fmt.Sprintf(`select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '%s'`, r.config.Source.slot()))
	eventually(t, "the schemas are registered anew", func() bool {
		return slices.Contains(subjectsAt(t, empty), r.config.Source.Name+".public.item-value")
	})
	r.moves(empty) // whose reader knows no other
	r.exec("insert into item values (2, 'two')")
	r.fence()
	r.same("public", "item")
	must(t, stop())
	_, stop = r.start()
	r.exec("insert into item values (3, 'three')")
	r.fence()
	must(t, stop())
}

// A capture that runs goes on with the numbers that it has, and says what is lost. It takes no number of a registry that has lost
// its schemas, and gives it none, but stops, until the registry has them again.
func TestRegistryLosesSchemasWhileRunning(t *testing.T) {
	withRegistries(t, func(t *testing.T, empty func() string) {
		backoff := stoppedBackoff
		stoppedBackoff = retry.Backoff{Min: 100 * time.Millisecond, Max: 100 * time.Millisecond}
		t.Cleanup(func() { stoppedBackoff = backoff })
		kept := empty()
		r := newRig(t, 0, kafkatest.Fake(t), "create table a (id int primary key); create table b (id int primary key, v text)")
		r.config.Source.Refresh = 100 * time.Millisecond
		m := r.moves(kept)
		c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
		must(t, err)
		told := make(chan error, 100)
		c.stays = func(err error) { told <- err }
		ended := make(chan error, 1)
		go func() { ended <- c.Run(t.Context()) }()
		t.Cleanup(func() { <-ended })
		eventually(t, "it streams", func() bool { return c.Status().State == service.StateUpToDate })
		r.exec("alter table a add column second int")
		r.exec("insert into a values (1, 1)") // registered by a capture that runs, and lost in the older copy
		r.fence()
		lost := func() bool {
			st := c.Status()
			return slices.ContainsFunc(st.Needs, func(n service.Need) bool { return n.Code == trouble.SchemaUnknown && n.Urgent })
		}
		older := empty()
		olderCopy(t, kept, older, 4)
		for what, is := range map[string]string{"emptied": empty(), "an older copy": older} {
			before := subjectsAt(t, is)
			m.becomes(is)
			eventually(t, what+" is told", lost)
			r.exec("insert into b select coalesce(max(id), 0) + 1 from b")
			r.fence() // it goes on
			column := map[string]string{"emptied": "third", "an older copy": "fourth"}[what]
			r.exec("alter table b add column " + column + " int")
			r.exec("update b set " + column + " = 4")
			if err := <-told; trouble.CodeOf(err) != trouble.SchemaUnknown {
				t.Fatalf("stopped by %v", err)
			}
			if after := subjectsAt(t, is); !slices.Equal(before, after) {
				t.Errorf("%s: subjects were %q and are %q", what, before, after)
			}
			m.becomes(kept)
			eventually(t, "it goes on", func() bool { return c.Status().State == service.StateUpToDate && !lost() })
			r.fence()
			r.same("public", "a")
			r.same("public", "b")
		}
	})
}

// TestReadyUntilStopped: what is ready stays so while the source is away, as to start anew mends nothing, and no longer where it stops.
func TestReadyUntilStopped(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
	must(t, err)
	said := make(chan string, 100)
	c.ready = func(missing ...string) { said <- "is " + strings.Join(missing, "") }
	c.lacks = func(missing ...string) { said <- "lacks " + strings.Join(missing, "") }
	done := make(chan error, 1)
	go func() { done <- c.Run(t.Context()) }()
	hears := func(want string) { // what is said of a session that has come up in between is passed over
		t.Helper()
		for {
			select {
			case got := <-said:
				if got == want {
					return
				}
				if strings.HasPrefix(got, "is ") && got != "is " {
					t.Errorf("/readyz %s, want %s", got, want)
				}
			case <-time.After(pgtest.Patience):
				t.Fatalf("/readyz does not say that it %s", want)
			}
		}
	}
	hears("is ")
	slot := r.config.Source.slot()
	r.exec("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '" + slot + "'")
	hears("lacks " + string(trouble.SourceUnreachable))
	hears("is ")
	eventually(t, "the slot is dropped", func() bool {
		_, err := r.conn.Exec(t.Context(), "select pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '"+slot+"'")
		return err == nil
	})
	hears("is " + string(trouble.SlotMissing))
	if err := <-done; trouble.CodeOf(err) != trouble.SlotMissing {
		t.Error(err)
	}
}
