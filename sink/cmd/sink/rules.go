package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/schema/record"
	"github.com/tributary-cdc/tributary/sink"
)

// picked is a table of a source, named by a topic or by both its parts.
type picked struct{ source, table, topic string }

func (p *picked) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.source, "source", "", "the source's name")
	cmd.Flags().StringVar(&p.table, "table", "", "its table, as schema.table")
	cmd.Flags().StringVar(&p.topic, "topic", "", "instead of both: the table's topic")
}

func (p *picked) name() (string, error) {
	if p.topic != "" {
		if p.source != "" || p.table != "" {
			return "", terminal.Usage(errors.New("say --topic, or --source and --table"))
		}
		return p.topic, nil
	}
	schema, table, ok := strings.Cut(p.table, ".")
	if p.source == "" || !ok {
		return "", terminal.Usage(errors.New("say which table: --source NAME --table schema.table, or --topic NAME"))
	}
	topic, err := record.Topic(p.source, schema, table)
	if err != nil {
		return "", terminal.Usage(err)
	}
	return topic, nil
}

func rulesCommand() *cobra.Command {
	verb := func(use, short, example string, p *picked, do func(context.Context, *sink.Operator, sink.Config, string, *cobra.Command) error) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short, Example: example, Args: terminal.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			topic, err := p.name()
			if err != nil {
				return err
			}
			return operate(cmd, func(o *sink.Operator, cfg sink.Config) error {
				return o.Known(cmd.Context(), cfg, topic, do(cmd.Context(), o, cfg, topic, cmd))
			})
		}}
		p.flags(c)
		return c
	}
	explain := verb("explain", "Say what happens to a table, in words and as the SQL that is run",
		"  sink rules explain --source shop --table public.orders\n  sink rules explain --topic shop.public.orders", &picked{},
		func(ctx context.Context, o *sink.Operator, _ sink.Config, topic string, cmd *cobra.Command) error {
			return o.ExplainRule(ctx, topic, cmd.OutOrStdout())
		})
	var last int
	trial := sink.Trial{Offset: -1}
	var diff string
	test := verb("test", "Try a rule on records that are in Kafka, and write nothing",
		"  sink rules test --source shop --table public.orders --last 20\n  sink rules test --topic shop.public.orders --offset 88120 --last 1 --values\n"+
			"  sink rules test --topic shop.public.orders --diff sink-before.yaml", &picked{},
		func(ctx context.Context, o *sink.Operator, cfg sink.Config, topic string, cmd *cobra.Command) error {
			if last < 1 || last > 100_000 {
				return terminal.Usage(errors.New("--last is a number from 1 to 100000"))
			}
			trial.Records = last
			if cmd.Flags().Changed("offset") && trial.Offset < 0 {
				return terminal.Usage(errors.New("--offset is from 0 on"))
			}
			if diff != "" {
				var other sink.Config
				if err := config.Load(diff, &other); err != nil {
					return err
				}
				var err error
				if trial.Other, err = other.Rules(); err != nil {
					return err
				}
			}
			return o.TestRule(ctx, cfg, topic, trial, cmd.OutOrStdout())
		})
	test.Flags().IntVar(&last, "last", 100, "so many records of each partition")
	test.Flags().Int64Var(&trial.Offset, "offset", -1, "begin at this offset instead, and take --last records from there")
	test.Flags().Lookup("offset").DefValue = "0" // not shown
	test.Flags().StringVar(&diff, "diff", "", "only records of which the rules of another configuration, this file, make something else")
	test.Flags().BoolVar(&trial.Values, "values", false, "show keys, and rows before and after; masked columns stay masked")
	return terminal.Group("rules", "What rules do to tables", explain, test, rulesMatch(), rulesAccept(), scaffoldCommand())
}

func rulesAccept() *cobra.Command {
	var c terminal.Change
	cmd := &cobra.Command{
		Use: "accept SOURCE[/TABLE]", Short: "Leave rows as they are that were written under another rule",
		Long: "A rule that is changed is for what is written from then on; sink status tells of tables with rows that are not as it says. This has them\n" +
			"count as they are: sink explain rows-outdated. No row is touched.",
		Example: "  sink rules accept shop/public.orders --reason 'only what comes from now on has to have it'\n  sink rules accept shop --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			source, table, err := subject(args, false)
			if err == nil && source == "" {
				err = terminal.Usage(errors.New("which source? write SOURCE, or SOURCE/TABLE"))
			}
			if err != nil {
				return err
			}
			out := terminal.Of(cmd)
			return operate(cmd, func(o *sink.Operator, _ sink.Config) error {
				names, topics, err := o.Outdated(cmd.Context(), source, table)
				if err != nil {
					return err
				}
				for _, name := range names {
					out.Printf("%s: its rows stay as they are\n", name)
				}
				if len(names) == 0 {
					out.Printf("no rows of %s were written under another rule: nothing to do\n", args[0])
					return nil
				}
				if ok, err := c.Agreed(cmd); err != nil || !ok {
					return err
				}
				return o.AcceptRules(cmd.Context(), topics, args[0], c.Reason)
			})
		},
	}
	c.Flags(cmd, true)
	return cmd
}

func scaffoldCommand() *cobra.Command {
	var source, registry string
	var brokers []string
	cmd := &cobra.Command{
		Use: "scaffold", Short: "Write a first configuration from the topics that there are and what the registry says of them", Args: terminal.NoArgs,
		Long:    "Prints a commented sink.yaml. Where to look, the flags say; or a configuration, if there is one.",
		Example: "  sink rules scaffold --source shop\n  sink rules scaffold --brokers localhost:9092 --registry http://localhost:8081 --source 'tenant_*' > sink.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := sink.Default()
			if len(brokers) == 0 || registry == "" {
				loaded, err := load(cmd)
				if err != nil {
					return fmt.Errorf("%w\nor say where to look: --brokers HOST:PORT --registry URL", err)
				}
				cfg = loaded
			}
			if len(brokers) > 0 {
				cfg.Kafka.Brokers = brokers
			}
			if registry != "" {
				cfg.Registry.URL = registry
			}
			return sink.Scaffold(cmd.Context(), cfg, source, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&source, "source", "*", "name of the source; * and ? stand for any characters")
	cmd.Flags().StringSliceVar(&brokers, "brokers", nil, "addresses of some brokers")
	cmd.Flags().StringVar(&registry, "registry", "", "address of the schema registry")
	return cmd
}

func rulesMatch() *cobra.Command {
	cmd := &cobra.Command{
		Use: "match", Short: "Print which topic meets which rule, and which meets none", Args: terminal.NoArgs,
		Example: "  sink rules match -c sink.yaml\n  sink rules match -c sink.yaml --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return operate(cmd, func(o *sink.Operator, cfg sink.Config) error {
				topics, err := o.MatchRules(cmd.Context(), cfg)
				if err != nil {
					return err
				}
				out := terminal.Of(cmd)
				if out.JSON {
					return out.Document(map[string]any{"schema": "tributary.sink.rules.match/1", "topics": topics})
				}
				t := &terminal.Table{Columns: []terminal.Column{{Title: "source"}, {Title: "table"}, {Title: "rule"}, {Title: "target"}, {Title: "mode"}}, Empty: "there are no topics of the sources"}
				for _, m := range topics {
					rule := m.Rule
					if rule == "" {
						rule = "none"
					}
					t.Rows = append(t.Rows, terminal.Text(m.Source, m.Table, rule, m.Target, m.Mode))
				}
				return out.Table(t)
			})
		},
	}
	terminal.JSON(cmd)
	return cmd
}
