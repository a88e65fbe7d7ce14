// Package verbstest looks, in tests of both programs, whether their help can be typed, whether what the documentation says to type can, and
// whether the manual is what the help says.
package verbstest

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/verbs"
)

// top is the top of the repository, as seen from the directory of a program.
const top = "../../.."

// Help fails t for what is wrong with the help of a program's verbs: each has a sentence, and two examples that can be typed
// as they are.
func Help(t *testing.T, root *cobra.Command) {
	t.Helper()
	for _, wrong := range examples(root) {
		t.Error(wrong)
	}
}

// Documented fails t for what the pages and the runbooks say to type of a program and that cannot be typed.
func Documented(t *testing.T, root *cobra.Command) {
	t.Helper()
	for _, dir := range []string{".", "docs", "docs/operations", "docs/runbooks", "docs/runbooks/alerts", "docs/reference"} {
		pages, err := fs.Glob(os.DirFS(top), path.Join(dir, "*.md"))
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range pages {
			if page == "docs/differences.md" {
				continue // it names what there is not
			}
			text, err := fs.ReadFile(os.DirFS(top), page)
			if err != nil {
				t.Fatal(err)
			}
			for _, wrong := range documented(root, string(text)) {
				t.Errorf("%s: %s", page, wrong)
			}
		}
	}
}

// Manual fails t where docs/reference/cli.md does not say what --help says.
func Manual(t *testing.T, root *cobra.Command) {
	t.Helper()
	page, err := os.ReadFile(path.Join(top, "docs/reference/cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	chapter, err := verbs.Markdown(root)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), chapter) {
		t.Error("docs/reference/cli.md is stale: make docs")
	}
}

// examples says what is wrong with the help.
func examples(root *cobra.Command) []string {
	var wrong []string
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help", "completion":
			continue
		}
		if cmd.HasSubCommands() {
			wrong = append(wrong, examples(cmd)...)
		}
		if cmd.HasSubCommands() && cmd.Example == "" {
			continue // a noun
		}
		if command, _ := service.Command(cmd.CommandPath()); command == "" {
			wrong = append(wrong, cmd.CommandPath()+" in a hint is not taken for a command")
		}
		lines := strings.FieldsFunc(cmd.Example, func(r rune) bool { return r == '\n' })
		if cmd.Short == "" || len(lines) < 2 && cmd.Name() != "version" {
			wrong = append(wrong, cmd.CommandPath()+" wants a sentence and two examples")
		}
		for _, line := range lines {
			if err := example(cmd, line); err != nil {
				wrong = append(wrong, fmt.Sprintf("%s: %q: %v", cmd.CommandPath(), line, err))
			}
		}
	}
	return wrong
}

// example says why a line cannot be typed.
func example(cmd *cobra.Command, line string) error {
	line, _, _ = strings.Cut(line, " > ")
	line, _, _ = strings.Cut(line, " && ")
	rest, ok := strings.CutPrefix(line, "  "+cmd.CommandPath())
	if !ok {
		return fmt.Errorf("it does not begin with %q", "  "+cmd.CommandPath())
	}
	args := words(rest)
	flags := cmd.Flags()
	if err := cmd.ParseFlags(args); err != nil {
		return err
	}
	if cmd.Args == nil {
		return nil
	}
	return cmd.Args(cmd, flags.Args())
}

// documented says what is wrong with the commands of a program in a page of Markdown: with lines of its blocks of kind sh and
// console that begin with the program's name, and with code within sentences that does.
func documented(root *cobra.Command, page string) []string {
	var wrong []string
	look := func(text string, check func(*cobra.Command, string) error) {
		if rest, ours := strings.CutPrefix(strings.TrimPrefix(text, "bin/"), root.Name()+" "); ours {
			if err := check(root, rest); err != nil {
				wrong = append(wrong, fmt.Sprintf("%q: %v", text, err))
			}
		}
	}
	fenced, commands, prompt, line := false, false, "", ""
	for part := range strings.Lines(page) {
		part = strings.TrimSpace(part)
		if fence, ok := strings.CutPrefix(part, "```"); ok {
			fenced = !fenced
			prompt = ""
			if strings.HasPrefix(fence, "console") {
				prompt = "$ "
			}
			commands = fenced && (prompt != "" || strings.HasPrefix(fence, "sh"))
			continue
		}
		if !fenced {
			for _, span := range span.FindAllStringSubmatch(part, -1) {
				look(span[1], named)
			}
			continue
		}
		if before, more := strings.CutSuffix(part, "\\"); commands && more {
			line += before
			continue
		}
		if typed, isTyped := strings.CutPrefix(line+part, prompt); commands && isTyped {
			look(typed, typable)
		}
		line = ""
	}
	return wrong
}

// span is a piece of code within a sentence.
var span = regexp.MustCompile("`([^`]+)`")

// typable says why a command cannot be typed, given what stands behind the program's name.
func typable(root *cobra.Command, rest string) error {
	cmd, args, err := parse(root, rest)
	if err != nil {
		return err
	}
	if cmd.Args != nil {
		return cmd.Args(cmd, args)
	}
	needed, optional := 0, 0 // how many brackets are open
	for _, argument := range strings.Fields(cmd.Use)[1:] {
		if argument == strings.ToUpper(argument) && optional == 0 && !strings.HasPrefix(argument, "[") {
			needed++
		}
		optional += strings.Count(argument, "[") - strings.Count(argument, "]")
	}
	if len(args) < needed {
		return fmt.Errorf("it wants %s", cmd.Use)
	}
	return nil
}

// named says why a sentence cannot speak of a command: that may do without arguments, and without the value of its last flag.
func named(root *cobra.Command, rest string) error {
	rest = placeholder.ReplaceAllString(rest, "1")
	_, _, err := parse(root, rest)
	if err != nil && strings.Contains(err.Error(), "flag needs an argument") {
		_, _, err = parse(root, rest+" 1")
	}
	return err
}

// placeholder stands for what a reader has.
var placeholder = regexp.MustCompile(`\b[A-Z]{2,}\b`)

// parse finds the verb and takes its flags off.
func parse(root *cobra.Command, rest string) (*cobra.Command, []string, error) {
	for _, end := range []string{" > ", " >> ", " 2> ", " 2>> ", " | ", " && ", " & ", "; ", " #"} {
		rest, _, _ = strings.Cut(rest, end)
	}
	cmd, args, err := root.Find(words(strings.TrimSuffix(rest, " &")))
	if err != nil {
		return nil, nil, err
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) { f.Changed = false })
	if err := cmd.ParseFlags(args); err != nil {
		return nil, nil, err
	}
	args = cmd.Flags().Args()
	if cmd.HasSubCommands() && len(args) > 0 {
		return nil, nil, fmt.Errorf("%s has no %q", cmd.CommandPath(), args[0])
	}
	return cmd, args, nil
}

// word is one of a command: in quotes, between them, or without.
var word = regexp.MustCompile(`(?:'[^']*'|"[^"]*"|[^\s'"])+`)

// words takes a command apart as a shell does, as far as examples go.
func words(line string) []string {
	out := word.FindAllString(line, -1)
	for i := range out {
		out[i] = strings.NewReplacer("'", "", `"`, "").Replace(out[i])
	}
	return out
}
