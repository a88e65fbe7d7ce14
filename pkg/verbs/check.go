package verbs

import (
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/terminal"
)

// Ready makes the verb that looks whether the service could run, in parts.
func (p Program[C]) Ready(short string, parts ...string) *cobra.Command {
	var only []string
	var strict, sql bool
	cmd := &cobra.Command{
		Use: "check", Short: short, Args: terminal.NoArgs,
		Long: short + ".\n\nEach line is ok, a note, a warning (warn) or a failure (FAIL), with the statement or the setting that mends it. Nothing is\n" +
			"changed: what would be done is tried, and rolled back.",
		Annotations: map[string]string{
			terminal.Exits: "  0  no failure\n  1  a failure; with --strict a warning, too\n  2  used wrongly: flag, argument or configuration; nothing was attempted",
			terminal.See:   "docs/reference/json.md for --json",
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, part := range only {
				if !slices.Contains(parts, part) {
					return terminal.Usagef("--only is %q%s; write %s", part, terminal.Meant(part, parts), strings.Join(parts, ", "))
				}
			}
			var cfg C
			if err := terminal.Configuration(cmd, &cfg); err != nil {
				return err
			}
			terminal.Calm(cmd, p.Log(&cfg))
			out := terminal.Of(cmd)
			w := out.Out
			if out.JSON {
				w = io.Discard
			}
			c := terminal.NewCheck(p.Name, w)
			c.Only, c.Strict, c.SQL = only, strict, sql
			err := p.Check(cmd.Context(), cfg, c)
			if err := cmd.Context().Err(); err != nil {
				return err // what was not looked at is no failure
			}
			if out.JSON {
				if err := out.Document(c.Found()); err != nil {
					return err
				}
			}
			return err
		},
	}
	p.examples(cmd, "check -c "+p.Name+".yaml", "check --only "+parts[0]+" --strict --json")
	terminal.JSON(cmd)
	cmd.Flags().StringSliceVar(&only, "only", nil, "only these parts: "+strings.Join(parts, ", "))
	cmd.Flags().BoolVar(&strict, "strict", false, "a warning fails, too")
	if p.Alters {
		cmd.Flags().BoolVar(&sql, "sql", false, "with the statements by which targets would be made and altered")
	}
	_ = cmd.RegisterFlagCompletionFunc("only", cobra.FixedCompletions(parts, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return cmd
}
