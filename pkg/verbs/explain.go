package verbs

import (
	"cmp"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// explained is a runbook as JSON has it: of a code, or of an alert.
type explained struct {
	Code     trouble.Code `json:"code,omitempty"`
	Alert    string       `json:"alert,omitempty"`
	Why      string       `json:"why"`
	Means    string       `json:"means"`
	Do       string       `json:"do"`
	Commands []string     `json:"commands"`
	Text     string       `json:"text"` // Markdown
}

// Explain makes the verb that shows runbooks, which every program has with it.
func (p Program[C]) Explain() *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain [CODE|ALERT]", Short: "Print what a trouble or an alert is, what it means and what to do; without a name, all there are", Args: terminal.MaxArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return append(codes(), trouble.Alerts()...), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			out := terminal.Of(cmd)
			known, alerts := codes(), trouble.Alerts()
			if len(args) == 1 {
				known, alerts = named(known, args[0]), named(alerts, args[0])
				if len(known)+len(alerts) == 0 {
					return terminal.Usagef("there is no code and no alert %q%s", args[0], terminal.Meant(args[0], append(codes(), trouble.Alerts()...)))
				}
			}
			all := struct {
				Schema string      `json:"schema"`
				Codes  []explained `json:"codes"`
				Alerts []explained `json:"alerts"`
			}{"tributary.explain/1", make([]explained, 0, len(known)), make([]explained, 0, len(alerts))}
			for _, code := range known {
				book, _ := trouble.RunbookOf(trouble.Code(code))
				one := of(&book)
				one.Code = trouble.Code(code)
				all.Codes = append(all.Codes, one)
			}
			for _, alert := range alerts {
				book, _ := trouble.AlertRunbookOf(alert)
				one := of(&book)
				one.Alert = alert
				all.Alerts = append(all.Alerts, one)
			}
			t := &terminal.Table{Columns: []terminal.Column{{Title: "code"}, {Title: "why", Wraps: true}}}
			for _, one := range append(all.Codes[:len(all.Codes):len(all.Codes)], all.Alerts...) {
				if len(args) == 1 && !out.JSON {
					_, err := io.WriteString(out.Out, one.Text)
					return err
				}
				t.Rows = append(t.Rows, terminal.Text(cmp.Or(string(one.Code), one.Alert), one.Why))
			}
			if out.JSON {
				return out.Document(all)
			}
			return out.Table(t)
		},
	}
	p.examples(cmd, "explain slot-lost", "explain TributaryCaptureBehind")
	terminal.JSON(cmd)
	return cmd
}

func of(book *trouble.Runbook) explained {
	return explained{Why: book.Why, Means: book.Means, Do: book.Do, Commands: append([]string{}, book.Commands...), Text: book.Text}
}

// named gives what of all has a name: one or none.
func named(all []string, name string) []string {
	return slices.DeleteFunc(all, func(one string) bool { return one != name })
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
