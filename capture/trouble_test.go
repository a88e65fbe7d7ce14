package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// fails runs a capture that must end by itself with a trouble of this code, complete for a person.
func (r *rig) fails(want trouble.Code) *trouble.Error {
	r.t.Helper()
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{r.t}, nil)))
	must(r.t, err)
	ctx, cancel := context.WithTimeout(context.Background(), pgtest.Patience)
	defer cancel()
	err = c.Run(ctx)
	var e *trouble.Error
	if !errors.As(err, &e) || e.Code != want {
		r.t.Fatalf("capture ended with %v, want a trouble %s", err, want)
	}
	if e.Op == "" || e.Subject == "" || e.Cause == nil || e.Means == "" || e.Hint == "" {
		r.t.Errorf("the trouble is not complete: %+v", e)
	}
	if got := c.Status(); got.State != "stopped" || got.Trouble == nil || got.Trouble.Code != want {
		r.t.Errorf("status says %s, %+v", got.State, got.Trouble)
	}
	return e
}

func TestUnknownKey(t *testing.T) {
	var cfg Config
	err := config.Decode("capture.yaml", []byte("source: {name: shop, dsn: x, tabels: [a.b]}\nkafka: {brokers: [b:1]}\nregistry: {url: \"http://r\"}"), &cfg)
	if err == nil || !strings.Contains(err.Error(), "source.tabels") || !strings.Contains(err.Error(), `"tables"`) {
		t.Errorf("got %v, want the key and the nearest known one", err)
	}
}

func TestConfigIsDescribed(t *testing.T) { config.CheckStruct(t, Config{}) }

func TestWALLevelReplica(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	c := pgtest.New(t, pgtest.Options{Settings: map[string]string{"wal_level": "replica"}})
	r.config.Source.DSN = config.Secret(c.DSN("postgres"))
	r.fails(trouble.WALLevel)
	report, err := r.verbs().Ask(t.Context(), service.Whom{})
	must(t, err)
	if report.Trouble == nil || report.Trouble.Code != trouble.WALLevel || !strings.Contains(report.Headline, "not running, and cannot go on: wal-level") {
		t.Errorf("while no capture runs: %s: %+v", report.Sentence(), report.Trouble)
	}
}

func TestSlotsExhausted(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	cluster := pgtest.New(t, pgtest.Options{Settings: map[string]string{"max_replication_slots": "1"}})
	conn, err := pgx.Connect(t.Context(), cluster.DSN("postgres"))
	must(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), "select pg_create_physical_replication_slot('a_standby')")
	must(t, err)
	r.config.Source.DSN = config.Secret(cluster.DSN("postgres"))
	if e := r.fails(trouble.SlotsExhausted); !strings.Contains(e.Error(), "1 of 1 slots are in use") {
		t.Error(e)
	}
}

// Somebody else's publication can break the application's own UPDATEs. A check tells of it.
func TestPublicationBreaksApplication(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), "create table keyless (v int); create publication theirs for table keyless")
	var out strings.Builder
	if err := r.verbs().Check(t.Context(), terminal.NewCheck("capture", &out)); trouble.CodeOf(err) != trouble.PublicationBreaksApp ||
		!strings.Contains(out.String(), `public.keyless has no replica identity, and publication "theirs" publishes its UPDATE`) {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestMissingRights(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	role := fmt.Sprintf("poor_%d", time.Now().UnixNano())
	r.exec("create role " + role + " login")
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), r.dsn)
		must(t, err)
		defer conn.Close(context.Background())
		_, err = conn.Exec(context.Background(), "drop owned by "+role+"; drop role "+role)
		must(t, err)
	})
	dsn, err := pgx.ParseConfig(r.dsn)
	must(t, err)
	r.config.Source.DSN = config.Secret(fmt.Sprintf("postgres://%s@%s:%d/%s", role, dsn.Host, dsn.Port, dsn.Database))
	mistyped := *r
	mistyped.config.Source.DSN = "postgres:/poor@localhost/shop"
	if e := mistyped.fails(trouble.Config); !strings.Contains(e.Hint, "source.dsn") { // and no host is asked for ever
		t.Errorf("hint %q", e.Hint)
	}
	mistyped.config.Source.DSN = config.Secret(fmt.Sprintf("postgres://%s@%s:%d/no_such", role, dsn.Host, dsn.Port))
	if e := mistyped.fails(trouble.SourceRights); !strings.Contains(e.Hint, "database") {
		t.Errorf("hint %q", e.Hint)
	}
	if e := r.fails(trouble.SourceRights); !strings.Contains(e.Hint, "REPLICATION") {
		t.Errorf("hint %q does not say how to give the right", e.Hint)
	}
	r.exec("alter role " + role + " replication")
	r.fails(trouble.SourceRights) // no CREATE on the database, no owner of the tables
	var out strings.Builder
	c, err := New(r.config, r.options, slog.New(slog.DiscardHandler))
	must(t, err)
	if err := c.Check(t.Context(), terminal.NewCheck("capture", &out)); trouble.CodeOf(err) != trouble.SourceRights || !strings.Contains(out.String(), "GRANT CREATE ON DATABASE") {
		t.Errorf("check: %v\n%s", err, out.String())
	}
	r.exec(`do $$ begin execute format('grant create on database %I to ` + role + `', current_database()); end $$`)
	out.Reset()
	if err := c.Check(t.Context(), terminal.NewCheck("capture", &out)); trouble.CodeOf(err) != trouble.SourceRights || !strings.Contains(out.String(), "has the rights of no owner") {
		t.Errorf("check of a role that may publish no table: %v\n%s", err, out.String())
	}
}

func TestSlotInUse(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	r.fence()
	// Another capture of the same slot under another name: Kafka cannot fence the one by the other.
	other := *r
	other.config.Source.Slot = r.config.Source.slot()
	other.config.Source.Name += "_other"
	patience := slotPatience
	slotPatience = time.Second
	t.Cleanup(func() { slotPatience = patience })
	e := other.fails(trouble.SlotInUse)
	other.config.Source.Failover = !r.config.Source.Failover // which the server would wait to set for as long as it is in use
	other.fails(trouble.SlotInUse)
	other.config.Source.Failover = r.config.Source.Failover
	if !strings.Contains(e.Error(), "pid") || !strings.Contains(e.Hint, "pg_terminate_backend") {
		t.Errorf("%v, hint %q: want the holder and how to end it", e, e.Hint)
	}
	c, ended := other.stays(trouble.SlotInUse)
	eventually(t, "who holds the slot is told, and the next try", func() bool {
		st := c.Status()
		return strings.HasPrefix(st.Holder, "pid ") && strings.Contains(st.Holder, "tributary capture") && st.Trouble.Tries > 1 && !st.Trouble.NextTry.IsZero() &&
			strings.Contains(st.Needs[0].Why, "tried ")
	})
	must(t, stop())
	eventually(t, "it goes on when the slot is free", func() bool { st := c.Status(); return st.State == service.StateUpToDate && st.Trouble == nil })
	must(t, ended())
}

// A slot cannot be made while a transaction is open that has written: whose it is, and how to end it, is told before anybody asks the server.
func TestSlotWaitsForTransaction(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	dsn := r.dsn + map[bool]string{true: "&", false: "?"}[strings.Contains(r.dsn, "?")] + "application_name=report"
	open, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	defer open.Close(context.Background())
	_, err = open.Exec(t.Context(), "begin; insert into item (id) values (1)")
	must(t, err)
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	pid := open.PgConn().PID()
	eventually(t, "the status names it", func() bool {
		st := c.Status()
		return st.State == service.StateStarting && strings.Contains(st.Headline, fmt.Sprintf("waits for the transaction of pid %d (report, user ", pid))
	})
	st := c.Status()
	st.judge(time.Now().Add(service.WaitingAfter), 0)
	if len(st.Needs) != 1 || st.Needs[0].Code != trouble.SlotWaits || st.Needs[0].Do[0].Command != fmt.Sprintf("SELECT pg_terminate_backend(%d);", pid) {
		t.Fatalf("%+v", st.Needs)
	}
	r.exec(st.Needs[0].Do[0].Command)
	eventually(t, "it goes on", func() bool { st := c.Status(); return st.State == service.StateUpToDate && st.WaitingOn == "" })
	// Later it keeps WAL, and is told when it is old.
	r.exec("begin; insert into item (id) values (2)")
	pid = r.conn.PgConn().PID()
	eventually(t, "the status knows it", func() bool { st = c.Status(); return st.Oldest != nil && st.Oldest.PID == int(pid) })
	old := func(n service.Need) bool { return n.Code == trouble.OldTransaction }
	if slices.ContainsFunc(st.Needs, old) {
		t.Errorf("told while it is young: %+v", st.Needs)
	}
	st.judge(time.Now().Add(oldTransactionTold), 0)
	if i := slices.IndexFunc(st.Needs, old); i < 0 || st.Needs[i].Urgent || st.Needs[i].Do[0].Command != fmt.Sprintf("SELECT pg_terminate_backend(%d);", pid) {
		t.Errorf("%+v", st.Needs)
	}
	r.exec("commit")
	eventually(t, "it is over", func() bool { return c.Status().Oldest == nil })
	cancel()
	must(t, <-done)
}

// TestPreparedTransactions: one that was prepared, and forgotten, holds a new slot up, and later keeps WAL, as one of a session does. No session
// tells of it.
func TestPreparedTransactions(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), "")
	r.own(0, map[string]string{"max_prepared_transactions": "5"})
	r.exec(tables)
	r.exec(`begin; insert into item (id) values (1); prepare transaction 'a 1'`)
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	const whose = `prepared as "a 1" (user postgres, database postgres), open for `
	eventually(t, "the status names it", func() bool { return strings.Contains(c.Status().Headline, "waits for the transaction "+whose) })
	st := c.Status()
	st.judge(time.Now().Add(service.WaitingAfter), 0)
	if len(st.Needs) != 1 || st.Needs[0].Code != trouble.SlotWaits || st.Needs[0].Do[0].Command != "ROLLBACK PREPARED 'a 1';" {
		t.Fatalf("%+v", st.Needs)
	}
	r.exec(st.Needs[0].Do[0].Command)
	eventually(t, "it goes on", func() bool { st := c.Status(); return st.State == service.StateUpToDate && st.WaitingOn == "" })
	r.exec(`begin; insert into item (id) values (1); prepare transaction 'a 1'`)
	eventually(t, "the status knows it", func() bool { st = c.Status(); return st.Oldest != nil && st.Oldest.GID == "a 1" })
	st.judge(time.Now().Add(oldTransactionTold), 0)
	if i := slices.IndexFunc(st.Needs, func(n service.Need) bool { return n.Code == trouble.OldTransaction }); i < 0 || !strings.Contains(st.Needs[i].What, whose) {
		t.Errorf("%+v", st.Needs)
	}
	r.exec(`commit prepared 'a 1'`)
	r.fence()
	r.same("public", "item")
	cancel()
	must(t, <-done)
}

// stays runs a capture as its program does until it has stopped with a trouble of this code. ended ends it and gives its error.
func (r *rig) stays(want trouble.Code) (c *Capture, ended func() error) {
	r.t.Helper()
	backoff := stoppedBackoff
	stoppedBackoff = retry.Backoff{Min: 100 * time.Millisecond, Max: 100 * time.Millisecond}
	r.t.Cleanup(func() { stoppedBackoff = backoff })
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{r.t}, nil)))
	must(r.t, err)
	told := make(chan error, 10)
	c.stays = func(err error) { told <- err }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	ended = sync.OnceValue(func() error { cancel(); return <-done })
	r.t.Cleanup(func() { _ = ended() })
	select {
	case err := <-told:
		if trouble.CodeOf(err) != want {
			r.t.Fatalf("stopped by %v, want a trouble %s", err, want)
		}
	case err := <-done:
		r.t.Fatalf("ended by %v", err)
	case <-time.After(pgtest.Patience):
		r.t.Fatal("it has not stopped")
	}
	for range 3 { // it looks again, and is stopped all the while
		had := counterValue(r.t, c.meter.errors.WithLabelValues(string(want)))
		eventually(r.t, "it looks again", func() bool {
			if st := c.Status(); st.State != service.StateStopped || st.Trouble == nil || st.Trouble.Code != want || c.active.Load() {
				r.t.Fatalf("status says %s, %+v", st.State, st.Trouble)
			}
			return counterValue(r.t, c.meter.errors.WithLabelValues(string(want))) > had
		})
	}
	if len(told) > 0 {
		r.t.Error("the same is told again and again")
	}
	return c, ended
}

// A capture that has stopped says so until it is ended, and with an error then. It goes on by itself, but takes the source over from nobody.
func TestStoppedStays(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	r.fence()
	must(t, stop())
	eventually(t, "the slot is dropped", func() bool {
		_, err := r.conn.Exec(t.Context(), fmt.Sprintf("select pg_drop_replication_slot('%s')", r.config.Source.slot()))
		return err == nil
	})
	c, ended := r.stays(trouble.SlotMissing)
	must(t, testutil.CollectAndCompare(&gauges{c}, strings.NewReader(fmt.Sprintf(`
# HELP tributary_capture_active 1 if this instance is the one that publishes; 0 on standby, when it has stopped, and until it has begun.
# TYPE tributary_capture_active gauge
tributary_capture_active{source=%[1]q} 0
# HELP tributary_capture_slot_status 1 for the status of the slot, as the server tells it.
# TYPE tributary_capture_slot_status gauge
tributary_capture_slot_status{source=%[1]q,status="extended"} 0
tributary_capture_slot_status{source=%[1]q,status="lost"} 0
tributary_capture_slot_status{source=%[1]q,status="missing"} 1
tributary_capture_slot_status{source=%[1]q,status="reserved"} 0
tributary_capture_slot_status{source=%[1]q,status="unreserved"} 0
`, r.config.Source.Name)), "tributary_capture_active", "tributary_capture_slot_status"))
	if err := ended(); trouble.CodeOf(err) != trouble.SlotMissing {
		t.Errorf("ended with %v", err)
	}
	patience := standbyPatience
	standbyPatience = 200 * time.Millisecond
	t.Cleanup(func() { standbyPatience = patience })
	standby := *r
	standby.options.Standby = true
	_, ended = standby.stays(trouble.SlotMissing)
	_ = ended()
	c, ended = r.stays(trouble.SlotMissing)
	r.options.OnGap = GapResnapshot
	_, stop = r.start()
	eventually(t, "the other one gives way", func() bool { return c.Status().Trouble.Code == trouble.Fenced })
	if err := ended(); trouble.CodeOf(err) != trouble.Fenced {
		t.Errorf("ended with %v", err)
	}
	r.fence()
	must(t, stop())
}

func TestFencedByNewerInstance(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	first, err := New(r.config, r.options, slog.New(slog.DiscardHandler))
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- first.Run(t.Context()) }()
	eventually(t, "the first streams", func() bool { return first.Status().State != "starting" })
	_, stop := r.start()
	select {
	case err := <-ended:
		if trouble.CodeOf(err) != trouble.Fenced {
			t.Errorf("the first ended with %v, want it fenced", err)
		}
	case <-time.After(pgtest.Patience):
		t.Error("the first was not fenced")
	}
	r.exec("insert into item (id) values (1)")
	r.fence()
	r.same("public", "item")
	must(t, stop())
}

func TestSlotGoneOrAdvancedIsAGap(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.exec("insert into item select i, 'a' from generate_series(1, 300) i; insert into full_bag values (1, 'a'), (1, 'a')")
	_, stop := r.start()
	r.fence()
	must(t, stop())
	slot := r.config.Source.slot()
	eventually(t, "the server has noticed that nobody streams any more", func() bool {
		var active bool
		must(t, r.conn.QueryRow(t.Context(), "select active from pg_replication_slots where slot_name = $1", slot).Scan(&active))
		return !active
	})
	r.exec("update item set name = 'missed' where id = 1; delete from item where id = 2; delete from full_bag where ctid = (select min(ctid) from full_bag)")
	r.exec(fmt.Sprintf("select pg_replication_slot_advance('%s', pg_current_wal_lsn())", slot))
	r.fails(trouble.Gap)
	r.exec(fmt.Sprintf("select pg_drop_replication_slot('%s')", slot))
	r.fails(trouble.SlotMissing)
	report, err := r.verbs().Ask(t.Context(), service.Whom{})
	must(t, err)
	if report.Trouble == nil || report.Trouble.Code != trouble.SlotMissing || len(report.Needs) != 1 || !report.Needs[0].Urgent {
		t.Errorf("while no capture runs: %s: %+v, %+v", report.Sentence(), report.Trouble, report.Needs)
	}
	r.options.OnGap = GapResnapshot
	_, stop = r.start()
	r.fence()
	r.same("public", "item")
	r.same("public", "full_bag")
	must(t, stop())
}

func TestUnreachable(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, closed.Close())
	address := closed.Addr().String()
	for what, broken := range map[string]struct {
		code trouble.Code
		set  func(*Config)
	}{
		"source":   {trouble.SourceUnreachable, func(c *Config) { c.Source.DSN = config.Secret("postgres://u:hidden-word@" + address + "/d") }},
		"kafka":    {trouble.KafkaUnreachable, func(c *Config) { c.Kafka.Brokers = []string{address} }},
		"registry": {trouble.RegistryUnreachable, func(c *Config) { c.Registry.URL = "http://" + address }},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, 0, kafkatest.Fake(t), tables)
			good := r.config
			broken.set(&r.config)
			c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
			must(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- c.Run(ctx) }()
			// It is tried again and again, and says so.
			eventually(t, "the status names the trouble", func() bool {
				st := c.Status()
				return st.State == "waiting" && st.Trouble != nil && st.Trouble.Code == broken.code && !strings.Contains(fmt.Sprint(*st.Trouble), "hidden-word")
			})
			cancel()
			if err := <-done; err != nil {
				t.Errorf("stopped while waiting: %v", err)
			}
			r.config = good
			_, stop := r.start()
			r.fence()
			must(t, stop())
		})
	}
}

func TestBrokerGoesAndComesBack(t *testing.T) {
	kafka := kafkatest.Fake(t)
	r := newRig(t, 0, kafka, tables)
	r.exec("insert into item select i, 'a' from generate_series(1, 300) i")
	_, stop := r.start()
	r.fence()
	must(t, kafka.Kill())
	r.exec("update item set name = 'while away' where id % 3 = 0")
	must(t, kafka.Restart(t.Context()))
	r.exec("update item set name = 'back' where id % 5 = 0")
	r.fence()
	r.same("public", "item")
	must(t, stop())
}

// A Kafka that hangs is told of within ten seconds, also by a capture that has nothing to write: it asks between two records of
// its progress, which are five seconds apart. One that pauses for less than WaitingAfter is not told of.
func TestKafkaHangs(t *testing.T) {
	fake := kafkatest.Fake(t)
	r := newRig(t, 17, fake, `create table t (id int primary key)`)
	r.config.Source.Heartbeat = 0
	var ended atomic.Int64 // when the last transaction was, since began
	began, asked := time.Now(), make(chan time.Time, 1)
	fake.Kfake().ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		ended.Store(int64(time.Since(began)))
		return nil, nil, false
	})
	fake.Kfake().ControlKey(int16(kmsg.DescribeTransactions), func(kmsg.Request) (kmsg.Response, error, bool) {
		if time.Since(began)-time.Duration(ended.Load()) < askInterval { // its end is asked for, which nobody waits for for long
			fake.Kfake().KeepControl()
			return nil, nil, false
		}
		asked <- time.Now()
		return nil, fake.Pause(), false
	})
	c, _ := r.start()
	var hangs time.Time
	select {
	case hangs = <-asked:
	case <-time.After(pgtest.Patience):
		t.Fatal("a capture that has nothing to write does not ask")
	}
	eventually(t, "it is told", func() bool { return c.Status().State == service.StateWaiting })
	if after := time.Since(hangs); after < service.WaitingAfter-time.Second || after+askInterval >= 10*time.Second {
		t.Errorf("that Kafka hangs is told %s after it was asked", after)
	}
	st := c.Status()
	if len(st.Needs) != 1 || st.Needs[0].Code != trouble.KafkaUnreachable || !strings.Contains(st.Headline, "waits for Kafka, for ") {
		t.Errorf("%s; %+v", st.Headline, st.Needs)
	}
	must(t, fake.Resume())
	eventually(t, "it goes on", func() bool { st := c.Status(); return st.State == service.StateUpToDate && len(st.Needs) == 0 })
}

// A broker that takes no record of a topic, as that has too few replicas in sync, is waited for. The client sends again and again, and
// says so nowhere; capture does: which topic, which broker, what it means, what to do. It goes on by itself. Brokers of a cluster of one
// never lack any: they want no more replicas than there are.
func TestNotEnoughReplicas(t *testing.T) {
	for _, refuses := range []*kerr.Error{kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend} {
		t.Run(refuses.Message, func(t *testing.T) {
			fake := kafkatest.Fake(t)
			r := newRig(t, 17, fake, `create table t (id int primary key)`)
			c, stop := r.start()
			r.fence()
			topic := r.config.Source.Name + ".public.t"
			lack := fake.Kfake().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: refuses, Count: -1})
			r.exec("insert into t values (1)")
			eventually(t, "it is told", func() bool {
				st := c.Status()
				return st.Trouble != nil && st.Trouble.Code == trouble.KafkaNotEnoughReplicas
			})
			st := c.Status()
			if st.State != service.StateWaiting || !strings.HasPrefix(st.Headline, "waits for more in-sync replicas, for ") || len(st.Needs) != 1 {
				t.Fatalf("%s: %q; %+v", st.State, st.Headline, st.Needs)
			}
			n, broker := st.Needs[0], fake.Addrs()[0]
			if n.Urgent || n.What != fmt.Sprintf("cannot publish to topic %q partition 0", topic) || !strings.HasPrefix(n.Why, "broker "+broker+": "+refuses.Message+":") ||
				!strings.HasPrefix(n.Means, "nothing is lost: the source keeps its WAL, ") ||
				n.Do[len(n.Do)-1].Command != "kafka-topics.sh --bootstrap-server "+broker+" --describe --under-min-isr-partitions" {
				t.Errorf("%+v", n)
			}
			lack.Remove()
			eventually(t, "it goes on", func() bool { st := c.Status(); return st.State == service.StateUpToDate && len(st.Needs) == 0 })
			r.same("public", "t")
			must(t, stop())
		})
	}
}

// A capture that starts waits for a topic that it has written to and nobody lists. It says at once for which, and what to do.
func TestStartWaitsForATopic(t *testing.T) {
	r := newRig(t, 17, kafkatest.Fake(t), `create table t (id int primary key); insert into t values (1)`)
	_, stop := r.start()
	r.fence()
	must(t, stop())
	client, err := kgo.NewClient(kgo.SeedBrokers(r.kafka.Addrs()...))
	must(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).DeleteTopic(t.Context(), r.config.Source.Name+".public.t")
	must(t, err)
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	began := time.Now()
	eventually(t, "it is told", func() bool { return c.Status().State == service.StateWaiting })
	if after := time.Since(began); after > 15*time.Second {
		t.Errorf("it is told after %s", after)
	}
	st := c.Status()
	if want := fmt.Sprintf("waits: cannot find topic %q.", r.config.Source.Name+".public.t"); st.Headline != want || len(st.Needs) != 1 || st.Needs[0].Code != trouble.TopicRecreated {
		t.Fatalf("%q; %+v", st.Headline, st.Needs)
	}
	n := st.Needs[0]
	if len(n.Do) != 2 || !strings.Contains(n.Means, "after 30 s capture goes on") || !strings.Contains(n.Means, "its table read again") || n.Why == "" {
		t.Errorf("%+v", n)
	}
	cancel()
	must(t, <-ended)
}

func TestSourceGoesAndComesBack(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	cluster := pgtest.New(t, pgtest.Options{})
	r.dsn = cluster.DSN("postgres")
	r.config.Source.DSN = config.Secret(r.dsn)
	connect := func() {
		var err error
		r.conn, err = pgx.Connect(t.Context(), r.dsn)
		must(t, err)
	}
	connect()
	r.exec(tables + "insert into item select i, 'a' from generate_series(1, 300) i")
	_, stop := r.start()
	r.fence()
	must(t, cluster.Kill())
	must(t, cluster.Restart(t.Context()))
	connect()
	r.exec("update item set name = 'after' where id % 3 = 0")
	r.fence()
	r.same("public", "item")
	must(t, stop())
}
