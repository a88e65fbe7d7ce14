// Command capture is service 1: see package capture.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	root.AddCommand(run(load), check(load), status(load), snapshot(load), slot(load), &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		Run: func(cmd *cobra.Command, _ []string) { cmd.Println(service.ThisBuild()) },
	})
	return root
}

func noArgs(cmd *cobra.Command, args []string) error { return service.Usage(cobra.NoArgs(cmd, args)) }

func run(load func() (capture.Config, error)) *cobra.Command {
	var options capture.Options
	cmd := &cobra.Command{
		Use: "run", Short: "Run the service until SIGTERM", Args: noArgs,
		Example: "  capture run -c capture.yaml\n  capture run -c capture.yaml --standby",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			return capture.Serve(cmd.Context(), cfg, options)
		},
	}
	cmd.Flags().StringVar(&options.OnGap, "on-gap", capture.GapStop, "when changes are missing between the topics and the slot: stop, or resnapshot")
	cmd.Flags().BoolVar(&options.Standby, "standby", false, "wait while another instance streams, and take over when it is gone")
	return cmd
}

// quiet gives a capture for a verb: what it has to say goes to standard output, and only what is wrong into the log.
func quiet(load func() (capture.Config, error)) (*capture.Capture, error) {
	cfg, err := load()
	if err != nil {
		return nil, err
	}
	return capture.New(cfg, capture.Options{}, service.Log(cfg.Log))
}

func status(load func() (capture.Config, error)) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Print how the capture of the source is doing, also while the service is down", Args: noArgs,
		Example: "  capture status -c capture.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := quiet(load)
			if err != nil {
				return err
			}
			report, err := c.Ask(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				encoder := json.NewEncoder(os.Stdout)
				encoder.SetIndent("", "  ")
				err = encoder.Encode(report)
			} else {
				report.Print(os.Stdout)
			}
			if err == nil && !report.Healthy() {
				err = fmt.Errorf("source %q is not captured as it should be", report.Source)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

func snapshot(load func() (capture.Config, error)) *cobra.Command {
	var request capture.SnapshotRequest
	var wait bool
	cmd := &cobra.Command{
		Use: "snapshot", Short: "Ask the capture to read tables again while it streams", Args: noArgs,
		Example: "  capture snapshot -c capture.yaml --table public.orders --wait",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := quiet(load)
			if err != nil {
				return err
			}
			return c.RequestSnapshot(cmd.Context(), request, wait, os.Stdout)
		},
	}
	cmd.Flags().StringArrayVar(&request.Tables, "table", nil, "table as schema.table, with * and ? as wildcards; may be given several times")
	cmd.Flags().StringVar(&request.Where, "where", "", "read only rows that fit this condition in SQL (snapshot.conditions must be true)")
	cmd.Flags().StringSliceVar(&request.Columns, "columns", nil, "read only these columns, and the key: what a rule of the sink has taken up since (a,b)")
	cmd.Flags().BoolVar(&request.Reload, "reload", false, "publish a truncate first, so that rows that are gone at the source go downstream too")
	cmd.Flags().BoolVar(&wait, "wait", false, "return when the rows are published")
	return cmd
}

func slot(load func() (capture.Config, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "slot", Short: "What the capture keeps at the source", Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	var yes bool
	drop := &cobra.Command{
		Use: "drop", Short: "Remove the slot and the publications; what is not published then never will be", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := quiet(load)
			if err != nil {
				return err
			}
			if !yes {
				if err := c.ShowSlot(cmd.Context(), os.Stdout); err != nil {
					return err
				}
				return service.Usage(errors.New("nothing was changed; to drop all of this, add --yes"))
			}
			return c.DropSlot(cmd.Context(), os.Stdout)
		},
	}
	drop.Flags().BoolVar(&yes, "yes", false, "do it")
	cmd.AddCommand(drop, &cobra.Command{
		Use: "show", Short: "Print the slot and the publications", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := quiet(load)
			if err != nil {
				return err
			}
			return c.ShowSlot(cmd.Context(), os.Stdout)
		},
	})
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
