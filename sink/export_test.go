package sink

import (
	"context"
	"errors"
	"time"

	"github.com/tributary-cdc/tributary/sink/consume"
)

// Retainer gives what does retention in a sink, each minute.
func (s *Sink) Retainer() (round func(context.Context) error) { return newRetainer(s).round }

// AlteredPatience has a table held once its target is altered for that long, and gives what was before.
func AlteredPatience(d time.Duration) (was time.Duration) {
	was, alteredPatience = alteredPatience, d
	return was
}

// ClaimUnknown claims partition 0 of a topic as one whose id is not known, and says whether it is held until it is.
func (s *Sink) ClaimUnknown(ctx context.Context, topic string) (held bool, err error) {
	starts, err := s.claimAssigned(ctx, []consume.Request{{Topic: topic}})
	if err != nil {
		return false, err
	}
	return errors.Is(starts[0].Hold, errUnknownTopic), starts[0].Err
}

// FirstLook is how long whoever asks first waits for a look at the group.
const FirstLook = firstLook
