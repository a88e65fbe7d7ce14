package capture

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
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
	if err := r.verbs().RequestSnapshot(t.Context(), SnapshotRequest{Tables: []string{"public.item"}}, false, &out); trouble.CodeOf(err) != trouble.SlotMissing {
		t.Errorf("without a slot: %v", err)
	}
	_, stop := r.start()
	r.fence()
	before := r.same("public", "item").reads
	must(t, r.verbs().RequestSnapshot(t.Context(), SnapshotRequest{Tables: []string{"public.item", "public.full*"}}, true, &out))
	if got := r.same("public", "item"); got.reads != before+300 {
		t.Errorf("%d rows were read when it returned, want %d", got.reads, before+300)
	}
	if text := out.String(); !strings.Contains(text, "public.item: 300 rows published") || !strings.Contains(text, "2 tables") {
		t.Errorf("it says %q", text)
	}
	r.config.Snapshot.Conditions = true
	for _, q := range []SnapshotRequest{
		{Tables: []string{"public.itm"}}, {Tables: []string{"public.item"}, Where: "nonsense ="}, {Tables: []string{"public.full_bag"}, Where: "k = 1"},
	} {
		if err := r.verbs().RequestSnapshot(t.Context(), q, false, &out); trouble.CodeOf(err) != trouble.SnapshotFailed {
			t.Errorf("%+v: %v", q, err)
		}
	}
	must(t, stop())
}

func TestStatusVerb(t *testing.T) {
	kafka := kafkatest.Fake(t)
	r := newRig(t, 0, kafka, tables+`insert into item select i, 'a' from generate_series(1, 300) i`)
	ask := func(c *Capture, healthy bool, asked string, parts ...string) *Report {
		t.Helper()
		report, err := c.Ask(t.Context())
		must(t, err)
		var out strings.Builder
		report.Print(&out)
		for _, part := range parts {
			if !strings.Contains(out.String(), part) {
				t.Errorf("the status does not say %q:\n%s", part, out.String())
			}
		}
		if report.Healthy() != healthy || !strings.HasPrefix(report.Asked, asked) {
			t.Errorf("healthy %t, asked %q", report.Healthy(), report.Asked)
		}
		b, err := json.Marshal(report)
		must(t, err)
		if text := string(b); !strings.Contains(text, `"tables":[`) || !strings.Contains(text, `"alarms":[`) {
			t.Errorf("a list is missing: %s", text)
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
	near.config.HTTP.Token = "wrong"
	if report := ask(near, true, "the source"); !strings.Contains(report.Asked, http.StatusText(http.StatusUnauthorized)) {
		t.Errorf("asked %q", report.Asked)
	}
	cancel()
	must(t, <-served)
	eventually(t, "nobody streams", func() bool {
		report, err := r.verbs().Ask(t.Context())
		must(t, err)
		return report.State == "not_running"
	})
	report := ask(r.verbs(), false, "the source", "is not running", "WAL kept", "published", "next", "capture run")
	if len(report.Tables) != 6 || report.PublishedLSN == "" || report.Era != 1 {
		t.Errorf("%+v", report)
	}
}

func TestSlotVerbs(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	r.fence()
	var out strings.Builder
	if err := r.verbs().DropSlot(t.Context(), &out); trouble.CodeOf(err) != trouble.SlotInUse || out.Len() > 0 {
		t.Errorf("while it is in use: %v, %q", err, out.String())
	}
	must(t, stop())
	must(t, r.verbs().ShowSlot(t.Context(), &out))
	for _, part := range []string{r.config.Source.slot(), "reserved", "WAL kept", "there"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("show does not say %q:\n%s", part, out.String())
		}
	}
	eventually(t, "the slot is dropped", func() bool { // the server may not have noticed that the stream has ended
		err := r.verbs().DropSlot(t.Context(), &out)
		if trouble.CodeOf(err) == trouble.SlotInUse {
			return false
		}
		must(t, err)
		return true
	})
	var left int
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
