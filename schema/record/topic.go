package record

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxTopicBytes is the longest topic name that Kafka takes.
const maxTopicBytes = 249

// ErrTopicName is wrapped by the errors of Topic.
var ErrTopicName = errors.New("no topic name can be made")

// The two parts behind the source in the name of a progress topic.
const (
	progressSchema = "tributary"
	progressTable  = "progress"
)

// Topic gives the name of the topic that holds the changes of one table: {source}.{schema}.{table}, each part
// escaped so that ParseTopic gives back exactly what went in. Two tables never share a topic, and no table has
// the name of a progress topic. It fails, with ErrTopicName, where a part is empty or the name is longer than
// maxTopicBytes.
func Topic(source, schema, table string) (string, error) {
	if source == "" || schema == "" || table == "" {
		return "", fmt.Errorf("name topic of table %q.%q of source %q: %w: a part is empty", schema, table, source, ErrTopicName)
	}
	b := appendEscaped(nil, source, topicByte)
	b = append(b, '.')
	if schema == progressSchema && table == progressTable {
		b = appendEscape(b, rune(schema[0]))
		b = append(b, schema[1:]...)
	} else {
		b = appendEscaped(b, schema, topicByte)
	}
	b = append(b, '.')
	b = appendEscaped(b, table, topicByte)
	if len(b) > maxTopicBytes {
		return "", fmt.Errorf("name topic of table %q.%q of source %q: %w: %q has %d bytes, Kafka takes %d; a shorter name of the source leaves more room",
			schema, table, source, ErrTopicName, b, len(b), maxTopicBytes)
	}
	return string(b), nil
}

// ParseTopic reads what Topic writes. ok is false for every name that Topic does not write: topics of others,
// progress topics.
func ParseTopic(topic string) (source, schema, table string, ok bool) {
	var parts [3]string
	rest := topic
	for i := range parts {
		part := rest
		if i < len(parts)-1 {
			var more bool
			if part, rest, more = strings.Cut(rest, "."); !more {
				return "", "", "", false
			}
		}
		if parts[i], ok = unescape(part); !ok {
			return "", "", "", false
		}
	}
	// Only the one spelling that Topic chooses is a topic of ours: the names stay one to one.
	again, err := Topic(parts[0], parts[1], parts[2])
	if err != nil || again != topic {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}

// ProgressTopic gives the name of the topic in which capture of source says how far it has come (Progress).
func ProgressTopic(source string) string {
	b := appendEscaped(nil, source, topicByte)
	b = append(b, "."+progressSchema+"."+progressTable...)
	return string(b)
}

// ParseProgressTopic reads what ProgressTopic writes; ok is false for every other name.
func ParseProgressTopic(topic string) (source string, ok bool) {
	part, ok := strings.CutSuffix(topic, "."+progressSchema+"."+progressTable)
	if !ok {
		return "", false
	}
	source, ok = unescape(part)
	if !ok || source == "" || ProgressTopic(source) != topic {
		return "", false
	}
	return source, true
}

// avroName gives s as a name that Avro allows, [A-Za-z_][A-Za-z0-9_]*, with the escapes of Topic. Different names
// stay different.
func avroName(s string) string { return string(appendEscaped(nil, s, avroByte)) }

// avroNamespace gives the Avro namespace of the records of one topic.
func avroNamespace(source, schema, table string) string {
	return avroName(source) + "." + avroName(schema) + "." + avroName(table)
}

func topicByte(c byte, _ bool) bool { return avroByte(c, false) || c == '-' }

func avroByte(c byte, first bool) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || !first && c >= '0' && c <= '9'
}

// surrogate is where the bytes of an identifier that is not UTF-8 are put: no UTF-8 text holds these runes.
const surrogate = 0xDC00

// appendEscaped appends s with every rune that is not plain as _xHHHH_, its code point in upper-case
// hexadecimal. An underscore that would make plain text look like the start of an escape is escaped itself; that
// is "_x" before a hexadecimal digit, whatever comes behind, since the "_" that ends an escape may be the first
// byte of the next one.
func appendEscaped(dst []byte, s string, plain func(c byte, first bool) bool) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if plain(c, i == 0) && !startsEscape(s[i:]) {
			dst = append(dst, c)
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			r = surrogate | rune(c)
		}
		dst = appendEscape(dst, r)
		i += size
	}
	return dst
}

func startsEscape(s string) bool {
	return len(s) >= 3 && s[0] == '_' && s[1] == 'x' && upperHex(s[2])
}

func upperHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'A' && c <= 'F' }

func appendEscape(dst []byte, r rune) []byte {
	return fmt.Appendf(dst, "_x%04X_", r)
}

// unescape undoes appendEscaped. It may take more than appendEscaped writes: callers compare.
func unescape(s string) (string, bool) {
	var b []byte
	for i := 0; i < len(s); {
		if !startsEscape(s[i:]) {
			b = append(b, s[i])
			i++
			continue
		}
		digits := 2
		for i+digits < len(s) && upperHex(s[i+digits]) {
			digits++
		}
		if i+digits >= len(s) || s[i+digits] != '_' {
			return "", false
		}
		v, err := strconv.ParseUint(s[i+2:i+digits], 16, 21)
		if err != nil {
			return "", false
		}
		if v&^0xFF == surrogate {
			b = append(b, byte(v))
		} else {
			b = utf8.AppendRune(b, rune(v))
		}
		i += digits + 1
	}
	return string(b), true
}
