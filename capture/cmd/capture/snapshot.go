package main

import (
	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func snapshotCommand() *cobra.Command {
	var request capture.SnapshotRequest
	var wait bool
	cmd := &cobra.Command{
		Use: "snapshot", Short: "Ask the capture to read tables again while it streams", Args: terminal.NoArgs,
		Example: "  capture snapshot -c capture.yaml --table public.orders --wait\n  capture snapshot -c capture.yaml --table 'public.*' --reload",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			return c.RequestSnapshot(cmd.Context(), request, wait, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringArrayVar(&request.Tables, "table", nil, "table as schema.table, with * and ? as wildcards; may be given several times")
	cmd.Flags().StringVar(&request.Where, "where", "", "read only rows that fit this condition in SQL (snapshot.conditions must be true)")
	cmd.Flags().StringSliceVar(&request.Columns, "columns", nil, "read only these columns, and the key: what a rule of the sink has taken up since (a,b)")
	cmd.Flags().BoolVar(&request.Reload, "reload", false, "publish a truncate first, so that rows that are gone at the source go downstream too")
	cmd.Flags().BoolVar(&wait, "wait", false, "return when the rows are published")
	return cmd
}
