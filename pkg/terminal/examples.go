package terminal

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Examples says what is wrong with the help of a program's verbs: each has a sentence, and two examples that can be typed
// as they are. Tests ask.
func Examples(root *cobra.Command) []string {
	var wrong []string
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help", "completion":
			continue
		}
		if cmd.HasSubCommands() {
			wrong = append(wrong, Examples(cmd)...)
		}
		if cmd.HasSubCommands() && cmd.Example == "" {
			continue // a noun
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

// words takes a command apart as a shell does, as far as examples go.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}
