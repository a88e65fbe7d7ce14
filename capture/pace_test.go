package capture

import (
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/service"
)

func TestPace(t *testing.T) {
	var p pace
	now := time.Now()
	if got := p.rate(now); got != 0 {
		t.Errorf("%v changes a second before there were any", got)
	}
	for second := range 300 {
		for range 50 {
			p.count(int64(second + 1))
		}
		now = now.Add(time.Second)
		if got := p.rate(now); got != 50 {
			t.Fatalf("%v changes a second, want 50", got)
		}
	}
	if len(p.samples) > 62 {
		t.Errorf("it keeps %d samples", len(p.samples))
	}
	if got := p.rate(now.Add(paceWindow)); got != 0 {
		t.Errorf("%v changes a second after a minute without any", got)
	}
	if p.oldest != 1 {
		t.Errorf("the oldest commit is %d", p.oldest)
	}
}

func TestStatusSaysWhereTimeGoes(t *testing.T) {
	p50, p99 := 0.02, 1.5
	r := Report{Status: Status{
		Source: "shop", State: "catching_up", ChangesPerSecond: 1234.4, LatencyP50: &p50, LatencyP99: &p99,
		Stages: []service.StageState{{Name: "publish", Workers: 1, Busy: 75, WaitingOn: "kafka", Since: time.Now()}},
	}}
	var out strings.Builder
	r.Print(&out)
	for _, want := range []string{"changes      1,234/s", "latency      0.02 s, one in a hundred above 1.5 s", "busy         1 min 15 s with publish", "waits        for kafka"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the status does not say %q:\n%s", want, out.String())
		}
	}
	r.State, out = "up_to_date", strings.Builder{}
	r.Print(&out)
	if !strings.Contains(out.String(), "behind, 1,234 changes/s, WAL") {
		t.Errorf("%s", out.String())
	}
}
