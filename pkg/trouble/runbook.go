package trouble

import (
	_ "embed"
	"maps"
	"slices"
	"strings"
	"sync"
)

// runbooks are the files of docs/runbooks one after the other, as `make docs` puts them together: a service has them with
// it where there is no internet.
//
//go:embed runbooks.txt
var runbooks string

// alerts are those of docs/runbooks/alerts.
//
//go:embed alerts.txt
var alerts string

// Runbook is what is written about a code, or an alert.
type Runbook struct {
	Text     string // Markdown
	Why      string // of an alert: what it means that it fires
	Means    string // of an alert: its impact
	Do       string
	Commands []string // of Do
}

// The sections that Why and Means are from.
var (
	ofCodes  = [2]string{"Why", "It means"}
	ofAlerts = [2]string{"Meaning", "Impact"}
)

var (
	books      = sync.OnceValue(func() map[Code]Runbook { return parseRunbooks[Code](runbooks, ofCodes) })
	alertBooks = sync.OnceValue(func() map[string]Runbook { return parseRunbooks[string](alerts, ofAlerts) })
)

func parseRunbooks[Name ~string](file string, sections [2]string) map[Name]Runbook {
	all := map[Name]Runbook{}
	for text := range strings.SplitSeq("\n"+strings.TrimSpace(file), "\n# ") {
		if name, _, ok := strings.Cut(text, "\n"); ok {
			all[Name(name)] = parseRunbook("# "+strings.TrimSpace(text)+"\n", sections)
		}
	}
	return all
}

// RunbookOf gives the runbook of a code; ok is false where there is none.
func RunbookOf(code Code) (b Runbook, ok bool) {
	b, ok = books()[code]
	return b, ok
}

// Codes lists the codes that have a runbook, which are all that are ever raised.
func Codes() []Code { return slices.Sorted(maps.Keys(books())) }

// AlertRunbookOf gives the runbook of an alert; ok is false where there is no such alert.
func AlertRunbookOf(name string) (b Runbook, ok bool) {
	b, ok = alertBooks()[name]
	return b, ok
}

// Alerts lists the alerts, each of which has a runbook.
func Alerts() []string { return slices.Sorted(maps.Keys(alertBooks())) }

func parseRunbook(text string, sections [2]string) Runbook {
	b := Runbook{Text: text}
	section := func(name string) string {
		_, rest, _ := strings.Cut(text, "**"+name+"**")
		rest, _, _ = strings.Cut(rest, "\n**")
		return strings.TrimSpace(rest)
	}
	b.Why, b.Means = sentences(section(sections[0])), sentences(section(sections[1]))
	do := section("Do")
	b.Do = sentences(do)
	for i, part := range strings.Split(do, "\n```") {
		if i%2 == 0 {
			continue // between two blocks
		}
		_, block, _ := strings.Cut(part, "\n") // behind the language
		if !strings.Contains(block, "…") {
			b.Commands = append(b.Commands, strings.TrimSpace(block))
		}
	}
	return b
}

// sentences gives the first paragraph as a line, without the marks of Markdown.
func sentences(section string) string {
	section, _, _ = strings.Cut(section, "\n```")
	section, _, _ = strings.Cut(section, "\n\n")
	section = strings.NewReplacer("`", "", "\n", " ").Replace(section)
	var b strings.Builder
	for section != "" { // [text](target) is text
		before, rest, found := strings.Cut(section, "](")
		if !found {
			break
		}
		_, after, _ := strings.Cut(rest, ")")
		if i := strings.LastIndexByte(before, '['); i >= 0 {
			before = before[:i] + before[i+1:]
		}
		b.WriteString(before)
		section = after
	}
	return b.String() + section
}
