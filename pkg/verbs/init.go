package verbs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/terminal"
)

// Drafted is a first configuration.
type Drafted struct {
	File    []byte
	Summary string            // what is in it
	Roles   map[string]string // SQL of the roles that the service may have, by what --role calls them
}

// Elsewhere is how Kafka and the registry are reached while there is no configuration yet.
type Elsewhere struct {
	brokers  []string
	registry string
}

// Flags gives the verb the flags that say it.
func (e *Elsewhere) Flags(flags *pflag.FlagSet) {
	flags.StringSliceVar(&e.brokers, "brokers", []string{"localhost:9092"}, "addresses of some brokers; TRIBUTARY_KAFKA_BROKERS wins")
	flags.StringVar(&e.registry, "registry", "http://localhost:8081", "address of the schema registry; TRIBUTARY_REGISTRY_URL wins")
}

// Configuration reads into cfg what the flags say, beside database, which is YAML. What else is needed, such as a login, the
// environment says.
func (e *Elsewhere) Configuration(database string, cfg any) error {
	text := fmt.Sprintf("%s\nkafka: {brokers: %q}\nregistry: {url: %q}\n", database, strings.Join(e.brokers, ","), e.registry)
	return config.LoadText([]byte(text), cfg)
}

// Init makes the verb that writes a first configuration. variable is that of the environment by which the file names a
// connection string that was typed; role what --role stands for alone; ask asks the database at dsn, which the file calls
// reference; without file only the roles are wanted.
func (p Program[C]) Init(short, variable, role string, flags func(*pflag.FlagSet), ask func(ctx context.Context, dsn, reference string, file bool) (*Drafted, error)) *cobra.Command {
	var file, asked string
	cmd := &cobra.Command{
		Use: "init DSN", Short: short,
		Long: short + ".\nNo secret is written: the file names the variable of the environment that holds the connection string. A file that is\n" +
			"there is never overwritten. A connection string that is typed stands among the process's arguments, where others on\n" +
			"this host can read it; env:NAME does not.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return terminal.Usagef("which database? write postgres://user@host:5432/database, or env:NAME, or file:/path")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			out := terminal.Of(cmd)
			if file != "" {
				if _, err := os.Lstat(file); err == nil {
					return terminal.Usagef("%s is there already, and is not overwritten", file)
				}
			}
			dsn, err := config.Secret(args[0]).Reveal()
			if err != nil {
				return terminal.Usage(err)
			}
			reference, exported := refer(args[0], variable)
			drafted, err := ask(cmd.Context(), dsn, reference, file != "" || asked == "")
			if err != nil {
				return err
			}
			sql, known := drafted.Roles[asked]
			if asked != "" && !known {
				return terminal.Usagef("--role is %q; write --role=%s", asked, strings.Join(slices.Sorted(maps.Keys(drafted.Roles)), " or --role="))
			}
			if file != "" {
				if err := writeNew(file, drafted.File); err != nil {
					return err
				}
				out.Note("%s: %s\n", file, drafted.Summary)
				next := fmt.Sprintf("%s check -c %s", p.Name, file)
				if !exported {
					next = fmt.Sprintf("export %s='…'   (the connection string), then %s", variable, next)
				}
				out.Note("next: %s\n", next)
			}
			switch {
			case asked != "":
				_, err = io.WriteString(out.Out, sql)
			case file == "":
				_, err = out.Out.Write(drafted.File)
			}
			return err
		},
	}
	p.examples(cmd, "init env:"+variable+" -o FILE", "init env:"+variable+" --role")
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write; standard output if none is named")
	cmd.Flags().StringVar(&asked, "role", "", "print the SQL that makes the role with the rights that are needed, and no more")
	cmd.Flags().Lookup("role").NoOptDefVal = role
	flags(cmd.Flags())
	return cmd
}

// refer gives the name by which a file refers to a connection string, and whether it is there already: a reference stays
// what it is; what a variable of the environment holds, as in init "$SOURCE_DSN", is called by that variable.
func refer(dsn, variable string) (reference string, exported bool) {
	if strings.HasPrefix(dsn, "env:") || strings.HasPrefix(dsn, "file:") {
		return dsn, true
	}
	names := []string{}
	for _, pair := range os.Environ() {
		if name, value, _ := strings.Cut(pair, "="); value == dsn && !strings.HasPrefix(name, "_") {
			names = append(names, name)
		}
	}
	switch {
	case slices.Contains(names, variable):
		return "env:" + variable, true
	case len(names) > 0:
		return "env:" + slices.Min(names), true
	}
	return "env:" + variable, false
}

// writeNew writes a file that is not there yet.
func writeNew(file string, content []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return terminal.Usagef("%s is there already, and is not overwritten", file)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}
