// Package tracing tells by OpenTelemetry what the time of one piece of work went into: of a Kafka transaction, of a flush.
// Whether, and where to, the variables of the environment say that OpenTelemetry has for it; without them there is no
// Tracer, and nil takes all the calls.
//
// The parts of a piece of work are told when it is over, by clocks that were read once for each of them. Nothing is done
// for a row: spans of rows would cost more than the rows.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// header is the name under which a trace is told to others, as W3C has it.
const header = "traceparent"

// oneIn is how many traces there are for each that is recorded, if the environment does not say it.
const oneIn = 100

// Tracer begins traces. Nil begins none, and costs nothing.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// Open gives the Tracer that the environment asks for; nil where it asks for none. It connects nowhere.
func Open(ctx context.Context, program, instance string, log *slog.Logger) (*Tracer, error) {
	c, err := newCollector(log)
	if c == nil || err != nil {
		return nil, err
	}
	exporter, err := otlptrace.New(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open traces: %w", err)
	}
	who, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", "tributary-"+program),
		attribute.String("service.version", service.ThisBuild().Version),
		attribute.String("service.instance.id", instance),
	), resource.WithFromEnv())
	if err != nil {
		return nil, refused("OTEL_RESOURCE_ATTRIBUTES", err)
	}
	options := []sdk.TracerProviderOption{sdk.WithBatcher(exporter), sdk.WithResource(who)}
	if env("SAMPLER") == "" { // else the SDK does as it says
		options = append(options, sdk.WithSampler(sdk.ParentBased(linked{sdk.TraceIDRatioBased(1.0 / oneIn)})))
	}
	provider := sdk.NewTracerProvider(options...)
	log.Info("traces are told", "to", c.where())
	return &Tracer{provider, provider.Tracer("github.com/tributary-cdc/tributary")}, nil
}

// closePatience is how long the end of a service may wait for a collector.
const closePatience = 3 * time.Second

// Close sends what is left.
func (t *Tracer) Close(ctx context.Context) {
	if t != nil {
		ctx, cancel := context.WithTimeout(ctx, closePatience)
		defer cancel()
		_ = t.provider.Shutdown(ctx) // its errors are those of sending, which are logged
	}
}

// linked records what has a link to something that is recorded: else hardly ever both ends of one would be.
type linked struct{ others sdk.Sampler }

func (l linked) ShouldSample(p sdk.SamplingParameters) sdk.SamplingResult {
	for i := range p.Links {
		if p.Links[i].SpanContext.IsSampled() {
			return sdk.AlwaysSample().ShouldSample(p)
		}
	}
	return l.others.ShouldSample(p)
}

func (l linked) Description() string { return "Linked," + l.others.Description() }

// Kind is on which side of Kafka a piece of work is.
type Kind = trace.SpanKind

// The sides.
const (
	Producer = trace.SpanKindProducer
	Consumer = trace.SpanKindConsumer
)

// Trace is that of one piece of work. Nil is one that is not recorded; it takes all the calls.
type Trace struct {
	tracer trace.Tracer
	ctx    context.Context //nolint:containedctx // it is how the SDK knows the parent of a span
	root   trace.Span
}

// Begin begins a trace at a time that may be past; nil where it is not to be recorded. from are the headers of those that
// the work goes back to.
func (t *Tracer) Begin(name string, kind Kind, at time.Time, from ...[]byte) *Trace {
	if t == nil {
		return nil
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(kind), trace.WithTimestamp(at)}
	if links := linksOf(from); len(links) > 0 {
		options = append(options, trace.WithLinks(links...))
	}
	ctx, root := t.tracer.Start(context.Background(), name, options...)
	if !root.IsRecording() {
		return nil
	}
	return &Trace{t.tracer, ctx, root}
}

// linksOf reads headers, each once. What is no header of ours is left out: anybody may write to a topic.
func linksOf(headers [][]byte) (links []trace.Link) {
	seen := map[string]bool{}
	for _, h := range headers {
		if text := string(h); !seen[text] {
			seen[text] = true
			ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{header: text})
			if c := trace.SpanContextFromContext(ctx); c.IsValid() {
				links = append(links, trace.Link{SpanContext: c})
			}
		}
	}
	return links
}

// Header gives by what others name the trace; nil where it is not recorded.
func (t *Trace) Header() []byte {
	if t == nil || !t.root.SpanContext().IsSampled() {
		return nil
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(t.ctx, carrier)
	return []byte(carrier[header])
}

// Part tells of a part of the work, unless it did not happen: then a time is zero.
func (t *Trace) Part(name string, from, to time.Time, attributes ...slog.Attr) {
	if t == nil || from.IsZero() || to.IsZero() {
		return
	}
	_, span := t.tracer.Start(t.ctx, name, trace.WithTimestamp(from), trace.WithAttributes(keyValues(attributes)...))
	span.End(trace.WithTimestamp(to))
}

// End ends the work, with an error if it failed. Of that its code is told: its text may be long, and is in the log.
func (t *Trace) End(at time.Time, err error, attributes ...slog.Attr) {
	if t == nil {
		return
	}
	t.root.SetAttributes(keyValues(attributes)...)
	if err != nil {
		code := string(trouble.CodeOf(err))
		t.root.SetStatus(codes.Error, code)
		t.root.SetAttributes(attribute.String("error.type", code))
	}
	t.root.End(trace.WithTimestamp(at))
}

func keyValues(list []slog.Attr) []attribute.KeyValue {
	out := make([]attribute.KeyValue, len(list))
	for i, a := range list {
		switch v := a.Value.Resolve(); v.Kind() {
		case slog.KindInt64:
			out[i] = attribute.Int64(a.Key, v.Int64())
		case slog.KindBool:
			out[i] = attribute.Bool(a.Key, v.Bool())
		default:
			out[i] = attribute.String(a.Key, v.String())
		}
	}
	return out
}
