package schema

import "testing"

func base(oid OID) *Type { return &Type{OID: oid, Typmod: -1, Class: ClassBase} }

func domainOver(t *Type) *Type { return &Type{OID: 20000, Typmod: -1, Class: ClassDomain, Base: t} }

func arrayOf(t *Type) *Type { return &Type{OID: 20001, Typmod: -1, Class: ClassBase, Elem: t} }

func TestAppendCanonical(t *testing.T) {
	f := func(typ *Type, text, want string) {
		t.Helper()
		got := string(typ.AppendCanonical([]byte("x"), []byte(text)))
		if got != "x"+want {
			t.Fatalf("%d %q gives %q, want %q", typ.OID, text, got, "x"+want)
		}
		if want != text && !typ.Respelled() {
			t.Fatalf("%d is said to keep its spelling, but %q becomes %q", typ.OID, text, want)
		}
	}
	numeric := base(OIDNumeric)
	f(numeric, "1", "1")
	f(numeric, "100", "100")
	f(numeric, "1.00", "1")
	f(numeric, "1.50", "1.5")
	f(numeric, "-0.0100", "-0.01")
	f(numeric, "0.00", "0")
	f(numeric, "100.00", "100")
	f(numeric, "NaN", "NaN")
	f(numeric, "-Infinity", "-Infinity")
	f(domainOver(domainOver(numeric)), "1.00", "1")
	f(base(OIDFloat8), "-0", "0")
	f(base(OIDFloat4), "-0", "0")
	f(base(OIDFloat8), "-0.5", "-0.5")
	f(base(OIDBpchar), "ab   ", "ab")
	f(base(OIDBpchar), "   ", "")
	f(base(OIDText), "ab   ", "ab   ")
	f(base(OIDText), "1.00", "1.00")
	f(base(OIDInt4), "-0", "-0")
}

func TestByteEqual(t *testing.T) {
	f := func(typ *Type, want bool) {
		t.Helper()
		if got := typ.ByteEqual(); got != want {
			t.Fatalf("%+v: %v, want %v", typ, got, want)
		}
	}
	for _, oid := range []OID{
		OIDBool, OIDBytea, OIDInt8, OIDText, OIDVarchar, OIDBpchar, OIDNumeric, OIDFloat8, OIDUUID, OIDDate, OIDTimestampTZ, OIDTimeTZ,
	} {
		f(base(oid), true)
		f(domainOver(base(oid)), true)
	}
	f(base(OIDInterval), false) // 1 day = 24:00:00
	f(base(OIDJSONB), false)    // 1.0 = 1.00 inside
	f(&Type{OID: 3904, Class: ClassRange}, true)
	f(&Type{OID: oidNumRange, Class: ClassRange}, false)
	f(&Type{OID: oidNumMultirange, Class: ClassMultirange}, false)
	f(arrayOf(base(OIDInt4)), true)
	f(arrayOf(base(OIDNumeric)), false) // AppendCanonical does not look inside
	f(arrayOf(domainOver(base(OIDBpchar))), false)
	f(&Type{OID: 20002, Class: ClassEnum}, true)
	f(arrayOf(&Type{OID: 20002, Class: ClassEnum}), true)
	f(&Type{OID: 20003, Class: ClassBase, Name: "public.citext"}, false)
	f(&Type{OID: 20004, Class: ClassComposite}, false)
	f(&Type{OID: 20005, Class: ClassRange}, false)
	f(&Type{}, false)
}
