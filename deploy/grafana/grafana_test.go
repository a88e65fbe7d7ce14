package grafana

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metricsql"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ruleTests are the tests of alerts.yaml that promtool runs.
var ruleTests = []string{"alerts_test.yaml", "alerts_day_test.yaml"}

// Each alert says how much it matters, what it means, what to do, and where to read on; and there is a test of it.
func TestAlerts(t *testing.T) {
	alerts, err := Alerts()
	must(t, err)
	if len(alerts) != 29 {
		t.Errorf("%d alerts, want 29", len(alerts))
	}
	var text string
	for _, name := range ruleTests {
		tests, err := os.ReadFile(name)
		must(t, err)
		text += string(tests)
	}
	for i := range alerts {
		a := &alerts[i]
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Severity()) {
			t.Errorf("%s: severity %q", a.Name, a.Severity())
		}
		if a.For != "" {
			if _, err := time.ParseDuration(a.For); err != nil {
				t.Errorf("%s: %v", a.Name, err)
			}
		}
		for _, name := range []string{"summary", "description", "runbook_url", "dashboard"} {
			if a.Annotations[name] == "" {
				t.Errorf("%s has no %s", a.Name, name)
			}
		}
		if a.Runbook() != "runbooks/alerts/"+a.Name+".md" {
			t.Errorf("%s: its runbook is %q, and not of its name", a.Name, a.Runbook())
		}
		expr, err := metricsql.Parse(a.Expr)
		must(t, err)
		kept := labels(expr)
		for _, label := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(fmt.Sprint(a.Annotations), -1) {
			if kept != nil && !slices.Contains(kept, label[1]) {
				t.Errorf("%s writes of its %s, and has only %v", a.Name, label[1], kept)
			}
		}
		// Both ways: that it fires, and that it does not.
		fires := regexp.MustCompile(`alertname="` + a.Name + `", alertstate="firing"\}'\n\s+eval_time: \w+\n\s+exp_samples: \[\{`).MatchString(text)
		silent := regexp.MustCompile(`alertname="` + a.Name + `", alertstate="firing"\}'\n\s+eval_time: \w+\n\s+exp_samples: \[\]`).MatchString(text)
		if !fires || !silent {
			t.Errorf("%s is not tested both ways in %v", a.Name, ruleTests)
		}
	}
}

// labels gives those that are left by what an expression takes together; nil: all that its metric has.
func labels(e metricsql.Expr) []string {
	switch e := e.(type) {
	case *metricsql.AggrFuncExpr:
		return e.Modifier.Args
	case *metricsql.BinaryOpExpr:
		if left, ok := e.Left.(*metricsql.FuncExpr); ok && left.Name == "time" {
			return labels(e.Right)
		}
		return labels(e.Left)
	}
	return nil
}

// Each alert has a page of its name below docs/runbooks/alerts, no page is of none, and each says when its alert fires: it was
// written for the one who is woken by that.
func TestAlertPages(t *testing.T) {
	alerts, err := Alerts()
	must(t, err)
	pages, err := filepath.Glob("../../docs/runbooks/alerts/*.md")
	must(t, err)
	for _, page := range pages {
		name := strings.TrimSuffix(filepath.Base(page), ".md")
		if !slices.ContainsFunc(alerts, func(a Alert) bool { return a.Name == name }) {
			t.Errorf("%s is of no alert", page)
		}
	}
	for i := range alerts {
		a := &alerts[i]
		content, err := os.ReadFile("../../docs/runbooks/alerts/" + a.Name + ".md")
		if err != nil {
			t.Error(err)
			continue
		}
		text, last := string(content), 0
		for _, part := range []string{"# " + a.Name + "\n", "**Meaning**", "**Impact**", "**Look**", "**Do**", "**Afterwards**"} {
			at := strings.Index(text, part)
			if at < last {
				t.Errorf("%s: %q is missing or out of order", a.Name, strings.TrimSpace(part))
			}
			last = at
		}
		meaning, _, _ := strings.Cut(text, "**Impact**")
		for _, words := range limits(t, a) {
			if !regexp.MustCompile(`(^|[\s(])` + regexp.QuoteMeta(words) + `\b`).MatchString(strings.ReplaceAll(meaning, "%", "percent")) {
				t.Errorf("%s fires by %q, which its page does not say as its meaning", a.Name, words)
			}
		}
	}
}

// limits gives what a rule fires by, as its page says it: for how long, over which time, and from which number on.
func limits(t *testing.T, a *Alert) (words []string) {
	t.Helper()
	say := func(seconds float64) {
		switch n := int(seconds); {
		case n%86400 == 0:
			words = append(words, fmt.Sprint(n/86400, " d"))
		case n%3600 == 0:
			words = append(words, fmt.Sprint(n/3600, " h"))
		default:
			words = append(words, fmt.Sprint(n/60, " min"))
		}
	}
	if a.For != "" {
		d, err := time.ParseDuration(a.For)
		must(t, err)
		say(d.Seconds())
	}
	expr, err := metricsql.Parse(a.Expr)
	must(t, err)
	metricsql.VisitAll(expr, func(n metricsql.Expr) {
		switch n := n.(type) {
		case *metricsql.RollupExpr:
			if n.Window != nil {
				d, err := time.ParseDuration(strings.Replace(string(n.Window.AppendString(nil)), "1d", "24h", 1))
				must(t, err)
				say(d.Seconds())
			}
		case *metricsql.FuncExpr:
			if n.Name == "predict_linear" {
				say(n.Args[1].(*metricsql.NumberExpr).N)
			}
		case *metricsql.BinaryOpExpr:
			if times, ok := n.Left.(*metricsql.NumberExpr); ok && n.Op == "*" {
				words = append(words, fmt.Sprintf("%g times", times.N))
			}
			limit, ok := n.Right.(*metricsql.NumberExpr)
			if !ok || limit.N == 0 || n.Op != ">" && n.Op != "<" {
				break
			}
			left := string(n.Left.AppendString(nil))
			switch {
			case strings.Contains(left, "_seconds") && !strings.Contains(left, "changes("):
				say(limit.N)
			case strings.Contains(left, " / "):
				words = append(words, fmt.Sprintf("%g percent", 100*limit.N))
			default:
				words = append(words, fmt.Sprintf("more than %g", limit.N))
			}
		}
	})
	return words
}

func TestDashboards(t *testing.T) {
	boards, err := Dashboards()
	must(t, err)
	want := map[string]string{
		"dashboards/overview.json": "tributary-overview", "dashboards/capture.json": "tributary-capture", "dashboards/sink.json": "tributary-sink",
	}
	if len(boards) != len(want) {
		t.Errorf("%d dashboards, want %d", len(boards), len(want))
	}
	for _, d := range boards {
		if d.UID != want[d.File] {
			t.Errorf("%s: uid %q, to which alerts and links point as %q", d.File, d.UID, want[d.File])
		}
		if len(d.Templating.List) == 0 || d.Templating.List[0].Type != "datasource" {
			t.Errorf("%s: the first variable is not the data source", d.File)
		}
		if len(d.Links) == 0 || !slices.Contains(d.Links[0].Tags, "tributary") {
			t.Errorf("%s: no links to the others", d.File)
		}
		seen := map[string]bool{}
		for _, p := range d.Panels {
			if p.Type == "row" {
				seen = map[string]bool{}
				continue
			}
			if p.Title == "" || seen[p.Title] || len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
				t.Errorf("%s: panel %q", d.File, p.Title)
			}
			seen[p.Title] = true
		}
	}
}

// What Prometheus itself says of the rules, where its tool is installed.
func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian: apt-get install prometheus)")
	}
	// It takes the expressions of dashboards for those of rules.
	expressions, err := Expressions()
	must(t, err)
	var all strings.Builder
	all.WriteString("groups:\n  - name: all\n    rules:\n")
	for i, x := range expressions {
		fmt.Fprintf(&all, "      - {record: 'r%d', expr: %q}\n", i, x.PromQL)
	}
	file := filepath.Join(t.TempDir(), "all.yaml")
	must(t, os.WriteFile(file, []byte(all.String()), 0o600))
	for _, args := range [][]string{{"check", "rules", "alerts.yaml", file}, append([]string{"test", "rules"}, ruleTests...)} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
