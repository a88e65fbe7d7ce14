package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// pty gives both ends of a terminal of 100 columns.
func pty(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("there are no terminals here: ", err)
	}
	t.Cleanup(func() { _ = person.Close() })
	fd := int(person.Fd())
	must(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	must(t, err)
	must(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 100}))
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { _ = program.Close() })
	return person, program
}

type well struct{}

func (well) Show(out *Output, _ *Look) error { return out.Table(sample) }
func (well) Sentence() string                { return "is healthy" }
func (well) Well() bool                      { return true }
func (well) Bars() []Progress                { return nil }

// TestDumb: a terminal that takes no escape codes gets none, neither colours nor bars nor what is drawn in place.
func TestDumb(t *testing.T) {
	for _, dumb := range []bool{false, true} {
		if t.Setenv("TERM", "xterm"); dumb {
			t.Setenv("TERM", "dumb")
		}
		person, program := pty(t)
		verb := &cobra.Command{Use: "status", Args: NoArgs, Example: "  prog status"}
		look, looks := &Look{}, 0
		look.Flags(verb, "well")
		verb.RunE = func(cmd *cobra.Command, _ []string) error {
			out := Of(cmd)
			bars := NewBars(out)
			bars.Show([]Progress{{Name: "snapshot", Done: 1, Total: 2, Unit: "rows"}})
			bars.Close()
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			cmd.SetContext(ctx)
			return look.Run(cmd, func(context.Context) (Status, error) {
				if !look.Steady {
					t.Error("who watches is told of what lasts for a moment")
				}
				if looks++; looks > 1 {
					cancel()
				}
				return well{}, nil
			}, nil)
		}
		root := Root("prog", "Do things", verb)
		root.SetOut(program)
		root.SetErr(program)
		root.SetIn(strings.NewReader(""))
		root.SetArgs([]string{"status", "--watch=100ms"})
		must(t, root.ExecuteContext(t.Context()))
		_, err := fmt.Fprintln(program, "the end")
		must(t, err)
		said, b := "", make([]byte, 4096)
		for !strings.Contains(said, "the end") {
			n, err := person.Read(b)
			must(t, err)
			said += string(b[:n])
		}
		if !strings.Contains(said, "quarantined") || strings.ContainsRune(said, '\x1b') == dumb {
			t.Errorf("dumb %v: %q", dumb, said)
		}
	}
}

// TestWaitAsksAgain: --wait goes on where who is asked is away, the first time too; what no waiting mends ends it.
func TestWaitAsksAgain(t *testing.T) {
	asked := 0
	var said bytes.Buffer
	out := &Output{Out: io.Discard, Err: &said}
	look := Look{wait: "caught-up", timeout: time.Minute}
	err := look.await(t.Context(), out, func(context.Context) (Status, error) {
		if asked++; asked == 1 {
			return nil, &trouble.Error{Code: trouble.WarehouseUnreachable, Op: "read", Cause: errors.New("gone")}
		}
		return well{}, nil
	}, func(Status) string { return "" })
	if err != nil || asked != 2 || strings.Count(said.String(), unasked) != 1 {
		t.Errorf("asked %d times, %v: %s", asked, err, said.String())
	}
	refused := &trouble.Error{Code: trouble.WarehouseRights, Op: "read", Cause: errors.New("no")}
	if err := look.await(t.Context(), out, func(context.Context) (Status, error) { return nil, refused }, nil); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
}
