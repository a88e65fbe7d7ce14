package capture

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/service/page"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/tracing"
)

// Serve runs a capture with its HTTP answers until ctx ends: also where capture itself cannot go on, so that page and metrics say so,
// and so does whoever reads a log of text. bars, nil for none, show how far snapshots are.
func Serve(ctx context.Context, cfg Config, options Options, log *slog.Logger, bars *terminal.Bars) error {
	if options.OnGap != "" && options.OnGap != GapStop && options.OnGap != GapResnapshot {
		return terminal.Usage(fmt.Errorf("--on-gap is %q; write %s or %s", options.OnGap, GapStop, GapResnapshot))
	}
	c, err := New(cfg, options, log)
	if err != nil {
		return err
	}
	c.stays = func(error) {}
	if bars != nil {
		c.stays = func(err error) { terminal.Print(bars, "capture", err) }
		shown, stop := context.WithCancel(ctx)
		defer stop()
		go bars.Follow(shown, func() []terminal.Progress { return (&Report{Status: c.Status()}).Bars() })
	}
	return c.Serve(ctx)
}

// Serve is Run with the HTTP answers that the configuration asks for. It ends with Run.
func (c *Capture) Serve(ctx context.Context) error {
	defer service.PaceHeap()()
	tracer, err := tracing.Open(ctx, "capture", c.instance, c.log)
	if err != nil {
		return err
	}
	c.tracer = tracer
	defer c.tracer.Close(context.WithoutCancel(ctx))
	server := service.NewServer("capture", c.config.HTTP, c.log, func(asked service.Asked) any { return c.StatusOf(asked) })
	if err := server.Listen(ctx); err != nil {
		return err
	}
	server.Watch(&c.stages, stageEncode)
	page.Handle(server, page.Config{
		View: func() page.View {
			st := c.steady()
			return st.page()
		},
		Table:   c.tableView,
		Tail:    c.changes,
		History: c.vitals.history, Log: c.log,
	})
	c.options.HTTP = server.URL()
	server.Registry().MustRegister(c.Collectors()...)
	c.ready, c.lacks = server.Ready, server.Lacks
	c.ready("connection to the source")
	c.log.Info("capture starts", "instance", c.instance, "http", server.Addr())
	group := service.NewGroup(ctx)
	group.Go("http", server.Run)
	group.Go("capture", func(ctx context.Context) error {
		defer group.Stop()
		return c.Run(ctx)
	})
	return group.Wait()
}
