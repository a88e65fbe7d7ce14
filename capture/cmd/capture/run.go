package main

import (
	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func runCommand() *cobra.Command {
	var options capture.Options
	cmd := &cobra.Command{
		Use: "run", Short: "Run the service until SIGTERM", Args: terminal.NoArgs,
		Example: "  capture run -c capture.yaml\n  capture run -c capture.yaml --standby",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(cmd)
			if err != nil {
				return err
			}
			return serve(cmd, cfg, options)
		},
	}
	cmd.Flags().StringVar(&options.OnGap, "on-gap", capture.GapStop, "when changes are missing between the topics and the slot: stop, or resnapshot")
	cmd.Flags().BoolVar(&options.Standby, "standby", false, "wait while another instance streams, and take over when it is gone")
	return cmd
}

// serve runs the service. Who reads its log as text sees how far snapshots are, too.
func serve(cmd *cobra.Command, cfg capture.Config, options capture.Options) error {
	if cfg.Log.Format != "text" {
		return capture.Serve(cmd.Context(), cfg, options, service.Log(cfg.Log), nil)
	}
	bars := terminal.NewBars(terminal.Of(cmd))
	return capture.Serve(cmd.Context(), cfg, options, service.LogTo(bars, cfg.Log), bars)
}
