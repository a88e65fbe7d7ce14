package trouble

import (
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxKeyValue = 40  // bytes of a value that are told
	maxKey      = 200 // bytes of all values of a key
)

// Key tells a row in the text of an error by its key: ", key (id) = (4711)". Long values are cut. WithoutKeys finds it again.
func Key(names, values []string) string {
	if len(names) == 0 {
		return ""
	}
	told, shown := make([]string, len(values)), make([]string, len(names))
	left := maxKey
	for i, name := range names {
		shown[i] = plain(name)
	}
	for i, value := range values {
		longest := min(max(left, 1), max(maxKeyValue, maxKey/len(values)))
		if len(value) > longest {
			value = strings.ToValidUTF8(value[:longest], "") + "…"
		}
		left -= len(value)
		told[i] = plain(value)
	}
	return ", key (" + strings.Join(shown, ", ") + ") = (" + strings.Join(told, ", ") + ")"
}

// plain quotes what would make a text ambiguous, or could paint a terminal.
func plain(text string) string {
	odd := func(r rune) bool {
		return r == '(' || r == ')' || r == '"' || r == '\\' || r == utf8.RuneError || !unicode.IsPrint(r)
	}
	if strings.IndexFunc(text, odd) >= 0 {
		return strconv.Quote(text)
	}
	return text
}

// keyValues is what Key writes.
var keyValues = regexp.MustCompile(`(, key \((?:[^()"]|"(?:[^"\\]|\\.)*")*\)) = \((?:[^()"]|"(?:[^"\\]|\\.)*")*\)`)

// WithoutKeys gives a text in which keys of rows have names alone, no values.
func WithoutKeys(text string) string { return keyValues.ReplaceAllString(text, "$1") }
