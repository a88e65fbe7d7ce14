package rule

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/traits"
)

// TestJSONMembers: a member that is looked for in the text is what decoding all of the text gives.
func TestJSONMembers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test's
	space := func() string { return []string{"", "", " ", "\n\t"}[r.IntN(4)] }
	names := []string{`"a"`, `"b"`, `"\u0061"`, `""`, `"a\"b"`, `"}"`, `"ä"`, `"[,:"`}
	var value func(depth int) string
	value = func(depth int) string {
		kinds := 9
		if depth == 0 {
			kinds = 7
		}
		switch r.IntN(kinds) {
		case 0:
			return []string{"0", "-1", "12.50", "9007199254740993", "99999999999999999999", strings.Repeat("9", 305), "1e3", "1E400"}[r.IntN(8)]
		case 1:
			return "true"
		case 2:
			return "false"
		case 3:
			return "null"
		case 4, 5, 6:
			return []string{`"x"`, `""`, `"\\"`, `"\"}"`, `"\u00e4,"`, `"]"`, `"1e5"`, `"\ud800"`}[r.IntN(8)]
		case 7:
			var list []string
			for range r.IntN(4) {
				list = append(list, space()+value(depth-1)+space())
			}
			return "[" + space() + strings.Join(list, ",") + "]"
		}
		var members []string
		for range r.IntN(5) {
			members = append(members, space()+names[r.IntN(len(names))]+space()+":"+space()+value(depth-1)+space())
		}
		return "{" + space() + strings.Join(members, ",") + "}"
	}
	objects := 0
	for range 20_000 {
		text := space() + value(3) + space()
		got, want := decodeJSON([]byte(text)), decodeAll([]byte(text))
		if types.IsError(got) != types.IsError(want) {
			t.Fatalf("%s: %v, all of it %v", text, got, want)
		}
		if types.IsError(got) {
			continue
		}
		if got.Equal(want) != types.True || want.Equal(got) != types.True || got.Type() != want.Type() {
			t.Fatalf("%s: %v, all of it %v", text, got, want)
		}
		if m, ok := got.(*object); ok {
			objects++
			for _, quoted := range append(names, `"none"`) {
				var name string
				if err := json.Unmarshal([]byte(quoted), &name); err != nil {
					t.Fatal(err)
				}
				key := types.String(name)
				v, ok := m.Find(key)
				w, known := want.(traits.Mapper).Find(key)
				if ok != known || ok && (v.Equal(w) != types.True || v.Type() != w.Type()) || m.Contains(key) != types.Bool(known) {
					t.Fatalf("%s: %s is %v, %v; in all of it %v, %v", text, quoted, v, ok, w, known)
				}
			}
		}
	}
	if objects < 1000 {
		t.Errorf("%d objects", objects)
	}
	for _, bad := range []string{"", "{", `{"a"}`, `{"a": 1,}`, "[1", "nul", `{"a": 1} x`, "nan"} {
		if v := decodeJSON([]byte(bad)); !types.IsError(v) {
			t.Errorf("%q is %v", bad, v)
		}
	}
}
