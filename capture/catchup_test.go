package capture

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
)

// A capture that begins far behind fetches by SQL. Whatever ends it in the middle, and whoever waits beside it, each change
// is published once; the slot is never ahead of what is published, and never looks free.
func TestCatchUp(t *testing.T) {
	patience := standbyPatience
	standbyPatience = 400 * time.Millisecond
	t.Cleanup(func() { standbyPatience = patience })
	for _, major := range pgtest.Majors(t) {
		r := newRig(t, major, kafkatest.Fake(t), tables)
		r.config.Source.CatchUp = 256 << 10
		r.config.Publish.Bytes = 256 << 10
		cat, err := catalog.Open(t.Context(), r.dsn, "test")
		must(t, err)
		defer func() { _ = cat.Close(context.Background()) }()
		_, stop := r.start()
		r.exec(`insert into full_bag values (0, 'before')`)
		r.fence()
		must(t, stop())
		const rows = 4000 // 40 MB, far more than is read ahead: SQL is at it while others look
		for i := range 8 {
			r.exec(fmt.Sprintf(`insert into item (id, name) select %d + i, repeat(md5(i::text), 300) from generate_series(1, 500) i`, i*500))
		}
		r.exec(`update item set id = id + 1000000 where id <= 100; insert into full_bag select i % 7, 'same' from generate_series(1, 100) i`)

		// It leaves in the middle of a call: the slot stands where it stood, nothing is lost.
		was := r.confirmed()
		_, stop = r.start()
		must(t, stop())
		if at, published := r.confirmed(), r.progress().EndLSN; at < was || uint64(at) > uint64(published) {
			t.Errorf("the slot stands at %s, whole is %v", at, published)
		}

		c, stop := r.start()
		r.options.Standby = true
		beside, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
		r.options.Standby = false
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- beside.Run(ctx) }()
		free, bySQL := 0, 0
		eventually(t, "the walsender streams", func() bool {
			slot, err := cat.Slot(t.Context(), r.config.Source.slot())
			must(t, err)
			if !slot.Active || slot.Holder == "" {
				t.Errorf("nobody seems to read the slot: %+v", slot)
			}
			if slot.ConfirmedFlushLSN > was { // it is slow to ask
				was = slot.ConfirmedFlushLSN
				if uint64(was) > uint64(r.progress().EndLSN) {
					t.Errorf("the slot stands at %s, ahead of what is published", was)
				}
			}
			var active, streams bool
			must(t, r.conn.QueryRow(t.Context(), `select s.active, exists (select from pg_stat_replication r where r.pid = s.active_pid)
				from pg_replication_slots s where slot_name = $1`, r.config.Source.slot()).Scan(&active, &streams))
			if !active {
				free++
			}
			if c.Status().BySQL {
				bySQL++
			}
			return streams
		})
		if free == 0 || bySQL == 0 {
			t.Errorf("the slot was free %d times, changes fetched by SQL %d times: was it caught up?", free, bySQL)
		}
		r.exec(`insert into item (id) values (0)`)
		r.fence()
		eventually(t, "the one beside it stands by", func() bool { return beside.Status().State == "standby" })
		if st := c.Status(); st.Trouble != nil || st.BySQL {
			t.Errorf("it does not stream in peace: %+v", st)
		}
		cancel()
		must(t, <-ended)
		must(t, stop())
		got := r.same("public", "item")
		if want := rows + 2*100 + 1; len(got.events) != want {
			t.Errorf("%d events, want each of %d once", len(got.events), want)
		}
		if got := r.same("public", "full_bag"); len(got.events) != 1+101 { // the truncate before its snapshot
			t.Errorf("full_bag: %d events, want each of 102 once", len(got.events))
		}
		r.progressGrows()
	}
}
