package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/postgres"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/change"
	"github.com/tributary-cdc/tributary/schema/record"
)

// held is a transaction that is open, and holds up whoever makes a slot.
func (r *rig) held(id int) (over func()) {
	r.t.Helper()
	open, err := pgx.Connect(r.t.Context(), r.dsn)
	must(r.t, err)
	r.t.Cleanup(func() { _ = open.Close(context.Background()) })
	_, err = open.Exec(r.t.Context(), fmt.Sprintf("begin; insert into item (id) values (%d)", id))
	must(r.t, err)
	return func() {
		r.t.Helper()
		_, err := open.Exec(r.t.Context(), "commit")
		must(r.t, err)
	}
}

// orphan begins to make the slot as a capture does whose host is lost: its server process waits for a transaction, and does not notice.
func (r *rig) orphan() {
	r.t.Helper()
	conn, err := postgres.ConnectReplication(r.t.Context(), r.dsn, "tributary capture lost", nil)
	must(r.t, err)
	conn.Frontend().Send(&pgproto3.Query{String: "CREATE_REPLICATION_SLOT " + r.config.Source.slot() + " LOGICAL pgoutput NOEXPORT_SNAPSHOT"})
	must(r.t, conn.Frontend().Flush())
	r.t.Cleanup(func() { _ = conn.Conn().Close() })
	r.inTheMaking()
}

// dropSlot drops it when the server has noticed that nobody streams any more.
func (r *rig) dropSlot() {
	r.t.Helper()
	eventually(r.t, "the slot is dropped", func() bool {
		_, err := r.conn.Exec(r.t.Context(), "select pg_drop_replication_slot($1)", r.config.Source.slot())
		if postgres.SQLState(err) != "55006" {
			must(r.t, err)
		}
		return err == nil
	})
}

func (r *rig) inTheMaking() {
	r.t.Helper()
	eventually(r.t, "the slot is in the making", func() bool {
		var n int
		must(r.t, r.conn.QueryRow(r.t.Context(), `select count(*) from pg_replication_slots where slot_name = $1 and plugin is not null and confirmed_flush_lsn is null`,
			r.config.Source.slot()).Scan(&n))
		return n == 1
	})
}

// launch starts a capture and does not wait until it streams.
func (r *rig) launch() (c *Capture, ended func() error) {
	r.t.Helper()
	c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{r.t}, nil)))
	must(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	ended = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	r.t.Cleanup(func() { _ = ended() })
	return c, ended
}

func heldUp(c *Capture) bool {
	st := c.Status()
	return st.State == service.StateStarting && (st.WaitingOn == waitOld || st.WaitingOn == waitSlot)
}

// A slot that a capture which was killed had begun to make was taken for a finished one that stands at 0/0: what came was below the floors of all
// partitions, and left out in silence.
func TestSlotInTheMakingAtAFirstStart(t *testing.T) {
	for what, gone := range map[string]bool{"it is made": false, "its making is given up": true} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, 0, kafkatest.Fake(t), tables)
			r.exec("insert into item (id) select generate_series(1, 300)")
			over := r.held(301)
			r.orphan()
			c, ended := r.launch()
			eventually(t, "it waits, and says for whom", func() bool { return heldUp(c) && strings.Contains(c.Status().Headline, "the transaction of pid") })
			if gone {
				r.exec("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '" + r.config.Source.slot() + "'")
			}
			over()
			eventually(t, "it streams", func() bool { return c.Status().State == service.StateUpToDate })
			r.exec("update item set name = 'after' where id <= 10; insert into item (id) values (302)")
			r.fence()
			r.same("public", "item")
			must(t, ended())
		})
	}
}

// Behind what was published, such a slot is a gap as a new one is: what lies between was never looked for.
func TestSlotInTheMakingIsAGap(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.exec("insert into item (id) select generate_series(1, 300)")
	_, stop := r.start()
	r.fence()
	must(t, stop())
	r.dropSlot()
	r.exec("delete from item where id <= 10; update item set name = 'missed' where id <= 20")
	over := r.held(301)
	r.orphan()
	if e := r.fails(trouble.SlotMissing); !strings.Contains(e.Error(), "tributary capture lost") {
		t.Errorf("it does not say who makes it: %v", e)
	}
	over()
	eventually(t, "the slot is made", func() bool {
		var made bool
		must(t, r.conn.QueryRow(t.Context(), "select confirmed_flush_lsn is not null from pg_replication_slots where slot_name = $1", r.config.Source.slot()).Scan(&made))
		return made
	})
	r.fails(trouble.Gap) // it stands behind what was published, as a new one does
	r.dropSlot()
	r.exec("delete from item where id = 301")
	over = r.held(301)
	r.orphan()
	r.options.OnGap = GapResnapshot
	c, ended := r.launch()
	eventually(t, "it waits", func() bool { return heldUp(c) })
	over()
	eventually(t, "it streams", func() bool { return c.Status().State == service.StateUpToDate })
	r.exec("update item set name = 'after' where id = 30")
	r.fence()
	r.same("public", "item")
	must(t, ended())
}

// One that waits for its slot is replaced by another: that finds a slot in the making, too, and no kill was needed.
func TestSlotInTheMakingIsAnothersWhoIsThere(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.exec("insert into item (id) select generate_series(1, 300)")
	over := r.held(301)
	first, _ := r.launch()
	r.inTheMaking()
	second, ended := r.launch()
	eventually(t, "both wait", func() bool { return heldUp(first) && heldUp(second) })
	over()
	eventually(t, "one streams", func() bool { return second.Status().State == service.StateUpToDate })
	r.exec("update item set name = 'after' where id <= 10")
	r.fence()
	r.same("public", "item")
	must(t, ended())
}

// A capture that is told to end tells the server that it does not want the slot any more, and is not gone before that is heard.
func TestSlotInTheMakingIsGivenUpAtAnEnd(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.held(1)
	_, ended := r.launch()
	r.inTheMaking()
	must(t, ended())
	var n int
	must(t, r.conn.QueryRow(t.Context(), `select count(*) from pg_replication_slots where slot_name = $1`, r.config.Source.slot()).Scan(&n))
	if n != 0 {
		t.Error("the server makes the slot still")
	}
}

// A slot in the making stands nowhere: no verb says that it does, and none takes it for one that is there.
func TestVerbsOfASlotInTheMaking(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	over := r.held(1)
	r.orphan()
	var out strings.Builder
	must(t, r.verbs().ShowSlot(t.Context(), &out))
	if text := out.String(); !strings.Contains(text, "is making it: tributary capture lost") || strings.Contains(text, "0/0") {
		t.Errorf("show: %s", text)
	}
	if err, ok := errors.AsType[*trouble.Error](r.verbs().DropSlot(t.Context(), &out)); !ok || err.Code != trouble.SlotInUse || !strings.Contains(err.Hint, "pg_terminate_backend") {
		t.Errorf("drop: %v", err)
	}
	if err := r.verbs().RequestSnapshot(t.Context(), SnapshotRequest{Tables: []string{"public.item"}}, true, terminal.To(&out)); trouble.CodeOf(err) != trouble.SlotMissing || !strings.Contains(err.Error(), "is making it: tributary capture lost") {
		t.Errorf("snapshot: %v", err)
	}
	report, err := r.verbs().Ask(t.Context(), service.Whom{})
	must(t, err)
	if h := report.Headline; report.State != service.StateStarting || !strings.Contains(h, "tributary capture lost") || !strings.Contains(h, "is making it") || !strings.Contains(h, "waits for the transaction of pid") {
		t.Errorf("status: it is %s, %s", report.State, h)
	}
	if len(report.Needs) != 1 || report.Needs[0].Code != trouble.SlotWaits || len(report.Needs[0].Do) != 2 || !strings.Contains(report.Needs[0].Do[1].Command, "pg_terminate_backend") {
		t.Errorf("status: %+v", report.Needs)
	}
	out.Reset()
	must(t, r.verbs().Check(t.Context(), terminal.NewCheck("capture", &out)))
	if !strings.Contains(out.String(), "is making it: tributary capture lost") {
		t.Errorf("check: %s", out.String())
	}
	over()
}

// Nobody streams from such a slot, and a standby does not say so.
func TestStandbyOfASlotInTheMaking(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.held(1)
	r.orphan()
	r.options.Standby = true
	c, ended := r.launch()
	eventually(t, "it stands by", func() bool { return c.Status().State == service.StateStandby && c.Status().Holder != "" })
	if h := c.Status().Headline; !strings.Contains(h, "is not made yet") || !strings.Contains(h, "is making it: tributary capture lost") || strings.Contains(h, "streams") {
		t.Errorf("it %s", h)
	}
	must(t, ended())
}

func TestFindGapOfASlotInTheMaking(t *testing.T) {
	slot, system := &catalog.Slot{Plugin: "pgoutput", Database: "d", Making: true}, replication.System{ID: "1", Timeline: 1, Database: "d"}
	pr := &record.Progress{SystemID: "1", Timeline: 1, EndLSN: 100}
	for range 2 {
		if gap := findGap(&publish.State{Progress: pr}, slot, system, nil, "s"); gap == nil || gap.Code != trouble.SlotMissing {
			t.Errorf("behind what was published: %v", gap)
		}
		if gap := findGap(&publish.State{}, slot, system, nil, "s"); gap != nil {
			t.Errorf("at a first start: %v", gap)
		}
		slot.Plugin = "" // for a moment
	}
	s := &session{config: &Config{}}
	if err := s.standAt(&publish.State{}, 0, false); err == nil {
		t.Error("it stands at 0/0")
	}
}

// The WAL that is counted does not leap from nothing to where the slot is made.
func TestBudgetOfASlotInTheMaking(t *testing.T) {
	config := Config{}
	config.Source.Name, config.Source.WALBudget = "shop", 1<<30
	b := newBudget(&config, slog.New(slog.DiscardHandler), newMeter("shop", true))
	look := func(slot *catalog.Slot, missing bool) standing {
		t.Helper()
		b.observe(time.Now(), slot, nil, reason{})
		if b.standing().missing != missing {
			t.Errorf("missing is %t", !missing)
		}
		return b.standing()
	}
	making := &catalog.Slot{Active: true, Making: true, KeptBytes: 7, WALStatus: "reserved"}
	made := &catalog.Slot{ConfirmedFlushLSN: 1 << 40, ToPublishBytes: 5, WALStatus: "reserved"}
	if seen := look(making, false); !seen.at.IsZero() || !seen.active || b.wal.RetainedBytes != 7 {
		t.Errorf("%+v keeps %d", seen, b.wal.RetainedBytes)
	}
	if seen := look(made, false); seen.confirmed != 1<<40 || seen.server != 1<<40+5 {
		t.Errorf("%+v", seen)
	}
	look(nil, true)
	look(making, true) // what was published before is not the new one's
	look(made, false)
	for what, n := range map[string]float64{"source": counterValue(t, b.meter.sourceWAL), "confirmed": counterValue(t, b.meter.confirmedWAL)} {
		if n != 0 {
			t.Errorf("%s: %v bytes were counted", what, n)
		}
	}
}

// A slot that was dropped between two tries of one start is made anew behind a gap: nothing of the first try counts in the era that begins, which
// would neither begin with its progress nor read any rows.
func TestAnotherSlotAtTheNextTry(t *testing.T) {
	s := &session{config: &Config{}}
	state := &publish.State{
		Progress: &record.Progress{Era: 3, CommitLSN: 500, EndLSN: 510, SnapshotSeq: 5, MaxXID: 9, CommitTime: 7},
		Newest:   change.Position{Era: 3, CommitLSN: 600, Seq: 2},
	}
	must(t, s.standAt(state, 505, false))
	must(t, s.standAt(state, 100, true))
	if none := (change.Position{}); s.era != 4 || s.before != nil || s.resumed != none || s.reached != none {
		t.Errorf("era %d begins with %+v, behind %s and %s", s.era, s.before, s.resumed, s.reached)
	}
	if s.lastCommit != 99 || s.snapshotSeq != 0 || s.maxXID != 0 || s.commitTime != 0 || s.newest != 0 {
		t.Errorf("it stands at %s.%d, transaction %d", s.lastCommit, s.snapshotSeq, s.maxXID)
	}
}
