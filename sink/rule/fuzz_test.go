package rule

import (
	"errors"
	"strings"
	"testing"

	"cel.dev/cel-go/common/types"

	"github.com/tributary-cdc/tributary/schema/change"
)

// FuzzExpression: an expression is refused with a place and words, or compiles and gives a value or a fault for a row
// of values, for one of nulls, and for one of which nothing was sent; never a panic, and no fault tells a value.
func FuzzExpression(f *testing.F) {
	for _, seed := range []string{
		"amount > 0 && name == 'x'", "note == null ? null : note + '!'", "doc.b.c == 'x' || has(doc.z)", "nums.map(n, n * 2)", "text(uid).substring(1)",
		"col('order id') in [1, 2]", "amount in [1, 2.5, id]", "coalesce(amount, 0) * 2 - 1", "tags.exists(t, t == name)", "date('2024-01-01') < at", "{'a': [amount]}",
		"null == null", "-amount", "type(id) == int", "a = 5", "'", "[[]]", "raw + b'x'", "math.greatest(id, 3)", "'%s'.format([name])",
	} {
		f.Add(seed)
	}
	nothing := make(change.Tuple, len(wide.Columns))
	for i := range nothing {
		nothing[i].State = change.Unchanged
	}
	rows := []change.Tuple{row(wide, wideRow), row(wide, map[string]string{"id": "1"}), nothing}
	f.Fuzz(func(t *testing.T, source string) {
		if len(source) > 200 {
			return
		}
		x, err := compileExpression(wide, nil, source)
		if err != nil {
			if at, ok := errors.AsType[*fault](err); !ok || at.line < 1 || at.column < 1 {
				t.Errorf("%q: %v", source, err)
			}
			return
		}
		typ, ok := resultType(x.typ)
		if !ok {
			return
		}
		for _, r := range rows {
			s := scope{row: r}
			var arena []byte
			_, err := s.text(x, &typ, &arena)
			if err != nil && !strings.Contains(source, "Ann") && strings.Contains(err.Error(), "Ann") {
				t.Errorf("%q: the error holds a value: %v", source, err)
			}
		}
	})
}

// FuzzType: what is taken for a type is one that can stand in a statement, and reads back as itself.
func FuzzType(f *testing.F) {
	for _, seed := range []string{"numeric(10,2)", "varchar ( 5 )", "int[]", "timestamp with time zone", "x; drop", "text[] "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		typ, err := typeByName(name)
		if err != nil {
			return
		}
		again, err := typeByName(typ.Name)
		if err != nil || again.Name != typ.Name || again.OID != typ.OID || strings.ContainsAny(typ.Name, `;'"`) {
			t.Errorf("%q is %q, and that is %q, %v", name, typ.Name, again.Name, err)
		}
	})
}

// FuzzNumeric: numbers compare as their differences say.
func FuzzNumeric(f *testing.F) {
	f.Add("1.50", "1.5")
	f.Add("-0.00", "0")
	f.Add("NaN", "Infinity")
	f.Add("-10", "9.99")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := toNumeric(types.String(a)), toNumeric(types.String(b))
		one, ok1 := x.(numeric)
		two, ok2 := y.(numeric)
		if !ok1 || !ok2 || one.special() != 0 || two.special() != 0 {
			return
		}
		difference, ok := one.Subtract(two).(numeric)
		if !ok {
			return
		}
		if sign := difference.compare("0"); sign != one.compare(two) || -sign != two.compare(one) {
			t.Errorf("%s compared with %s is %d, and their difference is %s", a, b, one.compare(two), difference)
		}
	})
}
