package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExitCodes(t *testing.T) {
	exits := func(err error, want int, printed string) {
		t.Helper()
		var out bytes.Buffer
		got := runMain(func(context.Context) error { return err }, nil, printer{w: &out, program: "capture", explains: true}, func(int) { t.Error("exit called") })
		if got != want || out.String() != printed {
			t.Errorf("%v: got %d and\n%swant %d and\n%s", err, got, out.String(), want, printed)
		}
	}
	exits(nil, 0, "")
	exits(errors.New("broken"), 1, "error: broken\n")
	exits(fmt.Errorf("run: %w", &trouble.Error{Code: trouble.Gap, Op: "start", Subject: `source "shop"`, Cause: errors.New("slot was advanced"), Hint: "resnapshot"}),
		1, "error: start source \"shop\"\n  cause  slot was advanced\n  hint   resnapshot\n  see    capture explain gap\n")
	exits(fmt.Errorf("run: %w", &config.Faults{File: "capture.yaml", List: []config.Fault{{Path: "x", Line: 1, Column: 2, Message: "unknown key"}}}),
		2, "error: capture.yaml has 1 fault\n  capture.yaml:1:2  x  unknown key\n  see    capture config show --defaults      every key, its default and its meaning\n")
	exits(&trouble.Error{Code: trouble.Config, Op: "read", Cause: errors.New("no CA file")},
		2, "error: read\n  cause  no CA file\n  see    capture explain config\n")
	exits(Usage(errors.New("unknown flag --confg")), 2, "error: unknown flag --confg\n")
	// Nobody interrupted: a cancelled context inside is a failure like any other.
	exits(context.Canceled, 1, "error: context canceled\n")
	if Usage(nil) != nil {
		t.Error("no error is a usage error")
	}
}

func TestSignals(t *testing.T) {
	exits := func(want int, after func(context.Context) error) {
		t.Helper()
		signals := make(chan os.Signal, 1)
		var out bytes.Buffer
		got := runMain(func(ctx context.Context) error {
			signals <- syscall.SIGTERM
			<-ctx.Done()
			return after(ctx)
		}, signals, printer{w: &out}, func(int) { t.Error("exit called") })
		if got != want {
			t.Errorf("got %d and %q, want %d", got, out.String(), want)
		}
	}
	exits(0, func(context.Context) error { return nil })
	exits(130, func(ctx context.Context) error { return fmt.Errorf("check: %w", ctx.Err()) })
	exits(1, func(context.Context) error { return errors.New("flush failed") })

	// The second signal does not wait for anybody.
	signals := make(chan os.Signal, 2)
	exited := make(chan int, 1)
	runMain(func(ctx context.Context) error {
		signals <- os.Interrupt
		<-ctx.Done()
		signals <- os.Interrupt
		if code := <-exited; code != 130 {
			t.Errorf("exit code %d", code)
		}
		return nil
	}, signals, printer{w: io.Discard}, func(code int) { exited <- code })
}

// TestMainCatchesSignals sends a real one to this process.
func TestMainCatchesSignals(t *testing.T) {
	code := Run("test", func(ctx context.Context) error {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Second):
			return errors.New("SIGTERM did not end the context")
		}
	})
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
}
