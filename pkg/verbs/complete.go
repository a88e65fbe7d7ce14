package verbs

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

// completePatience is how long a shell waits for the service's names; after it those of the configuration are taken. A test sets it.
var completePatience = 300 * time.Millisecond

// Completed lets shells complete the names of what the service works on, wherever a verb takes one. Which arguments those
// are, the verb's usage says (TABLE, SOURCE, SOURCE/TABLE, TENANT), and the names of flags (--table, --source, --tenant,
// --code). It gives root.
func (p Program[C]) Completed(root *cobra.Command) *cobra.Command {
	_ = root.MarkPersistentFlagFilename("config", "yaml", "yml") // every root has it
	walk(root, func(cmd *cobra.Command) {
		_, arguments, _ := strings.Cut(cmd.Use, " ")
		if kind := kindOf(arguments); kind != 0 && cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
				if len(args) > 0 && !strings.Contains(arguments, "...") {
					return nil, cobra.ShellCompDirectiveNoFileComp
				}
				return p.names(cmd, kind), cobra.ShellCompDirectiveNoFileComp
			}
		}
		for flag, kind := range map[string]kind{"table": tables, "source": sources, "tenant": sources, "code": troubles} {
			if cmd.Flags().Lookup(flag) == nil {
				continue
			}
			_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
				return p.names(cmd, kind), cobra.ShellCompDirectiveNoFileComp
			}) // it fails where the verb has one of its own
		}
	})
	return root
}

func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, child := range cmd.Commands() {
		walk(child, visit)
	}
}

// kind says what a name is of, as a set.
type kind int

const (
	sources kind = 1 << iota
	tables
	subjects // SOURCE/TABLE
	troubles
)

func kindOf(arguments string) kind {
	switch {
	case strings.Contains(arguments, "SOURCE[/TABLE]"):
		return sources | subjects
	case strings.Contains(arguments, "SOURCE/TABLE"):
		return subjects
	case strings.Contains(arguments, "TABLE"):
		return tables
	case strings.Contains(arguments, "SOURCE"), strings.Contains(arguments, "TENANT"):
		return sources
	}
	return 0
}

// names gives the names of a kind: of the service if it answers quickly, else of the configuration.
func (p Program[C]) names(cmd *cobra.Command, of kind) []string {
	if of == troubles {
		return codes()
	}
	var cfg C
	if err := terminal.Configuration(cmd, &cfg); err != nil {
		return nil
	}
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completePatience)
	defer cancel()
	var live struct { // what the status of every service has
		Source  string
		Sources []struct{ Name string }
		Tables  []struct{ Source, Table string }
	}
	var out []string
	add := func(name string) {
		if name != "" && !strings.ContainsAny(name, "\n\t") {
			out = append(out, name)
		}
	}
	if err := service.Ask(ctx, p.HTTP(&cfg), "/status", &live); err != nil {
		names, found := p.Names(&cfg)
		if of&sources != 0 {
			out = append(out, names...)
		}
		for _, name := range found {
			if subject := strings.Contains(name, "/"); subject && of&subjects != 0 || !subject && of&tables != 0 {
				out = append(out, name)
			}
		}
		return out
	}
	if of&sources != 0 {
		add(live.Source)
		for _, s := range live.Sources {
			add(s.Name)
		}
	}
	for _, t := range live.Tables {
		if of&tables != 0 {
			add(t.Table)
		}
		if of&subjects != 0 && t.Source != "" {
			add(t.Source + "/" + t.Table)
		}
	}
	return out
}
