package main

import (
	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Print how the capture of the source is doing, also while the service is down", Args: terminal.NoArgs,
		Example: "  capture status -c capture.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			report, err := c.Ask(cmd.Context())
			if err != nil {
				return err
			}
			if out := terminal.Of(cmd); out.JSON {
				err = out.Document(report)
			} else {
				report.Print(out.Out)
			}
			if err == nil && !report.Healthy() {
				err = terminal.ErrSaid
			}
			return err
		},
	}
	terminal.JSON(cmd)
	return cmd
}
