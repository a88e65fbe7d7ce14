package service

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// FormatDuration gives a duration as people read it: "3 ms", "0.41 s", "4.1 s", "41 s",
// "2 min 41 s", "3 h 12 min", "12 d 4 h". What is not 0 is never told as 0.
func FormatDuration(d time.Duration) string {
	if d < 0 {
		return "-" + FormatDuration(-max(d, -math.MaxInt64))
	}
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return "0 s"
	case d < 9500*time.Microsecond:
		return fmt.Sprintf("%d ms", max(d.Round(time.Millisecond), time.Millisecond)/time.Millisecond)
	case d.Round(10*time.Millisecond) < time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d.Round(100*time.Millisecond) < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d.Round(time.Second) < time.Minute:
		return fmt.Sprintf("%d s", d.Round(time.Second)/time.Second)
	case d.Round(time.Second) < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d.Round(time.Minute) < day:
		d = d.Round(time.Minute)
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	d = d.Round(time.Hour)
	return fmt.Sprintf("%d d %d h", d/day, d%day/time.Hour)
}

// Seconds gives a duration for programs, to the millisecond: 1.174, and not 1.1735039999999999. What is not 0 is never 0.
func Seconds(d time.Duration) float64 {
	if d > 0 {
		d = max(d, time.Millisecond)
	}
	return float64(d.Round(time.Millisecond)/time.Millisecond) / 1000
}

// FormatSeconds is FormatDuration of seconds.
func FormatSeconds(s float64) string { return FormatDuration(time.Duration(s * float64(time.Second))) }

// FormatBytes gives bytes in IEC units: "512 B", "9.6 GiB", "212 GiB". Below 100 of a unit there is one digit after the
// point.
func FormatBytes(n int64) string {
	if n < 0 {
		return "-" + FormatBytes(-max(n, -math.MaxInt64))
	}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value := float64(n)
	for _, unit := range []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"} {
		value /= 1024
		switch {
		case value < 99.95:
			return fmt.Sprintf("%.1f %s", value, unit)
		case value < 1023.5 || unit == "EiB":
			return fmt.Sprintf("%.0f %s", value, unit)
		}
	}
	return "" // not reached: EiB always returns
}

// FormatCount gives a number with thousands apart, "61,300", from ten million on "16.0 M".
func FormatCount(n int64) string {
	if n < 0 {
		return "-" + FormatCount(-max(n, -math.MaxInt64))
	}
	value := float64(n)
	switch {
	case n >= 999_950_000_000_000:
		return groupThousands(strconv.FormatFloat(value/1e12, 'f', 1, 64)) + " T"
	case n >= 999_950_000_000:
		return strconv.FormatFloat(value/1e12, 'f', 1, 64) + " T"
	case n >= 999_950_000:
		return strconv.FormatFloat(value/1e9, 'f', 1, 64) + " G"
	case n >= 10_000_000:
		return strconv.FormatFloat(value/1e6, 'f', 1, 64) + " M"
	}
	return groupThousands(strconv.FormatInt(n, 10))
}

func groupThousands(digits string) string {
	whole, rest, hasRest := strings.Cut(digits, ".")
	var b strings.Builder
	for i, r := range whole {
		if i > 0 && (len(whole)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(r)
	}
	if hasRest {
		b.WriteString("." + rest)
	}
	return b.String()
}

// FormatLeft gives a guess at how long something takes, as coarse as guesses are: "about 40 s", "about 6 min", "about 3 h", "more than a day".
func FormatLeft(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("about %d s", d.Round(time.Second)/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("about %d min", d.Round(time.Minute)/time.Minute)
	case d <= 24*time.Hour:
		return fmt.Sprintf("about %d h", d.Round(time.Hour)/time.Hour)
	}
	return "more than a day"
}

// Plural gives a number of things: "1 row", "61,300 rows".
func Plural[N int | int32 | int64](n N, thing string) string {
	return FormatCount(int64(n)) + " " + thing + Agree(n, "", "s")
}

// Agree gives the word that goes with one thing, or with none or many.
func Agree[N int | int32 | int64](n N, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// FormatRate gives a number a second: "0.4", "31", "61,300", "16.0 M".
func FormatRate(perSecond float64) string {
	if perSecond > 0 && perSecond < 9.95 {
		return fmt.Sprintf("%.1f", perSecond)
	}
	return FormatCount(int64(math.Round(perSecond)))
}
