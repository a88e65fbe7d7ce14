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

// turns keeps the newest turns of one thing. A state counts when it has lasted for three seconds, a red one at once, so
// that nothing flickers. The zero value is ready. Safe for use by many goroutines.
type turns struct {
	mu   sync.Mutex
	list []Turn
	next Turn // into a state that does not count yet
}

const (
	maxTurns  = 20
	turnAfter = 3 * time.Second
)

// see takes the state of now, which has lasted for a while already.
func (t *turns) see(now time.Time, state string, lasted time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.list); n > 0 && t.list[n-1].State == state {
		t.next = Turn{}
		return
	}
	if t.next.State != state {
		t.next = Turn{now.Add(-lasted).UTC(), state}
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
func (t *turns) Newest() []Turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Turn, 0, len(t.list))
	for i := len(t.list) - 1; i >= 0; i-- {
		out = append(out, t.list[i])
	}
	return out
}

// counts says whether a state is the one of the newest turn, or there is none yet.
func (t *turns) counts(state string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.list)
	return n == 0 || t.list[n-1].State == state
}

// Steady keeps what is to be shown of one thing to people who look at it: of a state that does not count yet (see turns) nothing, but what
// was said last in the one that does, all of it from one moment. The zero value is ready. Safe for use by many goroutines.
type Steady[T any] struct {
	turns

	said   sync.Mutex
	last   T
	lastAt time.Time // zero: nothing was said
}

// See takes the state of now, for how long it is known to have lasted, and what is said in it. It is to be called about once a second.
func (s *Steady[T]) See(now time.Time, state string, lasted time.Duration, words T) {
	s.see(now, state, lasted)
	if s.counts(state) {
		s.said.Lock()
		defer s.said.Unlock()
		s.last, s.lastAt = words, now
	}
}

// Shown gives what is to be shown where now this state and these words would be. Nothing is held longer than a state takes to count.
func (s *Steady[T]) Shown(now time.Time, state string, lasted time.Duration, words T) T {
	if Look(state).Colour == "red" || lasted >= turnAfter || s.counts(state) {
		return words
	}
	s.said.Lock()
	defer s.said.Unlock()
	if now.Sub(s.lastAt) > 2*turnAfter {
		return words // nobody looks once a second
	}
	return s.last
}
