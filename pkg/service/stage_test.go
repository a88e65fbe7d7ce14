package service

import (
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func histogramOpts() prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Name: "tributary_test_latency_seconds", Help: "Test."}
}

func TestStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var stages Stages
		read := stages.Stage("read", "source")
		publish := stages.Stage("publish", "kafka")
		states := func(want ...StageState) {
			t.Helper()
			if got := stages.Snapshot(); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		}
		states(StageState{Name: "read", Workers: 1}, StageState{Name: "publish", Workers: 1})
		read.Busy()
		publish.Busy()
		time.Sleep(2 * time.Second)
		read.Busy() // still
		done := publish.Wait("kafka")
		time.Sleep(3 * time.Second)
		inner := publish.Wait("registry")
		time.Sleep(time.Second)
		states(StageState{Name: "read", Workers: 1, Busy: 6},
			StageState{Name: "publish", Workers: 1, Busy: 2, WaitingOn: "registry", Since: start.Add(5 * time.Second)})
		inner()
		states(StageState{Name: "read", Workers: 1, Busy: 6},
			StageState{Name: "publish", Workers: 1, Busy: 2, WaitingOn: "kafka", Since: start.Add(2 * time.Second)})
		done()
		read.Idle()
		read.Idle()
		time.Sleep(4 * time.Second)
		states(StageState{Name: "read", Workers: 1, Busy: 6}, StageState{Name: "publish", Workers: 1, Busy: 6})

		// A wait from idleness does not make busy.
		publish.Idle()
		done = publish.Wait("kafka")
		time.Sleep(time.Second)
		done()
		time.Sleep(time.Second)
		states(StageState{Name: "read", Workers: 1, Busy: 6}, StageState{Name: "publish", Workers: 1, Busy: 6})

		// What is left to another stage is that one's work.
		publish.Busy()
		done = publish.Hand(read, "source")
		time.Sleep(2 * time.Second)
		states(StageState{Name: "read", Workers: 1, Busy: 8}, StageState{Name: "publish", Workers: 1, Busy: 6, WaitingOn: "source", Since: time.Now().Add(-2 * time.Second)})
		done()
		time.Sleep(time.Second)
		publish.Idle()
		states(StageState{Name: "read", Workers: 1, Busy: 8}, StageState{Name: "publish", Workers: 1, Busy: 7})

		// Workers of one stage add up.
		second := stages.Stage("read")
		second.Busy()
		time.Sleep(time.Second)
		states(StageState{Name: "read", Workers: 2, Busy: 9}, StageState{Name: "publish", Workers: 1, Busy: 7})
	})
}

func TestStageMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stages Stages
		for range 2 {
			st := stages.Stage("publish", "kafka", "registry")
			st.Busy()
			time.Sleep(2 * time.Second)
			defer st.Wait("kafka")()
			time.Sleep(time.Second)
		}
		collector := stages.Collector("tributary_capture", prometheus.Labels{"source": "shop"}, nil)
		// synctest's clock begins at 2000-01-01T00:00:00Z.
		want := `
# HELP tributary_capture_stage_busy_seconds_total Time that a stage was busy. While one waits for another, it is the other that is.
# TYPE tributary_capture_stage_busy_seconds_total counter
tributary_capture_stage_busy_seconds_total{source="shop",stage="publish"} 4
# HELP tributary_capture_waiting_since_timestamp_seconds Since when this is waited for, 0 while it is not.
# TYPE tributary_capture_waiting_since_timestamp_seconds gauge
tributary_capture_waiting_since_timestamp_seconds{on="kafka",source="shop"} 9.46684802e+08
tributary_capture_waiting_since_timestamp_seconds{on="registry",source="shop"} 0
`
		if err := testutil.CollectAndCompare(collector, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
		// What the service knows counts where it has been so for longer than for any stage.
		for since, told := range map[int64]string{946684801: "9.46684801e+08", 946684805: "9.46684802e+08"} {
			known := func() (string, time.Time) { return "kafka", time.Unix(since, 0) }
			_, part, _ := strings.Cut(strings.Replace(want, "9.46684802e+08", told, 1), "} 4\n")
			collector := stages.Collector("tributary_capture", prometheus.Labels{"source": "shop"}, known)
			if err := testutil.CollectAndCompare(collector, strings.NewReader(part), "tributary_capture_waiting_since_timestamp_seconds"); err != nil {
				t.Error(err)
			}
		}
		if problems, err := testutil.CollectAndLint(collector); err != nil || len(problems) > 0 {
			t.Errorf("%v %v", problems, err)
		}
	})
}

// TestStagesTogether is for the race detector.
func TestStagesTogether(t *testing.T) {
	var stages Stages
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			st := stages.Stage("apply")
			for range 1000 {
				st.Busy()
				st.Wait("warehouse")()
				st.Idle()
			}
		})
	}
	for range 1000 {
		for _, state := range stages.Snapshot() {
			if state.Busy < 0 {
				t.Fatalf("got %+v", state)
			}
		}
	}
	workers.Wait()
}

func BenchmarkStage(b *testing.B) {
	var stages Stages
	st := stages.Stage("apply")
	b.ReportAllocs()
	for b.Loop() {
		st.Busy()
		st.Idle()
	}
}
