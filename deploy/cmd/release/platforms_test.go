package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// TestPlatforms: everything fits together, tests and tools too, for the platform of which this machine has neither system nor
// architecture. Types alone are checked: to compile it all for each takes minutes (make release does).
func TestPlatforms(t *testing.T) {
	top, err := filepath.Abs("../../..")
	must(t, err)
	// Not go.work itself, beside which go would write.
	text, err := os.ReadFile(filepath.Join(top, "go.work"))
	must(t, err)
	work, patterns := filepath.Join(t.TempDir(), "go.work"), []string{}
	for word := range strings.FieldsSeq(string(text)) {
		if strings.HasPrefix(word, "./") {
			patterns = append(patterns, word+"/...")
		}
	}
	must(t, os.WriteFile(work, []byte(strings.ReplaceAll(string(text), "./", top+"/")), 0o600))
	for platform := range strings.SplitSeq(supported, ",") {
		system, arch, _ := strings.Cut(platform, "/")
		if system == runtime.GOOS || arch == runtime.GOARCH {
			continue
		}
		loaded, err := packages.Load(&packages.Config{
			Mode: packages.LoadAllSyntax, Dir: top, Tests: true, Context: t.Context(),
			Env: append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK="+work, "GOOS="+system, "GOARCH="+arch),
		}, patterns...)
		must(t, err)
		if len(loaded) < 50 {
			t.Errorf("%s: %d packages", platform, len(loaded))
		}
		packages.Visit(loaded, nil, func(p *packages.Package) {
			for _, err := range p.Errors {
				t.Errorf("%s: %s: %v", platform, p.PkgPath, err)
			}
		})
	}
}
