package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func tailCommand() *cobra.Command {
	var last int64
	var values bool
	var ops []string
	cmd := &cobra.Command{
		Use: "tail [TABLE]...", Short: "Print what is published, a line a change, until Ctrl-C",
		Long:    "Reads the topics of the source, all of them or those of the tables named, and prints a line a change: when it was committed, its\nposition, what was done, the key, the columns. Values are only printed where they are asked for. It disturbs nobody.",
		Example: "  capture tail\n  capture tail public.orders 'public.order_*' --last 20 --op insert,delete",
		RunE: func(cmd *cobra.Command, args []string) error {
			if last < 0 {
				return terminal.Usagef("--last is a number from 0 on")
			}
			known := []string{"insert", "update", "delete", "truncate", "read"}
			for _, op := range ops {
				if !slices.Contains(known, op) {
					return terminal.Usagef("--op is %q%s; write insert, update, delete, truncate or read", op, terminal.Meant(op, known))
				}
			}
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			out := terminal.Of(cmd)
			return c.Tail(cmd.Context(), args, last, values, func(topics int) {
				hint := ""
				if !values {
					hint = "; values: --values"
				}
				out.Note("Ready. Reading %d topics (Ctrl-C ends%s)\n", topics, hint)
			}, func(t *capture.Tailed) error {
				if len(ops) > 0 && !slices.Contains(ops, t.Op) {
					return nil
				}
				if out.JSON {
					return out.Line(t)
				}
				separator := "  "
				if !out.Terminal {
					separator = "\t"
				}
				fields := []string{t.At.Local().Format("15:04:05.000"), t.Position, fmt.Sprintf("%-8s", t.Op), t.Table, told(t.Key, values), told(t.Columns, values)}
				for i := range fields {
					fields[i] = terminal.Clean(fields[i])
				}
				_, err := fmt.Fprintln(out.Out, strings.TrimRight(strings.Join(fields, separator), " \t"))
				return err
			})
		},
	}
	terminal.JSON(cmd)
	cmd.Flags().Int64Var(&last, "last", 0, "begin so many offsets before the end of each partition")
	cmd.Flags().BoolVar(&values, "values", false, "with the values of the columns")
	cmd.Flags().StringSliceVar(&ops, "op", nil, "only these operations: insert, update, delete, truncate, read")
	return cmd
}

// told names columns, with their values where these are wanted; many without values are only counted.
func told(columns []capture.TailedColumn, values bool) string {
	const most = 4
	if !values && len(columns) > most {
		return fmt.Sprintf("%d columns", len(columns))
	}
	parts := make([]string, len(columns))
	for i, c := range columns {
		parts[i] = c.Name
		switch {
		case c.Unchanged:
			parts[i] += " not sent again"
		case values && c.Value == nil:
			parts[i] += "=null"
		case values:
			parts[i] += fmt.Sprintf("=%q", *c.Value)
		}
	}
	return strings.Join(parts, ", ")
}
