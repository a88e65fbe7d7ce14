package terminal

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// What a terminal is told while it is drawn on in place. The screen is another one than that of the shell, which comes
// back afterwards.
const (
	drawBegin = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	drawHome  = "\x1b[H"
	drawLine  = "\x1b[K\r\n"
	drawRest  = "\x1b[J"
	drawEnd   = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// watching shows a status again and again until the context ends, which is Ctrl-C, or somebody types q.
func (l *Look) watching(cmd *cobra.Command, out *Output, ask func(context.Context) (Status, error)) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	l.Steady = true
	if !out.Terminal || out.JSON {
		return l.follow(ctx, out, ask)
	}
	inPlace, last := !dumb(), ""
	if inPlace {
		if restore, ok := typing(cmd.InOrStdin(), cancel); ok {
			defer restore()
		}
		_, _ = fmt.Fprint(out.Out, drawBegin)
		defer func() { _, _ = fmt.Fprint(out.Out, drawEnd) }()
	}
	for {
		var frame bytes.Buffer
		draw := *out
		draw.Out, draw.Err = &frame, &frame
		draw.Width, _ = size(out.Out)
		st, err := ask(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			printer{w: &frame, program: cmd.Root().Name(), explains: true}.report(err)
		default:
			if err := st.Show(&draw, l); err != nil {
				return err
			}
		}
		switch text := frame.String(); {
		case inPlace:
			_, _ = fmt.Fprint(out.Out, onScreen(text, height(out.Out)))
		case text != last:
			_, _ = fmt.Fprintf(out.Out, "%s\n", text)
			last = text
		}
		if sleep(ctx, l.watch) != nil {
			return nil
		}
	}
}

// onScreen gives what draws text in place: no more lines than fit.
func onScreen(text string, height int) string {
	var b strings.Builder
	b.WriteString(drawHome)
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if i >= height-1 {
			break
		}
		b.WriteString(line + drawLine)
	}
	return b.String() + drawRest
}

const defaultHeight = 24

func height(w any) int {
	_, height := Size(w)
	return cmp.Or(height, defaultHeight)
}

// typing calls quit when q or Ctrl-C is typed at a terminal, until restore is called.
func typing(in any, quit func()) (restore func(), ok bool) {
	f, ok := in.(*os.File)
	if !ok || !IsTerminal(f) {
		return nil, false
	}
	fd := int(f.Fd()) //nolint:gosec // a descriptor fits
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, false
	}
	go func() { // it ends with the process: nothing can end a read from a terminal
		key := make([]byte, 1)
		for {
			if n, err := f.Read(key); err != nil || n == 1 && (key[0] == 'q' || key[0] == 3) {
				quit()
				return
			}
		}
	}()
	return func() { _ = term.Restore(fd, before) }, true
}

// follow writes a line of JSON for each change.
func (l *Look) follow(ctx context.Context, out *Output, ask func(context.Context) (Status, error)) error {
	var last []byte
	for {
		st, err := ask(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		line, err := json.Marshal(st)
		if err != nil {
			return err
		}
		if !bytes.Equal(line, last) {
			last = line
			if _, err := fmt.Fprintf(out.Out, "%s\n", line); err != nil {
				return err
			}
		}
		if sleep(ctx, l.watch) != nil {
			return nil
		}
	}
}
