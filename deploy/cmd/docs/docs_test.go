package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/deploy/docs"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/sink"
)

// top is the top of the repository as seen from this package.
const top = "../../.."

func TestGeneratedPagesAreFresh(t *testing.T) {
	all, err := pages()
	must(t, err)
	for name, want := range all {
		got, err := os.ReadFile(filepath.Join(top, name))
		must(t, err)
		if string(got) != want {
			t.Errorf("%s is stale: make docs", name)
		}
	}
	page, err := security(top)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(top, securityFile)); err != nil || string(got) != page {
		t.Errorf("%s is stale: make docs (%v)", securityFile, err)
	}
	service, err := unit(top)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(top, sinkUnit)); err != nil || string(got) != service {
		t.Errorf("%s is stale: make docs (%v)", sinkUnit, err)
	}
	books, err := runbooks(top)
	must(t, err)
	for name, want := range books {
		if got, err := os.ReadFile(filepath.Join(top, name)); err != nil || string(got) != want {
			t.Errorf("%s is stale: make docs (%v)", name, err)
		}
	}
	sum, err := picturesSum(top)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(top, picturesFile)); err != nil || string(got) != sum {
		t.Errorf("the pictures of the status pages are stale: make pictures (%v)", err)
	}
}

// Every code that a service raises has a runbook, since that is what an error points to; and no runbook is of a
// code that nothing raises.
func TestRunbooks(t *testing.T) {
	codes, raised := codes(t), map[string]bool{}
	for _, name := range raisedNames(t) {
		code, ok := codes[name]
		if !ok {
			t.Errorf("trouble.%s is raised and is no code", name)
		}
		raised[code] = true
	}
	if len(raised) < 30 {
		t.Fatalf("%d codes are raised: they are not found any more", len(raised))
	}
	files, err := filepath.Glob(filepath.Join(top, "docs/runbooks/*.md"))
	must(t, err)
	written := map[string]bool{}
	for _, file := range files {
		code := strings.TrimSuffix(filepath.Base(file), ".md")
		written[code] = true
		if !raised[code] {
			t.Errorf("docs/runbooks/%s.md: nothing raises this code", code)
		}
		text := readPage(t, "docs/runbooks/"+code+".md").Text
		last := 0
		for _, part := range []string{"# " + code + "\n", "**You see**", "**Why**", "**It means**", "**Do**", "**Good when**"} {
			at := strings.Index(text, part)
			if at < last {
				t.Errorf("docs/runbooks/%s.md: %q is missing or out of order", code, strings.TrimSpace(part))
			}
			last = at
		}
	}
	for code := range raised {
		if !written[code] {
			t.Errorf("docs/runbooks/%s.md is missing", code)
		}
	}
}

// codes gives the constants of package trouble by their name in Go.
func codes(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(top, "pkg/trouble/trouble.go"), nil, 0)
	must(t, err)
	out := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Code" {
			out[spec.Names[0].Name] = strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`)
		}
		return false
	})
	return out
}

// raisedNames gives the codes, by their name in Go, that the services' code mentions other than to compare with them.
func raisedNames(t *testing.T) []string {
	t.Helper()
	notCodes := []string{"Error", "Code", "CodeOf", "Print", "Runbook", "RunbookOf", "AlertRunbookOf", "Alerts", "Codes", "Key", "WithoutKeys", "Report"}
	var out []string
	for _, dir := range []string{"capture", "sink", "pkg", "deploy"} {
		must(t, filepath.WalkDir(filepath.Join(top, dir), func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BinaryExpr:
					if n.Op == token.EQL || n.Op == token.NEQ {
						return false
					}
				case *ast.CaseClause:
					for _, s := range n.Body {
						ast.Inspect(s, func(m ast.Node) bool { return mention(m, notCodes, &out) })
					}
					return false
				}
				return mention(n, notCodes, &out)
			})
			return nil
		}))
	}
	return out
}

func mention(n ast.Node, notCodes []string, out *[]string) bool {
	if b, ok := n.(*ast.BinaryExpr); ok && (b.Op == token.EQL || b.Op == token.NEQ) {
		return false
	}
	if s, ok := n.(*ast.SelectorExpr); ok {
		if pkg, ok := s.X.(*ast.Ident); ok && pkg.Name == "trouble" && !slices.Contains(notCodes, s.Sel.Name) {
			*out = append(*out, s.Sel.Name)
		}
	}
	return true
}

var (
	target = regexp.MustCompile("`make ([a-z-]+)")
	banned = regexp.MustCompile(`(?i)\b(simply|just|easy|easily)\b`)
	runBy  = regexp.MustCompile(`^run by (Test[A-Za-z0-9]+)`)
	tests  = regexp.MustCompile("`(Test[A-Za-z0-9]+)`")
	linked = regexp.MustCompile("\\[`(Test[A-Za-z0-9]+)`\\]\\(([^)]+)\\)")
)

func TestLinksResolve(t *testing.T) {
	for _, name := range allPages(t) {
		p := readPage(t, name)
		for _, to := range p.Links {
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(to, "#")
			full := name
			if file != "" {
				full = path.Join(path.Dir(name), file)
			}
			if _, err := os.Stat(filepath.Join(top, full)); err != nil {
				t.Errorf("%s links to %s, which is not there", name, to)
				continue
			}
			if anchor != "" && !slices.Contains(readPage(t, full).Anchors, anchor) {
				t.Errorf("%s links to %s, which has no such heading", name, to)
			}
		}
	}
}

// What the pages name must be there: make targets, and the tests that are said to show something.
func TestNamedThingsExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(top, "Makefile"))
	must(t, err)
	known := testNames(t)
	for _, name := range allPages(t) {
		p := readPage(t, name)
		for _, m := range target.FindAllStringSubmatch(p.Text, -1) {
			if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(m[1]) + `:`).Match(makefile) {
				t.Errorf("%s names make %s, which the Makefile has not", name, m[1])
			}
		}
		for _, m := range tests.FindAllStringSubmatch(p.Text, -1) {
			if !known[m[1]] {
				t.Errorf("%s names %s, which is no test", name, m[1])
			}
		}
		for _, m := range linked.FindAllStringSubmatch(p.Text, -1) {
			content, err := os.ReadFile(filepath.Join(top, path.Dir(name), m[2]))
			if err != nil || !strings.Contains(string(content), "\nfunc "+m[1]+"(") {
				t.Errorf("%s: %s is not in %s (%v)", name, m[1], m[2], err)
			}
		}
		for _, b := range p.Blocks {
			if m := runBy.FindStringSubmatch(b.Skip); m != nil && !known[m[1]] {
				t.Errorf("%s: a block is said to be run by %s, which is no test", name, m[1])
			}
		}
		for i, line := range strings.Split(p.Text, "\n") {
			if word := banned.FindString(line); word != "" {
				t.Errorf("%s:%d says %q", name, i+1, word)
			}
		}
	}
}

// Each release begins with what its reader has to do, as docs/operations/upgrade.md promises.
func TestChangelog(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(top, "CHANGELOG.md"))
	must(t, err)
	releases := strings.Split(string(content), "\n## ")[1:]
	if len(releases) == 0 {
		t.Fatal("there is no release, not even one to come")
	}
	for _, release := range releases {
		name, rest, _ := strings.Cut(release, "\n")
		if !strings.HasPrefix(rest, "\n### Before you upgrade\n") {
			t.Errorf("%s does not begin with what comes before an upgrade", name)
		}
	}
}

// A configuration in a page must be one that the services take. The first line of a block says which it is.
func TestConfigurationsAreValid(t *testing.T) {
	seen := 0
	for _, name := range allPages(t) {
		for _, b := range readPage(t, name).Blocks {
			if !strings.HasPrefix(b.Info, "yaml") {
				continue
			}
			var cfg any
			switch first, _, _ := strings.Cut(b.Text, "\n"); {
			case strings.HasPrefix(first, "# capture.yaml"):
				cfg = &capture.Config{}
			case strings.HasPrefix(first, "# sink.yaml"):
				cfg = &sink.Config{}
			default:
				t.Errorf("%s: a YAML block must begin with # capture.yaml or # sink.yaml", name)
				continue
			}
			seen++
			if err := config.Decode(name, []byte(b.Text), cfg); err != nil {
				t.Error(err)
			}
		}
	}
	if seen < 2 {
		t.Errorf("%d configurations in the pages, want at least one of each service", seen)
	}
}

func testNames(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(`)
	for _, dir := range []string{"schema", "pkg", "capture", "sink", "deploy"} {
		must(t, filepath.WalkDir(filepath.Join(top, dir), func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(name, "_test.go") {
				return err
			}
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			for _, m := range function.FindAllStringSubmatch(string(content), -1) {
				out[m[1]] = true
			}
			return nil
		}))
	}
	return out
}

// allPages gives the Markdown files of the repository, as paths below its top.
func allPages(t *testing.T) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != top && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "bin" || entry.Name() == "dist") {
			return fs.SkipDir
		}
		if strings.HasSuffix(name, ".md") {
			relative, err := filepath.Rel(top, name)
			out = append(out, filepath.ToSlash(relative))
			return err
		}
		return nil
	}))
	if len(out) < 30 {
		t.Fatalf("found %d pages: %v", len(out), out)
	}
	return out
}

// readPage takes a page apart, by its path below the top.
func readPage(t *testing.T, name string) *docs.Page {
	t.Helper()
	p, err := docs.Read(filepath.Join(top, name))
	must(t, err)
	return p
}

// block gives the text of a page's one block with this info string.
func block(t *testing.T, p *docs.Page, info string) string {
	t.Helper()
	var found []string
	for _, b := range p.Blocks {
		if b.Info == info {
			found = append(found, b.Text)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks of %q, want 1", p.File, len(found), info)
	}
	return found[0]
}
