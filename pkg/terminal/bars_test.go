package terminal

import (
	"strings"
	"testing"
)

// Without a terminal what begins is told at once, though nothing ran when it was looked before; and not again at the next look.
func TestLinesOfWhatBegins(t *testing.T) {
	var lines strings.Builder
	bars := NewBars(&Output{Err: &lines})
	bars.Show(nil)
	for range 2 {
		bars.Show([]Progress{{Name: "snapshot public.item", Done: 1, Total: 2, Unit: "rows"}})
	}
	if got := lines.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "snapshot public.item") {
		t.Errorf("it tells %q", got)
	}
	if bars.quiet() != waitEvery {
		t.Errorf("what runs is looked at each %s", bars.quiet())
	}
	bars.Show(nil)
	if got := lines.String(); !strings.HasSuffix(got, "ended\n") {
		t.Errorf("it tells %q", got)
	}
	if wait := bars.quiet(); wait <= waitEvery || wait > tellEvery {
		t.Errorf("where nothing runs it looks after %s", wait)
	}
}
