package sink

import (
	"log/slog"
	"time"

	"github.com/tributary-cdc/tributary/pkg/tracing"
	"github.com/tributary-cdc/tributary/sink/consume"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// traced tells of a flush that has ended, well or not. Where it was read while the one before was written, its parts are not
// next to each other.
func (s *Sink) traced(batches []consume.Batch, o *outcome, timing *warehouse.Timing, rows int, err error) {
	if s.tracer == nil {
		return
	}
	now, since, bytes := time.Now(), o.began, 0
	for i := range batches {
		if at := batches[i].Since; !at.IsZero() && at.Before(since) {
			since = at
		}
	}
	var from [][]byte
	for i := range o.parts {
		from, bytes = append(from, o.parts[i].traces...), bytes+o.parts[i].bytes
	}
	trace := s.tracer.Begin("flush", tracing.Consumer, since, from...)
	if trace == nil {
		return
	}
	trace.Part("fetch", since, o.began)
	trace.Part("fold", o.began, o.folded)
	trace.Part("copy", timing.Began, timing.Sent)
	trace.Part("apply", timing.Sent, timing.Answered)
	trace.Part("commit", timing.Answered, timing.Committed)
	trace.End(now, err, slog.String("messaging.system", "kafka"), slog.Int("messaging.batch.message_count", rows), slog.Int("tributary.bytes", bytes),
		slog.String("tributary.group", s.cfg.Group), slog.Int("tributary.partitions", len(o.parts)), slog.Int("tributary.tables", len(o.units)))
}

// tracedWhole tells of a flush of a source that is written as a whole. It is read, folded and written piece by piece, which
// is one part.
func (s *Sink) tracedWhole(source string, w *wholeCut, begin time.Time, err error) {
	if s.tracer == nil {
		return
	}
	now := time.Now()
	trace := s.tracer.Begin("flush", tracing.Consumer, begin, w.traces...)
	if trace == nil {
		return
	}
	if err == nil {
		trace.Part("apply", begin, w.wrote)
		trace.Part("commit", w.wrote, now)
	}
	rows := int64(0)
	for _, m := range w.moved {
		rows += m.advance.Rows
	}
	trace.End(now, err, slog.String("messaging.system", "kafka"), slog.Int64("messaging.batch.message_count", rows), slog.Int64("tributary.bytes", w.read),
		slog.String("tributary.group", s.cfg.Group), slog.String("tributary.source", source), slog.Int("tributary.partitions", len(w.moved)))
}
