package terminal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Check is what a verb finds that looks whether everything is ready: findings in parts. They are printed as they come, and
// are a document at the end.
type Check struct {
	Only   []string // parts that are wanted; none: all
	Strict bool     // warnings fail, too
	SQL    bool     // statements that the service will run itself are printed

	w      io.Writer
	width  int // at which sentences are wrapped; 0: not at all
	began  time.Time
	head   string // of the present part, until it is printed
	wanted bool
	part   string
	code   trouble.Code // of the first failure
	said   Checked
}

// Checked is what a check has found.
type Checked struct {
	Schema   string    `json:"schema"`
	Subject  string    `json:"subject"` // source shop
	Address  string    `json:"address"`
	Ready    bool      `json:"ready"`
	Failures int       `json:"failures"`
	Warnings int       `json:"warnings"`
	OK       int       `json:"ok"`
	Seconds  float64   `json:"took_seconds"`
	Findings []Finding `json:"findings"`
}

// Finding is one line of a check.
type Finding struct {
	Part    string       `json:"part"`
	Verdict string       `json:"verdict"` // ok, note, warn, FAIL
	About   string       `json:"about"`
	Text    string       `json:"text"`
	Do      []string     `json:"do"`
	Code    trouble.Code `json:"code,omitempty"`
	SQL     []string     `json:"sql,omitempty"` // what the service will run itself
}

// Verdicts.
const (
	verdictOK   = "ok"
	verdictNote = "note"
	verdictWarn = "warn"
	verdictFail = "FAIL"
)

// NewCheck begins a check of a program. It prints to w: as wide as the terminal is, to another file 80 columns wide, and what
// goes elsewhere has one line for each finding.
func NewCheck(program string, w io.Writer) *Check {
	width := 0
	if _, ok := w.(*os.File); ok {
		width, _ = size(w)
	}
	return &Check{w: w, width: width, began: time.Now(), said: Checked{Schema: "tributary." + program + ".check/1", Findings: []Finding{}}}
}

// Of says what is checked.
func (c *Check) Of(kind, name, address string) {
	c.said.Subject, c.said.Address = strings.ToLower(kind)+" "+name, address
	c.print("%s %s   %s\n", kind, name, address)
}

// Wants says whether a part is wanted.
func (c *Check) Wants(part string) bool {
	return len(c.Only) == 0 || slices.Contains(c.Only, strings.ToLower(part))
}

// Part begins a part, and says whether it is wanted. Of one that is not only Blocked is told.
func (c *Check) Part(name, detail string) bool {
	c.part, c.wanted = strings.ToLower(name), c.Wants(name)
	c.head = strings.TrimRight(fmt.Sprintf("%-22s %s", name, strings.Join(wrap(Clean(detail), c.width-findingIndent, 0), "\n"+strings.Repeat(" ", findingIndent))), " ")
	if c.wanted {
		c.title()
	}
	return c.wanted
}

func (c *Check) title() {
	if c.head != "" {
		_, _ = fmt.Fprintf(c.w, "\n%s\n", cleanLines(c.head))
	}
	c.head = ""
}

// OK adds what is as it should be. do are lines.
func (c *Check) OK(about, text string, do ...string) { c.add(verdictOK, "", about, text, do) }

// Note adds what is only to be known.
func (c *Check) Note(about, text string, do ...string) { c.add(verdictNote, "", about, text, do) }

// Will adds what the service does by itself, when it runs, and by which statements.
func (c *Check) Will(about, text string, statements []string) {
	if !c.wanted {
		return
	}
	c.Note(about, text)
	c.said.Findings[len(c.said.Findings)-1].SQL = statements
	for _, sql := range statements {
		if c.SQL {
			c.print("%*s%s;\n", doIndent, "", strings.TrimSuffix(sql, ";")) // it is copied: it stays whole
		}
	}
}

// Warn adds what may become a trouble. do is what helps.
func (c *Check) Warn(code trouble.Code, about, text string, do ...string) {
	c.add(verdictWarn, code, about, text, do)
}

// WarnUnless is Warn, but a note where the warning is accepted.
func (c *Check) WarnUnless(accepted bool, code trouble.Code, about, text string, do ...string) {
	if accepted {
		c.add(verdictNote, code, about, text+"\n(accepted)", nil)
	} else {
		c.Warn(code, about, text, do...)
	}
}

// Fail adds what the service cannot run with.
func (c *Check) Fail(code trouble.Code, about, text string, do ...string) {
	c.add(verdictFail, code, about, text, do)
}

// Failed is Fail of an error.
func (c *Check) Failed(about string, err error) {
	hint := ""
	if t, ok := errors.AsType[*trouble.Error](err); ok {
		hint = t.Hint
	}
	c.Fail(trouble.CodeOf(err), about, err.Error(), hint)
}

// Blocked is Failed where the error keeps from looking at more: it is told whatever is wanted.
func (c *Check) Blocked(about string, err error) {
	c.wanted = true
	c.title()
	c.Failed(about, err)
}

func (c *Check) add(verdict string, code trouble.Code, about, text string, do []string) {
	if !c.wanted {
		return
	}
	f := Finding{Part: c.part, Verdict: verdict, About: about, Text: text, Do: []string{}, Code: code}
	for _, lines := range do {
		for line := range strings.SplitSeq(lines, "\n") {
			if line != "" {
				f.Do = append(f.Do, line)
			}
		}
	}
	c.said.Findings = append(c.said.Findings, f)
	switch verdict {
	case verdictOK:
		c.said.OK++
	case verdictWarn:
		c.said.Warnings++
	case verdictFail:
		c.said.Failures++
		if c.code == "" {
			c.code = code
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		lead := fmt.Sprintf("  %-5s %-14s ", verdict, about)
		for _, part := range wrap(Clean(line), c.width-findingIndent, len([]rune(lead))-findingIndent) {
			c.print("%s\n", strings.TrimRight(lead+part, " "))
			lead = strings.Repeat(" ", findingIndent)
		}
		verdict, about = "", ""
	}
	for _, line := range f.Do {
		indent, room := findingIndent, c.width-findingIndent-len("-> ")
		parts := wrap(Clean(line), room, 0)
		if command, note := service.Command(line); command != "" && len(parts) > 1 { // it is copied: it stays whole
			if utf8.RuneCountInString(command) > room {
				indent, room = doIndent, c.width-doIndent-len("-> ")
			}
			parts = []string{Clean(command)}
			if note != "" {
				parts = append(parts, wrap(Clean(note), room, 0)...)
			}
		}
		for i, part := range parts {
			c.print("%*s%s%s\n", indent, "", map[bool]string{true: "-> ", false: "   "}[i == 0], part)
		}
	}
}

// What is found stands behind verdict and subject, what mends it below; farther to the left where a command has no room there.
const (
	findingIndent = 23
	doIndent      = 8
)

func (c *Check) print(format string, args ...any) {
	_, _ = fmt.Fprintf(c.w, format, clean(args)...)
}

// Found gives what was found so far.
func (c *Check) Found() Checked { return c.said }

// End ends the check. The error, a trouble, says that the service could not run.
func (c *Check) End(program string) error {
	took := time.Since(c.began)
	c.said.Seconds = took.Seconds()
	why := ""
	switch {
	case c.said.Failures > 0:
		why = service.Plural(c.said.Failures, "check") + " failed"
	case c.Strict && c.said.Warnings > 0:
		why = service.Plural(c.said.Warnings, "warning") + ", and none is allowed"
	}
	c.said.Ready = why == ""
	c.print("\n%s%s, %s, %d ok, %s. Nothing was changed.\n", map[bool]string{true: "Ready. "}[c.said.Ready],
		service.Plural(c.said.Failures, "failure"), service.Plural(c.said.Warnings, "warning"), c.said.OK, service.FormatDuration(took))
	if c.said.Ready {
		return nil
	}
	cause := fmt.Errorf("%s is not ready: %s", program, why)
	if c.code == "" {
		return &notReady{cause}
	}
	return &notReady{&trouble.Error{Code: c.code, Op: "check", Subject: c.said.Subject, Cause: cause, Hint: "mend it as shown"}}
}

// notReady is the error of a check: something was attempted, also where what has failed is the configuration.
type notReady struct{ error }

func (e *notReady) Unwrap() error { return e.error }
