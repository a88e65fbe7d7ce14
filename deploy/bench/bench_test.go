package main

import (
	"bytes"
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// What of the list in measures.go is run; all of it where TRIBUTARY_BENCH is all, as in make test-all.
const quick = "^(snapshot|hot row)$"

// measured are parts of the paths that a run has rows for, by measure.
var measured = map[string][]string{
	"snapshot": {"snapshot: source to topic", "snapshot: topic to warehouse", "snapshot: end to end"},
	"stream": append(of("stream"),
		"stream: topic to warehouse, two partitions", "stream: topic to warehouse, 10 ms away", "with a filter", "with a computed column", "with a masked column",
		"as history", "as log", "one sink", "two sinks", "four sinks"),
	"wide rows":  of("stream of rows with 20 columns"),
	"large rows": of("stream of rows of 2 KB"),
	"hot row":    of("stream of changes of one row"),
	"latency":    {"latency at 500 changes/s, transactions of 1", "latency at 500 changes/s, transactions of 1, at-least-once", "latency at 5000 changes/s"},
	"tenants":    {"tenants of 5 tables, idle", "changes/s over all of them"},
}

func of(stream string) []string {
	return []string{stream + ": WAL to topic, by the walsender", stream + ": WAL to topic, catching up by SQL", stream + ": topic to warehouse"}
}

// TestBench: a run measures everything that it is to measure, and writes it into the page. Of so small a load figures say nothing.
func TestBench(t *testing.T) {
	o := options{only: regexp.MustCompile(quick), scale: 0.0005, skipKafka: true}
	if os.Getenv("TRIBUTARY_BENCH") == "all" {
		o.only = regexp.MustCompile("")
	}
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r := &report{began: time.Now(), out: &out, flags: []string{"-scale", "0.0005"}}
	if err := run(t.Context(), o, r); err != nil || len(r.failed) > 0 {
		t.Fatalf("%v: %s", r.failed, err)
	}
	for _, m := range measures {
		if len(measured[m.name]) == 0 {
			t.Errorf("what does %q measure?", m.name)
		}
		for _, path := range measured[m.name] {
			if !bytes.Contains(page, []byte(path)) {
				t.Errorf("docs/performance.md has no row %q", path)
			}
			if !o.only.MatchString(m.name) {
				continue
			}
			i := slices.IndexFunc(r.rows, func(row *row) bool { return strings.Contains(row.path, path) })
			if i < 0 {
				t.Errorf("there is no row %q", path)
				continue
			}
			f, ok := r.rows[i].median(brokerFake)
			if !ok || f.text == "" || strings.Contains(path, "to topic") && (f.rate <= 0 || f.limit <= 0 || f.costs.capture.peak == 0) ||
				strings.Contains(path, "to warehouse") && (f.rate <= 0 || f.limit <= 0 || f.costs.sink.peak == 0) {
				t.Errorf("%q: %+v", path, f)
			}
		}
	}
	r.print()
	copied := filepath.Join(t.TempDir(), "performance.md")
	if err := os.WriteFile(copied, page, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.write(copied); err != nil {
		t.Fatal(err)
	}
	if page, err = os.ReadFile(copied); err != nil {
		t.Fatal(err)
	}
	for _, row := range r.rows {
		f, _ := row.median(brokerFake)
		onPage := cmp.Or(row.ratioText(brokerFake), f.text)
		line := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(row.path) + ` \|.*\| ` + regexp.QuoteMeta(onPage) + ` \|.*$`)
		if !line.Match(page) || !strings.Contains(out.String(), f.text) {
			t.Errorf("%q: %q is not in the page, or %q not in what is printed", row.path, onPage, f.text)
		}
	}
}
