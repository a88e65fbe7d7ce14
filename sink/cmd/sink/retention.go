package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

func retentionCommand(load loader) *cobra.Command {
	cmd := &cobra.Command{
		Use: "retention", Short: "Rows that are older than their rule's keep: plan, run",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return service.Usage(fmt.Errorf("unknown verb %q", args[0]))
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(retentionVerb(load, "plan", "How many rows are too old now, for each rule with keep; change nothing", func(cmd *cobra.Command, o *sink.Operator, _ sink.Config) error {
		w, flush := columns(cmd.OutOrStdout())
		_, _ = fmt.Fprintln(w, "TARGET\tTOPIC\tKEEP\tBEFORE\tROWS TOO OLD")
		var partitions []warehouse.OldPartition
		if err := o.RetentionPlan(cmd.Context(), func(k warehouse.Keep, e warehouse.Expired) {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s by %s\t%s\t%d\n", k.Target, k.Topic, k.Age, k.By, e.Cutoff.UTC().Format(time.RFC3339), e.Removed)
		}, func(p warehouse.OldPartition) { partitions = append(partitions, p) }); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
		for _, p := range partitions {
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s: partition %s with %d rows would be %s\n", p.Target, p.Name, p.Rows, p.Done())
		}
		return nil
	}), retentionVerb(load, "run", "Remove what is too old now, at the rate of the configuration, and wait for it", func(cmd *cobra.Command, o *sink.Operator, cfg sink.Config) error {
		return o.RunRetention(cmd.Context(), cfg.Retention.Rate, func(k warehouse.Keep, removed int64) {
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d rows of %s removed\n", k.Target, removed, k.Topic)
		}, func(p warehouse.OldPartition) {
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s: partition %s with %d rows %s\n", p.Target, p.Name, p.Rows, p.Done())
		})
	}))
	return cmd
}

func retentionVerb(load loader, name, short string, do func(*cobra.Command, *sink.Operator, sink.Config) error) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Example: "  sink retention " + name + " -c sink.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return service.Usage(fmt.Errorf("unexpected argument %q", args[0]))
			}
			return operate(cmd, load, func(o *sink.Operator, cfg sink.Config) error { return do(cmd, o, cfg) })
		},
	}
}
