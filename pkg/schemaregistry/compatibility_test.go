package schemaregistry

import (
	"strings"
	"testing"
)

// Each case: can the reader read what the writer wrote? A fault's text must hold the last word.
func TestResolution(t *testing.T) {
	const rec = `{"type":"record","name":"n.r","fields":[`
	for _, test := range []struct{ reader, writer, fault string }{
		{`"int"`, `"int"`, ""},
		{`"long"`, `"int"`, ""},
		{`"float"`, `"long"`, ""},
		{`"double"`, `"float"`, ""},
		{`"int"`, `"long"`, "long cannot be read as int"},
		{`"float"`, `"double"`, "double"},
		{`"bytes"`, `"string"`, ""},
		{`"string"`, `"bytes"`, ""},
		{`"string"`, `"int"`, "int"},
		{`{"type":"long","logicalType":"timestamp-micros"}`, `"long"`, ""},
		{`{"type":{"type":"long"}}`, `"long"`, ""},

		{`["null","int"]`, `"int"`, ""},
		{`["null","long"]`, `"int"`, ""},
		{`["null","int"]`, `["int","null"]`, ""},
		{`["null","int"]`, `"string"`, "no branch"},
		{`"int"`, `["null","int"]`, "/0: null"},
		{`"int"`, `["int"]`, ""},
		{`["null","int"]`, `["null","int","string"]`, "/2"},

		{`{"type":"array","items":"long"}`, `{"type":"array","items":"int"}`, ""},
		{`{"type":"array","items":"int"}`, `{"type":"array","items":"long"}`, "/items"},
		{`{"type":"map","values":"int"}`, `{"type":"map","values":"string"}`, "/items"},
		{`{"type":"map","values":"int"}`, `{"type":"array","items":"int"}`, "array"},

		{`{"type":"fixed","name":"f","size":2}`, `{"type":"fixed","name":"x.f","size":2}`, ""},
		{`{"type":"fixed","name":"f","size":2}`, `{"type":"fixed","name":"f","size":3}`, "3 bytes"},
		{`{"type":"fixed","name":"f","size":2}`, `{"type":"fixed","name":"g","size":2}`, `"g"`},
		{`{"type":"enum","name":"e","symbols":["A","B"]}`, `{"type":"enum","name":"e","symbols":["B"]}`, ""},
		{`{"type":"enum","name":"e","symbols":["A"]}`, `{"type":"enum","name":"e","symbols":["A","B"]}`, `"B"`},
		{`{"type":"enum","name":"e","symbols":["A"],"default":"A"}`, `{"type":"enum","name":"e","symbols":["A","B"]}`, ""},

		{rec + `]}`, rec + `{"name":"a","type":"int"}]}`, ""},
		{rec + `{"name":"a","type":"int"}]}`, rec + `]}`, "/a: the field is missing"},
		{rec + `{"name":"a","type":["null","int"],"default":null}]}`, rec + `]}`, ""},
		{rec + `{"name":"a","type":"long"}]}`, rec + `{"name":"a","type":"int"}]}`, ""},
		{rec + `{"name":"a","type":"int"}]}`, rec + `{"name":"a","type":"long"}]}`, "/a: long"},
		{rec + `{"name":"b","aliases":["a"],"type":"int"}]}`, rec + `{"name":"a","type":"int"}]}`, ""},
		{rec + `]}`, `{"type":"record","name":"n.other","fields":[]}`, `"n.other"`},
		{`{"type":"record","name":"s","namespace":"n","aliases":["r"],"fields":[]}`, rec + `]}`, ""},

		// Records that hold themselves: the comparison ends, and a difference inside is found.
		{
			rec + `{"name":"next","type":["null","n.r"]},{"name":"v","type":"long"}]}`,
			rec + `{"name":"next","type":["null","r"]},{"name":"v","type":"int"}]}`, "",
		},
		{
			rec + `{"name":"next","type":["null","n.r"]},{"name":"v","type":"int"}]}`,
			rec + `{"name":"next","type":["null","n.r"]},{"name":"v","type":"long"}]}`, "/v",
		},
	} {
		reader, err := parse(test.reader)
		if err != nil {
			t.Fatalf("%s: %v", test.reader, err)
		}
		writer, err := parse(test.writer)
		if err != nil {
			t.Fatalf("%s: %v", test.writer, err)
		}
		faults := strings.Join(level("BACKWARD").check(reader, writer), "\n")
		if (faults == "") != (test.fault == "") || !strings.Contains(faults, test.fault) {
			t.Errorf("reader %s\nwriter %s\nfaults %q, want %q", test.reader, test.writer, faults, test.fault)
		}
		forward := strings.Join(level("FORWARD_TRANSITIVE").check(writer, reader), "\n")
		if forward != faults {
			t.Errorf("reader %s\nwriter %s\nFORWARD says %q, BACKWARD %q", test.reader, test.writer, forward, faults)
		}
		if f := level("FULL").check(reader, writer); test.fault != "" && len(f) == 0 {
			t.Errorf("reader %s\nwriter %s\ncompatible at FULL", test.reader, test.writer)
		}
		if f := none.check(reader, writer); len(f) > 0 {
			t.Errorf("level NONE has faults %q", f)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		``, `{`, `"int" "int"`, `7`, `null`, `"nix"`, `{}`, `{"type":"nix"}`, `{"type":7}`,
		`["int","int"]`, `["int",["null"]]`, `{"type":"array"}`, `{"type":"map","values":"nix"}`,
		`{"type":"fixed","name":"f"}`, `{"type":"fixed","name":"f","size":-1}`, `{"type":"fixed","name":"f","size":"2"}`,
		`{"type":"enum","name":"e"}`, `{"type":"enum","name":"e","symbols":[]}`, `{"type":"enum","symbols":["A"]}`,
		`{"type":"record","name":"r"}`, `{"type":"record","name":"r","fields":[{}]}`,
		`{"type":"record","name":"r-s","fields":[]}`, `{"type":"record","name":"int","fields":[]}`,
		`{"type":"record","name":"r","fields":[{"name":"a"}]}`, `{"type":"record","name":"r","fields":[{"name":"a.b","type":"int"}]}`,
		`{"type":"record","name":"r","fields":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}`,
		`{"type":"record","name":"r","fields":[{"name":"a","type":{"type":"record","name":"r","fields":[]}}]}`,
		strings.Repeat(`{"type":"array","items":`, 600) + `"int"` + strings.Repeat(`}`, 600),
	} {
		if _, err := parse(text); err == nil {
			t.Errorf("parsed %.100s", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`"int"`, `["null",{"type":"array","items":"string"}]`,
		`{"type":"record","name":"n.r","fields":[{"name":"next","type":["null","r"],"default":null,"Size":"x"}]}`,
		`{"type":"enum","name":"e","symbols":["A"],"default":"A"}`, `{"type":"fixed","name":"f","size":2}`,
	} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, one, other string) {
		s, err := parse(one)
		if err != nil {
			return
		}
		if faults := level("FULL").check(s, s); len(faults) > 0 {
			t.Errorf("%s is incompatible with itself: %q", one, faults)
		}
		if w, err := parse(other); err == nil {
			level("FULL").check(s, w)
		}
	})
}
