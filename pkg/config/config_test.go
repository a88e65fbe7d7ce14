package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/pkg/trouble"
)

// level is a type with a text form of its own.
type level int

func (l *level) UnmarshalText(text []byte) error {
	switch string(text) {
	case "low":
		*l = 1
	case "high":
		*l = 2
	default:
		return errors.New("not low or high")
	}
	return nil
}

func (l level) MarshalText() ([]byte, error) { return []byte([]string{"", "low", "high"}[l]), nil }

type testConfig struct {
	Group   string      `mapstructure:"group" required:"true" doc:"Name of the group."`
	Source  testSource  `mapstructure:"source" doc:"The source."`
	Tables  []testTable `mapstructure:"tables" doc:"Rules."`
	HTTP    HTTP        `mapstructure:"http" default:"listen=127.0.0.1:9192" doc:"Answers."`
	Log     Log         `mapstructure:"log" doc:"Log."`
	Limit   Bytes       `mapstructure:"limit" default:"16MiB" doc:"Most to hold."`
	Age     Duration    `mapstructure:"age" default:"100ms" doc:"Oldest."`
	Level   level       `mapstructure:"level" default:"low" doc:"How much."`
	Ratio   float64     `mapstructure:"ratio" default:"0.5" doc:"Share."`
	Workers int         `mapstructure:"workers" default:"4" doc:"How many."`
}

type Duration = time.Duration

type testSource struct {
	DSN       Secret   `mapstructure:"dsn" default:"" doc:"Where."`
	Tables    []string `mapstructure:"tables" default:"public.*,!public.audit" doc:"Which."`
	WALBudget Bytes    `mapstructure:"wal_budget" default:"50GiB" doc:"Most WAL."`
	Fence     bool     `mapstructure:"fence" default:"true" doc:"Fence."`
}

type testTable struct {
	From    string   `mapstructure:"from" required:"true" doc:"Which."`
	Mode    string   `mapstructure:"mode" default:"clone" oneof:"clone,append,history" doc:"How."`
	Ignore  []string `mapstructure:"ignore" default:"" doc:"What not."`
	Keep    Duration `mapstructure:"keep" default:"0s" doc:"How long."`
	History struct {
		From string `mapstructure:"from" default:"valid_from" doc:"Column."`
	} `mapstructure:"history" doc:"Columns."`
}

func (t testTable) Check() []Fault {
	if t.Keep > 0 && t.Mode == "history" {
		return []Fault{{Path: "keep", Message: "has no meaning in mode history"}}
	}
	return nil
}

func (c *testConfig) Check() []Fault {
	for i, t := range c.Tables {
		if t.From == "forbidden" {
			return []Fault{{Path: fmt.Sprintf("tables[%d].from", i), Message: "forbidden"}}
		}
	}
	return nil
}

func load(t *testing.T, content string) (testConfig, error) {
	t.Helper()
	var c testConfig
	return c, Decode("sink.yaml", []byte(content), &c)
}

func TestDefaultsReachEveryField(t *testing.T) {
	var c testConfig
	if err := Decode("sink.yaml", []byte("group: g\ntables: [{from: public.orders}]\n"), &c); err != nil {
		t.Fatal(err)
	}
	want := testConfig{
		Group:  "g",
		Source: testSource{Tables: []string{"public.*", "!public.audit"}, WALBudget: 50 << 30, Fence: true},
		Tables: []testTable{{From: "public.orders", Mode: "clone", Ignore: []string{}}},
		HTTP:   HTTP{Listen: "127.0.0.1:9192", Hosts: []string{}, Show: "none"},
		Log:    Log{Format: "text", Level: "info"},
		Limit:  16 << 20, Age: 100 * time.Millisecond, Level: 1, Ratio: 0.5, Workers: 4,
	}
	want.Tables[0].History.From = "valid_from"
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %#v\nwant %#v", c, want)
	}
}

func TestFileOverridesDefaults(t *testing.T) {
	var c testConfig
	err := Decode("sink.yaml", []byte(`
defaults_anchor_is_no_key: &a {mode: append}
`), &c)
	if err == nil {
		t.Fatal("an unknown key with an anchor passed")
	}
	err = Decode("sink.yaml", []byte(`
group: 0123
source:
  dsn: postgres://u:p@h/db
  tables: []
  wal_budget: 1.5GiB
  fence: false
tables:
  - &first {from: "Public.Orders", mode: append, ignore: [delete, truncate], keep: 90 days, history: {from: since}}
  - {<<: *first, from: b}
  - {<<: [{mode: clone}, *first], from: c}
http: {listen: "0.0.0.0:80", token: t}
log: {format: json}
limit: 100
age: 1h
level: high
ratio: 2
workers: 1_000
`), &c)
	if err != nil {
		t.Fatal(err)
	}
	first := testTable{From: "Public.Orders", Mode: "append", Ignore: []string{"delete", "truncate"}, Keep: 90 * 24 * time.Hour}
	first.History.From = "since"
	second, third := first, first
	second.From, third.From, third.Mode = "b", "c", "clone"
	want := testConfig{
		Group:  "0123", // as written, not the octal number
		Source: testSource{DSN: "postgres://u:p@h/db", Tables: []string{}, WALBudget: 3 << 29},
		Tables: []testTable{first, second, third},
		HTTP:   HTTP{Listen: "0.0.0.0:80", Token: "t", Hosts: []string{}, Show: "none"},
		Log:    Log{Format: "json", Level: "info"},
		Limit:  100, Age: time.Hour, Level: 2, Ratio: 2, Workers: 1000,
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %#v\nwant %#v", c, want)
	}
}

func TestEnvironmentOverridesFile(t *testing.T) {
	t.Setenv("TRIBUTARY_GROUP", "from_env")
	t.Setenv("TRIBUTARY_SOURCE_DSN", "env:OTHER")
	t.Setenv("TRIBUTARY_SOURCE_TABLES", "a.b, c.d")
	t.Setenv("TRIBUTARY_SOURCE_WAL_BUDGET", "1MiB")
	t.Setenv("TRIBUTARY_SOURCE_FENCE", "false")
	t.Setenv("TRIBUTARY_AGE", "") // set and empty is not given
	file := filepath.Join(t.TempDir(), "sink.yaml")
	if err := os.WriteFile(file, []byte("group: from_file\nage: 2s\nsource: {fence: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{file, ""} {
		var c testConfig
		if err := Load(file, &c); err != nil {
			t.Fatal(err)
		}
		got := c.Source
		want := testSource{DSN: "env:OTHER", Tables: []string{"a.b", "c.d"}, WALBudget: 1 << 20}
		if c.Group != "from_env" || !reflect.DeepEqual(got, want) {
			t.Errorf("file %q: got %q %#v", file, c.Group, got)
		}
		if wantAge := map[bool]time.Duration{true: 100 * time.Millisecond, false: 2 * time.Second}[file == ""]; c.Age != wantAge {
			t.Errorf("file %q: age %v, want %v", file, c.Age, wantAge)
		}
	}
}

// TestFaults: the message is what people see, so the whole of it is compared.
func TestFaults(t *testing.T) {
	expect := func(content string, want ...string) {
		t.Helper()
		_, err := load(t, content)
		faults, ok := errors.AsType[*Faults](err)
		if !ok {
			t.Errorf("no faults in %q: %v", content, err)
			return
		}
		var got []string
		for _, f := range faults.List {
			got = append(got, fmt.Sprintf("%d:%d %s %s| %s", f.Line, f.Column, f.Path, f.Value, f.Message))
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q:\ngot  %s\nwant %s", content, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
		}
	}
	expect("", "0:0 group | missing; write it, or set TRIBUTARY_GROUP")
	expect("# only a comment\n", "0:0 group | missing; write it, or set TRIBUTARY_GROUP")
	expect("group: ''", "1:1 group | missing; write it, or set TRIBUTARY_GROUP")
	expect("group:", "1:1 group | missing; write it, or set TRIBUTARY_GROUP")
	expect("group: g\nsorce: {}", `2:1 sorce | unknown key; did you mean "source"?`)
	expect("group: g\nGroup: h", `2:1 Group | unknown key; did you mean "group"?`)
	expect("group: g\nlog.level: debug",
		"2:1 log.level | unknown key; known here: group, source, tables, http, log, limit, age, level, ratio, workers")
	expect("group: g\ngroup: h", "2:1 group | given twice; first in line 1")
	expect("group: g\ntables:\n  - from: a\n    mod: clone", `4:5 tables[0].mod | unknown key; did you mean "mode"?`)
	expect("group: g\ntables:\n  - mode: clone", "3:5 tables[0].from | missing")
	expect("group: g\ntables: [{from: a, mode: clon}]",
		`2:26 tables[0].mode clon| not one of clone, append, history; did you mean "clone"?`)
	expect("group: g\ntables: [{from: a, history: {form: b}}]", `2:30 tables[0].history.form | unknown key; did you mean "from"?`)
	expect("group: g\ntables: {from: a}", "2:9 tables | must be a list of blocks; begin each with -")
	expect("group: g\ntables: [a]", "2:10 tables[0] | must be a block of keys")
	expect("group: [g]", "1:8 group | must be one value")
	expect("group: g\nsource: postgres://u:secret@h", "2:9 source | must be a block of keys")
	expect("group: g\nage: 1sec", "2:6 age 1sec| not a duration; write 1s")
	expect("group: g\nage: soon", "2:6 age soon| not a duration; write 100ms, 30s, 5m, 2h or 7d")
	expect("group: g\nlimit: -1MiB", "2:8 limit -1MiB| not a size; write 16MiB, 1.5GiB or 512kB")
	expect("group: g\nlevel: mid", "2:8 level mid| not low or high")
	expect("group: g\nworkers: many\nratio: big", "2:10 workers many| not a whole number", "3:8 ratio big| not a number")
	expect("group: g\nworkers: true", "2:10 workers true| not a whole number")
	expect("group: g\nworkers: 99999999999999999999", "2:10 workers 99999999999999999999| out of range for 64 bits")
	expect("group: g\nsource: {fence: yes}", "2:17 source.fence yes| not true or false")
	expect("group: g\n---\ngroup: h", "2:1  | a second document; a configuration is one")
	expect("group: g\n  age: 1s", "2:1  | not YAML: mapping values are not allowed in this context") // and no more: nothing of it was read
	expect("group: g\ntables: [{<<: clone, from: a}]", "2:11 tables[0] | << takes a block of keys, or a list of such blocks")
	expect("group: g\ntables: [{<<: [{mode: clone}, b], from: a}]", "2:11 tables[0] | << takes a block of keys, or a list of such blocks")
	expect("group: g\ntables: [{<<: [{mode: clone}, {mod: clone}], from: a}]", `2:32 tables[0].mod | unknown key; did you mean "mode"?`)
	expect("group: g\nsource: {dsn: *Pa55}", "0:0  | not YAML: an unknown anchor; put a text that begins with * in quotes")
	expect("- a", "1:1  | must be a block of keys", "0:0 group | missing; write it, or set TRIBUTARY_GROUP")
	// Checkers see what is sound, beside the faults of others, with places of the keys they name.
	expect("group: g\nage: x\ntables:\n  - {from: a, mode: history, keep: 1d}",
		"2:6 age x| not a duration; write 100ms, 30s, 5m, 2h or 7d",
		"4:30 tables[0].keep | has no meaning in mode history")
	expect("group: g\ntables: [{from: forbidden}]", "2:11 tables[0].from | forbidden")
	expect("group: g\nhttp: {listen: nowhere}", "2:8 http.listen nowhere| not host:port; write 127.0.0.1:9191")
}

func TestFaultsOfTheEnvironment(t *testing.T) {
	t.Setenv("TRIBUTARY_GROUP", "g")
	t.Setenv("TRIBUTARY_AGE", "1sec")
	var c testConfig
	err := Load("", &c)
	if want := `age: "1sec"  not a duration; write 1s (from TRIBUTARY_AGE)`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestFaultsAsPeopleSeeThem(t *testing.T) {
	_, err := load(t, "group: g\ntables:\n  - from: a\n    mod: clone\nage: 1sec\n")
	faults, ok := errors.AsType[*Faults](err)
	if !ok {
		t.Fatal(err)
	}
	var b strings.Builder
	faults.Print(&b, "sink")
	want := `error: sink.yaml has 2 faults
  sink.yaml:4:5  tables[0].mod  unknown key; did you mean "mode"?
  sink.yaml:5:6  age: "1sec"    not a duration; write 1s
  see    sink config show --defaults      every key, its default and its meaning
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	if code := trouble.CodeOf(fmt.Errorf("start: %w", err)); code != trouble.Config {
		t.Errorf("code %q", code)
	}
}

func TestUnreadableFile(t *testing.T) {
	var c testConfig
	err := Load(filepath.Join(t.TempDir(), "absent.yaml"), &c)
	if faults, ok := errors.AsType[*Faults](err); !ok || len(faults.List) != 1 || !faults.Absent ||
		faults.List[0].Message != "cannot be read: no such file or directory" {
		t.Errorf("got %v", err)
	}
}

func TestShowCanBeLoadedAgain(t *testing.T) {
	var first, second testConfig
	content := "group: '007'\nsource: {dsn: hunter2, tables: ['*', 'true']}\ntables: [{from: a, keep: 90d}, {from: b}]\nage: 90m\nlevel: high\n"
	if err := Decode("a", []byte(content), &first); err != nil {
		t.Fatal(err)
	}
	text := Show(first)
	if strings.Contains(text, "hunter2") || !strings.Contains(text, "dsn: '***'") && !strings.Contains(text, `dsn: "***"`) {
		t.Errorf("secret is not hidden:\n%s", text)
	}
	if !strings.Contains(text, "keep: 90d") || !strings.Contains(text, "age: 1h30m") || !strings.Contains(text, "limit: 16MiB") {
		t.Errorf("values are not as one writes them:\n%s", text)
	}
	if err := Decode("b", []byte(text), &second); err != nil {
		t.Fatal(err, text)
	}
	first.Source.DSN = hidden
	if !reflect.DeepEqual(first, second) {
		t.Errorf("got  %#v\nwant %#v", second, first)
	}
}

func TestShowOrigins(t *testing.T) {
	t.Setenv("TRIBUTARY_AGE", "2s")
	file := filepath.Join(t.TempDir(), "sink.yaml")
	if err := os.WriteFile(file, []byte("group: g\nage: 1s\nsource: {dsn: hunter2}\ntables:\n  - from: a\n    ignore: [delete]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var c testConfig
	text, err := ShowOrigins(file, nil, &c)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"group: g # sink.yaml:1:1\n", "age: 2s # TRIBUTARY_AGE\n", "dsn: '***' # sink.yaml:3:10\n", "workers: 4 # default\n",
		"from: a # sink.yaml:5:5\n", "ignore: [delete] # sink.yaml:6:5\n", "mode: clone # default\n",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
	var again testConfig
	if err := Decode("b", []byte(text), &again); err != nil || again.Age != 2*time.Second {
		t.Errorf("%v, age %v", err, again.Age)
	}
}

// TestDefaults: what it shows holds what a file without any key gives.
func TestDefaults(t *testing.T) {
	text := Defaults(testConfig{})
	for _, part := range []string{
		"# Name of the group.\n#group:  # required, text\n", "limit: 16MiB  # size\n", `  tables: [public.*, '!public.audit']  # list of text`,
		"tables: []\n", "#    # Which.\n#  - from:  # required, text\n", "#    mode: clone  # clone, append, history\n", "#      from: valid_from  # text\n",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
	var want, got testConfig
	if err := Decode("a", []byte("group: g\ntables: []"), &want); err != nil {
		t.Fatal(err)
	}
	if err := Decode("b", []byte(strings.Replace(text, "#group:", "group: g", 1)), &got); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
}

func TestReferenceNamesEveryKey(t *testing.T) {
	text := Reference(testConfig{}, "sink.yaml")
	for _, line := range []string{
		"# sink.yaml\n",
		"| `group` | text | required | `TRIBUTARY_GROUP` | Name of the group. |\n",
		"| `source` | block |  |  | The source. |\n",
		"| `source.dsn` | secret | `\"\"` | `TRIBUTARY_SOURCE_DSN` | Where. |\n",
		"| `source.tables` | list of text | `[public.*, !public.audit]` | `TRIBUTARY_SOURCE_TABLES` | Which. |\n",
		"| `tables` | list of blocks |  |  | Rules. |\n",
		"| `tables[].mode` | clone, append, history | `clone` |  | How. |\n",
		"| `http.listen` | text | `127.0.0.1:9192` | `TRIBUTARY_HTTP_LISTEN` |",
		"| `limit` | size | `16MiB` | `TRIBUTARY_LIMIT` | Most to hold. |\n",
		"| `age` | duration | `100ms` |",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
}

type recorder struct{ errors []string }

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func TestCheckStruct(t *testing.T) {
	CheckStruct(t, testConfig{})
	CheckStruct(t, TLS{})
	CheckStruct(t, Registry{})
	var bad struct {
		NoKey     string            `doc:"x" default:""`
		NoDoc     string            `mapstructure:"no_doc" default:""`
		NoDefault int               `mapstructure:"no_default" doc:"x"`
		Wrong     Bytes             `mapstructure:"wrong" doc:"x" default:"many"`
		Map       map[string]string `mapstructure:"map" doc:"x"`
		Camel     string            `mapstructure:"camelCase" doc:"x" default:""`
		Both      string            `mapstructure:"both" doc:"x" default:"a" required:"true"`
		A         struct {
			B string `mapstructure:"b" doc:"x" default:""`
		} `mapstructure:"a" doc:"x" default:"c=1"`
		AB string `mapstructure:"a_b" doc:"x" default:""`
	}
	var r recorder
	CheckStruct(&r, &bad)
	all := strings.Join(r.errors, "\n")
	for _, want := range []string{
		"NoKey", "no_doc: no doc", "no_default: neither", "wrong: default", "map: type", "camelCase", "both: required",
		`a: default for unknown key "c"`, "a.b and a_b are both overridden by TRIBUTARY_A_B",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not reported in\n%s", want, all)
		}
	}
	if len(r.errors) != 9 {
		t.Errorf("%d mistakes, want 9:\n%s", len(r.errors), all)
	}
}
