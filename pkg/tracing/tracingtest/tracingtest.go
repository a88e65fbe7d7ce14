// Package tracingtest is a collector of OpenTelemetry that keeps what it is told, for tests.
package tracingtest

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is one that was told.
type Span struct {
	Program           string // "tributary-sink"
	Name              string
	Trace, ID, Parent string // in hex; Parent is "" for a root
	Links             []string
	Start, End        time.Time
	Attributes        map[string]string
	Error             string // what its status says; "" for none
}

// Collector keeps spans.
type Collector struct {
	URL string

	mu      sync.Mutex
	spans   []Span
	headers []http.Header
}

// Collect starts one.
func Collect(t testing.TB) *Collector {
	c := &Collector{}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

// ServeHTTP takes spans by OTLP.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		zipped, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = zipped
	}
	text, err := io.ReadAll(body)
	var told tracepb.TracesData
	if err == nil {
		err = proto.Unmarshal(text, &told)
	}
	if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "that is no OTLP", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers = append(c.headers, r.Header)
	for _, of := range told.GetResourceSpans() {
		program := attributes(of.GetResource().GetAttributes())["service.name"]
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				span := Span{
					Program: program, Name: s.GetName(), Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
					Start: time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())), //nolint:gosec // of today
					Attributes: attributes(s.GetAttributes()), Error: s.GetStatus().GetMessage(),
				}
				for _, l := range s.GetLinks() {
					span.Links = append(span.Links, hex.EncodeToString(l.GetTraceId()))
				}
				c.spans = append(c.spans, span)
			}
		}
	}
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	out := map[string]string{}
	for _, a := range list {
		if v, ok := a.GetValue().GetValue().(*commonpb.AnyValue_StringValue); ok {
			out[a.GetKey()] = v.StringValue
		} else {
			out[a.GetKey()] = a.GetValue().String()
		}
	}
	return out
}

// Told gives what there is so far.
func (c *Collector) Told() (spans []Span, headers []http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(spans, c.spans...), append(headers, c.headers...)
}
