package verbstest

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestDocumented(t *testing.T) {
	tenant := &cobra.Command{Use: "tenant"}
	pause := &cobra.Command{Use: "pause SOURCE [TABLE]", Run: func(*cobra.Command, []string) {}}
	pause.Flags().Int64("skip", 0, "")
	tenant.AddCommand(pause)
	root := &cobra.Command{Use: "sink"}
	root.AddCommand(tenant)
	for page, want := range map[string]string{
		"```sh\nsink tenant pause a\n```\n":                       "",
		"```sh\nsink tenant pause\n```\n":                         "it wants",
		"1. so:\n\n   ```sh\n   bin/sink tenant paus a\n   ```\n": `no "paus"`,
		"```console\n$ sink tenant paus a\nsink b\n```\n":         `no "paus"`,
		"```text\nsink b, as `sink b` says\n```\n":                "",
		"with `sink tenant pause` it is, or `sink tenant`":        "",
		"with `sink tenant pause --skip`, or `--skip OFFSET`":     "",
		"with `sink tenant pause --skip OFFSET`":                  "",
		"with `sink tenant pause --skp 1`":                        "unknown flag",
		"with `sink tenants`, not sink tenants":                   "unknown command",
		"```sh\nls\n```\nthen `sink tenant resume`":               `no "resume"`,
	} {
		got := documented(root, page)
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
			t.Errorf("%q: %q, want %q", page, got, want)
		}
	}
}
