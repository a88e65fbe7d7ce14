package docs

import (
	"cmp"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/sink"
)

// fields gives the names that the JSON of a type has, by the path of the object that they are in.
func fields(of reflect.Type, path string, into map[string][]string) {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || of == reflect.TypeFor[time.Time]() {
		return
	}
	for f := range of.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			fields(f.Type, path, into)
		case f.IsExported() && name != "-":
			into[path] = append(into[path], name)
			fields(f.Type, strings.TrimPrefix(path+"."+name, "."), into)
		}
	}
}

// section gives what a page has below a heading, as rows of its table: the second cell by what the first one names.
func section(page, heading string) map[string]string {
	_, text, _ := strings.Cut(page, "\n"+heading+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	rows := map[string]string{}
	var last string
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 {
			continue
		}
		if first := strings.TrimSpace(cells[1]); first != "" {
			last = first
		}
		for name := range strings.SplitSeq(last, ", ") {
			rows[strings.Trim(name, "`")] += cells[2]
		}
	}
	return rows
}

// TestStatusFieldsAreDocumented: every field of both documents of status stands in reference/json.md, in the row of the object that has it.
func TestStatusFieldsAreDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(top, "docs/reference/json.md"))
	if err != nil {
		t.Fatal(err)
	}
	both := section(string(text), "## What both documents have")
	for heading, of := range map[string]reflect.Type{"## A capture's status": reflect.TypeFor[capture.Report](), "## A sink's status": reflect.TypeFor[sink.Report]()} {
		rows := section(string(text), heading)
		objects := map[string][]string{}
		fields(of, "", objects)
		for path, names := range objects {
			object := cmp.Or(path, "the document")
			said := cmp.Or(rows[object], both[object])
			for _, name := range names {
				if !strings.Contains(said, "`"+name+"`") {
					t.Errorf("%s: nothing is said of %s in %s", heading, name, object)
				}
			}
		}
		for object := range rows {
			if object != "in" && object != "the document" && !strings.HasPrefix(object, "-") && objects[object] == nil {
				t.Errorf("%s: there is no object %s", heading, object)
			}
		}
	}
}
