package main

import (
	"io/fs"
	"os"
	"path"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func TestHelp(t *testing.T) {
	for _, wrong := range terminal.Examples(command()) {
		t.Error(wrong)
	}
}

// TestDocumented: what the pages and the runbooks say to type can be typed.
func TestDocumented(t *testing.T) {
	top := os.DirFS("../../..")
	for _, dir := range []string{".", "docs", "docs/operations", "docs/runbooks", "docs/runbooks/alerts", "docs/reference"} {
		pages, err := fs.Glob(top, path.Join(dir, "*.md"))
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range pages {
			if page == "docs/differences.md" {
				continue // it names what there is not
			}
			text, err := fs.ReadFile(top, page)
			if err != nil {
				t.Fatal(err)
			}
			for _, wrong := range terminal.Documented(command(), string(text)) {
				t.Errorf("%s: %s", page, wrong)
			}
		}
	}
}
