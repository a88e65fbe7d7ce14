package main

import (
	"context"
	"slices"
	"strings"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/pkg/verbs"
)

// program is what the verbs that all programs have need to know of this one.
var program = verbs.Program[capture.Config]{
	Name: "capture",
	HTTP: func(cfg *capture.Config) config.HTTP { return cfg.HTTP },
	Log:  func(cfg *capture.Config) *config.Log { return &cfg.Log },
	Names: func(cfg *capture.Config) (sources, tables []string) {
		wild := func(pattern string) bool { return strings.ContainsAny(pattern, "!*?") }
		return []string{cfg.Source.Name}, slices.DeleteFunc(slices.Clone(cfg.Source.Tables), wild)
	},
	Check: func(ctx context.Context, cfg capture.Config, told *terminal.Check) error {
		c, err := capture.New(cfg, capture.Options{}, service.Log(cfg.Log))
		if err != nil {
			return err
		}
		return c.Check(ctx, told)
	},
	Status: func(ctx context.Context, cfg capture.Config) (any, error) {
		c, err := capture.New(cfg, capture.Options{}, service.Log(cfg.Log))
		if err != nil {
			return nil, err
		}
		return c.Ask(ctx, service.Whom{Direct: true})
	},
}
