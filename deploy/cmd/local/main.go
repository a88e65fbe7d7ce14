// Command local runs Tributary, or parts of it, on one machine: see the packages local, demo and prompt.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/deploy/local"
	"github.com/tributary-cdc/tributary/deploy/local/demo"
	"github.com/tributary-cdc/tributary/deploy/local/prompt"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/pgtest"
	"github.com/tributary-cdc/tributary/pkg/service"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/sink"
)

func main() {
	os.Exit(terminal.Run("local", func(ctx context.Context) error { return command().ExecuteContext(ctx) }))
}

func command() *cobra.Command {
	root := terminal.Group("local", "Run Tributary, or what it needs, on one machine",
		demoCommand(), runCommand(), brokerCommand(), registryCommand(), databasesCommand(), psqlCommand(), &cobra.Command{
			Use: "version", Short: "Print the version", Args: terminal.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				b := service.ThisBuild()
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "local %s %s %s\n", b.Version, b.Revision, b.GoVersion)
				return err
			},
		})
	terminal.Finish(root)
	return root
}

// demoDir gives where the demo lives: DEMO_DIR, else .demo here.
func demoDir() string { return cmp.Or(os.Getenv("DEMO_DIR"), reachable(".demo", "tributary-demo")) }

// reachable gives a directory here for servers' data. Root's Postgres runs as another user, who may not be let into the
// directory here (/root is closed to others): then it is another one, below the directory for temporary files.
func reachable(here, elsewhere string) string {
	abs, err := filepath.Abs(here)
	if err != nil || os.Geteuid() != 0 {
		return here
	}
	for dir := filepath.Dir(abs); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode()&0o001 == 0 {
			return filepath.Join(os.TempDir(), elsewhere)
		}
		if dir == filepath.Dir(dir) {
			return here
		}
	}
}

func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "Consolidate two living film-rental shops into a warehouse, and show it", Args: terminal.NoArgs,
		Long: "Consolidate two living film-rental shops into a warehouse, and show it.\n\n" +
			"DEMO_DIR      where it keeps its data (.demo)\n" +
			"DEMO_SECONDS  how long the load runs; then both sides are compared, and the exit status is the verdict",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := demo.Config{Dir: demoDir(), Out: os.Stdout}
			if text := os.Getenv("DEMO_SECONDS"); text != "" {
				seconds, err := strconv.Atoi(text)
				if err != nil || seconds < 1 {
					return terminal.Usage(fmt.Errorf("DEMO_SECONDS is %q; write a whole number of seconds, like 20", text))
				}
				cfg.Load = time.Duration(seconds) * time.Second
			}
			return demo.Run(cmd.Context(), cfg)
		},
	}
}

func runCommand() *cobra.Command {
	var dir, warehouse string
	var sources []string
	cmd := &cobra.Command{
		Use: "run", Short: "Run captures and a sink in this process, on an embedded broker, until SIGTERM", Args: terminal.NoArgs,
		Long: "Run captures and a sink in this process, on an embedded broker, until SIGTERM.\n\n" +
			"The brokers and the registry that the configurations name are not used.",
		Example: "  local run --capture capture.yaml --sink sink.yaml",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			broker, err := local.StartBroker(local.BrokerConfig{Dir: dir})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, broker.Close()) }()
			// The environment wins over the files, which need not name a broker then.
			for name, value := range map[string]string{
				"TRIBUTARY_KAFKA_BROKERS": strings.Join(broker.Addrs(), ","),
				"TRIBUTARY_REGISTRY_URL":  broker.RegistryURL(),
			} {
				if err := os.Setenv(name, value); err != nil {
					return err
				}
			}
			captures := make([]capture.Config, len(sources))
			for i, file := range sources {
				if err := config.Load(file, &captures[i]); err != nil {
					return err
				}
			}
			var into sink.Config
			if err := config.Load(warehouse, &into); err != nil {
				return err
			}
			pipeline, err := local.NewPipeline(broker, captures, into, nil)
			if err != nil {
				return err
			}
			return pipeline.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "broker", "directory of the broker's data")
	cmd.Flags().StringArrayVar(&sources, "capture", []string{"capture.yaml"}, "configuration of a capture; may be given several times")
	cmd.Flags().StringVar(&warehouse, "sink", "sink.yaml", "configuration of the sink")
	return cmd
}

func brokerCommand() *cobra.Command {
	cfg := local.BrokerConfig{}
	cmd := &cobra.Command{
		Use: "broker", Short: "Run the embedded broker and schema registry until Ctrl-C", Args: terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			broker, err := local.StartBroker(cfg)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "kafka: {brokers: [%q]}\nregistry: {url: %q}\n", broker.Addrs()[0], broker.RegistryURL())
			if err == nil {
				<-cmd.Context().Done()
			}
			return errors.Join(err, broker.Close())
		},
	}
	cmd.Flags().StringVar(&cfg.Dir, "dir", "broker", "directory of its data")
	cmd.Flags().StringVar(&cfg.Kafka, "kafka", "127.0.0.1:9092", "address of the broker")
	cmd.Flags().StringVar(&cfg.Registry, "registry", "127.0.0.1:8081", "address of the schema registry")
	return cmd
}

func registryCommand() *cobra.Command {
	var dir, listen string
	cmd := &cobra.Command{
		Use: "registry", Short: "Run a schema registry until Ctrl-C, for a Kafka that has none", Args: terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			registry, err := local.StartRegistry(dir, listen)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "registry: {url: %q}\n", registry.URL())
			if err == nil {
				<-cmd.Context().Done()
			}
			return errors.Join(err, registry.Close())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "registry", "directory of its data")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8081", "its address")
	return cmd
}

func databasesCommand() *cobra.Command {
	var dir string
	var major, port int
	cmd := &cobra.Command{
		Use: "databases", Short: "Run two PostgreSQL servers, for a source and a warehouse, until Ctrl-C", Args: terminal.NoArgs,
		Long: "Run two PostgreSQL servers, for a source and a warehouse, until Ctrl-C.\n\n" +
			"Started again they have the same rows, and the same addresses.",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			// As PostgreSQL comes; pages say how a source is made of it.
			settings := map[string]string{"wal_level": "replica"}
			text := fmt.Sprintf("# Two servers of PostgreSQL %d, with their rows in %s, until Ctrl-C. In the terminal in which you go on:\n", major, dir)
			for i, name := range []string{"source", "warehouse"} {
				opts := pgtest.Options{Dir: filepath.Join(dir, name), Major: major, Settings: settings}
				if port > 0 {
					opts.Port = port + i
				}
				cluster, failed := pgtest.Start(cmd.Context(), opts)
				if errors.Is(failed, pgtest.ErrInUse) {
					return fmt.Errorf("%w: they run already, by another make databases", failed)
				}
				if failed != nil {
					return failed
				}
				defer func() { err = errors.Join(err, cluster.Stop()) }()
				text += fmt.Sprintf("export %s='%s'\n", strings.ToUpper(name), cluster.DSN("postgres"))
			}
			if _, err := io.WriteString(cmd.OutOrStdout(), text); err != nil {
				return err
			}
			<-cmd.Context().Done()
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", reachable("databases", "tributary-databases"), "directory of their data")
	cmd.Flags().IntVar(&major, "version", pgtest.DefaultMajor, "major version of PostgreSQL, 14 to 18")
	cmd.Flags().IntVar(&port, "port", 25432, "port of the source, that of the warehouse is the next one; 0: any that are free")
	return cmd
}

func psqlCommand() *cobra.Command {
	return &cobra.Command{
		Use: "psql [DATABASE | URL]", Short: "Open a SQL prompt: psql where it is installed, else a small one of its own",
		Long: "Open a SQL prompt: psql where it is installed, else a small one of its own.\n\n" +
			"DATABASE is one of the running demo's: dwh (the default), rental_eu, rental_us.",
		Args: terminal.MaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dsn := ""
			if len(args) > 0 {
				dsn = args[0]
			}
			if !strings.Contains(dsn, "://") {
				var err error
				if dsn, err = demo.Database(demoDir(), dsn); err != nil {
					return err
				}
			}
			if program, err := exec.LookPath("psql"); err == nil {
				signal.Reset() // psql has its own use for Ctrl-C
				return fmt.Errorf("run %s: %w", program, unix.Exec(program, []string{"psql", dsn}, os.Environ()))
			}
			return prompt.Run(cmd.Context(), prompt.Config{
				DSN: dsn, In: os.Stdin, Out: os.Stdout, Interactive: terminal.IsTerminal(os.Stdin),
			})
		},
	}
}
