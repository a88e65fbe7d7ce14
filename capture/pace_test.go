package capture

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
)

// Of several tables that are read at once each has its rate, what is left, and who asked; a read that has ended is told of.
func TestSnapshotOfSeveralTables(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), `create table a (id int primary key); create table b (id int primary key); create table c (id int primary key);
		insert into a select generate_series(1, 600); insert into b select generate_series(1, 600); analyze a, b`)
	c, stop := r.start()
	r.fence()
	var read [2]TableStatus
	slowly := func() Status {
		q, err := json.Marshal(signal{Snapshot: &SnapshotRequest{ID: "slow", By: "ada", Tables: []string{"public.a", "public.b"}, Rate: 30}})
		must(t, err)
		r.exec(fmt.Sprintf(`select pg_logical_emit_message(true, 'tributary', '%s')`, q))
		eventually(t, "both are read and have a rate", func() bool {
			tables := c.Status().Tables
			read = [2]TableStatus(tables[:2])
			for i := range read {
				if s := read[i].Snapshot; s == nil || !s.reads() || s.RowsPerSecond == 0 || s.ETASeconds == nil || read[i].SnapshotRows < 150 {
					return false
				}
			}
			return true
		})
		st := c.Status()
		for i := range read { // a chunk is of a second, and the first comes at once
			if most := 30 * (time.Since(read[i].Snapshot.BeganAt).Seconds() + 1.5); float64(st.Tables[i].SnapshotRows) > most {
				t.Errorf("%s: %d rows, where %.0f are the most", read[i].Table, st.Tables[i].SnapshotRows, most)
			}
		}
		// What was read before is no part of it. The two are looked at one after the other, between which a chunk may come.
		if all, both := st.Snapshot.RowsPerSecond, st.Tables[0].Snapshot.RowsPerSecond+st.Tables[1].Snapshot.RowsPerSecond; math.Abs(all-both) > both/2 {
			t.Errorf("all is read at %v rows a second, the two tables at %v", all, both)
		}
		return st
	}
	st := slowly()
	for i := range read {
		s, one := read[i].Snapshot, &read[i]
		if s.State != readReading || s.By != "ada" || s.RowsPerSecond > 300 || s.BeganAt.IsZero() || !s.EndedAt.IsZero() {
			t.Errorf("%s: %+v", one.Table, s)
		}
		if left := float64(600-one.SnapshotRows) / s.RowsPerSecond; *s.ETASeconds < 0.9*left || *s.ETASeconds > 1.1*left {
			t.Errorf("%s: %v s are left, of %d rows at %v /s", one.Table, *s.ETASeconds, one.SnapshotRows, s.RowsPerSecond)
		}
	}
	for _, bar := range (&Report{Status: st}).Bars() {
		if bar.Rate == 0 || bar.Left == 0 || bar.Total != 600 {
			t.Errorf("%+v", bar)
		}
	}
	shown := st.page().Snapshot
	if shown == nil || len(shown.Rows) != 3 || !strings.Contains(shown.Rows[0].Notes[0], " /s, ") || !strings.Contains(shown.Rows[0].Notes[0], "asked by ada") {
		t.Errorf("the page has %+v", shown)
	}

	r.request(SnapshotRequest{ID: "quick", Tables: []string{"public.a", "public.b"}})
	r.fence()
	eventually(t, "the reads have ended", func() bool {
		st = c.Status()
		a := st.Tables[0].Snapshot
		return a != nil && a.State == readDone && a.RowsPerSecond > 0 && a.By == "" && time.Since(a.EndedAt) < time.Minute
	})
	if shown := st.page().Snapshot; shown == nil || !strings.Contains(shown.Rows[0].Notes[0], "done") {
		t.Errorf("the page has %+v", shown)
	}
	slowly()
	must(t, stop())
}
