package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestHelp: each verb's help is as those of capture and sink, and its usage names its flags.
func TestHelp(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		var out bytes.Buffer
		root := command()
		root.SetOut(&out)
		root.SetArgs(append(strings.Fields(cmd.CommandPath())[1:], "--help"))
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		_, usage, ok := strings.Cut(out.String(), "\nUsage\n  local")
		usage, _, _ = strings.Cut(usage, "\n\n")
		if !ok || strings.Contains(usage, "[flags]") || cmd.Name() == "broker" && usage != " broker [--dir DIR] [--kafka KAFKA] [--registry REGISTRY]" {
			t.Errorf("help of %s: %s", cmd.CommandPath(), out.String())
		}
		for _, verb := range cmd.Commands() {
			walk(verb)
		}
	}
	walk(command())
}
