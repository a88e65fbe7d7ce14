package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

func retentionCommand() *cobra.Command {
	return terminal.Group("retention", "Rows that are older than their rule's keep: plan, run", retentionVerb("plan", "How many rows are too old now, for each rule with keep; change nothing", func(cmd *cobra.Command, o *sink.Operator, _ sink.Config) error {
		t := &terminal.Table{Columns: []terminal.Column{{Title: "target"}, {Title: "topic"}, {Title: "keep"}, {Title: "before"}, {Title: "rows too old", Number: true}}}
		var partitions []warehouse.TablePartition
		if err := o.RetentionPlan(cmd.Context(), func(k warehouse.Keep, e warehouse.Expired) {
			t.Rows = append(t.Rows, terminal.Text(fmt.Sprint(k.Target), k.Topic, fmt.Sprintf("%s by %s", k.Age, k.By), e.Cutoff.UTC().Format(time.RFC3339), fmt.Sprint(e.Removed)))
		}, func(p warehouse.TablePartition) { partitions = append(partitions, p) }); err != nil {
			return err
		}
		if err := terminal.Of(cmd).Table(t); err != nil {
			return err
		}
		for _, p := range partitions {
			terminal.Of(cmd).Printf("%s: partition %s with %s would be %s\n", p.Target, p.Name, service.Plural(p.Rows, "row"), p.Deed)
		}
		return nil
	}), retentionVerb("run", "Remove what is too old now, at the rate of the configuration, and wait for it", func(cmd *cobra.Command, o *sink.Operator, cfg sink.Config) error {
		return o.RunRetention(cmd.Context(), cfg.Retention.Rate, func(k warehouse.Keep, removed int64) {
			terminal.Of(cmd).Printf("%s: %s of %s removed\n", k.Target, service.Plural(removed, "row"), k.Topic)
		}, func(p warehouse.TablePartition) {
			terminal.Of(cmd).Printf("%s: partition %s with %s %s\n", p.Target, p.Name, service.Plural(p.Rows, "row"), p.Deed)
		})
	}))
}

func retentionVerb(name, short string, do func(*cobra.Command, *sink.Operator, sink.Config) error) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Example: "  sink retention " + name + "\n  sink retention " + name + " -c sink.yaml", Args: terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return operate(cmd, func(o *sink.Operator, cfg sink.Config) error { return do(cmd, o, cfg) })
		},
	}
}
