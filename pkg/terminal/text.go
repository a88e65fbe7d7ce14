package terminal

import (
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean gives a text of any origin with everything written out that could paint a terminal, end a line, or turn the
// direction of what is behind it: "\x1b", "\n", "\u202e".
func Clean(s string) string {
	if strings.IndexFunc(s, paints) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[i])|0x100, 16)[1:])
		case paints(r):
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	return b.String()
}

func paints(r rune) bool { return r != ' ' && !unicode.IsPrint(r) }

// cleanLines is Clean for a text of several lines, which stay.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = Clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

// cleanWriter gives a writer that writes cleaned lines to w. Each write holds whole lines.
func cleanWriter(w io.Writer) io.Writer { return cleaner{w} }

type cleaner struct{ w io.Writer }

func (c cleaner) Write(b []byte) (int, error) {
	if _, err := io.WriteString(c.w, cleanLines(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Bar gives a bar of so many characters, in ASCII: "[####----]".
func Bar(part, whole float64, width int) string {
	filled := 0
	if whole > 0 {
		filled = min(max(int(part/whole*float64(width)+0.5), 0), width)
	}
	return "[" + strings.Repeat("#", filled) + strings.Repeat("-", width-filled) + "]"
}

// wrap breaks a sentence into lines of so many characters at most, of which the first has so many fewer. Words stay whole, however
// long, and so do a number with its %, and spaces within a line. With a width of 0 or less nothing is broken.
func wrap(s string, width, first int) (lines []string) {
	if width <= 0 {
		return []string{s}
	}
	line, room := "", width-max(first, 0)
	var words []string
	for word := range strings.SplitAfterSeq(s, " ") {
		if last := len(words) - 1; last >= 0 && strings.HasPrefix(word, "%") { // it stays with its number
			words[last] += word
		} else {
			words = append(words, word)
		}
	}
	for _, word := range words {
		if line != "" && utf8.RuneCountInString(line)+utf8.RuneCountInString(strings.TrimRight(word, " ")) > room {
			lines, line, room = append(lines, strings.TrimRight(line, " ")), "", width
		}
		line += word
	}
	return append(lines, strings.TrimRight(line, " "))
}
