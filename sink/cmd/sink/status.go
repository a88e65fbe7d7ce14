package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink"
)

func statusCommand() *cobra.Command {
	var all, direct bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "status", Short: "How the group does; asks the sink on this host, else the warehouse",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return terminal.Usage(fmt.Errorf("unexpected argument %q", args[0]))
			}
			return operate(cmd, func(o *sink.Operator, cfg sink.Config) error {
				var waited error
				if wait > 0 {
					ctx, cancel := context.WithTimeout(cmd.Context(), wait)
					waited = o.Wait(ctx, cfg)
					cancel()
					if waited != nil && !errors.Is(waited, sink.ErrNotApplied) {
						return waited
					}
				}
				var st *sink.Status
				err := errors.New("not asked")
				if !direct {
					st, err = ask(cmd.Context(), cfg)
				}
				if err != nil {
					if !direct {
						_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "(asked the warehouse: no sink answers at %s: %v)\n", service.LocalURL(cfg.HTTP), err)
					}
					if st, err = o.Status(cmd.Context(), cfg); err != nil {
						return err
					}
				}
				if out := terminal.Of(cmd); out.JSON {
					err = out.Document(st)
				} else {
					err = writeStatus(out, st, all)
				}
				if err == nil && strings.HasPrefix(st.Headline, "needs you") {
					err = terminal.ErrSaid
				}
				return errors.Join(err, waited)
			})
		},
	}
	terminal.JSON(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "with every source and table that is up to date")
	cmd.Flags().DurationVar(&wait, "wait", 0, "first wait, at most so long, until everything that Kafka holds now is applied; else exit status 1")
	cmd.Flags().BoolVar(&direct, "direct", false, "ask the warehouse, not the service")
	return cmd
}

// ask asks the sink that the configuration is of.
func ask(ctx context.Context, cfg sink.Config) (*sink.Status, error) {
	var st sink.Status
	if err := service.Ask(ctx, cfg.HTTP, "/status", &st); err != nil {
		return nil, err
	}
	if st.Group != cfg.Group {
		return nil, fmt.Errorf("it is of group %q", st.Group)
	}
	return &st, nil
}

// writeStatus writes a status for people: what needs them first, what is up to date counted, unless all is set.
func writeStatus(out *terminal.Output, st *sink.Status, all bool) error {
	out.Printf("%s %s\n", st.Group, st.Headline)
	if st.Instance != "" {
		out.Printf("\n  applied  %.0f rows/s, last minute, by this sink\n", st.RowsPerSec)
		if st.LatencyP50 != nil && st.LatencyP99 != nil {
			out.Printf("  latency  p50 %s  p99 %s, commit at the source to commit here, last 5 min\n", seconds(*st.LatencyP50), seconds(*st.LatencyP99))
		}
		out.Printf("  memory   %s of %s\n", service.FormatBytes(st.BufferBytes), service.FormatBytes(st.BufferLimit))
	}
	for _, wait := range st.Waiting {
		out.Printf("  waiting  for %s since %s, try %d: %s\n", wait.For, wait.Since.Format(time.RFC3339), wait.Tries, wait.Error)
	}
	sources := &terminal.Table{Columns: []terminal.Column{
		{Title: "source"}, {Title: "state"}, {Title: "complete up to"}, {Title: "age", Number: true}, {Title: "capture"}, {Title: "tables", Number: true},
	}}
	hidden := 0
	for _, s := range st.Sources {
		if s.State == sink.StateUpToDate && !all {
			hidden++
			continue
		}
		complete, age := "-", "-"
		if s.CompleteAt != nil {
			complete = s.CompleteAt.UTC().Format(time.RFC3339Nano)
		}
		if s.AgeSeconds != nil {
			age = seconds(*s.AgeSeconds)
		}
		sources.Rows = append(sources.Rows, terminal.Text(s.Name, word(s.State), complete, age, s.Capture.State, fmt.Sprint(s.Tables)))
	}
	out.Printf("\n")
	if err := out.Table(sources); err != nil {
		return err
	}
	rest(out, hidden)
	tables := &terminal.Table{Columns: []terminal.Column{
		{Title: "table"}, {Title: "state"}, {Title: "behind", Number: true}, {Title: "records", Number: true}, {Title: "target"}, {Title: "note", Wraps: true},
	}}
	hidden = 0
	for i := range st.Tables {
		t := &st.Tables[i]
		note := noteOf(t)
		if t.State == sink.StateUpToDate && note == "" && !all {
			hidden++
			continue
		}
		tables.Rows = append(tables.Rows, terminal.Text(t.Source+"/"+t.Table, word(t.State), seconds(t.BehindSeconds), fmt.Sprint(t.Records), t.Target, note))
	}
	out.Printf("\n")
	if err := out.Table(tables); err != nil {
		return err
	}
	rest(out, hidden)
	for i := range st.Tables {
		t := &st.Tables[i]
		name := t.Source + "/" + t.Table
		if t.Trouble != nil {
			out.Printf("\n%s is held at offset %d of partition %d since %s\n  error  %s\n", name, t.Trouble.Offset, t.Trouble.Partition,
				t.Trouble.Since.Format(time.RFC3339), t.Trouble.Message)
			for line := range strings.SplitSeq(strings.ReplaceAll(t.Trouble.Hint, "SOURCE/TABLE", name), "\n") {
				out.Printf("  next   %s\n", line)
			}
			out.Printf("  see    docs/runbooks/%s.md\n", t.Trouble.Code)
		}
		if t.Parked > 0 {
			out.Printf("\n%s: %d records are parked\n  next   sink parked show %s\n         sink parked retry %s\n", name, t.Parked, name, name)
		}
	}
	return nil
}

func rest(out *terminal.Output, hidden int) {
	if hidden > 0 {
		out.Printf("... %d more, all up to date (--all)\n", hidden)
	}
}

func noteOf(t *sink.TableStatus) string {
	var notes []string
	if t.Keep != "" && t.ExpiredAt != nil {
		notes = append(notes, fmt.Sprintf("keep %s: %s rows removed, last at %s", t.Keep, service.FormatCount(t.Expired), t.ExpiredAt.Format(time.RFC3339)))
	} else if t.Keep != "" {
		notes = append(notes, "keep "+t.Keep+": not looked yet")
	}
	if t.Parked > 0 {
		notes = append(notes, fmt.Sprintf("parked: %d", t.Parked))
	}
	if t.PausedSince != nil {
		notes = append(notes, strings.TrimSuffix("since "+t.PausedSince.Format(time.RFC3339)+": "+t.PausedReason, ": "))
	}
	if t.WaitingOn != "" {
		notes = append(notes, "waits for "+t.WaitingOn)
	}
	return strings.Join(notes, ", ")
}

func word(state string) string { return strings.ReplaceAll(state, "_", " ") }

func seconds(s float64) string {
	return service.FormatDuration(time.Duration(s * float64(time.Second)))
}
