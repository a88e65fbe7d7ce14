package record

// The texts of values, for who computes with them. Each parser takes the one spelling that Postgres writes under the
// settings of pkg/postgres, and what is appended is that spelling.

// ParseTimestamp gives the microseconds since 1970-01-01 00:00 of a timestamp without zone ("2024-03-10 12:34:56.789").
// ok is false for infinity too.
func ParseTimestamp(text []byte) (micros int64, ok bool) { return parseTimestamp(text) }

// AppendTimestamp undoes ParseTimestamp.
func AppendTimestamp(dst []byte, micros int64) []byte { return appendTimestampText(dst, micros) }

// ParseDate gives the days since 1970-01-01 of a date ("2024-03-10").
func ParseDate(text []byte) (days int32, ok bool) { return parseDate(text) }

// AppendFloat appends a double precision, bits being 64, or a real, bits being 32.
func AppendFloat(dst []byte, v float64, bits int) []byte { return appendFloatText(dst, v, bits) }

// Elements gives the elements of an array of one dimension that counts from 1, nil for a null one. ok is false for any
// other text. An element is valid only during the call of yield.
func Elements(text []byte, yield func(element []byte)) (ok bool) {
	n := len(text)
	if n < 2 || text[0] != '{' || text[n-1] != '}' {
		return false
	}
	text = text[1 : n-1]
	var scratch []byte
	for n > 2 {
		var element []byte
		var quoted bool
		if element, text, scratch, quoted, ok = cutElement(text, ',', scratch); !ok {
			return false
		}
		switch {
		case quoted:
			yield(element)
		case string(element) == "NULL":
			yield(nil)
		case len(element) == 0 || element[0] == '{': // a second dimension
			return false
		default:
			yield(element)
		}
		if len(text) == 0 {
			break
		}
		text = text[1:]
	}
	return true
}

// AppendElement appends an element to an array's text, in quotes where it needs them.
func AppendElement(dst, element []byte) []byte {
	if !mustQuote(element, ',') {
		return append(dst, element...)
	}
	dst = append(dst, '"')
	for _, c := range element {
		if c == '"' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, c)
	}
	return append(dst, '"')
}
