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

// Runbook is what is written about a code.
type Runbook struct {
	Text     string // Markdown
	Why      string
	Means    string
	Do       string
	Commands []string // of Do
}

var books = sync.OnceValue(func() map[Code]Runbook {
	all := map[Code]Runbook{}
	for text := range strings.SplitSeq("\n"+strings.TrimSpace(runbooks), "\n# ") {
		if code, _, ok := strings.Cut(text, "\n"); ok {
			all[Code(code)] = parseRunbook("# " + strings.TrimSpace(text) + "\n")
		}
	}
	return all
})

// RunbookOf gives the runbook of a code; ok is false where there is none.
func RunbookOf(code Code) (b Runbook, ok bool) {
	b, ok = books()[code]
	return b, ok
}

// Codes lists the codes that have a runbook, which are all that are ever raised.
func Codes() []Code { return slices.Sorted(maps.Keys(books())) }

func parseRunbook(text string) Runbook {
	b := Runbook{Text: text}
	section := func(name string) string {
		_, rest, _ := strings.Cut(text, "**"+name+"**")
		rest, _, _ = strings.Cut(rest, "\n**")
		return strings.TrimSpace(rest)
	}
	b.Why, b.Means = sentences(section("Why")), sentences(section("It means"))
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
