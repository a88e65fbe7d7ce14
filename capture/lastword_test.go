package capture

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/tributary-cdc/tributary/capture/publish"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
	"github.com/tributary-cdc/tributary/schema/record"
)

// Sinks knew of a capture that had ended only that it was silent. Its last word says why; and what was half published when it came is
// published once, whatever the session held then.
func TestLastWord(t *testing.T) {
	for _, delivery := range []string{"exactly-once", "at-least-once"} {
		r := newRig(t, 0, kafkatest.Fake(t), tables)
		r.config.Publish.Bytes, r.config.Publish.Delivery, r.repeats = 64<<10, delivery, delivery != "exactly-once"
		last := func() *record.Progress {
			pr, err := publish.ReadProgress(t.Context(), r.config.Kafka, r.config.Source.Name, slog.New(slog.DiscardHandler))
			must(t, err)
			return pr
		}
		told := func(state string, code trouble.Code) {
			t.Helper()
			eventually(t, fmt.Sprintf("%s: %q, %q is said", delivery, state, code), func() bool {
				h := last().Health
				return h.State == state && h.Trouble == string(code) && (h.TroubleSince > 0) == (code != "")
			})
		}
		r.exec("insert into item (id, name) select g, 'before' from generate_series(1, 10) g")
		_, stop := r.start()
		r.fence()
		must(t, stop())
		told(service.StateNotRunning, "")

		_, stop = r.start()
		told(service.StateUpToDate, "")
		// The walsender ends in the middle of a transaction that takes several of Kafka's.
		r.exec(`insert into item (id, name) select g, repeat('x', 200) from generate_series(100, 20000) g`)
		eventually(t, "a part of it is published", func() bool { return last().Inside > 0 })
		r.exec(`select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '` + r.config.Source.slot() + `'`)
		r.fence()
		r.same("public", "item")

		// The slot is taken away.
		eventually(t, "the slot is dropped", func() bool {
			_, err := r.conn.Exec(t.Context(), `select pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '`+r.config.Source.slot()+`'`)
			return err == nil
		})
		told(service.StateStopped, trouble.SlotMissing)
		if err := stop(); trouble.CodeOf(err) != trouble.SlotMissing {
			t.Errorf("ended by %v", err)
		}
		before := last()
		if _, _, err := r.tryStart(); trouble.CodeOf(err) != trouble.SlotMissing {
			t.Errorf("ended by %v", err)
		}
		if now := last(); now.N < before.N+2 || now.Health.State != service.StateStopped || now.Health.TroubleSince != before.Health.TroubleSince {
			t.Errorf("stopped since %d, and by a later try since %d: %+v", before.Health.TroubleSince, now.Health.TroubleSince, now.Health)
		}
		r.options.OnGap = GapResnapshot
		_, stop = r.start()
		r.fence()
		told(service.StateUpToDate, "")
		r.same("public", "item")
		must(t, stop())
	}
}

// TestLastTroubleOfAnotherInstance: what kept an instance from streaming before another one did is not why it cannot now.
func TestLastTroubleOfAnotherInstance(t *testing.T) {
	before := lastTrouble{"source-unreachable", 7}
	for _, c := range []struct {
		h    record.Health
		want lastTrouble
	}{
		{record.Health{Instance: "me"}, before},
		{record.Health{Instance: "me", Trouble: "slot-lost", TroubleSince: 9}, lastTrouble{"slot-lost", 9}},
		{record.Health{Instance: "another"}, lastTrouble{}},
		{record.Health{Instance: "another", Trouble: "slot-lost", TroubleSince: 9}, lastTrouble{"slot-lost", 9}},
	} {
		got := before
		if got.take(&c.h, "me"); got != c.want {
			t.Errorf("%+v: %+v, want %+v", c.h, got, c.want)
		}
	}
}
