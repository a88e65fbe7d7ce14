package record

import (
	"bytes"
	"math/big"
	"strconv"
)

// Values in the forms of Debezium, as the text that Postgres has for them.

// pgjdbc's numbers for infinity (PGStatement.DATE_POSITIVE_INFINITY …), which Debezium makes a date of without looking, so
// that they overflow.
const (
	infiniteDate         = -2147472692
	negativeInfiniteDate = -2147472691
)

var textInfinity, textNegativeInfinity = []byte("infinity"), []byte("-infinity")

// infiniteMicros and all behind it is what Debezium makes of infinity: a moment of the year 294247, up to which microseconds
// since 1970 go. Postgres has nothing before firstMicros (4714-11-24 BC), where it puts -infinity.
const (
	infiniteMicros = 9_223_372_036_825_200_000
	firstMicros    = -210_866_803_200 * secondMicros
)

func readDate(r *reader, arena []byte) []byte {
	switch days := r.int(); days {
	case infiniteDate:
		return append(arena, textInfinity...)
	case negativeInfiniteDate:
		return append(arena, textNegativeInfinity...)
	default:
		return appendDateText(arena, int64(days))
	}
}

// readTime reads a time of day in units of so many microseconds. 24:00 is one in Postgres.
func readTime(micros int64) func(r *reader, arena []byte) []byte {
	return func(r *reader, arena []byte) []byte {
		v := r.long()
		if v < 0 || v > dayMicros/micros {
			r.fail("a time is not within a day")
			return arena
		}
		return appendTimeText(arena, v*micros)
	}
}

// readTimestamp reads a timestamp in units of so many microseconds.
func readTimestamp(micros int64) func(r *reader, arena []byte) []byte {
	return func(r *reader, arena []byte) []byte {
		switch v := r.long(); {
		case v < firstMicros/micros:
			return append(arena, textNegativeInfinity...)
		case v >= infiniteMicros/micros:
			return append(arena, textInfinity...)
		default:
			return appendTimestampText(arena, v*micros)
		}
	}
}

// readZoned reads "2024-03-10T12:34:56.789000Z", "-0043-03-15T00:00:00Z" (44 BC), "infinity".
func readZoned(r *reader, arena []byte) []byte {
	b := r.bytes()
	if bytes.Equal(b, textInfinity) || bytes.Equal(b, textNegativeInfinity) {
		return append(arena, b...)
	}
	date, clock, ok1 := bytes.Cut(b, []byte("T"))
	clock, ok2 := bytes.CutSuffix(clock, []byte("Z"))
	digits := bytes.TrimLeft(date, "+-")
	dash := bytes.IndexByte(digits, '-')
	if !ok1 || !ok2 || dash < 4 || len(digits) != dash+len("-01-01") {
		r.failZoned()
		return arena
	}
	year, err := strconv.ParseInt(string(digits[:dash]), 10, 64)
	if err != nil || year > 300_000 {
		r.failZoned()
		return arena
	}
	if date[0] == '-' {
		year = -year
	}
	month, ok1 := twoDigits(digits[dash+1:])
	day, ok2 := twoDigits(digits[dash+4:])
	if !ok1 || !ok2 {
		r.failZoned()
		return arena
	}
	arena = appendCivil(arena, year, month, day)
	arena = append(arena, ' ')
	arena = appendClock(r, arena, clock)
	arena = append(arena, "+00"...)
	if year <= 0 {
		arena = append(arena, suffixBC...)
	}
	return arena
}

// readZonedTime reads "04:05:06.789Z". Debezium has moved it to UTC.
func readZonedTime(r *reader, arena []byte) []byte {
	b, ok := bytes.CutSuffix(r.bytes(), []byte("Z"))
	if !ok {
		r.failZoned()
		return arena
	}
	return append(appendClock(r, arena, b), "+00"...)
}

func (r *reader) failZoned() { r.fail("a time with time zone is not spelled as one in UTC") }

// appendClock appends a time of day without the zeros that end its fraction.
func appendClock(r *reader, arena, clock []byte) []byte {
	if len(clock) == len("04:05") {
		clock = append(clock[:len(clock):len(clock)], ":00"...)
	}
	if bytes.IndexByte(clock, '.') >= 0 {
		clock = bytes.TrimRight(clock, "0")
		clock = bytes.TrimSuffix(clock, []byte("."))
	}
	if _, rest, ok := cutTime(clock); !ok || len(rest) > 0 {
		r.failZoned()
		return arena
	}
	return append(arena, clock...)
}

// maxScale is beyond the digits that a numeric can have behind its point (NUMERIC_DSCALE_MAX).
const maxScale = 16_383

// readScaledDecimal reads a VariableScaleDecimal: scale, and the number without its point.
func readScaledDecimal(r *reader, arena []byte) []byte {
	scale := r.int()
	unscaled := r.bytes()
	if scale > maxScale || scale < -131_072 {
		r.fail("a decimal has more digits than Postgres takes")
		return arena
	}
	return appendDecimal(arena, unscaled, int(scale))
}

// appendDecimal appends the number unscaled / 10^scale; unscaled is in two's complement, big-endian.
func appendDecimal(arena, unscaled []byte, scale int) []byte {
	start := len(arena)
	if len(unscaled) <= 8 {
		var v int64
		if len(unscaled) > 0 && unscaled[0] >= 0x80 {
			v = -1
		}
		for _, b := range unscaled {
			v = v<<8 | int64(b)
		}
		arena = strconv.AppendInt(arena, v, 10)
	} else {
		v := new(big.Int).SetBytes(unscaled)
		if unscaled[0] >= 0x80 {
			v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(unscaled))))
		}
		arena = v.Append(arena, 10)
	}
	if arena[start] == '-' {
		start++
	}
	if scale <= 0 {
		if arena[start] != '0' {
			arena = appendZeros(arena, -scale)
		}
		return arena
	}
	if missing := scale + 1 - (len(arena) - start); missing > 0 {
		arena = appendZeros(arena, missing)
		copy(arena[start+missing:], arena[start:])
		appendZeros(arena[:start], missing)
	}
	point := len(arena) - scale
	arena = append(arena, 0)
	copy(arena[point+1:], arena[point:])
	arena[point] = '.'
	return arena
}

func appendZeros(b []byte, n int) []byte {
	for range n {
		b = append(b, '0')
	}
	return b
}
