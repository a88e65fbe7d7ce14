package main

import (
	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func tailCommand() *cobra.Command {
	var look terminal.Tail
	cmd := &cobra.Command{
		Use: "tail [TABLE]...", Short: "Print what is published, a line a change, until Ctrl-C",
		Long:    "Reads the topics of the source, all of them or those of the tables named, and prints a line a change: when it was committed, its\nposition, what was done, the key, the columns. Values are only printed where they are asked for. It disturbs nobody.",
		Example: "  capture tail\n  capture tail public.orders 'public.order_*' --last 20 --op insert,delete",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := look.Check(); err != nil {
				return err
			}
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			out := terminal.Of(cmd)
			return c.Tail(cmd.Context(), args, look.Last, look.Values, func(topics int) { look.Ready(out, topics) }, func(t *capture.Tailed) error {
				return look.Print(out, t.At, t.Position, t.Op, t, t.Table, look.Columns(t.Key), look.Columns(t.Columns))
			})
		},
	}
	look.Flags(cmd)
	return cmd
}
