package page

import (
	"strings"
	"unicode"
)

// fromRight are the scripts that are written from right to left. What stands beside their letters in a line, a number or a colon, would be
// shown on their other side.
var fromRight = []*unicode.RangeTable{
	unicode.Hebrew, unicode.Arabic, unicode.Syriac, unicode.Thaana, unicode.Nko, unicode.Samaritan, unicode.Mandaic, unicode.Adlam, unicode.Hanifi_Rohingya,
}

func turns(r rune) bool { return r >= 0x590 && unicode.In(r, fromRight...) }

// isolate puts names that are written from right to left into <bdi>, wherever they stand in the text of a page that is rendered: they turn
// nothing that stands around them.
func isolate(html string) string {
	if strings.IndexFunc(html, turns) < 0 {
		return html
	}
	var b strings.Builder
	within := "" // an element that has no others in it, or whose text is isolated
	for html != "" {
		text, rest, _ := strings.Cut(html, "<")
		if within != "" || strings.IndexFunc(text, turns) < 0 {
			b.WriteString(text)
		} else {
			isolateText(&b, text)
		}
		if len(rest) == 0 {
			break
		}
		tag, after, _ := strings.Cut(rest, ">") // no value of an attribute holds one: it is escaped
		b.WriteString("<" + tag + ">")
		switch name, _, _ := strings.Cut(tag, " "); name {
		case "title", "option", "bdi":
			within = name
		case "/" + within:
			within = ""
		}
		html = after
	}
	return b.String()
}

func isolateText(b *strings.Builder, text string) {
	words := strings.SplitAfter(text, " ")
	for len(words) > 0 {
		n := 0 // words in a row that hold such letters: one name, as far as can be told
		for n < len(words) && strings.IndexFunc(words[n], turns) >= 0 {
			n++
		}
		if n == 0 {
			b.WriteString(words[0])
			words = words[1:]
			continue
		}
		run := strings.Join(words[:n], "")
		name := strings.TrimRight(run, " \n.,:!?")
		b.WriteString("<bdi>" + name + "</bdi>" + run[len(name):])
		words = words[n:]
	}
}
