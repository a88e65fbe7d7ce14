package capture

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
)

func TestStandbyTakesOver(t *testing.T) {
	patience := standbyPatience
	standbyPatience = 400 * time.Millisecond
	t.Cleanup(func() { standbyPatience = patience })
	r := newRig(t, 0, kafkatest.Fake(t), tables+`insert into item select i, 'a' from generate_series(1, 300) i`)
	r.options.Standby = true
	type instance struct {
		*Capture
		cancel context.CancelFunc
		ended  chan error
	}
	begin := func() *instance {
		c, err := New(r.config, r.options, slog.New(slog.NewTextHandler(testWriter{t}, nil)))
		must(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		i := &instance{c, cancel, make(chan error, 1)}
		go func() { i.ended <- i.Run(ctx) }()
		t.Cleanup(cancel)
		return i
	}
	is := func(i *instance, state string) func() bool {
		return func() bool { return i.Status().State == state && i.Status().Trouble == nil }
	}
	first := begin()
	eventually(t, "the first streams", is(first, "up_to_date"))
	r.fence() // an update of what is yet to be read would stand for the read: fewer events
	second := begin()
	eventually(t, "the second stands by", func() bool {
		return is(second, "standby")() && second.Status().Holder != "" && !second.Status().HolderSince.IsZero()
	})
	r.exec(`update item set name = 'b' where id <= 100`)
	r.fence()
	if st := first.Status(); st.State != "up_to_date" || st.Trouble != nil {
		t.Errorf("the standby disturbed the first: %+v", st)
	}
	first.cancel()
	must(t, <-first.ended)
	r.exec(`update item set name = 'c' where id <= 200`)
	eventually(t, "the second takes over", is(second, "up_to_date"))
	r.exec(`update item set name = 'd' where id <= 50`)
	r.fence()

	// One that is fenced stands by again.
	r.options.Standby = false
	third := begin()
	eventually(t, "the third streams", is(third, "up_to_date"))
	eventually(t, "the second stands by again", is(second, "standby"))
	if second.stages.Snapshot()[1].Busy != second.stages.Snapshot()[1].Busy { //nolint:staticcheck // a busy one grows
		t.Error("it waits, and is said to be busy: after two minutes it would be killed")
	}
	r.exec(`delete from item where id = 7`)
	r.fence()
	got := r.same("public", "item")
	if want := 300 + 100 + 200 + 50 + 1; len(got.events) != want {
		t.Errorf("%d events, want each of %d once", len(got.events), want)
	}
	for _, i := range []*instance{second, third} {
		i.cancel()
		must(t, <-i.ended)
	}
}
