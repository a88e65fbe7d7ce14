package record

import (
	"bytes"
	"math"
	"strconv"
)

// parseFloat reads a number of the given bits (32 or 64) as Postgres writes it. ok is false for every text that
// appendFloatText would not write again in the same way.
func parseFloat(text []byte, bits int) (v float64, ok bool) {
	v, err := strconv.ParseFloat(string(text), bits)
	if err != nil {
		return 0, false
	}
	if v != v {
		v = math.NaN() // one NaN for all
	}
	var memory [40]byte
	return v, string(appendFloatText(memory[:0], v, bits)) == string(text)
}

// appendFloatText appends v as float4out (32 bits) or float8out (64 bits) do under extra_float_digits = 3: the
// fewest digits that give v back, with an exponent where it is below -4 or at least 6 or 15.
//
// Postgres counts a number of digits as giving v back only if it lies strictly between the midpoints to the
// neighbours of v (Ryu without acceptBounds); strconv takes the midpoint itself too where that rounds to v. So
// 1e23, which is such a midpoint, is 9.999999999999999e+22. And where v is half-way between two decimals of that
// many digits Postgres takes the even one: 2^-12 as float4 is 0.00024414062, not …063.
func appendFloatText(dst []byte, v float64, bits int) []byte {
	switch {
	case v != v:
		return append(dst, "NaN"...)
	case math.IsInf(v, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(v, -1):
		return append(dst, "-Infinity"...)
	case v == 0:
		if math.Signbit(v) {
			return append(dst, "-0"...)
		}
		return append(dst, '0')
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, v, 'e', -1, bits)
	if n := mantissaDigits(dst[start:]); n > 1 && lastDigit(dst[start:])&1 == 1 {
		var memory [40]byte
		even := strconv.AppendFloat(memory[:0], v, 'e', n-1, bits) // rounds half to even
		if back, err := strconv.ParseFloat(string(even), bits); err == nil && back == v {
			dst = append(dst[:start], even...)
		}
	}
	if isMidpoint(dst[start:], v, bits) {
		// The first precision at which the nearest decimal is no midpoint.
		for digits := mantissaDigits(dst[start:]); digits < 18; digits++ {
			dst = strconv.AppendFloat(dst[:start], v, 'e', digits-1, bits)
			back, err := strconv.ParseFloat(string(dst[start:]), bits)
			if err == nil && back == v && !isMidpoint(dst[start:], v, bits) {
				break
			}
		}
	}
	return layoutFloat(dst, start, bits)
}

// lastDigit gives the last digit of the mantissa.
func lastDigit(text []byte) byte {
	return text[bytes.IndexByte(text, 'e')-1]
}

func mantissaDigits(text []byte) int {
	n := 0
	for _, c := range text {
		if c == 'e' {
			break
		}
		if c >= '0' && c <= '9' {
			n++
		}
	}
	return n
}

// isMidpoint says whether text, a decimal that rounds to v, is exactly half-way between v and a neighbour.
func isMidpoint(text []byte, v float64, bits int) bool {
	// A midpoint has one significant bit more than v can have. As a decimal of at most 17 (9) digits only
	// numbers between these bounds have it: below, its fraction, and above, its power of five, take more.
	low, high := float64(1<<50), 1e40
	if bits == 32 {
		low, high = 1<<19, 1e22
	}
	if a := math.Abs(v); a < low || a > high {
		return false
	}
	// A decimal a little further out than text rounds to the neighbour if text is the midpoint, and so does one
	// a little further in for the other neighbour.
	mantissa, exponent := text, []byte(nil)
	for i, c := range text {
		if c == 'e' {
			mantissa, exponent = text[:i], text[i:]
		}
	}
	var memory [64]byte
	dot := false
	for _, c := range mantissa {
		dot = dot || c == '.'
	}
	out := append(memory[:0], mantissa...)
	if !dot {
		out = append(out, '.')
	}
	out = append(out, "00000000000000000001"...)
	out = append(out, exponent...)
	further, err := strconv.ParseFloat(string(out), bits)
	if err != nil || further != v {
		return true
	}
	// Further in: the last digit one less, then nines. Shortest mantissas end in a digit above 0.
	in := append(memory[:0], mantissa...)
	last := len(in) - 1
	for last >= 0 && (in[last] == '0' || in[last] == '.') {
		if in[last] == '0' {
			in[last] = '9'
		}
		last--
	}
	if last < 0 || in[last] == '-' {
		return false
	}
	in[last]--
	if !dot {
		in = append(in, '.')
	}
	in = append(in, "99999999999999999999"...)
	in = append(in, exponent...)
	nearer, err := strconv.ParseFloat(string(in), bits)
	return err != nil || nearer != v
}

// layoutFloat turns dst[start:], a number in the form d.ddde±dd, into Postgres' layout.
func layoutFloat(dst []byte, start, bits int) []byte {
	var digits [20]byte
	n := 0
	i := start
	if dst[i] == '-' {
		i++
	}
	first := i
	for ; i < len(dst) && dst[i] != 'e'; i++ {
		if dst[i] != '.' {
			digits[n] = dst[i]
			n++
		}
	}
	exponent, _ := strconv.Atoi(string(dst[i+1:])) // strconv wrote it
	for n > 1 && digits[n-1] == '0' {
		n--
	}
	limit := 15
	if bits == 32 {
		limit = 6
	}
	if exponent < -4 || exponent >= limit {
		var tail [5]byte
		e := append(tail[:0], dst[i:]...) // e±dd, two digits at least in both
		dst = append(dst[:first], digits[0])
		if n > 1 {
			dst = append(dst, '.')
			dst = append(dst, digits[1:n]...)
		}
		return append(dst, e...)
	}
	dst = dst[:first]
	if exponent < 0 {
		dst = append(dst, '0', '.')
		for range -exponent - 1 {
			dst = append(dst, '0')
		}
		return append(dst, digits[:n]...)
	}
	for i := range max(n, exponent+1) {
		if i == exponent+1 {
			dst = append(dst, '.')
		}
		if i < n {
			dst = append(dst, digits[i])
		} else {
			dst = append(dst, '0')
		}
	}
	return dst
}
