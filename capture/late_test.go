package capture

import (
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema/change"
)

func TestLateness(t *testing.T) {
	began := time.Now()
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	var p passed
	if p.reach(5); !p.until.IsZero() {
		t.Errorf("until %s of nothing", p.until)
	}
	for i := range 3 {
		p.see(at(i), change.LSN(10*(i+1)))
	}
	for _, one := range []struct {
		reached change.LSN
		until   time.Time
	}{{9, time.Time{}}, {10, at(0)}, {29, at(1)}, {29, at(1)}, {35, at(2)}} {
		if p.reach(one.reached); !p.until.Equal(one.until) {
			t.Errorf("at %d all is there until %s, want %s", one.reached, p.until, one.until)
		}
	}
	for i := range 10 * maxSightings { // a long backlog takes no more memory, and is not told to be shorter than it is
		p.see(at(100+i), change.LSN(1000+i))
	}
	if p.reach(1000 + 3*maxSightings); len(p.ahead) != 1 || p.until.After(at(100+maxSightings)) {
		t.Errorf("%d sightings, until %s", len(p.ahead), p.until.Sub(began))
	}

	none := time.Time{}
	for _, one := range []struct {
		name                  string
		oldest, newest, until time.Time
		want                  time.Duration
	}{
		{"the oldest is known", at(50), at(10), at(60), 50 * time.Second},
		{"the backlog is not read", none, at(10), none, 90 * time.Second},
		{"the source was idle: all was published a moment ago", none, at(10), at(98), 2 * time.Second},
		{"the newest is newer than the last look", none, at(99), at(98), time.Second},
		{"nothing is known", none, none, none, 0},
		{"the source's clock is ahead", at(103), none, none, 0},
	} {
		if got := lateness(at(100), one.oldest, one.newest, one.until); got != one.want {
			t.Errorf("%s: %s", one.name, got)
		}
	}
}

// Clocks that differ are told of; that an answer took its time is no difference.
func TestClocksThatDiffer(t *testing.T) {
	b := &budget{}
	for ahead, want := range map[time.Duration]string{
		0:                      "",
		900 * time.Millisecond: "",
		12 * time.Second:       "the source's clock is 12 s ahead of this host's",
		-12 * time.Second:      "the source's clock is 12 s behind this host's",
	} {
		b.clock(time.Now(), time.Now().Add(ahead))
		st := Status{State: service.StateUpToDate, Source: "shop", SeenAt: time.Now()}
		b.tell(&st)
		if got := st.skew(); got != want {
			t.Errorf("%s: %q", ahead, got)
		}
		lines := st.tiles()[0].Lines
		if got := lines[len(lines)-1]; want != "" && got != want {
			t.Errorf("the tile says %q", lines)
		}
		if note := (&Report{Status: st}).facts()[0].Note; note != want {
			t.Errorf("the terminal says %q", note)
		}
	}
	before := *b.ahead
	b.clock(time.Now().Add(-2*skewShown), time.Now())
	b.clock(time.Now(), time.Time{})
	if *b.ahead != before {
		t.Error("an answer that took long, or none, tells of the clock")
	}
}

// TestProgressOfABacklog: no record that lacks what the source has committed since says that all until it was written is there: neither that
// by which an instance takes over, which repeats the one before, nor the first of its own.
func TestProgressOfABacklog(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	_, stop := r.start()
	r.fence()
	must(t, stop())
	before, at := r.progress(), time.Now()
	r.exec("insert into item (id) values (1)")
	var lsn string
	must(t, r.conn.QueryRow(t.Context(), "select pg_current_wal_insert_lsn()::text").Scan(&lsn))
	end, err := change.ParseLSN(lsn)
	must(t, err)
	_, stop = r.start()
	r.fence()
	must(t, stop())
	lacking := 0
	for _, pr := range r.progresses() {
		if pr.N <= before.N || change.LSN(pr.EndLSN) >= end {
			continue
		}
		lacking++
		if until := publishedUntil(pr); until.After(at.Add(time.Millisecond)) {
			t.Errorf("record %d, up to %s, says that all is there until %s after a change at %s, which it lacks", pr.N, change.LSN(pr.EndLSN), until.Sub(at), end)
		}
	}
	if lacking == 0 {
		t.Error("no record was written before the change was published")
	}
}
