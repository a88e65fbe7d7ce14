package terminal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// printer writes errors.
type printer struct {
	w        io.Writer
	program  string
	json     bool
	explains bool // the program has the verb explain
}

// report prints err and gives the exit code it deserves.
func (p printer) report(err error) int {
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errSaid):
		return exitFailed
	}
	if p.json {
		p.printJSON(p.tell(err))
	} else {
		for _, one := range joined(err) {
			p.print(one, p.tell(one))
		}
	}
	if _, unready := errors.AsType[*notReady](err); unready {
		return exitFailed
	}
	if _, usage := errors.AsType[*usageError](err); usage || trouble.CodeOf(err) == trouble.Config {
		return exitUsage
	}
	return exitFailed
}

// joined gives the errors that errors.Join has made one of: each has a cause and a hint of its own.
func joined(err error) []error {
	many, ok := err.(interface{ Unwrap() []error }) //nolint:errorlint // what wraps them has words of its own, and is told as one
	if !ok {
		return []error{err}
	}
	if all := many.Unwrap(); errors.Join(all...).Error() == err.Error() {
		var out []error
		for _, one := range all {
			out = append(out, joined(one)...)
		}
		return out
	}
	return []error{err}
}

// told is an error as JSON has it. Every field is always there.
type told struct {
	Code    trouble.Code `json:"code"`
	Op      string       `json:"op"`
	Subject string       `json:"subject"`
	Cause   string       `json:"cause"`
	Means   string       `json:"means"`
	Hint    string       `json:"hint"`
	See     string       `json:"see"`
}

// Codes of errors that are no trouble, and have no runbook.
const (
	codeUsage  = "usage"  // typed wrongly
	codeLate   = "late"   // waited for in vain
	codeFailed = "failed" // anything else
)

func (p printer) tell(err error) told {
	if usage, ok := errors.AsType[*usageError](err); ok {
		return told{Code: codeUsage, Cause: usage.Error(), Hint: usage.line}
	}
	faults, unfit := errors.AsType[*config.Faults](err)
	t, ok := errors.AsType[*trouble.Error](err)
	if !ok {
		code := trouble.Code(codeFailed)
		if _, late := errors.AsType[*lateError](err); late {
			code = codeLate
		}
		return told{Code: code, Cause: err.Error()}
	}
	out := told{Code: t.Code, Op: t.Op, Subject: t.Subject, Means: t.Means, Hint: t.Hint, See: see(p.program, p.explains, t.Code)}
	if t.Cause != nil {
		out.Cause = t.Cause.Error()
	}
	if _, more, ok := strings.Cut(err.Error(), t.Error()+"\n"); ok { // what a verb says of it
		out.Means = strings.TrimLeft(out.Means+"\n"+more, "\n")
	}
	if t.Code == "" {
		out.Code, out.See = codeFailed, ""
	}
	if unfit && faults.Absent && p.explains {
		out.Hint = fmt.Sprintf("name it with -c or TRIBUTARY_CONFIG, where it is neither ./%[1]s.yaml nor /etc/tributary/%[1]s.yaml\nthere is none yet: %[1]s init env:NAME -o %[1]s.yaml     NAME is a variable with the connection string", p.program)
	}
	return out
}

func (p printer) printJSON(t told) {
	encoder := json.NewEncoder(p.w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(map[string]told{"error": t})
}

func (p printer) print(err error, t told) {
	if faults, ok := errors.AsType[*config.Faults](err); ok {
		faults.Print(cleanWriter(p.w), p.program)
		writeField(p.w, "hint", t.Hint, 0)
		return
	}
	if t.Op == "" {
		_, _ = fmt.Fprintf(p.w, "error: %s\n", cleanLines(t.Cause))
		if t.Hint != "" {
			_, _ = fmt.Fprintf(p.w, "usage: %s\n", t.Hint)
		}
		return
	}
	_, _ = fmt.Fprintf(p.w, "error: %s\n", cleanLines(strings.TrimSpace(t.Op+" "+t.Subject)))
	width, _ := Size(p.w) // of a terminal
	writeField(p.w, "cause", t.Cause, width)
	writeField(p.w, "means", t.Means, width)
	writeField(p.w, "hint", t.Hint, 0)
	writeField(p.w, "see", t.See, 0)
}

// fieldIndent is where what stands under a name begins.
const fieldIndent = 9

// writeField writes what there is to say under a name, line by line; nothing where that is nothing. Sentences are wrapped at a
// width; with 0, as for commands, they are not.
func writeField(w io.Writer, name, text string, width int) {
	if text == "" {
		return
	}
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		for _, part := range wrap(Clean(line), width-fieldIndent, 0) {
			_, _ = fmt.Fprintf(w, "  %-6s %s\n", name, part)
			name = ""
		}
	}
}

// see says where to read on about a code.
func see(program string, explains bool, code trouble.Code) string {
	if explains {
		return program + " explain " + string(code)
	}
	return "docs/runbooks/" + string(code) + ".md"
}

// Print writes err for a person at a terminal, as Main does: the error, then cause, means, hint and where to read on.
// program is the binary's name.
func Print(w io.Writer, program string, err error) {
	printer{w: w, program: program, explains: true}.report(err)
}
