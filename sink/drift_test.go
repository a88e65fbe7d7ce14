package sink

import (
	"slices"
	"testing"
)

func TestShortened(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f"}
	for n, want := range map[int]string{1: "a", 2: "a and b", 4: "a, b, c and d", 5: "a, b and 3 more", 6: "a, b and 4 more"} {
		if got := shortened(names[:n]); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestStarred(t *testing.T) {
	for text, want := range map[string]string{
		"t": "*", "t t.t": "* *.*", "at t_ t1 Bt 1t tt": "at t_ t1 Bt 1t tt", `table "t": (t)`: `table "*": (*)`, "": "",
	} {
		if got := starred(text, "t"); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := starred("public.aa of public.a", "public.a"); got != "public.aa of *" {
		t.Error(got)
	}
	if got := starred("text", ""); got != "text" {
		t.Error(got)
	}
}

func TestNaturalOrder(t *testing.T) {
	want := []string{"a", "a_1_b", "tenant", "tenant_1", "tenant_02", "tenant_2", "tenant_2a", "tenant_10", "tenant_10_b", "tenant_18446744073709551616", "tenant_b"}
	got := slices.Clone(want)
	slices.Reverse(got)
	if slices.SortFunc(got, natural); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
