package sink

import "context"

// Retainer gives what does retention in a sink, each minute.
func (s *Sink) Retainer() (round func(context.Context) error) { return newRetainer(s).round }
