// Package verbs holds the verbs that every program of ours has, whatever its service does: its configuration, runbooks,
// whether it is healthy, a bundle for those who help, a first configuration, manual pages, what a shell completes, its version.
package verbs

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

// Program is what the verbs have to know of the service that a configuration C is of.
type Program[C any] struct {
	Name string // of the program
	// HTTP says where the service answers.
	HTTP func(cfg *C) config.HTTP
	Log  func(cfg *C) *config.Log
	// Names gives what a configuration names: sources, and tables as schema.table, each as SOURCE/TABLE where it says both.
	Names func(cfg *C) (sources, tables []string)
	// Check looks at everything that the service needs.
	Check func(ctx context.Context, cfg C, c *terminal.Check) error
	// Alters says that Check tells of statements that the service would run.
	Alters bool
	// Status tells how the service does without asking it.
	Status func(ctx context.Context, cfg C) (any, error)
}

// Config makes the verbs around the configuration.
func (p Program[C]) Config() *cobra.Command {
	return terminal.Group("config", "The configuration: what holds, what is wrong, what can be written", p.show(), p.checkConfig(),
		p.print("schema", "Print the JSON Schema of the configuration, by which editors complete and check",
			func() string { return string(config.Schema(new(C), p.Name+".yaml")) }),
		p.print("reference", "Print every key with its type, default, variable of the environment and meaning, as Markdown",
			func() string { return config.Reference(new(C), p.Name+".yaml") }))
}

func (p Program[C]) show() *cobra.Command {
	var defaults, origin bool
	cmd := &cobra.Command{
		Use: "show", Short: "Print the configuration that holds, without secrets", Args: terminal.NoArgs,
		Long: "Prints the configuration that holds: defaults, over them the file, over it the environment. Secrets are shown as ***.",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			var cfg C
			var text string
			switch {
			case defaults && origin:
				return terminal.Usagef("either --defaults or --origin")
			case defaults:
				text = config.Defaults(&cfg)
			case origin:
				text, err = terminal.Origins(cmd, &cfg)
			default:
				err = terminal.Configuration(cmd, &cfg)
				text = config.Show(&cfg)
			}
			if err != nil {
				return err
			}
			return terminal.Of(cmd).Text(text)
		},
	}
	p.examples(cmd, "config show", "config show --origin", "config show --defaults")
	cmd.Flags().BoolVar(&defaults, "defaults", false, "instead every key, its default and its meaning; no file is needed")
	cmd.Flags().BoolVar(&origin, "origin", false, "behind each value where it is from: file, environment or default")
	return cmd
}

func (p Program[C]) checkConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use: "check", Short: "Print what is wrong with the configuration, all of it, each with its place in the file", Args: terminal.NoArgs,
		Long: "Reads the configuration and asks nobody. Whether what it names is there and fits, the verb check says.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var cfg C
			if err := terminal.Configuration(cmd, &cfg); err != nil {
				return err
			}
			terminal.Of(cmd).Printf("%s: no faults\n", terminal.ConfigurationFile(cmd))
			return nil
		},
	}
	p.examples(cmd, "config check", "config check -c /etc/tributary/"+p.Name+".yaml")
	terminal.JSON(cmd)
	return cmd
}

// print makes a verb that writes a text, which is made when it is asked for: every start of the program makes all verbs.
func (p Program[C]) print(use, short string, text func() string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(terminal.Of(cmd).Out, text())
			return err
		},
	}
	p.examples(cmd, "config "+use, "config "+use+" > "+p.Name+"-"+use+".txt")
	return cmd
}

// examples gives a verb examples, which name the program.
func (p Program[C]) examples(cmd *cobra.Command, lines ...string) *cobra.Command {
	for _, line := range lines {
		cmd.Example += "\n  " + p.Name + " " + line
	}
	cmd.Example = strings.TrimPrefix(cmd.Example, "\n")
	return cmd
}
