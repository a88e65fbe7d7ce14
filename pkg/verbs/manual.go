package verbs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

// Manual makes the verb that writes manual pages.
func (p Program[C]) Manual() *cobra.Command {
	var dir string
	var markdown bool
	cmd := &cobra.Command{
		Use: "manpage", Short: "Write manual pages, one a verb", Args: terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			root := cmd.Root()
			if markdown {
				text, err := Markdown(root)
				if err != nil {
					return err
				}
				_, err = io.WriteString(terminal.Of(cmd).Out, text)
				return err
			}
			if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // documentation is for everybody
				return err
			}
			root.DisableAutoGenTag = true
			day := time.Unix(0, 0).UTC() // the same pages of the same version
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Date: &day, Source: "Tributary " + service.ThisBuild().Version, Manual: "Tributary"}, dir)
		},
	}
	p.examples(cmd, "manpage -o man && man ./man/*-run.1", "manpage --markdown")
	cmd.Flags().StringVarP(&dir, "output", "o", ".", "directory to write into")
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print all of it as a chapter of Markdown instead")
	return cmd
}

// Markdown gives a chapter about all verbs of a program.
func Markdown(root *cobra.Command) (string, error) {
	root.InitDefaultCompletionCmd()
	root.DisableAutoGenTag = true
	var b strings.Builder
	err := chapter(&b, root)
	return b.String(), err
}

func chapter(b *strings.Builder, cmd *cobra.Command) error {
	var page bytes.Buffer
	if err := doc.GenMarkdownCustom(cmd, &page, func(s string) string { return s }); err != nil {
		return err
	}
	text, _, _ := strings.Cut(page.String(), "### SEE ALSO")
	if cmd.HasParent() { // what holds for every verb is said once
		text, _, _ = strings.Cut(text, "### Options inherited from parent commands")
	}
	b.WriteString(strings.TrimSpace(closeFences(text)) + "\n\n")
	if exits := cmd.Annotations[terminal.Exits]; exits != "" {
		fmt.Fprintf(b, "### Exit codes\n\n```text\n%s\n```\n\n", exits)
	}
	if cmd.Name() == "completion" {
		return nil // a verb for each shell, with cobra's long words: --help has them
	}
	for _, child := range cmd.Commands() {
		if child.IsAvailableCommand() && !child.IsAdditionalHelpTopicCommand() {
			if err := chapter(b, child); err != nil {
				return err
			}
		}
	}
	return nil
}

// closeFences gives the fences that open a block their language, and those that close one none.
func closeFences(text string) string {
	lines := strings.Split(text, "\n")
	open := false
	for i, line := range lines {
		if !strings.HasPrefix(line, "```") {
			continue
		}
		if open = !open; open {
			lines[i] = "```text"
		} else {
			lines[i] = "```"
		}
	}
	return strings.Join(lines, "\n")
}
