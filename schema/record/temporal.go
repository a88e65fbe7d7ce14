package record

import (
	"bytes"
	"math"
	"strconv"
)

// Dates and times as Postgres writes them under DateStyle ISO and TimeZone UTC, in both directions by hand: one
// spelling per value, years beyond what package time knows, no allocation. A parser takes only the spelling that
// its counterpart writes; what it refuses (infinity, 24:00:00, what would not fit) travels as exact text.

const (
	secondMicros = 1_000_000
	minuteMicros = 60 * secondMicros
	hourMicros   = 60 * minuteMicros
	dayMicros    = 24 * hourMicros
)

var suffixBC = []byte(" BC")

// parseDate gives the days since 1970-01-01 of "2024-03-10", "44-03-15 BC" spelled "0044-03-15 BC".
func parseDate(b []byte) (int32, bool) {
	b, bc := bytes.CutSuffix(b, suffixBC)
	days, rest, ok := cutDate(b, bc)
	return int32(days), ok && len(rest) == 0 && days == int64(int32(days))
}

// parseTime gives the microseconds since midnight of "04:05:06.789".
func parseTime(b []byte) (int64, bool) {
	v, rest, ok := cutTime(b)
	return v, ok && len(rest) == 0
}

// parseTimestamp gives the microseconds since 1970-01-01 00:00 of "2024-03-10 12:34:56.789".
func parseTimestamp(b []byte) (int64, bool) {
	b, bc := bytes.CutSuffix(b, suffixBC)
	days, rest, ok := cutDate(b, bc)
	if !ok || len(rest) == 0 || rest[0] != ' ' {
		return 0, false
	}
	micros, rest, ok := cutTime(rest[1:])
	if !ok || len(rest) != 0 {
		return 0, false
	}
	const most = math.MaxInt64/dayMicros - 1
	if days > most || days < -most {
		return 0, false
	}
	return days*dayMicros + micros, true
}

// cutDate reads a date from the front of b. A year has four digits, more only if it needs them.
func cutDate(b []byte, bc bool) (days int64, rest []byte, ok bool) {
	var year int64
	n := 0
	for ; n < len(b) && n < 8 && b[n] >= '0' && b[n] <= '9'; n++ {
		year = year*10 + int64(b[n]-'0')
	}
	if n < 4 || n > 4 && b[0] == '0' || year == 0 || len(b) < n+6 || b[n] != '-' || b[n+3] != '-' {
		return 0, nil, false
	}
	month, ok1 := twoDigits(b[n+1:])
	day, ok2 := twoDigits(b[n+4:])
	if bc {
		year = 1 - year
	}
	if !ok1 || !ok2 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) {
		return 0, nil, false
	}
	return daysFromCivil(year, month, day), b[n+6:], true
}

// cutTime reads a time of day, below 24:00, from the front of b. A fraction has no zeros at its end.
func cutTime(b []byte) (micros int64, rest []byte, ok bool) {
	if len(b) < 8 || b[2] != ':' || b[5] != ':' {
		return 0, nil, false
	}
	hour, ok1 := twoDigits(b)
	minute, ok2 := twoDigits(b[3:])
	second, ok3 := twoDigits(b[6:])
	if !ok1 || !ok2 || !ok3 || hour > 23 || minute > 59 || second > 59 {
		return 0, nil, false
	}
	micros = hour*hourMicros + minute*minuteMicros + second*secondMicros
	b = b[8:]
	if len(b) == 0 || b[0] != '.' {
		return micros, b, true
	}
	n, unit := 1, int64(secondMicros)
	for ; n < len(b) && b[n] >= '0' && b[n] <= '9'; n++ {
		unit /= 10
		micros += int64(b[n]-'0') * unit
	}
	if n == 1 || n > 7 || b[n-1] == '0' {
		return 0, nil, false
	}
	return micros, b[n:], true
}

func twoDigits(b []byte) (int64, bool) {
	hi, lo := b[0]-'0', b[1]-'0'
	return int64(hi)*10 + int64(lo), hi <= 9 && lo <= 9
}

func appendDateText(dst []byte, days int64) []byte {
	year, month, day := civilFromDays(days)
	dst = appendCivil(dst, year, month, day)
	if year <= 0 {
		dst = append(dst, suffixBC...)
	}
	return dst
}

func appendTimestampText(dst []byte, micros int64) []byte {
	days := micros / dayMicros
	if micros %= dayMicros; micros < 0 {
		micros += dayMicros
		days--
	}
	year, month, day := civilFromDays(days)
	dst = appendCivil(dst, year, month, day)
	dst = append(dst, ' ')
	dst = appendTimeText(dst, micros)
	if year <= 0 {
		dst = append(dst, suffixBC...)
	}
	return dst
}

func appendCivil(dst []byte, year, month, day int64) []byte {
	if year <= 0 {
		year = 1 - year
	}
	if year >= 10_000 {
		dst = strconv.AppendInt(dst, year, 10)
	} else {
		dst = appendTwo(dst, year/100)
		dst = appendTwo(dst, year%100)
	}
	dst = append(dst, '-')
	dst = appendTwo(dst, month)
	dst = append(dst, '-')
	return appendTwo(dst, day)
}

func appendTimeText(dst []byte, micros int64) []byte {
	dst = appendTwo(dst, micros/hourMicros)
	dst = append(dst, ':')
	dst = appendTwo(dst, micros/minuteMicros%60)
	dst = append(dst, ':')
	dst = appendTwo(dst, micros/secondMicros%60)
	if micros %= secondMicros; micros != 0 {
		dst = append(dst, '.')
		for unit := int64(secondMicros / 10); micros > 0; unit /= 10 {
			dst = append(dst, byte('0'+micros/unit))
			micros %= unit
		}
	}
	return dst
}

func appendTwo(dst []byte, v int64) []byte {
	return append(dst, byte('0'+v/10), byte('0'+v%10))
}

// daysFromCivil gives the days from 1970-01-01 to a date of the proleptic Gregorian calendar; year 0 is 1 BC.
// Years begin in March here, so that the leap day is the last of its year; 400 years have 146097 days.
func daysFromCivil(year, month, day int64) int64 {
	if month <= 2 {
		year--
	}
	era := floorDiv(year, 400)
	yearOfEra := year - era*400
	dayOfYear := (153*((month+9)%12)+2)/5 + day - 1
	dayOfEra := yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear
	return era*146097 + dayOfEra - 719468
}

// civilFromDays undoes daysFromCivil.
func civilFromDays(days int64) (year, month, day int64) {
	days += 719468
	era := floorDiv(days, 146097)
	dayOfEra := days - era*146097
	yearOfEra := (dayOfEra - dayOfEra/1460 + dayOfEra/36524 - dayOfEra/146096) / 365
	dayOfYear := dayOfEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	m := (5*dayOfYear + 2) / 153
	day = dayOfYear - (153*m+2)/5 + 1
	month = (m+2)%12 + 1
	year = yearOfEra + era*400
	if month <= 2 {
		year++
	}
	return year, month, day
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func daysIn(year, month int64) int64 {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// zonedBytes is the length of "2024-03-10T12:34:56Z".
const zonedBytes = 20

// appendZoned appends, as an Avro string, the ISO 8601 form of a timestamp with time zone in UTC:
// "2024-03-10 12:34:56.789+00" becomes "2024-03-10T12:34:56.789Z". Years of other than four digits have no
// such form.
func appendZoned(dst, text []byte) ([]byte, bool) {
	n := len(text) - len("+00")
	if n < zonedBytes-1 || text[n] != '+' || text[n+1] != '0' || text[n+2] != '0' || text[4] != '-' || !isMoment(text[:n], ' ') {
		return dst, false
	}
	dst = appendLong(dst, int64(n+1))
	dst = append(dst, text[:10]...)
	dst = append(dst, 'T')
	dst = append(dst, text[11:n]...)
	return append(dst, 'Z'), true
}

// isZoned says whether b is what appendZoned writes.
func isZoned(b []byte) bool {
	n := len(b) - 1
	return n >= zonedBytes-1 && b[n] == 'Z' && b[4] == '-' && isMoment(b[:n], 'T')
}

func isMoment(b []byte, between byte) bool {
	_, rest, ok := cutDate(b, false)
	if !ok || len(rest) == 0 || rest[0] != between {
		return false
	}
	_, rest, ok = cutTime(rest[1:])
	return ok && len(rest) == 0
}

// appendZonedText appends the Postgres text of b, for which isZoned holds or which is empty.
func appendZonedText(dst, b []byte) []byte {
	if len(b) == 0 {
		return dst
	}
	dst = append(dst, b[:10]...)
	dst = append(dst, ' ')
	dst = append(dst, b[11:len(b)-1]...)
	return append(dst, "+00"...)
}
