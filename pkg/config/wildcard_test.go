package config

import (
	"strings"
	"testing"
)

func TestFits(t *testing.T) {
	is := func(want bool, pattern, name string) {
		t.Helper()
		if Fits(pattern, name) != want {
			t.Errorf("%q, %q: %v", pattern, name, !want)
		}
	}
	is(true, "", "")
	is(false, "", "a")
	is(true, "*", "")
	is(true, "*", "a/b.c")
	is(true, "a*c", "ac")
	is(true, "a*b*c", "axbxbxc")
	is(false, "a*b*c", "axbxbx")
	is(true, "*.log", "audit.log.log")
	is(true, "a?c", "abc")
	is(true, "a?c", "aéc")
	is(false, "a??c", "aéc")
	is(false, "*??", "é")
	is(true, "*?c", "aéc")
	is(false, "a?c", "ac")
	is(false, "abc", "abcd")
	is(false, "abc", "ab")
	is(true, "[a]", "[a]")
	is(false, "[a]", "a")
	is(true, `a\*`, "a*")
	is(false, `a\*`, "ab")
	is(true, `\?\\*`, `?\x`)
	is(true, `a\`, `a\`)
	is(true, `a\b`, `a\b`) // itself
	is(false, strings.Repeat("*a", 100)+"b", strings.Repeat("a", 10_000))
}
