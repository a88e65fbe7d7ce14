package publish

import (
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tributary-cdc/tributary/pkg/tracing"
	"github.com/tributary-cdc/tributary/pkg/tracing/tracingtest"
	"github.com/tributary-cdc/tributary/schema/record"
)

// The first record of a transaction in each partition names its trace, where it is recorded; no other record has a byte more.
func TestMark(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", tracingtest.Collect(t).URL)
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	tracer, err := tracing.Open(t.Context(), "capture", "here", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close(t.Context())
	p, orders, items := &Publisher{}, &topic{}, &topic{}
	recorded := true
	p.SetTrace(func(at time.Time) *tracing.Trace {
		if !recorded {
			return nil
		}
		return tracer.Begin("kafka transaction", tracing.Producer, at)
	})
	given := []kgo.RecordHeader{{Key: record.HeaderReload}}
	want := func(names bool, top *topic, partition int32) (header string) {
		t.Helper()
		got := p.marked(top, partition, given)
		if len(given) != 1 || len(got) > 1 != names {
			t.Fatalf("headers are %v", got)
		}
		if names {
			header = got[1].Key + string(got[1].Value)
		}
		return header
	}
	first := want(true, orders, 0)
	want(false, orders, 0)
	if again := want(true, orders, 1) + want(true, items, 0); again != first+first || len(first) != 66 {
		t.Errorf("headers are %q and %q", first, again)
	}
	want(false, items, 0)
	p.mark = nil // as Commit does
	if second := want(true, orders, 0); second == first {
		t.Error("two transactions have one trace")
	}
	p.mark, recorded = nil, false
	want(false, orders, 0)
	want(false, items, 0)
}
