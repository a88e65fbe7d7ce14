package capture

import (
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
)

func TestStatusSaysWhereTimeGoes(t *testing.T) {
	p50, p99 := 0.02, 1.5
	r := Report{Status: Status{
		Source: "shop", State: "streaming", LagSeconds: 100, ChangesPerSecond: 1234.4, LatencyP50: &p50, LatencyP99: &p99,
		Stages: []service.StageState{{Name: "publish", Workers: 1, Busy: 75, WaitingOn: "kafka", Since: time.Now()}},
	}}
	var out strings.Builder
	r.judge(time.Now(), 0)
	r.Print(&out)
	for _, want := range []string{"changes      1,234/s", "latency      0.02 s, one in a hundred above 1.5 s", "busy         1 min 15 s with publish", "waits        for kafka"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the status does not say %q:\n%s", want, out.String())
		}
	}
	r.LagSeconds, out = 0, strings.Builder{}
	r.judge(time.Now(), 0)
	r.Print(&out)
	if !strings.Contains(out.String(), "behind, 1,234 changes/s, WAL") {
		t.Errorf("%s", out.String())
	}
}
