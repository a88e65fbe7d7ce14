package main

import (
	"context"
	"strings"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/verbs"
	"github.com/tributary-cdc/tributary/sink"
)

// program is what the verbs that all programs have need to know of this one.
var program = verbs.Program[sink.Config]{
	Name: "sink",
	HTTP: func(cfg *sink.Config) config.HTTP { return cfg.HTTP },
	Log:  func(cfg *sink.Config) *config.Log { return &cfg.Log },
	Names: func(cfg *sink.Config) (sources, tables []string) {
		for _, s := range cfg.Sources {
			if !strings.ContainsAny(s.Name, "*?") {
				sources = append(sources, s.Name)
			}
		}
		for _, t := range cfg.Tables {
			if strings.ContainsAny(t.From, "*?") {
				continue
			}
			tables = append(tables, t.From)
			for _, source := range sources {
				tables = append(tables, source+"/"+t.From)
			}
		}
		return sources, tables
	},
	Check: sink.Check, Alters: true,
	Status: func(ctx context.Context, cfg sink.Config) (any, error) {
		o, err := sink.NewOperator(cfg)
		if err != nil {
			return nil, err
		}
		defer o.Close(context.WithoutCancel(ctx))
		return o.Status(ctx, cfg)
	},
}
