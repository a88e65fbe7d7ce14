package terminal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
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
	exits(&config.Faults{File: "capture.yaml", Absent: true, List: []config.Fault{{Message: "cannot be read: no such file or directory"}}}, 2, `error: capture.yaml has 1 fault
  capture.yaml    cannot be read: no such file or directory
  see    capture config show --defaults      every key, its default and its meaning
  hint   name it with -c or TRIBUTARY_CONFIG, where it is neither ./capture.yaml nor /etc/tributary/capture.yaml
         there is none yet: capture init env:NAME -o capture.yaml     NAME is a variable with the connection string
`)
	exits(&trouble.Error{Code: trouble.Config, Op: "read", Cause: errors.New("no CA file")},
		2, "error: read\n  cause  no CA file\n  see    capture explain config\n")
	exits(Usage(errors.New("unknown flag --confg")), 2, "error: unknown flag --confg\n")
	// Nobody interrupted: a cancelled context inside is a failure like any other.
	exits(context.Canceled, 1, "error: context canceled\n")
	if Usage(nil) != nil {
		t.Error("no error is a usage error")
	}
}

// TestErrorsAsJSON: what a program may act on is the code.
func TestErrorsAsJSON(t *testing.T) {
	for code, err := range map[string]error{
		"usage":     Usagef("no"),
		"late":      fmt.Errorf("wait: %w", &lateError{"it is not caught-up after 1 s"}),
		"failed":    errors.New("nothing to resume"),
		"slot-lost": &trouble.Error{Code: trouble.SlotLost, Op: "start", Cause: errors.New("gone")},
	} {
		var out bytes.Buffer
		printer{w: &out, program: "capture", explains: true, json: true}.report(err)
		var document map[string]map[string]string
		if err := json.Unmarshal(out.Bytes(), &document); err != nil {
			t.Fatal(err)
		}
		said := document["error"]
		if len(said) != 7 || said["code"] != code || said["cause"] == "" || (said["see"] != "") != (code == "slot-lost") {
			t.Errorf("%s: %s", code, out.String())
		}
	}
}

// TestAwaitAsksAgain: a connection that is lost while something is waited for is told once, and ends nothing.
func TestAwaitAsksAgain(t *testing.T) {
	var said bytes.Buffer
	asked := 0
	err := Await(t.Context(), &Output{Out: io.Discard, Err: &said}, "rebuild shop", time.Minute, func(context.Context) (Progress, string, error) {
		if asked++; asked == 1 {
			return Progress{}, "", &trouble.Error{Code: trouble.WarehouseUnreachable, Op: "read", Cause: errors.New("gone")}
		}
		return Progress{}, "", nil
	})
	if err != nil || asked != 2 || strings.Count(said.String(), unasked) != 1 {
		t.Errorf("asked %d times, %v: %s", asked, err, said.String())
	}
	held := errors.New("the table is held")
	if err := Await(t.Context(), &Output{Out: io.Discard, Err: &said}, "rebuild shop", time.Minute, func(context.Context) (Progress, string, error) {
		return Progress{}, "", held
	}); !errors.Is(err, held) {
		t.Errorf("got %v", err)
	}
}

// TestQuestions: Ctrl-C is an answer, too.
func TestQuestions(t *testing.T) {
	for text, want := range map[string]bool{"y\n": true, " Y \n": true, "\n": false, "yes\n": false, "": false} {
		if yes, err := answered(t.Context(), strings.NewReader(text)); yes != want || err != nil {
			t.Errorf("%q: %v, %v", text, yes, err)
		}
	}
	silent, typing := io.Pipe()
	defer typing.Close() //nolint:errcheck // it always works
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	if yes, err := answered(ctx, silent); yes || !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v, %v", yes, err)
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
