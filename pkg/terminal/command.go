// Package terminal is what a program says to whoever typed its name: its verbs and their flags, results as text, tabs or
// JSON, errors and exit codes, questions before a change, progress. It is the one place that knows whether a person is
// reading. What verbs do is their programs' business.
package terminal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tributary-cdc/tributary/pkg/config"
)

// Root makes the command of a program, with the flags of all its verbs.
func Root(name, short string, verbs ...*cobra.Command) *cobra.Command {
	root := Group(name, short, verbs...)
	root.PersistentFlags().StringP("config", "c", "", fmt.Sprintf("configuration (else TRIBUTARY_CONFIG, ./%s.yaml, /etc/tributary/%s.yaml)", name, name))
	root.PersistentFlags().String("log-format", "", "form of log lines on standard error: "+strings.Join(logFormats, " or ")+" (else log.format)")
	root.PersistentFlags().String("log-level", "", "least important log lines: "+strings.Join(logLevels, ", ")+" (else log.level)")
	for name, values := range logFlags {
		_ = root.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	}
	root.PersistentFlags().Bool("no-color", false, "no colours; NO_COLOR and TERM=dumb say so too")
	root.PersistentFlags().BoolP("quiet", "q", false, "only results: no hints, no progress")
	Finish(root)
	return root
}

// Finish gives a program the help and the errors that ours have, where its verbs do not have the flags of Root. The verbs are
// whole, with their flags.
func Finish(root *cobra.Command) {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(flagError)
	root.SetHelpTemplate(help)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, verb := range root.Commands() { // cobra's own, which answer every word with the help
		switch verb.Name() {
		case "completion":
			verb.Args, verb.RunE = unknownVerb, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		case "help":
			verb.Args = func(_ *cobra.Command, args []string) error {
				at, rest, err := root.Find(args)
				if err != nil {
					return err
				}
				return unknownVerb(at, rest)
			}
		}
	}
	spell(root)
}

// spell has the usage of each verb name its flags, as a manual does; those of every verb are told elsewhere.
func spell(cmd *cobra.Command) {
	if cmd.DisableFlagsInUseLine {
		return // it is spelt already
	}
	cmd.DisableFlagsInUseLine = true
	for _, verb := range cmd.Commands() {
		spell(verb)
	}
	if !cmd.HasParent() {
		return
	}
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		switch kind := f.Value.Type(); {
		case f.Hidden || f.Name == "help":
		case f.NoOptDefVal != "" && kind != "bool":
			cmd.Use += fmt.Sprintf(" [--%s[=%s]]", f.Name, f.NoOptDefVal)
		case kind == "bool":
			cmd.Use += fmt.Sprintf(" [--%s]", f.Name)
		default:
			cmd.Use += fmt.Sprintf(" [--%s %s]", f.Name, takes(f))
		}
	})
}

// takes names what a flag takes.
func takes(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "duration":
		return "TIME"
	case "int", "int32", "int64":
		return "N"
	}
	return strings.ToUpper(f.Name[strings.LastIndexByte(f.Name, '-')+1:])
}

// usage gives how a verb is called, in lines below each other; indent is how far to the right the first one begins.
func usage(cmd *cobra.Command, indent int) string {
	line := cmd.UseLine()
	if cmd.HasAvailableSubCommands() && !cmd.HasExample() { // a noun: it does nothing by itself
		line = cmd.CommandPath() + " VERB"
	}
	line = strings.ReplaceAll(line, " [", "\x00[") // a flag stays with what it takes
	words := strings.NewReplacer(" ", "\u00a0", "\x00", " ").Replace(line)
	return strings.ReplaceAll(strings.Join(wrap(words, defaultWidth-indent-2, 0), "\n"+strings.Repeat(" ", indent+2)), "\u00a0", " ")
}

// What flags of all verbs say of the log. They win over the configuration, for one run.
var (
	logFormats = []string{"text", "json"}
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFlags   = map[string][]string{"log-format": logFormats, "log-level": logLevels}
)

// logged gives the keys of the configuration that such flags say.
func logged(cmd *cobra.Command) (map[string]string, error) {
	said := map[string]string{}
	for name, values := range logFlags {
		value, err := cmd.Flags().GetString(name)
		if err != nil || value == "" {
			continue
		}
		if !slices.Contains(values, value) {
			return nil, Usagef("--%s is %q; write %s", name, value, strings.Join(values, ", "))
		}
		said[strings.ReplaceAll(name, "-", ".")] = value
	}
	return said, nil
}

// Group makes a noun with verbs of its own.
func Group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: unknownVerb,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(verbs...)
	return cmd
}

// unknownVerb refuses what is none of the verbs of a noun.
func unknownVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return wrong(cmd, fmt.Errorf("unknown verb %q%s", args[0], Meant(args[0], verbsOf(cmd))))
}

func verbsOf(cmd *cobra.Command) (names []string) {
	for _, verb := range cmd.Commands() {
		names = append(names, verb.Name())
	}
	return names
}

// Meant gives "; did you mean …?" for the known name that is nearest, "" if none is near.
func Meant(name string, known []string) string {
	if near := config.Nearest(name, known); near != "" {
		return fmt.Sprintf("; did you mean %s?", near)
	}
	return ""
}

// NoArgs is for verbs without arguments.
func NoArgs(cmd *cobra.Command, args []string) error { return MaxArgs(0)(cmd, args) }

// MaxArgs is for verbs with at most n arguments.
func MaxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return wrong(cmd, fmt.Errorf("unexpected argument %q%s", args[n], Meant(args[n], verbsOf(cmd))))
		}
		return nil
	}
}

// wrong is a usage error that shows how the verb is called.
func wrong(cmd *cobra.Command, err error) error {
	return &usageError{err, fmt.Sprintf("%s     (%s --help)", usage(cmd, len("usage: ")), cmd.CommandPath())}
}

func flagError(cmd *cobra.Command, err error) error {
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		f := invalid.GetFlag()
		form := map[string]string{"duration": "a time, like 30s, 5m or 2h", "int": "a whole number", "int32": "a whole number", "int64": "a whole number"}[f.Value.Type()]
		if form != "" {
			return wrong(cmd, fmt.Errorf("--%s is %q; write %s", f.Name, invalid.GetValue(), form))
		}
	}
	missing, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok || missing.GetSpecifiedShortnames() != "" {
		return wrong(cmd, err)
	}
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	name := missing.GetSpecifiedName()
	meant := ""
	if near := config.Nearest(name, known); near != "" {
		meant = fmt.Sprintf("; did you mean --%s?", near)
	}
	return wrong(cmd, fmt.Errorf("unknown flag --%s%s", name, meant))
}

// Configuration reads the program's configuration into out: the file of --config, else the first that is there.
func Configuration(cmd *cobra.Command, out any) error {
	said, err := logged(cmd)
	if err != nil {
		return err
	}
	return config.LoadSaid(ConfigurationFile(cmd), said, out)
}

// Calm has the log of a verb that a person waits for tell errors alone, unless --log-level says more: what fails it tells
// itself, at its end.
func Calm(cmd *cobra.Command, log *config.Log) {
	if !cmd.Flags().Changed("log-level") {
		log.Level = "error"
	}
}

// Origins reads it likewise, and shows it with where each value is from.
func Origins(cmd *cobra.Command, out any) (string, error) {
	said, err := logged(cmd)
	if err != nil {
		return "", err
	}
	return config.ShowOrigins(ConfigurationFile(cmd), said, out)
}

// ConfigurationFile gives the file of --config, else the first that is there; where none is, the first place of all, so
// that its absence is what the error tells.
func ConfigurationFile(cmd *cobra.Command) string {
	if file, err := cmd.Flags().GetString("config"); err == nil && file != "" {
		return file
	}
	if file := os.Getenv("TRIBUTARY_CONFIG"); file != "" {
		return file
	}
	name := cmd.Root().Name() + ".yaml"
	for _, file := range []string{name, "/etc/tributary/" + name} {
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return name
}

// JSON gives a verb the flag --json, which Output.JSON tells.
func JSON(cmd *cobra.Command) {
	cmd.Flags().Bool("json", false, "print one JSON document; an error too is JSON then")
}

// Change are the flags of a verb that changes something.
type Change struct {
	Plan, Yes bool
	Reason    string
}

// Flags gives the verb its flags; with a reason where others are told.
func (c *Change) Flags(cmd *cobra.Command, reason bool) {
	cmd.Flags().BoolVar(&c.Plan, "plan", false, "show what would be done, and do nothing")
	cmd.Flags().BoolVar(&c.Yes, "yes", false, "do not ask")
	if reason {
		cmd.Flags().StringVar(&c.Reason, "reason", "", "why, for the others")
	}
}

// Agreed says whether to go on, after the plan has been printed: it asks who sits at a terminal, and wants --yes elsewhere.
func (c *Change) Agreed(cmd *cobra.Command) (bool, error) {
	in := cmd.InOrStdin()
	switch {
	case c.Plan && c.Yes:
		return false, Usage(errors.New("either --plan or --yes"))
	case c.Plan:
		return false, nil
	case c.Yes:
		return true, nil
	case !IsTerminal(in):
		return false, Usage(errors.New("this changes something: say --yes, or --plan to see what would be done"))
	}
	_, _ = fmt.Fprint(cmd.ErrOrStderr(), "Go on? [y/N] ")
	return answered(cmd.Context(), in)
}

// answered waits for an answer, or for Ctrl-C.
func answered(ctx context.Context, in io.Reader) (bool, error) {
	typed, failed := make(chan string, 1), make(chan error, 1)
	go func() { // it ends with the process: nothing can end a read from a terminal
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			failed <- fmt.Errorf("read answer: %w", err)
			return
		}
		typed <- line
	}()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case err := <-failed:
		return false, err
	case line := <-typed:
		return strings.EqualFold(strings.TrimSpace(line), "y"), nil
	}
}

// Names of the annotations of a verb that its help shows.
const (
	Exits = "exits" // when it exits with which code, where that is not as usual
	See   = "see"   // where to read on
)

func init() { cobra.AddTemplateFunc("usage", usage) } //nolint:gochecknoinits // cobra has one set of them

// help is what --help prints.
const help = `{{with or .Long .Short}}{{. | trimTrailingWhitespaces}}{{end}}

Usage
  {{usage . 2}}
{{- if .HasExample}}

Examples
{{.Example}}{{end}}
{{- if .HasAvailableSubCommands}}

Verbs{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}
{{- if .HasAvailableLocalFlags}}

Flags
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}
{{- if .HasAvailableInheritedFlags}}

Flags of every verb
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}
{{- if or .HasExample (not .HasAvailableSubCommands)}}

Exit codes
{{with .Annotations.exits}}{{.}}{{else}}  0  done
  1  failed
  2  used wrongly: flag, argument or configuration; nothing was attempted{{end}}{{end}}
{{- with .Annotations.see}}

See
  {{.}}{{end}}
`
