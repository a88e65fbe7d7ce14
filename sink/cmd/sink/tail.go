package main

import (
	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink"
)

func tailCommand() *cobra.Command {
	var look terminal.Tail
	cmd := &cobra.Command{
		Use: "tail [SOURCE[/TABLE]]...", Short: "Print what comes to Kafka and what the rules make of it, a line a change, until Ctrl-C",
		Long: "Reads the topics that rules write, all of them or those that are named, and prints a line a change: when it was committed, its\n" +
			"position, what was done, the source's table and key, the target, what becomes of it there, the target's columns. Values are only\n" +
			"printed where they are asked for, and those of masked columns stay masked. Nothing is written, and no sink is disturbed.",
		Example: "  sink tail\n  sink tail shop/public.orders 'tenant_*' --last 20 --op insert,delete",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := look.Check(); err != nil {
				return err
			}
			out := terminal.Of(cmd)
			return operate(cmd, func(o *sink.Operator, cfg sink.Config) error {
				return o.Tail(cmd.Context(), cfg, args, look.Last, look.Values, func(topics int) { look.Ready(out, topics) }, func(t *sink.Tailed) error {
					return look.Print(out, t.At, t.Position, t.Op, t, t.Source+"/"+t.Table, look.Columns(t.Key), t.Target, t.Result, look.Columns(t.Columns))
				})
			})
		},
	}
	look.Flags(cmd)
	return cmd
}
