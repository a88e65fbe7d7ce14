package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/verbs"
	"github.com/tributary-cdc/tributary/sink"
)

func initCommand() *cobra.Command {
	var d sink.Draft
	var registry string
	var brokers []string
	return program.Init("Write a first sink.yaml by asking Kafka, the registry and the warehouse: a rule for each table of which there is a topic",
		"WAREHOUSE_DSN", sink.RoleWriter, func(flags *pflag.FlagSet) {
			flags.StringVar(&d.Sources, "source", "*", "sources to take; * and ? stand for any characters")
			flags.StringSliceVar(&brokers, "brokers", []string{"localhost:9092"}, "addresses of some brokers; TRIBUTARY_KAFKA_BROKERS wins")
			flags.StringVar(&registry, "registry", "http://localhost:8081", "address of the schema registry; TRIBUTARY_REGISTRY_URL wins")
		}, func(ctx context.Context, dsn, reference string, rules bool) (*verbs.Drafted, error) {
			// What else is needed to reach Kafka and the registry, such as a login, the environment says.
			var cfg sink.Config
			text := fmt.Sprintf("warehouse: {dsn: %q}\nkafka: {brokers: %q}\nregistry: {url: %q}\ntables: [{from: \"*.*\"}]\n", reference, strings.Join(brokers, ","), registry)
			if err := config.LoadText([]byte(text), &cfg); err != nil {
				return nil, err
			}
			d.DSN = reference
			if err := d.Ask(ctx, cfg, dsn, rules); err != nil {
				return nil, err
			}
			var file bytes.Buffer
			d.Write(cfg, &file)
			return &verbs.Drafted{File: file.Bytes(), Summary: fmt.Sprintf("rules for %d tables", d.Tables()), Roles: d.Roles()}, nil
		})
}
