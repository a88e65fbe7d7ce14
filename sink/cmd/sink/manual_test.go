package main

import (
	"os"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/verbs"
)

// TestManualIsFresh: docs/reference/cli.md says what --help says.
func TestManualIsFresh(t *testing.T) {
	page, err := os.ReadFile("../../../docs/reference/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	chapter, err := verbs.Markdown(command())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), chapter) {
		t.Error("docs/reference/cli.md is stale: make docs")
	}
}
