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
	plan := retentionVerb("plan", "How many rows are too old now, for each rule with keep; change nothing", func(cmd *cobra.Command, o *sink.Operator, _ sink.Config) error {
		rules, partitions := []expiring{}, []changing{}
		if err := o.RetentionPlan(cmd.Context(), func(k warehouse.Keep, e warehouse.Expired) {
			rules = append(rules, expiring{fmt.Sprint(k.Target), k.Topic, string(k.Age), k.By, e.Cutoff.UTC(), e.Removed})
		}, func(p warehouse.TablePartition) {
			partitions = append(partitions, changing{fmt.Sprint(p.Target), fmt.Sprint(p.Name), p.Rows, string(p.Deed)})
		}); err != nil {
			return err
		}
		out := terminal.Of(cmd)
		if out.JSON {
			return out.Document(map[string]any{"schema": "tributary.sink.retention/1", "rules": rules, "partitions": partitions})
		}
		return showPlan(out, rules, partitions)
	})
	terminal.JSON(plan)
	run := retentionVerb("run", "Remove what is too old now, at the rate of the configuration, and wait for it", func(cmd *cobra.Command, o *sink.Operator, cfg sink.Config) error {
		out, told := terminal.Of(cmd), false
		err := o.RunRetention(cmd.Context(), cfg.Retention.Rate, func(k warehouse.Keep, removed int64) {
			told = true
			out.Printf("%s: %s of %s removed\n", k.Target, service.Plural(removed, "row"), k.Topic)
		}, func(p warehouse.TablePartition) {
			told = true
			out.Printf("%s: partition %s with %s %s\n", p.Target, p.Name, service.Plural(p.Rows, "row"), p.Deed)
		})
		if err == nil && !told {
			out.Note("%s\n", nothingKept)
		}
		return err
	})
	return terminal.Group("retention", "Rows that are older than their rule's keep: plan, run", plan, run)
}

// nothingKept is said where retention has nothing to look at.
const nothingKept = "no rule with keep has written a table yet"

// expiring is what is too old of what a rule writes.
type expiring struct {
	Target string    `json:"target"`
	Topic  string    `json:"topic"`
	Keep   string    `json:"keep"`
	By     string    `json:"by"` // column of the target
	Before time.Time `json:"before"`
	Rows   int64     `json:"rows_too_old"`
}

// changing is a partition that would be made, set aside or removed.
type changing struct {
	Target    string `json:"target"`
	Partition string `json:"partition"`
	Rows      int64  `json:"rows"`
	Deed      string `json:"deed"`
}

func showPlan(out *terminal.Output, rules []expiring, partitions []changing) error {
	t := &terminal.Table{
		Columns: []terminal.Column{{Title: "target"}, {Title: "topic"}, {Title: "keep", Wraps: true}, {Title: "before"}, {Title: "rows too old", Number: true}},
		Empty:   nothingKept,
	}
	for _, r := range rules {
		t.Rows = append(t.Rows, terminal.Text(r.Target, r.Topic, r.Keep+" by "+r.By, r.Before.Format(time.RFC3339), fmt.Sprint(r.Rows)))
	}
	if len(partitions) > 0 {
		t.Empty = "" // there is a rule: it only makes partitions
	}
	if err := out.Table(t); err != nil {
		return err
	}
	for _, p := range partitions {
		out.Printf("%s: partition %s with %s would be %s\n", p.Target, p.Partition, service.Plural(p.Rows, "row"), p.Deed)
	}
	return nil
}

func retentionVerb(name, short string, do func(*cobra.Command, *sink.Operator, sink.Config) error) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Example: "  sink retention " + name + "\n  sink retention " + name + " -c sink.yaml", Args: terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return operate(cmd, func(o *sink.Operator, cfg sink.Config) error { return do(cmd, o, cfg) })
		},
	}
}
