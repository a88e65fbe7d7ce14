package capture

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

func TestBudgetAlarm(t *testing.T) {
	const gib = 1 << 30
	config := Config{}
	config.Source.Name, config.Source.WALBudget = "shop", 50*gib
	b := newBudget(&config, slog.New(slog.DiscardHandler), newMeter("shop", true))
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	safe := int64(20 * gib)
	look := func(after time.Duration, kept int64, limit *int64) (alarm *TroubleStatus, wal WAL) {
		now = now.Add(after)
		b.observe(now, &catalog.Slot{KeptBytes: kept, SafeBytes: limit}, nil, reason{"why", "what to do"})
		var st Status
		b.tell(&st)
		if len(st.Alarms) > 0 {
			alarm = &st.Alarms[0]
		}
		return alarm, st.WAL
	}
	f := func(after time.Duration, keptGiB float64, limit *int64, wantLevel int, parts ...string) {
		t.Helper()
		alarm, _ := look(after, int64(keptGiB*gib), limit)
		if got := b.level + 1; got != wantLevel {
			t.Fatalf("%v GiB: alarm %v, want %v", keptGiB, got, wantLevel)
		}
		if (alarm != nil) != (wantLevel > 0) {
			t.Fatalf("%v GiB: the status says %+v", keptGiB, alarm)
		}
		for _, part := range parts {
			if text := alarm.Cause + "|" + alarm.Means + "|" + alarm.Hint; !strings.Contains(text, part) {
				t.Errorf("%v GiB: %q does not say %q", keptGiB, text, part)
			}
		}
	}
	f(0, 24, nil, 0)
	f(time.Minute, 25, nil, 1, "25.0 GiB of 50.0 GiB are kept (50 %)", "growing by 17.1 MiB/s", "used up in 25 min 0 s", "disk fills", "why", "what to do")
	f(time.Minute, 24, nil, 1, "does not grow")
	f(time.Minute, 22, nil, 0)
	f(time.Minute, 41, &safe, 2, "82 %", "drops the slot after another 20.0 GiB, in ")
	f(time.Minute, 38, &safe, 2) // not off before it is clearly below
	f(time.Minute, 30, &safe, 1)
	f(time.Minute, 60, &safe, 2, "the budget is used up;")
	f(time.Hour, 60, &safe, 2)
	if _, wal := look(growthWindow, 60*gib, &safe); wal.GrowthBytesPerSecond != 0 || wal.FullInSeconds == nil || *wal.FullInSeconds != 0 {
		t.Errorf("%+v: what is older than the window still counts", wal)
	}
	small := int64(4 * gib) // the server drops the slot before the budget is used: parts of what it allows count
	f(time.Hour, 30, &small, 2, "30.0 GiB of 34.0 GiB are kept (88 %)")
	b.observe(now, nil, nil, reason{})
	var st Status
	if b.tell(&st); len(st.Alarms) != 0 || st.WAL.RetainedBytes != 0 || st.WAL.BudgetBytes != 50*gib {
		t.Errorf("without a slot: %+v", st)
	}
}

// While Kafka is away there is no session, and it is then that WAL piles up.
func TestBudgetAlarmWhileKafkaIsAway(t *testing.T) {
	kafka := kafkatest.Fake(t)
	r := newRig(t, 0, kafka, tables)
	r.own(0, nil)
	r.exec(tables)
	r.config.Source.WALBudget = 32 << 20
	c, stop := r.start()
	r.fence()
	must(t, kafka.Stop())
	alarm := func() *TroubleStatus {
		for _, a := range c.Status().Alarms {
			if a.Code == trouble.WALBudget {
				return &a
			}
		}
		return nil
	}
	eventually(t, "the alarm goes on", func() bool {
		r.exec(`insert into item select i, repeat('x', 1000) from generate_series(1, 2000) i; delete from item`)
		a := alarm()
		return a != nil && a.Means != "" && a.Hint != "" && strings.Contains(strings.ToLower(a.Cause), "kafka")
	})
	must(t, kafka.Restart(t.Context()))
	eventually(t, "the alarm goes off", func() bool {
		r.exec(`insert into item values (1); delete from item; checkpoint`)
		return alarm() == nil
	})
	must(t, stop())
}

// Since when a transaction of another role is open is not shown to a role without pg_read_all_stats: nothing of it was seen, the age of
// the oldest was 0, and its alert could not fire.
func TestTransactionsOfOtherRoles(t *testing.T) {
	r := newRig(t, 0, kafkatest.Fake(t), tables)
	r.member()
	tx, err := r.conn.Begin(t.Context())
	must(t, err)
	defer tx.Rollback(t.Context()) //nolint:errcheck // its connection ends
	_, err = tx.Exec(t.Context(), "insert into item values (1)")
	must(t, err)

	cat, err := catalog.Open(t.Context(), string(r.config.Source.DSN), "tributary test")
	must(t, err)
	defer cat.Close(t.Context()) //nolint:errcheck // the server forgets the connection by itself
	pid := int(r.conn.PgConn().PID())
	age := func(olderThan time.Duration) (time.Duration, bool) {
		blockers, err := cat.Blockers(t.Context(), olderThan)
		must(t, err)
		for _, b := range blockers {
			if b.PID == pid {
				return b.Age, true
			}
		}
		return 0, false
	}
	if _, found := age(time.Minute); found || cat.Hidden() != 1 {
		t.Errorf("at the first look it is known to be old, or %d are hidden", cat.Hidden())
	}
	eventually(t, "it is as old as it has been seen", func() bool { _, found := age(100 * time.Millisecond); return found })
	must(t, tx.Rollback(t.Context()))
	if _, found := age(0); found {
		t.Error("it is told though it has ended")
	}
}

// TestAgeOfAHiddenTransaction: one that is hidden from our role, and has just been seen for the first time, may be open for days.
func TestAgeOfAHiddenTransaction(t *testing.T) {
	o := openTransaction([]catalog.Blocker{{PID: 7}}, time.Now())
	st := Status{Oldest: o}
	if text := o.whose(); text != "pid 7" || len(st.needs(time.Now(), 0)) > 0 {
		t.Errorf("%q", text)
	}
}
