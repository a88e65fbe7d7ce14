// Command docs writes what of docs/reference is derived from the code: a page and a JSON Schema for each configuration
// file, the metrics, and the alerts, also as a manifest; and the unit of sinks from that of captures. The rest of docs is written by people; the tests here hold it against the code.
package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/capture/catalog"
	"github.com/tributary-cdc/tributary/deploy/docs"
	"github.com/tributary-cdc/tributary/deploy/grafana"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/sink"
)

// root is the top of the repository as seen from deploy, where `make docs` runs this.
const root = ".."

func main() {
	pictures := flag.Bool("pictures", false, "only note what the pictures of the status pages, which were taken anew, are of")
	flag.Parse()
	if *pictures {
		sum, err := picturesSum(root)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, picturesFile), []byte(sum), 0o644) //nolint:gosec // documentation is for everybody
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "error: note what the pictures are of:", err)
			os.Exit(1)
		}
		return
	}
	all, err := pages()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error: write reference:", err)
		os.Exit(1)
	}
	books, err := runbooks(root)
	if err == nil {
		maps.Copy(all, books)
		all[cliFile], err = cli(root)
	}
	if err == nil {
		all[securityFile], err = security(root)
	}
	if err == nil {
		all[sinkUnit], err = unit(root)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error: write reference:", err)
		os.Exit(1)
	}
	for path, content := range all {
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o644); err != nil { //nolint:gosec // documentation is for everybody
			fmt.Fprintln(os.Stderr, "error: write reference:", err)
			os.Exit(1)
		}
	}
}

// pages gives the generated pages by their path below the top of the repository.
func pages() (map[string]string, error) {
	metrics, err := metricsPage()
	if err != nil {
		return nil, err
	}
	alerts, err := alertsPage()
	if err != nil {
		return nil, err
	}
	rule, err := grafana.Rule()
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"docs/reference/capture-yaml.md": page(&capture.Config{}, "capture.yaml", "capture"),
		"docs/reference/sink-yaml.md":    page(&sink.Config{}, "sink.yaml", "sink"),
		"docs/reference/metrics.md":      metrics,
		"docs/reference/alerts.md":       alerts,

		"deploy/kubernetes/monitoring/alerts.yaml": rule,

		"docs/reference/capture.schema.json": string(config.Schema(&capture.Config{}, "capture.yaml")),
		"docs/reference/sink.schema.json":    string(config.Schema(&sink.Config{}, "sink.yaml")),
	}, nil
}

// embedded are the files that the services have the runbooks from, with whose each is: what is embedded must lie beside the code.
var embedded = map[string]string{
	"pkg/trouble/runbooks.txt": "docs/runbooks/*.md",
	"pkg/trouble/alerts.txt":   "docs/runbooks/alerts/*.md",
}

// forTests are the blocks by which tests raise a trouble and end it.
var forTests = regexp.MustCompile(`(?s)<!-- test: .*?-->\n`)

// runbooks gives those files, each with all of its runbooks.
func runbooks(top string) (map[string]string, error) {
	out := map[string]string{}
	for name, pattern := range embedded {
		files, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil {
			return nil, err
		}
		var b strings.Builder
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			b.Write(forTests.ReplaceAll(text, nil))
			b.WriteByte('\n')
		}
		out[name] = b.String()
	}
	return out, nil
}

// cliFile is the page of all verbs. Tests of the programs hold it against them.
const cliFile = "docs/reference/cli.md"

// cli asks the programs, which nothing can import.
func cli(top string) (string, error) {
	var b strings.Builder
	b.WriteString("# Verbs\n\nEvery verb of both programs, as --help shows it. `manpage -o DIR` writes the same as manual pages. This page is written by\n`make docs`.\n\n")
	for _, program := range []string{"capture", "sink"} {
		cmd := exec.Command("go", "run", "-trimpath", "./cmd/"+program, "manpage", "--markdown") //nolint:gosec // names of ours
		cmd.Dir, cmd.Stderr = filepath.Join(top, program), os.Stderr
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off") // as make build: most is compiled already
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("ask %s for its verbs: %w", program, err)
		}
		b.Write(out)
	}
	return b.String(), nil
}

// securityFile is written by people but for the SQL of the roles, which init --role prints.
const securityFile = "docs/security.md"

// sinkUnit is written by people up to what the service may do, which is as for captures.
const sinkUnit = "deploy/systemd/tributary-sink@.service"

// unit gives it with what the unit of captures says.
func unit(top string) (string, error) {
	ours, err := os.ReadFile(filepath.Join(top, sinkUnit))
	if err != nil {
		return "", err
	}
	captures, err := os.ReadFile(filepath.Join(top, "deploy/systemd/tributary-capture@.service"))
	if err != nil {
		return "", err
	}
	head, _, _ := strings.Cut(string(ours), "[Service]\n")
	_, service, _ := strings.Cut(string(captures), "[Service]\n")
	return head + "[Service]\n" + strings.NewReplacer("capture", "sink", "SOURCE_DSN", "WAREHOUSE_DSN").Replace(service), nil
}

// security gives the page with that SQL.
func security(top string) (string, error) {
	file := filepath.Join(top, securityFile)
	p, err := docs.Read(file)
	if err != nil {
		return "", err
	}
	tables := []*catalog.Table{
		{Relation: schema.Relation{Schema: "public", Name: "orders"}, Level: catalog.All},
		{Relation: schema.Relation{Schema: "public", Name: "audit"}, Level: catalog.InsertOnly},
	}
	roles := map[string]string{
		"sql source":           capture.RoleSQL("shop", []string{"shop_owner"}),
		"sql source read-only": capture.ReaderSQL("shop", "shop", tables, 17),
		"sql warehouse":        sink.RoleSQL("dwh"),
	}
	texts := map[int]string{}
	for i := range p.Blocks {
		if sql, ok := roles[p.Blocks[i].Info]; ok {
			texts[i] = sql
			delete(roles, p.Blocks[i].Info)
		}
	}
	if len(roles) > 0 {
		return "", fmt.Errorf("%s has not all blocks: %v are missing", file, slices.Sorted(maps.Keys(roles)))
	}
	return p.Replace(texts), nil
}

func page(cfg any, file, program string) string {
	return config.Reference(cfg, file) + fmt.Sprintf(`
A key that is not in this list is an error, with the nearest known one named; all faults of a file are told at once.
A variable of the environment wins over the file; lists of blocks have none. A secret may be written as `+"`file:/path`"+` or
`+"`env:NAME`"+`; it is never shown. Sizes are written like `+"`16MiB`"+`, durations like `+"`100ms`"+`.
Editors complete and check by `+"[the schema](%[1]s.schema.json)"+`: write `+"`# yaml-language-server: $schema=%[1]s.schema.json`"+` as the first line,
and let `+"`%[1]s config schema > %[1]s.schema.json`"+` put it beside the file. `+"`%[1]s config show --origin`"+` says where each value is from,
`+"`%[1]s config check`"+` what is wrong, with its place; `+"`%[1]s check -c %[2]s`"+` holds a configuration against what it names.

This page is written by `+"`make docs`"+`.
`, program, file)
}
