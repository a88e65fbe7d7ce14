package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// shipped are the programs that others get, in archives and images, with the texts that go along.
var shipped = []string{"capture", "sink"}

// isText says whether a file is one that a licence wants to go along.
var isText = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice)(\.(txt|md))?$`)

// texts gives the licences and notices of all that is built into the shipped programs, on any system: each text once, below
// the names of those whose it is.
func texts(top string) (string, error) {
	owners := map[string][]string{} // of each text
	add := func(owner, file string) error {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text := strings.Trim(strings.ReplaceAll(string(content), "\r\n", "\n"), "\n")
		if !slices.Contains(owners[text], owner) {
			owners[text] = append(owners[text], owner)
		}
		return nil
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("ask where Go is: %w", err)
	}
	if err := add("Go, its runtime and standard library", filepath.Join(strings.TrimSpace(string(root)), "LICENSE")); err != nil {
		return "", err
	}
	for _, program := range shipped {
		for _, system := range []string{"linux", "darwin"} {
			if err := textsOf(filepath.Join(top, program), program, system, add); err != nil {
				return "", fmt.Errorf("of %s for %s: %w", program, system, err)
			}
		}
	}
	if err := textsOfPage(filepath.Join(top, "pkg/service/page"), add); err != nil {
		return "", err
	}
	var all []string
	for text := range owners {
		slices.Sort(owners[text])
		all = append(all, text)
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(cmp.Compare(owners[a][0], owners[b][0]), cmp.Compare(a, b)) })
	var b strings.Builder
	b.WriteString("What of other people is in capture and sink, and under which terms. This file is written by `make docs`.\n")
	for _, text := range all {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 80), strings.Join(owners[text], "\n"), text)
	}
	return b.String(), nil
}

// textsOf adds what stands beside the packages of a program, and above them up to the top of their module: parts of a module
// may be somebody else's.
func textsOf(dir, program, system string, add func(owner, file string) error) error {
	cmd := exec.Command("go", "list", "-deps", "-f", `{{with .Module}}{{if not (or .Main .Replace)}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}{{"\t"}}{{.Dir}}`, "./cmd/"+program) //nolint:gosec // names of ours
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOOS="+system, "GOARCH=amd64")
	listed, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("list packages: %w", err)
	}
	for line := range strings.Lines(string(listed)) {
		module, at, _ := strings.Cut(strings.TrimSpace(line), "\t")
		words := strings.SplitN(module, " ", 3)
		if len(words) != 3 {
			continue // ours, or Go's
		}
		for ; strings.HasPrefix(at, words[2]); at = filepath.Dir(at) {
			entries, err := os.ReadDir(at)
			if err != nil {
				return err
			}
			for _, entry := range entries {
				if entry.IsDir() || !isText.MatchString(entry.Name()) {
					continue
				}
				if err := add(words[0]+" "+words[1], filepath.Join(at, entry.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// textsOfPage adds what the status page has from others.
func textsOfPage(dir string, add func(owner, file string) error) error {
	content, err := os.ReadFile(filepath.Join(dir, "vendor.json"))
	if err != nil {
		return err
	}
	var vendored []struct {
		Name, Version string
		Files         []struct{ To string }
	}
	if err := json.Unmarshal(content, &vendored); err != nil {
		return fmt.Errorf("read vendor.json: %w", err)
	}
	for _, v := range vendored {
		for _, file := range v.Files {
			if strings.HasPrefix(file.To, "static/") && strings.HasSuffix(file.To, ".LICENSE") {
				if err := add(v.Name+" "+v.Version, filepath.Join(dir, file.To)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
