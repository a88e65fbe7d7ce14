package capture

import (
	"fmt"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/schema/change"
)

// A server that did not hear, or has forgotten, what was confirmed lately sends it again. Rows of a snapshot that were put
// behind the newest commit before that came again were followed by others at the same positions, which were taken for
// repeats: rows were missing.
func TestSnapshotRowsBeforeTheirCommitComesAgain(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		r := newRig(t, major, kafkatest.Fake(t), tables+"create table noise (i int)")
		r.config.Source.Tables = []string{"public.*", "!public.noise"}
		slot := r.config.Source.slot()
		idle := func() {
			eventually(t, "nobody streams", func() bool {
				var active bool
				must(t, r.conn.QueryRow(t.Context(), "select active from pg_replication_slots where slot_name = $1", slot).Scan(&active))
				return !active
			})
		}
		_, stop := r.start()
		r.fence()
		for round := range 3 {
			must(t, stop())
			idle()
			r.exec(fmt.Sprintf("select pg_copy_logical_replication_slot('%[1]s', '%[1]s_b')", slot))
			_, stop = r.start()
			// To read this once more takes the server a while, in which capture begins.
			r.exec("insert into noise select generate_series(1, 500000)")
			r.exec(fmt.Sprintf("insert into item (id) select %d + i from generate_series(1, 100) i", round*10000))
			r.fence()
			must(t, stop())
			idle()
			r.exec(fmt.Sprintf("select pg_drop_replication_slot('%[1]s'); select pg_copy_logical_replication_slot('%[1]s_b', '%[1]s'); select pg_drop_replication_slot('%[1]s_b')", slot))
			if again := r.confirmed(); again >= change.LSN(r.progress().CommitLSN) {
				t.Errorf("the slot stands at %s: nothing comes again", again)
			}
			r.exec(fmt.Sprintf("create table late_%[1]d (v text); insert into late_%[1]d select i::text from generate_series(1, 5000) i", round))
			_, stop = r.start()
			r.fence()
			r.same("public", fmt.Sprintf("late_%d", round))
			r.same("public", "item")
			r.progressGrows()
		}
		must(t, stop())
	}
}
