package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Two releases of one source, made in two places, are the same; and what is in one is whole.
func TestRelease(t *testing.T) {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	var outs []string
	for range 2 {
		t.Setenv("TMPDIR", t.TempDir())
		r := release{
			top: "../../..", out: filepath.Join(t.TempDir(), "out"), version: "1.2.3-test", revision: "abcdef012345",
			at: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		}
		must(t, r.build(t.Context(), []string{platform}))
		outs = append(outs, r.out)
	}
	sums := read(t, outs[0], "SHA256SUMS")
	if other := read(t, outs[1], "SHA256SUMS"); string(sums) != string(other) {
		t.Errorf("two builds differ:\n%s\n%s", sums, other)
	}
	var archive string
	listed := 0
	for line := range strings.Lines(string(sums)) {
		listed++
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if got := fmt.Sprintf("%x", sha256.Sum256(read(t, outs[0], name))); got != sum {
			t.Errorf("%s has the sum %s, listed is %s", name, got, sum)
		}
		if strings.HasSuffix(name, ".tar.gz") {
			archive = name
		}
	}
	entries, err := os.ReadDir(outs[0])
	must(t, err)
	if listed != len(entries)-1 || listed != 1+len(programs) {
		t.Errorf("%d files are listed of %d", listed, len(entries))
	}
	dir := unpack(t, filepath.Join(outs[0], archive))
	for _, name := range []string{
		"README.md", "CHANGELOG.md", "LICENSE", "THIRD-PARTY-LICENSES", "systemd/tributary-capture@.service", "examples/tenants/sink.yaml",
		"share/man/man1/capture.1", "share/man/man1/capture-run.1", "share/man/man1/sink.1",
		"completions/bash/sink", "completions/zsh/_capture", "completions/fish/sink.fish",
	} {
		read(t, dir, name)
	}
	for _, program := range programs {
		binary := filepath.Join(dir, "bin", program)
		out, err := exec.CommandContext(t.Context(), binary, "version").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "1.2.3-test") || !strings.Contains(string(out), "abcdef012345") {
			t.Errorf("%s says of its version (%v): %s", program, err, out)
		}
		if runtime.GOOS == "linux" {
			file, err := elf.Open(binary)
			must(t, err)
			if libraries, err := file.ImportedLibraries(); err != nil || len(libraries) > 0 {
				t.Errorf("%s is not static: it wants %v (%v)", program, libraries, err)
			}
			must(t, file.Close())
		}
		checkBill(t, read(t, outs[0], fmt.Sprintf("%s-1.2.3-test-%s-%s.cdx.json", program, runtime.GOOS, runtime.GOARCH)), program, binary)
	}
}

// checkBill holds a bill of materials against what go says of the program.
func checkBill(t *testing.T, text []byte, program, binary string) {
	t.Helper()
	var b bom
	must(t, json.Unmarshal(text, &b))
	if b.Format != "CycloneDX" || b.SpecVersion != "1.6" || b.Version != 1 || !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(b.SerialNumber) {
		t.Errorf("%s: the head of the bill is %+v", program, b)
	}
	content, err := os.ReadFile(binary)
	must(t, err)
	if h := b.Metadata.Component.Hashes; len(h) != 1 || h[0].Content != fmt.Sprintf("%x", sha256.Sum256(content)) {
		t.Errorf("%s: the bill is of another program: %v", program, h)
	}
	refs := map[string]bool{}
	for _, c := range b.Components {
		if refs[c.Ref] || c.Version == "" || c.PURL != "pkg:golang/"+c.Name+"@"+c.Version {
			t.Errorf("%s: component %+v", program, c)
		}
		refs[c.Ref] = true
	}
	listing, err := exec.CommandContext(t.Context(), "go", "version", "-m", binary).Output()
	must(t, err)
	deps := 0
	for line := range strings.Lines(string(listing)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "dep" {
			continue
		}
		deps++
		name, version := fields[1], fields[2]
		if strings.HasPrefix(name, "github.com/tributary-cdc/tributary/") {
			version = "1.2.3-test"
		}
		if !refs["pkg:golang/"+name+"@"+version] {
			t.Errorf("%s: %s %s is in it, and not in the bill", program, name, version)
		}
	}
	if deps == 0 || len(b.Components) != deps+1 {
		t.Errorf("%s: the bill has %d components, go counts %d and itself", program, len(b.Components), deps)
	}
}

// unpack gives the one directory in the archive.
func unpack(t *testing.T, archive string) string {
	t.Helper()
	file, err := os.Open(archive)
	must(t, err)
	defer file.Close()
	zipped, err := gzip.NewReader(file)
	must(t, err)
	to, top := t.TempDir(), ""
	for packed := tar.NewReader(zipped); ; {
		header, err := packed.Next()
		if errors.Is(err, io.EOF) {
			return filepath.Join(to, top)
		}
		must(t, err)
		if !filepath.IsLocal(header.Name) {
			t.Fatalf("the archive has %q", header.Name)
		}
		top, _, _ = strings.Cut(header.Name, "/")
		path := filepath.Join(to, header.Name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		text, err := io.ReadAll(packed)
		must(t, err)
		must(t, os.WriteFile(path, text, fs.FileMode(header.Mode).Perm()))
	}
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	must(t, err)
	return text
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
