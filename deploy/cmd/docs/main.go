// Command docs writes what of docs/reference is derived from the code: a page and a JSON Schema for each configuration
// file. The rest of docs is written by people; the tests here hold it against the code.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/sink"
)

// root is the top of the repository as seen from deploy, where `make docs` runs this.
const root = ".."

func main() {
	books, err := runbooks(root)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error: read runbooks:", err)
		os.Exit(1)
	}
	all := pages()
	all[runbooksFile] = books
	for path, content := range all {
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o644); err != nil { //nolint:gosec // documentation is for everybody
			fmt.Fprintln(os.Stderr, "error: write reference:", err)
			os.Exit(1)
		}
	}
}

// pages gives the generated pages by their path below the top of the repository.
func pages() map[string]string {
	return map[string]string{
		"docs/reference/capture-yaml.md": page(&capture.Config{}, "capture.yaml", "capture"),
		"docs/reference/sink-yaml.md":    page(&sink.Config{}, "sink.yaml", "sink"),

		"docs/reference/capture.schema.json": string(config.Schema(&capture.Config{}, "capture.yaml")),
		"docs/reference/sink.schema.json":    string(config.Schema(&sink.Config{}, "sink.yaml")),
	}
}

// runbooksFile is where the services have the runbooks from: what is embedded must lie beside the code.
const runbooksFile = "pkg/trouble/runbooks.txt"

// runbooks gives all files of docs/runbooks as one.
func runbooks(top string) (string, error) {
	files, err := filepath.Glob(filepath.Join(top, "docs/runbooks/*.md"))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		b.Write(text)
		b.WriteByte('\n')
	}
	return b.String(), nil
}

func page(cfg any, file, program string) string {
	return config.Reference(cfg, file) + fmt.Sprintf(`
A key that is not in this list is an error, with the nearest known one named; all faults of a file are told at once.
A variable of the environment wins over the file; lists of blocks have none. A secret may be written as `+"`file:/path`"+` or
`+"`env:NAME`"+`; it is never shown. Sizes are written like `+"`16MiB`"+`, durations like `+"`100ms`"+`.
`+"`%s check -c %s`"+` holds a configuration against what it names.

This page is written by `+"`make docs`"+`.
`, program, file)
}
