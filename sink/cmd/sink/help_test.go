package main

import (
	"testing"

	"github.com/tributary-cdc/tributary/pkg/verbs/verbstest"
)

func TestHelp(t *testing.T) { verbstest.Help(t, command()) }

func TestDocumented(t *testing.T) { verbstest.Documented(t, command()) }

func TestManualIsFresh(t *testing.T) { verbstest.Manual(t, command()) }
