package verbs

import (
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// explained is a runbook as JSON has it.
type explained struct {
	Code     trouble.Code `json:"code"`
	Why      string       `json:"why"`
	Means    string       `json:"means"`
	Do       string       `json:"do"`
	Commands []string     `json:"commands"`
	Text     string       `json:"text"` // Markdown
}

// Explain makes the verb that shows runbooks, which every program has with it.
func (p Program[C]) Explain() *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain [CODE]", Short: "Print what a trouble is, what it means and what to do; without a code, all there are", Args: terminal.MaxArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return codes(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			out := terminal.Of(cmd)
			known := codes()
			if len(args) == 1 {
				if err := KnownCode(args[0]); err != nil {
					return err
				}
				if !out.JSON {
					book, _ := trouble.RunbookOf(trouble.Code(args[0]))
					_, err := io.WriteString(out.Out, book.Text)
					return err
				}
				known = args
			}
			all := make([]explained, 0, len(known))
			t := &terminal.Table{Columns: []terminal.Column{{Title: "code"}, {Title: "why", Wraps: true}}}
			for _, code := range known {
				book, _ := trouble.RunbookOf(trouble.Code(code))
				t.Rows = append(t.Rows, terminal.Text(code, book.Why))
				all = append(all, explained{trouble.Code(code), book.Why, book.Means, book.Do, append([]string{}, book.Commands...), book.Text})
			}
			if out.JSON {
				return out.Document(struct {
					Schema string      `json:"schema"`
					Codes  []explained `json:"codes"`
				}{"tributary.explain/1", all})
			}
			return out.Table(t)
		},
	}
	p.examples(cmd, "explain slot-lost", "explain")
	terminal.JSON(cmd)
	return cmd
}

// KnownCode refuses a code that there is not.
func KnownCode(code string) error {
	known := codes()
	if slices.Contains(known, code) {
		return nil
	}
	return terminal.Usagef("there is no code %q%s", code, terminal.Meant(code, known))
}

func codes() []string {
	var out []string
	for _, code := range trouble.Codes() {
		out = append(out, string(code))
	}
	return out
}
