package schema

import "testing"

func TestKind(t *testing.T) {
	f := func(typ *Type, want Kind) {
		t.Helper()
		if got := typ.Kind(); got != want {
			t.Fatalf("%+v is of kind %d, want %d", typ, got, want)
		}
	}
	f(base(OIDBool), KindBool)
	f(base(OIDInt2), KindInt16)
	f(base(OIDOID), KindInt64)
	f(base(OIDNumeric), KindText)
	f(base(OIDTimestampTZ), KindTimestampTZ)
	f(domainOver(base(OIDInt4)), KindInt32)
	f(arrayOf(base(OIDInt4)), KindArray)
	f(domainOver(arrayOf(base(OIDInt4))), KindArray)
	f(arrayOf(domainOver(base(OIDInt4))), KindArray)
	f(arrayOf(domainOver(arrayOf(base(OIDInt4)))), KindText)
	f(arrayOf(&Type{OID: 20002, Class: ClassEnum}), KindArray)
	f(arrayOf(&Type{OID: 20004, Class: ClassComposite}), KindArray)
	f(arrayOf(&Type{OID: 20003, Class: ClassBase, Name: "public.geometry"}), KindText) // parted by ":"
	f(&Type{OID: 20003, Class: ClassBase}, KindText)
}

func TestPortable(t *testing.T) {
	named := func(name string, typ *Type) *Type { typ.Name = name; return typ }
	f := func(typ *Type, want string) {
		t.Helper()
		if got := typ.Portable(); got != want {
			t.Fatalf("%+v is portable as %q, want %q", typ, got, want)
		}
	}
	f(named("numeric(5,2)", base(OIDNumeric)), "numeric(5,2)")
	f(domainOver(named("numeric(5,2)", base(OIDNumeric))), "numeric(5,2)")
	f(named("public.mood", &Type{OID: 20002, Class: ClassEnum}), "text")
	f(named("public.mood[]", arrayOf(&Type{OID: 20002, Class: ClassEnum})), "text[]")
	f(named("integer[]", &Type{OID: 1007, Class: ClassBase, Elem: base(OIDInt4)}), "integer[]")
}

func TestRelationEqual(t *testing.T) {
	one, other := "1", "2"
	make := func(change func(*Relation)) *Relation {
		r := &Relation{
			OID: 1, Schema: "public", Name: "t", Identity: IdentityDefault, Key: []int{0},
			Columns: []Column{
				{Name: "a", AttNum: 1, Type: *base(OIDInt4), NotNull: true},
				{Name: "b", AttNum: 2, Type: *arrayOf(domainOver(base(OIDText))), Default: &one},
			},
		}
		if change != nil {
			change(r)
		}
		return r
	}
	if !make(nil).Equal(make(nil)) {
		t.Fatal("a relation is not equal to itself")
	}
	same := "1"
	if !make(nil).Equal(make(func(r *Relation) { r.Columns[1].Default = &same })) {
		t.Fatal("defaults are compared by address")
	}
	for name, change := range map[string]func(*Relation){
		"oid":          func(r *Relation) { r.OID++ },
		"schema":       func(r *Relation) { r.Schema = "x" },
		"name":         func(r *Relation) { r.Name = "x" },
		"identity":     func(r *Relation) { r.Identity = IdentityFull },
		"key":          func(r *Relation) { r.Key = []int{1} },
		"no key":       func(r *Relation) { r.Key = nil },
		"columns":      func(r *Relation) { r.Columns = r.Columns[:1] },
		"column name":  func(r *Relation) { r.Columns[0].Name = "x" },
		"attnum":       func(r *Relation) { r.Columns[0].AttNum = 9 },
		"not null":     func(r *Relation) { r.Columns[0].NotNull = false },
		"generated":    func(r *Relation) { r.Columns[0].Generated = "1 + 1" },
		"default":      func(r *Relation) { r.Columns[1].Default = &other },
		"no default":   func(r *Relation) { r.Columns[1].Default = nil },
		"typmod":       func(r *Relation) { r.Columns[0].Type.Typmod = 5 },
		"type name":    func(r *Relation) { r.Columns[0].Type.Name = "x" },
		"class":        func(r *Relation) { r.Columns[0].Type.Class = ClassEnum },
		"element type": func(r *Relation) { r.Columns[1].Type.Elem.OID++ },
		"base type":    func(r *Relation) { r.Columns[1].Type.Elem.Base = nil },
	} {
		if make(nil).Equal(make(change)) || make(change).Equal(make(nil)) {
			t.Errorf("%s: versions that differ are said to be equal", name)
		}
	}
	r := make(nil)
	if r.Column("b") != 1 || r.Column("B") != -1 || !r.IsKey(0) || r.IsKey(1) {
		t.Error("columns are not found")
	}
}
