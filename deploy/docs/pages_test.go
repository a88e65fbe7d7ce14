package docs

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/deploy/local/prompt"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/sink"
)

var update = flag.Bool("update", false, "write into the pages what the programs say, and into the list which blocks are not run")

// top is the top of the repository as seen from here.
const top = "../.."

// TestPages does what the pages say, each page from its top to its end, with the real programs on empty databases. What a
// block does is in its kind:
//
//	console   lines with $ are run, in one shell for the whole page; below each is what it says: where it fails, an error.
//	          "console service": it stays running, and has said so within two minutes. "console repeat": until it says so
//	sh        is run, and no command of it fails
//	yaml      is a configuration, as its first line says; with title=FILE it is also written to that file
//	sql       with "source", its "standby", its successor "new", or "warehouse" is run there, or in the database that a
//	          third word names. The warehouse is asked as the role of sink, with role=admin by who may do all, and the page says so.
//	          A block of text behind it is the result, for which is waited
//	json      is JSON
//	text      is read by people
//	world     in a comment only: does to the machines what the page speaks of, see ground.do
//
// A block of another kind, or of none, is an error. Blocks that are not run here are listed in the file untested, with the
// reason, which may be that another test does.
func TestPages(t *testing.T) {
	var untested []string
	var together []*Page
	for _, name := range pages(t) {
		p, err := Read(filepath.Join(top, name))
		must(t, err)
		runs := 0
		for _, b := range p.Blocks {
			switch {
			case !slices.Contains([]string{"console", "sh", "yaml", "sql", "json", "text", "world"}, b.Kind()):
				t.Errorf("%s:%d: a block of kind %q", name, b.Line, b.Info)
			case !isRun(b):
			case b.Skip != "":
				untested = append(untested, name+": "+b.Skip)
			case b.Kind() == "sql" && !slices.Contains([]string{"source", "standby", "new", "warehouse"}, b.Word(1)):
				t.Errorf("%s:%d: it does not say where this SQL is run: sql source, or sql warehouse", name, b.Line)
			default:
				runs++
			}
		}
		switch {
		case runs == 0:
		case slices.Contains(p.Needs, "busy shop") || strings.HasPrefix(name, "docs/runbooks/"):
			together = append(together, p)
		default:
			t.Run(strings.TrimSuffix(name, ".md"), func(t *testing.T) {
				if slices.Contains(p.Needs, "minutes") && os.Getenv("TRIBUTARY_DOCS") != "all" {
					t.Skipf("it takes minutes; TRIBUTARY_DOCS=all runs its %d blocks too", runs)
				}
				newGround(t, p).follow(p)
			})
		}
	}
	t.Run("together", func(t *testing.T) { followTogether(t, together) })
	checkUntested(t, untested)
}

// followTogether follows pages one after the other on one ground, which each leaves as it was. A runbook raises its trouble
// first where that takes no more than a moment; else its commands are run where all is well.
func followTogether(t *testing.T, pages []*Page) {
	all := &Page{Needs: []string{"busy shop"}}
	for _, p := range pages {
		all.Blocks = append(all.Blocks, p.Blocks...)
	}
	g := newGround(t, all)
	for _, p := range pages {
		name := strings.TrimSuffix(strings.TrimPrefix(p.File, top+"/"), ".md")
		ok := t.Run(name, func(sub *testing.T) {
			g.t, g.shell.t = sub, sub
			defer func() { g.t, g.shell.t = t, t }()
			g.follow(p)
		})
		if !ok {
			t.Fatalf("the pages behind %s are not run: the ground is as that has left it", name)
		}
	}
}

// isRun says whether a block is something to do.
func isRun(b Block) bool {
	return slices.Contains([]string{"console", "sh", "sql"}, b.Kind())
}

// checkUntested compares what is not run with the file that lists it, so that it does not grow unnoticed.
func checkUntested(t *testing.T, untested []string) {
	t.Helper()
	t.Logf("%d blocks are not run", len(untested))
	now := strings.Join(append(untested, ""), "\n")
	if *update {
		must(t, os.WriteFile("untested", []byte(now), 0o644))
	}
	listed, err := os.ReadFile("untested")
	must(t, err)
	if string(listed) != now {
		t.Errorf("the blocks that are not run are not those of deploy/docs/untested; if so it shall be, go test ./docs -update. They are:\n%s", now)
	}
}

// pages gives the pages that people read, as paths below the top.
func pages(t *testing.T) []string {
	t.Helper()
	out := []string{"README.md", "schema/record/FORMAT.md"}
	must(t, filepath.WalkDir(filepath.Join(top, "docs"), func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".md") {
			return err
		}
		relative, err := filepath.Rel(top, name)
		out = append(out, filepath.ToSlash(relative))
		return err
	}))
	return out
}

// follow does what a page says.
func (g *ground) follow(p *Page) {
	t := g.t
	t.Helper()
	texts := map[int]string{}
	if *update {
		defer func() { must(t, os.WriteFile(p.File, []byte(p.Replace(texts)), 0o644)) }()
	}
	for i, b := range p.Blocks {
		at := fmt.Sprintf("%s:%d", strings.TrimPrefix(p.File, top+"/"), b.Line)
		text := g.here.Replace(b.Text)
		if b.Skip != "" && isRun(b) {
			continue
		}
		switch b.Kind() {
		case "console":
			texts[i] = g.console(at, b, text)
		case "sh":
			if said, ok := g.shell.run(asReader(text)); !ok {
				t.Fatalf("%s: failed:\n%s\n%s", at, text, said)
			}
		case "yaml":
			g.configuration(at, b, text)
		case "sql":
			var result *Block
			if next := i + 1; next < len(p.Blocks) && p.Blocks[next].Kind() == "text" {
				result = &p.Blocks[next]
			}
			if said := g.sql(at, b, text, result); result != nil {
				texts[i+1] = said
			}
		case "json":
			if !json.Valid([]byte(text)) {
				t.Errorf("%s: this is no JSON", at)
			}
		case "world":
			g.do(at, b)
		}
	}
}

var (
	asks    = regexp.MustCompile(`(?m)^((?:sink|capture) (?:pause|resume|parked (?:retry|discard)|tenant (?:pause|resume|remove|rebuild)|slot drop|snapshot|topics set)\b.*)$`)
	reports = regexp.MustCompile(`(?m)^((?:bin/)?(?:sink|capture) status\b.*)$`)
)

// asReader gives commands as a reader runs them, who sits at a terminal and agrees, and to whom a status is one also where
// its exit code says that somebody has to look.
func asReader(commands string) string {
	commands = asks.ReplaceAllStringFunc(commands, func(line string) string {
		if strings.Contains(line, "--yes") || strings.Contains(line, "--plan") {
			return line
		}
		return line + " --yes"
	})
	return asStatus(commands)
}

func asStatus(commands string) string { return reports.ReplaceAllString(commands, "$1 || [ $$? = 1 ]") }

// failure is how a page shows that a command failed.
var failure = regexp.MustCompile(`(?m)^error: |\bFAIL\b`)

// console runs the commands of a block, compares what each says, and gives the block as it would be right.
func (g *ground) console(at string, b Block, text string) (right string) {
	g.t.Helper()
	type command struct{ line, shown string }
	var commands []command
	for line := range strings.Lines(text) {
		last := len(commands) - 1
		switch {
		case strings.HasPrefix(line, "$ "):
			commands = append(commands, command{line: line[2:]})
		case last < 0:
			g.t.Fatalf("%s: %q is not what a command says: it stands before the first", at, line)
		case strings.HasPrefix(line, "> ") && commands[last].shown == "":
			commands[last].line += line[2:]
		default:
			commands[last].shown += line
		}
	}
	for _, c := range commands {
		var said string
		succeeds, still := true, quiet()
		service := b.Word(1) == "service" || b.Attribute("service") != ""
		switch {
		case service:
			name := cmp.Or(b.Attribute("service"), nameOf(c.line))
			log := g.shell.serve(name, strings.TrimSpace(c.line))
			eventually(func() bool {
				said = g.shell.read(log)
				return fits(c.shown+"...\n", said) || *update && said != "" && still(said)
			})
			c.shown += "...\n"
		case b.Word(1) == "repeat":
			eventually(func() bool {
				said, succeeds = g.shell.run(asStatus(c.line))
				return fits(c.shown, said) || *update && still(said)
			})
		default:
			said, succeeds = g.shell.run(asStatus(c.line))
		}
		if !succeeds && !failure.MatchString(c.shown) {
			g.t.Fatalf("%s: $ %s--- fails, and the page shows no error:\n%s", at, c.line, said)
		}
		ok := fits(c.shown, said)
		if service {
			c.shown = strings.TrimSuffix(c.shown, "...\n")
		}
		if !ok && !*update {
			g.t.Fatalf("%s: $ %s--- says\n%s--- and the page shows\n%s", at, c.line, said, c.shown)
		}
		right += "$ " + strings.ReplaceAll(strings.TrimSuffix(c.line, "\n"), "\n", "\n> ") + "\n"
		if ok {
			right += c.shown
		} else {
			right += align(said)
		}
	}
	return g.there.Replace(right)
}

// align shows columns as a terminal does; a pipe gets them separated by tabs.
func align(said string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	_, _ = io.WriteString(w, said) // into memory
	_ = w.Flush()
	return b.String()
}

// sql runs statements and gives their result. Where the page shows one, it is waited for.
func (g *ground) sql(at string, b Block, text string, result *Block) (said string) {
	g.t.Helper()
	admin := g.dsn(b.Word(1), b.Word(2))
	dsn := admin
	switch {
	case b.Attribute("role") == "admin" || b.Word(2) == "postgres":
	case b.Word(1) == "warehouse":
		dsn = strings.Replace(admin, "postgres@", "sink@", 1)
	default:
		dsn = strings.Replace(admin, "postgres@", "shop_owner@", 1)
	}
	run := func() error {
		var out bytes.Buffer
		err := prompt.Run(g.t.Context(), prompt.Config{DSN: dsn, In: strings.NewReader(text), Out: &out})
		if err != nil && refused(err) && b.Word(1) != "warehouse" && dsn != admin { // not for the owner of the tables
			dsn = admin
			out.Reset()
			err = prompt.Run(g.t.Context(), prompt.Config{DSN: dsn, In: strings.NewReader(text), Out: &out})
		}
		said = out.String()
		if err != nil {
			said += err.Error() + "\n"
		}
		return err
	}
	if result == nil {
		err := run()
		// The warehouse is behind the source, and a slot is in use for a moment after its reader has ended.
		if err != nil && !refused(err) && (b.Word(1) == "warehouse" || strings.Contains(err.Error(), "SQLSTATE 55006")) {
			eventually(func() bool { err = run(); return err == nil })
		}
		if err != nil {
			g.t.Fatalf("%s: %v\n%s", at, err, text)
		}
		return ""
	}
	still := quiet()
	if eventually(func() bool {
		_ = run()
		return fits(result.Text, said) || *update && result.Text == "?\n" && still(said)
	}) {
		if fits(result.Text, said) {
			return result.Text
		}
		return strings.TrimRight(said, "\n") + "\n"
	}
	g.t.Fatalf("%s:\n%s--- gives\n%s--- and the page shows\n%s", at, text, said, result.Text)
	return ""
}

// refused says whether the role lacks a right.
func refused(err error) bool { return strings.Contains(err.Error(), "SQLSTATE 42501") }

// configuration checks a configuration as the service does, and writes it where the page says so.
func (g *ground) configuration(at string, b Block, text string) {
	g.t.Helper()
	first, _, _ := strings.Cut(text, "\n")
	title := b.Attribute("title")
	var cfg any
	switch name := title + first; {
	case strings.Contains(name, "capture.yaml"):
		cfg = &capture.Config{}
	case strings.Contains(name, "sink.yaml"):
		cfg = &sink.Config{}
	default:
		g.t.Fatalf("%s: is it one of capture, or of sink? The title says so, or the first line", at)
	}
	if err := config.Decode(at, []byte(text), cfg); err != nil {
		g.t.Error(err)
	}
	if title != "" {
		must(g.t, os.WriteFile(filepath.Join(g.dir, title), []byte(text), 0o644))
	}
}
