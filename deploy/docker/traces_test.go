package docker

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/tracing/tracingtest"
)

// collectTraces has everything traced that the test does.
func collectTraces(t *testing.T) *tracingtest.Collector {
	t.Helper()
	c := tracingtest.Collect(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	return c
}

// checkTraces waits for a change that was streamed: one trace of its Kafka transaction, one of the flush that wrote it, with
// a link from this to that, and all parts of both.
func checkTraces(ctx context.Context, t *testing.T, c *tracingtest.Collector) {
	t.Helper()
	var spans []tracingtest.Span
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		spans, _ = c.Told()
		for i := range spans {
			flush := &spans[i]
			if flush.Name != "flush" || !slices.Equal(partsOf(spans, flush), []string{"fetch", "fold", "copy", "apply", "commit"}) {
				continue
			}
			at := slices.IndexFunc(spans, func(s tracingtest.Span) bool {
				return s.Name == "kafka transaction" && slices.Contains(flush.Links, s.Trace) && slices.Equal(partsOf(spans, &s), []string{"read", "decode", "produce", "commit"})
			})
			if at < 0 {
				continue
			}
			kafka := &spans[at]
			if flush.Program != "tributary-sink" || flush.Parent != "" || flush.Error != "" || kafka.Program != "tributary-capture" || kafka.Parent != "" || kafka.Error != "" {
				t.Errorf("the traces are %+v and %+v", kafka, flush)
			}
			if kafka.Attributes["tributary.source"] != "shop" || !strings.Contains(kafka.Attributes["tributary.commit_lsn"], "/") || flush.Attributes["tributary.group"] == "" {
				t.Errorf("they are of %v and %v", kafka.Attributes, flush.Attributes)
			}
			return
		}
		select {
		case <-ctx.Done():
			for _, s := range spans {
				t.Logf("%s of %s: %s to %s, links %v", s.Name, s.Trace, s.Start, s.End, s.Links)
			}
			t.Fatal("no flush with a link to a Kafka transaction")
		case <-tick.C:
		}
	}
}

// partsOf gives the parts of a trace's root in order, if they lie within it and no two of a sink's are at once.
func partsOf(spans []tracingtest.Span, root *tracingtest.Span) (names []string) {
	var parts []tracingtest.Span
	for _, s := range spans {
		if s.Trace == root.Trace && s.Parent == root.ID && !s.Start.Before(root.Start) && !s.End.After(root.End) && !s.End.Before(s.Start) {
			parts = append(parts, s)
		}
	}
	slices.SortStableFunc(parts, func(a, b tracingtest.Span) int { return a.End.Compare(b.End) })
	for i, s := range parts {
		if names = append(names, s.Name); root.Name == "flush" && i > 0 && s.Start.Before(parts[i-1].End) {
			return nil
		}
	}
	return names
}
