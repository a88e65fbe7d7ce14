package docs

import (
	"regexp"
	"strings"
	"testing"
)

// shapes are what differs from run to run, and what stands for it.
var shapes = []struct {
	is *regexp.Regexp
	as string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d(:?\d\d)?| UTC)?`), "<time>"},
	{regexp.MustCompile(`\b\d\d:\d\d:\d\d(\.\d+)?\b`), "<time>"},
	{regexp.MustCompile(`\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b`), "<lsn>"},
	{regexp.MustCompile(`(127\.0\.0\.1|localhost):\d+`), "<address>"},
	{regexp.MustCompile(`-?\b\d[\d,.]*( ?[KMGT]iB| [kMGT]?B)(/s)?( of -?\d[\d,.]* ?[KMGT]?i?B)?`), "<bytes>"},
	{regexp.MustCompile(`\b\d[\d,.]*/s\b`), "<rate>"},
	{regexp.MustCompile(`\b\d[\d.]* ?(ns|µs|ms|s|min|h|d)( \d[\d.]* (s|min|h))?\b`), "<duration>"},
	{regexp.MustCompile(`\b\d+ ?%`), "<percent>"},
	{regexp.MustCompile(`\b(pid|system id) \d+`), "$1 <number>"},
	{regexp.MustCompile(`\b\d+\.\d{4,}\b`), "<number>"},
	{regexp.MustCompile(`[ \t]+`), " "},
	{regexp.MustCompile(`(?m)<time> \d+(\.\d{1,3})?( |$)`), "<time> <age>$2"}, // how old it is, for programs
	{regexp.MustCompile(`-{3,}`), "--"},
}

func shape(text string) string {
	for _, s := range shapes {
		text = s.is.ReplaceAllString(text, s.as)
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, "\n")
}

// fits says whether a program has said what a page shows: a line "..." stands for any lines, … for anything within one;
// numbers with units, times, addresses and positions need only look alike.
func fits(shown, said string) bool {
	var b strings.Builder
	b.WriteString(`\A`)
	for i, line := range strings.Split(shape(shown), "\n") {
		if line == "..." {
			b.WriteString(`(?s:.*?)`)
			continue
		}
		if i > 0 {
			b.WriteString(`\n?`)
		}
		b.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", `.*`))
		b.WriteString(`(?m:$)`)
	}
	b.WriteString(`\n?\z`)
	return regexp.MustCompile(b.String()).MatchString(shape(said))
}

func TestFits(t *testing.T) {
	f := func(want bool, shown, said string) {
		t.Helper()
		if fits(shown, said) != want {
			t.Errorf("%q and %q: want %t", shown, said, want)
		}
	}
	f(true, "a\nb\n", "a\nb")
	f(false, "a\nb\n", "a\nc\n")
	f(false, "a\nb\n", "ab\n")
	f(false, "a\n", "a\nb\n")
	f(true, "...\nb\n", "a\nb\n")
	f(true, "a\n...\n", "a\nb\nc\n")
	f(true, "a\n...\nc\n", "a\nc\n")
	f(false, "a\n...\nc\n", "a\nb\n")
	f(true, "a … c", "a b c")
	f(false, "a … c", "a b\nc")
	f(true, "lag 3 ms, 1.5 MiB/s of 16/B374D848", "lag   2 min 41 s, 800 B/s of 0/19A2F0")
	f(false, "3 rows", "4 rows")
	f(true, "at 2026-01-02 10:00:00 UTC on 127.0.0.1:9092", "at 2027-01-02 11:00:00.5 UTC on 127.0.0.1:31337")
	f(true, "budget 3 KiB of 50 GiB", "budget 17 MiB of 2 GiB")
}
