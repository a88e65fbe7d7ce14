package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func pauseCommand() *cobra.Command {
	var change terminal.Change
	var lasts time.Duration
	cmd := &cobra.Command{
		Use: "pause", Short: "Hold all publishing of the source; it keeps its WAL meanwhile", Args: terminal.NoArgs,
		Long: "Writes at the source, as a comment of the publication, that nothing is to be published. The capture that runs, or the next one,\n" +
			"stands still between two transactions, and stays alive. It goes on after capture resume; after --for; and in any case before\n" +
			"the WAL that the source keeps reaches source.wal_budget, or what the server allows: at four fifths of it.",
		Example: "  capture pause --reason 'Kafka is moved' --for 30m --plan\n  capture pause --reason 'Kafka is moved' --for 30m --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lasts < 0 {
				return terminal.Usagef("--for is a time from 0s on")
			}
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			q := capture.PauseRequest{For: lasts, Reason: change.Reason}
			out := terminal.Of(cmd)
			if err := c.PlanPause(cmd.Context(), q, out.Out); err != nil {
				return err
			}
			if ok, err := change.Agreed(cmd); err != nil || !ok {
				return err
			}
			if err := c.Pause(cmd.Context(), q); err != nil {
				return err
			}
			out.Printf("paused; capture stands still within a few seconds\n")
			return nil
		},
	}
	change.Flags(cmd, true)
	cmd.Flags().DurationVar(&lasts, "for", 0, "end by itself after this time")
	return cmd
}

func resumeCommand() *cobra.Command {
	var change terminal.Change
	cmd := &cobra.Command{
		Use: "resume", Short: "End a pause: publish what the source has kept, and what comes", Args: terminal.NoArgs,
		Example: "  capture resume --plan\n  capture resume -c capture.yaml --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := quiet(cmd)
			if err != nil {
				return err
			}
			paused, err := c.Paused(cmd.Context())
			if err != nil {
				return err
			}
			out := terminal.Of(cmd)
			if paused == nil { // what was asked for is so
				out.Printf("nothing to resume: it is not paused (capture status)\n")
				return nil
			}
			out.Printf("paused by %s since %s goes on\n", paused.By, paused.Since.Format(time.RFC3339))
			if ok, err := change.Agreed(cmd); err != nil || !ok {
				return err
			}
			if err := c.Resume(cmd.Context()); err != nil {
				return err
			}
			out.Printf("resumed; capture goes on within a few seconds\n")
			return nil
		},
	}
	change.Flags(cmd, false)
	return cmd
}
