package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	for want, text := range map[string]string{
		"MIT":          "MIT License\n\nPermission is hereby granted, free of\ncharge, to any person … The above copyright notice and this permission notice shall be\nincluded in all copies",
		"Apache-2.0":   "                              Apache License\n                        Version 2.0, January 2004",
		"BSD-3-Clause": "Redistribution and use in source and binary forms, with or without … * Neither the name of Google Inc.",
		"BSD-2-Clause": "Redistribution and use in source and\nbinary forms, with or without modification, are permitted",
		"ISC":          "Permission to use, copy, modify, and/or distribute this software for any purpose",
		"MPL-2.0":      "Mozilla Public License, version 2.0\n … the GNU General Public License, Version 2.0",
		"GPL":          "GNU GENERAL PUBLIC LICENSE\n Version 3",
		"AGPL":         "GNU AFFERO GENERAL PUBLIC LICENSE\n Version 3 … GNU General Public License",
		"BUSL-1.1":     "Business Source License 1.1",
		"":             "All rights reserved.",
	} {
		if got := classify(text); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestWrongLicences: what is not allowed, or not known, fails and is named.
func TestWrongLicences(t *testing.T) {
	var out bytes.Buffer
	err := printLicences(&out, []module{
		{Path: "good", Licence: "MIT"}, {Path: "both", Licence: "Apache-2.0 AND MIT"}, {Path: "copyleft", Version: "v1", Licence: "AGPL"}, {Path: "mixed", Licence: "GPL AND MIT"}, {Path: "none"},
	})
	for name, wrong := range map[string]bool{"good": false, "both": false, "copyleft v1: AGPL": true, "mixed": true, "none": true} {
		if got := err != nil && strings.Contains(err.Error(), name); got != wrong {
			t.Errorf("%s is refused: %t", name, got)
		}
	}
}

func TestLicenceIn(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	is := func(want string) {
		t.Helper()
		if got, err := licenceIn(dir); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	is("")
	write("LICENSE", "Apache License Version 2.0")
	write("README", "GNU General Public License")
	is("Apache-2.0")
	write("LICENSE-ISC.txt", "Permission to use, copy, modify, and/or distribute this software")
	is("Apache-2.0 AND ISC")
	write("COPYING", "ask me")
	is("")
}

// TestOurModules: the modules from which our programs are built have licences that are allowed.
func TestOurModules(t *testing.T) {
	modules, err := licences("../../..", programs)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printLicences(&out, modules); err != nil {
		t.Error(err)
	}
	if len(modules) < 30 || !strings.Contains(out.String(), "Apache-2.0") {
		t.Errorf("%d modules: %s", len(modules), out.String())
	}
}

// TestModulesAgree: each module builds by its own go.mod, tests too, and all have the same versions of what several use. So what
// make test runs in the workspace is what is shipped, and nothing is compiled twice.
func TestModulesAgree(t *testing.T) {
	versions := map[string]map[string][]string{} // by path and version: modules of ours
	for _, name := range []string{"schema", "pkg", "capture", "sink", "deploy"} {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-test", "-f", `{{with .Module}}{{if and .Version (not .Replace)}}{{.Path}} {{.Version}}{{end}}{{end}}`, "./...")
		cmd.Dir = filepath.Join("../../..", name)
		cmd.Env = append(os.Environ(), "GOWORK=off")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		listed, err := cmd.Output()
		if err != nil {
			t.Fatalf("list modules of %s: %v: %s", name, err, stderr.String())
		}
		for line := range strings.Lines(string(listed)) {
			path, version, _ := strings.Cut(strings.TrimSpace(line), " ")
			if versions[path] == nil {
				versions[path] = map[string][]string{}
			}
			if users := versions[path][version]; !slices.Contains(users, name) {
				versions[path][version] = append(users, name)
			}
		}
	}
	if len(versions) < 30 {
		t.Errorf("%d modules are used: they are not found any more", len(versions))
	}
	for path, users := range versions {
		if len(users) > 1 {
			t.Errorf("%s is used in several versions: %v", path, users)
		}
	}
}

// TestTexts: of all that is in the shipped programs, the texts go along.
func TestTexts(t *testing.T) {
	want, err := texts("../../..")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../../THIRD-PARTY-LICENSES")
	if err != nil || string(got) != want {
		t.Errorf("THIRD-PARTY-LICENSES is stale: make docs (%v)", err)
	}
	modules, err := licences("../../..", shipped)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range modules {
		if name := m.Path + " " + m.Version; exceptions[m.Path] == "" && !strings.Contains(want, "\n"+name+"\n") {
			t.Errorf("the licence of %s is not there", name)
		}
	}
}

// TestUnreachable: what govulncheck v1.9.0 says without a network passes; no finding does, whatever its text speaks of.
func TestUnreachable(t *testing.T) {
	for _, answer := range []string{
		"govulncheck: fetching vulnerabilities: Get \"https://vuln.go.dev/index/modules.json.gz\": dial tcp: lookup vuln.go.dev on 10.0.0.1:53: no such host\nexit status 1",
		"go: golang.org/x/vuln/cmd/govulncheck@v1.9.0: reading https://proxy.golang.org/golang.org/x/vuln/@v/v1.9.0.info: 403 Forbidden",
	} {
		if !unreachable(answer) {
			t.Errorf("no network is a failure: %s", answer)
		}
	}
	finding := `=== Symbol Results ===

Vulnerability #1: GO-2026-9999
    Panic on dial tcp: connection refused in github.com/hamba/avro/v2
  More info: https://pkg.go.dev/vuln/GO-2026-9999
  Module: github.com/hamba/avro/v2
    Found in: github.com/hamba/avro/v2@v2.31.0
    Fixed in: N/A
    Example traces found:
      #1: record/node.go:50:20: record.compileNode calls avro.ArraySchema.Items
`
	for _, answer := range []string{finding, finding + "exit status 3", "A server that answers Forbidden, or with an unexpected status, after an i/o timeout\nexit status 3"} {
		if unreachable(answer) {
			t.Errorf("a vulnerability is passed over: %s", answer)
		}
	}
	if unreachable("govulncheck: loading packages: \nThere are errors with the provided package patterns\nexit status 1") {
		t.Error("a failure that is not the network's is passed over")
	}
}
