package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// loader reads the configuration.
type loader func() (sink.Config, error)

// change are the flags of a verb that changes something.
type change struct{ plan, yes bool }

func (c *change) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.plan, "plan", false, "show what would be done, and do nothing")
	cmd.Flags().BoolVar(&c.yes, "yes", false, "do not ask")
}

// agreed says whether to go on, after the plan has been printed.
func (c *change) agreed(cmd *cobra.Command) (bool, error) {
	switch {
	case c.plan:
		return false, nil
	case c.yes:
		return true, nil
	case !terminal(os.Stdin):
		return false, service.Usage(errors.New("this changes something: say --yes, or --plan to see what would be done"))
	}
	_, _ = fmt.Fprint(cmd.ErrOrStderr(), "Go on? [y/N] ")
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read answer: %w", err)
	}
	return strings.EqualFold(strings.TrimSpace(answer), "y"), nil
}

func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// columns aligns columns for a person; a pipe gets them separated by tabs.
func columns(out io.Writer) (w io.Writer, flush func() error) {
	if f, ok := out.(*os.File); !ok || !terminal(f) {
		return out, func() error { return nil }
	}
	aligned := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	return aligned, aligned.Flush
}

// subject reads the argument SOURCE/TABLE; none stands for everything unless needed is set.
func subject(args []string, needed bool) (source, table string, err error) {
	switch {
	case len(args) > 1:
		return "", "", service.Usage(fmt.Errorf("unexpected argument %q", args[1]))
	case len(args) == 0 && needed:
		return "", "", service.Usage(errors.New("which table? write SOURCE/TABLE, like shop/public.orders"))
	case len(args) == 0:
		return "", "", nil
	}
	source, table, err = sink.Subject(args[0])
	if err == nil && needed && table == "" {
		err = fmt.Errorf("%q is not SOURCE/TABLE; write %s/public.orders", args[0], source)
	}
	return source, table, service.Usage(err)
}

// operate runs do with an operator.
func operate(cmd *cobra.Command, load loader, do func(o *sink.Operator, cfg sink.Config) error) error {
	cfg, err := load()
	if err != nil {
		return err
	}
	o, err := sink.NewOperator(cfg)
	if err != nil {
		return err
	}
	defer o.Close(cmd.Context())
	return do(o, cfg)
}

func pauseCommand(load loader) *cobra.Command {
	var c change
	var reason string
	var lasts time.Duration
	cmd := &cobra.Command{
		Use: "pause [SOURCE[/TABLE]]", Short: "Stop writing a table, a source, or everything; Kafka keeps what comes meanwhile",
		RunE: func(cmd *cobra.Command, args []string) error {
			source, table, err := subject(args, false)
			if err != nil {
				return err
			}
			p := warehouse.Pause{Source: source, Table: table}
			out := cmd.OutOrStdout()
			until := "until sink resume"
			if lasts > 0 {
				until = "for " + lasts.String()
			}
			_, _ = fmt.Fprintf(out, "%s: not written by any sink of the group, %s. Changes wait in Kafka.\n", p.Subject(), until)
			return operate(cmd, load, func(o *sink.Operator, _ sink.Config) error {
				ok, err := c.agreed(cmd)
				if err != nil || !ok {
					return err
				}
				if err := o.Pause(cmd.Context(), source, table, reason, lasts); err != nil {
					return err
				}
				_, err = fmt.Fprintln(out, "paused; every sink stops within a second or two")
				return err
			})
		},
	}
	c.flags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the others")
	cmd.Flags().DurationVar(&lasts, "for", 0, "end by itself after this time")
	return cmd
}

func resumeCommand(load loader) *cobra.Command {
	var c change
	var park, skip bool
	cmd := &cobra.Command{
		Use: "resume [SOURCE[/TABLE]]", Short: "End a pause, and have quarantined tables tried again",
		RunE: func(cmd *cobra.Command, args []string) error {
			source, table, err := subject(args, park || skip)
			if err != nil {
				return err
			}
			remedy, what := warehouse.TryAgain, "is tried again"
			switch {
			case park && skip:
				return service.Usage(errors.New("either --park or --skip"))
			case park:
				remedy, what = warehouse.Park, "is put aside with all that follows of its key, and the table goes on"
			case skip:
				remedy, what = warehouse.Skip, "is passed over: its change is lost, and the table goes on"
			}
			out := cmd.OutOrStdout()
			return operate(cmd, load, func(o *sink.Operator, _ sink.Config) error {
				pauses, err := o.Pauses(cmd.Context())
				if err != nil {
					return err
				}
				quarantines, err := o.Quarantines(cmd.Context(), source, table)
				if err != nil {
					return err
				}
				found := len(quarantines)
				for _, p := range pauses {
					if p.Source == source && p.Table == table {
						found++
						_, _ = fmt.Fprintf(out, "%s: paused since %s goes on\n", p.Subject(), p.Since.Format(time.RFC3339))
					}
				}
				for _, q := range quarantines {
					_, _ = fmt.Fprintf(out, "%s/%s partition %d: offset %d %s\n  error  %s\n", q.Source, q.Table, q.Partition, q.Next, what, q.Message)
				}
				if found == 0 {
					return errors.New("nothing to resume: it is neither paused nor quarantined (sink status)")
				}
				ok, err := c.agreed(cmd)
				if err != nil || !ok {
					return err
				}
				done, err := o.Resume(cmd.Context(), source, table, remedy)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(out, "%d pauses ended, %d partitions are tried again\n", len(done.Pauses), len(done.Quarantines))
				return err
			})
		},
	}
	c.flags(cmd)
	cmd.Flags().BoolVar(&park, "park", false, "put the record aside that the table is held at")
	cmd.Flags().BoolVar(&skip, "skip", false, "pass over the record that the table is held at; its change is lost")
	return cmd
}

func parkedCommand(load loader) *cobra.Command {
	cmd := &cobra.Command{
		Use: "parked", Short: "Records that were put aside: list, show, retry, discard",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return service.Usage(fmt.Errorf("unknown verb %q", args[0]))
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(parkedList(load), parkedShow(load), parkedRetry(load), parkedDiscard(load))
	return cmd
}

// selection are the flags that pick parked records.
type selection struct {
	code      string
	since     time.Duration
	offset    int64
	partition int32
}

func (s *selection) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.code, "code", "", "only those parked for this trouble")
	cmd.Flags().DurationVar(&s.since, "since", 0, "only those parked within this time")
	cmd.Flags().Int64Var(&s.offset, "offset", -1, "only the one at this offset")
	cmd.Flags().Int32Var(&s.partition, "partition", -1, "only those of this partition")
}

func (s *selection) of(args []string, needed bool) (warehouse.Selection, error) {
	source, table, err := subject(args, needed)
	out := warehouse.Selection{Source: source, Table: table, Code: s.code}
	if s.since > 0 {
		out.Since = time.Now().Add(-s.since)
	}
	if s.offset >= 0 {
		out.Offset = &s.offset
	}
	if s.partition >= 0 {
		out.Partition = &s.partition
	}
	return out, err
}

// listed is how a parked record is printed with --json.
type listed struct {
	Source    string    `json:"source"`
	Table     string    `json:"table"`
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	Behind    *int64    `json:"behind"` // offset of the record that it waits behind; null: it failed itself
	Code      string    `json:"code"`
	Message   string    `json:"message"`
	ParkedAt  time.Time `json:"parked_at"`
}

func parkedList(load loader) *cobra.Command {
	var sel selection
	var asJSON bool
	var limit int
	cmd := &cobra.Command{
		Use: "list [SOURCE[/TABLE]]", Short: "What is parked, and why",
		RunE: func(cmd *cobra.Command, args []string) error {
			picked, err := sel.of(args, false)
			if err != nil {
				return err
			}
			return operate(cmd, load, func(o *sink.Operator, _ sink.Config) error {
				records, err := o.Parked(cmd.Context(), picked, limit)
				if err != nil {
					return err
				}
				if asJSON {
					out := []listed{}
					for _, r := range records {
						out = append(out, listed{r.Source, r.Table, r.Topic, r.Partition, r.Offset, r.Behind, string(r.Reason.Code), r.Reason.Message, r.ParkedAt.UTC()})
					}
					return printJSON(cmd.OutOrStdout(), map[string]any{"schema": "tributary.sink.parked/1", "parked": out})
				}
				w, flush := columns(cmd.OutOrStdout())
				_, _ = fmt.Fprintln(w, "TABLE\tPARTITION\tOFFSET\tSINCE\tWHY")
				for _, r := range records {
					_, _ = fmt.Fprintf(w, "%s/%s\t%d\t%d\t%s\t%s\n", r.Source, r.Table, r.Partition, r.Offset, r.ParkedAt.UTC().Format(time.RFC3339), r.Reason.Message)
				}
				return flush()
			})
		},
	}
	sel.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.Flags().IntVar(&limit, "limit", 1000, "at most so many; 0 for all")
	return cmd
}

func parkedShow(load loader) *cobra.Command {
	var sel selection
	var values bool
	var limit int
	cmd := &cobra.Command{
		Use: "show SOURCE/TABLE", Short: "Parked records with their operation and key, and their values if asked for",
		RunE: func(cmd *cobra.Command, args []string) error {
			picked, err := sel.of(args, true)
			if err != nil {
				return err
			}
			return operate(cmd, load, func(o *sink.Operator, _ sink.Config) error {
				records, err := o.Parked(cmd.Context(), picked, limit)
				if err != nil {
					return err
				}
				out := cmd.OutOrStdout()
				for i := range records {
					r := &records[i]
					shown, err := o.Show(cmd.Context(), r, values)
					if err != nil {
						shown.Op = "cannot be decoded: " + err.Error()
					}
					_, _ = fmt.Fprintf(out, "%s/%s partition %d offset %d: %s%s\n  why    %s\n", r.Source, r.Table, r.Partition, r.Offset, shown.Op, shown.Key, r.Reason.Message)
					for _, c := range shown.Columns {
						value := "null"
						switch {
						case c.Unchanged:
							value = "(unchanged, not sent by the source)"
						case c.Value != nil:
							value = fmt.Sprintf("%q", *c.Value)
						}
						_, _ = fmt.Fprintf(out, "         %s = %s\n", c.Name, value)
					}
				}
				return nil
			})
		},
	}
	sel.flags(cmd)
	cmd.Flags().BoolVar(&values, "values", false, "with the values of all columns")
	cmd.Flags().IntVar(&limit, "limit", 20, "at most so many; 0 for all")
	return cmd
}

// describe prints how many records a verb is about.
func describe(cmd *cobra.Command, o *sink.Operator, picked warehouse.Selection, what string) error {
	records, err := o.Parked(cmd.Context(), picked, 0)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return errors.New("nothing is parked there (sink parked list)")
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s/%s: %d records from offset %d on %s\n", picked.Source, picked.Table, len(records), records[0].Offset, what)
	return err
}

// changeParked does act to the records that args and sel pick, once it has said what happens to them and got leave.
func changeParked(cmd *cobra.Command, args []string, load loader, sel *selection, c *change, what string, act func(*sink.Operator, warehouse.Selection) error) error {
	picked, err := sel.of(args, true)
	if err != nil {
		return err
	}
	return operate(cmd, load, func(o *sink.Operator, _ sink.Config) error {
		if err := describe(cmd, o, picked, what); err != nil {
			return err
		}
		if ok, err := c.agreed(cmd); err != nil || !ok {
			return err
		}
		return act(o, picked)
	})
}

func parkedRetry(load loader) *cobra.Command {
	var sel selection
	var c change
	cmd := &cobra.Command{
		Use: "retry SOURCE/TABLE", Short: "Write parked records, each with all that waits behind it, in order; what fails stays parked",
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeParked(cmd, args, load, &sel, &c, "are written, each with all that waits behind it", func(o *sink.Operator, picked warehouse.Selection) error {
				done, err := o.Retry(cmd.Context(), picked)
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%d records written\n", done.Applied)
				for _, f := range done.Failed {
					_, _ = fmt.Fprintf(cmd.OutOrStdout(), "partition %d, %d records from offset %d on stay parked\n  error  %v\n", f.Partition, len(f.Offsets), f.Offsets[0], f.Err)
				}
				if err == nil && len(done.Failed) > 0 {
					err = fmt.Errorf("%d keys stay parked", len(done.Failed))
				}
				return err
			})
		},
	}
	sel.flags(cmd)
	c.flags(cmd)
	return cmd
}

func parkedDiscard(load loader) *cobra.Command {
	var sel selection
	var c change
	var reason string
	cmd := &cobra.Command{
		Use: "discard SOURCE/TABLE", Short: "Give parked records up: the warehouse will not have them",
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeParked(cmd, args, load, &sel, &c, "are given up; the warehouse will not have them", func(o *sink.Operator, picked warehouse.Selection) error {
				n, err := o.Discard(cmd.Context(), picked, reason)
				if err == nil {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d records discarded\n", n)
				}
				return err
			})
		},
	}
	sel.flags(cmd)
	c.flags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for tributary.operation")
	return cmd
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
