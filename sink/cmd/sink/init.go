package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/verbs"
	"github.com/tributary-cdc/tributary/sink"
)

func initCommand() *cobra.Command {
	var d sink.Draft
	var elsewhere verbs.Elsewhere
	return program.Init("Write a first sink.yaml by asking Kafka, the registry and the warehouse: a rule for each table of which there is a topic",
		"WAREHOUSE_DSN", sink.RoleWriter, func(flags *pflag.FlagSet) {
			flags.StringVar(&d.Sources, "source", "*", "sources to take; * and ? stand for any characters")
			elsewhere.Flags(flags)
		}, func(ctx context.Context, dsn, reference string, rules bool) (*verbs.Drafted, error) {
			var cfg sink.Config
			if err := elsewhere.Configuration(fmt.Sprintf("warehouse: {dsn: %q}\ntables: [{from: \"*.*\"}]", reference), &cfg); err != nil {
				return nil, err
			}
			d.DSN = reference
			if err := d.Ask(ctx, cfg, dsn, rules); err != nil {
				return nil, err
			}
			var file bytes.Buffer
			d.Write(cfg, &file)
			return &verbs.Drafted{File: file.Bytes(), Summary: "rules for " + service.Plural(d.Tables(), "table"), Roles: d.Roles()}, nil
		})
}
