// Command capture is service 1: see package capture.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
)

func main() {
	os.Exit(service.Main("capture", func(ctx context.Context) error {
		return command().ExecuteContext(ctx)
	}))
}

func command() *cobra.Command {
	var file string
	root := &cobra.Command{
		Use:           "capture",
		Short:         "Publish every change of a PostgreSQL database to Kafka, exactly once",
		SilenceErrors: true, SilenceUsage: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return service.Usage(err) })
	root.PersistentFlags().StringVarP(&file, "config", "c", "capture.yaml", "configuration file")
	load := func() (capture.Config, error) {
		var cfg capture.Config
		err := config.Load(file, &cfg)
		return cfg, err
	}
	root.AddCommand(run(load), check(load), &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		Run: func(cmd *cobra.Command, _ []string) { cmd.Println(service.ThisBuild()) },
	})
	return root
}

func noArgs(cmd *cobra.Command, args []string) error { return service.Usage(cobra.NoArgs(cmd, args)) }

func run(load func() (capture.Config, error)) *cobra.Command {
	var onGap string
	cmd := &cobra.Command{
		Use: "run", Short: "Run the service until SIGTERM", Args: noArgs,
		Example: "  capture run -c capture.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			return capture.Serve(cmd.Context(), cfg, capture.Options{OnGap: onGap})
		},
	}
	cmd.Flags().StringVar(&onGap, "on-gap", capture.GapStop, "when changes are missing between the topics and the slot: stop, or resnapshot")
	return cmd
}

func check(load func() (capture.Config, error)) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Print whether the source, its tables and Kafka are ready; change nothing", Args: noArgs,
		Example: "  capture check -c capture.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			c, err := capture.New(cfg, capture.Options{}, service.Log(cfg.Log))
			if err != nil {
				return err
			}
			return c.Check(cmd.Context(), os.Stdout)
		},
	}
}
