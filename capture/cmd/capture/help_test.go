package main

import (
	"testing"

	"github.com/tributary-cdc/tributary/pkg/terminal"
)

func TestHelp(t *testing.T) {
	for _, wrong := range terminal.Examples(command()) {
		t.Error(wrong)
	}
}
