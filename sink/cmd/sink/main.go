// Command sink keeps a warehouse equal to its sources. See package sink.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink"
)

func main() { os.Exit(terminal.Main(command())) }

func command() *cobra.Command {
	return program.Completed(terminal.Root("sink", "Keep a warehouse equal to its sources",
		runCommand(),
		program.Ready("Check warehouse, Kafka, registry and rules; change nothing", "warehouse", "kafka", "rules"),
		statusCommand(),
		tailCommand(),
		pauseCommand(),
		resumeCommand(),
		parkedCommand(),
		tenantCommand(),
		retentionCommand(),
		rulesCommand(),
		initCommand(),
		program.Config(),
		program.Explain(),
		program.HealthCheck(),
		program.SupportBundle(),
		program.Manual(),
		program.Version(),
	))
}

// load reads the configuration.
func load(cmd *cobra.Command) (cfg sink.Config, err error) {
	return cfg, terminal.Configuration(cmd, &cfg)
}

// operate runs do with an operator.
func operate(cmd *cobra.Command, do func(o *sink.Operator, cfg sink.Config) error) error {
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	terminal.Calm(cmd, &cfg.Log)
	o, err := sink.NewOperator(cfg)
	if err != nil {
		return err
	}
	defer o.Close(context.WithoutCancel(cmd.Context()))
	return do(o, cfg)
}
