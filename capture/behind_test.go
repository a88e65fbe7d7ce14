package capture

import (
	"fmt"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/schema/change"
)

// A walsender is too slow where it has not passed for a minute what was before it; not where much is written all the time and
// it keeps up, nor soon after SQL was used.
func TestBehind(t *testing.T) {
	var b behind
	one, other := &replication.Stream{}, &replication.Stream{}
	now := time.Now()
	look := func(after time.Duration, stream *replication.Stream, confirmed, end int64, late *replication.Stream) {
		t.Helper()
		now = now.Add(after)
		b.observe(now, stream, &catalog.Slot{ConfirmedFlushLSN: change.LSN(confirmed), ToPublishBytes: end - confirmed}) //nolint:gosec // they are small
		for _, s := range []*replication.Stream{one, other} {
			if got := b.tooSlow(s); got != (s == late) {
				t.Errorf("at %d of %d: too slow is %t", confirmed, end, got)
			}
		}
	}
	look(0, one, 100, 1000, nil)
	look(30*time.Second, one, 990, 2000, nil)
	look(29*time.Second, one, 1500, 3000, nil) // it has passed 1000
	look(59*time.Second, one, 2000, 4000, nil)
	look(time.Second, one, 2999, 5000, one)
	look(time.Second, one, 3000, 6000, nil)
	look(time.Minute, one, 3001, 7000, one)
	look(time.Second, other, 3002, 8000, nil) // a new session
	look(time.Minute, other, 3003, 9000, other)
	look(time.Second, nil, 3004, 9000, nil) // paused, or less is before it than is worth it
	look(time.Second, other, 3005, 9000, nil)
	b.began = now
	look(9*time.Minute, other, 3006, 9000, nil)
	look(2*time.Minute, other, 3007, 9000, nil)
	look(time.Minute, other, 3008, 9000, other)
	if !b.may() {
		t.Error("SQL may not be used, and has not failed")
	}
	if b.fails(); b.may() {
		t.Error("SQL may be used right after it has failed")
	}
	// Within a transaction a session does not end.
	inside := &session{inTx: true, tooSlow: func() bool { return true }}
	if ended, err := inside.rest(t.Context()); ended || err != nil {
		t.Errorf("within a transaction: %t, %v", ended, err)
	}
}

// What gathers before a walsender that has fallen behind is fetched by SQL, without a restart; each change is published once.
func TestFallsBehind(t *testing.T) {
	was := behindFor
	behindFor = 300 * time.Millisecond // less than what is durable takes to be told to the server
	t.Cleanup(func() { behindFor = was })
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.config.Source.CatchUp = 8 << 10
	c, stop := r.start()
	r.fence()
	went := func() bool {
		c.behind.mu.Lock()
		defer c.behind.mu.Unlock()
		return !c.behind.began.IsZero()
	}
	rows := 0
	eventually(t, "a session begins with SQL", func() bool {
		r.exec(fmt.Sprintf(`insert into item (id, name) select %d + i, repeat('x', 100) from generate_series(1, 100) i`, rows))
		rows += 100
		return went()
	})
	eventually(t, "the walsender streams again", func() bool {
		stream := c.stream.Load()
		return stream != nil && !stream.CatchingUp()
	})
	r.exec(`insert into item (id) values (0)`)
	r.fence()
	if st := c.Status(); st.Trouble != nil {
		t.Errorf("it is in trouble: %+v", st.Trouble)
	}
	must(t, stop())
	if got := r.same("public", "item"); len(got.events) != rows+1 {
		t.Errorf("%d events, want each of %d once", len(got.events), rows+1)
	}
	r.progressGrows()
}
