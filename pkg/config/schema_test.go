package config

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestSchema(t *testing.T) {
	text := Schema(&testConfig{}, "sink.yaml")
	var root map[string]any
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	at := func(path string) any {
		t.Helper()
		var here any = root
		for name := range strings.SplitSeq(path, "/") {
			here = here.(map[string]any)[name]
		}
		return here
	}
	for path, want := range map[string]any{
		"$schema":                          "https://json-schema.org/draft/2020-12/schema",
		"additionalProperties":             false,
		"required":                         nil, // the environment may have it
		"properties/group/description":     "Name of the group. (TRIBUTARY_GROUP)",
		"properties/tables/items/required": []any{"from"},
		"properties/tables/items/properties/mode/enum":    []any{"clone", "append", "history", nil},
		"properties/tables/items/properties/mode/default": "clone",
		"properties/http/properties/listen/default":       "127.0.0.1:9192", // of the section, not of the struct
		"properties/workers/default":                      4.0,
		"properties/workers/type":                         []any{"string", "integer", "null"},
		"properties/source/properties/fence/default":      true,
		"properties/source/properties/tables/default":     []any{"public.*", "!public.audit"},
		"properties/limit/default":                        "16MiB",
	} {
		if got := at(path); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %#v, want %#v", path, got, want)
		}
	}
	if group, log := strings.Index(string(text), `"group"`), strings.Index(string(text), `"log"`); group > log {
		t.Error("the keys are not in the order of the reference")
	}
}
