package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Secret is a password, a token or a connection string. Whatever prints or marshals it shows "***"; only Reveal gives
// what it stands for. Keep it in exported fields: fmt does not ask the methods of values in unexported ones. The zero
// value means "not set".
type Secret string

const hidden = "***"

// ErrSecret says that what a secret stands for cannot be had: its file may be being replaced.
var ErrSecret = errors.New("read secret")

// Reveal gives the secret: "file:/path" is read at each call, so that a rotated file is taken up without a restart (one
// trailing line break is cut), "env:NAME" is looked up, anything else stands for itself. The error is an ErrSecret, and never
// holds the secret.
func (s Secret) Reveal() (string, error) {
	if path, ok := strings.CutPrefix(string(s), "file:"); ok {
		content, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrSecret, err)
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r"), nil
	}
	if name, ok := strings.CutPrefix(string(s), "env:"); ok {
		value, set := os.LookupEnv(name)
		if !set {
			return "", fmt.Errorf("%w: environment variable %q is not set", ErrSecret, name)
		}
		return value, nil
	}
	return string(s), nil
}

// String hides the secret; "" stays "".
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// Format hides the secret from every verb of fmt.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'q' || verb == 'v' && f.Flag('#') {
		_, _ = io.WriteString(f, strconv.Quote(s.String()))
		return
	}
	_, _ = io.WriteString(f, s.String())
}

// MarshalText hides the secret from JSON, YAML and slog.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Bytes is a number of bytes, written with a unit: "512kB", "16MiB", "1.5GiB", or a bare number. k, M, G, T are powers
// of 1000, Ki, Mi, Gi, Ti powers of 1024.
type Bytes int64

var bytesUnits = []struct {
	name string
	size int64
}{
	{"TiB", 1 << 40},
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"B", 1},
}

var bytesForm = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)$`)

// UnmarshalText reads the form that the type describes. A negative number is refused.
func (b *Bytes) UnmarshalText(text []byte) error {
	refused := fmt.Errorf("not a size; write 16MiB, 1.5GiB or 512kB")
	parts := bytesForm.FindStringSubmatch(strings.TrimSpace(string(text)))
	if parts == nil {
		return refused
	}
	size := int64(0)
	for _, unit := range bytesUnits {
		if strings.EqualFold(parts[2], unit.name) || parts[2] == "" && unit.size == 1 {
			size = unit.size
		}
	}
	if size == 0 {
		return refused
	}
	if whole, err := strconv.ParseInt(parts[1], 10, 64); err == nil {
		if whole > (1<<63-1)/size {
			return fmt.Errorf("too large; at most 8388607TiB")
		}
		*b = Bytes(whole * size)
		return nil
	}
	number, err := strconv.ParseFloat(parts[1], 64)
	if err != nil || number*float64(size) >= 1<<63 {
		return fmt.Errorf("too large; at most 8388607TiB")
	}
	*b = Bytes(number * float64(size))
	return nil
}

// String gives the unit in which it is the smallest whole number ("16MiB", "50GB"); UnmarshalText reads it back.
func (b Bytes) String() string {
	number, unit := int64(b), "B"
	for _, u := range bytesUnits {
		if int64(b)%u.size == 0 && int64(b)/u.size < number {
			number, unit = int64(b)/u.size, u.name
		}
	}
	return strconv.FormatInt(number, 10) + unit
}

// MarshalText gives String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

var daysForm = regexp.MustCompile(`^([0-9]+)\s*(?:d|days?)$`)

// parseDuration reads Go's form ("100ms", "1h30m") and whole days ("90d", "90 days").
func parseDuration(text string) (time.Duration, error) {
	if parts := daysForm.FindStringSubmatch(text); parts != nil {
		days, err := strconv.ParseInt(parts[1], 10, 64)
		if err != nil || days > int64((1<<63-1)/(24*time.Hour)) {
			return 0, fmt.Errorf("too long; at most 106751d")
		}
		return time.Duration(days) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err == nil {
		return d, nil
	}
	return 0, fmt.Errorf("not a duration; write %s", suggestDuration(text))
}

var durationWords = regexp.MustCompile(`^([0-9]+)\s*([a-z]+)$`)

// suggestDuration guesses what was meant ("1sec" → "1s").
func suggestDuration(text string) string {
	parts := durationWords.FindStringSubmatch(strings.ToLower(strings.TrimSpace(text)))
	if parts != nil {
		for _, unit := range []struct{ prefix, unit string }{
			{"ms", "ms"}, {"mil", "ms"}, {"mic", "us"}, {"s", "s"}, {"m", "m"}, {"h", "h"}, {"d", "d"},
		} {
			if strings.HasPrefix(parts[2], unit.prefix) {
				return parts[1] + unit.unit
			}
		}
	}
	return "100ms, 30s, 5m, 2h or 7d"
}

// formatDuration gives the shortest form that parseDuration reads back.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
