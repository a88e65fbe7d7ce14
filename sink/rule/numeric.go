package rule

import (
	"bytes"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// numericType is Postgres' numeric in expressions. It is compared, added and multiplied exactly; what cannot be exact
// (division, functions of reals) is not there: who wants it writes double(x).
var numericType = cel.OpaqueType("numeric").WithTraits(traits.ComparerType | traits.AdderType | traits.SubtractorType | traits.MultiplierType | traits.NegatorType)

// numeric is a value: the text that Postgres writes.
type numeric string

// maxDigits bounds what a multiplication makes, before the point and behind it.
const maxDigits = 16384

// special ranks what is no number as Postgres does, NaN above everything; 0 for a number.
func (n numeric) special() int {
	switch n {
	case "NaN":
		return 2
	case "Infinity":
		return 1
	case "-Infinity":
		return -1
	}
	return 0
}

// parts takes a number apart: -12.340 is true, "12", "34".
func (n numeric) parts() (negative bool, whole, fraction string) {
	whole, fraction, _ = strings.Cut(string(n), ".")
	whole, negative = strings.CutPrefix(whole, "-")
	whole, fraction = strings.TrimLeft(whole, "0"), strings.TrimRight(fraction, "0")
	return negative && whole+fraction != "", whole, fraction
}

// compare gives -1, 0 or 1.
func (n numeric) compare(o numeric) int {
	if n == o {
		return 0
	}
	if a, b := n.special(), o.special(); a != 0 || b != 0 {
		return min(max(a-b, -1), 1)
	}
	negative, whole, fraction := n.parts()
	otherNegative, otherWhole, otherFraction := o.parts()
	sign := 1
	switch {
	case negative && !otherNegative:
		return -1
	case !negative && otherNegative:
		return 1
	case negative:
		sign = -1
	}
	if len(whole) != len(otherWhole) {
		if len(whole) < len(otherWhole) {
			return -sign
		}
		return sign
	}
	if c := strings.Compare(whole, otherWhole); c != 0 {
		return sign * c
	}
	return sign * strings.Compare(fraction, otherFraction)
}

// unscaled gives n times ten to the power of scale, the number of its digits behind the point.
func (n numeric) unscaled() (v *big.Int, scale int, ok bool) {
	whole, fraction, _ := strings.Cut(string(n), ".")
	v, ok = new(big.Int).SetString(whole+fraction, 10)
	return v, len(fraction), ok && n.special() == 0
}

func scaled(v *big.Int, scale int) ref.Val {
	text := new(big.Int).Abs(v).String()
	if len(text) > 2*maxDigits || scale > maxDigits {
		return types.NewErr("numeric has more digits than Postgres takes")
	}
	if scale > 0 {
		if len(text) <= scale {
			text = strings.Repeat("0", scale-len(text)+1) + text
		}
		text = text[:len(text)-scale] + "." + text[len(text)-scale:]
	}
	if v.Sign() < 0 {
		text = "-" + text
	}
	return numeric(text)
}

func (n numeric) compute(other ref.Val, f func(a, b *big.Int, scaleA, scaleB int) ref.Val) ref.Val {
	o, ok := other.(numeric)
	if !ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	a, scaleA, ok1 := n.unscaled()
	b, scaleB, ok2 := o.unscaled()
	if !ok1 || !ok2 {
		return types.NewErr("NaN and Infinity cannot be computed with as numeric; write double(x)")
	}
	return f(a, b, scaleA, scaleB)
}

func aligned(f func(v, a, b *big.Int) *big.Int) func(a, b *big.Int, scaleA, scaleB int) ref.Val {
	return func(a, b *big.Int, scaleA, scaleB int) ref.Val {
		scale := max(scaleA, scaleB)
		for _, p := range []struct {
			v  *big.Int
			by int
		}{{a, scale - scaleA}, {b, scale - scaleB}} {
			p.v.Mul(p.v, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(p.by)), nil))
		}
		return scaled(f(a, a, b), scale)
	}
}

// Add implements traits.Adder.
func (n numeric) Add(o ref.Val) ref.Val { return n.compute(o, aligned((*big.Int).Add)) }

// Subtract implements traits.Subtractor.
func (n numeric) Subtract(o ref.Val) ref.Val { return n.compute(o, aligned((*big.Int).Sub)) }

// Multiply implements traits.Multiplier.
func (n numeric) Multiply(o ref.Val) ref.Val {
	return n.compute(o, func(a, b *big.Int, scaleA, scaleB int) ref.Val { return scaled(a.Mul(a, b), scaleA+scaleB) })
}

// Negate implements traits.Negater.
func (n numeric) Negate() ref.Val { return numeric("0").Subtract(n) }

// Compare implements traits.Comparer.
func (n numeric) Compare(o ref.Val) ref.Val {
	other, ok := o.(numeric)
	if !ok {
		return types.MaybeNoSuchOverloadErr(o)
	}
	return types.Int(n.compare(other))
}

// Equal implements ref.Val.
func (n numeric) Equal(o ref.Val) ref.Val {
	other, ok := o.(numeric)
	return types.Bool(ok && n.compare(other) == 0)
}

// ConvertToNative implements ref.Val.
func (n numeric) ConvertToNative(t reflect.Type) (any, error) {
	if t.Kind() == reflect.String {
		return string(n), nil
	}
	return nil, fmt.Errorf("numeric is not %s", t)
}

// ConvertToType implements ref.Val: string(x), double(x), int(x), which cuts the fraction.
func (n numeric) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.StringType:
		return types.String(n)
	case types.DoubleType:
		v, err := strconv.ParseFloat(string(n), 64)
		if err != nil {
			return types.NewErr("numeric is out of range for double")
		}
		return types.Double(v)
	case types.IntType:
		whole, _, _ := strings.Cut(string(n), ".")
		v, err := strconv.ParseInt(whole, 10, 64)
		if err != nil {
			return types.NewErr("numeric is out of range for int")
		}
		return types.Int(v)
	case types.TypeType:
		return numericType
	}
	if t.TypeName() == numericType.TypeName() {
		return n
	}
	return types.NewErr("type conversion error from numeric to %s", t.TypeName())
}

// Type implements ref.Val.
func (n numeric) Type() ref.Type { return numericType }

// Value implements ref.Val.
func (n numeric) Value() any { return string(n) }

// toNumeric is decimal(x). A double is taken as the shortest decimal that gives it back, so that 0.1 is 0.1.
func toNumeric(v ref.Val) ref.Val {
	switch v := v.(type) {
	case numeric:
		return v
	case types.Int:
		return numeric(strconv.FormatInt(int64(v), 10))
	case types.Uint:
		return numeric(strconv.FormatUint(uint64(v), 10))
	case types.Double:
		switch f := float64(v); {
		case math.IsNaN(f):
			return numeric("NaN")
		case math.IsInf(f, 1):
			return numeric("Infinity")
		case math.IsInf(f, -1):
			return numeric("-Infinity")
		default:
			return numeric(strconv.FormatFloat(f, 'f', -1, 64))
		}
	case types.String:
		if !isNumeric([]byte(v)) {
			return types.NewErr("text is no number")
		}
		return numeric(strings.TrimPrefix(string(v), "+"))
	case types.Null:
		return v
	}
	return types.MaybeNoSuchOverloadErr(v)
}

// isNumeric says whether text is a number without exponent, or what Postgres writes for what is none.
func isNumeric(text []byte) bool {
	switch string(text) {
	case "NaN", "Infinity", "-Infinity":
		return true
	}
	if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
		text = text[1:]
	}
	whole, fraction, _ := bytes.Cut(text, []byte("."))
	if len(whole) == 0 || len(whole)+len(fraction) > 2*maxDigits {
		return false
	}
	for _, part := range [][]byte{whole, fraction} {
		for _, c := range part {
			if c < '0' || c > '9' {
				return false
			}
		}
	}
	return true
}
