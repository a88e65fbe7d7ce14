// Package grafana holds the dashboards and alerts, and gives what is in them to the pages and tests that speak of them.
package grafana

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed alerts.yaml dashboards/*.json
var files embed.FS

// Alert is a rule of alerts.yaml.
type Alert struct {
	Name        string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// Severity is how much it matters: critical, warning, info.
func (a *Alert) Severity() string { return a.Labels["severity"] }

// Runbook gives the page that says what to do, as a path below docs.
func (a *Alert) Runbook() string {
	_, path, _ := strings.Cut(a.Annotations["runbook_url"], "/docs/")
	return path
}

// Alerts gives the rules in their order.
func Alerts() ([]Alert, error) {
	text, err := files.ReadFile("alerts.yaml")
	if err != nil {
		return nil, err
	}
	var file struct {
		Groups []struct {
			Rules []Alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("alerts.yaml: %w", err)
	}
	var out []Alert
	for _, g := range file.Groups {
		out = append(out, g.Rules...)
	}
	return out, nil
}

// Rule gives the alerts as the Prometheus operator takes them.
func Rule() (string, error) {
	text, err := files.ReadFile("alerts.yaml")
	if err != nil {
		return "", err
	}
	_, groups, ok := strings.Cut(string(text), "\ngroups:\n")
	if !ok {
		return "", errors.New("alerts.yaml has no groups")
	}
	var b strings.Builder
	b.WriteString(`# The alerts of deploy/grafana/alerts.yaml, for the Prometheus operator. Written by make docs.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: tributary, namespace: tributary}
spec:
  groups:
`)
	for line := range strings.Lines(groups) {
		if line != "\n" {
			b.WriteString("  ")
		}
		b.WriteString(line)
	}
	return b.String(), nil
}

// Dashboard is what is looked at of a dashboard.
type Dashboard struct {
	File       string `json:"-"`
	UID        string `json:"uid"`
	Title      string `json:"title"`
	Templating struct {
		List []struct {
			Name       string `json:"name"`
			Type       string `json:"type"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
	Links []struct {
		Type string   `json:"type"`
		Tags []string `json:"tags"`
	} `json:"links"`
	Panels []Panel `json:"panels"`
}

// Panel is one of its panels.
type Panel struct {
	Title      string `json:"title"`
	Type       string `json:"type"`
	Datasource struct {
		UID string `json:"uid"`
	} `json:"datasource"`
	Targets []struct {
		Expr string `json:"expr"`
	} `json:"targets"`
}

// Dashboards gives all of them.
func Dashboards() ([]Dashboard, error) {
	names, err := fs.Glob(files, "dashboards/*.json")
	if err != nil {
		return nil, err
	}
	var out []Dashboard
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		d := Dashboard{File: name}
		if err := json.Unmarshal(text, &d); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, d)
	}
	return out, nil
}

// Expression is something in PromQL, and where it stands.
type Expression struct{ Where, PromQL string }

// Expressions gives those of all alerts and dashboards, with variables of Grafana filled in.
func Expressions() ([]Expression, error) {
	alerts, err := Alerts()
	if err != nil {
		return nil, err
	}
	boards, err := Dashboards()
	if err != nil {
		return nil, err
	}
	var out []Expression
	for i := range alerts {
		out = append(out, Expression{alerts[i].Name, alerts[i].Expr})
	}
	for _, d := range boards {
		for _, v := range d.Templating.List {
			// label_values(metric{…}, label): that the metric has the label is a grouping by it.
			if query, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
				at := strings.LastIndex(query, ",")
				out = append(out, Expression{
					d.Title + ": variable " + v.Name, fmt.Sprintf("group by (%s) (%s)", strings.Trim(query[at+1:], " )"), query[:at]),
				})
			}
		}
		for _, p := range d.Panels {
			for _, t := range p.Targets {
				out = append(out, Expression{d.Title + ": " + p.Title, strings.ReplaceAll(t.Expr, "$__rate_interval", "5m")})
			}
		}
	}
	return out, nil
}
