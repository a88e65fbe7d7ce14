package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes, the same for every verb.
const (
	exitDone        = 0
	exitFailed      = 1   // failed, or not healthy
	exitUsage       = 2   // flag, argument or configuration: nothing was attempted
	exitInterrupted = 130 // Ctrl-C in the middle of something unfinished
)

// Main runs a program of verbs, as Root makes it, and gives its exit code; see Run.
func Main(root *cobra.Command) int {
	p := printer{w: os.Stderr, program: root.Name(), json: slices.Contains(os.Args[1:], "--json")}
	p.explains = explains(root)
	return runSignalled(root.ExecuteContext, p)
}

func explains(root *cobra.Command) bool {
	return slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == "explain" })
}

// Run runs a program and gives its exit code; main hands it to os.Exit. The first SIGINT or SIGTERM ends run's context:
// a run that then finishes in order returns nil (code 0), one that gives up returns the context's error (code 130).
// A second signal ends the process at once. An error is printed on standard error as people read it.
func Run(program string, run func(context.Context) error) int {
	return runSignalled(run, printer{w: os.Stderr, program: program})
}

func runSignalled(run func(context.Context) error, p printer) int {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	return runMain(run, signals, p, os.Exit)
}

func runMain(run func(context.Context) error, signals <-chan os.Signal, p printer, exit func(int)) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for range 2 {
			select {
			case <-signals:
				if ctx.Err() != nil {
					exit(exitInterrupted)
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
		_, _ = io.WriteString(p.w, "interrupted\n")
		return exitInterrupted
	}
	return p.report(err)
}

// Usage marks err as a wrong flag, verb or argument: exit code 2. nil stays nil.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err: err}
}

// Usagef is Usage of a new error.
func Usagef(format string, args ...any) error { return Usage(fmt.Errorf(format, args...)) }

type usageError struct {
	err  error
	line string // how the verb is to be called; "" where it is not known
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// errSaid is for a verb whose results say already what is wrong: exit code 1, and nothing more is printed.
var errSaid = errors.New("not well")
