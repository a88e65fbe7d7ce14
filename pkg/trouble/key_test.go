package trouble

import (
	"strings"
	"testing"
)

func TestKeys(t *testing.T) {
	for _, one := range []struct {
		names, values []string
		want          string
	}{
		{[]string{"id"}, []string{"4711"}, ", key (id) = (4711)"},
		{[]string{"id", "a)t"}, []string{"1", "2026-01-02 03:04:05+00"}, `, key (id, "a)t") = (1, 2026-01-02 03:04:05+00)`},
		{[]string{"n"}, []string{"secret): it\n\"is\" (\x1b[31m"}, `, key (n) = ("secret): it\n\"is\" (\x1b[31m")`},
		{[]string{"n"}, []string{strings.Repeat("secret", 100)}, ", key (n) = (" + strings.Repeat("secret", 100)[:200] + "…)"},
		{nil, nil, ""},
	} {
		got := Key(one.names, one.values)
		if got != one.want {
			t.Errorf("got %s, want %s", got, one.want)
		}
		text := "write to table x" + got + `: violates check constraint "c = 1"`
		without, names := WithoutKeys(text), strings.Split(one.want, " = ")[0]
		if want := "write to table x" + names + `: violates check constraint "c = 1"`; without != want {
			t.Errorf("without its values\n%s\nwant\n%s", without, want)
		}
	}
	two := Key([]string{"a"}, []string{"1"}) + Key([]string{"b"}, []string{"2"}) + " = 3"
	if got := WithoutKeys(two); got != ", key (a), key (b) = 3" {
		t.Errorf("got %s", got)
	}
}
