package capture

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// standsStill waits until the session of c stands still for a pause. The status says a moment earlier that it is paused: what comes between is published yet.
func standsStill(t *testing.T, c *Capture) {
	t.Helper()
	eventually(t, "it stands still", func() bool {
		return slices.ContainsFunc(c.stages.Snapshot(), func(st service.StageState) bool { return st.WaitingOn == waitResume })
	})
}

// TestPause: while somebody wants it so nothing is published, over restarts, and what is kept meanwhile is published
// afterwards. A pause ends by itself at its time, and before the source keeps too much.
func TestPause(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables+`insert into item select i, 'a' from generate_series(1, 10) i`)
	verbs := r.verbs()
	if err := verbs.Pause(t.Context(), PauseRequest{}); trouble.CodeOf(err) != trouble.Publication {
		t.Errorf("pause before the first start: %v", err)
	}
	c, stop := r.start()
	r.fence()
	goesOn := func(c *Capture) {
		t.Helper()
		eventually(t, "it goes on", func() bool { return c.Status().State != service.StatePaused })
	}
	topic := r.config.Source.Name + ".public.item"
	var plan strings.Builder
	must(t, verbs.PlanPause(t.Context(), PauseRequest{For: time.Hour}, &plan))
	if text := plan.String(); !strings.Contains(text, "for 1h0m0s. The source keeps its WAL meanwhile: ") || !strings.Contains(text, " of 50.0 GiB are kept.\nIt ends by itself at 40.0 GiB") {
		t.Errorf("the plan is\n%s", text)
	}
	must(t, verbs.Pause(t.Context(), PauseRequest{Reason: `Kafka's "move" \ now`}))
	standsStill(t, c)
	before := r.ends(topic)[0]
	r.exec(`insert into item select i, 'b' from generate_series(11, 20) i; update item set name = 'c' where id < 5`)
	told := r.progress().N
	eventually(t, "it goes on telling how it is", func() bool { return r.progress().N > told })
	if pr := r.progress(); pr.Health.State != service.StatePaused || r.ends(topic)[0] != before {
		t.Errorf("it is %s, and the topic has grown from %d to %d", pr.Health.State, before, r.ends(topic)[0])
	}
	eventually(t, "what waits is told", func() bool { return c.Status().ToPublish > 0 })
	eventually(t, "and how far behind the source that is", func() bool { return r.progress().Health.BehindSeconds > 0 })
	st := c.Status()
	if p := st.Paused; p == nil || p.Reason != `Kafka's "move" \ now` || p.By == "" || p.EndsBytes == 0 || !strings.Contains(st.Headline, "is paused by "+p.By) {
		t.Errorf("%+v: %s", p, st.Headline)
	}
	must(t, stop())
	report, err := verbs.Ask(t.Context(), service.Whom{})
	must(t, err)
	if report.State != service.StateNotRunning || report.Paused == nil {
		t.Errorf("while the service is down: %s, %+v", report.State, report.Paused)
	}
	if len(report.Tables) == 0 || report.Tables[0].State != service.StateNotRunning {
		t.Errorf("while the service is down its tables are %+v", report.Tables)
	}
	c, stop = r.start()
	standsStill(t, c)
	if on, since := c.waits(); on != waitResume || !since.Equal(st.Paused.Since) {
		t.Errorf("after a restart it waits for %q since %s, and is paused since %s", on, since, st.Paused.Since)
	}
	if end := r.ends(topic)[0]; end != before {
		t.Errorf("a restart has published: %d, %d", before, end)
	}
	must(t, verbs.Resume(t.Context()))
	goesOn(c)
	r.fence()
	r.same("public", "item")

	must(t, verbs.Pause(t.Context(), PauseRequest{For: 5 * time.Second}))
	standsStill(t, c)
	goesOn(c)
	must(t, stop())

	r.config.Source.WALBudget = 4 << 20
	c, stop = r.start()
	must(t, verbs.Pause(t.Context(), PauseRequest{}))
	standsStill(t, c)
	r.exec(`insert into item (id, name) select i, repeat('x', 1000) from generate_series(1000, 6000) i`)
	goesOn(c)
	r.fence()
	r.same("public", "item")
	if p, err := verbs.Paused(t.Context()); err != nil || p != nil {
		t.Errorf("the source says still that it is paused: %+v, %v", p, err)
	}
	must(t, stop())
	r.progressGrows()

	// Whoever has looked, was stopped, and goes on ends no pause that somebody has asked for meanwhile.
	cat, err := catalog.Open(t.Context(), r.dsn, "test")
	must(t, err)
	defer cat.Close(t.Context())
	must(t, verbs.Pause(t.Context(), PauseRequest{Reason: "first"}))
	looked, err := cat.Look(t.Context(), r.config.Source.slot(), r.config.Source.publications())
	must(t, err)
	looked.Pause.Until = looked.Now
	must(t, verbs.Pause(t.Context(), PauseRequest{Reason: "second"}))
	c.obey(t.Context(), cat, time.Now(), looked)
	if p, err := verbs.Paused(t.Context()); err != nil || p == nil || p.Reason != "second" {
		t.Errorf("a later pause was ended: %+v, %v", p, err)
	}

	r.exec(`comment on publication ` + r.config.Source.publications().Full + ` is 'mine'`)
	if err := verbs.Pause(t.Context(), PauseRequest{}); trouble.CodeOf(err) != trouble.Publication {
		t.Errorf("a comment of somebody else is written over: %v", err)
	}
}

// TestPauseIsLogged: with its end, where it has one.
func TestPauseIsLogged(t *testing.T) {
	for want, until := range map[string]time.Time{"reason=vacation\n": {}, "reason=vacation until=2026-01-02T03:04:05.000Z\n": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} {
		var log strings.Builder
		c := &Capture{log: slog.New(slog.NewTextHandler(&log, nil))}
		c.obey(t.Context(), nil, time.Now(), &catalog.Look{Pause: &catalog.Pause{Since: time.Unix(1, 0), Until: until, By: "eve", Reason: "vacation"}})
		if got := log.String(); !strings.HasSuffix(got, "by=eve "+want) {
			t.Errorf("got %q, want %q at its end", got, want)
		}
	}
}

// TestPauseThatHasEnded: what was kept by it is not said to come from a source that is too fast; and by a share that is small nothing is.
func TestPauseThatHasEnded(t *testing.T) {
	c := &Capture{log: slog.New(slog.DiscardHandler)}
	says := func(want string) {
		t.Helper()
		if why := c.holdsUp(nil, nil); !strings.HasPrefix(why.cause, want) {
			t.Errorf("got %q, want %q", why.cause, want)
		}
	}
	paused := &catalog.Look{Pause: &catalog.Pause{Since: time.Now(), By: "eve"}}
	says("the source writes faster")
	c.obey(t.Context(), nil, time.Now(), paused)
	says("eve has paused it")
	c.obey(t.Context(), nil, time.Now(), &catalog.Look{})
	says("a pause ended ")
	c.pausing.over.Add(-int64(afterPause))
	says("the source writes faster")
}

// TestPausedFromTheStart: what has arrived by the time that a session begins is not published while a pause holds: not one transaction of it.
func TestPausedFromTheStart(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.config.Source.Heartbeat, r.config.Source.CatchUp = 0, 1 // nothing comes before the transaction, as a keepalive of a walsender does
	c, stop := r.start()
	r.fence()
	r.exec("insert into item (id) values (1)")
	r.fence()
	must(t, r.verbs().Pause(t.Context(), PauseRequest{}))
	standsStill(t, c)
	r.exec("insert into item (id) values (2)")
	must(t, stop())
	topic := r.config.Source.Name + ".public.item"
	before := r.ends(topic)[0]
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
	must(t, err)
	c.ready = func(...string) { <-c.stream.Load().Ready() } // the stream is faster than the session
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	told := r.progress().N
	eventually(t, "it is paused, and tells how it is", func() bool { return c.Status().State == service.StatePaused && r.progress().N > told+2 })
	if end := r.ends(topic)[0]; end != before {
		t.Errorf("%d records were published", end-before)
	}
	must(t, r.verbs().Resume(t.Context()))
	r.fence()
	r.same("public", "item")
	cancel()
	must(t, <-done)
}

// TestPauseKeepsNoLock: a pause came while a table without key was read. The read held its snapshot and its lock as long as the pause lasted, and a TRUNCATE of
// the application waited for it.
func TestPauseKeepsNoLock(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table bag (v int); alter table bag replica identity full; insert into bag select generate_series(1, 20000); create table other (id int primary key)`)
	c, stop := r.start()
	r.fence()
	locker := r.connect()
	_, err := locker.Exec(t.Context(), `begin; lock table bag in access exclusive mode`)
	must(t, err)
	r.request(SnapshotRequest{ID: "again", Tables: []string{"public.bag"}})
	eventually(t, "the read waits for the lock", func() bool {
		var waits bool
		must(t, r.conn.QueryRow(t.Context(), `select exists (select from pg_stat_activity where application_name like 'tributary snapshot%' and wait_event_type = 'Lock' and datname = current_database())`).Scan(&waits))
		return waits
	})
	must(t, r.verbs().Pause(t.Context(), PauseRequest{}))
	standsStill(t, c)
	_, err = locker.Exec(t.Context(), `commit`)
	must(t, err)
	eventually(t, "nothing is held at the source", func() bool {
		var open bool
		must(t, r.conn.QueryRow(t.Context(), `select exists (select from pg_stat_activity where application_name like 'tributary snapshot%' and datname = current_database() and xact_start is not null)`).Scan(&open))
		return !open
	})
	r.exec(`set lock_timeout = '10s'; delete from bag where v = 1; insert into bag values (0)`)
	must(t, r.verbs().Resume(t.Context()))
	r.fence()
	r.same("public", "bag")
	must(t, stop())
}

// TestPauseEndsBesideALock: a pause came to its end while somebody had its publication locked. Who wrote that there had a lock of ours meanwhile, without end, and
// whoever looked beside it waited: nothing told of the WAL that is kept.
func TestPauseEndsBesideALock(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	c, stop := r.start()
	r.fence()
	must(t, stop())
	must(t, c.Pause(t.Context(), PauseRequest{For: time.Microsecond}))
	somebody := r.connect()
	_, err := somebody.Exec(t.Context(), "begin; comment on publication "+postgres.Ident(c.config.Source.publications().Full)+" is 'theirs'")
	must(t, err)
	looks := func(name string) <-chan error {
		cat, err := c.open(t.Context(), name)
		must(t, err)
		done := make(chan error, 1)
		go func() {
			_, err := c.look(t.Context(), cat)
			_ = cat.Close(context.Background())
			done <- err
		}()
		return done
	}
	first := looks("first")
	eventually(t, "one waits for the lock", func() (waits bool) {
		must(t, r.conn.QueryRow(t.Context(), `select exists (select from pg_locks where not granted and locktype = 'object' and database = (select oid from pg_database where datname = current_database()))`).Scan(&waits))
		return waits || len(first) > 0
	})
	second := looks("second")
	eventually(t, "the other one has looked", func() bool { return len(second) > 0 })
	must(t, <-second)
	eventually(t, "the lock is given up", func() bool { return len(first) > 0 })
	must(t, <-first)
	must(t, somebody.Close(t.Context()))
	if c.pausing.holds() != nil {
		t.Error("it is paused still")
	}
}

// TestLookedAtWithoutBudget: the connection that looks at the source is lost alone, and cannot come back. What is kept is known all the same, and
// a pause is obeyed and ends.
func TestLookedAtWithoutBudget(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	file := filepath.Join(t.TempDir(), "dsn")
	must(t, os.WriteFile(file, []byte(r.dsn), 0o600))
	others := r.verbs()
	r.config.Source.DSN = config.Secret("file:" + file)
	c, stop := r.start()
	r.fence()
	must(t, os.Rename(file, file+".away"))
	r.exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name like 'tributary budget%'`)
	eventually(t, "it is gone", func() bool {
		var gone bool
		must(t, r.conn.QueryRow(t.Context(), `select count(*) = 0 from pg_stat_activity where datname = current_database() and application_name like 'tributary budget%'`).Scan(&gone))
		return gone
	})
	for range 2 {
		seen := time.Now()
		eventually(t, "the source is looked at", func() bool { return c.Status().WAL.AsOf.After(seen) })
	}
	must(t, others.Pause(t.Context(), PauseRequest{Reason: "a test"}))
	eventually(t, "it is paused", func() bool { return c.pausing.holds() != nil })
	must(t, others.Resume(t.Context()))
	eventually(t, "it goes on", func() bool { return c.pausing.holds() == nil })
	must(t, others.Pause(t.Context(), PauseRequest{For: 5 * time.Second}))
	eventually(t, "it is paused", func() bool { return c.pausing.holds() != nil })
	eventually(t, "the pause ends by itself", func() bool { return c.pausing.holds() == nil })
	must(t, os.Rename(file+".away", file))
	r.fence()
	must(t, stop())
}

// TestStaleGauges: what was seen of the source's WAL more than a minute ago is not what is.
func TestStaleGauges(t *testing.T) {
	c, err := New(Config{Source: Source{Name: "shop"}}, Options{}, slog.New(slog.DiscardHandler))
	must(t, err)
	for age, known := range map[time.Duration]bool{time.Minute - time.Second: true, time.Minute: false} {
		c.budget.wal = WAL{RetainedBytes: 7, AsOf: time.Now().Add(-age)}
		if n := testutil.CollectAndCount(&gauges{c}, "tributary_capture_wal_retained_bytes"); known != (n == 1) {
			t.Errorf("of %s ago: %d series", age, n)
		}
	}
	c.config.Source.Refresh, c.budget.wal.AsOf = time.Minute, time.Now().Add(-2*time.Minute) // one look has failed
	if n := testutil.CollectAndCount(&gauges{c}, "tributary_capture_wal_retained_bytes"); n != 1 {
		t.Errorf("looked at each minute: %d series", n)
	}
}
