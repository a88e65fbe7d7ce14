package tracing_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/tracing"
	"github.com/tributary-cdc/tributary/pkg/tracing/tracingtest"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// environment sets these variables, and none else of OpenTelemetry.
func environment(t *testing.T, of map[string]string) {
	t.Helper()
	for _, name := range []string{
		"SDK_DISABLED", "TRACES_EXPORTER", "TRACES_SAMPLER", "TRACES_SAMPLER_ARG", "RESOURCE_ATTRIBUTES", "SERVICE_NAME",
		"EXPORTER_OTLP_ENDPOINT", "EXPORTER_OTLP_TRACES_ENDPOINT", "EXPORTER_OTLP_PROTOCOL", "EXPORTER_OTLP_TRACES_PROTOCOL", "EXPORTER_OTLP_HEADERS",
		"EXPORTER_OTLP_TRACES_HEADERS", "EXPORTER_OTLP_COMPRESSION", "EXPORTER_OTLP_TIMEOUT", "EXPORTER_OTLP_CERTIFICATE",
	} {
		t.Setenv("OTEL_"+name, of[name])
	}
}

func open(t *testing.T) (*tracing.Tracer, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	tracer, err := tracing.Open(t.Context(), "sink", "here-1", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return tracer, &log
}

func TestTraces(t *testing.T) {
	c := tracingtest.Collect(t)
	environment(t, map[string]string{
		"EXPORTER_OTLP_ENDPOINT": strings.Replace(c.URL, "://", "://somebody:hidden@", 1) + "/", "TRACES_SAMPLER": "always_on",
		"EXPORTER_OTLP_HEADERS": "X-Key=a%20b, X-Other=c", "EXPORTER_OTLP_COMPRESSION": "gzip", "RESOURCE_ATTRIBUTES": "deployment.environment=test",
	})
	tracer, log := open(t)
	at := time.Now().Add(-time.Minute).Truncate(time.Microsecond)
	first := tracer.Begin("kafka transaction", tracing.Producer, at)
	second := tracer.Begin("flush", tracing.Consumer, at, first.Header(), first.Header(), []byte("nonsense"))
	second.Part("apply", at.Add(time.Second), at.Add(2*time.Second), slog.Int("rows", 7), slog.String("what", "x"), slog.Bool("so", true))
	second.Part("commit", time.Time{}, at) // it never happened
	second.End(at.Add(3*time.Second), &trouble.Error{Code: trouble.WarehouseFull, Cause: errors.New("row (1, secret)")})
	first.End(at.Add(time.Second), nil)
	tracer.Close(t.Context())
	spans, headers := c.Told()
	named := map[string]tracingtest.Span{}
	for _, s := range spans {
		named[s.Name] = s
	}
	apply, flush, kafka := named["apply"], named["flush"], named["kafka transaction"]
	if len(spans) != 3 || apply.Parent != flush.ID || apply.Trace != flush.Trace || flush.Parent != "" || !slices.Equal(flush.Links, []string{kafka.Trace}) || kafka.Trace == flush.Trace {
		t.Errorf("told was %+v", spans)
	}
	if !apply.Start.Equal(at.Add(time.Second)) || !apply.End.Equal(at.Add(2*time.Second)) || apply.Attributes["what"] != "x" || len(apply.Attributes) != 3 || apply.Program != "tributary-sink" {
		t.Errorf("apply is %+v", apply)
	}
	if flush.Error != "warehouse-full" || kafka.Error != "" || strings.Contains(fmt.Sprint(spans), "secret") {
		t.Errorf("errors are %q and %q", flush.Error, kafka.Error)
	}
	if h := headers[0]; h.Get("X-Key") != "a b" || h.Get("X-Other") != "c" {
		t.Errorf("headers are %v", h)
	}
	if strings.Contains(log.String(), "hidden") || !strings.Contains(log.String(), "traces are told") {
		t.Errorf("the log says %s", log)
	}
}

// One in a hundred is recorded, and all that goes back to one that is.
func TestWhatIsRecorded(t *testing.T) {
	c := tracingtest.Collect(t)
	environment(t, map[string]string{"EXPORTER_OTLP_TRACES_ENDPOINT": c.URL + "/v1/traces"})
	tracer, _ := open(t)
	defer tracer.Close(t.Context())
	var recorded []*tracing.Trace
	for range 20_000 {
		if trace := tracer.Begin("x", tracing.Producer, time.Now()); trace != nil {
			recorded = append(recorded, trace)
		}
	}
	if n := len(recorded); n < 120 || n > 290 {
		t.Errorf("%d of 20,000 are recorded", n)
	}
	for _, of := range recorded {
		if tracer.Begin("y", tracing.Consumer, time.Now(), of.Header()) == nil {
			t.Error("one that goes back to a recorded one is not")
		}
	}
	others := 0
	for range 2000 {
		if tracer.Begin("y", tracing.Consumer, time.Now(), []byte("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")) != nil {
			others++
		}
	}
	if others > 60 {
		t.Errorf("%d of 2,000 are recorded that go back to one that is not", others)
	}
}

// Without the variables there is nothing, and nothing costs nothing.
func TestNoTraces(t *testing.T) {
	for name, of := range map[string]map[string]string{
		"nothing said": {},
		"disabled":     {"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "SDK_DISABLED": "true"},
		"no exporter":  {"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "TRACES_EXPORTER": "none"},
	} {
		environment(t, of)
		tracer, log := open(t)
		if tracer != nil || log.Len() > 0 {
			t.Errorf("%s: there are traces", name)
		}
		at := time.Now()
		if n := testing.AllocsPerRun(100, func() {
			trace := tracer.Begin("x", tracing.Producer, at)
			trace.Part("part", at, at)
			trace.End(at, nil)
			_ = trace.Header()
			tracer.Close(context.Background())
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestWrongVariables(t *testing.T) {
	for want, of := range map[string]map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT":    {"EXPORTER_OTLP_ENDPOINT": "localhost:4317"},
		`"grpc" is not spoken`:           {"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "EXPORTER_OTLP_PROTOCOL": "grpc"},
		"OTEL_EXPORTER_OTLP_HEADERS":     {"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "EXPORTER_OTLP_HEADERS": "verysecret"},
		"OTEL_EXPORTER_OTLP_TIMEOUT":     {"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "EXPORTER_OTLP_TIMEOUT": "10s"},
		"OTEL_EXPORTER_OTLP_CERTIFICATE": {"EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1:1", "EXPORTER_OTLP_CERTIFICATE": "/nowhere.pem"},
		"OTEL_RESOURCE_ATTRIBUTES":       {"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "RESOURCE_ATTRIBUTES": "nonsense"},
	} {
		environment(t, of)
		_, err := tracing.Open(t.Context(), "sink", "here-1", slog.New(slog.DiscardHandler))
		if trouble.CodeOf(err) != trouble.Config || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "verysecret") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// A collector that is not there, or refuses, is told of once, and holds nobody up.
func TestCollectorAway(t *testing.T) {
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }))
	defer refuses.Close()
	for url, want := range map[string]string{"http://127.0.0.1:1": "connection refused", refuses.URL: "429 Too Many Requests"} {
		environment(t, map[string]string{"EXPORTER_OTLP_ENDPOINT": url, "TRACES_SAMPLER": "always_on"})
		t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
		tracer, log := open(t)
		for range 5 {
			tracer.Begin("x", tracing.Producer, time.Now()).End(time.Now(), nil)
		}
		tracer.Close(t.Context())
		if n := strings.Count(log.String(), "traces could not be told"); n != 1 || !strings.Contains(log.String(), want) {
			t.Errorf("%s: the log says %s", url, log)
		}
	}
}
