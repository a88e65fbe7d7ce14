// Command audit looks at what the programs are made of: the licence of every module, and what is known against them.
// Each licence has to be allowed.
//
// With -write it writes the texts of these licences, which go along with what is shipped, and looks at nothing else.
//
// Run it in a module below the top of the repository. What cannot be looked at, since there is no network, is said and is
// no failure.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// programs are our modules, by their directories from the top.
var programs = []string{"schema", "pkg", "capture", "sink", "deploy"}

func main() {
	top := flag.String("top", "..", "top of the repository")
	write := flag.String("write", "", "file to write the texts to")
	flag.Parse()
	err := func() error {
		if *write == "" {
			return run(*top, os.Stdout)
		}
		text, err := texts(*top)
		if err != nil {
			return err
		}
		return os.WriteFile(*write, []byte(text), 0o644) //nolint:gosec // it is for everybody
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(top string, out io.Writer) error {
	modules, err := licences(top, programs)
	if err != nil {
		return err
	}
	return errors.Join(printLicences(out, modules), vulnerabilities(top, programs, out))
}

// module is one that is built into a program.
type module struct {
	Path    string `json:"name"`
	Version string `json:"version"`
	Licence string `json:"licence"` // as SPDX calls it; "" where it cannot be told
	dir     string
}

// licences gives what is of other people in our programs: the modules from which all our packages are built, tests aside,
// and what the status page has with it.
func licences(top string, programs []string) ([]module, error) {
	found := map[string]module{}
	for _, program := range programs {
		cmd := exec.Command("go", "list", "-deps", "-f", `{{with .Module}}{{if not .Main}}{{with .Replace}}{{else}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}{{end}}`, "./...")
		cmd.Dir = filepath.Join(top, program)
		cmd.Env = append(os.Environ(), "GOWORK=off")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		listed, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("list modules of %s: %w: %s", program, err, stderr.String())
		}
		for line := range strings.SplitSeq(string(listed), "\n") {
			if words := strings.SplitN(line, " ", 3); len(words) == 3 && !strings.HasPrefix(words[0], "github.com/tributary-cdc/") {
				found[words[0]+"@"+words[1]] = module{Path: words[0], Version: words[1], dir: words[2]}
			}
		}
	}
	// What the status page has from others is in our own tree.
	vendored, err := os.ReadFile(filepath.Join(top, "pkg/service/page/vendor.json"))
	if err != nil {
		return nil, err
	}
	var all []module
	if err := json.Unmarshal(vendored, &all); err != nil {
		return nil, fmt.Errorf("read vendor.json: %w", err)
	}
	for _, m := range found {
		var err error
		if m.Licence, err = licenceIn(m.dir); err != nil {
			return nil, fmt.Errorf("read licence of %s: %w", m.Path, err)
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b module) int { return strings.Compare(a.Path+"@"+a.Version, b.Path+"@"+b.Version) })
	return all, nil
}

// licenceIn gives the licence of what is in dir: that of its licence files, which have to be of one kind or each allowed.
func licenceIn(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var kinds []string
	for _, entry := range entries {
		name := strings.ToUpper(entry.Name())
		if entry.IsDir() || !strings.HasPrefix(name, "LICENSE") && !strings.HasPrefix(name, "LICENCE") && !strings.HasPrefix(name, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return "", err
		}
		kind := classify(string(text))
		if kind == "" {
			return "", nil
		}
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return strings.Join(kinds, " AND "), nil
}

const publicDomain = "LicenseRef-public-domain"

// marks tell a licence by words that it has and others have not. The first that fits decides: the copyleft ones, which
// quote others, stand first.
var marks = []struct {
	licence string
	words   []string
}{
	{"AGPL", []string{"gnu affero general public license"}},
	{"LGPL", []string{"gnu lesser general public license"}},
	{"GPL", []string{"gnu general public license"}},
	{"MPL-2.0", []string{"mozilla public license", "2.0"}},
	{"BUSL-1.1", []string{"business source license"}},
	{"Apache-2.0", []string{"apache license", "version 2.0"}},
	{"BSD-3-Clause", []string{"redistribution and use in source and binary forms", "neither the name"}},
	{"BSD-3-Clause", []string{"redistribution and use in source and binary forms", "may not be used to endorse or promote"}},
	{"BSD-2-Clause", []string{"redistribution and use in source and binary forms"}},
	{"MIT", []string{"permission is hereby granted, free of charge", "the above copyright notice and this permission notice shall be included"}},
	{"ISC", []string{"permission to use, copy, modify, and/or distribute this software"}},
	{"ISC", []string{"permission to use, copy, modify, and distribute this software for any purpose"}},
	{publicDomain, []string{"public domain"}},
}

// classify gives the licence that a text is, "" for none that is known.
func classify(text string) string {
	text = strings.Join(strings.Fields(strings.ToLower(text)), " ")
	// Apache's and Mozilla's texts name the GNU licences where they speak of compatibility.
	if strings.HasPrefix(text, "mozilla public license") {
		return "MPL-2.0"
	}
	for _, m := range marks {
		if !slices.ContainsFunc(m.words, func(word string) bool { return !strings.Contains(text, word) }) {
			return m.licence
		}
	}
	return ""
}

// allowed are the licences that what we ship may have: they ask for no more than that their text goes along.
var allowed = []string{publicDomain, "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"}

// exceptions are modules under another licence that somebody has looked at.
var exceptions = map[string]string{
	"axe-core": "MPL-2.0", // looks at the page in tests, unchanged, and is in no program
}

func fits(m module) bool {
	if m.Licence == "" {
		return false
	}
	for kind := range strings.SplitSeq(m.Licence, " AND ") {
		if !slices.Contains(allowed, kind) && exceptions[m.Path] != kind {
			return false
		}
	}
	return true
}

func printLicences(out io.Writer, modules []module) error {
	count, wrong := map[string]int{}, []string{}
	for _, m := range modules {
		count[m.Licence]++
		if !fits(m) {
			licence := m.Licence
			if licence == "" {
				licence = "no licence that is known here"
			}
			wrong = append(wrong, fmt.Sprintf("%s %s: %s", m.Path, m.Version, licence))
		}
	}
	fmt.Fprintf(out, "licences         %d modules", len(modules))
	for _, kind := range allowed {
		if count[kind] > 0 {
			fmt.Fprintf(out, ", %d %s", count[kind], kind)
		}
	}
	fmt.Fprintln(out)
	if len(wrong) > 0 {
		return fmt.Errorf("modules whose licence is not allowed:\n  %s", strings.Join(wrong, "\n  "))
	}
	return nil
}

// govulncheck is the checker of the Go project, which looks whether a known hole is in code that is reached.
const govulncheck = "golang.org/x/vuln/cmd/govulncheck@v1.9.0"

// vulnerabilities asks the Go project's database about each module.
func vulnerabilities(top string, programs []string, out io.Writer) error {
	var failed []error
	for _, program := range programs {
		cmd := exec.Command("go", "run", govulncheck, "./...")
		cmd.Dir = filepath.Join(top, program)
		cmd.Env = append(os.Environ(), "GOWORK=off")
		answer, err := cmd.CombinedOutput()
		switch {
		case err == nil:
			fmt.Fprintf(out, "vulnerabilities  none known in what %s reaches\n", program)
		case unreachable(string(answer)):
			fmt.Fprintf(out, "vulnerabilities  NOT LOOKED AT: the database of the Go project cannot be reached (%s)\n", lastLine(string(answer)))
			return errors.Join(failed...)
		default:
			failed = append(failed, fmt.Errorf("govulncheck of %s: %w\n%s", program, err, answer))
		}
	}
	return errors.Join(failed...)
}

// unreachable says whether the database, or the tool itself, could not be fetched. Where anything was found it was: what is
// told of a hole, and the names on the way to it, may have each of the signs.
func unreachable(answer string) bool {
	if strings.Contains(answer, "Vulnerability #") || strings.Contains(answer, "exit status 3") {
		return false
	}
	for _, sign := range []string{"fetching vulnerabilities", "dial tcp", "no such host", "connection refused", "i/o timeout", "proxyconnect", "Forbidden", "unexpected status"} {
		if strings.Contains(answer, sign) {
			return true
		}
	}
	return false
}

// lastLine gives why: the last line that is not go run's own.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := len(lines) - 1; i > 0; i-- {
		if !strings.HasPrefix(lines[i], "exit status") {
			return strings.TrimSpace(lines[i])
		}
	}
	return strings.TrimSpace(lines[0])
}
