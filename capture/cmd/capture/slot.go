package main

import (
	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func slotCommand() *cobra.Command {
	return terminal.Group("slot", "What the capture keeps at the source: show it, drop it", slotShow(), slotDrop())
}

func slotShow() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Print the slot and the publications", Args: terminal.NoArgs,
		Example: "  capture slot show\n  capture slot show -c capture.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			return c.ShowSlot(cmd.Context(), cmd.OutOrStdout())
		},
	}
}

func slotDrop() *cobra.Command {
	var change terminal.Change
	cmd := &cobra.Command{
		Use: "drop", Short: "Remove the slot and the publications; what is not published then never will be", Args: terminal.NoArgs,
		Example: "  capture slot drop -c capture.yaml --plan\n  capture slot drop -c capture.yaml --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			if !change.Yes {
				if err := c.ShowSlot(cmd.Context(), cmd.OutOrStdout()); err != nil {
					return err
				}
			}
			if ok, err := change.Agreed(cmd); err != nil || !ok {
				return err
			}
			return c.DropSlot(cmd.Context(), cmd.OutOrStdout())
		},
	}
	change.Flags(cmd, false)
	return cmd
}
