package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func statusCommand() *cobra.Command {
	var look terminal.Look
	cmd := &cobra.Command{
		Use: "status", Short: "Print how the capture of the source is doing, also while the service is down", Args: terminal.NoArgs,
		Long: "Asks the service on this host; where none answers, the source's catalog and the progress topic. The first line is a sentence;\n" +
			"what is in trouble comes first, what is well is counted. In a pipe the table alone is on standard output, all of it, separated by tabs and\n" +
			"with raw numbers; the sentence, facts and troubles are on standard error, and with -q nowhere.",
		Example: "  capture status -c capture.yaml --all\n  capture status -c capture.yaml --wait snapshot-done --timeout 1h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			return look.Run(cmd, func(ctx context.Context) (terminal.Status, error) {
				r, err := c.Ask(ctx, look.Whom)
				if err != nil {
					return nil, err
				}
				return r, nil
			}, capture.Until)
		},
	}
	look.Flags(cmd, "caught-up or snapshot-done")
	return cmd
}
