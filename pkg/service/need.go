package service

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// Need is something that wants a person, told everywhere in one order: what, why, what it means, what to do.
type Need struct {
	Code    trouble.Code `json:"code"`
	Urgent  bool         `json:"urgent"` // it does not go away by itself
	Subject string       `json:"subject"`
	// Subjects are all that have the same, where there are several; Subject is the first.
	Subjects []string  `json:"subjects,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	What     string    `json:"what"`
	Why      string    `json:"why"`
	Means    string    `json:"means"`
	Do       []Step    `json:"do"`
	See      string    `json:"see"` // where the service answers with the runbook
}

// NeedsYou begins the sentence of a service that wants a person, however well the rest of it goes.
const NeedsYou = "needs you: "

// Step is one thing to do. A step without a command is said by its note alone.
type Step struct {
	Command string `json:"command,omitempty"`
	Note    string `json:"note,omitempty"`
}

// complete takes from the runbook what is missing.
func (n *Need) complete() {
	book, ok := trouble.RunbookOf(n.Code)
	if !ok {
		return
	}
	if n.Why == "" {
		n.Why = book.Why
	}
	if n.Means == "" {
		n.Means = book.Means
	}
	if len(n.Do) == 0 {
		n.Do = []Step{{Note: book.Do}}
		act := false
		for _, command := range book.Commands {
			if looks.MatchString(command) && !acts.MatchString(command) {
				step := Step{Command: command}
				if names.MatchString(command) {
					step.Note = "the names in it are those of an example"
				}
				n.Do = append(n.Do, step)
			} else {
				act = true
			}
		}
		if act {
			n.Do = append(n.Do, Step{Note: "the commands for it are in the runbook, with the names and numbers of an example"})
		}
	}
}

// looks fits the commands of a runbook that change nothing, but for the functions of acts: its tables, numbers and offsets are those of an
// example, and to copy what writes would do harm. names fits those that look for what the example has: elsewhere they find nothing.
var (
	looks = regexp.MustCompile(`^(?:(?:(?:SELECT|SHOW) [^;]*;\s*)+|(?:(?:(?:capture|sink) (?:check|status|explain|parked list|support-bundle)|kafka-broker-api-versions\.sh)\b[^\n;]*\s*)+)$`)
	names = regexp.MustCompile(` = '|kafka:9092`)
	acts  = regexp.MustCompile(`(?i)\b(?:setval|pg_(?:terminate|cancel|drop|create|reload|promote|switch|logical|replication_slot_advance)\w*)\s*\(`)
)

// Needs completes and puts in order: what is urgent first, then what began last.
func Needs(list []Need) []Need {
	out := make([]Need, 0, len(list))
	for _, urgent := range []bool{true, false} {
		from := len(out)
		for _, n := range list {
			if n.Urgent == urgent {
				n.See = "/explain/" + string(n.Code)
				n.complete()
				out = append(out, n)
			}
		}
		slices.SortStableFunc(out[from:], func(a, b Need) int { return b.Since.Compare(a.Since) })
	}
	return out
}

const verbsOfBoth = `check|config (?:check|reference|schema|show)|explain|healthcheck|init|manpage|run|status|support-bundle|tail|version`

var (
	// command is a verb of ours with what looks like its arguments, up to the end of the line, a mark, or a note three
	// spaces further on; "capture run reads all tables" is none. The verbs are all that the programs have: see verbstest.Help.
	command = regexp.MustCompile(`\b((?:` +
		`capture (?:pause|resume|slot (?:show|drop)|snapshot(?: list| cancel)?|topics (?:list|set)|` + verbsOfBoth + `)|` +
		`sink (?:pause|resume|parked (?:discard|list|retry|show)|retention (?:plan|run)|rules (?:accept|explain|match|scaffold|test)|tenant (?:list|pause|rebuild|remove|resume)|` + verbsOfBoth + `))` +
		`(?: (?:--?[\w=-]+|[^\s;,']*[/.*\d_][^\s;,']*|[a-z]+(?:-[a-z]+)+|[A-Z]{3,}|'(?:[^']|'\\'')*'))*)(?:$|[;,)]|\s{3,})`)
	// before is what is done before a command that follows in the same sentence.
	before = regexp.MustCompile(`^(?:(.*); then|(.*; then .*), and)$`)
	// sqlLine is SQL, perhaps with a note; sqlWithin is SQL at the end of a sentence.
	sqlLine = regexp.MustCompile(`^((?:SELECT|ALTER|CREATE|DROP|DELETE|UPDATE|GRANT|SHOW|SET)\b[^\n]*?;)(?:\s{3,}([^\n]*))?$`)
	// kafkaLine is a command of Kafka's own.
	kafkaLine = regexp.MustCompile(`^kafka-[a-z]+\.sh `)
	sqlWithin = regexp.MustCompile(`^(.*?)[,:;]?\s*\b((?:SELECT|ALTER|CREATE|DROP|DELETE|UPDATE|GRANT|SHOW) [^\n]*;)$`)
)

// Steps takes a hint apart: each line is a command with a note, a sentence with commands in it, or a sentence.
func Steps(hint string) []Step {
	steps := []Step{}
	for line := range strings.SplitSeq(hint, "\n") {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if m := sqlLine.FindStringSubmatch(line); m != nil {
			steps = append(steps, Step{Command: m[1], Note: m[2]})
			continue
		}
		if kafkaLine.MatchString(line) {
			steps = append(steps, Step{Command: line})
			continue
		}
		if m := sqlWithin.FindStringSubmatch(line); m != nil {
			steps = append(steps, Step{Command: m[2], Note: m[1]})
			continue
		}
		at := 0
		for _, m := range command.FindAllStringSubmatchIndex(line, -1) {
			note := strings.Trim(line[at:m[2]], " ;,:")
			if m := before.FindStringSubmatch(note); m != nil { // what is done before is a step of its own
				steps, note = append(steps, Step{Note: m[1] + m[2]}), ""
			}
			steps = append(steps, Step{Command: line[m[2]:m[3]], Note: note})
			at = m[1]
		}
		switch rest := strings.Trim(line[at:], " ;,"); {
		case rest == "":
		case at > 0 && steps[len(steps)-1].Note == "":
			steps[len(steps)-1].Note = rest
		default:
			steps = append(steps, Step{Note: rest})
		}
	}
	return steps
}

// Command gives the command that a line of a hint begins with, which is copied as it is, and what is said of it; "" where there is none.
func Command(line string) (command, note string) {
	steps := Steps(line)
	if len(steps) == 0 || steps[0].Command == "" {
		return "", ""
	}
	note, begins := strings.CutPrefix(strings.TrimSpace(line), steps[0].Command)
	if !begins {
		return "", ""
	}
	return steps[0].Command, strings.TrimLeft(note, " ;,")
}

// Quote gives an argument of a command as a shell wants it: names come from databases, and may hold anything.
func Quote(arg string) string {
	if plainArgument.MatchString(arg) {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

var plainArgument = regexp.MustCompile(`^[\w./:@%+,-]+$`)
