// Command capture is service 1: see package capture.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func main() { os.Exit(terminal.Main(command())) }

func command() *cobra.Command {
	return program.Completed(terminal.Root("capture", "Publish every change of a PostgreSQL database to Kafka, exactly once",
		runCommand(),
		program.Ready("Print whether the source, its tables and Kafka are ready; change nothing", "server", "tables", "kafka"),
		statusCommand(),
		pauseCommand(),
		resumeCommand(),
		snapshotCommand(),
		slotCommand(),
		topicsCommand(),
		tailCommand(),
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
func load(cmd *cobra.Command) (cfg capture.Config, err error) {
	return cfg, terminal.Configuration(cmd, &cfg)
}

// quiet gives a capture for a verb: what it has to say goes to standard output, and only what is wrong into the log.
func quiet(cmd *cobra.Command) (*capture.Capture, error) {
	cfg, err := load(cmd)
	if err != nil {
		return nil, err
	}
	terminal.Calm(cmd, &cfg.Log)
	return capture.New(cfg, capture.Options{}, service.Log(cfg.Log))
}
