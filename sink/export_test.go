package sink

import (
	"context"
	"time"
)

// Retainer gives what does retention in a sink, each minute.
func (s *Sink) Retainer() (round func(context.Context) error) { return newRetainer(s).round }

// AlteredPatience has a table held once its target is altered for that long, and gives what was before.
func AlteredPatience(d time.Duration) (was time.Duration) {
	was, alteredPatience = alteredPatience, d
	return was
}
