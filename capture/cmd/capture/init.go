package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/verbs"
)

func initCommand() *cobra.Command {
	var d capture.Draft
	var elsewhere verbs.Elsewhere
	return program.Init("Write a first capture.yaml by asking the source: its tables with size, key and rows, and what is left out and why",
		"SOURCE_DSN", capture.RoleMember, func(flags *pflag.FlagSet) {
			flags.StringVar(&d.Name, "name", "", "name of the source (default that of the database)")
			elsewhere.Flags(flags)
		}, func(ctx context.Context, dsn, reference string, _ bool) (*verbs.Drafted, error) {
			var cfg capture.Config
			if err := elsewhere.Configuration(fmt.Sprintf("source: {name: any, dsn: %q}", reference), &cfg); err != nil {
				return nil, err
			}
			d.DSN, d.Brokers, d.Registry = reference, cfg.Kafka.Brokers, cfg.Registry.URL
			if err := d.Ask(ctx, dsn); err != nil {
				return nil, err
			}
			var file bytes.Buffer
			d.Write(&file)
			captured, leftOut := d.Counts()
			summary := service.Plural(captured, "table") + " to capture"
			if leftOut > 0 {
				summary += fmt.Sprintf(", %d left out", leftOut)
			}
			return &verbs.Drafted{File: file.Bytes(), Summary: summary, Roles: d.Roles()}, nil
		})
}
