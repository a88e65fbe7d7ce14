// Package service is what any service of ours is made of besides its work: main with signals and exit codes, the group
// of its goroutines, its HTTP answers, its log, its stages and latencies, and the form of numbers that people read. It
// knows nothing of changes, topics or tables.
package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Exit codes, the same for every verb.
const (
	ExitDone        = 0
	ExitFailed      = 1   // failed, or not healthy
	ExitUsage       = 2   // flag, argument or configuration: nothing was attempted
	ExitInterrupted = 130 // Ctrl-C in the middle of something unfinished
)

// Main runs a program and gives its exit code; main hands it to os.Exit. The first SIGINT or SIGTERM ends run's context:
// a run that then finishes in order returns nil (code 0), one that gives up returns the context's error (code 130).
// A second signal ends the process at once. An error is printed on standard error as people read it.
func Main(program string, run func(context.Context) error) int {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	return runMain(program, run, signals, os.Stderr, os.Exit)
}

func runMain(program string, run func(context.Context) error, signals <-chan os.Signal, stderr io.Writer, exit func(int)) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for range 2 {
			select {
			case <-signals:
				if ctx.Err() != nil {
					exit(ExitInterrupted)
					return
				}
				cancel()
			case <-ended:
				return
			}
		}
	}()
	err := run(ctx)
	interrupted := ctx.Err() != nil
	close(ended)
	<-watched
	if interrupted && errors.Is(err, context.Canceled) {
		_, _ = fmt.Fprintln(stderr, "interrupted")
		return ExitInterrupted
	}
	return report(stderr, program, err)
}

// report prints err and gives the exit code it deserves.
func report(w io.Writer, program string, err error) int {
	if err == nil {
		return ExitDone
	}
	if faults, ok := errors.AsType[*config.Faults](err); ok {
		faults.Print(w, program)
		return ExitUsage
	}
	if usage, ok := errors.AsType[*usageError](err); ok {
		_, _ = fmt.Fprintf(w, "error: %v\n", usage)
		return ExitUsage
	}
	trouble.Print(w, program, err)
	if trouble.CodeOf(err) == trouble.Config {
		return ExitUsage
	}
	return ExitFailed
}

// Usage marks err as a wrong flag, verb or argument: exit code 2. nil stays nil.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
