package capture

import (
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/service/page"
)

// The charts have what the server allows beside what is kept, rows of a snapshot while one runs, and what happened.
func TestCharts(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), "")
	r.own(0, map[string]string{"max_slot_wal_keep_size": "1GB"})
	r.exec(`create table a (id int primary key); insert into a select generate_series(1, 600); analyze a`)
	c, _ := r.start()
	r.fence()
	cfg := page.Config{View: func() page.View { st := c.Status(); return st.page() }, History: c.vitals.history, Log: c.log}
	// The text of an event stands in the list under the charts, and among the events.
	told := func(text string) bool {
		html, err := cfg.Main("")
		must(t, err)
		return strings.Count(string(html), text) == 2
	}
	eventually(t, "the begin and the end of the snapshot are marks", func() bool { return told(", tables 1, to read 1<") && told(", rows 600, still to read 0<") })
	r.reads(c, "", `<span class="key line-2">server&#39;s limit</span>`, `<td class="number">1.0 GiB</td>`)
	r.request(SnapshotRequest{ID: "slow", Tables: []string{"public.a"}, Rate: 30})
	r.reads(c, "", `<span class="key line-1">snapshot rows</span>`)
}
