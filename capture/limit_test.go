package capture

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tributary-cdc/tributary/pkg/kafkatest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/schema/change"
)

// busySeconds gives the metric of a capture, by stage.
func busySeconds(t *testing.T, c *Capture) map[string]float64 {
	t.Helper()
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(c.Collectors()...)
	families, err := metrics.Gather()
	must(t, err)
	busy := map[string]float64{}
	for _, f := range families {
		if f.GetName() != namespace+"_stage_busy_seconds_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "stage" {
					busy[l.GetValue()] = m.GetCounter().GetValue()
				}
			}
		}
	}
	return busy
}

// Whoever a capture waits for while there is more to be done is named as the limit, by the status, the card and the alarm's hint, and
// the metric has its time. Stages take turns: they never have more time than there was.
func TestLimitIsNamed(t *testing.T) {
	fake := kafkatest.Fake(t)
	r := newRig(t, 0, fake, `create table item (id int primary key, name text)`)
	r.config.Publish.Bytes, r.config.Source.Heartbeat = 64<<10, 0
	_, stop := r.start()
	r.fence()
	must(t, stop())

	limitIs := func(stage, who string, meanwhile func(c *Capture) (undo func())) {
		t.Helper()
		began := time.Now()
		c, stop := r.start()
		before, from := busySeconds(t, c), time.Now()
		undo := meanwhile(c)
		eventually(t, who+" is the limit", func() bool {
			most, is, _ := service.Limit(c.Status().Stages)
			return is && most.Name == stage
		})
		took := time.Since(from).Seconds()
		now, sum := busySeconds(t, c), 0.0
		for _, seconds := range now {
			sum += seconds
		}
		if most := now[stage] - before[stage]; most < 0.5*took || sum > 1.05*time.Since(began).Seconds() {
			t.Errorf("in %.2f s %s had %.2f s, all together %.2f s", took, stage, most, sum)
		}
		st := c.Status()
		st.State, st.Falling, st.LagSeconds = service.StateUpToDate, true, 100
		st.judge(time.Now(), 0)
		if len(st.Needs) != 1 || !strings.HasPrefix(st.Needs[0].Why, who+" is the limit: ") || len(st.Needs[0].Do) == 0 {
			t.Errorf("the card says %+v", st.Needs)
		}
		if why := c.holdsUp(nil, nil); !strings.Contains(why.cause, who+" is the limit: ") || why.hint != limits[stage].hint {
			t.Errorf("the alarm says %+v", why)
		}
		if lines := fmt.Sprint((&Report{Status: st}).facts()); !strings.Contains(lines, "% <- limit") {
			t.Errorf("the terminal says\n%s", lines)
		}
		undo()
		must(t, stop())
	}

	// Each of its transactions takes Kafka a while: there is a backlog.
	r.exec(`insert into item (id, name) select i, repeat(md5(i::text), 300) from generate_series(1, 1500) i`)
	var slow atomic.Bool
	slow.Store(true)
	fake.Kfake().ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		fake.Kfake().KeepControl()
		if slow.Load() {
			fake.Kfake().SleepControl(func() { time.Sleep(50 * time.Millisecond) })
		}
		return nil, nil, false
	})
	limitIs(stageKafka, "Kafka", func(*Capture) func() { return func() { slow.Store(false) } })

	_, stop = r.start() // what is left of that is published before the next one counts
	r.fence()
	must(t, stop())

	// The walsender stands still, with a change to be sent.
	limitIs(stageRead, "the source", func(c *Capture) func() {
		var pid int
		eventually(t, "the walsender streams", func() bool {
			return r.conn.QueryRow(t.Context(), `select active_pid from pg_replication_slots where slot_name = $1 and active_pid is not null`, r.config.Source.slot()).Scan(&pid) == nil
		})
		eventually(t, "all is published since a while", func() bool {
			st := c.Status()
			return st.ServerLSN != change.LSN(0).String() && st.ToPublish == 0 && time.Since(st.PublishedTime) > 2*time.Second
		})
		walsender, err := os.FindProcess(pid)
		must(t, err)
		must(t, walsender.Signal(syscall.SIGSTOP))
		goOn := func() { _ = walsender.Signal(syscall.SIGCONT) }
		t.Cleanup(goOn)
		came := time.Now()
		r.exec(`insert into item (id) values (10000)`)
		return func() {
			// It is as late as this change is old, not as the one before it is.
			st, most := c.Status(), time.Since(came)+time.Second
			if st.LagSeconds <= 0 || st.LagSeconds > most.Seconds() || time.Since(st.PublishedTime) < most {
				t.Errorf("%v s behind, the change is less than %s old, the one before was made at %s", st.LagSeconds, most, st.PublishedTime)
			}
			goOn()
		}
	})
}

func TestLimitInWords(t *testing.T) {
	for _, one := range []struct {
		shares []float64
		cause  string
	}{
		{[]float64{0, 0, 0, 0}, ""},
		{[]float64{0, 0.01, 0, 0.01}, ""},
		{[]float64{0.05, 0.21, 0.01, 0.71}, "Kafka is the limit: 71 % of the time goes into waiting for its commits"},
		{[]float64{0.61, 0.21, 0.01, 0.1}, "the source is the limit: 61 % of the time goes into waiting for its WAL"},
		{[]float64{0.05, 0.8, 0.01, 0.1}, "capture is the limit: 80 % of the time goes into decoding and encoding, on one core"},
		{[]float64{0.05, 0.2, 0.65, 0.1}, "the registry is the limit: 65 % of the time goes into waiting for its answers"},
		{[]float64{0.05, 0.5, 0.01, 0.4}, "most of the time, 50 %, goes into decoding and encoding, on one core"},
	} {
		if got := limit(goes(one.shares...)); got.cause != one.cause || (got.hint == "") != (one.cause == "") {
			t.Errorf("%v: %+v", one.shares, got)
		}
	}
}
