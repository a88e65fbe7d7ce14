package record

// appendArray is appendNative for arrays. Native are those of one dimension that count from 1; the text of all
// others starts with "[" or holds "{" where an element would be.
func (f *form) appendArray(dst, text, scratch []byte) (out, scratchOut []byte, ok bool) {
	n := len(text)
	if n < 2 || text[0] != '{' || text[n-1] != '}' {
		return dst, scratch, false
	}
	if n == 2 {
		return append(dst, 0), scratch, true
	}
	text = text[1 : n-1]
	start := len(dst)
	dst = appendLong(dst, int64(countElements(text, f.delim)))
	for {
		var element []byte
		var quoted bool
		element, text, scratch, quoted, ok = cutElement(text, f.delim, scratch)
		if !ok {
			return dst[:start], scratch, false
		}
		if !quoted && string(element) == "NULL" {
			dst = append(dst, branchNull)
		} else {
			if quoted != mustQuote(element, f.delim) {
				return dst[:start], scratch, false
			}
			dst = append(dst, branchSome)
			if dst, _, ok = f.elem.appendNative(dst, element, nil); !ok {
				return dst[:start], scratch, false
			}
		}
		if len(text) == 0 {
			return append(dst, 0), scratch, true
		}
		text = text[1:] // the delimiter: cutElement stops nowhere else
	}
}

// countElements counts the delimiters outside of quotes.
func countElements(text []byte, delim byte) int {
	n := 1
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\':
			i++
		case c == delim && !quoted:
			n++
		}
	}
	return n
}

// cutElement reads one element from the front of text; rest is empty or begins with the delimiter. The element
// aliases text, or scratch where escapes had to be taken out.
func cutElement(text []byte, delim byte, scratch []byte) (element, rest, scratchOut []byte, quoted, ok bool) {
	if len(text) == 0 || text[0] != '"' {
		i := 0
		for i < len(text) && text[i] != delim {
			if text[i] == '\\' {
				return nil, nil, scratch, false, false
			}
			i++
		}
		return text[:i], text[i:], scratch, false, i < len(text)-1 || i == len(text)
	}
	text = text[1:]
	i := 0
	for i < len(text) && text[i] != '"' && text[i] != '\\' {
		i++
	}
	element = text[:i]
	if i < len(text) && text[i] == '\\' {
		scratch = append(scratch[:0], element...)
		for i < len(text) && text[i] != '"' {
			if text[i] == '\\' {
				i++
				if i == len(text) || text[i] != '"' && text[i] != '\\' {
					return nil, nil, scratch, true, false
				}
			}
			scratch = append(scratch, text[i])
			i++
		}
		element = scratch
	}
	if i == len(text) {
		return nil, nil, scratch, true, false
	}
	rest = text[i+1:]
	// Behind a delimiter there is another element.
	return element, rest, scratch, true, len(rest) == 0 || rest[0] == delim && len(rest) > 1
}

// mustQuote says whether array_out puts an element in quotes.
func mustQuote(element []byte, delim byte) bool {
	if len(element) == 0 {
		return true
	}
	if len(element) == 4 && element[0]|0x20 == 'n' && element[1]|0x20 == 'u' && element[2]|0x20 == 'l' && element[3]|0x20 == 'l' {
		return true
	}
	for _, c := range element {
		if c == delim {
			return true
		}
		switch c {
		case '"', '\\', '{', '}', ' ', '\t', '\n', '\v', '\f', '\r':
			return true
		}
	}
	return false
}

// appendArrayText reads an array and appends its text.
func (f *form) appendArrayText(r *reader, arena []byte) []byte {
	arena = append(arena, '{')
	first := true
	for n := r.block(); n > 0; n = r.block() {
		for range n {
			if !first {
				arena = append(arena, f.delim)
			}
			first = false
			if !r.some() {
				if r.fault != "" {
					return arena
				}
				arena = append(arena, "NULL"...)
				continue
			}
			var element []byte
			start := len(arena)
			element, arena = f.elem.text(r, arena)
			if len(arena) == start { // it aliases the value
				arena = append(arena, element...)
			}
			arena = quoteTail(arena, start, f.delim)
		}
	}
	return append(arena, '}')
}

// quoteTail puts the element arena[start:] in quotes where array_out does.
func quoteTail(arena []byte, start int, delim byte) []byte {
	element := arena[start:]
	if !mustQuote(element, delim) {
		return arena
	}
	extra := 2
	for _, c := range element {
		if c == '"' || c == '\\' {
			extra++
		}
	}
	from := len(arena) - 1
	for range extra {
		arena = append(arena, 0)
	}
	to := len(arena) - 1
	arena[to] = '"'
	for to--; from >= start; from-- {
		c := arena[from]
		arena[to] = c
		to--
		if c == '"' || c == '\\' {
			arena[to] = '\\'
			to--
		}
	}
	arena[start] = '"'
	return arena
}
