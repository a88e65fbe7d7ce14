package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/verbs"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

// subject reads the argument SOURCE/TABLE; none stands for everything unless needed is set.
func subject(args []string, needed bool) (source, table string, err error) {
	switch {
	case len(args) > 1:
		return "", "", terminal.Usagef("unexpected argument %q", args[1])
	case len(args) == 0 && needed:
		return "", "", terminal.Usage(errors.New("which table? write SOURCE/TABLE, like shop/public.orders"))
	case len(args) == 0:
		return "", "", nil
	}
	source, table, err = sink.Subject(args[0])
	if err == nil && needed && table == "" {
		err = fmt.Errorf("%q is not SOURCE/TABLE; write %s/public.orders", args[0], source)
	}
	return source, table, terminal.Usage(err)
}

func pauseCommand() *cobra.Command {
	var c terminal.Change
	var lasts time.Duration
	cmd := &cobra.Command{
		Use: "pause [SOURCE[/TABLE]]", Short: "Stop writing a table, a source, or everything; Kafka keeps what comes meanwhile",
		Example: "  sink pause shop/public.orders --reason 'the index is made anew' --for 30m\n  sink pause --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			source, table, err := subject(args, false)
			if err != nil {
				return err
			}
			p := warehouse.Pause{Source: source, Table: table}
			out := terminal.Of(cmd)
			until := "until sink resume"
			if lasts > 0 {
				until = "for " + lasts.String()
			}
			return operate(cmd, func(o *sink.Operator, _ sink.Config) error {
				if err := known(cmd, o, args); err != nil {
					return err
				}
				out.Printf("%s: not written by any sink of the group, %s. Changes wait in Kafka.\n", p.Subject(), until)
				ok, err := c.Agreed(cmd)
				if err != nil || !ok {
					return err
				}
				if err := o.Pause(cmd.Context(), source, table, c.Reason, lasts); err != nil {
					return err
				}
				out.Printf("paused; every sink stops within a second or two\n")
				return nil
			})
		},
	}
	c.Flags(cmd, true)
	cmd.Flags().DurationVar(&lasts, "for", 0, "end by itself after this time")
	return cmd
}

// known says so where a pause is of what the group has not written yet: it may be meant so, or mistyped.
func known(cmd *cobra.Command, o *sink.Operator, args []string) error {
	if len(args) == 0 {
		return nil
	}
	unknown, err := o.Unknown(cmd.Context(), args[0])
	if unknown != "" {
		terminal.Of(cmd).Note("note: %s; the pause is for when it does\n", unknown)
	}
	return err
}

func parkedCommand() *cobra.Command {
	return terminal.Group("parked", "Records that were put aside: list, show, retry, discard", parkedList(), parkedShow(), parkedRetry(), parkedDiscard())
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
	if s.code != "" && err == nil {
		err = verbs.KnownCode(s.code)
	}
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

// nothingParked is said where nothing is, of what was asked for.
const nothingParked = "nothing is parked there"

// noneParked says so of a table, and where the group does not know it, which one may be meant.
func noneParked(ctx context.Context, o *sink.Operator, picked warehouse.Selection) (string, error) {
	unknown, err := o.Unknown(ctx, picked.Source+"/"+picked.Table)
	if err != nil || unknown == "" {
		return nothingParked, err
	}
	return nothingParked + ": " + unknown, nil
}

func parkedList() *cobra.Command {
	var sel selection
	var limit int
	cmd := &cobra.Command{
		Use: "list [SOURCE[/TABLE]]", Short: "Print what is parked, and why",
		Example: "  sink parked list\n  sink parked list shop --since 24h --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			picked, err := sel.of(args, false)
			if err != nil {
				return err
			}
			return operate(cmd, func(o *sink.Operator, _ sink.Config) error {
				records, err := o.Parked(cmd.Context(), picked, limit)
				if err != nil {
					return err
				}
				out := terminal.Of(cmd)
				if out.JSON {
					all := []listed{}
					for _, r := range records {
						all = append(all, listed{r.Source, r.Table, r.Topic, r.Partition, r.Offset, r.Behind, string(r.Reason.Code), r.Reason.Message, r.ParkedAt.UTC()})
					}
					return out.Document(map[string]any{"schema": "tributary.sink.parked/1", "parked": all})
				}
				t := &terminal.Table{Columns: []terminal.Column{{Title: "table"}, {Title: "partition", Number: true}, {Title: "offset", Number: true}, {Title: "since"}, {Title: "why", Wraps: true}}, Empty: nothingParked}
				for _, r := range records {
					t.Rows = append(t.Rows, terminal.Text(r.Source+"/"+r.Table, fmt.Sprint(r.Partition), fmt.Sprint(r.Offset), r.ParkedAt.UTC().Format(time.RFC3339), r.Reason.Message))
				}
				return out.Table(t)
			})
		},
	}
	sel.flags(cmd)
	terminal.JSON(cmd)
	cmd.Flags().IntVar(&limit, "limit", 1000, "at most so many; 0 for all")
	return cmd
}

func parkedShow() *cobra.Command {
	var sel selection
	var values bool
	var limit int
	cmd := &cobra.Command{
		Use: "show SOURCE/TABLE", Short: "Print parked records with their operation and key, and their values if asked for",
		Example: "  sink parked show shop/public.orders\n  sink parked show shop/public.orders --offset 88120 --values",
		RunE: func(cmd *cobra.Command, args []string) error {
			picked, err := sel.of(args, true)
			if err != nil {
				return err
			}
			return operate(cmd, func(o *sink.Operator, _ sink.Config) error {
				records, err := o.Parked(cmd.Context(), picked, limit)
				if err != nil {
					return err
				}
				out := terminal.Of(cmd)
				if len(records) == 0 {
					none, err := noneParked(cmd.Context(), o, picked)
					if err != nil {
						return err
					}
					out.Note("%s\n", none)
				}
				for i := range records {
					r := &records[i]
					shown, err := o.Show(cmd.Context(), r, values)
					if err != nil {
						shown.Op = "cannot be decoded: " + err.Error()
					}
					out.Printf("%s/%s partition %d offset %d: %s%s\n  why    %s\n", r.Source, r.Table, r.Partition, r.Offset, shown.Op, shown.Key, r.Reason.Message)
					for _, c := range shown.Columns {
						value := "null"
						switch {
						case c.Unchanged:
							value = "(unchanged, not sent by the source)"
						case c.Value != nil:
							value = fmt.Sprintf("%q", *c.Value)
						}
						out.Printf("         %s = %s\n", c.Name, value)
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
		none, err := noneParked(cmd.Context(), o, picked)
		return cmp.Or(err, errors.New(none+" (sink parked list)"))
	}
	terminal.Of(cmd).Printf("%s/%s: %s from offset %d on %s %s\n", picked.Source, picked.Table, service.Plural(len(records), "record"), records[0].Offset, service.Agree(len(records), "is", "are"), what)
	return nil
}

// changeParked does act to the records that args and sel pick, once it has said what happens to them and got leave.
func changeParked(cmd *cobra.Command, args []string, sel *selection, c *terminal.Change, what string, act func(*sink.Operator, warehouse.Selection) error) error {
	picked, err := sel.of(args, true)
	if err != nil {
		return err
	}
	return operate(cmd, func(o *sink.Operator, _ sink.Config) error {
		if err := describe(cmd, o, picked, what); err != nil {
			return err
		}
		if ok, err := c.Agreed(cmd); err != nil || !ok {
			return err
		}
		return act(o, picked)
	})
}

func parkedRetry() *cobra.Command {
	var sel selection
	var c terminal.Change
	cmd := &cobra.Command{
		Use: "retry SOURCE/TABLE", Short: "Write parked records, each with all that waits behind it, in order; what fails stays parked",
		Example: "  sink parked retry shop/public.orders --plan\n  sink parked retry shop/public.orders --code constraint-violation --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeParked(cmd, args, &sel, &c, "written, each with all that waits behind it", func(o *sink.Operator, picked warehouse.Selection) error {
				done, err := o.Retry(cmd.Context(), picked)
				terminal.Of(cmd).Printf("%s written\n", service.Plural(done.Applied, "record"))
				for _, f := range done.Failed {
					terminal.Of(cmd).Printf("topic %s partition %d, %s from offset %d on %s parked\n  error  %v\n", f.Topic, f.Partition, service.Plural(len(f.Offsets), "record"), f.Offsets[0], service.Agree(len(f.Offsets), "stays", "stay"), f.Err)
				}
				if err == nil && len(done.Failed) > 0 {
					err = fmt.Errorf("%s %s parked", service.Plural(len(done.Failed), "key"), service.Agree(len(done.Failed), "stays", "stay"))
				}
				return err
			})
		},
	}
	sel.flags(cmd)
	c.Flags(cmd, false)
	return cmd
}

func parkedDiscard() *cobra.Command {
	var sel selection
	var c terminal.Change
	cmd := &cobra.Command{
		Use: "discard SOURCE/TABLE", Short: "Give parked records up: the warehouse will not have them",
		Example: "  sink parked discard shop/public.orders --plan\n  sink parked discard shop/public.orders --offset 88120 --reason 'test data' --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeParked(cmd, args, &sel, &c, "given up; the warehouse will not have them", func(o *sink.Operator, picked warehouse.Selection) error {
				n, err := o.Discard(cmd.Context(), picked, c.Reason)
				if err == nil {
					terminal.Of(cmd).Printf("%s discarded\n", service.Plural(n, "record"))
				}
				return err
			})
		},
	}
	sel.flags(cmd)
	c.Flags(cmd, true)
	return cmd
}
