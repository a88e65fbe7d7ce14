package service

import (
	"sync"
	"time"
)

// Turn is when something came into a state.
type Turn struct {
	At    time.Time `json:"at"`
	State string    `json:"state"`
}

// Turns keeps the newest turns of one thing. A state counts when it has lasted for three seconds, a red one at once, so
// that nothing flickers. The zero value is ready. Safe for use by many goroutines.
type Turns struct {
	mu   sync.Mutex
	list []Turn
	next Turn // into a state that does not count yet
}

const (
	maxTurns  = 20
	turnAfter = 3 * time.Second
)

// See takes the state of now.
func (t *Turns) See(now time.Time, state string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.list); n > 0 && t.list[n-1].State == state {
		t.next = Turn{}
		return
	}
	if t.next.State != state {
		t.next = Turn{now.UTC(), state}
	}
	if len(t.list) > 0 && Look(state).Colour != "red" && now.Sub(t.next.At) < turnAfter {
		return
	}
	if len(t.list) >= maxTurns {
		t.list = append(t.list[:0], t.list[1:]...)
	}
	t.list, t.next = append(t.list, t.next), Turn{}
}

// Newest gives them, the newest first. The slice is the caller's.
func (t *Turns) Newest() []Turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Turn, 0, len(t.list))
	for i := len(t.list) - 1; i >= 0; i-- {
		out = append(out, t.list[i])
	}
	return out
}
