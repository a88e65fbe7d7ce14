package capture

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

func (r *rig) verbs() *Capture {
	r.t.Helper()
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{r.t}, nil)))
	must(r.t, err)
	return c
}

func TestSnapshotVerb(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables+`insert into item select i, 'a' from generate_series(1, 300) i; insert into full_bag values (1, 'a')`)
	var out strings.Builder
	if err := r.verbs().RequestSnapshot(t.Context(), SnapshotRequest{Tables: []string{"public.item"}}, false, terminal.To(&out)); trouble.CodeOf(err) != trouble.SlotMissing || !strings.Contains(err.Error(), "there is no slot") {
		t.Errorf("without a slot: %v", err)
	}
	_, stop := r.start()
	r.fence()
	before := r.same("public", "item").reads
	must(t, r.verbs().RequestSnapshot(t.Context(), SnapshotRequest{Tables: []string{"public.item", "public.full*"}}, true, terminal.To(&out)))
	if got := r.same("public", "item"); got.reads != before+300 {
		t.Errorf("%d rows were read when it returned, want %d", got.reads, before+300)
	}
	if text := out.String(); !strings.Contains(text, "public.item: 300 rows published") || !strings.Contains(text, "2 tables") {
		t.Errorf("it says %q", text)
	}
	r.config.Snapshot.Conditions = true
	for _, q := range []SnapshotRequest{
		{Tables: []string{"public.item"}, Where: "nonsense ="}, {Tables: []string{"public.full_bag"}, Where: "k = 1"},
	} {
		if err := r.verbs().RequestSnapshot(t.Context(), q, false, terminal.To(&out)); trouble.CodeOf(err) != trouble.SnapshotFailed {
			t.Errorf("%+v: %v", q, err)
		}
	}
	if err := r.verbs().RequestSnapshot(t.Context(), SnapshotRequest{Tables: []string{"public.itm"}}, false, terminal.To(&out)); err == nil || !strings.Contains(err.Error(), "did you mean public.item?") {
		t.Errorf("a table that is not there: %v", err)
	}
	must(t, stop())
}

func TestStatusVerb(t *testing.T) {
	kafka := kafkatest.Fake(t)
	r := newRig(t, 0, kafka, tables+`insert into item select i, 'a' from generate_series(1, 300) i`)
	ask := func(c *Capture, healthy bool, asked string, parts ...string) *Report {
		t.Helper()
		report, err := c.Ask(t.Context(), service.Whom{})
		must(t, err)
		var out strings.Builder
		must(t, report.Show(&terminal.Output{Out: &out, Err: &out, Terminal: true, Width: 200}, &terminal.Look{All: true}))
		for _, part := range parts {
			if !strings.Contains(out.String(), part) {
				t.Errorf("the status does not say %q:\n%s", part, out.String())
			}
		}
		if report.Well() != healthy || !strings.HasPrefix(report.Asked, asked) {
			t.Errorf("well %t, asked %q", report.Well(), report.Asked)
		}
		b, err := json.Marshal(report)
		must(t, err)
		for _, list := range []string{"tables", "alarms", "stages", "needs_you", "accepted", "events", "last_hour", "do"} {
			if strings.Contains(string(b), `"`+list+`":null`) {
				t.Errorf("the list %s is missing: %s", list, b)
			}
		}
		return report
	}
	r.config.HTTP.Listen, r.config.HTTP.Token = "127.0.0.1:1", "secret"
	ask(r.verbs(), false, "the source", "is not captured: there is no slot")

	c := r.verbs()
	c.config.HTTP.Listen = "127.0.0.1:0"
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- c.Serve(ctx) }()
	eventually(t, "it streams", func() bool { return c.Status().State == "up_to_date" })
	r.fence()
	ask(r.verbs(), true, "the source", "is captured by tributary capture", "127.0.0.1:1", "public.bag")
	near := r.verbs()
	near.config.HTTP.Listen = strings.TrimPrefix(c.options.HTTP, "http://")
	ask(near, true, "the service", "is healthy: ", "6 tables")
	eventually(t, "the table's states are told", func() bool {
		var st Status
		must(t, service.Ask(t.Context(), near.config.HTTP, "/status?table=public.item", &st))
		return len(st.Tables) == 1 && len(st.Tables[0].States) > 0
	})
	eventually(t, "the table has a page", func() bool { // of a state that has lasted
		v, ok := c.tableView("public.item")
		return ok && strings.HasPrefix(v.Headline, "public.item is captured: ")
	})
	if _, ok := c.tableView("public.*"); ok {
		t.Error("there is a page of many tables")
	}
	near.config.HTTP.Token = "wrong"
	if report := ask(near, true, "the source"); !strings.Contains(report.Asked, http.StatusText(http.StatusUnauthorized)) {
		t.Errorf("asked %q", report.Asked)
	}
	cancel()
	must(t, <-served)
	eventually(t, "nobody streams", func() bool {
		report, err := r.verbs().Ask(t.Context(), service.Whom{})
		must(t, err)
		return report.State == "not_running"
	})
	report := ask(r.verbs(), false, "the source", "is not running", "WAL kept", "published", "next", "capture run")
	if len(report.Tables) != 6 || report.PublishedLSN == "" || report.Era != 1 {
		t.Errorf("%+v", report)
	}
	must(t, kafka.Stop())
	ask(r.verbs(), false, "the source", "is not running", "WAL kept", "kafka-unreachable")
}

// The rows that a read had when who waits for it came are no part of how fast it is since.
func TestReadSeen(t *testing.T) {
	if bar := (readSeen{time.Now().Add(-10 * time.Second), 1000}).bar("public.item", 1100, 1200); bar.Rate < 9 || bar.Rate > 10 || bar.Left < 10*time.Second || bar.Left > 12*time.Second {
		t.Errorf("%+v", bar)
	}
}

// TestCompactedTopics: what is not read yet stays for a week, or as long as somebody wants.
func TestCompactedTopics(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.config.Topics.Overrides = []publish.TopicOverride{{Table: "public.item", Keep: "latest"}}
	_, stop := r.start()
	r.exec(`insert into item (id) values (1)`)
	r.fence()
	topic := r.config.Source.Name + ".public.item"
	is := func(name, want string) {
		t.Helper()
		admin, closeAdmin, err := r.verbs().admin()
		must(t, err)
		defer closeAdmin()
		all, err := admin.DescribeTopicConfigs(t.Context(), topic)
		must(t, err)
		for _, one := range all[0].Configs {
			if one.Key == name && one.MaybeValue() == want {
				return
			}
		}
		t.Errorf("%s is not %s: %+v", name, want, all[0].Configs)
	}
	is("min.compaction.lag.ms", "604800000")
	is("delete.retention.ms", "604800000")
	for lag, lasts := range map[string]time.Duration{"3600000": time.Hour, "9223372036854775807": -1} {
		must(t, r.verbs().SetTopic(t.Context(), topic, TopicChange{Retention: &lasts}))
		is("min.compaction.lag.ms", lag)
		is("retention.ms", map[bool]string{true: "-1", false: "3600000"}[lasts < 0])
	}
	must(t, stop())
}

// TestTopicVerbs: what is in the topics is listed, changed at the broker, and followed.
func TestTopicVerbs(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables+`insert into item select i, 'a' from generate_series(1, 3) i`)
	_, stop := r.start()
	r.fence()
	c := r.verbs()
	topics, err := c.Topics(t.Context())
	must(t, err)
	at := slices.IndexFunc(topics, func(one TopicInfo) bool { return one.Table == "public.item" })
	if at < 0 || topics[at].Partitions != 1 || topics[at].Records < 3 || topics[at].RetentionMillis != -1 || topics[at].MaxMessageBytes == 0 {
		t.Fatalf("%+v", topics)
	}
	var out strings.Builder
	small, long := int64(1<<20), time.Hour
	must(t, c.SetTopic(t.Context(), topics[at].Topic, TopicChange{&small, &long}))
	must(t, c.Check(t.Context(), terminal.NewCheck("capture", &out)))
	if want := "capture topics set " + topics[at].Topic + " --max-message-bytes 8MiB"; !strings.Contains(out.String(), want) || !strings.Contains(out.String(), "6 there, 0 to be made") {
		t.Errorf("no %q in\n%s", want, out.String())
	}
	size, keep := int64(16<<20), time.Hour
	must(t, c.SetTopic(t.Context(), topics[at].Topic, TopicChange{&size, &keep}))
	topics, err = c.Topics(t.Context())
	must(t, err)
	if one := topics[at]; one.MaxMessageBytes != size || one.RetentionMillis != keep.Milliseconds() {
		t.Errorf("%+v", one)
	}

	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan *Tailed, 10)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Tail(ctx, []string{"public.item"}, 100, true, func(int) {}, func(one *Tailed) error {
			seen <- one
			return nil
		})
	}()
	next := func() *Tailed {
		select {
		case one := <-seen:
			return one
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		case <-time.After(pgtest.Patience):
			t.Fatal("nothing comes")
		}
		return nil
	}
	for range 3 {
		if one := next(); one.Op != "read" || one.Table != "public.item" || len(one.Key) != 1 || *one.Key[0].Value == "" {
			t.Errorf("%+v", one)
		}
	}
	r.exec(`delete from item where id = 2`)
	if one := next(); one.Op != "delete" || *one.Key[0].Value != "2" || len(one.Columns) != 0 || time.Since(one.At) > time.Hour {
		t.Errorf("%+v", one)
	}
	cancel()
	must(t, <-ended)
	if err := c.Tail(t.Context(), []string{"public.itme"}, 0, false, func(int) {}, nil); err == nil || !strings.Contains(err.Error(), "did you mean public.item?") {
		t.Errorf("%v", err)
	}
	must(t, stop())
}

func TestSlotVerbs(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	r.fence()
	var out strings.Builder
	patience := dropPatience
	t.Cleanup(func() { dropPatience = patience })
	dropPatience = 0
	if err := r.verbs().DropSlot(t.Context(), &out); trouble.CodeOf(err) != trouble.SlotInUse || out.Len() > 0 {
		t.Errorf("while it is in use: %v, %q", err, out.String())
	}
	must(t, r.verbs().ShowSlot(t.Context(), &out))
	for _, part := range []string{r.config.Source.slot(), "reserved", "WAL kept", "there"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("show does not say %q:\n%s", part, out.String())
		}
	}
	// Who has ended capture drops it at once, when the server may not have noticed that the stream has ended.
	dropPatience = pgtest.Patience
	dropped := make(chan error, 1)
	go func() { dropped <- r.verbs().DropSlot(t.Context(), io.Discard) }()
	var left int
	eventually(t, "the slot is looked at", func() bool {
		must(t, r.conn.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = current_database() and application_name like 'tributary slot %' and query like '%pg_replication_slots%'`).Scan(&left))
		return left > 0 || len(dropped) > 0
	})
	must(t, stop())
	must(t, <-dropped)
	must(t, r.conn.QueryRow(t.Context(), `select (select count(*) from pg_publication) + (select count(*) from pg_replication_slots where slot_name = $1)`,
		r.config.Source.slot()).Scan(&left))
	if left != 0 {
		t.Errorf("%d things are left at the source", left)
	}
	out.Reset()
	must(t, r.verbs().DropSlot(t.Context(), &out)) // once more does no harm
	must(t, r.verbs().ShowSlot(t.Context(), &out))
	if !strings.Contains(out.String(), "there is none") {
		t.Errorf("show: %s", out.String())
	}
	r.fails(trouble.SlotMissing)
}
