package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func snapshotCommand() *cobra.Command {
	var request capture.SnapshotRequest
	var change terminal.Change
	var wait bool
	cmd := &cobra.Command{
		Use: "snapshot", Short: "Ask the capture to read tables again while it streams", Args: terminal.NoArgs,
		Long: "Writes the request into the source's WAL, where the capture that runs, or the next one, finds it. The stream goes on meanwhile.\n" +
			"With --reload the tables are void downstream first, so it asks before, and wants --yes where nobody can be asked.",
		Example: "  capture snapshot -c capture.yaml --table public.orders --rate 5000 --wait\n  capture snapshot -c capture.yaml --table 'public.*' --reload --plan",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(request.Tables) == 0 {
				return whichTable()
			}
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			out := terminal.Of(cmd)
			if change.Plan || request.Reload && !change.Yes {
				if err := c.PlanSnapshot(cmd.Context(), request, out.Out); err != nil {
					return err
				}
				if ok, err := change.Agreed(cmd); err != nil || !ok {
					return err
				}
			}
			return c.RequestSnapshot(cmd.Context(), request, wait, out)
		},
	}
	cmd.Flags().StringArrayVar(&request.Tables, "table", nil, "table as schema.table, with * and ? as wildcards; may be given several times")
	cmd.Flags().StringVar(&request.Where, "where", "", "read only rows that fit this condition in SQL (snapshot.conditions must be true)")
	cmd.Flags().StringSliceVar(&request.Columns, "columns", nil, "read only these columns, and the key: what a rule of the sink has taken up since (a,b)")
	cmd.Flags().Int64Var(&request.Rate, "rate", 0, "rows a second that are read of each table at most; 0: as many as it can")
	cmd.Flags().BoolVar(&request.Reload, "reload", false, "publish a truncate first, so that rows that are gone at the source go downstream too")
	cmd.Flags().BoolVar(&wait, "wait", false, "return when the rows are published; exit code 1 if they will not be: the read is cancelled or refused, or a table is gone")
	change.Flags(cmd, false)
	cmd.AddCommand(snapshotList(), snapshotCancel())
	return cmd
}

func whichTable() error {
	return terminal.Usagef("which tables? --table public.orders, or --table 'public.*' for all of a schema")
}

func snapshotCancel() *cobra.Command {
	request := capture.SnapshotRequest{Cancel: true}
	var change terminal.Change
	cmd := &cobra.Command{
		Use: "cancel", Short: "Give up reading tables again; rows that are published stay", Args: terminal.NoArgs,
		Long: "Writes the request into the source's WAL, as capture snapshot does. The first read of a table, one that began with a truncate, and\n" +
			"what capture reads by itself, as a partition was attached, say, are not given up: rows would be missing downstream. capture pause holds them.",
		Example: "  capture snapshot cancel --table public.orders --plan\n  capture snapshot cancel --table 'public.*' --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(request.Tables) == 0 {
				return whichTable()
			}
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			out := terminal.Of(cmd)
			if err := c.PlanSnapshot(cmd.Context(), request, out.Out); err != nil {
				return err
			}
			if ok, err := change.Agreed(cmd); err != nil || !ok {
				return err
			}
			return c.RequestSnapshot(cmd.Context(), request, false, out)
		},
	}
	cmd.Flags().StringArrayVar(&request.Tables, "table", nil, "table as schema.table, with * and ? as wildcards; may be given several times")
	change.Flags(cmd, false)
	return cmd
}

func snapshotList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "Print the tables whose rows are being read", Args: terminal.NoArgs,
		Example: "  capture snapshot list\n  capture snapshot list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			r, err := c.Ask(cmd.Context(), service.Whom{})
			if err != nil {
				return err
			}
			list := r.Reading()
			out := terminal.Of(cmd)
			if out.JSON {
				return out.Document(map[string]any{"schema": "tributary.capture.snapshots/1", "snapshot": r.Snapshot, "tables": list})
			}
			t := &terminal.Table{Empty: "no table is being read", Columns: []terminal.Column{
				{Title: "table"},
				{Title: "state"},
				{Title: "rows sent", Number: true},
				{Title: "of about", Number: true},
				{Title: "rows/s", Number: true},
				{Title: "left"},
				{Title: "read again", Number: true, Wide: true},
				{Title: "asked by", Wide: true},
			}}
			for _, one := range list {
				of := terminal.Number("–", "")
				if one.RowsExpected != nil {
					of = terminal.Number(service.FormatCount(*one.RowsExpected), *one.RowsExpected)
				}
				left := terminal.Cell{Text: "–"}
				if one.ETASeconds != nil {
					left = terminal.Number(service.FormatLeft(time.Duration(*one.ETASeconds*float64(time.Second))), *one.ETASeconds)
				}
				t.Rows = append(t.Rows, []terminal.Cell{
					{Text: one.Table},
					{Text: one.State},
					terminal.Number(service.FormatCount(one.Rows), one.Rows),
					of,
					terminal.Number(service.FormatRate(one.RowsPerSecond), one.RowsPerSecond),
					left,
					terminal.Number(service.FormatCount(int64(one.Rereads)), one.Rereads),
					{Text: one.By},
				})
			}
			return out.Table(t)
		},
	}
	terminal.JSON(cmd)
	return cmd
}
