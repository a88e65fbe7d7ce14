// Command sink keeps a warehouse equal to its sources. See package sink.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
)

func main() {
	os.Exit(service.Main("sink", func(ctx context.Context) error { return command().ExecuteContext(ctx) }))
}

func command() *cobra.Command {
	var file string
	load := func() (cfg sink.Config, err error) {
		if file == "" {
			file = defaultFile()
		}
		return cfg, config.Load(file, &cfg)
	}
	root := &cobra.Command{
		Use:           "sink",
		Short:         "Keeps a warehouse equal to its sources",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return service.Usage(err) })
	root.PersistentFlags().StringVarP(&file, "config", "c", "", "configuration (else TRIBUTARY_CONFIG, ./sink.yaml, /etc/tributary/sink.yaml)")
	noArgs := func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return service.Usage(fmt.Errorf("unexpected argument %q", args[0]))
		}
		return nil
	}
	root.AddCommand(
		statusCommand(load), pauseCommand(load), resumeCommand(load), parkedCommand(load), tenantCommand(load), retentionCommand(load), rulesCommand(load),
		&cobra.Command{
			Use: "run", Short: "Run the service until SIGTERM", Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg, err := load()
				if err != nil {
					return err
				}
				return sink.Run(cmd.Context(), cfg)
			},
		},
		&cobra.Command{
			Use: "check", Short: "Check warehouse, Kafka, registry and rules; change nothing", Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg, err := load()
				if err != nil {
					return err
				}
				failures, err := sink.Check(cmd.Context(), cfg, cmd.OutOrStdout())
				if err == nil && failures > 0 {
					err = fmt.Errorf("sink is not ready: %d of the checks failed", failures)
				}
				return err
			},
		},
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				b := service.ThisBuild()
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "sink %s %s %s\n", b.Version, b.Revision, b.GoVersion)
				return err
			},
		},
	)
	return root
}

// defaultFile gives the first configuration that is there; the first place of all if none is, so that its absence is
// what the error tells.
func defaultFile() string {
	if file := os.Getenv("TRIBUTARY_CONFIG"); file != "" {
		return file
	}
	for _, file := range []string{"sink.yaml", "/etc/tributary/sink.yaml"} {
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return "sink.yaml"
}
