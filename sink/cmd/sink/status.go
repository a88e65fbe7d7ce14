package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink"
)

func statusCommand() *cobra.Command {
	var look terminal.Look
	var source string
	cmd := &cobra.Command{
		Use: "status", Short: "Print how the group does; asks the sink on this host, else the warehouse", Args: terminal.NoArgs,
		Long: "Asks the sink on this host; where none answers, the warehouse. The first line is a sentence; what is in trouble comes first,\n" +
			"what is well is counted. In a pipe the tables alone are on standard output, all of them, separated by tabs and with raw numbers: first the\n" +
			"sources, then, behind an empty line, the tables; with --table the tables alone. The sentence, facts and troubles are on standard error,\n" +
			"and with -q nowhere.",
		Example: "  sink status -c sink.yaml --all\n  sink status -c sink.yaml --source shop\n  sink status -c sink.yaml --wait caught-up --timeout 5m",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return operate(cmd, func(o *sink.Operator, cfg sink.Config) error {
				return look.Run(cmd, func(ctx context.Context) (terminal.Status, error) {
					r, err := o.Ask(ctx, cfg, look.Whom)
					if err != nil {
						return nil, err
					}
					return r.Of(source), nil
				}, func(name string) (terminal.Missing, error) { return o.Until(cmd.Context(), cfg, name, source) })
			})
		},
	}
	look.Flags(cmd, "caught-up (all that Kafka holds now is applied) or complete=LSN")
	cmd.Flags().StringVar(&source, "source", "", "only this source")
	return cmd
}

func word(state string) string { return service.Look(state).Word }
