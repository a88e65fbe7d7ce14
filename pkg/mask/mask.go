// Package mask hides values: capture before they leave the source's database, sink before they reach the warehouse. It
// works on texts, as Postgres spells them, and knows no columns and no configuration.
package mask

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"strings"
	"unicode/utf8"
)

// Kind is a way to hide a value. A null stays null under each.
type Kind string

// The kinds. None is for columns that are not masked.
const (
	None      Kind = ""
	Hash      Kind = "hash"        // HMAC-SHA-256 under the salt, in 64 hexadecimal digits: equal values stay equal
	Redact    Kind = "redact"      // "***"
	Null      Kind = "null"        // no value
	KeepLast4 Kind = "keep_last_4" // "****" and the last four characters; "****" alone for a text below eight
)

// kinds names them, for a tag of a configuration.
const kinds = "hash,redact,null,keep_last_4"

// Check says whether k is a mask.
func (k Kind) Check() error {
	switch k {
	case None, Hash, Redact, Null, KeepLast4:
		return nil
	}
	return errors.New("not a mask; write " + strings.ReplaceAll(kinds, ",", ", "))
}

// Masker hides values under one salt. It is one goroutine's.
type Masker struct {
	mac hash.Hash
	sum []byte
}

// New makes a Masker. Without a salt hashes of few possible values (birthdays, numbers of cards) are found by trying
// all; whoever configures Hash has to give one.
func New(salt []byte) *Masker { return &Masker{mac: hmac.New(sha256.New, salt)} }

// Append appends what stands for text to dst. ok is false where null does.
func (m *Masker) Append(dst []byte, kind Kind, text []byte) (out []byte, ok bool) {
	switch kind {
	case Hash:
		m.mac.Reset()
		m.mac.Write(text)
		m.sum = m.mac.Sum(m.sum[:0])
		return hex.AppendEncode(dst, m.sum), true
	case Redact:
		return append(dst, "***"...), true
	case KeepLast4:
		dst = append(dst, "****"...)
		if n := utf8.RuneCount(text); n >= 8 {
			dst = append(dst, lastRunes(text, 4)...)
		}
		return dst, true
	case Null:
		return dst, false
	}
	return append(dst, text...), true
}

func lastRunes(text []byte, n int) []byte {
	at := len(text)
	for range n {
		_, size := utf8.DecodeLastRune(text[:at])
		at -= size
	}
	return text[at:]
}
