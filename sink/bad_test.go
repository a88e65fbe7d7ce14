package sink

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/pkg/terminal"
	"github.com/tributary-cdc/tributary/schema"
	"github.com/tributary-cdc/tributary/sink/rule"
)

// TestBadRules: each file of testdata/bad has one mistake. What is said of it names the line and what to write; of those
// that only a table shows, the table too, and with it the hint.
func TestBadRules(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		if _, known := badRules[name]; !known {
			t.Errorf("%s: what is expected of it?", name)
		}
		if got := complaint(t, file); got != badRules[name] {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, badRules[name])
		}
	}
	if len(files) != len(badRules) {
		t.Errorf("%d files, %d expected", len(files), len(badRules))
	}
}

// complaint gives the one fault of a file, or the trouble that its first rule has with a table.
func complaint(t *testing.T, file string) string {
	t.Helper()
	var cfg Config
	if err := config.Load(file, &cfg); err != nil {
		lines := strings.SplitN(err.Error(), "\n", 2)
		return strings.Join(strings.Fields(lines[len(lines)-1]), " ")
	}
	rules, err := rule.New(cfg.Sources, cfg.Tables, cfg.Salt)
	if err != nil {
		t.Fatal(err)
	}
	column := func(name, typ string, oid schema.OID) schema.Column {
		return schema.Column{Name: name, Type: schema.Type{OID: oid, Name: typ, Typmod: -1, Class: schema.ClassBase}}
	}
	table := strings.TrimPrefix(cfg.Tables[0].From, "public.")
	rel := &schema.Relation{Schema: "public", Name: table, Identity: schema.IdentityDefault, Key: []int{0}, Columns: []schema.Column{
		column("id", "bigint", schema.OIDInt8), column("a", "integer", schema.OIDInt4), column("b", "text", schema.OIDText),
		column("amount", "numeric", schema.OIDNumeric), column("at", "timestamp with time zone", schema.OIDTimestampTZ),
	}}
	if table == "log" {
		rel.Key, rel.Identity = nil, schema.IdentityFull
	}
	route, ok := rules.Match("shop", "public", table)
	if !ok {
		return "no rule matches"
	}
	_, err = route.Compile(rel)
	if err == nil {
		return "nothing"
	}
	var b strings.Builder
	terminal.Print(&b, "sink", err)
	var kept []string
	for line := range strings.SplitSeq(b.String(), "\n") {
		if word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word == "error:" || word == "cause" || word == "hint" {
			kept = append(kept, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(kept, " | ")
}
