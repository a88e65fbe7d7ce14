package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v3"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/sink"
)

// kinds are the configurations that there are, by the name of their file.
var kinds = map[string]func() any{
	"capture": func() any { return &capture.Config{} },
	"sink":    func() any { return &sink.Config{} },
}

// schemas reads the schemas that editors use.
func schemas(t *testing.T) map[string]*jsonschema.Resolved {
	t.Helper()
	out := map[string]*jsonschema.Resolved{}
	for kind := range kinds {
		text, err := os.ReadFile(filepath.Join(top, "docs/reference", kind+".schema.json"))
		must(t, err)
		var schema jsonschema.Schema
		must(t, json.Unmarshal(text, &schema))
		resolved, err := schema.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
		must(t, err)
		out[kind] = resolved
	}
	return out
}

// fits says whether a file fits its schema, as an editor sees it.
func fits(schema *jsonschema.Resolved, text string) error {
	var instance any
	if err := yaml.Unmarshal([]byte(text), &instance); err != nil {
		return err
	}
	b, err := json.Marshal(instance) // what JSON has no form for, such as a time, is a text
	if err != nil {
		return err
	}
	instance = nil
	if err := json.Unmarshal(b, &instance); err != nil {
		return err
	}
	return schema.Validate(instance)
}

// Every configuration that people may copy is taken by the service, where the environment says what differs from place
// to place, and fits the schema, which it names.
func TestConfigurationsFitTheirSchemas(t *testing.T) {
	schemas := schemas(t)
	seen := map[string]int{}
	for _, name := range allPages(t) {
		for _, b := range readPage(t, name).Blocks {
			first, _, _ := strings.Cut(b.Text, "\n")
			kind, _, _ := strings.Cut(strings.TrimPrefix(first, "# "), ".yaml")
			if schema := schemas[kind]; schema != nil && strings.HasPrefix(b.Info, "yaml") {
				seen[kind]++
				if err := fits(schema, b.Text); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
	for name, value := range map[string]string{
		"SOURCE_NAME": "shop", "SOURCE_DSN": "postgres://a@b/c", "WAREHOUSE_DSN": "postgres://a@b/c",
		"KAFKA_BROKERS": "localhost:9092", "REGISTRY_URL": "http://localhost:8081",
	} {
		t.Setenv("TRIBUTARY_"+name, value)
	}
	for _, pattern := range []string{"deploy/config/*/*.yaml", "deploy/docker/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(top, pattern))
		must(t, err)
		for _, file := range files {
			kind := strings.TrimSuffix(filepath.Base(file), ".yaml")
			if kinds[kind] == nil {
				t.Errorf("%s is of no service", file)
				continue
			}
			seen[kind]++
			if err := config.Load(file, kinds[kind]()); err != nil {
				t.Error(err)
			}
			text, err := os.ReadFile(file)
			must(t, err)
			if err := fits(schemas[kind], string(text)); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			line, _, _ := strings.Cut(string(text), "\n")
			to, ok := strings.CutPrefix(line, "# yaml-language-server: $schema=")
			if want := filepath.Join(top, "docs/reference", kind+".schema.json"); !ok || filepath.Join(filepath.Dir(file), to) != want {
				t.Errorf("%s: its first line names no schema, or not %s", file, want)
			}
		}
	}
	if seen["capture"] < 6 || seen["sink"] < 6 {
		t.Errorf("seen %v", seen)
	}
	for kind, schema := range schemas {
		if err := fits(schema, config.Defaults(kinds[kind]())); err != nil {
			t.Errorf("every default of %s: %v", kind, err)
		}
	}
}

// What a schema refuses, the service refuses too: an editor never says more than config check. Of what the service
// refuses, the schema misses only what no schema can say.
func TestSchemasAgreeWithConfigCheck(t *testing.T) {
	schemas := schemas(t)
	const source = "source: {name: s, dsn: d}\nkafka: {brokers: [b:1]}\nregistry: {url: http://r}\n"
	const warehouse = "warehouse: {dsn: d}\nkafka: {brokers: [b:1]}\nregistry: {url: http://r}\n"
	for _, c := range []struct {
		kind, text      string
		service, schema bool // is it taken
	}{
		{"capture", source, true, true},
		{"capture", source + "snapshot: {workers: 1_6, chunk_rows: '10', chunk_bytes: 65536, conditions: 'True'}\npublish: {linger: 1.5s}", true, true},
		{"capture", source + "topics:\nlog: {level: }\nhttp: {hosts: }", true, true},
		{"capture", source + "salt: 0123\nsource2: x", false, false},
		{"capture", "source: {name: 007, dsn: true, tables: 'a.*, b.*'}\nkafka: {brokers: b:1}\nregistry: {url: http://r}", true, true},
		{"capture", "source: [a]", false, false},
		{"capture", "source: {name: [s]}", false, false},
		{"capture", "source: {nam: s}", false, false},
		{"capture", source + "snapshot: {workers: many}", false, false},
		{"capture", source + "snapshot: {workers: 1.5}", false, false},
		{"capture", source + "snapshot: {workers: true}", false, false},
		{"capture", source + "snapshot: {conditions: yes}", false, false},
		{"capture", source + "snapshot: {chunk_bytes: 8 megabytes}", false, false},
		{"capture", source + "snapshot: {chunk_bytes: -8}", false, false},
		{"capture", source + "publish: {linger: 1sec}", false, false},
		{"capture", source + "publish: {linger: 5}", false, false},
		{"capture", source + "snapshot: {mode: allways}", false, false},
		{"capture", source + "columns: {table: a.b}", false, false},
		{"capture", source + "columns: [a.b]", false, false},
		{"capture", source + "columns: [{exclude: [c]}]", false, false},
		{"capture", source + "columns: [{table: a.b, mask: [{column: c, as: hsah}]}]", false, false},
		{"capture", source + "columns: [{table: a.b, mask: [{column: c, as: null}]}]", false, false}, // "null" is meant
		{"capture", source + "columns: [{table: a.b, mask: [{column: c, as: 'null'}]}]", true, true},
		{"capture", source + "snapshot: {workers: 100}", false, true}, // only the service knows
		{"capture", "source: {name: s}", false, true},                 // the environment may have it
		{"sink", warehouse + "tables: [{from: a.b}]", true, true},
		{"sink", warehouse + "tables:\n  - &a {from: a.b, keep: 90 days, by: at}\n  - {<<: *a, from: c.d}", true, true},
		{"sink", warehouse + "tables: [{from: a.b, columns: [id, a as b, 7, {from: c, as: d, mask: hash}]}]\nsalt: x", true, true},
		{"sink", warehouse + "tables: [{from: a.b, columns: [{as: d}]}]", false, false},
		{"sink", warehouse + "tables: [{from: a.b, columns: [[d]]}]", false, false},
		{"sink", warehouse + "tables: [{from: a.b, ignore: [drop]}]", false, false},
		{"sink", warehouse + "tables: [{from: a.b, ignore: delete}]", true, true},
		{"sink", warehouse + "tables: [{to: a.b}]", false, false},
		{"sink", warehouse + "tables: [{from: a.b, set: [{column: c}]}]", false, false},
		{"sink", warehouse + "tables: [{from: a.b, histroy: {}}]", false, false},
		{"sink", warehouse + "tables: [{from: a.b}]\nbatch: {age: 0, memory: 64.5MiB}", true, true},
		{"sink", warehouse + "tables: [{from: nothing}]", false, true},
		{"sink", warehouse, false, true},
	} {
		err := config.Decode("x.yaml", []byte(c.text), kinds[c.kind]())
		if c.service != (err == nil) {
			t.Errorf("%s:\nthe service: %v", c.text, err)
		}
		if err != nil {
			if _, ok := errors.AsType[*config.Faults](err); !ok {
				t.Errorf("%s: %v", c.text, err)
			}
		}
		if err := fits(schemas[c.kind], c.text); c.schema != (err == nil) {
			t.Errorf("%s:\nthe schema: %v", c.text, err)
		}
	}
}
