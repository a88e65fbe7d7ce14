package schema

import "bytes"

// AppendCanonical appends text, a value of type t in Postgres' spelling, in the one spelling that all values equal
// to it share: numeric without the zeros that end its fraction, floating point without a negative zero, char(n)
// without the blanks that fill it. Any other type is spelled as it is. See ByteEqual for where that is enough.
func (t *Type) AppendCanonical(dst, text []byte) []byte {
	switch t.plain().OID {
	case OIDNumeric:
		if bytes.IndexByte(text, '.') >= 0 { // not 100, NaN, Infinity
			text = bytes.TrimRight(text, "0")
			text = bytes.TrimSuffix(text, []byte("."))
		}
	case OIDFloat4, OIDFloat8:
		if len(text) == 2 && text[0] == '-' && text[1] == '0' {
			text = text[1:]
		}
	case OIDBpchar:
		text = bytes.TrimRight(text, " ")
	}
	return append(dst, text...)
}

// Respelled says whether AppendCanonical may give other bytes than it was given.
func (t *Type) Respelled() bool {
	switch t.plain().OID {
	case OIDNumeric, OIDFloat4, OIDFloat8, OIDBpchar:
		return true
	}
	return false
}

// OIDs of built-in types that hold a numeric inside.
const (
	oidNumRange      OID = 3906
	oidNumMultirange OID = 4532
)

// ByteEqual says whether two values of t are equal for Postgres exactly when AppendCanonical gives the same bytes
// for both. Where it is false, equal keys may have different bytes: a table with such a key must stay in one
// partition, see Relation.ByteEqualKey. It is false for every type whose equality is not known here, such as those of
// extensions (citext).
func (t *Type) ByteEqual() bool {
	t = t.plain()
	if t.Elem != nil {
		return t.Elem.ByteEqual() && !t.Elem.Respelled()
	}
	switch t.OID {
	case OIDInterval, OIDJSON, OIDJSONB, OIDXML, oidNumRange, oidNumMultirange:
		return false
	}
	return t.Class == ClassEnum || t.OID != 0 && t.OID < FirstUserOID && t.Class != ClassComposite
}

// plain gives what t is when domains are looked through.
func (t *Type) plain() *Type {
	for t.Base != nil {
		t = t.Base
	}
	return t
}
