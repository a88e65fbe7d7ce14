package service

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

// Group owns the goroutines of a service: the first that fails ends the others, and Wait returns only when all have
// ended. Make one with NewGroup.
type Group struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wait   sync.WaitGroup

	mu  sync.Mutex
	err error
}

// NewGroup gives an empty group. Its goroutines end with ctx.
func NewGroup(ctx context.Context) *Group {
	own, cancel := context.WithCancelCause(ctx)
	return &Group{ctx: own, cancel: cancel}
}

// errStopped is the cause of a group's context after Stop.
var errStopped = errors.New("stopped")

var errPanic = errors.New("panic")

// Panicked says whether err is of a goroutine of a Group that panicked.
func Panicked(err error) bool { return errors.Is(err, errPanic) }

// Go starts run in a goroutine of its own. name stands before its error. A run that returns nil is done and ends
// nobody; one that returns an error ends all the others through the context. A panic becomes an error with its stack,
// so that the others still finish what they hold.
func (g *Group) Go(name string, run func(context.Context) error) {
	g.wait.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				g.fail(fmt.Errorf("%s: %w: %v\n%s", name, errPanic, p, debug.Stack()))
			}
		}()
		if err := run(g.ctx); err != nil {
			g.fail(fmt.Errorf("%s: %w", name, err))
		}
	})
}

func (g *Group) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	// Whoever returns the context's error after its end only obeyed.
	if g.ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, g.ctx.Err())) {
		return
	}
	if g.err == nil {
		g.err = err
	}
	g.cancel(err)
}

// Stop ends all goroutines without it being an error.
func (g *Group) Stop() { g.cancel(errStopped) }

// Wait waits for every goroutine and gives the first error. An end that came from outside (the context of NewGroup,
// Stop) is none.
func (g *Group) Wait() error {
	g.wait.Wait()
	g.cancel(errStopped)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}
