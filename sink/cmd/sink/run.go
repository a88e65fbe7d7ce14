package main

import (
	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink"
)

func runCommand() *cobra.Command {
	return &cobra.Command{
		Use: "run", Short: "Run the service until SIGTERM", Args: terminal.NoArgs,
		Example: "  sink run\n  sink run -c sink.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(cmd)
			if err != nil {
				return err
			}
			return sink.Run(cmd.Context(), cfg)
		},
	}
}
