package schema

// OID is a Postgres object identifier. Those of user types differ between databases: they identify within one
// source, names identify across.
type OID uint32

// Class is pg_type.typtype: what sort of type a type is.
type Class byte

// The classes that columns can have.
const (
	ClassBase       Class = 'b'
	ClassComposite  Class = 'c'
	ClassDomain     Class = 'd'
	ClassEnum       Class = 'e'
	ClassRange      Class = 'r'
	ClassMultirange Class = 'm'
)

// Type is the type of a column. The reference form of every value is its canonical Postgres text under the
// settings that every connection of ours pins (pkg/postgres).
type Type struct {
	OID    OID
	Typmod int32 // pg_attribute.atttypmod, -1 for none
	// Name is format_type(oid, typmod) under search_path=pg_catalog: "numeric(5,2)", "text[]",
	// "public.mpaa_rating". It is quoted where it must be and can be put into DDL.
	Name  string
	Class Class
	Base  *Type // what a domain is over; nil otherwise
	Elem  *Type // what an array is of; nil otherwise
}

// OIDs of the built-in types that have a native Avro form (pg_type.dat).
const (
	OIDBool        OID = 16
	OIDBytea       OID = 17
	OIDChar        OID = 18
	OIDName        OID = 19
	OIDInt8        OID = 20
	OIDInt2        OID = 21
	OIDInt4        OID = 23
	OIDText        OID = 25
	OIDOID         OID = 26
	OIDJSON        OID = 114
	OIDXML         OID = 142
	OIDBox         OID = 603
	OIDFloat4      OID = 700
	OIDFloat8      OID = 701
	OIDMoney       OID = 790
	OIDBpchar      OID = 1042
	OIDVarchar     OID = 1043
	OIDDate        OID = 1082
	OIDTime        OID = 1083
	OIDTimestamp   OID = 1114
	OIDTimestampTZ OID = 1184
	OIDInterval    OID = 1186
	OIDTimeTZ      OID = 1266
	OIDNumeric     OID = 1700
	OIDUUID        OID = 2950
	OIDTSVector    OID = 3614
	OIDJSONB       OID = 3802

	// FirstUserOID is the first OID that a user's object can have (FirstNormalObjectId); below it a type is
	// part of every Postgres.
	FirstUserOID OID = 16384
)

// Kind is how a value travels in Avro. Everything that is not listed travels as its text.
type Kind uint8

// The kinds. The zero Kind is text, which is right for any type.
const (
	KindText        Kind = iota // string
	KindBool                    // boolean
	KindInt16                   // int, connect.type int16
	KindInt32                   // int
	KindInt64                   // long; oid too
	KindFloat32                 // float
	KindFloat64                 // double
	KindBytes                   // bytes
	KindDate                    // int, days since 1970-01-01
	KindTime                    // long, microseconds since midnight
	KindTimestamp               // long, microseconds since 1970-01-01 00:00
	KindTimestampTZ             // string, ISO 8601 in UTC ("…T…Z"), as Debezium writes it
	KindArray                   // array of nullable elements of the kind of Elem; one dimension, lower bound 1
)

// Kind gives the kind of t. A domain travels as what it is over.
func (t *Type) Kind() Kind {
	switch {
	case t.Base != nil:
		return t.Base.Kind()
	case t.Elem != nil:
		if t.Elem.Kind() == KindArray {
			return KindText // an array of a domain over an array: its text nests quotes of its own
		}
		if e := t.Elem.plain(); e.OID >= FirstUserOID && e.Class == ClassBase && e.Elem == nil {
			return KindText // a type of an extension may part its elements by anything: PostGIS does by ":"
		}
		return KindArray
	}
	switch t.OID {
	case OIDBool:
		return KindBool
	case OIDInt2:
		return KindInt16
	case OIDInt4:
		return KindInt32
	case OIDInt8, OIDOID:
		return KindInt64
	case OIDFloat4:
		return KindFloat32
	case OIDFloat8:
		return KindFloat64
	case OIDBytea:
		return KindBytes
	case OIDDate:
		return KindDate
	case OIDTime:
		return KindTime
	case OIDTimestamp:
		return KindTimestamp
	case OIDTimestampTZ:
		return KindTimestampTZ
	}
	return KindText
}

// Element gives the element type of an array, looking through domains; nil for any other type.
func (t *Type) Element() *Type {
	return t.plain().Elem
}

// Portable names the type by which a database that has none of the source's own types can store every value of
// t: t itself if every Postgres has it, what a domain is over, text for the rest.
func (t *Type) Portable() string {
	switch {
	case t.Base != nil:
		return t.Base.Portable()
	case t.Elem != nil:
		if t.OID != 0 && t.OID < FirstUserOID {
			return t.Name
		}
		return t.Elem.Portable() + "[]"
	case t.OID == 0 || t.OID >= FirstUserOID:
		return "text"
	}
	return t.Name
}

func (t *Type) equal(o *Type) bool {
	return t.OID == o.OID && t.Typmod == o.Typmod && t.Name == o.Name && t.Class == o.Class &&
		equalPointers(t.Base, o.Base) && equalPointers(t.Elem, o.Elem)
}

func equalPointers(a, b *Type) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.equal(b)
}
