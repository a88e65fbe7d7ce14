package terminal

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/retry"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Status is how a service does, for a verb that shows it. What is not in its JSON is not shown.
type Status interface {
	// Show writes it for people, or, where out is no terminal, for programs.
	Show(out *Output, look *Look) error
	// Sentence says it in one.
	Sentence() string
	// Well says that nothing needs a person.
	Well() bool
	// Bars are of what runs and will end.
	Bars() []Progress
}

// Look are the flags of a verb that shows how a service does.
type Look struct {
	service.Whom
	All    bool // what is well is not only counted
	Tables []string

	watch, timeout time.Duration
	wait           string
}

// Flags gives the verb its flags, and its help what they mean for exit codes; waits says what can be waited for.
func (l *Look) Flags(cmd *cobra.Command, waits string) {
	JSON(cmd)
	cmd.Annotations = map[string]string{
		Exits: "  0  nothing needs anybody\n  1  something does, or --wait timed out\n  2  used wrongly: flag, argument or configuration; nothing was attempted",
		See:   "docs/reference/json.md for --json",
	}
	f := cmd.Flags()
	f.BoolVar(&l.All, "all", false, "with everything that is well, which is else only counted")
	f.Bool("wide", false, "with every column")
	f.StringArrayVar(&l.Tables, "table", nil, "only these tables, with * and ? as wildcards")
	f.BoolVar(&l.Direct, "direct", false, "never ask the service")
	f.StringVar(&l.URL, "url", "", "ask the service at this address, and nobody else")
	f.BoolVar(&l.SendToken, "send-token", false, "give the token to --url also where it is neither http.listen nor this host nor https://")
	f.DurationVar(&l.watch, "watch", 0, "look again and again, this often; in a pipe a line of JSON for each change")
	f.Lookup("watch").NoOptDefVal = "2s"
	f.StringVar(&l.wait, "wait", "", "first wait until it is "+waits+"; a line for each change of state goes to standard error")
	f.DurationVar(&l.timeout, "timeout", 0, "with --wait: give up after this time, with exit code 1; 0s: never")
}

// Shows says whether a table is among those that are asked for.
func (l *Look) Shows(table string) bool {
	for _, pattern := range l.Tables {
		if config.Fits(pattern, table) {
			return true
		}
	}
	return len(l.Tables) == 0
}

// None is the error for tables of which none is known.
func (l *Look) None(known []string) error {
	return Usagef("no table %q%s", strings.Join(l.Tables, ", "), Meant(l.Tables[0], known))
}

// Missing says what is missing of what is waited for, "" for nothing. It is asked with each new status.
type Missing func(Status) string

// Run shows what ask gives. until gives what --wait waits for, by its name.
func (l *Look) Run(cmd *cobra.Command, ask func(context.Context) (Status, error), until func(name string) (Missing, error)) error {
	if l.Direct && l.URL != "" {
		return Usagef("either --direct or --url")
	}
	if at, err := url.Parse(l.URL); l.URL != "" && (err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https") {
		return Usagef("--url is no address of a service; write http://host:9191")
	}
	if l.watch < 0 || l.watch > 0 && l.watch < 100*time.Millisecond {
		return Usagef("--watch is a time from 100ms on")
	}
	out := Of(cmd)
	if l.wait != "" {
		missing, err := until(l.wait)
		if err != nil {
			return err
		}
		if err := l.await(cmd.Context(), out, ask, missing); err != nil {
			return err
		}
	}
	if l.watch > 0 {
		return l.watching(cmd, out, ask)
	}
	st, err := ask(cmd.Context())
	if err != nil {
		return err
	}
	if out.JSON {
		err = out.Document(st)
	} else {
		err = st.Show(out, l)
	}
	if err == nil && !st.Well() {
		err = errSaid
	}
	return err
}

// waitEvery is how often is looked while something is waited for.
const waitEvery = time.Second

func (l *Look) await(ctx context.Context, out *Output, ask func(context.Context) (Status, error), missing Missing) error {
	bars := NewBars(out)
	defer bars.Close()
	said, lacks := "", "it does not answer"
	return until(ctx, l.timeout, func(ctx context.Context) (string, error) {
		st, err := ask(ctx)
		switch {
		case ctx.Err() != nil: // which until tells
			return lacks, nil
		case err != nil && said == "" && !retry.Transient(err):
			return "", err
		case err != nil:
			if said != unasked {
				said = unasked
				bars.say(unasked + err.Error())
			}
			return lacks, nil
		}
		if lacks = missing(st); lacks == "" {
			return "", nil
		}
		if state := firstWords(st.Sentence()); state != said {
			said = state
			bars.say(st.Sentence())
		}
		bars.Show(st.Bars())
		return lacks, nil
	}, func(lacks string) error {
		return &lateError{fmt.Sprintf("it is not %s after %s: %s", l.wait, service.FormatDuration(l.timeout), lacks)}
	})
}

// unasked is said once where what is waited for cannot be asked any more.
const unasked = "cannot be asked, and is again and again: "

// lateError says that a wait was given up.
type lateError struct{ text string }

func (e *lateError) Error() string { return e.text }

// Await shows how far something is, each second, until nothing of it is missing ("") or the timeout is over, 0 for never. Where
// that cannot be asked for a while, it is asked again.
func Await(ctx context.Context, out *Output, what string, timeout time.Duration, missing func(context.Context) (p Progress, lacks string, err error)) error {
	bars := NewBars(out)
	defer bars.Close()
	lost, lacked := false, "it is not known how far it is"
	return until(ctx, timeout, func(context.Context) (string, error) {
		p, lacks, err := missing(ctx)
		switch {
		case retry.Transient(err):
			if !lost {
				lost = true
				bars.say(unasked + err.Error())
			}
			return lacked, nil
		case err == nil && lacks != "":
			bars.Show([]Progress{p})
		}
		lost, lacked = false, lacks
		return lacks, err
	}, func(lacks string) error {
		return &lateError{fmt.Sprintf("%s is not done after %s: %s; it goes on by itself", what, service.FormatDuration(timeout), lacks)}
	})
}

// until looks each second, until nothing is missing (""), or the timeout is over, 0 for never, which late tells with what was
// missing then. The context of look ends with the timeout; an error of look ends it, too.
func until(ctx context.Context, timeout time.Duration, look func(context.Context) (lacks string, err error), late func(lacks string) error) error {
	waiting, cancel := ctx, func() {}
	if timeout > 0 {
		waiting, cancel = context.WithTimeout(ctx, timeout)
	}
	defer cancel()
	for {
		lacks, err := look(waiting)
		if err != nil || lacks == "" {
			return err
		}
		if sleep(waiting, waitEvery) != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return late(lacks)
		}
	}
}

// firstWords is what of a sentence changes with the state, and not with each number in it.
func firstWords(sentence string) string {
	if i := strings.IndexAny(sentence, ":,;0123456789"); i > 0 {
		return sentence[:i]
	}
	return sentence
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Fact is a line of what is known.
type Fact struct{ Name, Value, Note string }

// Facts writes facts in columns.
func (o *Output) Facts(facts []Fact) {
	width := 0
	for _, f := range facts {
		if f.Note != "" {
			width = max(width, len(f.Value))
		}
	}
	for _, f := range facts {
		name, value, note := fmt.Sprintf("  %-12s ", f.Name), Clean(f.Value), Clean(f.Note)
		if note == "" {
			o.hanging(name, value)
			continue
		}
		head := fmt.Sprintf("%s%-*s  ", name, width, value)
		if o.wraps() > 0 && o.wraps()-utf8.RuneCountInString(head) < leastNote {
			if head = strings.Repeat(" ", len(name)); f.Name+value != "" {
				o.hanging(name, value)
			}
		}
		o.hanging(head, note)
	}
}

// leastNote is how much room a note needs beside its value; where there is less it stands below.
const leastNote = 24

// hanging writes a text behind a head, and what goes on of it below its beginning.
func (o *Output) hanging(head, text string) {
	width := utf8.RuneCountInString(head)
	for _, line := range wrap(text, o.wraps()-width, 0) {
		o.line(strings.TrimRight(head+line, " "))
		head = strings.Repeat(" ", width)
	}
}

// Counted writes a table behind an empty line, and below it how many rows are only counted, as all of them are in one state. In a pipe
// a table has its titles also where it has no rows, and the empty line is between tables alone.
func (o *Output) Counted(t *Table, rest int, what, state string) error {
	if !o.Terminal {
		if o.tabled {
			o.line("")
		} else {
			o.Beside().line("")
		}
		o.tabled = true
		return o.Table(t)
	}
	if len(t.Rows) > 0 {
		o.line("")
		if err := o.Table(t); err != nil {
			return err
		}
	}
	switch {
	case rest > 0 && len(t.Rows) > 0:
		o.Printf("... %d more, all %s (--all)\n", rest, state)
	case rest == 1:
		o.Printf("\n1 %s, %s (--all)\n", what, state)
	case rest > 0:
		o.Printf("\n%d %ss, all %s (--all)\n", rest, what, state)
	}
	return nil
}

// line writes text without its arguments being cleaned again.
func (o *Output) line(text string) { _, _ = fmt.Fprintln(o.Out, text) }

// Needs writes what needs a person: what, why, what it means, what to do, where to read on.
func (o *Output) Needs(needs []service.Need, program string) {
	for i := range needs {
		n := &needs[i]
		what := n.What
		if !n.Since.IsZero() {
			what += ", since " + Clock(n.Since) + " (" + service.FormatDuration(time.Since(n.Since)) + ")"
		}
		o.Printf("\n")
		o.Sentence(what)
		writeField(o.Out, "why", n.Why, o.wraps())
		writeField(o.Out, "means", n.Means, o.wraps())
		name := "next"
		width := 0
		for _, step := range n.Do {
			if step.Note != "" {
				width = max(width, min(len(step.Command), 44))
			}
		}
		for _, step := range n.Do {
			text, wraps, below := step.Command, 0, ""
			switch {
			case text == "":
				text, wraps = step.Note, o.wraps()
			case step.Note != "":
				text = fmt.Sprintf("%-*s   %s", width, step.Command, step.Note)
				if o.wraps() > 0 && fieldIndent+utf8.RuneCountInString(text) > o.wraps() {
					text, below = step.Command, step.Note
				}
			}
			writeField(o.Out, name, text, wraps)
			if name = ""; below != "" {
				o.hanging(strings.Repeat(" ", fieldIndent+2), Clean(below))
			}
		}
		if _, ok := trouble.RunbookOf(n.Code); ok {
			writeField(o.Out, "see", see(program, o.Explains, n.Code), 0)
		}
	}
}

// Accepted counts what else needed somebody, by its code.
func (o *Output) Accepted(needs []service.Need) {
	if len(needs) == 0 {
		return
	}
	var what []string
	for i := range needs {
		what = append(what, string(needs[i].Code)+" of "+needs[i].Subject)
	}
	o.Printf("\n%s: %s\n", service.Plural(len(needs), "accepted warning"), strings.Join(what, ", "))
}

// Clock gives a time as people at this place read it, with the date where it is not of today.
func Clock(t time.Time) string {
	t = t.Local()
	if now := time.Now(); now.YearDay() != t.YearDay() || now.Year() != t.Year() {
		return t.Format(time.DateTime)
	}
	return t.Format(time.TimeOnly)
}

// Moment is a cell for a time, "-" for none.
func Moment(t time.Time) Cell {
	if t.IsZero() {
		return Cell{Text: "-", Raw: ""}
	}
	return Cell{Text: Clock(t), Raw: t.UTC().Format(time.RFC3339Nano)}
}

// Nearest gives the error for a name that is not known.
func Nearest(what, name string, known []string) error {
	return fmt.Errorf("no %s %q%s", what, name, Meant(name, known))
}
