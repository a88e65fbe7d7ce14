package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink"
	"github.com/tributary-cdc/tributary/sink/warehouse"
)

func tenantCommand() *cobra.Command {
	pause, resume := pauseCommand(), resumeCommand()
	pause.Use, pause.Short = "pause TENANT", "Stop writing all tables of a tenant; Kafka keeps what comes meanwhile"
	pause.Example = "  sink tenant pause tenant_17 --reason 'its application is upgraded' --for 2h\n  sink tenant pause tenant_17 --yes"
	resume.Use, resume.Short = "resume TENANT", "End the pause of a tenant, or bring one back that was removed"
	resume.Example = "  sink tenant resume tenant_17\n  sink tenant resume tenant_17 --yes"
	resume.Long = ""
	for _, of := range []string{"park", "skip"} { // of a table
		_ = resume.Flags().MarkHidden(of) // it is there
	}
	for _, verb := range []*cobra.Command{pause, resume} {
		run := verb.RunE
		verb.RunE = func(cmd *cobra.Command, args []string) error {
			if _, err := tenant(args); err != nil {
				return err
			}
			return run(cmd, args)
		}
	}
	cmd := terminal.Group("tenant", "One source among others of the same tables: list, pause, resume, remove, rebuild",
		tenantList(), pause, resume, tenantRemove(), tenantRebuild())
	cmd.Long = "A tenant is a source whose rows lie beside those of others, told apart by a sid. What is done to one disturbs no other."
	return cmd
}

// tenant reads the argument TENANT.
func tenant(args []string) (string, error) {
	source, table, err := subject(args, false)
	switch {
	case err != nil:
		return "", err
	case source == "":
		return "", terminal.Usage(errors.New("which tenant? write the name of its source, like tenant_17 (sink tenant list)"))
	case table != "":
		return "", terminal.Usagef("%q is one table; a tenant is a source: write %s", args[0], source)
	}
	return source, nil
}

func tenantList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "Every source with its sid, state, and up to when it is complete",
		Example: "  sink tenant list\n  sink tenant list --json",
		Args:    terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return operate(cmd, func(o *sink.Operator, cfg sink.Config) error {
				tenants, err := o.Tenants(cmd.Context(), cfg)
				if err != nil {
					return err
				}
				out := terminal.Of(cmd)
				if out.JSON {
					return out.Document(map[string]any{"schema": "tributary.sink.tenants/1", "tenants": tenants})
				}
				list := &terminal.Table{Columns: []terminal.Column{
					{Title: "tenant"}, {Title: "sid"}, {Title: "state"}, {Title: "tables", Number: true}, {Title: "complete up to"}, {Title: "age", Number: true}, {Title: "note", Wraps: true},
				}, Empty: "there is no tenant yet"}
				for _, t := range tenants {
					complete, age := "-", terminal.Cell{Text: "-"}
					if t.CompleteUntil != nil {
						complete = t.CompleteUntil.UTC().Format(time.RFC3339)
					}
					if t.AgeSeconds != nil {
						age = terminal.Number(service.FormatSeconds(*t.AgeSeconds), *t.AgeSeconds)
					}
					list.Rows = append(list.Rows, []terminal.Cell{
						{Text: t.Source}, {Text: t.SID}, {Text: word(t.State), State: t.State}, {Text: fmt.Sprint(t.Tables)}, {Text: complete}, age, {Text: t.Reason},
					})
				}
				return out.Table(list)
			})
		},
	}
	terminal.JSON(cmd)
	return cmd
}

// changeTenant does act to a tenant, once it has said what happens to its tables and got leave.
func changeTenant(cmd *cobra.Command, args []string, c *terminal.Change, what func(f *warehouse.Feed) string, act func(*sink.Operator, sink.Config, *sink.TenantPlan) error) error {
	source, err := tenant(args)
	if err != nil {
		return err
	}
	return operate(cmd, func(o *sink.Operator, cfg sink.Config) error {
		p, err := o.Tenant(cmd.Context(), source)
		if err != nil {
			return err
		}
		out := terminal.Of(cmd)
		for i := range p.Feeds {
			f := &p.Feeds[i]
			rows := "all rows"
			if f.SIDColumn != "" {
				rows = fmt.Sprintf("rows with %s = %q", f.SIDColumn, f.SID)
			}
			out.Printf("%s: %s %s\n", fmt.Sprint(f.Target), rows, what(f))
		}
		if ok, err := c.Agreed(cmd); err != nil || !ok {
			return err
		}
		return act(o, cfg, p)
	})
}

// teller prints how far a removal is, once a second at most.
func teller(out *terminal.Output) func(target string, rows int64) {
	told := time.Now()
	return func(target string, rows int64) {
		if time.Since(told) >= time.Second {
			told = time.Now()
			out.Note("  %s rows removed so far, now from %s\n", service.FormatCount(rows), target)
		}
	}
}

func tenantRemove() *cobra.Command {
	var c terminal.Change
	cmd := &cobra.Command{
		Use: "remove TENANT", Short: "Remove all rows of a tenant, and read nothing of it any more",
		Long: "Removes the rows of a tenant from every target, in small transactions, and forgets how far it was read. It does not come back by\n" +
			"itself, also where its capture goes on writing; sink tenant resume brings it back from the beginning of its topics.",
		Example: "  sink tenant remove tenant_17 --plan\n  sink tenant remove tenant_17 --reason 'contract ended' --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeTenant(cmd, args, &c, func(*warehouse.Feed) string { return "are removed, and its topics are not read any more" },
				func(o *sink.Operator, _ sink.Config, p *sink.TenantPlan) error {
					removed, err := o.RemoveTenant(cmd.Context(), p, c.Reason, teller(terminal.Of(cmd)))
					if err != nil {
						return err
					}
					terminal.Of(cmd).Printf("%s removed; to bring it back: sink tenant resume %s\n", service.Plural(removed, "row"), p.Source)
					return nil
				})
		},
	}
	c.Flags(cmd, true)
	return cmd
}

func tenantRebuild() *cobra.Command {
	var c terminal.Change
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "rebuild TENANT", Short: "Read the topics of a tenant anew, from their beginning",
		Long: "Has all sinks read the topics of a tenant anew. Rows of a table with a key stay where they are and are written again; those that have\n" +
			"not come again at the end are removed. Those of histories, logs and tables without key are removed first, while the tenant is paused.",
		Example: "  sink tenant rebuild tenant_17 --plan\n  sink tenant rebuild tenant_17 --yes --wait --timeout 1h",
		Annotations: map[string]string{terminal.Exits: "  0  done; with --wait, all rows are there again\n  1  failed; with --wait also: a table is held, rows are parked, the tenant is paused until somebody ends that, or --timeout is over\n" +
			"  2  used wrongly: flag, argument or configuration; nothing was attempted"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeTenant(cmd, args, &c, func(f *warehouse.Feed) string {
				if f.Unwritten {
					return "stay as they are: no rule writes them from there any more"
				}
				if len(f.Key) > 0 {
					return "are written again from the beginning of the topic; what does not come again is removed at the end"
				}
				return "are removed and written again from the beginning of the topic"
			}, func(o *sink.Operator, cfg sink.Config, p *sink.TenantPlan) error {
				if err := o.RebuildTenant(cmd.Context(), cfg, p, c.Reason, teller(terminal.Of(cmd))); err != nil {
					return err
				}
				return comesAgain(cmd, o, cfg, p, "rebuild", "rebuilt", wait, timeout)
			})
		},
	}
	c.Flags(cmd, true)
	cmd.Flags().BoolVar(&wait, "wait", false, "return when all rows are there again")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "with --wait: give up after this time, with exit code 1; the rebuild goes on; 0s: never")
	return cmd
}

// comesAgain says that the topics of a tenant are read from their beginning by what verb does, and waits until all has come, where that is wanted.
func comesAgain(cmd *cobra.Command, o *sink.Operator, cfg sink.Config, p *sink.TenantPlan, verb, done string, wait bool, timeout time.Duration) error {
	out := terminal.Of(cmd)
	out.Printf("every sink begins within a second or two; until it is done, sink tenant list shows %s as not complete\n", p.Source)
	if !wait {
		return nil
	}
	how, err := o.Rebuilding(cmd.Context(), cfg, p)
	if err != nil {
		return err
	}
	name := verb + " " + p.Source
	if err := terminal.Await(cmd.Context(), out, name, timeout, func(ctx context.Context) (terminal.Progress, string, error) {
		done, of, lacks, err := how(ctx)
		return terminal.Progress{Name: name, Done: done, Total: of, Unit: "offsets"}, lacks, err
	}); err != nil {
		return err
	}
	out.Printf("%s\n", done)
	return nil
}
