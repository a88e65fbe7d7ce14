package capture

import (
	"log/slog"
	"time"

	"github.com/tributary-cdc/tributary/capture/replication"
	"github.com/tributary-cdc/tributary/pkg/tracing"
)

// passage is how what is in the open Kafka transaction came there, for its trace: read off the socket, decoded, produced,
// committed. These overlap: while the first changes are produced, the last are still read.
type passage struct {
	tracer  *tracing.Tracer // nil: nothing is noted
	trace   *tracing.Trace  // of the open transaction, if it is recorded
	arrived time.Time       // of its first message at this process; zero where it came with those of the one before
	taken   time.Time       // when that was taken off the stream
	last    time.Time       // when anything was
}

// take notes messages that were taken off the stream.
func (p *passage) take(batch *replication.Batch, open bool) {
	if !open {
		*p = passage{tracer: p.tracer}
	}
	if len(batch.Items) == 0 {
		return
	}
	p.last = time.Now()
	if p.arrived.IsZero() {
		p.arrived, p.taken = batch.Since, p.last
	}
}

// begin begins the trace of a Kafka transaction. Rows of a snapshot come over other connections.
func (p *passage) begin(at time.Time) *tracing.Trace {
	if !p.arrived.IsZero() {
		at = p.arrived
	}
	p.trace = p.tracer.Begin("kafka transaction", tracing.Producer, at)
	return p.trace
}

// decoded says that all that will be in the transaction is.
func (p *passage) decoded() {
	p.trace.Part("read", p.arrived, p.last)
	p.trace.Part("decode", p.taken, time.Now())
}

// end ends the trace, and begins anew.
func (p *passage) end(err error, attributes ...slog.Attr) {
	p.trace.End(time.Now(), err, attributes...)
	*p = passage{tracer: p.tracer}
}
