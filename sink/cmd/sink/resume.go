package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// resuming is what sink resume is asked for.
type resuming struct {
	going   warehouse.Going
	args    []string
	what    string // becomes of a record that holds a table
	removed bool   // it is a tenant that was removed
	wait    bool
	timeout time.Duration
}

func resumeCommand() *cobra.Command {
	var c terminal.Change
	var r resuming
	var park bool
	skip := int64(-1)
	cmd := &cobra.Command{
		Use: "resume [SOURCE[/TABLE]]", Short: "End a pause, and have quarantined tables tried again",
		Long: "Ends the pause of exactly what is named, and has the tables of it that are held tried again. A record that cannot be written is put\n" +
			"aside (--park), or passed over (--skip), which names its offset: no other is. Who did it, when, why, and to which record of which\n" +
			"topic, tributary.operation keeps; Kafka keeps the record. A sink of the group does it within a second or two: --wait says what came of it.",
		Annotations: map[string]string{terminal.Exits: "  0  done; with --wait, all that was held is past the record that it was held at, and what was removed is there again\n  1  failed; with --wait also: a table is held again, rows of what was removed are parked, or --timeout is over\n" +
			"  2  used wrongly: flag, argument or configuration; nothing was attempted"},
		Example: "  sink resume shop/public.orders --yes --wait\n  sink resume shop/public.orders --park --plan\n  sink resume shop/public.orders --skip 88120 --reason 'test data' --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			skips := cmd.Flags().Changed("skip")
			source, table, err := subject(args, park || skips)
			if err != nil {
				return err
			}
			r.args, r.going, r.what = args, warehouse.Going{Source: source, Table: table, Reason: c.Reason}, "is tried again"
			switch {
			case park && skips:
				return terminal.Usage(errors.New("either --park or --skip"))
			case park:
				r.going.Remedy, r.what = warehouse.Park, "is put aside with all that follows of its key, and the table goes on"
			case skips && skip < 0:
				return terminal.Usage(errors.New("--skip is an offset, from 0 on (sink status)"))
			case skips:
				r.going.Remedy, r.going.Offset, r.what = warehouse.Skip, skip, "is passed over: its change is lost, and the table goes on"
			}
			return operate(cmd, func(o *sink.Operator, cfg sink.Config) error {
				if found, err := r.find(cmd, o); err != nil || !found {
					return err
				}
				if ok, err := c.Agreed(cmd); err != nil || !ok {
					return err
				}
				return r.do(cmd, o, cfg)
			})
		},
	}
	c.Flags(cmd, true)
	cmd.Flags().BoolVar(&park, "park", false, "put the record aside that the table is held at")
	cmd.Flags().Int64Var(&skip, "skip", -1, "pass over the record at this offset, if the table is held at it; its change is lost")
	cmd.Flags().Lookup("skip").DefValue = "0" // not shown
	cmd.Flags().BoolVar(&r.wait, "wait", false, "return when what was held is past the record that it was held at, and what was removed is there again")
	cmd.Flags().DurationVar(&r.timeout, "timeout", 0, "with --wait: give up after this time, with exit code 1; what was asked for stays so; 0s: never")
	return cmd
}

// find tells what there is to resume, and says whether there is anything.
func (r *resuming) find(cmd *cobra.Command, o *sink.Operator) (found bool, err error) {
	source, table := r.going.Source, r.going.Table
	pauses, err := o.Pauses(cmd.Context())
	if err != nil {
		return false, err
	}
	held, err := o.Quarantines(cmd.Context(), warehouse.Going{Source: source, Table: table})
	if err != nil {
		return false, err
	}
	out := terminal.Of(cmd)
	for _, p := range pauses {
		if p.Source == source && p.Table == table {
			found = true
			was := "paused since %s goes on"
			if r.removed = p.Removed; r.removed {
				was = "removed since %s is read again, from the beginning of its topics"
			}
			out.Printf("%s: "+was+"\n", p.Subject(), p.Since.Format(time.RFC3339))
		}
	}
	quarantines := slices.DeleteFunc(slices.Clone(held), func(q warehouse.Quarantine) bool { return !r.going.Takes(&q) })
	for _, q := range quarantines {
		found = true
		out.Printf("%s: offset %d %s\n  error  %s\n", q.Part(), q.Next, r.what, q.Message)
	}
	skips := r.going.Remedy == warehouse.Skip
	switch {
	case !found && len(held) > 0 && held[0].Table == "":
		why := fmt.Sprintf("as what is held of %s is its progress topic, and no table", source)
		if o.Whole(source) {
			why = "as the source is written as a whole"
		}
		return false, fmt.Errorf("no record of %s is put aside or passed over, %s: mend what holds it, then sink resume %s", r.args[0], why, service.Quote(source))
	case skips && len(quarantines) == 0:
		return false, fmt.Errorf("%s is not held at offset %d (sink status)", r.args[0], r.going.Offset)
	case skips && len(quarantines) > 1:
		return false, fmt.Errorf("%d partitions of %s are held at offset %d, and only one was meant: put the record aside with --park", len(quarantines), r.args[0], r.going.Offset)
	case !found:
		return false, nothingHeld(cmd, o, r.args, pauses, r.going.Remedy == warehouse.Park)
	}
	return true, nil
}

// do asks for it, and waits for what comes of it where that is wanted.
func (r *resuming) do(cmd *cobra.Command, o *sink.Operator, cfg sink.Config) error {
	done, err := o.Resume(cmd.Context(), r.going)
	if err != nil {
		return err
	}
	if r.removed && len(done.Pauses) > 0 {
		return comesAgain(cmd, o, cfg, &sink.TenantPlan{Source: r.going.Source}, "resume", "all rows are there again", r.wait, r.timeout)
	}
	out := terminal.Of(cmd)
	out.Printf("%s ended, %s %s tried again\n", service.Plural(len(done.Pauses), "pause"), service.Plural(len(done.Quarantines), "partition"), service.Agree(len(done.Quarantines), "is", "are"))
	switch {
	case len(done.Quarantines) == 0:
		return nil
	case !r.wait:
		out.Note("note: a sink of the group does that within a second or two; sink status says what came of it, --wait waits for it\n")
		return nil
	}
	name, how := "resume", o.Resuming(r.going, done.Quarantines)
	if len(r.args) > 0 {
		name += " " + r.args[0]
	}
	if err := terminal.Await(cmd.Context(), out, name, r.timeout, func(ctx context.Context) (terminal.Progress, string, error) {
		past, lacks, err := how(ctx)
		return terminal.Progress{Name: name, Done: int64(past), Total: int64(len(done.Quarantines)), Unit: "partitions"}, lacks, err
	}); err != nil {
		return err
	}
	for _, q := range done.Quarantines {
		out.Printf("%s: past offset %d, goes on\n", q.Part(), q.Next)
	}
	return nil
}

// nothingHeld says that there is nothing to resume. It is no failure: a sink that starts tries what was held by itself, and who has
// restarted one and resumes then, as a hint says, comes late.
func nothingHeld(cmd *cobra.Command, o *sink.Operator, args []string, pauses []warehouse.Pause, park bool) error {
	what := "the group"
	if len(args) > 0 {
		unknown, err := o.Unknown(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if unknown != "" {
			return errors.New("nothing to resume: " + unknown)
		}
		what = args[0]
	}
	source, table, err := sink.Subject(strings.Join(args, ""))
	if err != nil {
		return err
	}
	for i := range pauses {
		if p := &pauses[i]; len(args) == 0 || p.Covers(source, table) {
			return fmt.Errorf("nothing to resume: a pause ends by the name that it was asked for with, and %s is paused", p.Subject())
		}
	}
	if park {
		return fmt.Errorf("nothing to put aside: no record holds %s (sink status)", what)
	}
	terminal.Of(cmd).Printf("nothing to resume: %s goes on, neither paused nor held. A sink that starts tries by itself what was held: sink status\n", what)
	return nil
}
